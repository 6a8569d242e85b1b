"""`ragline publish`: documents onto the bus, and the wait until they are searchable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from opentelemetry.trace import SpanKind
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ragline.bus import Bus
from ragline.cli.documents import PublishOptions, change_of, deletion_of, find_files
from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.client import Ragline
from ragline.contracts.cloudevents import encode
from ragline.contracts.events import DocumentChanged
from ragline.errors import ConfigurationError, InvalidArgument, TransientError
from ragline.index.versions import IndexVersion
from ragline.ingest.v1 import ingest_pb2
from ragline.telemetry import Telemetry, trace_headers

PublishEvents = Callable[[Sequence[DocumentChanged]], Awaitable[None]]

_WAITERS: Final = 16


@dataclass(slots=True)
class PublishResult:
    """What became of each document."""

    searchable: int = 0
    index_version: str = ""
    rejected: list[tuple[str, str]] | None = None
    seconds: float = 0.0


def publish(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders; with --delete, document ids.")],
    tenant: Annotated[str, typer.Option(help="The tenant that owns the documents.")] = "default",
    source: Annotated[str, typer.Option(help="Who publishes; a source may be bound to tenants.")] = "cli",
    prefix: Annotated[str, typer.Option(help="Put before each document id.")] = "",
    acl: Annotated[
        list[str] | None, typer.Option(help="A group that may read (repeat it); none: all of the tenant.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete these documents instead.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the documents are searchable.")] = True,
    timeout_s: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 600.0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Publish files or folders and wait until they are searchable."""
    session = Session(as_json, data_dir)
    options = PublishOptions(tenant, source, prefix, tuple(acl) if acl else None, delete)
    session.run(_publish(session, paths, options, wait=wait, timeout_s=timeout_s))


async def _publish(
    session: Session, paths: Sequence[Path], options: PublishOptions, *, wait: bool, timeout_s: float
) -> None:
    events, unreadable = _read(paths, options)
    if not events and not unreadable:
        raise InvalidArgument("path", "holds no file that can be read")
    async with publisher(session) as publish_events:
        await publish_events(events)
        result = await wait_until_searchable(session, events, timeout_s=timeout_s) if wait else PublishResult()
    _report(session, len(events), unreadable, result, waited=wait)
    if unreadable or result.rejected:
        raise typer.Exit(1)


def _read(paths: Sequence[Path], options: PublishOptions) -> tuple[list[DocumentChanged], list[str]]:
    if options.delete:
        return [deletion_of(path.as_posix(), options) for path in paths], []
    events, unreadable = [], []
    for file, document_id in find_files(paths):
        try:
            events.append(change_of(file, document_id, options))
        except InvalidArgument as error:
            unreadable.append(str(error))
    return events, unreadable


@asynccontextmanager
async def publisher(session: Session) -> AsyncIterator[PublishEvents]:
    """A function that publishes events to Kafka, each in a trace of its own."""
    settings = session.settings
    if not settings.bus.bootstrap:
        raise ConfigurationError(
            "no Kafka: start the stack with `ragline up`, or set RAGLINE_BUS__BOOTSTRAP to Kafka's address"
        )
    telemetry = Telemetry("cli")
    bus = Bus(settings.bus, settings.bootstrap, service="cli", telemetry=telemetry)
    await bus.start(connect_for_s=5.0)

    async def publish_events(events: Sequence[DocumentChanged]) -> None:
        for event in events:
            with telemetry.tracer.start_as_current_span(f"publish {event.topic}", kind=SpanKind.PRODUCER):
                await bus.publish([encode(event, source=event.source, trace=trace_headers())])

    try:
        yield publish_events
    finally:
        await bus.stop()
        await asyncio.to_thread(telemetry.shutdown)


async def wait_until_searchable(
    session: Session, events: Sequence[DocumentChanged], *, timeout_s: float
) -> PublishResult:
    """Wait for every event's revision, with a progress bar; raises TransientError when time runs out."""
    result = PublishResult(rejected=[])
    started = time.monotonic()
    limit = asyncio.Semaphore(_WAITERS)
    versions: list[IndexVersion] = []
    with _progress(session) as progress:
        task = progress.add_task("searchable", total=len(events))

        async def follow(client: Ragline, event: DocumentChanged) -> None:
            async with limit:
                document = await client.wait_for_document(
                    event.document_id, revision=event.revision, deadline_s=timeout_s
                )
            if document.state == ingest_pb2.DOCUMENT_STATE_REJECTED:
                assert result.rejected is not None
                result.rejected.append((event.document_id, document.reason))
            else:
                result.searchable += 1
                if document.index_version:
                    versions.append(IndexVersion.parse(document.index_version))
            progress.advance(task)

        try:
            async with (
                asyncio.timeout(timeout_s),
                Ragline(session.settings.rpc.gateway, session.token, ingest=session.settings.rpc.ingest) as client,
            ):
                await asyncio.gather(*(follow(client, event) for event in events))
        except TimeoutError as error:
            raise TransientError(
                f"{result.searchable} of {len(events)} documents were searchable after {timeout_s:g} s; "
                "the rest is on its way (`ragline index status`)"
            ) from error
    result.seconds = time.monotonic() - started
    result.index_version = str(max(versions)) if versions else ""
    return result


def _progress(session: Session) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents"),
        TimeElapsedColumn(),
        console=session.console,
        disable=session.as_json,
        transient=False,
    )


def _report(session: Session, published: int, unreadable: list[str], result: PublishResult, *, waited: bool) -> None:
    rejected = result.rejected or []
    if session.as_json:
        session.emit(
            {
                "published": published,
                "searchable": result.searchable,
                "index_version": result.index_version,
                "seconds": round(result.seconds, 3),
                "rejected": [{"document_id": name, "reason": reason} for name, reason in rejected],
                "unreadable": unreadable,
            }
        )
        return
    for line in unreadable:
        session.console.print(f"[red]not published[/] {line}")
    for name, reason in rejected:
        session.console.print(f"[red]rejected[/] {name}: {reason}")
    if waited and result.searchable:
        rate = result.searchable / max(result.seconds, 1e-9)
        session.console.print(
            f"[green]{result.searchable} documents[/] are in the index at [bold]{result.index_version}[/] "
            f"after {result.seconds:.1f} s ({rate:.1f} documents/s)"
        )
    elif not waited:
        session.console.print(f"{published} documents published; they become searchable in the background")
