"""Citations of an answer, checked against its evidence."""

from __future__ import annotations

import pytest

from services.generate.citations import Citations, check_citations
from services.generate.prompts import REFUSAL


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("A fact [1].", (1,)),
        ("A fact. [2]", (2,)),
        ("A fact [2][1].", (2, 1)),
        ("A fact [1, 3].", (1, 3)),
        ("A fact [1;3].", (1, 3)),
        ("A fact [1-3].", (1, 2, 3)),
        ("A fact [1\u20133].", (1, 2, 3)),
        ("A fact [1, 2-3].", (1, 2, 3)),
        ("A fact[3] and another [3].", (3,)),
    ],
)
def test_every_spelling_of_a_citation_is_read(text, cited):
    assert check_citations(text, {1, 2, 3}) == Citations(cited, (), ())


def test_numbers_that_were_not_given_are_invalid():
    assert check_citations("A fact [1][7]. Another [9].", {1, 2}) == Citations((1,), (7, 9), ("Another [9].",))


def test_sentences_without_a_valid_citation_are_named():
    text = "Cited [1]. Not cited. Cited after. [2]\n\nThe steps are:\n- open it [1]\n- close it"
    assert check_citations(text, {1, 2}).uncited_sentences == ("Not cited.", "close it")


def test_a_refusal_cites_nothing_and_needs_nothing():
    assert check_citations(f"{REFUSAL}\n", {1}) == Citations((), (), ())


@pytest.mark.parametrize("text", ["Use `rows[2]` [1].", "Use this [1].\n\n```\nrows[2]\n```", "See [ 2 ] and [a] [1]."])
def test_brackets_in_code_and_reference_marks_are_no_citations(text):
    assert check_citations(text, {1, 2}) == Citations((1,), (), ())


def test_an_absurd_range_costs_nothing():
    assert check_citations("A fact [1-99999999999999999999].", {1}).invalid == (999999,)
