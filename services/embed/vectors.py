"""Vectors of chunks: from the cache by content hash, computed only for content never embedded before."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ragline.database import Database
from ragline.errors import TransientError
from ragline.index.engine import NewPoint, Payload, SparseVector
from ragline.index.identity import embedder_input
from ragline.models.embedding import Embedder
from ragline.models.sparse import Bm25Encoder
from services.embed.versions import Change

Vector = NDArray[np.float32]

BULK_PIECE: Final = 32
"""How many chunks of a bulk load are embedded before a live change gets its turn."""


@dataclass(frozen=True, slots=True)
class ChunkText:
    """A chunk's content: its heading path (title first) and its text."""

    content_hash: str
    heading_path: tuple[str, ...]
    text: str

    @property
    def embedder_input(self) -> str:
        return embedder_input(self.heading_path, self.text)


@dataclass(frozen=True, slots=True)
class ChunkVector:
    """A chunk to open, with its text and both vectors."""

    chunk_id: str
    chunk: ChunkText
    dense: Vector
    sparse: SparseVector

    def point(self, point_id: uuid.UUID, change: Change) -> NewPoint:
        """The engine's point of this chunk in a change."""
        event = change.event
        payload = Payload(
            tenant=event.tenant,
            document_id=event.document_id,
            chunk_id=self.chunk_id,
            content_hash=self.chunk.content_hash,
            metadata_hash=change.metadata_hash,
            text=self.chunk.text,
            heading_path=self.chunk.heading_path,
            title=event.title,
            uri=event.uri,
            groups=change.groups,
            metadata=event.metadata,
        )
        return NewPoint(point_id, self.dense, self.sparse, payload)


@dataclass(slots=True, order=True)
class _Request:
    bulk: bool
    """Live requests come first."""
    number: int
    chunks: Sequence[ChunkText] = field(compare=False)
    done: asyncio.Future[Mapping[str, Vector]] = field(compare=False)


class VectorCache:
    """Dense vectors by (model, content hash), in PostgreSQL; misses are embedded in shared batches.

    `embedded` counts the chunks that were computed: invariant 4 says exactly those whose content this
    model never embedded before.
    """

    def __init__(self, database: Database, embedder: Embedder, *, batch: int = 64) -> None:
        self._database = database
        self._embedder = embedder
        self._batch = batch
        self._queue: asyncio.PriorityQueue[_Request] = asyncio.PriorityQueue(maxsize=1000)
        self._numbers = itertools.count()
        self.embedded = 0

    async def known(self, content_hashes: Sequence[str]) -> dict[str, Vector]:
        """The vectors that the cache holds, by content hash."""
        rows = await self._database.fetch(
            "SELECT content_hash, vector FROM embedding WHERE model = %s AND content_hash = ANY(%s)",
            (self._embedder.name, list(content_hashes)),
        )
        return {row["content_hash"]: np.frombuffer(row["vector"], dtype="<f4") for row in rows}

    async def embed(self, chunks: Sequence[ChunkText], *, bulk: bool = False) -> Mapping[str, Vector]:
        """Embed new contents, store them, and return them by content hash.

        A bulk load's chunks go in small pieces, so that a live change waits for one piece at most.
        """
        piece = BULK_PIECE if bulk else len(chunks)
        loop = asyncio.get_running_loop()
        vectors: dict[str, Vector] = {}
        for start in range(0, len(chunks), piece):
            request = _Request(bulk, next(self._numbers), chunks[start : start + piece], loop.create_future())
            await self._queue.put(request)
            vectors.update(await request.done)
        return vectors

    async def run(self) -> None:
        """Embed batch after batch until cancelled: requests that wait together share one."""
        while True:
            requests = [await self._queue.get()]
            size = len(requests[0].chunks)
            limit = BULK_PIECE if requests[0].bulk else self._batch
            while size < limit and not self._queue.empty():
                requests.append(self._queue.get_nowait())
                size += len(requests[-1].chunks)
            try:
                await self._serve(requests)
            except asyncio.CancelledError:
                while not self._queue.empty():
                    requests.append(self._queue.get_nowait())
                # Never a CancelledError: to whoever waits it would look like their own cancellation.
                self._fail(requests, TransientError("the service is stopping"))
                raise

    async def _serve(self, requests: Sequence[_Request]) -> None:
        """Embed the requests together; what may be the fault of one of them makes each be tried alone."""
        try:
            vectors = await self._embed_and_store([chunk for request in requests for chunk in request.chunks])
        except Exception as error:  # noqa: BLE001 (whatever it is, it is whoever waits that must hear of it)
            if isinstance(error, TransientError) or len(requests) == 1:
                self._fail(requests, error)
                return
            for request in requests:
                await self._serve([request])
            return
        for request in requests:
            if not request.done.done():
                request.done.set_result(vectors)

    @staticmethod
    def _fail(requests: Sequence[_Request], error: Exception) -> None:
        for request in requests:
            if not request.done.done():
                request.done.set_exception(error)

    async def _embed_and_store(self, chunks: Sequence[ChunkText]) -> dict[str, Vector]:
        distinct = {chunk.content_hash: chunk for chunk in chunks}
        # Another lane or replica may have embedded the same content since it was looked up.
        vectors = await self.known(list(distinct))
        missing = [chunk for content_hash, chunk in distinct.items() if content_hash not in vectors]
        for start in range(0, len(missing), self._batch):
            part = missing[start : start + self._batch]
            computed = await asyncio.to_thread(self._embedder.embed, [chunk.embedder_input for chunk in part])
            self.embedded += len(part)
            new = {chunk.content_hash: vector for chunk, vector in zip(part, computed, strict=True)}
            await self._store(new)
            vectors.update(new)
        return vectors

    async def _store(self, vectors: Mapping[str, Vector]) -> None:
        async with self._database.transaction() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO embedding (model, content_hash, vector) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [
                    (self._embedder.name, name, vector.astype("<f4").tobytes())
                    for name, vector in sorted(vectors.items())
                ],
            )


class ChunkEncoder:
    """Gives chunks both of their vectors."""

    def __init__(self, cache: VectorCache, sparse: Bm25Encoder) -> None:
        self._cache = cache
        self._sparse = sparse

    async def encode(
        self, chunks: Sequence[tuple[str, ChunkText]], *, bulk: bool = False
    ) -> tuple[tuple[ChunkVector, ...], int]:
        """Vectors for (chunk id, chunk) pairs in their order, and how many contents were new to the cache."""
        hashes = [chunk.content_hash for _, chunk in chunks]
        vectors: dict[str, Vector] = await self._cache.known(hashes)
        missing = {chunk.content_hash: chunk for _, chunk in chunks if chunk.content_hash not in vectors}
        if missing:
            vectors.update(await self._cache.embed(list(missing.values()), bulk=bulk))
        encoded = tuple(
            ChunkVector(chunk_id, chunk, vectors[chunk.content_hash], self._sparse.document(chunk.embedder_input))
            for chunk_id, chunk in chunks
        )
        return encoded, len(missing)
