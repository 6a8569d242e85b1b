"""Asking the gateway: cited answers that account for themselves, to those who may read them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, format_trace_id

from ragline.contracts.events import AnswerProduced
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.retrieve.v1 import retrieve_pb2
from ragline.telemetry import Attribute
from services.generate import extractive
from services.generate.prompts import REFUSAL
from tests.integration.gateway_under_test import (
    EVIDENCE,
    INGEST_TRACE,
    QUESTION,
    Gateway,
    detail,
)

pytestmark = pytest.mark.stack
pytest_plugins = ["tests.integration.gateway_under_test"]


async def test_an_answer_comes_as_a_stream_and_accounts_for_itself(gateway: Gateway) -> None:
    steps = await gateway.ask()

    kinds = [step.WhichOneof("step") for step in steps]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("retrieved", "final", {"token"})
    assert steps[0].retrieved.index_version.version == "g1@42"
    answer = steps[-1].final.answer
    assert answer.text == "".join(step.token.text for step in steps)
    assert answer.text == "Python code uses four spaces per indentation level. [1]"
    assert (answer.outcome, answer.refused, list(answer.invalid_citations)) == ("complete", False, [])
    assert [(piece.document_id, piece.cited) for piece in answer.evidence] == [
        ("pep-8", True),
        ("pep-20", False),
    ]
    assert answer.index_version.fingerprint == "ab" * 32
    assert answer.evidence[0].dense.rank == 1 and not answer.evidence[0].HasField("sparse")
    assert answer.usage.prompt_tokens > 50 and answer.usage.completion_tokens > 5
    assert answer.prompt_version and answer.prompt_hash and answer.usage.price_version
    assert set(answer.latency_ms) == {
        "retrieve",
        "prompt",
        "reserve",
        "first_token",
        "model",
        "store",
        "total",
    }


async def test_the_stored_answer_is_the_one_that_was_given(gateway: Gateway) -> None:
    given = (await gateway.ask(metadata={"kind": "pep"}))[-1].final.answer

    read = (await gateway.call("GetAnswer", pb.GetAnswerRequest(answer_id=given.answer_id))).answer

    assert read.latency_ms["total"] <= given.latency_ms["total"]
    for answer in (given, read):
        answer.ClearField("latency_ms")
    assert read == given
    assert (await gateway.stored())[0]["parameters"]["metadata"] == {"kind": "pep"}


async def test_the_answer_is_announced_in_the_trace_of_its_question(gateway: Gateway) -> None:
    given = (await gateway.ask())[-1].final.answer

    await gateway.outbox.relay_once()

    event = AnswerProduced.model_validate_json(gateway.published[0].body)
    assert (event.answer_id, event.answer, event.user) == (given.answer_id, given.text, "alice")
    assert given.trace_id in gateway.published[0].headers["traceparent"]
    assert event.cost_usd == given.usage.cost_usd > 0


async def test_what_is_not_in_the_documents_is_refused(gateway: Gateway) -> None:
    answer = (await gateway.ask("Who won the football championship in Argentina?"))[-1].final.answer

    assert (answer.text, answer.refused, answer.outcome) == (REFUSAL, True, "complete")


async def test_without_any_hit_no_model_is_called_and_nothing_is_spent(gateway: Gateway) -> None:
    gateway.retrieve.hits = []

    steps = await gateway.ask()

    assert [step.WhichOneof("step") for step in steps] == ["retrieved", "token", "final"]
    answer = steps[-1].final.answer
    assert (answer.text, answer.refused, answer.usage.cost_usd) == (REFUSAL, True, 0)
    assert gateway.model.calls == 0
    assert await gateway.reservations() == []
    assert [row["id"] for row in await gateway.stored()] == [answer.answer_id]


async def test_retrieval_happens_as_the_caller(gateway: Gateway) -> None:
    await gateway.ask(at_version="g1@7", evidence_limit=3, metadata={"kind": "pep"})

    (caller,), (request,) = gateway.retrieve.callers, gateway.retrieve.requests
    assert (caller.tenant, caller.user, caller.groups) == ("acme", "alice", frozenset({"staff"}))
    assert (request.at_version, request.limit, dict(request.metadata)) == ("g1@7", 3, {"kind": "pep"})


async def test_a_search_is_passed_on_as_the_caller(gateway: Gateway) -> None:
    found = await gateway.call("Search", retrieve_pb2.SearchRequest(query="spaces", limit=2))

    assert [one.document_id for one in found.hits] == ["pep-8", "pep-20"]
    assert gateway.retrieve.callers[0].user == "alice"


@pytest.mark.parametrize(
    ("question", "fields", "field"),
    [
        ("  ", {}, "question"),
        ("x" * 4001, {}, "question"),
        ("nul \x00", {}, "question"),
        (QUESTION, {"at_version": "yesterday"}, "at_version"),
        (QUESTION, {"min_version": "g1"}, "min_version"),
        (QUESTION, {"evidence_limit": 21}, "evidence_limit"),
        (QUESTION, {"model": "openai/gpt-5"}, "model"),
    ],
)
async def test_a_senseless_question_is_refused_by_field(
    gateway: Gateway, question: str, fields: dict[str, Any], field: str
) -> None:
    error = await gateway.refused(gateway.ask(question, **fields))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == field
    assert gateway.retrieve.requests == []


async def test_another_user_cannot_tell_that_the_answer_exists(gateway: Gateway) -> None:
    answer_id = (await gateway.ask())[-1].final.answer.answer_id

    for method, kind in (("GetAnswer", pb.GetAnswerRequest), ("GetEvidence", pb.GetEvidenceRequest)):
        error = await gateway.refused(gateway.call(method, kind(answer_id=answer_id), "bob"))
        missing = await gateway.refused(gateway.call(method, kind(answer_id="none"), "bob"))
        assert error.code() is missing.code() is grpc.StatusCode.NOT_FOUND
        assert await gateway.call(method, kind(answer_id=answer_id), "root")


async def test_evidence_texts_are_read_by_the_asker_and_by_services(gateway: Gateway) -> None:
    answer_id = (await gateway.ask())[-1].final.answer.answer_id
    of_acme = pb.GetEvidenceRequest(answer_id=answer_id, tenant="acme")

    own = await gateway.call("GetEvidence", pb.GetEvidenceRequest(answer_id=answer_id))
    services = await gateway.call("GetEvidence", of_acme, "service")

    assert own == services
    assert (own.evidence[0].text, list(own.evidence[0].heading_path)) == (EVIDENCE, ["PEP-8", "Indentation"])
    of_other = pb.GetEvidenceRequest(answer_id=answer_id, tenant="other")
    denied = await gateway.refused(gateway.call("GetEvidence", of_other))
    assert denied.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_one_trace_holds_the_question_its_model_call_and_links_to_ingest(gateway: Gateway) -> None:
    answer = (await gateway.ask())[-1].final.answer

    ask, chat, citation = [
        await span_named(gateway, name)
        for name in ("ragline.gateway.v1.GatewayService/Ask", f"chat {extractive.MODEL}", "rag.citation")
    ]
    assert {trace_of(span) for span in (ask, chat, citation)} == {answer.trace_id}
    assert ask.attributes is not None and chat.attributes is not None and citation.attributes is not None
    assert ask.attributes[Attribute.INDEX_VERSION] == "g1@42"
    assert ask.attributes[Attribute.ANSWER_ID] == answer.answer_id
    assert ask.attributes[Attribute.COST_BUCKET] == "<=1"
    assert chat.kind is SpanKind.CLIENT
    assert chat.attributes["gen_ai.usage.input_tokens"] == answer.usage.prompt_tokens
    assert citation.attributes[Attribute.DOCUMENT_ID] == "pep-8"
    assert citation.attributes[Attribute.CITATION_NUMBER] == 1
    assert [format_trace_id(link.context.trace_id) for link in citation.links] == [INGEST_TRACE]
    stages = {span.name for span in gateway.spans.get_finished_spans() if trace_of(span) == answer.trace_id}
    assert {"RetrieveService/Search", "prompt", "reserve", "store"} <= stages


async def test_no_span_carries_question_evidence_or_answer(gateway: Gateway) -> None:
    await gateway.ask()
    await span_named(gateway, "ragline.gateway.v1.GatewayService/Ask")

    recorded = " ".join(span.to_json() for span in gateway.spans.get_finished_spans())
    assert "indentation" not in recorded


async def test_an_answer_does_without_its_links_while_embed_is_down(gateway: Gateway) -> None:
    gateway.index.broken = True

    assert (await gateway.ask())[-1].final.answer.outcome == "complete"

    assert not (await span_named(gateway, "rag.citation")).links


async def span_named(gateway: Gateway, name: str) -> ReadableSpan:
    """The one span of this name, once it has ended: the server's ends just after the caller is served."""
    async with asyncio.timeout(5):
        while not (found := [span for span in gateway.spans.get_finished_spans() if span.name == name]):
            await asyncio.sleep(0.01)
    (span,) = found
    return span


def trace_of(span: ReadableSpan) -> str:
    return format_trace_id(span.context.trace_id)
