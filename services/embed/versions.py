"""What a document's change means for the index: pure decisions, no I/O.

The diff is against the *ledger's* current version of the document, never against what ingest
believes: an event in between may be in the DLQ.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ragline.contracts.events import ChunksReady, ManifestEntry
from ragline.errors import PermanentError
from ragline.index.engine import WHOLE_TENANT
from ragline.index.fingerprint import Element, Fingerprint
from ragline.index.identity import metadata_hash, point_id


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """A point of the ledger that is visible now."""

    point_id: uuid.UUID
    chunk_id: str
    content_hash: str
    metadata_hash: str


@dataclass(frozen=True, slots=True)
class CurrentDocument:
    """The ledger's newest complete version of a document; `base` is the sequence that made it."""

    base: int = 0
    document_version: int = 0
    manifest_hash: str = ""
    deleted: bool = True
    acl: tuple[str, ...] | None = None
    acl_revision: int = -1
    points: tuple[OpenPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The event needs no commit; `reason` is recorded."""

    reason: Literal["already committed", "superseded by a newer version"]


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit must do for one document: open these chunks, close these points, set this access."""

    event: ChunksReady
    base: int
    open: tuple[ManifestEntry, ...]
    close: tuple[OpenPoint, ...]
    metadata_hash: str
    manifest_hash: str
    deleted: bool
    acl: tuple[str, ...] | None
    acl_revision: int
    access_changed: bool

    @property
    def groups(self) -> tuple[str, ...]:
        """The access list as the engine stores it."""
        return stored_groups(self.acl)

    def point_ids(self, generation: str, sequence: int) -> tuple[uuid.UUID, ...]:
        """The ids of the points that this change opens at a sequence, in the order of `open`."""
        return tuple(point_id(generation, entry.chunk_id, sequence) for entry in self.open)

    def delta(self) -> Fingerprint:
        """What the change adds to the index's fingerprint."""
        tenant, document = self.event.tenant, self.event.document_id
        opened = Fingerprint.of(
            Element(tenant, document, entry.chunk_id, entry.content_hash, self.metadata_hash) for entry in self.open
        )
        closed = Fingerprint.of(
            Element(tenant, document, point.chunk_id, point.content_hash, point.metadata_hash) for point in self.close
        )
        return opened.minus(closed)


def stored_groups(acl: tuple[str, ...] | None) -> tuple[str, ...]:
    """An access list as the engine stores it."""
    return (WHOLE_TENANT,) if acl is None else acl


def plan_change(current: CurrentDocument, event: ChunksReady) -> Change | Unchanged:
    """Decide what an event means, given the ledger's current version of its document.

    Raises PermanentError when the ledger holds the same version with another manifest: that is a
    defect upstream of the index, not a redelivery.
    """
    manifest = _manifest_hash(event)
    if event.document_version < current.document_version:
        return Unchanged("superseded by a newer version")
    if event.document_version == current.document_version:
        if manifest != current.manifest_hash:
            raise PermanentError(
                f"document {event.document_id!r} version {event.document_version} is committed with another manifest",
                reason="MANIFEST_CONFLICT",
            )
        return Unchanged("already committed")
    metadata = metadata_hash({"title": event.title, "uri": event.uri, "metadata": event.metadata})
    acl, acl_revision = _newest_access(current, event)
    # Also when nothing is visible now: access counts for the old versions too, which can still be read.
    access_changed = current.base > 0 and acl != current.acl
    # An access change names the whole manifest too: if the version before it never arrived, it heals that.
    wanted = () if event.op == "delete" else event.manifest
    opened, closed = _difference(current.points, wanted, metadata)
    return Change(
        event=event,
        base=current.base,
        open=opened,
        close=closed,
        metadata_hash=metadata,
        manifest_hash=manifest,
        deleted=event.op == "delete",
        acl=acl,
        acl_revision=acl_revision,
        access_changed=access_changed,
    )


def _difference(
    points: Sequence[OpenPoint], wanted: Sequence[ManifestEntry], metadata: str
) -> tuple[tuple[ManifestEntry, ...], tuple[OpenPoint, ...]]:
    """Chunks to open and points to close."""
    visible = {(point.chunk_id, point.metadata_hash) for point in points}
    kept = {(entry.chunk_id, metadata) for entry in wanted}
    opened = tuple(entry for entry in wanted if (entry.chunk_id, metadata) not in visible)
    closed = tuple(point for point in points if (point.chunk_id, point.metadata_hash) not in kept)
    return opened, closed


def _newest_access(current: CurrentDocument, event: ChunksReady) -> tuple[tuple[str, ...] | None, int]:
    """Access has its own revision: an older one never overwrites a newer one."""
    if event.acl_revision < current.acl_revision:
        return current.acl, current.acl_revision
    return event.acl, event.acl_revision


def _manifest_hash(event: ChunksReady) -> str:
    """Names a whole version, so that a redelivery is told apart from a contradiction."""
    body = [
        event.op,
        event.title,
        event.uri,
        event.metadata,
        event.acl,
        [(entry.chunk_id, entry.content_hash, entry.page, entry.line) for entry in event.manifest],
    ]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
