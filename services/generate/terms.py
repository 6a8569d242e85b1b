"""The words of English text as terms: stems, how much each says, names and numbers.

How much a word says comes from two bands of common English words below and, for the rest, from the
evidence itself (see `services.generate.extractive`).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final

STOP_WORDS: Final = frozenset(
    """a about above after again against all also am an and any are aren't as at be because been before being
    below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down
    during each either else ever every few for from further had has have having he her here hers herself him
    himself his how i if in into is isn't it its itself just let me might more most much must my myself
    neither no nor not of off on once only onto or other ought our ours ourselves out over own per please
    rather s same shall she should so some such t tell than that the their theirs them themselves then there
    these they this those through thus to too under until up upon us very via was wasn't we were weren't what
    whatever when where whether which while who whoever whom whose why will with within without won't would
    yet you your yours yourself according explain describe describes described show shows list say says said
    mention mentioned mentions many another""".split()
)
"""Words that say nothing by themselves, and words by which people ask."""

_VERY_COMMON: Final = frozenset(
    """able across add allow allowed almost along already always amount another area around ask away back
    become became began begin best better big bring bringing brought call called came case cause certain
    change city come common consider considered contain contains country day days different done early
    effect end enough especially even exactly example exist fact far find first following form former found
    full gave general get give given go going gone good got great group had hand happen happened help high
    hold home hope include included includes including instead involve involved keep kind know known large
    last late later lead least leave led left less life like likely little live long longer look made main
    make makes making man may mean means member mostly move much name named near need never new next
    number often old one ones open order part particular people perhaps person place play point possible
    present problem provide provided provides put quite reason received refer referred result right run seem
    seen set several significant similar since small something sometimes sort start started state still
    take taken takes term thing things think though thought three time times took toward turn two type types
    typically use used uses using usual usually various want way ways well went whole word words work world
    year years""".split()
)
_COMMON: Final = frozenset(
    """account achieve action active actually additional age ago agree air although american annual appear
    approach attempt attention available average base based basic basis beginning behind belief believe
    beside beyond body book build building built business care carry carried central century chance
    character child children choose claim class clear close closely collection comes commonly community
    company compare compared complete completed completely concern condition conditions connect continue
    control cost couple course court create created creating current currently cut data deal death decide
    decided degree design designed despite detail develop developed development difference difficult direct
    directly discover discovered discuss drive due earlier easily east easy eight empire enable english
    enter entire environment equal establish established event eventually evidence experience express
    extend face fall family famous father feature field final finally five follow followed force foreign
    formed four free front function future generally government greater ground grow grew growth half happens
    head held higher highest history hour house hours however human hundred idea identify important increase
    increased individual industry influence information interest international interested issue issued items
    join joined key king language larger largest law learn length let level light limit limited line local
    located location lost love low lower major majority make maintain manage market material matter maximum
    measure meet method million mind minimum minute minutes modern money month months mother national natural
    nature necessary night nine none normal north note notable noted occur occurred offer office official
    opened operate original originally outside paper parts party past pass passed pay percent percentage
    period piece plan popular population position power practice prevent previous primary process produce
    produced product production program project property proposed protect public purpose question range
    rate reach reached read real really receive recent recently region regarded relate related relationship
    remain remained remains replace replaced report represent require required requires research respect
    responsible rest return rise role room rule rules school second section sense separate series serve
    service seven short shortly side simple simply single situation six size social society source south
    special specific specifically stand standard step stop story strong structure student students study
    style subject success successful suggest support supposed system team ten theory third thousand today
    together told top total town traditional true try understand union united university unlike value
    variety view war water week weeks west white wide widely win woman women won write written wrote young
    """.split()
)

NUMBER_WORDS: Final = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {
    word: str(10 * value)
    for value, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)
}

WORD: Final = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:['’][^\W\d_]+)?")
"""A number with its separators, or a run of letters and digits with an apostrophe inside."""
_POSSESSIVE = re.compile(r"['’]s?$")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th|'?s)")
_DOTTED = re.compile(r"\b(?:[^\W\d_]\.){2,}")


def words(text: str) -> list[str]:
    """The words of a text in order, in lower case and without accents."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = text.replace("’", "'")
    if "." in text:
        text = _DOTTED.sub(lambda initials: initials[0].replace(".", ""), text)
    return WORD.findall(text.lower())


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The Snowball stem of a word from `words`; number words become digits. Cached, about 30 us when new."""
    if word in NUMBER_WORDS:
        return NUMBER_WORDS[word]
    if ordinal := _ORDINAL.fullmatch(word):
        return ordinal[1]
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
