"""What the ledger tells people and other services: status, commits, verification, origins."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ragline.database import Database
from ragline.errors import ConfigurationError, VersionUnavailable
from ragline.index.engine import StoredPoint, VectorEngine
from ragline.index.fingerprint import Fingerprint
from ragline.index.identity import content_hash, embedder_input
from ragline.index.versions import IndexVersion, View

_PROBED_SEQUENCES: Final = 16
"""A commit that only deletes opens no point, so one sequence alone would not tell."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How the engine compares with the ledger at a version."""

    version: IndexVersion
    recorded: Fingerprint
    found: Fingerprint
    points: int
    missing: int
    orphans: int
    altered: int

    @property
    def matches(self) -> bool:
        return self.recorded == self.found and not (self.missing or self.orphans or self.altered)


class History:
    """Reads the ledger; changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def status(self) -> dict[str, Any] | None:
        """The live generation with its counts."""
        return await self._database.fetch_one(
            """
            SELECT g.*, s.epoch,
              (SELECT count(*) FROM document d WHERE d.generation = g.generation AND NOT d.deleted) AS documents,
              (SELECT count(*) FROM point p WHERE p.generation = g.generation AND p.valid_from <= g.watermark
                 AND (p.valid_to IS NULL OR p.valid_to > g.watermark)) AS points,
              (SELECT count(*) FROM point p WHERE p.generation = g.generation
                 AND p.valid_to <= g.watermark) AS closed_points,
              (SELECT count(*) FROM index_commit c WHERE c.generation = g.generation
                 AND c.state IN ('pending', 'aborting')) AS pending_commits,
              (SELECT count(*) FROM index_commit c WHERE c.generation = g.generation
                 AND c.state IN ('aborting', 'aborted')) AS aborted_sequences,
              (SELECT extract(epoch FROM max(c.completed_at))::float8 FROM index_commit c
                 WHERE c.generation = g.generation AND c.fingerprint IS NOT NULL) AS last_commit_unix_s,
              (SELECT count(*) FROM embedding e WHERE e.model = g.embedder) AS cached_vectors
            FROM index_state s JOIN generation g ON g.generation = s.live_generation
            """
        )

    async def commits(self, limit: int) -> list[dict[str, Any]]:
        """The newest commits of the live generation, newest first."""
        return await self._database.fetch(
            """
            SELECT c.generation, c.sequence, c.state, extract(epoch FROM c.created_at)::float8 AS created_unix_s,
              coalesce(c.fingerprint, '') AS fingerprint, coalesce(c.traceparent, '') AS traceparent,
              count(v.*)::int AS documents, coalesce(sum(cardinality(v.opened)), 0)::int AS opened,
              coalesce(sum(cardinality(v.closed)), 0)::int AS closed
            FROM index_commit c JOIN index_state s ON s.live_generation = c.generation
            LEFT JOIN document_version v ON v.generation = c.generation AND v.sequence = c.sequence
            GROUP BY c.generation, c.sequence ORDER BY c.sequence DESC LIMIT %s
            """,
            (limit,),
        )

    async def committed_documents(self, keys: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """The version of each document that readers of the live generation see; unknown ones have no row."""
        return await self._database.fetch(
            """
            SELECT d.tenant, d.document_id, d.document_version, d.generation, d.sequence
            FROM document d JOIN index_state s ON s.live_generation = d.generation
            JOIN generation g ON g.generation = d.generation AND d.sequence <= g.watermark
            JOIN unnest(%s::text[], %s::text[]) AS k(tenant, document_id) USING (tenant, document_id)
            """,
            ([tenant for tenant, _ in keys], [document for _, document in keys]),
        )

    async def ingest_traces(self, generation: str, points: Sequence[uuid.UUID]) -> dict[str, str]:
        """The trace of the change that opened each point."""
        rows = await self._database.fetch(
            "SELECT p.point_id, v.traceparent FROM point p JOIN document_version v ON v.generation = p.generation "
            "AND v.sequence = p.valid_from AND v.tenant = p.tenant AND v.document_id = p.document_id "
            "WHERE p.generation = %s AND p.point_id = ANY(%s) AND v.traceparent IS NOT NULL",
            (generation, list(points)),
        )
        return {str(row["point_id"]): row["traceparent"] for row in rows}

    async def verify(self, engine: VectorEngine, version: IndexVersion | None) -> Verification:
        """Scan the engine at a version and compare every visible point with the ledger.

        Raises VersionUnavailable for a version that is unknown, not yet reached or beyond the horizon.
        """
        version = version or await self._newest()
        recorded = await self.fingerprint(version)
        view = View(version.generation, version.sequence, await self._aborted(version.generation))
        expected = await self._expected(view)
        found, points, orphans, altered = Fingerprint(), 0, 0, 0
        async for point in engine.scan(view):
            points += 1
            found = found.plus(Fingerprint.of([point.payload.element()]))
            wanted = expected.pop(point.id, None)
            orphans += wanted is None
            altered += wanted is not None and not _unaltered(point, wanted)
        return Verification(version, recorded, found, points, len(expected), orphans, altered)

    async def check_engine_is_not_ahead(self, engine: VectorEngine, generation: str) -> None:
        """Raise ConfigurationError if the engine holds commits that the ledger never made.

        Then the database was lost or restored from an older backup: sequences would be given out again, and
        points of two commits mixed up.
        """
        row = await self._database.fetch_one(
            "SELECT last_sequence FROM generation WHERE generation = %s", (generation,)
        )
        last = row["last_sequence"] if row else 0
        for sequence in range(last + 1, last + 1 + _PROBED_SEQUENCES):
            if await engine.count_opened(generation, sequence):
                raise ConfigurationError(
                    f"the engine holds the commit {generation}@{sequence}, but the database only knows "
                    f"{generation}@{last}: restore the newer database, or remove the engine's data and publish again"
                )

    async def fingerprint(self, version: IndexVersion) -> Fingerprint:
        """The recorded fingerprint of a version; raises VersionUnavailable unless it can be read."""
        generation = await self._database.fetch_one(
            "SELECT * FROM generation WHERE generation = %s", (version.generation,)
        )
        if generation is None:
            raise VersionUnavailable(f"{version}: there is no generation {version.generation}")
        if not generation["horizon"] <= version.sequence <= generation["watermark"]:
            raise VersionUnavailable(
                f"{version} cannot be read: versions {version.generation}@{generation['horizon']} to "
                f"{version.generation}@{generation['watermark']} can"
            )
        row = await self._database.fetch_one(
            "SELECT fingerprint FROM index_commit WHERE generation = %s AND sequence <= %s "
            "AND fingerprint IS NOT NULL ORDER BY sequence DESC LIMIT 1",
            (version.generation, version.sequence),
        )
        return Fingerprint.parse(row["fingerprint"]) if row else Fingerprint()

    async def _newest(self) -> IndexVersion:
        row = await self._database.fetch_one(
            "SELECT g.generation, g.watermark FROM generation g JOIN index_state s ON s.live_generation = g.generation"
        )
        if row is None:
            raise VersionUnavailable("there is no index generation yet")
        return IndexVersion(row["generation"], row["watermark"])

    async def _aborted(self, generation: str) -> frozenset[int]:
        rows = await self._database.fetch(
            "SELECT sequence FROM index_commit WHERE generation = %s AND state IN ('aborting', 'aborted')",
            (generation,),
        )
        return frozenset(row["sequence"] for row in rows)

    async def _expected(self, view: View) -> dict[uuid.UUID, tuple[str, str, str]]:
        rows = await self._database.fetch(
            "SELECT point_id, chunk_id, content_hash, metadata_hash, valid_from, valid_to FROM point "
            "WHERE generation = %s AND valid_from <= %s",
            (view.generation, view.sequence),
        )
        return {
            row["point_id"]: (row["chunk_id"], row["content_hash"], row["metadata_hash"])
            for row in rows
            if view.sees(row["valid_from"], row["valid_to"])
        }


def _unaltered(point: StoredPoint, wanted: tuple[str, str, str]) -> bool:
    payload = point.payload
    text_hash = content_hash(embedder_input(payload.heading_path, payload.text))
    return (payload.chunk_id, payload.content_hash, payload.metadata_hash) == wanted and text_hash == wanted[1]
