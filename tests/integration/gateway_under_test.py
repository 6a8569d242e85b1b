"""A gateway on a real PostgreSQL and real gRPC, with a retrieve and an embed that say what tests need."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ragline.contracts.cloudevents import Message
from ragline.database import Database, package_folder
from ragline.errors import TransientError
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import Identity, KeyFile, current_identity
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.outbox import Outbox
from ragline.retrieve.v1 import retrieve_pb2, retrieve_pb2_grpc
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.telemetry import Telemetry
from services.generate import extractive
from services.generate.admission import Policy
from services.generate.answers import Answers
from services.generate.asking import Asking
from services.generate.budget import Budgets
from services.generate.model import LiteLlmModel, ModelChunk, ModelError, Usage
from services.generate.pricing import ModelPrice, PriceList
from services.generate.prompts import Prompt, parse
from services.generate.recording import Recorder
from services.generate.retrieval import IngestTraces, Retrieval
from services.generate.servicer import SCOPES, GatewayServicer

QUESTION = "How many spaces per indentation level does Python code use?"
EVIDENCE = "Python code uses four spaces per indentation level. Tabs are kept for old code only."
INGEST_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PRICE = ModelPrice(input_usd_per_token=Decimal("0.001"), output_usd_per_token=Decimal("0.002"))


class FakeRetrieve(retrieve_pb2_grpc.RetrieveServiceServicer):
    """Finds the same hits for everyone, and remembers who asked."""

    def __init__(self) -> None:
        self.hits = [hit(1, "pep-8", EVIDENCE), hit(2, "pep-20", "Beautiful is better than ugly.")]
        self.requests: list[retrieve_pb2.SearchRequest] = []
        self.callers: list[Identity] = []

    async def Search(self, request: Any, context: Any) -> retrieve_pb2.SearchResponse:
        self.requests.append(request)
        self.callers.append(current_identity())
        return retrieve_pb2.SearchResponse(
            index_version=retrieve_pb2.IndexVersion(version="g1@42", fingerprint="ab" * 32),
            hits=self.hits,
            embedder="minilm",
        )


class FakeIndex(indexing_pb2_grpc.IndexServiceServicer):
    """Knows the trace of every point, unless it is broken."""

    def __init__(self) -> None:
        self.broken = False

    async def GetIngestTraces(self, request: Any, context: Any) -> indexing_pb2.GetIngestTracesResponse:
        current_identity().require("internal")
        if self.broken:
            raise TransientError("embed is restarting")
        traces = dict.fromkeys(request.point_ids, f"00-{INGEST_TRACE}-00f067aa0ba902b7-01")
        return indexing_pb2.GetIngestTracesResponse(traceparents=traces)


def hit(rank: int, document_id: str, text: str) -> retrieve_pb2.Hit:
    return retrieve_pb2.Hit(
        rank=rank,
        document_id=document_id,
        chunk_id=f"chunk-{rank}",
        content_hash="cd" * 32,
        point_id=str(uuid.uuid4()),
        title=document_id.upper(),
        heading_path=[document_id.upper(), "Indentation"],
        uri=f"https://example.org/{document_id}",
        text=text,
        score=1 / rank,
        dense=retrieve_pb2.StageScore(score=0.5, rank=rank),
        valid_from=7,
    )


@dataclass
class ScriptedModel(LiteLlmModel):
    """Streams the extractive model's answer, or what a test says; counts what was sent."""

    fail_with: ModelError | None = None
    hang_after_first_word: bool = False
    never_stop: bool = False
    report_usage: bool = True
    calls: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def count_tokens(self, model: str, text: str) -> int:
        return extractive.count_tokens(text)

    async def stream(
        self, prompt: Prompt, *, model: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[ModelChunk, None]:
        self.calls += 1
        if self.fail_with is not None:
            raise self.fail_with
        text = extractive.answer(*parse(prompt.messages)).text
        words: Iterable[str] = text.split(" ") if not self.never_stop else itertools.repeat("more")
        for position, word in enumerate(words):
            yield ModelChunk(text=word if position == 0 else f" {word}", usage=None, finish_reason=None)
            if self.hang_after_first_word:
                await self._hang()
        prompt_tokens = sum(extractive.count_tokens(message["content"]) for message in prompt.messages)
        usage = Usage(prompt_tokens, extractive.count_tokens(text), reported=True)
        yield ModelChunk(text="", usage=usage if self.report_usage else None, finish_reason="stop")

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


@dataclass
class Gateway:
    """A gateway under test and what surrounds it."""

    stub: gateway_pb2_grpc.GatewayServiceAsyncStub
    asking: Asking
    tokens: dict[str, str]
    model: ScriptedModel
    retrieve: FakeRetrieve
    index: FakeIndex
    database: Database
    outbox: Outbox
    published: list[Message]
    spans: InMemorySpanExporter

    def metadata(self, user: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens[user]}"),)

    async def call(self, method: str, request: Any, user: str = "alice") -> Any:
        return await getattr(self.stub, method)(request, metadata=self.metadata(user), timeout=20)

    async def ask(self, question: str = QUESTION, user: str = "alice", **fields: Any) -> list[pb.AskResponse]:
        request = pb.AskRequest(question=question, **fields)
        return [step async for step in self.stub.Ask(request, metadata=self.metadata(user), timeout=20)]

    async def refused(self, call: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        return raised.value

    async def stored(self) -> list[Any]:
        return await self.database.fetch("SELECT * FROM answer ORDER BY created_at")

    async def reservations(self) -> list[tuple[str, Decimal, Decimal | None]]:
        rows = await self.database.fetch("SELECT * FROM reservation ORDER BY created_at")
        return [(row["state"], row["amount_usd"], row["settled_usd"]) for row in rows]

    async def wait_for_answer(self) -> Any:
        """An answer that is stored after the caller has gone."""
        async with asyncio.timeout(10):
            while not (rows := await self.stored()):
                await asyncio.sleep(0.01)
        return rows[-1]

    async def limit(self, usd: float, user: str = "alice") -> None:
        await self.call("SetBudget", pb.SetBudgetRequest(user=user, period="day", limit_usd=usd), "root")


@pytest.fixture(scope="module")
async def gateway_database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "generate")
    await database.open(package_folder("services.generate") / "migrations")
    yield database
    await database.aclose()


@pytest.fixture
async def gateway(gateway_database: Database, tmp_path: Path) -> AsyncIterator[Gateway]:
    database = gateway_database
    await database.fetch("TRUNCATE answer, evidence, outbox, reservation, budget_window, budget_limit")
    keys = KeyFile(tmp_path / "keys.json")
    tokens = {
        "alice": keys.create(Identity("acme", "alice", frozenset({"staff"}), frozenset({"ask", "search"}))),
        "bob": keys.create(Identity("acme", "bob", frozenset({"staff"}), frozenset({"ask"}))),
        "root": keys.create(Identity("acme", "root", frozenset(), frozenset({"admin"}))),
        "service": keys.create(Identity("ragline", "service", frozenset(), frozenset({"internal"}))),
    }
    spans = InMemorySpanExporter()
    telemetry = Telemetry("generate", processors=[SimpleSpanProcessor(spans)])
    elsewhere = Telemetry("elsewhere")
    published: list[Message] = []

    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    retrieve, index, model = FakeRetrieve(), FakeIndex(), ScriptedModel()  # type: ignore[abstract]

    def register_neighbours(server: grpc.aio.Server) -> None:
        retrieve_pb2_grpc.add_RetrieveServiceServicer_to_server(retrieve, server)
        indexing_pb2_grpc.add_IndexServiceServicer_to_server(index, server)

    neighbours = RpcServer(
        "127.0.0.1:0",
        telemetry=elsewhere,
        keys=keys,
        register=register_neighbours,
        scopes={
            "/ragline.retrieve.v1.RetrieveService/Search": ("search", "ask"),
            "/ragline.indexing.v1.IndexService/GetIngestTraces": ("internal",),
        },
    )
    await neighbours.start()
    channel = open_channel(neighbours.address)
    outbox = Outbox(database, publish, source="ragline/generate")
    answers, budgets = Answers(database, outbox), Budgets(database, lease_s=60)
    recorder = Recorder(database, answers, budgets, outbox)
    caller = Caller(telemetry, token=tokens["service"])
    retrieval = Retrieval(caller, channel, deadline_s=5)
    asking = Asking(
        policy=Policy(extractive.MODEL, frozenset({extractive.MODEL}), 100, 6, 2000, 10.0),
        retrieval=retrieval,
        traces=IngestTraces(caller, channel),
        model=model,
        prices=PriceList.load({extractive.MODEL: PRICE}),
        budgets=budgets,
        recorder=recorder,
        tracer=telemetry.tracer,
    )
    servicer = GatewayServicer(asking=asking, retrieval=retrieval, answers=answers, budgets=budgets)
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc_server: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, grpc_server),
        scopes=SCOPES,
    )
    await server.start()
    client = open_channel(server.address)
    stub: Any = gateway_pb2_grpc.GatewayServiceStub(client)
    yield Gateway(stub, asking, tokens, model, retrieve, index, database, outbox, published, spans)
    await client.close()
    await server.stop(grace_s=0)
    await recorder.aclose()
    await channel.close()
    await neighbours.stop(grace_s=0)


async def drain(call: Any) -> None:
    async for _ in call:
        pass


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The error's detail of this kind."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    message = kind()
    (packed,) = [one for one in status.details if one.Is(message.DESCRIPTOR)]
    packed.Unpack(message)
    return message
