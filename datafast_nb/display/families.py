"""What the values of a column are: numbers, texts, dates, lists and others.

Judged by their types, and read by the methods of the built-in types: a value that answers for
itself, with an `__eq__`, `__hash__`, `__len__` or `__float__` of its own, is not asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, TypeAlias, TypeVar

Family: TypeAlias = Literal[
    "none", "number", "bool", "text", "date", "list", "dict", "other", "mixed"
]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Looked:
    """The values of a column, sorted by what they are."""

    family: Family
    """"none": there are no values; "mixed": of several families."""
    values: list[Any]
    """Without None and NaN, and plain: numbers as int or float, texts as str, dates as days
    (with the clock as a fraction), lists and dicts as their lengths, others as type names."""
    n: int
    """Values looked at, those without a value included."""
    missing: dict[str, int] = field(default_factory=dict)
    """"None" and "NaN", how often."""
    families: list[Family] = field(default_factory=list)
    """Of each of the values."""


def spread(values: Sequence[T], n: int) -> list[T]:
    """At most n values, one from each of n equal stretches, always the same ones.

    Not the first of each stretch: every second record may be of one kind.
    """
    total = len(values)
    if total <= n:
        return list(values)
    step = total / n
    width = int(step)
    return [values[int(i * step) + (i * 2_654_435_761 >> 9) % width] for i in range(n)]


def look(values: list[Any]) -> Looked:
    """What the values are."""
    family_of = {type_: _family(type_) for type_ in Counter(map(type, values))}
    found = set(family_of.values()) - {"none"}
    kept = (
        [v for v in values if family_of[type(v)] != "none"]
        if len(found) < len(family_of)
        else values
    )
    missing = {"None": len(values) - len(kept)}
    families = [family_of[type(v)] for v in kept] if len(found) > 1 else []
    if len(found) > 1:
        return Looked("mixed", [], len(values), missing, families)
    family = found.pop() if found else "none"
    kept = _plain(family, kept)
    if family == "number":
        numbers = [v for v in kept if v == v]  # NaN does not equal itself
        missing["NaN"] = len(kept) - len(numbers)
        kept = numbers
    if not kept:
        family = "none"
    return Looked(family, kept, len(values), missing, [family] * len(kept))


def _family(type_: type) -> Family:
    name = type_.__name__
    if name in ("NaTType", "NAType"):  # of pandas; the first says that it is a date
        return "none"
    for base, family in _FAMILIES:
        if issubclass(type_, base):
            return family
    if type_.__module__ == "numpy" and name.startswith(("int", "uint", "float", "bool")):
        return "bool" if name.startswith("bool") else "number"
    return "other"


_FAMILIES: tuple[tuple[type, Family], ...] = (
    (type(None), "none"),
    (bool, "bool"),
    (int, "number"),
    (float, "number"),
    (Decimal, "number"),
    (Fraction, "number"),
    (str, "text"),
    (date, "date"),
    (list, "list"),
    (tuple, "list"),
    (set, "list"),
    (frozenset, "list"),
    (dict, "dict"),
)
_EXACT: dict[type, Callable[[Any], Any] | None] = {
    bool: None,
    int: None,
    float: None,
    str: None,
    date: date.toordinal,
    list: len,
    tuple: len,
    dict: len,
}
"""How values of exactly these types are made plain; None: they are."""


def _plain(family: Family, values: list[Any]) -> list[Any]:
    if not values:
        return values
    exact = set(map(type, values))
    if len(exact) == 1 and (only := exact.pop()) in _EXACT:
        convert = _EXACT[only]
        return values if convert is None else list(map(convert, values))
    make = _PLAIN[family]
    return [v if type(v) in _PLAIN_TYPES else make(v) for v in values]


def _plain_number(value: Any) -> int | float:
    type_ = type(value)
    if issubclass(type_, int):
        return int.__int__(value)
    if issubclass(type_, float):
        return float.__float__(value)
    try:
        return Decimal.__float__(value) if issubclass(type_, Decimal) else float(value)
    except OverflowError:  # a long fraction
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a signalling NaN
        return math.nan


_HOUR, _MINUTE, _SECOND = (
    part.__get__ for part in (datetime.hour, datetime.minute, datetime.second)
)


def _plain_day(value: date) -> float:
    day = float(date.toordinal(value))
    if issubclass(type(value), datetime):
        # The clock as it is written: a column may mix zones with none.
        day += (_HOUR(value) * 3600 + _MINUTE(value) * 60 + _SECOND(value)) / 86_400
    return day


def _plain_length(value: Any) -> int:
    bases: tuple[Any, ...] = (list, tuple, set, frozenset, dict)
    return next(int(base.__len__(value)) for base in bases if issubclass(type(value), base))


_PLAIN: dict[Family, Callable[[Any], Any]] = {
    "number": _plain_number,
    "bool": bool,
    "text": str.__str__,
    "date": _plain_day,
    "list": _plain_length,
    "dict": _plain_length,
    "other": lambda value: type(value).__name__,
}
_PLAIN_TYPES = {type_ for type_, convert in _EXACT.items() if convert is None}
