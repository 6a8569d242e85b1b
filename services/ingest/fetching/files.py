"""Reading files within allowed folders, and none outside: whatever a path says and whoever renames meanwhile.

A path is resolved, links and all, and must then lie within a root. It is opened part by part from the root
without following a link, so that a part that is exchanged in between is refused instead of followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ragline.errors import RaglineError
from services.ingest.fetching.fetched import Fetched, not_found, refused, too_large, unavailable

_NEVER = (Path("/proc"), Path("/sys"), Path("/dev"))
"""Not documents, even where a root holds them: memory, environments and devices of processes."""
_PIECE_BYTES = 1 << 20


def read_file(ref: str, roots: Sequence[Path], most_bytes: int) -> Fetched:
    """The content of a `file:` URL or an absolute path. Blocking.

    Raises PermanentError (refused, not found, too large) and TransientError for a disk that fails.
    """
    path = _path(ref)
    if not roots:
        raise refused(ref, "no folder is allowed; name those that may be read in RAGLINE_INGEST__CONTENT_ROOTS")
    try:
        real = Path(os.path.realpath(path))
        root = _root_of(real, roots)
        if root is None or any(real.is_relative_to(folder) for folder in _NEVER):
            raise refused(ref, "it lies outside of the allowed folders (RAGLINE_INGEST__CONTENT_ROOTS)")
        descriptor = _open_beneath(root, real.relative_to(root).parts)
        try:
            content = _read(ref, descriptor, most_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _explained(ref, error) from error
    return Fetched(content, None, None, real.as_uri())


def _path(ref: str) -> str:
    path = ref
    if not ref.startswith("/"):
        url = urlsplit(ref)
        if url.netloc not in ("", "localhost"):
            raise refused(ref, "a file: URL names no other host; write file:///path")
        if url.query or url.fragment:
            raise refused(ref, "a file: URL has no query or fragment; write ? as %3F and # as %23")
        path = unquote(url.path)
    if not path.startswith("/") or "\0" in path:
        raise refused(ref, "it is no absolute path")
    return path


def _root_of(path: Path, roots: Sequence[Path]) -> Path | None:
    """The real path of the root that holds `path`."""
    real_roots = (Path(os.path.realpath(root)) for root in roots)
    return next((root for root in real_roots if path.is_relative_to(root)), None)


def _open_beneath(root: Path, parts: Sequence[str]) -> int:
    """Open a file below `root` for reading; a link, or `..`, on the way is an error (ELOOP)."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for position, part in enumerate(parts, start=1):
        kind = os.O_NONBLOCK if position == len(parts) else os.O_DIRECTORY
        try:
            if part == os.pardir:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


def _read(ref: str, descriptor: int, most_bytes: int) -> bytes:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise refused(ref, "it is no regular file")
    if before.st_size > most_bytes:
        raise too_large(ref, most_bytes)
    content = bytearray()
    while piece := os.read(descriptor, min(_PIECE_BYTES, most_bytes + 1 - len(content))):
        content += piece
        if len(content) > most_bytes:
            raise too_large(ref, most_bytes)
    after = os.fstat(descriptor)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise unavailable(ref, "it was written to while it was read")
    return bytes(content)


def _explained(ref: str, error: OSError) -> RaglineError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return not_found(ref)
    if error.errno in (errno.EACCES, errno.EPERM):
        return refused(ref, "ingest has no permission to read it")
    if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
        return refused(ref, f"it cannot be opened as a file ({error.strerror})")
    return unavailable(ref, error.strerror or type(error).__name__)
