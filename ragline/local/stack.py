"""The embedded stack: broker, database and vector engine as child processes, each replaceable by a real one.

What a setting names (Kafka's address, PostgreSQL's URL, Qdrant's URL) is used; what none names is
started here, in the data directory. The services are told addresses and know no difference.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from pydantic import SecretStr

from ragline.errors import TransientError, Unauthenticated
from ragline.identity import SCOPES, Identity, KeyFile
from ragline.local.broker import LocalBroker, create_topics
from ragline.local.data_dir import DataDir, replace_file
from ragline.local.ports import free_port, require_free
from ragline.local.postgres import LocalPostgres
from ragline.local.processes import ChildProcess
from ragline.local.topics import topic_specs
from ragline.runtime import start_together
from ragline.settings import BusSettings, RpcSettings, Settings

_ENGINE_READY_S: Final = 30.0
SERVICES: Final = ("ingest", "indexing", "retrieve", "gateway", "eval")
"""The services' RPC addresses, as the settings name them."""


class LocalStack:
    """The running parts, and the settings that a service needs to use them."""

    def __init__(self, settings: Settings, data_dir: DataDir) -> None:
        self.settings = settings
        self.data_dir = data_dir
        self._children: dict[str, Callable[[], Awaitable[int]]] = {}

    def watch(self, name: str, wait: Callable[[], Awaitable[int]]) -> None:
        """Note a child whose end ends the stack."""
        self._children[name] = wait

    async def wait(self) -> None:
        """Return never; raises TransientError when a child has ended by itself."""
        if not self._children:
            await asyncio.Event().wait()
        tasks = {asyncio.ensure_future(wait()): name for name, wait in self._children.items()}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        name = tasks[done.pop()]
        raise TransientError(f"{name} has ended by itself; see {self.data_dir.logs / (name + '.log')} and start again")


@asynccontextmanager
async def local_stack(settings: Settings, *, durable: bool = True) -> AsyncIterator[LocalStack]:
    """Start what the settings do not name, and stop it at the end, in reverse order.

    Holds the data directory's lock. Raises ConfigurationError, one line that says what to do, for a
    data directory in use, a full disk, a port in use or a missing package.
    """
    data_dir = DataDir(settings.data_dir)
    async with AsyncExitStack() as stack:
        # A killed predecessor's children may still be stopping: that wait must not block the loop.
        lock = data_dir.lock()
        await asyncio.to_thread(lock.__enter__)
        stack.callback(lock.__exit__, None, None, None)
        data_dir.require_free_space()
        running = LocalStack(_with_free_ports(settings, data_dir), data_dir)
        _require_free_rpc_ports(running.settings.rpc)
        running.settings = _with_keys(running.settings, data_dir)
        bootstrap, database_url, engine_url = await start_together(
            _broker(stack, running), _database(stack, running, durable=durable), _engine(stack, running)
        )
        bus = _bus(running.settings.bus, bootstrap)
        running.settings = running.settings.model_copy(
            update={
                "bus": bus,
                "database": running.settings.database.model_copy(update={"url": SecretStr(database_url)}),
                "engine": running.settings.engine.model_copy(update={"url": engine_url}),
            }
        )
        if bus.create_topics:
            await create_topics(
                running.settings.bootstrap,
                topic_specs(bus.partitions),
                replication_factor=bus.replication_factor,
            )
        yield running


def _bus(bus: BusSettings, bootstrap: str) -> BusSettings:
    """The bus's settings; the embedded broker lets a group wait for half of the session timeout."""
    session_timeout_s = bus.session_timeout_s if bus.bootstrap else min(bus.session_timeout_s, 4.0)
    return bus.model_copy(update={"bootstrap": bootstrap, "session_timeout_s": session_timeout_s})


async def _broker(stack: AsyncExitStack, running: LocalStack) -> str:
    if running.settings.bus.bootstrap:
        return running.settings.bus.bootstrap
    broker = LocalBroker(running.data_dir, running.settings.bus.port)
    stack.push_async_callback(broker.stop)
    await broker.start()
    running.watch("broker", broker.wait)
    return broker.bootstrap


async def _database(stack: AsyncExitStack, running: LocalStack, *, durable: bool) -> str:
    if running.settings.database.url:
        return running.settings.database_url
    postgres = LocalPostgres(running.data_dir, durable=durable)
    stack.push_async_callback(postgres.stop)
    await postgres.start()
    running.watch("postgres", postgres.wait)
    return postgres.url


async def _engine(stack: AsyncExitStack, running: LocalStack) -> str:
    if running.settings.engine.url:
        return running.settings.engine.url
    socket = running.data_dir.socket_path("engine.sock")
    worker = ChildProcess(
        "engine",
        [
            sys.executable,
            "-m",
            "ragline.index.worker",
            "--path",
            str(running.data_dir.engine),
            "--socket",
            str(socket),
        ],
        running.data_dir,
        environment=os.environ,
    )
    stack.push_async_callback(worker.stop)
    await worker.start()

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(socket))
        except OSError:
            return False
        writer.close()
        return True

    await worker.wait_ready(answers, _ENGINE_READY_S)
    running.watch("engine", worker.wait)
    return f"unix://{socket}"


def _with_free_ports(settings: Settings, data_dir: DataDir) -> Settings:
    """Replace port 0 by a free one: every service must know the others' addresses beforehand."""
    addresses: dict[str, Any] = {}
    for name in SERVICES:
        host, _, port = str(getattr(settings.rpc, name)).rpartition(":")
        if port == "0":
            addresses[name] = f"{host}:{free_port(host)}"
    return settings.model_copy(update={"rpc": settings.rpc.model_copy(update=addresses), "data_dir": data_dir.path})


def _require_free_rpc_ports(rpc: RpcSettings) -> None:
    for name in SERVICES:
        host, _, port = str(getattr(rpc, name)).rpartition(":")
        require_free(host, int(port), f"RAGLINE_RPC__{name.upper()}")


def _with_keys(settings: Settings, data_dir: DataDir) -> Settings:
    """Make the development key and the services' own token on first use."""
    keys = KeyFile(settings.keys_path)
    developer = Identity("default", "developer", frozenset({"staff"}), frozenset(SCOPES) - {"internal"})
    _ensure_token(keys, data_dir.dev_key, developer)
    if settings.auth.service_token is not None:
        return settings
    token = _ensure_token(keys, data_dir.service_key, Identity("ragline", "service", scopes=frozenset({"internal"})))
    return settings.model_copy(update={"auth": settings.auth.model_copy(update={"service_token": SecretStr(token)})})


def _ensure_token(keys: KeyFile, path: Any, identity: Identity) -> str:
    """The token in the file, or a new one when there is none or it was revoked."""
    if path.exists():
        token = str(path.read_text()).strip()
        try:
            keys.verify(token)
        except Unauthenticated:
            pass
        else:
            return token
    token = keys.create(identity)
    replace_file(path, token)
    return token
