"""How well each sentence of the evidence answers a question, as numbers.

Pure and in plain Python: about 3 ms for eight passages of 200 tokens. What the numbers weigh is
calibrated by `bench/extractive_calibration.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.generate.prompts import Evidence
from services.generate.question import Question, adds_to, fits, is_negated
from services.generate.sentences import split
from services.generate.terms import NUMBER_WORDS, stem, words

SENTENCE_FEATURES: Final = (
    "coverage",  # the weight of the question's terms in the sentence, of 1 for all
    "heading",  # what the title and headings add to the coverage
    "previous",  # what the sentence before adds to both
    "next",  # what the sentence after adds to both
    "passage",  # what the rest of the passage adds to both
    "fits",  # 1: something new of the kind that is asked for (a date, a number, a name)
    "misfits",  # 1: a kind is asked for and nothing of it is there
    "rank",  # log(1 + rank of the passage)
    "first",  # 1: the passage's first sentence
    "entities_missing",  # the weight of the question's names and numbers that the passage lacks
    "negation",  # 1: the question is negated and the sentence is not
)
SUPPORT_FEATURES: Final = (
    "relevance",  # the best sentence's score
    "matched",  # log(1 + number of the question's terms in it)
    "context",  # coverage together with title, headings and the sentence before
    "broken_name",  # 1: words of one name stand apart in it; 0.5: only one of them is there
    "entities_missing",  # as above, of the best sentence
    "negation",  # as above
    "terms",  # log(1 + number of the question's terms)
    "rank",  # as above
)

_RELATED_WEIGHT = 0.6
"""How much a related word counts, such as `India` for `Indian` or a misspelt one."""
_PRIOR_SHARE = 0.3
"""The part of a term's weight that does not depend on how rare it is in the evidence."""


