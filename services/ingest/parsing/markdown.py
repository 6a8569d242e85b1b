"""Markdown (CommonMark with tables and strikethrough), front matter read for its title and language."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import BlockKind, Outline
from services.ingest.parsing.html import add_html
from services.ingest.parsing.text import outline_of

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_MATTER_FIELD = re.compile(r"^(title|lang|language)[ \t]*:[ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")
_NESTING = 100


@functools.cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"maxNesting": _NESTING}).enable(["table", "strikethrough"])


def read_markdown(content: bytes | str, charset: str | None) -> Outline:
    """Read Markdown; every block knows its line."""
    text = clean(decode(content, declared=charset))
    outline = Outline()
    text = _take_front_matter(text, outline)
    tokens = _markdown().parse(text)
    if any(token.level >= _NESTING - 1 for token in tokens):  # below that level text would be missing
        return outline_of(text)
    _Walk(outline).blocks(tokens)
    return outline


def _take_front_matter(text: str, outline: Outline) -> str:
    """The text with its front matter blanked line by line, so that line numbers stay true."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return text
    for name, value in _FRONT_MATTER_FIELD.findall(match[1] or ""):
        value = value.strip().strip("\"'").strip()
        if name.lower() == "title":
            outline.title = value
        else:
            outline.language = value or None
    return "\n" * match[0].count("\n") + text[match.end() :]


class _Walk:
    """Walks a token stream and keeps what encloses the present token."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._lists: list[bool] = []
        """One entry an open list: whether it is ordered."""
        self._quotes = 0
        self._marker = ""
        self._heading: int | None = None
        self._rows: list[list[str]] | None = None

    def blocks(self, tokens: Sequence[Token]) -> None:
        line: int | None = None
        for token in tokens:
            line = token.map[0] + 1 if token.map else line
            self._structure(token)
            if token.type == "inline":
                self._inline(token, line)
            elif token.type in ("fence", "code_block"):
                self._outline.add("code", token.content, line=line)
            elif token.type == "html_block":
                add_html(self._outline, token.content, line=line)
            elif token.type == "table_close" and self._rows is not None:
                rows = "\n".join(" | ".join(row) for row in self._rows)
                self._outline.add("table", rows, line=line)
                self._rows = None

    def _structure(self, token: Token) -> None:
        kind = token.type
        if kind == "heading_open":
            self._heading = int(token.tag[1:])
        elif kind == "heading_close":
            self._heading = None
        elif kind in ("bullet_list_open", "ordered_list_open"):
            self._lists.append(kind == "ordered_list_open")
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
        elif kind == "list_item_open":
            self._marker = f"{token.info}. " if self._lists[-1] else "- "
        elif kind == "blockquote_open":
            self._quotes += 1
        elif kind == "blockquote_close":
            self._quotes -= 1
        elif kind == "table_open":
            self._rows = []
        elif kind == "tr_open" and self._rows is not None:
            self._rows.append([])

    def _inline(self, token: Token, line: int | None) -> None:
        text = unwrap(clean(_text(token.children or (), self._outline)))
        if self._rows is not None:
            self._rows[-1].append(text)
        elif self._heading is not None and not self._lists and not self._quotes:
            self._outline.heading(self._heading, text, line=line)
        elif self._lists:
            indent = "  " * (len(self._lists) - 1)
            lead = self._marker or "  "
            self._marker = ""
            self._outline.add("list", f"{indent}{lead}{text}" if text else "", line=line)
        else:
            kind: BlockKind = "quote" if self._quotes else "paragraph"
            self._outline.add(kind, text, line=line)


def _text(children: Iterable[Token], outline: Outline) -> str:
    """What a reader sees of inline tokens; where they point to goes to the outline's links."""
    parts: list[str] = []
    for token in children:
        if token.type in ("text", "code_inline", "text_special"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "link_open":
            outline.link(str(token.attrs.get("href", "")))
        elif token.type == "image":
            parts.append(_text(token.children or (), outline))
        elif token.type == "html_inline":
            parts.append(" " if token.content.lower().startswith(("<br", "</p", "</td")) else "")
    return "".join(parts)
