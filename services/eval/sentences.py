"""Cutting answers into claims, and evidence into the sentences that may support them."""

# ruff: noqa: RUF001 (quotation marks and full stops of several scripts)
from __future__ import annotations

import re
from typing import Final

from services.eval.citations import MARK_PATTERN

_BLANK_LINES: Final = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_LIST_ITEM: Final = re.compile(r"^[ \t]*(?:[-*+•‣–]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])[ \t]+(?=\S)")
_HEADING: Final = re.compile(r"^[ \t]*#{1,6}[ \t]")
_MARKS: Final = rf"(?:\s*{MARK_PATTERN})*"
"""Citation marks belong to the sentence that they follow: `It is so. [1] [2]`."""
_END: Final = re.compile(rf"(?:[.!?…]+[\"'”’»)\]]*{_MARKS}(?=\s|$)|[。！？]+[”』」）]*{_MARKS})\s*")
_ABBREVIATION: Final = re.compile(
    r"al|approx|cf|dr|e\.g|eds?|eg|etc|gen|i\.e|ie|inc|jr|ltd?|mr|mrs|ms|[ap]\.m|prof|resp|sr|st|u\.[ks]|viz|vs"
)
_MAY_END_SENTENCE: Final = re.compile(r"al|[ap]\.m|etc|inc|jr|ltd")
"""Abbreviations that also end sentences: they do when a capital follows."""
_BEFORE_NUMBER: Final = re.compile(
    r"apr|art|aug|ca|ch|dec|eq|feb|figs?|jan|jul|jun|mar|nos?|nov|oct|pp?|sect?|sept?|vols?"
)
"""Abbreviations only before a number: `No. 3`, but `No. Use spaces.`"""
_LAST_WORD: Final = re.compile(r"([^\W_]+(?:\.[^\W_]+)*)\.$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, stripped, with runs of white space made one space.

    Blank lines, headings and list items always begin a new sentence; other line breaks are only
    wrapping. Abbreviations, initials, decimals and dotted names do not end a sentence.
    """
    return [sentence for block in _blocks(text) for sentence in _sentences(" ".join(block.split()))]


def _blocks(text: str) -> list[str]:
    """Stretches of text that no sentence reaches across."""
    blocks: list[str] = []
    for paragraph in _BLANK_LINES.split(text):
        lines: list[str] = []
        for line in paragraph.split("\n"):
            if lines and (_LIST_ITEM.match(line) or _HEADING.match(line) or _HEADING.match(lines[-1])):
                blocks.append("\n".join(lines))
                lines = []
            lines.append(line)
        blocks.append("\n".join(lines))
    return [block for block in blocks if block.strip()]


def _sentences(block: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    marker = _LIST_ITEM.match(block)
    for end in _END.finditer(block, marker.end() if marker else 0):
        if _ends_sentence(block, start, end):
            sentences.append(block[start : end.end()].strip())
            start = end.end()
    sentences.append(block[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(block: str, start: int, end: re.Match[str]) -> bool:
    first = block[end.end() : end.end() + 4].lstrip("\"'“‘«([")[:1]
    if first.islower():
        return False
    word = _LAST_WORD.search(block, start, end.start() + 1)
    if word is None or not first:
        return True
    last = word.group(1).lower()
    if _ABBREVIATION.fullmatch(last):
        return bool(_MAY_END_SENTENCE.fullmatch(last)) and first.isupper()
    if _BEFORE_NUMBER.fullmatch(last):
        return not first.isdigit()
    is_initial = len(last) == 1 and word.group(1).isupper() and last != "i"
    return not is_initial
