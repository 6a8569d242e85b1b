"""Events as CloudEvents 1.0 in Kafka's binary content mode: attributes in `ce_*` headers, JSON body."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import ValidationError

from ragline.contracts.event import Event
from ragline.errors import PermanentError

E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class Message:
    """An event as bytes, ready for Kafka or for an outbox row."""

    topic: str
    key: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Received(Generic[E_co]):
    """An event as it arrived: what it says, and where it came from."""

    event: E_co
    id: str
    source: str
    headers: Mapping[str, str] = field(default_factory=dict)


def encode(event: Event, *, source: str, trace: Mapping[str, str], event_id: str | None = None) -> Message:
    """Encode an event; `trace` holds the W3C trace headers of the present span."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id or str(uuid.uuid4()),
        "ce_source": source,
        "ce_type": event.topic,
        "ce_subject": event.subject(),
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
        **trace,
    }
    return Message(event.topic, event.key(), event.model_dump_json(exclude_none=True).encode(), headers)


def decode(kind: type[E], body: bytes, headers: Mapping[str, str], *, origin: str) -> Received[E]:
    """Decode and validate; raises PermanentError that names the fields at fault.

    A message without `ce_*` headers is taken when its body validates: `origin`
    (topic/partition/offset) is then its id, and the body's `source` its source.
    """
    declared = headers.get("ce_type")
    if declared is not None and declared != kind.topic:
        raise PermanentError(f"ce_type is {declared[:100]!r}, expected {kind.topic!r}", reason="WRONG_TYPE")
    try:
        event = kind.model_validate_json(body)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)[:5]
        )
        raise PermanentError(f"{kind.topic} does not validate: {faults}", reason="INVALID_EVENT") from error
    source = headers.get("ce_source") or getattr(event, "source", "") or kind.producer
    return Received(event, headers.get("ce_id") or origin, source, dict(headers))
