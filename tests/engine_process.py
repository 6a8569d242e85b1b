"""The embedded engine's worker as a child process of a test."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

_START_S = 30.0
_STOP_S = 10.0


class EngineProcess:
    """A worker on `path` that can be killed and started again at the same address."""

    def __init__(self, path: Path, socket: Path, *options: str) -> None:
        self._path = path
        self._socket = socket
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where clients reach it, for grpc."""
        return f"unix:{self._socket}"

    async def start(self) -> None:
        """Start it and wait until it accepts connections; fails with its error output if it ends first."""
        self._process = await asyncio.create_subprocess_exec(
            *command(self._path, self._socket, *self._options),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        ended = asyncio.ensure_future(self._process.communicate())
        ready = asyncio.ensure_future(_ready(self.address))
        await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise AssertionError(f"the engine worker ended: {(await ended)[1].decode().strip()}")
        self._ended = ended
        await ready

    def send(self, signal_number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal_number)

    async def kill(self) -> None:
        """End it as a crash would."""
        self.send(signal.SIGKILL)
        await self._ended

    async def stop(self) -> int:
        """End it by SIGTERM; returns its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self.send(signal.SIGTERM)
            try:
                await asyncio.wait_for(asyncio.shield(self._ended), _STOP_S)
            except TimeoutError:
                await self.kill()
                raise AssertionError("the engine worker did not end after SIGTERM") from None
        code = self._process.returncode
        assert code is not None
        return code


def command(path: Path, socket: Path, *options: str) -> list[str]:
    """The command line of a worker."""
    return [
        sys.executable,
        *("-m", "ragline.index.worker", "--path", str(path), "--socket", str(socket)),
        *options,
    ]


async def _ready(address: str) -> None:
    async with grpc.aio.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 100)]) as channel:
        await asyncio.wait_for(channel.channel_ready(), _START_S)


@asynccontextmanager
async def engine_process(path: Path, *options: str) -> AsyncIterator[EngineProcess]:
    """A running worker on `path`, ended when the block is left."""
    # A folder with a short name: the path of a Unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ragline-") as folder:
        worker = EngineProcess(path, Path(folder) / "engine.sock", *options)
        await worker.start()
        try:
            yield worker
        finally:
            # A stopped process would never hear the request to end.
            worker.send(signal.SIGCONT)
            await worker.stop()


@asynccontextmanager
async def engine_worker(path: Path) -> AsyncIterator[str]:
    """A running worker on `path`: yields its address, for `EdgeEngine` or `connect_engine`."""
    async with engine_process(path) as worker:
        yield worker.address
