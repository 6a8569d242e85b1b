"""The data directory: where all state of the embedded stack lives, and who holds it at the moment."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from ragline.errors import ConfigurationError

ANOTHER_FOLDER = "another folder with --data-dir (RAGLINE_DATA_DIR)"
_SOCKET_PATH_BYTES = 100
"""The longest path of a Unix socket: 107 bytes on Linux, 103 on macOS."""
_LEAST_FREE_BYTES = 500_000_000
_LOCK_WAIT_S = 15.0
_ENDING_S = 0.5
"""How long a process that was just killed may seem alive."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """What `ragline up` tells other commands: its process, and the address of each part by name."""

    pid: int
    addresses: dict[str, str]


class DataDir:
    """Names the paths in the data directory; `create` makes it, `lock` claims it for one stack.

    Making a DataDir touches nothing, so a command that only reads leaves no folder behind.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().resolve()
        self.postgres = self.path / "postgres"
        self.postgres_passwords = self.path / "postgres-passwords.json"
        self.engine = self.path / "engine"
        self.blobs = self.path / "blobs"
        self.models = self.path / "models"
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.keys = self.path / "keys.json"
        self.dev_key = self.path / "dev.key"
        self.service_key = self.path / "service.key"
        self.stack = self.path / "stack.json"
        self._lock = self.path / "lock"
        self._socket_refuge: Path | None = None
        self.lock_descriptor: int | None = None
        """The held lock's descriptor. Child processes inherit it: it is free when the last one is gone."""

    def create(self) -> Self:
        """Make what is missing, for this user alone (mode 0700); folders that exist keep their mode.

        Raises ConfigurationError when the disk is full, read-only, closed to us or a file is in the way.
        """
        folders = (self.engine, self.blobs, self.models, self.logs, self.run)
        with writing_to(self.path):
            for folder in (self.path, *folders):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        return self

    def require_free_space(self, least_bytes: int = _LEAST_FREE_BYTES) -> None:
        """Check that the disk has room; raises ConfigurationError that says how much is missing."""
        free_bytes = shutil.disk_usage(_nearest_existing(self.path)).free
        if free_bytes < least_bytes:
            free, needed = f"{free_bytes // 10**6} MB", f"{least_bytes // 10**6} MB"
            raise ConfigurationError(
                f"{self.path} has {free} free and the stack needs {needed}:"
                f" free some space there or choose {ANOTHER_FOLDER}"
            )

    @contextmanager
    def lock(self, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
        """Hold the data directory for this process; it is made when missing.

        Raises ConfigurationError, after half a second, when a running process holds it. When its holder
        was killed and its children are still stopping, blocks up to `wait_s` seconds until they are gone.
        """
        self.create()
        with writing_to(self._lock):
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with writing_to(self._lock):
                self._claim(descriptor, wait_s)
            self.lock_descriptor = descriptor
            yield
            os.ftruncate(descriptor, 0)
        finally:
            self.lock_descriptor = None
            if self._socket_refuge is not None:
                shutil.rmtree(self._socket_refuge, ignore_errors=True)
            os.close(descriptor)

    def _claim(self, descriptor: int, wait_s: float) -> None:
        """Take the lock and write our pid into its file."""
        begun = time.monotonic()
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            holder = self._holder()
            patience_s = _ENDING_S if holder is not None and _is_alive(holder) else wait_s
            if time.monotonic() - begun > patience_s:
                raise ConfigurationError(self._in_use(holder))
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def _in_use(self, holder: int | None) -> str:
        if holder is None:
            return f"{self.path} is in use by another process: stop it or choose {ANOTHER_FOLDER}"
        if _is_alive(holder):
            stop = f"stop it (Ctrl-C, or kill {holder})"
            return f"{self.path} is in use by process {holder}: {stop} or choose {ANOTHER_FOLDER}"
        return (
            f"{self.path} is in use by what the killed process {holder} started:"
            f" end those processes (`fuser {self._lock}` lists them) or choose {ANOTHER_FOLDER}"
        )

    def _holder(self) -> int | None:
        """The pid in the lock file: who holds the lock, or held it and was killed."""
        text = self._lock.read_text(errors="replace").strip()
        return int(text) if text.isdecimal() else None

    def write_stack(self, addresses: Mapping[str, str]) -> None:
        """Tell other commands where this process's stack answers. Hold the lock while it is true."""
        replace_file(self.stack, json.dumps(asdict(RunningStack(os.getpid(), dict(addresses))), indent=1))

    def read_stack(self) -> RunningStack | None:
        """The stack that runs on this data directory now, or None."""
        try:
            told = json.loads(self.stack.read_text())
            stack = RunningStack(int(told["pid"]), {str(k): str(v) for k, v in told["addresses"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return stack if _is_alive(stack.pid) and self._is_locked() else None

    def _is_locked(self) -> bool:
        try:
            descriptor = os.open(self._lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def socket_path(self, name: str) -> Path:
        """Where to put the Unix socket `name`; its folder is made.

        That is in run/, or, where the path is too long for a socket, in a private folder of the system's
        temporary folder, which goes when the lock is given up.
        Raises ConfigurationError when that private folder is not ours alone.
        """
        path = self.run / name
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            path = self._private_temporary_folder(name) / name
        with writing_to(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def _private_temporary_folder(self, name: str) -> Path:
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        own_name = f"ragline-{os.geteuid()}-{digest}"
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  (private folder, checked below)
            folder = parent / own_name
            if len(os.fsencode(folder / name)) <= _SOCKET_PATH_BYTES:
                break
        with writing_to(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigurationError(
                f"{folder} is not a folder of this user alone: remove it or choose {ANOTHER_FOLDER} with a shorter path"
            )
        self._socket_refuge = folder
        return folder


def replace_file(path: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all.

    Raises ConfigurationError when the disk does not take it.
    """
    with writing_to(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a ConfigurationError that says what to do."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(_what_to_do(error, path)) from error


def _what_to_do(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {path}: the disk or quota is full; free some space or choose {ANOTHER_FOLDER}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {path}: it is read-only for this user; change that or choose {ANOTHER_FOLDER}"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        in_the_way = error.filename or path
        return f"cannot write {path}: {in_the_way} is in the way; move it or choose {ANOTHER_FOLDER}"
    return f"cannot write {path}: {error.strerror}; mend that or choose {ANOTHER_FOLDER}"


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True  # another user's, or a system without /proc
    return state != "Z"  # it has ended, but its parent has not looked yet


def _nearest_existing(path: Path) -> Path:
    return path if path.exists() else _nearest_existing(path.parent)
