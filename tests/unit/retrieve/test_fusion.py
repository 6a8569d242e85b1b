"""Reciprocal rank fusion: by ranks alone, each point once, reproducible."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from ragline.index.engine import Candidates, Payload, ScoredPoint
from services.retrieve.fusion import RRF_K, FusedHit, reciprocal_rank_fusion


def ranked(*names: int) -> tuple[ScoredPoint, ...]:
    """A list of points in this order; their scores are on a scale of the list's own."""
    payload = Payload("acme", "d", "c", "h", "m", "text", (), "", "", ("*",))
    return tuple(
        ScoredPoint(uuid.UUID(int=name), 100.0 - rank, rank, payload, 1) for rank, name in enumerate(names, start=1)
    )


def fused(dense: tuple[int, ...], sparse: tuple[int, ...], *, limit: int = 10) -> tuple[FusedHit, ...]:
    return reciprocal_rank_fusion(Candidates(ranked(*dense), ranked(*sparse)), limit=limit)


def names(hits: tuple[FusedHit, ...]) -> list[int]:
    return [hit.point.id.int for hit in hits]


def test_what_both_lists_found_comes_first() -> None:
    assert names(fused((1, 2, 3), (4, 3, 5)))[0] == 3


def test_the_score_is_the_sum_of_the_reciprocal_ranks() -> None:
    hit = fused((1, 2), (2, 1))[0]

    assert hit.score == 1 / (RRF_K + 1) + 1 / (RRF_K + 2)


def test_a_hit_tells_its_place_in_each_list() -> None:
    both, dense_only, sparse_only = (fused((1, 2), (1, 3))[i] for i in range(3))

    assert both.dense is not None and both.sparse is not None
    assert (dense_only.dense and dense_only.dense.rank, dense_only.sparse) == (2, None)
    assert (sparse_only.dense, sparse_only.sparse and sparse_only.sparse.rank) == (None, 2)


def test_ties_are_broken_the_same_way_every_time() -> None:
    assert names(fused((2,), (1,))) == names(fused((1,), (2,))) == [1, 2]


def test_two_empty_lists_make_no_hits() -> None:
    assert fused((), ()) == ()


lists = st.lists(st.integers(1, 20), unique=True, max_size=12).map(tuple)


@given(lists, lists, st.integers(1, 30))
def test_every_candidate_comes_once_best_first_up_to_the_limit(
    dense: tuple[int, ...], sparse: tuple[int, ...], limit: int
) -> None:
    hits = fused(dense, sparse, limit=limit)

    assert len(hits) == min(limit, len({*dense, *sparse}))
    assert len(set(names(hits))) == len(hits)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)


@given(lists, lists)
def test_a_smaller_limit_cuts_the_same_ranking(dense: tuple[int, ...], sparse: tuple[int, ...]) -> None:
    assert names(fused(dense, sparse, limit=3)) == names(fused(dense, sparse, limit=30))[:3]
