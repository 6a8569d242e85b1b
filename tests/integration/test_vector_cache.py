"""The embedding cache: each content is embedded once, and a failure hits only who caused it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from ragline.database import Database
from ragline.errors import PermanentError, TransientError
from ragline.index.identity import content_hash
from ragline.models.embedding import Vectors
from ragline.models.sparse import Bm25Encoder
from services.embed.vectors import ChunkEncoder, ChunkText, VectorCache
from tests.integration.embed_under_test import MIGRATIONS, running

pytestmark = pytest.mark.stack


class CountingEmbedder:
    """Embeds a text as its length; notes every batch, and fails for the texts that a test names."""

    name = "counting"
    dimensions = 2

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.bad: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, texts: Sequence[str]) -> Vectors:
        assert self.gate.wait(10)
        for text in texts:
            if text in self.bad:
                raise self.bad[text]
        self.batches.append(list(texts))
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "embed")
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
async def cache(database: Database, embedder: CountingEmbedder) -> AsyncIterator[VectorCache]:
    await database.fetch("DELETE FROM embedding")
    cache = VectorCache(database, embedder, batch=4)
    async with running(cache.run()):
        yield cache


def chunk(text: str) -> ChunkText:
    return ChunkText(content_hash(text), (), text)


def embedded(embedder: CountingEmbedder) -> list[str]:
    return sorted(text for batch in embedder.batches for text in batch)


async def test_a_content_is_embedded_once_whoever_asks(cache: VectorCache, embedder: CountingEmbedder) -> None:
    await cache.embed([chunk("one"), chunk("two"), chunk("one")])
    vectors = await cache.embed([chunk("two"), chunk("three")])

    assert embedded(embedder) == ["one", "three", "two"]
    assert cache.embedded == 3
    assert vectors[content_hash("two")].tolist() == [3.0, 1.0]


async def test_requests_that_wait_together_share_a_batch(cache: VectorCache, embedder: CountingEmbedder) -> None:
    await asyncio.gather(*(cache.embed([chunk(text)]) for text in ("one", "two", "one")))

    assert [sorted(batch) for batch in embedder.batches] == [["one", "two"]]


async def test_batches_are_bounded(cache: VectorCache, embedder: CountingEmbedder) -> None:
    await cache.embed([chunk(str(number)) for number in range(10)])

    assert [len(batch) for batch in embedder.batches] == [4, 4, 2]


async def test_vectors_outlive_the_process(database: Database, cache: VectorCache) -> None:
    await cache.embed([chunk("one")])

    again = VectorCache(database, CountingEmbedder())
    assert (await again.known([content_hash("one")]))[content_hash("one")].tolist() == [3.0, 1.0]


@pytest.mark.parametrize("error", [PermanentError("refused"), ValueError("row 0 is not finite")])
async def test_a_text_that_cannot_be_embedded_fails_alone(
    cache: VectorCache, embedder: CountingEmbedder, error: Exception
) -> None:
    embedder.bad["bad"] = error

    good, bad, other = await asyncio.gather(
        *(cache.embed([chunk(text)]) for text in ("good", "bad", "other")), return_exceptions=True
    )

    assert bad is error
    assert not isinstance(good, BaseException) and not isinstance(other, BaseException)
    assert await cache.embed([chunk("after")]), "the cache goes on"


async def test_a_passing_trouble_is_everybody_s(cache: VectorCache, embedder: CountingEmbedder) -> None:
    embedder.bad["one"] = TransientError("the model is away")

    outcomes = await asyncio.gather(cache.embed([chunk("one")]), cache.embed([chunk("two")]), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [TransientError, TransientError]


async def test_stopping_is_not_taken_for_the_caller_s_own_cancellation(
    database: Database, embedder: CountingEmbedder
) -> None:
    """A cancelled lane would pass for a handled one, and its record would be lost."""
    cache = VectorCache(database, embedder)
    embedder.gate.clear()
    work = asyncio.create_task(cache.run())
    first = asyncio.create_task(cache.embed([chunk("slow")]))
    await asyncio.sleep(0.05)
    queued = asyncio.create_task(cache.embed([chunk("queued")]))
    await asyncio.sleep(0)

    work.cancel()
    embedder.gate.set()

    for waiting in (first, queued):
        with pytest.raises(TransientError, match="stopping"):
            await waiting
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_encoding_gives_both_vectors_in_order_and_counts_what_was_new(cache: VectorCache) -> None:
    encoder = ChunkEncoder(cache, Bm25Encoder())
    await encoder.encode([("a", chunk("alpha beta"))])

    vectors, new = await encoder.encode([("b", chunk("gamma")), ("c", chunk("alpha beta"))])

    assert [vector.chunk_id for vector in vectors] == ["b", "c"]
    assert new == 1
    assert len(vectors[1].sparse.indices) == 2
    assert vectors[1].dense.tolist() == [10.0, 1.0]
