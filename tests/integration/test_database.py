"""PostgreSQL as services see it: migrations run once, and every failure has a family."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragline.database import Database
from ragline.errors import ConfigurationError, PermanentError, TransientError
from ragline.local.data_dir import DataDir
from ragline.local.postgres import LocalPostgres
from tests.integration.embed_under_test import MIGRATIONS

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "embed", statement_timeout_s=0.5)
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


async def test_replicas_that_start_together_migrate_once(database_url: str) -> None:
    replicas = [Database(database_url, "ingest_twice") for _ in range(3)]

    await asyncio.gather(*(replica.open(MIGRATIONS) for replica in replicas))

    for replica in replicas:
        assert await replica.fetch("SELECT * FROM index_commit") == []
        await replica.aclose()


async def test_schemas_do_not_see_each_other(database: Database, database_url: str) -> None:
    other = Database(database_url, "elsewhere")
    await other.open(MIGRATIONS)
    await database.fetch(
        "INSERT INTO generation (generation, embedder, dimensions, fingerprint) VALUES ('g9','x',1,'')"
    )

    assert await other.fetch("SELECT * FROM generation") == []
    await other.aclose()


async def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    async def break_off() -> None:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE gone (x int)")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        await break_off()

    assert await database.fetch("SELECT 1 FROM pg_tables WHERE tablename = 'gone'") == []


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("SELECT %s::text", "a\x00b"),
        ("SELECT %s::jsonb", '"\\u0000"'),
        ("SELECT %s::int", "x"),
        ("SELECT %s::smallint", 99999),
    ],
)
async def test_a_value_that_cannot_be_held_is_the_value_s_fault(
    database: Database, statement: str, value: object
) -> None:
    with pytest.raises(PermanentError, match="cannot be stored"):
        await database.fetch(statement, (value,))


async def test_a_statement_that_takes_too_long_may_be_tried_again(database: Database) -> None:
    with pytest.raises(TransientError, match="statement timeout"):
        await database.fetch("SELECT pg_sleep(5)")


async def test_a_transaction_that_was_left_idle_may_be_tried_again(database: Database) -> None:
    async def idle() -> None:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            await asyncio.sleep(0.3)
            await connection.execute("SELECT 1")

    with pytest.raises(TransientError):
        await idle()

    assert await database.fetch_one("SELECT 1 AS one") == {"one": 1}


async def test_a_deadlock_may_be_tried_again(database: Database) -> None:
    barrier = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (first,))
            await barrier.wait()
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (second,))

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes if outcome] == [TransientError]


async def test_a_cancelled_statement_gives_its_connection_back(database_url: str) -> None:
    database = Database(database_url, "embed", pool_size=2)
    await database.open(MIGRATIONS)
    for _ in range(4):
        waiting = asyncio.create_task(database.fetch("SELECT pg_sleep(10)"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert await database.fetch_one("SELECT 1 AS one") == {"one": 1}
    await database.aclose()


async def test_a_server_that_was_restarted_is_found_again(short_dir: Path) -> None:
    """The pool's connections are dead then: each is tried at most once."""
    server = LocalPostgres(DataDir(short_dir), durable=False)
    await server.start()
    database = Database(server.url, "embed", pool_size=4)
    await database.open(MIGRATIONS)
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.05)") for _ in range(4)))

    await server.stop()
    with pytest.raises(TransientError):
        await database.fetch("SELECT 1")
    await server.start()

    failures = 0
    while True:
        try:
            assert await database.fetch_one("SELECT 1 AS one") == {"one": 1}
            break
        except TransientError:
            failures += 1
    assert failures <= 4
    await database.aclose()
    await server.stop()


def test_a_schema_is_named_by_small_letters() -> None:
    with pytest.raises(ConfigurationError):
        Database("postgresql://x", 'embed"; DROP')
