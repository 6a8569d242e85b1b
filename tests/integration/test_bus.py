"""Delivery on a real broker: in order, at least once, and one bad record harms no other."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.trace import format_trace_id

from ragline.bus import DeliveryPolicy
from ragline.contracts.cloudevents import Received, encode
from ragline.contracts.events import dead_letter_topic
from ragline.errors import PermanentError, TransientError
from ragline.local.broker import LocalBroker, TopicSpec, create_topics
from ragline.local.data_dir import DataDir
from ragline.telemetry import Telemetry
from tests.integration.bus_under_test import PARTITIONS, Happened, Seen, Topic, new_bus
from tests.integration.embed_under_test import eventually

pytestmark = pytest.mark.stack


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="ragline-", dir="/tmp"))
    async with LocalBroker(DataDir(folder)) as broker:
        yield broker.bootstrap
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def producer(broker: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
async def topic(broker: str, producer: AIOKafkaProducer) -> Topic:
    name = f"test.happened.{next(_numbers)}"
    await create_topics(broker, {name: TopicSpec(PARTITIONS), dead_letter_topic(name): TopicSpec(1)})
    kind = type("Happened", (Happened,), {"topic": name, "__annotations__": {}})
    return Topic(kind, broker, producer)


async def send_all(topic: Topic, names: Sequence[str], numbers: Sequence[int]) -> None:
    for number in numbers:
        for name in names:
            await topic.send(name, number)


# --- the ordinary course --------------------------------------------------------------------------


async def test_events_of_a_key_keep_their_order_and_other_keys_do_not_wait(topic: Topic) -> None:
    async def dawdle(event: Happened) -> None:
        await asyncio.sleep(0.002 * (event.number % 3))

    seen, names, numbers = Seen(dawdle), "abcdefgh", range(15)
    await send_all(topic, names, numbers)
    async with topic.consumed_by(seen):
        await seen.until(*((name, number) for name in names for number in numbers))

    assert all(seen.of(name) == list(numbers) for name in names)
    assert seen.most_at_once > 1
    assert len(seen.tries) == len(names) * len(numbers), "nothing was delivered twice"


async def test_a_passing_trouble_is_retried_until_it_passes_and_keeps_the_order(topic: Topic) -> None:
    troubles = iter([TransientError("busy"), TransientError("busy")])

    async def fail_twice(event: Happened) -> None:
        if event.number == 1 and (trouble := next(troubles, None)):
            raise trouble

    seen = Seen(fail_twice)
    await send_all(topic, "a", range(3))
    async with topic.consumed_by(seen, DeliveryPolicy(retry_for_s=5, first_backoff_s=0.01)) as bus:
        await seen.until(("a", 2))

    assert seen.of("a") == [0, 1, 2]
    assert seen.tries.count(("a", 1)) == 3
    assert not bus.stalled


# --- what can never be handled --------------------------------------------------------------------


async def test_what_can_never_be_handled_is_dead_lettered_and_the_next_goes_on(topic: Topic) -> None:
    async def refuse(event: Happened) -> None:
        if event.number == 1:
            raise PermanentError("the content cannot be read", reason="UNREADABLE")
        if event.number == 2:
            raise KeyError("a defect")

    seen, telemetry = Seen(refuse), Telemetry("upstream")
    with telemetry.tracer.start_as_current_span("change") as span:
        await send_all(topic, "a", range(4))
    async with topic.consumed_by(seen):
        await seen.until(("a", 3))

    unreadable, defect = await topic.dead_letters(2)
    assert seen.of("a") == [0, 3]
    assert unreadable["ragline-error-reason"] == "UNREADABLE"
    assert unreadable["ragline-error"] == "the content cannot be read"
    assert unreadable["ragline-service"] == "test"
    place, partition, offset = unreadable["ragline-origin"].split("/")
    assert (place, int(partition) < PARTITIONS, int(offset)) == (topic.kind.topic, True, 1)
    assert unreadable["traceparent"].split("-")[1] == format_trace_id(span.get_span_context().trace_id)
    assert (unreadable["key"], unreadable["ce_type"]) == ("a", topic.kind.topic)
    assert topic.kind.model_validate_json(unreadable["body"]).number == 1
    assert defect["ragline-error-reason"] == "UNEXPECTED"
    assert seen.tries.count(("a", 2)) == 1, "a defect is not retried"


async def test_bad_records_do_not_harm_their_batch(topic: Topic) -> None:
    seen = Seen()
    await topic.send("a", 1, partition=0)
    await topic.send_raw(b"{not json", partition=0)
    await topic.send_raw(b"\xff\xfe", partition=0)
    await topic.send_raw(None, partition=0)
    await topic.send_raw(b'{"number": 1}', key=None, partition=0)
    await topic.send_raw(b'{"about": "b"}', partition=0, headers={"ce_type": b"another.topic"})
    await topic.send_raw(b'{"about": "b"}', key=b"\xff", partition=0, headers={"traceparent": b"\xff\xfe"})
    await topic.send("a", 2, partition=0)

    async with topic.consumed_by(seen):
        await seen.until(("a", 1), ("a", 2))
        letters = await topic.dead_letters(5)

    assert ("b", 0) in seen.handled, "a header that nobody can read is no reason to refuse an event"
    assert [letter["ragline-origin"].rsplit("/")[-1] for letter in sorted(letters, key=_origin)] == list("12345")
    reasons = {letter["ragline-error-reason"] for letter in letters}
    assert reasons == {"INVALID_EVENT", "WRONG_TYPE"}
    assert "about" in sorted(letters, key=_origin)[3]["ragline-error"], "the field at fault is named"


def _origin(letter: dict[str, str]) -> str:
    return letter["ragline-origin"]


async def test_too_many_dead_letters_pause_the_subscription_and_lose_nothing(topic: Topic) -> None:
    async def refuse(event: Happened) -> None:
        raise PermanentError("a bad deployment")

    names = "abcdef"
    await send_all(topic, names, [0])
    cautious = DeliveryPolicy(max_backoff_s=0.02, dead_letters_per_minute=4)
    async with topic.consumed_by(Seen(refuse), cautious) as bus:

        async def stalled() -> bool:
            return topic.kind.topic in bus.stalled

        await eventually(stalled)
        assert len(await topic.dead_letters(4)) == 4

    mended = Seen()
    async with topic.consumed_by(mended) as bus:
        await mended.until(*((name, 0) for name in names))
        assert not bus.stalled


# --- what cannot be handled now -------------------------------------------------------------------


async def test_a_stalled_key_stops_no_other_and_nothing_is_lost_or_done_twice(topic: Topic) -> None:
    away = asyncio.Event()

    async def wait_for_a(event: Happened) -> None:
        if event.about == "bad":
            raise PermanentError("never")
        if event.about == "a" and not away.is_set():
            raise TransientError("its dependency is away")

    seen = Seen(wait_for_a)
    await topic.send("a", 1, partition=0)
    await topic.send("a", 2, partition=0)
    await topic.send("same-partition", 1, partition=0)
    await topic.send("other-partition", 1, partition=1)
    await topic.send("bad", 1, partition=1)
    async with topic.consumed_by(seen) as bus:
        await seen.until(("same-partition", 1), ("other-partition", 1))

        async def stalled_for_a_while() -> bool:
            return topic.kind.topic in bus.stalled and seen.tries.count(("a", 1)) > 10

        await eventually(stalled_for_a_while)
        assert seen.of("a") == []

        away.set()
        await seen.until(("a", 1), ("a", 2))
        await topic.send("a", 3, partition=0)
        await seen.until(("a", 3))
        assert not bus.stalled

    assert seen.of("a") == [1, 2, 3]
    assert seen.tries.count(("other-partition", 1)) == 1
    assert len(await topic.dead_letters(1)) == 1, "a batch that is read again does not fill the dead letters"


async def test_a_handler_that_gives_up_by_itself_has_not_handled_the_event(topic: Topic) -> None:
    """An asyncio.TaskGroup passes over a cancelled child: the offset must not be committed for it."""
    gave_up = iter([True])

    async def give_up_once(event: Happened) -> None:
        if next(gave_up, False):
            raise asyncio.CancelledError

    seen = Seen(give_up_once)
    await topic.send("a", 1)
    async with topic.consumed_by(seen):
        await seen.until(("a", 1))

    assert seen.tries == [("a", 1), ("a", 1)]


async def test_an_event_that_was_not_finished_is_delivered_again(topic: Topic) -> None:
    """Offsets are committed after the handlers: a consumer that ends in the middle has taken nothing away."""
    begun = asyncio.Event()

    async def hang(event: Happened) -> None:
        if event.number == 2:
            begun.set()
            await asyncio.Event().wait()

    first, second = Seen(hang), Seen()
    await topic.send("a", 1)
    await topic.send("a", 2)
    async with topic.consumed_by(first) as bus:
        await asyncio.wait_for(begun.wait(), 10)
        bus.broker.config.broker_config.graceful_timeout = 0.1
    async with topic.consumed_by(second):
        await second.until(("a", 2))

    assert first.of("a") == [1]


async def test_a_stop_finishes_the_batch_and_a_successor_goes_on_behind_it(topic: Topic) -> None:
    begun = asyncio.Event()

    async def take_a_moment(event: Happened) -> None:
        begun.set()
        await asyncio.sleep(0.2)

    first, second = Seen(take_a_moment), Seen()
    await topic.send("a", 1)
    async with topic.consumed_by(first):
        await asyncio.wait_for(begun.wait(), 10)
    await topic.send("a", 2)
    async with topic.consumed_by(second):
        await second.until(("a", 2))

    assert (first.of("a"), second.of("a")) == ([1], [2])


# --- state, and the broker itself -----------------------------------------------------------------


async def test_state_is_read_whole_by_every_replica_and_bad_records_are_passed_over(topic: Topic) -> None:
    await topic.send("a", 1)
    await topic.send_raw(b"{not json")
    await topic.send("a", 2)
    replicas = [(new_bus(topic.bootstrap), Seen()) for _ in range(2)]
    for bus, seen in replicas:

        async def handle(received: Received[Any], seen: Seen = seen) -> None:
            await seen(received.event)

        bus.subscribe_all(topic.kind, handle)
        await bus.start()
    await topic.send("a", 3)

    for bus, seen in replicas:
        await seen.until(("a", 1), ("a", 2), ("a", 3))
        await bus.stop()


async def test_published_messages_arrive_with_their_headers(topic: Topic) -> None:
    seen = Seen()
    async with topic.consumed_by(seen) as bus:
        events = [topic.kind(about="a", number=number) for number in range(50)]
        await bus.publish([encode(event, source="test", trace={}) for event in events])
        await seen.until(("a", 49))

    assert seen.of("a") == list(range(50))


async def test_a_broker_that_does_not_answer_is_named_as_such() -> None:
    bus = new_bus("127.0.0.1:9")

    with pytest.raises(TransientError, match="Kafka cannot be reached"):
        await bus.start(connect_for_s=0)
    await bus.stop()
