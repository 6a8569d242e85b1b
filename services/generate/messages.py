"""The domain as messages of the gateway's API."""

from __future__ import annotations

from ragline.contracts.messages import evaluation_message
from ragline.gateway.v1 import gateway_pb2 as pb
from ragline.retrieve.v1 import retrieve_pb2
from services.generate.answer import Answer, Passage, StageScore
from services.generate.budget import Budget


def answer_message(answer: Answer) -> pb.Answer:
    """An answer with its provenance, without the evidence's texts."""
    return pb.Answer(
        answer_id=answer.id,
        question=answer.question,
        text=answer.text,
        refused=answer.refused,
        evidence=[evidence_message(passage) for passage in answer.passages],
        invalid_citations=answer.invalid_citations,
        index_version=retrieve_pb2.IndexVersion(version=answer.index_version, fingerprint=answer.index_fingerprint),
        model=answer.model,
        prompt_version=answer.prompt_version,
        prompt_hash=answer.prompt_hash,
        usage=pb.Usage(
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cost_usd=float(answer.cost_usd),
            price_version=answer.price_version,
        ),
        latency_ms=dict(answer.latency_ms),
        trace_id=answer.trace_id,
        user=answer.asker,
        created_unix_s=answer.created_at.timestamp(),
        outcome=answer.outcome,
        evaluation=evaluation_message(answer.evaluation) if answer.evaluation else None,
    )


def evidence_message(passage: Passage) -> pb.Evidence:
    """One numbered piece of evidence, without its text."""
    return pb.Evidence(
        number=passage.number,
        document_id=passage.document_id,
        title=passage.title,
        heading_path=passage.heading_path,
        uri=passage.uri,
        chunk_id=passage.chunk_id,
        content_hash=passage.content_hash,
        score=passage.score,
        cited=passage.cited,
        dense=_stage_score(passage.dense),
        sparse=_stage_score(passage.sparse),
        valid_from=passage.valid_from,
    )


def budget_message(budget: Budget) -> pb.Budget:
    """One level's window."""
    return pb.Budget(
        level=budget.level,
        subject=budget.subject,
        period=budget.period,
        limit_usd=float(budget.limit_usd or 0),
        spent_usd=float(budget.spent_usd),
        held_usd=float(budget.held_usd),
        left_usd=float(budget.left_usd or 0),
        resets_unix_s=budget.resets_at.timestamp(),
        unlimited=budget.limit_usd is None,
    )


def _stage_score(stage: StageScore | None) -> retrieve_pb2.StageScore | None:
    return retrieve_pb2.StageScore(score=stage.score, rank=stage.rank) if stage else None
