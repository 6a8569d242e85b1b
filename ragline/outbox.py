"""The outbox: a state change and the event that tells of it leave the database in one transaction.

A service adds rows within its own transaction; the relay publishes them in order and deletes them
once the broker has acknowledged. A crash in between publishes twice, never not at all: consumers
are idempotent. Only one relay of a schema runs at a time, so that a key's events keep their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from psycopg.types.json import Jsonb

from ragline.contracts.cloudevents import Message, encode
from ragline.contracts.events import Event
from ragline.database import Connection, Database
from ragline.errors import TransientError
from ragline.faults import fault_point
from ragline.telemetry import trace_headers

log = structlog.get_logger(__name__)

Publish = Callable[[Sequence[Message]], Awaitable[None]]

TABLE = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text NOT NULL,
    body bytea NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
"""For a service's first migration."""


class Outbox:
    """Adds events to a service's outbox and relays them to the bus."""

    def __init__(self, database: Database, publish: Publish, *, source: str, batch: int = 200) -> None:
        self._database = database
        self._publish = publish
        self._source = source
        self._batch = batch
        self._wake = asyncio.Event()

    async def add(
        self, connection: Connection, events: Iterable[Event], *, traceparent: str | None = None
    ) -> None:
        """Add events within the caller's transaction; call `kick` after it has committed.

        `traceparent` overrides the present span, for events that belong to another trace.
        """
        trace = {"traceparent": traceparent} if traceparent else trace_headers()
        for event in events:
            message = encode(event, source=self._source, trace=trace)
            await connection.execute(
                "INSERT INTO outbox (topic, key, body, headers) VALUES (%s, %s, %s, %s)",
                (message.topic, message.key, message.body, Jsonb(dict(message.headers))),
            )

    def kick(self) -> None:
        """Relay now instead of at the next poll."""
        self._wake.set()

    async def relay_once(self) -> int:
        """Publish one batch in order; returns how many were sent."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", (f"ragline.{self._database.schema}.outbox",)
            )
            cursor = await connection.execute(
                "SELECT id, topic, key, body, headers FROM outbox ORDER BY id LIMIT %s", (self._batch,)
            )
            rows = await cursor.fetchall()
            if not rows:
                return 0
            fault_point("outbox.before_publish")
            await self._publish(
                [Message(row["topic"], row["key"], bytes(row["body"]), row["headers"]) for row in rows]
            )
            fault_point("outbox.after_publish")
            await connection.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row["id"] for row in rows],))
            return len(rows)

    async def run(self, *, poll_s: float = 1.0) -> None:
        """Relay until cancelled; waits for a kick, polls, and backs off while a dependency is down."""
        backoff_s = 0.1
        while True:
            self._wake.clear()
            try:
                while await self.relay_once() == self._batch:
                    pass
                backoff_s = 0.1
            except TransientError as error:
                log.warning("outbox_relay_waits", schema=self._database.schema, error=str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, 5.0)
                continue
            try:
                async with asyncio.timeout(poll_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
