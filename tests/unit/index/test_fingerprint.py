"""The set hash: free of order and history, additive, and sensitive to every field."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.index.fingerprint import Element, Fingerprint

words = st.text("abcü/\x00", max_size=4)
elements = st.builds(Element, words, words, words, words, words)
element_lists = st.lists(elements, max_size=6)
fingerprints = st.integers(min_value=0, max_value=2**256 - 1).map(Fingerprint)


@given(element_lists, st.randoms())
def test_the_order_of_elements_does_not_matter(chosen: list[Element], random: object) -> None:
    shuffled = list(chosen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert Fingerprint.of(shuffled) == Fingerprint.of(chosen)


@given(element_lists, element_lists)
def test_adding_what_was_added_is_the_fingerprint_of_the_whole(first: list[Element], second: list[Element]) -> None:
    assert Fingerprint.of(first).plus(Fingerprint.of(second)) == Fingerprint.of([*first, *second])


@given(fingerprints, fingerprints)
def test_taking_away_is_the_inverse_of_adding(first: Fingerprint, second: Fingerprint) -> None:
    assert first.plus(second).minus(second) == first
    assert first.minus(second).plus(second) == first
    assert first.minus(first) == Fingerprint()


@given(fingerprints)
def test_it_is_printed_as_64_hex_digits_and_read_back(fingerprint: Fingerprint) -> None:
    assert len(str(fingerprint)) == 64
    assert Fingerprint.parse(str(fingerprint)) == fingerprint


def test_nothing_has_the_fingerprint_zero() -> None:
    assert str(Fingerprint.of([])) == "0" * 64


@pytest.mark.parametrize("field", ["tenant", "document_id", "chunk_id", "content_hash", "metadata_hash"])
def test_every_field_counts(field: str) -> None:
    element = Element("acme", "pep-8", "chunk", "content", "metadata")

    assert Fingerprint.of([replace(element, **{field: "other"})]) != Fingerprint.of([element])


@given(elements, elements)
def test_different_elements_have_different_fingerprints(first: Element, second: Element) -> None:
    assert (first.value() == second.value()) == (first == second)


def test_an_element_that_is_there_twice_counts_twice() -> None:
    """A doubled document must not look like a sound one."""
    element = Element("acme", "pep-8", "chunk", "content", "metadata")

    assert Fingerprint.of([element, element]) != Fingerprint.of([element])
