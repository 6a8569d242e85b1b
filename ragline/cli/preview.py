"""`ragline publish --preview`: what publishing would change, before anything is visible."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict
from rich.markup import escape
from rich.tree import Tree

from ragline.cli.documents import Change, PublishOptions, Upload
from ragline.cli.publishing import upload_request
from ragline.cli.session import Session
from ragline.client import Ragline
from ragline.ingest.v1 import ingest_pb2

_EXCERPT_CHARACTERS = 70


async def preview(session: Session, changes: Sequence[Change], options: PublishOptions) -> None:
    """Ask ingest what each change would open and close, what it would cost, and print it."""
    rpc = session.settings.rpc
    async with Ragline(rpc.gateway, session.token, ingest=rpc.ingest) as client:
        for change in changes:
            found = await client.preview(_request(change, options))
            if session.as_json:
                fields = MessageToDict(
                    found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
                session.emit({"document_id": change.document_id, **fields})
            else:
                session.console.print(_tree(change.document_id, found))


def _request(change: Change, options: PublishOptions) -> ingest_pb2.PublishDocumentRequest:
    if isinstance(change, Upload):
        return upload_request(change, options, bulk=False)
    delete = change.op == "delete"
    request = ingest_pb2.PublishDocumentRequest(
        document_id=change.document_id,
        operation=ingest_pb2.OPERATION_DELETE if delete else ingest_pb2.OPERATION_UPSERT,
        revision=change.revision,
        source=change.source,
        uri=change.uri,
        title=change.title or "",
        content=change.content or "",
        content_ref=change.content_ref or "",
    )
    if change.acl is not None:
        request.acl.CopyFrom(ingest_pb2.AccessList(groups=change.acl))
    return request


def _tree(document_id: str, found: ingest_pb2.PreviewDocumentResponse) -> Tree:
    tree = Tree(f"[bold]{escape(document_id)}[/] against {found.index_version}")
    if found.ignored:
        tree.add(f"[dim]nothing would change: {escape(found.reason)}[/]")
        return tree
    tree.add(
        f"{len(found.opened)} chunks opened, {len(found.closed)} closed, {found.kept} kept; "
        f"{found.to_embed} to embed ({found.embed_tokens} tokens)"
    )
    for mark, chunks in (("[green]+[/]", found.opened), ("[red]-[/]", found.closed)):
        for chunk in chunks:
            excerpt = " ".join(chunk.text.split())[:_EXCERPT_CHARACTERS]
            tree.add(f"{mark} [dim]{escape(' > '.join(chunk.heading_path[1:]))}[/] {escape(excerpt)}")
    if found.affected_answers:
        answers = tree.add(f"[yellow]{len(found.affected_answers)} stored answers would lose evidence[/]")
        for answer in found.affected_answers:
            answers.add(f"{answer.answer_id} {escape(answer.question)}")
    return tree
