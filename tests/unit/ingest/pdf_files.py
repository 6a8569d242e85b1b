"""Small PDFs, written by hand: lines of Helvetica at given places, bookmarks and links."""

from __future__ import annotations

from collections.abc import Sequence

Placed = tuple[float, float, float, str]
"""Distance from the left and from the bottom, size (all in points), and text."""


def column(*lines: str, left: float = 72, top: float = 700, size: float = 10, pitch: float = 12) -> list[Placed]:
    """Lines below each other."""
    return [(left, top - number * pitch, size, line) for number, line in enumerate(lines)]


def pdf(
    *pages: Sequence[Placed],
    title: str | None = None,
    language: str | None = None,
    bookmarks: Sequence[tuple[int, str]] = (),
    link: str | None = None,
) -> bytes:
    """A PDF of A4 pages; `bookmarks` are page numbers from 1 and titles, `link` leads away from the first page."""
    first_page = 5
    numbers = [first_page + 2 * index for index in range(len(pages))]
    marks = range(first_page + 2 * len(pages), first_page + 2 * len(pages) + len(bookmarks))
    outline = f"/First {marks[0]} 0 R /Last {marks[-1]} 0 R /Count {len(marks)}" if marks else ""
    catalog = "/Type /Catalog /Pages 2 0 R" + (f" /Lang ({language})" if language else "")
    objects = [
        f"<< {catalog}{' /Outlines 4 0 R' if marks else ''} >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{number} 0 R' for number in numbers)}] >>",
        f"<< /Title ({title}) >>" if title else "<< >>",
        f"<< /Type /Outlines {outline} >>",
    ]
    for number, page in zip(numbers, pages, strict=True):
        objects += [_page(number, link if number == first_page else None), _stream(page)]
    for place, (number, (page_number, name)) in enumerate(zip(marks, bookmarks, strict=True)):
        after = f" /Next {number + 1} 0 R" if place + 1 < len(marks) else ""
        objects.append(f"<< /Title ({name}) /Parent 4 0 R /Dest [{numbers[page_number - 1]} 0 R /Fit]{after} >>")
    return _file(objects)


def _page(number: int, link: str | None) -> str:
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    annotation = f"<< /Type /Annot /Subtype /Link /Rect [72 700 200 712] /A << /S /URI /URI ({link}) >> >>"
    return (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {number + 1} 0 R "
        f"/Resources << /Font << /F {font} >> >>{f' /Annots [{annotation}]' if link else ''} >>"
    )


def _stream(page: Sequence[Placed]) -> str:
    shown = "\n".join(f"BT /F {size} Tf {x} {y} Td ({_escaped(text)}) Tj ET" for x, y, size, text in page)
    return f"<< /Length {len(shown.encode('cp1252'))} >>\nstream\n{shown}\nendstream"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _file(objects: Sequence[str]) -> bytes:
    content, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode("cp1252")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 3 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    return content + (head + trailer).encode()
