"""The document registry in PostgreSQL: what was accepted, what was announced, what is searchable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime
from typing import Any, Final, cast

from psycopg.types.json import Jsonb

from ragline.contracts.events import BulkChunksReady, ChunksReady, CommittedDocument, DocumentStatus, ManifestEntry
from ragline.database import Connection, Database
from ragline.index.versions import IndexVersion
from ragline.outbox import Outbox
from ragline.telemetry import trace_headers
from services.ingest.acceptance import Registered
from services.ingest.lanes import BULK, LIVE
from services.ingest.originals import DocumentVersion, Kept

PART_BYTES: Final = 400_000
"""Text of one `chunks.ready` message; a larger document travels in several parts."""
_KEPT: Final = tuple(field.name for field in fields(Kept))


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of a document's newest change."""

    document: Registered
    chunks: int
    indexed_version: int
    index_version: str | None
    rejected_revision: int | None
    rejected_reason: str | None

    @property
    def searchable(self) -> bool:
        return self.indexed_version >= self.document.document_version


class Registry:
    """Keeps documents; every change of state leaves with its event in one transaction."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def lock(self, connection: Connection, tenant: str, document_id: str) -> Registered | None:
        """The registered document, locked until the transaction ends (also when it does not exist yet)."""
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{tenant}/{document_id}",))
        cursor = await connection.execute(
            "SELECT * FROM document WHERE tenant = %s AND document_id = %s", (tenant, document_id)
        )
        row = await cursor.fetchone()
        return _registered(row) if row else None

    async def store(
        self, connection: Connection, document: Registered, *, announced: bool, lane: int = LIVE
    ) -> tuple[Registered, datetime]:
        """Write the document as its newest version; returns it as stored, and when it was accepted.

        PostgreSQL spells some numbers of the metadata anew (1e16 as an integer): what is announced is
        what was stored, so that an announcement from the registry never contradicts the first one.
        """
        cursor = await connection.execute(
            """
            INSERT INTO document (tenant, document_id, source, revision, acl_revision, acl, document_version, deleted,
                content_hash, title, uri, metadata, manifest, op, traceparent, lane)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (tenant, document_id) DO UPDATE SET source = EXCLUDED.source, revision = EXCLUDED.revision,
                acl_revision = EXCLUDED.acl_revision, acl = EXCLUDED.acl, document_version = EXCLUDED.document_version,
                deleted = EXCLUDED.deleted, content_hash = EXCLUDED.content_hash, title = EXCLUDED.title,
                uri = EXCLUDED.uri, metadata = EXCLUDED.metadata, manifest = EXCLUDED.manifest, op = EXCLUDED.op,
                traceparent = CASE WHEN %s THEN EXCLUDED.traceparent ELSE document.traceparent END,
                changed_at = CASE WHEN %s THEN clock_timestamp() ELSE document.changed_at END,
                sent_at = CASE WHEN %s THEN NULL ELSE document.sent_at END,
                lane = CASE WHEN %s THEN EXCLUDED.lane ELSE document.lane END,
                announcements = CASE WHEN %s THEN 1 ELSE document.announcements END,
                rejected_reason = CASE WHEN document.rejected_revision > EXCLUDED.revision
                    THEN document.rejected_reason END,
                rejected_revision = CASE WHEN document.rejected_revision > EXCLUDED.revision
                    THEN document.rejected_revision END
            RETURNING changed_at, metadata
            """,
            (
                document.tenant, document.document_id, document.source, document.revision, document.acl_revision,
                None if document.acl is None else list(document.acl), document.document_version, document.deleted,
                document.content_hash, document.title, document.uri, Jsonb(dict(document.metadata)),
                Jsonb([entry.model_dump(exclude_none=True) for entry in document.manifest]), document.op,
                trace_headers().get("traceparent"), lane, announced, announced, announced, announced, announced,
            ),
        )  # fmt: skip
        row = await cursor.fetchone()
        assert row is not None
        return replace(document, metadata=row["metadata"]), row["changed_at"]

    async def record_version(
        self, connection: Connection, document: Registered, kept: Kept | None, *, accepted_at: datetime
    ) -> None:
        """Record what was just stored as a version of its own; a change of access keeps the content it had."""
        if document.op == "access":
            before = await connection.execute(
                "SELECT * FROM document_version WHERE tenant = %s AND document_id = %s "
                "ORDER BY document_version DESC LIMIT 1",
                (document.tenant, document.document_id),
            )
            row = await before.fetchone()
            kept = _kept(row) if row else None
        await connection.execute(
            """
            INSERT INTO document_version (tenant, document_id, document_version, revision, source, op, original_key,
                text_key, content_type, etag, fetched_from, language, links, title, uri, metadata, accepted_at,
                traceparent)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                document.tenant, document.document_id, document.document_version, document.revision, document.source,
                document.op, *(astuple(kept) if kept else (None,) * len(_KEPT)), document.title, document.uri,
                Jsonb(dict(document.metadata)), accepted_at, trace_headers().get("traceparent"),
            ),
        )  # fmt: skip

    async def original(self, tenant: str, document_id: str, document_version: int) -> DocumentVersion | None:
        """A version as it was accepted, and where its original and its text are kept; None for an unknown one."""
        row = await self._database.fetch_one(
            "SELECT * FROM document_version WHERE tenant = %s AND document_id = %s AND document_version = %s",
            (tenant, document_id, document_version),
        )
        return DocumentVersion(**_without_content(row), kept=_kept(row)) if row else None

    async def revision(self, tenant: str, document_id: str) -> int:
        """The newest accepted revision of the content; -1 for none. It only grows."""
        row = await self._database.fetch_one(
            "SELECT revision FROM document WHERE tenant = %s AND document_id = %s", (tenant, document_id)
        )
        return row["revision"] if row else -1

    async def announce(
        self,
        connection: Connection,
        document: Registered,
        *,
        changed_at: datetime,
        known: frozenset[str] = frozenset(),
        pipeline: str,
        traceparent: str | None = None,
        lane: int = LIVE,
    ) -> None:
        """Add `chunks.ready` to the outbox; texts whose content hash is in `known` stay behind."""
        kind = BulkChunksReady if lane == BULK else ChunksReady
        events = chunks_ready(document, kind, changed_at=changed_at, known=known, pipeline=pipeline)
        await self._outbox.add(connection, events, traceparent=traceparent, lane=lane, share=document.tenant)

    async def report(self, connection: Connection, status: DocumentStatus) -> None:
        """Tell upstream what became of a change."""
        await self._outbox.add(connection, [status])

    async def reject(self, tenant: str, document_id: str, revision: int, reason: str) -> None:
        """Note that a revision can never be accepted, so that whoever waits for it is told; the newest counts."""
        async with self._database.transaction() as connection:
            current = await self.lock(connection, tenant, document_id)
            await connection.execute(
                """
                INSERT INTO document (tenant, document_id, source, revision, acl_revision, document_version, deleted,
                    content_hash, title, uri, metadata, manifest, op, rejected_revision, rejected_reason)
                VALUES (%s, %s, '', -1, -1, 0, true, '', '', '', '{}', '[]', 'delete', %s, %s)
                ON CONFLICT (tenant, document_id) DO UPDATE
                    SET rejected_revision = EXCLUDED.rejected_revision, rejected_reason = EXCLUDED.rejected_reason
                    WHERE coalesce(document.rejected_revision, -1) <= EXCLUDED.rejected_revision
                """,
                (tenant, document_id, revision, reason),
            )
            version = current.document_version if current else 0
            await self.report(
                connection,
                DocumentStatus(
                    tenant=tenant, document_id=document_id, status="rejected", revision=revision,
                    document_version=version, reason=reason,
                ),
            )  # fmt: skip
        self._outbox.kick()

    async def progress(self, tenant: str, document_id: str) -> Progress | None:
        """What became of a document's newest change; None for an unknown document."""
        row = await self._database.fetch_one(
            "SELECT * FROM document WHERE tenant = %s AND document_id = %s", (tenant, document_id)
        )
        return _progress(row) if row else None

    async def page(self, tenant: str, *, prefix: str, source: str, after: str, limit: int) -> list[Progress]:
        """Documents of a tenant by id, after a given one; an empty prefix or source means any."""
        rows = await self._database.fetch(
            "SELECT * FROM document WHERE tenant = %s AND document_id > %s AND starts_with(document_id, %s) "
            "AND %s IN ('', source) ORDER BY document_id LIMIT %s",
            (tenant, after, prefix, source, limit),
        )
        return [_progress(row) for row in rows]

    async def mark_indexed(self, version: IndexVersion, documents: Sequence[CommittedDocument]) -> None:
        """Note that the index holds these versions, and report those that are the newest."""
        async with self._database.transaction() as connection:
            for document in sorted(documents, key=lambda d: (d.tenant, d.document_id)):
                cursor = await connection.execute(
                    "UPDATE document SET indexed_version = %s, index_version = %s "
                    "WHERE tenant = %s AND document_id = %s AND indexed_version < %s "
                    "RETURNING document_version, revision",
                    (
                        document.document_version, str(version), document.tenant, document.document_id,
                        document.document_version,
                    ),
                )  # fmt: skip
                row = await cursor.fetchone()
                if row is not None and row["document_version"] == document.document_version:
                    await self.report(
                        connection,
                        DocumentStatus(
                            tenant=document.tenant, document_id=document.document_id, status="indexed",
                            revision=row["revision"], document_version=document.document_version,
                            index_version=str(version),
                        ),
                    )  # fmt: skip
        self._outbox.kick()

    async def overdue(
        self, *, after_s: float, sent_before: datetime | None = None, limit: int = 100
    ) -> list[tuple[str, str]]:
        """Documents sent to embed but not searchable for too long; the wait doubles with each announcement.

        With `sent_before`, all that were sent before that moment, however short a time ago.
        """
        rows = await self._database.fetch(
            "SELECT tenant, document_id FROM document WHERE indexed_version < document_version AND sent_at < "
            "coalesce(%s, clock_timestamp() - make_interval(secs => %s * (2 ^ least(announcements - 1, 10)))) "
            "ORDER BY sent_at LIMIT %s",
            (sent_before, after_s, limit),
        )
        return [(row["tenant"], row["document_id"]) for row in rows]

    async def now(self) -> datetime:
        """The present moment, by the clock that the registry's times are of."""
        row = await self._database.fetch_one("SELECT clock_timestamp() AS now")
        assert row is not None
        return cast(datetime, row["now"])

    async def announce_again(self, tenant: str, document_id: str, *, pipeline: str) -> bool:
        """Announce the newest version once more, whole, in its own trace; False if it is searchable by now."""
        async with self._database.transaction() as connection:
            document = await self.lock(connection, tenant, document_id)
            cursor = await connection.execute(
                "UPDATE document SET sent_at = NULL, announcements = announcements + 1 "
                "WHERE tenant = %s AND document_id = %s AND indexed_version < document_version "
                "RETURNING changed_at, traceparent, lane",
                (tenant, document_id),
            )
            row = await cursor.fetchone()
            if document is None or row is None:
                return False
            await self.announce(
                connection, document, changed_at=row["changed_at"], pipeline=pipeline,
                traceparent=row["traceparent"], lane=row["lane"],
            )  # fmt: skip
        self._outbox.kick()
        return True


