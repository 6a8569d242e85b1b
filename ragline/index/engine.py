"""The vector engine in the domain's words: write a commit, search at a version, scan a version.

Two implementations, held to one contract suite (`tests/contract/test_engine.py`):
`ragline.index.edge` (the embedded engine in its own worker process) and `ragline.index.server`
(a Qdrant server). The engine is a projection of embed's ledger and decides nothing: ids, intervals
and the order of operations come from the commit protocol.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ragline.index.fingerprint import Element
from ragline.index.versions import View

WHOLE_TENANT = "*"
"""The group that an absent `acl` stands for: every caller of the tenant may read."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """A sparse vector: distinct indices and their values, equally long."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Payload:
    """What a point carries for filtering, citing and verifying.

    `groups` may read it (`WHOLE_TENANT` alone for everyone of the tenant, empty for nobody).
    `heading_path` begins with the document's title. `metadata` is filterable, flat, string-keyed.
    """

    tenant: str
    document_id: str
    chunk_id: str
    content_hash: str
    metadata_hash: str
    text: str
    heading_path: tuple[str, ...]
    title: str
    uri: str
    groups: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def element(self) -> Element:
        """What the fingerprint covers of this point."""
        return Element(self.tenant, self.document_id, self.chunk_id, self.content_hash, self.metadata_hash)


@dataclass(frozen=True, slots=True)
class NewPoint:
    """A point to insert: its id, unit vector (float32), sparse vector and payload."""

    id: uuid.UUID
    dense: NDArray[np.float32]
    sparse: SparseVector
    payload: Payload


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A point as the engine holds it."""

    id: uuid.UUID
    payload: Payload
    valid_from: int
    valid_to: int | None


@dataclass(frozen=True, slots=True)
class ScoredPoint:
    """A candidate: the point, its score (higher is better) and its rank from 1 in its own list."""

    id: uuid.UUID
    score: float
    rank: int
    payload: Payload
    valid_from: int


@dataclass(frozen=True, slots=True)
class Query:
    """One question to the engine, always bounded by a tenant and the caller's groups.

    Either vector may be None, and then its list is empty. `exact` searches without HNSW and counts
    IDF over the visible set alone, so that scores repeat at an old version.
    """

    tenant: str
    groups: frozenset[str]
    dense: NDArray[np.float32] | None
    sparse: SparseVector | None
    limit: int
    exact: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The engine's two ranked lists, best first, not yet fused."""

    dense: tuple[ScoredPoint, ...]
    sparse: tuple[ScoredPoint, ...]


class VectorEngine(Protocol):
    """Stores points with the interval of sequences in which each is valid.

    Every method raises TransientError when the engine cannot be reached or its outcome is unknown,
    and honours cancellation. All writes are idempotent: repeating one changes nothing.
    """

    async def create_generation(self, generation: str, dimensions: int) -> None:
        """Make room for a generation with its payload indexes; does nothing if it is there."""

    async def drop_generation(self, generation: str) -> None:
        """Remove a generation and all its points; does nothing if it is gone."""

    async def insert(self, generation: str, sequence: int, points: Sequence[NewPoint]) -> None:
        """Insert points with `valid_from = sequence`; returns when they are applied.

        Raises PermanentError, before anything is written, for a vector that is not finite, not of the
        generation's dimensions or zero, or for duplicate sparse indices.
        """

    async def close(self, generation: str, sequence: int, ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> None:
        """Set `valid_to = sequence` on the points, only where it is empty or in `aborted`."""

    async def count_opened(self, generation: str, sequence: int) -> int:
        """How many points have `valid_from = sequence`."""

    async def sweep(
        self, generation: str, sequence: int, opened: Sequence[uuid.UUID], closed: Sequence[uuid.UUID]
    ) -> None:
        """Undo an aborted sequence by id: delete `opened`, clear `valid_to` where it is `sequence`."""

    async def set_groups(self, generation: str, tenant: str, document_id: str, groups: Sequence[str]) -> None:
        """Overwrite who may read, on every point of the document, in every version."""

    async def delete(self, generation: str, ids: Sequence[uuid.UUID]) -> None:
        """Delete points for good (garbage collection, erasure, repair)."""

    async def search(self, view: View, query: Query) -> Candidates:
        """The best visible points that the caller may read, by dense and by sparse score."""

    def scan(self, view: View) -> AsyncIterator[StoredPoint]:
        """Every point visible at the view, in no particular order."""

    def scan_all(self, generation: str) -> AsyncIterator[StoredPoint]:
        """Every point of the generation, visible or not (verification)."""

    async def flush(self) -> None:
        """Make everything acknowledged so far survive a power cut."""

    async def aclose(self) -> None:
        """Release connections."""
