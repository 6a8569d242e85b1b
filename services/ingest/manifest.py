"""From a document's content to its manifest: parse, cut, name every chunk. Pure, blocking and CPU-bound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ragline.errors import PermanentError
from ragline.index.identity import chunk_id, content_hash, embedder_input
from ragline.models.embedding import load_token_counter
from services.ingest.chunking import Chunk, cut
from services.ingest.parsing import parse
from services.ingest.parsing.language import detected_language

MAX_CHUNKS = 50_000
"""The most chunks of one document, several times what its most text comes to."""


@dataclass(frozen=True, slots=True)
class CutJob:
    """How to read a document; a plain dictionary of it travels to the worker."""

    tenant: str
    document_id: str
    content_type: str | None
    uri: str
    title: str | None
    embedder: str
    chunk_tokens: int
    is_text: bool
    """The content is UTF-8 and was text before: no format of bytes can be meant."""


def cut_document(job: dict[str, Any], content: bytes) -> dict[str, Any]:
    """The work of `isolation.ParserPool`: a CutJob's fields and the content in, the fields of CutDocument out.

    Raises PermanentError for what cannot be read, as `parsing.parse` does, and for too many chunks.
    """
    task = CutJob(**job)
    parsed = parse(
        content.decode() if task.is_text else content,
        content_type=task.content_type,
        uri=task.uri or task.document_id,
        title=task.title,
    )
    counter = load_token_counter(task.embedder)
    chunks = cut(parsed, counter=counter, chunk_tokens=task.chunk_tokens)
    if len(chunks) > MAX_CHUNKS:
        raise PermanentError(
            f"{task.uri or task.document_id}: the document comes to more than {MAX_CHUNKS:,} chunks: split it",
            reason="PARSE_TOO_LARGE",
        )
    return {
        "title": parsed.title,
        "language": parsed.language or detected_language(parsed),
        "links": parsed.links,
        "manifest": _entries(task, chunks),
    }


def _entries(task: CutJob, chunks: tuple[Chunk, ...]) -> list[dict[str, Any]]:
    occurrences: Counter[str] = Counter()
    entries = []
    for ordinal, chunk in enumerate(chunks):
        content = content_hash(embedder_input(chunk.heading_path, chunk.text))
        entries.append(
            {
                "chunk_id": chunk_id(task.tenant, task.document_id, content, occurrences[content]),
                "content_hash": content,
                "ordinal": ordinal,
                "heading_path": chunk.heading_path,
                "page": chunk.page,
                "line": chunk.line,
                "text": chunk.text,
            }
        )
        occurrences[content] += 1
    return entries
