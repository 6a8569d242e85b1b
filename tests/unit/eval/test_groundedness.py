"""Support of single claims by evidence."""

from __future__ import annotations

import pytest

from services.eval.evidence import Evidence, EvidenceIndex
from services.eval.groundedness import Groundedness, Support, claims_of
from services.eval.terms import terms_of

STYLE = Evidence(
    1,
    "Python code uses four spaces per indentation level. Spaces are the preferred indentation method.\n\n"
    "All lines are limited to a maximum of 79 characters.",
    ("PEP 8", "Code layout"),
)
RELEASES = Evidence(
    2,
    "A new minor version is released in October of each year. Support lasts 1,500 days. "
    "The schedule was proposed by Łukasz Langa in 2019.",
    ("PEP 602", "Schedule"),
)
INDEX = EvidenceIndex([STYLE, RELEASES])


@pytest.fixture(scope="module")
def judge() -> Groundedness:
    return Groundedness.load()


def support(judge: Groundedness, answer: str) -> Support:
    (claim,) = claims_of(answer)
    return judge.support(claim, INDEX, sorted(INDEX.numbers))


def test_a_quotation_is_fully_supported_whatever_its_case_and_punctuation(judge: Groundedness) -> None:
    quoted = support(judge, "“spaces are the preferred indentation method” [1].")
    assert (quoted.value, quoted.best, quoted.missing) == (1.0, 1, ())


def test_half_a_word_is_no_quotation(judge: Groundedness) -> None:
    assert support(judge, "Space are the preferred indent.").value < 1.0


def test_a_faithful_rewording_is_supported_by_the_evidence_that_says_it(judge: Groundedness) -> None:
    reworded = support(judge, "The schedule was proposed in 2019 by Łukasz Langa.")
    assert reworded.value > 0.8
    assert reworded.best == 2


def test_a_number_that_the_evidence_lacks_lowers_support(judge: Groundedness) -> None:
    right = support(judge, "Lines of code are limited to at most 79 characters.")
    wrong = support(judge, "Lines of code are limited to at most 120 characters.")
    assert right.value > 0.7
    assert wrong.value < right.value / 2
    assert wrong.missing == ("120",)


def test_a_name_that_the_evidence_lacks_lowers_support(judge: Groundedness) -> None:
    right = support(judge, "Today the schedule that was proposed by Łukasz Langa holds.")
    wrong = support(judge, "Today the schedule that was proposed by Barry Warsaw holds.")
    assert wrong.value < right.value - 0.2
    assert wrong.missing == ("Barry", "Warsaw")


def test_an_invention_has_hardly_any_support(judge: Groundedness) -> None:
    assert support(judge, "Cheese ripens on the moon until 1969.").value < 0.1


@pytest.mark.parametrize("claim", ["Python code uses 4 spaces per level.", "Support lasts for 1500 days."])
def test_numbers_are_the_same_however_they_are_written(judge: Groundedness, claim: str) -> None:
    assert support(judge, claim).missing == ()


def test_headings_name_what_a_passage_is_about(judge: Groundedness) -> None:
    assert support(judge, "According to PEP 8, spaces are preferred.").missing == ()


def test_support_is_sought_only_in_the_evidence_that_is_asked_about(judge: Groundedness) -> None:
    (claim,) = claims_of("All lines are limited to a maximum of 79 characters.")
    assert judge.support(claim, INDEX, [1]).value == 1.0
    assert judge.support(claim, INDEX, [2]).value < 0.3
    assert judge.support(claim, INDEX, []) == Support(claim.text, 0.0, None)


def test_list_numbers_and_citations_are_no_part_of_a_claim() -> None:
    assert [claim.text for claim in claims_of("1. Use spaces [1].\n2. It is so.\n3. Keep lines short. [2]")] == [
        "Use spaces.",
        "Keep lines short.",
    ]


def test_terms_tell_numbers_and_names_from_words() -> None:
    kinds = {term.surface: term.kind for term in terms_of("Releases of CPython by Guido happen on the 2nd of May")}
    assert kinds == {
        "Releases": "content", "of": "function", "CPython": "name", "by": "function", "Guido": "name",
        "happen": "content", "on": "function", "the": "function", "2nd": "number", "May": "function",
    }  # fmt: skip
