"""Derived identities: stable, and different wherever their inputs differ."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from ragline.index.identity import chunk_id, content_hash, embedder_input, metadata_hash, point_id

texts = st.text(max_size=20)


def test_the_embedder_reads_the_heading_path_and_then_the_text() -> None:
    assert embedder_input(("PEP 8", "Indentation"), "Use four spaces.") == "PEP 8 > Indentation\n\nUse four spaces."


def test_without_a_heading_the_embedder_reads_the_text_alone() -> None:
    assert embedder_input((), "Use four spaces.") == "Use four spaces."


def test_identities_stay_what_they_are_over_releases() -> None:
    """They are stored: another value would make every chunk of every index a new one."""
    content = content_hash("Use four spaces.")
    chunk = chunk_id("acme", "pep-8", content, 0)

    assert content == "519785740a505bbc65519886fe5fa38031bf2ce8101858304f15364e3999744c"
    assert chunk == "a4ac3a15c54085504053c24b78cf067c"
    assert point_id("g1", chunk, 1) == uuid.UUID("b827ce30-7900-ebca-ff51-c6a98a382a20")
    assert metadata_hash({"lang": "en"}) == "862efada076e1f787bb1fac408aac9484ad17d9cce038a4163e7d36602aaea6a"


def test_the_same_content_elsewhere_is_another_chunk() -> None:
    content = content_hash("Use four spaces.")
    chunks = {
        chunk_id("acme", "pep-8", content, 0),
        chunk_id("acme", "pep-8", content, 1),
        chunk_id("acme", "pep-9", content, 0),
        chunk_id("other", "pep-8", content, 0),
    }

    assert len(chunks) == 4


def test_a_chunk_that_comes_back_is_a_new_point() -> None:
    assert point_id("g1", "chunk", 1) != point_id("g1", "chunk", 2)
    assert point_id("g1", "chunk", 1) != point_id("g2", "chunk", 1)


def test_the_order_of_metadata_does_not_matter_but_its_types_do() -> None:
    assert metadata_hash({"a": 1, "b": "x"}) == metadata_hash({"b": "x", "a": 1})
    assert len({metadata_hash({"a": value}) for value in (1, "1", True, 1.5)}) == 4


@given(texts, texts, texts, texts)
def test_moving_characters_between_fields_makes_another_chunk(a: str, b: str, c: str, d: str) -> None:
    assert (chunk_id(a, b, "content", 0) == chunk_id(c, d, "content", 0)) == ((a, b) == (c, d))


@given(texts, texts)
def test_contents_are_told_apart(first: str, second: str) -> None:
    assert (content_hash(first) == content_hash(second)) == (first == second)
