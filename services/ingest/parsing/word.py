"""Word documents (DOCX): headings by style, lists, tables, text boxes, footnotes where they are referred to.

python-docx opens the package and knows its styles; the text is read from its elements, since its own
objects leave out content controls, tracked insertions and text boxes. Numbers of lists are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lxml import etree

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.document import Outline
from services.ingest.parsing.office import PACKAGE_FAULTS, given_title, package, unreadable
from services.ingest.parsing.tables import add_table
from services.ingest.parsing.word_elements import (
    FALLBACK,
    ParagraphStyle,
    W,
    cell_text,
    is_numbered,
    is_table_of_contents,
    is_unnumbered,
    list_level,
    outline_level,
    paragraphs,
    shown_text,
    table_of,
)

if TYPE_CHECKING:
    from docx.document import Document

_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_CONTENTS = re.compile(r"(?:toc|table of (?:figures|authorities)|index) ?\d|toc heading", re.IGNORECASE)
"""Styles of generated lists of headings: they say nothing that the headings do not."""
Notes = dict[tuple[str, str], str]
"""The texts of footnotes and endnotes, by the name and id of the reference to them."""

_NOTES = ("/word/footnotes.xml", "/word/endnotes.xml")


def read_docx(content: bytes, charset: str | None) -> Outline:
    """Read a Word document; raises PermanentError when it is damaged or unpacks beyond all bounds."""
    from docx import Document

    file = package(content)
    outline = Outline()
    try:
        document = Document(file)
        outline.title = given_title(document.core_properties.title)
        outline.language = document.core_properties.language or None
        body, styles, notes = document.element.body, document.styles.element, _notes(document)
    except PACKAGE_FAULTS as error:
        raise unreadable(error) from error
    walk = _Walk(outline, styles, notes, document.part.rels)
    walk.content(body)
    walk.flush_code()
    return outline


class _Walk:
    """Walks one document's paragraphs and tables in order."""

    def __init__(self, outline: Outline, styles: Any, notes: Notes, relations: Mapping[str, Any]) -> None:
        self._outline = outline
        self._relations = relations
        self._styles: dict[str, ParagraphStyle] = {}
        self._default_style: ParagraphStyle | None = None
        self._code: list[str] = []
        self._read_styles(styles)
        self._notes = notes

    def _read_styles(self, styles: Any) -> None:
        elements = {
            style.get(f"{W}styleId", ""): style
            for style in styles.iter(f"{W}style")
            if style.get(f"{W}type") == "paragraph"
        }

        def resolve(name: str, above: frozenset[str]) -> ParagraphStyle | None:
            if name not in self._styles:
                if name not in elements or name in above:
                    return None
                based_on = elements[name].find(f"{W}basedOn")
                parent = "" if based_on is None else based_on.get(f"{W}val", "")
                self._styles[name] = ParagraphStyle(elements[name], resolve(parent, above | {name}))
            return self._styles[name]

        for name, element in elements.items():
            style = resolve(name, frozenset())
            if element.get(f"{W}default") in ("1", "true"):
                self._default_style = style

    def content(self, container: Any) -> None:
        """Add the paragraphs, tables and content controls of a body, a cell or a text box."""
        for element in container:
            if element.tag == f"{W}p":
                self._paragraph(element)
            elif element.tag == f"{W}tbl":
                self._table(element)
            elif element.tag == f"{W}sdt" and not is_table_of_contents(element):
                for inner in element.iterchildren(f"{W}sdtContent"):
                    self.content(inner)
            elif element.tag in (f"{W}ins", f"{W}moveTo", f"{W}customXml", f"{W}smartTag"):
                self.content(element)

    def _paragraph(self, paragraph: Any) -> None:
        properties = paragraph.find(f"{W}pPr")
        style = self._style(properties)
        text = shown_text(paragraph)
        self._links(paragraph)
        if style is not None and style.kind == "code":
            self._code.append(text)
        elif style is None or not _CONTENTS.match(style.name):
            self.flush_code()
            self._prose(text, properties, style)
        for box in paragraph.iter(f"{W}txbxContent"):
            if next(box.iterancestors(FALLBACK), None) is None:
                self.content(box)
        for reference in paragraph.iter(f"{W}footnoteReference", f"{W}endnoteReference"):
            note = self._notes.get((reference.tag, reference.get(f"{W}id", "")), "")
            self._outline.add("paragraph", unwrap(clean(note)))

    def _prose(self, text: str, properties: Any, style: ParagraphStyle | None) -> None:
        text = unwrap(clean(text))
        level = outline_level(properties)
        if level is None and style is not None:
            level = style.level
        if not text:
            return
        if level is not None:
            self._outline.heading(level, text)
        elif is_numbered(properties) or (style is not None and style.listed and not is_unnumbered(properties)):
            self._outline.add("list", f"{'  ' * list_level(properties)}- {text}")
        else:
            self._outline.add(style.kind if style else "paragraph", text)

    def flush_code(self) -> None:
        """Close the code block that consecutive paragraphs in a style of code make up."""
        if self._code:
            self._outline.add("code", "\n".join(self._code))
            self._code = []

    def _table(self, table: Any) -> None:
        self.flush_code()
        rows = [list(row.iterchildren(f"{W}tc", f"{W}sdt")) for row in table.iter(f"{W}tr") if table_of(row) is table]
        if max(map(len, rows), default=0) < 2 or any(self._is_layout(cell) for row in rows for cell in row):
            for cell in (cell for row in rows for cell in row):
                self.content(cell)
            return
        self._links(table)
        add_table(self._outline, [[cell_text(cell) for cell in row] for row in rows])

    def _is_layout(self, cell: Any) -> bool:
        """Whether a cell holds what no table of values does: a heading or another table."""
        if cell.find(f"{W}tbl") is not None:
            return True
        styles = (self._style(paragraph.find(f"{W}pPr")) for paragraph in cell.iterchildren(f"{W}p"))
        return any(style is not None and style.level is not None for style in styles)

    def _style(self, properties: Any) -> ParagraphStyle | None:
        style = None if properties is None else properties.find(f"{W}pStyle")
        return self._styles.get(style.get(f"{W}val", "")) if style is not None else self._default_style

    def _links(self, element: Any) -> None:
        for link in element.iter(f"{W}hyperlink"):
            relation = self._relations.get(link.get(_RELATION, ""))
            if relation is not None and relation.is_external:
                self._outline.link(relation.target_ref)


def _notes(document: Document) -> Notes:
    """The texts of footnotes and endnotes by what refers to them."""
    notes: Notes = {}
    for part in document.part.package.iter_parts():
        if str(part.partname) not in _NOTES:
            continue
        root = etree.fromstring(part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
        for note in root.iterchildren(f"{W}footnote", f"{W}endnote"):
            text = " ".join(unwrap(shown_text(paragraph)) for paragraph in paragraphs(note))
            notes[f"{note.tag}Reference", note.get(f"{W}id", "")] = text
    return notes
