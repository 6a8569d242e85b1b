"""The worker's gRPC API: a thin translation between messages and the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from ragline.engine.v1 import engine_pb2 as pb
from ragline.engine.v1 import engine_pb2_grpc
from ragline.errors import FailedPrecondition, NotFound, PermanentError, RaglineError, TransientError
from ragline.index import wire
from ragline.index.edge_shard import EdgeShard
from ragline.index.edge_store import EdgeStore

PAGE_BYTES: Final = 8 << 20
"""A page of a scan ends at about this size, so that no message comes near the limit."""

_CODES: Final[tuple[tuple[type[RaglineError], grpc.StatusCode], ...]] = (
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (PermanentError, grpc.StatusCode.INVALID_ARGUMENT),
    (TransientError, grpc.StatusCode.UNAVAILABLE),
)


class EdgeService(engine_pb2_grpc.EngineServiceServicer):
    """Answers on a thread pool. Work that nobody waits for any more is not begun."""

    def __init__(self, store: EdgeStore) -> None:
        self._store = store

    def CreateGeneration(
        self, request: pb.CreateGenerationRequest, context: grpc.ServicerContext
    ) -> pb.CreateGenerationResponse:
        with self._answering(context):
            self._store.create(request.generation, request.dimensions, context.time_remaining())
        return pb.CreateGenerationResponse()

    def DropGeneration(
        self, request: pb.DropGenerationRequest, context: grpc.ServicerContext
    ) -> pb.DropGenerationResponse:
        with self._answering(context):
            self._store.drop(request.generation, context.time_remaining())
        return pb.DropGenerationResponse()

    def Insert(self, request: pb.InsertRequest, context: grpc.ServicerContext) -> pb.InsertResponse:
        with self._answering(context):
            points = wire.points_of(request.points)
            with self._writing(request.generation, context) as shard:
                shard.insert(request.sequence, points)
        return pb.InsertResponse()

    def Close(self, request: pb.CloseRequest, context: grpc.ServicerContext) -> pb.CloseResponse:
        with self._answering(context):
            ids = wire.ids_of(request.ids)
            with self._writing(request.generation, context) as shard:
                shard.close_points(request.sequence, ids, frozenset(request.aborted))
        return pb.CloseResponse()

    def CountOpened(self, request: pb.CountOpenedRequest, context: grpc.ServicerContext) -> pb.CountOpenedResponse:
        with self._answering(context):
            count = self._store.shard(request.generation).count_opened(request.sequence)
        return pb.CountOpenedResponse(count=count)

    def Sweep(self, request: pb.SweepRequest, context: grpc.ServicerContext) -> pb.SweepResponse:
        with self._answering(context):
            opened, closed = wire.ids_of(request.opened), wire.ids_of(request.closed)
            with self._writing(request.generation, context) as shard:
                shard.sweep(request.sequence, opened, closed)
        return pb.SweepResponse()

    def SetGroups(self, request: pb.SetGroupsRequest, context: grpc.ServicerContext) -> pb.SetGroupsResponse:
        with self._answering(context), self._writing(request.generation, context) as shard:
            shard.set_groups(request.tenant, request.document_id, request.groups)
        return pb.SetGroupsResponse()

    def Delete(self, request: pb.DeleteRequest, context: grpc.ServicerContext) -> pb.DeleteResponse:
        with self._answering(context):
            ids = wire.ids_of(request.ids)
            with self._writing(request.generation, context) as shard:
                shard.delete(ids)
        return pb.DeleteResponse()

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        with self._answering(context):
            view = wire.view_of(request.generation, request.view)
            found = self._store.shard(request.generation).search(view, wire.query_of(request))
        return pb.SearchResponse(
            dense=[wire.scored_message(point) for point in found.dense],
            sparse=[wire.scored_message(point) for point in found.sparse],
        )

    def Scan(self, request: pb.ScanRequest, context: grpc.ServicerContext) -> pb.ScanResponse:
        with self._answering(context):
            view = wire.view_of(request.generation, request.view) if request.HasField("view") else None
            start = wire.ids_of([request.start])[0] if request.start else None
            points, following = self._store.shard(request.generation).page(view, start, request.limit)
        page, size = pb.ScanResponse(), 0
        for point in points:
            message = wire.stored_message(point)
            size += message.ByteSize()
            if page.points and size > PAGE_BYTES:
                page.next = point.id.bytes
                return page
            page.points.append(message)
        if following is not None:
            page.next = following.bytes
        return page

    def Flush(self, request: pb.FlushRequest, context: grpc.ServicerContext) -> pb.FlushResponse:
        with self._answering(context):
            self._store.flush(context.time_remaining())
        return pb.FlushResponse()

    @contextmanager
    def _answering(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Turn errors into a status; the messages are one line and hold no content of documents."""
        try:
            _require_caller(context)
            yield
        except RaglineError as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
            context.abort(code, str(error))

    @contextmanager
    def _writing(self, generation: str, context: grpc.ServicerContext) -> Iterator[EdgeShard]:
        with self._store.writing(generation, context.time_remaining()) as shard:
            _require_caller(context)
            yield shard


def _require_caller(context: grpc.ServicerContext) -> None:
    if not context.is_active():
        raise TransientError("the caller has gone; the work was not begun")
