"""The contract of `VectorEngine.search` and `scan`: scores, order and completeness."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ragline.index.engine import NewPoint, ScoredPoint, VectorEngine
from ragline.index.versions import View
from tests.contract.engine_model import bm25_scores
from tests.contract.engine_points import point, points, query, scanned, vector
from tests.contract.engine_under_test import CONTRACT_MARKS

pytest_plugins = ["tests.contract.engine_under_test"]
pytestmark = CONTRACT_MARKS

NEVER = frozenset[int]()
TERMS = {1: 1.0, 2: 1.0, 3: 1.0}


def worded(count: int, *, tenant: str = "acme", first: int = 0) -> list[NewPoint]:
    """Points whose terms overlap with TERMS to differing degrees, with weights all their own."""
    return [
        point(
            f"w{number}",
            tenant=tenant,
            terms={term: 0.5 + (number * 7 + term) % 11 / 10 for term in range(1, 6) if number % (term + 1)},
        )
        for number in range(first, first + count)
    ]


def ids_of(found: Sequence[ScoredPoint]) -> list[uuid.UUID]:
    return [one.id for one in found]


async def test_dense_results_are_those_of_brute_force(vector_engine: VectorEngine, generation: str) -> None:
    new = points(200)
    await vector_engine.insert(generation, 1, new)
    question = vector(99)
    scores = {one.id: float(one.dense @ question) for one in new}
    best = sorted(scores, key=lambda one: -scores[one])[:10]
    for exact in (True, False):
        found = (await vector_engine.search(View(generation, 1), query(dense=question, limit=10, exact=exact))).dense
        assert ids_of(found) == best
        assert [one.score for one in found] == pytest.approx([scores[one] for one in best], abs=1e-5)
        assert [one.rank for one in found] == list(range(1, 11))


async def test_sparse_scores_are_bm25_with_the_tenants_own_idf(vector_engine: VectorEngine, generation: str) -> None:
    new = worded(60)
    await vector_engine.insert(generation, 1, new)
    await vector_engine.insert(generation, 1, worded(90, tenant="other", first=60))
    question = query(terms=TERMS, limit=500)
    assert question.sparse is not None
    expected = bm25_scores(question.sparse, new, new)
    found = (await vector_engine.search(View(generation, 1), question)).sparse
    assert {one.id: one.score for one in found} == pytest.approx(expected, rel=1e-5)
    assert ids_of(found) == [one.id for one in sorted(found, key=lambda one: (-one.score, one.id))]
    assert [one.rank for one in found] == list(range(1, len(found) + 1))


async def test_an_exact_search_counts_idf_over_the_visible_set_alone(
    vector_engine: VectorEngine, generation: str
) -> None:
    early, closed, late = worded(20), worded(20, first=20), worded(20, first=40)
    await vector_engine.insert(generation, 1, [*early, *closed])
    await vector_engine.close(generation, 2, [one.id for one in closed], NEVER)
    await vector_engine.insert(generation, 3, late)
    exact = query(terms=TERMS, limit=500, exact=True)
    assert exact.sparse is not None
    found = (await vector_engine.search(View(generation, 2), exact)).sparse
    assert {one.id: one.score for one in found} == pytest.approx(bm25_scores(exact.sparse, early, early), rel=1e-5)
    loose = (await vector_engine.search(View(generation, 2), replace(exact, exact=False))).sparse
    assert {one.id: one.score for one in loose} == pytest.approx(
        bm25_scores(exact.sparse, early, [*early, *closed, *late]), rel=1e-5
    )


async def test_an_exact_search_repeats_at_an_old_version_whatever_came_later(
    vector_engine: VectorEngine, generation: str
) -> None:
    old = worded(80)
    view = View(generation, 2, frozenset({1}))
    await vector_engine.insert(generation, 2, old)
    question = query(terms=TERMS, dense=vector(5), limit=20, exact=True)
    before = await vector_engine.search(view, question)
    await vector_engine.insert(generation, 3, worded(150, first=80))
    await vector_engine.close(generation, 3, [one.id for one in old[::2]], NEVER)
    await vector_engine.insert(generation, 4, worded(40, tenant="other", first=230))
    after = await vector_engine.search(view, question)
    assert after.sparse == before.sparse
    assert ids_of(after.dense) == ids_of(before.dense)
    assert [one.score for one in after.dense] == pytest.approx([one.score for one in before.dense], abs=1e-6)
    assert len(before.dense) == len(before.sparse) == 20


@pytest.mark.usefixtures("bitwise_dense_scores")
async def test_a_dense_score_is_bit_by_bit_the_same_whatever_came_later(
    vector_engine: VectorEngine, generation: str
) -> None:
    await vector_engine.insert(generation, 1, points(70))
    before = (await vector_engine.search(View(generation, 1), query(exact=True))).dense
    await vector_engine.insert(generation, 2, points(200)[70:])
    await vector_engine.delete(generation, [one.id for one in points(200)[100:]])
    assert (await vector_engine.search(View(generation, 1), query(exact=True))).dense == before


async def test_a_list_without_its_vector_is_empty(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, points(3))
    view = View(generation, 1)
    no_sparse = await vector_engine.search(view, replace(query(), sparse=None))
    assert (len(no_sparse.dense), no_sparse.sparse) == (3, ())
    no_dense = await vector_engine.search(view, replace(query(), dense=None))
    assert (no_dense.dense, len(no_dense.sparse)) == ((), 3)
    no_terms = await vector_engine.search(view, query(terms={}))
    assert (len(no_terms.dense), no_terms.sparse) == (3, ())
    assert await vector_engine.search(view, replace(query(), dense=None, sparse=None)) == replace(no_sparse, dense=())


async def test_the_sparse_list_holds_only_points_that_share_a_term(
    vector_engine: VectorEngine, generation: str
) -> None:
    sharing, foreign, wordless = point("a", terms={1: 1.0}), point("b", terms={2: 1.0}), point("c", terms={})
    await vector_engine.insert(generation, 1, [sharing, foreign, wordless])
    found = await vector_engine.search(View(generation, 1), query(terms={1: 1.0, 9: 1.0}))
    assert ids_of(found.sparse) == [sharing.id]
    assert len(found.dense) == 3


async def _insert_tied(engine: VectorEngine, generation: str) -> list[uuid.UUID]:
    """Forty points alike in both vectors, and one that is better; their ids in the only right order."""
    alike = [point(f"alike{number}", dense=vector(3)) for number in range(40)]
    best = point("best", dense=vector(4), terms={7: 2.0})
    await engine.insert(generation, 1, [*alike[20:], best, *alike[:20]])
    return [best.id, *sorted(one.id for one in alike)]


@pytest.mark.parametrize("limit", [1, 5, 30, 41])
async def test_equal_sparse_scores_are_ordered_by_id_wherever_the_limit_cuts(
    vector_engine: VectorEngine, generation: str, limit: int
) -> None:
    ordered = await _insert_tied(vector_engine, generation)
    found = await vector_engine.search(View(generation, 1), query(limit=limit))
    assert ids_of(found.sparse) == ordered[:limit]


@pytest.mark.usefixtures("bitwise_dense_scores")
@pytest.mark.parametrize("limit", [1, 5, 30, 41])
async def test_equal_dense_scores_are_ordered_by_id_wherever_the_limit_cuts(
    vector_engine: VectorEngine, generation: str, limit: int
) -> None:
    ordered = await _insert_tied(vector_engine, generation)
    question = query(dense=(vector(4) + 0.9 * vector(3)).astype(np.float32), limit=limit)
    found = await vector_engine.search(View(generation, 1), question)
    assert ids_of(found.dense) == ordered[:limit]


async def test_a_scan_yields_each_point_once_over_many_pages(vector_engine: VectorEngine, generation: str) -> None:
    new = points(1300)
    await vector_engine.insert(generation, 1, new)
    await vector_engine.close(generation, 2, [one.id for one in new[:100]], NEVER)
    assert await scanned(vector_engine, View(generation, 1)) == {one.id for one in new}
    assert await scanned(vector_engine, View(generation, 2)) == {one.id for one in new[100:]}
    assert len([stored async for stored in vector_engine.scan_all(generation)]) == 1300


async def test_a_scan_can_be_left_early(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, points(5))
    async for stored in vector_engine.scan(View(generation, 1)):
        assert stored.payload.tenant == "acme"
        break
    assert await vector_engine.count_opened(generation, 1) == 5
