"""All five services in one process or as five, on the embedded stack: what `ragline up` runs.

The only module that may import all services. Both ways use the same `build` functions; what differs
is who runs them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragline.errors import TransientError
from ragline.local.processes import ChildProcess
from ragline.local.stack import LocalStack, local_stack
from ragline.runtime import Service, configure_logging, start_together
from ragline.settings import Settings
from services.embed.app import build as build_embed
from services.eval.app import build as build_eval
from services.generate.app import build as build_generate
from services.ingest.app import build as build_ingest
from services.retrieve.app import build as build_retrieve

log = structlog.get_logger(__name__)

BUILDERS: Final[dict[str, Callable[[Settings], Service]]] = {
    "ingest": build_ingest,
    "embed": build_embed,
    "retrieve": build_retrieve,
    "generate": build_generate,
    "eval": build_eval,
}
RPC_NAMES: Final = {"ingest": "ingest", "embed": "indexing", "retrieve": "retrieve", "generate": "gateway", "eval": "eval"}
_READY_S: Final = 120.0
_RESTART_AFTER_S: Final = 0.5

OnReady = Callable[[LocalStack], Awaitable[None]]


async def run(settings: Settings, *, processes: bool, on_ready: OnReady, durable: bool = True) -> None:
    """Run the whole stack until cancelled; raises when a part of it ends by itself.

    `on_ready` is awaited once everything answers.
    """
    async with local_stack(settings, durable=durable) as stack:
        running = _processes(stack) if processes else _one_process(stack)
        async with running as wait:
            stack.data_dir.write_stack(_addresses(stack.settings))
            try:
                await on_ready(stack)
                await _first_failure(stack.wait(), wait())
            finally:
                stack.data_dir.stack.unlink(missing_ok=True)


def _addresses(settings: Settings) -> dict[str, str]:
    return {**settings.rpc.model_dump(include=set(RPC_NAMES.values())), "bus": settings.bootstrap}


async def _first_failure(*waits: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _one_process(stack: LocalStack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The five services in this event loop. Their logs go to the data directory."""
    handle = (stack.data_dir.logs / "services.log").open("a")
    configure_logging(file=handle)
    services: list[Service] = []
    try:
        services = [await asyncio.to_thread(build, stack.settings) for build in BUILDERS.values()]
        await start_together(*(service.start() for service in services))

        async def wait() -> None:
            await _first_failure(*(service.run() for service in services))

        yield wait
    finally:
        await asyncio.gather(*(service.stop() for service in services), return_exceptions=True)
        configure_logging()
        handle.close()


@asynccontextmanager
async def _processes(stack: LocalStack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Each service as a process of its own, started again when it ends; what the crash tests kill."""
    children = {name: _service_process(stack, name) for name in BUILDERS}
    keepers: list[asyncio.Task[None]] = []
    try:
        for child in children.values():
            await child.start()
        keepers = [asyncio.create_task(_keep_running(child)) for child in children.values()]
        async with asyncio.timeout(_READY_S):
            await asyncio.gather(
                *(_until_serving(str(getattr(stack.settings.rpc, RPC_NAMES[name]))) for name in children)
            )

        async def wait() -> None:
            await _first_failure(*keepers)

        yield wait
    except TimeoutError as error:
        raise TransientError(f"a service was not ready in {_READY_S:g} s; see {stack.data_dir.logs}") from error
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in children.values()))


def _service_process(stack: LocalStack, name: str) -> ChildProcess:
    return ChildProcess(
        name,
        [sys.executable, "-m", f"services.{name}"],
        stack.data_dir,
        environment={**os.environ, **service_environment(stack.settings)},
        stop_s=9.0,
        folder=Path.cwd(),
    )


def service_environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for a service's own process."""
    variables = {"RAGLINE_DATA_DIR": str(settings.data_dir)}
    secrets = {
        "RAGLINE_DATABASE__URL": settings.database_url,
        "RAGLINE_AUTH__SERVICE_TOKEN": settings.service_token,
    }
    plain = {
        "RAGLINE_BUS__BOOTSTRAP": settings.bootstrap,
        "RAGLINE_BUS__SESSION_TIMEOUT_S": str(settings.bus.session_timeout_s),
        "RAGLINE_ENGINE__URL": settings.engine_url,
        "RAGLINE_MODELS__EMBEDDER": settings.models.embedder,
        **{f"RAGLINE_RPC__{name.upper()}": str(getattr(settings.rpc, name)) for name in RPC_NAMES.values()},
    }
    return variables | plain | secrets


async def _keep_running(child: ChildProcess) -> None:
    while True:
        code = await child.wait()
        log.warning("service_ended", service=child.name, exit_code=code, said=child.last_log_line())
        await asyncio.sleep(_RESTART_AFTER_S)
        await child.start()


async def _until_serving(address: str) -> None:
    """Wait until a service's health check answers SERVING."""
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.1)
