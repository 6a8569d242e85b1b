from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ragline.errors import ConfigurationError, PermanentError, TransientError
from ragline.models.embedding import load_embedder
from ragline.models.remote import FastEmbedEmbedder, LiteLlmEmbedder

DIMENSIONS = 8


def vector_of(text: str) -> list[float]:
    """What the fake models answer: not of length 1, and different for different texts."""
    return np.random.default_rng(len(text) * 7919 + sum(text.encode())).normal(size=DIMENSIONS).tolist()


class EmbeddingsApi(ThreadingHTTPServer):
    """A local server that speaks the OpenAI embeddings API and answers as the test tells it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.dimensions = DIMENSIONS
        self.dropped = 0
        self.silent = threading.Event()
        self.silent.set()
        self.requests: list[dict[str, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingsApi

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({**request, "path": self.path, "key": self.headers["Authorization"]})
        self.server.silent.wait(timeout=30)
        if self.server.status == 200:
            self._answer(self._embeddings(request))
        else:
            self._answer({"error": {"message": "refused by the test", "type": "test", "code": None}})

    def _embeddings(self, request: dict[str, object]) -> dict[str, object]:
        rows = [
            {"object": "embedding", "index": index, "embedding": self._encoded(request, text)}
            for index, text in enumerate(request["input"])
        ]
        rows = rows[: len(rows) - self.server.dropped]
        # The last first: a client must go by the index.
        return {
            "object": "list",
            "data": rows[::-1],
            "model": request["model"],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    def _encoded(self, request: dict[str, object], text: str) -> str | list[float]:
        values = vector_of(text)[: self.server.dimensions]
        if request.get("encoding_format") == "base64":
            return base64.b64encode(np.array(values, dtype=np.float32).tobytes()).decode()
        return values

    def _answer(self, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingsApi]:
    server = EmbeddingsApi()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    yield server
    server.silent.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def embedder(api: EmbeddingsApi) -> LiteLlmEmbedder:
    return LiteLlmEmbedder.load("openai/test-embedding")


def expected(texts: list[str]) -> np.ndarray:
    rows = np.array([vector_of(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_setting_reaches_the_provider_by_its_own_variables(api):
    embedder = load_embedder("litellm:openai/test-embedding", cache_dir=Path("unused"))

    assert (embedder.name, embedder.dimensions) == ("litellm:openai/test-embedding", DIMENSIONS)
    (probe,) = api.requests
    assert (probe["path"], probe["model"], probe["key"]) == (
        "/v1/embeddings",
        "test-embedding",
        "Bearer sk-test",
    )


def test_the_address_may_be_given_instead(api, monkeypatch):
    monkeypatch.delenv("OPENAI_API_BASE")

    LiteLlmEmbedder.load("openai/test-embedding", api_base=api.url)

    assert len(api.requests) == 1


def test_vectors_are_made_unit_length_in_the_order_of_the_texts(embedder):
    texts = ["first", "the second", "and a third"]
    vectors = embedder.embed(texts)

    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected(texts), atol=1e-6)


def test_many_texts_go_in_batches(api, embedder):
    texts = [f"text {i}" for i in range(150)]

    assert np.allclose(embedder.embed(texts), expected(texts), atol=1e-6)
    assert [len(request["input"]) for request in api.requests[1:]] == [64, 64, 22]


def test_no_texts_ask_nobody(api, embedder):
    assert embedder.embed([]).shape == (0, DIMENSIONS)
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_provider_in_trouble_is_transient_and_not_asked_again_here(api, embedder, status):
    api.status = status

    with pytest.raises(TransientError, match="litellm:openai/test-embedding failed"):
        embedder.embed(["x"])
    assert len(api.requests) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_text_is_permanent(api, embedder, status):
    api.status = status

    with pytest.raises(PermanentError, match="refused by the test"):
        embedder.embed(["x"])


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refused_key_or_model_condemns_no_document(api, embedder, status):
    api.status = status

    with pytest.raises(TransientError) as caught:
        embedder.embed(["x"])
    assert caught.value.reason == "EMBEDDER_REFUSED"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_at_the_start_is_a_configuration_error(api, status):
    api.status = status

    with pytest.raises(ConfigurationError, match="cannot be used"):
        LiteLlmEmbedder.load("openai/test-embedding")


def test_a_name_without_a_known_provider_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="litellm:nobody/nothing"):
        LiteLlmEmbedder.load("nobody/nothing")


def test_a_missing_key_is_named_at_the_start(api, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")

    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY in the environment"):
        LiteLlmEmbedder.load("openai/test-embedding")


def test_a_provider_that_is_down_at_the_start_is_transient(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    closed = EmbeddingsApi()
    closed.server_close()

    with pytest.raises(TransientError, match="try again later"):
        LiteLlmEmbedder.load("openai/test-embedding", api_base=closed.url)


def test_a_silent_provider_runs_into_the_deadline(api):
    embedder = LiteLlmEmbedder.load("openai/test-embedding", timeout_s=0.3)
    api.silent.clear()

    with pytest.raises(TransientError, match="Timeout"):
        embedder.embed(["x"])


def test_an_answer_with_vectors_missing_is_transient(api, embedder):
    api.dropped = 1

    with pytest.raises(TransientError, match="answered 2 vectors for 3 texts"):
        embedder.embed(["a", "b", "c"])


def test_an_answer_of_another_model_is_transient(api, embedder):
    api.dimensions = DIMENSIONS - 1

    with pytest.raises(TransientError, match="7 dimensions where it had 8"):
        embedder.embed(["a"])


class FakeTextEmbedding:
    """The part of `fastembed.TextEmbedding` that Ragline uses."""

    embedding_size = DIMENSIONS

    def __init__(self, model_name: str) -> None:
        if model_name != "known/model":
            raise ValueError(f"Model {model_name} is not supported in TextEmbedding.")

    def embed(self, documents: list[str], batch_size: int) -> Iterator[np.ndarray]:
        return (np.array(vector_of(text), dtype=np.float32) for text in documents)


@pytest.fixture
def fastembed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fastembed")
    module.TextEmbedding = FakeTextEmbedding
    monkeypatch.setitem(sys.modules, "fastembed", module)


def test_fastembed_vectors_are_made_unit_length_in_order(fastembed):
    embedder = load_embedder("fastembed:known/model", cache_dir=Path("unused"))

    assert (embedder.name, embedder.dimensions) == ("fastembed:known/model", DIMENSIONS)
    assert np.allclose(embedder.embed(["a", "bc"]), expected(["a", "bc"]), atol=1e-6)
    assert embedder.embed([]).shape == (0, DIMENSIONS)


def test_a_model_that_fastembed_does_not_know_is_a_configuration_error(fastembed):
    with pytest.raises(ConfigurationError, match="fastembed cannot load 'other/model'"):
        FastEmbedEmbedder.load("other/model")


@pytest.mark.parametrize(("name", "package"), [("fastembed:known/model", "fastembed"), ("litellm:openai/x", "litellm")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConfigurationError, match=f"pip install {package}"):
        load_embedder(name, cache_dir=Path("unused"))


@pytest.mark.parametrize("name", ["bert", "minilm:x", "wordllama:256", "litellm:", "fastembed:", ""])
def test_an_unknown_embedder_says_which_there_are(name):
    with pytest.raises(ConfigurationError, match="use minilm, wordllama, litellm:<provider/model>"):
        load_embedder(name, cache_dir=Path("unused"))
