"""The records of a Result as a table: columns summed up, the status of each, failures in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

from datafast_nb.call_view import status_line, status_of
from datafast_nb.display import formats
from datafast_nb.display.columns import column_of
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    Inline,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
    Value,
    code,
    muted,
    strong,
)
from datafast_nb.records import Record, column_names
from datafast_nb.runs import FATE_WORDS, StepRun, calls_behind
from datafast_nb.steps.llm import LLMStep

if TYPE_CHECKING:
    from datafast_nb.results import Result

MAX_COLUMNS = 12
MAX_FAILED_ROWS = 2
MAX_SAMPLE = 50_000
MAX_SAMPLED_VALUES = 60_000
"""Values of all columns together that their summaries look at."""


def records_blocks(
    result: Result, steps: Sequence[StepRun], n_rows: int, *, has_hints: bool = True
) -> list[Block]:
    """The first `n_rows` records as a table, columns summed up over all; failed ones in place.

    `steps`: those whose failed records may stand in the table; `has_hints`: with what to type.
    """
    if not result:
        return []
    names, left_out, written = _shown_columns(result)
    if not names:
        return [Paragraph(("records without columns",), is_note=True)]
    records = list(islice(result, n_rows))
    sample = _sample(result, len(names))
    columns = [_column(name, sample, len(result), name in written) for name in names]
    info = result._info
    has_calls = info is not None and not result.is_edited and _has_status(result)
    head = [Column("", "index"), *([Column("status", "status")] if has_calls else [])]
    rows: list[Row] = []
    places = _places(result, steps, len(records)) if has_calls else range(len(records))
    for place in places:
        if isinstance(place, _Failed):
            rows.append(_failed_row(place, names, has_hints))
            continue
        cells: list[AnyCell] = [Cell((f"{place:,}",))]
        if has_calls:
            cells.append(Cell(_status(result, result._rows[place])))
        record = records[place]
        cells += [Value(record[name]) if name in record else Cell() for name in names]
        rows.append(tuple(cells))
    blocks: list[Block] = [Table((*head, *columns), tuple(rows))]
    notes: list[Inline] = []
    if len(result) > len(records):
        notes.append(f"{len(records):,} of {len(result):,} shown")
        notes += [", all in ", code(".df")] if has_hints else []
    if left_out:
        more = formats.plural(len(left_out), "more column")
        notes.append(f"{' · ' if notes else ''}{more}: {formats.some_names(left_out)}")
    if notes:
        blocks.append(Paragraph(tuple(notes), is_note=True))
    return blocks


def _has_status(result: Result) -> bool:
    return result._dropped_at is not None or any(run.calls for run in result.info.steps)


def _status(result: Result, row: int) -> Line:
    """What a record cost; of a record that was dropped, how it was lost."""
    run = result._dropped_at
    if run is None:
        return status_line(status_of(calls_behind(result.info.steps, row)))
    fate = run.loss_of(row)
    if fate == "failed":
        return status_line("failed")
    if run.call_of is not None:
        return status_line("not_asked")
    return (Mark("filtered"), f" {FATE_WORDS[fate]}")


def _sample(result: Result, n_columns: int) -> list[Record]:
    """Records spread evenly, so few that all summaries together take a tenth of a second."""
    most = min(MAX_SAMPLE, MAX_SAMPLED_VALUES // max(1, n_columns))
    stride = math.ceil(len(result) / most)
    return list(islice(result, 0, None, max(1, stride)))


def _shown_columns(result: Result) -> tuple[list[str], list[str], set[str]]:
    """Columns to show, columns left out, and those that models wrote."""
    names = column_names([*islice(result, 100), *_sample(result, 10)])
    names = [n for n in names if not n.startswith("_")] or names
    written: set[str] = set()
    if result._info is not None:
        for run in result._info.steps:
            if isinstance(run.step, LLMStep):
                written.update(run.step.spec.columns)
    # What models wrote is what one looks for: inputs make room for it.
    room = max(0, MAX_COLUMNS - sum(n in written for n in names))
    shown: list[str] = []
    for name in names:
        if len(shown) < MAX_COLUMNS and (name in written or room > 0):
            shown.append(name)
            room -= name not in written
    return shown, [n for n in names if n not in shown], written


def _column(name: str, sample: Sequence[Record], n: int, is_written: bool) -> Column:
    values = [record.get(name) for record in sample]
    role: Literal["input", "written"] = "written" if is_written else "input"
    return column_of(name, values, role=role, sampled_from=n if len(sample) < n else None)


@dataclass(frozen=True)
class _Failed:
    """A record that a step lost, where it would have stood."""

    step: str
    record: Record
    error: str


def _places(result: Result, steps: Sequence[StepRun], n: int) -> list[int | _Failed]:
    """The first `n` records by their indices, and among them records that failed.

    Walked back step by step: each place with its index among the outputs of the step at hand.
    """
    placed: list[tuple[int | None, int | _Failed]] = [(i, i) for i in range(n)]
    is_all = n == len(result)
    for run in reversed(steps[1:]):
        placed = [(None if i is None else run.parents.of(i), what) for i, what in placed]
        known = [i for i, _ in placed if i is not None]
        last = max(known, default=-1)
        found = 0
        seen: set[int] = set()
        for error in run.errors if run.parents.known else ():
            if found == MAX_FAILED_ROWS or not (is_all or error.record < last):
                break
            if error.record in seen or run.child_of(error.record) is not None:
                continue
            seen.add(error.record)
            found += 1
            lost = _Failed(run.name, error.input, error.error)
            at = next(
                (k for k, (i, _) in enumerate(placed) if i is not None and i > error.record),
                len(placed),
            )
            placed.insert(at, (error.record, lost))
    out: list[int | _Failed] = []
    n_failed = 0
    for _, what in placed:
        if isinstance(what, _Failed):
            n_failed += 1
            if n_failed > MAX_FAILED_ROWS:
                continue
        out.append(what)
    return out


def _failed_row(lost: _Failed, names: Sequence[str], has_hints: bool) -> Row:
    """A record that failed: its columns as far as it had them, then the cause and where it is."""
    cells: list[AnyCell] = [Cell(("–",)), Cell(status_line("failed"))]
    n = 0
    # One column at least is left for the cause.
    while n < len(names) - 1 and names[n] in lost.record:
        cells.append(Value(lost.record[names[n]]))
        n += 1
    said: Line = (
        strong(f"failed at {formats.cell(lost.step, formats.MAX_NAME)}:"),
        f" {formats.cell(lost.error, 200)}",
        *((" ", muted("· kept in "), code(".errors")) if has_hints else ()),
    )
    return (*cells, Cell(said, span=len(names) - n))
