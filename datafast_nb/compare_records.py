"""The records of a comparison side by side: which are shown, and how much of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.views import (
    PENDING,
    Block,
    Cell,
    Column,
    Inline,
    Line,
    Mark,
    Paragraph,
    Row,
    Span,
    Table,
    code,
    muted,
)
from datafast_nb.display.worddiff import MISSING, fields, is_number, words

if TYPE_CHECKING:
    from datafast_nb.compare import ComparedRow, Comparison
    from datafast_nb.records import Record

MAX_RECORDS = 20
MAX_IDENTICAL = 3
MAX_NUMBER_COLUMNS = 3
MAX_FIELDS = 8
"""Fields of a record; of a column that holds an object too."""
MAX_TEXT = 600
CONTEXT = 90
"""Characters of unchanged text that stand around a change."""
MAX_CHARS = 30_000
"""Of all records together; further records are counted."""


class RecordsSideBySide:
    """The table of records side by side."""

    def __init__(self, made: Comparison) -> None:
        self._made = made
        self._columns = made.columns
        both = [(r.a, r.b) for r in made.rows if r.a is not None and r.b is not None]
        self._numbers = [c for c in self._columns if _holds_numbers(c, both)][:MAX_NUMBER_COLUMNS]
        self._texts = [c for c in self._columns if c not in self._numbers]
        self._n_chars = 0
        self._has_marks = False

    def blocks(self) -> Iterator[Block]:
        """The table, and what it leaves out."""
        made = self._made
        if not made.rows:
            return
        chosen = self._chosen()
        rows: list[Row] = []
        shown = []
        for row in chosen:
            if self._n_chars > MAX_CHARS:
                break
            shown.append(row)
            rows.extend(self._lines(row))
        names = [formats.cell(n, formats.MAX_NAME) for n in made.names]
        columns = (
            Column("", "index"), Column("field", "word"), Column(names[0], "text"),
            Column(names[1], "text"), *(Column(formats.cell(c, formats.MAX_NAME), "number") for c in self._numbers),
        )  # fmt: skip
        if rows:
            yield Table(columns, tuple(rows))
        rest = self._rest(shown)
        if rest:
            yield Paragraph((f"Not shown: {rest}; ", code(".df"), " has them all."), is_note=True)
        if self._has_marks:
            removed = Span("words", "deleted")
            added = Span("words", "inserted")
            said: Line = (removed, f" only in {names[0]}, ", added, f" only in {names[1]}.")
            yield Paragraph(said, is_note=True)

    def _chosen(self) -> list[ComparedRow]:
        """Records to show, in order: those that differ first, few of the others."""
        made = self._made
        chosen = [*made.changed, *made.pending][:MAX_RECORDS]
        room = min(MAX_IDENTICAL, MAX_RECORDS - len(chosen))
        chosen += made.identical[:room]
        place = {id(row): n for n, row in enumerate(made.rows)}
        return sorted(chosen, key=lambda row: place[id(row)])

    def _rest(self, shown: Sequence[ComparedRow]) -> str:
        seen = set(map(id, shown))
        parts = []
        for rows, one, several in (
            (self._made.changed, "that differs", "that differ"),
            (self._made.pending, "pending", "pending"),
            (self._made.identical, "identical", "identical"),
        ):
            n = sum(id(r) not in seen for r in rows)
            if n:
                parts.append(f"{n:,} {one if n == 1 else several}")
        return ", ".join(parts)

    def _lines(self, row: ComparedRow) -> Iterator[Row]:
        """The lines of one record: a line for each field, its index in the first."""
        index = Cell((muted(f"{row.index:,}"),))
        if row.is_pending:
            lines = self._pending_lines(row)
        elif row.changed and row.a is not None and row.b is not None:
            lines = self._changed_lines(row, row.a, row.b)
        else:
            lines = [self._identical_line(row)]
        if not lines:  # nothing but numbers differs
            column, text = glance(row.a or row.b, self._texts)
            lines = [(_field(column), Cell((text,)), _SAME)]
        for n, line in enumerate(lines):
            numbers = [self._number(row, c) if n == 0 else Cell() for c in self._numbers]
            yield (index if n == 0 else Cell(), *line, *numbers)

    def _identical_line(self, row: ComparedRow) -> Row:
        column, text = glance(row.a, self._texts)
        self._n_chars += len(text)
        return _field(column), Cell((text,)), Cell((muted("identical"),))

    def _changed_lines(self, row: ComparedRow, a: Record, b: Record) -> list[Row]:
        lines: list[Row] = []
        hidden = 0
        for column in self._texts:
            if column not in row.changed:
                if column in a or column in b:
                    text = _cut(formats.one_line(a.get(column)), 2 * CONTEXT)
                    self._n_chars += len(text)
                    lines.append((_field(column), Cell((text,)), _SAME))
                continue
            found = fields(column, a.get(column, MISSING), b.get(column, MISSING))
            for path, x, y in found[:MAX_FIELDS]:
                lines.append((_field(path), *self._values(x, y)))
            hidden += max(0, len(found) - MAX_FIELDS)
        if len(lines) > MAX_FIELDS:  # what differs comes first
            lines = [line for line in lines if line[2] != _SAME]
            hidden += max(0, len(lines) - MAX_FIELDS)
            lines = lines[:MAX_FIELDS]
        if hidden:
            said = f"{formats.plural(hidden, 'more field')} not shown"
            lines.append((Cell(), Cell((muted(said),), span=2)))
        return lines

    def _pending_lines(self, row: ComparedRow) -> list[Row]:
        lines: list[Row] = []
        if row.a is None or row.b is None:
            column, text = glance(row.a or row.b, self._texts)
            there, here = pending_cell(), Cell((text,))
            return [(_field(column), *((here, there) if row.b is None else (there, here)))]
        names = [c for c in {**row.a, **row.b} if PENDING in _pair(row, c)]
        both = [c for c in names if row.a.get(c) is PENDING and row.b.get(c) is PENDING]
        if len(both) == len(names):
            column, text = glance(row.a, ())
            in_both = Cell((Mark("pending"), " pending in both"), is_pending=True)
            return [(_field(column), Cell((text,)), in_both)]
        for column in [c for c in names if c not in both and c not in self._numbers][:MAX_FIELDS]:
            lines.append((_field(column), *self._values(*_pair(row, column))))
        return lines

    def _values(self, x: Any, y: Any) -> tuple[Cell, Cell]:
        if isinstance(x, str) and isinstance(y, str):
            lines = words(x, y)
            if not re.search(r"\s", f"{x}{y}"):  # one word for another: nobody needs to be told
                lines = lines[0], tuple(p for p in lines[1] if p != muted(" rewritten"))
            marked = any(isinstance(p, Span) and p.style in _MARKED for line in lines for p in line)
            self._has_marks = self._has_marks or marked
            made = tuple(_shown(line) for line in lines)
            self._n_chars += sum(length(p) for line in made for p in line)
            return Cell(made[0]), Cell(made[1])
        cells = [self._value(v) for v in (x, y)]
        return cells[0], cells[1]

    def _value(self, value: Any) -> Cell:
        if value is PENDING:
            return pending_cell()
        if value is MISSING:
            return Cell((muted("no such field"),))
        text = _cut(formats.one_line(value), MAX_TEXT)
        self._n_chars += len(text)
        return Cell((text,))

    def _number(self, row: ComparedRow, column: str) -> Cell:
        x, y = _pair(row, column)
        if x is PENDING or y is PENDING:
            left, right = (Mark("pending") if v is PENDING else number_text(v) for v in (x, y))
            return Cell((left,) if x is y else (left, " → ", right))
        if is_number(x) and is_number(y) and x != y:
            return Cell((f"{number_text(x)} → {number_text(y)}",))
        return Cell((number_text(x if is_number(x) else y),))


_MARKED = ("deleted", "inserted")
_SAME = Cell((muted("same"),))


def _pair(row: ComparedRow, column: str) -> tuple[Any, Any]:
    a, b = (MISSING if r is None else r.get(column, MISSING) for r in (row.a, row.b))
    return a, b


def _holds_numbers(column: str, records: Sequence[tuple[Record, Record]]) -> bool:
    values = [r[column] for pair in records for r in pair if column in r]
    known = [v for v in values if v is not PENDING]
    return bool(known) and all(map(is_number, known))


def number_text(value: Any) -> str:
    """A number as a cell has it; "" for anything else."""
    if not is_number(value):
        return ""
    return formats.digits(value) if isinstance(value, int) else f"{value:.4g}"


def _field(name: str) -> Cell:
    return Cell((formats.cell(name, 40),))


def pending_cell() -> Cell:
    """Where an answer would be."""
    return Cell((Mark("pending"), " pending"), is_pending=True)


def glance(record: Record | None, columns: Sequence[str]) -> tuple[str, str]:
    """A column, and its value, by which people know a record."""
    record = record or {}
    texts = [c for c, v in record.items() if isinstance(v, str) and v and not c.startswith("_")]
    wordy = [c for c in texts if " " in record[c]]
    best = [c for c in columns if c in texts] or wordy or texts or list(record)
    if not best:
        return "", "a record without columns"
    return best[0], _cut(formats.one_line(record[best[0]]), CONTEXT)


def _cut(text: str, width: int) -> str:
    return formats.cell(text, width) if len(text) > width + formats.SLACK else text


def _shown(line: Line) -> Line:
    """A line of differences on one line of a cell; of long texts what stands around changes."""
    styles = [part.style if isinstance(part, Span) else "" for part in line]
    has_marks = any(s in _MARKED for s in styles)
    out: list[Inline] = []
    left = MAX_TEXT
    for n, (part, style) in enumerate(zip(line, styles, strict=True)):
        text = part.text if isinstance(part, Span) else str(part)
        if style == "muted":
            out.append(part)
            continue
        if left <= 0:
            out.append(muted(f" … +{sum(map(length, line[n:])):,}"))
            break
        if style in _MARKED and not text.strip():
            shown = text.replace("\r\n", "↵").replace("\n", "↵").replace("\t", "⇥")
            shown = shown.replace(" ", "␣")
        else:
            shown = re.sub(r"\s+", " ", text)
        shown = formats.printable(shown)
        if style in _MARKED or not has_marks:
            shown = _cut(shown, left)
        else:
            shown = _around(shown, is_first=n == 0, is_last=n == len(line) - 1)
        left -= len(shown)
        out.append(Span(shown, style) if style else shown)
    return tuple(out)


def _around(text: str, *, is_first: bool, is_last: bool) -> str:
    """Unchanged text as far as it stands near a change, cut between words."""
    start = 0 if is_first else CONTEXT
    end = 0 if is_last else CONTEXT
    if len(text) - start - end <= CONTEXT:
        return text
    if start:
        start += max(0, text[start : start + 15].find(" "))
    tail = text[len(text) - end :] if end else ""
    tail = tail[max(0, tail[:15].find(" ")) :]
    more = f"… +{len(text) - start - len(tail):,}"
    return f"{text[:start]}{more}{' …' if tail else ''}{tail}"


def length(part: Inline) -> int:
    """Characters of a part of a line."""
    return len(part.text) if isinstance(part, Span) else len(part) if isinstance(part, str) else 1
