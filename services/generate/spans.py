"""What an answer leaves on its trace: searchable provenance, never a prompt, a question or a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.trace import Span, SpanKind, Tracer

from ragline.telemetry import Attribute, cost_bucket, link
from services.generate.answer import Answer


class GenAi:
    """OpenTelemetry's attribute names for model calls."""

    OPERATION: Final = "gen_ai.operation.name"
    PROVIDER: Final = "gen_ai.provider.name"
    REQUEST_MODEL: Final = "gen_ai.request.model"
    REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
    INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
    FINISH_REASONS: Final = "gen_ai.response.finish_reasons"


def start_model_span(tracer: Tracer, model: str, max_tokens: int) -> Span:
    """The span of one model call; the caller ends it."""
    return tracer.start_span(
        f"chat {model}",
        kind=SpanKind.CLIENT,
        attributes={
            GenAi.OPERATION: "chat",
            GenAi.PROVIDER: model.partition("/")[0],
            GenAi.REQUEST_MODEL: model,
            GenAi.REQUEST_MAX_TOKENS: max_tokens,
        },
    )


def describe_answer(span: Span, answer: Answer) -> None:
    """Put an answer's provenance on the span of its question."""
    span.set_attributes(
        {
            Attribute.ANSWER_ID: answer.id,
            Attribute.ANSWER_OUTCOME: answer.outcome,
            Attribute.ANSWER_REFUSED: answer.refused,
            Attribute.TENANT: answer.tenant,
            Attribute.INDEX_VERSION: answer.index_version,
            Attribute.INDEX_FINGERPRINT: answer.index_fingerprint,
            Attribute.HITS: len(answer.passages),
            Attribute.COST_USD: float(answer.cost_usd),
            Attribute.COST_BUCKET: cost_bucket(float(answer.cost_usd)),
            GenAi.REQUEST_MODEL: answer.model,
            GenAi.INPUT_TOKENS: answer.prompt_tokens,
            GenAi.OUTPUT_TOKENS: answer.completion_tokens,
        }
    )


def record_citations(tracer: Tracer, answer: Answer, traceparents: Mapping[str, str]) -> None:
    """One span a cited document, linked to the traces that ingested its cited chunks.

    `traceparents` is by point id; a chunk that is missing there goes without a link. Number and chunk
    are those of the document's first citation.
    """
    cited = [passage for passage in answer.passages if passage.cited]
    for document_id in dict.fromkeys(passage.document_id for passage in cited):
        chunks = [passage for passage in cited if passage.document_id == document_id]
        traces = dict.fromkeys(traceparents[chunk.point_id] for chunk in chunks if chunk.point_id in traceparents)
        span = tracer.start_span(
            "rag.citation",
            links=[each for traceparent in traces for each in link(traceparent)],
            attributes={
                Attribute.ANSWER_ID: answer.id,
                Attribute.TENANT: answer.tenant,
                Attribute.INDEX_VERSION: answer.index_version,
                Attribute.DOCUMENT_ID: document_id,
                Attribute.CITATION_NUMBER: chunks[0].number,
                Attribute.CHUNK_ID: chunks[0].chunk_id,
            },
        )
        span.end()
