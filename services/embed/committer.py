"""The commit protocol: all or nothing, whatever crashes (design: index versions, "Writing").

Changes that arrive together share one commit (group commit). The order is what makes it safe:
pending row -> insert new points -> close old ones conditionally -> count -> compare-and-set to complete.
Any error or time-out in between means the outcome is unknown, and unknown means abort.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.trace import Link, SpanContext

from ragline.errors import PermanentError, RaglineError, TransientError
from ragline.faults import fault_point
from ragline.index.engine import NewPoint, VectorEngine
from ragline.index.versions import IndexVersion
from ragline.telemetry import Attribute, Telemetry, span_context, trace_headers
from services.embed.commits import LEASE_S, Abort, Commit, Conflict
from services.embed.ledger import Ledger
from services.embed.vectors import ChunkVector
from services.embed.versions import Change, stored_groups

log = structlog.get_logger(__name__)

MAX_POINTS: Final = 512
"""Points after which a group is full: bounds the memory, the duration and the announcement of one commit."""
MAX_DOCUMENTS: Final = 64
_RESTORE_AGAIN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change with the vectors of the chunks that it opens, ready to be committed."""

    change: Change
    vectors: tuple[ChunkVector, ...]
    traceparent: str | None
    """The document's own trace, kept with its version: answers link to it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The version that holds a change, and the span of the commit that it shared."""

    version: IndexVersion
    span: SpanContext


@dataclass(slots=True)
class _Waiting:
    prepared: Prepared
    done: asyncio.Future[Committed]


