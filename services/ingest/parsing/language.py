"""Guessing the language of a document that does not say which it is in."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from services.ingest.parsing.document import ParsedDocument

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_SAMPLE_CHARACTERS = 4_000
_LEAST_BYTES = 150
"""About 25 words; counted in bytes, for a Chinese character tells more than a Latin letter."""
_LEAST_PROBABILITY = 0.5
_PROSE = frozenset({"paragraph", "list", "quote"})


def detected_language(document: ParsedDocument) -> str | None:
    """The ISO 639-1 code of the likeliest language of the prose at the beginning; None where there is too little.

    The first call of a process loads the model: 0.4 s and about 80 MB.
    """
    parts: list[str] = []
    left = _SAMPLE_CHARACTERS
    for block in document.blocks:
        if left > 0 and block.kind in _PROSE:
            parts.append(block.text[:left])
            left -= len(parts[-1])
    sample = "\n".join(parts)
    if len(sample.encode()) < _LEAST_BYTES:
        return None
    language, probability = _identifier().classify(sample)
    return str(language) if probability >= _LEAST_PROBABILITY else None


@functools.cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
