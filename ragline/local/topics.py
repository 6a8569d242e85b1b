"""The topics that the events need, each with its dead-letter topic."""

from __future__ import annotations

from typing import Final

from ragline.contracts.events import EVENTS, dead_letter_topic
from ragline.local.broker import TopicSpec

_DLQ_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
_DLQ_MESSAGE_BYTES: Final = 2_000_000
"""A dead letter is its message and the reason in headers: more than the message alone may have."""


def topic_specs(partitions: int) -> dict[str, TopicSpec]:
    """Every topic by name. A compacted state topic has one partition, so that its records keep one order."""
    specs: dict[str, TopicSpec] = {}
    for event in EVENTS:
        single = event.topic == "ragline.index.state.v1"
        specs[event.topic] = TopicSpec(1 if single else partitions, compacted=event.compacted)
        specs[dead_letter_topic(event.topic)] = TopicSpec(
            1, retention_ms=_DLQ_RETENTION_MS, max_message_bytes=_DLQ_MESSAGE_BYTES
        )
    return specs
