"""The extractive model as a LiteLLM provider, so that the gateway calls every model the same way.

Importing this module imports LiteLLM: only `services.generate.model.load_litellm` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from litellm.llms.custom_llm import CustomLLM, CustomLLMError
from litellm.types.utils import Choices, GenericStreamingChunk, Message, ModelResponse
from litellm.types.utils import Usage as LiteLlmUsage

from ragline.errors import InvalidArgument
from services.generate.extractive import answer, count_tokens, cut_to_tokens
from services.generate.prompts import parse

PROVIDER: Final = "ragline"


class ExtractiveProvider(CustomLLM):  # type: ignore[misc]
    """Answers chat completions whose messages are the gateway's own prompt; anything else is refused (400)."""

    def completion(self, *, model_response: ModelResponse, **call: Any) -> ModelResponse:
        """The whole answer at once."""
        pieces = _write(call)
        model_response.choices = [
            Choices(
                finish_reason=pieces[-1]["finish_reason"],
                message=Message(role="assistant", content="".join(piece["text"] for piece in pieces)),
            )
        ]
        model_response.usage = LiteLlmUsage(**(pieces[-1]["usage"] or {}))
        return model_response

    async def acompletion(self, *, model_response: ModelResponse, **call: Any) -> ModelResponse:
        """As `completion`: it takes a few milliseconds and waits for nothing."""
        return self.completion(model_response=model_response, **call)

    def streaming(self, **call: Any) -> Iterator[GenericStreamingChunk]:
        """The answer sentence by sentence."""
        yield from _write(call)

    async def astreaming(self, **call: Any) -> AsyncIterator[GenericStreamingChunk]:
        """As `streaming`."""
        for piece in _write(call):
            yield piece


def _write(call: Mapping[str, Any]) -> list[GenericStreamingChunk]:
    """The chunks of the answer to a call; the last one ends it and carries the usage."""
    messages: Sequence[dict[str, str]] = call["messages"]
    try:
        question, evidence = parse(messages)
    except InvalidArgument as error:
        raise CustomLLMError(status_code=400, message=str(error)) from error
    text = answer(question, evidence).text
    limit = call["optional_params"].get("max_tokens")
    kept = text if limit is None else cut_to_tokens(text, limit)
    prompt_tokens = sum(count_tokens(message["content"]) for message in messages)
    completion_tokens = count_tokens(kept)
    pieces = [_chunk(piece) for piece in _sentences(kept)]
    end = _chunk("", finish_reason="stop" if kept == text else "length")
    end["usage"] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return [*pieces, end]


def _sentences(text: str) -> list[str]:
    """The text cut after each citation."""
    parts = text.split("] ")
    return [f"{part}] " for part in parts[:-1]] + parts[-1:]


def _chunk(text: str, *, finish_reason: str = "") -> GenericStreamingChunk:
    return GenericStreamingChunk(
        text=text, is_finished=bool(finish_reason), finish_reason=finish_reason, usage=None, index=0, tool_use=None
    )
