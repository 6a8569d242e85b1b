"""Cutting texts into sentences."""

from __future__ import annotations

import pytest

from services.eval.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Use tabs, e.g. here. Then stop.", ["Use tabs, e.g. here.", "Then stop."]),
        ("Dr. J. Smith et al. Agreed. It is so.", ["Dr. J. Smith et al.", "Agreed.", "It is so."]),
        ("See Fig. 3 and No. 4. No. Stop.", ["See Fig. 3 and No. 4.", "No.", "Stop."]),
        ("Version 3.11 costs 3.50 USD. Really!", ["Version 3.11 costs 3.50 USD.", "Really!"]),
        ("It is so. [1] [2] And so. [3]", ["It is so. [1] [2]", "And so. [3]"]),
        ("A line that\nis wrapped. Another.", ["A line that is wrapped.", "Another."]),
        ("# Title\nThe text.", ["# Title", "The text."]),
        ("First\n\nSecond", ["First", "Second"]),
        ("1. Take one\n2. Take two\n   or three", ["1. Take one", "2. Take two or three"]),
        ("这是一句。这是第二句！", ["这是一句。", "这是第二句！"]),  # noqa: RUF001
        (" \n\n ", []),
    ],
)
def test_text_is_cut_where_a_reader_would(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
