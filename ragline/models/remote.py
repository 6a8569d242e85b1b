"""Embedders outside Ragline: any API that LiteLLM reaches, any model that fastembed runs (design: models)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ragline.errors import ConfigurationError, PermanentError, TransientError
from ragline.models.embedding import Vectors
from ragline.models.vectors import unit_rows

_PROBE = "What does this index hold?"
_BATCH_TEXTS = 64
_REFUSES_US = (401, 402, 403, 404)
_REFUSES_THE_TEXT = (400, 413, 422)


class ProviderRefuses(TransientError):
    """The provider refuses Ragline, not the text: a wrong key, an unpaid bill, a model that is gone.

    Transient, because an operator can mend it and no document may be dead-lettered for it.
    """

    reason = "EMBEDDER_REFUSED"


class LiteLlmEmbedder:
    """Embeds through an API by LiteLLM. Thread-safe; spends money that the caller accounts for."""

    def __init__(self, api: _EmbeddingApi, dimensions: int) -> None:
        """Use `load`, which learns the dimensions."""
        self._api = api
        self._dimensions = dimensions

    @classmethod
    def load(cls, model: str, *, api_base: str | None = None, timeout_s: float = 30.0) -> LiteLlmEmbedder:
        """Connect to `provider/model` and learn its dimensions by one call.

        Key and address come from the provider's own environment variables (such as OPENAI_API_KEY),
        the address also from `api_base`. `timeout_s` bounds one request of up to 64 texts. Raises
        ConfigurationError if the provider refuses or does not know the model, or LiteLLM is missing;
        TransientError if the provider cannot be reached.
        """
        api = _EmbeddingApi(model, api_base=api_base, timeout_s=timeout_s)
        try:
            return cls(api, api.request([_PROBE]).shape[1])
        except (PermanentError, ProviderRefuses) as error:
            raise ConfigurationError(f"models.embedder cannot be used: {error}") from error
        except TransientError as error:
            if missing := api.missing_variables():
                raise ConfigurationError(
                    f"models.embedder cannot be used: set {', '.join(missing)} in the environment; {error}"
                ) from error
            raise

    @property
    def name(self) -> str:
        """The setting that names it."""
        return self._api.name

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents or queries: (n, dimensions) float32 unit rows.

        Raises TransientError if the provider is down, busy, slow, refuses Ragline as a whole or answers
        nonsense; PermanentError if it refuses one of the texts. Nothing is retried here.
        """
        vectors = np.empty((len(texts), self._dimensions), dtype=np.float32)
        for start in range(0, len(texts), _BATCH_TEXTS):
            batch = self._api.request(texts[start : start + _BATCH_TEXTS])
            if batch.shape[1] != self._dimensions:
                raise TransientError(
                    f"{self.name} answered {batch.shape[1]} dimensions where it had {self._dimensions}: "
                    "let its address serve the model that the index was built with"
                )
            vectors[start : start + _BATCH_TEXTS] = batch
        return vectors


class _EmbeddingApi:
    """One model of one provider: sends a request and translates LiteLLM's errors."""

    def __init__(self, model: str, *, api_base: str | None, timeout_s: float) -> None:
        self.name = f"litellm:{model}"
        self._litellm = _litellm()
        self._model = model
        self._api_base = api_base
        self._timeout_s = timeout_s

    def missing_variables(self) -> list[str]:
        """Environment variables that the provider usually needs and that are not set."""
        return list(self._litellm.validate_environment(self._model)["missing_keys"])

    def request(self, texts: Sequence[str]) -> Vectors:
        """The unit vectors of a batch, in order, by one HTTP request."""
        # The base of all of LiteLLM's errors; the package comes with it.
        from openai import OpenAIError

        try:
            response = self._litellm.embedding(
                model=self._model, input=list(texts), api_base=self._api_base, timeout=self._timeout_s
            )
        except OpenAIError as error:
            status = getattr(error, "status_code", None)
            if status in _REFUSES_US:
                raise ProviderRefuses(self._said(error, "mend its name, key or account")) from error
            if status in _REFUSES_THE_TEXT:
                raise PermanentError(self._said(error, "change the text or the model")) from error
            raise TransientError(self._said(error, "try again later")) from error
        return self._in_order(response.data, len(texts))

    def _in_order(self, rows: Sequence[Mapping[str, Any]], count: int) -> Vectors:
        if sorted(row["index"] for row in rows) != list(range(count)):
            raise TransientError(f"{self.name} answered {len(rows)} vectors for {count} texts; try again later")
        ordered = sorted(rows, key=lambda row: int(row["index"]))
        try:
            return unit_rows(np.array([row["embedding"] for row in ordered], dtype=np.float32))
        except ValueError as error:
            raise TransientError(self._said(error, "check what serves its address")) from error

    def _said(self, error: Exception, remedy: str) -> str:
        said = " ".join(str(error).split())[:200]
        return f"{self.name} failed with {type(error).__name__} ({said}): {remedy}"


class FastEmbedEmbedder:
    """Embeds with a model that fastembed downloads on first use and runs here. Thread-safe."""

    def __init__(self, model: str, text_embedding: Any) -> None:
        """Use `load`: `text_embedding` is a `fastembed.TextEmbedding`."""
        self._model = model
        self._text_embedding = text_embedding

    @classmethod
    def load(cls, model: str) -> FastEmbedEmbedder:
        """Load a model of fastembed's list; raises ConfigurationError if that fails, by name."""
        fastembed = _optional_package("fastembed", f"models.embedder is fastembed:{model}")
        try:
            return cls(model, fastembed.TextEmbedding(model_name=model))
        except (ValueError, OSError) as error:
            raise ConfigurationError(
                f"models.embedder: fastembed cannot load {model!r} ({' '.join(str(error).split())[:200]}): "
                "name a model that it supports, and let it download or fill its cache (FASTEMBED_CACHE_PATH)"
            ) from error

    @property
    def name(self) -> str:
        """The setting that names it."""
        return f"fastembed:{self._model}"

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._text_embedding.embedding_size)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed documents or queries: (n, dimensions) float32 unit rows."""
        rows: Iterator[Vectors] = self._text_embedding.embed(list(texts), batch_size=_BATCH_TEXTS)
        return unit_rows(np.array(list(rows), dtype=np.float32).reshape(len(texts), self.dimensions))


def _litellm() -> Any:
    # Without it, importing LiteLLM asks the network for a price list.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = _optional_package("litellm", "models.embedder is litellm:...")
    # Otherwise it prints advice about itself on standard output with each error.
    litellm.suppress_debug_info = True
    # Retries belong to the caller, who accounts for each attempt; a `max_retries=0` in a call is ignored.
    litellm.DEFAULT_MAX_RETRIES = 0
    return litellm


def _optional_package(package: str, why: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigurationError(f"{why}, but the package {package} is not installed: pip install {package}") from error
