"""From a document's content to its manifest: parse, cut, name every chunk."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from ragline.contracts.events import DocumentChanged, ManifestEntry
from ragline.errors import PermanentError
from ragline.index.identity import chunk_id, content_hash, embedder_input
from ragline.models.embedding import TokenCounter
from services.ingest.chunking import CHUNKING_VERSION, cut
from services.ingest.parsing import parse


@dataclass(frozen=True, slots=True)
class CutDocument:
    """A parsed document: its title and its chunks in order, texts included."""

    title: str
    manifest: tuple[ManifestEntry, ...]


class Cutter:
    """Parses and cuts documents for one embedder. Blocking and CPU-bound: call it in a thread."""

    def __init__(self, counter: TokenCounter, *, chunk_tokens: int, embedder: str) -> None:
        self._counter = counter
        self._chunk_tokens = min(chunk_tokens, counter.window_tokens)
        digest = hashlib.sha256(f"{CHUNKING_VERSION}/{embedder}/{self._chunk_tokens}".encode())
        self.pipeline = digest.hexdigest()[:16]
        """Names how chunks are cut: another value makes other chunks of the same document."""

    def cut(self, event: DocumentChanged) -> CutDocument:
        """The chunks of an upsert; raises PermanentError for content that cannot be read."""
        if event.content is None:
            raise PermanentError(
                "content_ref is not fetched by this version: send the content inline (at most 512 KB)",
                reason="CONTENT_REF_UNSUPPORTED",
            )
        parsed = parse(
            event.content,
            content_type=event.content_type,
            uri=event.uri or event.document_id,
            title=event.title,
        )
        occurrences: Counter[str] = Counter()
        entries = []
        for ordinal, chunk in enumerate(cut(parsed, counter=self._counter, chunk_tokens=self._chunk_tokens)):
            content = content_hash(embedder_input(chunk.heading_path, chunk.text))
            entries.append(
                ManifestEntry(
                    chunk_id=chunk_id(event.tenant, event.document_id, content, occurrences[content]),
                    content_hash=content,
                    ordinal=ordinal,
                    heading_path=chunk.heading_path,
                    page=chunk.page,
                    line=chunk.line,
                    text=chunk.text,
                )
            )
            occurrences[content] += 1
        return CutDocument(parsed.title, tuple(entries))
