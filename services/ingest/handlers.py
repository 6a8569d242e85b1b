"""`document.changed` in, `chunks.ready` out: at least once, in order per document, harmless to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from ragline.bus import Bus, DeliveryPolicy
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import BulkDocumentChanged, DocumentChanged, DocumentStatus
from ragline.database import Database
from ragline.errors import PermanentError, PermissionDenied
from ragline.outbox import Outbox
from ragline.telemetry import Attribute, Telemetry
from services.ingest.acceptance import Ignored, Registered, accept
from services.ingest.cutting import CutDocument, Cutter
from services.ingest.lanes import BULK, LIVE
from services.ingest.originals import Content, Kept, Originals
from services.ingest.registry import Registry

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an accepted or ignored change came to."""

    document_version: int
    changed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What of an upsert takes long and needs no lock; `event` names the type that its content turned out to have."""

    event: DocumentChanged
    cut: CutDocument
    kept: Kept


class Changes:
    """Accepts changes of documents, from the bus and from gRPC alike."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        outbox: Outbox,
        cutter: Cutter,
        originals: Originals,
        fetched_at_once: int,
        sources: Mapping[str, Sequence[str]],
        telemetry: Telemetry,
    ) -> None:
        self._database = database
        self._registry = registry
        self._outbox = outbox
        self._cutter = cutter
        self._originals = originals
        self._fetched = asyncio.Semaphore(fetched_at_once)
        self._sources = sources
        self._tracer = telemetry.tracer
        self._metrics = telemetry.metrics

    def subscribe(self, bus: Bus) -> None:
        """Retries while PostgreSQL is down; dead-letters what can never be accepted."""
        bus.subscribe(DocumentChanged, self.on_document_changed)
        bus.subscribe(BulkDocumentChanged, self.on_document_changed, policy=DeliveryPolicy(max_records=16))

    async def on_document_changed(self, received: Received[DocumentChanged]) -> None:
        """Accept one change from the bus."""
        await self.accept_change(received.event)

    async def accept_change(self, event: DocumentChanged, uploaded: Content | None = None) -> Outcome:
        """Accept a change durably, or say why it alters nothing; harmless to repeat.

        `uploaded` is the content of an upsert that came over gRPC as bytes.

        Raises PermissionDenied for a source that may not write the tenant, which leaves no trace there, and
        PermanentError for content that cannot be read; that is recorded, so that whoever waits is told.
        """
        self.check_source(event.tenant, event.source)
        with self._tracer.start_as_current_span(
            "accept document",
            attributes={
                Attribute.TENANT: event.tenant,
                Attribute.DOCUMENT_ID: event.document_id,
                Attribute.DOCUMENT_REVISION: event.revision,
            },
        ) as span:
            try:
                outcome = await self._accept(event, uploaded)
            except PermanentError as error:
                await self._registry.reject(event.tenant, event.document_id, event.revision, str(error))
                raise
            span.set_attribute(Attribute.DOCUMENT_VERSION, outcome.document_version)
            span.set_attribute(Attribute.OUTCOME, outcome.reason or "accepted")
            kind = outcome.reason.partition(":")[0] or "accepted"
            self._metrics.documents_accepted.add(1, {Attribute.TENANT: event.tenant, Attribute.OUTCOME: kind})
            return outcome

    async def retire(self, event: BulkDocumentChanged) -> Outcome:
        """Delete a document that its source no longer holds, unless anything newer or of another source came since.

        Harmless to repeat.
        """
        return await self._accept(event, None, retiring=True)

    async def _accept(self, event: DocumentChanged, uploaded: Content | None, *, retiring: bool = False) -> Outcome:
        lane = BULK if isinstance(event, BulkDocumentChanged) else LIVE
        prepared = await self._prepare_upsert(event, uploaded)
        if prepared is not None:
            event = prepared.event
        async with self._database.transaction() as connection:
            current = await self._registry.lock(connection, event.tenant, event.document_id)
            if retiring and not _may_retire(current, event):
                return Outcome(
                    current.document_version if current else 0, changed=False, reason="superseded: it lives on"
                )
            decision = accept(current, event, prepared.kept.original_key if prepared else "")
            if isinstance(decision, Ignored):
                if decision.remember is not None:
                    await self._registry.store(connection, decision.remember, announced=False)
                version = current.document_version if current else 0
                await self._registry.report(
                    connection,
                    DocumentStatus(
                        tenant=event.tenant, document_id=event.document_id, status=decision.status,
                        revision=event.revision, document_version=version, reason=decision.reason,
                    ),
                )  # fmt: skip
                outcome = Outcome(version, changed=False, reason=f"{decision.status}: {decision.reason}")
            else:
                # An upsert may come to less than itself: late content with newer access is a change of access.
                kept = prepared.kept if prepared and decision.op == "upsert" else None
                if prepared and decision.op == "upsert":
                    decision = replace(decision, title=prepared.cut.title, manifest=prepared.cut.manifest)
                accepted, changed_at = await self._registry.store(connection, decision, announced=True, lane=lane)
                await self._registry.record_version(connection, accepted, kept, accepted_at=changed_at)
                known = frozenset(entry.content_hash for entry in current.manifest) if current else frozenset()
                await self._registry.announce(
                    connection, accepted, changed_at=changed_at, known=known, pipeline=self._cutter.pipeline, lane=lane
                )
                outcome = Outcome(accepted.document_version, changed=True)
        self._outbox.kick()
        log.info(
            "document_accepted",
            document_id=event.document_id,
            version=outcome.document_version,
            reason=outcome.reason,
        )
        return outcome

    async def _prepare_upsert(self, event: DocumentChanged, uploaded: Content | None) -> _Prepared | None:
        """Fetch, parse and keep the content before the document is locked; None when there is none to look at."""
        if event.op != "upsert":
            return None
        if uploaded is not None:
            return await self._prepare(event, uploaded)
        if event.content_ref is None:
            return await self._prepare(event, await self._originals.content_of(event))
        if event.revision < await self._registry.revision(event.tenant, event.document_id):
            return None  # superseded whatever it holds, and its content may be gone by now
        async with self._fetched:  # a few at once: what was fetched is in memory until it is kept
            return await self._prepare(event, await self._originals.content_of(event))

    async def _prepare(self, event: DocumentChanged, content: Content) -> _Prepared:
        event = event.model_copy(update={"content_type": content.content_type})
        cut = await self._cutter.cut(event, content.data)
        return _Prepared(event, cut, await self._originals.keep(content, cut))

    def check_source(self, tenant: str, source: str) -> None:
        """Raise PermissionDenied for a source that may not write the tenant."""
        tenants = self._sources.get(source, self._sources.get("*", ()))
        if tenant not in tenants and "*" not in tenants:
            raise PermissionDenied(
                f"source {source!r} may not write tenant {tenant!r} (RAGLINE_INGEST__SOURCES)",
                reason="SOURCE_NOT_ALLOWED",
            )


def _may_retire(current: Registered | None, event: DocumentChanged) -> bool:
    """Whether the document still is what the snapshot speaks of: nothing but its own revision wins a tie."""
    return current is not None and current.source == event.source and current.revision < event.revision


def new_revision() -> int:
    """A revision for a source that has no numbering of its own: microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1_000_000)
