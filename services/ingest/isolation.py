"""Reading documents in processes of their own, so that a bad one costs itself and nothing else.

Each worker (`parser_worker`) reads one document at a time within a time and a memory limit. One that hangs,
crashes or is told to stop is killed with everything that it forked, and another takes its place; all of them
end with this process, however it ends. Processes are spawned and never forked: the service has threads.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from typing import Any, Self

import structlog

from ragline.errors import PermanentError, TransientError
from services.ingest.parser_worker import CRASH, RESULT
from services.ingest.worker_process import Ending, Limits, Reply, WorkerProcess

log = structlog.get_logger(__name__)

_NEAR_LIMIT = 0.8
"""A worker that crashes with this share of its memory in use crashed for want of more."""


class ParserPool:
    """A fixed number of workers; `work` (`module:function`) is what they do with a job and a content.

    `time_limit_s` bounds one document, waiting for a worker aside; `memory_limit_mb` bounds one worker's
    private memory in MiB, of which the program itself takes about 200 (the kernel keeps it on Linux only);
    after `documents_per_worker` a worker is replaced.
    """

    def __init__(
        self,
        work: str,
        *,
        workers: int,
        time_limit_s: float,
        memory_limit_mb: int,
        documents_per_worker: int = 1000,
    ) -> None:
        self._work = work
        self._workers = workers
        self._limits = Limits(time_limit_s, memory_limit_mb)
        self._documents_per_worker = documents_per_worker
        self._idle: asyncio.Queue[asyncio.Task[WorkerProcess]] = asyncio.Queue()
        """Workers that wait for a document, or are still starting."""
        self._live: set[WorkerProcess] = set()
        self._running = False

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live now."""
        return [worker.pid for worker in self._live]

    async def start(self) -> None:
        """Start all workers; raises TransientError when one does not come up."""
        self._running = True
        starting = [asyncio.create_task(self._begin()) for _ in range(self._workers)]
        for task in starting:
            self._idle.put_nowait(task)
        try:
            await asyncio.gather(*starting)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Kill all workers, whatever they are at, and wait until they are gone."""
        self._running = False
        while not self._idle.empty():
            self._idle.get_nowait().cancel()
        live = tuple(self._live)
        for worker in live:
            worker.kill()
        await asyncio.gather(*(self._bury(worker) for worker in live))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def run(self, job: Mapping[str, Any], content: bytes) -> bytes:
        """Do one job in the next worker that is free; returns its result as JSON.

        Raises the PermanentError that the work raised, or one with the reason PARSE_TIMEOUT, PARSE_CRASHED or
        PARSE_TOO_LARGE; TransientError when no worker can be started. Cancelling it kills the work.
        """
        self._check_running()
        idle = await self._idle.get()
        reusable = False
        try:
            self._check_running()
            worker = await asyncio.shield(idle)
            reply = await self._ask(worker, json.dumps(job).encode(), content)
            reusable = not reply.last and worker.documents < self._documents_per_worker
        finally:
            self._give_back(idle, reusable=reusable)
        return _result(reply)

    async def _ask(self, worker: WorkerProcess, job: bytes, content: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._limits.time_s):
                return await worker.ask(job, content)
        except TimeoutError as error:
            raise self._too_slow() from error
        except (EOFError, ConnectionError) as error:
            ending = await worker.end()
            self._check_running()
            raise self._failure(ending) from error

    def _check_running(self) -> None:
        if not self._running:
            raise TransientError("documents are not read now: the service is starting or stopping")

    def _give_back(self, idle: asyncio.Task[WorkerProcess], *, reusable: bool) -> None:
        if not self._running:
            self._idle.put_nowait(idle)  # whoever waits for it learns of the end
            return
        self._idle.put_nowait(idle if reusable else asyncio.create_task(self._replace(idle)))
        if not reusable and idle.done() and not idle.cancelled() and idle.exception() is None:
            idle.result().kill()  # now, and not when the replacement has its turn

    async def _replace(self, former: asyncio.Task[WorkerProcess]) -> WorkerProcess:
        """Another worker in the former one's place; one that is still starting serves nobody yet and may stay."""
        if not former.done():
            return await former
        if not former.cancelled() and former.exception() is None:
            ending = await self._bury(former.result())
            log.info("parser_worker_replaced", exit_code=ending.exit_code, peak_mb=round(ending.peak_mb))
        return await self._begin()

    async def _begin(self) -> WorkerProcess:
        worker = await WorkerProcess.start(self._work, self._limits)
        self._live.add(worker)
        if not self._running:
            await self._bury(worker)
            self._check_running()
        return worker

    async def _bury(self, worker: WorkerProcess) -> Ending:
        ending = await worker.end()
        self._live.discard(worker)
        return ending

    def _too_slow(self) -> PermanentError:
        return PermanentError(
            f"reading it took longer than {self._limits.time_s:g} s: split the document, or raise "
            "RAGLINE_INGEST__PARSE_TIMEOUT_S",
            reason="PARSE_TIMEOUT",
        )

    def _failure(self, ending: Ending) -> PermanentError:
        """What to say of a worker that died of a document."""
        if ending.exit_code == -signal.SIGXCPU:
            return self._too_slow()
        if ending.peak_mb > _NEAR_LIMIT * self._limits.memory_mb:
            return _too_large()
        how = f"exit code {ending.exit_code}" if ending.exit_code >= 0 else signal.Signals(-ending.exit_code).name
        return _crashed(how)


def _result(reply: Reply) -> bytes:
    if reply.kind == RESULT:
        return reply.body
    error = json.loads(reply.body)
    if reply.kind == CRASH:
        raise _crashed(str(error["message"]))
    raise PermanentError(str(error["message"]), reason=str(error["reason"]))


def _crashed(how: str) -> PermanentError:
    return PermanentError(
        f"its parser broke down ({how}): publish the document's text, and report the document", reason="PARSE_CRASHED"
    )


def _too_large() -> PermanentError:
    return PermanentError(
        "reading it takes more memory than RAGLINE_INGEST__PARSE_MEMORY_MB allows: split the document",
        reason="PARSE_TOO_LARGE",
    )
