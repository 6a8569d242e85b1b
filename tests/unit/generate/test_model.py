"""LiteLlmModel against a real HTTP server that speaks OpenAI's chat API, well and badly."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import pytest

from ragline.errors import PermanentError, TransientError
from services.generate.extractive import MODEL as EXTRACTIVE
from services.generate.model import LiteLlmModel, ModelChunk, ModelError, ModelRejected, Usage, load_litellm
from services.generate.prompts import REFUSAL, Evidence, Prompt, render

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")  # within LiteLLM

KEY = "sk-very-secret-0123456789"
STATUSES = {"busy": 429, "broken": 500, "overloaded": 503, "wrong-key": 401, "forbidden": 403, "missing": 404}
CONTEXT_ERROR = "This model's maximum context length is 4097 tokens"


class ChatServer:
    """Answers `Hello world` as a stream; the model's name says what goes wrong."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.disconnected = asyncio.Event()
        self.base = ""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                request = await self._read(reader)
                await self._answer(request["model"], reader, writer)
        finally:
            writer.close()
            self.disconnected.set()

    async def _read(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        request: dict[str, Any] = json.loads(await reader.readexactly(int(length.split(b":")[1])))
        self.requests.append(request)
        return request

    async def _answer(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind in STATUSES or kind == "too-long":
            message = CONTEXT_ERROR if kind == "too-long" else f"no, not with {KEY}"
            body = json.dumps({"error": {"message": message, "type": "x", "code": "x"}}).encode()
            status = STATUSES.get(kind, 400)
            writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
            return
        if kind == "silent":
            await reader.read()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for text in ("Hello", " world"):
            await _send(writer, _event({"choices": [_choice(text)]}))
        if kind == "stalls":
            await reader.read()
        if kind == "dripping":
            while True:
                await _send(writer, _event({"choices": [_choice(".")]}))
                await asyncio.sleep(0.01)
        if kind == "hangs-up":
            writer.transport.abort()
        if kind == "garbage":
            await _send(writer, b"data: {not json\n\n")
        if kind != "unfinished":
            reason = "length" if kind == "wordy" else "stop"
            await _send(writer, _event({"choices": [_choice(None, reason)]}))
        if kind != "uncounted":
            usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
            await _send(writer, _event({"choices": [], "usage": usage}))
        await _send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _choice(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish_reason}


def _event(fields: dict[str, Any]) -> bytes:
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "another-name", **fields}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


@pytest.fixture(scope="module", autouse=True)
async def _loaded() -> None:
    await asyncio.to_thread(LiteLlmModel().load)


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    chat = ChatServer()
    listening = await chat.start()
    yield chat
    listening.close()


@pytest.fixture
def model(server: ChatServer) -> LiteLlmModel:
    return LiteLlmModel(api_base=server.base, api_key=KEY)


PROMPT = Prompt(({"role": "user", "content": "Say hello."},), "test", "hash", ())


async def ask(model: LiteLlmModel, kind: str, *, timeout_s: float = 10.0) -> list[ModelChunk]:
    stream = model.stream(PROMPT, model=f"openai/{kind}", max_tokens=50, timeout_s=timeout_s)
    return [chunk async for chunk in stream]


async def test_an_answer_is_streamed_and_ends_with_the_usage_that_the_provider_reports(model):
    assert await ask(model, "plain") == [
        ModelChunk("Hello"),
        ModelChunk(" world"),
        ModelChunk("", Usage(11, 3, reported=True), "stop"),
    ]


async def test_the_provider_is_told_the_limit_and_asked_for_usage(model, server):
    await ask(model, "plain")
    (request,) = server.requests
    assert request["max_tokens"] == 50
    assert request["stream_options"] == {"include_usage": True}
    assert request["messages"] == [{"role": "user", "content": "Say hello."}]


async def test_unreported_usage_is_counted_here_and_says_so(model):
    last = (await ask(model, "uncounted"))[-1]
    expected = Usage(
        model.count_tokens("openai/x", "Say hello."), model.count_tokens("openai/x", "Hello world"), reported=False
    )
    assert last.usage == expected and expected.prompt_tokens > 0


async def test_litellm_never_counts_tokens_itself_which_for_some_names_asks_the_network():
    assert load_litellm().token_counter(model="openai/llama-2-7b", text="Hello") == 0


async def test_an_answer_that_was_cut_says_so(model):
    assert (await ask(model, "wordy"))[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("busy", "MODEL_RATE_LIMITED"), ("broken", "MODEL_UNAVAILABLE"), ("overloaded", "MODEL_UNAVAILABLE")],
)
async def test_a_refusal_that_may_pass_is_transient_and_is_not_retried_here(model, server, kind, reason):
    with pytest.raises(ModelError) as caught:
        await ask(model, kind)
    assert isinstance(caught.value, TransientError) and caught.value.reason == reason
    assert caught.value.sent is True
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["wrong-key", "forbidden", "missing", "too-long"])
async def test_a_call_that_can_never_succeed_is_permanent(model, kind):
    with pytest.raises(ModelRejected) as caught:
        await ask(model, kind)
    assert isinstance(caught.value, PermanentError) and caught.value.reason == "MODEL_REJECTED"
    assert caught.value.sent is True


async def test_neither_errors_nor_logs_nor_output_repeat_the_key(model, capfd, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelRejected) as caught:
        await ask(model, "wrong-key")
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text


async def test_a_provider_that_does_not_answer_times_out(model, server):
    with pytest.raises(ModelError, match=r"no answer within 0\.2 s") as caught:
        await ask(model, "silent", timeout_s=0.2)
    assert caught.value.reason == "MODEL_TIMEOUT" and caught.value.sent is True
    await asyncio.wait_for(server.disconnected.wait(), 5)


