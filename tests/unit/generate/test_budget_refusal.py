"""What a caller is told whose question does not fit the budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from services.generate.budget import Budget, Level, refusal, usd

NOW = datetime(2026, 5, 20, 18, 0, tzinfo=UTC)
MIDNIGHT = NOW + timedelta(hours=6)
MONTH_END = datetime(2026, 6, 1, tzinfo=UTC)


def budget(
    level: Level = "user",
    period: str = "day",
    *,
    limit: str | None = "1",
    spent: str = "0",
    held: str = "0",
) -> Budget:
    return Budget(
        level=level,
        subject="alice" if level == "user" else "acme",
        period=period,
        limit_usd=Decimal(limit) if limit is not None else None,
        spent_usd=Decimal(spent),
        held_usd=Decimal(held),
        overrun_usd=Decimal(0),
        resets_at=MIDNIGHT if period == "day" else MONTH_END,
    )


def test_it_names_the_tightest_level_and_every_level_that_refuses() -> None:
    levels = [budget(spent="0.95"), budget("tenant", spent="0.99"), budget("tenant", "month", limit="50")]

    error = refusal(levels, Decimal("0.1"), NOW)

    assert str(error).startswith("the budget tenant:acme/day has 0.01 of 1 USD left")
    assert error.reason == "BUDGET_EXCEEDED"
    assert error.violations == (
        ("user:alice/day", "0.05 of 1 USD left"),
        ("tenant:acme/day", "0.01 of 1 USD left"),
    )


def test_spent_money_comes_back_when_the_last_refusing_window_turns() -> None:
    day, month = budget(spent="1"), budget("tenant", "month", spent="1")

    assert refusal([day], Decimal("0.1"), NOW).retry_after_s == 6 * 3600
    assert refusal([day, month], Decimal("0.1"), NOW).retry_after_s == (MONTH_END - NOW).total_seconds()
    assert "the window turns at 2026-05-21 00:00 UTC" in str(refusal([day], Decimal("0.1"), NOW))


def test_money_that_calls_under_way_hold_may_come_back_in_seconds() -> None:
    error = refusal([budget(spent="0.5", held="0.45")], Decimal("0.1"), NOW)

    assert error.retry_after_s is not None and error.retry_after_s < 60
    assert "try again in a few seconds" in str(error)


def test_waiting_does_not_help_against_an_amount_above_the_whole_limit() -> None:
    error = refusal([budget(limit="0.01")], Decimal("0.1"), NOW)

    assert error.retry_after_s is None
    assert "exceeds the whole limit" in str(error)


def test_an_overspent_level_has_nothing_left() -> None:
    overspent = budget(spent="1.2")

    assert overspent.left_usd == 0
    assert not overspent.admits(Decimal(0))


def test_without_a_limit_everything_is_admitted() -> None:
    unlimited = budget(limit=None, spent="1000000")

    assert unlimited.admits(Decimal(1_000_000))
    assert unlimited.left_usd is None


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0"), ("100", "100"), ("0.00010", "0.0001"), ("0.0000000123", "0.0000000123")]
)
def test_amounts_are_written_without_exponents(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text
