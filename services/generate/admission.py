"""Which questions are taken: pure checks, before anything is looked up or spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ragline.errors import InvalidArgument
from ragline.index.versions import IndexVersion

MAX_QUESTION_CHARACTERS: Final = 4000
MAX_EVIDENCE: Final = 20


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks; empty fields mean the gateway's defaults.

    `at_version` asks an earlier index version, `min_version` waits for one; `evidence_limit` is how many
    chunks the model may read; `metadata` holds exact matches on the documents' fields.
    """

    text: str
    at_version: str = ""
    min_version: str = ""
    model: str = ""
    evidence_limit: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings allow and what they default to; time in seconds."""

    model: str
    allowed_models: frozenset[str]
    max_tokens: int
    evidence_limit: int
    prompt_tokens: int
    model_timeout_s: float

    def admit(self, question: Question) -> Question:
        """The question with the defaults filled in; raises InvalidArgument that names the field."""
        text = question.text.strip()
        if not 1 <= len(text) <= MAX_QUESTION_CHARACTERS:
            raise InvalidArgument("question", f"has {len(text)} characters; ask with 1 to {MAX_QUESTION_CHARACTERS}")
        if "\x00" in text:
            raise InvalidArgument("question", "contains a NUL character; leave it out")
        if not 0 <= question.evidence_limit <= MAX_EVIDENCE:
            raise InvalidArgument(
                "evidence_limit",
                f"is {question.evidence_limit}; use 1 to {MAX_EVIDENCE}, or 0 for the default",
            )
        return replace(
            question,
            text=text,
            at_version=_version(question.at_version, "at_version"),
            min_version=_version(question.min_version, "min_version"),
            model=self._model(question.model),
            evidence_limit=question.evidence_limit or self.evidence_limit,
        )

    def _model(self, wanted: str) -> str:
        if wanted and wanted not in self.allowed_models:
            allowed = ", ".join(sorted(self.allowed_models))
            raise InvalidArgument("model", f"{wanted[:100]!r} is not allowed here; use one of {allowed}")
        return wanted or self.model


def _version(text: str, field_name: str) -> str:
    return str(IndexVersion.parse(text, field=field_name)) if text else ""
