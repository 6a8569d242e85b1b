"""gRPC for every service: deadlines, verified identity, one trace, and errors that say what to do.

The server interceptor is the edge: it starts the span, verifies the token, checks the scope, bounds
the time and turns Ragline's errors into google.rpc.Status. An unexpected error never leaks its text.
The client side is a `Caller`: explicit awaits rather than interceptors, because those lose
cancellation (design: measured facts).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeVar

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ragline.errors import (
    PermanentError,
    RaglineError,
    TransientError,
    Unauthenticated,
)
from ragline.identity import KeyFile, current_identity, set_current_identity
from ragline.rpc_errors import error_from as error_from
from ragline.rpc_errors import status_of
from ragline.telemetry import Attribute, Telemetry, remote_context, trace_headers

log = structlog.get_logger(__name__)

DEFAULT_DEADLINE_S: Final = 60.0
"""For callers that set none: no call runs for ever."""
LIVENESS: Final = "live"
"""What a liveness probe asks the health service for: SERVING as long as the process answers. To ask for
readiness instead would restart a service because Kafka is down."""
_OPEN_PREFIXES: Final = ("/grpc.health.", "/grpc.reflection.")

Request = TypeVar("Request")
Response = TypeVar("Response")


# --- the server ---------------------------------------------------------------------------------


class _Edge(grpc.aio.ServerInterceptor):
    """Trace, identity, scope, deadline and errors around every handler."""

    def __init__(self, telemetry: Telemetry, keys: KeyFile, scopes: Mapping[str, tuple[str, ...]]) -> None:
        self._telemetry = telemetry
        self._keys = keys
        self._scopes = scopes

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_OPEN_PREFIXES):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        raise TypeError(f"{method}: streaming in both directions is not served")

    def _unary(self, method: str, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def serve(request: Any, context: Any) -> Any:
            with self._span(method, context) as span:
                try:
                    async with asyncio.timeout(_time_left_s(context)):
                        self._admit(method, context, span)
                        return await inner(request, context)
                except BaseException as error:  # noqa: BLE001 (the edge: everything is named here, or re-raised)
                    await _abort(context, span, error)

        return serve

    def _stream(
        self, method: str, inner: Callable[[Any, Any], AsyncGenerator[Any, None]]
    ) -> Callable[[Any, Any], Awaitable[None]]:
        # No generator: one that is left at its yield would end later, in another task and context.
        async def serve(request: Any, context: Any) -> None:
            with self._span(method, context) as span:
                try:
                    async with asyncio.timeout(_time_left_s(context)), aclosing(inner(request, context)) as responses:
                        self._admit(method, context, span)
                        async for response in responses:
                            await context.write(response)
                except BaseException as error:  # noqa: BLE001 (as above)
                    await _abort(context, span, error)

        return serve

    @contextmanager
    def _span(self, method: str, context: Any) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        service, _, name = method.removeprefix("/").partition("/")
        with self._telemetry.tracer.start_as_current_span(
            f"{service}/{name}",
            context=remote_context(metadata),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def _admit(self, method: str, context: Any, span: Span) -> None:
        metadata = dict(context.invocation_metadata() or ())
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("send the metadata `authorization: Bearer <token>`")
        identity = self._keys.verify(token.strip())
        identity.require(*self._scopes.get(method, ("nobody",)))
        set_current_identity(identity)
        span.set_attribute(Attribute.TENANT, identity.tenant)


def _time_left_s(context: Any) -> float:
    remaining: float | None = context.time_remaining()
    return DEFAULT_DEADLINE_S if remaining is None else max(0.0, remaining)


async def _abort(context: Any, span: Span, error: BaseException) -> None:
    """End the call with the error's status; cancellation is passed on."""
    if isinstance(error, asyncio.CancelledError):
        # gRPC itself cancels a handler whose deadline has passed, as it does when the caller leaves.
        code = grpc.StatusCode.CANCELLED if _time_left_s(context) else grpc.StatusCode.DEADLINE_EXCEEDED
        span.set_status(Status(StatusCode.ERROR, code.name.lower()))
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        raise error
    if isinstance(error, TimeoutError):
        code, status = grpc.StatusCode.DEADLINE_EXCEEDED, None
        message = "the deadline passed"
    elif isinstance(error, PermanentError | TransientError):
        code, status = status_of(error)
        message = str(error)
    elif isinstance(error, grpc.aio.AbortError):
        raise error
    else:
        log.error("rpc_defect", exc_info=error)
        code, status, message = grpc.StatusCode.INTERNAL, None, "internal error; the trace names it"
        span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, message))
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if isinstance(error, RaglineError):
        span.set_attribute("error.type", error.reason)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),) if status is not None else ()
    await context.abort(code, message, trailing)


