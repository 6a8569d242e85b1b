"""`VectorEngine` on a Qdrant server or cluster: one collection a generation."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from qdrant_client import AsyncQdrantClient, models

from ragline.errors import TransientError
from ragline.index.conditions import Where, closable, closed_by, of_document, opened_by, visible
from ragline.index.engine import Candidates, NewPoint, Query, ScoredPoint, StoredPoint
from ragline.index.points import (
    ID_BATCH,
    INSERT_BATCH_POINTS,
    check_points,
    check_query,
    in_batches,
    stored_fields,
    stored_point,
)
from ragline.index.ranking import Hit, ranked, wider
from ragline.index.server_collections import ServerCollections, collection_name
from ragline.index.server_errors import server_errors
from ragline.index.server_requests import DENSE, SPARSE, OfWidth, query_requests, server_filter
from ragline.index.versions import View

_PAGE_POINTS: Final = 512
_REST_PORT: Final = 6333
_GRPC_PORT: Final = 6334
_LONGEST_CALL_S: Final = 60
_RECONNECT: Final = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2000,
    # How long one attempt may take, in spite of its name.
    "grpc.min_reconnect_backoff_ms": 5000,
}


class QdrantEngine:
    """`VectorEngine` through qdrant-client (see `ragline.index.engine` for every promise).

    Writes wait until they are applied, in strong order. Every call has a deadline: a search
    `search_timeout_s`, a write or a page of a scan `write_timeout_s`, making and dropping a generation
    `admin_timeout_s`. A generation that was never made raises NotFound.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        *,
        search_timeout_s: float = 5.0,
        write_timeout_s: float = 30.0,
        admin_timeout_s: float = 60.0,
    ) -> None:
        self._client = client
        self._search_timeout_s = search_timeout_s
        self._write_timeout_s = write_timeout_s
        self._collections = ServerCollections(client, admin_timeout_s)

    @classmethod
    def at(cls, url: str, *, api_key: str | None = None) -> QdrantEngine:
        """The engine at `http(s)://host:port`, over gRPC; nothing is connected yet.

        The port is gRPC's, 6334 by default; Qdrant's REST port 6333 is taken to mean it.
        """
        port = urlsplit(url).port
        client = AsyncQdrantClient(
            url=url,
            api_key=api_key,
            prefer_grpc=True,
            grpc_port=_GRPC_PORT if port in (None, _REST_PORT) else port,
            grpc_options=dict(_RECONNECT),
            timeout=_LONGEST_CALL_S,
            # It would connect at once, in a thread of its own.
            check_compatibility=False,
        )
        return cls(client)

    async def create_generation(self, generation: str, dimensions: int) -> None:
        """See VectorEngine; raises FailedPrecondition if it is there with other dimensions."""
        await self._collections.create(generation, dimensions)

    async def drop_generation(self, generation: str) -> None:
        """See VectorEngine."""
        await self._collections.drop(generation)

    async def insert(self, generation: str, sequence: int, points: Sequence[NewPoint]) -> None:
        """See VectorEngine. A point that is there stays as it is: a repeat must not reopen it."""
        check_points(points, await self._collections.dimensions(generation))
        for batch in in_batches(points, INSERT_BATCH_POINTS):
            structs = [
                models.PointStruct(
                    id=str(point.id),
                    vector=_vectors(point),
                    payload=stored_fields(point.payload, sequence),
                )
                for point in batch
            ]
            await self._write(
                generation,
                "insert points",
                self._client.upsert,
                points=structs,
                update_mode=models.UpdateMode.INSERT_ONLY,
            )

    async def close(self, generation: str, sequence: int, ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> None:
        """See VectorEngine."""
        for batch in in_batches(ids, ID_BATCH):
            await self._set_where(generation, closable(batch, aborted), {"valid_to": sequence}, "close points")

    async def count_opened(self, generation: str, sequence: int) -> int:
        """See VectorEngine."""
        await self._collections.dimensions(generation)
        async with server_errors("count points", self._write_timeout_s):
            counted = await self._client.count(
                collection_name(generation), count_filter=server_filter(opened_by(sequence)), exact=True
            )
        return counted.count

    async def sweep(
        self, generation: str, sequence: int, opened: Sequence[uuid.UUID], closed: Sequence[uuid.UUID]
    ) -> None:
        """See VectorEngine."""
        await self.delete(generation, opened)
        for batch in in_batches(closed, ID_BATCH):
            await self._write(
                generation,
                "reopen points",
                self._client.delete_payload,
                keys=["valid_to"],
                points=server_filter(closed_by(batch, sequence)),
            )

    async def set_groups(self, generation: str, tenant: str, document_id: str, groups: Sequence[str]) -> None:
        """See VectorEngine."""
        where = of_document(tenant, document_id)
        await self._set_where(generation, where, {"groups": list(groups)}, "set groups")

    async def delete(self, generation: str, ids: Sequence[uuid.UUID]) -> None:
        """See VectorEngine."""
        for batch in in_batches(ids, ID_BATCH):
            await self._write(
                generation,
                "delete points",
                self._client.delete,
                points_selector=models.PointIdsList(points=[str(one) for one in batch]),
            )

    async def search(self, view: View, query: Query) -> Candidates:
        """See VectorEngine; raises InvalidArgument for a query that cannot be answered."""
        check_query(query, await self._collections.dimensions(view.generation))
        requests = query_requests(view, query)
        if not requests:
            return Candidates((), ())
        async with server_errors("search", self._search_timeout_s):
            found = await self._query(view.generation, [make(query.limit + 1) for make in requests.values()])
            lists = {
                name: await self._ranked(view.generation, make, hits, query.limit)
                for (name, make), hits in zip(requests.items(), found, strict=True)
            }
        return Candidates(lists.get(DENSE, ()), lists.get(SPARSE, ()))

    async def scan(self, view: View) -> AsyncIterator[StoredPoint]:
        """See VectorEngine."""
        async for point in self._pages(view.generation, server_filter(visible(view))):
            yield point

    async def scan_all(self, generation: str) -> AsyncIterator[StoredPoint]:
        """See VectorEngine."""
        async for point in self._pages(generation, None):
            yield point

    async def flush(self) -> None:
        """See VectorEngine. Nothing to do: a server keeps and flushes its own write-ahead log."""

    async def aclose(self) -> None:
        """See VectorEngine."""
        await self._client.close()

    async def _set_where(self, generation: str, where: Where, fields: dict[str, Any], what: str) -> None:
        await self._write(generation, what, self._client.set_payload, payload=fields, points=server_filter(where))

    async def _write(self, generation: str, what: str, operation: Callable[..., Any], **arguments: Any) -> None:
        """One update, applied when this returns; anything less is an unknown outcome."""
        await self._collections.dimensions(generation)
        async with server_errors(what, self._write_timeout_s):
            result: models.UpdateResult = await operation(
                collection_name(generation),
                wait=True,
                ordering=models.WriteOrdering.STRONG,
                timeout=math.ceil(self._write_timeout_s),
                **arguments,
            )
        if result.status != models.UpdateStatus.COMPLETED:
            raise TransientError(
                f"the Qdrant server has not yet applied an update ({what}: {result.status}); its outcome is unknown"
            )

    async def _ranked(
        self, generation: str, request: OfWidth, hits: list[models.ScoredPoint], limit: int
    ) -> tuple[ScoredPoint, ...]:
        fetched = limit + 1
        while (width := wider([hit.score for hit in hits], fetched, limit)) is not None:
            [hits] = await self._query(generation, [request(width)])
            fetched = width
        return ranked((Hit(uuid.UUID(str(hit.id)), hit.score, hit.payload or {}) for hit in hits), limit)

    async def _query(self, generation: str, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        responses = await self._client.query_batch_points(
            collection_name(generation), requests=requests, timeout=math.ceil(self._search_timeout_s)
        )
        return [response.points for response in responses]

    async def _pages(self, generation: str, wanted: models.Filter | None) -> AsyncIterator[StoredPoint]:
        await self._collections.dimensions(generation)
        start: Any = None
        while True:
            async with server_errors("scan", self._write_timeout_s):
                records, start = await self._client.scroll(
                    collection_name(generation),
                    scroll_filter=wanted,
                    limit=_PAGE_POINTS,
                    offset=start,
                    with_payload=True,
                    with_vectors=False,
                    timeout=math.ceil(self._write_timeout_s),
                )
            for record in records:
                yield stored_point(uuid.UUID(str(record.id)), record.payload or {})
            if start is None:
                return


def _vectors(point: NewPoint) -> dict[str, Any]:
    vectors: dict[str, Any] = {DENSE: point.dense.tolist()}
    if point.sparse.indices:
        vectors[SPARSE] = models.SparseVector(indices=list(point.sparse.indices), values=list(point.sparse.values))
    return vectors
