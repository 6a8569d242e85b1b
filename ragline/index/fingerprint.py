"""The fingerprint of an index version: a set hash over its visible points.

The sum modulo 2^256 of one SHA-256 a point. Nothing in it depends on history, so clean runs,
reordered runs and rebuilds agree, and a commit adds and subtracts only its own elements.
It is evidence against faults, not against an adversary who can compute collisions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class Element:
    """What the fingerprint covers of one visible point."""

    tenant: str
    document_id: str
    chunk_id: str
    content_hash: str
    metadata_hash: str

    def value(self) -> int:
        """This element's summand: SHA-256 of its length-prefixed fields as an integer."""
        digest = hashlib.sha256()
        for field in (self.tenant, self.document_id, self.chunk_id, self.content_hash, self.metadata_hash):
            data = field.encode()
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
        return int.from_bytes(digest.digest(), "big")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A 256-bit set hash, 64 hex digits when printed."""

    total: int = 0

    @classmethod
    def of(cls, elements: Iterable[Element]) -> Fingerprint:
        """The fingerprint of a set of elements."""
        return cls(sum(element.value() for element in elements) % _MODULUS)

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Read the 64 hex digits that `str` writes."""
        return cls(int(text, 16))

    def plus(self, other: Fingerprint) -> Fingerprint:
        """The fingerprint with the other's elements added."""
        return Fingerprint((self.total + other.total) % _MODULUS)

    def minus(self, other: Fingerprint) -> Fingerprint:
        """The fingerprint with the other's elements taken away."""
        return Fingerprint((self.total - other.total) % _MODULUS)

    def __str__(self) -> str:
        return f"{self.total:064x}"
