"""Calibrates and measures the extractive model (services/generate/extractive.py).

    python bench/extractive_calibration.py --data PATH            # measure, by cross-validation
    python bench/extractive_calibration.py --data PATH --write    # and store the parameters
    python bench/extractive_calibration.py --data PATH --larger   # measure in a corpus eight times as large

PATH holds the folders `qa-squad2` and `qa-xquad` (SQuAD 2.0 and XQuAD, both CC BY-SA 4.0). All English
passages make one corpus of 310; a question's evidence is BM25's best passages of it. `--larger` adds 2,300
passages of web pages (`grounded-wice`): the more there is, the likelier something resembles a question that
nothing answers. Three kinds of cases:

- answerable: the corpus answers the question;
- off topic: the same questions, over the corpus without the question's own article, so that it does not;
- adversarial: SQuAD 2.0's unanswerable questions, whose own passage is in the corpus and looks right.

Two linear models are fitted, each by penalised maximum likelihood (Newton's method). The sentence model
is a multinomial logistic regression over the sentences of an answerable question's evidence; the
positives are those of the right passage that hold an answer string. The support model is a logistic
regression on the best sentence of each case. Everything reported is measured on articles that neither
the weights nor the threshold have seen (leave one article out).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from extractive_cases import Case, Floats, load_cases
from numpy.typing import NDArray

from services.generate import extractive
from services.generate.extractive import Parameters
from services.generate.extractive_features import SENTENCE_FEATURES, SUPPORT_FEATURES, support_features

FALSE_REFUSALS = 0.04
"""The share of answerable training questions that the threshold may refuse; the target on new ones is 5 %."""
ADVERSARIAL_WEIGHT = 0.1
"""The total weight of adversarial cases; answerable and off-topic ones weigh 1 each."""
SENTENCE_PENALTY = SUPPORT_PENALTY = 1.0
QUOTE_RATIO, MAX_QUOTES = 0.15, 3
"""Quote up to three sentences, none that is less than 0.15 times as likely as the best."""


# --- fitting ------------------------------------------------------------------------------------


def fit_sentences(cases: Sequence[Case]) -> Floats:
    """The weights that make the right sentences of each case likeliest (softmax over its sentences)."""
    used = [case for case in cases if case.right.any()]
    scale = np.concatenate([case.rows for case in used]).std(axis=0) + 1e-9
    scaled = [case.rows / scale for case in used]
    weights = np.zeros(len(SENTENCE_FEATURES))
    for _ in range(100):
        gradient = -SENTENCE_PENALTY * weights
        curvature = SENTENCE_PENALTY * np.eye(len(weights))
        for rows, case in zip(scaled, used, strict=True):
            chance = _softmax(rows @ weights)
            right = chance * case.right
            mean = chance @ rows
            gradient += (right / right.sum()) @ rows - mean
            curvature += (rows * chance[:, None]).T @ rows - np.outer(mean, mean)
        step = np.linalg.solve(curvature, gradient)
        weights += step * min(1.0, 1.0 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    fitted: Floats = weights / scale
    return fitted


def fit_support(rows: Floats, answerable: NDArray[np.bool_], importance: Floats) -> tuple[Floats, float]:
    """Weights and intercept of the logistic regression of `answerable` on the rows."""
    mean, scale = np.average(rows, axis=0, weights=importance), rows.std(axis=0) + 1e-9
    design = np.column_stack([np.ones(len(rows)), (rows - mean) / scale])
    penalty = SUPPORT_PENALTY * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    weights = np.zeros(design.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (importance * (answerable - chance)) - penalty @ weights
        curvature = (design * (importance * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        weights += step * min(1.0, 1.0 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    slopes = weights[1:] / scale
    return slopes, float(weights[0] - slopes @ mean)


def calibrate(cases: Sequence[Case]) -> Parameters:
    """Fit both models and the threshold to the cases."""
    sentence = fit_sentences([case for case in cases if case.kind == "answerable"])
    rows = np.array([_support_row(case, sentence) for case in cases])
    kinds = np.array([case.kind for case in cases])
    answerable = kinds == "answerable"
    shares = {"answerable": 1.0, "off topic": 1.0, "adversarial": ADVERSARIAL_WEIGHT}
    importance = np.array([shares[kind] * answerable.sum() / (kinds == kind).sum() for kind in kinds])
    support, intercept = fit_support(rows, answerable, importance)
    chances = 1 / (1 + np.exp(-(rows @ support + intercept)))
    threshold = float(np.quantile(chances[answerable], FALSE_REFUSALS))
    return Parameters(tuple(sentence), tuple(support), intercept, threshold, QUOTE_RATIO, MAX_QUOTES)


def _support_row(case: Case, sentence: Floats) -> list[float]:
    scores = case.rows @ sentence
    best = int(scores.argmax())
    return support_features(case.question, case.candidates[best], case.rows[best].tolist(), float(scores[best]))


def _softmax(scores: Floats) -> Floats:
    raised: Floats = np.exp(scores - scores.max()) + 1e-300
    total: float = raised.sum()
    return raised / total


# --- measuring ----------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of a case: the support's score, whether it was refused, and what was quoted, best first."""

    case: Case
    score: float
    refused: bool
    order: NDArray[np.int64]
    quoted: int


