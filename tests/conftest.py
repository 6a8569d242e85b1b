"""Fixtures that several kinds of test share: a real PostgreSQL and a real broker, on free ports."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from ragline.local.broker import LocalBroker, create_topics
from ragline.local.data_dir import DataDir
from ragline.local.postgres import LocalPostgres
from ragline.local.topics import topic_specs

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _no_settings_from_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set for a stack of their own must not reach the tests."""
    import os

    for name in list(os.environ):
        if name.startswith("RAGLINE_") and not name.startswith("RAGLINE_TEST_"):
            monkeypatch.delenv(name)
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A temporary folder with a path short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="ragline-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalPostgres]:
    """One server for the whole run, without syncing to disk."""
    folder = Path(tempfile.mkdtemp(prefix="ragline-pg-", dir="/tmp"))
    async with LocalPostgres(DataDir(folder), durable=False) as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def database_url(postgres: LocalPostgres) -> str:
    """The URL of a database that is empty when the module begins."""
    name = f"test_{next(_numbers)}"
    async with await psycopg.AsyncConnection.connect(postgres.superuser_url, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER ragline")
    return postgres.url.replace("/ragline?", f"/{name}?")


@pytest.fixture
async def bootstrap(short_dir: Path) -> AsyncIterator[str]:
    """The address of a new, empty broker with every topic."""
    async with LocalBroker(DataDir(short_dir / "broker")) as broker:
        await create_topics(broker.bootstrap, topic_specs(4))
        yield broker.bootstrap
