"""The end of every question that had a hold: answer, event and settlement in one transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import stamina
import structlog

from ragline.database import Database
from ragline.errors import TransientError
from ragline.outbox import Outbox
from services.generate.answer import Answer
from services.generate.answers import Answers
from services.generate.budget import Budgets, Reservation

log = structlog.get_logger(__name__)

_RECORD_FOR_S: Final = 5.0
"""How long recording may take, retries included."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a question ended: its answer, and the hold that this settles.

    A hold is given back only if the call was provably not `sent`. `traceparent` names the span that the
    answer's event belongs to.
    """

    answer: Answer
    reservation: Reservation | None
    sent: bool
    traceparent: str | None


class Recorder:
    """Records answers; what has begun is finished, whoever is cancelled meanwhile."""

    def __init__(self, database: Database, answers: Answers, budgets: Budgets, outbox: Outbox) -> None:
        self._database = database
        self._answers = answers
        self._budgets = budgets
        self._outbox = outbox
        self._under_way: set[asyncio.Task[None]] = set()

    async def record(self, ending: Ending) -> None:
        """Store the answer, announce it if it was given, and settle its hold at the answer's cost.

        Raises TransientError when the database cannot be reached in time; the hold's lease then settles it.
        """
        task = asyncio.create_task(self._within_bounds(ending))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait for what is under way: bounded, since each recording is."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("answer_not_recorded", error=str(error))

    async def _within_bounds(self, ending: Ending) -> None:
        answer = ending.answer
        try:
            async with asyncio.timeout(_RECORD_FOR_S):
                async for attempt in stamina.retry_context(on=TransientError, attempts=5, wait_initial=0.1):
                    with attempt:
                        await self._once(ending)
        except TimeoutError as error:
            raise TransientError(f"PostgreSQL did not store the answer {answer.id} in time") from error
        self._outbox.kick()
        log.info(
            "answer_recorded",
            answer_id=answer.id,
            tenant=answer.tenant,
            outcome=answer.outcome,
            refused=answer.refused,
            cost_usd=str(answer.cost_usd),
        )

    async def _once(self, ending: Ending) -> None:
        async with self._database.transaction() as connection:
            await self._answers.add(connection, ending.answer, traceparent=ending.traceparent)
            # Last, since everyone of the tenant waits for the rows that it locks until the commit.
            if ending.reservation is not None and ending.sent:
                await self._budgets.settle(ending.reservation, ending.answer.cost_usd, connection=connection)
            elif ending.reservation is not None:
                await self._budgets.give_back(ending.reservation, connection=connection)
