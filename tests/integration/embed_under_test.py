"""embed's ledger, committer and history on a real PostgreSQL and a real engine, with faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ragline.contracts.cloudevents import Message
from ragline.contracts.events import ChunksReady, IndexCommitted, IndexState
from ragline.database import Database, package_folder
from ragline.index.engine import SparseVector, StoredPoint, VectorEngine
from ragline.index.versions import IndexVersion, View
from ragline.outbox import Outbox
from ragline.telemetry import Telemetry
from services.embed.commits import Commit
from services.embed.committer import Committed, Committer, Prepared
from services.embed.history import History
from services.embed.ledger import Ledger
from services.embed.vectors import ChunkText, ChunkVector
from services.embed.versions import Change, plan_change

DIMENSIONS = 8
GENERATION = "g1"
MIGRATIONS = package_folder("services.embed") / "migrations"

_letters = itertools.product("abcdefghijklmnopqrstuvwxyz", repeat=3)


class Interposed:
    """An engine whose methods first do what a test says."""

    def __init__(self, engine: VectorEngine) -> None:
        self._engine = engine
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        if name not in self.before:
            return method

        async def call(*arguments: Any) -> Any:
            await self.before[name]()
            return await method(*arguments)

        return call

    def fail(self, method: str, error: Exception) -> None:
        """Let the method raise until `heal`."""

        async def raise_it() -> None:
            raise error

        self.before[method] = raise_it

    def heal(self) -> None:
        self.before.clear()

    def hold(self, method: str) -> Held:
        """Let the next call of the method wait until it is let go."""
        held = Held()

        async def wait() -> None:
            del self.before[method]
            held.reached.set()
            await held.released.wait()

        self.before[method] = wait
        return held


@dataclass
class Held:
    """A call that waits."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)


class DeafLedger(Ledger):
    """The ledger of a writer that is paused: its lease is not renewed."""

    async def renew(self, commit: Any) -> bool:
        return True


