"""WordprocessingML elements: what they say, and what of it a reader sees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from services.ingest.cleaning import unwrap
from services.ingest.parsing.document import BlockKind

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""The same content again, for programs that do not understand the first."""

_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_NOT_SHOWN = frozenset({FALLBACK, f"{W}moveFrom", f"{W}pPr", f"{W}txbxContent"})
_CHARACTERS = {f"{W}tab": "\t", f"{W}br": "\n", f"{W}cr": "\n", f"{W}noBreakHyphen": "-"}
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_CODE = re.compile(r"code|preformatted|macro text|source|verbatim|listing", re.IGNORECASE)
_QUOTE = re.compile(r"quot", re.IGNORECASE)


class ParagraphStyle:
    """What a paragraph style means; a style without a word of its own inherits."""

    def __init__(self, element: Any, parent: ParagraphStyle | None) -> None:
        name = element.find(f"{W}name")
        self.name: str = "" if name is None else name.get(f"{W}val", "")
        properties = element.find(f"{W}pPr")
        heading = _HEADING.fullmatch(self.name)
        level = int(heading[1]) if heading else outline_level(properties)
        if self.name.lower() == "title":
            level = 1
        self.level: int | None = level if level is not None else parent.level if parent else None
        self.listed: bool = is_numbered(properties) or (parent is not None and parent.listed)
        self.kind: BlockKind = parent.kind if parent else "paragraph"
        if _CODE.search(self.name):
            self.kind = "code"
        elif _QUOTE.search(self.name):
            self.kind = "quote"


def shown_text(element: Any) -> str:
    """What a reader sees of a paragraph, without deleted and hidden text and without its text boxes."""
    parts: list[str] = []
    walk = etree.iterwalk(element, events=("start",))
    for _, node in walk:
        if node is not element and (node.tag in _NOT_SHOWN or _hidden(node)):
            walk.skip_subtree()
        elif node.tag in (f"{W}t", _MATH_TEXT):
            parts.append(node.text or "")
        elif node.tag in _CHARACTERS:
            parts.append(_CHARACTERS[node.tag])
    return "".join(parts)


def _hidden(node: Any) -> bool:
    if node.tag != f"{W}r":
        return False
    vanish = node.find(f"{W}rPr/{W}vanish")
    return vanish is not None and vanish.get(f"{W}val", "1") not in ("0", "false", "off")


def cell_text(cell: Any) -> str:
    return " ".join(filter(None, (unwrap(shown_text(paragraph)) for paragraph in paragraphs(cell))))


def paragraphs(element: Any) -> Iterator[Any]:
    return (p for p in element.iter(f"{W}p") if next(p.iterancestors(FALLBACK), None) is None)


def table_of(row: Any) -> Any:
    return next(row.iterancestors(f"{W}tbl"), None)


def outline_level(properties: Any) -> int | None:
    """The heading level from 1 that paragraph properties set; None where they set none."""
    level = None if properties is None else properties.find(f"{W}outlineLvl")
    value = "" if level is None else level.get(f"{W}val", "")
    return int(value) + 1 if value.isdecimal() and len(value) == 1 and int(value) < 9 else None


def is_numbered(properties: Any) -> bool:
    number = None if properties is None else properties.find(f"{W}numPr/{W}numId")
    return number is not None and number.get(f"{W}val") != "0"


def is_unnumbered(properties: Any) -> bool:
    """Whether the paragraph takes itself out of its style's list."""
    number = None if properties is None else properties.find(f"{W}numPr/{W}numId")
    return number is not None and number.get(f"{W}val") == "0"


def list_level(properties: Any) -> int:
    level = None if properties is None else properties.find(f"{W}numPr/{W}ilvl")
    value = "" if level is None else level.get(f"{W}val", "")
    return min(int(value), 8) if value.isdecimal() and len(value) < 4 else 0


def is_table_of_contents(control: Any) -> bool:
    gallery = control.find(f"{W}sdtPr/{W}docPartObj/{W}docPartGallery")
    return gallery is not None and gallery.get(f"{W}val") == "Table of Contents"
