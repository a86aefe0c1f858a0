"""What a view of a table shall have: conditions and orders, as data and as pandas expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sorting:
    """One column that a view is sorted by."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class Condition:
    """One column that rows are chosen by; `op` is a key of `OPS`."""

    column: str
    op: str
    value: Any = None


@dataclass(frozen=True)
class Wanted:
    """What a view shall have."""

    search: str = ""
    status: str = "all"
    where: tuple[Condition, ...] = ()
    sort: tuple[Sorting, ...] = ()

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Wanted:
        """From a request of the browser. Raises ValueError."""
        status = str(message.get("status") or "all")
        if status not in ("all", "new", "memo", "failed"):
            raise ValueError(f"no status {status!r}; there are: all, new, memo, failed")
        where = []
        for part in message.get("where") or ():
            condition = Condition(str(part["column"]), str(part["op"]), part.get("value"))
            if condition.op not in OPS:
                raise ValueError(f"no comparison {condition.op!r}; there are: {', '.join(OPS)}")
            where.append(condition)
        sort = [
            Sorting(str(part["column"]), bool(part.get("descending")))
            for part in message.get("sort") or ()
        ]
        return cls(str(message.get("search") or ""), status, tuple(where), tuple(sort))


def _text_mask(series: pd.Series, text: str) -> pd.Series:
    return series.astype(str).str.contains(text, case=False, regex=False, na=False)


CONTAINS = ".astype(str).str.contains({value}, case=False, regex=False, na=False)"
OPS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "=": ("{column} == {value}", lambda s, v: s == v),
    "!=": ("{column} != {value}", lambda s, v: s != v),
    "<": ("{column} < {value}", lambda s, v: s < v),
    "<=": ("{column} <= {value}", lambda s, v: s <= v),
    ">": ("{column} > {value}", lambda s, v: s > v),
    ">=": ("{column} >= {value}", lambda s, v: s >= v),
    "in": ("{column}.isin({value})", lambda s, v: s.isin(v)),
    "contains": ("{column}" + CONTAINS, _text_mask),
    "is null": ("{column}.isna()", lambda s, v: s.isna()),
    "not null": ("{column}.notna()", lambda s, v: s.notna()),
}
"""Comparison → its text, and what it does with a column."""


def fitting(series: pd.Series, condition: Condition) -> Any:
    """What was typed, as the column has it. Raises ValueError."""
    import pandas as pd

    value, column = condition.value, condition.column
    if condition.op in ("is null", "not null"):
        return None
    if condition.op == "contains":
        return str(value)
    if condition.op == "in":
        if not isinstance(value, list):
            raise ValueError(f"{column!r} in …: give a list of values")
        return value
    if isinstance(value, str) and pd.api.types.is_bool_dtype(series):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{column!r} holds True and False, not {value!r}")
        return value.lower() == "true"
    if isinstance(value, str) and pd.api.types.is_numeric_dtype(series):
        try:
            return int(value)
        except ValueError:
            pass
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{column!r} holds numbers, and {value!r} is none") from None
    return value


def compared(series: pd.Series, value: Any, work: Callable[[Any, Any], Any], c: Condition) -> Any:
    """What `work` gives, or ValueError in words."""
    try:
        return work(series, value)
    except Exception as exc:  # pandas and Arrow raise many: of overflow, of types, of text
        raise ValueError(f"{c.column!r} {c.op} {c.value!r}: pandas cannot compare them") from exc


AS_TEXTS_CODE = "lambda s: s.map(str, na_action='ignore') if s.dtype == object else s"


def as_texts(series: pd.Series) -> pd.Series:
    """Values of several kinds as their texts, so that they can be sorted."""
    return series.map(str, na_action="ignore") if series.dtype == object else series
