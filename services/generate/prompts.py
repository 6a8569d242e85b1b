"""The prompt: numbered, delimited evidence and a question, rendered from a versioned template.

Evidence is data. Whatever in it could pass for the prompt's own structure or for a chat role is made
harmless before it is rendered, so that neither the extractive model, which reads the prompt back with
`parse`, nor a language model can be misled about where evidence begins and ends.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from jinja2 import FileSystemLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

from ragline.errors import FailedPrecondition, InvalidArgument

REFUSAL: Final = "I could not find this in the documents."
"""The whole text of an answer that the evidence does not support."""

TEMPLATE: Final = "answer.v1"
"""The template in use: its file's name is the prompt's version, and a change is a new file."""

_SECTION_SEPARATOR: Final = " > "


@dataclass(frozen=True, slots=True)
class Evidence:
    """One numbered piece of evidence; `heading_path` begins with the document's title."""

    number: int
    document_id: str
    title: str
    heading_path: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes to the model: `evidence` is what the token budget left room for, `hash` is SHA-256 in hex."""

    messages: tuple[dict[str, str], ...]
    version: str
    hash: str
    evidence: tuple[Evidence, ...]


def render(
    question: str, evidence: Sequence[Evidence], *, token_budget: int, count_tokens: Callable[[str], int]
) -> Prompt:
    """Render the prompt; `evidence` comes best first, and the weakest is dropped first to fit the budget.

    Raises InvalidArgument when the question alone does not fit the budget, and FailedPrecondition when
    there is evidence but no room for any of it.
    """
    for kept in range(len(evidence), -1, -1):
        messages = _messages(question, evidence[:kept])
        if sum(count_tokens(message["content"]) for message in messages) > token_budget:
            continue
        if evidence and not kept:
            raise FailedPrecondition(
                f"the prompt's budget of {token_budget} tokens has no room for a single piece of evidence; "
                "raise the gateway's token budget",
                reason="PROMPT_BUDGET_TOO_SMALL",
            )
        return Prompt(messages, TEMPLATE, _hash(messages), tuple(evidence[:kept]))
    raise InvalidArgument("question", f"does not fit the prompt's budget of {token_budget} tokens; shorten it")


def parse(messages: Sequence[dict[str, str]]) -> tuple[str, tuple[Evidence, ...]]:
    """Read the question and the evidence back out of rendered messages: the reverse of `render`.

    Raises InvalidArgument when the messages are not a rendered prompt.
    """
    content = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    question = _QUESTION.search(content)
    if question is None:
        raise InvalidArgument("messages", "hold no question in the gateway's prompt format")
    pieces = []
    for number, document_id, title, section, text in _EVIDENCE.findall(content):
        path = tuple(part for part in (title, *section.split(_SECTION_SEPARATOR)) if part)
        pieces.append(Evidence(int(number), document_id, title, path, text))
    return question[1], tuple(pieces)


_QUESTION = re.compile(r"<question>\n(.*?)\n</question>\s*\Z", re.DOTALL)
_EVIDENCE = re.compile(
    r'<evidence id="(\d+)" document="([^"\n]*)" title="([^"\n]*)" section="([^"\n]*)">\n(.*?)\n</evidence>',
    re.DOTALL,
)


# --- rendering ----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).with_name("prompts")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the prompt is no HTML; `_as_data` does the escaping
    )
    return environment.get_template(f"{TEMPLATE}.md")


def _messages(question: str, evidence: Sequence[Evidence]) -> tuple[dict[str, str], ...]:
    template = _template()
    context = template.new_context(
        {
            "question": _as_data(question).strip() or "-",
            "refusal": REFUSAL,
            "evidence": [
                {
                    "number": piece.number,
                    "document_id": _as_attribute(piece.document_id),
                    "title": _as_attribute(piece.title),
                    "section": _as_attribute(_section(piece)),
                    "text": _as_evidence(piece.text),
                }
                for piece in evidence
            ],
        }
    )
    return tuple(
        {"role": role, "content": "".join(template.blocks[role](context)).strip()} for role in ("system", "user")
    )


def _section(piece: Evidence) -> str:
    path = piece.heading_path
    return _SECTION_SEPARATOR.join(path[1:] if path[:1] == (piece.title,) else path)


def _hash(messages: tuple[dict[str, str], ...]) -> str:
    canonical = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


# --- making data harmless -----------------------------------------------------------------------

_TAG = re.compile(
    r"[<\uff1c](?=\s*/?\s*(?:evidence|question|system|user|assistant|human|developer|tool|instructions?|"
    r"start_of_turn|end_of_turn|bos|eos|s|sys)\b|\|)",
    re.IGNORECASE,
)
_ROLE = re.compile(r"(?im)^([ \t>#*_-]*(?:system|user|assistant|human|developer|tool|instructions?)[ \t*_]*)[:\uff1a]")
_BRACKETED_ROLE = re.compile(r"\[(\s*/?\s*INST\s*)\]", re.IGNORECASE)
_CITATION = re.compile(r"\[(\d[\d,;\s\u2013-]*)\]")
_LINE_BREAK = re.compile(r"\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_JOINERS = "\u200c\u200d"


def _as_data(text: str) -> str:
    """The text without control and invisible characters, and with look-alikes for what resembles markup."""
    text = _CONTROL.sub("", _LINE_BREAK.sub("\n", text))
    if not text.isascii():
        text = "".join(
            character
            for character in text
            if unicodedata.category(character) not in ("Cf", "Cs") or character in _JOINERS
        )
    text = _BRACKETED_ROLE.sub(r"(\1)", _TAG.sub("\u2039", text))
    return _ROLE.sub("\\1\u2236", text)


def _as_evidence(text: str) -> str:
    """Data whose own reference marks, such as [3], cannot be taken for citations of evidence."""
    return _CITATION.sub(r"[ \1 ]", _as_data(text)).strip("\n") or "-"


def _as_attribute(text: str) -> str:
    return " ".join(_as_data(text).replace('"', "'").split())
