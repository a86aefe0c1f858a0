"""Record values: what a record may hold, canonical JSON, row identity.

A record is a dict with string keys. Values are normalised once, where records enter
(sources, user functions); everything behind that point may rely on plain Python values.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from itertools import chain
from sys import getrefcount
from typing import Any

import orjson

from datafast_nb.errors import Notes, RecordError

Record = dict[str, Any]

# Values that are never changed in place and need no look inside.
FLAT_TYPES = frozenset(
    {str, int, float, bool, type(None), dt.datetime, dt.date, dt.time, Decimal, bytes}
)
_STR_ONLY = frozenset({str})
_DICT_ONLY = frozenset({dict})
_ALONE = set(map(getrefcount, [{}, {}]))
"""What `getrefcount` says of a dict that only a list holds."""
MAX_DEPTH = 100

Where = Callable[[int], str]
"""Names a record by its index in the chunk: "step 'load', record 12"."""


def normalise_records(
    records: Iterable[Any],
    *,
    where: Where,
    notes: Notes | None = None,
    from_frame: bool = False,
    copy: bool = True,
) -> tuple[list[Record], bool]:
    """Copies of `records` with plain Python values.

    Parameters
    ----------
    where
        Names a record by index, for errors.
    notes
        Collects conversions worth saying (tuple to list).
    from_frame
        NaN, NaT and NA become None, as in a pandas DataFrame they mean "missing".
    copy
        False: where all records are flat already, give them themselves.

    Returns
    -------
    tuple
        List of new dicts, and whether all are flat (no list or dict inside).

    Raises
    ------
    RecordError
        If a record is no dict, a key no string, or a value of a kind that cannot be kept.
    """
    records = records if isinstance(records, list) else list(records)
    is_flat = FLAT_TYPES.issuperset
    is_str = _STR_ONLY.issuperset
    # All at once, with no line of Python per record: this runs a million times.
    if (
        not from_frame
        and _DICT_ONLY.issuperset(map(type, records))
        and is_str(map(type, set().union(*records)))
        and is_flat(map(type, chain.from_iterable(map(dict.values, records))))
    ):
        # Where nobody else holds one of them, a copy would protect nothing.
        if copy and set(map(getrefcount, records)) != _ALONE:
            records = list(map(dict.copy, records))
        return records, True
    out: list[Record] = []
    append = out.append
    flat = True
    for i, record in enumerate(records):
        if (
            type(record) is dict
            and is_flat(map(type, record.values()))
            and is_str(map(type, record))
            and not from_frame
        ):
            append(record.copy())
            continue
        if not isinstance(record, Mapping):
            raise RecordError(
                f"{where(i)} is {_describe(record)}, not a dict of column names to values"
            )
        new: Record = {}
        for key, value in record.items():
            if not isinstance(key, str):
                raise RecordError(
                    f"{where(i)} has the key {key!r} ({type(key).__name__}); "
                    "column names are strings. Rename it, for example with "
                    "{str(k): v for k, v in record.items()}"
                )
            clean = value
            if type(value) not in FLAT_TYPES or from_frame:
                place = partial(_column_place, where, i, key)
                clean = _normalise(value, place, notes, from_frame, 0)
                if flat and type(clean) not in FLAT_TYPES:
                    flat = False
            new[_key_text(key)] = clean
        append(new)
    return out, flat


def _key_text(key: str) -> str:
    # `str(key)` of an enum member would be its name.
    return key if type(key) is str else str.__str__(key)


def _column_place(where: Where, index: int, column: str) -> str:
    return f"{where(index)}, column {column!r}"


def normalise_value(value: Any, place: str = "value", notes: Notes | None = None) -> Any:
    """One value made plain (see `normalise_records`); `place` names it in errors."""
    return _normalise(value, lambda: place, notes, False, 0)


def _normalise(
    value: Any, place: Callable[[], str], notes: Notes | None, from_frame: bool, depth: int
) -> Any:
    kind = type(value)
    if kind is float:
        return None if from_frame and math.isnan(value) else value
    if kind in FLAT_TYPES:
        return value
    if depth >= MAX_DEPTH:
        raise RecordError(f"{place()} is nested more than {MAX_DEPTH} levels deep")
    if kind is list:
        return [_normalise(v, place, notes, from_frame, depth + 1) for v in value]
    if isinstance(value, Mapping):
        clean: dict[str, Any] = {}
        for k, v in value.items():
            if not isinstance(k, str):
                raise RecordError(
                    f"{place()} holds a dict with the key {k!r} ({type(k).__name__}); "
                    "keys are strings, so that 1 and '1' cannot merge in a file"
                )
            clean[_key_text(k)] = _normalise(v, place, notes, from_frame, depth + 1)
        return clean
    if isinstance(value, (list, tuple, set, frozenset)):
        if notes is not None and not isinstance(value, list):
            notes.add(f"a {kind.__name__} became a list")
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [_normalise(v, place, notes, from_frame, depth + 1) for v in items]
    return _normalise_foreign(value, place, notes, from_frame, depth)


def _normalise_foreign(
    value: Any, place: Callable[[], str], notes: Notes | None, from_frame: bool, depth: int
) -> Any:
    """numpy, pandas and subclasses of plain types, told apart without importing either."""
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    if module == "pandas":
        if kind.__name__ in ("NAType", "NaTType"):
            return None
        if hasattr(value, "to_pydatetime"):
            return value.to_pydatetime(warn=False)
        if kind.__name__ in ("Series", "Index"):
            return _normalise(value.tolist(), place, notes, True, depth + 1)
    if module == "numpy":
        unit = value.dtype.kind if hasattr(value, "dtype") else ""
        if unit == "M":
            # Microseconds are what Python has; numpy would give integers for finer ones, and
            # does for years over 9999. NaT becomes None.
            stamps = value.astype("datetime64[us]")
            if int not in map(type, stamps.ravel().tolist()):
                return _normalise(stamps.tolist(), place, notes, from_frame, depth + 1)
        elif unit not in ("m", "V") and hasattr(value, "tolist"):
            return _normalise(value.tolist(), place, notes, from_frame, depth + 1)
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, (str, int, float, bytes)):  # enum members, str subclasses
        inner = getattr(value, "value", value)
        base: Any = next(t for t in (str, int, float, bytes) if isinstance(value, t))
        return base(inner if isinstance(inner, base) else value)
    if isinstance(value, (dt.datetime, dt.date, dt.time, Decimal)):
        return value
    if isinstance(value, bytearray):
        return bytes(value)
    if hasattr(value, "model_dump"):  # pydantic
        return _normalise(value.model_dump(), place, notes, from_frame, depth + 1)
    raise RecordError(
        f"{place()} holds {_describe(value)}, which cannot be kept in a record. "
        "Use text, numbers, booleans, None, dates, Decimal, bytes, lists or dicts of these"
    )


def _describe(value: Any) -> str:
    text = repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    return f"{text} ({type(value).__name__})"


def copy_record(record: Record) -> Record:
    """A copy that shares no list or dict with `record`."""
    return {k: _copy_value(v) for k, v in record.items()}


def _copy_value(value: Any) -> Any:
    if type(value) is list:
        return [_copy_value(v) for v in value]
    if type(value) is dict:
        return {k: _copy_value(v) for k, v in value.items()}
    return value


_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME


def canonical_json(value: Any) -> bytes:
    """The same bytes for equal values: sorted keys, UTF-8, no spaces.

    Dates, Decimal and bytes are tagged. RecordError where an integer is too long to write.
    """
    try:
        return orjson.dumps(value, default=_tag, option=_CANONICAL)
    except TypeError:
        # Integers over 64 bits, lone surrogates: rare, and the standard library takes them.
        with refuse_long_integers():
            return json.dumps(
                value, default=_tag, sort_keys=True, ensure_ascii=True, separators=(",", ":")
            ).encode()


@contextmanager
def refuse_long_integers() -> Iterator[None]:
    """RecordError instead of Python's ValueError on an integer of thousands of digits."""
    try:
        yield
    except RecordError:
        raise
    except ValueError as exc:
        raise RecordError(
            f"an integer has more than {sys.get_int_max_str_digits()} digits, the most that "
            "Python writes; keep it as text, for example hex(value)"
        ) from exc


