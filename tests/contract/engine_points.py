"""Points and queries for the engines' contract suite."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragline.index.engine import (
    WHOLE_TENANT,
    Candidates,
    NewPoint,
    Payload,
    Query,
    SparseVector,
    VectorEngine,
)
from ragline.index.versions import View

DIMENSIONS = 8
COMMON_TERM = 7
"""A term that every point has unless a test gives it other ones."""


def vector(seed: int) -> NDArray[np.float32]:
    """A unit vector, the same for the same seed."""
    drawn = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def payload(
    name: str,
    *,
    tenant: str = "acme",
    document_id: str = "manual",
    groups: Sequence[str] = (WHOLE_TENANT,),
    metadata: Mapping[str, Any] | None = None,
) -> Payload:
    """The payload of the chunk `name`."""
    return Payload(
        tenant=tenant,
        document_id=document_id,
        chunk_id=f"chunk-{name}",
        content_hash=f"content-{name}",
        metadata_hash=f"metadata-{name}",
        text=f"The text of {name}, with an umlaut: ü.",
        heading_path=("Manual", f"Section {name}"),
        title="Manual",
        uri=f"https://docs.example/{name}",
        groups=tuple(groups),
        metadata=metadata or {},
    )


def point(
    name: str,
    *,
    dense: NDArray[np.float32] | None = None,
    terms: Mapping[int, float] | None = None,
    **fields: Any,
) -> NewPoint:
    """A point whose id and vector follow from its name; `fields` are those of `payload`."""
    point_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{fields.get('tenant', 'acme')}/{name}")
    weights = {COMMON_TERM: 1.0} if terms is None else terms
    return NewPoint(
        id=point_id,
        dense=vector(point_id.int % 2**32) if dense is None else dense,
        sparse=SparseVector(tuple(weights), tuple(weights.values())),
        payload=payload(name, **fields),
    )


def points(count: int, **fields: Any) -> list[NewPoint]:
    """That many points, named by their number."""
    return [point(str(number), **fields) for number in range(count)]


def query(
    *,
    tenant: str = "acme",
    groups: Sequence[str] = (),
    dense: NDArray[np.float32] | None = None,
    terms: Mapping[int, float] | None = None,
    limit: int = 100,
    exact: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Query:
    """A question of a caller with no groups of their own, by both vectors unless told otherwise."""
    weights = {COMMON_TERM: 1.0} if terms is None else terms
    return Query(
        tenant=tenant,
        groups=frozenset(groups),
        dense=vector(1) if dense is None else dense,
        sparse=SparseVector(tuple(weights), tuple(weights.values())),
        limit=limit,
        exact=exact,
        metadata=metadata or {},
    )


def names(candidates: Candidates) -> set[str]:
    """The chunks found, which must be the same in both lists."""
    dense = {found.payload.chunk_id.removeprefix("chunk-") for found in candidates.dense}
    sparse = {found.payload.chunk_id.removeprefix("chunk-") for found in candidates.sparse}
    assert dense == sparse
    return dense


async def seen(engine: VectorEngine, view: View, **question: Any) -> set[str]:
    """The chunks that a search at the view finds."""
    return names(await engine.search(view, query(**question)))


async def scanned(engine: VectorEngine, view: View) -> set[uuid.UUID]:
    """The ids that a scan of the view yields, none of them twice."""
    ids = [stored.id async for stored in engine.scan(view)]
    assert len(ids) == len(set(ids))
    return set(ids)


async def intervals(engine: VectorEngine, generation: str) -> dict[uuid.UUID, tuple[int, int | None]]:
    """Every point's interval."""
    return {stored.id: (stored.valid_from, stored.valid_to) async for stored in engine.scan_all(generation)}
