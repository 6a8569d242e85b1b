"""ingest and embed in one event loop, joined by a bus whose every delivery a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ragline.contracts.cloudevents import Message, Received
from ragline.contracts.events import BulkChunksReady, ChunksReady, DocumentChanged, DocumentStatus, IndexCommitted
from ragline.database import Database
from ragline.errors import NotFound
from ragline.index.edge import EdgeEngine
from ragline.index.engine import VectorEngine
from ragline.ingest.v1 import ingest_pb2_grpc
from ragline.models.embedding import load_embedder
from ragline.models.sparse import Bm25Encoder
from ragline.outbox import Outbox
from ragline.telemetry import Telemetry
from services.embed.commits import Conflict
from services.embed.committer import Committer
from services.embed.handlers import Indexer
from services.embed.history import History
from services.embed.ledger import Ledger
from services.embed.parts import StagedParts
from services.embed.vectors import ChunkEncoder, VectorCache
from tests.engine_process import engine_worker
from tests.integration.embed_under_test import GENERATION, Index, Interposed, running
from tests.integration.embed_under_test import MIGRATIONS as EMBED_MIGRATIONS
from tests.integration.ingest_under_test import MIGRATIONS as INGEST_MIGRATIONS
from tests.integration.ingest_under_test import Ingest, running_ingest

_CHUNKS = {kind.topic: kind for kind in (ChunksReady, BulkChunksReady)}
Version = tuple[str, str, int]
"""(tenant, document id, document version)"""


@dataclass
class Log:
    """One key of one topic: its messages keep their order, and those not acknowledged may come again."""

    events: list[DocumentChanged | ChunksReady] = field(default_factory=list)
    position: int = 0

    @property
    def waiting(self) -> bool:
        return self.position < len(self.events)


class DocumentBus:
    """`document.changed` and `chunks.ready` in both lanes, a log for each key."""

    def __init__(self) -> None:
        self.logs: dict[str, dict[tuple[str, str], Log]] = {"ingest": {}, "embed": {}}

    def publish(self, consumer: str, event: DocumentChanged | ChunksReady) -> None:
        self.logs[consumer].setdefault((event.topic, event.key()), Log()).events.append(event)

    def waiting(self, consumer: str) -> list[Log]:
        """The logs with something to deliver."""
        return [log for log in self.logs[consumer].values() if log.waiting]

    def read(self, consumer: str) -> list[Log]:
        """The logs of which something was delivered."""
        return [log for log in self.logs[consumer].values() if log.position]


@dataclass
class Contents:
    """Content hashes by what embed had to do with them."""

    of_version: dict[Version, set[str]] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    perhaps: set[str] = field(default_factory=set)
    """Of versions that met another commit of their document: embedded before, for nothing."""


@dataclass(repr=False)
class Documents:
    """Both services, the bus between them, and what a test does with them."""

    ingest: Ingest
    index: Index
    indexer: Indexer
    cache: VectorCache
    bus: DocumentBus = field(default_factory=DocumentBus)
    contents: Contents = field(default_factory=Contents)
    statuses: list[DocumentStatus] = field(default_factory=list)
    handled: int = 0
    """Changes that ingest has accepted or ignored, redeliveries counted."""

    def begin(self) -> None:
        """Forget what earlier examples left on the bus."""
        self.bus, self.contents, self.statuses = DocumentBus(), Contents(), []

    async def deliver(self, consumer: str, logs: Sequence[Log]) -> None:
        """Deliver the next message of each of the logs, all at the same time."""
        await asyncio.gather(*(self._deliver(consumer, log) for log in logs))
        if consumer == "ingest":
            await self._relay()

    async def _deliver(self, consumer: str, log: Log) -> None:
        event = log.events[log.position]
        if isinstance(event, ChunksReady):
            try:
                await self._index(event)
            except Conflict:
                return  # not acknowledged: it comes again
        else:
            await self.ingest.changes.on_document_changed(Received(event, "id", "upstream"))
            self.handled += 1
        log.position += 1

    async def _index(self, event: ChunksReady) -> None:
        contents = self.contents.of_version[event.tenant, event.document_id, event.document_version]
        try:
            committed = await self.indexer.index_document(Received(event, "id", "ragline/ingest"))
        except Conflict:
            self.contents.perhaps |= contents
            raise
        except NotFound:
            # Dead-lettered; right only if a newer version took the texts away, and will follow.
            newest = await self.ingest.registry.progress(event.tenant, event.document_id)
            if newest is None or newest.document.document_version <= event.document_version:
                raise
            return
        if committed is not None:
            self.contents.committed |= contents

    async def _relay(self) -> None:
        """What ingest's outbox holds goes on the bus."""
        for event in await self.ingest.events():
            if isinstance(event, DocumentStatus):
                self.statuses.append(event)
                continue
            self.bus.publish("embed", event)
            version = (event.tenant, event.document_id, event.document_version)
            self.contents.of_version.setdefault(version, set()).update(e.content_hash for e in event.manifest)

    async def report_commits(self) -> None:
        """ingest hears of what embed committed."""
        for event in await self.index.announcements():
            if isinstance(event, IndexCommitted):
                await self.ingest.searchability.on_index_committed(Received(event, "id", "ragline/embed"))
        self.index.published.clear()
        await self._relay()

    async def drain(self) -> None:
        """Deliver all that waits, then announce again what got lost, until every document is searchable."""
        while True:
            for consumer in ("ingest", "embed"):
                while logs := self.bus.waiting(consumer):
                    await self.deliver(consumer, logs[:1])
            await self.report_commits()
            overdue = await self.ingest.registry.overdue(after_s=0)
            if not overdue:
                return
            for tenant, document_id in overdue:
                await self.ingest.registry.announce_again(tenant, document_id, pipeline="test")
            await self._relay()

    async def cached(self) -> set[str]:
        """The content hashes that have a vector."""
        rows = await self.index.database.fetch("SELECT content_hash FROM embedding")
        return {row["content_hash"] for row in rows}


