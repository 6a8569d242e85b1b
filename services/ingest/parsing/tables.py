"""Tables and records: small tables stay whole, rows of larger ones carry their column names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.document import Outline

_WHOLE_TABLE_CHARACTERS = 800
"""About what fits into one chunk: a larger table would be divided, and its rows lose their column names."""
_NAME_CHARACTERS = 80
_NO_NAME = re.compile(r"[\W\d_]*")
"""Numbers, dates, amounts and signs: no column is called so."""


def add_table(outline: Outline, rows: Sequence[Sequence[str]], *, page: int | None = None) -> None:
    """Add a laid-out table: whole when it is small, else row by row with the names that its first row gives."""
    rows = [row for row in (cleaned(row) for row in rows) if any(row)]
    text = "\n".join(" | ".join(row) for row in rows)
    if len(text) <= _WHOLE_TABLE_CHARACTERS:
        outline.add("table", text, page=page)
        return
    names = column_names(rows[0])
    for row in rows[1:] if names else rows:
        outline.add("record", record(names, row), page=page)


def record(names: Sequence[str], cells: Sequence[str]) -> str:
    """One row as `name: value | name: value`; cells without content are left out."""
    return " | ".join(_fields(names, cells))


def _fields(names: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    for name, cell in zip_longest(names, cells[: len(names)] if names else (), fillvalue=""):
        if cell:
            yield f"{name}: {cell}" if name else cell
    yield from filter(None, cells[len(names) :])


def column_names(row: Sequence[str]) -> list[str]:
    """The row as names of columns, or nothing when it is a row of values like any other.

    Names are short, unlike each other and no numbers; one may be missing (a column of row numbers).
    """
    named = [cell.casefold() for cell in row if cell]
    if not named or len(named) < len(row) - 1 or len(set(named)) < len(named):
        return []
    if any(len(cell) > _NAME_CHARACTERS or _NO_NAME.fullmatch(cell) for cell in named):
        return []
    return list(row)


def cleaned(cells: Sequence[str]) -> list[str]:
    """Cells as one line each."""
    return [unwrap(clean(cell)) if cell else "" for cell in cells]
