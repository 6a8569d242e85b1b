"""Topics of their own on a real broker, and handlers that note what they got."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ragline.bus import Bus, DeliveryPolicy
from ragline.contracts.cloudevents import Received, encode
from ragline.contracts.event import Event
from ragline.contracts.events import dead_letter_topic
from ragline.settings import BusSettings
from ragline.telemetry import Telemetry, trace_headers
from tests.integration.embed_under_test import eventually

SETTINGS = BusSettings(session_timeout_s=2)
QUICK = DeliveryPolicy(retry_for_s=0.1, first_backoff_s=0.02, max_backoff_s=0.05)
PARTITIONS = 4

_numbers = itertools.count(1)


class Happened(Event):
    """An event of a topic of its own; `key` is what it is about."""

    topic: ClassVar[str] = ""
    producer: ClassVar[str] = "test"
    consumers: ClassVar[tuple[str, ...]] = ("test",)

    about: str
    number: int = 0

    def key(self) -> str:
        return self.about


@dataclass
class Topic:
    """A new topic with its dead-letter topic, and what a test does with it."""

    kind: type[Happened]
    bootstrap: str
    producer: AIOKafkaProducer

    async def send(self, about: str, number: int = 0, *, partition: int | None = None) -> None:
        """An event as Ragline's own services send it."""
        message = encode(self.kind(about=about, number=number), source="test", trace=trace_headers())
        headers = {name: value.encode() for name, value in message.headers.items()}
        await self.send_raw(message.body, key=message.key.encode(), partition=partition, headers=headers)

    async def send_raw(
        self,
        body: bytes | None,
        *,
        key: bytes | None = b"raw",
        partition: int | None = None,
        headers: dict[str, bytes] | None = None,
    ) -> None:
        await self.producer.send_and_wait(
            self.kind.topic, body, key=key, partition=partition, headers=list((headers or {}).items())
        )

    async def dead_letters(self, count: int) -> list[dict[str, str]]:
        """The headers of the dead letters, oldest first, once there are at least `count`; body and key too."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partition = TopicPartition(dead_letter_topic(self.kind.topic), 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            letters: list[dict[str, str]] = []
            async with asyncio.timeout(10):
                while len(letters) < count or await self._more(consumer, partition):
                    for record in (await consumer.getmany(partition, timeout_ms=200)).get(partition, []):
                        headers = {name: value.decode() for name, value in record.headers}
                        body, key = (record.value or b"").decode(errors="replace"), (record.key or b"").decode()
                        letters.append({**headers, "body": body, "key": key})
            return letters
        finally:
            await consumer.stop()

    async def _more(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> bool:
        end = (await consumer.end_offsets([partition]))[partition]
        return bool(await consumer.position(partition) < end)

    @asynccontextmanager
    async def consumed_by(
        self, handler: Callable[[Happened], Awaitable[object]], policy: DeliveryPolicy = QUICK
    ) -> AsyncIterator[Bus]:
        """A started bus whose handler gets the events."""

        async def handle(received: Received[Happened]) -> None:
            await handler(received.event)

        bus = new_bus(self.bootstrap)
        bus.subscribe(self.kind, handle, policy=policy)
        await bus.start()
        try:
            yield bus
        finally:
            await bus.stop()


def new_bus(bootstrap: str) -> Bus:
    return Bus(SETTINGS, bootstrap, service="test", telemetry=Telemetry("test"))


class Seen:
    """A handler that notes what it handled; `before` may delay it or raise."""

    def __init__(self, before: Callable[[Happened], Awaitable[object]] | None = None) -> None:
        self._before = before
        self.handled: list[tuple[str, int]] = []
        self.tries: list[tuple[str, int]] = []
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, event: Happened) -> None:
        self.tries.append((event.about, event.number))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self._before is not None:
                await self._before(event)
        finally:
            self.at_once -= 1
        self.handled.append((event.about, event.number))

    def of(self, about: str) -> list[int]:
        return [number for name, number in self.handled if name == about]

    async def until(self, *expected: tuple[str, int]) -> None:
        async def all_handled() -> bool:
            return set(expected) <= set(self.handled)

        await eventually(all_handled)
