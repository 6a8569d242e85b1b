"""Derived identities: the same content always gets the same id, so every replay is harmless.

Source: design "index versions", section Identity.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any


def _digest(*parts: str) -> bytes:
    """SHA-256 over length-prefixed parts: ('ab', 'c') and ('a', 'bc') differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


def embedder_input(heading_path: Sequence[str], text: str) -> str:
    """Exactly what the embedder reads of a chunk: its heading path, then its text."""
    return f"{' > '.join(heading_path)}\n\n{text}" if heading_path else text


def content_hash(embedder_input_text: str) -> str:
    """Names a chunk's content, 64 hex digits; equal inputs share one vector in the embedding cache."""
    return _digest(embedder_input_text).hex()


def chunk_id(tenant: str, document_id: str, content: str, occurrence: int) -> str:
    """Names a chunk within its document, 32 hex digits.

    `content` is its content hash; `occurrence` counts equal contents in the document from 0.
    """
    return _digest(tenant, document_id, content, str(occurrence)).hex()[:32]


def metadata_hash(metadata: Mapping[str, Any]) -> str:
    """Names what a point carries beside its content (title, uri, metadata), 64 hex digits."""
    return _digest(json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)).hex()


def point_id(generation: str, chunk: str, sequence: int) -> uuid.UUID:
    """Names a point: a chunk that goes and comes back is a new point."""
    return uuid.UUID(bytes=_digest(generation, chunk, str(sequence))[:16])