@dataclass(frozen=True, slots=True)
class Match:
    """For each term of a question, how well a text has it, in [0, 1], and at which of its words."""

    degrees: tuple[float, ...]
    positions: tuple[tuple[int, ...], ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that could be quoted; `rank` is its passage's and `index` its own, both from 0."""

    evidence: Evidence
    rank: int
    index: int
    text: str
    match: Match
    heading: tuple[float, ...]


def find_candidates(question: Question, evidence: Sequence[Evidence]) -> list[Candidate]:
    """Every sentence of the evidence that says something new, matched with the question's terms."""
    matcher = _Matcher(question)
    candidates = []
    for rank, piece in enumerate(evidence):
        heading = matcher.match(words("\n".join((piece.document_id, piece.title, *piece.heading_path)))).degrees
        for index, sentence in enumerate(split(piece.text)):
            sentence_words = words(sentence)
            if adds_to(question, sentence, sentence_words):
                match = matcher.match(sentence_words)
                candidates.append(Candidate(piece, rank, index, sentence, match, heading))
    return candidates


def term_weights(question: Question, candidates: Sequence[Candidate]) -> list[float]:
    """How much each term says: its prior, and how rare it is among the sentences."""
    count = len(candidates)
    weights = []
    for position, term in enumerate(question.terms):
        frequency = sum(candidate.match.degrees[position] == 1.0 for candidate in candidates)
        rarity = math.log(1 + count / (1 + frequency)) / math.log(1 + count) if count else 1.0
        weights.append(term.prior * (_PRIOR_SHARE + (1 - _PRIOR_SHARE) * rarity))
    return weights


def sentence_features(
    question: Question, candidates: Sequence[Candidate], weights: Sequence[float]
) -> list[list[float]]:
    """One row of SENTENCE_FEATURES a candidate."""
    total = sum(weights) or 1.0
    entities = [index for index, term in enumerate(question.terms) if term.entity]
    passages = _passage_degrees(candidates)
    nothing = (0.0,) * len(weights)
    rows = []
    for number, candidate in enumerate(candidates):
        own = candidate.match.degrees
        headed = _union(own, candidate.heading)
        before = _neighbour(candidates, number, -1)
        after = _neighbour(candidates, number, +1)
        passage = passages[candidate.rank]
        base = _weigh(headed, weights) / total
        coverage = _weigh(own, weights) / total
        fit = fits(question, candidate.text)
        rows.append(
            [
                coverage,
                base - coverage,
                _weigh(_union(headed, before or nothing), weights) / total - base,
                _weigh(_union(headed, after or nothing), weights) / total - base,
                _weigh(_union(headed, passage), weights) / total - base,
                float(fit is True),
                float(fit is False),
                math.log(1 + candidate.rank),
                float(candidate.index == 0),
                sum(weights[index] * (1 - max(passage[index], candidate.heading[index])) for index in entities) / total,
                float(question.negated and not candidate.match.negated),
            ]
        )
    return rows


def support_features(question: Question, best: Candidate, row: Sequence[float], relevance: float) -> list[float]:
    """SUPPORT_FEATURES of a question whose best sentence has this row and this relevance."""
    matched = sum(degree > 0 for degree in best.match.degrees)
    coverage, heading, previous = row[:3]
    return [
        relevance,
        math.log(1 + matched),
        coverage + heading + previous,
        _broken_name(question, best.match),
        row[SENTENCE_FEATURES.index("entities_missing")],
        row[SENTENCE_FEATURES.index("negation")],
        math.log(1 + len(question.terms)),
        row[SENTENCE_FEATURES.index("rank")],
    ]


# --- matching -----------------------------------------------------------------------------------


class _Matcher:
    """Finds a question's terms in texts; only words that begin like a term are stemmed."""

    def __init__(self, question: Question) -> None:
        self._terms = len(question.terms)
        self._by_beginning: dict[str, list[tuple[int, str]]] = {}
        for index, term in enumerate(question.terms):
            for beginning in _beginnings(term.stem):
                self._by_beginning.setdefault(beginning, []).append((index, term.stem))

    def match(self, text_words: Sequence[str]) -> Match:
        degrees = [0.0] * self._terms
        positions: list[list[int]] = [[] for _ in degrees]
        for position, word in enumerate(text_words):
            for index, term in self._by_beginning.get(_beginning(word), ()):
                degree = _degree(stem(word), term)
                if degree:
                    degrees[index] = max(degrees[index], degree)
                    positions[index].append(position)
        return Match(tuple(degrees), tuple(map(tuple, positions)), is_negated(text_words))


def _beginning(word: str) -> str:
    return word[0] if word[0].isdigit() else word[:2]


def _beginnings(term: str) -> set[str]:
    """How the words begin that have this stem: a number may also be spelled."""
    return {_beginning(term)} | {_beginning(word) for word, digits in NUMBER_WORDS.items() if digits == term}


def _degree(found: str, term: str) -> float:
    if found == term:
        return 1.0
    return _RELATED_WEIGHT if _is_related(found, term) else 0.0


def _is_related(one: str, other: str) -> bool:
    """Whether two stems share a long beginning or differ by one typing error."""
    shorter, longer = sorted((len(one), len(other)))
    if shorter < 5 or not one.isalpha():
        return False
    same = next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), shorter)
    if same >= 5 and same >= 0.75 * longer:
        return True
    if shorter < 6 or longer - shorter > 1:
        return False
    a, b = one[same:], other[same:]
    return a[1:] == b[1:] or a == b[1:] or a[1:] == b or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _union(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return list(map(max, one, other))


def _weigh(degrees: Sequence[float], weights: Sequence[float]) -> float:
    return sum(degree * weight for degree, weight in zip(degrees, weights, strict=True))


def _passage_degrees(candidates: Sequence[Candidate]) -> dict[int, Sequence[float]]:
    passages: dict[int, Sequence[float]] = {}
    for candidate in candidates:
        known = passages.get(candidate.rank, candidate.match.degrees)
        passages[candidate.rank] = _union(known, candidate.match.degrees)
    return passages


def _neighbour(candidates: Sequence[Candidate], number: int, step: int) -> Sequence[float] | None:
    """What the sentence before or after in the same passage has; None at the passage's edge."""
    other = number + step
    if 0 <= other < len(candidates) and candidates[other].rank == candidates[number].rank:
        return candidates[other].match.degrees
    return None


def _broken_name(question: Question, match: Match) -> float:
    """How badly the best sentence tears apart a name of several words, such as `Red Army Uprising`."""
    worst = 0.0
    for index, (one, two) in enumerate(zip(question.terms, question.terms[1:], strict=False)):
        if not (one.entity and two.entity and two.position == one.position + 1):
            continue
        first, second = match.positions[index], match.positions[index + 1]
        if first and second and not any(abs(a - b) == 1 for a in first for b in second):
            worst = 1.0
        elif bool(first) != bool(second):
            worst = max(worst, 0.5)
    return worst
