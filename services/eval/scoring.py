"""Scoring an answer: what it cites, whether the evidence supports it, whether it fits the question.

Pure: no I/O, no clock. Every score says in words how it came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ragline.contracts.events import Score
from services.eval.evidence import Evidence, EvidenceIndex
from services.eval.groundedness import Groundedness, Support, claims_of
from services.eval.terms import terms_of

SCORER_VERSION: Final = 1
"""Goes up whenever the same answer may come out differently: a newer one replaces an older's evaluation."""

Verdict = Literal["good", "doubtful", "bad"]
_METHOD: Final = "lexical"
_QUOTED_CHARACTERS: Final = 160


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where a score becomes a flag; all in [0, 1]."""

    ungrounded_below: float = 0.5
    """Groundedness below this is `ungrounded`."""
    unsupported_below: float = 0.3
    """One claim's support below this is an `unsupported_claim`; groundedness below it makes an answer bad."""
    off_topic_below: float = 0.1
    """Question relevance below this is `off_topic`."""
    doubtful_refusal_below: float = 0.2
    """A refusal scored below this is a `doubtful_refusal`."""


@dataclass(frozen=True, slots=True)
class AnswerToScore:
    """What there is to judge."""

    question: str
    answer: str
    refused: bool
    evidence: Sequence[Evidence]
    cited: Sequence[int]
    """Every number that the answer cites, in order, whether there is such evidence or not."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that was found out about one answer."""

    scores: tuple[Score, ...]
    flags: tuple[str, ...]
    verdict: Verdict


class Scorer:
    """Judges answers; CPU-bound, a few milliseconds, safe in threads."""

    version = SCORER_VERSION

    def __init__(self, groundedness: Groundedness, thresholds: Thresholds = Thresholds()) -> None:
        self._groundedness = groundedness
        self._thresholds = thresholds

    def judge(self, answer: AnswerToScore) -> Judgement:
        """Score an answer, flag what is wrong with it, and say whether it is good, doubtful or bad."""
        evidence = EvidenceIndex(answer.evidence)
        numbers = _numbers_to_check(answer, evidence)
        supports = [
            self._groundedness.support(claim, evidence, numbers)
            for claim in ([] if answer.refused else claims_of(answer.answer))
        ]
        scores = (
            citation_validity(answer, evidence),
            groundedness(answer, supports, version=self._groundedness.version),
            refusal(answer, evidence),
            question_relevance(answer, evidence, numbers),
        )
        flags = self._flags(answer, scores, supports)
        return Judgement(scores, flags, self._verdict(scores, flags))

    def _flags(self, answer: AnswerToScore, scores: tuple[Score, ...], supports: Sequence[Support]) -> tuple[str, ...]:
        limits, value = self._thresholds, {score.name: score.value for score in scores}
        found = (
            ("no_citation", not answer.refused and not answer.cited),
            ("invalid_citation", bool(answer.cited) and _below(value["citation_validity"], 1.0)),
            ("ungrounded", _below(value["groundedness"], limits.ungrounded_below)),
            ("unsupported_claim", any(support.value < limits.unsupported_below for support in supports)),
            ("doubtful_refusal", _below(value["refusal"], limits.doubtful_refusal_below)),
            ("off_topic", _below(value["question_relevance"], limits.off_topic_below)),
        )
        return tuple(name for name, holds in found if holds)

    def _verdict(self, scores: tuple[Score, ...], flags: tuple[str, ...]) -> Verdict:
        value = {score.name: score.value for score in scores}
        unsupported = _below(value["groundedness"], self._thresholds.unsupported_below)
        if unsupported or _below(value["citation_validity"], 0.5):
            return "bad"
        return "doubtful" if flags else "good"


