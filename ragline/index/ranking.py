"""One order for both engines: by score, then by id, so that equal scores never swap places."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ragline.index.engine import ScoredPoint
from ragline.index.points import payload_of

_WIDEST: Final = 16
"""How many times the limit is fetched, at most, to see a tie whole."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What an engine found: a point, its score and its stored fields."""

    id: uuid.UUID
    score: float
    fields: Mapping[str, Any]


def wider(scores: Sequence[float], fetched: int, limit: int) -> int | None:
    """How many hits to fetch anew when a tie runs over the end of those fetched, else None.

    `scores` descend. An engine cuts a tie anywhere, so that which of its points are returned could
    change with a rewritten segment. Ask for `limit + 1` first. A tie longer than 16 times the limit
    is cut where the engine cuts it.
    """
    tied = len(scores) >= fetched > limit and scores[-1] == scores[limit - 1]
    return min(fetched * 2, limit * _WIDEST) if tied and fetched < limit * _WIDEST else None


def ranked(hits: Iterable[Hit], limit: int) -> tuple[ScoredPoint, ...]:
    """The best `limit` hits, ranked from 1."""
    best = sorted(hits, key=lambda hit: (-hit.score, hit.id))[:limit]
    return tuple(
        ScoredPoint(hit.id, hit.score, rank, payload_of(hit.fields), hit.fields["valid_from"])
        for rank, hit in enumerate(best, start=1)
    )
