"""A stopped embedder slows consumption down: what waits lies in ingest's database, and nothing is lost.

    python -m bench.back_pressure --documents 100000

Publishes so many small documents while embed is stopped, with ingest as a process on a stack of its own;
then starts embed and waits until everything is searchable. Reports the memory of both services over time,
how much was on the bus, the throughput, and whether the index holds every document exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.results_file import write
from ragline.bus import Bus
from ragline.contracts.cloudevents import encode
from ragline.contracts.events import BulkChunksReady, BulkDocumentChanged
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.local.processes import ChildProcess
from ragline.local.service_processes import service_process, until_serving
from ragline.local.stack import LocalStack, local_stack
from ragline.rpc import Caller, open_channel
from ragline.settings import BusSettings, ModelSettings, RpcSettings, Settings
from ragline.telemetry import Telemetry

FREE: Final = "127.0.0.1:0"
_BATCH: Final = 200
_SAMPLE_S: Final = 0.5
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the pipeline; memory is that of the service's process and its workers together, in MiB."""

    seconds: float
    accepted: int
    searchable: int
    on_the_bus: int
    """Announcements that embed has not yet committed to the index."""
    ingest_mib: float
    embed_mib: float


@dataclass
class Measured:
    """What a run came to."""

    documents: int
    accepting_s: float = 0.0
    indexing_s: float = 0.0
    announced_while_stopped: int = 0
    samples: list[Sample] = field(default_factory=list)
    end: dict[str, int] = field(default_factory=dict)
    """Counts at the end: documents, searchable, chunks, open_points, versions, embedded."""
    verified: bool = False

    @property
    def ingest_growth_mib(self) -> float:
        """How much the most memory exceeds that at a tenth of the documents, when everything is warm."""
        warm = next(s.ingest_mib for s in self.samples if s.accepted >= self.documents / 10)
        return max(s.ingest_mib for s in self.samples) - warm

    @property
    def exact(self) -> bool:
        """Every document is there, once."""
        counts = ("documents", "searchable", "chunks", "open_points", "versions", "embedded")
        return self.verified and all(self.end[count] == self.documents for count in counts)


class Watch:
    """Looks at the database, the bus and the processes."""

    def __init__(self, stack: LocalStack, ingest: ChildProcess, measured: Measured) -> None:
        self._url = stack.settings.database_url
        self._consumer = AIOKafkaConsumer(bootstrap_servers=stack.settings.bootstrap)
        self._partitions = [TopicPartition(BulkChunksReady.topic, n) for n in range(stack.settings.bus.partitions)]
        self._announced = 0
        self._ingest = ingest
        self._measured = measured
        self._started = time.perf_counter()
        self.embed: ChildProcess | None = None

    async def __aenter__(self) -> Watch:
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_beginning()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._consumer.stop()

    async def announced(self) -> int:
        """How many announcements ever went on the bus, counted by reading them.

        The embedded broker's latest offset is the first of its last batch, and would tell too few.
        """
        while records := await self._consumer.getmany(timeout_ms=200):
            self._announced += sum(len(batch) for batch in records.values())
        return self._announced

    async def sample(self) -> Sample:
        announced = await self.announced()  # first, so that what is committed meanwhile does not seem to be waiting
        row = await self.count(
            "SELECT count(*) AS accepted, count(*) FILTER (WHERE indexed_version >= document_version) AS searchable "
            "FROM ingest.document"
        )
        sample = Sample(
            seconds=round(time.perf_counter() - self._started, 1),
            accepted=row[0],
            searchable=row[1],
            on_the_bus=max(0, announced - row[1]),
            ingest_mib=_memory_mib(self._ingest),
            embed_mib=_memory_mib(self.embed) if self.embed else 0.0,
        )
        self._measured.samples.append(sample)
        return sample

    async def until(self, reached: Callable[[Sample], bool]) -> float:
        """Sample until that is true; returns the seconds that it took."""
        started = time.perf_counter()
        while True:
            if reached(await self.sample()):
                return time.perf_counter() - started
            await asyncio.sleep(_SAMPLE_S)

    async def count(self, query: str) -> tuple[int, ...]:
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            cursor = await connection.execute(query.encode())
            row = await cursor.fetchone()
        assert row is not None
        return tuple(row)


async def measure(settings: Settings, documents: int) -> Measured:
    """Publish with embed stopped, start it, wait until all is searchable, and count what is there."""
    measured = Measured(documents)
    async with (
        local_stack(settings, durable=False) as stack,
        _service(stack, "ingest") as ingest,
        Watch(stack, ingest, measured) as watch,
    ):
        accepting = asyncio.create_task(watch.until(lambda sample: sample.accepted == documents))
        await _publish(stack, documents)
        measured.accepting_s = await accepting
        measured.announced_while_stopped = await watch.announced()
        async with _service(stack, "embed") as embed:
            watch.embed = embed
            measured.indexing_s = await watch.until(lambda sample: sample.searchable == documents)
            measured.verified = await _verified(stack)
        measured.end = await _counts(watch)
    return measured


