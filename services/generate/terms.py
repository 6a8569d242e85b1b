"""The words of English text as terms: stems, how much each says, names and numbers.

How much a word says comes from the bands of common English words in `english_words.json` and, for the
rest, from the evidence itself (see `services.generate.extractive_features`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

_LISTS: Final = json.loads(Path(__file__).with_name("english_words.json").read_text(encoding="utf-8"))


def _words_of(name: str) -> frozenset[str]:
    return frozenset(" ".join(_LISTS[name]).split())


STOP_WORDS: Final = _words_of("stop_words")
"""Words that say nothing by themselves, and words by which people ask."""
_VERY_COMMON: Final = _words_of("very_common")
_COMMON: Final = _words_of("common")
NUMBER_WORDS: Final[dict[str, str]] = _LISTS["numbers"]
"""Spelled numbers as digits, so that `eight` and `8` are the same term."""

WORD: Final = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:['\u2019][^\W\d_]+)?")
"""A number with its separators, or a run of letters and digits with an apostrophe inside."""
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th|'?s)")
_DOTTED = re.compile(r"\b(?:[^\W\d_]\.){2,}")


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case and without accents."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = text.replace("\u2019", "'")
    if "." in text:
        text = _DOTTED.sub(lambda initials: initials[0].replace(".", ""), text)
    return WORD.findall(text.lower())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The Snowball stem of a word from `words`; number words become digits. Cached, about 30 us when new."""
    if word in NUMBER_WORDS:
        return NUMBER_WORDS[word]
    if word[0].isdigit():
        ordinal = _ORDINAL.fullmatch(word)
        return (ordinal[1] if ordinal else word).lstrip("0") or "0"
    word = _POSSESSIVE.sub("", word)
    return word if len(word) <= 3 or not word.isalpha() else str(_stemmer().stemWord(word))


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from snowballstemmer import stemmer

    return stemmer("english")


def prior_weight(word: str) -> float:
    """How much a word from `words` says by itself, in [0, 1]: 0 for a stop word, 1 for an uncommon one."""
    word = _POSSESSIVE.sub("", word)
    if word in STOP_WORDS:
        return 0.0
    if word in _VERY_COMMON:
        return 0.35
    return 0.65 if word in _COMMON or (len(word) == 1 and word.isalpha()) else 1.0


def is_common(word: str) -> bool:
    """Whether a word from `words` is so common that a capital letter does not make it a name."""
    return prior_weight(word) < 1.0