def remaining_s(context: Any, *, at_most: float = DEFAULT_DEADLINE_S) -> float:
    """How much of the call's deadline is left, for the calls that a handler makes."""
    return min(_time_left_s(context), at_most)


class RpcServer:
    """A service's gRPC server, with health, reflection and drain.

    `register` adds the servicers; `scopes` says, for each full method, which scopes admit a caller
    (any of them). A method that is missing there admits nobody.
    """

    def __init__(
        self,
        address: str,
        *,
        telemetry: Telemetry,
        keys: KeyFile,
        register: Callable[[grpc.aio.Server], None],
        scopes: Mapping[str, tuple[str, ...]],
        max_message_mb: int = 16,
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[_Edge(telemetry, keys, scopes)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_mb << 20),
                ("grpc.max_send_message_length", max_message_mb << 20),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        register(self._server)
        self._services = sorted({method.split("/")[1] for method in scopes})
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*self._services, reflection.SERVICE_NAME], self._server)
        self._requested = address
        self.address = address

    async def start(self) -> None:
        """Listen; a port of 0 is replaced by a free one in `address`. Not serving until `set_ready`."""
        try:
            port = self._server.add_insecure_port(self._requested)
        except RuntimeError as error:
            raise TransientError(f"{self._requested} is in use or cannot be bound") from error
        self.address = f"{self._requested.rpartition(':')[0]}:{port}"
        await self.set_ready(ready=False)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    async def set_ready(self, *, ready: bool) -> None:
        """What health checks answer."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, status)

    async def stop(self, *, grace_s: float = 4.0) -> None:
        """Refuse new calls, let those under way finish within the grace, then cut them off."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


# --- the client ---------------------------------------------------------------------------------


def open_channel(address: str, *, max_message_mb: int = 16) -> grpc.aio.Channel:
    """A channel that reconnects quickly; `address` is host:port or a gRPC target."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.max_receive_message_length", max_message_mb << 20),
            ("grpc.max_send_message_length", max_message_mb << 20),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.lb_policy_name", "round_robin"),
        ],
    )


class Caller:
    """Makes calls to other services within the present trace; failures come back as Ragline's errors."""

    def __init__(self, telemetry: Telemetry, *, token: str, deadline_s: float = 10.0) -> None:
        self._telemetry = telemetry
        self._token = token
        self._deadline_s = deadline_s

    async def __call__(
        self,
        method: Any,
        request: Any,
        *,
        name: str,
        deadline_s: float | None = None,
        token: str | None = None,
        wait_for_ready: bool = False,
    ) -> Any:
        """Call a unary method (`stub.Search`); `name` is `Service/Method`, for the span.

        Raises the Ragline error that the server's status stands for; cancelling this cancels the call.
        """
        with self._telemetry.tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc"},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            metadata = (("authorization", f"Bearer {token or self._token}"), *trace_headers().items())
            try:
                return await method(
                    request,
                    timeout=deadline_s if deadline_s is not None else self._deadline_s,
                    metadata=metadata,
                    wait_for_ready=wait_for_ready,
                )
            except grpc.aio.AioRpcError as error:
                span.set_status(Status(StatusCode.ERROR, error.details() or ""))
                span.set_attribute("rpc.grpc.status_code", error.code().value[0])
                raise error_from(error) from error
            except asyncio.CancelledError:
                span.set_status(Status(StatusCode.ERROR, "cancelled"))
                raise


def bearer_token(context: Any) -> str:
    """The verified caller's own token, to pass on to a service that verifies it again."""
    current_identity()
    metadata: Sequence[tuple[str, str]] = context.invocation_metadata() or ()
    return str(dict(metadata)["authorization"]).partition(" ")[2].strip()
