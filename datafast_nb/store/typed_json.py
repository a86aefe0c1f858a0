"""Typed JSON: a record as one line of JSON that gives back the very same values.

JSON has no dates, no Decimal, no bytes, no NaN, no integers of any size. Such a value stands
as an object of one key that begins with `$`; an object of the user's that looks like one is
wrapped. What cannot come back exactly is refused.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from datafast_nb.errors import RecordError
from datafast_nb.records import MAX_DEPTH, Record, refuse_long_integers

_PLAIN = frozenset({str, bool, type(None)})
_AS_ORJSON = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_INT64 = 2**63


def encode(record: Record, place: Callable[[int], str] | None = None, index: int = 0) -> bytes:
    """One line without its end, in UTF-8; keys in the record's order.

    Parameters
    ----------
    place
        Names the record by its index, for errors.

    Raises
    ------
    RecordError
        If a value could not be read back as it is, such as a date with a time zone of a
        library's own class; names record and column.
    """
    if _PLAIN.issuperset(map(type, record.values())):
        wrapped = record
    else:
        wrapped = {}
        for column, value in record.items():
            try:
                wrapped[column] = _wrap(value, 0)
            except (_NotKeptError, RecordError) as exc:
                where = "the record" if place is None else place(index)
                raise _refusal(f"{where}, column {column!r}", exc) from None
    return dump(wrapped)


def wrap(value: Any, place: Callable[[], str]) -> Any:
    """One value as plain JSON values. Raises RecordError as `encode` does."""
    try:
        return _wrap(value, 0)
    except (_NotKeptError, RecordError) as exc:
        raise _refusal(place(), exc) from None


def _refusal(place: str, exc: Exception) -> RecordError:
    if isinstance(exc, _NotKeptError):
        said = f"{exc} cannot be read back from a checkpoint as it is; {exc.remedy}"
        return RecordError(f"{place}: {said}")
    return RecordError(f"{place}: {exc}")


def unwrap(value: Any) -> Any:
    """The value that `wrap` was given. Raises ValueError for what it does not make."""
    try:
        return _unwrap(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump(value: Any) -> bytes:
    """JSON of plain values on one line, also where a text holds half of a surrogate pair."""
    try:
        return orjson.dumps(value, option=_AS_ORJSON)
    except TypeError:
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def decode(line: bytes) -> Record:
    """The record that `encode` made the line of. Raises ValueError for anything else."""
    value = load(line)
    if type(value) is not dict:
        raise ValueError("the line holds no object")
    if b'"$' not in line:
        return value
    try:
        return {k: _unwrap(v) for k, v in value.items()}
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load(line: bytes) -> Any:
    """Plain values of a line made by `dump`. Raises ValueError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line.decode())  # halves of surrogate pairs
        except RecursionError:
            raise ValueError("nested too deeply") from None


class _NotKeptError(Exception):
    """A value that JSON cannot bring back."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _wrap(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if -_INT64 <= value < _INT64:
            return value
        with refuse_long_integers():
            return {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if depth > MAX_DEPTH:
        raise _NotKeptError("a value nested so deeply", "keep it as text")
    if kind is list:
        return [_wrap(v, depth + 1) for v in value]
    if kind is dict:
        wrapped = {k: _wrap(v, depth + 1) for k, v in value.items()}
        is_like_a_tag = len(wrapped) == 1 and next(iter(wrapped))[:1] == "$"
        return {"$dict": wrapped} if is_like_a_tag else wrapped
    if kind is Decimal:
        return {"$decimal": str(value)}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is dt.date:
        return {"$date": value.isoformat()}
    if kind is dt.datetime or kind is dt.time:
        naive = value.replace(tzinfo=None, fold=0).isoformat()
        tag = "$datetime" if kind is dt.datetime else "$time"
        if value.tzinfo is None and not value.fold:
            return {tag: naive}
        return {tag: [naive, value.fold, _zone(value.tzinfo)]}
    raise _NotKeptError(
        f"a value of the class {kind.__module__}.{kind.__qualname__}",
        "make it a text, number, list, dict, or a date of Python's own in a Map before",
    )


def _zone(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        micros = round(offset / dt.timedelta(microseconds=1))
        return [micros] if name == dt.timezone(offset).tzname(None) else [micros, name]
    raise _NotKeptError(
        f"a date with a time zone of the class {type(zone).__module__}.{type(zone).__qualname__}",
        "use datetime.timezone or zoneinfo, as in value.astimezone(datetime.timezone.utc)",
    )


def _unzone(zone: Any) -> dt.tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    offset = dt.timedelta(microseconds=zone[0])
    if len(zone) > 1:
        return dt.timezone(offset, zone[1])
    return dt.timezone(offset) if offset else dt.UTC


def _unwrap(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_unwrap(v) for v in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        (key, inner), *_ = value.items()
        if key[:1] == "$":
            return _untag(key, inner)
    return {k: _unwrap(v) for k, v in value.items()}


def _untag(key: str, inner: Any) -> Any:
    if key == "$dict" and type(inner) is dict:
        return {k: _unwrap(v) for k, v in inner.items()}
    if key not in _READERS:
        raise ValueError(f"unknown kind of value {key!r}")
    try:
        return _READERS[key](inner)
    except (TypeError, ArithmeticError, AttributeError, LookupError, OSError) as exc:
        raise ValueError(f"a value of kind {key!r} is unreadable ({exc})") from exc


def _moment(kind: Any) -> Callable[[Any], Any]:
    def read(inner: Any) -> Any:
        if isinstance(inner, str):
            return kind.fromisoformat(inner)
        text, fold, zone = inner
        return kind.fromisoformat(text).replace(fold=fold, tzinfo=_unzone(zone))

    return read


_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": int,
    "$float": float,
    "$decimal": Decimal,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$date": dt.date.fromisoformat,
    "$datetime": _moment(dt.datetime),
    "$time": _moment(dt.time),
}
