"""Cutting a passage into the sentences that can be quoted from it.

Sentences keep their characters; only white space is collapsed, so that a hard-wrapped line reads as one.
List items, table rows and `Name: value` lines are units of their own; headings, code, rules and
bibliographic references are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

_FENCE = re.compile(r"\s*(```|~~~)")
_MARKER = re.compile(r"\s*(?:[-*+•‣◦\u2013]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_RULE = re.compile(r"\s*(?:([=\-~^\"'*+#._`:])\1{2,}|[|+:=\-\s]{3,})\s*$")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#])\1{2,}\s*$")
_ROW = re.compile(r"\s*\|.*\|\s*$|.*\S(?: {3,}|\t+)\S")
_FIELD = re.compile(r":?[A-Z][\w./-]*(?: [\w./-]+){0,2}:\s+\S")
_REFERENCE = re.compile(r"\s*\[\s*[\w#*]+\s*\]_?\s.*https?://")
_CODE_LINE = re.compile(
    r"""\s*(?:
        >>>|\$\ |@\w|//|/\*|[)\]}]+[,;:]?\s*$
        |(?:def|class|if|elif|else|for|while|try|except\*?|finally|with|async|match|case|struct|enum)\b
         .*[:{]\s*(?:\#.*)?$
        |(?:import|from|return|raise|assert|yield|print|const|let|var)\b[^.!?]*$
        |[\w.\[\]'",*\ ]{1,60}?(?:[-+*/|&:]?=|->)\ ?\S.*[^.!?]$
        |[\w.]+\(.*\)\s*(?:\#.*|;)?$
        |.*[;{\\]\s*$
    )""",
    re.VERBOSE,
)

_CITED = r"(?:\s*\[\d[\d,\s\u2013-]*\])*"
_END = re.compile(
    rf"""[.!?…]+["'\u201d\u2019)\]*_]*{_CITED}(?=\s|\Z) | [。\uff01\uff1f]+[」』\u201d\u2019\uff09]*{_CITED}""",
    re.VERBOSE,
)
_OPENS = re.compile(r"[\"'\u201c\u2018(\[`*_<]*[^\W_a-zß-öø-ÿ]|[`_]+\w|[\"'\u201c\u2018(\[]+\w")
_NEVER_ENDS = re.compile(
    r"adm|approx|apr|aug|capt|cf|comdr|dec|dr|e\.g|esp|est|feb|fr|gov|hon|i\.e|jan|jul|jun|lt|maj|messrs|mrs?"
    r"|ms|mt|nov|oct|prof|rep|rev|sen|sept?|sgt|st|viz|vs",
    re.IGNORECASE,
)
_ENDS_UNLESS_NUMBERED = re.compile(
    r"al|art|ca|ch|col|eds?|eq|figs?|gen|mar|nos?|op|pp?|par|pl|refs?|sec|v|vols?", re.IGNORECASE
)
_SELDOM_ENDS = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]|bros|co|corp|etc|inc|jr|ltd|ph\.d|univ", re.IGNORECASE)
_STARTS = re.compile(
    r"(?:a|after|all|although|an|and|as|at|both|but|by|during|each|for|from|he|her|his|however|if|in|its?|many"
    r"|most|no|on|one|other|she|since|so|some|such|that|the|their|then|there|these|they|this|those|though|to|under|until|we|when"
    r"|where|while|with|you)\b",
    re.IGNORECASE,
)
"""After an initial or an abbreviation such as `Inc.`, a new sentence is likely only if it begins so."""


def split(text: str) -> list[str]:
    """The quotable sentences of a passage, in reading order; none is empty."""
    sentences: list[str] = []
    for unit in _units(text):
        if not _REFERENCE.match(unit):
            sentences.extend(_prose_sentences(" ".join(unit.split())))
    return [sentence for sentence in sentences if any(character.isalnum() for character in sentence)]


def _units(text: str) -> Iterator[str]:
    """Paragraphs, list items and rows; code, headings and rules are left out."""
    for block in _blocks(text.split("\n")):
        lines = _without_headings(block)
        if _is_code(lines):
            continue
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


def _is_code(lines: list[str]) -> bool:
    """Whether most lines of a block look like code; indented prose does not."""
    return 2 * sum(map(bool, map(_CODE_LINE.match, lines))) >= len(lines)


def _without_headings(block: list[str]) -> list[str]:
    """The block's lines without Markdown headings, underlined ones, and rules."""
    kept = [line for line in block if not _HEADING.match(line)]
    titles = {index for index, (_, below) in enumerate(pairwise(kept)) if _UNDERLINE.match(below) and index == 0}
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
    if match[0][0] in "。\uff01\uff1f":
        return True
    following = text[match.end() :].lstrip()
    if not _OPENS.match(following):
        return False
    if not match[0].startswith(".") or match[0].startswith(".."):
        return True
    word = text[start : match.start()].rsplit(None, 1)[-1:] or [""]
    last = word[0].lstrip("(\"'\u201c\u2018[")
    if _NEVER_ENDS.fullmatch(last) or (last.isdigit() and match.start() - start == len(last)):
        return False
    if _ENDS_UNLESS_NUMBERED.fullmatch(last) and (following[0].isdigit() or last[0].isupper()):
        return False
    return not _SELDOM_ENDS.fullmatch(last) or bool(_STARTS.match(following.lstrip("\"'([")))
