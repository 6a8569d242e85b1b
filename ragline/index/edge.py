"""The embedded engine's client: `VectorEngine` over the worker's local socket."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from ragline.engine.v1 import engine_pb2 as pb
from ragline.engine.v1 import engine_pb2_grpc
from ragline.errors import FailedPrecondition, NotFound, PermanentError, RaglineError, TransientError
from ragline.index import wire
from ragline.index.engine import Candidates, NewPoint, Query, StoredPoint
from ragline.index.points import ID_BATCH, INSERT_BATCH_POINTS, check_points, check_query, in_batches
from ragline.index.versions import View
from ragline.telemetry import trace_headers

_MAX_MESSAGE_BYTES: Final = 64 << 20
_INSERT_BATCH_BYTES: Final = 8 << 20
_PAGE_POINTS: Final = 512

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A restarted worker is found again within a second rather than after grpc's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long one attempt may take, in spite of its name: a worker in an update or a flush answers late.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # A channel of its own: a shared one would keep another engine's connection state.
    ("grpc.use_local_subchannel_pool", 1),
)

_PERMANENT: Final[dict[grpc.StatusCode, type[PermanentError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: PermanentError,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    # The socket is local and has no quota: this is a message beyond the limit.
    grpc.StatusCode.RESOURCE_EXHAUSTED: PermanentError,
}


class EdgeEngine:
    """`VectorEngine` on the embedded engine (see `ragline.index.engine` for every promise).

    `address` is grpc's, such as `unix:/path/engine.sock`. Each call to the worker has a deadline: a
    search `search_timeout_s`, any other `write_timeout_s`, and making, dropping and flushing
    `admin_timeout_s`. A generation that was never made raises NotFound.
    """

    def __init__(
        self,
        address: str,
        *,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        search_timeout_s: float = 5.0,
        write_timeout_s: float = 30.0,
        admin_timeout_s: float = 60.0,
    ) -> None:
        self._address = address
        self._interceptors = interceptors
        self._search_timeout_s = search_timeout_s
        self._write_timeout_s = write_timeout_s
        self._admin_timeout_s = admin_timeout_s
        self._channel: grpc.aio.Channel | None = None

    async def create_generation(self, generation: str, dimensions: int) -> None:
        """See VectorEngine; raises FailedPrecondition if it is there with other dimensions."""
        request = pb.CreateGenerationRequest(generation=generation, dimensions=dimensions)
        await self._call("CreateGeneration", request, self._admin_timeout_s)

    async def drop_generation(self, generation: str) -> None:
        """See VectorEngine."""
        request = pb.DropGenerationRequest(generation=generation)
        await self._call("DropGeneration", request, self._admin_timeout_s)

    async def insert(self, generation: str, sequence: int, points: Sequence[NewPoint]) -> None:
        """See VectorEngine. The worker knows the dimensions and refuses the first batch by them."""
        check_points(points)
        for batch in _insert_batches(points):
            request = pb.InsertRequest(generation=generation, sequence=sequence, points=batch)
            await self._call("Insert", request, self._write_timeout_s)

    async def close(self, generation: str, sequence: int, ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> None:
        """See VectorEngine."""
        for batch in in_batches(ids, ID_BATCH):
            request = pb.CloseRequest(
                generation=generation, sequence=sequence, ids=wire.id_bytes(batch), aborted=sorted(aborted)
            )
            await self._call("Close", request, self._write_timeout_s)

    async def count_opened(self, generation: str, sequence: int) -> int:
        """See VectorEngine."""
        request = pb.CountOpenedRequest(generation=generation, sequence=sequence)
        response: pb.CountOpenedResponse = await self._call("CountOpened", request, self._write_timeout_s)
        return response.count

    async def sweep(
        self, generation: str, sequence: int, opened: Sequence[uuid.UUID], closed: Sequence[uuid.UUID]
    ) -> None:
        """See VectorEngine."""
        requests = [
            *(pb.SweepRequest(opened=wire.id_bytes(batch)) for batch in in_batches(opened, ID_BATCH)),
            *(pb.SweepRequest(closed=wire.id_bytes(batch)) for batch in in_batches(closed, ID_BATCH)),
        ]
        for request in requests:
            request.generation = generation
            request.sequence = sequence
            await self._call("Sweep", request, self._write_timeout_s)

    async def set_groups(self, generation: str, tenant: str, document_id: str, groups: Sequence[str]) -> None:
        """See VectorEngine."""
        request = pb.SetGroupsRequest(generation=generation, tenant=tenant, document_id=document_id, groups=groups)
        await self._call("SetGroups", request, self._write_timeout_s)

    async def delete(self, generation: str, ids: Sequence[uuid.UUID]) -> None:
        """See VectorEngine."""
        for batch in in_batches(ids, ID_BATCH):
            request = pb.DeleteRequest(generation=generation, ids=wire.id_bytes(batch))
            await self._call("Delete", request, self._write_timeout_s)

    async def search(self, view: View, query: Query) -> Candidates:
        """See VectorEngine; raises InvalidArgument for a query that cannot be answered."""
        check_query(query)
        response: pb.SearchResponse = await self._call(
            "Search", wire.search_message(view, query), self._search_timeout_s
        )
        return Candidates(wire.scored_of(response.dense), wire.scored_of(response.sparse))

    async def scan(self, view: View) -> AsyncIterator[StoredPoint]:
        """See VectorEngine. Page by page, so a slow reader holds nothing up."""
        async for point in self._pages(pb.ScanRequest(generation=view.generation, view=wire.view_message(view))):
            yield point

    async def scan_all(self, generation: str) -> AsyncIterator[StoredPoint]:
        """See VectorEngine."""
        async for point in self._pages(pb.ScanRequest(generation=generation)):
            yield point

    async def flush(self) -> None:
        """See VectorEngine."""
        await self._call("Flush", pb.FlushRequest(), self._admin_timeout_s)

    async def aclose(self) -> None:
        """See VectorEngine."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _pages(self, request: pb.ScanRequest) -> AsyncIterator[StoredPoint]:
        request.limit = _PAGE_POINTS
        while True:
            page: pb.ScanResponse = await self._call("Scan", request, self._write_timeout_s)
            for message in page.points:
                yield wire.stored_of(message)
            if not page.next:
                return
            request.start = page.next

    async def _call(self, method: str, request: Any, timeout_s: float) -> Any:
        """One call to the worker; cancelling this cancels it, and the worker drops what it had not begun."""
        if self._channel is None:
            # Made here, so that the channel belongs to the event loop that uses it.
            self._channel = grpc.aio.insecure_channel(
                self._address, options=_CHANNEL_OPTIONS, interceptors=list(self._interceptors)
            )
        stub = engine_pb2_grpc.EngineServiceStub(self._channel)
        metadata = tuple(trace_headers().items())
        try:
            return await getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _error_of(error, method, self._address) from error


def _error_of(error: grpc.aio.AioRpcError, method: str, address: str) -> RaglineError:
    """Ragline's error for a failed call: what is not surely the request's own fault may be tried again."""
    code, details = error.code(), error.details() or ""
    permanent = _PERMANENT.get(code)
    if permanent is not None:
        return permanent(details)
    return TransientError(
        f"the embedded engine at {address} did not answer {method} ({code.name}: {details}); see that its worker runs"
    )


def _insert_batches(points: Sequence[NewPoint]) -> Iterator[list[pb.Point]]:
    """Messages of at most 64 points, fewer when they are large."""
    batch: list[pb.Point] = []
    size = 0
    for point in points:
        message = wire.point_message(point)
        if batch and (len(batch) == INSERT_BATCH_POINTS or size + message.ByteSize() > _INSERT_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.ByteSize()
    if batch:
        yield batch
