"""Makes raw model output fit for the engine: rows of length 1, finite, never zero."""

from __future__ import annotations

import numpy as np

from ragline.models.embedding import Vectors


def unit_rows(raw: Vectors) -> Vectors:
    """Each row of (n, dimensions) divided by its length, float32.

    A zero row (a text without a single known token) becomes the first axis: some fixed valid
    vector, because the engine refuses zero vectors and such a text is still a chunk to be stored.
    Raises ValueError if a row is not finite.
    """
    rows = np.array(raw, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(lengths).all():
        raise ValueError(f"row {int(np.argmin(np.isfinite(lengths)))} of the vectors is not finite")
    empty = lengths == 0.0
    rows[empty, 0] = 1.0
    lengths[empty] = 1.0
    rows /= lengths[:, np.newaxis]
    return rows
