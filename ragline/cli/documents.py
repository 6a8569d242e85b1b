"""From paths on the command line to `document.changed` events."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ragline.contracts.events import DocumentChanged
from ragline.errors import InvalidArgument

SUFFIXES: Final = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")
"""What ingest can read."""


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What all documents of one `ragline publish` share."""

    tenant: str
    source: str
    prefix: str = ""
    groups: tuple[str, ...] | None = None
    delete: bool = False


def find_files(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """(file, document id): a file is named by its own name, one in a folder by its path below the folder.

    Raises InvalidArgument for a path that does not exist; files of a folder that cannot be read by
    ingest are passed over.
    """
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and file.suffix.lower() in SUFFIXES:
                    yield file, file.relative_to(path).as_posix()
        elif path.is_file():
            yield path, path.name
        else:
            raise InvalidArgument("path", f"{path} does not exist")


def change_of(file: Path, document_id: str, options: PublishOptions) -> DocumentChanged:
    """The event that publishes a file; its revision is the present moment in microseconds.

    Raises InvalidArgument for a file that is too large, of an unknown kind or not text.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidArgument("path", f"{file} is not of a kind that can be read ({', '.join(SUFFIXES)})")
    return _event(document_id, options, op="upsert", uri=document_id, content=_text(file), where=str(file))


def deletion_of(document_id: str, options: PublishOptions) -> DocumentChanged:
    """The event that deletes a document."""
    return _event(document_id, options, op="delete", where=document_id)


def _event(document_id: str, options: PublishOptions, *, where: str, **fields: object) -> DocumentChanged:
    try:
        return DocumentChanged.model_validate(
            {
                "tenant": options.tenant,
                "document_id": options.prefix + document_id,
                "source": options.source,
                "revision": time.time_ns() // 1000,
                "acl": options.groups,
                **fields,
            }
        )
    except ValidationError as error:
        raise InvalidArgument("path", f"{where}: {error.errors(include_url=False)[0]['msg']}") from error


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        from charset_normalizer import from_bytes

        best = from_bytes(data).best()
        if best is None:
            raise InvalidArgument("path", f"{file} is not text in any known encoding") from None
        return str(best)
