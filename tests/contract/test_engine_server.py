"""What only the server's adapter can get wrong: what it sends over gRPC, and what failures mean."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client import grpc as qdrant

from ragline.errors import ConfigurationError, NotFound, PermanentError, RaglineError, TransientError
from ragline.index.connect import connect_engine
from ragline.index.edge import EdgeEngine
from ragline.index.server import QdrantEngine
from ragline.index.server_errors import server_errors
from ragline.index.versions import View
from tests.contract.engine_points import DIMENSIONS, point, points, query

VIEW = View("g1", 5, frozenset({3}))


class RecordingServer(grpc.GenericRpcHandler):
    """A Qdrant server that answers every call with success and keeps the requests."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        done = qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=qdrant.UpdateStatus.Completed))
        self.answers: dict[str, tuple[Any, Any]] = {
            "CollectionExists": (
                qdrant.CollectionExistsRequest,
                qdrant.CollectionExistsResponse(result=qdrant.CollectionExists(exists=True)),
            ),
            "Get": (
                qdrant.GetCollectionInfoRequest,
                qdrant.GetCollectionInfoResponse(result=_collection_info()),
            ),
            "Upsert": (qdrant.UpsertPoints, done),
            "SetPayload": (qdrant.SetPayloadPoints, done),
            "DeletePayload": (qdrant.DeletePayloadPoints, done),
            "Delete": (qdrant.DeletePoints, done),
            "QueryBatch": (
                qdrant.QueryBatchPoints,
                qdrant.QueryBatchResponse(result=[qdrant.BatchResult(), qdrant.BatchResult()]),
            ),
        }

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        request_type, answer = self.answers[method]

        async def handle(request: Any, context: Any) -> Any:
            self.requests[method] = request
            return answer

        return grpc.unary_unary_rpc_method_handler(
            handle, request_type.FromString, lambda message: message.SerializeToString()
        )


def _collection_info() -> Any:
    info = qdrant.CollectionInfo(status=qdrant.CollectionStatus.Green, optimizer_status=qdrant.OptimizerStatus(ok=True))
    vectors = info.config.params.vectors_config.params_map.map
    vectors["dense"].size = DIMENSIONS
    vectors["dense"].distance = qdrant.Distance.Cosine
    # What qdrant-client needs of any answer.
    info.config.hnsw_config.MergeFrom(qdrant.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10))
    info.config.optimizer_config.default_segment_number = 0
    info.config.wal_config.MergeFrom(qdrant.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0))
    return info


@pytest.fixture
async def recorded() -> AsyncIterator[tuple[RecordingServer, QdrantEngine]]:
    """A server and the engine that talks to it over gRPC."""
    handler = RecordingServer()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    engine = QdrantEngine.at(f"http://127.0.0.1:{port}")
    yield handler, engine
    await engine.aclose()
    await server.stop(None)


async def test_writes_wait_in_strong_order_and_insert_only(
    recorded: tuple[RecordingServer, QdrantEngine],
) -> None:
    server, engine = recorded
    new = points(3)
    ids = [one.id for one in new]
    await engine.insert("g1", 4, new)
    await engine.close("g1", 5, ids, frozenset({3}))
    await engine.sweep("g1", 5, ids[:1], ids[1:])
    await engine.set_groups("g1", "acme", "manual", ["staff"])
    for method in ("Upsert", "SetPayload", "DeletePayload", "Delete"):
        request = server.requests[method]
        assert request.collection_name == "ragline_g1"
        assert request.wait
        assert request.ordering.type == qdrant.WriteOrderingType.Strong
    upsert = server.requests["Upsert"]
    assert upsert.update_mode == qdrant.UpdateMode.InsertOnly
    assert [one.id.uuid for one in upsert.points] == [str(one) for one in ids]
    assert set(upsert.points[0].vectors.vectors.vectors) == {"dense", "bm25"}


async def test_a_close_over_grpc_keeps_its_condition(recorded: tuple[RecordingServer, QdrantEngine]) -> None:
    server, engine = recorded
    one = point("one")
    await engine.close("g1", 5, [one.id], frozenset({3}))
    sent = server.requests["SetPayload"]
    chosen = sent.points_selector.filter
    assert sent.payload["valid_to"].integer_value == 5
    assert [each.uuid for each in chosen.must[0].has_id.has_id] == [str(one.id)]
    assert chosen.should[0].is_empty.key == "valid_to"
    assert list(chosen.should[1].field.match.integers.integers) == [3]


