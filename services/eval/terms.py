"""The terms of a text: stems to compare, and which of them are numbers or names."""

# ruff: noqa: RUF001 (apostrophes as people write them)
from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Final, Literal

import snowballstemmer

_TOKEN: Final = re.compile(
    r"\d+(?:[.,]\d+)*(?:st|nd|rd|th)?(?![^\W_])"  # a number, also 3.11, 1,000 and 2nd
    r"|[\u3040-\u30ff\u3400-\u9fff]"  # scripts without spaces: each character is a term
    r"|(?:(?![\u3040-\u30ff\u3400-\u9fff])[^\W_])+(?:['’][^\W_]+)?"
)
_ORDINAL: Final = re.compile(r"(?:st|nd|rd|th)$")
_NUMBER_WORDS: Final = {
    word: str(number)
    for number, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}
"""Left out: `one`, which is seldom a number."""
_FUNCTION_WORD: Final = re.compile(
    r"an?|the|of|in|on|at|to|for|from|by|with|and|or|but|as|is|are|was|were|be|been|being|its?|this|that|these"
    r"|those|he|she|they|his|hers?|their|him|them|we|our|you|your|i|who|whom|whose|which|what|when|where|why|how"
    r"|while|there|here|has|have|had|do|does|did|not|no|so|than|then|also|into|about|after|before|between|during"
    r"|over|under|out|up|such|can|could|may|might|must|will|would|shall|should|more|most|some|any|all|each|both"
    r"|only|own|same|just|very|other|many|much"
)
"""Words that say little about what a sentence is about; they do not count as support."""

_stemmer = snowballstemmer.stemmer("english")
_stemmer_lock = Lock()


@dataclass(frozen=True, slots=True)
class Term:
    """One word or number of a text, in its place."""

    surface: str
    """As written, for people."""
    key: str
    """Case and accents' encoding folded: equal keys are the same word, for quotations."""
    stem: str
    """Equal stems are the same term; numbers lose their separators and ordinal endings."""
    kind: Literal["content", "function", "number", "name"]


def terms_of(text: str) -> tuple[Term, ...]:
    """The terms of a sentence, in order.

    A name is a capitalised word that does not begin the sentence, or one with a capital inside.
    """
    normal = unicodedata.normalize("NFKC", text)
    found = _TOKEN.findall(normal)
    return tuple(_term(surface, initial=place == 0) for place, surface in enumerate(found))


def _term(surface: str, *, initial: bool) -> Term:
    key = surface.casefold().replace("’", "'").removesuffix("'s")
    if surface[0].isdigit() and not any(character.isalpha() for character in _ORDINAL.sub("", surface)):
        return Term(surface, key, _ORDINAL.sub("", key).replace(",", ""), "number")
    if key in _NUMBER_WORDS:
        return Term(surface, key, _NUMBER_WORDS[key], "number")
    if _FUNCTION_WORD.fullmatch(key):
        return Term(surface, key, key, "function")
    is_name = (surface[0].isupper() and not initial) or any(letter.isupper() for letter in surface[1:])
    return Term(surface, key, _stem(key), "name" if is_name else "content")


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    # The stemmer keeps the word that it works on in itself, and evaluations run in threads.
    with _stemmer_lock:
        stem: str = _stemmer.stemWord(word)
    return stem
