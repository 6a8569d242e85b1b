"""What a document is: by its first bytes, by what it is declared to be, by its name, by its text."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from urllib.parse import urlsplit

from services.ingest.parsing.office import ZIP_FAULTS
from services.ingest.parsing.rst import PEP_HEADER

TEXT, MARKDOWN, RST, HTML = "text/plain", "text/markdown", "text/x-rst", "text/html"
CSV, JSON, JSON_LINES = "text/csv", "application/json", "application/x-ndjson"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
BINARY = frozenset({PDF, DOCX, PPTX})
"""Formats that only bytes can hold."""

_OTHER_NAMES = {
    "text/x-markdown": MARKDOWN,
    "text/prs.fallenstein.rst": RST,
    "text/restructuredtext": RST,
    "application/xhtml+xml": HTML,
    "text/tab-separated-values": CSV,
    "application/csv": CSV,
    "application/vnd.ms-excel": CSV,  # what browsers on Windows call a CSV file; a real one is found by its bytes
    "text/json": JSON,
    "application/jsonl": JSON_LINES,
    "application/jsonlines": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/x-pdf": PDF,
}
_SAYS_NOTHING = frozenset(
    {"", "application/octet-stream", "binary/octet-stream", "application/x-unknown", "application/zip"}
)
_SUFFIXES = {
    **dict.fromkeys(("md", "markdown", "mdown", "mkd"), MARKDOWN),
    **dict.fromkeys(("rst", "rest"), RST),
    **dict.fromkeys(("html", "htm", "xhtml"), HTML),
    **dict.fromkeys(("csv", "tsv", "tab"), CSV),
    **dict.fromkeys(("json", "geojson", "jsonld"), JSON),
    **dict.fromkeys(("jsonl", "ndjson"), JSON_LINES),
    "pdf": PDF,
    "docx": DOCX,
    "pptx": PPTX,
}
_TEXT_SUFFIXES = frozenset({"txt", "text", "log"})

_ZIP = b"PK\x03\x04"
_MAGIC = {
    b"%PDF-": PDF,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "application/x-ole-storage",
    b"\x89PNG\r\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"\x1f\x8b\x08": "application/gzip",
    b"7z\xbc\xaf\x27\x1c": "application/x-7z-compressed",
    b"Rar!\x1a\x07": "application/vnd.rar",
    b"\x7fELF": "application/x-executable",
    b"SQLite format 3\0": "application/vnd.sqlite3",
}
_PDF_WITHIN_BYTES = 1024
"""What may stand before a PDF's own beginning."""
_PACKAGES = {"word/": DOCX, "ppt/": PPTX, "xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"}

_SNIFFED_CHARACTERS = 4096
_HTML = re.compile(
    r"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,1000}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_RST = re.compile(r"^\.\. [a-z][\w-]*::", re.MULTILINE)
_MARKDOWN = re.compile(r"^(?:#{1,6} \S|```|~~~)", re.MULTILINE)
_JSON = re.compile(r"\A\s*(?:\{\s*(?:\"|\}\s*\Z)|\[\s*[\[{\"])")
_SIGNS_IN_TEXT_FILES = ((RST, PEP_HEADER),)
_SIGNS = ((HTML, _HTML), *_SIGNS_IN_TEXT_FILES, (RST, _RST), (MARKDOWN, _MARKDOWN), (JSON, _JSON))


def content_type_of(content: bytes | str, *, declared: str | None, uri: str) -> tuple[str, str | None]:
    """The media type by which to read the content, and the character set that its Content-Type names.

    Bytes that begin like a known binary format are of that format, whatever is declared; a binary format that
    is declared, or named by the suffix of `uri`, and not borne out by the bytes counts for nothing. Among
    formats of text the declared one is believed, then the suffix, then the text itself.
    """
    name, charset = _declared(declared)
    magic = _magic(content) if isinstance(content, bytes) else None
    if magic is not None:
        return magic, charset
    if name in BINARY and isinstance(content, bytes):
        name = ""
    if name in _SAYS_NOTHING:
        name = _guess(content, uri)
    if name in (CSV, JSON, JSON_LINES) and _HTML.search(_sample(content)):  # an error page in a file's stead
        name = HTML
    return name, charset


def _declared(value: str | None) -> tuple[str, str | None]:
    """The canonical media type and the charset of a Content-Type value."""
    name, _, parameters = (value or "").partition(";")
    name = name.strip().lower()
    charset = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", parameters, re.IGNORECASE)
    if name.startswith("application/") and name.endswith("+json"):
        name = JSON
    name = _OTHER_NAMES.get(name, name)
    if name.startswith("text/") and name not in (MARKDOWN, RST, HTML, CSV):  # source code, logs and the like
        name = TEXT
    return name, charset[1] if charset else None


def _magic(content: bytes) -> str | None:
    if content.startswith(_ZIP):
        return _zipped(content)
    found = next((name for start, name in _MAGIC.items() if content.startswith(start)), None)
    if found is None and b"%PDF-" in content[:_PDF_WITHIN_BYTES] and b"%%EOF" in content[-_PDF_WITHIN_BYTES:]:
        return PDF
    return found


def _zipped(content: bytes) -> str:
    """Which kind of package a zip file is; one cut off has lost its table but still its first entries' names."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names: Iterable[str] = archive.namelist()
    except ZIP_FAULTS:
        names = re.findall(rb"PK\x03\x04.{26}([\w/]+)", content[: _PDF_WITHIN_BYTES * 64], re.DOTALL)
        names = [name.decode("ascii", "replace") for name in names]
    kinds = {kind for name in names for start, kind in _PACKAGES.items() if name.startswith(start)}
    return kinds.pop() if len(kinds) == 1 else "application/zip"


def _guess(content: bytes | str, uri: str) -> str:
    suffix = urlsplit(uri).path.rsplit("/", 1)[-1].rpartition(".")[2].lower()
    named = _SUFFIXES.get(suffix)
    if named is not None and (named not in BINARY or isinstance(content, str)):
        return named
    sample = _sample(content)
    signs = _SIGNS_IN_TEXT_FILES if suffix in _TEXT_SUFFIXES else _SIGNS
    return next((name for name, sign in signs if sign.search(sample)), TEXT)


def _sample(content: bytes | str) -> str:
    head = content[:_SNIFFED_CHARACTERS]
    sample = head.decode("utf-8", errors="replace") if isinstance(head, bytes) else head
    return sample.removeprefix("\ufeff").replace("\r\n", "\n")
