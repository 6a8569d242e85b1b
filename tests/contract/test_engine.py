"""The contract of `VectorEngine`: what is written, and which version sees it. See engine_under_test.py."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ragline.errors import FailedPrecondition, NotFound, PermanentError
from ragline.index.engine import NewPoint, SparseVector, VectorEngine
from ragline.index.versions import View
from tests.contract.engine_points import (
    COMMON_TERM,
    DIMENSIONS,
    intervals,
    point,
    points,
    query,
    scanned,
    seen,
)
from tests.contract.engine_under_test import CONTRACT_MARKS, new_generation

pytest_plugins = ["tests.contract.engine_under_test"]
pytestmark = CONTRACT_MARKS

NEVER = frozenset[int]()


# --- generations --------------------------------------------------------------------------------


async def test_creating_a_generation_again_keeps_its_points(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, points(3))
    await vector_engine.create_generation(generation, DIMENSIONS)
    assert await vector_engine.count_opened(generation, 1) == 3


async def test_a_generation_with_other_dimensions_is_refused(vector_engine: VectorEngine, generation: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"{generation} has {DIMENSIONS} dimensions, not 3"):
        await vector_engine.create_generation(generation, 3)


async def test_a_dropped_generation_is_gone_and_comes_back_empty(vector_engine: VectorEngine) -> None:
    name = new_generation()
    await vector_engine.create_generation(name, DIMENSIONS)
    await vector_engine.insert(name, 1, points(3))
    await vector_engine.drop_generation(name)
    await vector_engine.drop_generation(name)
    with pytest.raises(NotFound, match=name):
        await vector_engine.count_opened(name, 1)
    await vector_engine.create_generation(name, 5)
    assert await vector_engine.count_opened(name, 1) == 0
    await vector_engine.drop_generation(name)


async def test_generations_do_not_see_each_other(vector_engine: VectorEngine, generation: str) -> None:
    other = new_generation()
    await vector_engine.create_generation(other, DIMENSIONS)
    await vector_engine.insert(generation, 1, [point("here")])
    await vector_engine.insert(other, 1, [point("there")])
    assert await seen(vector_engine, View(generation, 1)) == {"here"}
    assert await seen(vector_engine, View(other, 1)) == {"there"}
    await vector_engine.drop_generation(other)


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.insert("g0", 1, points(1)),
        lambda engine: engine.close("g0", 1, [uuid.uuid4()], NEVER),
        lambda engine: engine.set_groups("g0", "acme", "manual", []),
        lambda engine: engine.search(View("g0", 1), query()),
        lambda engine: scanned(engine, View("g0", 1)),
    ],
    ids=["insert", "close", "set_groups", "search", "scan"],
)
async def test_a_generation_that_was_never_made_is_not_found(
    vector_engine: VectorEngine, call: Callable[[VectorEngine], Awaitable[Any]]
) -> None:
    with pytest.raises(NotFound, match="generation g0"):
        await call(vector_engine)


async def test_a_name_that_is_no_generation_is_refused(vector_engine: VectorEngine) -> None:
    with pytest.raises(PermanentError, match="write it like g1"):
        await vector_engine.create_generation("../g1", DIMENSIONS)


# --- insert -------------------------------------------------------------------------------------


async def test_a_point_comes_back_as_it_was_inserted(vector_engine: VectorEngine, generation: str) -> None:
    metadata = {"year": 2024, "ratio": 0.5, "draft": False, "tags": ["a", "b"], "größe": "XL", "none": None}
    new = point("one", metadata=metadata, groups=["staff", "board"])
    bare = replace(point("two", terms={}), payload=replace(point("two").payload, heading_path=(), title=""))
    await vector_engine.insert(generation, 42, [new, bare])
    stored = {one.id: one async for one in vector_engine.scan_all(generation)}
    assert stored[new.id].payload == new.payload
    assert stored[bare.id].payload == bare.payload
    assert (stored[new.id].valid_from, stored[new.id].valid_to) == (42, None)
    found = await vector_engine.search(View(generation, 42), query(groups=["board"], dense=new.dense))
    assert found.dense[0].payload == new.payload
    assert found.dense[0].valid_from == 42


async def test_more_points_than_a_batch_are_all_inserted(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 3, points(150))
    assert await vector_engine.count_opened(generation, 3) == 150
    assert await vector_engine.count_opened(generation, 2) == 0


async def test_inserting_nothing_does_nothing(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, [])
    assert await intervals(vector_engine, generation) == {}


async def test_repeating_an_insert_undoes_nothing_that_came_after_it(
    vector_engine: VectorEngine, generation: str
) -> None:
    new = points(3)
    await vector_engine.insert(generation, 1, new)
    await vector_engine.close(generation, 2, [new[0].id], NEVER)
    await vector_engine.set_groups(generation, "acme", "manual", ["board"])
    before = [stored async for stored in vector_engine.scan_all(generation)]
    await vector_engine.insert(generation, 1, new)
    assert [stored async for stored in vector_engine.scan_all(generation)] == before
    assert (await intervals(vector_engine, generation))[new[0].id] == (1, 2)


def _with_component(value: float) -> NewPoint:
    dense = point("bad").dense.copy()
    dense[3] = value
    return point("bad", dense=dense)


BAD_POINTS = {
    "not a number": _with_component(float("nan")),
    "infinite": _with_component(float("inf")),
    "zero": point("bad", dense=np.zeros(DIMENSIONS, np.float32)),
    "too short": point("bad", dense=np.ones(DIMENSIONS - 1, np.float32)),
    "a matrix": point("bad", dense=np.ones((1, DIMENSIONS), np.float32)),
    "a sparse index twice": replace(point("bad"), sparse=SparseVector((5, 5), (1.0, 2.0))),
    "a sparse value too few": replace(point("bad"), sparse=SparseVector((5, 6), (1.0,))),
    "a sparse value that is not finite": point("bad", terms={5: float("nan")}),
    "a sparse index below zero": point("bad", terms={-1: 1.0}),
}


@pytest.mark.parametrize("bad", BAD_POINTS.values(), ids=BAD_POINTS.keys())
async def test_a_point_that_cannot_be_searched_is_refused_before_anything_is_written(
    vector_engine: VectorEngine, generation: str, bad: NewPoint
) -> None:
    with pytest.raises(PermanentError, match=r"chunk-bad of document manual: .*nothing was written"):
        await vector_engine.insert(generation, 1, [*points(100), bad])
    assert await intervals(vector_engine, generation) == {}


async def test_vectors_of_another_embedder_are_refused_before_anything_is_written(
    vector_engine: VectorEngine, generation: str
) -> None:
    foreign = [point(str(number), dense=np.ones(3, np.float32)) for number in range(100)]
    with pytest.raises(PermanentError, match=r"the shape \(3,\), not \(8,\)"):
        await vector_engine.insert(generation, 1, foreign)
    assert await intervals(vector_engine, generation) == {}


# --- close, sweep, delete -----------------------------------------------------------------------


async def test_closing_is_conditional(vector_engine: VectorEngine, generation: str) -> None:
    opened, closed, aborted = new = points(3)
    ids = [one.id for one in new]
    await vector_engine.insert(generation, 1, new)
    await vector_engine.close(generation, 3, [closed.id], NEVER)
    await vector_engine.close(generation, 4, [aborted.id], NEVER)
    for _repeated in range(2):
        await vector_engine.close(generation, 5, ids, frozenset({2, 4}))
    assert await intervals(vector_engine, generation) == {
        opened.id: (1, 5),
        closed.id: (1, 3),
        aborted.id: (1, 5),
    }


async def test_closing_a_point_that_is_not_there_does_nothing(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.close(generation, 2, [uuid.uuid4()], NEVER)
    await vector_engine.close(generation, 2, [], NEVER)
    assert await intervals(vector_engine, generation) == {}


async def test_more_points_than_a_batch_are_closed_swept_and_deleted(
    vector_engine: VectorEngine, generation: str
) -> None:
    new = points(1100)
    ids = [one.id for one in new]
    await vector_engine.insert(generation, 1, new)
    await vector_engine.close(generation, 2, ids, NEVER)
    assert await scanned(vector_engine, View(generation, 2)) == set()
    await vector_engine.sweep(generation, 2, [], ids)
    assert await scanned(vector_engine, View(generation, 2)) == set(ids)
    await vector_engine.delete(generation, ids)
    assert await intervals(vector_engine, generation) == {}


async def test_sweeping_undoes_exactly_the_aborted_sequence(vector_engine: VectorEngine, generation: str) -> None:
    old = points(3)
    new = [point("new")]
    await vector_engine.insert(generation, 1, old)
    await vector_engine.insert(generation, 5, new)
    await vector_engine.close(generation, 4, [old[0].id], NEVER)
    await vector_engine.close(generation, 5, [old[1].id], NEVER)
    closures = [old[0].id, old[1].id, old[2].id, uuid.uuid4()]
    for _repeated in range(2):
        await vector_engine.sweep(generation, 5, [new[0].id], closures)
    assert await intervals(vector_engine, generation) == {
        old[0].id: (1, 4),
        old[1].id: (1, None),
        old[2].id: (1, None),
    }


async def test_deleting_is_for_good_and_may_be_repeated(vector_engine: VectorEngine, generation: str) -> None:
    gone, kept = new = points(2)
    await vector_engine.insert(generation, 1, new)
    for _repeated in range(2):
        await vector_engine.delete(generation, [gone.id])
    assert set(await intervals(vector_engine, generation)) == {kept.id}
    assert await seen(vector_engine, View(generation, 9)) == {"1"}


# --- versions -----------------------------------------------------------------------------------


async def test_a_reader_sees_the_index_as_it_was_at_any_version(vector_engine: VectorEngine, generation: str) -> None:
    old, kept, new = point("old"), point("kept"), point("new")
    await vector_engine.insert(generation, 1, [old, kept])
    await vector_engine.insert(generation, 2, [new])
    await vector_engine.close(generation, 2, [old.id], NEVER)
    assert await seen(vector_engine, View(generation, 0)) == set()
    assert await seen(vector_engine, View(generation, 1)) == {"old", "kept"}
    assert await seen(vector_engine, View(generation, 2)) == {"new", "kept"}
    assert await seen(vector_engine, View(generation, 9)) == {"new", "kept"}


async def test_an_aborted_sequence_neither_opens_nor_closes(vector_engine: VectorEngine, generation: str) -> None:
    old, new = point("old"), point("new")
    await vector_engine.insert(generation, 1, [old])
    await vector_engine.insert(generation, 2, [new])
    await vector_engine.close(generation, 2, [old.id], NEVER)
    assert await seen(vector_engine, View(generation, 3, frozenset({2}))) == {"old"}
    assert await scanned(vector_engine, View(generation, 3, frozenset({2}))) == {old.id}
    assert await seen(vector_engine, View(generation, 3)) == {"new"}


# --- in all -------------------------------------------------------------------------------------


async def test_a_cancelled_insert_can_be_repeated(vector_engine: VectorEngine, generation: str) -> None:
    insert = asyncio.create_task(vector_engine.insert(generation, 1, points(300)))
    await asyncio.sleep(0)
    insert.cancel()
    await asyncio.wait([insert])
    await vector_engine.insert(generation, 1, points(300))
    assert await vector_engine.count_opened(generation, 1) == 300


async def test_flushing_changes_nothing(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, points(3))
    await vector_engine.flush()
    await vector_engine.flush()
    assert await seen(vector_engine, View(generation, 1), terms={COMMON_TERM: 1.0}) == {"0", "1", "2"}
