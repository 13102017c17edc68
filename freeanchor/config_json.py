"""Frozen configurations out of json: every field known, of its type and of sensible size, or one line says which not.

What it is: what a type checker would do, for values that come from a file. What it is not: whether values of a right
type make sense together, which is each configuration's own `__post_init__`.

    inputs = from_json(InputConfig, {"short_side": 800, "max_long_side": 1333}, "inputs")
"""

import difflib
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from freeanchor.errors import brief

LARGEST = 2**31  # of counts and numbers: larger ones are no sizes of anything here
SMALLEST = 1e-12  # of numbers but 0: what is divided by one stays finite in float32
Config = TypeVar("Config")


class ConfigError(ValueError):
    """A field of a configuration that is unknown, missing, of another type, or out of range."""


def nearest(name: object, known: list[str]) -> str:
    """Which of the known names may have been meant, or all of them where none is near."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def from_json(kind: type[Config], values: Any, where: str) -> Config:
    """The configuration of `kind`, a dataclass, with those `values` (lists stand for tuples); `where` is its name.

    Fields without a value have their defaults. Raises ConfigError in one line.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {brief(values)} in place of its fields")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} knows no {brief(name)}; {nearest(name, known)}")
    hints = get_type_hints(kind)
    own = {name: _tuples(value) for name, value in values.items()}
    for name, value in own.items():
        if not _fits(value, hints[name]):
            raise ConfigError(f"{where}.{name} is {brief(value)}; it must be {_words(hints[name])}")
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in values]:
        raise ConfigError(f"{where} has no {missing[0]!r}; add it")
    return kind(**own)


def _tuples(value: Any) -> Any:
    """Json's lists as the tuples that frozen configurations hold."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as annotations have it; numbers must be of sensible size, counts not negative."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_moderate(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST
    return isinstance(value, hint)


def _is_moderate(value: float) -> bool:
    """Whether a number is finite and neither absurdly large nor absurdly small."""
    return value == 0 or SMALLEST <= abs(value) < LARGEST


def _words(hint: Any) -> str:
    """A type as people say it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a list of {'any length' if inner[-1] is ... else len(inner)}, each {_words(inner[0])}"
    names = {
        float: "a finite number of sensible size",
        int: "a whole number, 0 or more",
        bool: "true or false",
        str: "a text",
    }
    return names.get(hint, "null" if hint is NoneType else str(getattr(hint, "__name__", hint)))
