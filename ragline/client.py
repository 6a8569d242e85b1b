"""The Python client of the gateway: small, typed, asynchronous.

    async with Ragline("localhost:50050", token) as ragline:
        answer = await ragline.ask("Who accepts PEPs?")
        print(answer.text, answer.index_version)

Every call has a deadline; errors are those of `ragline.errors`, with the server's own words.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf import struct_pb2
from opentelemetry.trace import SpanKind

from ragline.errors import RaglineError
from ragline.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ragline.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from ragline.retrieve.v1 import retrieve_pb2
from ragline.rpc import Caller, error_from, open_channel
from ragline.telemetry import Telemetry, trace_headers


@dataclass(frozen=True, slots=True)
class Citation:
    """A numbered piece of evidence of an answer; `cited` says whether the text cites it."""

    number: int
    document_id: str
    title: str
    heading_path: tuple[str, ...]
    uri: str
    score: float
    cited: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its provenance; `message` holds everything else that is known of it."""

    id: str
    question: str
    text: str
    refused: bool
    citations: tuple[Citation, ...]
    index_version: str
    index_fingerprint: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    trace_id: str
    message: gateway_pb2.Answer

    @classmethod
    def of(cls, message: gateway_pb2.Answer) -> Answer:
        """From the wire."""
        return cls(
            id=message.answer_id,
            question=message.question,
            text=message.text,
            refused=message.refused,
            citations=tuple(
                Citation(e.number, e.document_id, e.title, tuple(e.heading_path), e.uri, e.score, e.cited)
                for e in message.evidence
            ),
            index_version=message.index_version.version,
            index_fingerprint=message.index_version.fingerprint,
            model=message.model,
            prompt_tokens=message.usage.prompt_tokens,
            completion_tokens=message.usage.completion_tokens,
            cost_usd=message.usage.cost_usd,
            trace_id=message.trace_id,
            message=message,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a published document; `index_version` is what `min_version` wants to read it."""

    document_id: str
    document_version: int
    index_version: str
    changed: bool
    reason: str = ""


class Ragline:
    """A connection to a gateway (and, for publishing, to ingest).

    `deadline_s` bounds every call that names none. Use it as an asynchronous context manager.
    """

    def __init__(
        self,
        gateway: str,
        token: str,
        *,
        ingest: str | None = None,
        deadline_s: float = 60.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._own_telemetry = telemetry is None
        self._telemetry = telemetry or Telemetry("client")
        self._token = token
        self._deadline_s = deadline_s
        self._call = Caller(self._telemetry, token=token, deadline_s=deadline_s)
        self._channels = [open_channel(gateway)]
        self._gateway = gateway_pb2_grpc.GatewayServiceStub(self._channels[0])
        self._ingest: Any = None
        if ingest is not None:
            self._channels.append(open_channel(ingest))
            self._ingest = ingest_pb2_grpc.IngestServiceStub(self._channels[1])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()
        if self._own_telemetry:
            await asyncio.to_thread(self._telemetry.shutdown)

    async def ask(self, question: str, *, at_version: str = "", min_version: str = "", model: str = "") -> Answer:
        """Ask and wait for the whole answer."""
        async for step in self.ask_stream(question, at_version=at_version, min_version=min_version, model=model):
            if step.HasField("final"):
                return Answer.of(step.final.answer)
        raise RaglineError("the gateway ended the stream without an answer", reason="STREAM_ENDED")

    async def ask_stream(
        self,
        question: str,
        *,
        at_version: str = "",
        min_version: str = "",
        model: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[gateway_pb2.AskResponse]:
        """Ask and follow the steps: `retrieved` once, `token`s, `final` once. Leaving early cancels the call."""
        request = gateway_pb2.AskRequest(
            question=question,
            at_version=at_version,
            min_version=min_version,
            model=model,
            metadata=metadata or {},
        )
        span = self._telemetry.tracer.start_span("GatewayService/Ask", kind=SpanKind.CLIENT)
        call = self._gateway.Ask(
            request,
            timeout=self._deadline_s,
            metadata=(("authorization", f"Bearer {self._token}"), *_headers_of(span).items()),
        )
        try:
            async for step in call:
                yield step
        except grpc.aio.AioRpcError as error:
            raise error_from(error) from error
        finally:
            call.cancel()
            span.end()

    async def search(
        self, query: str, *, limit: int = 10, at_version: str = "", min_version: str = ""
    ) -> retrieve_pb2.SearchResponse:
        """The chunks that best match, at one index version."""
        request = retrieve_pb2.SearchRequest(query=query, limit=limit, at_version=at_version, min_version=min_version)
        response: retrieve_pb2.SearchResponse = await self._call(
            self._gateway.Search, request, name="GatewayService/Search"
        )
        return response

    async def get_answer(self, answer_id: str) -> Answer:
        """A stored answer, with its evaluation once there is one."""
        request = gateway_pb2.GetAnswerRequest(answer_id=answer_id)
        response = await self._call(self._gateway.GetAnswer, request, name="GatewayService/GetAnswer")
        return Answer.of(response.answer)

    async def budgets(self, user: str = "") -> tuple[gateway_pb2.Budget, ...]:
        """What may still be spent: by the caller, or (scope `admin`) by another user."""
        request = gateway_pb2.GetBudgetRequest(user=user)
        response = await self._call(self._gateway.GetBudget, request, name="GatewayService/GetBudget")
        return tuple(response.budgets)

    async def set_budget(self, *, user: str, period: str, limit_usd: float) -> gateway_pb2.Budget:
        """Limit a user (or, with an empty user, the whole tenant). Needs the scope `admin`."""
        request = gateway_pb2.SetBudgetRequest(user=user, period=period, limit_usd=limit_usd)
        response = await self._call(self._gateway.SetBudget, request, name="GatewayService/SetBudget")
        budget: gateway_pb2.Budget = response.budget
        return budget

    async def publish(
        self,
        document_id: str,
        content: str,
        *,
        revision: int = 0,
        title: str = "",
        uri: str = "",
        content_type: str = "",
        metadata: Mapping[str, str | int | float | bool] | None = None,
        groups: tuple[str, ...] | None = None,
    ) -> Receipt:
        """Publish a document over gRPC and wait until it is searchable. Needs the scope `publish`.

        `revision` 0 lets ingest number the change by its clock; `groups` None lets the whole tenant read.
        """
        request = ingest_pb2.PublishDocumentRequest(
            document_id=document_id,
            operation=ingest_pb2.OPERATION_UPSERT,
            revision=revision,
            content=content,
            title=title,
            uri=uri,
            content_type=content_type,
        )
        if metadata:
            fields = struct_pb2.Struct()
            fields.update(dict(metadata))
            request.metadata.CopyFrom(fields)
        if groups is not None:
            request.acl.CopyFrom(ingest_pb2.AccessList(groups=groups))
        return await self._publish_and_wait(request)

    async def delete(self, document_id: str, *, revision: int = 0) -> Receipt:
        """Delete a document over gRPC and wait until it is gone. Needs the scope `publish`."""
        return await self._publish_and_wait(
            ingest_pb2.PublishDocumentRequest(
                document_id=document_id, operation=ingest_pb2.OPERATION_DELETE, revision=revision
            )
        )

    async def _publish_and_wait(self, request: ingest_pb2.PublishDocumentRequest) -> Receipt:
        response = await self._call(self._ingest_stub().PublishDocument, request, name="IngestService/PublishDocument")
        document = await self.wait_for_document(request.document_id, revision=request.revision)
        return Receipt(
            request.document_id,
            response.document_version,
            document.index_version,
            response.changed,
            response.reason,
        )

    async def publish_request(self, request: ingest_pb2.PublishDocumentRequest) -> ingest_pb2.PublishDocumentResponse:
        """Publish a prepared request, without waiting until it is searchable."""
        response: ingest_pb2.PublishDocumentResponse = await self._call(
            self._ingest_stub().PublishDocument, request, name="IngestService/PublishDocument"
        )
        return response

    async def publish_many(
        self, requests: AsyncIterator[ingest_pb2.PublishDocumentRequest], *, deadline_s: float = 3600.0
    ) -> ingest_pb2.PublishDocumentsResponse:
        """Publish a bulk load as one stream; what cannot be accepted is reported and the rest goes on."""
        response: ingest_pb2.PublishDocumentsResponse = await self._call(
            self._ingest_stub().PublishDocuments,
            requests,
            name="IngestService/PublishDocuments",
            deadline_s=deadline_s,
        )
        return response

    async def preview(self, request: ingest_pb2.PublishDocumentRequest) -> ingest_pb2.PreviewDocumentResponse:
        """What publishing this request would change, before anything is visible."""
        response: ingest_pb2.PreviewDocumentResponse = await self._call(
            self._ingest_stub().PreviewDocument, request, name="IngestService/PreviewDocument"
        )
        return response

    async def list_documents(self, *, prefix: str = "", source: str = "") -> AsyncIterator[ingest_pb2.Document]:
        """Every document of the caller's tenant, by id; also deleted ones, marked so."""
        page = ""
        while True:
            request = ingest_pb2.ListDocumentsRequest(prefix=prefix, source=source, page_token=page)
            response = await self._call(self._ingest_stub().ListDocuments, request, name="IngestService/ListDocuments")
            for document in response.documents:
                yield document
            page = response.next_page_token
            if not page:
                return

    async def wait_for_document(
        self, document_id: str, *, revision: int, deadline_s: float | None = None
    ) -> ingest_pb2.Document:
        """Wait until a revision of a document is searchable, superseded or rejected."""
        response = await self._call(
            self._ingest_stub().WaitForDocument,
            ingest_pb2.WaitForDocumentRequest(document_id=document_id, revision=revision),
            name="IngestService/WaitForDocument",
            deadline_s=deadline_s,
        )
        document: ingest_pb2.Document = response.document
        return document

    async def reconcile(self, *, deadline_s: float = 300.0) -> ingest_pb2.ReconcileResponse:
        """Find documents that were announced but are not searchable, and announce them again. Scope `admin`."""
        response: ingest_pb2.ReconcileResponse = await self._call(
            self._ingest_stub().Reconcile,
            ingest_pb2.ReconcileRequest(),
            name="IngestService/Reconcile",
            deadline_s=deadline_s,
        )
        return response

    def _ingest_stub(self) -> Any:
        if self._ingest is None:
            raise RaglineError("give the client ingest's address to publish: Ragline(..., ingest='host:50051')")
        return self._ingest


def _headers_of(span: Any) -> dict[str, str]:
    from opentelemetry import trace

    return trace_headers(trace.set_span_in_context(span))
