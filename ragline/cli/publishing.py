"""Sending changes (Kafka for text, gRPC for files that are not) and following them until they are searchable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from opentelemetry.trace import SpanKind
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ragline.bus import Bus
from ragline.cli.documents import Change, PublishOptions, Upload
from ragline.cli.session import Session
from ragline.client import Ragline
from ragline.contracts.cloudevents import Message, encode
from ragline.contracts.events import BulkDocumentChanged, DocumentChanged
from ragline.errors import ConfigurationError, PermanentError, PermissionDenied, TransientError, Unauthenticated
from ragline.index.versions import IndexVersion
from ragline.ingest.v1 import ingest_pb2
from ragline.telemetry import Telemetry, trace_headers

_WAITERS: Final = 16
_BATCH: Final = 100


@dataclass(slots=True)
class Outcome:
    """What became of the documents of one publication."""

    sent: int = 0
    searchable: int = 0
    index_version: str = ""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(slots=True)
class Sent:
    """What left: the newest revision of each document, and what ingest refused at once, with the reason."""

    newest: dict[str, int] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Publisher:
    """Sends changes to a running Ragline. Make one with `publisher`."""

    def __init__(self, session: Session, bus: Bus, client: Ragline, telemetry: Telemetry) -> None:
        self._session = session
        self._bus = bus
        self._client = client
        self._telemetry = telemetry
        self.client = client

    async def send(self, changes: Iterable[Change], options: PublishOptions, *, bulk: bool) -> Sent:
        """Send changes in order; a file that ingest cannot read is refused at once, and the others go on."""
        sent = Sent()
        remaining = iter(changes)
        while batch := list(islice(remaining, _BATCH)):
            events = [change for change in batch if isinstance(change, DocumentChanged)]
            await self._bus.publish([self._message(event, bulk=bulk) for event in events])
            for change in batch:
                if isinstance(change, Upload):
                    try:
                        await self._upload(change, options, bulk=bulk)
                    except (Unauthenticated, PermissionDenied):
                        raise
                    except PermanentError as error:
                        sent.rejected.append((change.document_id, str(error)))
                        continue
                sent.newest[change.document_id] = max(change.revision, sent.newest.get(change.document_id, 0))
        return sent

    def _message(self, event: DocumentChanged, *, bulk: bool) -> Message:
        """The message of an event, in a trace of its own."""
        sent = BulkDocumentChanged(**event.model_dump()) if bulk else event
        with self._telemetry.tracer.start_as_current_span(f"publish {sent.topic}", kind=SpanKind.PRODUCER):
            return encode(sent, source=event.source, trace=trace_headers())

    async def _upload(self, upload: Upload, options: PublishOptions, *, bulk: bool) -> None:
        await self._client.publish_request(upload_request(upload, options, bulk=bulk))

    async def follow(self, sent: Sent, *, timeout_s: float) -> Outcome:
        """Wait for every document's newest revision, with a progress bar; raises TransientError at the time-out."""
        newest = sent.newest
        outcome = Outcome(sent=len(newest), rejected=[*sent.rejected])
        started = time.monotonic()
        limit = asyncio.Semaphore(_WAITERS)
        versions: list[IndexVersion] = []
        with _progress(self._session) as progress:
            task = progress.add_task("searchable", total=len(newest))

            async def wait(document_id: str, revision: int) -> None:
                async with limit:
                    document = await self._client.wait_for_document(
                        document_id, revision=revision, deadline_s=timeout_s
                    )
                if document.state == ingest_pb2.DOCUMENT_STATE_REJECTED:
                    outcome.rejected.append((document_id, document.reason))
                else:
                    outcome.searchable += 1
                    if document.index_version:
                        versions.append(IndexVersion.parse(document.index_version))
                progress.advance(task)

            try:
                async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                    for document_id, revision in newest.items():
                        group.create_task(wait(document_id, revision))
            except TimeoutError as error:
                raise TransientError(
                    f"{outcome.searchable} of {len(newest)} documents were searchable after {timeout_s:g} s; "
                    "the rest is on its way (`ragline index status`)"
                ) from error
            except BaseExceptionGroup as group_error:
                raise group_error.exceptions[0] from group_error
        outcome.seconds = time.monotonic() - started
        outcome.index_version = str(max(versions)) if versions else ""
        return outcome


def upload_request(upload: Upload, options: PublishOptions, *, bulk: bool) -> ingest_pb2.PublishDocumentRequest:
    """The gRPC request that publishes a file."""
    request = ingest_pb2.PublishDocumentRequest(
        document_id=upload.document_id,
        operation=ingest_pb2.OPERATION_UPSERT,
        revision=upload.revision,
        source=options.source,
        uri=upload.document_id.removeprefix(options.prefix),
        content_bytes=upload.data,
        bulk=bulk,
    )
    if options.groups is not None:
        request.acl.CopyFrom(ingest_pb2.AccessList(groups=options.groups))
    return request


@asynccontextmanager
async def publisher(session: Session) -> AsyncIterator[Publisher]:
    """A publisher connected to Kafka and to ingest."""
    settings = session.settings
    if not settings.bus.bootstrap:
        raise ConfigurationError(
            "no Kafka: start the stack with `ragline up`, or set RAGLINE_BUS__BOOTSTRAP to Kafka's address"
        )
    telemetry = Telemetry("cli")
    bus = Bus(settings.bus, settings.bootstrap, service="cli", telemetry=telemetry)
    await bus.start(connect_for_s=5.0)
    try:
        async with Ragline(
            settings.rpc.gateway, session.token, ingest=settings.rpc.ingest, telemetry=telemetry
        ) as client:
            yield Publisher(session, bus, client, telemetry)
    finally:
        await bus.stop()
        await asyncio.to_thread(telemetry.shutdown)


class _Rate(ProgressColumn):
    """Documents a second so far."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="dim")


def _progress(session: Session) -> Progress:
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents"),
        _Rate(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=session.console, disable=session.as_json)
