"""PDF: pdfium gives characters and their places, `pdf_layout` makes headings and paragraphs of them.

pdfium is not thread-safe and a damaged file may crash it: it runs where one document is read at a time, in
a process that may die (`services.ingest.isolation`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ragline.errors import PermanentError
from services.ingest.parsing.document import MAX_TEXT_BYTES, Outline, too_much_text
from services.ingest.parsing.office import given_title
from services.ingest.parsing.pdf_layout import Contents, Line, Page, add_pages

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage, PdfTextPage

_DIVIDING_HYPHEN = 2
"""What pdfium reports in place of a hyphen that divides a word; it leaves out the line break after it."""
_LINE_BREAKS = frozenset({10, 13, _DIVIDING_HYPHEN})
_BLANK = frozenset({0, 9, 10, 13, 32, 160, 0xFFFE, 0xFFFF})
_MOST_BOOKMARKS = 5_000
_MOST_LINKS = 10_000
_PASSWORD_ERROR = 4


def read_pdf(content: bytes, charset: str | None) -> Outline:
    """Read a PDF's text, page by page; a scan without text is an empty document.

    Raises PermanentError: ENCRYPTED_DOCUMENT or UNREADABLE_DOCUMENT.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    outline = Outline()
    try:
        document = PdfDocument(content)
        outline.title = given_title(document.get_metadata_value("Title"))
        outline.language = _language(document)
        pages = _pages(document, outline)
        contents = _contents(document)
    except PdfiumError as error:
        raise _refusal(error) from error
    add_pages(outline, pages, contents)
    document.close()
    return outline


def _refusal(error: Exception) -> PermanentError:
    if getattr(error, "err_code", None) == _PASSWORD_ERROR:
        return PermanentError("the PDF is encrypted: publish it without a password", reason="ENCRYPTED_DOCUMENT")
    return PermanentError(f"the PDF is damaged ({error}): publish it again, whole", reason="UNREADABLE_DOCUMENT")


def _language(document: PdfDocument) -> str | None:
    from pypdfium2.raw import FPDFCatalog_GetLanguage

    size = FPDFCatalog_GetLanguage(document, None, 0)
    buffer = (ctypes.c_ushort * (size // 2))()
    FPDFCatalog_GetLanguage(document, buffer, size)
    return bytes(buffer).decode("utf-16-le", errors="replace").rstrip("\0").strip() or None


def _contents(document: PdfDocument) -> Contents:
    """The bookmarks: on which page which title is a heading of which level."""
    contents: dict[int, list[tuple[int, str]]] = {}
    for number, bookmark in enumerate(document.get_toc()):
        if number == _MOST_BOOKMARKS:
            break
        destination = bookmark.get_dest()
        page = destination.get_index() if destination is not None else None
        if page is not None:
            contents.setdefault(page + 1, []).append((bookmark.level + 1, bookmark.get_title()))
    return contents


def _pages(document: PdfDocument, outline: Outline) -> list[Page]:
    pages = []
    characters = 0
    for number in range(1, len(document) + 1):
        pages.append(_page(document, number, outline))
        characters += sum(len(line.text) for line in pages[-1].lines)
        if characters > MAX_TEXT_BYTES:  # before all of it is held at once
            raise too_much_text()
    return pages


def _page(document: PdfDocument, number: int, outline: Outline) -> Page:
    page = document[number - 1]
    _, bottom, _, top = page.get_bbox()
    text = page.get_textpage()
    lines = tuple(_lines(text, number))
    for target in _links(document, page):
        outline.link(target)
    text.close()
    page.close()
    return Page(number, bottom, top, lines)


def _lines(text: PdfTextPage, page: int) -> Iterator[Line]:
    """The page's lines in the order of its content; characters with no Unicode value are left out."""
    from pypdfium2.raw import FPDFText_GetUnicode

    codes = [FPDFText_GetUnicode(text, index) for index in range(text.count_chars())]
    codes.append(10)
    first = 0
    for index, code in enumerate(codes):
        if code in _LINE_BREAKS:
            end = index + 1 if code == _DIVIDING_HYPHEN else index
            shown = [at for at in range(first, end) if codes[at] not in _BLANK]
            if shown:
                yield _line(text, codes, shown[0], shown[-1], page)
            first = index + 1


def _line(text: PdfTextPage, codes: list[int], first: int, last: int, page: int) -> Line:
    left, bottom, _, top = text.get_charbox(first, loose=True)
    right = text.get_charbox(last, loose=True)[2]
    characters = "".join(
        chr(code) for code in codes[first : last + 1] if 0 < code < 0xFFFE or 0x10000 <= code < 0x110000
    )
    # Characters beyond the basic plane may come as two halves.
    whole = characters.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return Line(whole, page, left, right, bottom, top - bottom)


def _links(document: PdfDocument, page: PdfPage) -> Iterator[str]:
    """Where the page's links lead to, outside the document."""
    import pypdfium2.raw as raw

    position, link = ctypes.c_int(0), raw.FPDF_LINK()
    for _ in range(_MOST_LINKS):
        if not raw.FPDFLink_Enumerate(page, position, link):
            return
        action: Any = raw.FPDFLink_GetAction(link)
        size = raw.FPDFAction_GetURIPath(document, action, None, 0) if action else 0
        if size:
            buffer = ctypes.create_string_buffer(size)
            raw.FPDFAction_GetURIPath(document, action, buffer, size)
            yield buffer.value.decode("utf-8", errors="replace")
