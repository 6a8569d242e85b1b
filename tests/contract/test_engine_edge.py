"""What only the embedded engine can get wrong: its process, its socket and its folder."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider

from ragline.errors import PermanentError, TransientError
from ragline.index.edge import EdgeEngine
from ragline.index.versions import View
from tests.contract.engine_points import DIMENSIONS, intervals, point, points, query, seen
from tests.engine_process import command, engine_process, engine_worker

pytestmark = pytest.mark.stack


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own time-out ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.01)


# --- crashes and restarts -----------------------------------------------------------------------


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    async with engine_process(tmp_path, "--flush-interval-s", "3600") as worker:
        engine = EdgeEngine(worker.address)
        await engine.create_generation("g1", DIMENSIONS)
        await engine.insert("g1", 1, points(300))
        await engine.close("g1", 2, [one.id for one in points(100)], frozenset())
        await engine.set_groups("g1", "acme", "manual", ["board"])
        before = await intervals(engine, "g1")
        await worker.kill()
        await worker.start()
        assert await intervals(engine, "g1") == before
        assert len(before) == 300
        assert len(await seen(engine, View("g1", 2), groups=["board"], limit=300)) == 200
        assert await seen(engine, View("g1", 2)) == set()
        await engine.aclose()


async def test_a_kill_in_the_middle_of_inserts_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[int] = []

    async def insert(engine: EdgeEngine) -> None:
        for sequence in range(1, 10_000):
            await engine.insert("g1", sequence, [point(f"{sequence}-{n}") for n in range(5)])
            acknowledged.append(sequence)

    async with engine_process(tmp_path) as worker:
        engine = EdgeEngine(worker.address)
        await engine.create_generation("g1", DIMENSIONS)
        inserting = asyncio.create_task(insert(engine))
        await until(lambda: len(acknowledged) >= 20)
        await worker.kill()
        with pytest.raises(TransientError):
            await inserting
        await worker.start()
        for sequence in acknowledged:
            assert await engine.count_opened("g1", sequence) == 5
        await engine.aclose()


async def test_a_client_fails_while_the_worker_is_down_and_works_when_it_is_back(tmp_path: Path) -> None:
    async with engine_process(tmp_path) as worker:
        engine = EdgeEngine(worker.address)
        await engine.create_generation("g1", DIMENSIONS)
        await worker.kill()
        for _attempt in range(3):
            with pytest.raises(TransientError, match="see that its worker runs"):
                await engine.count_opened("g1", 1)
        await worker.start()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await engine.count_opened("g1", 1) == 0
                    break
                except TransientError:
                    await asyncio.sleep(0.05)
        await engine.aclose()


async def test_sigterm_drains_and_ends_well_and_a_restart_finds_everything(tmp_path: Path) -> None:
    async with engine_process(tmp_path) as worker:
        engine = EdgeEngine(worker.address)
        await engine.create_generation("g1", DIMENSIONS)
        await engine.insert("g1", 1, points(100))
        async with asyncio.timeout(5):
            assert await worker.stop() == 0
        await worker.start()
        assert len(await intervals(engine, "g1")) == 100
        await engine.aclose()


async def test_an_unfinished_generation_is_cleared_away_and_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / ".g1.unfinished"
    (unfinished / "shard").mkdir(parents=True)
    async with engine_worker(tmp_path) as address:
        assert not unfinished.exists()
        engine = EdgeEngine(address)
        await engine.create_generation("g1", DIMENSIONS)
        await engine.insert("g1", 1, points(3))
        assert await engine.count_opened("g1", 1) == 3
        await engine.aclose()


# --- refusals to start --------------------------------------------------------------------------


async def refusal(path: Path, socket: Path) -> tuple[int | None, list[str]]:
    """The exit code and the error output of a worker that should not start."""
    process = await asyncio.create_subprocess_exec(
        *command(path, socket), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, errors.decode().splitlines()


async def test_a_second_worker_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with engine_worker(tmp_path) as address:
        code, lines = await refusal(tmp_path, tmp_path / "second.sock")
        assert code == 2
        assert len(lines) == 1
        assert f"{tmp_path} is in use by another engine worker" in lines[0]
        engine = EdgeEngine(address)
        await engine.flush()
        await engine.aclose()


async def test_a_socket_that_another_worker_listens_on_is_refused(tmp_path: Path) -> None:
    async with engine_worker(tmp_path / "one") as address:
        socket = Path(address.removeprefix("unix:"))
        code, lines = await refusal(tmp_path / "two", socket)
        assert (code, len(lines)) == (2, 1)
        assert f"{socket} is in use by another process" in lines[0]


@pytest.mark.parametrize(
    ("path", "socket", "message"),
    [
        ("file", "engine.sock", "cannot be used (File exists); choose another --path"),
        ("data", "s" * 120, "choose a shorter --socket"),
        ("data", "missing/engine.sock", "missing is not a folder; choose another --socket"),
    ],
)
async def test_what_cannot_be_had_is_refused_in_one_line(tmp_path: Path, path: str, socket: str, message: str) -> None:
    (tmp_path / "file").touch()
    code, lines = await refusal(tmp_path / path, tmp_path / socket)
    assert (code, len(lines)) == (2, 1)
    assert message in lines[0]


async def test_a_damaged_generation_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "g1").mkdir()
    code, lines = await refusal(tmp_path, tmp_path / "engine.sock")
    assert (code, len(lines)) == (1, 1)
    assert f"move {tmp_path / 'g1'} away and rebuild the generation" in lines[0]


# --- the socket ---------------------------------------------------------------------------------


class _Recorder(grpc.aio.UnaryUnaryClientInterceptor):
    """Keeps the metadata of the last call and the size of every request, in bytes."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.sizes: list[int] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.metadata = dict(details.metadata or ())
        self.sizes.append(request.ByteSize())
        return await continuation(details, request)


