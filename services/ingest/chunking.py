"""Cutting a parsed document into chunks for the embedder, so that an edit re-embeds only what it touches.

Each section is a run of units: its blocks, or what a block that is too long is divided into (sentences or
lines, and these into tokens). `services.ingest.packing` joins neighbouring units into chunks by content.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import attrgetter

from ragline.index.identity import embedder_input
from ragline.models.embedding import TokenCounter
from services.ingest.packing import pack
from services.ingest.parsing.document import Block, ParsedDocument
from services.ingest.spans import Span, lines, sentences

CHUNKING_VERSION = "2"
"""Names how documents are parsed, cleaned and cut; a change that cuts any document otherwise raises it."""

_LEAST_FILL = 0.4
_MOST_FILL = 1.2
"""A chunk's least and greatest size; the former of the latter, the latter of the size aimed at."""
_LIKELY_CHARACTERS_PER_TOKEN = 6
_MOST_CHARACTERS_PER_TOKEN = 8
"""Longer tokens (an endless word is one unknown token) count as several, so that no chunk is endless."""
_PATH_SHARE = 4
"""A heading path takes at most the window divided by this."""
_SEAM_TOKENS = 2
"""What joining the heading path and the text may add in tokenizers that count white space."""
_CONTEXT_CHARACTERS = 40
"""How much text on either side of a boundary decides its rank."""
_TOKENIZED_CHARACTERS = 50_000

