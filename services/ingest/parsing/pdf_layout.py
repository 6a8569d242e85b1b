"""From a PDF's lines and their places on the page to headings, paragraphs and lists: pure geometry."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from services.ingest.cleaning import unwrap
from services.ingest.parsing.document import BlockKind, Outline
from services.ingest.parsing.text import add_links

_MARGIN_SHARE = 0.12
"""Running headers and footers stand within this share of the page's height from its edges."""
_FEW_PAGES = 6
_DIGITS = re.compile(r"\d{1,6}")
_HEADING_SIZE = 1.15
"""How much larger than the body a heading is at least."""
_HEADING_CHARACTERS = 150
_HEADING_LINES = 3
_HEADING_LEVELS = 6
_NUMBERING_CHARACTERS = 8
"""What may stand before a heading that its bookmark leaves out."""
_SAME_SIZE = 0.1
_PARAGRAPH_GAP = 1.35
"""Lines further apart than this many usual distances are not of one passage."""
_PITCH = 1.1
"""The usual distance of lines, in line heights, where a document has too few to tell."""
_COLUMN_POINTS = 30.0
"""How far apart the left ends of lines of one column may be (indentation)."""
_WRAPPED_SHARE = 0.5
_SMALL_SHARE = 0.3
_BULLET = re.compile(
    r"(?:[\u2022\u2023\u25a0\u25aa\u25cf\u25cb\u25e6\u2043\u2013\u2014\uf0a7\uf0b7\u00b7*-]|o)\s+(?=\S)"
)
_NUMBER = re.compile(r"(?:\(?\d{1,3}[.)]|\(?[a-z]\))\s+\S")
_HYPHENATED = re.compile(r"[^\W_]+-[^\W_]+")
_BROKEN_WORD = re.compile("([^\\W\\d_]+)[-\u2010\u00ad\x02]$")
"""A word that a line's end divides; pdfium reports such a hyphen as U+0002."""

Contents = Mapping[int, Sequence[tuple[int, str]]]
"""Bookmarks by page: levels from 1 and titles."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text; its place and height in points, `bottom` counted upwards."""

    text: str
    page: int
    left: float
    right: float
    bottom: float
    size: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page, its number from 1, its lower and upper edge, and its lines in reading order."""

    number: int
    bottom: float
    top: float
    lines: tuple[Line, ...]


def add_pages(outline: Outline, pages: Sequence[Page], contents: Contents) -> None:
    """Add all pages: headings by the bookmarks, or by size where there are none; running lines left out."""
    pages = _without_running_lines(pages)
    pitch = _usual_pitch(pages)
    levels = {} if contents else _heading_levels(pages)
    blocks = _Blocks(outline, pages)
    for page in pages:
        ends = _column_ends(page)
        for passage in _passages(page, pitch):
            if contents:
                level = _bookmarked(passage, contents.get(page.number, ()))
            else:
                level = levels.get(round(passage[0].size)) if _short(passage) else None
            if level is not None:
                blocks.heading(level, passage)
            else:
                blocks.passage(passage, ends)
    blocks.flush()


class _Blocks:
    """Adds passages as blocks and mends what edges cut: words at line ends, paragraphs at page ends."""

    def __init__(self, outline: Outline, pages: Sequence[Page]) -> None:
        self._outline = outline
        lines = (line for page in pages for line in page.lines)
        self._hyphenated = frozenset(word.lower() for line in lines for word in _HYPHENATED.findall(line.text))
        """What the document spells with a hyphen within a line: at a line's end the hyphen belongs there too."""
        self._kind: BlockKind = "paragraph"
        self._text = ""
        self._first_page = self._last_page = 0

    def heading(self, level: int, lines: Sequence[Line]) -> None:
        """Begin a section."""
        self.flush()
        self._outline.heading(level, " ".join(line.text for line in lines), page=lines[0].page)

    def passage(self, lines: Sequence[Line], ends: Mapping[int, float]) -> None:
        """Add one passage, or append it to the paragraph that the page before left unfinished."""
        text, page = self._joined(lines, ends), lines[0].page
        kind: BlockKind = "list" if _begins_item(lines[0]) else "paragraph"
        if kind == "paragraph" and page > self._last_page and _goes_on(self._text, text):
            self._text = self._join(self._text, text)
        else:
            self.flush()
            self._kind, self._text, self._first_page = (
                kind,
                _BULLET.sub("- ", text, count=1) if kind == "list" else text,
                page,
            )
        self._last_page = page

    def flush(self) -> None:
        """Add the passage that is still open."""
        add_links(self._outline, self._text)
        self._outline.add(self._kind, self._text.replace("\x02", "-"), page=self._first_page)
        self._text = ""

    def _joined(self, lines: Sequence[Line], ends: Mapping[int, float]) -> str:
        """Lines as one where they only wrap; as they are where they end before the next word made them.

        Rows of a form or table may all end at one edge, too: unlike prose they hardly ever begin small.
        """
        wraps = [_wraps(line, after, ends) for line, after in pairwise(lines)]
        small = sum(wrapped and _begins_small(line.text) for wrapped, line in zip(wraps, lines[1:], strict=True))
        flowing = sum(wraps) > _WRAPPED_SHARE * len(wraps) and small >= _SMALL_SHARE * sum(wraps)
        text = unwrap(lines[0].text)
        for wrapped, line in zip(wraps, lines[1:], strict=True):
            after = unwrap(line.text)
            text = self._join(text, after) if wrapped and flowing else f"{text}\n{after}"
        return text

    def _join(self, before: str, after: str) -> str:
        broken = _BROKEN_WORD.search(before)
        if broken is None:
            return f"{before} {after}"
        whole = f"{broken[1]}-{after.split(maxsplit=1)[0]}".lower()
        spelled = _HYPHENATED.match(whole)
        if not after[:1].islower() or (spelled is not None and spelled[0] in self._hyphenated):
            return f"{before[:-1]}-{after}"
        return before[:-1] + after


