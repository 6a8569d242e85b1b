"""Is a claim supported by the evidence? A calibrated, lexical estimate, claim by claim.

A claim that stands in the evidence word for word is supported. Any other is compared with its best
sentence window; a logistic regression (`groundedness_parameters.json`, made by
`bench/groundedness_calibration.py`) turns the comparison into a probability.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final, Self

from services.eval.citations import without_marks
from services.eval.evidence import EvidenceIndex, Window
from services.eval.sentences import split_sentences
from services.eval.terms import Term, terms_of

_LIST_MARKER: Final = re.compile(r"^(?:[-*+•]|\(?\d{1,3}[.)])\s+")
_NAMED_IN_REASON: Final = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of an answer, without citation marks."""

    text: str
    terms: tuple[Term, ...]


def claims_of(answer: str) -> list[Claim]:
    """The claims of an answer: its sentences that say anything beyond function words."""
    claims = []
    for sentence in split_sentences(answer):
        text = _LIST_MARKER.sub("", without_marks(sentence)).strip()
        terms = terms_of(text)
        if any(term.kind != "function" for term in terms):
            claims.append(Claim(text, terms))
    return claims


@dataclass(frozen=True, slots=True)
class Features:
    """How a claim compares with its evidence: what the regression sees."""

    coverage: float
    """The weighted share of the claim's terms in its best window."""
    overlap: float
    """The plain share of its terms, function words too, in that window."""
    missing_numbers: float
    """How many of its numbers the evidence lacks; at most 2 are counted."""
    missing_names: float
    """How many of its names the evidence lacks; at most 3 are counted."""
    missing_words: float
    """log(1 + how many of its other words the evidence lacks)."""


FEATURES: Final = tuple(Features.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A claim held against the evidence."""

    features: Features
    best: int
    """The number of the evidence that its best window is from."""
    missing: tuple[str, ...]
    """The numbers and names that the evidence lacks, as written."""


def compare(claim: Claim, evidence: EvidenceIndex, numbers: Collection[int]) -> Comparison:
    """Hold a claim against these pieces of evidence (at least one)."""
    telling = {term.stem: term for term in claim.terms if term.kind != "function"}
    vocabulary = evidence.vocabulary(numbers)
    best = _best_window(tuple(telling), evidence, numbers)
    stems = {term.stem for term in claim.terms}
    missing = [term for stem, term in telling.items() if stem not in vocabulary]
    missing_kinds = [term.kind for term in missing]
    features = Features(
        coverage=evidence.coverage(telling, best.stems),
        overlap=len(best.stems.intersection(stems)) / len(stems),
        missing_numbers=min(2, missing_kinds.count("number")),
        missing_names=min(3, missing_kinds.count("name")),
        missing_words=math.log1p(missing_kinds.count("content")),
    )
    named = [term.surface for term in missing if term.kind in ("number", "name")]
    return Comparison(features, best.number, tuple(named[:_NAMED_IN_REASON]))


def _best_window(stems: Collection[str], evidence: EvidenceIndex, numbers: Collection[int]) -> Window:
    return max(evidence.windows(numbers), key=lambda window: evidence.coverage(stems, window.stems))


@dataclass(frozen=True, slots=True)
class Support:
    """How well the evidence supports a claim."""

    claim: str
    value: float
    """Reads as a probability."""
    best: int | None
    """The number of the evidence that comes closest; None when there is no evidence."""
    missing: tuple[str, ...] = ()
    """The numbers and names that the evidence lacks."""


@dataclass(frozen=True, slots=True)
class Groundedness:
    """The calibrated judge: a logistic regression over `Features`."""

    version: str
    intercept: float
    weights: Mapping[str, float]

    @classmethod
    def load(cls) -> Self:
        """The parameters that ship with the service."""
        text = resources.files("services.eval").joinpath("groundedness_parameters.json").read_text()
        data = json.loads(text)
        return cls(data["version"], data["intercept"], {name: data["weights"][name] for name in FEATURES})

    def support(self, claim: Claim, evidence: EvidenceIndex, numbers: Collection[int]) -> Support:
        """Judge one claim by these pieces of evidence."""
        if not numbers:
            return Support(claim.text, 0.0, None)
        quoted = evidence.quoted_in(claim.terms, numbers)
        if quoted is not None:
            return Support(claim.text, 1.0, quoted)
        comparison = compare(claim, evidence, numbers)
        return Support(claim.text, self.probability(comparison.features), comparison.best, comparison.missing)

    def probability(self, features: Features) -> float:
        """The regression's estimate that a claim with these features is supported."""
        logit = self.intercept + sum(weight * getattr(features, name) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-logit))
