"""The cases that calibrate the extractive model: SQuAD 2.0 and XQuAD questions with BM25 evidence."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from services.generate.extractive_features import Candidate, find_candidates, sentence_features, term_weights
from services.generate.prompts import Evidence
from services.generate.question import Question, read_question
from services.generate.terms import STOP_WORDS, stem, words

Floats = NDArray[np.float64]
Kind = Literal["answerable", "off topic", "adversarial"]


@dataclass
class Case:
    """A question with its evidence; `right` marks the sentences that answer it, `holds` any answer string."""

    kind: Kind
    article: str
    squad2: bool
    text: str
    question: Question
    evidence: list[Evidence]
    candidates: list[Candidate]
    rows: Floats
    right: NDArray[np.bool_]
    holds: NDArray[np.bool_]


class Bm25:
    """Plain BM25 over stems (k1 1.2, b 0.75)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(_stems(text)) for text in texts]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = sum(self._lengths) / len(texts)
        self._frequency = Counter(term for counts in self._counts for term in counts)

    def best(self, query: str, count: int, *, without: frozenset[int]) -> list[int]:
        terms, total = set(_stems(query)), len(self._counts)
        scored = []
        for number, counts in enumerate(self._counts):
            if number not in without:
                norm = 1.2 * (0.25 + 0.75 * self._lengths[number] / self._mean)
                score = sum(
                    math.log(1 + (total - self._frequency[term] + 0.5) / (self._frequency[term] + 0.5))
                    * counts[term] * 2.2 / (counts[term] + norm)
                    for term in terms
                    if term in counts
                )  # fmt: skip
                scored.append((-score, number))
        return [number for _, number in sorted(scored)[:count]]


def _stems(text: str) -> list[str]:
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


def load_cases(data: Path, passages: int, *, distractors: bool = False) -> list[Case]:
    """All cases, each with its `passages` best passages as evidence.

    `distractors` makes the corpus eight times as large by web pages that answer none of the questions.
    """
    corpus: dict[str, dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    questions = []
    for folder in ("qa-squad2", "qa-xquad"):
        for entry in _english(data / folder / "corpus.jsonl"):
            kept = corpus.setdefault(entry["text"].strip(), entry | {"number": len(corpus)})
            numbers[entry["_id"]] = kept["number"]
        questions += [
            entry | {"squad2": folder == "qa-squad2"} for entry in _english(data / folder / "questions.jsonl")
        ]
    if distractors:
        for entry in _web_passages(data / "grounded-wice" / "claims.jsonl.gz"):
            corpus.setdefault(entry["text"], entry | {"number": len(corpus)})
    entries = list(corpus.values())
    articles = [entry["_id"].removeprefix("en:").partition("#")[0] for entry in entries]
    index = Bm25([f"{entry['title']} {entry['text']}" for entry in entries])
    cases = []
    for asked in questions:
        own = frozenset(number for number, article in enumerate(articles) if article == asked["article"])
        kind: Kind = "answerable" if asked["answerable"] else "adversarial"
        for case_kind, without in ((kind, frozenset[int]()), ("off topic", own)):
            found = index.best(asked["question"], passages, without=without)
            cases.append(_case(case_kind, asked, [entries[number] for number in found], numbers[asked["passage_id"]]))
    return cases


def _english(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line.get("lang", "en") == "en"]


def _web_passages(path: Path) -> Iterator[dict[str, Any]]:
    """The pages that WiCE's claims cite, cut at line ends into passages of about 130 words."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            head, _, text = json.loads(line)["context"].partition("\n")
            passage: list[str] = []
            for part in text.split("\n"):
                passage.append(part)
                if sum(len(kept.split()) for kept in passage) >= 130:
                    yield {"_id": "web", "title": head.rpartition("TITLE:")[2].strip(), "text": "\n".join(passage)}
                    passage = []


def _case(kind: Kind, asked: dict[str, Any], found: list[dict[str, Any]], right_passage: int) -> Case:
    question = read_question(asked["question"])
    evidence = [_evidence(entry) for entry in found]
    candidates = find_candidates(question, evidence)
    rows = np.array(sentence_features(question, candidates, term_weights(question, candidates)))
    answers = [_plain(text) for text in asked["answers"] if text.strip()] if kind == "answerable" else []
    holds = np.array([any(text in _plain(candidate.text) for text in answers) for candidate in candidates])
    there = np.array([candidate.evidence.number == right_passage for candidate in candidates])
    return Case(
        kind=kind,
        article=asked["article"],
        squad2=asked["squad2"],
        text=asked["question"],
        question=question,
        evidence=evidence,
        candidates=candidates,
        rows=rows,
        right=holds & there,
        holds=holds,
    )


def _evidence(entry: dict[str, Any]) -> Evidence:
    """Without the document's id: these ids name the article, as no real document's would."""
    title = entry["title"].replace("_", " ")
    return Evidence(entry["number"], "", title, (title,), entry["text"].strip())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
