"""Delimited text (CSV, TSV and their kin): every row is a record that names its columns."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import Outline
from services.ingest.parsing.tables import column_names, record
from services.ingest.parsing.text import outline_of

_DELIMITERS = ",;\t|"
_SAMPLE_CHARACTERS = 50_000
_SAMPLE_ROWS = 200
_REGULAR_SHARE = 0.6
"""A table has at least this share of its rows in one width; below, the text only happens to hold commas."""

Row = tuple[int, list[str]]
"""The line on which a row begins, and its cells."""


def read_csv(content: bytes | str, charset: str | None) -> Outline:
    """Read delimited text, its delimiter found by trying; text that is no table becomes plain paragraphs."""
    text = clean(decode(content, declared=charset))
    delimiter = _delimiter(text[:_SAMPLE_CHARACTERS])
    if delimiter is None:
        return outline_of(text)
    outline = Outline()
    rows = _without_captions(outline, _rows(text, delimiter))
    line, first = next(rows, (1, []))
    names = column_names(first)
    second = next(rows, None)
    if not names or second is None:
        outline.add("record", record((), first), line=line)
    for line, cells in chain([second] if second else [], rows):
        outline.add("record", record(names, cells), line=line)
    return outline


def _without_captions(outline: Outline, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, those of a single cell that stand above the table added as paragraphs instead."""
    for line, cells in rows:
        if sum(map(bool, cells)) > 1:
            yield line, cells
            break
        outline.add("paragraph", "".join(cells), line=line)
    yield from rows


def _rows(text: str, delimiter: str) -> Iterator[Row]:
    """The rows that hold something."""
    # A missing quote may make the rest of the file one cell. The limit is that of the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    for row in reader:
        cells = list(map(unwrap, row))
        if any(cells) and not (line == 1 and cells[0].lower().startswith("sep=")):
            yield line, cells
        line = reader.line_num + 1


def _delimiter(sample: str) -> str | None:
    """The delimiter that gives the most regular and then the widest rows; None when none gives a table."""
    best: tuple[float, int, str] | None = None
    for delimiter in _DELIMITERS:
        widths = Counter(len(cells) for _, cells in islice(_rows(sample, delimiter), _SAMPLE_ROWS))
        wide = [(count, width) for width, count in widths.items() if width > 1]
        if wide:
            count, width = max(wide)
            share = count / widths.total()
            best = max(best or (0.0, 0, ""), (share, width, delimiter))
    return best[2] if best is not None and best[0] >= _REGULAR_SHARE else None
