"""Which parser reads which content type, and how the type is found when nobody names it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from ragline.errors import PermanentError
from services.ingest.parsing.document import Outline, ParsedDocument
from services.ingest.parsing.html import read_html
from services.ingest.parsing.markdown import read_markdown
from services.ingest.parsing.rst import PEP_HEADER, read_rst
from services.ingest.parsing.text import read_text

Parser = Callable[[bytes | str, str | None], Outline]
"""Reads content, given the character set that its content type names."""

PARSERS: Mapping[str, Parser] = {
    "text/plain": read_text,
    "text/markdown": read_markdown,
    "text/x-rst": read_rst,
    "text/html": read_html,
}

_OTHER_NAMES = {
    "text/x-markdown": "text/markdown",
    "text/prs.fallenstein.rst": "text/x-rst",
    "text/restructuredtext": "text/x-rst",
    "application/xhtml+xml": "text/html",
}
_SAYS_NOTHING = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/x-unknown"})
_SUFFIXES = {
    "md": "text/markdown",
    "markdown": "text/markdown",
    "mdown": "text/markdown",
    "mkd": "text/markdown",
    "rst": "text/x-rst",
    "rest": "text/x-rst",
    "html": "text/html",
    "htm": "text/html",
    "xhtml": "text/html",
}
_TEXT_SUFFIXES = frozenset({"txt", "text", "log"})
_MAGIC = {
    b"%PDF-": "application/pdf",
    b"PK\x03\x04": "application/zip",
    b"\xd0\xcf\x11\xe0": "application/x-ole-storage",
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"\x1f\x8b": "application/gzip",
}
_SNIFFED_CHARACTERS = 4096
_HTML = re.compile(r"\A\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_RST = re.compile(r"^\.\. [a-z][\w-]*::", re.MULTILINE)
_MARKDOWN = re.compile(r"^(?:#{1,6} \S|```|~~~)", re.MULTILINE)
_SIGNS_IN_TEXT_FILES = (("text/x-rst", PEP_HEADER),)
_SIGNS = (("text/html", _HTML), *_SIGNS_IN_TEXT_FILES, ("text/x-rst", _RST), ("text/markdown", _MARKDOWN))


def parse(content: bytes | str, *, content_type: str | None, uri: str, title: str | None) -> ParsedDocument:
    """Read a document into ordered, cleaned blocks under their headings.

    `content_type` may carry a charset; when it is absent or says nothing the type is guessed from the
    suffix of `uri`, then from the content. `title` is the publisher's and wins over the document's own;
    without either the last part of `uri` is the title.
    Raises PermanentError: UNSUPPORTED_CONTENT_TYPE or EMPTY_DOCUMENT.
    """
    name, charset = _content_type(content_type)
    if name in _SAYS_NOTHING:
        name = _guess(content, uri)
    parser = PARSERS.get(name)
    if parser is None:
        known = ", ".join(sorted(PARSERS))
        raise PermanentError(
            f"{_shown(uri)}: content type {name!r} is not supported; publish one of {known}",
            reason="UNSUPPORTED_CONTENT_TYPE",
        )
    try:
        outline = parser(content, charset)
    except PermanentError as error:
        raise PermanentError(f"{_shown(uri)}: {error}", reason=error.reason) from error
    fallback = unquote(urlsplit(uri).path).rstrip("/").rsplit("/", 1)[-1] or uri.strip() or "Untitled"
    document = outline.document(title=title, fallback_title=fallback)
    if not document.blocks:
        raise PermanentError(
            f"{_shown(uri)}: the document holds no text; publish it with text or delete it",
            reason="EMPTY_DOCUMENT",
        )
    return document


def _content_type(value: str | None) -> tuple[str, str | None]:
    """The canonical media type and the charset of a Content-Type value."""
    name, _, parameters = (value or "").partition(";")
    name = name.strip().lower()
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE)
    return _OTHER_NAMES.get(name, name), charset[1] if charset else None


def _guess(content: bytes | str, uri: str) -> str:
    suffix = urlsplit(uri).path.rsplit("/", 1)[-1].rpartition(".")[2].lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if isinstance(content, bytes):
        magic = next((name for start, name in _MAGIC.items() if content.startswith(start)), None)
        if magic is not None:
            return magic
    head = content[:_SNIFFED_CHARACTERS]
    sample = head.decode("utf-8", errors="replace") if isinstance(head, bytes) else head
    sample = sample.removeprefix("\ufeff").replace("\r\n", "\n")
    signs = _SIGNS_IN_TEXT_FILES if suffix in _TEXT_SUFFIXES else _SIGNS
    return next((name for name, sign in signs if sign.search(sample)), "text/plain")


def _shown(uri: str) -> str:
    return " ".join(uri.split())[:200] or "document"
