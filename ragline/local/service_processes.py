"""The five services as processes of their own, on the embedded stack: what the crash tests kill."""

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
from ragline.local.stack import LocalStack
from ragline.settings import Settings

log = structlog.get_logger(__name__)

RPC_NAMES: Final = {
    "ingest": "ingest",
    "embed": "indexing",
    "retrieve": "retrieve",
    "generate": "gateway",
    "eval": "eval",
}
"""Each service, and the name of its RPC address in the settings."""
_READY_S: Final = 120.0
_RESTART_AFTER_S: Final = 0.5


async def first_failure(*waits: Awaitable[None]) -> None:
    """Wait until one of them ends, and raise its error; the others are cancelled."""
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
async def service_processes(stack: LocalStack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Each service as a process of its own, started again when it ends; what the crash tests kill."""
    children = {name: service_process(stack, name) for name in RPC_NAMES}
    keepers: list[asyncio.Task[None]] = []
    try:
        for child in children.values():
            await child.start()
        keepers = [asyncio.create_task(_keep_running(child)) for child in children.values()]
        async with asyncio.timeout(_READY_S):
            await asyncio.gather(
                *(until_serving(str(getattr(stack.settings.rpc, RPC_NAMES[name]))) for name in children)
            )

        async def wait() -> None:
            await first_failure(*keepers)

        yield wait
    except TimeoutError as error:
        raise TransientError(f"a service was not ready in {_READY_S:g} s; see {stack.data_dir.logs}") from error
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in children.values()))


def service_process(stack: LocalStack, name: str, *, fault: str | None = None) -> ChildProcess:
    """A service as a process of its own, on the stack's addresses; `fault` is for crash tests alone."""
    return ChildProcess(
        name,
        [sys.executable, "-m", f"services.{name}"],
        stack.data_dir,
        environment={
            **os.environ,
            **service_environment(stack.settings),
            **({"RAGLINE_FAULT": fault} if fault else {}),
        },
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


async def until_serving(address: str) -> None:
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
