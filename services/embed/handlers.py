"""`chunks.ready` in, commits out: at least once, in order per document, harmless to repeat."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from opentelemetry import trace

from ragline.bus import Bus, DeliveryPolicy
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import BulkChunksReady, ChunksReady
from ragline.errors import NotFound
from ragline.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from ragline.rpc import Caller
from ragline.telemetry import Attribute, Telemetry, trace_headers
from services.embed.commits import Conflict
from services.embed.committer import Committed, Committer, Prepared
from services.embed.ledger import Ledger
from services.embed.parts import StagedParts
from services.embed.vectors import ChunkEncoder, ChunkText
from services.embed.versions import Change, Unchanged, plan_change

log = structlog.get_logger(__name__)


class Indexer:
    """Indexes one version of a document at a time: plan, embed, commit."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        encoder: ChunkEncoder,
        committer: Committer,
        parts: StagedParts,
        ingest: ingest_pb2_grpc.IngestServiceAsyncStub,
        caller: Caller,
        telemetry: Telemetry,
    ) -> None:
        self._ledger = ledger
        self._encoder = encoder
        self._committer = committer
        self._parts = parts
        self._ingest = ingest
        self._caller = caller
        self._tracer = telemetry.tracer
        self._metrics = telemetry.metrics
        self.generation = ""
        """The live generation; set before anything is consumed."""

    def subscribe(self, bus: Bus) -> None:
        """Retries while the engine, PostgreSQL or ingest is down; dead-letters what can never be indexed."""
        bus.subscribe(ChunksReady, self.index_document)
        bus.subscribe(BulkChunksReady, self.index_document, policy=DeliveryPolicy(max_records=16))

    async def index_document(self, received: Received[ChunksReady]) -> Committed | None:
        """Bring the index to this version of the document; None when there was nothing to do."""
        if await self._is_late_part(received.event):
            return None
        event = await self._parts.assemble(received.event)
        if event is None:
            return None
        with self._tracer.start_as_current_span(
            "index document",
            attributes={
                Attribute.TENANT: event.tenant,
                Attribute.DOCUMENT_ID: event.document_id,
                Attribute.DOCUMENT_VERSION: event.document_version,
                Attribute.DOCUMENT_REVISION: event.revision,
                Attribute.CHUNKS: len(event.manifest),
            },
        ) as span:
            current = await self._ledger.current_document(self.generation, event.tenant, event.document_id)
            plan = plan_change(current, event)
            if isinstance(plan, Unchanged):
                span.set_attribute(Attribute.OUTCOME, plan.reason)
                log.info("document_unchanged", document_id=event.document_id, reason=plan.reason)
                await self._parts.forget(event)
                return None
            prepared = await self._prepare(plan)
            committed = await self._commit(prepared)
            await self._parts.forget(event)
            span.set_attribute(Attribute.OUTCOME, "committed")
            freshness_s = (datetime.now(UTC) - event.changed_at).total_seconds()
            self._metrics.freshness_s.record(max(0.0, freshness_s), {Attribute.TENANT: event.tenant})
            return committed

    async def _is_late_part(self, event: ChunksReady) -> bool:
        """Whether a newer version is committed already: staged, the part could wait for the others forever."""
        if event.parts == 1:
            return False
        current = await self._ledger.current_document(self.generation, event.tenant, event.document_id)
        return current.document_version > event.document_version

    async def _prepare(self, change: Change) -> Prepared:
        """Both vectors for every chunk to open; nothing is reserved yet."""
        texts = await self._texts(change)
        with self._tracer.start_as_current_span("embed chunks") as span:
            vectors, embedded = await self._encoder.encode(
                [(entry.chunk_id, texts[entry.content_hash]) for entry in change.open],
                bulk=isinstance(change.event, BulkChunksReady),
            )
            span.set_attribute(Attribute.CHUNKS_EMBEDDED, embedded)
        tenant = {Attribute.TENANT: change.event.tenant}
        self._metrics.chunks_embedded.add(embedded, tenant)
        self._metrics.chunks_reused.add(len(change.event.manifest) - embedded, tenant)
        return Prepared(change, vectors, trace_headers().get("traceparent"))

    async def _commit(self, prepared: Prepared) -> Committed:
        """Commit; the document's own trace gets a span of it, linked to the commit that it shared."""
        with self._tracer.start_as_current_span("commit document") as span:
            try:
                committed = await self._committer.commit(prepared)
            except Conflict:
                span.set_attribute(Attribute.OUTCOME, "conflict")
                raise
            span.add_link(committed.span)
            span.set_attribute(Attribute.INDEX_VERSION, str(committed.version))
            span.set_attribute(Attribute.CHUNKS_OPENED, len(prepared.change.open))
            span.set_attribute(Attribute.CHUNKS_CLOSED, len(prepared.change.close))
        trace.get_current_span().set_attribute(Attribute.INDEX_VERSION, str(committed.version))
        return committed

    async def _texts(self, change: Change) -> dict[str, ChunkText]:
        """The texts of the chunks to open: from the event, and by RPC what an earlier event carried."""
        texts = {
            entry.content_hash: ChunkText(entry.content_hash, entry.heading_path, entry.text)
            for entry in change.event.manifest
            if entry.text is not None
        }
        missing = sorted({entry.content_hash for entry in change.open} - texts.keys())
        if not missing:
            return texts
        response = await self._caller(
            self._ingest.GetChunks,
            ingest_pb2.GetChunksRequest(
                tenant=change.event.tenant,
                document_id=change.event.document_id,
                document_version=change.event.document_version,
                content_hashes=missing,
            ),
            name="IngestService/GetChunks",
        )
        for chunk in response.chunks:
            texts[chunk.content_hash] = ChunkText(chunk.content_hash, tuple(chunk.heading_path), chunk.text)
        lost = [content_hash for content_hash in missing if content_hash not in texts]
        if lost:
            raise NotFound(
                f"ingest no longer has {len(lost)} chunks of {change.event.document_id!r} version "
                f"{change.event.document_version}; a newer version will follow",
                reason="TEXT_GONE",
            )
        return texts
