"""Commits under way, as the ledger hands them to their writers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from ragline.errors import TransientError
from services.embed.versions import Change

LEASE_S: Final = 5.0
"""How long a writer may be silent before another may abort its commit."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit under way: its sequence, its fencing token, and the changes that it carries."""

    generation: str
    sequence: int
    token: uuid.UUID
    changes: tuple[Change, ...]
    aborted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Abort:
    """A commit to undo: which points it opened and closed, and whose access to apply again."""

    generation: str
    sequence: int
    token: uuid.UUID
    opened: tuple[uuid.UUID, ...]
    closed: tuple[uuid.UUID, ...]
    documents: tuple[tuple[str, str, tuple[str, ...] | None], ...]
    """(tenant, document id, the access that the ledger holds for it)."""


class Conflict(TransientError):
    """Another commit of the same document is unresolved, or came first: read the ledger again."""

    reason = "CONFLICT"
