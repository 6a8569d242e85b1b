"""Budgets: what a user and a tenant may spend a day and a month, held before a model call, settled after.

The worst case of a call is reserved on every level at once; the truth is booked when the call has ended.
A hold whose owner died is settled at the hold once its lease has run out. So, whatever calls run at once
and wherever they crash: spent - overrun + held never exceeds the limit that was in force.

Amounts are US dollars as Decimal; windows are UTC days and months by the database's clock.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

import structlog

from ragline.database import Connection, Database
from ragline.errors import InvalidArgument, ResourceExhausted, TransientError
from services.generate import budget_statements as sql

log = structlog.get_logger(__name__)

Level = Literal["user", "tenant"]
PERIODS: Final = ("day", "month")
_HOLDS_SETTLE_S: Final = 5
"""When to try again if only the holds of calls under way stand in the way."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One level's window: what may be spent there and what has been.

    `limit_usd` is None where no limit is set; `spent_usd` includes `overrun_usd`, the part that no hold
    had covered; `held_usd` belongs to calls under way.
    """

    level: Level
    subject: str
    period: str
    limit_usd: Decimal | None
    spent_usd: Decimal
    held_usd: Decimal
    overrun_usd: Decimal
    resets_at: datetime

    @property
    def left_usd(self) -> Decimal | None:
        """What a new hold may take; None where no limit is set."""
        if self.limit_usd is None:
            return None
        return max(Decimal(0), self.limit_usd - self.spent_usd - self.held_usd)

    def admits(self, amount_usd: Decimal) -> bool:
        """Whether a hold of this amount fits."""
        return self.limit_usd is None or self.spent_usd + self.held_usd + amount_usd <= self.limit_usd

    @property
    def name(self) -> str:
        """Such as `user:alice/day`, the subject of a quota violation."""
        return f"{self.level}:{self.subject}/{self.period}"


@dataclass(frozen=True, slots=True)
class Reservation:
    """A hold on every level, until it is settled, given back, or its lease runs out."""

    id: uuid.UUID
    amount_usd: Decimal
    lease_until: datetime


def refusal(levels: Sequence[Budget], amount_usd: Decimal, now: datetime) -> ResourceExhausted:
    """The error for an amount that does not fit: which levels refuse, what is left, when it changes.

    Without `retry_after_s` when the amount exceeds a limit as such, since then waiting cannot help.
    """
    refusing = [level for level in levels if not level.admits(amount_usd)]
    tightest = min(refusing, key=lambda level: level.left_usd or Decimal(0))
    turns = max(level.resets_at for level in refusing)
    advice: str
    retry_after_s: float | None
    if any(level.limit_usd is not None and amount_usd > level.limit_usd for level in refusing):
        retry_after_s = None
        advice = "it exceeds the whole limit: raise that, or ask with less evidence or a cheaper model"
    elif all(level.limit_usd is None or level.spent_usd + amount_usd <= level.limit_usd for level in refusing):
        retry_after_s = _HOLDS_SETTLE_S
        advice = "calls under way hold the rest: try again in a few seconds"
    else:
        retry_after_s = math.ceil((turns - now).total_seconds())
        advice = f"the window turns at {turns:%Y-%m-%d %H:%M} UTC"
    return ResourceExhausted(
        f"the budget {tightest.name} has {usd(tightest.left_usd)} of {usd(tightest.limit_usd)} USD left, "
        f"and this question may cost up to {usd(amount_usd)}; {advice}",
        reason="BUDGET_EXCEEDED",
        retry_after_s=retry_after_s,
        violations=tuple(
            (level.name, f"{usd(level.left_usd)} of {usd(level.limit_usd)} USD left") for level in refusing
        ),
    )


def usd(amount: Decimal | None) -> str:
    """An amount for people, without exponent or trailing zeros."""
    return f"{(amount or Decimal(0)).normalize():f}"


class Budgets:
    """Reserves and settles on PostgreSQL; with that down, every method raises TransientError.

    `lease_s` is how long a hold lasts without being settled: longer than any call may take.
    """

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    async def reserve(self, tenant: str, user: str, amount_usd: Decimal, *, answer_id: str) -> Reservation:
        """Hold the amount on all levels, or on none and raise ResourceExhausted (BUDGET_EXCEEDED)."""
        reservation_id = uuid.uuid4()
        try:
            rows = await self._try_to_hold(reservation_id, tenant, user, amount_usd, answer_id)
        except asyncio.CancelledError:
            # The statement may have been carried out; nobody would ever settle it.
            await asyncio.shield(self._end(reservation_id, Decimal(0), "returned", None))
            raise
        if not rows[0]["granted"]:
            raise refusal([_budget(row) for row in rows], amount_usd, rows[0]["asked_at"])
        return Reservation(reservation_id, amount_usd, rows[0]["lease_until"])

    async def _try_to_hold(
        self, reservation_id: uuid.UUID, tenant: str, user: str, amount_usd: Decimal, answer_id: str
    ) -> list[Mapping[str, Any]]:
        """One row a level. A second round only for the first call of a window, which must make its rows."""
        parameters = {
            "id": reservation_id,
            "tenant": tenant,
            "user": user,
            "amount": amount_usd,
            "answer_id": answer_id,
            "lease_s": self._lease_s,
        }
        for _ in range(3):
            rows = await self._rows(sql.RESERVE, parameters)
            if len(rows) == sql.LEVEL_COUNT:
                return rows
            await self._rows(sql.CREATE_WINDOWS, parameters)
        raise TransientError(f"the budget windows of {tenant}/{user} cannot be made; try again")

    async def settle(
        self, reservation: Reservation, actual_usd: Decimal, *, connection: Connection | None = None
    ) -> None:
        """Book what was really spent and release the hold; repeating it changes nothing.

        What exceeds the hold is booked as overrun. After the lease has run out the hold counts as
        spent, and the truth may only lower it. With `connection`, within that transaction: as its last
        statement, since everyone of the tenant waits for these rows.
        """
        await self._end(reservation.id, actual_usd, "settled", connection)

    async def give_back(self, reservation: Reservation, *, connection: Connection | None = None) -> None:
        """Release a hold: only if the call was provably not sent."""
        await self._end(reservation.id, Decimal(0), "returned", connection)

    async def _end(
        self, reservation_id: uuid.UUID, actual_usd: Decimal, state: str, connection: Connection | None
    ) -> None:
        parameters = {"id": reservation_id, "actual": actual_usd, "state": state}
        for row in await self._rows(sql.END, parameters, connection):
            if row["overrun_usd"] > 0:
                log.error("budget_overrun", reservation=str(reservation_id), overrun_usd=str(row["overrun_usd"]))

    async def expire_leases(self) -> int:
        """Settle at the hold what nobody has settled in time; returns how many."""
        rows = await self._rows(sql.EXPIRE, {})
        for row in rows:
            log.warning(
                "hold_expired",
                reservation=str(row["id"]),
                answer_id=row["answer_id"],
                amount_usd=str(row["amount_usd"]),
            )
        return len(rows)

    async def run_expiry(self, *, every_s: float = 3.0) -> None:
        """Expire leases until cancelled, through outages of the database."""
        while True:
            try:
                await self.expire_leases()
            except TransientError as error:
                log.warning("lease_expiry_waits", error=str(error))
            await asyncio.sleep(every_s)

    async def show(self, tenant: str, user: str) -> tuple[Budget, ...]:
        """The present windows of a user and of the tenant, limited or not."""
        return tuple(_budget(row) for row in await self._rows(sql.SHOW, {"tenant": tenant, "user": user}))

    async def set_limit(self, tenant: str, *, user: str | None, period: str, limit_usd: Decimal, set_by: str) -> Budget:
        """Set the limit of a user, or of the whole tenant when `user` is None; returns what it means now.

        It is in force for every reservation that begins after this returns.
        """
        if period not in PERIODS:
            raise InvalidArgument("period", f"{period[:20]!r} is not a period; use day or month")
        if not limit_usd.is_finite() or limit_usd < 0:
            raise InvalidArgument("limit_usd", "a limit is an amount in US dollars, 0 or more")
        level, subject = ("tenant", tenant) if user is None else ("user", user)
        await self._rows(
            sql.SET_LIMIT,
            {
                "tenant": tenant,
                "level": level,
                "subject": subject,
                "period": period,
                "limit": limit_usd,
                "set_by": set_by,
            },
        )
        budgets = await self.show(tenant, subject)
        return next(budget for budget in budgets if (budget.level, budget.period) == (level, period))

    async def _rows(
        self, statement: str, parameters: Mapping[str, Any], connection: Connection | None = None
    ) -> list[Mapping[str, Any]]:
        if connection is None:
            async with self._database.connection() as own:
                return await self._rows(statement, parameters, own)
        cursor = await connection.execute(statement, parameters)
        return [*await cursor.fetchall()] if cursor.description else []


def _budget(row: Mapping[str, Any]) -> Budget:
    return Budget(
        row["level"],
        row["subject"],
        row["period"],
        row["limit_usd"],
        row["spent_usd"],
        row["held_usd"],
        row["overrun_usd"],
        row["window_end"],
    )
