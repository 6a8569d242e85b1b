"""Traces and metrics: set-up by the standard OTEL_* variables, Ragline's attribute names, and context over the bus.

Without an OTLP endpoint nothing is exported, yet spans exist, so that every answer names its trace.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanContext, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ragline.metrics import Metrics

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
        self,
        service: str,
        *,
        exporter: SpanExporter | None = None,
        processors: Iterable[SpanProcessor] = (),
        readers: Iterable[MetricReader] = (),
    ) -> None:
        resource = Resource.create({"service.name": service, "service.namespace": "ragline"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = exporter or _exporter_from_environment()
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
        for processor in processors:
            self._provider.add_span_processor(processor)
        self.tracer: Tracer = self._provider.get_tracer("ragline")
        reader = _metric_reader_from_environment()
        self._meters = MeterProvider(
            [*readers, *([reader] if reader else [])], resource=resource, shutdown_on_exit=False
        )
        self.metrics = Metrics(self._meters.get_meter("ragline"))

    def shutdown(self) -> None:
        """Export what is buffered and stop. Blocking, a few seconds at most."""
        self._provider.shutdown()
        self._meters.shutdown()


def _otlp(signal: str) -> str | None:
    """The OTLP protocol (`grpc` or `http`) for a signal by the standard variables; None when it is off."""
    own_endpoint = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    endpoint = own_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    # Many trace back ends (Jaeger) refuse metrics: those are sent only where they are asked for.
    default = "otlp" if signal == "TRACES" or own_endpoint else "none"
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER", default)
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoint or disabled or exporter != "otlp":
        return None
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    return "http" if protocol.startswith("http") else "grpc"


def _exporter_from_environment() -> SpanExporter | None:
    protocol = _otlp("TRACES")
    if protocol is None:
        return None
    if protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter()


def _metric_reader_from_environment() -> MetricReader | None:
    protocol = _otlp("METRICS")
    if protocol is None:
        return None
    if protocol == "http":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        return PeriodicExportingMetricReader(HttpExporter())
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

    return PeriodicExportingMetricReader(GrpcExporter())


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
