"""Whether a change is accepted, and what it makes of the document: pure decisions, no I/O.

A document is two registers that each keep their greatest entry: its content, by (revision, deletions
first, source, content), and its access, by (access revision, narrower lists first). So the same document
comes out in whatever order events arrive, however often, and from however many sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ragline.contracts.event import Scalar
from ragline.contracts.events import DocumentChanged, ManifestEntry

Operation = Literal["upsert", "delete", "access"]
Access = tuple[str, ...] | None
"""The groups that may read, sorted: None means the whole tenant, empty means nobody."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The newest accepted version of a document."""

    tenant: str
    document_id: str
    source: str
    revision: int
    acl_revision: int
    acl: Access
    document_version: int
    deleted: bool
    content_hash: str
    """Names everything that a change of content may change; see `content_fingerprint`."""
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


def content_fingerprint(event: DocumentChanged, content_hash: str) -> str:
    """Names the content, how it is to be read, and what is told of it: equal ones need no new version.

    `content_hash` is the SHA-256 of the content's bytes: it is the same whether they came inline or by reference.
    """
    metadata = json.dumps(event.metadata, sort_keys=True)
    digest = hashlib.sha256()
    for part in (event.content_type or "", event.title or "", event.uri, metadata, content_hash):
        digest.update(len(part.encode()).to_bytes(8, "big"))
        digest.update(part.encode())
    return digest.hexdigest()


def accept(current: Registered | None, event: DocumentChanged, content_hash: str) -> Registered | Ignored:
    """Decide what an event makes of the registered document; an accepted upsert has no manifest yet.

    A document that the registry does not know starts at version 0; versions only count up, through
    deletion and re-creation. What is accepted may be less than the event: late content with newer access
    is a change of access (`op` says which). `content_hash` (see `content_fingerprint`) counts for an upsert
    that is not older than the document.
    """
    before = current or _never_seen(event)
    after = _with_access(_with_content(before, event, content_hash), event)
    content_changed = (after.deleted, after.content_hash) != (before.deleted, before.content_hash)
    never_existed = after.deleted and before.document_version == 0
    if never_existed or not (content_changed or after.acl != before.acl):
        status, reason = _why_ignored(before, event, content_hash)
        return Ignored(status, reason, after if after != before else None)
    # A deleted document's access still counts: its old versions can be read within the horizon.
    op: Operation = "delete" if after.deleted else "upsert" if content_changed else "access"
    return replace(after, document_version=before.document_version + 1, op=op)


def _with_content(before: Registered, event: DocumentChanged, content_hash: str) -> Registered:
    if event.op == "access" or _content_order(event, content_hash) < _registered_order(before):
        return before
    newer = replace(before, source=event.source, revision=event.revision)
    if event.op == "delete":
        return replace(newer, deleted=True, content_hash="", manifest=())
    fingerprint = content_fingerprint(event, content_hash)
    if not before.deleted and fingerprint == before.content_hash:
        return newer
    return replace(
        newer,
        deleted=False,
        content_hash=fingerprint,
        title=event.title or "",
        uri=event.uri,
        metadata=event.metadata,
        manifest=(),
    )


def _with_access(before: Registered, event: DocumentChanged) -> Registered:
    """Access has its own revision, so that late content does not bring back an older access."""
    if event.op == "delete":
        return before
    acl_revision, acl = _access(event)
    if _access_order(acl_revision, acl) <= _access_order(before.acl_revision, before.acl):
        return before
    return replace(before, acl=acl, acl_revision=acl_revision)


def _why_ignored(
    before: Registered, event: DocumentChanged, content_hash: str
) -> tuple[Literal["unchanged", "superseded"], str]:
    if event.op == "access":
        if _access_order(*_access(event)) < _access_order(before.acl_revision, before.acl):
            return "superseded", f"access revision {before.acl_revision} is newer or wins the tie"
        if before.document_version == 0:
            return "unchanged", "the document does not exist; its access is remembered"
        return "unchanged", "the access is already so"
    if _content_order(event, content_hash) < _registered_order(before):
        return "superseded", f"revision {before.revision} is newer or wins the tie"
    if event.op == "delete":
        return "unchanged", "there is nothing to delete"
    return "unchanged", "the same content, metadata and access are already accepted"


def _content_order(event: DocumentChanged, content_hash: str) -> tuple[int, bool, str, str]:
    content = content_fingerprint(event, content_hash) if event.op == "upsert" else ""
    return event.revision, event.op == "delete", event.source, content


def _registered_order(document: Registered) -> tuple[int, bool, str, str]:
    return document.revision, document.deleted, document.source, document.content_hash


def _access(event: DocumentChanged) -> tuple[int, Access]:
    acl_revision = event.revision if event.acl_revision is None else event.acl_revision
    return acl_revision, None if event.acl is None else tuple(sorted(set(event.acl)))


def _access_order(acl_revision: int, acl: Access) -> tuple[int, bool, int, tuple[str, ...]]:
    """A tie goes to the list that admits fewer: whoever must not read is never let in by chance."""
    return acl_revision, acl is not None, -len(acl or ()), acl or ()


def _never_seen(event: DocumentChanged) -> Registered:
    """What any event is newer than."""
    return Registered(
        tenant=event.tenant,
        document_id=event.document_id,
        source="",
        revision=-1,
        acl_revision=-1,
        acl=None,
        document_version=0,
        deleted=True,
        content_hash="",
        title="",
        uri="",
        op="delete",
    )
