"""Calibrate the groundedness score on labelled claims, and measure it by cross-validation.

    python bench/groundedness_calibration.py --data FOLDER [--write PARAMETERS.json]

FOLDER holds `grounded-wice/claims.jsonl.gz` (WiCE: claims of Wikipedia against the pages they cite)
and `grounded-begin/begin.jsonl` (BEGIN: dialogue responses against a sentence); rows have `context`
(with `context_sentences` where its sentences are known), `answer` and `label` (grounded or not).
Prints AUROC (of the service's own score and of plain token overlap), Brier score and calibration by
bins, all on held-out folds; both sets weigh the same in the fit.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.eval.evidence import Evidence, EvidenceIndex
from services.eval.groundedness import FEATURES, Claim, Groundedness, claims_of, compare
from services.eval.terms import terms_of

FOLDS, REPEATS, L2 = 10, 5, 1.0
BINS = (0.0, 0.25, 0.5, 0.75, 1.0)
PARAMETERS_VERSION = "1"
SETS = {"WiCE dev claims": "grounded-wice/claims.jsonl.gz", "BEGIN dev (WoW)": "grounded-begin/begin.jsonl"}
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """One labelled answer with its evidence."""

    data: str
    answer: str
    evidence: EvidenceIndex
    grounded: bool
    overlap: float


def read(folder: Path) -> list[Example]:
    """Every labelled row of the data sets."""
    examples = []
    for name, path in SETS.items():
        opened = gzip.open if path.endswith(".gz") else open
        with opened(folder / path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                # Lines of a web page are units of their own, as a blank line says in a chunk.
                text = "\n\n".join(row.get("context_sentences") or [row["context"]])
                evidence = EvidenceIndex([Evidence(1, text)])
                grounded = row["label"] == "grounded"
                examples.append(Example(name, row["answer"], evidence, grounded, token_overlap(row)))
    return examples


def token_overlap(row: dict[str, str]) -> float:
    """The baseline: the share of the answer's distinct tokens that the context holds."""
    answer, context = (set(re.findall(r"\w+", row[key].lower())) for key in ("answer", "context"))
    return len(answer & context) / max(1, len(answer))


def features_of(example: Example) -> tuple[float, ...]:
    """The whole answer as one claim: that is what the labels judge."""
    claim = Claim(example.answer, terms_of(example.answer))
    return astuple(compare(claim, example.evidence, example.evidence.numbers).features)


def fit(features: Array, grounded: Array, weights: Array) -> Groundedness:
    """Weighted logistic regression with an L2 penalty on standardised features (Newton's method)."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / spread])
    penalty = L2 * np.diag([0.0] + [1.0] * features.shape[1])
    solution = np.zeros(inputs.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-inputs @ solution))
        gradient = inputs.T @ (weights * (p - grounded)) + penalty @ solution
        hessian = (inputs.T * (weights * p * (1 - p))) @ inputs + penalty
        solution -= np.linalg.solve(hessian, gradient)
    slopes = solution[1:] / spread
    intercept = round(float(solution[0] - slopes @ mean), 4)
    named = {name: round(float(slope), 4) for name, slope in zip(FEATURES, slopes, strict=True)}
    return Groundedness(PARAMETERS_VERSION, intercept, named)


def score(judge: Groundedness, example: Example) -> float:
    """The service's own score of an answer: the mean support of its claims."""
    numbers = example.evidence.numbers
    values = [judge.support(claim, example.evidence, numbers).value for claim in claims_of(example.answer)]
    return float(np.mean(values)) if values else 0.0


def auroc(grounded: Array, scores: Array) -> float:
    """The chance that a grounded answer scores above one that is not; ties count half."""
    above, below = scores[grounded == 1][:, None], scores[grounded == 0][None, :]
    return float(((above > below) + 0.5 * (above == below)).mean())


def cross_validated(examples: list[Example], features: Array, grounded: Array, weights: Array) -> Array:
    """Held-out scores, one row a repeat."""
    scores = np.zeros((REPEATS, len(examples)))
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(examples))
        for fold in range(FOLDS):
            held_out = order[fold::FOLDS]
            rest = np.setdiff1d(order, held_out)
            judge = fit(features[rest], grounded[rest], weights[rest])
            scores[repeat, held_out] = [score(judge, examples[place]) for place in held_out]
    return scores


def report(examples: list[Example], grounded: Array, scores: Array) -> dict[str, dict[str, float]]:
    """Print and return the figures of each data set."""
    figures = {}
    overlap = np.array([example.overlap for example in examples])
    for name in SETS:
        own = np.array([example.data == name for example in examples])
        figures[name] = {
            "examples": int(own.sum()),
            "grounded": int(grounded[own].sum()),
            "auroc": round(float(np.mean([auroc(grounded[own], row[own]) for row in scores])), 3),
            "auroc_token_overlap": round(auroc(grounded[own], overlap[own]), 3),
            "brier": round(float(((scores[:, own] - grounded[own]) ** 2).mean()), 3),
        }
        print(name, figures[name])
        for low, high in pairwise(BINS):
            inside = own & (scores[0] >= low) & ((scores[0] < high) | (high == 1.0))
            if inside.any():
                share = grounded[inside].mean()
                print(f"  scored {low:.2f} to {high:.2f}: {inside.sum():4d} answers, {share:.0%} grounded")
    return figures


def main() -> None:
    """Fit, measure, and write the parameters when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the labelled data")
    parser.add_argument("--write", type=Path, help="where to write the parameters")
    arguments = parser.parse_args()
    examples = read(arguments.data)
    features = np.array([features_of(example) for example in examples], dtype=float)
    grounded = np.array([example.grounded for example in examples], dtype=float)
    sizes = {name: sum(example.data == name for example in examples) for name in SETS}
    weights = np.array([len(examples) / len(SETS) / sizes[example.data] for example in examples])
    judge = fit(features, grounded, weights)
    figures = report(examples, grounded, cross_validated(examples, features, grounded, weights))
    data = {
        "version": judge.version,
        "intercept": judge.intercept,
        "weights": dict(judge.weights),
        "made_by": "bench/groundedness_calibration.py",
        "fitted_on": "the whole answer as one claim; both sets weigh the same",
        "measured": f"mean support of an answer's claims, {FOLDS}-fold cross-validation, {REPEATS} repeats",
        "data": figures,
    }
    print(json.dumps(data, indent=2))
    if arguments.write:
        arguments.write.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
