"""What an engine must do, by brute force in plain Python: the contract suite's measure."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ragline.index.engine import NewPoint, SparseVector, StoredPoint


@dataclass
class EngineModel:
    """The promises of `VectorEngine`'s writes, over a dictionary."""

    points: dict[uuid.UUID, StoredPoint] = field(default_factory=dict)

    def insert(self, sequence: int, new: Sequence[NewPoint]) -> None:
        for one in new:
            self.points.setdefault(one.id, StoredPoint(one.id, one.payload, sequence, None))

    def close(self, sequence: int, ids: Sequence[uuid.UUID], aborted: frozenset[int]) -> None:
        for one in self._there(ids):
            if one.valid_to is None or one.valid_to in aborted:
                self.points[one.id] = replace(one, valid_to=sequence)

    def sweep(self, sequence: int, opened: Sequence[uuid.UUID], closed: Sequence[uuid.UUID]) -> None:
        self.delete(opened)
        for one in self._there(closed):
            if one.valid_to == sequence:
                self.points[one.id] = replace(one, valid_to=None)

    def set_groups(self, tenant: str, document_id: str, groups: Sequence[str]) -> None:
        for one in list(self.points.values()):
            if (one.payload.tenant, one.payload.document_id) == (tenant, document_id):
                self.points[one.id] = replace(one, payload=replace(one.payload, groups=tuple(groups)))

    def delete(self, ids: Sequence[uuid.UUID]) -> None:
        for one in ids:
            self.points.pop(one, None)

    def _there(self, ids: Sequence[uuid.UUID]) -> list[StoredPoint]:
        return [self.points[one] for one in ids if one in self.points]


def bm25_scores(
    question: SparseVector, answers: Iterable[NewPoint], corpus: Sequence[NewPoint]
) -> dict[uuid.UUID, float]:
    """The dot product with the question's terms weighted by their IDF over the corpus.

    Points without any term do not count as part of the corpus.
    """
    size = sum(bool(one.sparse.indices) for one in corpus)
    holders = Counter(term for one in corpus for term in one.sparse.indices)
    weights = {
        term: value * math.log((size - holders[term] + 0.5) / (holders[term] + 0.5) + 1)
        for term, value in zip(question.indices, question.values, strict=True)
    }
    return {
        one.id: sum(
            weights.get(term, 0.0) * value for term, value in zip(one.sparse.indices, one.sparse.values, strict=True)
        )
        for one in answers
        if weights.keys() & set(one.sparse.indices)
    }