def judge(case: Case, used: Parameters) -> Outcome:
    """Decide a case as `extractive.answer` does."""
    sentence = np.array(used.sentence)
    scores = case.rows @ sentence
    order = np.argsort(-scores, kind="stable")
    row = _support_row(case, sentence)
    chance = 1 / (1 + math.exp(-(np.dot(row, used.support) + used.intercept)))
    near = int((np.exp(scores[order] - scores[order[0]]) >= used.quote_ratio)[: used.max_quotes].sum())
    return Outcome(case, chance, chance < used.threshold, order, near)


def cross_validate(cases: Sequence[Case], judged: Sequence[Case]) -> list[Outcome]:
    """Judge every case of `judged` by parameters that were fitted to `cases` without its article."""
    outcomes = []
    for article in sorted({case.article for case in cases}):
        used = calibrate([case for case in cases if case.article != article])
        outcomes += [judge(case, used) for case in judged if case.article == article]
    return outcomes


def summarise(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The measures, each a share in [0, 1] unless its name says otherwise."""
    answerable = [outcome for outcome in outcomes if outcome.case.kind == "answerable"]
    off_topic = [outcome for outcome in outcomes if outcome.case.kind == "off topic"]
    adversarial = [outcome for outcome in outcomes if outcome.case.kind == "adversarial"]

    def held(outcome: Outcome, count: int) -> bool:
        return bool(outcome.case.holds[outcome.order[:count]].any())

    def right(outcome: Outcome) -> bool:
        return bool(outcome.case.right[outcome.order[: outcome.quoted]].any())

    answered = [outcome for outcome in answerable if not outcome.refused]
    return {
        "answerable": len(answerable),
        "off_topic": len(off_topic),
        "adversarial": len(adversarial),
        "right_passage_in_evidence": _share(answerable, lambda o: bool(o.case.right.any())),
        "answer_in_best_sentence": _share(answerable, lambda o: held(o, 1)),
        "answer_in_best_two": _share(answerable, lambda o: held(o, 2)),
        "answer_in_best_three": _share(answerable, lambda o: held(o, 3)),
        "answer_in_text_of_all_answerable": _share(answerable, lambda o: not o.refused and held(o, o.quoted)),
        "answer_in_text_when_answered": _share(answered, lambda o: held(o, o.quoted)),
        "answer_in_right_passage_when_answered": _share(answered, right),
        "mean_sentences_quoted": float(np.mean([o.quoted for o in answered])),
        "false_refusals": _share(answerable, lambda o: o.refused),
        "off_topic_refused": _share(off_topic, lambda o: o.refused),
        "off_topic_auroc": auroc(answerable, off_topic),
        "adversarial_refused": _share(adversarial, lambda o: o.refused),
        "adversarial_auroc": auroc([o for o in answerable if o.case.squad2], adversarial),
    }


def _share(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> float:
    return float(np.mean([holds(outcome) for outcome in outcomes]))


def auroc(positive: Sequence[Outcome], negative: Sequence[Outcome]) -> float:
    """The chance that a positive case scores above a negative one; ties count half."""
    above = np.array([outcome.score for outcome in positive])[:, None]
    below = np.array([outcome.score for outcome in negative])[None, :]
    return float(((above > below) + 0.5 * (above == below)).mean())


def by_article(outcomes: Sequence[Outcome]) -> list[str]:
    """One line an article: how it fares when left out."""
    lines = []
    for article in sorted({outcome.case.article for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.case.article == article]
        answerable = [outcome for outcome in own if outcome.case.kind == "answerable"]
        off_topic = [outcome for outcome in own if outcome.case.kind == "off topic"]
        hit = _share(answerable, lambda o: bool(o.case.holds[o.order[: o.quoted]].any()))
        lines.append(
            f"  {article:42s} {len(answerable):4d} answerable, answer quoted {hit:.2f}, falsely refused "
            f"{_share(answerable, lambda o: o.refused):.2f}; {len(off_topic):4d} off topic, refused "
            f"{_share(off_topic, lambda o: o.refused):.2f}"
        )
    return lines


def speed_ms(cases: Sequence[Case], used: Parameters) -> float:
    """Mean milliseconds of a whole answer, with the stems of the evidence cached."""
    sample = cases[:200]
    for case in sample:
        extractive.answer(case.text, case.evidence, calibration=used)
    start = time.perf_counter()
    for case in sample:
        extractive.answer(case.text, case.evidence, calibration=used)
    return 1000 * (time.perf_counter() - start) / len(sample)


def store(path: Path, used: Parameters, measures: dict[str, float], passages: int) -> None:
    """Write the parameters with where they come from."""
    document = {
        "provenance": {
            "made_by": "bench/extractive_calibration.py --write",
            "data": "SQuAD 2.0 (6 articles) and XQuAD, English (17 articles); CC BY-SA 4.0; BM25's best "
            f"{passages} passages as evidence",
            "measured": "on articles left out of the fit",
            "measures": {name: round(value, 4) for name, value in measures.items()},
        },
        "sentence": {name: round(value, 4) for name, value in zip(SENTENCE_FEATURES, used.sentence, strict=True)},
        "support": {name: round(value, 4) for name, value in zip(SUPPORT_FEATURES, used.support, strict=True)},
        "intercept": round(used.intercept, 4),
        "threshold": round(used.threshold, 4),
        "quote_ratio": used.quote_ratio,
        "max_quotes": used.max_quotes,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds qa-squad2 and qa-xquad")
    parser.add_argument("--passages", type=int, default=8, help="passages of evidence a question")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--larger", action="store_true", help="measure among distractors, unseen when fitting")
    choice.add_argument("--write", action="store_true", help="store the parameters, fitted to all articles")
    arguments = parser.parse_args()
    cases = load_cases(arguments.data, arguments.passages)
    judged = load_cases(arguments.data, arguments.passages, distractors=True) if arguments.larger else cases
    outcomes = cross_validate(cases, judged)
    measures = summarise(outcomes)
    for name, value in measures.items():
        print(f"{name:40s} {value:.3f}")
    print("\n".join(by_article(outcomes)))
    used = calibrate(cases)
    print(f"{'ms an answer':40s} {speed_ms(cases, used):.2f}")
    if arguments.write:
        path = Path(extractive.__file__).with_name("extractive_parameters.json")
        store(path, used, measures, arguments.passages)
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
