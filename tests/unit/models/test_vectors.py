from __future__ import annotations

import numpy as np
import pytest

from ragline.models.vectors import unit_rows


def test_rows_are_divided_by_their_length_and_the_input_is_left_alone():
    raw = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)

    assert np.allclose(unit_rows(raw), [[0.6, 0.8], [0.0, 1.0]])
    assert raw[0, 0] == 3.0


def test_a_zero_row_becomes_the_first_axis():
    assert unit_rows(np.zeros((1, 3), dtype=np.float32)).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused_by_its_number(value):
    with pytest.raises(ValueError, match="row 1 "):
        unit_rows(np.array([[1.0, 0.0], [value, 1.0]], dtype=np.float32))
