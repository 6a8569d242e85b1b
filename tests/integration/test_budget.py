"""Budgets on a real PostgreSQL: no interleaving and no crash overspends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ragline.database import Database, package_folder
from ragline.errors import InvalidArgument, ResourceExhausted, TransientError
from services.generate.budget import Budget, Budgets, Reservation

pytestmark = pytest.mark.stack

MIGRATIONS: Path = package_folder("services.generate") / "migrations"
CENT = Decimal("0.01")


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "generate", pool_size=8)
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


@pytest.fixture
def budgets(database: Database) -> Budgets:
    return Budgets(database, lease_s=60)


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


async def limit_user(budgets: Budgets, tenant: str, user: str, limit: str, period: str = "day") -> None:
    await budgets.set_limit(tenant, user=user, period=period, limit_usd=Decimal(limit), set_by="root")


async def limit_tenant(budgets: Budgets, tenant: str, limit: str, period: str = "day") -> None:
    await budgets.set_limit(tenant, user=None, period=period, limit_usd=Decimal(limit), set_by="root")


async def hold(budgets: Budgets, tenant: str, amount: Decimal, user: str = "alice") -> Reservation:
    return await budgets.reserve(tenant, user, amount, answer_id="an-answer")


async def window(budgets: Budgets, tenant: str, name: str, user: str = "alice") -> Budget:
    return {f"{b.level}/{b.period}": b for b in await budgets.show(tenant, user)}[name]


async def test_a_thousand_concurrent_reservations_fill_the_limit_exactly(budgets: Budgets, tenant: str) -> None:
    await limit_tenant(budgets, tenant, "3.455")

    async def try_to_hold(number: int) -> str:
        try:
            await hold(budgets, tenant, CENT, user=f"user-{number % 7}")
        except ResourceExhausted:
            return "refused"
        return "held"

    # Windows are made by the first calls, amid the race.
    outcomes = Counter(await asyncio.gather(*(try_to_hold(number) for number in range(1000))))

    assert outcomes == {"held": 345, "refused": 655}
    assert (await window(budgets, tenant, "tenant/day")).held_usd == Decimal("3.45")
    assert (await window(budgets, tenant, "tenant/month")).held_usd == Decimal("3.45")


async def test_the_limit_holds_while_calls_settle_overrun_are_given_back_and_die(
    budgets: Budgets, database: Database, tenant: str
) -> None:
    await limit_tenant(budgets, tenant, "0.50")
    await limit_user(budgets, tenant, "user-0", "0.10", "month")
    doomed = Budgets(database, lease_s=0.0)
    calls_under_way = True
    at_once = asyncio.Semaphore(16)

    async def call(number: int) -> None:
        async with at_once:
            with contextlib.suppress(ResourceExhausted):
                await reserve_and_end(number)

    async def reserve_and_end(number: int) -> None:
        worker = doomed if number % 5 == 0 else budgets
        reservation = await hold(worker, tenant, CENT, user=f"user-{number % 3}")
        match number % 5:
            case 0:
                pass  # killed: only its lease ends the hold
            case 1:
                await budgets.give_back(reservation)
            case 2:
                await budgets.settle(reservation, Decimal("0.013"))
            case _:
                await budgets.settle(reservation, Decimal("0.004"))

    async def watch() -> int:
        looks = 0
        while calls_under_way:
            for budget in await budgets.show(tenant, "user-0"):
                committed = budget.spent_usd - budget.overrun_usd + budget.held_usd
                assert budget.limit_usd is None or committed <= budget.limit_usd
            looks += 1
        return looks

    async def expire() -> None:
        while calls_under_way:
            await budgets.expire_leases()

    background = [asyncio.create_task(watch()), asyncio.create_task(expire())]
    await asyncio.gather(*(call(number) for number in range(400)))
    calls_under_way = False
    looks, _ = await asyncio.gather(*background)
    await budgets.expire_leases()

    assert looks is not None and looks > 5
    whole = await window(budgets, tenant, "tenant/day")
    booked = await database.fetch_one(
        "SELECT sum(settled_usd) AS spent, count(*) FILTER (WHERE state = 'expired') AS expired"
        " FROM reservation r JOIN budget_window w ON w.id = ANY (r.window_ids)"
        " WHERE w.tenant = %s AND w.level = 'tenant' AND w.period = 'day'",
        (tenant,),
    )
    assert booked is not None and booked["expired"] > 0
    assert (whole.spent_usd, whole.held_usd) == (booked["spent"], Decimal(0))
    assert whole.overrun_usd > 0


async def test_a_refusal_at_one_level_holds_nothing_at_the_others(budgets: Budgets, tenant: str) -> None:
    await limit_user(budgets, tenant, "alice", "0.02")
    await limit_tenant(budgets, tenant, "10")
    await hold(budgets, tenant, CENT * 2)

    with pytest.raises(ResourceExhausted) as refused:
        await hold(budgets, tenant, CENT)

    assert refused.value.reason == "BUDGET_EXCEEDED"
    assert refused.value.violations == (("user:alice/day", "0 of 0.02 USD left"),)
    assert (await window(budgets, tenant, "tenant/day")).held_usd == CENT * 2
    await hold(budgets, tenant, CENT, user="bob")


async def test_a_refusal_says_when_the_window_turns(budgets: Budgets, tenant: str) -> None:
    await limit_user(budgets, tenant, "alice", "0.02")
    await budgets.settle(await hold(budgets, tenant, CENT * 2), CENT * 2)

    with pytest.raises(ResourceExhausted, match=r"user:alice/day has 0 of 0\.02 USD left") as refused:
        await hold(budgets, tenant, CENT)

    midnight = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert refused.value.retry_after_s == pytest.approx((midnight - datetime.now(UTC)).total_seconds(), abs=60)


async def test_without_a_limit_spending_is_still_recorded(budgets: Budgets, tenant: str) -> None:
    await budgets.settle(await hold(budgets, tenant, CENT), Decimal("0.004"))

    for name in ("user/day", "user/month", "tenant/day", "tenant/month"):
        budget = await window(budgets, tenant, name)
        assert (budget.limit_usd, budget.left_usd) == (None, None)
        assert (budget.spent_usd, budget.held_usd) == (Decimal("0.004"), Decimal(0))


async def test_settling_twice_books_once(budgets: Budgets, tenant: str) -> None:
    reservation = await hold(budgets, tenant, CENT)

    await asyncio.gather(*(budgets.settle(reservation, Decimal("0.004")) for _ in range(5)))
    await budgets.give_back(reservation)

    assert (await window(budgets, tenant, "user/day")).spent_usd == Decimal("0.004")


async def test_what_exceeds_the_hold_is_overrun_and_counts_against_later_calls(budgets: Budgets, tenant: str) -> None:
    await limit_user(budgets, tenant, "alice", "0.02")
    await budgets.settle(await hold(budgets, tenant, CENT), Decimal("0.015"))

    budget = await window(budgets, tenant, "user/day")

    assert (budget.spent_usd, budget.overrun_usd) == (Decimal("0.015"), Decimal("0.005"))
    with pytest.raises(ResourceExhausted):
        await hold(budgets, tenant, CENT)


async def test_the_hold_of_a_killed_worker_is_spent_and_a_late_truth_only_lowers_it(
    budgets: Budgets, database: Database, tenant: str
) -> None:
    killed = await hold(Budgets(database, lease_s=0.0), tenant, CENT)
    alive = await hold(budgets, tenant, CENT)

    assert await budgets.expire_leases() >= 1
    expired = await window(budgets, tenant, "tenant/day")
    await budgets.settle(killed, Decimal("0.003"))
    lowered = await window(budgets, tenant, "tenant/day")

    assert (expired.spent_usd, expired.held_usd) == (CENT, alive.amount_usd)
    assert (lowered.spent_usd, lowered.overrun_usd) == (Decimal("0.003"), Decimal(0))

    again = await hold(Budgets(database, lease_s=0.0), tenant, CENT)
    await budgets.expire_leases()
    await budgets.settle(again, CENT * 5)
    assert (await window(budgets, tenant, "tenant/day")).spent_usd == Decimal("0.013")


async def test_a_reservation_settles_in_the_window_that_it_was_made_in(
    budgets: Budgets, database: Database, tenant: str
) -> None:
    reservation = await hold(budgets, tenant, CENT)
    # Yesterday's window now: as if midnight had passed since.
    await database.fetch(
        "UPDATE budget_window SET window_start = window_start - interval '1 day' WHERE tenant = %s AND period = 'day'",
        (tenant,),
    )

    await budgets.settle(reservation, CENT)

    rows = await database.fetch("SELECT spent_usd, held_usd FROM budget_window WHERE tenant = %s", (tenant,))
    assert [(row["spent_usd"], row["held_usd"]) for row in rows] == [(CENT, 0)] * 4
    assert (await window(budgets, tenant, "user/day")).spent_usd == 0


async def test_a_cancelled_reservation_holds_nothing(budgets: Budgets, database: Database, tenant: str) -> None:
    await budgets.give_back(await hold(budgets, tenant, CENT))
    async with database.transaction() as blocker:
        await blocker.execute("SELECT FROM budget_window WHERE tenant = %s FOR UPDATE", (tenant,))
        waiting = asyncio.create_task(hold(budgets, tenant, CENT))
        blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%budget_window%%'"
        while not await database.fetch(blocked):
            await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert (await window(budgets, tenant, "user/day")).held_usd == 0


async def test_a_limit_can_be_changed_and_is_in_force_at_once(budgets: Budgets, tenant: str) -> None:
    await limit_user(budgets, tenant, "alice", "0")
    with pytest.raises(ResourceExhausted):
        await hold(budgets, tenant, CENT)

    raised = await budgets.set_limit(tenant, user="alice", period="day", limit_usd=CENT, set_by="root")

    assert (raised.limit_usd, raised.left_usd) == (CENT, CENT)
    await hold(budgets, tenant, CENT)


@pytest.mark.parametrize(
    ("period", "limit", "field"),
    [("year", "1", "period"), ("day", "-1", "limit_usd"), ("day", "NaN", "limit_usd")],
)
async def test_a_senseless_limit_is_refused_by_field(
    budgets: Budgets, tenant: str, period: str, limit: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await limit_user(budgets, tenant, "alice", limit, period)
    assert refused.value.field == field


async def test_without_the_database_nothing_can_be_reserved(database_url: str, tenant: str) -> None:
    database = Database(database_url, "generate")
    await database.open(MIGRATIONS)
    await database.aclose()

    with pytest.raises(TransientError, match="PostgreSQL"):
        await hold(Budgets(database, lease_s=60), tenant, CENT)
