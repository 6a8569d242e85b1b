"""How a service lives: start in order, report ready, run its background work, drain on SIGTERM.

Each service's `app.py` has `build(settings) -> Service`; `serve` runs one as a process, and
`services/all_in_one.py` runs the five of them in one event loop. Same parts, same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import structlog

from ragline import faults
from ragline.bus import Bus
from ragline.errors import RaglineError, missing_package
from ragline.rpc import RpcServer
from ragline.settings import Settings
from ragline.telemetry import Telemetry

if TYPE_CHECKING:
    from ragline.database import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass
class Service:
    """One service, wired and not yet started.

    `prepare` runs after the database is open and before anything is served or consumed (load models,
    catch up with state); `background` coroutines run until the service stops, and their failure is
    the service's failure; `closers` run last, in reverse order.
    """

    name: str
    telemetry: Telemetry
    server: RpcServer
    bus: Bus
    database: Database | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    closers: tuple[Callable[[], Awaitable[None]], ...] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def migrations(self) -> Path:
        # Imported late: the image of a service without a database (retrieve) has no driver for one.
        from ragline.database import package_folder

        return package_folder(f"services.{self.name}") / "migrations"

    async def start(self) -> None:
        """Open everything in order; when it returns, the service is ready."""
        if self.database is not None:
            await self.database.open(self.migrations)
        await self.server.start()
        if self.prepare is not None:
            await self.prepare()
        await self.bus.start()
        self._tasks = [asyncio.create_task(work(), name=f"{self.name}.{work.__name__}") for work in self.background]
        await self.server.set_ready(ready=True)
        log.info("service_ready", service=self.name, address=self.server.address)

    async def run(self) -> None:
        """Wait until a background task fails (raises its error) or this is cancelled."""
        readiness = asyncio.create_task(self._follow_readiness(), name=f"{self.name}.readiness")
        try:
            done, _ = await asyncio.wait([*self._tasks, readiness], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            readiness.cancel()

    async def _follow_readiness(self) -> None:
        ready = True
        while True:
            await asyncio.sleep(0.5)
            if ready != (not self.bus.stalled):
                ready = not self.bus.stalled
                await self.server.set_ready(ready=ready)

    async def stop(self) -> None:
        """Drain: refuse new calls, finish batches, end background work, close connections, flush spans."""
        for outcome in await asyncio.gather(self.server.stop(), self.bus.stop(), return_exceptions=True):
            if isinstance(outcome, Exception):  # the rest is to be closed all the same
                log.warning("stop_failed", service=self.name, error=repr(outcome))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for close in reversed(self.closers):
            await close()
        if self.database is not None:
            await self.database.aclose()
        await asyncio.to_thread(self.telemetry.shutdown)
        log.info("service_stopped", service=self.name)


async def start_together(*starts: Coroutine[Any, Any, T]) -> list[T]:
    """Await all of them at once; when some fail, the first failure is raised once all have ended."""
    results = await asyncio.gather(*starts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def configure_logging(*, level: str = "info", file: TextIO | None = None) -> None:
    """JSON lines on standard error or a file, with trace and span ids; never any content."""
    from opentelemetry import trace

    def with_trace(_: Any, __: str, event: Any) -> Any:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
            event["span_id"] = trace.format_span_id(context.span_id)
        return event

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            with_trace,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=file or sys.stderr),
        cache_logger_on_first_use=False,
    )


async def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run until it ends, or cancel it at the first SIGTERM or SIGINT and let it clean up."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run_service(build: Callable[[Settings], Service], settings: Settings) -> None:
    """Build within the running loop (gRPC channels belong to one), start, run, and stop whatever happens."""
    service = build(settings)
    try:
        await service.start()
        await service.run()
    finally:
        await asyncio.shield(service.stop())


def serve(build: Callable[[Settings], Service]) -> None:
    """The entry point of a service's process: exits 0 on SIGTERM, 2 with one line on a RaglineError."""
    try:
        settings = Settings.load()
        configure_logging()
        faults.arm(settings.fault)
        asyncio.run(run_until_signal(run_service(build, settings)))
    except ModuleNotFoundError as error:
        raise SystemExit(_last_words(missing_package(error))) from error
    except RaglineError as error:
        raise SystemExit(_last_words(error)) from error


def _last_words(error: RaglineError) -> int:
    """Print the one line for whoever started the process; returns its exit code."""
    sys.stderr.write(f"ragline: {error}\n")
    return 2
