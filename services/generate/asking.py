"""One question, from its text to a cited and accounted answer, as a stream of steps.

retrieve -> prompt -> reserve -> model (tokens) -> citations -> store and settle -> finished

However a question ends once it has a hold (answered, cut, cancelled or failed), its answer is stored and
the hold settled; when not even that can be done, the hold's lease settles it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import structlog
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from ragline.errors import RaglineError, TransientError
from ragline.identity import Identity
from services.generate.admission import Policy, Question
from services.generate.answer import Answer, Outcome
from services.generate.budget import Budget, Budgets
from services.generate.draft import Draft
from services.generate.model import LiteLlmModel, ModelError, ModelRejected, Usage
from services.generate.pricing import PriceList
from services.generate.prompts import REFUSAL, Evidence, render
from services.generate.recording import Ending, Recorder
from services.generate.retrieval import IngestTraces, Retrieval, Retrieved
from services.generate.spans import GenAi, describe_answer, record_citations, start_model_span

log = structlog.get_logger(__name__)

_TOKENS_AROUND_A_MESSAGE: Final = 8
"""What a chat format adds to a message's own tokens, at most."""
_CHARACTERS_OF_A_TOKEN: Final = 16
"""More than any tokenizer's average: text beyond this a token was not limited as it was asked to be."""
_NOTHING_USED: Final = Usage(prompt_tokens=0, completion_tokens=0, reported=True)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer's text, as the model writes it."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The finished answer, and the budgets after it (none when they could not be read).

    Here `latency_ms` also has `store`, which the stored answer cannot have, and `total` includes it.
    """

    answer: Answer
    budgets: tuple[Budget, ...]


Step = Retrieved | Token | Finished


class Asking:
    """Answers questions. Every part comes in as an argument."""

    def __init__(
        self,
        *,
        policy: Policy,
        retrieval: Retrieval,
        traces: IngestTraces,
        model: LiteLlmModel,
        prices: PriceList,
        budgets: Budgets,
        recorder: Recorder,
        tracer: Tracer,
    ) -> None:
        self._policy = policy
        self._retrieval = retrieval
        self._traces = traces
        self._model = model
        self._prices = prices
        self._budgets = budgets
        self._recorder = recorder
        self._tracer = tracer

    async def ask(
        self, question: Question, asker: Identity, token: str, *, time_left_s: float
    ) -> AsyncGenerator[Step, None]:
        """Yields `Retrieved` once, `Token`s, then `Finished` once. `token` is the asker's own.

        Raises InvalidArgument, what retrieval raises, ResourceExhausted when a budget does not allow it,
        and the model's errors. Closing or cancelling it cancels the model call.
        """
        give_up = time.monotonic() + time_left_s
        draft = Draft(self._policy.admit(question), asker)
        with draft.timed("retrieve"):
            draft.retrieved = await self._retrieval.find(draft.question, token, time_left_s=time_left_s)
        yield draft.retrieved
        if draft.retrieved.passages:
            await self._reserve(draft)
        try:
            async with aclosing(self._write(draft, give_up)) as tokens:
                async for text in tokens:
                    yield Token(text)
            answer = await self._record(draft)
        except (asyncio.CancelledError, GeneratorExit):
            await self._record_broken_off(draft, "cancelled", None)
            raise
        except RaglineError as error:
            await self._record_broken_off(draft, "failed", error.reason)
            raise
        await self._link_to_ingest(answer)
        yield Finished(answer, await self._budgets_after(asker))

    async def _reserve(self, draft: Draft) -> None:
        """Render the prompt and hold its worst case on every budget."""
        model = draft.question.model
        with self._stage(draft, "prompt"):
            draft.prompt = render(
                draft.question.text,
                [Evidence(p.number, p.document_id, p.title, p.heading_path, p.text) for p in draft.retrieved.passages],
                token_budget=self._policy.prompt_tokens,
                count_tokens=lambda text: self._model.count_tokens(model, text),
            )
            draft.prompt_tokens = sum(
                self._model.count_tokens(model, message["content"]) + _TOKENS_AROUND_A_MESSAGE
                for message in draft.prompt.messages
            )
        with self._stage(draft, "reserve"):
            worst_case_usd = self._prices.worst_case_usd(model, draft.prompt_tokens, self._policy.max_tokens)
            draft.reservation = await self._budgets.reserve(
                draft.asker.tenant, draft.asker.user, worst_case_usd, answer_id=draft.id
            )

    async def _write(self, draft: Draft, give_up: float) -> AsyncGenerator[str, None]:
        """The answer's text, piece by piece; without evidence the refusal, and no model is called."""
        if draft.prompt is None:
            draft.text = REFUSAL
            yield REFUSAL
            return
        chunks = self._model.stream(
            draft.prompt,
            model=draft.question.model,
            max_tokens=self._policy.max_tokens,
            timeout_s=min(self._policy.model_timeout_s, give_up - time.monotonic()),
        )
        with self._model_span(draft) as span:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.finish_reason is not None:
                        span.set_attribute(GenAi.FINISH_REASONS, [chunk.finish_reason])
                    if text := draft.take(chunk):
                        yield text
                    if len(draft.text) > self._policy.max_tokens * _CHARACTERS_OF_A_TOKEN:
                        draft.outcome = "cut"
                        break

    @contextmanager
    def _model_span(self, draft: Draft) -> Iterator[Span]:
        """The model call's span; notes whether the call was sent, how long it took and what it used."""
        span = start_model_span(self._tracer, draft.question.model, self._policy.max_tokens)
        draft.call_began = time.perf_counter()
        try:
            yield span
        except (ModelError, ModelRejected) as error:
            draft.sent = error.sent
            span.set_status(Status(StatusCode.ERROR, error.reason))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            span.set_status(Status(StatusCode.ERROR, "cancelled"))
            raise
        finally:
            draft.mark("model", draft.call_began)
            used, _ = self._used(draft)
            span.set_attribute(GenAi.INPUT_TOKENS, used.prompt_tokens)
            span.set_attribute(GenAi.OUTPUT_TOKENS, used.completion_tokens)
            span.end()

    async def _record(self, draft: Draft) -> Answer:
        """Store and settle; returns the answer with the time that this took."""
        draft.recording = True
        usage, cost_usd = self._used(draft)
        answer = draft.answer(
            usage=usage,
            cost_usd=cost_usd,
            price_version=self._prices.price(draft.question.model).version,
            max_tokens=self._policy.max_tokens,
        )
        describe_answer(draft.span, answer)
        with self._stage(draft, "store"):
            await self._recorder.record(Ending(answer, draft.reservation, draft.owes, draft.traceparent))
        store_ms = draft.latency_ms["store"]
        total_ms = round(answer.latency_ms["total"] + store_ms, 3)
        return replace(answer, latency_ms={**answer.latency_ms, "store": store_ms, "total": total_ms})

    async def _record_broken_off(self, draft: Draft, outcome: Outcome, reason: str | None) -> None:
        """Account for an answer that nobody gets; why it broke off matters more than a failure to record."""
        if draft.reservation is None or draft.recording:
            return
        draft.outcome, draft.failure_reason = outcome, reason
        with suppress(RaglineError):
            await self._record(draft)

    def _used(self, draft: Draft) -> tuple[Usage, Decimal]:
        """Tokens and cost; where the provider reported none, the tokens counted here at the hold."""
        if draft.reservation is None or not draft.owes:
            return _NOTHING_USED, Decimal(0)
        if draft.usage is not None and draft.usage.reported:
            return draft.usage, self._prices.cost_usd(draft.question.model, draft.usage)
        completion_tokens = self._model.count_tokens(draft.question.model, draft.text)
        return Usage(draft.prompt_tokens, completion_tokens, reported=False), draft.reservation.amount_usd

    async def _link_to_ingest(self, answer: Answer) -> None:
        points = [passage.point_id for passage in answer.passages if passage.cited]
        record_citations(self._tracer, answer, await self._traces.find(answer.index_version, points))

    async def _budgets_after(self, asker: Identity) -> tuple[Budget, ...]:
        try:
            return await self._budgets.show(asker.tenant, asker.user)
        except TransientError as error:
            log.warning("budgets_not_shown", error=str(error))
            return ()

    @contextmanager
    def _stage(self, draft: Draft, name: str) -> Iterator[None]:
        """A stage with a span of its own; nothing is yielded to the caller while it is open."""
        with (
            draft.timed(name),
            self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span,
        ):
            try:
                yield
            except RaglineError as error:
                span.set_status(Status(StatusCode.ERROR, error.reason))
                raise
