"""An answer in the making: what is known of it at each stage, until it becomes an `Answer`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from opentelemetry import trace

from ragline.identity import Identity
from ragline.telemetry import trace_headers, trace_id
from services.generate.admission import Question
from services.generate.answer import Answer, Outcome
from services.generate.budget import Reservation
from services.generate.citations import check_citations
from services.generate.model import ModelChunk, Usage
from services.generate.prompts import REFUSAL, Prompt
from services.generate.retrieval import Retrieved


class Draft:
    """Filled in stage by stage by `Asking`. Made within the span of the question, which it remembers."""

    def __init__(self, question: Question, asker: Identity) -> None:
        self.id = str(uuid.uuid4())
        self.question = question
        self.asker = asker
        self.span = trace.get_current_span()
        self.traceparent = trace_headers().get("traceparent")
        self.retrieved = Retrieved("", "", "", ())
        self.prompt: Prompt | None = None
        self.prompt_tokens = 0
        self.reservation: Reservation | None = None
        self.call_began: float | None = None
        self.sent = True
        """Whether the model call, once begun, may have reached the provider, and so may cost something."""
        self.text = ""
        self.usage: Usage | None = None
        self.outcome: Outcome = "complete"
        self.failure_reason: str | None = None
        self.recording = False
        self.latency_ms: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.mark(stage, began)

    def mark(self, stage: str, began: float) -> None:
        """Note the milliseconds since `began`, a reading of `time.perf_counter`."""
        self.latency_ms[stage] = round((time.perf_counter() - began) * 1000, 3)

    def take(self, chunk: ModelChunk) -> str:
        """Add a piece of the model's answer; returns its text."""
        if chunk.usage is not None:
            self.usage = chunk.usage
        if chunk.finish_reason is not None:
            self.outcome = "cut" if chunk.finish_reason == "length" else "complete"
        text = chunk.text.replace("\x00", "")  # PostgreSQL cannot store NUL
        if text and not self.text and self.call_began is not None:
            self.mark("first_token", self.call_began)
        self.text += text
        return text

    @property
    def owes(self) -> bool:
        """Whether a model call was begun and may have been sent: then its hold is settled, not given back."""
        return self.call_began is not None and self.sent

    @property
    def refused(self) -> bool:
        """Only the agreed text is a refusal; an answer without citations stays, and evaluation flags it."""
        return self.text.strip() == REFUSAL

    def answer(self, *, usage: Usage, cost_usd: Decimal, price_version: str, max_tokens: int) -> Answer:
        """The answer as it stands now."""
        self.mark("total", self._began)
        question, prompt = self.question, self.prompt
        numbers = {piece.number for piece in prompt.evidence} if prompt else set()
        citations = check_citations(self.text, numbers)
        passages = tuple(
            replace(passage, cited=passage.number in citations.cited)
            for passage in self.retrieved.passages
            if passage.number in numbers
        )
        return Answer(
            id=self.id,
            tenant=self.asker.tenant,
            asker=self.asker.user,
            asker_groups=tuple(sorted(self.asker.groups)) if passages else (),
            question=question.text,
            parameters={
                "at_version": question.at_version,
                "min_version": question.min_version,
                "metadata": dict(question.metadata),
                "evidence_limit": question.evidence_limit,
                "max_tokens": max_tokens,
            },
            text=self.text,
            outcome=self.outcome,
            refused=self.refused,
            passages=passages,
            invalid_citations=tuple(citations.invalid),
            index_version=self.retrieved.index_version,
            index_fingerprint=self.retrieved.index_fingerprint,
            embedder=self.retrieved.embedder,
            model=question.model,
            prompt_version=prompt.version if prompt else "",
            prompt_hash=prompt.hash if prompt else "",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            usage_reported=usage.reported,
            cost_usd=cost_usd,
            price_version=price_version,
            latency_ms=dict(self.latency_ms),
            trace_id=trace_id(self.span),
            created_at=datetime.now(UTC),
            failure_reason=self.failure_reason,
        )
