"""Which parser reads which content type, and the one way to call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from ragline.errors import PermanentError
from services.ingest.parsing import sniffing
from services.ingest.parsing.delimited import read_csv
from services.ingest.parsing.document import MAX_TEXT_BYTES, Outline, ParsedDocument, too_much_text
from services.ingest.parsing.html import read_html
from services.ingest.parsing.json_text import read_json, read_json_lines
from services.ingest.parsing.markdown import read_markdown
from services.ingest.parsing.pdf import read_pdf
from services.ingest.parsing.rst import read_rst
from services.ingest.parsing.slides import read_pptx
from services.ingest.parsing.text import read_text
from services.ingest.parsing.word import read_docx

TextParser = Callable[[bytes | str, str | None], Outline]
"""Reads content, given the character set that its content type names."""
BinaryParser = Callable[[bytes, str | None], Outline]

TEXT_PARSERS: Mapping[str, TextParser] = {
    sniffing.TEXT: read_text,
    sniffing.MARKDOWN: read_markdown,
    sniffing.RST: read_rst,
    sniffing.HTML: read_html,
    sniffing.CSV: read_csv,
    sniffing.JSON: read_json,
    sniffing.JSON_LINES: read_json_lines,
}
BINARY_PARSERS: Mapping[str, BinaryParser] = {
    sniffing.PDF: read_pdf,
    sniffing.DOCX: read_docx,
    sniffing.PPTX: read_pptx,
}
_ADVICE = {
    "application/x-ole-storage": "it is encrypted or of an Office before 2007: save it as .docx or .pptx, unprotected",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "export its sheets as CSV",
    "application/zip": "publish the files in it",
    "application/gzip": "publish what is in it",
}


def parse(content: bytes | str, *, content_type: str | None, uri: str, title: str | None) -> ParsedDocument:
    """Read a document into ordered, cleaned blocks under their headings.

    `content_type` may carry a charset; how it, the suffix of `uri` and the content itself decide on the
    parser is told at `sniffing.content_type_of`. `title` is the publisher's and wins over the document's own;
    without either the last part of `uri` is the title.
    Raises PermanentError: UNSUPPORTED_CONTENT_TYPE, UNREADABLE_DOCUMENT, ENCRYPTED_DOCUMENT, EMPTY_DOCUMENT,
    PARSE_TOO_LARGE or NESTED_TOO_DEEPLY. It bounds neither time nor memory: see `services.ingest.isolation`.
    """
    try:
        outline = _read(content, content_type, uri)
        fallback = unquote(urlsplit(uri).path).rstrip("/").rsplit("/", 1)[-1] or uri.strip() or "Untitled"
        document = outline.document(title=title, fallback_title=fallback)
        if not document.blocks:
            raise PermanentError(
                "the document holds no text (a scan needs OCR): publish it with text or delete it",
                reason="EMPTY_DOCUMENT",
            )
    except RecursionError as error:
        raise PermanentError(
            f"{_shown(uri)}: the content nests too deeply to be read: flatten it or publish its text",
            reason="NESTED_TOO_DEEPLY",
        ) from error
    except PermanentError as error:
        raise PermanentError(f"{_shown(uri)}: {error}", reason=error.reason) from error
    return document


def _read(content: bytes | str, content_type: str | None, uri: str) -> Outline:
    name, charset = sniffing.content_type_of(content, declared=content_type, uri=uri)
    if name in TEXT_PARSERS:
        if len(content) > MAX_TEXT_BYTES:
            raise too_much_text()
        return TEXT_PARSERS[name](content, charset)
    if name in BINARY_PARSERS:
        if isinstance(content, str):
            raise PermanentError(
                f"{name} does not survive as text: publish it by content_ref", reason="UNSUPPORTED_CONTENT_TYPE"
            )
        return BINARY_PARSERS[name](content, charset)
    advice = _ADVICE.get(name, f"publish one of {', '.join(sorted({*TEXT_PARSERS, *BINARY_PARSERS}))}")
    raise PermanentError(f"content type {name!r} is not supported; {advice}", reason="UNSUPPORTED_CONTENT_TYPE")


def _shown(uri: str) -> str:
    return " ".join(uri.split())[:200] or "document"
