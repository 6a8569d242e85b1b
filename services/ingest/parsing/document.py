"""What parsing yields, and the outline that every parser fills in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ragline.errors import PermanentError
from services.ingest.cleaning import clean, unwrap

BlockKind = Literal["paragraph", "list", "code", "table", "quote", "record"]

MAX_TEXT_BYTES = 10_000_000
"""The most text of one document: a book of 5,000 pages. More is a data set: it takes minutes to cut and
hours to embed, and a change of it must not hold up everything else."""

_HEADING_CHARACTERS = 200
"""A longer heading is a paragraph that someone styled as one: it is kept as text and named by its start."""

_NO_LINKS = ("#", "javascript:", "data:")


@dataclass(frozen=True, slots=True)
class Block:
    """One paragraph, list item, code block, table, quoted paragraph or record; `text` is never empty.

    A record is one row of data with its column names, so that it can be understood by itself.

    `heading_path` holds the section headings from the top, without the title. `line` counts the source's
    lines from 1, `page` its pages from 1; None where the format has none.
    """

    kind: BlockKind
    text: str
    heading_path: tuple[str, ...]
    line: int | None
    page: int | None


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as ordered blocks; `language` is what the document declares, never a guess."""

    title: str
    language: str | None
    blocks: tuple[Block, ...]
    links: tuple[str, ...]


@dataclass(slots=True)
class _Heading:
    level: int
    text: str
    line: int | None
    page: int | None
    filled: bool = False


class Outline:
    """Collects a document in reading order: parsers call `heading` and `add`, then `document` once.

    A section that holds nothing at all leaves its heading as a paragraph, so that no text is lost. More text
    than MAX_TEXT_BYTES raises PermanentError (PARSE_TOO_LARGE) while it is being collected.
    """

    def __init__(self) -> None:
        self.title: str | None = None
        self.fallback_title: str | None = None
        """A weaker claim than `title` (HTML's title element): a leading heading of level 1 is preferred."""
        self.language: str | None = None
        self._open: list[_Heading] = []
        self._blocks: list[Block] = []
        self._links: dict[str, None] = {}
        self._first_heading: _Heading | None = None
        self._text_bytes = 0

    def heading(self, level: int, text: str, *, line: int | None = None, page: int | None = None) -> None:
        """Begin a section; `level` counts from 1 and closes every open section of its level or deeper."""
        text = unwrap(clean(text))
        if not text:
            return
        self.leave(level)
        if self._open:
            self._open[-1].filled = True
        name = text if len(text) <= _HEADING_CHARACTERS else text[: _HEADING_CHARACTERS - 1].rstrip() + "…"
        self._open.append(_Heading(level, name, line, page))
        self._first_heading = self._first_heading or self._open[-1]
        if name != text:
            self.add("paragraph", text, line=line, page=page)

    def add(self, kind: BlockKind, text: str, *, line: int | None = None, page: int | None = None) -> None:
        """Append a block to the section that is open; a text without a visible character adds nothing."""
        text = clean(text).strip("\n")
        if not text.strip():
            return
        self._text_bytes += len(text) if text.isascii() else len(text.encode())
        if self._text_bytes > MAX_TEXT_BYTES:
            raise too_much_text()
        if self._open:
            self._open[-1].filled = True
        path = tuple(heading.text for heading in self._open)
        self._blocks.append(Block(kind, text, path, line, page))

    def leave(self, level: int) -> None:
        """End every open section of this level or deeper, where no heading does."""
        while self._open and self._open[-1].level >= level:
            heading = self._open.pop()
            if not heading.filled:
                self.add("paragraph", heading.text, line=heading.line, page=heading.page)

    def link(self, target: str | None) -> None:
        """Note where the document points to; places within itself and inline data do not count."""
        target = clean(target or "").strip()
        if target and not target.lower().startswith(_NO_LINKS):
            self._links[target] = None

    def document(self, *, title: str | None, fallback_title: str) -> ParsedDocument:
        """The whole document. `title` is what the publisher calls it and wins over the document's own.

        A first heading of level 1 is the document's title, and then no section of its own.
        """
        self.leave(1)
        first = self._first_heading
        leading = first.text if first is not None and first.level == 1 else None
        names = (title, self.title, leading, self.fallback_title, fallback_title)
        chosen = next(name for name in (unwrap(clean(name or "")) for name in names) if name)
        blocks = self._blocks
        if leading is not None and leading.casefold() == chosen.casefold():
            blocks = [_without_first_heading(block, leading) for block in blocks]
        return ParsedDocument(chosen, self.language, tuple(blocks), tuple(self._links))


def too_much_text() -> PermanentError:
    """The refusal of a document that holds too much text to be one document."""
    return PermanentError(
        f"the document holds more than {MAX_TEXT_BYTES // 1_000_000} MB of text: split it and publish the parts",
        reason="PARSE_TOO_LARGE",
    )


def _without_first_heading(block: Block, heading: str) -> Block:
    if block.heading_path[:1] != (heading,):
        return block
    return Block(block.kind, block.text, block.heading_path[1:], block.line, block.page)