# The price of a boundary: where there is a choice, a chunk ends at the cheapest.
_BETWEEN_BLOCKS, _BETWEEN_ITEMS, _BETWEEN_SENTENCES, _AFTER_COLON = 0, 1, 2, 3
_BETWEEN_LINES, _BETWEEN_INDENTED_LINES, _AFTER_COMMA, _BETWEEN_WORDS, _WITHIN_WORD = 4, 5, 6, 7, 8
_COLONS = (":", "\uff1a")
_ITEMS = ("list", "record")
_COMMAS = frozenset(",;:\uff0c\u3001\uff1b\uff1a\u060c\u061b")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. `heading_path` begins with the title; `line` and `page` say where it starts."""

    text: str
    heading_path: tuple[str, ...]
    page: int | None
    line: int | None


def cut(document: ParsedDocument, *, counter: TokenCounter, chunk_tokens: int = 200) -> tuple[Chunk, ...]:
    """All of the document's text as chunks, in order.

    A chunk never crosses a heading; its text aims at `chunk_tokens`, and what the embedder reads of it
    (`ragline.index.identity.embedder_input`) never exceeds `counter.window_tokens`. Where chunks end
    depends on the text nearby alone: equal passages in two versions of a document give equal chunks.
    """
    chunks: list[Chunk] = []
    for headings, blocks in groupby(document.blocks, key=attrgetter("heading_path")):
        path = _heading_path(document.title, headings, counter)
        chunks.extend(_Section(path, tuple(blocks), counter, chunk_tokens).chunks())
    return tuple(chunks)


class _Section:
    """The blocks under one heading as one text, and its units: their spans, sizes and boundaries' prices."""

    def __init__(
        self, path: tuple[str, ...], blocks: Sequence[Block], counter: TokenCounter, chunk_tokens: int
    ) -> None:
        self._path = path
        self._blocks = blocks
        self._counter = counter
        self._path_tokens = counter.count(embedder_input(path, ""))
        room = counter.window_tokens - self._path_tokens - _SEAM_TOKENS
        self._most = max(1, min(room, round(chunk_tokens * _MOST_FILL)))
        joints = ["", *map(_joint, blocks, blocks[1:])]
        parts = [joint + block.text for joint, block in zip(joints, blocks, strict=True)]
        self._text = "".join(parts)
        ends = accumulate(map(len, parts))
        self._block_starts = [end - len(block.text) for end, block in zip(ends, blocks, strict=True)]
        # Arrays, for an endless passage has a unit a token: half a gigabyte of them as lists of numbers.
        self._starts = array("q")
        self._ends = array("q")
        self._sizes = array("q")
        self._prices = array("b")

    def chunks(self) -> Iterator[Chunk]:
        """The section's chunks, each of which the embedder can read whole."""
        if self._fits_whole():
            yield self._chunk(0, len(self._text))
            return
        for start, end in self._pieces():
            for first, last in self._within_window(start, end):
                yield self._chunk(first, last)

    def _chunk(self, start: int, end: int) -> Chunk:
        block = self._blocks[bisect_right(self._block_starts, start) - 1]
        return Chunk(self._text[start:end], self._path, block.page, block.line)

    def _fits_whole(self) -> bool:
        """Whether all is one chunk, found with a single count where that is likely."""
        if len(self._text) > self._most * _LIKELY_CHARACTERS_PER_TOKEN:
            return False
        tokens = self._counter.count(embedder_input(self._path, self._text))
        return tokens <= self._counter.window_tokens and tokens - self._path_tokens <= self._most

    def _pieces(self) -> Iterator[Span]:
        """The units packed into spans of about the size aimed at."""
        special_tokens = self._counter.count("")
        prices = [_BETWEEN_BLOCKS, *map(_block_price, self._blocks, self._blocks[1:])]
        for start, block, price in zip(self._block_starts, self._blocks, prices, strict=True):
            self._divide_block(block, start, price, special_tokens)
        ranks = array("q", map(self._rank, range(len(self._starts))))
        least = round(self._most * _LEAST_FILL)
        for first, end in pack(self._sizes, ranks, least=least, most=self._most):
            yield self._starts[first], self._ends[end - 1]

    def _within_window(self, start: int, end: int) -> Iterator[Span]:
        """The span, divided near its middle for as long as the embedder could not read all of it.

        Sizes are sums over units, which a tokenizer need not honour: this is the check on the real input.
        """
        text = self._text[start:end]
        fits = self._counter.count(embedder_input(self._path, text)) <= self._counter.window_tokens
        if fits or len(text) == 1:
            yield start, end
            return
        half = len(text) // 2
        middle = max(text.rfind(" ", 1, half), text.rfind("\n", 1, half)) + 1 or half
        for first, last in ((0, middle), (middle, len(text))):
            piece = text[first:last]
            if piece.strip():
                blank = len(piece) - len(piece.lstrip())
                yield from self._within_window(start + first + blank, start + first + len(piece.rstrip()))

    def _rank(self, index: int) -> int:
        """What decides whether a chunk ends before this unit: the price first, then the text around it."""
        start = self._starts[index]
        end = self._ends[index - 1] if index else 0
        before = self._text[max(0, end - _CONTEXT_CHARACTERS) : end]
        after = self._text[start : start + _CONTEXT_CHARACTERS]
        return self._prices[index] << 32 | zlib.crc32(f"{before}\0{after}".encode())

    def _unit(self, start: int, end: int, size: int, price: int) -> None:
        if price == _AFTER_COLON and self._starts and self._sizes[-1] + size <= self._most:
            self._ends[-1] = end
            self._sizes[-1] += size
            return
        self._starts.append(start)
        self._ends.append(end)
        self._sizes.append(size)
        self._prices.append(price)

    def _size(self, text: str, special_tokens: int) -> int:
        """The tokens of a text; of one that is too long by its characters alone, just that it is."""
        if len(text) > self._most * _MOST_CHARACTERS_PER_TOKEN:
            return self._most + 1
        return max(self._counter.count(text) - special_tokens, -(-len(text) // _MOST_CHARACTERS_PER_TOKEN))

    def _divide_block(self, block: Block, offset: int, price: int, special_tokens: int) -> None:
        """A block as one unit, or one too long for a chunk as lines or sentences, and these as tokens."""
        size = self._size(block.text, special_tokens)
        if size <= self._most:
            self._unit(offset, offset + len(block.text), size, price)
            return
        verbatim = block.kind in ("code", "table")
        for start, end in lines(block.text) if verbatim else sentences(block.text):
            if start > 0:
                price = _line_price(block.text, start) if verbatim else _BETWEEN_SENTENCES
            size = self._size(block.text[start:end], special_tokens)
            if size <= self._most:
                self._unit(offset + start, offset + end, size, price)
            else:
                self._divide_into_tokens(offset + start, offset + end, price)

    def _divide_into_tokens(self, start: int, end: int, price: int) -> None:
        longest = self._most * _MOST_CHARACTERS_PER_TOKEN
        for first, last in _token_spans(self._text, start, end, self._counter):
            for piece in range(first, last, longest):
                shown = self._text[piece : min(piece + longest, last)].rstrip()
                if piece > start:
                    price = _token_price(self._text[piece - 1])
                if shown:
                    self._unit(piece, piece + len(shown), -(-len(shown) // _MOST_CHARACTERS_PER_TOKEN), price)


def _joint(before: Block, after: Block) -> str:
    return "\n" if before.kind == after.kind and after.kind in _ITEMS else "\n\n"


def _block_price(before: Block, after: Block) -> int:
    if before.text.endswith(_COLONS):
        return _AFTER_COLON
    return _BETWEEN_ITEMS if before.kind == after.kind and after.kind in _ITEMS else _BETWEEN_BLOCKS


def _line_price(text: str, start: int) -> int:
    if text[max(0, start - 2) : start] == "\n\n":
        return _BETWEEN_SENTENCES
    return _BETWEEN_INDENTED_LINES if text[start].isspace() else _BETWEEN_LINES


def _token_price(before: str) -> int:
    if before.isspace():
        return _BETWEEN_WORDS
    return _AFTER_COMMA if before in _COMMAS else _WITHIN_WORD


def _token_spans(text: str, start: int, end: int, counter: TokenCounter) -> Iterator[Span]:
    """The tokens of a passage as spans without gaps, read in slices so that memory stays bounded."""
    while start < end:
        stop = min(start + _TOKENIZED_CHARACTERS, end)
        if stop < end:
            stop = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop)) + 1 or stop
        tokens = counter.offsets(text[start:stop])
        starts = sorted({start, *(_skip_space(text, start + first, stop) for first, _ in tokens)} - {stop})
        yield from zip(starts, [*starts[1:], stop], strict=True)
        start = stop


def _skip_space(text: str, position: int, stop: int) -> int:
    """Some tokenizers count a word's leading space to the word: a unit begins after it."""
    while position < stop and text[position].isspace():
        position += 1
    return position


def _heading_path(title: str, headings: tuple[str, ...], counter: TokenCounter) -> tuple[str, ...]:
    """Title and headings within their share of the window: the middle goes first, then the ends' tails."""
    path = tuple(name for name in (title, *headings) if name.strip())
    bound = counter.window_tokens // _PATH_SHARE
    if counter.count(embedder_input(path, "")) <= bound:
        return path
    for kept in range(len(path) - 2, 0, -1):
        shorter = (path[0], *path[-kept:])
        if counter.count(embedder_input(shorter, "")) <= bound:
            return shorter
    ends = (path[0], path[-1]) if len(path) > 1 else path
    characters = max(map(len, ends))
    while characters > 1 and counter.count(embedder_input(ends, "")) > bound:
        characters = characters * 3 // 4
        ends = tuple(name if len(name) <= characters else name[:characters].rstrip() + "…" for name in ends)
    return ends
