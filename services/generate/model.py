"""Calling a language model through LiteLLM: streamed, bounded in time, with errors that say what is owed.

One call is one attempt: nothing is retried here, because every attempt needs a budget hold of its own.
LiteLLM takes seconds to import; `load_litellm` is the one place where that happens.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from ragline.errors import ConfigurationError
from services.generate import extractive
from services.generate.model_errors import ModelError, ModelRejected, model_failure, timed_out
from services.generate.prompts import Prompt, render

__all__ = ["LiteLlmModel", "ModelChunk", "ModelError", "ModelRejected", "Usage", "load_litellm"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call. `reported` is False when the provider sent none and they were counted here."""

    prompt_tokens: int
    completion_tokens: int
    reported: bool


@dataclass(frozen=True, slots=True)
class ModelChunk:
    """A piece of an answer. Only the last one, which has no text, carries usage and finish reason.

    `finish_reason` is `stop`, `length` (max_tokens was reached) or what else the provider says.
    """

    text: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None


class LiteLlmModel:
    """Any model that LiteLLM reaches, and `ragline/extractive`.

    Keys and addresses come from the provider's own environment variables (such as OPENAI_API_KEY);
    `api_base` and `api_key` override them for every remote model.
    """

    def __init__(self, *, api_base: str | None = None, api_key: str | None = None) -> None:
        remote = {"temperature": 0.0, "api_base": api_base, "api_key": api_key}
        self._remote = {name: value for name, value in remote.items() if value is not None}

    def load(self) -> None:
        """Get ready for the first call. Blocking: seconds of CPU, once in a process."""
        litellm = load_litellm()
        # The first call imports as much again as the import; better now than while somebody waits.
        prompt = render("Ready?", (), token_budget=10_000, count_tokens=extractive.count_tokens)
        for _ in litellm.completion(model=extractive.MODEL, messages=list(prompt.messages), stream=True):
            pass

    def count_tokens(self, model: str, text: str) -> int:
        """The tokens of a text for a model, without any network.

        Exact for the extractive model. For others a bound: above what common tokenizers count (on English
        prose by half), so that a hold on it covers what the provider will charge.
        """
        return extractive.count_tokens(text) if model == extractive.MODEL else _token_bound(text)

    async def stream(
        self, prompt: Prompt, *, model: str, max_tokens: int, timeout_s: float
    ) -> AsyncGenerator[ModelChunk, None]:
        """Yield the answer as the model writes it; the last chunk carries the usage.

        `timeout_s` bounds the whole call. Cancelling it, or closing the generator, ends the call and its
        connection at once. Raises ModelError (MODEL_RATE_LIMITED, MODEL_TIMEOUT, MODEL_UNAVAILABLE) and
        ModelRejected.
        """
        litellm = await asyncio.to_thread(load_litellm)
        attempt = _Attempt(litellm, model, timeout_s, key_given="api_key" in self._remote)
        attempt.check_provider()
        response = await attempt.wait(
            litellm.acompletion(
                model=model,
                messages=[dict(message) for message in prompt.messages],
                max_tokens=max_tokens,
                stream=True,
                stream_options={"include_usage": True},
                timeout=timeout_s,
                num_retries=0,
                **({} if model == extractive.MODEL else self._remote),
            )
        )
        attempt.answering = True
        text, usage, finish_reason = "", None, None
        try:
            while (part := await attempt.wait(_next(response))) is not None:
                for choice in part.choices[:1]:
                    finish_reason = choice.finish_reason or finish_reason
                    if choice.delta.content:
                        text += choice.delta.content
                        yield ModelChunk(choice.delta.content)
                usage = getattr(part, "usage", None) or usage
        finally:
            await response.aclose()
        yield ModelChunk("", self._usage(usage, prompt, model, text), finish_reason or "stop")

    def _usage(self, reported: Any, prompt: Prompt, model: str, text: str) -> Usage:
        """What the provider reports; LiteLLM, whose own counting is off, fills in zeros when it does not."""
        if reported is not None and reported.prompt_tokens:
            return Usage(reported.prompt_tokens, reported.completion_tokens or 0, reported=True)
        prompt_tokens = sum(self.count_tokens(model, message["content"]) for message in prompt.messages)
        return Usage(prompt_tokens, self.count_tokens(model, text), reported=False)


