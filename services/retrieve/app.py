"""Composition root of retrieve: the only place that creates its adapters."""

from __future__ import annotations

import asyncio
import time

from ragline.bus import Bus
from ragline.contracts.events import IndexState
from ragline.errors import TransientError
from ragline.identity import KeyFile
from ragline.index.connect import connect_engine
from ragline.index.versions import IndexVersion
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.models.embedding import load_embedder
from ragline.models.sparse import Bm25Encoder
from ragline.retrieve.v1 import retrieve_pb2_grpc
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.runtime import Service
from ragline.settings import Settings
from ragline.telemetry import Telemetry
from services.retrieve.readers import IndexFollower, require_embedder
from services.retrieve.search import Searcher
from services.retrieve.servicer import SCOPES, RetrieveServicer

CATCH_UP_FOR_S = 60.0
"""How long a starting reader waits for embed before it gives up."""


def build(settings: Settings) -> Service:
    """Wire the service; nothing is opened yet except the embedder."""
    telemetry = Telemetry("retrieve")
    bus = Bus(settings.bus, settings.bootstrap, service="retrieve", telemetry=telemetry)
    engine = connect_engine(settings.engine_url, api_key=settings.engine_api_key)
    embedder = load_embedder(settings.models.embedder, cache_dir=settings.data_dir / "models")
    channel = open_channel(settings.rpc.indexing, max_message_mb=settings.rpc.max_message_mb)
    index = indexing_pb2_grpc.IndexServiceStub(channel)
    caller = Caller(telemetry, token=settings.service_token, deadline_s=settings.rpc.deadline_s)

    async def look_up_fingerprint(version: IndexVersion) -> str:
        request = indexing_pb2.GetVersionRequest(version=str(version))
        response = await caller(index.GetVersion, request, name="IndexService/GetVersion")
        return str(response.fingerprint)

    follower = IndexFollower(look_up_fingerprint)
    bus.subscribe_all(IndexState, follower.on_index_state)
    searcher = Searcher(follower=follower, engine=engine, embedder=embedder, sparse=Bm25Encoder(), telemetry=telemetry)

    async def catch_up() -> None:
        """Know the index's state before reporting ready, also when the topic is empty."""
        deadline = time.monotonic() + CATCH_UP_FOR_S
        while True:
            try:
                response = await caller(
                    index.GetState,
                    indexing_pb2.GetStateRequest(),
                    name="IndexService/GetState",
                    wait_for_ready=True,
                )
                state = IndexState.model_validate_json(response.state_json)
                require_embedder(state, embedder.name)
                await follower.take(state)
                return
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    servicer = RetrieveServicer(searcher, embedder=embedder.name)
    server = RpcServer(
        settings.rpc.retrieve,
        telemetry=telemetry,
        keys=KeyFile(settings.keys_path),
        register=lambda grpc: retrieve_pb2_grpc.add_RetrieveServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
        max_message_mb=settings.rpc.max_message_mb,
    )
    return Service(
        name="retrieve",
        telemetry=telemetry,
        server=server,
        bus=bus,
        prepare=catch_up,
        closers=(engine.aclose, channel.close),
    )
