"""Which points an operation means, said once for both engines.

Each engine translates these few conditions into its own filter classes. The field names are those of
`ragline.index.points`; every field used here has a payload index.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from ragline.index.engine import WHOLE_TENANT, Query
from ragline.index.points import metadata_terms
from ragline.index.versions import View


@dataclass(frozen=True, slots=True)
class Equals:
    """The field holds this value, or a list with it."""

    key: str
    value: str | int


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field holds one of these values (at least one is given), or a list with one of them."""

    key: str
    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AtMost:
    """The field is a number no greater than this; never true of an absent field."""

    key: str
    value: int


@dataclass(frozen=True, slots=True)
class Absent:
    """The field is missing."""

    key: str


@dataclass(frozen=True, slots=True)
class HasId:
    """The point is one of these."""

    ids: tuple[uuid.UUID, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """All of `must`, at least one of `should` (if there are any), none of `must_not`."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


Condition = Equals | AnyOf | AtMost | Absent | HasId | Where


def visible(view: View) -> Where:
    """Exactly the points that `View.sees`.

    `must_not: valid_to <= S` rather than `valid_to > S or absent`: the engine answers it faster
    (design: measured facts).
    """
    closed: Condition = AtMost("valid_to", view.sequence)
    if not view.aborted:
        return Where(must=(AtMost("valid_from", view.sequence),), must_not=(closed,))
    aborted = tuple(sorted(view.aborted))
    return Where(
        must=(AtMost("valid_from", view.sequence),),
        must_not=(
            AnyOf("valid_from", aborted),
            Where(must=(closed,), must_not=(AnyOf("valid_to", aborted),)),
        ),
    )


def readable(view: View, query: Query) -> Where:
    """The visible points that the caller may read and that match the query's metadata."""
    seen = visible(view)
    access = (
        Equals("tenant", query.tenant),
        AnyOf("groups", tuple(sorted(query.groups | {WHOLE_TENANT}))),
    )
    wanted = tuple(Equals("metadata_terms", term) for term in metadata_terms(query.metadata))
    return Where(must=(*access, *seen.must, *wanted), must_not=seen.must_not)


def idf_corpus(view: View, query: Query) -> Where:
    """The points that IDF is counted over: the tenant's, and for an exact query the visible ones alone.

    Groups and metadata stay out, so that a term weighs the same for every caller of a tenant.
    """
    tenant = Equals("tenant", query.tenant)
    if not query.exact:
        return Where(must=(tenant,))
    seen = visible(view)
    return Where(must=(tenant, *seen.must), must_not=seen.must_not)


def closable(ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> Where:
    """Those of the points that are open, or were closed by an aborted sequence."""
    open_now: tuple[Condition, ...] = (Absent("valid_to"),)
    if aborted:
        open_now = (*open_now, AnyOf("valid_to", tuple(sorted(aborted))))
    return Where(must=(HasId(tuple(ids)),), should=open_now)


def closed_by(ids: Sequence[uuid.UUID], sequence: int) -> Where:
    """Those of the points that this sequence closed."""
    return Where(must=(HasId(tuple(ids)), Equals("valid_to", sequence)))


def opened_by(sequence: int) -> Where:
    """Every point that this sequence opened."""
    return Where(must=(Equals("valid_from", sequence),))


def of_document(tenant: str, document_id: str) -> Where:
    """Every point of a document, in every version."""
    return Where(must=(Equals("tenant", tenant), Equals("document_id", document_id)))
