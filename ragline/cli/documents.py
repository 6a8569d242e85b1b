"""From what the command line names (files, folders, patterns, URLs, feeds) to changes of documents."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from ragline.contracts.events import INLINE_CONTENT_BYTES, DocumentChanged
from ragline.errors import InvalidArgument

TEXT_SUFFIXES: Final = (
    ".txt",
    ".md",
    ".markdown",
    ".rst",
    ".html",
    ".htm",
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
)
BINARY_SUFFIXES: Final = (".pdf", ".docx", ".pptx")
SUFFIXES: Final = TEXT_SUFFIXES + BINARY_SUFFIXES
"""What ingest can read."""
UPLOAD_BYTES: Final = 15 * 1024 * 1024
"""The most that one gRPC upload carries; larger files go by reference."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What all documents of one `ragline publish` share."""

    tenant: str
    source: str
    prefix: str = ""
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that cannot travel inline on the bus: it goes to ingest over gRPC."""

    document_id: str
    revision: int
    data: bytes


Change = DocumentChanged | Upload


@dataclass(frozen=True, slots=True)
class Found:
    """A file or URL that the command line named, and the id of its document."""

    path: Path | None
    document_id: str
    url: str = ""


class FeedLine(BaseModel):
    """A line of a change feed: `seq` is the revision, `uri` the document id."""

    model_config = ConfigDict(extra="ignore")

    seq: int
    op: Literal["upsert", "delete"]
    uri: str
    title: str | None = None
    content: str | None = None


def find(names: Iterable[str]) -> Iterator[Found]:
    """What the names stand for: a file is named by its own name, one in a folder by its path below the folder.

    A pattern stands for files of the folder that it begins with, before its first wildcard. Raises InvalidArgument
    for a name that stands for nothing; files of a folder or pattern that ingest cannot read are passed over.
    """
    for name in names:
        if name.startswith(("http://", "https://", "s3://", "gs://")):
            parts = urlsplit(name)
            yield Found(None, parts.netloc + parts.path, name)
        elif Path(name).is_dir():
            yield from find_in_folder(Path(name))
        elif Path(name).is_file():
            yield Found(Path(name), Path(name).name)
        elif any(character in name for character in "*?["):
            yield from _find_by_pattern(name)
        else:
            raise InvalidArgument("path", f"{name} does not exist")


def _find_by_pattern(pattern: str) -> Iterator[Found]:
    fixed = takewhile(lambda part: not any(character in part for character in "*?["), Path(pattern).parts)
    folder = Path(*fixed)
    below = Path(pattern).relative_to(folder)
    matches = folder.glob(str(below / "*" if below.name == "**" else below))
    found = sorted(path for path in matches if path.is_file() and path.suffix.lower() in SUFFIXES)
    if not found:
        raise InvalidArgument("path", f"{pattern} matches no file that can be read ({', '.join(SUFFIXES)})")
    yield from (Found(path, path.relative_to(folder).as_posix()) for path in found)


def find_in_folder(folder: Path) -> Iterator[Found]:
    """The readable files below a folder, in order; hidden ones are passed over."""
    for file in sorted(folder.rglob("*")):
        below = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if file.is_file() and not hidden and file.suffix.lower() in SUFFIXES:
            yield Found(file, below.as_posix())


def change_of(found: Found, options: PublishOptions) -> Change:
    """The change that publishes a file or URL; its revision is the present moment in microseconds.

    Raises InvalidArgument for a file that is too large, of an unknown kind or cannot be read.
    """
    document_id = options.prefix + found.document_id
    if found.path is None:
        return _event(document_id, options, op="upsert", uri=found.url, content_ref=found.url, where=found.url)
    if found.path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument("path", f"{found.path} is not of a kind that can be read ({', '.join(SUFFIXES)})")
    try:
        data = found.path.read_bytes()
    except OSError as error:
        raise InvalidArgument("path", f"{found.path} cannot be read: {error.strerror}") from error
    text = None if found.path.suffix.lower() in BINARY_SUFFIXES else _utf8(data)
    if text is not None and len(data) <= INLINE_CONTENT_BYTES:
        where = str(found.path)
        return _event(document_id, options, op="upsert", uri=found.document_id, content=text, where=where)
    if len(data) > UPLOAD_BYTES:
        raise InvalidArgument(
            "path",
            f"{found.path} has {len(data) >> 20} MiB, more than the {UPLOAD_BYTES >> 20} that can be uploaded: "
            "publish an event with a content_ref that ingest may read",
        )
    return Upload(document_id, _now(), data)


def deletion_of(document_id: str, options: PublishOptions) -> DocumentChanged:
    """The event that deletes a document."""
    return _event(options.prefix + document_id, options, op="delete", where=document_id)


def read_feed(file: Path, options: PublishOptions) -> Iterator[DocumentChanged]:
    """The changes of a feed in order; raises InvalidArgument that names the line at fault."""
    with _lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                entry = FeedLine.model_validate(json.loads(line))
            except (ValidationError, ValueError) as error:
                reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                raise InvalidArgument("feed", f"{where}: {reason}") from error
            yield _event(
                options.prefix + entry.uri,
                options,
                op=entry.op,
                revision=entry.seq,
                uri=entry.uri,
                title=entry.title,
                content=entry.content if entry.op == "upsert" else None,
                where=where,
            )


@contextmanager
def _lines(file: Path) -> Iterator[Iterable[str]]:
    packed = file.suffix == ".gz"
    try:
        with gzip.open(file, "rt", encoding="utf-8") if packed else file.open(encoding="utf-8") as lines:
            yield lines
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidArgument("feed", f"{file} cannot be read: {error}") from error


def _event(document_id: str, options: PublishOptions, *, where: str, **fields: object) -> DocumentChanged:
    try:
        return DocumentChanged.model_validate(
            {
                "tenant": options.tenant,
                "document_id": document_id,
                "source": options.source,
                "revision": _now(),
                "acl": options.groups,
                **fields,
            }
        )
    except ValidationError as error:
        raise InvalidArgument("path", f"{where}: {error.errors(include_url=False)[0]['msg']}") from error


def _now() -> int:
    return time.time_ns() // 1000


def _utf8(data: bytes) -> str | None:
    """The text, when it is UTF-8; ingest guesses other encodings from the bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
