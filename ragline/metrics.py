"""Every metric that Ragline emits: its name, unit and meaning, declared in one place.

Exported by OTLP with the traces; without an endpoint they cost next to nothing.
"""

from __future__ import annotations

from opentelemetry.metrics import Meter


class Metrics:
    """A service's instruments."""

    def __init__(self, meter: Meter) -> None:
        self.documents_accepted = meter.create_counter(
            "rag.documents.accepted", "{document}", "Changes of documents, by outcome: accepted, unchanged, superseded"
        )
        self.chunks_embedded = meter.create_counter(
            "rag.chunks.embedded", "{chunk}", "Chunks whose content this embedder had never seen"
        )
        self.chunks_reused = meter.create_counter(
            "rag.chunks.reused", "{chunk}", "Chunks of changed documents that needed no embedding"
        )
        self.freshness_s = meter.create_histogram(
            "rag.freshness", "s", "From the acceptance of a change until it is searchable"
        )
        self.dead_letters = meter.create_counter(
            "rag.dead_letters", "{message}", "Messages that no handler could take, by topic and reason"
        )
