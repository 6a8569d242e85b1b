"""Traces: set-up by the standard OTEL_* variables, Ragline's attribute names, and context over the bus.

Without an OTLP endpoint nothing is exported, yet spans exist, so that every answer names its trace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanContext, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()


class Attribute:
    """Ragline's own span attributes, declared once."""

    TENANT: Final = "rag.tenant"
    INDEX_VERSION: Final = "rag.index.version"
    INDEX_FINGERPRINT: Final = "rag.index.fingerprint"
    ANSWER_ID: Final = "rag.answer.id"
    ANSWER_REFUSED: Final = "rag.answer.refused"
    ANSWER_OUTCOME: Final = "rag.answer.outcome"
    COST_USD: Final = "rag.cost.usd"
    COST_BUCKET: Final = "rag.cost.bucket"
    DOCUMENT_ID: Final = "rag.document.id"
    DOCUMENT_VERSION: Final = "rag.document.version"
    DOCUMENT_REVISION: Final = "rag.document.revision"
    CHUNKS: Final = "rag.chunks"
    CHUNKS_EMBEDDED: Final = "rag.chunks.embedded"
    CHUNKS_OPENED: Final = "rag.chunks.opened"
    CHUNKS_CLOSED: Final = "rag.chunks.closed"
    COMMIT_DOCUMENTS: Final = "rag.commit.documents"
    OUTCOME: Final = "rag.outcome"
    HITS: Final = "rag.hits"
    CITATION_NUMBER: Final = "rag.citation.number"
    CHUNK_ID: Final = "rag.chunk.id"
    SCORE: Final = "rag.score"
    VERDICT: Final = "rag.verdict"


class Telemetry:
    """One service's tracer; several services of one process have one each.

    `exporter` overrides the environment (tests). Call `shutdown` to send what is left.
    """

    def __init__(
        self, service: str, *, exporter: SpanExporter | None = None, processors: Iterable[SpanProcessor] = ()
    ) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.namespace": "ragline"}),
            shutdown_on_exit=False,
        )
        exporter = exporter or _exporter_from_environment()
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
        for processor in processors:
            self._provider.add_span_processor(processor)
        self.tracer: Tracer = self._provider.get_tracer("ragline")

    def shutdown(self) -> None:
        """Export what is buffered and stop. Blocking, a few seconds at most."""
        self._provider.shutdown()


def _exporter_from_environment() -> SpanExporter | None:
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    if protocol.startswith("http"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter()


def trace_headers(context: otel_context.Context | None = None) -> dict[str, str]:
    """The W3C headers of the present (or given) span, to travel on the bus or an RPC."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=context)
    return carrier


def remote_context(headers: Mapping[str, str]) -> otel_context.Context:
    """The context that W3C headers name, to start a span in."""
    return _PROPAGATOR.extract(headers, context=otel_context.Context())


def span_context(traceparent: str | None) -> SpanContext | None:
    """The span that a stored `traceparent` names; None when it is absent or malformed."""
    if not traceparent:
        return None
    context = trace.get_current_span(remote_context({"traceparent": traceparent})).get_span_context()
    return context if context.is_valid else None


def link(traceparent: str | None, **attributes: str | int) -> list[Link]:
    """A list of one link to the span that `traceparent` names, or an empty list."""
    context = span_context(traceparent)
    return [Link(context, attributes)] if context else []


def trace_id(span: Span) -> str:
    """The span's trace id, 32 hex digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def cost_bucket(cost_usd: float) -> str:
    """The bucket that Jaeger can search for, since it matches tags exactly only."""
    for limit in (0.0, 0.0001, 0.001, 0.01, 0.1, 1.0):
        if cost_usd <= limit:
            return f"<={limit:g}"
    return ">1"
