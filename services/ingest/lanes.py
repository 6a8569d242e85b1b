"""Two lanes to embed, each with a window: back-pressure, and fairness between tenants.

What is accepted waits in the outbox, on disk, and not on the bus: at most a window of documents of each lane
is on its way to the index at once, and within a lane the tenants take turns (see `ragline.outbox`). A slow
embedder or a stopped engine therefore slows the announcements down, and nothing else fills up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ragline.database import Connection

REPORTS: Final = 0
"""Messages to upstream: never held back."""
LIVE: Final = 1
BULK: Final = 2
LANES: Final = (REPORTS, LIVE, BULK)

_ANNOUNCEMENTS_WITH_ROOM: Final = 3
"""A document that was announced more often no longer takes room: it may lie in a DLQ.

Not so long ago, but so often: it is announced again only while embed answers, so that a stopped embed gets no
more than a window however long it is stopped.
"""


class Windows:
    """Lets at most `window` documents of each lane be sent and not yet searchable."""

    def __init__(self, *, window: int) -> None:
        self._window = window

    async def room(self, connection: Connection) -> Mapping[int, int]:
        """How many documents of each lane may be sent now."""
        cursor = await connection.execute(
            "SELECT lane, count(*)::int AS documents FROM document WHERE indexed_version < document_version "
            "AND sent_at IS NOT NULL AND announcements <= %s GROUP BY lane",
            (_ANNOUNCEMENTS_WITH_ROOM,),
        )
        in_flight = {row["lane"]: row["documents"] for row in await cursor.fetchall()}
        return {lane: self._window - in_flight.get(lane, 0) for lane in (LIVE, BULK)}

    async def sent(self, connection: Connection, lane: int, keys: Sequence[str]) -> None:
        """Note that documents are on their way to the index."""
        if lane == REPORTS:
            return
        parts = [key.partition("/") for key in keys]
        await connection.execute(
            "UPDATE document SET sent_at = clock_timestamp() FROM unnest(%s::text[], %s::text[]) AS k(tenant, id) "
            "WHERE document.tenant = k.tenant AND document.document_id = k.id",
            ([tenant for tenant, _, _ in parts], [document for _, _, document in parts]),
        )
