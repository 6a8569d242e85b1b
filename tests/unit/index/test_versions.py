"""Index versions as text, and which points a view sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.errors import InvalidArgument
from ragline.index.versions import IndexVersion, View

ABORTED = frozenset({3, 7})


@pytest.mark.parametrize(
    ("valid_from", "valid_to", "seen"),
    [
        (1, None, True),
        (5, None, True),
        (6, None, False),  # opened later
        (3, None, False),  # opened by an aborted sequence
        (1, 5, False),
        (1, 4, False),
        (1, 6, True),  # closed later
        (1, 3, True),  # closed by an aborted sequence
        (1, 7, True),  # to be closed later, by an aborted sequence
        (3, 3, False),
        (3, 5, False),
        (6, 7, False),
        (5, 5, False),
    ],
)
def test_a_view_sees_what_is_open_at_its_sequence(valid_from: int, valid_to: int | None, seen: bool) -> None:
    assert View("g1", 5, ABORTED).sees(valid_from, valid_to) is seen


@given(
    st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9), st.sets(st.integers(0, 9)), st.integers(0, 9)
)
def test_what_a_later_sequence_does_changes_nothing_for_an_earlier_view(
    sequence: int, valid_from: int, valid_to: int | None, aborted: set[int], later: int
) -> None:
    """Closing a point, or aborting, at a sequence above the view's must not move the view."""
    view = View("g1", sequence, frozenset(aborted))
    above = sequence + 1 + later

    if valid_to is None:
        assert view.sees(valid_from, above) == view.sees(valid_from, None)
    assert View("g1", sequence, frozenset(aborted | {above})).sees(valid_from, valid_to) == view.sees(
        valid_from, valid_to
    )


@given(st.integers(0, 999_999_999), st.integers(0, 10**18 - 1))
def test_a_version_is_read_back_as_it_is_written(generation: int, sequence: int) -> None:
    version = IndexVersion(f"g{generation}", sequence)

    assert IndexVersion.parse(f" {version}\n") == version


@pytest.mark.parametrize(
    "text", ["", "g1", "@1", "g1@", "1@1", "g1@-1", "G1@1", "g1@1.0", "g1@1 g1@2", "g1@٣", "g1@1" + "0" * 18, "x" * 999]
)
def test_anything_else_is_refused_by_the_field_that_held_it(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        IndexVersion.parse(text, field="at_version")

    assert refused.value.field == "at_version"
    assert len(str(refused.value)) < 150


def test_a_view_names_its_version() -> None:
    assert View("g1", 5, ABORTED).version == IndexVersion("g1", 5)
