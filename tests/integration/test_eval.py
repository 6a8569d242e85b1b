"""eval on a real PostgreSQL, with a gateway that is a real gRPC server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ragline.contracts.cloudevents import Message, Received, decode
from ragline.contracts.event import Event
from ragline.contracts.events import AnswerEvaluated, AnswerProduced, EvidenceRef, Score
from ragline.database import Connection, Database, package_folder
from ragline.errors import InvalidArgument, NotFound, TransientError
from ragline.eval.v1 import eval_pb2, eval_pb2_grpc
from ragline.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragline.identity import Identity, KeyFile
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.telemetry import Attribute, Telemetry, span_context, trace_headers
from services.eval.evaluations import Evaluations
from services.eval.groundedness import Groundedness
from services.eval.handlers import Evaluator
from services.eval.scoring import SCORER_VERSION, Scorer
from services.eval.servicer import SCOPES, EvalServicer

pytestmark = pytest.mark.stack

GATEWAY_SCOPES = {"/ragline.gateway.v1.GatewayService/GetEvidence": ("internal",)}
TEXT = "Python code uses four spaces per indentation level."


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Knows the evidence of the answers that it is told about."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []

    async def GetEvidence(self, request: gateway_pb2.GetEvidenceRequest, context: Any) -> Any:
        self.asked.append(request.answer_id)
        text = self.texts.get((request.tenant, request.answer_id))
        if text is None:
            raise NotFound("no such answer")
        piece = gateway_pb2.EvidenceText(number=1, document_id="pep-8", text=text, heading_path=["PEP 8"])
        return gateway_pb2.GetEvidenceResponse(evidence=[piece])


class Sent:
    """What the outbox published."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def publish(self, messages: Sequence[Message]) -> None:
        self.messages.extend(messages)

    def evaluations_of(self, answer_id: str) -> list[Received[AnswerEvaluated]]:
        received = [decode(AnswerEvaluated, m.body, m.headers, origin="test") for m in self.messages]
        return [each for each in received if each.event.answer_id == answer_id]


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "eval", pool_size=4)
    await database.open(package_folder("services.eval") / "migrations")
    yield database
    await database.aclose()


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def telemetry(spans: InMemorySpanExporter) -> Telemetry:
    return Telemetry("eval", processors=[SimpleSpanProcessor(spans)])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(Path(tmp_path_factory.mktemp("keys")) / "keys.json")


@pytest.fixture(scope="module")
def service_token(keys: KeyFile) -> str:
    return keys.create(Identity("system", "services", scopes=frozenset({"internal"})))


@pytest.fixture(scope="module")
def gateway() -> FakeGateway:
    return FakeGateway()  # type: ignore[abstract]  # only what eval calls


@pytest.fixture(scope="module")
async def gateway_address(gateway: FakeGateway, keys: KeyFile) -> AsyncIterator[str]:
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=Telemetry("generate"),
        keys=keys,
        register=lambda grpc: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, grpc),
        scopes=GATEWAY_SCOPES,
    )
    await server.start()
    yield server.address
    await server.stop(grace_s=0)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def outbox(database: Database, sent: Sent) -> Outbox:
    return Outbox(database, sent.publish, source="ragline/eval")


@pytest.fixture
def evaluations(database: Database, outbox: Outbox) -> Evaluations:
    return Evaluations(database, outbox)


