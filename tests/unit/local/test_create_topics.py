"""Making topics: what the broker answers becomes the right error (the real broker: tests/integration)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.admin import NewTopic

from ragline.errors import ConfigurationError, TransientError
from ragline.local import broker
from ragline.local.broker import TopicSpec, create_topics


class FakeAdmin:
    """Answers every request to make a topic with the same Kafka error code; topics get a leader or not."""

    def __init__(self, error_code: int, leader: int = 1) -> None:
        self.error_code = error_code
        self.leader = leader
        self.asked: list[NewTopic] = []

    async def describe_topics(self) -> list[dict[str, Any]]:
        partitions = [{"leader": self.leader}]
        return [{"topic": new.name, "error_code": 0, "partitions": partitions} for new in self.asked]

    async def create_topics(self, new: list[NewTopic]) -> FakeAdmin:
        self.asked += new
        return self

    def to_object(self) -> dict[str, Any]:
        return {"topic_errors": [{"topic": new.name, "error_code": self.error_code} for new in self.asked]}


def use(monkeypatch: pytest.MonkeyPatch, admin: FakeAdmin) -> None:
    @asynccontextmanager
    async def connected(_: str) -> AsyncIterator[FakeAdmin]:
        yield admin

    monkeypatch.setattr(broker, "_admin_client", connected)
    monkeypatch.setattr(broker, "_TOPICS_DEADLINE_S", 0.0)


@pytest.mark.parametrize("made", [0, 36])
async def test_a_topic_that_another_service_just_made_is_no_error(monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    use(monkeypatch, FakeAdmin(made))
    await create_topics("kafka:9092", {"facts": TopicSpec(1)})


@pytest.mark.parametrize("refused", [17, 29, 38])  # invalid name, not authorised, too many replicas
async def test_a_refused_topic_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    use(monkeypatch, FakeAdmin(refused))
    with pytest.raises(ConfigurationError, match=r"topic facts: .*RAGLINE_BUS__CREATE_TOPICS=false"):
        await create_topics("kafka:9092", {"facts": TopicSpec(1)})


async def test_a_broker_that_is_not_ready_can_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeAdmin(5))  # leader not available
    with pytest.raises(TransientError, match="did not make the topic facts"):
        await create_topics("kafka:9092", {"facts": TopicSpec(1)})


async def test_a_topic_without_a_leader_is_waited_for_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeAdmin(0, leader=-1))
    with pytest.raises(TransientError, match="no leader for facts in time"):
        await create_topics("kafka:9092", {"facts": TopicSpec(1)})


async def test_a_topic_is_asked_for_with_its_replicas_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = FakeAdmin(0)
    use(monkeypatch, admin)
    topics = {
        "events": TopicSpec(8, retention_ms=1000),
        "state": TopicSpec(1, compacted=True),
        "status": TopicSpec(4, compacted=True, retention_ms=1000),
        "plain": TopicSpec(2),
    }
    await create_topics("kafka:9092", topics, replication_factor=3)
    asked = {new.name: (new.num_partitions, new.replication_factor, new.topic_configs) for new in admin.asked}
    assert asked == {
        "events": (8, 3, {"cleanup.policy": "delete", "retention.ms": "1000"}),
        "state": (1, 3, {"cleanup.policy": "compact"}),
        "status": (4, 3, {"cleanup.policy": "compact,delete", "retention.ms": "1000"}),
        "plain": (2, 3, {}),
    }
