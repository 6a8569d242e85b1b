"""The contract of `VectorEngine.search`: who may read what, and which questions are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ragline.errors import InvalidArgument, PermanentError
from ragline.index.engine import SparseVector, VectorEngine
from ragline.index.versions import View
from tests.contract.engine_points import DIMENSIONS, point, query, scanned, seen
from tests.contract.engine_under_test import CONTRACT_MARKS

pytest_plugins = ["tests.contract.engine_under_test"]
pytestmark = CONTRACT_MARKS

NEVER = frozenset[int]()


# --- access -------------------------------------------------------------------------------------


async def test_a_tenant_sees_nothing_of_another(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(generation, 1, [point("a", tenant="acme"), point("b", tenant="other")])
    assert await seen(vector_engine, View(generation, 1), tenant="acme") == {"a"}
    assert await seen(vector_engine, View(generation, 1), tenant="other") == {"b"}
    assert await seen(vector_engine, View(generation, 1), tenant="nobody") == set()


async def test_a_caller_reads_what_their_groups_may_read(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(
        generation,
        1,
        [
            point("everyone"),
            point("staff", groups=["staff"]),
            point("both", groups=["staff", "board"]),
            point("nobody", groups=[]),
        ],
    )
    view = View(generation, 1)
    assert await seen(vector_engine, view) == {"everyone"}
    assert await seen(vector_engine, view, groups=["staff"]) == {"everyone", "staff", "both"}
    assert await seen(vector_engine, view, groups=["board", "guests"]) == {"everyone", "both"}
    assert len(await scanned(vector_engine, view)) == 4


async def test_access_changes_in_every_version_of_one_document_alone(
    vector_engine: VectorEngine, generation: str
) -> None:
    old, new = point("old"), point("new")
    neighbours = [point("neighbour", document_id="notes"), point("foreign", tenant="other")]
    await vector_engine.insert(generation, 1, [old, *neighbours])
    await vector_engine.insert(generation, 2, [new])
    await vector_engine.close(generation, 2, [old.id], NEVER)
    for _repeated in range(2):
        await vector_engine.set_groups(generation, "acme", "manual", ["board"])
    assert await seen(vector_engine, View(generation, 1)) == {"neighbour"}
    assert await seen(vector_engine, View(generation, 1), groups=["board"]) == {"old", "neighbour"}
    assert await seen(vector_engine, View(generation, 2), groups=["board"]) == {"new", "neighbour"}
    assert await seen(vector_engine, View(generation, 1), tenant="other") == {"foreign"}
    await vector_engine.set_groups(generation, "acme", "manual", [])
    assert await seen(vector_engine, View(generation, 1), groups=["board"]) == {"neighbour"}


async def test_metadata_narrows_a_search(vector_engine: VectorEngine, generation: str) -> None:
    await vector_engine.insert(
        generation,
        1,
        [
            point("a", metadata={"lang": "en", "year": 2024, "the.odd [key]": 'a "value"'}),
            point("b", metadata={"lang": "de", "year": 2024, "tags": ["x", "y"], "draft": True}),
            point("c", metadata={"langue": "en"}),
        ],
    )
    for wanted, expected in (
        ({"lang": "en"}, {"a"}),
        ({"year": "2024"}, {"a", "b"}),
        ({"year": "2024", "lang": "de"}, {"b"}),
        ({"the.odd [key]": 'a "value"'}, {"a"}),
        ({"tags": "y"}, {"b"}),
        ({"draft": "true"}, {"b"}),
        ({"lang": "fr"}, set()),
    ):
        assert await seen(vector_engine, View(generation, 1), metadata=wanted) == expected, wanted


# --- questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("limit", query(limit=0)),
        ("dense", query(dense=np.full(DIMENSIONS, np.nan, np.float32))),
        ("dense", query(dense=np.zeros(DIMENSIONS, np.float32))),
        ("sparse", replace(query(), sparse=SparseVector((1, 1), (1.0, 1.0)))),
    ],
)
async def test_a_question_that_cannot_be_answered_is_refused(
    vector_engine: VectorEngine, generation: str, field: str, question: Any
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await vector_engine.search(View(generation, 1), question)
    assert refusal.value.field == field


async def test_a_question_of_another_embedder_is_refused(vector_engine: VectorEngine, generation: str) -> None:
    with pytest.raises(PermanentError, match=r"the shape \(3,\), not \(8,\)"):
        await vector_engine.search(View(generation, 1), query(dense=np.ones(3, np.float32)))
