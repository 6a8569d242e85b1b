"""PostgreSQL: one pool a service, its own schema, forward-only migrations under a lock."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ragline.errors import ConfigurationError, PermanentError, TransientError
from ragline.settings import Settings

Connection = AsyncConnection[DictRow]

_MIGRATING = threading.Lock()
"""Alembic's `op` is one global of the process: services of one process migrate one after the other."""

_RETRIED = (
    psycopg.OperationalError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.ReadOnlySqlTransaction,  # a server that is not, or no longer, the primary
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    PoolTimeout,
)


class Database:
    """A service's connections, with `search_path` set to its own schema.

    Every statement is bounded by `statement_timeout_s`. A database that cannot be reached, a lost
    connection, a deadlock and a time-out are TransientError; a value that PostgreSQL cannot hold, such as
    text with a NUL, is PermanentError.
    """

    def __init__(self, url: str, schema: str, *, pool_size: int = 8, statement_timeout_s: float = 15.0) -> None:
        if not re.fullmatch(r"[a-z_]+", schema):
            raise ConfigurationError(f"{schema!r} is not a schema name")
        self.url = url
        self.schema = schema
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=AsyncConnection[DictRow],
            kwargs={
                "row_factory": dict_row,
                "autocommit": True,
                "options": f"-c search_path={schema} -c statement_timeout={int(statement_timeout_s * 1000)}"
                " -c idle_in_transaction_session_timeout=30000",
            },
            min_size=1,
            max_size=pool_size,
            timeout=5.0,
            open=False,
        )

    @classmethod
    def of(cls, settings: Settings, schema: str) -> Self:
        """The database that the settings name, for a service's schema."""
        return cls(
            settings.database_url,
            schema,
            pool_size=settings.database.pool_size,
            statement_timeout_s=settings.database.statement_timeout_s,
        )

    async def open(self, migrations: Path) -> None:
        """Bring the schema up to date, then connect."""
        await asyncio.to_thread(migrate, self.url, self.schema, migrations)
        await self._pool.open()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode, for single statements."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except _RETRIED as error:
            raise TransientError(f"PostgreSQL (schema {self.schema}): {_first_line(error)}") from error
        except psycopg.DataError as error:
            raise PermanentError(f"a value cannot be stored: {_first_line(error)}", reason="INVALID_VALUE") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection within one transaction: committed on a clean end, rolled back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, query: str, parameters: Sequence[Any] = ()) -> list[DictRow]:
        """All rows of one statement."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def fetch_one(self, query: str, parameters: Sequence[Any] = ()) -> DictRow | None:
        """The first row of one statement, or None."""
        rows = await self.fetch(query, parameters)
        return rows[0] if rows else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def migrate(url: str, schema: str, folder: Path) -> None:
    """Bring a schema to the newest migration of `folder`. Blocking; one process at a time does it.

    Migrations are Alembic's: `folder/versions/*.py`, each with `upgrade`; there is no way back.
    """
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError

    script = ScriptDirectory(str(folder))
    engine = create_engine(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    try:
        with _MIGRATING, engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"ragline.{schema}"})
            connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            connection.execute(text(f'SET LOCAL search_path = "{schema}"'))

            def pending(revision: Any, context: Any) -> Any:
                return script._upgrade_revs("head", revision)

            context = MigrationContext.configure(
                connection,
                opts={"fn": pending, "version_table_schema": schema, "transactional_ddl": False},
            )
            with Operations.context(context):
                context.run_migrations()
    except OperationalError as error:
        raise TransientError(f"PostgreSQL cannot be reached: {_first_line(error.orig or error)}") from error
    finally:
        engine.dispose()


def package_folder(package: str) -> Path:
    """The folder of an importable package, where its migrations lie."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))
