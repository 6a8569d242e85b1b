"""Cutting documents within the test's own process: for tests of what happens to documents, not of isolation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ragline.models.tokens import token_counter
from services.ingest.cutting import Cutter
from services.ingest.manifest import cut_document


class InProcess:
    """Does at once what a worker process would do."""

    async def run(self, job: Mapping[str, Any], content: bytes) -> bytes:
        return json.dumps(cut_document(dict(job), content)).encode()


def in_process_cutter(*, embedder: str = "wordllama", chunk_tokens: int = 40) -> Cutter:
    """A cutter without processes."""
    window_tokens = token_counter(embedder).window_tokens
    return Cutter(
        InProcess(), chunk_tokens=chunk_tokens, embedder=embedder, window_tokens=window_tokens, max_document_mb=100
    )
