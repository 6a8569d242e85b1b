"""One generation in the embedded engine: a shard in a folder of its own. Used by the worker alone.

Blocking. Queries may run in several threads at once (they release the GIL); updates hold it, and the
caller lets one in at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import qdrant_edge as edge

from ragline.errors import FailedPrecondition, RaglineError, TransientError
from ragline.index.conditions import Where, closable, closed_by, of_document, opened_by, visible
from ragline.index.edge_requests import DENSE, SPARSE, OfWidth, edge_filter, query_requests
from ragline.index.engine import Candidates, NewPoint, Query, ScoredPoint, StoredPoint
from ragline.index.points import (
    INTEGER_FIELDS,
    KEYWORD_FIELDS,
    check_points,
    check_query,
    stored_fields,
    stored_point,
)
from ragline.index.ranking import Hit, ranked, wider
from ragline.index.versions import View

_FACTS: Final = "generation.json"
_SHARD: Final = "shard"
_UNFINISHED: Final = ".unfinished"


@contextmanager
def _engine_errors(what: str) -> Iterator[None]:
    """Give the engine's errors a name: it raises nothing narrower than Exception."""
    try:
        yield
    except RaglineError:
        raise
    except Exception as error:
        raise TransientError(f"the embedded engine failed to {what}: {' '.join(str(error).split())}") from error


