"""docs/publishing.md: every message that it shows is one that the contracts accept."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from ragline.contracts.cloudevents import decode
from ragline.contracts.events import EVENTS, DocumentChanged, DocumentStatus, SnapshotCompleted

GUIDE = (Path(__file__).parents[2] / "docs/publishing.md").read_text("utf-8")
KINDS = {kind.topic: kind for kind in EVENTS}
SHOWN = re.findall(r"`(ragline\.[a-z.]+\.v1)`[^\n]*\n\n```json\n(.*?)```", GUIDE, re.DOTALL)


def test_the_guide_shows_what_a_source_sends_and_hears() -> None:
    assert {topic for topic, _ in SHOWN} == {DocumentChanged.topic, DocumentStatus.topic, SnapshotCompleted.topic}
    assert len(SHOWN) == GUIDE.count("```json")


@pytest.mark.parametrize(("topic", "body"), SHOWN)
def test_a_message_of_the_guide_is_valid_and_has_no_field_that_is_unknown(topic: str, body: str) -> None:
    event = decode(KINDS[topic], body.encode(), {}, origin="guide/0/0").event
    assert json.loads(event.model_dump_json(exclude_unset=True)) == json.loads(body)


def test_the_topics_that_the_guide_names_exist() -> None:
    assert set(re.findall(r"ragline\.(?:document|snapshot)[a-z.]*\.v1", GUIDE)) <= KINDS.keys()


def test_the_python_of_the_guide_is_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        ast.parse(block)
