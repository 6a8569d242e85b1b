"""BM25 term weights as sparse vectors; the engine supplies the IDF (design: models, `bm25`)."""

from __future__ import annotations

from ragline.index.engine import SparseVector


class Bm25Encoder:
    """Encodes documents and queries for the sparse index, the same for both engines."""

    name = "bm25"

    def __init__(self) -> None:
        from qdrant_edge import Bm25, Bm25Config

        self._bm25 = Bm25(Bm25Config(avg_len=120.0))

    def document(self, text: str) -> SparseVector:
        """The saturated term frequencies of a chunk (the embedder's exact input)."""
        return _merged(self._bm25.embed_document(text))

    def query(self, text: str) -> SparseVector:
        """The distinct terms of a question."""
        return _merged(self._bm25.embed_query(text))


def _merged(vector: object) -> SparseVector:
    """Distinct indices only: the engine accepts duplicates silently (design: measured facts)."""
    weights: dict[int, float] = {}
    for index, value in zip(vector.indices, vector.values, strict=True):  # type: ignore[attr-defined]
        weights[index] = weights.get(index, 0.0) + value
    return SparseVector(tuple(weights), tuple(weights.values()))
