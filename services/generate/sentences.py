"""Cutting a passage into the sentences that can be quoted from it.

Sentences keep their characters; only white space is collapsed, so that a hard-wrapped line reads as one.
List items, table rows and `Name: value` lines are units of their own; headings, code and rules are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from textwrap import dedent

_FENCE = re.compile(r"\s*(```|~~~)")
_MARKER = re.compile(r"\s*(?:[-*+•‣◦–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_RULE = re.compile(r"\s*(?:([=\-~^\"'*+#._`:])\1{2,}|[|+:=\-\s]{3,})\s*$")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#])\1{2,}\s*$")
_ROW = re.compile(r"\s*\|.*\|\s*$|.*\S(?: {3,}|\t+)\S")
_FIELD = re.compile(r":?[A-Z][\w./-]*(?: [\w./-]+){0,2}:\s+\S")
_INDENTED = re.compile(r"(?: {4,}|\t)\S")
_PROSE = re.compile(r"[\"'“(*]*[A-Z].{20,}[.!?:][\"'”)]*$", re.DOTALL)
_CODE_SIGNS = re.compile(
    r"^\s*(?:>>>|\.\.\. |\$ |def |class |import |from \w+ import|return\b|@\w)|[=;{}]\s*$|\w\(\)|\s=\s",
    re.MULTILINE,
)

_CITED = r"(?:\s*\[\d[\d,\s–-]*\])*"
_END = re.compile(rf"(?:[.!?…]+[\"'”’)\]*_]*{_CITED}(?=\s)|[。！？]+[」』”’）]*{_CITED})")
_OPENS = re.compile(r"[\"'“‘(\[`*_<]*[^\W_a-zß-öø-ÿ]|[`_]+\w|[\"'“‘(\[]+\w")
_NEVER_ENDS = frozenset(
    "adm approx apr aug capt cf comdr dec dr e.g esp est feb fr gov hon i.e jan jul jun lt maj messrs mr mrs "
    "ms mt nov oct prof rep rev sen sep sept sgt st viz vs".split()
)
_ENDS_UNLESS_NUMBERED = frozenset(
    "al art ca ch col ed eds eq fig figs gen mar no nos op p par pl pp ref refs sec v vol vols".split()
)
_SELDOM_ENDS = re.compile(
    r"(?:[A-Za-z]\.)*[A-Za-z]$|(?:bros|co|corp|etc|inc|jr|ltd|ph\.d|univ)$", re.IGNORECASE
)
_STARTS = frozenset(
    "a after all although an and as at both but by during each for from he her his however if in it its "
    "many most no on one other she since so some such that the their then there these they this those "
    "though to under until we when where while with you".split()
)


def split(text: str) -> list[str]:
    """The quotable sentences of a passage, in reading order; none is empty."""
    sentences: list[str] = []
    for unit in _units(dedent(text.expandtabs(4))):
        sentences.extend(_prose_sentences(" ".join(unit.split())))
    return [sentence for sentence in sentences if any(character.isalnum() for character in sentence)]


def _units(text: str) -> Iterator[str]:
    """Paragraphs, list items and rows; code, headings and rules are left out."""
    for block in _blocks(text.split("\n")):
        if _is_code(block):
            continue
        lines = _without_headings(block)
        tabular = sum(map(bool, map(_ROW.match, lines))) * 2 > len(lines) and len(lines) > 1
        fields = len(lines) > 1 and all(map(_FIELD.match, lines[:2]))
        unit: list[str] = []
        for line in lines:
            marker = _MARKER.match(line)
            if unit and (marker or tabular or (fields and _FIELD.match(line))):
                yield "\n".join(unit)
                unit = []
            unit.append(line[marker.end() :] if marker else line)
        if unit:
            yield "\n".join(unit)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines between blank ones; what lies within fences is dropped."""
    block: list[str] = []
    fence: str | None = None
    for line in lines:
        match = _FENCE.match(line)
        if match and fence in (None, match[1]):
            fence = match[1] if fence is None else None
        elif fence is None and line.strip():
            block.append(line)
            continue
        if block:
            yield block
            block = []
    if block:
        yield block


def _is_code(block: list[str]) -> bool:
    """Whether an indented or interactive block is code rather than prose that someone indented."""
    if block[0].lstrip().startswith(">>>"):
        return True
    if not all(map(_INDENTED.match, block)) or _MARKER.match(block[0]):
        return False
    text = "\n".join(block)
    return bool(_CODE_SIGNS.search(text)) or not _PROSE.match(" ".join(text.split()))


def _without_headings(block: list[str]) -> list[str]:
    """The block's lines without Markdown headings, underlined ones, and rules."""
    kept = [line for line in block if not _HEADING.match(line)]
    titles = {
        index for index, (_, below) in enumerate(pairwise(kept)) if _UNDERLINE.match(below) and index == 0
    }
    return [line for index, line in enumerate(kept) if index not in titles and not _RULE.match(line)]


def _prose_sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _ends_here(text, start, match):
            yield text[start : match.end()].strip()
            start = match.end()
    if text[start:].strip():
        yield text[start:].strip()


def _ends_here(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether this full stop ends a sentence and not an abbreviation, an initial or a number."""
    if match[0][0] in "。！？":
        return True
    following = text[match.end() :].lstrip()
    if not _OPENS.match(following):
        return False
    if not match[0].startswith(".") or match[0].startswith(".."):
        return True
    word = text[start : match.start()].rsplit(None, 1)[-1:] or [""]
    last = word[0].lstrip("(\"'“‘[")
    if last.lower() in _NEVER_ENDS or (last.isdigit() and match.start() - start == len(last)):
        return False
    if last.lower() in _ENDS_UNLESS_NUMBERED and (following[0].isdigit() or last[0].isupper()):
        return False
    if _SELDOM_ENDS.fullmatch(last):
        return re.sub(r"\W.*", "", following).lower() in _STARTS
    return True
