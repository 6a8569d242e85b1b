"""Has documents parsed and cut, each in a process of its own (see `isolation`); `manifest` is what runs there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, Protocol

from pydantic import BaseModel, ConfigDict

from ragline.contracts.events import DocumentChanged, ManifestEntry
from ragline.errors import PermanentError
from services.ingest.chunking import CHUNKING_VERSION
from services.ingest.manifest import CutJob

WORK: Final = "services.ingest.manifest:cut_document"
"""What the pool's workers do with a job and a content."""


class Runner(Protocol):
    """Does the work of `manifest.cut_document` somewhere: `isolation.ParserPool`."""

    async def run(self, job: Mapping[str, Any], content: bytes) -> bytes:
        """The result as JSON; raises PermanentError when the content cannot be read."""


class CutDocument(BaseModel):
    """A parsed document: its title, and its chunks in order, texts included.

    `language` is what the document declares or else what its prose looks like, an ISO 639 code; `links` are
    the places outside itself that it points to.
    """

    model_config = ConfigDict(frozen=True)

    title: str
    language: str | None
    links: tuple[str, ...]
    manifest: tuple[ManifestEntry, ...]


class Cutter:
    """Parses and cuts documents for one embedder, whose window is `window_tokens` long."""

    def __init__(
        self, runner: Runner, *, chunk_tokens: int, embedder: str, window_tokens: int, max_document_mb: int
    ) -> None:
        self._runner = runner
        self._embedder = embedder
        self._chunk_tokens = min(chunk_tokens, window_tokens)
        self._max_document_mb = max_document_mb
        digest = hashlib.sha256(f"{CHUNKING_VERSION}/{embedder}/{self._chunk_tokens}".encode())
        self.pipeline = digest.hexdigest()[:16]
        """Names how chunks are cut: another value makes other chunks of the same document."""

    async def cut(self, event: DocumentChanged, content: bytes | str) -> CutDocument:
        """The chunks of an upsert.

        Raises PermanentError, one line that begins with the document's address, for content that cannot be
        read, or not within the limits; cancelling it ends the work.
        """
        name = " ".join((event.uri or event.document_id).split())[:200]
        if len(content) > self._max_document_mb * 1_000_000:
            raise PermanentError(
                f"{name}: it has {len(content) / 1e6:.0f} MB, at most {self._max_document_mb} are read "
                "(RAGLINE_INGEST__MAX_DOCUMENT_MB): split it",
                reason="PARSE_TOO_LARGE",
            )
        job = CutJob(
            tenant=event.tenant,
            document_id=event.document_id,
            content_type=event.content_type,
            uri=event.uri or event.document_id,
            title=event.title,
            embedder=self._embedder,
            chunk_tokens=self._chunk_tokens,
            is_text=isinstance(content, str),
        )
        data = content.encode(errors="replace") if isinstance(content, str) else content
        try:
            return CutDocument.model_validate_json(await self._runner.run(asdict(job), data))
        except PermanentError as error:
            said = str(error)
            raise PermanentError(
                said if said.startswith(f"{name}: ") else f"{name}: {said}", reason=error.reason
            ) from error
