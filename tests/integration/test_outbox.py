"""The outbox: an event leaves exactly if its change does, in order, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace import TracerProvider

from ragline.contracts.cloudevents import Message, decode
from ragline.contracts.events import DocumentStatus
from ragline.database import Database
from ragline.errors import TransientError
from ragline.outbox import Outbox
from tests.integration.embed_under_test import MIGRATIONS, eventually, running

pytestmark = pytest.mark.stack

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Broker:
    """What was acknowledged, unless it is down; a test may let it be down after having taken the messages."""

    messages: list[Message] = field(default_factory=list)
    down: bool = False
    loses_acknowledgements: bool = False
    tries: int = 0

    async def publish(self, messages: Sequence[Message]) -> None:
        self.tries += 1
        if self.down:
            raise TransientError("Kafka is away")
        self.messages.extend(messages)
        if self.loses_acknowledgements:
            raise TransientError("Kafka went away")

    def revisions(self) -> list[int]:
        return [event(message).revision for message in self.messages]


def event(message: Message) -> DocumentStatus:
    return decode(DocumentStatus, message.body, message.headers, origin="test").event


def status(revision: int) -> DocumentStatus:
    return DocumentStatus(tenant="acme", document_id="manual", status="indexed", revision=revision, document_version=1)


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "embed")
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def outbox(database: Database, broker: Broker) -> Outbox:
    await database.fetch("DELETE FROM outbox")
    return Outbox(database, broker.publish, source="ragline/test", batch=3)


async def add(database: Database, outbox: Outbox, *revisions: int) -> None:
    async with database.transaction() as connection:
        await outbox.add(connection, [status(revision) for revision in revisions])


async def left(database: Database) -> int:
    return len(await database.fetch("SELECT 1 FROM outbox"))


async def test_what_was_added_leaves_in_order_and_once(database: Database, outbox: Outbox, broker: Broker) -> None:
    await add(database, outbox, 1, 2)
    await add(database, outbox, 3, 4)

    assert [await outbox.relay_once() for _ in range(3)] == [3, 1, 0]

    assert broker.revisions() == [1, 2, 3, 4]
    assert await left(database) == 0


async def test_a_change_that_is_rolled_back_tells_nothing(database: Database, outbox: Outbox, broker: Broker) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await outbox.add(connection, [status(1)])
            raise RuntimeError("the change fails")

    with pytest.raises(RuntimeError):
        await fail()

    assert await outbox.relay_once() == 0
    assert broker.messages == []


async def test_what_the_broker_did_not_take_stays(database: Database, outbox: Outbox, broker: Broker) -> None:
    await add(database, outbox, 1)
    broker.down = True

    with pytest.raises(TransientError):
        await outbox.relay_once()

    assert await left(database) == 1


async def test_a_lost_acknowledgement_repeats_the_very_same_event(
    database: Database, outbox: Outbox, broker: Broker
) -> None:
    await add(database, outbox, 1)
    broker.loses_acknowledgements = True
    with pytest.raises(TransientError):
        await outbox.relay_once()
    broker.loses_acknowledgements = False

    await outbox.relay_once()

    first, second = broker.messages
    assert first == second
    assert first.headers["ce_id"] == second.headers["ce_id"]


async def test_two_relays_send_nothing_twice(database: Database, outbox: Outbox, broker: Broker) -> None:
    await add(database, outbox, *range(20))
    other = Outbox(database, broker.publish, source="ragline/test", batch=3)

    await asyncio.gather(*(relay.relay_once() for relay in (outbox, other) for _ in range(5)))

    assert broker.revisions() == list(range(20))


async def test_events_travel_in_the_trace_of_their_change(database: Database, outbox: Outbox, broker: Broker) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("change") as span:
        await add(database, outbox, 1)
    async with database.transaction() as connection:
        await outbox.add(connection, [status(2)], traceparent=TRACE)
    await outbox.relay_once()

    present, given = (message.headers["traceparent"] for message in broker.messages)
    assert present.split("-")[1] == f"{span.get_span_context().trace_id:032x}"
    assert given == TRACE
    assert broker.messages[0].headers["ce_source"] == "ragline/test"


async def test_the_relay_goes_on_when_the_broker_is_back(database: Database, outbox: Outbox, broker: Broker) -> None:
    broker.down = True
    async with running(outbox.run(poll_s=60)):
        await add(database, outbox, 1, 2, 3, 4)
        outbox.kick()
        await eventually(lambda: _tried(broker))
        broker.down = False
        await eventually(lambda: _sent(broker, 4))

        await add(database, outbox, 5)
        outbox.kick()
        await eventually(lambda: _sent(broker, 5))

    assert broker.revisions() == [1, 2, 3, 4, 5]


async def test_the_relay_finds_what_others_added(database: Database, outbox: Outbox, broker: Broker) -> None:
    """Another replica's rows come without a kick."""
    async with running(outbox.run(poll_s=0.02)):
        await add(database, outbox, 1)
        await eventually(lambda: _sent(broker, 1))


async def _tried(broker: Broker) -> bool:
    return broker.tries > 1


async def _sent(broker: Broker, count: int) -> bool:
    return len(broker.messages) == count
