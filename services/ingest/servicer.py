"""IngestService: proto <-> domain. The tenant is the verified caller's, never a field's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from google.protobuf.json_format import MessageToDict
from pydantic import ValidationError

from ragline.contracts.events import BulkDocumentChanged, DocumentChanged, ManifestEntry
from ragline.errors import InvalidArgument, NotFound, PermanentError
from ragline.identity import current_identity
from ragline.ingest.v1 import ingest_pb2 as pb
from ragline.ingest.v1 import ingest_pb2_grpc
from services.ingest.handlers import Changes, new_revision
from services.ingest.originals import Content
from services.ingest.preview import Previewer
from services.ingest.registry import Progress, Registry
from services.ingest.searchability import Searchability

_PREFIX = "/ragline.ingest.v1.IngestService/"
SCOPES: Final = {
    f"{_PREFIX}PublishDocument": ("publish",),
    f"{_PREFIX}PublishDocuments": ("publish",),
    f"{_PREFIX}PreviewDocument": ("publish",),
    f"{_PREFIX}ListDocuments": ("publish", "search"),
    f"{_PREFIX}GetDocument": ("publish", "search"),
    f"{_PREFIX}WaitForDocument": ("publish", "search"),
    f"{_PREFIX}Reconcile": ("admin",),
    f"{_PREFIX}GetChunks": ("internal",),
}
_UPLOADED: Final = "upload:"
"""Stands for content that came with the call; from anywhere else, the claim check refuses it."""
_PAGE: Final = 200
_LARGEST_PAGE: Final = 1000
_OPERATIONS: Final[dict[int, Literal["upsert", "delete", "access"]]] = {
    pb.OPERATION_UPSERT: "upsert",
    pb.OPERATION_DELETE: "delete",
    pb.OPERATION_ACCESS: "access",
}


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Publishing without Kafka, and following what became of a change."""

    def __init__(
        self, *, changes: Changes, registry: Registry, searchability: Searchability, previewer: Previewer
    ) -> None:
        self._changes = changes
        self._previewer = previewer
        self._registry = registry
        self._searchability = searchability

    async def PublishDocument(self, request: pb.PublishDocumentRequest, context: Any) -> pb.PublishDocumentResponse:
        outcome = await self._changes.accept_change(*_change(request))
        return pb.PublishDocumentResponse(
            document_version=outcome.document_version, changed=outcome.changed, reason=outcome.reason
        )

    async def PublishDocuments(
        self, requests: AsyncIterator[pb.PublishDocumentRequest], context: Any
    ) -> pb.PublishDocumentsResponse:
        response = pb.PublishDocumentsResponse()
        async for request in requests:
            request.bulk = True
            try:
                outcome = await self._changes.accept_change(*_change(request))
            except PermanentError as error:
                response.rejected.add(document_id=request.document_id, reason=str(error))
            else:
                response.accepted += outcome.changed
                response.unchanged += not outcome.changed
        return response

    async def PreviewDocument(self, request: pb.PublishDocumentRequest, context: Any) -> pb.PreviewDocumentResponse:
        found = await self._previewer.preview(*_change(request))
        return pb.PreviewDocumentResponse(
            index_version=found.index_version,
            ignored=bool(found.ignored),
            reason=found.ignored,
            opened=[_preview_chunk(entry) for entry in found.opened],
            closed=[_preview_chunk(entry) for entry in found.closed],
            kept=found.kept,
            to_embed=found.to_embed,
            embed_tokens=found.embed_tokens,
            affected_answers=[pb.AffectedAnswer(answer_id=name, question=text) for name, text in found.answers],
        )

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Any) -> pb.ListDocumentsResponse:
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            raise InvalidArgument("page_size", f"must be between 1 and {_LARGEST_PAGE}")
        size = request.page_size or _PAGE
        page = await self._registry.page(
            current_identity().tenant,
            prefix=request.prefix,
            source=request.source,
            after=request.page_token,
            limit=size,
        )
        return pb.ListDocumentsResponse(
            documents=[_document(progress) for progress in page if _may_know(progress)],
            next_page_token=page[-1].document.document_id if len(page) == size else "",
        )

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Any) -> pb.GetDocumentResponse:
        progress = await self._readable(request.document_id)
        if progress is None:
            raise NotFound(f"document {request.document_id!r} was never accepted")
        return pb.GetDocumentResponse(document=_document(progress))

    async def WaitForDocument(self, request: pb.WaitForDocumentRequest, context: Any) -> pb.WaitForDocumentResponse:
        while True:
            progress = await self._readable(request.document_id)
            if progress is not None and _settled(progress, request.revision):
                return pb.WaitForDocumentResponse(document=_document(progress))
            await self._searchability.wait_for_move(at_most_s=0.25)

    async def Reconcile(self, request: pb.ReconcileRequest, context: Any) -> pb.ReconcileResponse:
        done = await self._searchability.reconcile_now()
        return pb.ReconcileResponse(found_searchable=done.found_searchable, announced_again=done.announced_again)

    async def GetChunks(self, request: pb.GetChunksRequest, context: Any) -> pb.GetChunksResponse:
        progress = await self._registry.progress(request.tenant, request.document_id)
        if progress is None:
            raise NotFound(f"document {request.document_id!r} was never accepted")
        wanted = set(request.content_hashes)
        return pb.GetChunksResponse(
            chunks=[
                pb.ChunkText(content_hash=entry.content_hash, heading_path=entry.heading_path, text=entry.text or "")
                for entry in progress.document.manifest
                if entry.content_hash in wanted
            ]
        )

    async def _readable(self, document_id: str) -> Progress | None:
        """The document, if this caller may know of it: a publisher may, a searcher only what they may read."""
        progress = await self._registry.progress(current_identity().tenant, document_id)
        return progress if progress is not None and _may_know(progress) else None


