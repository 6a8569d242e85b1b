"""Composition root of embed: the only place that creates its adapters."""

from __future__ import annotations

from ragline.bus import Bus
from ragline.database import Database
from ragline.identity import KeyFile
from ragline.index.connect import connect_engine
from ragline.indexing.v1 import indexing_pb2_grpc
from ragline.ingest.v1 import ingest_pb2_grpc
from ragline.models.embedding import load_embedder
from ragline.models.sparse import Bm25Encoder
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.embed.committer import Committer
from services.embed.handlers import Indexer
from services.embed.history import History
from services.embed.ledger import Ledger
from services.embed.parts import StagedParts
from services.embed.servicer import SCOPES, IndexServicer
from services.embed.vectors import ChunkEncoder, VectorCache


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet except the embedder, which takes seconds on first use."""
    telemetry = Telemetry("embed")
    database = Database.of(settings, "embed")
    engine = connect_engine(settings.engine_url, api_key=settings.engine_api_key)
    bus = Bus(settings.bus, settings.bootstrap, service="embed", telemetry=telemetry)
    outbox = Outbox(database, bus.publish, source="ragline/embed")
    ledger, history = Ledger(database, outbox), History(database)
    embedder = load_embedder(settings.models.embedder, cache_dir=settings.data_dir / "models")
    cache = VectorCache(database, embedder)
    committer = Committer(ledger, engine, telemetry)
    ingest = open_channel(settings.rpc.ingest, max_message_mb=settings.rpc.max_message_mb)
    indexer = Indexer(
        ledger=ledger,
        encoder=ChunkEncoder(cache, Bm25Encoder()),
        committer=committer,
        parts=StagedParts(database),
        ingest=ingest_pb2_grpc.IngestServiceStub(ingest),
        caller=Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s),
        telemetry=telemetry,
    )
    indexer.subscribe(bus)

    async def prepare() -> None:
        generation = await ledger.open_generation(embedder.name, embedder.dimensions)
        await engine.create_generation(generation, embedder.dimensions)
        await history.check_engine_is_not_ahead(engine, generation)
        indexer.generation = generation

    servicer = IndexServicer(ledger, history, engine, cache)
    server = RpcServer(
        settings.rpc.indexing,
        telemetry=telemetry,
        keys=KeyFile(settings.keys_path),
        register=lambda grpc: indexing_pb2_grpc.add_IndexServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
        max_message_mb=settings.rpc.max_message_mb,
    )
    return Service(
        name="embed",
        telemetry=telemetry,
        server=server,
        bus=bus,
        database=database,
        prepare=prepare,
        background=(outbox.run, cache.run, committer.run, committer.run_reaper),
        closers=(engine.aclose, ingest.close),
    )
