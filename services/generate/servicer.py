"""GatewayService: proto <-> domain. Tenant, user and groups are the verified caller's, never a field's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, Final

from ragline.errors import InvalidArgument, PermissionDenied
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import current_identity
from ragline.retrieve.v1 import retrieve_pb2
from ragline.rpc import bearer_token, remaining_s
from services.generate.admission import Question
from services.generate.answers import Answers
from services.generate.asking import Asking, Finished, Step, Token
from services.generate.budget import Budgets
from services.generate.messages import answer_message, budget_message, evidence_message
from services.generate.retrieval import Retrieval, Retrieved

_MOST_CITING_ANSWERS: Final = 1000
_SERVICE: Final = "/ragline.gateway.v1.GatewayService"
SCOPES: Final = {
    f"{_SERVICE}/Ask": ("ask",),
    f"{_SERVICE}/Search": ("search", "ask"),
    f"{_SERVICE}/GetAnswer": ("ask", "admin"),
    f"{_SERVICE}/GetEvidence": ("ask", "admin", "internal"),
    f"{_SERVICE}/ListAnswersCiting": ("admin", "internal"),
    f"{_SERVICE}/GetBudget": ("ask", "admin"),
    f"{_SERVICE}/SetBudget": ("admin",),
}


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """What internal apps call."""

    def __init__(self, *, asking: Asking, retrieval: Retrieval, answers: Answers, budgets: Budgets) -> None:
        self._asking = asking
        self._retrieval = retrieval
        self._answers = answers
        self._budgets = budgets

    async def Ask(self, request: pb.AskRequest, context: Any) -> AsyncIterator[pb.AskResponse]:
        question = Question(
            text=request.question,
            at_version=request.at_version,
            min_version=request.min_version,
            model=request.model,
            evidence_limit=request.evidence_limit,
            metadata=dict(request.metadata),
        )
        steps = self._asking.ask(question, current_identity(), bearer_token(context), time_left_s=remaining_s(context))
        async with aclosing(steps):
            async for step in steps:
                yield _response(step)

    async def Search(self, request: retrieve_pb2.SearchRequest, context: Any) -> retrieve_pb2.SearchResponse:
        return await self._retrieval.search(request, bearer_token(context), time_left_s=remaining_s(context))

    async def GetAnswer(self, request: pb.GetAnswerRequest, context: Any) -> pb.GetAnswerResponse:
        answer = await self._answers.read(_required(request.answer_id), current_identity())
        return pb.GetAnswerResponse(answer=answer_message(answer))

    async def GetEvidence(self, request: pb.GetEvidenceRequest, context: Any) -> pb.GetEvidenceResponse:
        caller, answer_id = current_identity(), _required(request.answer_id)
        if request.tenant and "internal" in caller.scopes:
            passages = await self._answers.evidence_for_service(answer_id, request.tenant)
        elif request.tenant not in ("", caller.tenant):
            raise PermissionDenied("only a key with the scope internal may name another tenant")
        else:
            passages = (await self._answers.read(answer_id, caller)).passages
        return pb.GetEvidenceResponse(
            evidence=[
                pb.EvidenceText(
                    number=passage.number,
                    document_id=passage.document_id,
                    text=passage.text,
                    heading_path=passage.heading_path,
                )
                for passage in passages
            ]
        )

    async def ListAnswersCiting(
        self, request: pb.ListAnswersCitingRequest, context: Any
    ) -> pb.ListAnswersCitingResponse:
        caller = current_identity()
        tenant = request.tenant or caller.tenant
        if tenant != caller.tenant and "internal" not in caller.scopes:
            raise PermissionDenied("only a key with the scope internal may name another tenant")
        if not 0 <= request.limit <= _MOST_CITING_ANSWERS:
            raise InvalidArgument("limit", f"must be between 1 and {_MOST_CITING_ANSWERS}")
        answers = await self._answers.citing(
            tenant, request.document_id, request.content_hashes, limit=request.limit or 100
        )
        return pb.ListAnswersCitingResponse(
            answers=[
                pb.CitingAnswer(
                    answer_id=answer["id"],
                    question=answer["question"],
                    index_version=answer["index_version"],
                    created_unix_s=answer["created_unix_s"],
                )
                for answer in answers
            ]
        )

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        caller = current_identity()
        user = request.user or caller.user
        if user != caller.user:
            caller.require("admin")
        budgets = await self._budgets.show(caller.tenant, user)
        return pb.GetBudgetResponse(budgets=[budget_message(budget) for budget in budgets])

    async def SetBudget(self, request: pb.SetBudgetRequest, context: Any) -> pb.SetBudgetResponse:
        caller = current_identity()
        budget = await self._budgets.set_limit(
            caller.tenant,
            user=request.user or None,
            period=request.period,
            # By way of its shortest text: a limit of 0.1 means a tenth.
            limit_usd=Decimal(repr(request.limit_usd)),
            set_by=caller.user,
        )
        return pb.SetBudgetResponse(budget=budget_message(budget))


def _response(step: Step) -> pb.AskResponse:
    match step:
        case Retrieved(index_version, fingerprint, _, passages):
            version = retrieve_pb2.IndexVersion(version=index_version, fingerprint=fingerprint)
            evidence = [evidence_message(passage) for passage in passages]
            return pb.AskResponse(retrieved=pb.Retrieved(index_version=version, evidence=evidence))
        case Token(text):
            return pb.AskResponse(token=pb.Token(text=text))
        case Finished(answer, budgets):
            final = pb.Final(answer=answer_message(answer), budgets=[budget_message(budget) for budget in budgets])
            return pb.AskResponse(final=final)


def _required(answer_id: str) -> str:
    if not answer_id or "\x00" in answer_id:
        raise InvalidArgument("answer_id", "must name an answer")
    return answer_id
