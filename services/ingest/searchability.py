"""What of the accepted documents is searchable: follows the index, wakes who waits, repeats what got lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from ragline.bus import Bus
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import CommittedDocument, IndexCommitted
from ragline.errors import RaglineError
from ragline.index.versions import IndexVersion
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.rpc import Caller
from services.ingest.registry import Registry

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What came of the documents that were sent but not known to be searchable."""

    found_searchable: int
    announced_again: int


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
        return await self._drive(await self._registry.overdue(after_s=self._reannounce_after_s))

    async def reconcile_now(self) -> Reconciled:
        """Compare everything sent before this moment with the index, without waiting, and announce again the rest."""
        sent_before = await self._registry.now()
        compared = again = 0
        while overdue := await self._registry.overdue(after_s=0, sent_before=sent_before):
            compared += len(overdue)
            again += await self._drive(overdue)
        return Reconciled(found_searchable=compared - again, announced_again=again)

    async def _drive(self, overdue: Sequence[tuple[str, str]]) -> int:
        """Note what the index holds of these documents, and announce the others again; returns how many."""
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
        again = 0
        for tenant, document_id in overdue:
            again += await self._registry.announce_again(tenant, document_id, pipeline=self._pipeline)
        if again:
            log.warning("documents_announced_again", count=again)
        return again

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()
