"""Which evidence an answer cites, and which of its sentences cite none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from services.generate.prompts import REFUSAL
from services.generate.sentences import split

_CITATION = re.compile(r"\[(\d+(?:\s*[,;\u2013-]\s*\d+)*)\]")
_RANGE = re.compile(r"(\d+)(?:\s*[\u2013-]\s*(\d+))?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_LONGEST_RANGE = 50
_LONGEST_NUMBER = 6


@dataclass(frozen=True, slots=True)
class Citations:
    """`cited` and `invalid` are numbers in the order in which the answer first cites them.

    `cited` were given as evidence, `invalid` were not. `uncited_sentences` are the answer's sentences
    that cite nothing valid; a refusal has none.
    """

    cited: tuple[int, ...]
    invalid: tuple[int, ...]
    uncited_sentences: tuple[str, ...]


def check_citations(text: str, numbers: Collection[int]) -> Citations:
    """Check an answer's citations, such as [1], [1][2], [1, 2] and [1-3], against the evidence's numbers.

    Brackets in code are no citations. A sentence that leads to a list (it ends with a colon) needs none.
    """
    found = tuple(dict.fromkeys(_numbers(text)))
    uncited = tuple(
        sentence
        for sentence in split(text)
        if not sentence.endswith(":") and not any(number in numbers for number in _numbers(sentence))
    )
    return Citations(
        cited=tuple(number for number in found if number in numbers),
        invalid=tuple(number for number in found if number not in numbers),
        uncited_sentences=() if text.strip() == REFUSAL else uncited,
    )


def _numbers(text: str) -> Iterator[int]:
    """Every number cited, in order; an absurdly long range counts as its two ends."""
    for citation in _CITATION.finditer(_CODE.sub(" ", text)):
        for part in _RANGE.finditer(citation[1]):
            first, last = (int(digits[:_LONGEST_NUMBER]) for digits in (part[1], part[2] or part[1]))
            if first < last <= first + _LONGEST_RANGE:
                yield from range(first, last + 1)
            else:
                yield from dict.fromkeys((first, last))
