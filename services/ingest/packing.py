"""Content-defined packing: which neighbouring units of text make up one chunk.

A run of units is divided where the rank of a boundary is lowest, and each part again, until it fits. Since
a boundary's rank comes from the text around it alone, an edit moves no other boundary than those close to
it (the argument is that of a treap: the lowest ranks stay the lowest, wherever something is inserted).
Packing from left to right instead would move every boundary behind the edit.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise


def pack(sizes: Sequence[int], ranks: Sequence[int], *, least: int, most: int) -> list[tuple[int, int]]:
    """Runs of units as (first, last + 1), in order, none larger than `most` unless it is a single unit.

    `ranks[i]` is the rank of the boundary before unit i (that of the first is never read). A run is not
    made smaller than `least` unless no boundary allows better. All three measures are in the same unit.
    """
    before = array("q", accumulate(sizes, initial=0))
    runs: list[tuple[int, int]] = []
    waiting = [(0, len(sizes))] if sizes else []
    while waiting:
        first, end = waiting.pop()
        if end - first == 1 or before[end] - before[first] <= most:
            runs.append((first, end))
            continue
        cuts = _lowest(before, ranks, first, end, least) or [_middle(before, first, end)]
        edges = [first, *cuts, end]
        waiting.extend(reversed(list(pairwise(edges))))
    return runs


def _lowest(before: Sequence[int], ranks: Sequence[int], first: int, end: int, least: int) -> list[int]:
    """Where the lowest rank stands at least `least` from both ends; equal ones, all at once, as far apart."""
    start = bisect_left(before, before[first] + least, first + 1, end)
    stop = bisect_right(before, before[end] - least, start, end)
    if start >= stop:
        return []
    lowest = min(ranks[start:stop])
    cuts: list[int] = []
    while start < stop:
        try:
            cuts.append(ranks.index(lowest, start, stop))
        except ValueError:
            break
        start = bisect_left(before, before[cuts[-1]] + least, cuts[-1] + 1, stop)
    return cuts


def _middle(before: Sequence[int], first: int, end: int) -> int:
    """The boundary that divides a run most evenly."""
    return min(range(first + 1, end), key=lambda cut: abs(2 * before[cut] - before[first] - before[end]))