@asynccontextmanager
async def running_documents(database_url: str, folder: Path) -> AsyncIterator[Documents]:
    """Both services on an empty database and an empty embedded engine, with the wordllama embedder."""
    ingest_database = Database(database_url, "ingest")
    await ingest_database.open(INGEST_MIGRATIONS)
    try:
        async with (
            engine_worker(folder / "engine") as address,
            running_ingest(ingest_database, folder) as ingest,
            _running_embed(database_url, address, folder, ingest) as documents,
        ):
            yield documents
    finally:
        await ingest_database.aclose()


@asynccontextmanager
async def _running_embed(url: str, engine_address: str, folder: Path, ingest: Ingest) -> AsyncIterator[Documents]:
    database = Database(url, "embed", pool_size=6)
    await database.open(EMBED_MIGRATIONS)
    published: list[Message] = []

    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    reader = InMemoryMetricReader()
    outbox, telemetry = Outbox(database, publish, source="ragline/embed"), Telemetry("embed", readers=[reader])
    ledger = Ledger(database, outbox)
    embedder = load_embedder("wordllama", cache_dir=folder / "models")
    engine = EdgeEngine(engine_address)
    await engine.create_generation(GENERATION, embedder.dimensions)
    assert await ledger.open_generation(embedder.name, embedder.dimensions) == GENERATION
    index = Index(database, Interposed(engine), ledger, History(database), outbox, published, telemetry, reader)
    cache = VectorCache(database, embedder)
    committer = Committer(ledger, cast("VectorEngine", index.engine), telemetry)
    indexer = Indexer(
        ledger=ledger,
        encoder=ChunkEncoder(cache, Bm25Encoder()),
        committer=committer,
        parts=StagedParts(database),
        ingest=cast("ingest_pb2_grpc.IngestServiceAsyncStub", ingest.stub),
        caller=ingest.caller("internal"),
        telemetry=telemetry,
    )
    indexer.generation = GENERATION
    async with running(cache.run()), running(committer.run()):
        yield Documents(ingest, index, indexer, cache)
    await engine.aclose()
    await database.aclose()