async def test_a_search_over_grpc_keeps_its_filter_and_its_idf_corpus(
    recorded: tuple[RecordingServer, QdrantEngine],
) -> None:
    server, engine = recorded
    await engine.search(VIEW, query(groups=["staff"], limit=10))
    dense, sparse = server.requests["QueryBatch"].query_points
    assert (dense.using, sparse.using) == ("dense", "bm25")
    assert dense.filter == sparse.filter
    assert [one.field.key for one in dense.filter.must] == ["tenant", "groups", "valid_from"]
    assert list(dense.filter.must[1].field.match.keywords.strings) == ["*", "staff"]
    assert list(dense.filter.must_not[0].field.match.integers.integers) == [3]
    assert dense.filter.must_not[1].filter.must[0].field.range.lte == 5
    assert dense.params.acorn.enable and not dense.params.exact
    assert [one.field.key for one in sparse.params.idf.corpus.must] == ["tenant"]

    await engine.search(VIEW, query(exact=True))
    dense, sparse = server.requests["QueryBatch"].query_points
    assert dense.params.exact and not dense.params.acorn.enable
    assert [one.field.key for one in sparse.params.idf.corpus.must] == ["tenant", "valid_from"]
    assert len(sparse.params.idf.corpus.must_not) == 2


async def test_an_update_that_is_not_applied_yet_is_an_unknown_outcome(
    recorded: tuple[RecordingServer, QdrantEngine],
) -> None:
    server, engine = recorded
    for status in (qdrant.UpdateStatus.Acknowledged, qdrant.UpdateStatus.WaitTimeout):
        answer = qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=status))
        server.answers["Upsert"] = (qdrant.UpsertPoints, answer)
        with pytest.raises(TransientError, match="outcome is unknown"):
            await engine.insert("g1", 1, points(1))


async def test_an_answer_that_the_client_cannot_read_is_a_transient_fault(
    recorded: tuple[RecordingServer, QdrantEngine],
) -> None:
    server, engine = recorded
    server.answers["Get"] = (qdrant.GetCollectionInfoRequest, qdrant.GetCollectionInfoResponse())
    with pytest.raises(TransientError, match="this client cannot read; check its version"):
        await engine.insert("g1", 1, points(1))


async def test_an_unreachable_server_is_a_transient_fault() -> None:
    with socket.socket() as bound:
        # Bound but not listening: nobody can be there.
        bound.bind(("127.0.0.1", 0))
        engine = QdrantEngine.at(f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(TransientError, match="the Qdrant server failed to"):
            await engine.search(VIEW, query())
        await engine.aclose()


async def test_a_collection_of_somebody_else_is_not_taken_for_a_generation() -> None:
    client = AsyncQdrantClient(location=":memory:")
    await client.create_collection(
        "ragline_g1", vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT)
    )
    engine = QdrantEngine(client)
    with pytest.raises(PermanentError, match="not Ragline's"):
        await engine.insert("g1", 1, points(1))
    await engine.aclose()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, TransientError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TransientError),
        (grpc.StatusCode.CANCELLED, TransientError),
        (grpc.StatusCode.INTERNAL, TransientError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TransientError),
        (grpc.StatusCode.INVALID_ARGUMENT, PermanentError),
        (grpc.StatusCode.NOT_FOUND, NotFound),
    ],
)
async def test_a_servers_status_decides_whether_to_try_again(
    code: grpc.StatusCode, expected: type[RaglineError]
) -> None:
    metadata = grpc.aio.Metadata()
    with pytest.raises(expected, match="search: told why"):
        async with server_errors("search", 1.0):
            raise grpc.aio.AioRpcError(code, metadata, metadata, details="told\nwhy")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
async def test_a_refused_key_is_named_and_stalls_rather_than_dead_letters(code: grpc.StatusCode) -> None:
    metadata = grpc.aio.Metadata()
    with pytest.raises(TransientError, match="RAGLINE_ENGINE__API_KEY"):
        async with server_errors("search", 1.0):
            raise grpc.aio.AioRpcError(code, metadata, metadata)


async def test_a_server_that_does_not_answer_in_time_is_a_transient_fault() -> None:
    with pytest.raises(TransientError, match="outcome is unknown"):
        async with server_errors("search", 0.01):
            await asyncio.Event().wait()


async def test_a_setting_names_the_engine() -> None:
    for url in ("unix:///run/engine.sock", "unix:run/engine.sock"):
        assert isinstance(connect_engine(url), EdgeEngine)
    for url in ("http://qdrant:6334", "https://qdrant.example"):
        engine = connect_engine(url, api_key=None)
        assert isinstance(engine, QdrantEngine)
        await engine.aclose()


@pytest.mark.parametrize("url", ["", "qdrant:6334", "unix:", "http://", "ftp://qdrant"])
def test_a_setting_that_names_no_engine_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="RAGLINE_ENGINE__URL"):
        connect_engine(url)
