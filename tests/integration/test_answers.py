"""Stored answers on a real PostgreSQL: their provenance, their event, and who may read them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from ragline.contracts.cloudevents import Message, Received
from ragline.contracts.events import AnswerEvaluated, AnswerProduced, Score
from ragline.database import Database, package_folder
from ragline.errors import NotFound, PermanentError
from ragline.identity import Identity
from ragline.outbox import Outbox
from services.generate.answer import Answer, Outcome, Passage, StageScore
from services.generate.answers import Answers
from services.generate.handlers import EvaluationHandler

pytestmark = pytest.mark.stack

NOW = datetime(2026, 5, 20, 18, 0, tzinfo=UTC)
ALICE = Identity("acme", "alice", frozenset({"staff", "board"}), frozenset({"ask"}))


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "generate")
    await database.open(package_folder("services.generate") / "migrations")
    yield database
    await database.aclose()


@pytest.fixture
def published() -> list[Message]:
    return []


@pytest.fixture
def outbox(database: Database, published: list[Message]) -> Outbox:
    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    return Outbox(database, publish, source="ragline/generate")


@pytest.fixture
def answers(database: Database, outbox: Outbox) -> Answers:
    return Answers(database, outbox)


def passage(number: int, *, cited: bool) -> Passage:
    return Passage(
        number=number,
        document_id=f"pep-{number}",
        title="A title",
        heading_path=("A title", "A heading"),
        uri="https://example.org/pep",
        chunk_id=f"chunk-{number}",
        point_id=str(uuid.uuid4()),
        content_hash="ab" * 32,
        text='Evidence with "quotes", an \u20ac and a\nline.',
        score=0.5,
        dense=StageScore(0.75, 2),
        sparse=None,
        valid_from=7,
        cited=cited,
    )


def an_answer() -> Answer:
    return Answer(
        id=str(uuid.uuid4()),
        tenant="acme",
        asker="alice",
        asker_groups=("staff",),
        question="Why?",
        parameters={"at_version": "g1@3", "metadata": {"kind": "pep"}},
        text="Because [1].",
        outcome="complete",
        refused=False,
        passages=(passage(1, cited=True), passage(2, cited=False)),
        invalid_citations=(9,),
        index_version="g1@42",
        index_fingerprint="cd" * 32,
        embedder="minilm",
        model="ragline/extractive",
        prompt_version="answer.v1",
        prompt_hash="ef" * 32,
        prompt_tokens=100,
        completion_tokens=5,
        usage_reported=True,
        cost_usd=Decimal("0.000123456789"),
        price_version="p1",
        latency_ms={"retrieve": 1.5, "total": 9.25},
        trace_id="0" * 31 + "1",
        created_at=NOW,
    )


async def store(database: Database, answers: Answers, answer: Answer) -> Answer:
    async with database.transaction() as connection:
        await answers.add(connection, answer, traceparent=f"00-{answer.trace_id}-{'0' * 15}1-01")
    return answer


def evaluation(answer: Answer, verdict: str, *, at: datetime = NOW) -> AnswerEvaluated:
    score = Score(name="groundedness", value=0.5, method="lexical", version="1", reason="half of it")
    return AnswerEvaluated.model_validate(
        {
            "answer_id": answer.id,
            "tenant": answer.tenant,
            "scores": [score.model_dump()],
            "flags": ["unsupported_claim"],
            "verdict": verdict,
            "evaluated_at": at,
        }
    )


async def test_an_answer_comes_back_with_its_whole_provenance(database: Database, answers: Answers) -> None:
    answer = await store(database, answers, an_answer())

    assert await answers.read(answer.id, ALICE) == answer


async def test_the_answer_and_its_event_are_one_transaction(
    database: Database, answers: Answers, outbox: Outbox, published: list[Message]
) -> None:
    kept, lost = an_answer(), an_answer()
    async with database.transaction() as connection:
        await answers.add(connection, lost, traceparent=None)
        raise psycopg.Rollback
    await store(database, answers, kept)
    await store(database, answers, kept)

    await outbox.relay_once()

    events = [AnswerProduced.model_validate_json(message.body) for message in published]
    ours = [event for event in events if event.answer_id in (kept.id, lost.id)]
    assert [event.answer_id for event in ours] == [kept.id]
    assert [(piece.document_id, piece.cited) for piece in ours[0].evidence] == [
        ("pep-1", True),
        ("pep-2", False),
    ]
    assert published[-1].key == f"acme/{kept.id}"
    assert kept.trace_id in published[-1].headers["traceparent"]
    with pytest.raises(NotFound):
        await answers.read(lost.id, ALICE)


@pytest.mark.parametrize("outcome", ["cancelled", "failed"])
async def test_an_answer_that_broke_off_is_kept_but_not_announced(
    database: Database, answers: Answers, outbox: Outbox, published: list[Message], outcome: Outcome
) -> None:
    broken = await store(database, answers, replace(an_answer(), outcome=outcome, failure_reason="UNAVAILABLE"))

    await outbox.relay_once()

    assert broken.id not in [message.key.partition("/")[2] for message in published]
    assert (await answers.read(broken.id, ALICE)).failure_reason == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("reader", "may_read"),
    [
        (ALICE, True),
        (replace(ALICE, groups=frozenset({"staff"})), True),
        (replace(ALICE, groups=frozenset({"board"})), False),
        (replace(ALICE, user="bob"), False),
        (replace(ALICE, tenant="other"), False),
        (Identity("acme", "root", frozenset(), frozenset({"admin"})), True),
        (Identity("other", "root", frozenset(), frozenset({"admin"})), False),
    ],
    ids=["who asked", "with the groups needed", "lost a group", "another user", "another tenant", "admin",
         "another tenant's admin"],
)  # fmt: skip
async def test_only_who_asked_or_an_admin_may_read(
    database: Database, answers: Answers, reader: Identity, may_read: bool
) -> None:
    answer = await store(database, answers, an_answer())

    if may_read:
        assert (await answers.read(answer.id, reader)).id == answer.id
    else:
        with pytest.raises(NotFound):
            await answers.read(answer.id, reader)


async def test_services_read_evidence_of_the_tenant_that_they_name(database: Database, answers: Answers) -> None:
    answer = await store(database, answers, an_answer())

    assert await answers.evidence_for_service(answer.id, "acme") == answer.passages
    with pytest.raises(NotFound):
        await answers.evidence_for_service(answer.id, "other")


async def test_the_newest_evaluation_wins_in_whatever_order_they_come(database: Database, answers: Answers) -> None:
    answer = await store(database, answers, an_answer())
    newest = evaluation(answer, "bad", at=NOW + timedelta(minutes=1))
    handler = EvaluationHandler(answers)

    for event in (newest, evaluation(answer, "good"), newest):
        await handler.attach(Received(event, "an-id", "ragline/eval"))

    assert (await answers.read(answer.id, ALICE)).evaluation == newest


async def test_the_evaluation_of_an_unknown_answer_can_never_be_handled(answers: Answers) -> None:
    with pytest.raises(PermanentError) as refused:
        await answers.attach_evaluation(evaluation(an_answer(), "good"))
    assert refused.value.reason == "NOT_FOUND"
