"""EvalService: proto <-> domain."""

from __future__ import annotations

from typing import Any, Final

from ragline.contracts.messages import evaluation_message
from ragline.errors import InvalidArgument, NotFound
from ragline.eval.v1 import eval_pb2 as pb
from ragline.eval.v1 import eval_pb2_grpc
from ragline.identity import current_identity
from services.eval.evaluations import Evaluations

SCOPES: Final = {"/ragline.eval.v1.EvalService/GetEvaluation": ("ask", "internal")}


class EvalServicer(eval_pb2_grpc.EvalServiceServicer):
    """Answers from the store of evaluations."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Any) -> pb.GetEvaluationResponse:
        if not request.answer_id:
            raise InvalidArgument("answer_id", "must name an answer")
        identity = current_identity()
        # Another tenant's evaluation must look like none at all.
        tenant = None if "internal" in identity.scopes else identity.tenant
        evaluation = await self._evaluations.find(request.answer_id, tenant=tenant)
        if evaluation is None:
            raise NotFound(f"there is no evaluation of an answer {request.answer_id} (not yet, or no such answer)")
        return pb.GetEvaluationResponse(evaluation=evaluation_message(evaluation))
