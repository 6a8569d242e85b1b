"""The outbox: a state change and the event that tells of it leave the database in one transaction.

A service adds rows within its own transaction; the relay publishes them in order and deletes them
once the broker has acknowledged. A crash in between publishes twice, never not at all: consumers
are idempotent. Only one relay of a schema runs at a time, so that a key's events keep their order.

Rows may belong to lanes, which a service may hold back (back-pressure), and within a lane to shares,
which take turns: a tenant that publishes a hundred thousand documents does not delay the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import structlog
from psycopg.types.json import Jsonb

from ragline.contracts.cloudevents import Message, encode
from ragline.contracts.event import Event
from ragline.database import Connection, Database
from ragline.errors import TransientError
from ragline.faults import fault_point
from ragline.telemetry import trace_headers

log = structlog.get_logger(__name__)

Publish = Callable[[Sequence[Message]], Awaitable[None]]


class LaneControl(Protocol):
    """Lets a service hold its lanes back, and learn what left."""

    async def room(self, connection: Connection) -> Mapping[int, int]:
        """How many messages each lane may send now; lanes that are not named may send any number."""

    async def sent(self, connection: Connection, lane: int, keys: Sequence[str]) -> None:
        """Note the keys of messages that were acknowledged, in the transaction that forgets them."""


TABLE = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text NOT NULL,
    body bytea NOT NULL,
    headers jsonb NOT NULL,
    lane smallint NOT NULL DEFAULT 0,
    share text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_turns ON outbox (lane, share, id)
"""
"""For a service's first migration."""

_NEXT_ROWS = """
WITH RECURSIVE shares AS (
    (SELECT share FROM outbox WHERE lane = %(lane)s ORDER BY share LIMIT 1)
    UNION ALL
    SELECT (SELECT share FROM outbox WHERE lane = %(lane)s AND share > shares.share ORDER BY share LIMIT 1)
    FROM shares WHERE shares.share IS NOT NULL
)
SELECT turns.* FROM shares CROSS JOIN LATERAL (
    SELECT id, topic, key, body, headers, row_number() OVER (ORDER BY id) AS turn
    FROM outbox WHERE lane = %(lane)s AND outbox.share = shares.share ORDER BY id LIMIT %(limit)s
) turns
ORDER BY turns.turn, turns.id LIMIT %(limit)s
"""
"""The next rows of a lane, its shares taking turns: a loose index scan, however long the lane is."""


class Outbox:
    """Adds events to a service's outbox and relays them to the bus."""

    def __init__(
        self,
        database: Database,
        publish: Publish,
        *,
        source: str,
        batch: int = 200,
        lanes: Sequence[int] = (0,),
        control: LaneControl | None = None,
    ) -> None:
        self._database = database
        self._publish = publish
        self._source = source
        self._batch = batch
        self._lanes = lanes
        self._control = control
        self._wake = asyncio.Event()

    async def add(
        self,
        connection: Connection,
        events: Iterable[Event],
        *,
        traceparent: str | None = None,
        lane: int = 0,
        share: str = "",
    ) -> None:
        """Add events within the caller's transaction; call `kick` after it has committed.

        `traceparent` overrides the present span, for events that belong to another trace. Within a lane
        and share the order is kept; lanes are independent of each other.
        """
        trace = {"traceparent": traceparent} if traceparent else trace_headers()
        for event in events:
            message = encode(event, source=self._source, trace=trace)
            await connection.execute(
                "INSERT INTO outbox (topic, key, body, headers, lane, share) VALUES (%s, %s, %s, %s, %s, %s)",
                (message.topic, message.key, message.body, Jsonb(dict(message.headers)), lane, share),
            )

    def kick(self) -> None:
        """Relay now instead of at the next poll."""
        self._wake.set()

    async def relay_once(self) -> int:
        """Publish one batch of each lane in order; returns how many messages were sent."""
        sent = 0
        async with self._database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", (f"ragline.{self._database.schema}.outbox",)
            )
            room = await self._control.room(connection) if self._control else {}
            for lane in self._lanes:
                limit = min(self._batch, room.get(lane, self._batch))
                if limit > 0:
                    sent += await self._relay_lane(connection, lane, limit)
        return sent

    async def _relay_lane(self, connection: Connection, lane: int, limit: int) -> int:
        cursor = await connection.execute(_NEXT_ROWS, {"lane": lane, "limit": limit})
        rows = await cursor.fetchall()
        if not rows:
            return 0
        fault_point("outbox.before_publish")
        await self._publish([Message(row["topic"], row["key"], bytes(row["body"]), row["headers"]) for row in rows])
        fault_point("outbox.after_publish")
        await connection.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row["id"] for row in rows],))
        if self._control is not None:
            await self._control.sent(connection, lane, [row["key"] for row in rows])
        return len(rows)

    async def run(self, *, poll_s: float = 1.0) -> None:
        """Relay until cancelled; waits for a kick, polls, and backs off while a dependency is down."""
        backoff_s = 0.1
        while True:
            self._wake.clear()
            try:
                while await self.relay_once():
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
