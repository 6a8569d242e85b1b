"""Any event that its contract allows, made by hypothesis from the annotations of its fields."""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic.fields import FieldInfo

from ragline.contracts.event import Event

_TEXT = st.characters(codec="utf-8")
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(_TEXT, max_size=20),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


def events(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Valid events of one kind; optional fields are given or left out, nested models included."""
    return _models(kind).filter(lambda event: event is not None)


def _models(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = kind.model_fields.items()
    required = {name: _values(hints[name]) for name, field in fields if field.is_required()}
    optional = {name: _values(hints[name]) for name, field in fields if not field.is_required()}
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: _valid(kind, given))


def _valid(kind: type[BaseModel], given: dict[str, Any]) -> BaseModel | None:
    """The model, or None where a rule between its fields forbids it."""
    try:
        return kind(**given)
    except ValidationError:
        return None


def _values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _models(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _constrained(arguments[0], arguments[1:])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_values(argument) for argument in arguments))
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    raise TypeError(f"no strategy for {annotation}: add one")


def _constrained(base: Any, constraints: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if base is int:
        bounds: list[Any] = [b for c in constraints if isinstance(c, FieldInfo) for b in c.metadata]
        least: int = next(b.ge for b in bounds if hasattr(b, "ge"))
        below: int = next(b.lt for b in bounds if hasattr(b, "lt"))
        return st.integers(least, below - 1)
    rule = next(c for c in constraints if isinstance(c, StringConstraints))
    least, most = rule.min_length or 0, min(rule.max_length or 20, 20)
    if rule.pattern is None:
        return st.text(_TEXT, min_size=least, max_size=most)
    # Python's `$` also matches before a line's end at the close of the text; the contract's does not.
    pattern = st.from_regex(rule.pattern, fullmatch=True, alphabet=_TEXT)
    return pattern.filter(lambda text: least <= len(text) <= most and not text.endswith("\n"))
