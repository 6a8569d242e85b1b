"""Cutting passages into sentences that can be quoted."""

from __future__ import annotations

import pytest

from services.generate.sentences import split


def test_sentences_end_at_marks_and_not_at_abbreviations_initials_or_versions():
    text = (
        "Dr. J. R. Smith of Acme Inc. moved to the U.S. Army base, e.g. to St. Louis. Version 3.0 is out! "
        "See Fig. 3 and No. 5 (cf. Jones et al. 1987). The answer is no. He left in the U.S. Then it rained."
    )
    assert split(text) == [
        "Dr. J. R. Smith of Acme Inc. moved to the U.S. Army base, e.g. to St. Louis.",
        "Version 3.0 is out!",
        "See Fig. 3 and No. 5 (cf. Jones et al. 1987).",
        "The answer is no.",
        "He left in the U.S.",
        "Then it rained.",
    ]


def test_a_quotation_keeps_its_closing_mark_and_a_sentence_its_citation():
    text = 'She said: "Go now!" He went. [1] They stayed.[2][3] "Why?" [4]'
    assert split(text) == ['She said: "Go now!"', "He went. [1]", "They stayed.[2][3]", '"Why?" [4]']


def test_hard_wrapped_lines_read_as_one_and_blank_lines_separate():
    assert split("It is wrapped\nhere and\n  there.\n\nnext part") == ["It is wrapped here and there.", "next part"]


def test_list_items_are_units_without_their_markers():
    text = "Needed:\n- one item\n  that goes on\n* another. With two sentences.\n\n1. first\n2) second"
    assert split(text) == [
        "Needed:",
        "one item that goes on",
        "another.",
        "With two sentences.",
        "first",
        "second",
    ]


def test_table_rows_and_named_fields_are_units():
    assert split("| a | b |\n|---|---|\n| 1 | 2 |") == ["| a | b |", "| 1 | 2 |"]
    assert split("Name: Zen\nAuthor: Tim\nSince:   2004") == ["Name: Zen", "Author: Tim", "Since: 2004"]


@pytest.mark.parametrize(
    "code",
    [
        "```python\nx = 1. Foo\n```",
        "~~~\nnot prose. At all.\n~~~",
        "def trim(text):\n    if not text:\n        return ''",
        ">>> import this\nThe Zen of Python",
        "    total = price * count\n    print(total)",
        "{\n  'a': 1,\n}",
    ],
)
def test_code_is_not_quoted(code):
    assert split(f"Before it.\n\n{code}\n\nAfter it.") == ["Before it.", "After it."]


def test_indented_prose_is_prose():
    text = "    Old documents indent everything.\n    Like this one.\n\n    And this."
    assert split(text) == ["Old documents indent everything.", "Like this one.", "And this."]


def test_headings_rules_and_references_are_not_quoted():
    text = "# Title\nText here.\n\nTitle\n=====\n\nMore text.\n\n-----\n\n[1] Somebody, https://example.org/paper"
    assert split(text) == ["Text here.", "More text."]


def test_chinese_sentences_need_no_spaces():
    assert split("本来可以。德军重新占领。是的") == ["本来可以。", "德军重新占领。", "是的"]


@pytest.mark.parametrize("text", ["", " \n\n ", "---", "...", "```\nunclosed"])
def test_nothing_quotable_yields_nothing(text):
    assert split(text) == []
