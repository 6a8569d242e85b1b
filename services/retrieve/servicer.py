"""RetrieveService: proto <-> domain. Tenant and groups are the verified caller's, never a field's."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry import trace

from ragline.identity import current_identity
from ragline.index.engine import ScoredPoint
from ragline.retrieve.v1 import retrieve_pb2 as pb
from ragline.retrieve.v1 import retrieve_pb2_grpc
from ragline.telemetry import Attribute
from services.retrieve.fusion import FusedHit
from services.retrieve.search import Searcher, SearchQuery, SearchResult

SCOPES: Final = {"/ragline.retrieve.v1.RetrieveService/Search": ("search", "ask")}


class RetrieveServicer(retrieve_pb2_grpc.RetrieveServiceServicer):
    """Searches for verified callers."""

    def __init__(self, searcher: Searcher, *, embedder: str) -> None:
        self._searcher = searcher
        self._embedder = embedder

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        query = SearchQuery.validated(
            request.query,
            limit=request.limit,
            at_version=request.at_version,
            min_version=request.min_version,
            metadata=request.metadata,
        )
        result = await self._searcher.search(query, current_identity())
        span = trace.get_current_span()
        span.set_attribute(Attribute.INDEX_VERSION, str(result.version))
        span.set_attribute(Attribute.HITS, len(result.hits))
        return _response(result, self._embedder)


def _response(result: SearchResult, embedder: str) -> pb.SearchResponse:
    return pb.SearchResponse(
        index_version=pb.IndexVersion(version=str(result.version), fingerprint=result.fingerprint),
        hits=[_hit(rank, hit) for rank, hit in enumerate(result.hits, start=1)],
        embedder=embedder,
        latency_ms=dict(result.latency_ms),
    )


def _hit(rank: int, hit: FusedHit) -> pb.Hit:
    payload = hit.point.payload
    return pb.Hit(
        rank=rank,
        document_id=payload.document_id,
        chunk_id=payload.chunk_id,
        content_hash=payload.content_hash,
        point_id=str(hit.point.id),
        title=payload.title,
        heading_path=payload.heading_path,
        uri=payload.uri,
        text=payload.text,
        score=hit.score,
        dense=_stage(hit.dense),
        sparse=_stage(hit.sparse),
        valid_from=hit.point.valid_from,
    )


def _stage(point: ScoredPoint | None) -> pb.StageScore | None:
    return pb.StageScore(score=point.score, rank=point.rank) if point else None
