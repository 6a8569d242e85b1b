"""The fixtures of the engines' contract suite: `vector_engine` runs a test on each engine.

`edge` is the embedded engine in its worker process. `qdrant-local` is the server's adapter on
qdrant-client's in-memory mode, and `qdrant-server` the same on a real server, which runs when
RAGLINE_TEST_QDRANT_URL names one.

What the in-memory mode cannot show, and only a real server does: HNSW and ACORN (it always searches
exactly), write ordering, waiting and time-outs, payload indexes, cancellation (it never waits), and the
server's own answers over gRPC (what is sent over gRPC is checked in test_engine_server.py). Its dense
scores are numpy's, which differ in their last bits with the number of points: tests that need them bit
by bit take `bitwise_dense_scores`, which skips them there by name. It does count IDF over the corpus
that it is given, so the tests of sparse scores run on it too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from ragline.index.edge import EdgeEngine
from ragline.index.engine import VectorEngine
from ragline.index.server import QdrantEngine
from tests.contract.engine_points import DIMENSIONS
from tests.engine_process import engine_worker

CONTRACT_MARKS = [
    pytest.mark.stack,
    # The in-memory mode warns of what it cannot show, which is said above.
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]

# Generations of one run differ from those of another: a server is shared.
_numbers = count(os.getpid() % 100_000 * 1000)


_server_url = os.environ.get("RAGLINE_TEST_QDRANT_URL")
ENGINES = ("edge", "qdrant-local", "qdrant-server") if _server_url else ("edge", "qdrant-local")


@pytest.fixture(scope="session", params=ENGINES)
async def vector_engine(request: pytest.FixtureRequest) -> AsyncIterator[VectorEngine]:
    """Each engine in turn, shared by all tests."""
    if request.param == "edge":
        with tempfile.TemporaryDirectory(prefix="ragline-", dir=_memory_folder()) as folder:
            async with engine_worker(Path(folder)) as address:
                edge = EdgeEngine(address)
                yield edge
                await edge.aclose()
        return
    if request.param == "qdrant-local":
        server = QdrantEngine(AsyncQdrantClient(location=":memory:"))
    else:
        assert _server_url is not None
        server = QdrantEngine.at(_server_url, api_key=os.environ.get("RAGLINE_TEST_QDRANT_API_KEY"))
    yield server
    await server.aclose()


@pytest.fixture
def bitwise_dense_scores(request: pytest.FixtureRequest) -> None:
    """For tests that compare dense scores bit by bit."""
    if "qdrant-local" in request.node.name:
        pytest.skip("qdrant-client's in-memory mode scores dense vectors by numpy, not bit by bit the same")


def _memory_folder() -> Path | None:
    """Where the system keeps files in memory: making a generation waits for the disk many times."""
    shared_memory = Path("/dev/shm")
    return shared_memory if shared_memory.is_dir() else None


@pytest.fixture
async def generation(vector_engine: VectorEngine) -> AsyncIterator[str]:
    """An empty generation of the engine, for one test."""
    name = new_generation()
    await vector_engine.create_generation(name, DIMENSIONS)
    yield name
    await vector_engine.drop_generation(name)


@pytest.fixture(scope="module")
async def shared_generation(vector_engine: VectorEngine) -> AsyncIterator[str]:
    """An empty generation for the examples of a property."""
    name = new_generation()
    await vector_engine.create_generation(name, DIMENSIONS)
    yield name
    await vector_engine.drop_generation(name)


def new_generation() -> str:
    """A generation that no other test uses."""
    return f"g{next(_numbers)}"
