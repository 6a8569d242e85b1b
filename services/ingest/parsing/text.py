"""Plain text: paragraphs between blank lines, list items by their markers, laid-out passages as they are."""

from __future__ import annotations

import re
from collections.abc import Callable

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import BlockKind, Outline

_MARKER = re.compile(r"[ \t]*(?:[-*+\u2022\u2023\u25e6\u2013]|\(?\d{1,3}[.)])[ \t]+\S")
_LAID_OUT = re.compile(r"\S(?: {3,}|[ \t]*\t[ \t]*)\S")
_WRAPPED_LINES = 50
_GOING_ON_SHARE = 0.3
_LINK = re.compile(r"https?://[^\s<>\"'`\\^{|}]+")


def read_text(content: bytes | str, charset: str | None) -> Outline:
    """Read plain text of any encoding; it has no headings."""
    return outline_of(clean(decode(content, declared=charset)))


def outline_of(text: str) -> Outline:
    """The paragraphs of clean text: what every format falls back to when its markup makes no sense."""
    outline = Outline()
    add_text(outline, text)
    return outline


def add_text(outline: Outline, text: str, *, source_line: Callable[[int], int | None] = lambda number: number) -> None:
    """Append the paragraphs of clean text and the links in it.

    `source_line` says where in the document a line of the text (counted from 1) stands.
    """
    lines = text.split("\n")
    first = 0
    for index in range(len(lines) + 1):
        if index == len(lines) or not lines[index]:
            if index > first:
                _add_passage(outline, lines[first:index], [source_line(n + 1) for n in range(first, index)])
            first = index + 1
    add_links(outline, text)


def add_links(outline: Outline, text: str) -> None:
    """Note the web addresses that a text spells out."""
    for match in _LINK.finditer(text):
        outline.link(match[0].rstrip(".,;:!?)]"))


def _add_passage(outline: Outline, lines: list[str], numbers: list[int | None]) -> None:
    if len(lines) > 1 and any(map(_LAID_OUT.search, lines)):
        outline.add("code", "\n".join(lines), line=numbers[0])
        return
    starts = [index for index, text in enumerate(lines) if _MARKER.match(text)]
    if starts[:1] != [0]:
        starts.insert(0, 0)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        kind: BlockKind = "list" if _MARKER.match(lines[start]) else "paragraph"
        outline.add(kind, _prose(lines[start:end]), line=numbers[start])


def _prose(lines: list[str]) -> str:
    """A wrapped paragraph as one line; lines that each begin anew (a log, an address, verse) as they are."""
    going_on = sum(text.lstrip()[0].isalpha() and not text.lstrip()[0].isupper() for text in lines[1:])
    if len(lines) <= _WRAPPED_LINES and going_on >= _GOING_ON_SHARE * (len(lines) - 1):
        return unwrap("\n".join(lines))
    return "\n".join(map(unwrap, lines))
