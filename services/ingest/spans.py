"""Where a text may be divided: after lines, sentences and tokens, as spans of characters."""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]
"""Start and end of a piece of text; white space between two spans belongs to neither."""

_LINE = re.compile(r"[^\n]*\S[^\n]*")
_CLOSING = "\"'\u201d\u2019\u00bb)\\]"
_WIDE_STOPS = "\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964"
_WIDE_CLOSING = "\u201d\u2019\u300d\u300f\uff09\u300b"
_SENTENCE_END = re.compile(rf"[.!?\u2026]+[{_CLOSING}]*(?=\s)|[{_WIDE_STOPS}]+[{_WIDE_CLOSING}]*|\n")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|e\.g|i\.e|etc|vs|cf|al|approx|ca|Dr|Mrs?|Ms|Prof|St|No|Fig|Sec|Vol|pp?|z\.B|bzw|usw)\.$"
)
_ABBREVIATION_CHARACTERS = 10


def lines(text: str) -> Iterator[Span]:
    """The lines with something on them, their indentation included."""
    return (match.span() for match in _LINE.finditer(text))


def sentences(text: str) -> Iterator[Span]:
    """Sentences by their punctuation, in any script that has one; a line break ends a sentence too.

    An initial, a common abbreviation or a small letter after the full stop does not.
    """
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.end()
        if match[0][0] == "." and _goes_on(text, start, end):
            continue
        yield from _stripped(text, start, end)
        start = end
    yield from _stripped(text, start, len(text))


def _goes_on(text: str, start: int, end: int) -> bool:
    if text[end : end + 2].lstrip()[:1].islower():
        return True
    return _ABBREVIATION.search(text[max(start, end - _ABBREVIATION_CHARACTERS) : end]) is not None


def _stripped(text: str, start: int, end: int) -> Iterator[Span]:
    """The span without the white space around it; nothing when it is blank."""
    piece = text[start:end]
    stripped = piece.strip()
    if stripped:
        start += len(piece) - len(piece.lstrip())
        yield start, start + len(stripped)
