"""Conditions and queries in the embedded engine's own classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never

from qdrant_edge import (
    FieldCondition,
    Filter,
    HasIdCondition,
    IdfParams,
    IsEmptyCondition,
    MatchAny,
    MatchValue,
    QueryRequest,
    RangeFloat,
    SearchParams,
    SparseVector,
)
from qdrant_edge import Query as EdgeQuery

from ragline.index.conditions import (
    Absent,
    AnyOf,
    AtMost,
    Condition,
    Equals,
    HasId,
    Where,
    idf_corpus,
    readable,
)
from ragline.index.engine import Query
from ragline.index.versions import View

DENSE: Final = "dense"
SPARSE: Final = "bm25"

OfWidth = Callable[[int], QueryRequest]
"""Makes the request for a number of hits."""


def edge_filter(where: Where) -> Filter:
    """The embedded engine's filter for the conditions."""
    return Filter(
        must=[_condition(one) for one in where.must] or None,
        should=[_condition(one) for one in where.should] or None,
        must_not=[_condition(one) for one in where.must_not] or None,
    )


def _condition(condition: Condition) -> FieldCondition | Filter | HasIdCondition | IsEmptyCondition:
    match condition:
        case Equals(key, value):
            return FieldCondition(key, match=MatchValue(value))
        case AnyOf(key, values):
            return FieldCondition(key, match=MatchAny(list(values)))  # type: ignore[arg-type]
        case AtMost(key, value):
            return FieldCondition(key, range=RangeFloat(lte=float(value)))
        case Absent(key):
            return IsEmptyCondition(key)
        case HasId(ids):
            return HasIdCondition(set(ids))
        case Where():
            return edge_filter(condition)
        case _:
            assert_never(condition)


def query_requests(view: View, query: Query) -> dict[str, OfWidth]:
    """The requests that answer a query, by the list that each fills."""
    wanted = edge_filter(readable(view, query))

    def maker(nearest: EdgeQuery, params: SearchParams) -> OfWidth:
        return lambda limit: QueryRequest(limit=limit, query=nearest, filter=wanted, params=params, with_payload=True)

    requests: dict[str, OfWidth] = {}
    if query.dense is not None:
        nearest = EdgeQuery.Nearest(query.dense.tolist(), using=DENSE)
        requests[DENSE] = maker(nearest, SearchParams(exact=True))
    if query.sparse is not None and query.sparse.indices:
        vector = SparseVector(list(query.sparse.indices), list(query.sparse.values))
        corpus = IdfParams(corpus=edge_filter(idf_corpus(view, query)))
        requests[SPARSE] = maker(EdgeQuery.Nearest(vector, using=SPARSE), SearchParams(exact=query.exact, idf=corpus))
    return requests
