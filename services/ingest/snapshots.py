"""`snapshot.completed` in: what a source no longer holds is retired, so that deletions that got lost heal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

import structlog
from pydantic import TypeAdapter, ValidationError

from ragline.bus import Bus, DeliveryPolicy
from ragline.contracts.cloudevents import Received
from ragline.contracts.event import DocumentId
from ragline.contracts.events import BulkDocumentChanged, SnapshotCompleted
from ragline.database import Database
from ragline.errors import PermanentError
from services.ingest.claim_check import ClaimCheck
from services.ingest.handlers import Changes

log = structlog.get_logger(__name__)

_PAGE: Final = 500
_ID: Final[TypeAdapter[str]] = TypeAdapter(DocumentId)


class Snapshots:
    """Compares what a source lists with what the registry knows of it, a page at a time."""

    def __init__(self, *, database: Database, changes: Changes, claim_check: ClaimCheck) -> None:
        self._database = database
        self._changes = changes
        self._claim_check = claim_check

    def subscribe(self, bus: Bus) -> None:
        """Retries while PostgreSQL or the list's place is down; dead-letters a list that cannot be read."""
        bus.subscribe(SnapshotCompleted, self.on_snapshot_completed, policy=DeliveryPolicy(max_records=1))

    async def on_snapshot_completed(self, received: Received[SnapshotCompleted]) -> int:
        """Retire what the source no longer holds; returns how many documents. Harmless to repeat.

        Retired is, by a deletion with the snapshot's revision in the bulk lane, what this source wrote last, under
        the prefix, at an older revision, and does not list. Raises PermissionDenied for a source that may not write
        the tenant, and PermanentError for a list that cannot be read whole: then nothing is retired.
        """
        snapshot = received.event
        self._changes.check_source(snapshot.tenant, snapshot.source)
        held = await self._listed(snapshot)
        retired = 0
        async for document_id in self._older(snapshot):
            if document_id in held:
                continue
            outcome = await self._changes.retire(
                BulkDocumentChanged(
                    tenant=snapshot.tenant, document_id=document_id, source=snapshot.source, op="delete",
                    revision=snapshot.revision,
                )
            )  # fmt: skip
            retired += outcome.changed
        log.info("snapshot_completed", source=snapshot.source, prefix=snapshot.prefix, held=len(held), retired=retired)
        return retired

    async def _listed(self, snapshot: SnapshotCompleted) -> frozenset[str]:
        if snapshot.content_ref is None:
            return frozenset(snapshot.document_ids or ())
        fetched = await self._claim_check.fetch(snapshot.content_ref)
        return frozenset(document_ids(fetched.content))

    async def _older(self, snapshot: SnapshotCompleted) -> AsyncIterator[str]:
        """Ids of the living documents that the snapshot speaks of, in order; nothing is held open in between."""
        after = ""
        while True:
            rows = await self._database.fetch(
                "SELECT document_id FROM document WHERE tenant = %s AND document_id > %s AND source = %s "
                "AND starts_with(document_id, %s) AND revision < %s AND NOT deleted ORDER BY document_id LIMIT %s",
                (snapshot.tenant, after, snapshot.source, snapshot.prefix, snapshot.revision, _PAGE),
            )
            for row in rows:
                yield row["document_id"]
            if len(rows) < _PAGE:
                return
            after = rows[-1]["document_id"]


def document_ids(content: bytes) -> Iterator[str]:
    """The ids of a list, one a line: as it is, or as JSON (a string, or an object with `document_id`).

    Raises PermanentError that names the line at fault. A list without any id is refused as well: an empty file is
    more often an export that failed than a source that holds nothing, which can say so inline.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _unreadable(f"it is not UTF-8 at byte {error.start}") from error
    empty = True
    for number, line in enumerate(lines, start=1):
        if line := line.removesuffix("\r"):
            yield _document_id(line, number)
            empty = False
    if empty:
        raise _unreadable("it names no document; a source that holds none says so with document_ids: []")


def _document_id(line: str, number: int) -> str:
    try:
        if line[0] not in '"{':
            return _ID.validate_python(line)
        named = json.loads(line)
        return _ID.validate_python(named["document_id"] if isinstance(named, dict) else named)
    except ValidationError as error:
        raise _unreadable(f"line {number}: {error.errors(include_url=False)[0]['msg']}") from error
    except (ValueError, KeyError) as error:
        raise _unreadable(f"line {number} begins like JSON, but is neither a string nor has a document_id") from error


def _unreadable(why: str) -> PermanentError:
    return PermanentError(f"the snapshot's list cannot be read: {why}", reason="INVALID_SNAPSHOT")
