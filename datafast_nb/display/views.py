"""Plain data for display: what is shown, not how. Filled by results, estimates, pipelines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_COLUMNS = 12
MAX_CELL = 300


@dataclass(frozen=True)
class TableView:
    """A small table of values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    right: frozenset[str] = frozenset()
    """Columns set to the right (numbers)."""
    note: str = ""


@dataclass(frozen=True)
class ResultView:
    """A run's records and figures."""

    status: str
    n: int
    facts: tuple[str, ...]
    table: TableView
    n_more: int
    funnel: TableView
    errors: TableView | None
    ledger: TableView | None
    written: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TraceStepView:
    """One step on a record's way."""

    name: str
    fate: str
    note: str
    records: tuple[Mapping[str, Any], ...]
    calls: tuple[tuple[str, str, str, str], ...]
    """(model, status, prompt as sent, raw reply or error)."""


@dataclass(frozen=True)
class TraceView:
    """A record's way through a pipeline."""

    head: str
    outputs: tuple[Mapping[str, Any], ...]
    steps: tuple[TraceStepView, ...]


@dataclass(frozen=True)
class PipelineView:
    """A pipeline before a run."""

    head: str
    steps: tuple[tuple[str, str], ...]
    """(name, description)."""
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    preview: TableView | None = None
    hint: str = ""


@dataclass(frozen=True)
class CardView:
    """Facts about one object: a model, a memo."""

    head: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


class Pending:
    """Stands in a preview for an answer that would have to be asked for."""

    def __repr__(self) -> str:
        return "pending"


PENDING = Pending()


def records_table(records: Sequence[Mapping[str, Any]], title: str) -> TableView:
    """Records as a table; bookkeeping columns only where nothing else is there."""
    names: dict[str, None] = {}
    for record in records:
        for key in record:
            names[key] = None
    shown = [n for n in names if not n.startswith("_")] or list(names)
    note = ""
    if len(shown) > MAX_COLUMNS:
        note = f"{len(shown) - MAX_COLUMNS} more columns: {', '.join(shown[MAX_COLUMNS:])[:200]}"
        shown = shown[:MAX_COLUMNS]
    numbers = frozenset(
        n
        for n in shown
        if records
        and all(
            isinstance(r.get(n), (int, float)) and not isinstance(r.get(n), bool) for r in records
        )
    )
    rows = tuple(tuple(r.get(n, "") for n in shown) for r in records)
    return TableView(title, tuple(shown), rows, numbers, note)


def cell(value: Any, width: int = MAX_CELL) -> str:
    """A value as one line of at most `width` characters, with what was cut counted."""
    if value is None:
        return "None"
    out = value if isinstance(value, str) else repr(value)
    out = printable(" ".join(out.split()))
    if len(out) <= width:
        return out
    rest = f"… +{len(out) - width}"
    return out[: max(1, width - len(rest))] + rest


def printable(text: str) -> str:
    """Text with control and direction-changing characters shown, not obeyed."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in "\n\t"
        else f"\\u{ord(c):04x}"
        if ord(c) > 31
        else f"\\x{ord(c):02x}"
        for c in text
    )


def usd(value: float | None) -> str:
    """Dollars with two significant digits; "unknown" for None and NaN."""
    if value is None or math.isnan(value):
        return "unknown"
    if value == 0:
        return "$0"
    if value >= 100:
        return f"${value:,.0f}"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"${value:.{min(digits, 12)}f}"


def count(value: float, *, about: bool = False) -> str:
    """A number of records or calls; "~" where it is a guess."""
    return f"{'~' if about else ''}{value:,.0f}"


def seconds(value: float) -> str:
    """A duration: "0.84 s", "9.2 s", "1 min 20 s", "2 h 5 min"."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