@asynccontextmanager
async def _service(stack: LocalStack, name: str) -> AsyncIterator[ChildProcess]:
    child = service_process(stack, name)
    await child.start()
    try:
        async with asyncio.timeout(60):
            await until_serving(stack.settings.rpc.ingest if name == "ingest" else stack.settings.rpc.indexing)
        yield child
    finally:
        await child.stop()


async def _publish(stack: LocalStack, documents: int) -> None:
    telemetry = Telemetry("upstream")
    bus = Bus(stack.settings.bus, stack.settings.bootstrap, service="upstream", telemetry=telemetry)
    await bus.start()
    try:
        for start in range(0, documents, _BATCH):
            batch = range(start, min(start + _BATCH, documents))
            await bus.publish([encode(_document(number), source="bench", trace={}) for number in batch])
    finally:
        await bus.stop()
        await asyncio.to_thread(telemetry.shutdown)


def _document(number: int) -> BulkDocumentChanged:
    """A document of one chunk, unlike all others."""
    return BulkDocumentChanged(
        tenant="default", document_id=f"note-{number}.txt", source="bench", op="upsert", revision=1,
        content=f"Note number {number} says that shelf {number * 7} holds box {number * 13} of the archive.",
        content_type="text/plain",
    )  # fmt: skip


def _memory_mib(child: ChildProcess) -> float:
    """Resident memory of all processes of a service."""
    if child.guard_pid is None:
        return 0.0
    try:
        processes = psutil.Process(child.guard_pid).children(recursive=True)
        return round(sum(process.memory_info().rss for process in processes) / _MIB, 1)
    except psutil.NoSuchProcess:
        return 0.0


async def _verified(stack: LocalStack) -> bool:
    """Whether the engine holds what the ledger says."""
    telemetry, channel = Telemetry("bench"), open_channel(stack.settings.rpc.indexing)
    try:
        call = Caller(telemetry, token=stack.data_dir.dev_key.read_text().strip(), deadline_s=120)
        index = indexing_pb2_grpc.IndexServiceStub(channel)
        found = await call(index.VerifyVersion, indexing_pb2.VerifyVersionRequest(), name="VerifyVersion")
        return bool(found.matches)
    finally:
        await channel.close()
        await asyncio.to_thread(telemetry.shutdown)


async def _counts(watch: Watch) -> dict[str, int]:
    queries: dict[str, str] = {
        "documents": "SELECT count(*) FROM ingest.document",
        "searchable": "SELECT count(*) FROM ingest.document WHERE indexed_version = document_version",
        "chunks": "SELECT sum(jsonb_array_length(manifest))::bigint FROM ingest.document",
        "open_points": "SELECT count(*) FROM embed.point WHERE valid_to IS NULL",
        "versions": "SELECT count(*) FROM embed.document_version",
        "embedded": "SELECT count(*) FROM embed.embedding",
    }
    return {name: (await watch.count(query))[0] for name, query in queries.items()}


def _every(samples: list[Sample], rows: int) -> list[dict[str, Any]]:
    """Some of the samples, evenly spaced, the last among them."""
    step = max(1, len(samples) // rows)
    return [{name: getattr(s, name) for name in Sample.__slots__} for s in [*samples[:-1:step], samples[-1]]]


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--embedder", default="wordllama", choices=["wordllama", "minilm"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        rpc = RpcSettings(gateway=FREE, ingest=FREE, indexing=FREE, retrieve=FREE, eval=FREE)
        settings = Settings.load(
            data_dir=Path(folder), bus=BusSettings(port=0), rpc=rpc, models=ModelSettings(embedder=arguments.embedder)
        )
        measured = await measure(settings, arguments.documents)
    body = {
        "embedder": arguments.embedder,
        "documents": measured.documents,
        "accepted_per_s": round(measured.documents / measured.accepting_s, 1),
        "indexed_per_s_afterwards": round(measured.documents / measured.indexing_s, 1),
        "announced_while_embed_was_stopped": measured.announced_while_stopped,
        "most_on_the_bus": max(sample.on_the_bus for sample in measured.samples),
        "ingest_growth_mib": round(measured.ingest_growth_mib, 1),
        "most_ingest_mib": max(sample.ingest_mib for sample in measured.samples),
        "most_embed_mib": max(sample.embed_mib for sample in measured.samples),
        "nothing_lost_nothing_doubled": measured.exact,
        "end": measured.end,
        "over_time": _every(measured.samples, 40),
    }
    print(json.dumps({name: value for name, value in body.items() if name != "over_time"}, indent=2))
    print("written to", write("back-pressure", body).name)


if __name__ == "__main__":
    asyncio.run(main())
