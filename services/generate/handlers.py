"""`answer.evaluated` in: the scores come to lie with the answer. `answer.produced` leaves by the outbox."""

from __future__ import annotations

from ragline.bus import Bus
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import AnswerEvaluated
from services.generate.answers import Answers


class EvaluationHandler:
    """Attaches evaluations to answers."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def subscribe(self, bus: Bus) -> None:
        """Retries while PostgreSQL is down; dead-letters the evaluation of an answer that is not there."""
        bus.subscribe(AnswerEvaluated, self.attach)

    async def attach(self, received: Received[AnswerEvaluated]) -> None:
        """Keep it with its answer, unless a newer one lies there: harmless to repeat, in any order."""
        await self._answers.attach_evaluation(received.event)
