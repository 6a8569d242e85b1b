"""`chunks.ready` events as ingest would send them, for tests of embed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ragline.contracts.events import ChunksReady, ManifestEntry
from ragline.index.identity import chunk_id, content_hash

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
