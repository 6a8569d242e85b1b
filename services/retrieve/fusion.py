"""Fusing the dense and the sparse list into one ranking: pure, engine-agnostic, explainable."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ragline.index.engine import Candidates, ScoredPoint

RRF_K: Final = 60
"""Reciprocal rank fusion's constant (Cormack et al. 2009)."""


@dataclass(frozen=True, slots=True)
class FusedHit:
    """A point with its fused score, and its place in each list that held it."""

    point: ScoredPoint
    score: float
    dense: ScoredPoint | None
    sparse: ScoredPoint | None


def reciprocal_rank_fusion(candidates: Candidates, *, limit: int) -> tuple[FusedHit, ...]:
    """The best `limit` points by the sum of 1 / (k + rank) over the lists; ties by point id."""
    dense = _by_id(candidates.dense)
    sparse = _by_id(candidates.sparse)
    hits = []
    for point_id in dense.keys() | sparse.keys():
        in_dense, in_sparse = dense.get(point_id), sparse.get(point_id)
        found = [point for point in (in_dense, in_sparse) if point is not None]
        score = sum(1.0 / (RRF_K + point.rank) for point in found)
        hits.append(FusedHit(found[0], score, in_dense, in_sparse))
    hits.sort(key=lambda hit: (-hit.score, hit.point.id))
    return tuple(hits[:limit])


def _by_id(points: Sequence[ScoredPoint]) -> dict[uuid.UUID, ScoredPoint]:
    return {point.id: point for point in points}