class EdgeShard:
    """A generation's points, their indexes and their searches. Make one with `create` or `load`.

    HNSW is never built: under the filters of a version, a tenant and groups, an exact search beats it
    up to 100,000 points (design: measured facts).
    """

    def __init__(self, folder: Path, shard: edge.EdgeShard, dimensions: int) -> None:
        self._folder = folder
        self._shard = shard
        self.dimensions = dimensions

    @classmethod
    def create(cls, folder: Path, dimensions: int) -> EdgeShard:
        """Make the folder, all or nothing: it gets its name once its indexes are on disk."""
        unfinished = _unfinished(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with _engine_errors(f"create {folder.name}"):
            shard = edge.EdgeShard.create(str(unfinished / _SHARD), _configuration(dimensions))
            for name, kind in _payload_indexes():
                shard.update(edge.UpdateOperation.create_field_index(name, kind))
            shard.flush()
            shard.close()
        (unfinished / _FACTS).write_text(json.dumps({"dimensions": dimensions}))
        _sync(unfinished / _FACTS)
        _sync(unfinished)
        unfinished.rename(folder)
        _sync(folder.parent)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> EdgeShard:
        """Open a folder that `create` made, replaying what was written since the last flush."""
        try:
            dimensions = int(json.loads((folder / _FACTS).read_text())["dimensions"])
        except (OSError, ValueError, KeyError) as error:
            raise FailedPrecondition(
                f"{folder / _FACTS} cannot be read; move {folder} away and rebuild the generation"
            ) from error
        with _engine_errors(f"load {folder}"):
            shard = edge.EdgeShard.load(str(folder / _SHARD))
        return cls(folder, shard, dimensions)

    # --- writing ------------------------------------------------------------------------------

    def insert(self, sequence: int, points: Sequence[NewPoint]) -> None:
        """Add the points that are not there yet.

        A point that is there stays as it is: repeating an insert must not reopen what was closed since.
        """
        check_points(points, self.dimensions)
        new = [edge.Point(point.id, _vectors(point), stored_fields(point.payload, sequence)) for point in points]
        self._update(edge.UpdateOperation.upsert_points(new, update_mode=edge.UpdateMode.InsertOnly), "insert points")

    def close_points(self, sequence: int, ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> None:
        """Set `valid_to` where it is empty or aborted."""
        self._set_where(closable(ids, aborted), {"valid_to": sequence}, "close points")

    def sweep(self, sequence: int, opened: Sequence[uuid.UUID], closed: Sequence[uuid.UUID]) -> None:
        """Delete `opened`, and clear `valid_to` of `closed` where it is `sequence`."""
        self.delete(opened)
        if closed:
            self._update(
                edge.UpdateOperation.delete_payload_by_filter(edge_filter(closed_by(closed, sequence)), ["valid_to"]),
                "reopen points",
            )

    def set_groups(self, tenant: str, document_id: str, groups: Sequence[str]) -> None:
        """Overwrite who may read a document's points."""
        self._set_where(of_document(tenant, document_id), {"groups": list(groups)}, "set groups")

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Delete points for good."""
        if ids:
            self._update(edge.UpdateOperation.delete_points(list(ids)), "delete points")

    def flush(self) -> None:
        """Make what was written survive a power cut."""
        with _engine_errors("flush"):
            self._shard.flush()

    def vacuum(self) -> bool:
        """Rewrite segments with many deleted points; says whether there were any."""
        with _engine_errors("vacuum"):
            return self._shard.optimize()

    def close(self) -> None:
        """Flush and release the folder."""
        with _engine_errors("close"):
            self._shard.flush()
            self._shard.close()

    def drop(self) -> None:
        """Remove the folder; what a crash in the middle leaves is for `remove_unfinished`."""
        with _engine_errors("close"):
            self._shard.close()
        doomed = _unfinished(self._folder)
        shutil.rmtree(doomed, ignore_errors=True)
        self._folder.rename(doomed)
        shutil.rmtree(doomed)

    def _set_where(self, where: Where, fields: dict[str, Any], what: str) -> None:
        self._update(edge.UpdateOperation.set_payload_by_filter(edge_filter(where), fields), what)

    def _update(self, operation: edge.UpdateOperation, what: str) -> None:
        with _engine_errors(what):
            self._shard.update(operation)

    # --- reading ------------------------------------------------------------------------------

    def count_opened(self, sequence: int) -> int:
        """How many points `sequence` opened."""
        with _engine_errors("count points"):
            return self._shard.count(edge.CountRequest(filter=edge_filter(opened_by(sequence)), exact=True))

    def search(self, view: View, query: Query) -> Candidates:
        """The best visible and readable points by dense and by sparse score."""
        check_query(query, self.dimensions)
        requests = query_requests(view, query)
        if not requests:
            return Candidates((), ())
        with _engine_errors("search"):
            found = self._shard.query_batch(
                edge.QueryBatchRequest([make(query.limit + 1) for make in requests.values()])
            )
            lists = {
                name: self._ranked(make, hits, query.limit)
                for (name, make), hits in zip(requests.items(), found, strict=True)
            }
        return Candidates(lists.get(DENSE, ()), lists.get(SPARSE, ()))

    def _ranked(self, request: OfWidth, hits: list[edge.ScoredPoint], limit: int) -> tuple[ScoredPoint, ...]:
        fetched = limit + 1
        while (width := wider([hit.score for hit in hits], fetched, limit)) is not None:
            hits = self._shard.query(request(width))
            fetched = width
        return ranked((Hit(_uuid(hit.id), hit.score, hit.payload or {}) for hit in hits), limit)

    def page(
        self, view: View | None, start: uuid.UUID | None, limit: int
    ) -> tuple[list[StoredPoint], uuid.UUID | None]:
        """Up to `limit` points (the visible, or all) from `start` on, and where the next page starts."""
        with _engine_errors("scan"):
            records, following = self._shard.scroll(
                edge.ScrollRequest(
                    offset=start,
                    limit=limit,
                    filter=edge_filter(visible(view)) if view is not None else None,
                    with_payload=True,
                    with_vector=False,
                )
            )
        points = [stored_point(_uuid(record.id), record.payload or {}) for record in records]
        return points, None if following is None else _uuid(following)


def remove_unfinished(root: Path) -> None:
    """Clear away what a crash left of a generation in the making, or in the dropping."""
    for folder in root.glob(f".*{_UNFINISHED}"):
        shutil.rmtree(folder)


def _unfinished(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_UNFINISHED}")


def _configuration(dimensions: int) -> edge.EdgeConfig:
    return edge.EdgeConfig(
        vectors={DENSE: edge.EdgeVectorParams(size=dimensions, distance=edge.Distance.Cosine)},
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        # Zero: no HNSW, see EdgeShard.
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=0),
    )


def _payload_indexes() -> Iterator[tuple[str, edge.PayloadSchemaType]]:
    for name in ("tenant", *KEYWORD_FIELDS):
        yield name, edge.PayloadSchemaType.Keyword
    for name in INTEGER_FIELDS:
        yield name, edge.PayloadSchemaType.Integer


def _vectors(point: NewPoint) -> dict[str, Any]:
    vectors: dict[str, Any] = {DENSE: point.dense.tolist()}
    if point.sparse.indices:
        vectors[SPARSE] = edge.SparseVector(list(point.sparse.indices), list(point.sparse.values))
    return vectors


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _uuid(point_id: object) -> uuid.UUID:
    """The engine returns a UUID for a UUID; its type also allows for numbers and text."""
    return point_id if isinstance(point_id, uuid.UUID) else uuid.UUID(str(point_id))
