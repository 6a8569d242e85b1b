"""All five services in one process or as five, on the embedded stack: what `ragline up` runs.

The only module that may import all services. Both ways use the same `build` functions; what differs
is who runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ragline.local.service_processes import RPC_NAMES, first_failure, service_processes
from ragline.local.stack import LocalStack, local_stack
from ragline.runtime import Service, configure_logging, start_together
from ragline.settings import Settings
from services.embed.app import build as build_embed
from services.eval.app import build as build_eval
from services.generate.app import build as build_generate
from services.ingest.app import build as build_ingest
from services.retrieve.app import build as build_retrieve

BUILDERS: Final[dict[str, Callable[[Settings], Service]]] = {
    "ingest": build_ingest,
    "embed": build_embed,
    "retrieve": build_retrieve,
    "generate": build_generate,
    "eval": build_eval,
}


@dataclass(frozen=True, slots=True)
class Running:
    """The whole stack, ready; `wait` returns never and raises when a part of it ends by itself."""

    stack: LocalStack
    wait: Callable[[], Awaitable[None]]


@asynccontextmanager
async def running(settings: Settings, *, processes: bool = False, durable: bool = True) -> AsyncIterator[Running]:
    """Run the embedded stack and the five services; everything answers when it yields.

    `processes` makes each service a process of its own, started again when it ends. Other commands find
    the stack by the data directory meanwhile. Raises as `local_stack` and as the services' starts do.
    """
    async with local_stack(settings, durable=durable) as stack:
        services = service_processes(stack) if processes else _one_process(stack)
        async with services as services_end:
            stack.data_dir.write_stack(_addresses(stack.settings))
            try:
                yield Running(stack, lambda: first_failure(stack.wait(), services_end()))
            finally:
                stack.data_dir.stack.unlink(missing_ok=True)


def _addresses(settings: Settings) -> dict[str, str]:
    return {**settings.rpc.model_dump(include=set(RPC_NAMES.values())), "bus": settings.bootstrap}


@asynccontextmanager
async def _one_process(stack: LocalStack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The five services in this event loop. Their logs go to the data directory."""
    handle = (stack.data_dir.logs / "services.log").open("a")
    configure_logging(file=handle)
    services: list[Service] = []
    try:
        services = [build(stack.settings) for build in BUILDERS.values()]
        await start_together(*(service.start() for service in services))

        async def wait() -> None:
            await first_failure(*(service.run() for service in services))

        yield wait
    finally:
        await asyncio.gather(*(service.stop() for service in services), return_exceptions=True)
        configure_logging()
        handle.close()
