"""The extractive model: what it quotes, what it refuses, and that it is what was calibrated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from services.generate import extractive
from services.generate.extractive import answer, count_tokens, cut_to_tokens, parameters
from services.generate.extractive_features import SENTENCE_FEATURES, SUPPORT_FEATURES
from services.generate.prompts import REFUSAL, Evidence, parse, render

HISTORY = """The old harbour was dug in 1742 by Dutch engineers. It silted up within a century.
Because the channel was too shallow for steamers, the council moved the port to Northgate in 1881."""
FEES = """Mooring costs 14 euros a night for boats up to ten metres. Longer boats pay 22 euros.
Fees are due before noon.

- The harbour office accepts cards.
- Cheques are refused."""
PEOPLE = """Release Manager: Maria Lindqvist
Documentation: Tom Okafor

The first beta of 4.2 appears on 3 May 2025."""
LAYOUT = """Limit all lines to a maximum of 88 characters. Use four spaces for indentation, never tabs.

```
limit = 88
```"""
PASSAGES = (
    ("Harbour Handbook", ("Harbour Handbook", "History"), HISTORY),
    ("Harbour Handbook", ("Harbour Handbook", "Fees"), FEES),
    ("Release plan 4.2", ("Release plan 4.2", "People"), PEOPLE),
    ("Style guide", ("Style guide", "Layout"), LAYOUT),
)
EVIDENCE = tuple(
    Evidence(number, f"doc-{number}", title, path, text) for number, (title, path, text) in enumerate(PASSAGES, start=1)
)


@pytest.mark.parametrize(
    ("question", "quoted", "number"),
    [
        ("When was the old harbour dug?", "The old harbour was dug in 1742 by Dutch engineers.", 1),
        ("Who dug the old harbour?", "The old harbour was dug in 1742 by Dutch engineers.", 1),
        ("Why was the port moved to Northgate?", "Because the channel was too shallow for steamers", 1),
        ("How much does mooring cost for a night?", "Mooring costs 14 euros a night", 2),
        ("Who is the release manager of 4.2?", "Release Manager: Maria Lindqvist", 3),
        ("When does the first beta of 4.2 appear?", "The first beta of 4.2 appears on 3 May 2025.", 3),
        ("What is the maximum line length?", "Limit all lines to a maximum of 88 characters.", 4),
        ("maximum lines", "Limit all lines to a maximum of 88 characters.", 4),
        ("Does the harbour ofice accept cards?", "The harbour office accepts cards.", 2),
    ],
)
def test_the_sentence_that_answers_is_quoted_and_its_evidence_cited(question, quoted, number):
    given = answer(question, EVIDENCE)
    assert not given.refused
    assert quoted in given.text and f"[{number}]" in given.text


@pytest.mark.parametrize(
    "question",
    [
        "How do I bake sourdough bread?",
        "Who won the chess championship in 2018?",
        "What is the capital of France?",
        "How many planets orbit the sun?",
        "Why is it so?",
        "?",
        "",
    ],
)
def test_what_the_evidence_does_not_cover_is_refused(question):
    given = answer(question, EVIDENCE)
    assert (given.text, given.refused, given.sentences) == (REFUSAL, True, ())
    assert 0.0 <= given.score < parameters().threshold


def test_without_evidence_everything_is_refused():
    assert answer("When was the old harbour dug?", ()).refused
    assert answer("When was the old harbour dug?", [replace(EVIDENCE[0], text="```\ncode\n```")]).refused


def test_quotes_are_word_for_word_few_and_each_is_cited():
    given = answer("What does mooring cost?", EVIDENCE)
    texts = {piece.number: " ".join(piece.text.split()) for piece in EVIDENCE}
    assert 1 <= len(given.sentences) <= parameters().max_quotes
    for quote in given.sentences:
        assert quote.text in texts[quote.number]
    assert given.text == " ".join(f"{quote.text} [{quote.number}]" for quote in given.sentences)


def test_quotes_of_one_passage_keep_its_order():
    eager = replace(parameters(), quote_ratio=0.0, threshold=0.0)
    given = answer("How much do longer boats pay for mooring?", [EVIDENCE[1]], calibration=eager)
    places = [EVIDENCE[1].text.index(quote.text) for quote in given.sentences]
    assert len(places) == 3 and places == sorted(places)


def test_a_sentence_that_two_passages_share_is_quoted_once():
    twin = replace(EVIDENCE[0], number=2)
    texts = [quote.text for quote in answer("When was the old harbour dug?", [EVIDENCE[0], twin]).sentences]
    assert len(texts) == len(set(texts))


def test_a_title_is_no_answer_to_what_it_names():
    evidence = [Evidence(1, "zen", "The Zen", ("The Zen",), "Title: The Zen\nAuthor: Tim Peters")]
    assert "Title" not in answer("Who wrote the Zen?", evidence).text


def test_headings_tell_what_a_sentence_is_about():
    about_boats = Evidence(1, "a", "Boats", ("Boats", "Speed limits"), "Nothing above 12 knots is allowed.")
    about_trains = Evidence(2, "b", "Trains", ("Trains", "Speed limits"), "Nothing above 160 km an hour is allowed.")
    given = answer("What is the speed limit for trains?", [about_boats, about_trains])
    assert given.sentences[0].number == 2


def test_a_confident_match_scores_above_a_doubtful_one():
    sure = answer("When was the old harbour dug by Dutch engineers?", EVIDENCE)
    unsure = answer("When was the old castle dug by Spanish engineers?", EVIDENCE)
    assert sure.score > unsure.score


def test_the_threshold_decides():
    strict = replace(parameters(), threshold=1.1)
    assert answer("When was the old harbour dug?", EVIDENCE, calibration=strict).refused


def test_it_answers_alike_from_the_rendered_prompt():
    question = "When was the old harbour dug?"
    prompt = render(question, EVIDENCE, token_budget=10_000, count_tokens=count_tokens)
    assert answer(*parse(prompt.messages)) == answer(question, EVIDENCE)


def test_the_parameters_are_complete_and_say_where_they_come_from():
    stored = json.loads(Path(extractive.__file__).with_name("extractive_parameters.json").read_text())
    assert set(stored["sentence"]) == set(SENTENCE_FEATURES)
    assert set(stored["support"]) == set(SUPPORT_FEATURES)
    measures = stored["provenance"]["measures"]
    assert measures["answer_in_text_when_answered"] >= 0.8
    assert measures["off_topic_refused"] >= 0.95
    assert measures["false_refusals"] <= 0.05
    assert measures["adversarial_auroc"] >= 0.65


def test_tokens_are_words_and_marks():
    assert count_tokens("Hello, world [1].") == 7
    assert cut_to_tokens("Hello, world [1].", 3) == "Hello, world"
    assert cut_to_tokens("Hello", 3) == "Hello"
