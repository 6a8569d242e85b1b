"""An answer with everything that it takes to account for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from ragline.contracts.events import AnswerEvaluated, AnswerProduced, EvidenceRef

Outcome = Literal["complete", "cut", "cancelled", "failed"]
"""complete; cut at the most tokens that were paid for; cancelled by the caller; failed in the model."""


@dataclass(frozen=True, slots=True)
class StageScore:
    """A score of one stage of retrieval, and the rank that it gave, from 1."""

    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class Passage:
    """One numbered piece of evidence: its text, where it is from, and why it was chosen.

    `number` counts from 1 and is what the answer cites; `valid_from` is the sequence that made the
    chunk visible; `score` is the fused one.
    """

    number: int
    document_id: str
    title: str
    heading_path: tuple[str, ...]
    uri: str
    chunk_id: str
    point_id: str
    content_hash: str
    text: str
    score: float
    dense: StageScore | None
    sparse: StageScore | None
    valid_from: int
    cited: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its provenance.

    `asker_groups` is what the asker could read by: whoever reads the answer later must still have them.
    `parameters` is what decided besides the question: versions and metadata asked for, evidence limit,
    most tokens.
    `usage_reported` is False where the tokens were counted here and the cost is the whole hold.
    `latency_ms` by stage: `first_token` counts from the model call, `total` from the question until the
    answer was ready to be stored. `failure_reason` is the error's stable word.
    """

    id: str
    tenant: str
    asker: str
    asker_groups: tuple[str, ...]
    question: str
    parameters: Mapping[str, Any]
    text: str
    outcome: Outcome
    refused: bool
    passages: tuple[Passage, ...]
    invalid_citations: tuple[int, ...]
    index_version: str
    index_fingerprint: str
    embedder: str
    model: str
    prompt_version: str
    prompt_hash: str
    prompt_tokens: int
    completion_tokens: int
    usage_reported: bool
    cost_usd: Decimal
    price_version: str
    latency_ms: Mapping[str, float]
    trace_id: str
    created_at: datetime
    failure_reason: str | None = None
    evaluation: AnswerEvaluated | None = field(default=None, compare=False)

    @property
    def given(self) -> bool:
        """Whether the caller got an answer to judge: not when it broke off."""
        return self.outcome in ("complete", "cut")

    def produced(self) -> AnswerProduced:
        """The event that tells of it."""
        return AnswerProduced(
            answer_id=self.id,
            tenant=self.tenant,
            user=self.asker,
            question=self.question,
            answer=self.text,
            refused=self.refused,
            evidence=tuple(
                EvidenceRef(
                    number=passage.number,
                    document_id=passage.document_id,
                    chunk_id=passage.chunk_id,
                    content_hash=passage.content_hash,
                    score=passage.score,
                    cited=passage.cited,
                )
                for passage in self.passages
            ),
            index_version=self.index_version,
            index_fingerprint=self.index_fingerprint,
            model=self.model,
            prompt_version=self.prompt_version,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost_usd=float(self.cost_usd),
            latency_ms=dict(self.latency_ms),
            trace_id=self.trace_id,
            produced_at=self.created_at,
        )