def announcement(document: Registered, *, changed_at: datetime, pipeline: str) -> ChunksReady:
    """The whole version as one event, every text with it."""
    return ChunksReady(
        tenant=document.tenant,
        document_id=document.document_id,
        op=document.op,
        document_version=document.document_version,
        revision=document.revision,
        acl_revision=document.acl_revision,
        acl=document.acl,
        title=document.title,
        uri=document.uri,
        metadata=dict(document.metadata),
        manifest=document.manifest,
        pipeline=pipeline,
        changed_at=changed_at,
    )


def chunks_ready(
    document: Registered,
    kind: type[ChunksReady] = ChunksReady,
    *,
    changed_at: datetime,
    known: frozenset[str],
    pipeline: str,
) -> list[ChunksReady]:
    """The events of one version: one, or several parts when the texts are large.

    Where a part ends depends on the version alone and not on `known`: if parts of one announcement are
    lost, those of the next fill the gaps.
    """
    parts: list[list[ManifestEntry]] = [[]]
    size = 0
    for entry in document.manifest:
        sent = entry.model_copy(update={"text": None}) if entry.content_hash in known else entry
        entry_bytes = len((entry.text or "").encode()) + sum(len(h.encode()) for h in entry.heading_path) + 200
        if parts[-1] and size + entry_bytes > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(sent)
        size += entry_bytes
    whole = announcement(document, changed_at=changed_at, pipeline=pipeline)
    fields = {name: getattr(whole, name) for name in ChunksReady.model_fields}
    return [
        kind(**{**fields, "manifest": tuple(entries), "part": number, "parts": len(parts)})
        for number, entries in enumerate(parts, start=1)
    ]


def _progress(row: dict[str, Any]) -> Progress:
    return Progress(
        _registered(row), len(row["manifest"]), row["indexed_version"], row["index_version"], row["rejected_revision"],
        row["rejected_reason"],
    )  # fmt: skip


def _kept(row: dict[str, Any]) -> Kept | None:
    return Kept(**{name: row[name] for name in _KEPT}) if row["original_key"] is not None else None


def _without_content(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _KEPT}


def _registered(row: dict[str, Any]) -> Registered:
    return Registered(
        tenant=row["tenant"],
        document_id=row["document_id"],
        source=row["source"],
        revision=row["revision"],
        acl_revision=row["acl_revision"],
        acl=None if row["acl"] is None else tuple(row["acl"]),
        document_version=row["document_version"],
        deleted=row["deleted"],
        content_hash=row["content_hash"],
        title=row["title"],
        uri=row["uri"],
        op=row["op"],
        metadata=row["metadata"],
        manifest=tuple(ManifestEntry(**entry) for entry in row["manifest"]),
    )
