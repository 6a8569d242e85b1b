"""The gRPC edge: who is let in, how long a call may take, and what a failure tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.trace import SpanKind, StatusCode

from ragline.errors import (
    ConfigurationError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermanentError,
    PermissionDenied,
    RaglineError,
    ResourceExhausted,
    TransientError,
    Unauthenticated,
    VersionUnavailable,
)
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.identity import Identity
from ragline.rpc import RpcServer
from tests.integration.rpc_under_test import SCOPES, SERVICE, Edge, running_edge


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path) as edge:
        yield edge


# --- who is let in --------------------------------------------------------------------------------


async def test_a_handler_knows_its_verified_caller(edge: Edge) -> None:
    await edge.call()

    assert edge.servicer.callers == [Identity("acme", "ada", frozenset({"staff"}), frozenset({"ask"}))]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer rgl_", "Bearer rgl_abc_def", "Bearer x" * 50, "bearer {id}"],
)
async def test_without_a_valid_token_nobody_is_let_in(edge: Edge, header: str | None) -> None:
    token = edge.token("ask")
    metadata = () if header is None else (("authorization", header.format(id=token.rpartition("_")[0] + "_wrong")),)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await edge.stub.GetBudget(pb.GetBudgetRequest(), metadata=metadata, timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert edge.servicer.callers == []


async def test_a_stream_is_guarded_as_well(edge: Edge) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in edge.stub.Ask(pb.AskRequest(), timeout=5):
            pass

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_that_lacks_the_scope_is_refused(edge: Edge) -> None:
    with pytest.raises(PermissionDenied, match="scope ask"):
        await edge.call(edge.caller("search"))


async def test_a_method_without_declared_scopes_admits_nobody(edge: Edge) -> None:
    caller = edge.caller("ask", "search", "publish", "admin", "internal")

    with pytest.raises(PermissionDenied):
        await caller(edge.stub.GetAnswer, pb.GetAnswerRequest(), name="GatewayService/GetAnswer")


async def test_a_revoked_key_ends_at_once(edge: Edge) -> None:
    caller = edge.caller("ask")
    await edge.call(caller)

    edge.keys.revoke(edge.keys.list()[0].id)

    with pytest.raises(Unauthenticated):
        await edge.call(caller)


async def test_an_expired_key_is_refused(edge: Edge) -> None:
    token = edge.token("ask", expires=datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(Unauthenticated, match="expired"):
        await edge.call(edge.caller(), token=token)


async def test_a_damaged_key_file_lets_nobody_in_and_is_not_described_to_callers(edge: Edge) -> None:
    caller = edge.caller("ask")
    edge.keys.path.write_text("{")

    with pytest.raises(RaglineError) as refused:
        await edge.call(caller)

    assert str(edge.keys.path) not in str(refused.value)
    assert edge.servicer.callers == []


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("query", "is empty"), grpc.StatusCode.INVALID_ARGUMENT),
        (PermanentError("no", reason="ODD"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotFound("no such answer", reason="GONE"), grpc.StatusCode.NOT_FOUND),
        (Unauthenticated("who?"), grpc.StatusCode.UNAUTHENTICATED),
        (PermissionDenied("not you", reason="SOURCE"), grpc.StatusCode.PERMISSION_DENIED),
        (FailedPrecondition("not now"), grpc.StatusCode.FAILED_PRECONDITION),
        (VersionUnavailable("g1@7 cannot be read"), grpc.StatusCode.FAILED_PRECONDITION),
        (ResourceExhausted("spent", retry_after_s=0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (
            ResourceExhausted("spent", reason="BUDGET", violations=(("user:ada", "0.01 USD left"), ("team:x", "0"))),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
        (TransientError("later", reason="BUSY"), grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_an_error_arrives_as_it_was_raised(edge: Edge, error: RaglineError, code: grpc.StatusCode) -> None:
    edge.servicer.error = error

    with pytest.raises(type(error)) as arrived:
        await edge.call()

    assert type(arrived.value) is type(error)
    assert (str(arrived.value), arrived.value.reason) == (str(error), error.reason)
    for detail in ("field", "retry_after_s", "violations"):
        assert getattr(arrived.value, detail, None) == getattr(error, detail, None)
    cause = arrived.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError) and cause.code() is code


@pytest.mark.parametrize(
    "error", [RuntimeError("password=hunter2"), ConfigurationError("/secret/path is odd"), AssertionError("hunter2")]
)
async def test_an_unexpected_error_leaks_nothing(edge: Edge, error: Exception) -> None:
    edge.servicer.error = error

    with pytest.raises(TransientError) as arrived:
        await edge.call()
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        async for _ in edge.ask():
            pass

    cause = arrived.value.__cause__
    assert isinstance(cause, grpc.aio.AioRpcError)
    for failure in (cause, streamed.value):
        assert failure.code() is grpc.StatusCode.INTERNAL
        told = repr((failure.details(), failure.debug_error_string(), failure.trailing_metadata()))
        assert "hunter2" not in told and "secret" not in told


async def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_sent(edge: Edge) -> None:
    edge.servicer.error = ResourceExhausted("spent", reason="BUDGET")
    stream = edge.ask()

    assert await stream.read() == pb.AskResponse()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stream.read()

    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- time -----------------------------------------------------------------------------------------


async def test_a_deadline_ends_the_call_and_cancels_the_handler(edge: Edge) -> None:
    edge.servicer.hang = True

    with pytest.raises(TransientError) as late:
        await edge.call(deadline_s=0.2)

    assert late.value.reason == "DEADLINE_EXCEEDED"
    await asyncio.wait_for(edge.servicer.cancelled.wait(), 2)
    span = await edge.server_span()
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


async def test_a_deadline_ends_a_stream_and_cancels_its_handler(edge: Edge) -> None:
    edge.servicer.hang = True

    with pytest.raises(grpc.aio.AioRpcError) as late:
        async for _ in edge.ask(timeout=0.3):
            pass

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(edge.servicer.cancelled.wait(), 2)


async def test_a_handler_knows_how_much_time_is_left(edge: Edge) -> None:
    await edge.call(deadline_s=3)

    assert edge.servicer.remaining[0] == pytest.approx(3, abs=1)


async def test_a_call_without_a_deadline_gets_one(edge: Edge) -> None:
    metadata = (("authorization", f"Bearer {edge.token('ask')}"),)
    await edge.stub.GetBudget(pb.GetBudgetRequest(), metadata=metadata)

    assert edge.servicer.remaining == [60.0]


async def test_a_caller_who_leaves_cancels_the_handler(edge: Edge) -> None:
    edge.servicer.hang = True
    calling = asyncio.create_task(edge.call())
    await asyncio.wait_for(edge.servicer.entered.wait(), 2)

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    await asyncio.wait_for(edge.servicer.cancelled.wait(), 2)
    span = await edge.server_span()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "cancelled")


async def test_a_caller_who_leaves_a_stream_ends_it(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """Also while the handler is not waiting for anything but for its caller to read."""
    stream = edge.ask()
    await stream.read()

    stream.cancel()

    await asyncio.wait_for(edge.servicer.cancelled.wait(), 2)
    span = await edge.server_span()
    assert span.status.status_code is StatusCode.ERROR
    assert "detach" not in caplog.text, "the span's context was left in another task"


# --- traces, health, limits -----------------------------------------------------------------------


async def test_caller_and_server_are_in_one_trace_and_both_say_how_it_ended(edge: Edge) -> None:
    edge.servicer.error = NotFound("no such answer", reason="GONE")
    with edge.telemetry.tracer.start_as_current_span("question") as question, pytest.raises(NotFound):
        await edge.call()

    (client,), (server,) = edge.spans(SpanKind.CLIENT), edge.spans(SpanKind.SERVER)
    assert client.parent is not None and client.parent.span_id == question.get_span_context().span_id
    assert server.parent is not None and server.parent.span_id == client.context.span_id
    assert server.name == f"{SERVICE}/GetBudget"
    for span in (client, server):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert (server.attributes or {})["rag.tenant"] == "acme"


async def test_the_caller_s_span_ends_when_the_call_is_cancelled(edge: Edge) -> None:
    edge.servicer.hang = True
    calling = asyncio.create_task(edge.call())
    await asyncio.wait_for(edge.servicer.entered.wait(), 2)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    (client,) = edge.spans(SpanKind.CLIENT)
    assert client.status.description == "cancelled"


async def test_health_follows_readiness_and_needs_no_token(edge: Edge) -> None:
    health = health_pb2_grpc.HealthStub(edge.channel)

    async def status(service: str) -> Any:
        return (await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status

    assert await status("") == health_pb2.HealthCheckResponse.NOT_SERVING
    await edge.server.set_ready(ready=True)
    assert await status("") == health_pb2.HealthCheckResponse.SERVING
    assert await status(SERVICE) == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_names_the_service(edge: Edge) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(edge.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]), timeout=5)]

    assert SERVICE in [service.name for service in answers[0].list_services_response.service]


async def test_an_address_in_use_is_named(edge: Edge) -> None:
    second = RpcServer(
        edge.server.address,
        telemetry=edge.telemetry,
        keys=edge.keys,
        register=lambda _: None,
        scopes=SCOPES,
    )

    with pytest.raises(TransientError, match=edge.server.address):
        await second.start()


async def test_a_server_that_cannot_be_reached_is_a_passing_trouble(edge: Edge) -> None:
    await edge.server.stop(grace_s=0)

    with pytest.raises(TransientError):
        await edge.call()


async def test_stopping_cuts_off_what_does_not_end_within_the_grace(edge: Edge) -> None:
    edge.servicer.hang = True
    calling = asyncio.create_task(edge.call())
    await asyncio.wait_for(edge.servicer.entered.wait(), 2)

    await edge.server.stop(grace_s=0.1)

    with pytest.raises(TransientError):
        await calling
    assert edge.servicer.cancelled.is_set()
