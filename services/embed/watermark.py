"""The watermark: up to where readers see, and what is announced when it moves.

Everything here runs within a transaction of the ledger that holds the generation's row, so that
announcements leave in the order of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ragline.contracts.events import CommittedDocument, GenerationState, IndexCommitted, IndexState
from ragline.database import Connection
from ragline.index.fingerprint import Fingerprint
from ragline.outbox import Outbox


class Watermark:
    """Moves the watermark of a generation and announces what it passes."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def advance(self, connection: Connection, generation: str) -> None:
        """The watermark is the greatest sequence with nothing pending or aborting at or below it.

        The caller holds the generation's row. What it passes gets its cumulative fingerprint and its
        `index.committed`, in order, and the state is announced once.
        """
        cursor = await connection.execute(
            """
            SELECT c.sequence, c.delta, c.traceparent FROM index_commit c JOIN generation g USING (generation)
            WHERE c.generation = %s AND c.sequence > g.watermark AND c.state = 'complete'
              AND c.sequence < coalesce((SELECT min(u.sequence) FROM index_commit u
                WHERE u.generation = g.generation AND u.state IN ('pending', 'aborting')), 9223372036854775807)
            ORDER BY c.sequence
            """,
            (generation,),
        )
        passed = await cursor.fetchall()
        if passed:
            cursor = await connection.execute("SELECT fingerprint FROM generation WHERE generation = %s", (generation,))
            row = await cursor.fetchone()
            fingerprint = Fingerprint.parse(row["fingerprint"]) if row else Fingerprint()
            for commit in passed:
                fingerprint = fingerprint.plus(Fingerprint.parse(commit["delta"]))
                await self._announce_commit(connection, generation, commit, fingerprint)
            await connection.execute(
                "UPDATE generation SET watermark = %s, fingerprint = %s WHERE generation = %s",
                (passed[-1]["sequence"], str(fingerprint), generation),
            )
        await self.announce_state(connection)

    async def _announce_commit(
        self, connection: Connection, generation: str, commit: dict[str, Any], fingerprint: Fingerprint
    ) -> None:
        cursor = await connection.execute(
            "UPDATE index_commit SET fingerprint = %s WHERE generation = %s AND sequence = %s RETURNING completed_at",
            (str(fingerprint), generation, commit["sequence"]),
        )
        row = await cursor.fetchone()
        cursor = await connection.execute(
            "SELECT tenant, document_id, op, document_version, revision, opened, closed, traceparent "
            "FROM document_version WHERE generation = %s AND sequence = %s ORDER BY tenant, document_id",
            (generation, commit["sequence"]),
        )
        event = IndexCommitted(
            generation=generation,
            sequence=commit["sequence"],
            fingerprint=str(fingerprint),
            documents=tuple(CommittedDocument(**document) for document in await cursor.fetchall()),
            committed_at=row["completed_at"] if row else None,
        )
        await self._outbox.add(connection, [event], traceparent=commit["traceparent"])

    async def announce_state(self, connection: Connection) -> None:
        """Tell readers what they must know now."""
        state = await read_state(connection)
        if state is not None:
            await self._outbox.add(connection, [state])


async def aborted_sequences(connection: Connection, generation: str) -> frozenset[int]:
    """The sequences whose points no reader may see."""
    cursor = await connection.execute(
        "SELECT sequence FROM index_commit WHERE generation = %s AND state IN ('aborting', 'aborted')",
        (generation,),
    )
    return frozenset(row["sequence"] for row in await cursor.fetchall())


async def read_state(connection: Connection) -> IndexState | None:
    """What readers must know; None before the first generation exists."""
    cursor = await connection.execute("SELECT epoch, live_generation FROM index_state")
    head = await cursor.fetchone()
    if head is None:
        return None
    cursor = await connection.execute("SELECT * FROM generation")
    rows: Iterable[dict[str, Any]] = await cursor.fetchall()
    generations = {
        row["generation"]: GenerationState(
            watermark=row["watermark"],
            fingerprint=row["fingerprint"],
            horizon=row["horizon"],
            aborted=tuple(sorted(await aborted_sequences(connection, row["generation"]))),
            embedder=row["embedder"],
            dimensions=row["dimensions"],
        )
        for row in rows
    }
    return IndexState(epoch=head["epoch"], live_generation=head["live_generation"], generations=generations)
