"""JSON and JSON Lines: keys as headings, small objects and arrays of objects as records.

Positions in arrays are never named: an element put in at the front would rename, and so re-embed, all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from services.ingest.cleaning import clean
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import Outline
from services.ingest.parsing.text import add_links, add_text, outline_of

_FIRST_LEVEL = 2
"""A key is no title of the whole."""
_RECORD_CHARACTERS = 800
"""A larger object is a section of its own: its parts would not fit into one chunk."""
_TEXT_CHARACTERS = 200
"""A longer string is prose: it is a section under its key."""
_NESTING = 50
"""Below this depth objects are shown as JSON."""
_TITLES = ("title", "name", "headline", "subject", "id")
"""The keys that say best what an object is, where its place in an array says nothing."""

Field = tuple[str, str]
"""A dotted path and a value as text."""


def read_json(content: bytes | str, charset: str | None) -> Outline:
    """Read JSON, or JSON Lines under JSON's name; what is neither becomes plain paragraphs."""
    text = decode(content, declared=charset)
    try:
        value = _loads(text)
    except ValueError:
        return _lines(text) or outline_of(clean(text))
    outline = Outline()
    if isinstance(value, dict):
        outline.fallback_title = _name(value)
    _Walk(outline).value(value, level=_FIRST_LEVEL)
    return outline


def read_json_lines(content: bytes | str, charset: str | None) -> Outline:
    """Read JSON Lines, each line a record; what is not becomes plain paragraphs."""
    text = decode(content, declared=charset)
    return _lines(text) or outline_of(clean(text))


def _lines(text: str) -> Outline | None:
    outline = Outline()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _loads(line)
        except ValueError:
            return None
        _Walk(outline, line=number).value(value, level=_FIRST_LEVEL)
        outline.leave(_FIRST_LEVEL)
    return outline


def _loads(text: str) -> Any:
    """The value, its numbers spelled as they were; raises ValueError for what is not JSON."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


class _Walk:
    """Adds values to an outline; `line` is given to all that is found."""

    def __init__(self, outline: Outline, *, line: int | None = None) -> None:
        self._outline = outline
        self._line = line

    def value(self, value: Any, *, level: int) -> None:
        """Add a value below the section that is open; its own sections begin at `level`."""
        fields = None if _is_array_of_parts(value) else _record(value, _RECORD_CHARACTERS)
        if fields is not None:
            self._record(fields)
        elif level > _NESTING:
            self._outline.add("code", json.dumps(value, ensure_ascii=False), line=self._line)
        elif isinstance(value, dict):
            self._object(value, level)
        elif isinstance(value, list):
            self._array(value, level)
        else:
            self._prose(str(value))

    def _object(self, value: Mapping[str, Any], level: int) -> None:
        """Its short fields first, for after a section nothing can belong to the object itself again."""
        sections = {}
        for key, part in value.items():
            if _record(part, _TEXT_CHARACTERS) is None:
                sections[key] = part
            else:
                self._record(list(_fields(key, part)))
        for key, part in sections.items():
            self._outline.heading(level, key, line=self._line)
            self.value(part, level=level + 1)
            self._outline.leave(level)

    def _array(self, value: Sequence[Any], level: int) -> None:
        for part in value:
            name = _name(part)
            large = _record(part, _RECORD_CHARACTERS) is None
            if large and name:
                self._outline.heading(level, name, line=self._line)
            self.value(part, level=level + 1)
            if large and name:
                self._outline.leave(level)

    def _record(self, fields: Sequence[Field]) -> None:
        shown = [f"{path}: {text}" if path else text for path, text in fields if text.strip()]
        self._outline.add("record", " | ".join(shown), line=self._line)
        for _, text in fields:
            add_links(self._outline, text)

    def _prose(self, text: str) -> None:
        """A long string's paragraphs, as plain text has them."""
        add_text(self._outline, clean(text), source_line=lambda _: self._line)


def _is_array_of_parts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value)


def _name(value: Any) -> str | None:
    """What an object calls itself."""
    if not isinstance(value, dict):
        return None
    names = (value.get(key) for key in _TITLES)
    return next((name for name in names if isinstance(name, str) and 0 < len(name) <= _TEXT_CHARACTERS), None)


def _record(value: Any, most_characters: int) -> list[Field] | None:
    """The value's fields when it is small, with no long text in it; None when it needs sections.

    Looks at no more of the value than it takes to decide.
    """
    fields: list[Field] = []
    characters = 0
    for path, text in _fields("", value):
        characters += len(path) + len(text) + 5
        if characters > most_characters or len(text) > _TEXT_CHARACTERS:
            return None
        fields.append((path, text))
    return fields


def _fields(path: str, value: Any, depth: int = 0) -> Iterator[Field]:
    """All leaves with their dotted paths; the elements of an array share one."""
    if depth > _NESTING:
        yield path, json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _fields(f"{path}.{key}" if path else key, part, depth + 1)
    elif isinstance(value, list):
        plain = [_scalar(part) for part in value if not isinstance(part, (dict, list))]
        if len(plain) == len(value):
            yield path, ", ".join(filter(None, plain))
            return
        for part in value:
            yield from _fields(path, part, depth + 1)
    else:
        yield path, _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
