"""The message bus: at-least-once delivery with order per key, bounded retries and dead letters.

One policy for every subscription (design: contracts, "Delivery"):

- a batch is split into lanes, one a (partition, key); lanes run at once, a lane's records in order;
- a record is decoded, validated, handled, retried and dead-lettered on its own;
- a TransientError is retried with back-off, then stalls: the whole batch is read again, nothing is lost;
- a PermanentError goes to `<topic>.dlq` with its reason, origin and trace in the headers;
- offsets are committed only after every effect of the batch is durable, so handlers are idempotent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from opentelemetry.trace import SpanKind, Status, StatusCode

from ragline.contracts.cloudevents import Message, Received, decode
from ragline.contracts.event import Event
from ragline.contracts.events import dead_letter_topic
from ragline.errors import PermanentError, TransientError
from ragline.kafka_records import Record, headers_of, origin_of, raw_records, tolerant_parser
from ragline.telemetry import Telemetry, remote_context, trace_headers

if TYPE_CHECKING:
    from ragline.settings import BusSettings

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Event)
Handler = Callable[[Received[E]], Awaitable[object]]

MAX_MESSAGE_BYTES = 1_000_000
"""Apache Kafka's default limit of a message; larger facts travel in parts or by claim check."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How long a record may be retried, and how many dead letters a minute are believable."""

    retry_for_s: float = 5.0
    first_backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    max_records: int = 100
    dead_letters_per_minute: int = 100
    """Past this the subscription stalls: a bad deployment must not dead-letter a whole topic."""