def _tag(value: Any) -> Any:
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return {f"${type(value).__name__}": value.isoformat()}
    if isinstance(value, Decimal):
        return {"$decimal": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


def _canonical_record(record: Record, index: int) -> bytes:
    """Canonical JSON; an error names the record by its index in the chunk, and the column."""
    try:
        return canonical_json(record)
    except RecordError:
        for column, value in record.items():
            try:
                canonical_json(value)
            except RecordError as exc:
                raise RecordError(f"record {index}, column {column!r}: {exc}") from exc
        raise


ID_BYTES = 12


class RowIds:
    """Identities of source rows: hash of the content, plus a rank among equal rows.

    Feed the rows in source order; a row keeps its identity when others come or go.
    """

    def __init__(self, salt: bytes = b"") -> None:
        self._salt = salt
        self._ranks: dict[str, int] = {}

    def take(self, records: Sequence[Record]) -> list[str]:
        """Identities of the next rows: 24 hex digits, "-1", "-2", … for repeated content."""
        ranks = self._ranks
        out = []
        for i, record in enumerate(records):
            try:
                body = orjson.dumps(record, default=_tag, option=_CANONICAL)
            except TypeError:
                body = _canonical_record(record, i)
            row = blake2b(body, digest_size=ID_BYTES, key=self._salt).hexdigest()
            rank = ranks.get(row, 0)
            ranks[row] = rank + 1
            out.append(f"{row}-{rank}" if rank else row)
        return out


def column_names(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """All keys of the records, in order of first appearance."""
    records = records if isinstance(records, list) else list(records)
    # A plain set of all keys takes a third of an ordered one's time, and mostly adds nothing.
    seen = dict.fromkeys(chain.from_iterable(records[:1000]))
    if len(set(seen).union(*records)) > len(seen):
        seen = dict.fromkeys(chain.from_iterable(records))
    return list(seen)
