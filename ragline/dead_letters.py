"""Dead letters: what no service could handle, read from the `.dlq` topics, replayed or discarded.

A Kafka log keeps no state per record, so what was done about a dead letter is itself an event on a
compacted topic, keyed by the letter's id. Replaying publishes the original message to its original
topic: handlers are idempotent, so doing it twice is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from ragline.contracts.cloudevents import encode
from ragline.contracts.events import EVENTS, DeadLetterResolved, dead_letter_topic
from ragline.errors import NotFound, PermanentError, TransientError
from ragline.telemetry import trace_headers

_OWN_HEADERS: Final = ("ragline-error-reason", "ragline-error", "ragline-origin", "ragline-service")
_READ_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that a service gave up, and what was done about it."""

    id: str
    """`topic/partition/offset` of where it came from."""
    topic: str
    key: str
    body: bytes
    headers: Mapping[str, str]
    reason: str
    error: str
    service: str
    died_at: datetime
    resolution: Literal["replayed", "discarded"] | None = None

    @property
    def trace_id(self) -> str:
        """The trace in which it was given up."""
        return self.headers.get("traceparent", "--").split("-")[1]


class DeadLetters:
    """The dead letters of every topic."""

    def __init__(self, bootstrap: str, *, by: str) -> None:
        self._bootstrap = bootstrap
        self._by = by

    async def read(self, *, unresolved_only: bool = True) -> list[DeadLetter]:
        """All dead letters that Kafka still holds, oldest first; raises TransientError."""
        resolved = {}
        async for record in self._records([DeadLetterResolved.topic]):
            event = DeadLetterResolved.model_validate_json(record.value)
            resolved[event.dead_letter_id] = (event.resolution, event.resolved_at)
        letters = {}
        async for record in self._records([dead_letter_topic(event.topic) for event in EVENTS]):
            letter = _letter(record)
            resolution, resolved_at = resolved.get(letter.id, (None, None))
            # A replayed message that died again is a new death of the same letter.
            if resolved_at is not None and letter.died_at > resolved_at:
                resolution = None
            letters[letter.id] = replace(letter, resolution=resolution)
        found = sorted(letters.values(), key=lambda letter: letter.died_at)
        return [letter for letter in found if not (unresolved_only and letter.resolution)]

    async def get(self, letter_id: str) -> DeadLetter:
        """One dead letter; raises NotFound."""
        for letter in await self.read(unresolved_only=False):
            if letter.id == letter_id:
                return letter
        raise NotFound(f"there is no dead letter {letter_id!r}; `ragline dlq list` shows them")

    async def replay(self, letters: Iterable[DeadLetter]) -> None:
        """Publish the original messages again, then note that they were replayed."""
        async with self._producer() as producer:
            for letter in letters:
                headers = [(n, v.encode()) for n, v in letter.headers.items() if n not in _OWN_HEADERS]
                await producer.send_and_wait(letter.topic, letter.body, key=letter.key.encode(), headers=headers)
                await self._note(producer, letter, "replayed")

    async def discard(self, letters: Iterable[DeadLetter]) -> None:
        """Note that nothing more will be done about them."""
        async with self._producer() as producer:
            for letter in letters:
                await self._note(producer, letter, "discarded")

    async def _note(
        self, producer: AIOKafkaProducer, letter: DeadLetter, resolution: Literal["replayed", "discarded"]
    ) -> None:
        event = DeadLetterResolved(
            dead_letter_id=letter.id, resolution=resolution, resolved_by=self._by, resolved_at=datetime.now(UTC)
        )
        message = encode(event, source=self._by, trace=trace_headers())
        headers = [(name, value.encode()) for name, value in message.headers.items()]
        await producer.send_and_wait(message.topic, message.body, key=message.key.encode(), headers=headers)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", request_timeout_ms=10_000)
        try:
            await producer.start()
            yield producer
        except (KafkaError, OSError) as error:
            raise TransientError(f"Kafka at {self._bootstrap} cannot be reached: {error!r}") from error
        finally:
            await producer.stop()

    async def _records(self, topics: list[str]) -> AsyncIterator[Any]:
        """Every record of the topics up to their present ends; topics that do not exist are passed over."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, request_timeout_ms=10_000)
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                await consumer.start()
                known = await consumer.topics()
                partitions = [
                    TopicPartition(topic, number)
                    for topic in topics
                    if topic in known
                    for number in consumer.partitions_for_topic(topic) or ()
                ]
                if not partitions:
                    return
                consumer.assign(partitions)
                await consumer.seek_to_beginning(*partitions)
                ends = await consumer.end_offsets(partitions)
                for partition in partitions:
                    while await consumer.position(partition) < ends[partition]:
                        batches = await consumer.getmany(partition, timeout_ms=500)
                        for record in batches.get(partition, ()):
                            yield record
        except (KafkaError, OSError, TimeoutError) as error:
            raise TransientError(f"Kafka at {self._bootstrap} cannot be read: {error!r}") from error
        finally:
            await consumer.stop()


def _letter(record: Any) -> DeadLetter:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    origin = headers.get("ragline-origin", f"{record.topic}/{record.partition}/{record.offset}")
    return DeadLetter(
        id=origin,
        topic=record.topic.removesuffix(".dlq"),
        key=(record.key or b"").decode(errors="replace"),
        body=record.value or b"",
        headers=headers,
        reason=headers.get("ragline-error-reason", "UNKNOWN"),
        error=headers.get("ragline-error", ""),
        service=headers.get("ragline-service", ""),
        died_at=datetime.fromtimestamp(record.timestamp / 1000, UTC),
    )


def selected(letters: list[DeadLetter], ids: list[str], *, everything: bool) -> list[DeadLetter]:
    """The letters that a person named; raises NotFound for an unknown id and PermanentError for none."""
    if everything:
        return letters
    if not ids:
        raise PermanentError("name dead letters by their id, or give --all", reason="INVALID_ARGUMENT")
    by_id = {letter.id: letter for letter in letters}
    missing = [letter_id for letter_id in ids if letter_id not in by_id]
    if missing:
        raise NotFound(f"there is no unresolved dead letter {missing[0]!r}; `ragline dlq list` shows them")
    return [by_id[letter_id] for letter_id in ids]
