"""Plain data for display: what is shown, not how. Filled by results, estimates, pipelines."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MAX_COLUMNS = 12
MAX_CELL = 300
MAX_NAME = 80
MAX_TEXT = 4_000
"""Characters of a prompt, a reply or a message."""
MAX_TABLE = 60_000
"""Characters of all cells of a table: with many rows the cells are cut shorter."""
SLACK = 20
"""Values are not cut for so few characters: the note of the cut is as long."""

# What a terminal or a browser obeys: controls, lone surrogates, line and paragraph separators,
# marks of direction. Joiners and spaces of other scripts are text and stay.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_DIGEST = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")


@dataclass(frozen=True)
class TableView:
    """A small table of values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    right: frozenset[str] = frozenset()
    """Columns set to the right (numbers)."""
    note: str = ""

    @property
    def cell_width(self) -> int:
        """Characters that a cell may have, so that the table stays of bounded size."""
        n_cells = max(1, len(self.rows) * len(self.columns))
        return max(40, min(MAX_CELL, MAX_TABLE // n_cells))

    def without_empty(self) -> TableView:
        """The table without columns that hold nothing in any row."""
        keep = [
            i for i in range(len(self.columns)) if any(r[i] not in ("", None) for r in self.rows)
        ]
        if not self.rows or len(keep) == len(self.columns):
            return self
        return self.take(keep)

    def take(self, indices: Sequence[int]) -> TableView:
        """The table with these columns only."""
        return replace(
            self,
            columns=tuple(self.columns[i] for i in indices),
            rows=tuple(tuple(row[i] for i in indices) for row in self.rows),
        )


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
class TraceCallView:
    """One call about a record."""

    model: str
    status: str
    prompt: str
    """As sent."""
    answer: str
    """The raw reply; where there is none, the error."""
    is_error: bool = False


@dataclass(frozen=True)
class TraceStepView:
    """One step on a record's way."""

    name: str
    fate: str
    note: str
    records: tuple[Mapping[str, Any], ...]
    """What the step made or changed."""
    calls: tuple[TraceCallView, ...]


@dataclass(frozen=True)
class TraceView:
    """A record's way through a pipeline."""

    head: str
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
    failure: str = ""
    """Why there is no preview, where it failed."""
    hint: str = ""
    detail: str = "what it does"
    """What the descriptions of the steps tell."""


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


@dataclass(frozen=True, repr=False)
class Failed:
    """Stands in a preview for an answer that is known to be unusable."""

    kind: str

    def __repr__(self) -> str:
        return f"failed: {self.kind}"


def records_table(records: Sequence[Mapping[str, Any]], title: str) -> TableView:
    """Records as a table; bookkeeping columns only where nothing else is there."""
    names: dict[str, None] = {}
    for record in records:
        for key in record:
            names[key] = None
    shown = [n for n in names if not n.startswith("_")] or list(names)
    note = ""
    if len(shown) > MAX_COLUMNS:
        n_more = len(shown) - MAX_COLUMNS
        named = some_names(shown[MAX_COLUMNS:])
        note = f"{n_more:,} more column{'s' * (n_more != 1)}: {named}"
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


def some_names(names: Sequence[str], width: int = 200) -> str:
    """The first of the names, whole, in about `width` characters."""
    out = ""
    for i, name in enumerate(names):
        word = cell(name, MAX_NAME)
        if i and len(out) + len(word) > width:
            return f"{out}, …"
        out += f", {word}" if i else word
    return out


def cell(value: Any, width: int | None = None) -> str:
    """A value as one line of at most `width` characters, with what was cut counted.

    None: about `MAX_CELL`, and nothing is cut for a few characters.
    """
    out = one_line(value)
    if width is None:
        width = MAX_CELL if len(out) > MAX_CELL + SLACK else len(out)
    if len(out) <= width:
        return out
    rest = f"… +{len(out) - width:,}"
    n = max(1, width - len(rest))
    return f"{out[:n]}… +{len(out) - n:,}"


def one_line(value: Any) -> str:
    """Any value as one line, of any length."""
    if isinstance(value, str):
        out = str(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        out = number(value)
    else:
        try:
            out = repr(value)
        except Exception as exc:  # a display never raises, whatever stands in a record
            out = f"<{type(value).__name__} that cannot be written: {type(exc).__name__}>"
    return printable(" ".join(out.split()))


def number(value: int) -> str:
    """A whole number with separators; of very long ones the number of digits."""
    if value.bit_length() > 1_000:
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    return f"{value:,}"


def clip(text: str, width: int = MAX_TEXT) -> str:
    """Text of several lines cut at `width` characters, with what was cut counted."""
    if len(text) <= width + SLACK:
        return text
    return f"{text[:width]}… +{len(text) - width:,}"


def error_text(error: BaseException) -> str:
    """Type, message and notes of an exception, also of one that cannot be written."""
    try:
        said = str(error)
    except Exception as exc:  # users' exceptions are code of theirs
        said = f"its message cannot be written ({type(exc).__name__})"
    parts = [f"{type(error).__name__}: {said}" if said else type(error).__name__]
    parts.extend(str(note) for note in getattr(error, "__notes__", ()))
    return clip(" · ".join(clip(p, 600) for p in parts))


def described(thing: Any) -> str:
    """What `describe()` says, or why it cannot: settings that are wrong are shown, not raised."""
    try:
        return str(thing.describe())
    except Exception as exc:
        return f"cannot be described: {error_text(exc)}"


def printable(text: str) -> str:
    """Text with control and direction-changing characters shown, not obeyed."""
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    point = ord(found.group())
    return f"\\u{point:04x}" if point > 31 else f"\\x{point:02x}"


def short_digests(text: str) -> str:
    """Text in which a SHA-256 is named by its first 12 digits."""
    return _DIGEST.sub(r"\1…", text)


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
