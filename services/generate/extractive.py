"""Answering by quotation: the one to three sentences that best answer, or a refusal. No language model.

A sentence is scored by a linear model of how it and its surroundings cover the question; a second one
judges, from the best sentence, whether the evidence supports an answer at all. Both are calibrated by
`bench/extractive_calibration.py`, which also says how well they do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from services.generate.extractive_features import (
    SENTENCE_FEATURES,
    SUPPORT_FEATURES,
    Candidate,
    find_candidates,
    sentence_features,
    support_features,
    term_weights,
)
from services.generate.prompts import REFUSAL, Evidence
from services.generate.question import read_question

MODEL: Final = "ragline/extractive"
"""The model's name, as settings and requests spell it."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of a piece of evidence, word for word."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class ExtractiveAnswer:
    """An answer: `score` in [0, 1] is how surely the evidence supports it; a refusal quotes nothing."""

    text: str
    refused: bool
    score: float
    sentences: tuple[Quote, ...]


@dataclass(frozen=True, slots=True)
class Parameters:
    """The calibrated numbers: weights in the order of the features, and when to refuse or to quote more."""

    sentence: tuple[float, ...]
    support: tuple[float, ...]
    intercept: float
    threshold: float
    quote_ratio: float
    max_quotes: int


@lru_cache(maxsize=1)
def parameters() -> Parameters:
    """The parameters that ship with the service."""
    stored = json.loads(Path(__file__).with_name("extractive_parameters.json").read_text())
    return Parameters(
        tuple(stored["sentence"][name] for name in SENTENCE_FEATURES),
        tuple(stored["support"][name] for name in SUPPORT_FEATURES),
        stored["intercept"],
        stored["threshold"],
        stored["quote_ratio"],
        stored["max_quotes"],
    )


def answer(question: str, evidence: Sequence[Evidence], *, calibration: Parameters | None = None) -> ExtractiveAnswer:
    """Answer from the evidence, best first, or refuse.

    `calibration` replaces the parameters that ship with the service.
    """
    used = calibration or parameters()
    asked = read_question(question)
    candidates = find_candidates(asked, evidence) if asked.terms else []
    if not candidates:
        return ExtractiveAnswer(REFUSAL, True, 0.0, ())
    rows = sentence_features(asked, candidates, term_weights(asked, candidates))
    scores = [_dot(row, used.sentence) for row in rows]
    best = max(range(len(scores)), key=scores.__getitem__)
    support = support_features(asked, candidates[best], rows[best], scores[best])
    score = _sigmoid(used.intercept + _dot(support, used.support))
    if score < used.threshold:
        return ExtractiveAnswer(REFUSAL, True, score, ())
    quotes = tuple(Quote(candidate.evidence.number, candidate.text) for candidate in _chosen(candidates, scores, used))
    text = " ".join(f"{quote.text} [{quote.number}]" for quote in quotes)
    return ExtractiveAnswer(text, False, score, quotes)


def count_tokens(text: str) -> int:
    """The extractive model's own tokens: words and punctuation marks."""
    return len(_TOKEN.findall(text))


def cut_to_tokens(text: str, limit: int) -> str:
    """The beginning of a text that has at most `limit` of these tokens."""
    for number, token in enumerate(_TOKEN.finditer(text)):
        if number == limit:
            return text[: token.start()].rstrip()
    return text


def _chosen(candidates: Sequence[Candidate], scores: Sequence[float], used: Parameters) -> list[Candidate]:
    """The best sentence, and others that are nearly as likely; those of one passage in reading order."""
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    chosen: list[Candidate] = []
    for number in order:
        if len(chosen) == used.max_quotes or math.exp(scores[number] - scores[order[0]]) < used.quote_ratio:
            break
        if all(candidates[number].text != other.text for other in chosen):
            chosen.append(candidates[number])
    place = {candidate.rank: position for position, candidate in reversed(list(enumerate(chosen)))}
    return sorted(chosen, key=lambda candidate: (place[candidate.rank], candidate.index))


def _dot(row: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(row, weights, strict=True))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, value))))
