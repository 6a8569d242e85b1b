"""Dead letters on a real broker: listed with their reason, replayed unchanged, discarded, and told apart."""

from __future__ import annotations

import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ragline.contracts.events import DocumentChanged, dead_letter_topic
from ragline.dead_letters import DeadLetters, selected
from ragline.errors import NotFound, PermanentError

pytestmark = pytest.mark.stack

BODY = b'{"tenant": "default", "document_id": "a"}'


async def die(bootstrap: str, origin: str, *, body: bytes = BODY) -> None:
    """Put a message on the dead-letter topic as the bus does."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    headers = {
        "ce_type": DocumentChanged.topic,
        "ce_id": "7",
        "ragline-error-reason": "INVALID_EVENT",
        "ragline-error": "revision: field required",
        "ragline-origin": origin,
        "ragline-service": "ingest",
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
    }
    await producer.send_and_wait(
        dead_letter_topic(DocumentChanged.topic),
        body,
        key=b"default/a",
        headers=[(name, value.encode()) for name, value in headers.items()],
        timestamp_ms=int(time.time() * 1000),
    )
    await producer.stop()


async def replayed_messages(bootstrap: str) -> list[tuple[bytes, bytes, dict[str, bytes]]]:
    """(key, body, headers) of what lies on the original topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    partitions = [
        TopicPartition(DocumentChanged.topic, n) for n in consumer.partitions_for_topic(DocumentChanged.topic)
    ]
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    ends = await consumer.end_offsets(partitions)
    found = []
    while sum(ends.values()) > len(found):
        for records in (await consumer.getmany(timeout_ms=200)).values():
            found.extend((record.key, record.value, dict(record.headers)) for record in records)
    await consumer.stop()
    return found


async def test_a_dead_letter_is_listed_replayed_unchanged_and_not_listed_again(bootstrap: str) -> None:
    letters = DeadLetters(bootstrap, by="test")
    await die(bootstrap, "t/0/1")
    await die(bootstrap, "t/0/2")

    first, second = await letters.read()
    assert (first.id, first.reason, first.service, first.key) == ("t/0/1", "INVALID_EVENT", "ingest", "default/a")
    assert first.error == "revision: field required"
    assert first.trace_id == "ab" * 16
    assert (await letters.get("t/0/2")).id == second.id

    await letters.replay([first])
    ((key, body, headers),) = await replayed_messages(bootstrap)
    assert (key, body) == (b"default/a", BODY)
    assert headers["ce_id"] == b"7"
    assert not any(name.startswith("ragline-") for name in headers)
    assert [letter.id for letter in await letters.read()] == ["t/0/2"]

    await letters.discard([second])
    assert await letters.read() == []
    resolutions = {letter.id: letter.resolution for letter in await letters.read(unresolved_only=False)}
    assert resolutions == {"t/0/1": "replayed", "t/0/2": "discarded"}

    await die(bootstrap, "t/0/1")
    assert [letter.id for letter in await letters.read()] == ["t/0/1"], "what died again is unresolved again"


async def test_letters_are_chosen_by_id_and_an_unknown_id_is_refused(bootstrap: str) -> None:
    letters = DeadLetters(bootstrap, by="test")
    await die(bootstrap, "t/0/1")
    found = await letters.read()
    assert selected(found, ["t/0/1"], everything=False) == found
    assert selected(found, [], everything=True) == found
    with pytest.raises(NotFound):
        selected(found, ["t/0/9"], everything=False)
    with pytest.raises(PermanentError):
        selected(found, [], everything=False)
    with pytest.raises(NotFound):
        await letters.get("t/0/9")
