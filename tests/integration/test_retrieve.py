"""Search over real gRPC on the real engine: at one version, and only what the caller may read."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ragline.contracts.events import GenerationState, IndexState
from ragline.errors import InvalidArgument, PermissionDenied, TransientError, VersionUnavailable
from ragline.identity import Identity, KeyFile
from ragline.index.edge import EdgeEngine
from ragline.index.engine import WHOLE_TENANT, NewPoint, Payload
from ragline.index.identity import chunk_id, content_hash, embedder_input, point_id
from ragline.index.versions import IndexVersion
from ragline.models.sparse import Bm25Encoder
from ragline.models.static import WordLlamaEmbedder
from ragline.retrieve.v1 import retrieve_pb2 as pb
from ragline.retrieve.v1 import retrieve_pb2_grpc
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.telemetry import Telemetry
from services.retrieve import readers
from services.retrieve.readers import IndexFollower
from services.retrieve.search import Searcher
from services.retrieve.servicer import SCOPES, RetrieveServicer
from tests.engine_process import engine_worker

pytestmark = pytest.mark.stack

OLD = "Python code used tabs for indentation in the old days."
NEW = "Python code uses four spaces for indentation today."
SECRET = "The board plans to rename the indentation committee."
FOREIGN = "Another tenant writes about indentation as well."
GERMAN = "Die Einrückung in Python: vier Leerzeichen, indentation in English."


@dataclass
class Reader:
    """A reader of an index with these commits: OLD at 1, replaced by NEW at 2; the others at 3; 4 is aborted."""

    stub: retrieve_pb2_grpc.RetrieveServiceAsyncStub
    follower: IndexFollower
    keys: KeyFile
    telemetry: Telemetry
    asked: list[str] = field(default_factory=list)

    def caller(self, *groups: str, tenant: str = "acme", scope: str = "search") -> Caller:
        identity = Identity(tenant, "ada", frozenset(groups), frozenset({scope}))
        return Caller(self.telemetry, token=self.keys.create(identity))

    async def search(
        self, query: str = "indentation", *, caller: Caller | None = None, deadline_s: float = 10, **fields: Any
    ) -> pb.SearchResponse:
        request = pb.SearchRequest(query=query, **fields)
        response: pb.SearchResponse = await (caller or self.caller())(
            self.stub.Search, request, name="RetrieveService/Search", deadline_s=deadline_s
        )
        return response

    async def texts(self, query: str = "indentation", **options: Any) -> set[str]:
        return {hit.text for hit in (await self.search(query, **options)).hits}


class Writer:
    """Writes points as embed does."""

    def __init__(self, engine: EdgeEngine) -> None:
        self._engine = engine
        self._embedder = WordLlamaEmbedder.load()
        self._sparse = Bm25Encoder()

    async def write(
        self,
        sequence: int,
        text: str,
        *,
        tenant: str = "acme",
        groups: Sequence[str] = (WHOLE_TENANT,),
        lang: str = "en",
    ) -> None:
        path = ("Handbook", "Indentation")
        content = embedder_input(path, text)
        name = chunk_id(tenant, "handbook", content_hash(content), 0)
        payload = Payload(
            tenant=tenant,
            document_id="handbook",
            chunk_id=name,
            content_hash=content_hash(content),
            metadata_hash=hashlib.sha256(lang.encode()).hexdigest(),
            text=text,
            heading_path=path,
            title="Handbook",
            uri="https://example.org/handbook",
            groups=tuple(groups),
            metadata={"lang": lang},
        )
        dense, sparse = self._embedder.embed([content])[0], self._sparse.document(content)
        await self._engine.insert(
            "g1", sequence, [NewPoint(self.id_of(text, sequence, tenant), dense, sparse, payload)]
        )

    def id_of(self, text: str, sequence: int, tenant: str = "acme") -> Any:
        content = content_hash(embedder_input(("Handbook", "Indentation"), text))
        return point_id("g1", chunk_id(tenant, "handbook", content, 0), sequence)


def state(watermark: int, *, horizon: int = 1) -> IndexState:
    known = GenerationState(
        watermark=watermark,
        fingerprint=f"f{watermark}",
        horizon=horizon,
        aborted=(4,),
        embedder="wordllama",
        dimensions=256,
    )
    return IndexState(epoch=1, live_generation="g1", generations={"g1": known})


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[EdgeEngine]:
    with tempfile.TemporaryDirectory(prefix="ragline-", dir="/tmp") as folder:
        async with engine_worker(Path(folder)) as address:
            engine = EdgeEngine(address)
            await engine.create_generation("g1", 256)
            writer = Writer(engine)
            await writer.write(1, OLD)
            await writer.write(2, NEW)
            await engine.close("g1", 2, [writer.id_of(OLD, 1)], frozenset())
            await writer.write(3, SECRET, groups=["board"])
            await writer.write(3, FOREIGN, tenant="other")
            await writer.write(3, GERMAN, lang="de")
            await writer.write(4, "Never committed: indentation.")
            yield engine
            await engine.aclose()


@pytest.fixture
async def reader(engine: EdgeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reader]:
    monkeypatch.setattr(readers, "ANNOUNCEMENT_DELAY_S", 0.02)
    asked: list[str] = []

    async def look_up(version: IndexVersion) -> str:
        asked.append(str(version))
        return f"f{version.sequence}"

    telemetry, keys, follower = Telemetry("retrieve"), KeyFile(tmp_path / "keys.json"), IndexFollower(look_up)
    await follower.take(state(3))
    searcher = Searcher(
        follower=follower,
        engine=engine,
        embedder=WordLlamaEmbedder.load(),
        sparse=Bm25Encoder(),
        telemetry=telemetry,
    )
    servicer = RetrieveServicer(searcher, embedder="wordllama")
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc: retrieve_pb2_grpc.add_RetrieveServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
    )
    await server.start()
    channel = open_channel(server.address)
    yield Reader(retrieve_pb2_grpc.RetrieveServiceStub(channel), follower, keys, telemetry, asked)
    await channel.close()
    await server.stop(grace_s=0)


# --- what is found --------------------------------------------------------------------------------


async def test_a_hit_carries_what_a_citation_needs(reader: Reader) -> None:
    response = await reader.search("How many spaces does Python indentation have?")

    assert (response.index_version.version, response.index_version.fingerprint) == ("g1@3", "f3")
    assert response.embedder == "wordllama"
    assert set(response.latency_ms) == {"wait", "embed", "engine"}
    hit = response.hits[0]
    assert (hit.rank, hit.text, hit.document_id, hit.title) == (1, NEW, "handbook", "Handbook")
    assert (tuple(hit.heading_path), hit.uri) == (("Handbook", "Indentation"), "https://example.org/handbook")
    assert hit.valid_from == 2
    assert hit.dense.rank == 1 and hit.sparse.rank >= 1
    assert [one.rank for one in response.hits] == list(range(1, len(response.hits) + 1))
    assert [one.score for one in response.hits] == sorted((one.score for one in response.hits), reverse=True)


async def test_the_limit_bounds_the_hits(reader: Reader) -> None:
    assert len((await reader.search(limit=1)).hits) == 1


async def test_metadata_narrows_the_search(reader: Reader) -> None:
    assert await reader.texts(metadata={"lang": "de"}) == {GERMAN}
    assert await reader.texts(metadata={"lang": "fr"}) == set()


@pytest.mark.parametrize("query", ["🦜", "::: !!!", "\u200b?", "the of and"])
async def test_a_query_without_a_known_word_is_answered_all_the_same(reader: Reader, query: str) -> None:
    await reader.search(query)


# --- what a caller may read -----------------------------------------------------------------------


async def test_tenant_and_groups_come_from_the_token_alone(reader: Reader) -> None:
    assert await reader.texts() == {NEW, GERMAN}
    assert await reader.texts(caller=reader.caller("board")) == {NEW, GERMAN, SECRET}
    assert await reader.texts(caller=reader.caller("board", tenant="other")) == {FOREIGN}
    assert await reader.texts(caller=reader.caller(tenant="third")) == set()


async def test_metadata_cannot_be_used_to_widen_what_is_read(reader: Reader) -> None:
    for key in ("tenant", "groups", "valid_to", "text"):
        assert await reader.texts(metadata={key: "board"}) == set()


async def test_a_key_without_the_scope_is_refused(reader: Reader) -> None:
    with pytest.raises(PermissionDenied):
        await reader.search(caller=reader.caller(scope="publish"))


# --- which version --------------------------------------------------------------------------------


async def test_a_query_can_go_back_in_time(reader: Reader) -> None:
    assert await reader.texts(at_version="g1@1") == {OLD}
    assert await reader.texts(at_version="g1@2") == {NEW}
    response = await reader.search(at_version="g1@2")
    assert (response.index_version.version, response.index_version.fingerprint) == ("g1@2", "f2")
    assert reader.asked == ["g1@1", "g1@2"], "a version's fingerprint is asked for once"


async def test_scores_repeat_at_an_old_version(reader: Reader, engine: EdgeEngine) -> None:
    before = await reader.search(at_version="g1@2")
    await Writer(engine).write(9, "Later: indentation, indentation, indentation.")

    after = await reader.search(at_version="g1@2")

    assert [(hit.text, hit.score, hit.sparse.score) for hit in before.hits] == [
        (hit.text, hit.score, hit.sparse.score) for hit in after.hits
    ]


async def test_what_was_aborted_or_is_not_yet_committed_is_never_seen(reader: Reader) -> None:
    await reader.follower.take(state(5))

    assert await reader.texts() == {NEW, GERMAN}


async def test_access_holds_at_old_versions_too(reader: Reader) -> None:
    assert SECRET not in await reader.texts(at_version="g1@3")


@pytest.mark.parametrize("version", ["g1@0", "g1@9", "g2@1"])
async def test_a_version_that_cannot_be_read_is_refused(reader: Reader, version: str) -> None:
    with pytest.raises(VersionUnavailable, match=version):
        await reader.search(at_version=version)


async def test_a_query_waits_for_the_version_that_it_must_see(reader: Reader) -> None:
    waiting = asyncio.create_task(reader.search(min_version="g1@5"))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await reader.follower.take(state(6))

    assert (await waiting).index_version.version == "g1@6"


async def test_a_version_that_does_not_come_in_time_ends_at_the_deadline(reader: Reader) -> None:
    with pytest.raises(TransientError) as late:
        await reader.search(min_version="g1@99", deadline_s=0.2)

    assert late.value.reason == "DEADLINE_EXCEEDED"


# --- bad requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": " \n\t"}, "query"),
        ({"query": "x" * 1_000_000}, "query"),
        ({"query": "a" + "\u0316\u0301" * 500_000}, "query"),
        ({"limit": -1}, "limit"),
        ({"limit": 101}, "limit"),
        ({"at_version": "yesterday"}, "at_version"),
        ({"min_version": "g1@"}, "min_version"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ],
)
async def test_a_bad_request_names_its_field_at_once(reader: Reader, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await reader.search(**fields, deadline_s=3)

    assert refused.value.field == field
    assert len(str(refused.value)) < 200
