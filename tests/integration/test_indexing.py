"""embed from the event to the index, and what IndexService tells of it, with a real ledger and engine."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest

from ragline.contracts.cloudevents import Received
from ragline.contracts.events import ChunksReady, IndexState
from ragline.errors import ConfigurationError, InvalidArgument, NotFound, TransientError, VersionUnavailable
from ragline.identity import Identity, KeyFile
from ragline.index.edge import EdgeEngine
from ragline.index.engine import VectorEngine
from ragline.indexing.v1 import indexing_pb2 as pb
from ragline.indexing.v1 import indexing_pb2_grpc
from ragline.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from ragline.models.embedding import Vectors
from ragline.models.sparse import Bm25Encoder
from ragline.rpc import Caller, RpcServer, open_channel
from services.embed.committer import Committed, Committer
from services.embed.handlers import Indexer
from services.embed.parts import StagedParts
from services.embed.servicer import SCOPES, IndexServicer
from services.embed.vectors import ChunkEncoder, VectorCache
from services.ingest.servicer import SCOPES as INGEST_SCOPES
from tests.document_versions import DOCUMENT, TENANT, delete, upsert
from tests.engine_process import engine_worker
from tests.integration.embed_under_test import DIMENSIONS, GENERATION, Index, empty_index, running

pytestmark = pytest.mark.stack


class HashEmbedder:
    """Embeds a text as random numbers that depend on it; notes what it embedded."""

    name = "test"
    dimensions = DIMENSIONS

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded.extend(texts)
        rows = [np.random.default_rng(list(text.encode())).normal(size=DIMENSIONS) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


@dataclass
class FakeIngest(ingest_pb2_grpc.IngestServiceServicer):
    """Has the texts that a test says, and notes which were asked for."""

    texts: dict[str, str] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    down: bool = False

    async def GetChunks(self, request: Any, context: Any) -> ingest_pb2.GetChunksResponse:
        if self.down:
            raise TransientError("ingest is restarting")
        self.asked.append(list(request.content_hashes))
        chunks = [
            ingest_pb2.ChunkText(content_hash=name, text=self.texts[name])
            for name in request.content_hashes
            if name in self.texts
        ]
        return ingest_pb2.GetChunksResponse(chunks=chunks)


@dataclass
class Embed:
    """embed, wired like its app."""

    index: Index
    indexer: Indexer
    embedder: HashEmbedder
    ingest: FakeIngest
    stub: indexing_pb2_grpc.IndexServiceAsyncStub
    keys: KeyFile

    async def handle(self, event: ChunksReady) -> Committed | None:
        return await self.indexer.index_document(Received(event, "id", "ragline/ingest"))

    async def ask(self, method: str, scope: str = "admin", **fields: Any) -> Any:
        token = self.keys.create(Identity("ragline", "ada", scopes=frozenset({scope})))
        request = getattr(pb, f"{method}Request")(**fields)
        return await Caller(self.index.telemetry, token=token)(getattr(self.stub, method), request, name=method)


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[EdgeEngine]:
    with tempfile.TemporaryDirectory(prefix="ragline-", dir="/tmp") as folder:
        async with engine_worker(Path(folder)) as address:
            engine = EdgeEngine(address)
            yield engine
            await engine.aclose()


@pytest.fixture
async def embed(database_url: str, engine: EdgeEngine, tmp_path: Path) -> AsyncIterator[Embed]:
    async with empty_index(database_url, engine) as index:
        keys, ingest, embedder = KeyFile(tmp_path / "keys.json"), FakeIngest(), HashEmbedder()  # type: ignore[abstract]
        vector_engine = cast("VectorEngine", index.engine)
        cache = VectorCache(index.database, embedder)
        servicer = IndexServicer(index.ledger, index.history, vector_engine, cache)

        def register(server: grpc.aio.Server) -> None:
            indexing_pb2_grpc.add_IndexServiceServicer_to_server(servicer, server)
            ingest_pb2_grpc.add_IngestServiceServicer_to_server(ingest, server)

        server = RpcServer(
            "127.0.0.1:0",
            telemetry=index.telemetry,
            keys=keys,
            register=register,
            scopes=SCOPES | INGEST_SCOPES,
        )
        await server.start()
        channel = open_channel(server.address)
        committer = Committer(index.ledger, vector_engine, index.telemetry)
        service = Identity("ragline", "embed", scopes=frozenset({"internal"}))
        indexer = Indexer(
            ledger=index.ledger,
            encoder=ChunkEncoder(cache, Bm25Encoder()),
            committer=committer,
            parts=StagedParts(index.database),
            ingest=ingest_pb2_grpc.IngestServiceStub(channel),
            caller=Caller(index.telemetry, token=keys.create(service)),
            telemetry=index.telemetry,
        )
        indexer.generation = GENERATION
        async with running(cache.run()), running(committer.run()):
            yield Embed(index, indexer, embedder, ingest, indexing_pb2_grpc.IndexServiceStub(channel), keys)
        await channel.close()
        await server.stop(grace_s=0)


def without_texts(event: ChunksReady, *texts: str) -> ChunksReady:
    """The event as it travels when ingest has announced these texts before."""
    entries = (entry.model_copy(update={"text": None}) if entry.text in texts else entry for entry in event.manifest)
    return event.model_copy(update={"manifest": tuple(entries)})


# --- indexing -------------------------------------------------------------------------------------


async def test_an_event_becomes_a_version_and_its_redelivery_does_nothing(embed: Embed) -> None:
    event = upsert(1, ["one", "two"])

    committed = await embed.handle(event)
    again = await embed.handle(event)

    assert committed is not None and str(committed.version) == "g1@1"
    assert again is None
    assert await embed.index.texts() == ["one", "two"]


async def test_reuse_and_freshness_are_measured(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two"]))
    await embed.handle(upsert(2, ["one", "two", "three"]))

    assert embed.index.measured("rag.chunks.embedded") == 3
    assert embed.index.measured("rag.chunks.reused") == 2
    assert embed.index.measured("rag.freshness") == 2


async def test_only_contents_that_were_never_embedded_are_embedded(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two"]))
    await embed.handle(upsert(2, ["one", "three"]))
    await embed.handle(delete(3))
    await embed.handle(upsert(4, ["two", "three"], metadata={"lang": "de"}))
    await embed.handle(upsert(1, ["one", "three"], document_id="copy"))

    assert embed.embedder.embedded == ["one", "two", "three"]
    await embed.index.verify_every_version()


async def test_texts_that_travelled_before_are_not_asked_for_while_the_index_has_them(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two"]))
    await embed.handle(without_texts(upsert(2, ["one", "three"]), "one"))

    assert embed.ingest.asked == []
    assert await embed.index.texts() == ["one", "three"]


async def test_texts_of_an_event_that_was_missed_are_fetched(embed: Embed) -> None:
    event = upsert(2, ["one", "two", "three"])
    embed.ingest.texts = {entry.content_hash: str(entry.text) for entry in event.manifest}

    await embed.handle(without_texts(event, "one", "two"))

    assert embed.ingest.asked == [sorted(entry.content_hash for entry in event.manifest[:2])]
    assert await embed.index.texts() == ["one", "three", "two"]
    await embed.index.verify_every_version()


async def test_a_text_that_nobody_has_any_more_is_said_so(embed: Embed) -> None:
    with pytest.raises(NotFound, match="newer version will follow") as gone:
        await embed.handle(without_texts(upsert(1, ["one"]), "one"))

    assert gone.value.reason == "TEXT_GONE"
    assert await embed.index.state() == (0, ()), "no sequence was taken for it"


async def test_while_ingest_is_down_the_event_waits(embed: Embed) -> None:
    embed.ingest.down = True
    with pytest.raises(TransientError):
        await embed.handle(without_texts(upsert(1, ["one"]), "one"))


async def test_a_document_in_parts_becomes_visible_in_one_version(embed: Embed) -> None:
    whole = upsert(1, ["one", "two", "three"])
    parts = [
        whole.model_copy(update={"manifest": whole.manifest[n : n + 1], "part": n + 1, "parts": 3}) for n in range(3)
    ]

    assert [await embed.handle(part) for part in parts[:2]] == [None, None]
    assert await embed.index.texts() == []
    assert await embed.handle(parts[2]) is not None

    assert await embed.index.texts() == ["one", "three", "two"]
    assert await embed.index.database.fetch("SELECT 1 FROM staged_part") == []


# --- what the index tells of itself ---------------------------------------------------------------


async def test_the_state_that_readers_get_by_rpc_is_the_one_that_is_announced(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one"]))

    state = IndexState.model_validate_json((await embed.ask("GetState", "internal")).state_json)

    assert state == (await embed.index.announcements())[-1]


async def test_the_status_counts_what_is_there(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two"]))
    await embed.handle(upsert(2, ["one"]))
    await embed.handle(upsert(1, ["three"], document_id="other"))
    await embed.handle(delete(2, document_id="other"))
    await embed.index.begin(upsert(3, ["four"]))

    status = await embed.ask("GetStatus")

    assert (status.generation, status.watermark, status.embedder, status.dimensions) == ("g1", 4, "test", DIMENSIONS)
    assert (status.documents, status.points, status.closed_points) == (1, 1, 2)
    assert (status.pending_commits, status.aborted_sequences, status.cached_vectors) == (1, 0, 3)
    assert status.last_commit_unix_s > 0


async def test_commits_are_listed_newest_first(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two"]))
    await embed.handle(upsert(2, ["one", "three"]))

    commits = (await embed.ask("ListCommits", limit=5)).commits

    assert [(c.version, c.state, c.documents, c.opened, c.closed) for c in commits] == [
        ("g1@2", "complete", 1, 1, 1), ("g1@1", "complete", 1, 2, 0),
    ]  # fmt: skip
    for commit in commits:
        recorded = await embed.ask("GetVersion", "search", version=commit.version)
        assert commit.fingerprint == recorded.fingerprint
    with pytest.raises(InvalidArgument):
        await embed.ask("ListCommits", limit=-1)


async def test_only_versions_that_readers_can_see_are_called_committed(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one"]))
    await embed.index.begin(upsert(1, ["pending"], document_id="pending"))
    await embed.handle(upsert(1, ["behind"], document_id="behind it"))
    keys = [pb.DocumentKey(tenant=TENANT, document_id=name) for name in (DOCUMENT, "pending", "behind it", "unknown")]

    found = (await embed.ask("GetCommittedDocuments", "internal", documents=keys)).documents

    assert [(one.document_id, one.document_version, one.index_version) for one in found] == [(DOCUMENT, 1, "g1@1")]


async def test_damage_to_the_engine_is_found_and_told_apart(embed: Embed) -> None:
    await embed.handle(upsert(1, ["one", "two", "three"]))
    assert (await embed.ask("VerifyVersion")).matches
    (victim, *_) = await embed.index.points()
    stray = await embed.index.prepare(upsert(1, ["stray"], document_id="stray"))

    await embed.index.engine.delete(GENERATION, [victim.id])
    await embed.index.engine.insert(GENERATION, 1, [stray.vectors[0].point(uuid.uuid4(), stray.change)])

    found = await embed.ask("VerifyVersion", version="g1@1")
    assert not found.matches
    assert (found.points, found.missing, found.orphans, found.altered) == (3, 1, 1, 0)
    assert found.recorded_fingerprint != found.found_fingerprint


async def test_a_database_older_than_its_engine_is_refused(embed: Embed) -> None:
    """It would give out sequences again that the engine has points of."""
    engine = cast("VectorEngine", embed.index.engine)
    await embed.handle(upsert(1, ["one"]))
    await embed.index.history.check_engine_is_not_ahead(engine, GENERATION)

    stray = await embed.index.prepare(upsert(1, ["stray"], document_id="stray"))
    await engine.insert(GENERATION, 4, [stray.vectors[0].point(uuid.uuid4(), stray.change)])

    with pytest.raises(ConfigurationError, match="holds the commit g1@4, but the database only knows g1@1"):
        await embed.index.history.check_engine_is_not_ahead(engine, GENERATION)


@pytest.mark.parametrize("version", ["g1@9", "g2@1"])
@pytest.mark.parametrize(("method", "scope"), [("GetVersion", "search"), ("VerifyVersion", "admin")])
async def test_a_version_that_is_not_there_is_refused(embed: Embed, version: str, method: str, scope: str) -> None:
    with pytest.raises(VersionUnavailable, match=version):
        await embed.ask(method, scope, version=version)


async def test_the_trace_that_a_chunk_came_from_is_found(embed: Embed) -> None:
    with embed.index.telemetry.tracer.start_as_current_span("change") as span:
        await embed.handle(upsert(1, ["one"]))
    (point,) = await embed.index.points()
    asked = {"generation": GENERATION, "point_ids": [str(point.id), str(uuid.uuid4())]}

    traces = (await embed.ask("GetIngestTraces", "internal", **asked)).traceparents

    assert {name: trace.split("-")[1] for name, trace in traces.items()} == {
        str(point.id): f"{span.get_span_context().trace_id:032x}"
    }
    with pytest.raises(InvalidArgument):
        await embed.ask("GetIngestTraces", "internal", generation=GENERATION, point_ids=["x"])
