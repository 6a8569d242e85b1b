"""WordLlama: static 256-dimension embeddings, a mean over token vectors (design: models, `wordllama`).

Reads the two files of the `wordllama` package itself: importing the package reconfigures the
root logger and brings an HTTP client along, for a sum and a division.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ragline.models.embedding import Vectors
from ragline.models.package_data import package_file
from ragline.models.tokens import WORDLLAMA_WINDOW_TOKENS, wordllama_tokenizer
from ragline.models.vectors import unit_rows


class WordLlamaEmbedder:
    """The fast embedder: many times MiniLM's throughput, lower quality. Thread-safe."""

    name = "wordllama"

    def __init__(self, tokenizer: Tokenizer, token_vectors: NDArray[np.float32]) -> None:
        tokenizer.enable_truncation(WORDLLAMA_WINDOW_TOKENS)
        self._tokenizer = tokenizer
        self._token_vectors = token_vectors

    @classmethod
    def load(cls) -> WordLlamaEmbedder:
        """Load from the package's own files; raises ConfigurationError if it is not installed."""
        weights = load_file(package_file("wordllama", "weights/l2_supercat_256.safetensors"))
        return cls(wordllama_tokenizer(), weights["embedding.weight"].astype(np.float32))

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._token_vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents or queries: (n, 256) float32 unit rows, the first 512 tokens of each text."""
        means = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, tokens in enumerate(self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if tokens.ids:
                means[row] = self._token_vectors[tokens.ids].mean(axis=0)
        return unit_rows(means)
