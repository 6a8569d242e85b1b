"""Composition root of ingest: the only place that creates its adapters."""

from __future__ import annotations

from ragline.bus import Bus
from ragline.database import Database
from ragline.identity import KeyFile
from ragline.indexing.v1 import indexing_pb2_grpc
from ragline.ingest.v1 import ingest_pb2_grpc
from ragline.models.embedding import load_token_counter
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.ingest.cutting import Cutter
from services.ingest.handlers import Changes, Searchability
from services.ingest.registry import Registry
from services.ingest.servicer import SCOPES, IngestServicer
from services.ingest.settings import IngestSettings


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet."""
    own = IngestSettings.load()
    telemetry = Telemetry("ingest")
    database = Database(
        settings.database_url,
        "ingest",
        pool_size=settings.database.pool_size,
        statement_timeout_s=settings.database.statement_timeout_s,
    )
    bus = Bus(settings.bus, settings.bootstrap, service="ingest", telemetry=telemetry)
    outbox = Outbox(database, bus.publish, source="ragline/ingest")
    registry = Registry(database, outbox)
    embedder = settings.models.embedder
    cutter = Cutter(load_token_counter(embedder), chunk_tokens=own.chunk_tokens, embedder=embedder)
    changes = Changes(
        database=database,
        registry=registry,
        outbox=outbox,
        cutter=cutter,
        sources=own.sources,
        telemetry=telemetry,
    )
    index = open_channel(settings.rpc.indexing, max_message_mb=settings.rpc.max_message_mb)
    searchability = Searchability(
        registry=registry,
        index=indexing_pb2_grpc.IndexServiceStub(index),
        caller=Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s),
        pipeline=cutter.pipeline,
        reannounce_after_s=own.reannounce_after_s,
        every_s=own.reconcile_every_s,
    )
    changes.subscribe(bus)
    searchability.subscribe(bus)
    servicer = IngestServicer(changes, registry, searchability)
    server = RpcServer(
        settings.rpc.ingest,
        telemetry=telemetry,
        keys=KeyFile(settings.keys_path),
        register=lambda grpc: ingest_pb2_grpc.add_IngestServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
        max_message_mb=settings.rpc.max_message_mb,
    )
    return Service(
        name="ingest",
        telemetry=telemetry,
        server=server,
        bus=bus,
        database=database,
        background=(outbox.run, searchability.run_reconciler),
        closers=(index.close,),
    )
