"""reStructuredText by docutils, without file insertion, raw content or any other effect on the outside.

Only docutils' parser runs, none of its transforms: references need not resolve, and an unknown role or
directive leaves its text. A Python Enhancement Proposal's RFC 822 header is read before.
"""

from __future__ import annotations

import functools
import re
import threading

from docutils import frontend, nodes, utils
from docutils.parsers.rst import Directive, Parser, directives

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import Outline
from services.ingest.parsing.rst_nodes import NodeWalk
from services.ingest.parsing.text import outline_of

PEP_HEADER = re.compile(r"\A\s*PEP:[ \t]*\d+[ \t]*\n(?:[A-Z][\w-]*:.*\n|[ \t]+\S.*\n)*", re.ASCII)
_HEADER_FIELD = re.compile(r"^([A-Z][\w-]*):[ \t]*(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_DROPPED_FIELDS = frozenset({"content-type", "discussions-to", "last-modified", "post-history", "version"})
"""History and bookkeeping of a proposal: they answer no question and change with every revision."""

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "warning_stream": False,
    "syntax_highlight": "none",
    "smart_quotes": False,
    "line_length_limit": 1 << 40,
}
_WITHOUT_TEXT = (
    # Their effect is global to the process or comes from outside the document.
    *("role", "default-role", "raw", "include", "date"),
    # Their result is made of other parts, or is no text.
    *("contents", "sectnum", "target-notes", "meta", "title", "header", "footer"),
    # Sphinx's, of the same kinds.
    *("toctree", "index", "highlight", "module", "currentmodule", "py:module", "py:currentmodule"),
    *(
        "automodule",
        "autoclass",
        "autofunction",
        "autosummary",
        "literalinclude",
        "tabularcolumns",
        "codeauthor",
    ),
)
_INLINE_MARKS = re.compile(r"[*`|]")
_INLINE_EFFORT = 5e8
"""Marks times characters of a passage without a blank line: docutils looks for the end of each mark in all
of it, and beyond this bound, which no written text comes near, would take from ten seconds to hours."""
_DOCUTILS = threading.Lock()
"""docutils keeps roles in a table of the process, and takes one out after every document."""
_PARSER_FAULTS = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RecursionError,
)
"""What docutils is known to raise on malformed input instead of reporting it."""


class _WithoutText(Directive):
    """A directive that leaves nothing in the document."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return []


@functools.cache
def _register_directives() -> None:
    """Take the directives that leave no text out of docutils' registry, once a process."""
    for name in _WITHOUT_TEXT:
        directives.register_directive(name, _WithoutText)


def read_rst(content: bytes | str, charset: str | None) -> Outline:
    """Read reStructuredText; what docutils cannot read becomes plain paragraphs."""
    text = clean(decode(content, declared=charset))
    outline = Outline()
    body = _take_header(text, outline)
    tree = document_tree(body)
    if tree is None:
        return outline_of(text)
    try:
        NodeWalk(outline, document_tree).walk(tree)
    except RecursionError:  # nested by the hundred: no person wrote it
        return outline_of(text)
    return outline


def document_tree(text: str) -> nodes.document | None:
    """docutils' tree of the text, or None where docutils itself fails or would not come to an end."""
    if any(len(passage) * len(_INLINE_MARKS.findall(passage)) > _INLINE_EFFORT for passage in text.split("\n\n")):
        return None
    _register_directives()
    settings = frontend.get_default_settings(Parser)
    for name, value in _SETTINGS.items():
        setattr(settings, name, value)
    tree = utils.new_document("document", settings)
    try:
        with _DOCUTILS:
            Parser().parse(text, tree)
    except _PARSER_FAULTS:
        return None
    return tree


def _take_header(text: str, outline: Outline) -> str:
    """The text without a proposal's header; its fields become the first block. Line numbers stay true."""
    match = PEP_HEADER.match(text)
    if match is None:
        return text
    fields = [(name, unwrap(value)) for name, value in _HEADER_FIELD.findall(match[0])]
    outline.title = next((value for name, value in fields if name.lower() == "title"), None)
    kept = [f"{name}: {value}" for name, value in fields if value and name.lower() not in _DROPPED_FIELDS]
    outline.add("paragraph", "\n".join(kept), line=1)
    return "\n" * match[0].count("\n") + text[match.end() :]
