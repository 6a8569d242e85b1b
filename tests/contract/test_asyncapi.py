"""AsyncAPI and JSON Schemas: valid, true to the events, and current where they are checked in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from typer.testing import CliRunner

from ragline.cli.main import app
from ragline.contracts.asyncapi import asyncapi, event_schema
from ragline.contracts.event import Event
from ragline.contracts.events import EVENTS, dead_letter_topic
from ragline.errors import NotFound
from tests.contract.service_catalogue import SERVICES

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
DOCUMENT = asyncapi()
each_event = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)


def _printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["contracts", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def _bodies(kind: type[Event]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8"))["body"] for path in (GOLDEN / kind.topic).glob("*.json")]


def _references(node: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_the_checked_in_document_is_current() -> None:
    assert (ROOT / "docs/asyncapi.yaml").read_text("utf-8") == _printed("asyncapi"), "run `make contracts`"


def test_yaml_and_json_say_the_same() -> None:
    assert yaml.safe_load(_printed("asyncapi")) == json.loads(_printed("asyncapi", "--json")) == DOCUMENT


def test_every_reference_resolves() -> None:
    references = list(_references(DOCUMENT))
    assert references
    for reference in references:
        assert isinstance(_resolve(DOCUMENT, reference), dict), reference


def test_every_topic_and_its_dead_letters_have_a_channel() -> None:
    topics = [topic for kind in EVENTS for topic in (kind.topic, dead_letter_topic(kind.topic))]
    assert [channel["address"] for channel in DOCUMENT["channels"].values()] == topics


@each_event
def test_a_message_has_cloud_event_headers_and_a_key(kind: type[Event]) -> None:
    message = DOCUMENT["components"]["messages"][kind.__name__]
    assert message["headers"]["properties"]["ce_type"] == {"const": kind.topic}
    (trait,) = message["traits"]
    common = _resolve(DOCUMENT, trait["$ref"])["headers"]["properties"]
    assert {"ce_specversion", "ce_id", "ce_source", "ce_time", "traceparent"} <= common.keys()
    assert set(message["headers"].get("required", ())) <= common.keys() | {"ce_type"}
    assert message["payload"] == {"$ref": f"#/components/schemas/{kind.__name__}"}


def test_a_key_is_described_by_the_fields_that_make_it() -> None:
    keys = {
        name: message["bindings"]["kafka"]["key"]["description"].partition("`:")[0].strip("`")
        for name, message in DOCUMENT["components"]["messages"].items()
        if "bindings" in message
    }
    assert keys == {
        "DocumentChanged": "{tenant}/{document_id}",
        "BulkDocumentChanged": "{tenant}/{document_id}",
        "SnapshotCompleted": "{tenant}/{source}",
        "ChunksReady": "{tenant}/{document_id}",
        "BulkChunksReady": "{tenant}/{document_id}",
        "IndexCommitted": "{generation}",
        "IndexState": "index",
        "DocumentStatus": "{tenant}/{document_id}",
        "AnswerProduced": "{tenant}/{answer_id}",
        "AnswerEvaluated": "{tenant}/{answer_id}",
        "DeadLetterResolved": "{dead_letter_id}",
    }


@each_event
def test_its_producer_sends_and_its_consumers_receive_an_event(kind: type[Event]) -> None:
    by_party = {
        (operation["action"], operation["tags"][0]["name"])
        for operation in DOCUMENT["operations"].values()
        if operation["channel"] == {"$ref": f"#/channels/{kind.topic}"}
    }
    assert by_party == {("send", kind.producer), *(("receive", consumer) for consumer in kind.consumers)}


def test_services_that_share_an_event_may_dead_letter_it_for_an_operator_to_read() -> None:
    parties = {
        (operation["action"], operation["tags"][0]["name"], operation["channel"]["$ref"].removeprefix("#/channels/"))
        for operation in DOCUMENT["operations"].values()
        if operation["channel"]["$ref"].endswith(".dlq")
    }
    shared = [kind for kind in EVENTS if not kind.compacted]
    dead_lettered = {("send", consumer, dead_letter_topic(k.topic)) for k in shared for consumer in k.consumers}
    assert {service for _, service, _ in dead_lettered} <= set(SERVICES)
    assert parties == dead_lettered | {("receive", "operator", dead_letter_topic(k.topic)) for k in shared}


def test_an_operation_uses_a_message_of_its_own_channel() -> None:
    for name, operation in DOCUMENT["operations"].items():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/"), name


@each_event
def test_the_schema_accepts_the_golden_examples_and_what_they_may_grow(kind: type[Event]) -> None:
    schema = event_schema(kind.topic)
    Draft202012Validator.check_schema(schema)
    for body in _bodies(kind):
        Draft202012Validator(schema).validate(body | {"added_later": 1})


@each_event
def test_the_schema_refuses_a_body_without_an_essential_field(kind: type[Event]) -> None:
    validator, body = Draft202012Validator(event_schema(kind.topic)), _bodies(kind)[0]
    for name, field in kind.model_fields.items():
        if field.is_required():
            with pytest.raises(ValidationError, match=f"'{name}' is a required property"):
                validator.validate({key: value for key, value in body.items() if key != name})


@each_event
def test_the_document_carries_schemas_that_older_tools_understand_too(kind: type[Event]) -> None:
    """AsyncAPI's own schema format builds on draft 7 of JSON Schema."""
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    validator = Draft7Validator({"$ref": f"#/components/schemas/{kind.__name__}", **DOCUMENT})
    for body in _bodies(kind):
        validator.validate(body)


def test_what_a_field_means_is_in_its_schema() -> None:
    acl = event_schema("ragline.document.changed.v1")["properties"]["acl"]
    assert "empty means nobody" in acl["description"]


@each_event
def test_the_command_prints_a_topics_schema(kind: type[Event]) -> None:
    schema = event_schema(kind.topic)
    assert json.loads(_printed("schema", kind.topic)) == schema
    assert _printed("schema", kind.topic, "--json").count("\n") == 1


def test_the_schema_of_an_unknown_topic_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"no topic 'document\.changed'.*ragline\.document\.changed\.v1"):
        event_schema("document.changed")
