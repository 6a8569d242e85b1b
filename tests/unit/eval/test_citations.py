"""Reading citation marks."""

from __future__ import annotations

from services.eval.citations import cited_numbers, without_marks


def test_marks_lists_and_ranges_are_read_in_order() -> None:
    assert cited_numbers("It is [2]. So is this [1, 3][5-7].") == (2, 1, 3, 5, 6, 7)


def test_a_huge_range_is_bounded() -> None:
    assert len(cited_numbers("All of it [1-999].")) == 21


def test_a_footnote_of_restructuredtext_is_no_citation() -> None:
    assert cited_numbers("As said [1]_ before.") == ()


def test_marks_vanish_with_the_space_before_them() -> None:
    assert without_marks("It is so [1]. And so. [2]") == "It is so. And so."
