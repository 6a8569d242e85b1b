from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ragline.models.embedding import load_embedder
from ragline.models.package_data import package_file
from ragline.models.static import WordLlamaEmbedder


@pytest.fixture(scope="module")
def embedder() -> WordLlamaEmbedder:
    return WordLlamaEmbedder.load()


def test_vectors_are_those_of_the_package_itself(embedder):
    from wordllama import WordLlama

    folder = package_file("wordllama", "__init__.py").parent
    original = WordLlama.load(cache_dir=folder, disable_download=True)
    texts = ["A commit is all or nothing.", "naïve 😀 日本語", "x"]

    assert np.allclose(embedder.embed(texts), original.embed(texts, norm=True), atol=1e-6)


def test_vectors_have_length_one_and_keep_their_order(embedder):
    texts = ["first", "the second text", "third " * 2000]
    vectors = embedder.embed(texts)

    assert vectors.dtype == np.float32 and vectors.shape == (3, embedder.dimensions) == (3, 256)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert (vectors[1] == embedder.embed(["the second text"])[0]).all()


def test_a_text_without_tokens_still_gets_a_vector_that_the_engine_accepts(embedder):
    vectors = embedder.embed(["", "something", ""])

    assert np.linalg.norm(vectors[0]) == 1.0
    assert (vectors[0] == vectors[2]).all()


def test_no_texts_give_no_rows(embedder):
    assert embedder.embed([]).shape == (0, 256)


def test_only_the_first_512_tokens_are_read(embedder):
    vectors = embedder.embed(["word " * 600, "word " * 600 + "elephants", "elephants " + "word " * 600])

    assert (vectors[0] == vectors[1]).all()
    assert not (vectors[0] == vectors[2]).all()


def test_it_is_loaded_by_its_name():
    assert load_embedder("wordllama", cache_dir=Path("unused")).name == "wordllama"
