"""Index versions and views: which points a reader at a version sees."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ragline.errors import InvalidArgument

_VERSION = re.compile(r"(g[0-9]{1,9})@([0-9]{1,18})")


@dataclass(frozen=True, slots=True, order=True)
class IndexVersion:
    """`generation@sequence`, such as `g1@42`."""

    generation: str
    sequence: int

    @classmethod
    def parse(cls, text: str, *, field: str = "version") -> IndexVersion:
        """Read `g1@42`; raises InvalidArgument that names `field`."""
        match = _VERSION.fullmatch(text.strip())
        if match is None:
            raise InvalidArgument(field, f"{text[:40]!r} is not an index version; write it like g1@42")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.generation}@{self.sequence}"


@dataclass(frozen=True, slots=True)
class View:
    """What a reader needs to see exactly one version: its sequence and the aborted sequences.

    `horizon` is not part of a view: a version below it is refused before a view is made.
    """

    generation: str
    sequence: int
    aborted: frozenset[int] = frozenset()

    @property
    def version(self) -> IndexVersion:
        return IndexVersion(self.generation, self.sequence)

    def sees(self, valid_from: int, valid_to: int | None) -> bool:
        """Whether a point with this interval is visible: the rule that both engines' filters implement."""
        opened = valid_from <= self.sequence and valid_from not in self.aborted
        closed = valid_to is not None and valid_to <= self.sequence and valid_to not in self.aborted
        return opened and not closed
