"""The ledger in PostgreSQL: the truth about every commit, document version and point.

Each public method is one transaction of the commit protocol (design: index versions, "Writing").
Lock order, everywhere: the generation's row first. Clocks are the database's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from psycopg.types.json import Jsonb

from ragline.contracts.events import IndexState
from ragline.database import Connection, Database
from ragline.errors import ConfigurationError, TransientError
from ragline.index.fingerprint import Fingerprint
from ragline.outbox import Outbox
from services.embed.commits import LEASE_S, Abort, Commit, Conflict
from services.embed.versions import Change, CurrentDocument, OpenPoint, stored_groups
from services.embed.watermark import Watermark, aborted_sequences, read_state


class Ledger:
    """Reads and writes the ledger of one generation."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox
        self._watermark = Watermark(outbox)

    async def open_generation(self, embedder: str, dimensions: int) -> str:
        """The live generation, made on first use; raises ConfigurationError if it has another embedder."""
        async with self._database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('ragline.generation'))")
            cursor = await connection.execute(
                "SELECT g.* FROM generation g JOIN index_state s ON s.live_generation = g.generation"
            )
            row = await cursor.fetchone()
            if row is not None:
                if (row["embedder"], row["dimensions"]) != (embedder, dimensions):
                    raise ConfigurationError(
                        f"the live generation {row['generation']} was made with {row['embedder']} "
                        f"({row['dimensions']} dimensions), RAGLINE_MODELS__EMBEDDER says {embedder}: "
                        "set it back, or start with another data directory"
                    )
                return str(row["generation"])
            await connection.execute(
                "INSERT INTO generation (generation, embedder, dimensions, fingerprint) VALUES ('g1', %s, %s, %s)",
                (embedder, dimensions, str(Fingerprint())),
            )
            # The clock makes the epoch of a new database exceed that of any older one on the same topic.
            await connection.execute(
                "INSERT INTO index_state (epoch, live_generation) "
                "VALUES (extract(epoch FROM clock_timestamp())::bigint, 'g1')"
            )
            await self._watermark.announce_state(connection)
            return "g1"

    async def current_document(self, generation: str, tenant: str, document_id: str) -> CurrentDocument:
        """The newest complete version with its visible points; an unknown document is an empty, deleted one.

        Raises Conflict while a commit of the document is unresolved.
        """
        async with self._database.transaction() as connection:
            # One snapshot: a commit that completes between the two reads must not be seen by halves.
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            key = (generation, tenant, document_id)
            cursor = await connection.execute(
                "SELECT 1 FROM document_version WHERE generation = %s AND tenant = %s AND document_id = %s "
                "AND unresolved",
                key,
            )
            if await cursor.fetchone() is not None:
                # Its points are neither there nor gone: a plan made now would be wrong after an abort.
                raise Conflict(f"document {document_id!r} has an unresolved commit")
            cursor = await connection.execute(
                "SELECT * FROM document WHERE generation = %s AND tenant = %s AND document_id = %s", key
            )
            row = await cursor.fetchone()
            if row is None:
                return CurrentDocument()
            cursor = await connection.execute(
                "SELECT point_id, chunk_id, content_hash, metadata_hash FROM point "
                "WHERE generation = %s AND tenant = %s AND document_id = %s AND valid_to IS NULL",
                key,
            )
            points = tuple(OpenPoint(**point) for point in await cursor.fetchall())
        return CurrentDocument(
            base=row["sequence"],
            document_version=row["document_version"],
            manifest_hash=row["manifest_hash"],
            deleted=row["deleted"],
            acl=None if row["acl"] is None else tuple(row["acl"]),
            acl_revision=row["acl_revision"],
            points=points,
        )

    async def access(self, generation: str, tenant: str, document_id: str) -> tuple[str, ...]:
        """Who may read a document, as the engine stores it; nobody an unknown one."""
        row = await self._database.fetch_one(
            "SELECT acl FROM document WHERE generation = %s AND tenant = %s AND document_id = %s",
            (generation, tenant, document_id),
        )
        if row is None:
            return ()
        return stored_groups(None if row["acl"] is None else tuple(row["acl"]))

    # --- step 2 of the protocol ---------------------------------------------------------------------

    async def begin(
        self,
        generation: str,
        changes: Sequence[Change],
        *,
        traceparents: Sequence[str | None],
        traceparent: str | None,
    ) -> Commit:
        """Take a sequence and insert the commit as pending, with its points and closures, in one transaction.

        The sequence comes from the generation's row and not from a database sequence, which would let
        the watermark pass a row that is not yet inserted. Raises Conflict if any of the documents has
        an unresolved commit or is not at the version that its change was planned against.
        """
        token = uuid.uuid4()
        delta = Fingerprint()
        for change in changes:
            delta = delta.plus(change.delta())
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "UPDATE generation SET last_sequence = last_sequence + 1 WHERE generation = %s RETURNING last_sequence",
                (generation,),
            )
            row = await cursor.fetchone()
            if row is None:
                raise TransientError(f"the generation {generation} is gone")
            sequence = int(row["last_sequence"])
            await connection.execute(
                "INSERT INTO index_commit (generation, sequence, state, token, lease_until, delta, traceparent) "
                "VALUES (%s, %s, 'pending', %s, clock_timestamp() + make_interval(secs => %s), %s, %s)",
                (generation, sequence, token, LEASE_S, str(delta), traceparent),
            )
            for change, document_trace in zip(changes, traceparents, strict=True):
                await self._begin_document(connection, generation, sequence, change, document_trace)
            aborted = await aborted_sequences(connection, generation)
        return Commit(generation, sequence, token, tuple(changes), aborted)

    async def _begin_document(
        self, connection: Connection, generation: str, sequence: int, change: Change, traceparent: str | None
    ) -> None:
        event = change.event
        manifest = [entry.model_dump(exclude={"text"}, exclude_none=True) for entry in event.manifest]
        cursor = await connection.execute(
            """
            INSERT INTO document_version (generation, sequence, tenant, document_id, op, document_version, revision,
                acl, acl_revision, title, uri, metadata, manifest, manifest_hash, opened, closed, changed_at,
                traceparent)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (generation, tenant, document_id) WHERE unresolved DO NOTHING
            """,
            (
                generation, sequence, event.tenant, event.document_id, event.op, event.document_version, event.revision,
                None if change.acl is None else list(change.acl), change.acl_revision, event.title, event.uri,
                Jsonb(event.metadata), Jsonb(manifest), change.manifest_hash,
                [entry.content_hash for entry in change.open], [point.content_hash for point in change.close],
                event.changed_at, traceparent,
            ),
        )  # fmt: skip
        if cursor.rowcount == 0:
            raise Conflict(f"document {event.document_id!r} has an unresolved commit")
        # After the insert: whoever held the document before has resolved, and its outcome is visible now.
        cursor = await connection.execute(
            "SELECT sequence FROM document WHERE generation = %s AND tenant = %s AND document_id = %s",
            (generation, event.tenant, event.document_id),
        )
        row = await cursor.fetchone()
        if (row["sequence"] if row else 0) != change.base:
            raise Conflict(f"document {event.document_id!r} was committed meanwhile")
        ids = change.point_ids(generation, sequence)
        async with connection.cursor() as writer:
            await writer.executemany(
                "INSERT INTO point (generation, point_id, tenant, document_id, chunk_id, content_hash, "
                "metadata_hash, valid_from) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (generation, point, event.tenant, event.document_id, entry.chunk_id, entry.content_hash,
                     change.metadata_hash, sequence)
                    for point, entry in zip(ids, change.open, strict=True)
                ],
            )  # fmt: skip
        await connection.execute(
            "UPDATE point SET valid_to = %s WHERE generation = %s AND point_id = ANY(%s)",
            (sequence, generation, [point.point_id for point in change.close]),
        )

    async def renew(self, commit: Commit | Abort) -> bool:
        """Extend the lease; False when another writer has taken the commit away."""
        rows = await self._database.fetch(
            "UPDATE index_commit SET lease_until = clock_timestamp() + make_interval(secs => %s) "
            "WHERE generation = %s AND sequence = %s AND token = %s AND state IN ('pending', 'aborting') "
            "RETURNING 1 AS ok",
            (LEASE_S, commit.generation, commit.sequence, commit.token),
        )
        return bool(rows)

    # --- step 4 of the protocol ---------------------------------------------------------------------

    async def complete(self, commit: Commit) -> bool:
        """`pending -> complete` by compare-and-set on the token; False when the commit was taken away.

        In the same transaction the watermark advances, and what it passes is announced by the outbox.
        """
        async with self._database.transaction() as connection:
            await _lock_generation(connection, commit.generation)
            cursor = await connection.execute(
                "UPDATE index_commit SET state = 'complete', completed_at = clock_timestamp() "
                "WHERE generation = %s AND sequence = %s AND token = %s AND state = 'pending'",
                (commit.generation, commit.sequence, commit.token),
            )
            if cursor.rowcount == 0:
                return False
            await connection.execute(
                "UPDATE document_version SET unresolved = false WHERE generation = %s AND sequence = %s",
                (commit.generation, commit.sequence),
            )
            for change in commit.changes:
                await connection.execute(
                    """
                    INSERT INTO document (generation, tenant, document_id, sequence, document_version, manifest_hash,
                        deleted, acl, acl_revision)
                    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
                    ON CONFLICT (generation, tenant, document_id) DO UPDATE SET sequence = EXCLUDED.sequence,
                        document_version = EXCLUDED.document_version, manifest_hash = EXCLUDED.manifest_hash,
                        deleted = EXCLUDED.deleted, acl = EXCLUDED.acl, acl_revision = EXCLUDED.acl_revision
                    """,
                    (
                        commit.generation, change.event.tenant, change.event.document_id, commit.sequence,
                        change.event.document_version, change.manifest_hash, change.deleted,
                        None if change.acl is None else list(change.acl), change.acl_revision,
                    ),
                )  # fmt: skip
            await self._watermark.advance(connection, commit.generation)
        self._outbox.kick()
        return True

    # --- abort --------------------------------------------------------------------------------------

    async def begin_abort(self, generation: str, sequence: int, *, token: uuid.UUID | None) -> Abort | None:
        """`-> aborting` by compare-and-set: one's own commit by its token, another's once its lease is over.

        The sequence is announced as aborted before anything is swept. None when it is not ours to abort.
        """
        taker = uuid.uuid4()
        async with self._database.transaction() as connection:
            await _lock_generation(connection, generation)
            cursor = await connection.execute(
                "UPDATE index_commit SET state = 'aborting', token = %s, "
                "lease_until = clock_timestamp() + make_interval(secs => %s) "
                "WHERE generation = %s AND sequence = %s AND state IN ('pending', 'aborting') "
                "AND (token = %s OR lease_until < clock_timestamp())",
                (taker, LEASE_S, generation, sequence, token),
            )
            if cursor.rowcount == 0:
                return None
            await self._watermark.announce_state(connection)
            key = (generation, sequence)
            cursor = await connection.execute(
                "SELECT point_id, valid_from FROM point WHERE generation = %s AND (valid_from = %s OR valid_to = %s)",
                (*key, sequence),
            )
            points = await cursor.fetchall()
            documents = await connection.execute(
                "SELECT v.tenant, v.document_id, d.acl FROM document_version v "
                "JOIN document d USING (generation, tenant, document_id) "
                "WHERE v.generation = %s AND v.sequence = %s",
                key,
            )
            access = tuple(
                (row["tenant"], row["document_id"], None if row["acl"] is None else tuple(row["acl"]))
                for row in await documents.fetchall()
            )
        self._outbox.kick()
        opened = tuple(point["point_id"] for point in points if point["valid_from"] == sequence)
        closed = tuple(point["point_id"] for point in points if point["valid_from"] != sequence)
        return Abort(generation, sequence, taker, opened, closed, access)

    async def finish_abort(self, abort: Abort) -> bool:
        """`aborting -> aborted` once the engine is swept; the documents are free for the next commit."""
        key = (abort.generation, abort.sequence)
        async with self._database.transaction() as connection:
            await _lock_generation(connection, abort.generation)
            cursor = await connection.execute(
                "UPDATE index_commit SET state = 'aborted' "
                "WHERE generation = %s AND sequence = %s AND token = %s AND state = 'aborting'",
                (*key, abort.token),
            )
            if cursor.rowcount == 0:
                return False
            await connection.execute("DELETE FROM point WHERE generation = %s AND valid_from = %s", key)
            await connection.execute("UPDATE point SET valid_to = NULL WHERE generation = %s AND valid_to = %s", key)
            await connection.execute(
                "UPDATE document_version SET unresolved = false WHERE generation = %s AND sequence = %s", key
            )
            await self._watermark.advance(connection, abort.generation)
        self._outbox.kick()
        return True

    async def abandoned(self) -> list[tuple[str, int]]:
        """Unresolved commits whose lease is over: (generation, sequence), oldest first."""
        rows = await self._database.fetch(
            "SELECT generation, sequence FROM index_commit WHERE state IN ('pending', 'aborting') "
            "AND lease_until < clock_timestamp() ORDER BY generation, sequence"
        )
        return [(row["generation"], row["sequence"]) for row in rows]

    # --- what readers must know ---------------------------------------------------------------------

    async def state(self) -> IndexState:
        """What readers must know; raises TransientError before the first generation exists."""
        async with self._database.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            state = await read_state(connection)
        if state is None:
            raise TransientError("there is no index generation yet")
        return state


async def _lock_generation(connection: Connection, generation: str) -> None:
    await connection.execute("SELECT 1 FROM generation WHERE generation = %s FOR UPDATE", (generation,))