def _may_know(progress: Progress) -> bool:
    """A publisher may know of every document of the tenant, a searcher only of what they may read."""
    caller = current_identity()
    acl = progress.document.acl
    return "publish" in caller.scopes or acl is None or bool(caller.groups.intersection(acl))


def _settled(progress: Progress, revision: int) -> bool:
    """Whether nothing more will come of this revision: searchable (itself or a newer one), or rejected."""
    if max(progress.document.revision, progress.document.acl_revision) >= revision:
        return progress.searchable
    return progress.rejected_revision is not None and progress.rejected_revision >= revision


def _change(request: pb.PublishDocumentRequest) -> tuple[DocumentChanged, Content | None]:
    """The event of a request, and the bytes that came with it in place of its text."""
    operation = _OPERATIONS.get(request.operation)
    if operation is None:
        raise InvalidArgument("operation", "must be UPSERT, DELETE or ACCESS")
    uploaded = Content(request.content_bytes, request.content_type or None) if request.content_bytes else None
    by_reference = _UPLOADED if uploaded else request.content_ref or None
    identity = current_identity()
    kind = BulkDocumentChanged if request.bulk else DocumentChanged
    try:
        event = kind(
            tenant=identity.tenant,
            document_id=request.document_id,
            source=request.source or f"grpc/{identity.user}",
            op=operation,
            revision=request.revision or new_revision(),
            acl_revision=request.acl_revision or None,
            uri=request.uri,
            title=request.title or None,
            content=request.content if operation == "upsert" and by_reference is None else None,
            content_ref=by_reference if operation == "upsert" else None,
            content_type=request.content_type or None,
            acl=tuple(request.acl.groups) if request.HasField("acl") else None,
            metadata=_metadata(request),
        )
        return event, uploaded
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "content"
        raise InvalidArgument(field, fault["msg"]) from error


def _metadata(request: pb.PublishDocumentRequest) -> dict[str, Any]:
    """A Struct knows no integers: whole numbers become integers again, as in JSON."""
    try:
        values = MessageToDict(request.metadata)
    except ValueError as error:
        raise InvalidArgument("metadata", "has a number that is not finite") from error
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in values.items()
    }


def _preview_chunk(entry: ManifestEntry) -> pb.PreviewChunk:
    return pb.PreviewChunk(content_hash=entry.content_hash, heading_path=entry.heading_path, text=entry.text or "")


def _document(progress: Progress) -> pb.Document:
    document = progress.document
    if progress.rejected_revision is not None and progress.rejected_revision > document.revision:
        state, reason = pb.DOCUMENT_STATE_REJECTED, progress.rejected_reason or ""
    elif progress.searchable:
        state, reason = pb.DOCUMENT_STATE_INDEXED, ""
    else:
        state, reason = pb.DOCUMENT_STATE_PENDING, ""
    return pb.Document(
        document_id=document.document_id,
        state=state,
        revision=document.revision,
        document_version=document.document_version,
        deleted=document.deleted,
        title=document.title,
        uri=document.uri,
        chunks=progress.chunks,
        index_version=progress.index_version or "",
        reason=reason,
    )
