"""What an answer was given to read, cut into sentence windows that a claim can be held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.eval.sentences import split_sentences
from services.eval.terms import Term, terms_of

WINDOW_SENTENCES = 3
"""Support for one claim is seldom spread over more neighbouring sentences."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One numbered piece of evidence."""

    number: int
    text: str
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring sentences of one piece; its stems include those of the piece's headings."""

    number: int
    stems: frozenset[str]


class EvidenceIndex:
    """All evidence of one answer, ready to be compared with."""

    def __init__(self, pieces: Iterable[Evidence]) -> None:
        self.pieces = tuple(pieces)
        self._sentences = {piece.number: _sentence_terms(piece.text) for piece in self.pieces}
        self._headings = {
            piece.number: frozenset(term.stem for heading in piece.heading_path for term in terms_of(heading))
            for piece in self.pieces
        }

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers by which the answer may cite."""
        return frozenset(self._sentences)

    def weight(self, stem: str) -> float:
        """How telling a stem is: its inverse document frequency over the evidence's sentences."""
        frequencies, sentences = self._frequencies
        seen = frequencies[stem]
        return math.log(1 + (sentences - seen + 0.5) / (seen + 0.5))

    def coverage(self, stems: Collection[str], present: Collection[str]) -> float:
        """The weighted share of `stems` that are among `present`; 0 when there are none."""
        total = sum(map(self.weight, stems))
        return sum(self.weight(stem) for stem in stems if stem in present) / total if total else 0.0

    def windows(self, numbers: Collection[int]) -> Iterator[Window]:
        """The sentence windows of these pieces."""
        for number in numbers:
            sentences, headings = self._sentences[number], self._headings[number]
            for start in range(max(1, len(sentences) - WINDOW_SENTENCES + 1)):
                window = sentences[start : start + WINDOW_SENTENCES]
                yield Window(number, headings.union(term.stem for sentence in window for term in sentence))

    def vocabulary(self, numbers: Collection[int]) -> frozenset[str]:
        """Every stem of these pieces, headings included."""
        texts = (term.stem for number in numbers for sentence in self._sentences[number] for term in sentence)
        return frozenset(texts).union(*(self._headings[number] for number in numbers))

    def quoted_in(self, terms: Sequence[Term], numbers: Collection[int]) -> int | None:
        """The first of these pieces that holds the terms word for word, or None."""
        wanted = _spelled(terms)
        return next((number for number in numbers if wanted in self._spelled[number]), None)

    @cached_property
    def _frequencies(self) -> tuple[Counter[str], int]:
        sentences = [sentence for piece in self._sentences.values() for sentence in piece]
        return Counter(stem for s in sentences for stem in {term.stem for term in s}), len(sentences)

    @cached_property
    def _spelled(self) -> dict[int, str]:
        return {
            number: _spelled([term for sentence in sentences for term in sentence])
            for number, sentences in self._sentences.items()
        }


def _sentence_terms(text: str) -> list[tuple[Term, ...]]:
    return [terms for sentence in split_sentences(text) if (terms := terms_of(sentence))]


def _spelled(terms: Sequence[Term]) -> str:
    """The words between single spaces, so that containment is by whole words."""
    return f" {' '.join(term.key for term in terms)} "
