from __future__ import annotations

import pytest

from ragline.models.sparse import Bm25Encoder

CHUNK = "Generators > Rationale\n\nA generator yields values; the caller asks the generator for the next value."


@pytest.fixture(scope="module")
def encoder() -> Bm25Encoder:
    return Bm25Encoder()


def test_a_question_finds_its_terms_in_the_chunk_whatever_their_form(encoder):
    chunk, question = encoder.document(CHUNK), encoder.query("What do GENERATORS yield to callers?")

    assert set(question.indices) <= set(chunk.indices)


def test_other_terms_have_other_indices(encoder):
    chunk, question = encoder.document(CHUNK), encoder.query("elephant savanna")

    assert len(question.indices) == 2
    assert not set(question.indices) & set(chunk.indices)


@pytest.mark.parametrize("text", [CHUNK, "tax tax taxes taxed tax", "1 2 1 2 x", "Ünïcode ünïcode"])
def test_indices_are_distinct_and_as_many_as_the_values(encoder, text):
    for vector in (encoder.document(text), encoder.query(text)):
        assert len(set(vector.indices)) == len(vector.indices) == len(vector.values) > 0
        assert all(value > 0 for value in vector.values)


def test_a_term_that_is_repeated_weighs_more_but_less_than_in_proportion(encoder):
    (once,) = encoder.document("watermark").values
    (often,) = encoder.document("watermark " * 5).values

    assert once < often < 5 * once


def test_a_term_of_a_question_counts_once(encoder):
    assert encoder.query("tax tax taxes").values == (1.0,)


@pytest.mark.parametrize("text", ["", "   ", "...", "the of and"])
def test_a_text_without_terms_is_an_empty_vector(encoder, text):
    assert encoder.document(text).indices == encoder.query(text).indices == ()


def test_two_encoders_agree():
    assert Bm25Encoder().document(CHUNK) == Bm25Encoder().document(CHUNK)