class _Attempt:
    """One call with its deadline; turns what goes wrong into a ModelError or ModelRejected."""

    def __init__(self, litellm: Any, model: str, timeout_s: float, *, key_given: bool) -> None:
        self._litellm = litellm
        self._model = model
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._key_given = key_given
        self.answering = False

    def check_provider(self) -> None:
        """Refuse a model whose provider LiteLLM does not know."""
        try:
            self._litellm.get_llm_provider(self._model)
        except self._litellm.BadRequestError:
            failure = ModelRejected(
                f"{self._model}: no such provider; name the model as LiteLLM does, provider/model", sent=False
            )
        else:
            return
        raise failure

    async def wait(self, step: Awaitable[T]) -> T:
        """Await a step of the call, no longer than the deadline."""
        from httpx import HTTPError
        from openai import OpenAIError

        try:
            async with asyncio.timeout_at(self._deadline):
                return await step
        except TimeoutError:
            failure: ModelError | ModelRejected = timed_out(self._model, self._timeout_s)
        except (OpenAIError, HTTPError) as error:
            failure = model_failure(
                error,
                self._model,
                timeout_s=self._timeout_s,
                answering=self.answering,
                unset=self._unset_variables(),
            )
        # Outside the handler, so that no traceback shows the provider's words, which may repeat the key.
        raise failure

    def _unset_variables(self) -> tuple[str, ...]:
        """The provider's variables that the environment lacks, as a hint."""
        if self._key_given or self.answering:
            return ()
        return tuple(self._litellm.validate_environment(self._model)["missing_keys"])


async def _next(response: AsyncIterator[Any]) -> Any:
    """The next part of a response; None at its end."""
    return await anext(response, None)


@lru_cache(maxsize=1)
def load_litellm() -> Any:
    """Import LiteLLM, quiet and offline, with the extractive model as one of its providers.

    Blocking: seconds of CPU, once in a process. Raises ConfigurationError when it is not installed.
    """
    # Otherwise the import asks the network for prices.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        litellm: Any = importlib.import_module("litellm")

        from services.generate.extractive_provider import PROVIDER, ExtractiveProvider
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the package {error.name} is missing: install ragline[generate]") from error
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.DEFAULT_MAX_RETRIES = 0
    # It would count what a provider does not report, for some model names with a tokenizer from the network.
    litellm.disable_token_counter = True
    # Parameters that a model does not know are left out rather than refused (some take no temperature).
    litellm.drop_params = True
    litellm.callbacks = []
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    others = [item for item in litellm.custom_provider_map if item["provider"] != PROVIDER]
    litellm.custom_provider_map = [*others, {"provider": PROVIDER, "custom_handler": ExtractiveProvider()}]
    return litellm


_PIECE: Final = re.compile(r"[A-Za-z]+|\d+|\s+|[^\sA-Za-z\d]")
_SHORT_WORD_LETTERS: Final = 5
_LETTERS_PER_TOKEN: Final = 3


def _token_bound(text: str) -> int:
    """More tokens than byte-pair tokenizers make of a text.

    A short word is one token, a longer one at most a token every three letters; digits, marks and runs of
    white space other than a single space count one each, and other characters their bytes.
    """
    count = 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece == " ":
            continue
        if not piece.isascii():
            count += len(piece.encode("utf-8", "surrogatepass"))
        elif piece.isalpha():
            letters = len(piece)
            count += 1 if letters <= _SHORT_WORD_LETTERS else -(-letters // _LETTERS_PER_TOKEN)
        else:
            count += 1 if piece.isspace() else len(piece)
    return count
