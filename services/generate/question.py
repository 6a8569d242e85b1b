"""What a question asks: its terms, and the kind of answer that would fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from services.generate.terms import STOP_WORDS, WORD, is_common, prior_weight, stem, words

AnswerKind = Literal["quantity", "time", "person", "reason", "place", "definition", "other"]


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


_KINDS: Final[tuple[tuple[AnswerKind, re.Pattern[str]], ...]] = (
    (
        "quantity",
        _pattern(
            r"""\bhow\ (?:many|much|long|old|far|large|big|tall|high|deep|often|fast|wide|heavy)\b
            | \b(?:what|which)\ (?:(?:is|was|are|were)\ )?(?:the\ )?(?:\w+\ ){0,2}
            (?:percent|percentage|number|amount|population|size|age|length|height|width|depth|distance
            |temperature|score|rate|proportion|fraction|limit|version)\b"""
        ),
    ),
    (
        "time",
        _pattern(
            r"""\bwhen\b | \bhow\ (?:recently|early|late)\b
            | \b(?:what|which)\ (?:\w+\ ){0,2}(?:years?|date|day|month|century|decade|time|era|period)\b"""
        ),
    ),
    (
        "person",
        _pattern(
            r"""\bwho(?:m|se)?\b
            | \b(?:what|which)\ (?:\w+\ ){0,2}(?:person|author|president|king|queen|emperor|scientist|player
            |actor|leader|man|woman|artist|architect|inventor|engineer|writer)\b"""
        ),
    ),
    (
        "reason",
        _pattern(
            r"\bwhy\b | \bhow\ come\b | \bwhat\ (?:\w+\ ){0,3}(?:reasons?|purpose|motivation|rationale)\b",
        ),
    ),
    (
        "place",
        _pattern(
            r"""\bwhere\b
            | \b(?:what|which)\ (?:\w+\ ){0,2}(?:city|country|state|town|place|river|continent|region
            |location|county|province|capital|nation|area|island)\b"""
        ),
    ),
    (
        "definition",
        _pattern(
            r"""^\W*what(?:['\u2019]s|\ is|\ are|\ was|\ were)\ (?:an?\ |the\ )?
            (?:[\w'\u2019*/.-]+\ ?){1,3}\W*$
            | \bwhat\ (?:do|does|did)\ .+\ (?:mean|stand\ for)\b | \bdefin(?:e|ition)\b"""
        ),
    ),
)
"""Tried in order: `how many people` asks for a quantity, not for a person."""

_TIME = _pattern(
    r"""\b(?:1\d{3}|20\d{2})s?\b | \b(?:jan|febr)uary\b | \b(?:march|april|june|july|august|october)\b
    | \bin\ may\b | \b(?:sept|nov|dec)ember\b | \b\d{1,2}[:.]\d{2}\b
    | \b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b | \bcentur(?:y|ies)\b | \bdecades?\b
    | \b\d{1,4}\ ?(?:bc|ad|bce|ce)\b
    | \b\d{1,2}[-\ ](?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\b"""
)
_NUMBER = _pattern(
    r"""\d+ | \b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty|thirty
    |forty|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?|half|third|quarter|twice
    |dozens?|double|couple|several)\b"""
)
_REASON = _pattern(
    r"""\b(?:because|due\ to|since|so\ that|in\ order\ to|as\ a\ result|therefore|thus|caus\w+|reasons?
    |owing\ to|thanks\ to|leads?\ to|led\ to|result\w*\ in|allow\w*|motivat\w+|purpose|rationale
    |to\ (?:avoid|prevent|make|keep|ensure|reduce))\b"""
)
_PLACE = re.compile(
    r"\b(?:in|at|to|from|near|of|into|across|between|around|through|on) (?:the )?(?:\w+ )?([A-Z][\w-]+)"
)
_NAME = re.compile(r"\b[A-Z][\w'\u2019-]+")

_COPULA = _pattern(
    r"""\b(?:is|are|was|were|means?|refers?\ to|denotes?|describes?|stands?\ for|defined\ as|called
    |known\ as|consists?|allows?|provides?|serves?)\b"""
)
_DEFINED_WITHIN_WORDS = 10

NEGATIONS: Final = frozenset({"not", "no", "never", "none", "nor", "without", "cannot"})


@dataclass(frozen=True, slots=True)
class Term:
    """One content word of a question.

    `prior` is what it says by itself (see `prior_weight`); `entity` marks names and numbers, which have
    no synonyms; `position` counts the question's words.
    """

    stem: str
    prior: float
    entity: bool
    position: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question's distinct terms in order, all its words in lower case, and the kind of its answer."""

    terms: tuple[Term, ...]
    words: frozenset[str]
    kind: AnswerKind
    negated: bool


def read_question(text: str) -> Question:
    """Analyse a question; one that consists of stop words has no terms."""
    terms: dict[str, Term] = {}
    position = 0
    for match in WORD.finditer(text):
        for word in words(match[0]):
            prior = prior_weight(word)
            entity = prior > 0 and _is_entity(match[0], word, first=position == 0)
            if prior > 0:
                terms.setdefault(stem(word), Term(stem(word), 1.0 if entity else prior, entity, position))
            position += 1
    kind: AnswerKind = next((kind for kind, pattern in _KINDS if pattern.search(text)), "other")
    lower = frozenset(words(text))
    return Question(tuple(terms.values()), lower, kind, is_negated(lower))


def is_negated(text_words: Iterable[str]) -> bool:
    """Whether words in lower case hold a negation."""
    return any(word in NEGATIONS or word.endswith("n't") for word in text_words)


def _is_entity(written: str, word: str, *, first: bool) -> bool:
    if written[0].isdigit() or (written.isupper() and len(written) > 1):
        return True
    return written[0].isupper() and not first and not is_common(word)


def adds_to(question: Question, sentence: str, sentence_words: Sequence[str]) -> bool:
    """Whether a sentence says more than the question does: two words, a number or a name.

    A title such as `The Zen of Python` is no answer to who wrote it.
    """
    new = [word for word in sentence_words if word not in question.words and word not in STOP_WORDS]
    if len(new) >= 2 or any(not word.isalpha() for word in new):
        return True
    return bool(new) and _has_new_name(question, sentence[1:])


def fits(question: Question, sentence: str) -> bool | None:
    """Whether a sentence holds something of the kind asked for that the question does not name already.

    None for a kind of answer that leaves no mark on a sentence.
    """
    match question.kind:
        case "time":
            return _has_new(question, _TIME, sentence)
        case "quantity":
            return _has_new(question, _NUMBER, sentence)
        case "person":
            return _has_new_name(question, sentence)
        case "place":
            return any(_is_new(question, place[1]) for place in _PLACE.finditer(sentence))
        case "reason":
            return bool(_REASON.search(sentence))
        case "definition":
            return _defines(question, sentence)
        case _:
            return None


def _has_new(question: Question, pattern: re.Pattern[str], sentence: str) -> bool:
    return any(_is_new(question, found[0]) for found in pattern.finditer(sentence))


def _is_new(question: Question, found: str) -> bool:
    return not question.words.issuperset(words(found))


def _has_new_name(question: Question, sentence: str) -> bool:
    """A capitalised word that is neither the question's nor merely the first of the sentence."""
    for name in _NAME.finditer(sentence):
        meaningless = is_common if name.start() < 2 else STOP_WORDS.__contains__
        if not all(map(meaningless, words(name[0]))) and _is_new(question, name[0]):
            return True
    return False


def _defines(question: Question, sentence: str) -> bool:
    """Whether the sentence begins with what is asked about and goes on to say what it is."""
    verb = _COPULA.search(sentence)
    subject = words(sentence[: verb.start()]) if verb else []
    stems = {stem(word) for word in subject}
    return len(subject) <= _DEFINED_WITHIN_WORDS and any(term.stem in stems for term in question.terms[-1:])
