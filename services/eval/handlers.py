"""`answer.produced` in, `answer.evaluated` out: at least once, harmless to repeat."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from opentelemetry.trace import Span

from ragline.bus import Bus
from ragline.contracts.cloudevents import Received
from ragline.contracts.events import AnswerEvaluated, AnswerProduced
from ragline.errors import NotFound, PermissionDenied, TransientError, Unauthenticated
from ragline.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragline.rpc import Caller
from ragline.telemetry import Attribute, Telemetry, link
from services.eval.citations import cited_numbers
from services.eval.evaluations import Evaluations
from services.eval.evidence import Evidence
from services.eval.scoring import AnswerToScore, Judgement, Scorer

log = structlog.get_logger(__name__)


class Evaluator:
    """Evaluates one answer at a time: fetch its evidence, score it, store and announce the result."""

    def __init__(
        self,
        *,
        scorer: Scorer,
        evaluations: Evaluations,
        gateway: gateway_pb2_grpc.GatewayServiceAsyncStub,
        caller: Caller,
        telemetry: Telemetry,
    ) -> None:
        self._scorer = scorer
        self._evaluations = evaluations
        self._gateway = gateway
        self._caller = caller
        self._tracer = telemetry.tracer

    def subscribe(self, bus: Bus) -> None:
        """Retries while the gateway or PostgreSQL is down; dead-letters an answer that is gone."""
        bus.subscribe(AnswerProduced, self.evaluate_answer)

    async def evaluate_answer(self, received: Received[AnswerProduced]) -> AnswerEvaluated | None:
        """Evaluate an answer; None when that has been done before, by this scorer or a newer one."""
        event, version = received.event, self._scorer.version
        with self._tracer.start_as_current_span(
            "evaluate answer",
            links=link(received.headers.get("traceparent"), **{Attribute.ANSWER_ID: event.answer_id}),
            attributes={Attribute.ANSWER_ID: event.answer_id, Attribute.TENANT: event.tenant},
        ) as span:
            if await self._evaluations.is_current(event.answer_id, event.tenant, scorer_version=version):
                span.set_attribute(Attribute.OUTCOME, "already evaluated")
                return None
            answer = AnswerToScore(
                event.question,
                event.answer,
                event.refused,
                await self._evidence(event),
                cited_numbers(event.answer),
            )
            judgement = await asyncio.to_thread(self._scorer.judge, answer)
            evaluation = AnswerEvaluated(
                answer_id=event.answer_id,
                tenant=event.tenant,
                scores=judgement.scores,
                flags=judgement.flags,
                verdict=judgement.verdict,
                evaluated_at=datetime.now(UTC),
            )
            _describe(span, judgement)
            recorded = await self._evaluations.record(evaluation, scorer_version=version)
            log.info("answer_evaluated", answer_id=event.answer_id, verdict=judgement.verdict, recorded=recorded)
            return evaluation if recorded else None

    async def _evidence(self, event: AnswerProduced) -> list[Evidence]:
        """What the answer was given to read; a piece whose text is gone since then can still be cited."""
        if not event.evidence:
            return []
        request = gateway_pb2.GetEvidenceRequest(answer_id=event.answer_id, tenant=event.tenant)
        try:
            response: gateway_pb2.GetEvidenceResponse = await self._caller(
                self._gateway.GetEvidence, request, name="GatewayService/GetEvidence"
            )
        except NotFound as error:
            raise NotFound(
                f"the gateway knows no answer {event.answer_id} of tenant {event.tenant}: it was erased, "
                "or the database was reset; there is nothing to evaluate",
                reason="ANSWER_NOT_FOUND",
            ) from error
        except (Unauthenticated, PermissionDenied) as error:
            # A wrong token is no fault of the answer: wait for whoever mends it, lose nothing.
            raise TransientError(
                f"the gateway refuses eval's token ({error}): set RAGLINE_AUTH__SERVICE_TOKEN to a key "
                "with the scope `internal`",
                reason=error.reason,
            ) from error
        found = {piece.number: piece for piece in response.evidence}
        return [
            Evidence(number, found[number].text, tuple(found[number].heading_path))
            if number in found
            else Evidence(number, "")
            for number in (piece.number for piece in event.evidence)
        ]


def _describe(span: Span, judgement: Judgement) -> None:
    """Put verdict and scores on the span, so that bad answers can be searched for."""
    span.set_attribute(Attribute.VERDICT, judgement.verdict)
    for score in judgement.scores:
        if score.value is not None:
            span.set_attribute(f"{Attribute.SCORE}.{score.name}", score.value)
