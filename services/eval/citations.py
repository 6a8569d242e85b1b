"""Citation marks in an answer: `[1]`, `[1, 2]`, `[1-3]`."""

# ruff: noqa: RUF001 (dashes as people write them)
from __future__ import annotations

import re
from typing import Final

MARK_PATTERN: Final = r"\[\d{1,3}(?:\s*[,;–-]\s*\d{1,3})*\](?!_)"
"""One mark; `[1]_` is a footnote of reStructuredText."""
_MARK: Final = re.compile(rf"\s*{MARK_PATTERN}")
_SPAN: Final = re.compile(r"(\d{1,3})(?:\s*[–-]\s*(\d{1,3}))?")
_LONGEST_RANGE: Final = 20


def cited_numbers(text: str) -> tuple[int, ...]:
    """Every number that the text cites, in order, as often as it does."""
    numbers: list[int] = []
    for mark in _MARK.findall(text):
        for first, last in _SPAN.findall(mark):
            start, end = int(first), int(last or first)
            numbers.extend(range(start, min(end, start + _LONGEST_RANGE) + 1) if start <= end else (start, end))
    return tuple(numbers)


def without_marks(text: str) -> str:
    """The text without its citation marks and the spaces before them."""
    return _MARK.sub("", text)