def citation_validity(answer: AnswerToScore, evidence: EvidenceIndex) -> Score:
    """The share of the citations that name given evidence; 0 for an answer without any."""
    name = "citation_validity"
    if answer.refused:
        return _score(name, None, "a refusal cites nothing", method="count")
    if not answer.cited:
        return _score(name, 0.0, "the answer cites no evidence", method="count")
    invalid = [number for number in answer.cited if number not in evidence.numbers]
    value = 1 - len(invalid) / len(answer.cited)
    if not invalid:
        return _score(name, value, f"every citation ({len(answer.cited)}) names given evidence", method="count")
    marks = ", ".join(f"[{number}]" for number in dict.fromkeys(invalid))
    reason = f"{len(invalid)} of {len(answer.cited)} citations name no given evidence: {marks}"
    return _score(name, value, reason, method="count")


def groundedness(answer: AnswerToScore, supports: Sequence[Support], *, version: str) -> Score:
    """The mean support of the answer's claims; the reason names the weakest."""
    name = "groundedness"
    if answer.refused:
        return _score(name, None, "a refusal claims nothing", version=version)
    if not supports:
        return _score(name, None, "the answer makes no claim", version=version)
    value = sum(support.value for support in supports) / len(supports)
    return _score(name, value, _weakest_in_words(supports), version=version)


def refusal(answer: AnswerToScore, evidence: EvidenceIndex) -> Score:
    """How right a refusal looks: low when a passage holds the question's terms. Not calibrated."""
    name = "refusal"
    if not answer.refused:
        return _score(name, None, "the answer is no refusal")
    if not evidence.numbers:
        return _score(name, 1.0, "there was no evidence to answer from")
    stems = _telling_stems(answer.question)
    windows = evidence.windows(sorted(evidence.numbers))
    covered, best = max(
        ((evidence.coverage(stems, window.stems), window.number) for window in windows),
        key=lambda pair: pair[0],
    )
    return _score(name, 1 - covered, f"evidence [{best}] holds {covered:.0%} of the question's terms by weight")


def question_relevance(answer: AnswerToScore, evidence: EvidenceIndex, numbers: Sequence[int]) -> Score:
    """The weighted share of the question's terms in the answer and its cited headings. Not calibrated."""
    name = "question_relevance"
    stems = _telling_stems(answer.question)
    if answer.refused or not stems:
        return _score(name, None, "a refusal answers nothing" if answer.refused else "the question has no terms")
    headings = [heading for piece in evidence.pieces if piece.number in numbers for heading in piece.heading_path]
    present = {term.stem for text in (answer.answer, *headings) for term in terms_of(text)}
    value = evidence.coverage(stems, present)
    missing = [surface for stem, surface in stems.items() if stem not in present]
    reason = f"the answer and its headings hold {value:.0%} of the question's terms by weight"
    return _score(name, value, reason + (f"; missing: {', '.join(missing[:6])}" if missing else ""))


def _numbers_to_check(answer: AnswerToScore, evidence: EvidenceIndex) -> list[int]:
    """The evidence that claims are held against: what is validly cited, or everything if nothing is."""
    return sorted(evidence.numbers.intersection(answer.cited) or evidence.numbers)


def _weakest_in_words(supports: Sequence[Support]) -> str:
    weakest = min(supports, key=lambda support: support.value)
    count = f"{len(supports)} claims, the weakest" if len(supports) > 1 else "1 claim,"
    place = "without any evidence" if weakest.best is None else f"supported {weakest.value:.2f} by [{weakest.best}]"
    lacks = f"; the evidence lacks: {', '.join(weakest.missing)}" if weakest.missing else ""
    text = weakest.claim
    if len(text) > _QUOTED_CHARACTERS:
        text = text[: _QUOTED_CHARACTERS - 1].rstrip() + "…"
    return f"{count} {place}: “{text}”{lacks}"


def _telling_stems(text: str) -> dict[str, str]:
    """The stems that say what a text is about, each with a word as written."""
    return {term.stem: term.surface for term in terms_of(text) if term.kind != "function"}


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _score(name: str, value: float | None, reason: str, *, method: str = _METHOD, version: str = "1") -> Score:
    rounded = None if value is None else round(min(1.0, max(0.0, value)), 4)
    return Score(name=name, value=rounded, method=method, version=version, reason=reason)
