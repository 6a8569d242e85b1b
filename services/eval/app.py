"""Composition root of eval: the only place that creates its adapters."""

from __future__ import annotations

from ragline.bus import Bus
from ragline.database import Database
from ragline.eval.v1 import eval_pb2_grpc
from ragline.gateway.v1 import gateway_pb2_grpc
from ragline.identity import KeyFile
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.eval.evaluations import Evaluations
from services.eval.groundedness import Groundedness
from services.eval.handlers import Evaluator
from services.eval.scoring import Scorer
from services.eval.servicer import SCOPES, EvalServicer
from services.eval.settings import EvalSettings


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet."""
    own = EvalSettings.load()
    telemetry = Telemetry("eval")
    database = Database.of(settings, "eval")
    bus = Bus(settings.bus, settings.bootstrap, service="eval", telemetry=telemetry)
    outbox = Outbox(database, bus.publish, source="ragline/eval")
    evaluations = Evaluations(database, outbox)
    gateway = open_channel(settings.rpc.gateway, max_message_mb=settings.rpc.max_message_mb)
    evaluator = Evaluator(
        scorer=Scorer(Groundedness.load(), own.thresholds()),
        evaluations=evaluations,
        gateway=gateway_pb2_grpc.GatewayServiceStub(gateway),
        caller=Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s),
        telemetry=telemetry,
    )
    evaluator.subscribe(bus)
    servicer = EvalServicer(evaluations)
    server = RpcServer(
        settings.rpc.eval,
        telemetry=telemetry,
        keys=KeyFile(settings.keys_path),
        register=lambda grpc: eval_pb2_grpc.add_EvalServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
        max_message_mb=settings.rpc.max_message_mb,
    )
    return Service(
        name="eval",
        telemetry=telemetry,
        server=server,
        bus=bus,
        database=database,
        background=(outbox.run,),
        closers=(gateway.close,),
    )
