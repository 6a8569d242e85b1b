"""`document.changed` in, `chunks.ready` out; `index.committed` tells what became searchable."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from ragline.bus import Bus
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import CommittedDocument, DocumentChanged, DocumentStatus, IndexCommitted
from ragline.database import Database
from ragline.errors import PermanentError, PermissionDenied, RaglineError
from ragline.index.versions import IndexVersion
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.outbox import Outbox
from ragline.rpc import Caller
from ragline.telemetry import Attribute, Telemetry
from services.ingest.acceptance import Ignored, accept
from services.ingest.cutting import Cutter
from services.ingest.registry import Registry

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an accepted or ignored change came to."""

    document_version: int
    changed: bool
    reason: str = ""


class Changes:
    """Accepts changes of documents, from the bus and from gRPC alike."""

    def __init__(
        self,
        *,
        database: Database,
        registry: Registry,
        outbox: Outbox,
        cutter: Cutter,
        sources: Mapping[str, Sequence[str]],
        telemetry: Telemetry,
    ) -> None:
        self._database = database
        self._registry = registry
        self._outbox = outbox
        self._cutter = cutter
        self._sources = sources
        self._tracer = telemetry.tracer

    def subscribe(self, bus: Bus) -> None:
        """Retries while PostgreSQL is down; dead-letters what can never be accepted."""
        bus.subscribe(DocumentChanged, self.on_document_changed)

    async def on_document_changed(self, received: Received[DocumentChanged]) -> None:
        """Accept one change from the bus."""
        await self.accept_change(received.event)

    async def accept_change(self, event: DocumentChanged) -> Outcome:
        """Accept a change durably, or say why it alters nothing; harmless to repeat.

        Raises PermissionDenied for a source that may not write the tenant, which leaves no trace there, and
        PermanentError for content that cannot be read; that is recorded, so that whoever waits is told.
        """
        self._check_source(event)
        with self._tracer.start_as_current_span(
            "accept document",
            attributes={
                Attribute.TENANT: event.tenant,
                Attribute.DOCUMENT_ID: event.document_id,
                Attribute.DOCUMENT_REVISION: event.revision,
            },
        ) as span:
            try:
                outcome = await self._accept(event)
            except PermanentError as error:
                await self._registry.reject(event.tenant, event.document_id, event.revision, str(error))
                raise
            span.set_attribute(Attribute.DOCUMENT_VERSION, outcome.document_version)
            span.set_attribute(Attribute.OUTCOME, outcome.reason or "accepted")
            return outcome

    async def _accept(self, event: DocumentChanged) -> Outcome:
        # Parsing takes long: it happens before the document is locked, and the decision is made again under the lock.
        cut = await asyncio.to_thread(self._cutter.cut, event) if event.op == "upsert" else None
        async with self._database.transaction() as connection:
            current = await self._registry.lock(connection, event.tenant, event.document_id)
            decision = accept(current, event)
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
                if cut is not None and decision.op == "upsert":
                    decision = replace(decision, title=cut.title, manifest=cut.manifest)
                accepted, changed_at = await self._registry.store(connection, decision, announced=True)
                known = frozenset(entry.content_hash for entry in current.manifest) if current else frozenset()
                await self._registry.announce(
                    connection, accepted, changed_at=changed_at, known=known, pipeline=self._cutter.pipeline
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

    def _check_source(self, event: DocumentChanged) -> None:
        tenants = self._sources.get(event.source, self._sources.get("*", ()))
        if event.tenant not in tenants and "*" not in tenants:
            raise PermissionDenied(
                f"source {event.source!r} may not write tenant {event.tenant!r} (RAGLINE_INGEST__SOURCES)",
                reason="SOURCE_NOT_ALLOWED",
            )


class Searchability:
    """Follows what the index holds, wakes who waits for it, and announces again what got lost."""

    def __init__(
        self,
        *,
        registry: Registry,
        index: indexing_pb2_grpc.IndexServiceAsyncStub,
        caller: Caller,
        pipeline: str,
        reannounce_after_s: float,
        every_s: float,
    ) -> None:
        self._registry = registry
        self._index = index
        self._caller = caller
        self._pipeline = pipeline
        self._reannounce_after_s = reannounce_after_s
        self._every_s = every_s
        self._moved = asyncio.Condition()

    def subscribe(self, bus: Bus) -> None:
        """Retries while PostgreSQL is down."""
        bus.subscribe(IndexCommitted, self.on_index_committed)

    async def on_index_committed(self, received: Received[IndexCommitted]) -> None:
        """Note which documents became searchable."""
        event = received.event
        await self._registry.mark_indexed(IndexVersion(event.generation, event.sequence), event.documents)
        await self._notify()

    async def wait_for_move(self, *, at_most_s: float) -> None:
        """Return when some document became searchable here, or after a while (another replica may know)."""
        try:
            async with asyncio.timeout(at_most_s), self._moved:
                await self._moved.wait()
        except TimeoutError:
            return

    async def run_reconciler(self) -> None:
        """Find documents that were accepted but never committed and drive them again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.reconcile()
            except RaglineError as error:
                log.warning("reconciler_waits", error=str(error))

    async def reconcile(self) -> int:
        """One pass; returns how many documents were announced again."""
        overdue = await self._registry.overdue(after_s=self._reannounce_after_s)
        if not overdue:
            return 0
        response = await self._caller(
            self._index.GetCommittedDocuments,
            indexing_pb2.GetCommittedDocumentsRequest(
                documents=[indexing_pb2.DocumentKey(tenant=tenant, document_id=name) for tenant, name in overdue]
            ),
            name="IndexService/GetCommittedDocuments",
        )
        for held in response.documents:
            document = CommittedDocument(
                tenant=held.tenant, document_id=held.document_id, op="upsert",
                document_version=held.document_version, revision=0,
            )  # fmt: skip
            await self._registry.mark_indexed(IndexVersion.parse(held.index_version), [document])
        await self._notify()
        again = await self._registry.overdue(after_s=self._reannounce_after_s)
        for tenant, document_id in again:
            await self._registry.announce_again(tenant, document_id, pipeline=self._pipeline)
        if again:
            log.warning("documents_announced_again", count=len(again))
        return len(again)

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()


def new_revision() -> int:
    """A revision for a source that has no numbering of its own: microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1_000_000)
