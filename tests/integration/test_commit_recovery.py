"""Commits that break off: undone by their writer or for it, and harmless when the writer comes back."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragline.contracts.events import IndexCommitted, IndexState
from ragline.errors import TransientError
from ragline.index.edge import EdgeEngine
from services.embed.commits import Conflict
from tests.document_versions import access, upsert
from tests.engine_process import engine_worker
from tests.integration.embed_under_test import (
    GENERATION,
    DeafLedger,
    Index,
    empty_index,
    eventually,
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


# --- aborts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["insert", "close", "count_opened"])
async def test_an_engine_error_aborts_and_a_redelivery_commits_anew(index: Index, method: str) -> None:
    await index.commit(upsert(1, ["one", "two"]))
    async with index.committer() as committer:
        index.engine.fail(method, TransientError("the engine is away"))
        with pytest.raises(TransientError, match="away"):
            await committer.commit(await index.prepare(upsert(2, ["one", "three"])))

        assert await index.state() == (1, (2,))
        assert await index.texts() == ["one", "two"]
        assert await index.stored() == ["one", "two"]

        index.engine.heal()
        committed = await committer.commit(await index.prepare(upsert(2, ["one", "three"])))

    assert str(committed.version) == "g1@3"
    assert await index.texts() == ["one", "three"]
    await index.verify_every_version()


async def test_points_that_are_missing_after_the_write_abort_it(index: Index) -> None:
    change = await index.prepare(upsert(1, ["one"]))

    async def insert_nothing(generation: str, sequence: int, points: list[object]) -> None:
        return None

    index.engine.insert = insert_nothing  # type: ignore[attr-defined]
    async with index.committer() as committer:
        with pytest.raises(TransientError, match="0 of 1 points"):
            await committer.commit(change)

    assert await index.state() == (0, (1,))


async def test_a_write_that_takes_too_long_is_aborted(index: Index) -> None:
    async with index.committer(write_timeout_s=0.2) as committer:
        index.engine.hold("insert")
        with pytest.raises(TransientError, match="timed out"):
            await committer.commit(await index.prepare(upsert(1, ["one"])))

    assert await index.state() == (0, (1,))
    assert await index.unresolved() == 0


async def test_the_abort_is_announced_before_the_watermark_passes_it(index: Index) -> None:
    async with index.committer() as committer:
        index.engine.fail("close", TransientError("the engine is away"))
        with pytest.raises(TransientError):
            await committer.commit(await index.prepare(upsert(1, ["one"])))
        index.engine.heal()
        await committer.commit(await index.prepare(upsert(1, ["one"])))

    announced = await index.announcements()
    states = [event.generations[GENERATION] for event in announced if isinstance(event, IndexState)]
    passed = next(position for position, state in enumerate(states) if state.watermark == 2)
    assert [state.aborted for state in states[:passed]][-1] == (1,)
    assert [event.sequence for event in announced if isinstance(event, IndexCommitted)] == [2]


async def test_stopping_in_the_middle_of_a_commit_undoes_it(index: Index) -> None:
    held = index.engine.hold("count_opened")
    committer_of = index.committer()
    committer = await committer_of.__aenter__()
    under_way = asyncio.create_task(committer.commit(await index.prepare(upsert(1, ["one"], document_id="a"))))
    await held.reached.wait()
    queued = asyncio.create_task(committer.commit(await index.prepare(upsert(1, ["two"], document_id="b"))))
    await asyncio.sleep(0)

    await committer_of.__aexit__(None, None, None)

    for waiting in (under_way, queued):
        with pytest.raises(TransientError, match="stopping"):
            await waiting
    assert await index.unresolved() == 0
    assert await index.stored() == []


async def test_an_abort_that_fails_too_is_finished_by_the_reaper(index: Index) -> None:
    await index.commit(upsert(1, ["one"]))
    index.engine.fail("count_opened", TransientError("the engine is away"))
    index.engine.fail("sweep", TransientError("the engine is away"))
    async with index.committer() as committer:
        with pytest.raises(TransientError):
            await committer.commit(await index.prepare(upsert(2, ["two"])))
    assert await index.unresolved() == 1
    assert await index.texts() == ["one"]

    await index.database.fetch("UPDATE index_commit SET lease_until = clock_timestamp() WHERE state = 'aborting'")
    async with index.reaper():
        await asyncio.sleep(0.1)
        assert await index.unresolved() == 1, "the engine is still away"
        await index.database.fetch("UPDATE index_commit SET lease_until = clock_timestamp() WHERE state = 'aborting'")
        index.engine.heal()
        await eventually(lambda: _resolved(index))

    assert await index.stored() == ["one"]
    await index.verify_every_version()


async def _resolved(index: Index) -> bool:
    return await index.unresolved() == 0


# --- writers that vanish, and come back ------------------------------------------------------------


async def test_the_commit_of_a_writer_that_vanished_is_undone(index: Index) -> None:
    await index.commit(upsert(1, ["one", "two"]))
    commit, one = await index.begin(upsert(2, ["one", "three"]))
    await index.insert(commit, one)
    await index.end_lease(commit)

    async with index.reaper():
        await eventually(lambda: _resolved(index))

    assert await index.state() == (1, (2,))
    assert await index.texts() == ["one", "two"]
    assert await index.stored() == ["one", "two"]
    assert not await index.ledger.complete(commit)


async def test_a_living_writer_keeps_its_commit(index: Index) -> None:
    commit, _ = await index.begin(upsert(1, ["one"]))

    async with index.reaper():
        await asyncio.sleep(0.2)

    assert await index.ledger.renew(commit)
    assert await index.unresolved() == 1


async def test_nothing_is_planned_against_a_commit_that_may_still_be_undone(index: Index) -> None:
    """Its points are neither there nor gone: the plan would lose chunks or double them after an abort."""
    await index.commit(upsert(1, ["one", "two"]))
    commit, _ = await index.begin(upsert(2, ["one", "three"]))

    with pytest.raises(Conflict, match="unresolved"):
        await index.plan(upsert(2, ["one", "three"]))

    await index.end_lease(commit)
    async with index.reaper():
        await eventually(lambda: _resolved(index))
    await index.commit(upsert(2, ["one", "three"]))
    assert await index.texts() == ["one", "three"]
    await index.verify_every_version()


async def test_a_second_commit_of_a_document_waits_for_the_first(index: Index) -> None:
    stale = await index.prepare(upsert(2, ["two"]))
    await index.begin(upsert(1, ["one"]))

    async with index.committer() as committer:
        with pytest.raises(Conflict):
            await committer.commit(stale)


async def test_what_a_writer_writes_after_its_abort_is_invisible(index: Index) -> None:
    await index.commit(upsert(1, ["one", "two"]))
    commit, one = await index.begin(upsert(2, ["one", "three"]))
    await index.end_lease(commit)
    async with index.reaper():
        await eventually(lambda: _resolved(index))

    await index.insert(commit, one)  # the zombie wakes up

    assert not await index.ledger.complete(commit)
    assert await index.ledger.begin_abort(GENERATION, commit.sequence, token=commit.token) is None
    assert await index.texts() == ["one", "two"]
    await index.commit(upsert(2, ["one", "three"]), upsert(3, ["one"]))
    assert await index.texts() == ["one"]
    assert [await index.texts(at) for at in (1, 2, 3)] == [["one", "two"], ["one", "two"], ["one", "three"]]
    await index.verify_every_version()


async def test_an_access_list_written_after_an_abort_does_not_stay(index: Index) -> None:
    """Access is overwritten in place: a writer that was paused must not bring back what was revoked."""
    await index.commit(upsert(1, ["one"]))
    deaf = DeafLedger(index.database, index.outbox)
    async with index.committer(ledger=deaf) as paused, index.reaper():
        held = index.engine.hold("set_groups")
        late = asyncio.create_task(paused.commit(await index.prepare(access(2, ["one"], acl=["everyone"]))))
        await held.reached.wait()
        await index.database.fetch("UPDATE index_commit SET lease_until = clock_timestamp() WHERE state = 'pending'")
        await eventually(lambda: _resolved(index))
        await index.commit(access(3, ["one"], acl=["board"]))

        held.released.set()
        with pytest.raises(TransientError, match="taken over"):
            await late

    assert [point.payload.groups for point in await index.points()] == [("board",)]
