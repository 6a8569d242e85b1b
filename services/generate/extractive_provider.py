"""The extractive model as a LiteLLM provider, so that the gateway calls every model the same way.

Importing this module imports LiteLLM: only `services.generate.model.load_litellm` does.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from ragline.errors import InvalidArgument
from services.generate.extractive import answer, count_tokens, cut_to_tokens
from services.generate.prompts import parse

PROVIDER: Final = "ragline"

# LiteLLM's own annotations do not hold for a provider that takes its arguments by name.
_custom_llm: Any = importlib.import_module("litellm.llms.custom_llm")
_types: Any = importlib.import_module("litellm.types.utils")


class ExtractiveProvider(_custom_llm.CustomLLM):  # type: ignore[misc]
    """Answers chat completions whose messages are the gateway's own prompt; anything else is refused (400)."""

    def completion(self, *, model_response: Any, **call: Any) -> Any:
        """The whole answer at once, in the response that LiteLLM has prepared."""
        *pieces, end = _write(call)
        content = "".join(piece["text"] for piece in pieces)
        message = _types.Message(role="assistant", content=content)
        model_response.choices = [_types.Choices(finish_reason=end["finish_reason"], message=message)]
        model_response.usage = _types.Usage(**end["usage"])
        return model_response

    async def acompletion(self, *, model_response: Any, **call: Any) -> Any:
        """As `completion`: it takes a few milliseconds and waits for nothing."""
        return self.completion(model_response=model_response, **call)

    def streaming(self, **call: Any) -> Iterator[dict[str, Any]]:
        """The answer sentence by sentence, then a chunk without text that ends it."""
        yield from _write(call)

    async def astreaming(self, **call: Any) -> AsyncIterator[dict[str, Any]]:
        """As `streaming`."""
        for piece in _write(call):
            yield piece


def _write(call: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chunks of the answer to a call; the last one ends it and carries the usage."""
    messages: Sequence[dict[str, str]] = call["messages"]
    try:
        question, evidence = parse(messages)
    except InvalidArgument as error:
        raise _custom_llm.CustomLLMError(status_code=400, message=str(error)) from error
    text = answer(question, evidence).text
    limit = call["optional_params"].get("max_tokens")
    kept = text if limit is None else cut_to_tokens(text, limit)
    prompt_tokens = sum(count_tokens(message["content"]) for message in messages)
    completion_tokens = count_tokens(kept)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    end = _chunk("", finish_reason="stop" if kept == text else "length", usage=usage)
    return [*map(_chunk, _sentences(kept)), end]


def _sentences(text: str) -> list[str]:
    """The text cut after each citation."""
    parts = text.split("] ")
    return [f"{part}] " for part in parts[:-1]] + parts[-1:]


def _chunk(text: str, *, finish_reason: str = "", usage: dict[str, int] | None = None) -> dict[str, Any]:
    """A chunk in LiteLLM's generic form."""
    return {
        "text": text,
        "is_finished": bool(finish_reason),
        "finish_reason": finish_reason,
        "usage": usage,
        "index": 0,
        "tool_use": None,
    }
