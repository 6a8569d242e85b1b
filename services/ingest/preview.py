"""What a change would do, before anything is visible: nothing is stored, announced or embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ragline.contracts.events import DocumentChanged, ManifestEntry
from ragline.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragline.index.identity import embedder_input
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.models.embedding import TokenCounter
from ragline.rpc import Caller
from services.ingest.acceptance import Ignored, Registered, accept
from services.ingest.cutting import Cutter
from services.ingest.originals import Content, Originals
from services.ingest.registry import Registry, announcement

_MOST_ANSWERS = 100


@dataclass(frozen=True, slots=True)
class Preview:
    """The chunks that a change would open and close, what is kept, what it costs, and whom it puts in doubt."""

    index_version: str = ""
    ignored: str = ""
    """Why the registry would not accept the change; empty when it would."""
    opened: tuple[ManifestEntry, ...] = ()
    closed: tuple[ManifestEntry, ...] = ()
    kept: int = 0
    to_embed: int = 0
    embed_tokens: int = 0
    answers: tuple[tuple[str, str], ...] = ()
    """(answer id, question) of the newest stored answers that cite what would be closed."""


class Previewer:
    """Plays a change through acceptance, cutting and the diff against the ledger."""

    def __init__(
        self,
        *,
        registry: Registry,
        cutter: Cutter,
        originals: Originals,
        index: indexing_pb2_grpc.IndexServiceAsyncStub,
        gateway: gateway_pb2_grpc.GatewayServiceAsyncStub,
        caller: Caller,
        counter: TokenCounter,
    ) -> None:
        self._registry = registry
        self._cutter = cutter
        self._originals = originals
        self._index = index
        self._gateway = gateway
        self._caller = caller
        self._counter = counter

    async def preview(self, event: DocumentChanged, uploaded: Content | None) -> Preview:
        """What the change would do now; raises as accepting it would."""
        content_hash, cut = "", None
        if event.op == "upsert":
            content = uploaded or await self._originals.content_of(event)
            event = event.model_copy(update={"content_type": content.content_type})
            cut = await self._cutter.cut(event, content.data)
            content_hash = hashlib.sha256(content.as_bytes()).hexdigest()
        progress = await self._registry.progress(event.tenant, event.document_id)
        before = progress.document if progress and progress.document.document_version > 0 else None
        after = accept(before, event, content_hash)
        if isinstance(after, Ignored):
            return Preview(ignored=f"{after.status}: {after.reason}")
        if cut is not None and after.op == "upsert":
            after = replace(after, title=cut.title, manifest=cut.manifest)
        return await self._diff(after, before.manifest if before else ())

    async def _diff(self, after: Registered, before: Sequence[ManifestEntry]) -> Preview:
        """Against the ledger, which may know another version than the registry."""
        whole = announcement(after, changed_at=datetime.now(UTC), pipeline=self._cutter.pipeline)
        found = await self._caller(
            self._index.PreviewChange,
            indexing_pb2.PreviewChangeRequest(chunks_ready_json=whole.model_dump_json(exclude_none=True).encode()),
            name="IndexService/PreviewChange",
        )
        texts = {entry.content_hash: entry for entry in (*before, *after.manifest)}
        opened = tuple(texts[name] for name in found.opened if name in texts)
        new = [texts[name] for name in found.to_embed if name in texts]
        return Preview(
            index_version=found.index_version,
            opened=opened,
            closed=tuple(texts[name] for name in found.closed if name in texts),
            kept=found.kept,
            to_embed=len(new),
            embed_tokens=sum(self._counter.count(embedder_input(e.heading_path, e.text or "")) for e in new),
            answers=await self._answers(after, found.closed, found.opened),
        )

    async def _answers(
        self, document: Registered, closed: Iterable[str], opened: Iterable[str]
    ) -> tuple[tuple[str, str], ...]:
        """The stored answers that cite what would go; a content that comes back elsewhere is not gone."""
        gone = set(closed).difference(opened)
        if not gone:
            return ()
        found = await self._caller(
            self._gateway.ListAnswersCiting,
            gateway_pb2.ListAnswersCitingRequest(
                tenant=document.tenant,
                document_id=document.document_id,
                content_hashes=sorted(gone),
                limit=_MOST_ANSWERS,
            ),
            name="GatewayService/ListAnswersCiting",
        )
        return tuple((answer.answer_id, answer.question) for answer in found.answers)