class Bus:
    """A service's connection to Kafka: publishes messages and runs its subscriptions."""

    def __init__(self, settings: BusSettings, bootstrap: str, *, service: str, telemetry: Telemetry) -> None:
        self.service = service
        self._telemetry = telemetry
        self._session_timeout_ms = int(settings.session_timeout_s * 1000)
        self._stopping = asyncio.Event()
        self._stalled: set[str] = set()
        self.broker = KafkaBroker(
            bootstrap,
            client_id=f"ragline-{service}",
            request_timeout_ms=10_000,
            acks="all",
            enable_idempotence=settings.idempotent_producer,
            max_batch_size=MAX_MESSAGE_BYTES,
            max_request_size=4 * MAX_MESSAGE_BYTES,
            allow_auto_create_topics=False,
            graceful_timeout=6.0,
            apply_types=False,
            logger=None,
        )

    @property
    def stalled(self) -> frozenset[str]:
        """The topics that cannot advance at present: the service is not ready while there are any."""
        return frozenset(self._stalled)

    async def start(self, *, connect_for_s: float = 30.0) -> None:
        """Connect and start consuming; retries until the deadline, then raises TransientError."""
        deadline = time.monotonic() + connect_for_s
        while True:
            try:
                await self.broker.connect()
                await self._start_subscribers()
                self.broker.running = True
                return
            except (KafkaError, OSError) as error:
                if time.monotonic() > deadline:
                    raise TransientError(f"Kafka cannot be reached: {error}") from error
                await asyncio.sleep(0.5)

    async def _start_subscribers(self) -> None:
        """All at once, unlike `broker.start`: joining a group takes the embedded broker seconds."""
        waiting = [subscriber for subscriber in self.broker.subscribers if not subscriber.running]
        outcomes = await asyncio.gather(*(subscriber.start() for subscriber in waiting), return_exceptions=True)
        failures = []
        for subscriber, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                await subscriber.stop()
                failures.append(outcome)
        if failures:
            raise failures[0]

    async def stop(self) -> None:
        """Finish the batches under way (bounded), commit their offsets and disconnect."""
        self._stopping.set()
        await self.broker.stop()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish in order and wait for the acknowledgements; raises TransientError."""
        try:
            pending = [
                await self.broker.publish(
                    message.body,
                    topic=message.topic,
                    key=message.key.encode(),
                    headers=dict(message.headers),
                    no_confirm=True,
                )
                for message in messages
            ]
            for future in pending:
                await future
        except (KafkaError, TimeoutError, OSError) as error:
            raise TransientError(f"publishing to Kafka failed: {error!r}") from error

    def subscribe(
        self,
        kind: type[E],
        handler: Handler[E],
        *,
        policy: DeliveryPolicy = DeliveryPolicy(),
    ) -> None:
        """Handle every event of this kind, at least once, in order per key, shared by the group's replicas."""
        subscription = _Subscription(self, kind, handler, policy)
        self.broker.subscriber(
            kind.topic,
            group_id=self.group(kind),
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=self._session_timeout_ms // 3,
            batch=True,
            max_records=policy.max_records,
            batch_timeout_ms=50,
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=4 * MAX_MESSAGE_BYTES,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
            parser=tolerant_parser,
            decoder=raw_records,
        )(subscription.on_batch)

    def subscribe_all(self, kind: type[E], handler: Handler[E]) -> None:
        """Read the whole topic from its beginning, in every replica, for ever: for compacted state.

        A record that cannot be read is logged and passed over; there is no group and no dead letter.
        """

        async def on_batch(records: Sequence[Record]) -> None:
            for record in records:
                try:
                    received = self.received(kind, record)
                except PermanentError as error:
                    log.error("state_record_unreadable", origin=origin_of(record), error=str(error))
                    continue
                await handler(received)

        self.broker.subscriber(
            kind.topic,
            batch=True,
            max_records=1000,
            batch_timeout_ms=20,
            fetch_max_wait_ms=50,
            auto_offset_reset="earliest",
            parser=tolerant_parser,
            decoder=raw_records,
            ack_policy=AckPolicy.ACK_FIRST,
        )(on_batch)

    def group(self, kind: type[Event]) -> str:
        """The consumer group of a subscription: one a topic, so that one joining does not stall another."""
        return f"ragline.{self.service}.{kind.topic.removeprefix('ragline.')}"

    @staticmethod
    def received(kind: type[E], record: Record) -> Received[E]:
        """A record as the event that it holds; raises PermanentError for anything else."""
        return decode(kind, record.value or b"", headers_of(record), origin=origin_of(record))

    def start_consumer_span(self, kind: type[Event], record: Record) -> Any:
        """A span for one record, in the trace that its producer began."""
        return self._telemetry.tracer.start_as_current_span(
            f"process {kind.topic}",
            context=remote_context(headers_of(record)),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": kind.topic,
                "messaging.consumer.group.name": self.group(kind),
                "messaging.kafka.offset": record.offset,
                "messaging.destination.partition.id": str(record.partition),
            },
            record_exception=False,
            set_status_on_exception=False,
        )

    async def sleep(self, seconds: float) -> bool:
        """Sleep, but not past a stop; returns whether to go on."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False

    def mark_stalled(self, topic: str, *, stalled: bool) -> None:
        """Note whether a subscription can advance."""
        (self._stalled.add if stalled else self._stalled.discard)(topic)


class _Subscription:
    """Drives one handler through batches by the policy."""

    def __init__(self, bus: Bus, kind: type[Any], handler: Handler[Any], policy: DeliveryPolicy) -> None:
        self._bus = bus
        self._kind = kind
        self._handler = handler
        self._policy = policy
        self._dead_letter_times: deque[float] = deque(maxlen=policy.dead_letters_per_minute)
        self._done: set[tuple[int, int]] = set()
        """What is done of a batch that stalls, by partition and offset: it is read again, not done again."""

    async def on_batch(self, records: Sequence[Record]) -> None:
        lanes: dict[tuple[int, bytes | None], list[Record]] = {}
        for record in records:
            lanes.setdefault((record.partition, record.key), []).append(record)
        failures: list[TransientError] = []

        async def run_lane(lane: Iterable[Record]) -> None:
            # A stalled lane must not cancel the others.
            try:
                for record in lane:
                    position = (record.partition, record.offset)
                    if position not in self._done:
                        await self._deliver(record)
                        self._done.add(position)
            except TransientError as error:
                failures.append(error)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_lane(lane)) for lane in lanes.values()]
        if any(task.cancelled() for task in tasks):
            # A handler gave up by itself; a TaskGroup passes over that as if the lane had been handled.
            failures.append(TransientError("a handler was cancelled"))
        self._bus.mark_stalled(self._kind.topic, stalled=bool(failures))
        if failures:
            log.warning("batch_stalls", topic=self._kind.topic, error=str(failures[0]))
            raise failures[0]
        self._done.clear()

    async def _deliver(self, record: Record) -> None:
        with self._bus.start_consumer_span(self._kind, record) as span:
            try:
                await self._handle_with_retries(record)
            except PermanentError as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.set_attribute("error.type", error.reason)
                await self._dead_letter(record, error)
            except TransientError as error:
                span.set_status(Status(StatusCode.ERROR, str(error)))
                span.set_attribute("error.type", error.reason)
                raise

    async def _handle_with_retries(self, record: Record) -> None:
        give_up = time.monotonic() + self._policy.retry_for_s
        backoff_s = self._policy.first_backoff_s
        while True:
            try:
                await self._handler(self._bus.received(self._kind, record))
                return
            except TransientError as error:
                log.info("record_retried", topic=record.topic, origin=origin_of(record), error=str(error))
                if time.monotonic() + backoff_s > give_up or not await self._bus.sleep(backoff_s):
                    raise
                backoff_s = min(backoff_s * 2, self._policy.max_backoff_s)
            except PermanentError:
                raise
            except Exception as error:  # a defect must neither lose the record nor block its topic
                log.exception("handler_defect", topic=record.topic, origin=origin_of(record))
                raise PermanentError(f"{type(error).__name__}: {error}", reason="UNEXPECTED") from error

    async def _dead_letter(self, record: Record, error: PermanentError) -> None:
        now = time.monotonic()
        full = len(self._dead_letter_times) == self._dead_letter_times.maxlen
        if full and now - self._dead_letter_times[0] < 60:
            await self._bus.sleep(self._policy.max_backoff_s)
            raise TransientError(
                f"{record.topic}: more than {self._policy.dead_letters_per_minute} dead letters in a minute; "
                f"pausing (last: {error})"
            )
        self._dead_letter_times.append(now)
        log.error(
            "record_dead_lettered",
            topic=record.topic,
            origin=origin_of(record),
            reason=error.reason,
            error=str(error),
        )
        headers = {
            **headers_of(record),
            **trace_headers(),
            "ragline-error-reason": error.reason,
            "ragline-error": str(error)[:1000],
            "ragline-origin": origin_of(record),
            "ragline-service": self._bus.service,
        }
        key = (record.key or b"").decode(errors="replace")
        await self._bus.publish([Message(dead_letter_topic(record.topic), key, record.value or b"", headers)])
