"""How a service lives: started in order, ended by what fails, closed whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from ragline.bus import Bus
from ragline.errors import TransientError
from ragline.rpc import RpcServer
from ragline.runtime import Service, run_service
from ragline.settings import Settings
from ragline.telemetry import Telemetry


class Parts:
    """A server, a bus and more that note what happens to them; a test says which step fails."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fails = ""
        self.stalled: frozenset[str] = frozenset()
        self.address = "test"
        self.ready: list[bool] = []

    async def step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fails:
            raise TransientError(f"{name} fails")

    async def set_ready(self, *, ready: bool) -> None:
        self.ready.append(ready)

    def service(self, *background: Any) -> Service:
        server, bus = (self._part(name) for name in ("server", "bus"))
        return Service(
            name="test",
            telemetry=Telemetry("test"),
            server=cast("RpcServer", server),
            bus=cast("Bus", bus),
            prepare=lambda: self.step("prepare"),
            background=background,
            closers=(lambda: self.step("close first"), lambda: self.step("close last")),
        )

    def _part(self, name: str) -> Any:
        parts = self

        class Part:
            address = "test"
            set_ready = staticmethod(parts.set_ready)

            @property
            def stalled(self) -> frozenset[str]:
                return parts.stalled

            async def start(self) -> None:
                await parts.step(f"start {name}")

            async def stop(self) -> None:
                await parts.step(f"stop {name}")

        return Part()


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_service_is_ready_once_everything_has_started() -> None:
    parts = Parts()
    service = parts.service(forever)

    await service.start()

    assert parts.steps == ["start server", "prepare", "start bus"]
    assert parts.ready == [True]
    await service.stop()
    assert parts.steps[3:] == ["stop server", "stop bus", "close last", "close first"]


async def test_background_work_that_fails_ends_the_service_with_its_error() -> None:
    async def fail() -> None:
        raise TransientError("the outbox is broken")

    with pytest.raises(TransientError, match="outbox"):
        await run_service(lambda _: Parts().service(forever, fail), Settings.load())


@pytest.mark.parametrize("step", ["start server", "prepare", "start bus"])
async def test_a_service_that_does_not_start_closes_what_it_opened(step: str) -> None:
    parts = Parts()
    parts.fails = step

    with pytest.raises(TransientError, match=step):
        await run_service(lambda _: parts.service(), Settings.load())

    assert parts.steps[-2:] == ["close last", "close first"]
    assert parts.ready == []


async def test_a_part_that_cannot_be_stopped_does_not_keep_the_rest_open() -> None:
    parts = Parts()
    parts.fails = "stop bus"
    service = parts.service(forever)
    await service.start()

    await service.stop()

    assert parts.steps[-2:] == ["close last", "close first"]


async def test_a_cancelled_service_is_stopped_in_order() -> None:
    parts = Parts()
    running = asyncio.create_task(run_service(lambda _: parts.service(forever), Settings.load()))
    while not parts.ready:
        await asyncio.sleep(0)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert parts.steps[-1] == "close first"


async def test_a_stalled_topic_makes_the_service_unready_until_it_advances() -> None:
    parts = Parts()
    service = parts.service(forever)
    await service.start()
    running = asyncio.create_task(service.run())

    parts.stalled = frozenset({"chunks.ready"})
    async with asyncio.timeout(5):
        while parts.ready[-1]:
            await asyncio.sleep(0.01)
        parts.stalled = frozenset()
        while not parts.ready[-1]:
            await asyncio.sleep(0.01)

    assert parts.ready == [True, False, True]
    running.cancel()
    await service.stop()
