"""A child process: logged, waited for until it is ready, stopped in bounded time, never left behind.

The child runs under `guard.py`, in a session of its own: Ctrl-C in the terminal reaches Ragline alone,
which then stops its children in order; and when Ragline is killed, the guard stops the child.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from ragline.errors import ConfigurationError, FailedPrecondition, TransientError
from ragline.local.data_dir import ANOTHER_FOLDER, DataDir, writing_to

_GUARD = Path(__file__).with_name("guard.py")
_LOG_BYTES = 10_000_000
_POLL_S = 0.02
_GUARD_GRACE_S = 2.0
_TAIL_BYTES = 8192
_ERROR = re.compile(r"\b(FATAL|PANIC|ERROR|error|panicked|cannot)\b")
_DISK_FULL = re.compile("No space left on device|Disk quota exceeded|Check free disk space")


class ChildProcess:
    """One child process of this data directory; its output goes to `logs/<name>.log`.

    `command[0]` is an absolute path. By default the child works in the root folder, where no `.env` of
    ours can configure a third-party server, and sees none of our environment.
    Stopping sends `stop_signal` and, after `stop_s` seconds, SIGKILL.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        data_dir: DataDir,
        *,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_s: float = 5.0,
        folder: Path = Path("/"),
    ) -> None:
        self.name = name
        self.log = data_dir.logs / f"{name}.log"
        self._command = list(command)
        self._data_dir = data_dir
        self._environment = _bare_environment() if environment is None else environment
        self._stop_signal = stop_signal
        self._stop_s = stop_s
        self._folder = folder
        self._process: Process | None = None
        self._log_start = 0

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def guard_pid(self) -> int | None:
        """The process id of the child's guard, its parent."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the child; raises ConfigurationError when its log cannot be written."""
        self._data_dir.create()
        lock = self._data_dir.lock_descriptor
        log = self._open_log()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_GUARD)),
                *(str(int(self._stop_signal)), str(self._stop_s), *self._command),
                stdin=PIPE,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
                cwd=self._folder,
                env=dict(self._environment),
            )
        finally:
            os.close(log)

    def _open_log(self) -> int:
        """Open the log for appending, the last run's aside when it has grown large."""
        with writing_to(self.log):
            if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._log_start = os.fstat(descriptor).st_size
        return descriptor

    async def wait_ready(self, ready: Callable[[], Awaitable[bool]], deadline_s: float) -> None:
        """Ask `ready` again and again until it says True; the child is stopped when that fails.

        Raises ConfigurationError with the last line of its log when the child ends first, and
        TransientError when it is not ready after `deadline_s` seconds.
        """
        is_ready = False
        try:
            is_ready = await self._becomes_ready(ready, deadline_s)
            if not is_ready:
                raise self._failure(deadline_s)
        finally:
            if not is_ready:
                await self.stop()

    async def _becomes_ready(self, ready: Callable[[], Awaitable[bool]], deadline_s: float) -> bool:
        """Whether `ready` came true in time while the child was running."""
        ended = asyncio.create_task(self.wait())
        asking = asyncio.create_task(_until(ready))
        try:
            await asyncio.wait({ended, asking}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                asking.result()
            return asking.done() and not ended.done()
        finally:
            ended.cancel()
            asking.cancel()
            await asyncio.gather(ended, asking, return_exceptions=True)

    async def run(self, deadline_s: float) -> None:
        """Start the child and wait until it has done its work; raises as `wait_ready` when it fails."""
        await self.start()
        is_done = False
        try:
            async with asyncio.timeout(deadline_s):
                is_done = await self.wait() == 0
        except TimeoutError as error:
            raise self._failure(deadline_s) from error
        finally:
            await self.stop()
        if not is_done:
            raise self._failure(deadline_s)

    def _failure(self, deadline_s: float) -> ConfigurationError | TransientError:
        """Why the child is not ready or not done, in one line."""
        said = self.last_log_line() or "it wrote no log"
        if any(_DISK_FULL.search(line) for line in self._log_lines()):
            return ConfigurationError(
                f"{self.name} found the disk full: free some space at {self._data_dir.path} or choose {ANOTHER_FOLDER}"
            )
        if self.running:
            return TransientError(f"{self.name} was not ready after {deadline_s:g} s: {said} (see {self.log})")
        code = self._process.returncode if self._process is not None else None
        return ConfigurationError(f"{self.name} failed with exit code {code}: {said} (see {self.log})")

    async def wait(self) -> int:
        """Wait until the child has ended; returns its exit code, or 128 + the signal that ended it."""
        if self._process is None:
            raise FailedPrecondition(f"{self.name} was not started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Stop the child and wait until it is gone; does nothing when it is not running."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the guard stops the child when this pipe closes
        try:
            async with asyncio.timeout(self._stop_s + _GUARD_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def last_log_line(self) -> str:
        """The last line that this run logged as an error, else its last line; may be empty."""
        lines = self._log_lines()
        errors = [line for line in lines if _ERROR.search(line)]
        return (errors or lines or [""])[-1]

    def _log_lines(self) -> list[str]:
        """The last lines that this run logged, empty ones left out."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]


def _bare_environment() -> dict[str, str]:
    """For third-party servers: neither our secrets nor variables that would configure them.

    What is kept is only where some installations of Python find their own library.
    """
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", **kept}


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110  (another process's state has no event)
        await asyncio.sleep(_POLL_S)