class Committer:
    """Turns prepared changes into commits of one generation, and undoes abandoned ones."""

    def __init__(
        self, ledger: Ledger, engine: VectorEngine, telemetry: Telemetry, *, write_timeout_s: float = 30.0
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._telemetry = telemetry
        self._write_timeout_s = write_timeout_s
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(maxsize=1000)

    async def commit(self, prepared: Prepared) -> Committed:
        """Commit a change, with others that wait at the same time; returns once it is complete.

        Raises Conflict when the document moved on meanwhile (plan again), TransientError when the commit
        was aborted. Cancelling the wait does not undo a commit that is under way.
        """
        waiting = _Waiting(prepared, asyncio.get_running_loop().create_future())
        await self._queue.put(waiting)
        return await waiting.done

    async def run(self) -> None:
        """Commit group after group until cancelled."""
        while True:
            group = await self._next_group()
            try:
                await self._commit_group(group)
            except asyncio.CancelledError:
                while not self._queue.empty():
                    group.append(self._queue.get_nowait())
                self._fail(group, TransientError("the service is stopping"))
                raise

    async def run_reaper(self, *, every_s: float = 1.0) -> None:
        """Undo commits whose writer is silent beyond its lease, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                for generation, sequence in await self._ledger.abandoned():
                    abort = await self._ledger.begin_abort(generation, sequence, token=None)
                    if abort is not None:
                        await self._undo(abort)
                        log.warning("abandoned_commit_aborted", version=f"{generation}@{sequence}")
            except (RaglineError, TimeoutError) as error:
                log.warning("reaper_waits", error=repr(error))

    async def _next_group(self) -> list[_Waiting]:
        """Everything that waits now, at most one change of each document, within the bounds."""
        group = [await self._queue.get()]
        points = _points(group[0])
        seen = {_document(group[0])}
        while len(group) < MAX_DOCUMENTS and points < MAX_POINTS and not self._queue.empty():
            waiting = self._queue.get_nowait()
            if _document(waiting) in seen:
                # Its plan is older than the commit that it would share: let it be planned again.
                self._fail([waiting], Conflict("another change of the document is being committed"))
                continue
            seen.add(_document(waiting))
            group.append(waiting)
            points += _points(waiting)
        return group

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """One commit for the group; what may be the fault of one document makes each be tried alone."""
        try:
            committed = await self._commit_together(group)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is whoever waits that must hear of it)
            of_all = isinstance(error, TransientError) and not isinstance(error, Conflict)
            if of_all or len(group) == 1:
                self._fail(group, error)
                return
            for waiting in group:
                await self._commit_group([waiting])
            return
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_result(committed)

    async def _commit_together(self, group: list[_Waiting]) -> Committed:
        links = [Link(context) for waiting in group if (context := span_context(waiting.prepared.traceparent))]
        with self._telemetry.tracer.start_as_current_span("commit", links=links) as span:
            generation = (await self._ledger.state()).live_generation
            commit = await self._begin(generation, group)
            version = IndexVersion(generation, commit.sequence)
            span.set_attribute(Attribute.INDEX_VERSION, str(version))
            span.set_attribute(Attribute.COMMIT_DOCUMENTS, len(group))
            fault_point("commit.after_begin")
            await self._write_or_abort(commit, group)
            return Committed(version, span.get_span_context())

    async def _begin(self, generation: str, group: list[_Waiting]) -> Commit:
        return await self._ledger.begin(
            generation,
            [waiting.prepared.change for waiting in group],
            traceparents=[waiting.prepared.traceparent for waiting in group],
            traceparent=trace_headers().get("traceparent"),
        )

    async def _write_or_abort(self, commit: Commit, group: list[_Waiting]) -> None:
        completed = False
        try:
            async with asyncio.timeout(self._write_timeout_s), self._lease(commit):
                await self._write(commit, [waiting.prepared for waiting in group])
                fault_point("commit.before_complete")
                completed = await self._ledger.complete(commit)
                fault_point("commit.after_complete")
        except TimeoutError as error:
            raise TransientError(f"commit {commit.generation}@{commit.sequence} timed out") from error
        finally:
            # Whatever happened, cancellation too: not known to be complete means to be undone.
            if not completed:
                await asyncio.shield(self._abort_own(commit))
        if not completed:
            raise TransientError(f"commit {commit.generation}@{commit.sequence} was taken over by another writer")

    async def _write(self, commit: Commit, prepared: list[Prepared]) -> None:
        """Step 3: insert before close, never delete, then count."""
        points = [point for part in prepared for point in _new_points(commit, part)]
        await self._engine.insert(commit.generation, commit.sequence, points)
        fault_point("commit.after_insert")
        closed = [point.point_id for part in prepared for point in part.change.close]
        await self._engine.close(commit.generation, commit.sequence, closed, commit.aborted)
        fault_point("commit.after_close")
        for part in prepared:
            if part.change.access_changed:
                event = part.change.event
                await self._engine.set_groups(commit.generation, event.tenant, event.document_id, part.change.groups)
        found = await self._engine.count_opened(commit.generation, commit.sequence)
        if found != len(points):
            raise TransientError(
                f"commit {commit.generation}@{commit.sequence}: the engine holds {found} of {len(points)} points"
            )

    @contextlib.asynccontextmanager
    async def _lease(self, commit: Commit | Abort) -> AsyncIterator[None]:
        """Keep the lease while the body runs."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_S / 5)
                with contextlib.suppress(TransientError):  # the lease itself is what bounds a silent database
                    if not await self._ledger.renew(commit):
                        return

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()

    async def _abort_own(self, commit: Commit) -> None:
        """Undo one's own commit; if even that fails, its lease ends and the reaper does it."""
        try:
            abort = await self._ledger.begin_abort(commit.generation, commit.sequence, token=commit.token)
            if abort is None:
                await self._restore_access(commit)
            else:
                fault_point("abort.after_begin")
                await self._undo(abort)
        except (RaglineError, TimeoutError) as error:
            log.warning(
                "abort_left_to_the_reaper",
                version=f"{commit.generation}@{commit.sequence}",
                error=repr(error),
            )

    async def _restore_access(self, commit: Commit) -> None:
        """Another writer resolved the commit: what this one wrote of access since must not stay.

        Points are hidden by their aborted sequence, but access is overwritten in place. The ledger is read
        again after each write, since a newer change of access may be under way.
        """
        async with asyncio.timeout(self._write_timeout_s):
            for change in commit.changes:
                event, written = change.event, None
                while change.access_changed:
                    try:
                        access = await self._ledger.access(commit.generation, event.tenant, event.document_id)
                        if access == written:
                            break
                        await self._engine.set_groups(commit.generation, event.tenant, event.document_id, access)
                        written = access
                    except TransientError:
                        await asyncio.sleep(_RESTORE_AGAIN_S)

    async def _undo(self, abort: Abort) -> None:
        async with asyncio.timeout(self._write_timeout_s), self._lease(abort):
            await self._engine.sweep(abort.generation, abort.sequence, abort.opened, abort.closed)
            for tenant, document_id, acl in abort.documents:
                await self._engine.set_groups(abort.generation, tenant, document_id, stored_groups(acl))
            await self._ledger.finish_abort(abort)

    @staticmethod
    def _fail(group: list[_Waiting], error: Exception) -> None:
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_exception(error)


def _document(waiting: _Waiting) -> tuple[str, str]:
    event = waiting.prepared.change.event
    return event.tenant, event.document_id


def _points(waiting: _Waiting) -> int:
    """How many points the engine and the announcement of the commit are told of."""
    return len(waiting.prepared.change.open) + len(waiting.prepared.change.close)


def _new_points(commit: Commit, prepared: Prepared) -> list[NewPoint]:
    """The engine's points of one change; the vectors are in the order of the chunks to open."""
    ids = prepared.change.point_ids(commit.generation, commit.sequence)
    if len(ids) != len(prepared.vectors):
        raise PermanentError(f"{len(ids)} chunks but {len(prepared.vectors)} vectors", reason="DEFECT")
    return [vector.point(point, prepared.change) for point, vector in zip(ids, prepared.vectors, strict=True)]
