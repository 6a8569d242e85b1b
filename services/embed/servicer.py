"""IndexService: proto <-> domain."""

from __future__ import annotations

import uuid
from typing import Any, Final

from ragline.contracts.events import ChunksReady
from ragline.errors import InvalidArgument, TransientError
from ragline.index.engine import VectorEngine
from ragline.index.versions import IndexVersion
from ragline.indexing.v1 import indexing_pb2 as pb
from ragline.indexing.v1 import indexing_pb2_grpc
from services.embed.history import History
from services.embed.ledger import Ledger
from services.embed.vectors import VectorCache
from services.embed.versions import Unchanged, plan_change

_PREFIX = "/ragline.indexing.v1.IndexService/"
SCOPES: Final = {
    f"{_PREFIX}GetState": ("internal", "search"),
    f"{_PREFIX}GetStatus": ("admin", "search"),
    f"{_PREFIX}GetCommittedDocuments": ("internal",),
    f"{_PREFIX}GetVersion": ("internal", "search"),
    f"{_PREFIX}ListCommits": ("admin",),
    f"{_PREFIX}VerifyVersion": ("admin",),
    f"{_PREFIX}GetIngestTraces": ("internal",),
    f"{_PREFIX}PreviewChange": ("internal",),
}


class IndexServicer(indexing_pb2_grpc.IndexServiceServicer):
    """Answers from the ledger."""

    def __init__(self, ledger: Ledger, history: History, engine: VectorEngine, cache: VectorCache) -> None:
        self._ledger = ledger
        self._cache = cache
        self._history = history
        self._engine = engine

    async def GetState(self, request: pb.GetStateRequest, context: Any) -> pb.GetStateResponse:
        state = await self._ledger.state()
        return pb.GetStateResponse(state_json=state.model_dump_json().encode())

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        status = await self._history.status()
        if status is None:
            raise TransientError("there is no index generation yet")
        fields = (
            "generation", "watermark", "horizon", "fingerprint", "documents", "points", "closed_points",
            "pending_commits", "aborted_sequences", "embedder", "dimensions", "epoch", "cached_vectors",
        )  # fmt: skip
        return pb.GetStatusResponse(
            **{name: status[name] for name in fields}, last_commit_unix_s=status["last_commit_unix_s"] or 0.0
        )

    async def GetCommittedDocuments(
        self, request: pb.GetCommittedDocumentsRequest, context: Any
    ) -> pb.GetCommittedDocumentsResponse:
        keys = [(key.tenant, key.document_id) for key in request.documents]
        return pb.GetCommittedDocumentsResponse(
            documents=[
                pb.CommittedVersion(
                    tenant=row["tenant"],
                    document_id=row["document_id"],
                    document_version=row["document_version"],
                    index_version=str(IndexVersion(row["generation"], row["sequence"])),
                )
                for row in await self._history.committed_documents(keys)
            ]
        )

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.GetVersionResponse:
        version = IndexVersion.parse(request.version)
        return pb.GetVersionResponse(version=str(version), fingerprint=str(await self._history.fingerprint(version)))

    async def ListCommits(self, request: pb.ListCommitsRequest, context: Any) -> pb.ListCommitsResponse:
        if not 0 <= request.limit <= 1000:
            raise InvalidArgument("limit", "must be between 1 and 1000")
        return pb.ListCommitsResponse(
            commits=[
                pb.Commit(
                    version=str(IndexVersion(row["generation"], row["sequence"])),
                    state=row["state"],
                    created_unix_s=row["created_unix_s"],
                    documents=row["documents"],
                    opened=row["opened"],
                    closed=row["closed"],
                    fingerprint=row["fingerprint"],
                    trace_id=row["traceparent"].split("-")[1] if row["traceparent"] else "",
                )
                for row in await self._history.commits(request.limit or 20)
            ]
        )

    async def VerifyVersion(self, request: pb.VerifyVersionRequest, context: Any) -> pb.VerifyVersionResponse:
        version = IndexVersion.parse(request.version) if request.version else None
        found = await self._history.verify(self._engine, version)
        return pb.VerifyVersionResponse(
            version=str(found.version),
            matches=found.matches,
            recorded_fingerprint=str(found.recorded),
            found_fingerprint=str(found.found),
            points=found.points,
            missing=found.missing,
            orphans=found.orphans,
            altered=found.altered,
        )

    async def GetIngestTraces(self, request: pb.GetIngestTracesRequest, context: Any) -> pb.GetIngestTracesResponse:
        try:
            points = [uuid.UUID(point) for point in request.point_ids]
        except ValueError as error:
            raise InvalidArgument("point_ids", "must be UUIDs") from error
        return pb.GetIngestTracesResponse(traceparents=await self._history.ingest_traces(request.generation, points))

    async def PreviewChange(self, request: pb.PreviewChangeRequest, context: Any) -> pb.PreviewChangeResponse:
        event = ChunksReady.model_validate_json(request.chunks_ready_json)
        state = await self._ledger.state()
        generation = state.live_generation
        version = IndexVersion(generation, state.generations[generation].watermark)
        current = await self._ledger.current_document(generation, event.tenant, event.document_id)
        plan = plan_change(current, event)
        if isinstance(plan, Unchanged):
            return pb.PreviewChangeResponse(index_version=str(version), kept=len(current.points))
        opened = [entry.content_hash for entry in plan.open]
        known = await self._cache.known(opened)
        return pb.PreviewChangeResponse(
            index_version=str(version),
            opened=opened,
            closed=[point.content_hash for point in plan.close],
            kept=len(current.points) - len(plan.close),
            to_embed=[content_hash for content_hash in dict.fromkeys(opened) if content_hash not in known],
        )
