"""One process of `parser_worker`, as the pool that started it sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Self

from ragline.errors import TransientError
from services.ingest.parser_worker import READY, REPLY, REQUEST

_START_S = 30.0
_SLICE_BYTES = 1 << 18
_REPLY_BYTES = 256 << 20
"""More than the chunks of any document that is let through; a worker gone mad cannot fill our memory."""
_ENVIRONMENT = frozenset({"PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"})
"""All that a worker sees of ours: keys and passwords are not for a process that reads what strangers send."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one document may take: wall-clock seconds, and MiB of a worker's private memory."""

    time_s: float
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answered; after its last reply it takes no more."""

    kind: int
    last: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended: its exit code (negative: the signal), and the most memory that it had, in MiB.

    `peak_mb` is 0 when it is not known: Linux counts what this process had when it spawned the worker, too.
    """

    exit_code: int
    peak_mb: float


class WorkerProcess:
    """A running worker; `kill` ends it with everything that it forked. Made by `start`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lifeline: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._lifeline = lifeline
        self._killed = False
        self._inherited_rss = 0
        self._ending: asyncio.Future[Ending] | None = None
        self.documents = 0
        """How many it was given."""

    @classmethod
    async def start(cls, work: str, limits: Limits) -> Self:
        """Spawn a worker and wait until it is ready; raises TransientError, one line that says why not."""
        ours, theirs = socket.socketpair()
        read_end, lifeline = os.pipe()
        try:
            process = _spawn(theirs.fileno(), read_end, work, limits)
        except OSError as error:
            ours.close()
            os.close(lifeline)
            raise TransientError(f"no parser worker can be started: {error}") from error
        finally:
            theirs.close()
            os.close(read_end)
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        worker = cls(process, reader, writer, lifeline)
        try:
            await worker._become_ready()
        except BaseException:
            worker.kill()
            raise
        return worker

    async def _become_ready(self) -> None:
        try:
            async with asyncio.timeout(_START_S):
                reply = await self._receive()
        except (TimeoutError, EOFError, ConnectionError) as error:
            ending = await self.end()
            raise TransientError(
                f"a parser worker did not start (exit code {ending.exit_code}): is the installation whole?"
            ) from error
        if reply.kind != READY:
            raise TransientError(f"a parser worker did not start: {reply.body.decode(errors='replace')}")
        self._inherited_rss = int(reply.body)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""
        return self._process.pid

    async def ask(self, job: bytes, content: bytes) -> Reply:
        """Give it a document; raises EOFError or ConnectionError when it dies of it. Not bounded in time."""
        self.documents += 1
        self._writer.write(REQUEST.pack(len(job), len(content)) + job)
        view = memoryview(content)
        for start in range(0, len(content), _SLICE_BYTES):
            self._writer.write(view[start : start + _SLICE_BYTES])
            await self._writer.drain()
        return await self._receive()

    async def _receive(self) -> Reply:
        kind, last, size = REPLY.unpack(await self._reader.readexactly(REPLY.size))
        if size > _REPLY_BYTES:
            raise ConnectionError(f"the worker's reply has {size} bytes")
        return Reply(kind, last, await self._reader.readexactly(size))

    def kill(self) -> None:
        """End it and all that it forked, at once; harmless to repeat."""
        if self._killed:
            return
        self._killed = True
        # It is not reaped before, so that its id cannot be another's by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._writer.transport.abort()
        os.close(self._lifeline)

    async def end(self) -> Ending:
        """Kill it if it lives, and wait until it is gone."""
        self.kill()
        if self._ending is None:
            self._ending = asyncio.ensure_future(asyncio.to_thread(self._reap))
        return await asyncio.shield(self._ending)

    def _reap(self) -> Ending:
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss if usage.ru_maxrss > self._inherited_rss else 0
        return Ending(self._process.returncode, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _spawn(channel: int, lifeline: int, work: str, limits: Limits) -> subprocess.Popen[bytes]:
    """A new process in a session of its own, so that Ctrl-C in a terminal does not reach it."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "services.ingest.parser_worker"),
            *(str(channel), str(lifeline), work, str(limits.time_s), str(limits.memory_mb)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # a traceback may quote the document, and content never goes to a log
        pass_fds=(channel, lifeline),
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name in _ENVIRONMENT} | _ONE_THREAD,
    )
