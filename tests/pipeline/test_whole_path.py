"""The whole path on the real stack: an event goes in on Kafka, a cited and accounted answer comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ragline.bus import Bus
from ragline.client import Answer, Ragline
from ragline.contracts.cloudevents import encode
from ragline.contracts.events import DocumentChanged
from ragline.errors import NotFound, PermissionDenied, ResourceExhausted
from ragline.identity import Identity, KeyFile
from ragline.local.stack import LocalStack
from ragline.telemetry import Telemetry, trace_headers
from services.all_in_one import running
from tests.pipeline.otlp import Receiver, otlp_receiver
from tests.stack import client_of, developer_token, stack_settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

LEAVE = """# Handbook

## Leave

Every employee has 25 days of paid leave a year.

## Travel

Trains are preferred over planes.
"""
MORE_LEAVE = LEAVE.replace("25 days", "30 days")
QUESTION = "How many days of paid leave does an employee have?"


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> AsyncIterator[LocalStack]:
    """One stack for the module, exporting its traces to the receiver, with a price on the extractive model."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        environment.setenv(
            "RAGLINE_GENERATE__PRICES",
            '{"ragline/extractive": {"input_usd_per_token": 1e-5, "output_usd_per_token": 1e-5}}',
        )
        folder = tmp_path_factory.mktemp("stack")
        async with running(stack_settings(folder), durable=False) as up:
            yield up.stack


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[Ragline]:
    async with client_of(stack.settings, developer_token(stack.data_dir.path)) as client:
        yield client


def token_for(stack: LocalStack, user: str, *, tenant: str = "default", groups: tuple[str, ...] = ()) -> str:
    identity = Identity(tenant, user, frozenset(groups), frozenset({"ask", "search"}))
    return KeyFile(stack.settings.keys_path).create(identity)


async def eventually(read: Callable[[], object], *, within_s: float = 20.0) -> object:
    """Wait until `read` returns something true."""
    deadline = time.monotonic() + within_s
    while not (value := read()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)
    return value


async def publish_on_kafka(stack: LocalStack, event: DocumentChanged) -> str:
    """Publish as an upstream system does; returns the trace id of the change."""
    telemetry = Telemetry("upstream")
    bus = Bus(stack.settings.bus, stack.settings.bootstrap, service="upstream", telemetry=telemetry)
    await bus.start()
    try:
        with telemetry.tracer.start_as_current_span("upstream change") as span:
            await bus.publish([encode(event, source=event.source, trace=trace_headers())])
            return f"{span.get_span_context().trace_id:032x}"
    finally:
        await bus.stop()
        telemetry.shutdown()


def changed(document_id: str, content: str, revision: int, **fields: object) -> DocumentChanged:
    return DocumentChanged.model_validate(
        {"tenant": "default", "document_id": document_id, "source": "test", "op": "upsert", "revision": revision,
         "content": content, "uri": document_id, **fields}
    )  # fmt: skip


async def test_an_event_on_kafka_becomes_a_cited_answer_that_accounts_for_itself(
    stack: LocalStack, client: Ragline, receiver: Receiver
) -> None:
    change_trace = await publish_on_kafka(stack, changed("handbook.md", LEAVE, 1))
    document = await client.wait_for_document("handbook.md", revision=1)

    answer = await client.ask(QUESTION, min_version=document.index_version)

    assert "25 days" in answer.text
    assert any(citation.cited and citation.document_id == "handbook.md" for citation in answer.citations)
    assert answer.index_version == document.index_version
    assert len(answer.index_fingerprint) == 64
    assert answer.prompt_tokens > 0
    assert answer.cost_usd > 0

    await _assert_one_trace_for_the_question(receiver, answer, change_trace)
    await _assert_one_trace_for_the_change(receiver, change_trace)


async def _assert_one_trace_for_the_question(receiver: Receiver, answer: Answer, change_trace: str) -> None:
    def spans() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for span in receiver.trace(answer.trace_id):
            found.setdefault(span.service, []).append(span.name)
        return found

    def complete() -> bool:
        ended = "ragline.gateway.v1.GatewayService/Ask" in spans().get("generate", ())
        return ended and "eval" in spans()

    await eventually(complete)
    assert "chat ragline/extractive" in spans()["generate"]
    assert {"ragline.retrieve.v1.RetrieveService/Search", "search engine", "embed query"} <= set(spans()["retrieve"])
    trace = receiver.trace(answer.trace_id)
    ask = next(span for span in trace if span.name.endswith("GatewayService/Ask") and span.service == "generate")
    assert ask.attributes["rag.index.version"] == answer.index_version
    assert ask.attributes["rag.answer.id"] == answer.id
    ids = {span.span_id for span in trace}
    orphans = [
        span.name for span in trace if span.parent_id and span.parent_id not in ids and span.service != "generate"
    ]
    assert orphans == []
    citation = next(span for span in trace if span.name == "rag.citation")
    assert change_trace in citation.links
    assert citation.attributes["rag.document.id"] == "handbook.md"


async def _assert_one_trace_for_the_change(receiver: Receiver, change_trace: str) -> None:
    def names() -> set[tuple[str, str]]:
        return {(span.service, span.name) for span in receiver.trace(change_trace)}

    await eventually(lambda: ("embed", "commit document") in names())
    assert ("ingest", "accept document") in names()
    assert ("embed", "embed chunks") in names()
    commit = next(span for span in receiver.trace(change_trace) if span.name == "commit document")
    shared = next(span for span in receiver.spans if span.name == "commit" and span.trace_id in commit.links)
    assert change_trace in shared.links


