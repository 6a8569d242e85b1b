"""Hybrid search at one version, bounded by what the caller may read."""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ragline.errors import InvalidArgument
from ragline.identity import Identity
from ragline.index.engine import WHOLE_TENANT, Query, VectorEngine
from ragline.index.versions import IndexVersion
from ragline.models.embedding import Embedder
from ragline.models.sparse import Bm25Encoder
from ragline.telemetry import Attribute, Telemetry
from services.retrieve.fusion import FusedHit, reciprocal_rank_fusion
from services.retrieve.readers import IndexFollower

MAX_QUERY_CHARACTERS: Final = 4_000
MAX_LIMIT: Final = 100
DEFAULT_LIMIT: Final = 10
CANDIDATES_PER_HIT: Final = 5
"""How many candidates each list offers for one hit that is wanted."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A validated question."""

    text: str
    limit: int = DEFAULT_LIMIT
    at_version: IndexVersion | None = None
    min_version: IndexVersion | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def validated(
        cls, text: str, *, limit: int, at_version: str, min_version: str, metadata: Mapping[str, str]
    ) -> SearchQuery:
        """Raises InvalidArgument that names the field at fault."""
        if len(text) > MAX_QUERY_CHARACTERS:  # before anything reads it: normalising can take quadratic time
            raise InvalidArgument("query", f"has {len(text)} characters; at most {MAX_QUERY_CHARACTERS} are read")
        cleaned = " ".join(unicodedata.normalize("NFC", text).split())
        if not cleaned:
            raise InvalidArgument("query", "is empty")
        if not 0 <= limit <= MAX_LIMIT:
            raise InvalidArgument("limit", f"must be between 1 and {MAX_LIMIT}")
        if len(metadata) > 16:
            raise InvalidArgument("metadata", "has more than 16 conditions")
        return cls(
            cleaned,
            limit or DEFAULT_LIMIT,
            IndexVersion.parse(at_version, field="at_version") if at_version else None,
            IndexVersion.parse(min_version, field="min_version") if min_version else None,
            dict(metadata),
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits at one version, with the time that each stage took."""

    version: IndexVersion
    fingerprint: str
    hits: tuple[FusedHit, ...]
    latency_ms: Mapping[str, float]


class Searcher:
    """Searches for a caller."""

    def __init__(
        self,
        *,
        follower: IndexFollower,
        engine: VectorEngine,
        embedder: Embedder,
        sparse: Bm25Encoder,
        telemetry: Telemetry,
    ) -> None:
        self._follower = follower
        self._engine = engine
        self._embedder = embedder
        self._sparse = sparse
        self._tracer = telemetry.tracer

    async def search(self, query: SearchQuery, identity: Identity) -> SearchResult:
        """The best hits that the caller may read; every query is at exactly one version."""
        started = time.perf_counter()
        view = await self._follower.view(at_version=query.at_version, min_version=query.min_version)
        waited = time.perf_counter()
        with self._tracer.start_as_current_span(
            "embed query", attributes={"gen_ai.request.model": self._embedder.name}
        ):
            dense = (await asyncio.to_thread(self._embedder.embed, [query.text]))[0]
        embedded = time.perf_counter()
        with self._tracer.start_as_current_span(
            "search engine",
            attributes={Attribute.INDEX_VERSION: str(view.version), "db.system.name": "qdrant"},
        ) as span:
            candidates = await self._engine.search(
                view,
                Query(
                    tenant=identity.tenant,
                    groups=identity.groups | {WHOLE_TENANT},
                    dense=dense,
                    sparse=self._sparse.query(query.text),
                    limit=query.limit * CANDIDATES_PER_HIT,
                    exact=query.at_version is not None,
                    metadata=query.metadata,
                ),
            )
            hits = reciprocal_rank_fusion(candidates, limit=query.limit)
            span.set_attribute(Attribute.HITS, len(hits))
        found = time.perf_counter()
        return SearchResult(
            view.version,
            await self._follower.fingerprint(view.version),
            hits,
            {
                "wait": (waited - started) * 1000,
                "embed": (embedded - waited) * 1000,
                "engine": (found - embedded) * 1000,
            },
        )
