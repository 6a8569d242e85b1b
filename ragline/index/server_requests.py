"""Conditions and queries in the classes of qdrant-client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, assert_never

from qdrant_client import models

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

OfWidth = Callable[[int], models.QueryRequest]
"""Makes the request for a number of hits."""


def server_filter(where: Where) -> models.Filter:
    """The Qdrant server's filter for the conditions."""
    return models.Filter(
        must=[_condition(one) for one in where.must] or None,
        should=[_condition(one) for one in where.should] or None,
        must_not=[_condition(one) for one in where.must_not] or None,
    )


def _condition(condition: Condition) -> models.Condition:
    match condition:
        case Equals(key, value):
            return models.FieldCondition(key=key, match=models.MatchValue(value=value))
        case AnyOf(key, values):
            return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))
        case AtMost(key, value):
            return models.FieldCondition(key=key, range=models.Range(lte=value))
        case Absent(key):
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
        case HasId(ids):
            return models.HasIdCondition(has_id=[str(one) for one in ids])
        case Where():
            return server_filter(condition)
        case _:
            assert_never(condition)


def query_requests(view: View, query: Query) -> dict[str, OfWidth]:
    """The requests that answer a query, by the list that each fills."""
    wanted = server_filter(readable(view, query))

    def maker(using: str, vector: Any, params: models.SearchParams) -> OfWidth:
        return lambda limit: models.QueryRequest(
            query=models.NearestQuery(nearest=vector),
            using=using,
            filter=wanted,
            params=params,
            limit=limit,
            with_payload=True,
        )

    requests: dict[str, OfWidth] = {}
    if query.dense is not None:
        # ACORN keeps HNSW's recall under the selective filters of a version and a tenant (measured facts).
        acorn = None if query.exact else models.AcornSearchParams(enable=True)
        requests[DENSE] = maker(DENSE, query.dense.tolist(), models.SearchParams(exact=query.exact, acorn=acorn))
    if query.sparse is not None and query.sparse.indices:
        vector = models.SparseVector(indices=list(query.sparse.indices), values=list(query.sparse.values))
        corpus = models.IdfCorpusParams(corpus=server_filter(idf_corpus(view, query)))
        requests[SPARSE] = maker(SPARSE, vector, models.SearchParams(exact=query.exact, idf=corpus))
    return requests
