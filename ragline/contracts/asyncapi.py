"""The events as an AsyncAPI 3.0 document and as JSON Schemas, made from the models and never written by hand."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from ragline.contracts.event import Event
from ragline.contracts.events import EVENTS, dead_letter_topic
from ragline.errors import NotFound

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_KAFKA_BINDING: Final = "0.5.0"
_UPSTREAM: Final = "upstream"
_OPERATOR: Final = "operator"
_CLOUD_EVENT: Final = "CloudEvent"
_DEAD_LETTER: Final = "DeadLetter"
_DESCRIPTION: Final = (
    "Facts on Kafka, as CloudEvents 1.0 in binary mode: attributes in `ce_*` headers, the fact itself as JSON in "
    "the body. Delivery is at least once, in order per key. Within a major version a message only grows: ignore "
    "unknown fields. `upstream` stands for the systems whose documents Ragline indexes, `operator` for a person "
    "with the `ragline` command. A message that can never be handled goes to the topic's `.dlq`, with the reason in "
    "its headers."
)


class _Schemas(GenerateJsonSchema):
    """JSON Schemas without a title for every field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def event_schema(topic: str) -> dict[str, Any]:
    """The JSON Schema of a topic's message body; raises NotFound that lists the topics."""
    for kind in EVENTS:
        if kind.topic == topic:
            return {"$schema": DIALECT, **kind.model_json_schema(schema_generator=_Schemas)}
    raise NotFound(f"there is no topic {topic[:100]!r}; use one of {', '.join(kind.topic for kind in EVENTS)}")


def asyncapi() -> dict[str, Any]:
    """The whole bus: channels with their dead letters, messages, and who sends and receives what."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for kind in EVENTS:
        channels[kind.topic] = _channel(kind)
        channels[dead_letter_topic(kind.topic)] = _dead_letter_channel(kind)
        messages[kind.__name__] = _message(kind)
        operations |= _operations(kind)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ragline's events",
            "version": version("ragline"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages | {_DEAD_LETTER: _dead_letter()},
            "messageTraits": {_CLOUD_EVENT: _cloud_event()},
            "schemas": _schemas(),
        },
    }


def _channel(kind: type[Event]) -> dict[str, Any]:
    channel = {
        "address": kind.topic,
        "title": kind.__name__,
        "description": inspect.getdoc(kind),
        "messages": {kind.__name__: _ref("components", "messages", kind.__name__)},
    }
    if kind.compacted:
        configuration = {"cleanup.policy": ["compact"]}
        channel["bindings"] = _kafka(topicConfiguration=configuration)
    return channel


def _dead_letter_channel(kind: type[Event]) -> dict[str, Any]:
    return {
        "address": dead_letter_topic(kind.topic),
        "title": f"Dead letters of {kind.__name__}",
        "messages": {_DEAD_LETTER: _ref("components", "messages", _DEAD_LETTER)},
    }


def _operations(kind: type[Event]) -> dict[str, Any]:
    """Who sends and receives the event, and who may dead-letter it.

    Readers of a compacted topic dead-letter nothing: a record that they cannot read is passed over, since
    the next one replaces it.
    """
    name, dead = kind.__name__, f"{kind.__name__}.{_DEAD_LETTER}"
    operations = {f"{kind.producer}.sends.{name}": _operation("send", kind.producer, kind.topic, name)}
    for consumer in kind.consumers:
        operations[f"{consumer}.receives.{name}"] = _operation("receive", consumer, kind.topic, name)
        if not kind.compacted:
            topic = dead_letter_topic(kind.topic)
            operations[f"{consumer}.sends.{dead}"] = _operation("send", consumer, topic, _DEAD_LETTER)
            operations[f"{_OPERATOR}.receives.{dead}"] = _operation("receive", _OPERATOR, topic, _DEAD_LETTER)
    return operations


def _operation(action: str, party: str, channel: str, message: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": _ref("channels", channel),
        "messages": [_ref("channels", channel, "messages", message)],
        "tags": [{"name": party}],
    }


def _message(kind: type[Event]) -> dict[str, Any]:
    key = _key_template(kind)
    headers: dict[str, Any] = {"type": "object", "properties": {"ce_type": {"const": kind.topic}}}
    if kind.producer != _UPSTREAM:
        # A message from upstream may lack all of them.
        headers["required"] = ["ce_specversion", "ce_type", "ce_id", "ce_source"]
    return {
        "name": kind.topic,
        "summary": inspect.getdoc(kind),
        "traits": [_ref("components", "messageTraits", _CLOUD_EVENT)],
        "headers": headers,
        "payload": _ref("components", "schemas", kind.__name__),
        "bindings": _kafka(key={"type": "string", "description": f"`{key}`: messages of one key keep their order."}),
    }


def _key_template(kind: type[Event]) -> str:
    """How the event's key is made, such as `{tenant}/{document_id}`: its own `key()` on the names of its fields."""
    names: dict[str, Any] = {name: f"{{{name}}}" for name in kind.model_fields}
    return kind.model_construct(**names).key()


def _cloud_event() -> dict[str, Any]:
    """CloudEvents' attributes and the trace, which all messages have in common."""
    text = {"type": "string"}
    return {
        "headers": {
            "type": "object",
            "properties": {
                "ce_specversion": {"const": "1.0"},
                "ce_id": text | {"description": "Names the message together with ce_source; a redelivery repeats it."},
                "ce_source": text | {"description": "Who says so; absent, the body's `source`."},
                "ce_subject": text | {"description": "What the event is about."},
                "ce_time": text | {"format": "date-time"},
                "content-type": {"const": "application/json"},
                "traceparent": text | {"description": "The W3C trace that the event belongs to."},
                "tracestate": text,
            },
        }
    }


def _dead_letter() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "name": "dead letter",
        "summary": "A message that can never be handled: its key and body as they came, its headers and these.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": ["ragline-error-reason", "ragline-error", "ragline-origin", "ragline-service"],
            "properties": {
                "ragline-error-reason": text | {"description": "A stable word for machines, such as INVALID_EVENT."},
                "ragline-error": text | {"description": "What was wrong, in one line.", "maxLength": 1000},
                "ragline-origin": text | {"description": "Where it lay: topic/partition/offset."},
                "ragline-service": text | {"description": "The service that could not handle it."},
                "traceparent": text | {"description": "The span that gave it up."},
            },
        },
        "payload": {"description": "The bytes as they came; they may be anything."},
    }


def _schemas() -> dict[str, Any]:
    """The schema of every event and of the models within them, by name."""
    wanted: list[tuple[type[Event], JsonSchemaMode]] = [(kind, "validation") for kind in EVENTS]
    _, schemas = models_json_schema(wanted, ref_template="#/components/schemas/{model}", schema_generator=_Schemas)
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions


def _kafka(**binding: Any) -> dict[str, Any]:
    return {"kafka": {**binding, "bindingVersion": _KAFKA_BINDING}}


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}
