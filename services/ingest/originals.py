"""Every version's content, kept by its hash: the original as it came, and the text that was read from it.

The original rebuilds an index with any other pipeline. The text is JSON lines, one a chunk in order with its
heading path and place: what readers were shown, without parsing again, and readable with any tool.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from ragline.contracts.event import Scalar
from ragline.contracts.events import DocumentChanged, ManifestEntry
from services.ingest.acceptance import Operation
from services.ingest.blobs import Blobs
from services.ingest.claim_check import ClaimCheck
from services.ingest.cutting import CutDocument


@dataclass(frozen=True, slots=True)
class Content:
    """What an upsert brings: text inline, bytes fetched; `content_type` is the publisher's or else the place's."""

    data: bytes | str
    content_type: str | None
    etag: str | None = None
    fetched_from: str | None = None

    def as_bytes(self) -> bytes:
        """The content as it is kept: text in UTF-8."""
        return self.data.encode() if isinstance(self.data, str) else self.data


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a version's content lies: keys of blobs, the original's being the SHA-256 of its bytes.

    `fetched_from` is None for content that came inline, which is text in UTF-8 whatever its type says.
    """

    original_key: str
    text_key: str
    content_type: str | None
    etag: str | None
    fetched_from: str | None
    language: str | None
    """What the document declares, or else what its prose looks like: an ISO 639 code."""
    links: list[str]
    """The places outside itself that the document points to."""


@dataclass(frozen=True, slots=True)
class DocumentVersion:
    """One accepted version; `kept` is None for a deletion, and where nothing was kept yet in those days.

    A change of access is a version with the content of the one before it.
    """

    tenant: str
    document_id: str
    document_version: int
    revision: int
    source: str
    op: Operation
    title: str
    uri: str
    metadata: Mapping[str, Scalar]
    kept: Kept | None
    accepted_at: datetime
    traceparent: str | None


class Originals:
    """Brings in the content of changes and keeps it."""

    def __init__(self, blobs: Blobs, claim_check: ClaimCheck) -> None:
        self._blobs = blobs
        self._claim_check = claim_check

    async def content_of(self, event: DocumentChanged) -> Content:
        """An upsert's content; what is sent by reference is fetched. Raises as `ClaimCheck.fetch`."""
        if event.content_ref is None:
            return Content(event.content or "", event.content_type)
        fetched = await self._claim_check.fetch(event.content_ref)
        content_type = event.content_type or fetched.content_type
        return Content(fetched.content, content_type, fetched.etag, fetched.final_url)

    async def keep(self, content: Content, cut: CutDocument) -> Kept:
        """Put the original and its text into the blob store; TransientError when it is full or gone.

        Done before the version is recorded: a crash in between leaves a blob that nothing refers to.
        """
        original, text = await asyncio.gather(
            self._blobs.put(content.as_bytes()), self._blobs.put(text_lines(cut.manifest))
        )
        return Kept(
            original, text, content.content_type, content.etag, content.fetched_from, cut.language, list(cut.links)
        )


def text_lines(manifest: Iterable[ManifestEntry]) -> bytes:
    """The chunks' texts as JSON lines: `heading_path`, `text`, and `page` and `line` where they are known."""
    lines = (
        entry.model_dump(include={"heading_path", "page", "line", "text"}, exclude_none=True) for entry in manifest
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
