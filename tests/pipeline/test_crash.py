"""A service that is killed at the worst moment loses nothing: the index ends as that of a clean run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from ragline.client import Ragline
from ragline.errors import TransientError
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.local.processes import ChildProcess
from ragline.local.service_processes import service_process, until_serving
from ragline.local.stack import LocalStack, local_stack
from ragline.rpc import Caller, open_channel
from ragline.telemetry import Telemetry
from tests.stack import client_of, developer_token, stack_settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

DOCUMENTS = {
    f"note-{n}.md": f"# Note {n}\n\nFact number {n} is about topic {n * 7}.\n\n## Detail\n\nMore on {n}."
    for n in range(12)
}
EDITED = {name: text.replace("Fact", "Corrected fact") for name, text in list(DOCUMENTS.items())[:6]}


@dataclass
class Pipeline:
    """The running parts, and which services have died so far."""

    stack: LocalStack
    deaths: list[str] = field(default_factory=list)

    async def keep(self, name: str, child: ChildProcess) -> None:
        """Start a service again, without its fault, whenever it dies; stop it at the end."""
        try:
            while True:
                await child.wait()
                self.deaths.append(name)
                child = service_process(self.stack, name)
                await child.start()
        finally:
            await child.stop()


@asynccontextmanager
async def pipeline(
    folder: Path, *, embed_fault: str | None = None, ingest_fault: str | None = None
) -> AsyncIterator[Pipeline]:
    """Broker, database, engine, and the services ingest and embed as processes that are started again."""
    async with local_stack(stack_settings(folder), durable=False) as stack:
        faults = {"embed": embed_fault, "ingest": ingest_fault}
        children = {name: service_process(stack, name, fault=fault) for name, fault in faults.items()}
        running, keepers = Pipeline(stack), []
        try:
            for name, child in children.items():
                await child.start()
                keepers.append(asyncio.create_task(running.keep(name, child)))
            if not any(faults.values()):
                await until_serving(stack.settings.rpc.ingest)
                await until_serving(stack.settings.rpc.indexing)
            yield running
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)


async def _fingerprint(stack: LocalStack, token: str) -> str:
    """What the engine holds, which must be what the ledger says."""
    channel = open_channel(stack.settings.rpc.indexing)
    telemetry = Telemetry("test")
    try:
        call = Caller(telemetry, token=token, deadline_s=30)
        index = indexing_pb2_grpc.IndexServiceStub(channel)
        found = await call(index.VerifyVersion, indexing_pb2.VerifyVersionRequest(), name="verify")
        assert found.matches
        return str(found.found_fingerprint)
    finally:
        await channel.close()
        telemetry.shutdown()


async def _publish_all(client: Ragline, texts: dict[str, str], revision: int) -> None:
    async with asyncio.TaskGroup() as group:
        for name, text in texts.items():
            group.create_task(_publish_persistently(client, name, text, revision))


async def _publish_persistently(client: Ragline, name: str, text: str, revision: int) -> None:
    """As an upstream does: the same revision again until it is accepted and searchable."""
    while True:
        try:
            await client.publish(name, text, revision=revision)
            return
        except TransientError:
            await asyncio.sleep(0.2)


async def _run(folder: Path, **faults: str | None) -> tuple[str, list[str]]:
    """Publish and edit everything; the verified fingerprint, and which services died meanwhile."""
    async with pipeline(folder, **faults) as running:
        stack, token = running.stack, developer_token(folder)
        async with client_of(stack.settings, token) as client:
            await _publish_all(client, DOCUMENTS, 1)
            await _publish_all(client, EDITED, 2)
        return await _fingerprint(stack, token), running.deaths


@pytest.fixture(scope="module")
async def clean_fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of a run in which nothing crashes."""
    fingerprint, deaths = await _run(tmp_path_factory.mktemp("clean"))
    assert deaths == []
    return fingerprint


@pytest.mark.parametrize(
    "faults",
    [
        {"embed_fault": "commit.after_insert:2"},
        {"embed_fault": "commit.after_complete:2"},
        {"ingest_fault": "outbox.after_publish:3"},
    ],
    ids=lambda faults: next(iter(faults.values())),
)
async def test_a_kill_at_a_named_step_ends_with_the_fingerprint_of_a_clean_run(
    short_dir: Path, clean_fingerprint: str, faults: dict[str, str]
) -> None:
    fingerprint, deaths = await _run(short_dir, **faults)
    assert len(deaths) == 1
    assert fingerprint == clean_fingerprint


async def test_the_engine_dies_with_the_stack_and_the_restarted_stack_has_all_documents(
    short_dir: Path,
) -> None:
    async with pipeline(short_dir) as running:
        stack = running.stack
        token = developer_token(short_dir)
        async with client_of(stack.settings, token) as client:
            await _publish_all(client, DOCUMENTS, 1)
        before = await _fingerprint(stack, token)
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "ragline.index.worker" in command and str(short_dir / "engine") in command:
                os.kill(process.pid, signal.SIGKILL)
    async with pipeline(short_dir) as running:
        stack = running.stack
        async with client_of(stack.settings, token) as client:
            document = await client.wait_for_document("note-3.md", revision=1)
            assert document.index_version
        assert await _fingerprint(stack, token) == before
