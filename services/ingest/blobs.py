"""The blob store: content by its SHA-256, in files or in any store that fsspec reaches.

A blob lies at `ab/cd/abcd….gz` and is written once: put again it is the same blob, so a replay is harmless.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import re
import threading
import zlib
from collections.abc import Callable
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from ragline.errors import ConfigurationError, PermanentError, TransientError
from services.ingest.blocking import BlockingCalls
from services.ingest.fetching.stores import require_package, store_errors
from services.ingest.stored_files import Bucket, Folder

T = TypeVar("T")

_KEY = re.compile(r"[0-9a-f]{64}")
_SAMPLE_BYTES = 1 << 16
_WORTH_COMPRESSING = 0.9
"""Content whose sample stays larger than this share (PDF, images, archives) is stored as it is."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Stored(Protocol):
    """Named bytes somewhere, whole or not at all. All calls block."""

    errors: tuple[type[BaseException], ...]

    def write(self, name: str, data: bytes) -> None: ...
    def read(self, name: str) -> bytes: ...
    def size(self, name: str) -> int | None: ...
    def remove(self, name: str) -> None: ...


class Blobs:
    """Keeps bytes by their hash. `url` is `file:///folder` or a folder of an fsspec store (`s3://bucket/folder`).

    Every call is bounded by `timeout_s`; a store that is full, slow or gone is a TransientError. Nothing is
    opened before the first call; a store whose package is missing is a ConfigurationError at once.
    """

    def __init__(self, url: str, *, timeout_s: float = 20.0) -> None:
        self._url = url
        self._open = _opener(url)
        self._opened: Stored | None = None
        self._opening = threading.Lock()
        self._calls = BlockingCalls(f"the blob store {url}", most=16, timeout_s=timeout_s)

    async def put(self, data: bytes) -> str:
        """Keep the bytes; returns their key, 64 hex digits. A blob that is whole is not written again."""
        return await self._run(lambda store: _put(store, data))

    async def get(self, key: str) -> bytes:
        """The bytes; PermanentError: BLOB_MISSING, or BLOB_DAMAGED when they are not what the key names."""
        name = _name(key)
        return await self._run(lambda store: self._get(store, key, name))

    async def exists(self, key: str) -> bool:
        """Whether the blob is there; `get` alone tells whether it is whole."""
        name = _name(key)
        return await self._run(lambda store: store.size(name) is not None)

    async def delete(self, key: str) -> None:
        """Remove the blob for good; one that is not there is no error."""
        name = _name(key)
        await self._run(lambda store: store.remove(name))

    async def _run(self, action: Callable[[Stored], T]) -> T:
        return await self._calls.run(lambda: self._mapped(action))

    def _mapped(self, action: Callable[[Stored], T]) -> T:
        with self._opening:
            store = self._opened = self._opened or self._open()
        try:
            return action(store)
        except store.errors as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise TransientError(f"the blob store {self._url} is full: free space, or give it more") from error
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise TransientError(f"the blob store {self._url} fails: {why}") from error

    def _get(self, store: Stored, key: str, name: str) -> bytes:
        try:
            data = gzip.decompress(store.read(name))
        except FileNotFoundError as error:
            raise PermanentError(f"blob {key} is not in {self._url}", reason="BLOB_MISSING") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise self._damaged(key) from error
        if hashlib.sha256(data).hexdigest() != key:
            raise self._damaged(key)
        return data

    def _damaged(self, key: str) -> PermanentError:
        return PermanentError(
            f"blob {key} in {self._url} is damaged: restore it from a backup, or publish the document again",
            reason="BLOB_DAMAGED",
        )


def _put(store: Stored, data: bytes) -> str:
    key = hashlib.sha256(data).hexdigest()
    name = _name(key)
    packed = _packed(data)
    if store.size(name) != len(packed) or store.read(name) != packed:  # absent, or damaged: it is mended
        store.write(name, packed)
    return key


def _name(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise PermanentError(f"{key[:80]!r} is no key of a blob: 64 hex digits are", reason="INVALID_BLOB_KEY")
    return f"{key[:2]}/{key[2:4]}/{key}.gz"


def _packed(data: bytes) -> bytes:
    """As gzip, the same for the same bytes; what does not shrink is stored within it."""
    sample = data[:_SAMPLE_BYTES]
    shrinks = len(zlib.compress(sample, 1)) < _WORTH_COMPRESSING * len(sample)
    return gzip.compress(data, 1 if shrinks else 0, mtime=0)


def _opener(url: str) -> Callable[[], Stored]:
    protocol, separator, location = url.partition("://")
    if protocol == "file" and separator:
        path = unquote(urlsplit(url).path)
        if urlsplit(url).netloc or not path.startswith("/"):
            raise ConfigurationError(f"RAGLINE_BLOBS__URL: {url!r} names no folder; write file:///folder")
        return lambda: Folder(path)
    if not separator or not location:
        raise ConfigurationError(f"RAGLINE_BLOBS__URL: {url!r} is no URL such as file:///folder or s3://bucket/folder")
    require_package(protocol, setting="RAGLINE_BLOBS__URL")
    return lambda: Bucket(protocol, location, errors=store_errors(protocol))
