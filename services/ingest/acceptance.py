"""Whether a change is accepted, and what it makes of the document: pure decisions, no I/O.

Order is by (revision, deletions first, source, content): whatever order events arrive in, however
often, and from however many sources, the same one wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ragline.contracts.events import DocumentChanged, ManifestEntry, Scalar

Operation = Literal["upsert", "delete", "access"]


@dataclass(frozen=True, slots=True)
class Registered:
    """The newest accepted version of a document."""

    tenant: str
    document_id: str
    source: str
    revision: int
    acl_revision: int
    acl: tuple[str, ...] | None
    document_version: int
    deleted: bool
    content_hash: str
    title: str
    uri: str
    op: Operation
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    manifest: tuple[ManifestEntry, ...] = ()
    """With every chunk's text, so that whatever missed an event can ask for it."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The change alters nothing; `status` and `reason` are reported upstream."""

    status: Literal["unchanged", "superseded"]
    reason: str
    remember: Registered | None = None
    """What must be kept of it all the same (a newer revision, a tombstone, an access list)."""


def content_fingerprint(event: DocumentChanged) -> str:
    """Names the content and how it is to be read."""
    digest = hashlib.sha256()
    for part in (event.content_type or "", event.title or "", event.content or ""):
        digest.update(len(part.encode()).to_bytes(8, "big"))
        digest.update(part.encode())
    return digest.hexdigest()


def accept(current: Registered | None, event: DocumentChanged) -> Registered | Ignored:
    """Decide what an event makes of the registered document; an accepted upsert has no manifest yet.

    A document that the registry does not know starts at version 0; versions only count up, through
    deletion and re-creation.
    """
    if event.op == "access":
        return _accept_access(current, event)
    if current is not None and _order(event) < _registered_order(current):
        return Ignored("superseded", f"revision {current.revision} is newer or wins the tie")
    if event.op == "delete":
        return _accept_delete(current, event)
    return _accept_upsert(current, event)


def _order(event: DocumentChanged) -> tuple[int, bool, str, str]:
    content = content_fingerprint(event) if event.op == "upsert" else ""
    return event.revision, event.op == "delete", event.source, content


def _registered_order(current: Registered) -> tuple[int, bool, str, str]:
    return current.revision, current.deleted, current.source, "" if current.deleted else current.content_hash


def _accept_upsert(current: Registered | None, event: DocumentChanged) -> Registered | Ignored:
    acl, acl_revision = _newest_access(current, event)
    accepted = Registered(
        tenant=event.tenant,
        document_id=event.document_id,
        source=event.source,
        revision=event.revision,
        acl_revision=acl_revision,
        acl=acl,
        document_version=(current.document_version if current else 0) + 1,
        deleted=False,
        content_hash=content_fingerprint(event),
        title=event.title or "",
        uri=event.uri,
        op="upsert",
        metadata=event.metadata,
    )
    if current is None or current.deleted:
        return accepted
    same = (
        current.content_hash == accepted.content_hash
        and current.uri == accepted.uri
        and dict(current.metadata) == dict(accepted.metadata)
        and current.acl == accepted.acl
    )
    if not same:
        return accepted
    kept = replace(current, source=event.source, revision=event.revision, acl_revision=acl_revision)
    return Ignored("unchanged", "the same content, metadata and access are already accepted", kept)


def _accept_delete(current: Registered | None, event: DocumentChanged) -> Registered | Ignored:
    if current is None or current.deleted:
        tombstone = _tombstone(current, event)
        return Ignored("unchanged", "there is nothing to delete", tombstone)
    return replace(
        current,
        source=event.source,
        revision=event.revision,
        document_version=current.document_version + 1,
        deleted=True,
        content_hash="",
        op="delete",
        manifest=(),
    )


def _accept_access(current: Registered | None, event: DocumentChanged) -> Registered | Ignored:
    acl_revision = event.revision if event.acl_revision is None else event.acl_revision
    if current is not None and acl_revision < current.acl_revision:
        return Ignored("superseded", f"access revision {current.acl_revision} is newer")
    if current is None or current.deleted:
        # Kept for when the document arrives: a revoked access must not come back with late content.
        kept = replace(_tombstone(current, event), acl=event.acl, acl_revision=acl_revision)
        if current is None:
            kept = replace(kept, revision=-1)
        return Ignored("unchanged", "the document does not exist; its access is remembered", kept)
    changed = replace(current, acl=event.acl, acl_revision=acl_revision)
    if current.acl == event.acl:
        return Ignored("unchanged", "the access is already so", changed)
    return replace(changed, document_version=current.document_version + 1, op="access")


def _tombstone(current: Registered | None, event: DocumentChanged) -> Registered:
    if current is not None:
        return replace(current, source=event.source, revision=max(event.revision, current.revision))
    return Registered(
        tenant=event.tenant,
        document_id=event.document_id,
        source=event.source,
        revision=event.revision,
        acl_revision=-1,
        acl=None,
        document_version=0,
        deleted=True,
        content_hash="",
        title="",
        uri="",
        op="delete",
    )


def _newest_access(current: Registered | None, event: DocumentChanged) -> tuple[tuple[str, ...] | None, int]:
    """Access has its own revision, so that late content does not bring back an older access."""
    acl_revision = event.revision if event.acl_revision is None else event.acl_revision
    if current is not None and acl_revision < current.acl_revision:
        return current.acl, current.acl_revision
    return event.acl, acl_revision
