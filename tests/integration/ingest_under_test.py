"""ingest on a real PostgreSQL and real gRPC, with an index that holds what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ragline.contracts.cloudevents import Message, Received
from ragline.contracts.event import Event
from ragline.contracts.events import (
    BulkChunksReady,
    ChunksReady,
    CommittedDocument,
    DocumentChanged,
    DocumentStatus,
    IndexCommitted,
)
from ragline.database import Database, package_folder
from ragline.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragline.identity import Identity, KeyFile
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.ingest.v1 import ingest_pb2 as pb
from ragline.ingest.v1 import ingest_pb2_grpc
from ragline.models.embedding import load_token_counter
from ragline.outbox import Outbox
from ragline.rpc import Caller, RpcServer, open_channel
from ragline.telemetry import Telemetry
from services.embed.servicer import SCOPES as INDEX_SCOPES
from services.generate.servicer import SCOPES as GATEWAY_SCOPES
from services.ingest.blobs import Blobs
from services.ingest.claim_check import ClaimCheck
from services.ingest.handlers import Changes
from services.ingest.lanes import LANES, Windows
from services.ingest.originals import Originals
from services.ingest.preview import Previewer
from services.ingest.registry import Registry
from services.ingest.searchability import Searchability
from services.ingest.servicer import SCOPES, IngestServicer
from services.ingest.settings import IngestSettings
from tests.document_cutting import in_process_cutter

TENANT = "acme"
MIGRATIONS = package_folder("services.ingest") / "migrations"
KINDS: dict[str, type[Event]] = {kind.topic: kind for kind in (ChunksReady, BulkChunksReady, DocumentStatus)}


class FakeIndex(indexing_pb2_grpc.IndexServiceServicer):
    """Holds the versions that a test says."""

    def __init__(self) -> None:
        self.holds: dict[str, tuple[int, str]] = {}
        self.visible: list[str] = []
        """Content hashes of `manual` that the index shows at present, for previews."""

    async def GetCommittedDocuments(self, request: Any, context: Any) -> indexing_pb2.GetCommittedDocumentsResponse:
        found = [
            indexing_pb2.CommittedVersion(
                tenant=key.tenant,
                document_id=key.document_id,
                document_version=self.holds[key.document_id][0],
                index_version=self.holds[key.document_id][1],
            )
            for key in request.documents
            if key.document_id in self.holds
        ]
        return indexing_pb2.GetCommittedDocumentsResponse(documents=found)

    async def PreviewChange(self, request: Any, context: Any) -> indexing_pb2.PreviewChangeResponse:
        event = ChunksReady.model_validate_json(request.chunks_ready_json)
        wanted = [entry.content_hash for entry in event.manifest]
        opened = [name for name in wanted if name not in self.visible]
        return indexing_pb2.PreviewChangeResponse(
            index_version="g1@7",
            opened=opened,
            closed=[name for name in self.visible if name not in wanted],
            kept=len(set(wanted) & set(self.visible)),
            to_embed=opened,
        )


class FakeGateway(gateway_pb2_grpc.GatewayServiceServicer):
    """Has one stored answer, which cites the contents that a test says."""

    def __init__(self) -> None:
        self.cited: set[str] = set()

    async def ListAnswersCiting(self, request: Any, context: Any) -> gateway_pb2.ListAnswersCitingResponse:
        hit = self.cited.intersection(request.content_hashes)
        answers = [gateway_pb2.CitingAnswer(answer_id="a1", question="How long?")] if hit else []
        return gateway_pb2.ListAnswersCitingResponse(answers=answers)


@dataclass
class Ingest:
    """ingest, and what a test does with it."""

    database: Database
    changes: Changes
    searchability: Searchability
    registry: Registry
    outbox: Outbox
    index: FakeIndex
    gateway: FakeGateway
    stub: ingest_pb2_grpc.IngestServiceAsyncStub
    telemetry: Telemetry
    keys: KeyFile
    blobs: Blobs
    published: list[Message] = field(default_factory=list)

    def caller(self, *scopes: str, tenant: str = TENANT, groups: Sequence[str] = ()) -> Caller:
        """Calls as somebody with these scopes."""
        identity = Identity(tenant, "ada", frozenset(groups), frozenset(scopes))
        return Caller(self.telemetry, token=self.keys.create(identity), deadline_s=5)

    async def events(self) -> list[Any]:
        """The events that left since the last look, in order."""
        while await self.outbox.relay_once():
            pass
        taken = [KINDS[message.topic].model_validate_json(message.body) for message in self.published]
        self.published.clear()
        return taken

    async def chunks_ready(self) -> list[ChunksReady]:
        return [event for event in await self.events() if isinstance(event, ChunksReady)]

    async def statuses(self) -> list[tuple[str, int]]:
        return [(event.status, event.revision) for event in await self.events() if isinstance(event, DocumentStatus)]

    async def committed(self, version: int, *, document_id: str = "manual", sequence: int = 1) -> None:
        """embed announces that the index holds a version."""
        document = CommittedDocument(
            tenant=TENANT, document_id=document_id, op="upsert", document_version=version, revision=0
        )
        event = IndexCommitted(
            generation="g1",
            sequence=sequence,
            fingerprint="0" * 64,
            documents=(document,),
            committed_at=datetime.now(UTC),
        )
        await self.searchability.on_index_committed(Received(event, "id", "ragline/embed"))

    async def get(self, caller: Caller, document_id: str = "manual") -> pb.Document:
        request = pb.GetDocumentRequest(document_id=document_id)
        response = await caller(self.stub.GetDocument, request, name="GetDocument")
        document: pb.Document = response.document
        return document

    async def wait(self, caller: Caller, revision: int, *, deadline_s: float = 5) -> pb.Document:
        request = pb.WaitForDocumentRequest(document_id="manual", revision=revision)
        response = await caller(self.stub.WaitForDocument, request, name="WaitForDocument", deadline_s=deadline_s)
        document: pb.Document = response.document
        return document


def change(op: str, revision: int, content: str = "# Manual\n\nOne paragraph.", **fields: Any) -> DocumentChanged:
    """A change of the document `manual`."""
    body: dict[str, Any] = {"tenant": TENANT, "document_id": "manual", "source": "wiki", "op": op, "revision": revision}
    if op == "upsert" and "content_ref" not in fields:
        body |= {"content": content, "content_type": "text/markdown"}
    return DocumentChanged.model_validate({**body, **fields})


@asynccontextmanager
async def running_ingest(
    database: Database, folder: Path, *, window: int = 1000, **sources: list[str]
) -> AsyncIterator[Ingest]:
    """An empty ingest that serves; `sources` says who may write which tenants, anyone by default."""
    await database.fetch("TRUNCATE document, document_version, outbox")
    published: list[Message] = []

    async def publish(messages: Sequence[Message]) -> None:
        published.extend(messages)

    telemetry, keys = Telemetry("ingest"), KeyFile(folder / "keys.json")
    index, gateway = FakeIndex(), FakeGateway()
    outbox = Outbox(database, publish, source="ragline/ingest", lanes=LANES, control=Windows(window=window))
    registry = Registry(database, outbox)
    cutter = in_process_cutter(embedder="wordllama", chunk_tokens=40)
    blobs = Blobs((folder / "blobs").as_uri())
    originals = Originals(blobs, ClaimCheck(IngestSettings.load(content_roots=[folder / "shared"])))
    changes = Changes(
        database=database,
        registry=registry,
        outbox=outbox,
        cutter=cutter,
        originals=originals,
        fetched_at_once=2,
        sources=sources or {"*": ["*"]},
        telemetry=telemetry,
    )
    index_server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc: (
            indexing_pb2_grpc.add_IndexServiceServicer_to_server(index, grpc),
            gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, grpc),
        ),
        scopes={**INDEX_SCOPES, **GATEWAY_SCOPES},
    )
    await index_server.start()
    index_channel = open_channel(index_server.address)
    service = Identity("ragline", "ingest", scopes=frozenset({"internal"}))
    caller = Caller(telemetry, token=keys.create(service))
    searchability = Searchability(
        registry=registry,
        index=indexing_pb2_grpc.IndexServiceStub(index_channel),
        caller=caller,
        pipeline=cutter.pipeline,
        reannounce_after_s=0.05,
        every_s=0.05,
    )
    previewer = Previewer(
        registry=registry,
        cutter=cutter,
        originals=originals,
        index=indexing_pb2_grpc.IndexServiceStub(index_channel),
        gateway=gateway_pb2_grpc.GatewayServiceStub(index_channel),
        caller=caller,
        counter=load_token_counter("wordllama"),
    )
    servicer = IngestServicer(changes=changes, registry=registry, searchability=searchability, previewer=previewer)
    server = RpcServer(
        "127.0.0.1:0",
        telemetry=telemetry,
        keys=keys,
        register=lambda grpc: ingest_pb2_grpc.add_IngestServiceServicer_to_server(servicer, grpc),
        scopes=SCOPES,
    )
    await server.start()
    channel = open_channel(server.address)
    stub = ingest_pb2_grpc.IngestServiceStub(channel)
    yield Ingest(
        database, changes, searchability, registry, outbox, index, gateway, stub, telemetry, keys, blobs, published
    )
    await channel.close()
    await server.stop(grace_s=0)
    await index_channel.close()
    await index_server.stop(grace_s=0)
