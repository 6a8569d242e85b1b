"""Large documents travel as several `chunks.ready` parts and become visible in one commit."""

from __future__ import annotations

from ragline.contracts.events import ChunksReady
from ragline.database import Database


class StagedParts:
    """Keeps the parts of a version until all have arrived; staged parts may be acknowledged."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def assemble(self, event: ChunksReady) -> ChunksReady | None:
        """The whole version once its last part is here, None before; repeating a part changes nothing.

        Parts of several announcements of a version may be mixed, unless it was divided into another number.
        """
        if event.parts == 1:
            return event
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO staged_part (tenant, document_id, document_version, part, parts, body) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, document_id, document_version, part) "
                "DO UPDATE SET parts = EXCLUDED.parts, body = EXCLUDED.body",
                (
                    event.tenant,
                    event.document_id,
                    event.document_version,
                    event.part,
                    event.parts,
                    event.model_dump_json(exclude_none=True).encode(),
                ),
            )
            cursor = await connection.execute(
                "SELECT body FROM staged_part WHERE tenant = %s AND document_id = %s AND document_version = %s "
                "AND parts = %s ORDER BY part",
                (event.tenant, event.document_id, event.document_version, event.parts),
            )
            rows = await cursor.fetchall()
        if len(rows) < event.parts:
            return None
        parts = [ChunksReady.model_validate_json(row["body"]) for row in rows]
        manifest = tuple(entry for part in parts for entry in part.manifest)
        return event.model_copy(update={"manifest": manifest, "part": 1, "parts": 1})

    async def forget(self, event: ChunksReady) -> None:
        """Drop the staged parts of this version and of older ones, once it is resolved."""
        await self._database.fetch(
            "DELETE FROM staged_part WHERE tenant = %s AND document_id = %s AND document_version <= %s",
            (event.tenant, event.document_id, event.document_version),
        )
