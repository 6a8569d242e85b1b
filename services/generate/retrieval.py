"""What generate asks of other services: passages from retrieve, and from embed the traces they came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import structlog

from ragline.errors import RaglineError
from ragline.index.versions import IndexVersion
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.retrieve.v1 import retrieve_pb2 as pb
from ragline.retrieve.v1 import retrieve_pb2_grpc
from ragline.rpc import Caller
from services.generate.admission import Question
from services.generate.answer import Passage, StageScore

log = structlog.get_logger(__name__)

_TRACES_DEADLINE_S: Final = 2.0
"""The answer waits for this look-up, which only adds links to its trace."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What retrieval found, best first, and the index version that it is true of."""

    index_version: str
    index_fingerprint: str
    embedder: str
    passages: tuple[Passage, ...]


class Retrieval:
    """RetrieveService with the caller's own token: what they may not read is never found."""

    def __init__(self, caller: Caller, channel: grpc.aio.Channel, *, deadline_s: float) -> None:
        self._call = caller
        self._stub = retrieve_pb2_grpc.RetrieveServiceStub(channel)
        self._deadline_s = deadline_s

    async def find(self, question: Question, token: str, *, time_left_s: float) -> Retrieved:
        """The passages for an admitted question."""
        request = pb.SearchRequest(
            query=question.text,
            limit=question.evidence_limit,
            at_version=question.at_version,
            min_version=question.min_version,
            metadata=question.metadata,
        )
        response = await self.search(request, token, time_left_s=time_left_s)
        return Retrieved(
            response.index_version.version,
            response.index_version.fingerprint,
            response.embedder,
            tuple(_passage(number, hit) for number, hit in enumerate(response.hits, start=1)),
        )

    async def search(self, request: pb.SearchRequest, token: str, *, time_left_s: float) -> pb.SearchResponse:
        """A search as it is; one that waits for a version may take all the time that is left."""
        deadline_s = time_left_s if request.min_version else min(time_left_s, self._deadline_s)
        response: pb.SearchResponse = await self._call(
            self._stub.Search, request, name="RetrieveService/Search", token=token, deadline_s=deadline_s
        )
        return response


class IngestTraces:
    """IndexService with the service's own token: which trace brought a chunk into the index."""

    def __init__(self, caller: Caller, channel: grpc.aio.Channel) -> None:
        self._call = caller
        self._stub = indexing_pb2_grpc.IndexServiceStub(channel)

    async def find(self, index_version: str, point_ids: Sequence[str]) -> Mapping[str, str]:
        """`traceparent` by point id. Nothing when embed cannot say: an answer does without its links."""
        if not point_ids:
            return {}
        try:
            request = indexing_pb2.GetIngestTracesRequest(
                generation=IndexVersion.parse(index_version).generation, point_ids=point_ids
            )
            response: indexing_pb2.GetIngestTracesResponse = await self._call(
                self._stub.GetIngestTraces,
                request,
                name="IndexService/GetIngestTraces",
                deadline_s=_TRACES_DEADLINE_S,
            )
        except RaglineError as error:
            log.warning("ingest_traces_missing", index_version=index_version, error=str(error))
            return {}
        return dict(response.traceparents)


def _passage(number: int, hit: pb.Hit) -> Passage:
    return Passage(
        number=number,
        document_id=hit.document_id,
        title=hit.title,
        heading_path=tuple(hit.heading_path),
        uri=hit.uri,
        chunk_id=hit.chunk_id,
        point_id=hit.point_id,
        content_hash=hit.content_hash,
        text=hit.text,
        score=hit.score,
        dense=StageScore(hit.dense.score, hit.dense.rank) if hit.HasField("dense") else None,
        sparse=StageScore(hit.sparse.score, hit.sparse.rank) if hit.HasField("sparse") else None,
        valid_from=hit.valid_from,
    )
