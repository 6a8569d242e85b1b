"""The commit protocol on the real ledger and the real engine: all or nothing, whatever breaks off."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from ragline.contracts.events import ChunksReady, IndexCommitted, IndexState
from ragline.errors import PermanentError, TransientError
from ragline.index.edge import EdgeEngine
from services.embed.commits import Conflict
from services.embed.committer import Committer
from services.embed.versions import Unchanged, plan_change
from tests.document_versions import access, delete, upsert
from tests.engine_process import engine_worker
from tests.integration.embed_under_test import (
    GENERATION,
    Index,
    empty_index,
    prepared,
    running,
)

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[EdgeEngine]:
    with tempfile.TemporaryDirectory(prefix="ragline-", dir="/tmp") as folder:
        async with engine_worker(Path(folder)) as address:
            engine = EdgeEngine(address)
            yield engine
            await engine.aclose()


@pytest.fixture
async def index(database_url: str, engine: EdgeEngine) -> AsyncIterator[Index]:
    async with empty_index(database_url, engine) as index:
        yield index


# --- one commit after the other -------------------------------------------------------------------


async def test_a_commit_becomes_visible_whole(index: Index) -> None:
    await index.commit(upsert(1, ["one", "two"]))
    async with index.committer() as committer:
        held = index.engine.hold("count_opened")
        commit = asyncio.create_task(committer.commit(await index.prepare(upsert(2, ["one", "three", "four"]))))
        await held.reached.wait()
        assert await index.texts() == ["one", "two"]

        held.released.set()
        assert str((await commit).version) == "g1@2"

    assert await index.texts() == ["four", "one", "three"]
    assert await index.texts(1) == ["one", "two"]


async def test_deleting_and_re_creating_a_document_keeps_every_version(index: Index) -> None:
    await index.commit(upsert(1, ["one"]), delete(2), upsert(3, ["one"]), upsert(4, ["one"], metadata={"lang": "de"}))

    assert [await index.texts(sequence) for sequence in range(5)] == [[], ["one"], [], ["one"], ["one"]]
    await index.verify_every_version()


async def test_the_recorded_fingerprints_are_those_of_the_engine_at_every_version(index: Index) -> None:
    await index.commit(
        upsert(1, ["one", "two"], document_id="a"),
        upsert(1, ["one", "two"], document_id="b"),
        upsert(2, ["two", "three"], document_id="a"),
        delete(2, document_id="b"),
        access(3, ["two", "three"], acl=["staff"], document_id="a"),
    )

    await index.verify_every_version()
    recorded = {await index.history.fingerprint((await index.view(sequence)).version) for sequence in range(6)}
    assert len(recorded) == 5, "an access change alone does not alter the fingerprint"


async def test_announcements_leave_in_the_order_of_the_sequences(index: Index) -> None:
    await index.commit(upsert(1, ["one"]), upsert(2, ["two"]), delete(3))

    announced = await index.announcements()

    committed = [event for event in announced if isinstance(event, IndexCommitted)]
    assert [event.sequence for event in committed] == [1, 2, 3]
    assert [len(event.documents[0].opened) for event in committed] == [1, 1, 0]
    assert [event.documents[0].closed for event in committed][1:] == [
        event.documents[0].opened for event in committed[:2]
    ]
    states = [event.generations[GENERATION] for event in announced if isinstance(event, IndexState)]
    assert [state.watermark for state in states] == [0, 1, 2, 3]
    assert [state.fingerprint for state in states[1:]] == [event.fingerprint for event in committed]


async def test_an_access_change_applies_to_every_version(index: Index) -> None:
    await index.commit(upsert(1, ["one"]), upsert(2, ["two"]), access(3, ["two"], acl=["staff"]))

    groups = {point.payload.groups for at in (1, 2, 3) for point in await index.points(at)}

    assert groups == {("staff",)}
    assert await index.texts(1) == ["one"]


async def test_an_access_change_reaches_the_old_versions_of_a_deleted_document(index: Index) -> None:
    await index.commit(upsert(1, ["one"]), delete(2), delete(3, acl=["staff"]))

    assert [point.payload.groups for point in await index.points(1)] == [("staff",)]


# --- several documents in one commit --------------------------------------------------------------


async def test_changes_that_wait_together_share_a_commit(index: Index) -> None:
    waiting = [await index.prepare(upsert(1, [f"text {name}"], document_id=name)) for name in "abc"]
    async with index.committer() as committer:
        committed = await asyncio.gather(*(committer.commit(one) for one in waiting))

    assert {str(one.version) for one in committed} == {"g1@1"}
    assert await index.texts() == ["text a", "text b", "text c"]


async def test_a_conflict_fails_alone(index: Index) -> None:
    stale = await index.prepare(upsert(1, ["stale"], document_id="a"))
    other = await index.prepare(upsert(1, ["other"], document_id="b"))
    await index.commit(upsert(2, ["newer"], document_id="a"))

    async with index.committer() as committer:
        outcomes = await asyncio.gather(committer.commit(stale), committer.commit(other), return_exceptions=True)

    assert isinstance(outcomes[0], Conflict)
    assert not isinstance(outcomes[1], BaseException)
    assert await index.texts() == ["newer", "other"]


@pytest.mark.parametrize("error", [PermanentError("refused", reason="INVALID_VECTOR"), ValueError("a defect")])
async def test_a_document_that_cannot_be_written_fails_alone(index: Index, error: Exception) -> None:
    """Its neighbours in the commit must not be dead-lettered for it."""
    good = await index.prepare(upsert(1, ["good"], document_id="a"))
    bad = await index.prepare(upsert(1, ["bad"], document_id="b"))
    insert = index.engine.insert

    async def refuse_bad(generation: str, sequence: int, points: list[object]) -> None:
        if any("bad" in repr(point) for point in points):
            raise error
        await insert(generation, sequence, points)

    index.engine.insert = refuse_bad  # type: ignore[attr-defined]
    async with index.committer() as committer:
        outcomes = await asyncio.gather(committer.commit(good), committer.commit(bad), return_exceptions=True)

    assert not isinstance(outcomes[0], BaseException)
    assert outcomes[1] is error
    assert await index.texts() == ["good"]
    assert await index.unresolved() == 0


async def test_a_vector_that_the_engine_refuses_ends_neither_the_committer_nor_the_index(index: Index) -> None:
    bad = await index.prepare(upsert(1, ["bad"], document_id="b"))
    vector = bad.vectors[0]
    zero = type(vector)(vector.chunk_id, vector.chunk, np.zeros_like(vector.dense), vector.sparse)
    async with index.committer() as committer:
        with pytest.raises(PermanentError, match="zero"):
            await committer.commit(prepared(bad.change, vectors=[zero]))

        await committer.commit(await index.prepare(upsert(1, ["good"])))

    assert await index.texts() == ["good"]


async def test_a_second_change_of_a_document_in_the_group_is_planned_again(index: Index) -> None:
    first, second = await index.prepare(upsert(1, ["one"])), await index.prepare(upsert(2, ["two"]))
    async with index.committer() as committer:
        outcomes = await asyncio.gather(committer.commit(first), committer.commit(second), return_exceptions=True)

    assert not isinstance(outcomes[0], BaseException)
    assert isinstance(outcomes[1], Conflict)


# --- the watermark --------------------------------------------------------------------------------


async def test_the_watermark_does_not_pass_a_pending_commit(index: Index) -> None:
    pending, one = await index.begin(upsert(1, ["first"], document_id="a"))
    await index.commit(upsert(1, ["second"], document_id="b"))
    assert await index.state() == (0, ())
    assert await index.texts() == []

    await index.insert(pending, one)
    assert await index.ledger.complete(pending)

    assert await index.state() == (2, ())
    assert await index.texts() == ["first", "second"]
    committed = [event for event in await index.announcements() if isinstance(event, IndexCommitted)]
    assert [event.sequence for event in committed] == [1, 2]
    await index.verify_every_version()


async def test_the_watermark_jumps_over_an_aborted_commit(index: Index) -> None:
    pending, _ = await index.begin(upsert(1, ["first"], document_id="a"))
    await index.commit(upsert(1, ["second"], document_id="b"))

    abort = await index.ledger.begin_abort(GENERATION, pending.sequence, token=pending.token)
    assert abort is not None
    assert await index.state() == (0, (1,)), "not before it is swept"
    assert await index.ledger.finish_abort(abort)

    assert await index.state() == (2, (1,))
    assert await index.texts() == ["second"]


async def test_a_commit_is_completed_once(index: Index) -> None:
    commit, one = await index.begin(upsert(1, ["one"]))
    await index.insert(commit, one)

    assert await index.ledger.complete(commit)
    assert not await index.ledger.complete(commit)
    assert await index.ledger.begin_abort(GENERATION, commit.sequence, token=commit.token) is None


async def test_two_reapers_do_not_undo_the_same_commit(index: Index) -> None:
    commit, _ = await index.begin(upsert(1, ["one"]))
    await index.end_lease(commit)

    aborts = await asyncio.gather(
        *(index.ledger.begin_abort(GENERATION, commit.sequence, token=None) for _ in range(2))
    )

    assert sum(abort is not None for abort in aborts) == 1


# --- two writers at once --------------------------------------------------------------------------


async def test_two_committers_never_show_two_versions_of_a_document(index: Index) -> None:
    """Each document has two chunks a version; whoever reads must see both of one version, always."""
    documents, versions = "abc", range(1, 7)
    hiccups = iter(range(1_000_000))

    async def fail_now_and_then() -> None:
        if next(hiccups) % 7 == 3:
            raise TransientError("the engine is away")

    async def write(document: str) -> None:
        async with index.committer() as committer:
            for number in versions:
                event = upsert(number, [f"{document}.{number}.x", f"{document}.{number}.y"], document_id=document)
                await _until_held(index, committer, event)

    async def read() -> None:
        while True:
            shown: dict[str, set[str]] = {}
            for text in await index.texts():
                document, number, _ = text.split(".")
                shown.setdefault(document, set()).add(number)
                shown.setdefault(document + number, set()).add(text)
            assert all(len(numbers) == 1 for name, numbers in shown.items() if len(name) == 1), shown
            assert all(len(texts) == 2 for name, texts in shown.items() if len(name) > 1), shown
            reads.append(len(shown))

    reads: list[int] = []
    index.engine.before["close"] = fail_now_and_then
    async with running(read()), index.reaper():
        await asyncio.gather(*(write(document) for document in documents for _ in range(2)))

    assert await index.texts() == sorted(f"{document}.6.{part}" for document in documents for part in "xy")
    assert len(reads) > 10
    await index.verify_every_version()


async def _until_held(index: Index, committer: Committer, event: ChunksReady) -> None:
    """As the bus does: try again until the ledger holds this version or a newer one."""
    while True:
        try:
            current = await index.ledger.current_document(GENERATION, event.tenant, event.document_id)
            plan = plan_change(current, event)
            if isinstance(plan, Unchanged):
                return
            await committer.commit(prepared(plan))
        except TransientError:
            await asyncio.sleep(0.01)