@dataclass
class Index:
    """An empty index, and what a test does with it."""

    database: Database
    engine: Interposed
    ledger: Ledger
    history: History
    outbox: Outbox
    published: list[Message]
    telemetry: Telemetry
    metrics: InMemoryMetricReader

    def measured(self, name: str) -> float:
        """The sum of a metric over all its attributes; of a histogram, how often it was recorded."""
        data = self.metrics.get_metrics_data()
        return sum(
            getattr(point, "value", None) or getattr(point, "count", 0)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        )

    # --- writing ----------------------------------------------------------------------------------

    async def plan(self, event: ChunksReady) -> Change:
        """The plan of an event against the ledger as it is now."""
        current = await self.ledger.current_document(GENERATION, event.tenant, event.document_id)
        change = plan_change(current, event)
        assert isinstance(change, Change), change
        return change

    async def prepare(self, event: ChunksReady) -> Prepared:
        return prepared(await self.plan(event))

    async def begin(self, event: ChunksReady) -> tuple[Commit, Prepared]:
        """A pending commit whose writer does nothing more."""
        one = await self.prepare(event)
        return await self.ledger.begin(GENERATION, [one.change], traceparents=[None], traceparent=None), one

    async def insert(self, commit: Commit, one: Prepared) -> None:
        """What the writer of a pending commit writes to the engine, closures included."""
        ids = one.change.point_ids(GENERATION, commit.sequence)
        points = [vector.point(point, one.change) for vector, point in zip(one.vectors, ids, strict=True)]
        await self.engine.insert(GENERATION, commit.sequence, points)
        closed = [point.point_id for point in one.change.close]
        await self.engine.close(GENERATION, commit.sequence, closed, commit.aborted)

    async def end_lease(self, commit: Commit) -> None:
        """As if the writer had been silent for longer than its lease."""
        await self.database.fetch(
            "UPDATE index_commit SET lease_until = clock_timestamp() - interval '1 s' "
            "WHERE generation = %s AND sequence = %s",
            (commit.generation, commit.sequence),
        )

    @asynccontextmanager
    async def committer(self, *, ledger: Ledger | None = None, **options: Any) -> AsyncIterator[Committer]:
        """A committer at work."""
        engine = cast("VectorEngine", self.engine)
        committer = Committer(ledger or self.ledger, engine, self.telemetry, **options)
        async with running(committer.run()):
            yield committer

    @asynccontextmanager
    async def reaper(self) -> AsyncIterator[None]:
        """Undoes abandoned commits meanwhile."""
        committer = Committer(self.ledger, cast("VectorEngine", self.engine), self.telemetry)
        async with running(committer.run_reaper(every_s=0.02)):
            yield

    async def commit(self, *events: ChunksReady) -> list[Committed]:
        """Commit the events, each on its own, in order."""
        async with self.committer() as committer:
            return [await committer.commit(await self.prepare(event)) for event in events]

    # --- looking ----------------------------------------------------------------------------------

    async def view(self, sequence: int | None = None) -> View:
        """What a reader sees now, or saw at a sequence."""
        state = (await self.ledger.state()).generations[GENERATION]
        at = state.watermark if sequence is None else sequence
        return View(GENERATION, at, frozenset(state.aborted))

    async def points(self, sequence: int | None = None) -> list[StoredPoint]:
        return [point async for point in self.engine.scan(await self.view(sequence))]

    async def texts(self, sequence: int | None = None) -> list[str]:
        """The visible chunks of all documents, sorted."""
        return sorted(point.payload.text for point in await self.points(sequence))

    async def stored(self) -> list[str]:
        """Every chunk that the engine holds, visible or not, sorted."""
        return sorted([point.payload.text async for point in self.engine.scan_all(GENERATION)])

    async def state(self) -> tuple[int, tuple[int, ...]]:
        """The watermark and the aborted sequences."""
        state = (await self.ledger.state()).generations[GENERATION]
        return state.watermark, state.aborted

    async def unresolved(self) -> int:
        rows = await self.database.fetch("SELECT 1 FROM index_commit WHERE state IN ('pending', 'aborting')")
        return len(rows)

    async def verify_every_version(self) -> None:
        """The engine agrees with the ledger at every version that there was."""
        watermark, _ = await self.state()
        for sequence in range(watermark + 1):
            found = await self.history.verify(cast("VectorEngine", self.engine), IndexVersion(GENERATION, sequence))
            assert found.matches, found

    async def announcements(self) -> list[IndexCommitted | IndexState]:
        """What has left by the outbox, in order."""
        while await self.outbox.relay_once():
            pass
        kinds: dict[str, type[IndexCommitted | IndexState]] = {
            kind.topic: kind for kind in (IndexCommitted, IndexState)
        }
        return [kinds[message.topic].model_validate_json(message.body) for message in self.published]


def prepared(change: Change, *, vectors: Sequence[ChunkVector] | None = None) -> Prepared:
    """A change with vectors that depend on its texts alone."""
    made = tuple(chunk_vector(entry.chunk_id, entry.content_hash, entry.text or "") for entry in change.open)
    return Prepared(change, made if vectors is None else tuple(vectors), None)


def chunk_vector(chunk_id: str, content_hash: str, text: str) -> ChunkVector:
    drawn = np.random.default_rng(int(content_hash[:8], 16)).normal(size=DIMENSIONS)
    dense = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return ChunkVector(chunk_id, ChunkText(content_hash, (), text), dense, SparseVector((7,), (1.0,)))


@asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    """Background work that must not end by itself."""
    task = asyncio.ensure_future(work)
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def eventually(condition: Callable[[], Awaitable[object]], *, within_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def empty_index(database_url: str, engine: VectorEngine) -> AsyncIterator[Index]:
    """An index of its own: another schema, and the engine's generation emptied."""
    database = Database(database_url, "embed_" + "".join(next(_letters)), pool_size=6)
    await database.open(MIGRATIONS)
    published: list[Message] = []

    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    outbox = Outbox(database, publish, source="ragline/embed")
    ledger = Ledger(database, outbox)
    await engine.drop_generation(GENERATION)
    await engine.create_generation(GENERATION, DIMENSIONS)
    assert await ledger.open_generation("test", DIMENSIONS) == GENERATION
    reader = InMemoryMetricReader()
    telemetry = Telemetry("embed", readers=[reader])
    yield Index(database, Interposed(engine), ledger, History(database), outbox, published, telemetry, reader)
    await database.aclose()