class Evaluators:
    """Makes handlers, each with a channel that is closed in the end."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._channels: list[Any] = []

    def make(self, evaluations: Evaluations, address: str, token: str) -> Evaluator:
        self._channels.append(open_channel(address))
        return Evaluator(
            scorer=Scorer(Groundedness.load()),
            evaluations=evaluations,
            gateway=gateway_pb2_grpc.GatewayServiceStub(self._channels[-1]),
            caller=Caller(self._telemetry, token=token, deadline_s=5),
            telemetry=self._telemetry,
        )

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


@pytest.fixture
async def evaluators(telemetry: Telemetry) -> AsyncIterator[Evaluators]:
    made = Evaluators(telemetry)
    yield made
    await made.aclose()


@pytest.fixture
def evaluator(evaluators: Evaluators, evaluations: Evaluations, gateway_address: str, service_token: str) -> Evaluator:
    return evaluators.make(evaluations, gateway_address, service_token)


@pytest.fixture
def produced(gateway: FakeGateway, telemetry: Telemetry) -> Received[AnswerProduced]:
    """An answer that the gateway knows, as it comes from the bus."""
    received = answer_produced(telemetry)
    gateway.texts[received.event.tenant, received.event.answer_id] = TEXT
    return received


def answer_produced(telemetry: Telemetry) -> Received[AnswerProduced]:
    event = AnswerProduced(
        answer_id=f"answer-{uuid.uuid4().hex}",
        tenant="acme",
        user="ann",
        question="How many spaces does Python use per indentation level?",
        answer=f"{TEXT} [1]",
        refused=False,
        evidence=(EvidenceRef(number=1, document_id="pep-8", chunk_id="c", content_hash="h", score=1.0, cited=True),),
        index_version="g1@1",
        index_fingerprint="f",
        model="ragline/extractive",
        prompt_version="1",
        prompt_tokens=1,
        completion_tokens=1,
        cost_usd=0.0,
        latency_ms={},
        produced_at=datetime.now(UTC),
    )
    with telemetry.tracer.start_as_current_span("answer"):
        return Received(event, "id", "ragline/generate", trace_headers())


def evaluation(answer_id: str, *, tenant: str = "acme", verdict: str = "good") -> AnswerEvaluated:
    scores = (
        Score(name="groundedness", value=0.9, method="lexical", version="1", reason="as quoted"),
        Score(name="refusal", value=None, method="lexical", version="1", reason="no refusal"),
    )
    return AnswerEvaluated.model_validate(
        {
            "answer_id": answer_id, "tenant": tenant, "scores": scores, "flags": ("off_topic",),
            "verdict": verdict, "evaluated_at": datetime.now(UTC),
        }
    )  # fmt: skip


async def test_an_answer_is_evaluated_stored_and_announced(
    evaluator: Evaluator,
    evaluations: Evaluations,
    outbox: Outbox,
    sent: Sent,
    produced: Received[AnswerProduced],
) -> None:
    made = await evaluator.evaluate_answer(produced)
    assert made is not None
    assert (made.verdict, made.flags) == ("good", ())
    assert await evaluations.find(made.answer_id, tenant="acme") == made

    await outbox.relay_once()
    (announced,) = sent.evaluations_of(made.answer_id)
    assert announced.event == made
    assert announced.source == "ragline/eval"


async def test_one_trace_leads_from_the_answer_to_its_announced_evaluation(
    evaluator: Evaluator,
    outbox: Outbox,
    sent: Sent,
    produced: Received[AnswerProduced],
    spans: InMemorySpanExporter,
) -> None:
    await evaluator.evaluate_answer(produced)
    await outbox.relay_once()
    span = next(
        span
        for span in spans.get_finished_spans()
        if span.attributes and span.attributes.get(Attribute.ANSWER_ID) == produced.event.answer_id
    )
    assert span.attributes is not None
    assert span.attributes[Attribute.VERDICT] == "good"
    assert span.attributes[f"{Attribute.SCORE}.groundedness"] == 1.0
    assert f"{Attribute.SCORE}.refusal" not in span.attributes
    producer = span_context(produced.headers["traceparent"])
    assert producer is not None
    assert [each.context.span_id for each in span.links] == [producer.span_id]
    (announced,) = sent.evaluations_of(produced.event.answer_id)
    announcer = span_context(announced.headers["traceparent"])
    assert announcer is not None
    assert announcer.span_id == span.context.span_id


async def test_a_redelivery_changes_nothing_and_announces_nothing(
    evaluator: Evaluator,
    evaluations: Evaluations,
    outbox: Outbox,
    sent: Sent,
    gateway: FakeGateway,
    produced: Received[AnswerProduced],
) -> None:
    first = await evaluator.evaluate_answer(produced)
    assert await evaluator.evaluate_answer(produced) is None
    await outbox.relay_once()
    assert await evaluations.find(produced.event.answer_id, tenant="acme") == first
    assert len(sent.evaluations_of(produced.event.answer_id)) == 1
    assert gateway.asked.count(produced.event.answer_id) == 1


async def test_a_newer_scorers_evaluation_replaces_an_older_one_and_never_the_reverse(
    evaluator: Evaluator, evaluations: Evaluations, produced: Received[AnswerProduced]
) -> None:
    answer_id = produced.event.answer_id
    assert await evaluations.record(evaluation(answer_id, verdict="bad"), scorer_version=SCORER_VERSION - 1)
    assert await evaluator.evaluate_answer(produced) is not None
    newest = evaluation(answer_id, verdict="doubtful")
    assert await evaluations.record(newest, scorer_version=SCORER_VERSION + 1)

    assert await evaluator.evaluate_answer(produced) is None
    assert not await evaluations.record(evaluation(answer_id), scorer_version=SCORER_VERSION)
    assert await evaluations.find(answer_id, tenant="acme") == newest


async def test_an_evaluation_and_its_event_are_stored_together_or_not_at_all(
    database: Database, evaluations: Evaluations, sent: Sent
) -> None:
    class FullDisk(Outbox):
        async def add(self, connection: Connection, events: Iterable[Event], *, traceparent: str | None = None) -> None:
            await super().add(connection, events, traceparent=traceparent)
            raise OSError("no space left on device")

    broken = FullDisk(database, sent.publish, source="ragline/eval")
    with pytest.raises(OSError, match="no space"):
        await Evaluations(database, broken).record(evaluation("torn"), scorer_version=1)
    assert await evaluations.find("torn", tenant="acme") is None
    assert await database.fetch("SELECT id FROM outbox WHERE key = 'acme/torn'") == []


async def test_while_the_gateway_is_down_the_answer_waits(
    evaluators: Evaluators, evaluations: Evaluations, service_token: str, produced: Received[AnswerProduced]
) -> None:
    evaluator = evaluators.make(evaluations, "127.0.0.1:1", service_token)
    with pytest.raises(TransientError):
        await evaluator.evaluate_answer(produced)
    assert await evaluations.find(produced.event.answer_id, tenant="acme") is None


async def test_while_the_gateway_refuses_the_token_the_answer_waits(
    evaluators: Evaluators, evaluations: Evaluations, gateway_address: str, produced: Received[AnswerProduced]
) -> None:
    evaluator = evaluators.make(evaluations, gateway_address, "rgl_wrong_token")
    with pytest.raises(TransientError, match="RAGLINE_AUTH__SERVICE_TOKEN"):
        await evaluator.evaluate_answer(produced)


async def test_an_answer_that_was_erased_is_refused_for_good_with_a_clear_reason(
    evaluator: Evaluator, telemetry: Telemetry
) -> None:
    with pytest.raises(NotFound, match="nothing to evaluate") as refused:
        await evaluator.evaluate_answer(answer_produced(telemetry))
    assert refused.value.reason == "ANSWER_NOT_FOUND"


async def test_a_refusal_without_evidence_needs_no_gateway(
    evaluators: Evaluators, evaluations: Evaluations, service_token: str, telemetry: Telemetry
) -> None:
    evaluator = evaluators.make(evaluations, "127.0.0.1:1", service_token)
    received = answer_produced(telemetry)
    update = {"answer": "Not found in the documents.", "refused": True, "evidence": ()}
    refusal = Received(received.event.model_copy(update=update), "id", "ragline/generate")
    made = await evaluator.evaluate_answer(refusal)
    assert made is not None
    assert made.verdict == "good"


class Client:
    """Calls EvalService with the key that a test asks for."""

    def __init__(self, address: str, keys: KeyFile, telemetry: Telemetry) -> None:
        self.channel = open_channel(address)
        self._stub = eval_pb2_grpc.EvalServiceStub(self.channel)
        self._keys = keys
        self._telemetry = telemetry

    async def get(self, answer_id: str, *, tenant: str, scope: str) -> eval_pb2.Evaluation:
        token = self._keys.create(Identity(tenant, "ann", scopes=frozenset({scope})))
        response = await Caller(self._telemetry, token=token)(
            self._stub.GetEvaluation,
            eval_pb2.GetEvaluationRequest(answer_id=answer_id),
            name="EvalService/GetEvaluation",
        )
        found: eval_pb2.Evaluation = response.evaluation
        return found


@pytest.fixture
async def client(evaluations: Evaluations, keys: KeyFile, telemetry: Telemetry) -> AsyncIterator[Client]:
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc: eval_pb2_grpc.add_EvalServiceServicer_to_server(EvalServicer(evaluations), grpc),
        scopes=SCOPES,
    )
    await server.start()
    client = Client(server.address, keys, telemetry)
    yield client
    await client.channel.close()
    await server.stop(grace_s=0)


async def test_an_evaluation_is_served_to_its_tenant_whole(client: Client, evaluations: Evaluations) -> None:
    stored = evaluation("served")
    await evaluations.record(stored, scorer_version=1)
    found = await client.get("served", tenant="acme", scope="ask")
    assert (found.answer_id, found.verdict, list(found.flags)) == ("served", "good", ["off_topic"])
    assert found.evaluated_unix_s == pytest.approx(stored.evaluated_at.timestamp(), abs=1e-3)
    grounded, refusal = found.scores
    assert (grounded.name, grounded.value, grounded.reason) == ("groundedness", 0.9, "as quoted")
    assert not refusal.HasField("value")


async def test_another_tenants_evaluation_looks_like_none(client: Client, evaluations: Evaluations) -> None:
    await evaluations.record(evaluation("acmes-own"), scorer_version=1)
    with pytest.raises(NotFound):
        await client.get("acmes-own", tenant="rival", scope="ask")
    assert (await client.get("acmes-own", tenant="system", scope="internal")).verdict == "good"


async def test_an_answer_without_a_name_is_an_invalid_question(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="answer_id"):
        await client.get("", tenant="acme", scope="ask")
