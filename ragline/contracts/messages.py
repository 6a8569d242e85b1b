"""Events as messages of the gRPC contracts, where more than one service speaks of them."""

from __future__ import annotations

from ragline.contracts.events import AnswerEvaluated
from ragline.eval.v1 import eval_pb2


def evaluation_message(evaluation: AnswerEvaluated) -> eval_pb2.Evaluation:
    """An evaluation, as EvalService and GatewayService tell of it."""
    return eval_pb2.Evaluation(
        answer_id=evaluation.answer_id,
        verdict=evaluation.verdict,
        scores=[
            eval_pb2.Score(
                name=score.name, value=score.value, method=score.method, version=score.version, reason=score.reason
            )
            for score in evaluation.scores
        ],
        flags=evaluation.flags,
        evaluated_unix_s=evaluation.evaluated_at.timestamp(),
    )
