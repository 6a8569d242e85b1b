"""Points on their way into an engine and out of it: checked, and as the fields that an engine stores."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ragline.errors import InvalidArgument, PermanentError
from ragline.index.engine import NewPoint, Payload, Query, SparseVector, StoredPoint

INSERT_BATCH_POINTS: Final = 64
"""Points written at once: larger batches gain little and hold up searches (design: measured facts)."""

ID_BATCH: Final = 512
"""Ids that one update names."""

KEYWORD_FIELDS: Final = ("document_id", "groups", "metadata_terms")
"""Fields with a keyword index, beside the tenant's."""

INTEGER_FIELDS: Final = ("valid_from", "valid_to")
"""Fields with an integer index."""

_GENERATION = re.compile(r"g[0-9]{1,9}")
_UINT32 = 1 << 32

Item = TypeVar("Item")


def in_batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def checked_generation(generation: str) -> str:
    """The generation's name, since it becomes a folder or a collection; raises InvalidArgument."""
    if _GENERATION.fullmatch(generation) is None:
        raise InvalidArgument("generation", f"{generation[:40]!r} is not a generation; write it like g1")
    return generation


def check_points(points: Sequence[NewPoint], dimensions: int | None = None) -> None:
    """Raise PermanentError for the first point that an engine would take but could not search.

    Without `dimensions`, only that all vectors are equally long.
    """
    for point in points:
        length = len(points[0].dense) if dimensions is None else dimensions
        fault = _dense_fault(point.dense, length) or _sparse_fault(point.sparse)
        if fault is not None:
            raise PermanentError(
                f"chunk {point.payload.chunk_id} of document {point.payload.document_id}: {fault}; nothing was written",
                reason="INVALID_VECTOR",
            )


def check_query(query: Query, dimensions: int | None = None) -> None:
    """Raise InvalidArgument for a query that an engine could not answer."""
    if query.limit < 1:
        raise InvalidArgument("limit", f"{query.limit} is too few; ask for at least 1")
    if query.dense is not None and (
        fault := _dense_fault(query.dense, len(query.dense) if dimensions is None else dimensions)
    ):
        raise InvalidArgument("dense", fault)
    if query.sparse is not None and (fault := _sparse_fault(query.sparse)):
        raise InvalidArgument("sparse", fault)


def _dense_fault(vector: NDArray[np.float32], dimensions: int) -> str | None:
    if vector.shape != (dimensions,):
        return f"the vector has the shape {vector.shape}, not ({dimensions},)"
    if not np.isfinite(vector).all():
        return "the vector has a component that is not finite"
    if not vector.any():
        return "the vector is zero"
    return None


def _sparse_fault(vector: SparseVector) -> str | None:
    if len(vector.indices) != len(vector.values):
        return f"the sparse vector has {len(vector.indices)} indices and {len(vector.values)} values"
    if len(set(vector.indices)) != len(vector.indices):
        return "the sparse vector has an index twice"
    if any(not 0 <= index < _UINT32 for index in vector.indices):
        return "the sparse vector has an index that is no unsigned 32-bit number"
    if not np.isfinite(vector.values).all():
        return "the sparse vector has a value that is not finite"
    return None


def metadata_terms(metadata: Mapping[str, Any]) -> list[str]:
    """Metadata as words of one indexed field: `["lang", "en"]` for lang = en.

    One keyword index over all keys answers ten times faster than an unindexed `metadata.<key>`
    (measured at 5,000 points), and no key has to be known beforehand or quoted. A number or truth
    value is matched by its JSON spelling, a list by each of its values.
    """
    return [
        json.dumps([key, value if isinstance(value, str) else json.dumps(value)], ensure_ascii=False)
        for key, held in metadata.items()
        for value in (held if isinstance(held, list | tuple) else [held])
    ]


def stored_fields(payload: Payload, sequence: int) -> dict[str, Any]:
    """The payload as an engine stores it, valid from `sequence` on."""
    return {
        "tenant": payload.tenant,
        "document_id": payload.document_id,
        "chunk_id": payload.chunk_id,
        "content_hash": payload.content_hash,
        "metadata_hash": payload.metadata_hash,
        "text": payload.text,
        "heading_path": list(payload.heading_path),
        "title": payload.title,
        "uri": payload.uri,
        "groups": list(payload.groups),
        "metadata": dict(payload.metadata),
        "metadata_terms": metadata_terms(payload.metadata),
        "valid_from": sequence,
    }


def payload_of(fields: Mapping[str, Any]) -> Payload:
    """The payload that `stored_fields` made the fields of."""
    return Payload(
        tenant=fields["tenant"],
        document_id=fields["document_id"],
        chunk_id=fields["chunk_id"],
        content_hash=fields["content_hash"],
        metadata_hash=fields["metadata_hash"],
        text=fields["text"],
        heading_path=tuple(fields["heading_path"]),
        title=fields["title"],
        uri=fields["uri"],
        groups=tuple(fields["groups"]),
        metadata=fields["metadata"],
    )


def stored_point(point_id: uuid.UUID, fields: Mapping[str, Any]) -> StoredPoint:
    """A point from its id and its stored fields."""
    return StoredPoint(point_id, payload_of(fields), fields["valid_from"], fields.get("valid_to"))
