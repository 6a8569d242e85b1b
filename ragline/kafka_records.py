"""Kafka's records as they arrive: read on their own, so that a bad one fails alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from faststream.message import StreamMessage


@runtime_checkable  # FastStream builds a Pydantic model of every handler's arguments
class Record(Protocol):
    """A Kafka record as aiokafka delivers it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def origin_of(record: Record) -> str:
    """Where a record lies: topic/partition/offset."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def headers_of(record: Record) -> dict[str, str]:
    """A record's headers as text; bytes that are none are replaced."""
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


async def tolerant_parser(records: Any, original: Callable[[Any], Awaitable[StreamMessage[Any]]]) -> StreamMessage[Any]:
    """FastStream decodes headers strictly: one producer's odd bytes would otherwise fail a whole batch."""
    return await original(
        tuple(
            replace(r, headers=tuple((n, (v or b"").decode(errors="replace").encode()) for n, v in r.headers))
            for r in records
        )
    )


async def raw_records(message: StreamMessage[Any]) -> list[Record]:
    """Hand the raw records on: each is decoded on its own, so that one bad record fails alone."""
    return list(message.raw_message)
