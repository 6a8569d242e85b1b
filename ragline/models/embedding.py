"""Text embedders behind one interface; `load_embedder` turns a setting into one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ragline.errors import ConfigurationError

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into unit vectors. Blocking and CPU-bound: call it in a thread."""

    @property
    def name(self) -> str:
        """The setting that names it, such as `minilm`; part of the pipeline fingerprint."""

    @property
    def dimensions(self) -> int:
        """The length of a vector."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents or queries: (n, dimensions) float32, each row of length 1, finite."""


class TokenCounter(Protocol):
    """Counts an embedder's own tokens, so that a chunk never exceeds its window."""

    @property
    def window_tokens(self) -> int:
        """The most tokens that the embedder reads of a text, special tokens included."""

    def count(self, text: str) -> int:
        """The number of tokens of `text`, special tokens included."""

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span of each token of `text`, special tokens left out."""


def load_embedder(name: str, *, cache_dir: Path) -> Embedder:
    """Load the embedder that the setting `models.embedder` names.

    Blocking (seconds on first use: MiniLM's ONNX file is built into `cache_dir`).
    Raises ConfigurationError for an unknown name or a missing package.
    """
    kind, _, rest = name.partition(":")
    if kind == "minilm" and not rest:
        from ragline.models.minilm import MiniLmEmbedder

        return MiniLmEmbedder.load(cache_dir)
    if kind == "wordllama" and not rest:
        from ragline.models.static import WordLlamaEmbedder

        return WordLlamaEmbedder.load()
    if kind == "litellm" and rest:
        from ragline.models.remote import LiteLlmEmbedder

        return LiteLlmEmbedder.load(rest)
    if kind == "fastembed" and rest:
        from ragline.models.remote import FastEmbedEmbedder

        return FastEmbedEmbedder.load(rest)
    raise ConfigurationError(
        f"models.embedder is {name!r}: use minilm, wordllama, litellm:<provider/model> or fastembed:<name>"
    )


def load_token_counter(name: str) -> TokenCounter:
    """The token counter of the embedder that `name` spells (for a remote one: MiniLM's, as an estimate)."""
    from ragline.models.tokens import token_counter

    return token_counter(name)
