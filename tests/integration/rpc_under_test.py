"""A server behind the gRPC edge whose servicer does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import Identity, KeyFile, current_identity
from ragline.rpc import Caller, RpcServer, open_channel, remaining_s
from ragline.telemetry import Telemetry
from tests.integration.embed_under_test import eventually

SERVICE = "ragline.gateway.v1.GatewayService"
SCOPES = {f"/{SERVICE}/GetBudget": ("ask",), f"/{SERVICE}/Ask": ("ask",), f"/{SERVICE}/SetBudget": ("admin",)}


@dataclass
class Servicer(gateway_pb2_grpc.GatewayServiceServicer):
    """Does what a test says: GetBudget is its unary call, Ask its stream."""

    error: BaseException | None = None
    hang: bool = False
    callers: list[Identity] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def _behave(self, context: Any) -> None:
        self.callers.append(current_identity())
        self.remaining.append(remaining_s(context))
        self.entered.set()
        if self.error is not None:
            raise self.error
        if self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    async def GetBudget(self, request: Any, context: Any) -> pb.GetBudgetResponse:
        await self._behave(context)
        return pb.GetBudgetResponse()

    async def Ask(self, request: Any, context: Any) -> AsyncIterator[pb.AskResponse]:
        try:
            yield pb.AskResponse()
            await self._behave(context)
            while True:  # more than a caller reads who leaves
                yield pb.AskResponse()
        finally:
            self.cancelled.set()


@dataclass
class Edge:
    """A server, its servicer, and what was traced."""

    server: RpcServer
    servicer: Servicer
    stub: gateway_pb2_grpc.GatewayServiceAsyncStub
    channel: grpc.aio.Channel
    keys: KeyFile
    telemetry: Telemetry
    exporter: InMemorySpanExporter

    def token(self, *scopes: str, **fields: Any) -> str:
        return self.keys.create(Identity("acme", "ada", frozenset({"staff"}), frozenset(scopes)), **fields)

    def caller(self, *scopes: str, **options: Any) -> Caller:
        return Caller(self.telemetry, token=self.token(*(scopes or ("ask",))), **options)

    async def call(self, caller: Caller | None = None, **options: Any) -> Any:
        caller = caller or self.caller()
        return await caller(self.stub.GetBudget, pb.GetBudgetRequest(), name="GatewayService/GetBudget", **options)

    def ask(self, *, timeout: float | None = 5) -> Any:
        metadata = (("authorization", f"Bearer {self.token('ask')}"),)
        return self.stub.Ask(pb.AskRequest(), metadata=metadata, timeout=timeout)

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

    async def server_span(self) -> ReadableSpan:
        async def ended() -> bool:
            return bool(self.spans(SpanKind.SERVER))

        await eventually(ended)
        return self.spans(SpanKind.SERVER)[0]


@asynccontextmanager
async def running_edge(folder: Path) -> AsyncIterator[Edge]:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry("edge", processors=[SimpleSpanProcessor(exporter)])
    keys, servicer = KeyFile(folder / "keys.json"), Servicer()  # type: ignore[abstract]
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
    )
    await server.start()
    channel = open_channel(server.address)
    stub = gateway_pb2_grpc.GatewayServiceStub(channel)
    yield Edge(server, servicer, stub, channel, keys, telemetry, exporter)
    await channel.close()
    await server.stop(grace_s=0)