def _without_running_lines(pages: Sequence[Page]) -> list[Page]:
    """The pages without headers and footers: page numbers go, what else repeats is kept where it is first."""
    seen = Counter(sign for page in pages for sign in {s for line in _margin(page) for s in _signs(line)})
    needed = 2 if len(pages) <= _FEW_PAGES else 3
    kept_once: set[Hashable] = set()
    result = []
    for page in pages:
        dropped: set[int] = set()
        for line in _margin(page):
            text, *counters = _signs(line)
            if any(seen[sign] >= needed for sign in counters) or (seen[text] >= needed and text in kept_once):
                dropped.add(id(line))
            kept_once.add(text)
        result.append(replace(page, lines=tuple(line for line in page.lines if id(line) not in dropped)))
    return result


def _margin(page: Page) -> Iterator[Line]:
    margin = _MARGIN_SHARE * (page.top - page.bottom)
    return (line for line in page.lines if not page.bottom + margin < line.bottom < page.top - margin)


def _signs(line: Line) -> list[Hashable]:
    """What makes a line equal to those of other pages: its text, and numbers in it that count with the pages."""
    text = unwrap(line.text)
    form = _DIGITS.sub("#", text)
    counters = (int(match[0]) - line.page for match in _DIGITS.finditer(text))
    return [text, *((form, place, offset) for place, offset in enumerate(counters))]


def _heading_levels(pages: Sequence[Page]) -> dict[int, int]:
    """Heading levels by line height in whole points: every height clearly above that of most text."""
    characters: Counter[int] = Counter()
    for page in pages:
        for line in page.lines:
            characters[round(line.size)] += len(line.text)
    if not characters:
        return {}
    body = characters.most_common(1)[0][0]
    sizes = sorted((size for size in characters if size >= body * _HEADING_SIZE), reverse=True)
    return {size: min(level, _HEADING_LEVELS) for level, size in enumerate(sizes, start=1)}


def _short(lines: Sequence[Line]) -> bool:
    return len(lines) <= _HEADING_LINES and sum(len(line.text) for line in lines) <= _HEADING_CHARACTERS


def _bookmarked(lines: Sequence[Line], bookmarks: Sequence[tuple[int, str]]) -> int | None:
    """The level of the bookmark that has the passage for its title."""
    if not bookmarks or not _short(lines):
        return None
    text = _letters("".join(line.text for line in lines))
    for level, title in bookmarks:
        name = _letters(title)
        if name and text.endswith(name) and len(text) - len(name) <= _NUMBERING_CHARACTERS:
            return level
    return None


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _usual_pitch(pages: Sequence[Page]) -> float:
    """The median distance of neighbouring lines, in line heights."""
    distances = [
        (line.bottom - after.bottom) / line.size
        for page in pages
        for line, after in pairwise(page.lines)
        if line.size > 0 and 0.5 < (line.bottom - after.bottom) / line.size < 3
    ]
    return median(distances) if distances else _PITCH


def _passages(page: Page, pitch: float) -> Iterator[list[Line]]:
    """Runs of lines of one size that follow each other closely, list items apart."""
    passage: list[Line] = []
    for line in page.lines:
        if passage and _begins_passage(passage[-1], line, pitch):
            yield passage
            passage = []
        passage.append(line)
    if passage:
        yield passage


def _begins_passage(before: Line, line: Line, pitch: float) -> bool:
    drop = before.bottom - line.bottom
    return (
        abs(line.size - before.size) > _SAME_SIZE * before.size
        or not 0 < drop <= _PARAGRAPH_GAP * pitch * before.size
        or line.right < before.left
        or line.left > before.right
        or _begins_item(line)
    )


def _begins_item(line: Line) -> bool:
    text = line.text.lstrip()
    return bool(_BULLET.match(text) or _NUMBER.match(text))


def _column_ends(page: Page) -> Mapping[int, float]:
    """How far to the right lines reach, by where they begin (`_place`)."""
    ends: defaultdict[int, float] = defaultdict(float)
    for line in page.lines:
        for place in (_place(line) - 1, _place(line), _place(line) + 1):
            ends[place] = max(ends[place], line.right)
    return ends


def _place(line: Line) -> int:
    return int(line.left // _COLUMN_POINTS)


def _wraps(line: Line, after: Line, ends: Mapping[int, float]) -> bool:
    """Whether the next line's first word would not have fitted at this line's end."""
    word = after.text.split(maxsplit=1)[0]
    width = (after.right - after.left) * (len(word) + 1) / max(1, len(after.text))
    return line.right + width > ends[_place(line)]


def _begins_small(text: str) -> bool:
    """Whether a line begins with a letter that is no capital; scripts without capitals count."""
    first = text.lstrip()[:1]
    return first.isalpha() and not first.isupper()


def _goes_on(before: str, after: str) -> bool:
    return bool(before) and _begins_small(after) and not before.endswith((".", "!", "?", ":", "\u3002"))
