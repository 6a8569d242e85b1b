"""Publish to Ragline from any system that speaks Kafka: plain Python with aiokafka, nothing of Ragline's own.

    pip install aiokafka
    python examples/publish_from_kafka.py --bootstrap 127.0.0.1:9092

Publishes two documents, waits until they are searchable, restricts one, deletes the other by leaving it out of a
snapshot, and prints what Ragline says became of each change. `docs/publishing.md` explains every field.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

CHANGED = "ragline.document.changed.v1"
SNAPSHOT = "ragline.snapshot.completed.v1"
STATUS = "ragline.document.status.v1"
TENANT = "default"
SOURCE = "wiki"


def revision() -> int:
    """A number that only grows; a source with numbers of its own (a row version, an LSN) sends those instead."""
    return time.time_ns() // 1000


async def publish(producer: AIOKafkaProducer, topic: str, key: str, body: Mapping[str, Any]) -> None:
    """Send one event as a CloudEvent in binary mode; the `ce_*` headers may all be left out."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid.uuid4()),
        "ce_source": SOURCE,
        "ce_type": topic,
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
    }
    await producer.send_and_wait(
        topic,
        json.dumps(body).encode(),
        key=key.encode(),  # one document's changes share a key, so that they keep their order
        headers=[(name, value.encode()) for name, value in headers.items()],
    )


async def change(producer: AIOKafkaProducer, document_id: str, op: str, **fields: Any) -> int:
    """Tell of one change of a document; returns its revision."""
    number = revision()
    body = {"tenant": TENANT, "document_id": document_id, "source": SOURCE, "op": op, "revision": number, **fields}
    await publish(producer, CHANGED, f"{TENANT}/{document_id}", body)
    return number


async def outcome(consumer: AIOKafkaConsumer, document_id: str, number: int) -> dict[str, Any]:
    """What became of a revision: indexed, unchanged, superseded or rejected."""
    async for record in consumer:
        status: dict[str, Any] = json.loads(record.value)
        if (status["tenant"], status["document_id"]) == (TENANT, document_id) and status["revision"] >= number:
            print(
                f"{document_id} {status['status']} {status.get('index_version', '')} {status.get('reason', '')}".strip()
            )
            return status
    raise RuntimeError("the consumer was stopped")


async def main(bootstrap: str) -> None:
    """The life of two documents."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    consumer = AIOKafkaConsumer(STATUS, bootstrap_servers=bootstrap, auto_offset_reset="latest")
    await producer.start()
    await consumer.start()
    try:
        await consumer.seek_to_end()  # what is said from now on
        leave, canteen = "wiki/leave", "wiki/canteen"
        first = await change(
            producer,
            leave,
            "upsert",
            title="Leave",
            content="# Leave\n\nEveryone has 30 days of paid leave a year.",
            content_type="text/markdown",
            uri="https://wiki.example/leave",
            metadata={"team": "people"},
        )
        await outcome(consumer, leave, first)
        second = await change(producer, canteen, "upsert", content="The canteen opens at noon.")
        await outcome(consumer, canteen, second)

        restricted = revision()
        await change(producer, leave, "access", acl=["board"], acl_revision=restricted)  # no content is sent again
        await outcome(consumer, leave, first)

        listed = revision()
        snapshot = {"tenant": TENANT, "source": SOURCE, "revision": listed, "prefix": "wiki/", "document_ids": [leave]}
        await publish(producer, SNAPSHOT, f"{TENANT}/{SOURCE}", snapshot)  # `canteen` is not listed: it is retired
        await outcome(consumer, canteen, listed)
    finally:
        await consumer.stop()
        await producer.stop()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Publish two documents to Ragline through Kafka.")
    arguments.add_argument("--bootstrap", default="127.0.0.1:9092", help="Kafka's address, as `ragline up` prints it")
    asyncio.run(asyncio.wait_for(main(arguments.parse_args().bootstrap), 120))
