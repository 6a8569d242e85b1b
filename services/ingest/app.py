"""Composition root of ingest: the only place that creates its adapters."""

from __future__ import annotations

from ragline.bus import Bus
from ragline.database import Database
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import KeyFile
from ragline.indexing.v1 import indexing_pb2_grpc
from ragline.ingest.v1 import ingest_pb2_grpc
from ragline.models.embedding import load_token_counter
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.ingest.blobs import Blobs
from services.ingest.claim_check import ClaimCheck
from services.ingest.cutting import WORK, Cutter
from services.ingest.handlers import Changes
from services.ingest.isolation import ParserPool
from services.ingest.lanes import LANES, Windows
from services.ingest.originals import Originals
from services.ingest.preview import Previewer
from services.ingest.registry import Registry
from services.ingest.searchability import Searchability
from services.ingest.servicer import SCOPES, IngestServicer
from services.ingest.settings import IngestSettings
from services.ingest.snapshots import Snapshots


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet."""
    own = IngestSettings.load()
    telemetry = Telemetry("ingest")
    database = Database.of(settings, "ingest")
    bus = Bus(settings.bus, settings.bootstrap, service="ingest", telemetry=telemetry)
    windows = Windows(window=own.window_documents)
    outbox = Outbox(database, bus.publish, source="ragline/ingest", lanes=LANES, control=windows)
    registry = Registry(database, outbox)
    embedder = settings.models.embedder
    counter = load_token_counter(embedder)
    claim_check = ClaimCheck(own)
    originals = Originals(Blobs(settings.blobs_url), claim_check)
    pool = ParserPool(
        WORK, workers=own.parse_workers, time_limit_s=own.parse_timeout_s, memory_limit_mb=own.parse_memory_mb
    )
    cutter = Cutter(
        pool,
        chunk_tokens=own.chunk_tokens,
        embedder=embedder,
        window_tokens=counter.window_tokens,
        max_document_mb=own.max_document_mb,
    )
    changes = Changes(
        database=database,
        registry=registry,
        outbox=outbox,
        cutter=cutter,
        originals=originals,
        fetched_at_once=own.content_at_once,
        sources=own.sources,
        telemetry=telemetry,
    )
    index = open_channel(settings.rpc.indexing, max_message_mb=settings.rpc.max_message_mb)
    gateway = open_channel(settings.rpc.gateway, max_message_mb=settings.rpc.max_message_mb)
    caller = Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s)
    searchability = Searchability(
        registry=registry,
        index=indexing_pb2_grpc.IndexServiceStub(index),
        caller=caller,
        pipeline=cutter.pipeline,
        reannounce_after_s=own.reannounce_after_s,
        every_s=own.reconcile_every_s,
    )
    changes.subscribe(bus)
    Snapshots(database=database, changes=changes, claim_check=claim_check).subscribe(bus)
    searchability.subscribe(bus)
    previewer = Previewer(
        registry=registry,
        cutter=cutter,
        originals=originals,
        index=indexing_pb2_grpc.IndexServiceStub(index),
        gateway=gateway_pb2_grpc.GatewayServiceStub(gateway),
        caller=caller,
        counter=counter,
    )
    servicer = IngestServicer(changes=changes, registry=registry, searchability=searchability, previewer=previewer)
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
        prepare=pool.start,
        background=(outbox.run, searchability.run_reconciler),
        closers=(index.close, gateway.close, pool.aclose),
    )
