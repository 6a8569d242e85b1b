"""Where blobs lie: a folder of this machine, or a store that fsspec reaches. All calls block."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from services.ingest.fetching.stores import open_store


class Folder:
    """Files below a folder. A file appears whole or not at all, and outlives a power cut."""

    errors: tuple[type[BaseException], ...] = (OSError,)

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def write(self, name: str, data: bytes) -> None:
        """Write beside the place and rename: readers see the old file or the whole new one."""
        path = self._root / name
        self._make(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor is no path
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105  # as above
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        self._sync(path.parent)

    def read(self, name: str) -> bytes:
        """The file's bytes; FileNotFoundError when it is not there."""
        return (self._root / name).read_bytes()

    def size(self, name: str) -> int | None:
        """The file's length in bytes; None when it is not there."""
        try:
            return (self._root / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove the file; that it is gone is no error."""
        path = self._root / name
        path.unlink(missing_ok=True)
        if path.parent.exists():
            self._sync(path.parent)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._sync(folder.parent)

    def _sync(self, folder: Path) -> None:
        """Make the folder's entries durable: a renamed file may otherwise be gone after a power cut."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Bucket:
    """Objects below a folder of an fsspec store, whose writes are expected to be atomic, as object stores' are."""

    def __init__(self, protocol: str, location: str, *, errors: tuple[type[BaseException], ...]) -> None:
        self.errors = errors
        self._location = location.strip("/")
        self._store = open_store(protocol)

    def write(self, name: str, data: bytes) -> None:
        """Put the object."""
        self._store.pipe_file(f"{self._location}/{name}", data)

    def read(self, name: str) -> bytes:
        """The object's bytes; FileNotFoundError when it is not there."""
        data: bytes = self._store.cat_file(f"{self._location}/{name}")
        return data

    def size(self, name: str) -> int | None:
        """The object's length in bytes; None when it is not there."""
        try:
            return int(self._store.info(f"{self._location}/{name}")["size"])
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove the object; that it is gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._store.rm_file(f"{self._location}/{name}")
