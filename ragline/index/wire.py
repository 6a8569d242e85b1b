"""The domain's words as messages of `ragline.engine.v1`, and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ragline.engine.v1 import engine_pb2 as pb
from ragline.errors import InvalidArgument
from ragline.index.engine import NewPoint, Payload, Query, ScoredPoint, SparseVector, StoredPoint
from ragline.index.versions import View

_FLOAT32 = np.dtype("<f4")


def id_bytes(ids: Iterable[uuid.UUID]) -> list[bytes]:
    """Ids as they travel: 16 bytes each."""
    return [one.bytes for one in ids]


def ids_of(data: Iterable[bytes]) -> list[uuid.UUID]:
    """Ids from their 16 bytes; raises InvalidArgument."""
    try:
        return [uuid.UUID(bytes=one) for one in data]
    except ValueError as error:
        raise InvalidArgument("ids", "an id is not the 16 bytes of a UUID") from error


def _vector_bytes(vector: NDArray[np.float32]) -> bytes:
    return vector.astype(_FLOAT32, copy=False).tobytes()


def _vector_of(data: bytes) -> NDArray[np.float32]:
    if len(data) % _FLOAT32.itemsize:
        raise InvalidArgument("dense", f"{len(data)} bytes are not whole float32 numbers")
    return np.frombuffer(data, _FLOAT32)


def payload_message(payload: Payload) -> pb.Payload:
    """A payload to send."""
    return pb.Payload(
        tenant=payload.tenant,
        document_id=payload.document_id,
        chunk_id=payload.chunk_id,
        content_hash=payload.content_hash,
        metadata_hash=payload.metadata_hash,
        text=payload.text,
        heading_path=payload.heading_path,
        title=payload.title,
        uri=payload.uri,
        groups=payload.groups,
        metadata_json=json.dumps(dict(payload.metadata), ensure_ascii=False).encode(),
    )


def payload_of(message: pb.Payload) -> Payload:
    """A payload received."""
    return Payload(
        tenant=message.tenant,
        document_id=message.document_id,
        chunk_id=message.chunk_id,
        content_hash=message.content_hash,
        metadata_hash=message.metadata_hash,
        text=message.text,
        heading_path=tuple(message.heading_path),
        title=message.title,
        uri=message.uri,
        groups=tuple(message.groups),
        metadata=json.loads(message.metadata_json),
    )


def point_message(point: NewPoint) -> pb.Point:
    """A new point to send."""
    return pb.Point(
        id=point.id.bytes,
        dense=_vector_bytes(point.dense),
        sparse_indices=point.sparse.indices,
        sparse_values=point.sparse.values,
        payload=payload_message(point.payload),
    )


def points_of(messages: Iterable[pb.Point]) -> list[NewPoint]:
    """New points received."""
    return [
        NewPoint(
            ids_of([message.id])[0],
            _vector_of(message.dense),
            SparseVector(tuple(message.sparse_indices), tuple(message.sparse_values)),
            payload_of(message.payload),
        )
        for message in messages
    ]


def view_message(view: View) -> pb.View:
    """A view to send, less its generation."""
    return pb.View(sequence=view.sequence, aborted=sorted(view.aborted))


def view_of(generation: str, message: pb.View) -> View:
    """A view received."""
    return View(generation, message.sequence, frozenset(message.aborted))


def search_message(view: View, query: Query) -> pb.SearchRequest:
    """A search to send."""
    return pb.SearchRequest(
        generation=view.generation,
        view=view_message(view),
        tenant=query.tenant,
        groups=sorted(query.groups),
        dense=b"" if query.dense is None else _vector_bytes(query.dense),
        sparse_indices=() if query.sparse is None else query.sparse.indices,
        sparse_values=() if query.sparse is None else query.sparse.values,
        limit=query.limit,
        exact=query.exact,
        metadata=dict(query.metadata),
    )


def query_of(message: pb.SearchRequest) -> Query:
    """The query of a search received."""
    return Query(
        tenant=message.tenant,
        groups=frozenset(message.groups),
        dense=_vector_of(message.dense) if message.dense else None,
        sparse=SparseVector(tuple(message.sparse_indices), tuple(message.sparse_values)),
        limit=message.limit,
        exact=message.exact,
        metadata=dict(message.metadata),
    )


def scored_message(point: ScoredPoint) -> pb.ScoredPoint:
    """A candidate to send; its rank is its place in the list."""
    return pb.ScoredPoint(
        id=point.id.bytes,
        score=point.score,
        payload=payload_message(point.payload),
        valid_from=point.valid_from,
    )


def scored_of(messages: Sequence[pb.ScoredPoint]) -> tuple[ScoredPoint, ...]:
    """A ranked list received."""
    return tuple(
        ScoredPoint(uuid.UUID(bytes=message.id), message.score, rank, payload_of(message.payload), message.valid_from)
        for rank, message in enumerate(messages, start=1)
    )


def stored_message(point: StoredPoint) -> pb.StoredPoint:
    """A scanned point to send."""
    return pb.StoredPoint(
        id=point.id.bytes,
        payload=payload_message(point.payload),
        valid_from=point.valid_from,
        valid_to=point.valid_to,
    )


def stored_of(message: pb.StoredPoint) -> StoredPoint:
    """A scanned point received."""
    return StoredPoint(
        uuid.UUID(bytes=message.id),
        payload_of(message.payload),
        message.valid_from,
        message.valid_to if message.HasField("valid_to") else None,
    )
