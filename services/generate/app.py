"""Composition root of generate: the only place that creates its adapters."""

from __future__ import annotations

import asyncio

from ragline.bus import Bus
from ragline.database import Database
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import KeyFile
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.generate.answers import Answers
from services.generate.asking import Asking
from services.generate.budget import Budgets
from services.generate.handlers import EvaluationHandler
from services.generate.recording import Recorder
from services.generate.retrieval import IngestTraces, Retrieval
from services.generate.servicer import SCOPES, GatewayServicer
from services.generate.settings import GenerateSettings


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet. Refuses models without a known price."""
    own = GenerateSettings.load()
    telemetry = Telemetry("generate")
    database = Database.of(settings, "generate")
    bus = Bus(settings.bus, settings.bootstrap, service="generate", telemetry=telemetry)
    outbox = Outbox(database, bus.publish, source="ragline/generate")
    answers = Answers(database, outbox)
    EvaluationHandler(answers).subscribe(bus)
    budgets = Budgets(database, lease_s=own.hold_lease_s)
    recorder = Recorder(database, answers, budgets, outbox)
    caller = Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s)
    retrieve = open_channel(settings.rpc.retrieve, max_message_mb=settings.rpc.max_message_mb)
    indexing = open_channel(settings.rpc.indexing, max_message_mb=settings.rpc.max_message_mb)
    retrieval = Retrieval(caller, retrieve, deadline_s=settings.rpc.deadline_s)
    model = own.language_model()
    asking = Asking(
        policy=own.policy(),
        retrieval=retrieval,
        traces=IngestTraces(caller, indexing),
        model=model,
        prices=own.price_list(),
        budgets=budgets,
        recorder=recorder,
        tracer=telemetry.tracer,
    )
    servicer = GatewayServicer(asking=asking, retrieval=retrieval, answers=answers, budgets=budgets)
    server = RpcServer(
        settings.rpc.gateway,
        telemetry=telemetry,
        keys=KeyFile(settings.keys_path),
        register=lambda grpc: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
        max_message_mb=settings.rpc.max_message_mb,
    )

    async def prepare() -> None:
        await asyncio.to_thread(model.load)

    return Service(
        name="generate",
        telemetry=telemetry,
        server=server,
        bus=bus,
        database=database,
        prepare=prepare,
        background=(outbox.run, budgets.run_expiry),
        closers=(retrieve.close, indexing.close, recorder.aclose),
    )