async def test_a_changed_document_changes_the_answer_and_the_old_version_still_gives_the_old_one(
    client: Ragline,
) -> None:
    receipt = await client.publish("leave.md", LEAVE.replace("employee", "gardener"), revision=1)
    question = QUESTION.replace("employee", "gardener")
    before = await client.ask(question, min_version=receipt.index_version)
    receipt = await client.publish("leave.md", MORE_LEAVE.replace("employee", "gardener"), revision=2)

    after = await client.ask(question, min_version=receipt.index_version)
    then = await client.ask(question, at_version=before.index_version)

    assert "25 days" in before.text
    assert "30 days" in after.text
    assert then.text == before.text
    assert then.index_fingerprint == before.index_fingerprint != after.index_fingerprint


async def test_a_deleted_document_is_not_answered_from(client: Ragline) -> None:
    text = "# Canteen\n\nThe canteen serves lentil soup every Thursday at noon."
    question = "What does the canteen serve every Thursday?"
    receipt = await client.publish("canteen.md", text, revision=1)
    assert "lentil soup" in (await client.ask(question, min_version=receipt.index_version)).text

    receipt = await client.delete("canteen.md", revision=2)
    answer = await client.ask(question, min_version=receipt.index_version)

    assert "lentil" not in answer.text
    assert all(citation.document_id != "canteen.md" for citation in answer.citations)
    assert answer.refused


async def test_an_answer_is_evaluated_by_itself_and_shown_with_the_answer(client: Ragline) -> None:
    text = "# Safe\n\nThe code of the archive safe is changed every Monday."
    receipt = await client.publish("safe.md", text, revision=1)
    answer = await client.ask("When is the code of the archive safe changed?", min_version=receipt.index_version)
    stored = await client.get_answer(answer.id)
    deadline = time.monotonic() + 30
    while not stored.message.HasField("evaluation"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
        stored = await client.get_answer(answer.id)
    scores = {score.name: score.value for score in stored.message.evaluation.scores}
    assert scores["citation_validity"] == 1.0
    assert scores["groundedness"] > 0.9
    assert stored.message.evaluation.verdict == "good"


async def test_a_budget_refuses_the_call_that_does_not_fit_and_says_what_is_left(
    stack: LocalStack, client: Ragline
) -> None:
    await client.publish("budget.md", "# Archive\n\nThe archive closes at six in the evening.", revision=1)
    await client.set_budget(user="thrifty", period="day", limit_usd=0.02)
    async with Ragline(stack.settings.rpc.gateway, token_for(stack, "thrifty")) as thrifty:
        refusal = None
        for _ in range(60):
            try:
                await thrifty.ask("When does the archive close?")
            except ResourceExhausted as error:
                refusal = error
                break
        assert refusal is not None
        assert refusal.retry_after_s is not None and refusal.retry_after_s > 0
        assert "left" in str(refusal)
        budget = next(b for b in await thrifty.budgets() if b.period == "day" and b.level == "user")
    assert 0 < budget.spent_usd + budget.held_usd <= budget.limit_usd


async def test_groups_and_tenants_are_kept_apart(stack: LocalStack, client: Ragline) -> None:
    text = "# Salaries\n\nThe salary of the pilot is 9000 a month."
    receipt = await client.publish("salaries.md", text, revision=1, groups=("hr",))
    question = "What is the salary of the pilot?"
    answers = {}
    for user, tenant, groups in (
        ("insider", "default", ("hr",)),
        ("outsider", "default", ("it",)),
        ("stranger", "other", ("hr",)),
    ):
        async with Ragline(stack.settings.rpc.gateway, token_for(stack, user, tenant=tenant, groups=groups)) as caller:
            answers[user] = await caller.ask(question, min_version=receipt.index_version)
    assert "9000" in answers["insider"].text
    for user in ("outsider", "stranger"):
        assert "9000" not in answers[user].text
        assert all(citation.document_id != "salaries.md" for citation in answers[user].citations)
    async with Ragline(stack.settings.rpc.gateway, token_for(stack, "nosy")) as nosy:
        with pytest.raises(NotFound):
            await nosy.get_answer(answers["insider"].id)
        with pytest.raises(PermissionDenied):
            await nosy.set_budget(user="nosy", period="day", limit_usd=1000)


async def test_a_stack_that_was_stopped_finds_all_documents_again(tmp_path: Path) -> None:
    settings = stack_settings(tmp_path)
    async with (
        running(settings, durable=False) as up,
        client_of(up.stack.settings, developer_token(tmp_path)) as client,
    ):
        receipt = await client.publish("handbook.md", LEAVE, revision=1)
        before = await client.ask(QUESTION, min_version=receipt.index_version)
    started = time.monotonic()
    async with (
        running(settings, durable=False) as up,
        client_of(up.stack.settings, developer_token(tmp_path)) as client,
    ):
        after = await client.ask(QUESTION)
        shown = await client.get_answer(before.id)
    assert (after.text, after.index_version) == (before.text, before.index_version)
    assert shown.text == before.text
    assert time.monotonic() - started < 60
