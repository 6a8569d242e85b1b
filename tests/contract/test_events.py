"""The contract of the bus: old messages parse, bad ones are refused by name, nobody listens to nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ragline.contracts.cloudevents import Received, decode, encode
from ragline.contracts.event import Event
from ragline.contracts.events import EVENTS, DocumentChanged, dead_letter_topic
from ragline.errors import PermanentError
from ragline.runtime import Service
from tests.contract.event_strategies import events
from tests.contract.service_catalogue import SERVICES, wired_service

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
ORIGIN = "ragline.some.topic.v1/3/1042"
OUTSIDE = ("upstream", "operator")
"""Who is on the bus beside the services: the systems that documents come from, and people with `ragline dlq`."""


@dataclass(frozen=True)
class Example:
    """A golden message, as it lies in `golden/<topic>/<case>.json`."""

    kind: type[Event]
    key: str
    headers: dict[str, str]
    body: dict[str, Any]

    def decoded(self, **changes: Any) -> Received[Event]:
        """The message as its consumer reads it, with some fields of its body changed."""
        return decode(self.kind, json.dumps(self.body | changes).encode(), self.headers, origin=ORIGIN)


def _examples(kind: type[Event]) -> dict[str, Example]:
    return {
        f"{kind.__name__}:{path.stem}": Example(kind, **json.loads(path.read_text("utf-8")))
        for path in sorted((GOLDEN / kind.topic).glob("*.json"))
    }


EXAMPLES = {name: example for kind in EVENTS for name, example in _examples(kind).items()}
each_event = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


# --- golden examples ------------------------------------------------------------------------------


@each_event
def test_every_event_has_a_golden_example(kind: type[Event]) -> None:
    assert _examples(kind)


def test_there_are_no_golden_examples_of_unknown_topics() -> None:
    assert {folder.name for folder in GOLDEN.iterdir()} == {kind.topic for kind in EVENTS}


@each_event
def test_every_optional_field_is_given_in_one_example_and_left_out_in_another(kind: type[Event]) -> None:
    bodies = [example.body for example in _examples(kind).values()]
    untold = sorted(_untold(kind, bodies))
    assert untold == []


def _untold(kind: type[BaseModel], bodies: list[dict[str, Any]]) -> Iterator[str]:
    """The optional fields that the examples never give, or never leave out; nested models included."""
    for name, field in kind.model_fields.items():
        given = [body[name] for body in bodies if name in body]
        if not field.is_required() and not 0 < len(given) < len(bodies):
            yield f"{kind.__name__}.{name}"
        nested = _model_within(field.annotation)
        if nested is not None:
            values = [value.values() if isinstance(value, dict) else value for value in given]
            yield from _untold(nested, [body for value in values for body in value])


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """The model that a tuple or dict of models holds."""
    arguments = getattr(annotation, "__args__", ())
    return next((a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)), None)


@each_example
def test_a_golden_example_parses_under_its_key(example: Example) -> None:
    received = example.decoded()
    assert received.event.key() == example.key
    assert received.id == example.headers.get("ce_id", ORIGIN)
    assert json.loads(received.event.model_dump_json(exclude_unset=True)) == example.body


@each_example
def test_what_is_encoded_decodes_to_the_same_event(example: Example) -> None:
    _assert_survives(example.decoded().event)


@each_event
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_any_valid_event_survives_the_wire(kind: type[Event], data: st.DataObject) -> None:
    _assert_survives(data.draw(events(kind)))


def _assert_survives(event: Event) -> None:
    message = encode(event, source="ragline/test", trace={"traceparent": "00-ab-cd-01"}, event_id="e-1")
    received = decode(type(event), message.body, message.headers, origin=ORIGIN)
    assert received.event == event
    # Equality alone would not tell 1 from 1.0 or True.
    assert received.event.model_dump_json() == event.model_dump_json()
    assert (message.topic, message.key) == (event.topic, event.key())
    assert (received.id, received.source) == ("e-1", "ragline/test")
    assert received.headers["traceparent"] == "00-ab-cd-01"


def test_an_encoded_event_is_a_whole_cloud_event() -> None:
    event = EXAMPLES["DocumentChanged:delete"].decoded().event
    headers = encode(event, source="wiki", trace={}).headers
    assert headers["ce_specversion"] == "1.0"
    assert (headers["ce_type"], headers["ce_source"]) == (DocumentChanged.topic, "wiki")
    assert headers["ce_subject"] == "acme/peps/pep-0602.rst"
    assert headers["content-type"] == "application/json"
    assert headers["ce_id"] != encode(event, source="wiki", trace={}).headers["ce_id"]


# --- growing and refusing -------------------------------------------------------------------------


@each_example
def test_unknown_fields_are_ignored(example: Example) -> None:
    grown = json.dumps(_grown(example.kind, example.body)).encode()
    assert decode(example.kind, grown, example.headers, origin=ORIGIN).event == example.decoded().event


def _grown(kind: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    """The body with a field that a later version might add, in it and in every model within it."""
    grown: dict[str, Any] = body | {"added_later": {"list": [1, None]}}
    for name, field in kind.model_fields.items():
        nested, value = _model_within(field.annotation), body.get(name)
        if nested is not None and isinstance(value, dict):
            grown[name] = {key: _grown(nested, inner) for key, inner in value.items()}
        elif nested is not None and value is not None:
            grown[name] = [_grown(nested, inner) for inner in value]
    return grown


@each_event
def test_a_missing_essential_field_is_refused_by_name(kind: type[Event]) -> None:
    example = next(iter(_examples(kind).values()))
    essential = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert essential
    for name in essential:
        body = {field: value for field, value in example.body.items() if field != name}
        with pytest.raises(PermanentError, match=rf"{re.escape(kind.topic)} .*\b{name}: Field required") as refused:
            decode(kind, json.dumps(body).encode(), example.headers, origin=ORIGIN)
        assert refused.value.reason == "INVALID_EVENT"


@each_example
def test_another_type_is_refused(example: Example) -> None:
    headers = example.headers | {"ce_type": "ragline.something.else.v1"}
    with pytest.raises(PermanentError, match=r"ce_type is 'ragline\.something\.else\.v1'") as refused:
        decode(example.kind, json.dumps(example.body).encode(), headers, origin=ORIGIN)
    assert refused.value.reason == "WRONG_TYPE"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"null", b'"text"', b'{"tenant": "acme"'])
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(PermanentError, match=r"ragline\.document\.changed\.v1 does not validate: body:"):
        decode(DocumentChanged, body, {}, origin=ORIGIN)


def test_a_message_without_cloud_event_headers_is_named_by_where_it_came_from() -> None:
    received = EXAMPLES["DocumentChanged:without-ce-headers"].decoded()
    assert (received.id, received.source) == (ORIGIN, "helpdesk")


def test_access_tells_nobody_from_the_whole_tenant() -> None:
    nobody = EXAMPLES["DocumentChanged:access-nobody"].decoded().event
    everyone = EXAMPLES["DocumentChanged:access-whole-tenant"].decoded().event
    assert isinstance(nobody, DocumentChanged) and isinstance(everyone, DocumentChanged)
    assert (nobody.acl, everyone.acl) == ((), None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant": "Acme"}, "tenant"),
        ({"document_id": "a\nb"}, "document_id"),
        ({"document_id": ""}, "document_id"),
        ({"source": ""}, "source"),
        ({"op": "purge"}, "op"),
        ({"revision": -1}, "revision"),
        ({"revision": 2**63}, "revision"),
        ({"revision": "seven"}, "revision"),
        ({"acl": ["*"]}, "acl.0"),
        ({"metadata": {"tags": ["a", "b"]}}, "metadata.tags"),
        ({"metadata": {"share": float("nan")}}, "metadata.share"),
        ({"metadata": {"share": float("inf")}}, "metadata.share"),
        ({"content": None}, "body: Value error, an upsert carries either content or content_ref"),
        ({"content_ref": "s3://acme/a"}, "body: Value error, an upsert carries either content or content_ref"),
        ({"content": "ä" * (256 * 1024 + 1)}, "body: Value error, inline content is at most 524288 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_change_that_cannot_be_right_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(PermanentError, match=re.escape(field)):
        EXAMPLES["DocumentChanged:upsert"].decoded(**changes)


# --- the map --------------------------------------------------------------------------------------


def test_topics_are_unique_and_end_in_a_major_version() -> None:
    topics = [kind.topic for kind in EVENTS]
    assert len(set(topics)) == len(topics)
    for topic in topics:
        assert re.fullmatch(r"ragline(\.[a-z]+)+\.v[1-9][0-9]*", topic)
        assert dead_letter_topic(topic) == f"{topic}.dlq"


@each_event
def test_producers_and_consumers_are_services_or_known_outsiders(kind: type[Event]) -> None:
    parties = {*SERVICES, *OUTSIDE}
    assert kind.producer in parties
    assert kind.consumers and set(kind.consumers) <= parties


@each_event
def test_an_event_of_a_service_is_made_there(kind: type[Event]) -> None:
    if kind.producer in SERVICES:
        sources = [path.read_text() for path in (ROOT / "services" / kind.producer).glob("*.py")]
        made = rf"\b{kind.__name__}(\(| if )"  # a lane's kind is chosen before it is made
        assert any(re.search(made, source) for source in sources)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_subscribes_to_exactly_what_the_contracts_name(service: str, tmp_path: Path) -> None:
    async with wired_service(service, tmp_path) as wired:
        subscribed = _groups_by_topic(wired)
    assert sorted(subscribed) == sorted(kind.topic for kind in EVENTS if service in kind.consumers)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_shares_events_in_a_group_of_its_name_and_reads_states_alone(
    service: str, tmp_path: Path
) -> None:
    async with wired_service(service, tmp_path) as wired:
        groups = _groups_by_topic(wired)
    for kind in EVENTS:
        if service in kind.consumers:
            shared = f"ragline.{service}.{kind.topic.removeprefix('ragline.')}"
            assert groups[kind.topic] == (None if kind.compacted else shared)


def _groups_by_topic(service: Service) -> dict[str, str | None]:
    """What a wired service subscribes to, each topic with its consumer group."""
    subscribers: list[Any] = list(service.bus.broker.subscribers)
    return {topic: subscriber.group_id for subscriber in subscribers for topic in subscriber.topic_names}