@pytest.mark.parametrize("kind", ["stalls", "dripping"])
async def test_the_whole_answer_is_bounded_in_time_and_the_connection_closed(model, server, kind):
    with pytest.raises(ModelError) as caught:
        await ask(model, kind, timeout_s=0.3)
    assert caught.value.reason == "MODEL_TIMEOUT"
    await asyncio.wait_for(server.disconnected.wait(), 5)


@pytest.mark.parametrize("kind", ["garbage", "hangs-up", "unfinished"])
async def test_an_answer_that_breaks_off_is_an_error_after_the_text_that_came(model, kind):
    stream = model.stream(PROMPT, model=f"openai/{kind}", max_tokens=50, timeout_s=10)
    assert [(await anext(stream)).text, (await anext(stream)).text] == ["Hello", " world"]
    with pytest.raises(ModelError, match="broke off its answer") as caught:
        await anext(stream)
    assert caught.value.reason == "MODEL_UNAVAILABLE" and caught.value.sent is True


async def test_a_refused_connection_was_provably_not_sent():
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        await ask(LiteLlmModel(api_base="http://127.0.0.1:1/v1", api_key=KEY), "plain")
    assert caught.value.sent is False


async def test_an_unknown_provider_was_provably_not_sent():
    stream = LiteLlmModel().stream(PROMPT, model="nobody/nothing", max_tokens=5, timeout_s=5)
    with pytest.raises(ModelRejected, match="provider/model") as caught:
        await anext(stream)
    assert caught.value.sent is False


async def test_a_missing_key_is_named_and_was_provably_not_sent(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelRejected, match="OPENAI_API_KEY is not set") as caught:
        await ask(LiteLlmModel(api_base=server.base), "plain")
    assert caught.value.sent is False
    assert server.requests == []


async def test_closing_the_stream_closes_the_connection(model, server):
    stream = model.stream(PROMPT, model="openai/stalls", max_tokens=50, timeout_s=60)
    async with aclosing(stream):
        assert (await anext(stream)).text == "Hello"
    await asyncio.wait_for(server.disconnected.wait(), 5)


@pytest.mark.parametrize("kind", ["silent", "stalls"])
async def test_cancelling_the_caller_closes_the_connection(model, server, kind):
    task = asyncio.create_task(ask(model, kind, timeout_s=60))
    while not server.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.disconnected.wait(), 5)


# --- the extractive model, by the same path -------------------------------------------------------

VINEYARD = Evidence(
    1, "wine", "Vineyards", ("Vineyards",), "The vineyard was planted in 1987. It faces south, near Porto."
)


def vineyard_prompt(question: str) -> Prompt:
    return render(question, [VINEYARD], token_budget=4000, count_tokens=lambda text: len(text) // 4)


async def test_the_extractive_model_answers_by_the_same_path_without_a_network():
    model = LiteLlmModel(api_base="http://127.0.0.1:1/v1")
    prompt = vineyard_prompt("When was the vineyard planted?")
    *pieces, last = [c async for c in model.stream(prompt, model=EXTRACTIVE, max_tokens=100, timeout_s=5)]
    text = "".join(piece.text for piece in pieces)
    assert text == "The vineyard was planted in 1987. [1]"
    counted = sum(model.count_tokens(EXTRACTIVE, message["content"]) for message in prompt.messages)
    assert last.usage == Usage(counted, model.count_tokens(EXTRACTIVE, text), reported=True)
    assert last.finish_reason == "stop"


async def test_the_extractive_model_refuses_and_keeps_to_the_limit():
    model = LiteLlmModel()
    refusal = [
        chunk
        async for chunk in model.stream(
            vineyard_prompt("Who won the chess tournament?"), model=EXTRACTIVE, max_tokens=100, timeout_s=5
        )
    ]
    assert "".join(chunk.text for chunk in refusal) == REFUSAL
    short = [
        chunk
        async for chunk in model.stream(
            vineyard_prompt("When was the vineyard planted?"), model=EXTRACTIVE, max_tokens=4, timeout_s=5
        )
    ]
    assert short[0].text == "The vineyard was planted"
    assert short[-1].finish_reason == "length" and short[-1].usage is not None
    assert short[-1].usage.completion_tokens == 4


async def test_the_extractive_model_also_answers_in_one_piece():
    messages = list(vineyard_prompt("When was the vineyard planted?").messages)
    response = await load_litellm().acompletion(model=EXTRACTIVE, messages=messages)
    assert response.choices[0].message.content == "The vineyard was planted in 1987. [1]"
    assert response.usage.completion_tokens > 0


async def test_the_extractive_model_rejects_what_is_not_the_gateways_prompt():
    with pytest.raises(ModelRejected):
        await anext(LiteLlmModel().stream(PROMPT, model=EXTRACTIVE, max_tokens=5, timeout_s=5))


# --- counting tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog, 12,345 times in 1987.",
        "antidisestablishmentarianism internationalisation counterrevolutionary",
        "def main(argument: str) -> None:\n    return print(f'{argument!r}')\n",
        "El desarrollo económico y la política exterior de la Unión Europea.",
        "人工智能正在改变世界。\U0001f600",
        "x=1;y=2;{}[]()<>!@#$%^&*",
    ],
)
async def test_the_token_count_of_remote_models_bounds_a_real_tokenizers(text):
    real = len(load_litellm().encoding.encode(text))
    assert real <= LiteLlmModel().count_tokens("openai/gpt-4o", text) <= 5 * real
