"""Both engines see exactly what `View.sees` says, and keep exactly what the model keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragline.index.engine import NewPoint, VectorEngine
from ragline.index.versions import View
from tests.contract.engine_model import EngineModel
from tests.contract.engine_points import names, point, query, scanned
from tests.contract.engine_under_test import CONTRACT_MARKS

pytest_plugins = ["tests.contract.engine_under_test"]
pytestmark = CONTRACT_MARKS

SEQUENCES = range(1, 8)
sequences = st.integers(min(SEQUENCES), max(SEQUENCES))
aborted_sets = st.frozensets(st.integers(0, 9), max_size=6)

# Every interval of these sequences, one point each.
INTERVALS: dict[str, tuple[int, int | None]] = {
    f"{valid_from}-{valid_to}": (valid_from, valid_to) for valid_from in SEQUENCES for valid_to in (None, *SEQUENCES)
}

property_test = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
async def every_interval(vector_engine: VectorEngine, shared_generation: str) -> str:
    """A generation that holds a point for each of INTERVALS."""
    for name, (valid_from, valid_to) in INTERVALS.items():
        new = point(name)
        await vector_engine.insert(shared_generation, valid_from, [new])
        if valid_to is not None:
            await vector_engine.close(shared_generation, valid_to, [new.id], frozenset())
    return shared_generation


@property_test
@given(sequence=st.integers(0, 9), aborted=aborted_sets, exact=st.booleans())
async def test_scan_and_search_see_what_the_view_sees(
    vector_engine: VectorEngine, every_interval: str, sequence: int, aborted: frozenset[int], exact: bool
) -> None:
    view = View(every_interval, sequence, aborted)
    expected = {name for name, interval in INTERVALS.items() if view.sees(*interval)}
    assert names(await vector_engine.search(view, query(exact=exact))) == expected
    assert await scanned(vector_engine, view) == {point(name).id for name in expected}


# --- histories ----------------------------------------------------------------------------------

POINTS: list[NewPoint] = [point(f"h{number}", document_id=f"d{number % 3}") for number in range(9)]
some_points = st.lists(st.sampled_from(POINTS), max_size=6, unique_by=lambda one: one.id)
some_ids = some_points.map(lambda chosen: [one.id for one in chosen])
documents = st.sampled_from([f"d{number}" for number in range(3)])
groups = st.lists(st.sampled_from(["staff", "board", "*"]), max_size=2, unique=True)

# Each operation as the name of a method and its arguments, without the generation.
operations = st.one_of(
    st.tuples(st.just("insert"), sequences, some_points),
    st.tuples(st.just("close"), sequences, some_ids, aborted_sets),
    st.tuples(st.just("sweep"), sequences, some_ids, some_ids),
    st.tuples(st.just("set_groups"), st.just("acme"), documents, groups),
    st.tuples(st.just("delete"), some_ids),
)


@property_test
@given(history=st.lists(st.tuples(operations, st.booleans()), max_size=12))
async def test_any_history_of_writes_ends_as_the_model_says_repeated_or_not(
    vector_engine: VectorEngine, shared_generation: str, history: list[tuple[tuple[object, ...], bool]]
) -> None:
    await vector_engine.delete(shared_generation, [one.id for one in POINTS])
    model = EngineModel()
    for (name, *arguments), repeated in history:
        apply: Callable[..., None] = getattr(model, str(name))
        apply(*arguments)
        for _time in range(1 + repeated):
            await getattr(vector_engine, str(name))(shared_generation, *arguments)
    ours = {one.id for one in POINTS}
    kept = {one.id: one async for one in vector_engine.scan_all(shared_generation) if one.id in ours}
    assert kept == model.points
