"""What an answer costs, whichever way it ends: answered, refused, cut, cancelled or failed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from google.rpc import error_details_pb2

from ragline.database import package_folder
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.identity import Identity
from ragline.retrieve.v1 import retrieve_pb2
from services.generate.admission import Question
from services.generate.asking import Token
from services.generate.model import ModelError
from tests.integration.gateway_under_test import QUESTION, Gateway, detail, drain

pytestmark = pytest.mark.stack
pytest_plugins = ["tests.integration.gateway_under_test"]


async def test_an_answer_is_settled_at_what_it_used(gateway: Gateway) -> None:
    final = (await gateway.ask())[-1].final

    ((state, held, settled),) = await gateway.reservations()
    assert state == "settled"
    assert settled is not None and float(settled) == final.answer.usage.cost_usd
    assert held > settled > 0
    assert {(b.level, b.period): b.spent_usd for b in final.budgets}["tenant", "month"] == float(settled)
    assert all(budget.unlimited for budget in final.budgets)


async def test_a_budget_refusal_says_what_is_left_and_when_to_try_again(gateway: Gateway) -> None:
    await gateway.limit(1)
    while True:  # spend it
        try:
            await gateway.ask()
        except grpc.aio.AioRpcError as error:
            refusal = error
            break

    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(refusal, error_details_pb2.ErrorInfo).reason == "BUDGET_EXCEEDED"
    (violation,) = detail(refusal, error_details_pb2.QuotaFailure).violations
    assert violation.subject == "user:alice/day"
    assert "of 1 USD left" in violation.description
    assert 0 < detail(refusal, error_details_pb2.RetryInfo).retry_delay.seconds <= 24 * 3600
    assert gateway.model.calls == len(await gateway.stored()) > 0
    await gateway.ask(user="bob")


async def test_budgets_are_shown_to_their_user_and_set_by_an_admin(gateway: Gateway) -> None:
    by_alice = pb.SetBudgetRequest(user="alice", period="day", limit_usd=5)
    assert (await gateway.refused(gateway.call("SetBudget", by_alice))).code() is grpc.StatusCode.PERMISSION_DENIED
    await gateway.limit(0.1)
    await gateway.call("SetBudget", pb.SetBudgetRequest(period="month", limit_usd=9), "root")

    own = await gateway.call("GetBudget", pb.GetBudgetRequest())
    seen_by_root = await gateway.call("GetBudget", pb.GetBudgetRequest(user="alice"), "root")
    seen_by_bob = await gateway.refused(gateway.call("GetBudget", pb.GetBudgetRequest(user="alice"), "bob"))

    limits = {(b.level, b.subject, b.period): b.limit_usd for b in own.budgets if not b.unlimited}
    assert limits == {("user", "alice", "day"): 0.1, ("tenant", "acme", "month"): 9}
    assert own == seen_by_root
    assert seen_by_bob.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_unreported_usage_settles_at_the_hold(gateway: Gateway) -> None:
    gateway.model.report_usage = False

    answer = (await gateway.ask())[-1].final.answer

    ((state, held, settled),) = await gateway.reservations()
    assert (state, settled) == ("settled", held)
    assert answer.usage.completion_tokens > 5


async def test_a_caller_who_goes_away_cancels_the_model_and_pays_the_hold(gateway: Gateway) -> None:
    gateway.model.hang_after_first_word = True
    call = gateway.stub.Ask(pb.AskRequest(question=QUESTION), metadata=gateway.metadata("alice"), timeout=20)
    reading = asyncio.create_task(drain(call))
    await gateway.model.hanging.wait()

    call.cancel()

    await asyncio.wait_for(gateway.model.cancelled.wait(), 10)
    row = await gateway.wait_for_answer()
    assert (row["outcome"], row["text"]) == ("cancelled", "Python")
    ((state, held, settled),) = await gateway.reservations()
    assert (state, settled) == ("settled", held)
    with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await reading


async def test_an_answer_that_is_left_at_a_word_is_accounted_for(gateway: Gateway) -> None:
    alice = Identity("acme", "alice", frozenset({"staff"}), frozenset({"ask"}))
    steps = gateway.asking.ask(Question(QUESTION), alice, gateway.tokens["alice"], time_left_s=10)
    async for step in steps:
        if isinstance(step, Token):
            break

    await steps.aclose()

    (row,) = await gateway.stored()
    assert (row["outcome"], row["text"]) == ("cancelled", "Python")
    assert [state for state, _, _ in await gateway.reservations()] == ["settled"]


async def test_a_model_that_does_not_stop_is_cut_off(gateway: Gateway) -> None:
    gateway.model.never_stop = True

    answer = (await gateway.ask())[-1].final.answer

    assert answer.outcome == "cut"
    assert 1600 < len(answer.text) < 1700
    ((state, held, settled),) = await gateway.reservations()
    assert (state, settled) == ("settled", held)


async def test_a_deadline_ends_the_model_call_too(gateway: Gateway) -> None:
    gateway.model.hang_after_first_word = True
    call = gateway.stub.Ask(pb.AskRequest(question=QUESTION), metadata=gateway.metadata("alice"), timeout=1)

    error = await gateway.refused(drain(call))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(gateway.model.cancelled.wait(), 10)
    assert (await gateway.wait_for_answer())["outcome"] == "cancelled"


@pytest.mark.parametrize(("sent", "state"), [(False, "returned"), (True, "settled")])
async def test_a_failed_call_is_paid_only_if_it_was_sent(gateway: Gateway, sent: bool, state: str) -> None:
    gateway.model.fail_with = ModelError("the provider is down", reason="MODEL_UNAVAILABLE", sent=sent)

    error = await gateway.refused(gateway.ask())

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    ((found, held, settled),) = await gateway.reservations()
    assert (found, settled) == (state, held if sent else 0)
    (row,) = await gateway.stored()
    assert (row["outcome"], row["failure_reason"]) == ("failed", "MODEL_UNAVAILABLE")
    assert row["cost_usd"] == settled


async def test_without_the_database_asking_fails_closed_while_searching_goes_on(
    gateway: Gateway, database_url: str
) -> None:
    await gateway.database.aclose()
    try:
        error = await gateway.refused(gateway.ask())
        found = await gateway.call("Search", retrieve_pb2.SearchRequest(query="spaces"))
    finally:
        # The pool cannot be opened again: give the module's other tests a new one.
        gateway.database.__init__(database_url, "generate")  # type: ignore[misc]
        await gateway.database.open(package_folder("services.generate") / "migrations")

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "PostgreSQL" in str(error.details())
    assert gateway.model.calls == 0
    assert len(found.hits) == 2
