"""Presentations (PPTX): a slide is a section under its title, its notes after it, `page` its number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.document import Outline
from services.ingest.parsing.office import PACKAGE_FAULTS, given_title, package, unreadable
from services.ingest.parsing.tables import add_table

if TYPE_CHECKING:
    from pptx.slide import Slide

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_BULLETS = (f"{_A}buChar", f"{_A}buAutoNum", f"{_A}buBlip")
_TITLE_CHARACTERS = 120
_FIRST_LEVEL, _SLIDE_LEVEL = 1, 2
"""The first slide's title is the presentation's where its properties name none."""


def read_pptx(content: bytes, charset: str | None) -> Outline:
    """Read a presentation; raises PermanentError when it is damaged or unpacks beyond all bounds."""
    from pptx import Presentation

    file = package(content)
    outline = Outline()
    try:
        presentation = Presentation(file)
        outline.title = given_title(presentation.core_properties.title)
        outline.language = presentation.core_properties.language or None
        for number, slide in enumerate(presentation.slides, start=1):
            _Slide(outline, slide, number).add()
    except PACKAGE_FAULTS as error:
        raise unreadable(error) from error
    return outline


class _Slide:
    """Adds one slide: what stands in its shapes from back to front, which is the order that they are read in."""

    def __init__(self, outline: Outline, slide: Slide, number: int) -> None:
        self._outline = outline
        self._slide = slide
        self._number = number

    def add(self) -> None:
        """Add the slide's title, texts, tables, charts and notes."""
        title = self._slide.shapes.title
        name = unwrap(clean(title.text_frame.text)) if title is not None else ""
        shapes = [shape for shape in _leaves(self._slide.shapes) if title is None or shape.shape_id != title.shape_id]
        self._outline.leave(_SLIDE_LEVEL)
        level = _FIRST_LEVEL if self._number == 1 else _SLIDE_LEVEL
        self._outline.heading(level, name or _first_words(shapes), page=self._number)
        for shape in shapes:
            self._shape(shape)
        if self._slide.has_notes_slide:
            notes = self._slide.notes_slide.notes_text_frame
            self._add("paragraph", f"Notes: {notes.text}" if notes is not None and notes.text.strip() else "")

    def _shape(self, shape: Any) -> None:
        if shape.has_text_frame:
            self._text(shape)
        elif getattr(shape, "has_table", False):
            rows = [[cell.text for cell in row.cells if not cell.is_spanned] for row in shape.table.rows]
            add_table(self._outline, rows, page=self._number)
        elif getattr(shape, "has_chart", False):
            add_table(self._outline, _chart_rows(shape.chart), page=self._number)

    def _text(self, shape: Any) -> None:
        written = [paragraph for paragraph in shape.text_frame.paragraphs if paragraph.text.strip()]
        listed = _is_body(shape) and len(written) > 1
        for paragraph in written:
            properties = paragraph._p.pPr
            bulleted = properties is not None and any(properties.find(tag) is not None for tag in _BULLETS)
            if listed or bulleted or paragraph.level:
                self._add("list", paragraph.text, lead="  " * paragraph.level + "- ")
            else:
                self._add("paragraph", paragraph.text)
            for run in paragraph.runs:
                self._outline.link(run.hyperlink.address)

    def _add(self, kind: Any, text: str, *, lead: str = "") -> None:
        text = unwrap(clean(text))
        self._outline.add(kind, lead + text if text else "", page=self._number)


def _leaves(shapes: Iterable[Any]) -> Iterator[Any]:
    """All shapes, those of groups in the groups' place; without recursion, for groups may nest."""
    waiting = list(reversed(list(shapes)))
    while waiting:
        shape = waiting.pop()
        if hasattr(shape, "shapes"):
            waiting.extend(reversed(list(shape.shapes)))
        else:
            yield shape


def _first_words(shapes: Iterable[Any]) -> str:
    """The first short line on a slide without a title: its number would change with every slide before it."""
    lines = (unwrap(clean(shape.text_frame.text.partition("\n")[0])) for shape in shapes if shape.has_text_frame)
    return next((line for line in lines if 0 < len(line) <= _TITLE_CHARACTERS), "")


def _is_body(shape: Any) -> bool:
    from pptx.enum.shapes import PP_PLACEHOLDER

    return shape.is_placeholder and shape.placeholder_format.type in (PP_PLACEHOLDER.BODY, PP_PLACEHOLDER.OBJECT)


def _chart_rows(chart: Any) -> list[list[str]]:
    """A chart's numbers as a table: its series side by side, one row a category."""
    rows = []
    if chart.has_title and chart.chart_title.has_text_frame:
        rows.append([chart.chart_title.text_frame.text])
    for plot in chart.plots:
        series = [tuple(one.values) for one in plot.series]
        rows.append(["", *(one.name or "" for one in plot.series)])
        for index, category in enumerate(plot.categories):
            numbers = (values[index] if index < len(values) else None for values in series)
            rows.append([str(category), *("" if value is None else f"{value:g}" for value in numbers)])
    return rows