async def test_points_with_large_texts_travel_in_several_messages(tmp_path: Path) -> None:
    recorder = _Recorder()
    large = [replace(one, payload=replace(one.payload, text="x" * (1 << 20))) for one in points(20)]
    async with engine_worker(tmp_path) as address:
        engine = EdgeEngine(address, interceptors=[recorder])
        await engine.create_generation("g1", DIMENSIONS)
        recorder.sizes.clear()
        await engine.insert("g1", 1, large)
        assert len(recorder.sizes) == 3
        assert max(recorder.sizes) < 9 << 20
        recorder.sizes.clear()
        assert {stored.id async for stored in engine.scan_all("g1")} == {one.id for one in large}
        assert len(recorder.sizes) == 3
        await engine.aclose()


async def test_a_point_beyond_the_message_limit_is_refused_for_good(tmp_path: Path) -> None:
    one = point("large")
    one = replace(one, payload=replace(one.payload, text="x" * (65 << 20)))
    async with engine_worker(tmp_path) as address:
        engine = EdgeEngine(address)
        await engine.create_generation("g1", DIMENSIONS)
        with pytest.raises(PermanentError, match="larger than max"):
            await engine.insert("g1", 1, [one])
        await engine.aclose()


async def test_every_call_has_a_deadline(tmp_path: Path) -> None:
    async with engine_process(tmp_path) as worker:
        engine = EdgeEngine(worker.address, search_timeout_s=0.1, write_timeout_s=0.1, admin_timeout_s=0.1)
        worker.send(signal.SIGSTOP)
        for call in (
            lambda: engine.create_generation("g1", DIMENSIONS),
            lambda: engine.insert("g1", 1, points(1)),
            lambda: engine.search(View("g1", 1), query()),
            lambda: intervals(engine, "g1"),
            engine.flush,
        ):
            with pytest.raises(TransientError, match="DEADLINE_EXCEEDED"):
                await call()
        worker.send(signal.SIGCONT)
        await engine.aclose()


async def test_a_cancelled_call_ends_at_once(tmp_path: Path) -> None:
    async with engine_process(tmp_path) as worker:
        engine = EdgeEngine(worker.address)
        worker.send(signal.SIGSTOP)
        flush = asyncio.create_task(engine.flush())
        await asyncio.sleep(0)
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        worker.send(signal.SIGCONT)
        await engine.aclose()


async def test_calls_carry_the_present_trace_and_pass_the_interceptors(tmp_path: Path) -> None:
    recorder = _Recorder()
    async with engine_worker(tmp_path) as address:
        engine = EdgeEngine(address, interceptors=[recorder])
        with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
            await engine.flush()
        await engine.aclose()
    assert f"{span.get_span_context().trace_id:032x}" in recorder.metadata["traceparent"]
