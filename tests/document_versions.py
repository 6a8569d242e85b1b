"""`chunks.ready` events as ingest would send them, and what the ledger makes of them, for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ragline.contracts.events import ChunksReady, ManifestEntry
from ragline.index.identity import chunk_id, content_hash
from services.embed.versions import Change, CurrentDocument, OpenPoint, plan_change

TENANT = "acme"
DOCUMENT = "manual"


def upsert(number: int, texts: Sequence[str], **fields: Any) -> ChunksReady:
    """Version `number` of a document that holds these chunks."""
    return _event("upsert", number, texts, fields)


def delete(number: int, **fields: Any) -> ChunksReady:
    """The deletion of a document, as its version `number`."""
    return _event("delete", number, (), fields)


def access(number: int, texts: Sequence[str], *, acl: Sequence[str] | None, **fields: Any) -> ChunksReady:
    """Another access list for a document that holds these chunks, as its version `number`."""
    return _event("access", number, texts, {"acl": acl, **fields})


def _event(op: str, number: int, texts: Sequence[str], fields: dict[str, Any]) -> ChunksReady:
    tenant, document_id = fields.pop("tenant", TENANT), fields.pop("document_id", DOCUMENT)
    defaults = {"revision": number, "acl_revision": number, "acl": None, "title": "Manual"}
    return ChunksReady.model_validate(
        {
            "tenant": tenant,
            "document_id": document_id,
            "op": op,
            "document_version": number,
            "manifest": manifest(texts, tenant=tenant, document_id=document_id),
            "changed_at": datetime(2026, 1, 1, tzinfo=UTC),
            **defaults,
            **fields,
        }
    )


def manifest(texts: Sequence[str], *, tenant: str = TENANT, document_id: str = DOCUMENT) -> tuple[ManifestEntry, ...]:
    """The chunks of a document, texts included."""
    occurrences: Counter[str] = Counter()
    entries = []
    for ordinal, text in enumerate(texts):
        content = content_hash(text)
        name = chunk_id(tenant, document_id, content, occurrences[content])
        entries.append(ManifestEntry(chunk_id=name, content_hash=content, ordinal=ordinal, text=text))
        occurrences[content] += 1
    return tuple(entries)


def applied(current: CurrentDocument, change: Change, sequence: int) -> CurrentDocument:
    """What the ledger holds once the change is committed as `sequence`."""
    closed = {point.point_id for point in change.close}
    opened = [
        OpenPoint(point, entry.chunk_id, entry.content_hash, change.metadata_hash)
        for point, entry in zip(change.point_ids("g1", sequence), change.open, strict=True)
    ]
    return CurrentDocument(
        base=sequence,
        document_version=change.event.document_version,
        manifest_hash=change.manifest_hash,
        deleted=change.deleted,
        acl=change.acl,
        acl_revision=change.acl_revision,
        points=(*(point for point in current.points if point.point_id not in closed), *opened),
    )


def after(*events: ChunksReady) -> CurrentDocument:
    """What the ledger holds after these events, committed one by one."""
    current = CurrentDocument()
    for sequence, event in enumerate(events, start=1):
        plan = plan_change(current, event)
        if isinstance(plan, Change):
            current = applied(current, plan, sequence)
    return current
