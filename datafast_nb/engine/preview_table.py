"""A preview as a table: every record in its place, with what it waits for or why it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.functions import condition_text
from datafast_nb.display.problems import without_roots
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    ColumnKind,
    Document,
    Failed,
    Fold,
    Head,
    Line,
    Listing,
    Mark,
    Paragraph,
    Pending,
    Row,
    Table,
    Value,
    code,
    muted,
)
from datafast_nb.engine.preview import Preview, PreviewRow
from datafast_nb.steps.base import Step
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Filter

MAX_ROWS = 10
MAX_COLUMNS = 10
WORD = 16
"""Texts up to this long stay on one line."""
MAX_SAID = 300

_MARKS: dict[str, tuple[Mark, str]] = {
    "memo": (Mark("memo"), "memo"),
    "pending": (Mark("pending"), "pending"),
    "filtered": (Mark("filtered"), "filtered"),
    "failed": (Mark("failed"), "failed"),
    "kept": (Mark("kept"), "kept"),
}
_WORDS = {"skipped": "skipped", "waiting": "waiting"}


def preview_document(preview: Preview) -> Document:
    """The display of a preview by itself."""
    facts: Line = (formats.plural(len(preview), "record"),)
    if preview.n_pending:
        n = preview.n_pending
        facts = (*facts, " · ", Mark("pending"), f" {formats.plural(n, 'answer')} pending")
    return Document((Head("Preview", facts), *preview_blocks(preview)))


def preview_blocks(preview: Preview, printed: str = "") -> tuple[Block, ...]:
    """The table of a preview, and what there is to say about it.

    Parameters
    ----------
    printed
        What user functions printed.
    """
    blocks: list[Block] = []
    rows = preview.rows[:MAX_ROWS]
    if rows:
        names = _column_names(preview)
        blocks.append(_table(preview, rows, names[:MAX_COLUMNS]))
        rest = []
        if len(preview.rows) > len(rows):
            rest.append(f"{formats.plural(len(preview.rows) - len(rows), 'more row')}: .preview()")
        if len(names) > MAX_COLUMNS:
            more = formats.some_names(names[MAX_COLUMNS:])
            rest.append(f"{formats.plural(len(names) - MAX_COLUMNS, 'more column')}: {more}")
        if rest:
            blocks.append(Paragraph((muted(" · ".join(rest)),), is_note=True))
    elif not preview.failure and preview.info is not None:
        blocks.append(Paragraph((muted("no record comes out of the source"),), is_note=True))
    if preview.failure:
        place = f"step '{preview.failed_at}' raised " if preview.failed_at else ""
        said, _, more = without_roots(preview.failure).partition(" · in ")
        blocks.append(Paragraph((Mark("failed"), f" {place}", code(said))))
        if more:
            blocks.append(Paragraph((muted(f"in {more}"),), is_note=True))
    blocks.extend(Paragraph((muted(without_roots(n)),), is_note=True) for n in preview.notes)
    if printed:
        n_lines = printed.count("\n") or 1
        note = (muted(f"{formats.plural(n_lines, 'line')}, by functions of the preview"),)
        blocks.append(Fold("printed", note, (Listing((formats.clip(printed.rstrip()),)),)))
    return tuple(blocks)


def _column_names(preview: Preview) -> list[str]:
    """Columns of the records on their way, in order of appearance."""
    names: dict[str, None] = {}
    for run in preview.info.steps if preview.info is not None else ():
        if run.table is not None:
            for record in run.table.records[: len(preview.rows)]:
                names.update(dict.fromkeys(record))
        if isinstance(run.step, LLMStep):
            names.update(dict.fromkeys(run.step.spec.columns))
    for row in preview.rows:
        names.update(dict.fromkeys(row.record))
    here = {name for row in preview.rows for name in row.record}
    shown = [n for n in names if n in here and not n.startswith("_")]
    later = [n for n in _answers(preview) if n not in here]
    return (shown + later) or list(here)


def _answers(preview: Preview) -> list[str]:
    """Columns that LLM steps fill."""
    steps = _steps(preview).values()
    return [c for s in steps if isinstance(s, LLMStep) for c in s.spec.columns]


def _steps(preview: Preview) -> dict[str, Step]:
    compiled = preview.compiled
    return {} if compiled is None else {n.name: n.step for n in compiled.nodes}


def _table(preview: Preview, rows: Sequence[PreviewRow], names: list[str]) -> Table:
    steps = _steps(preview)
    any_filtered = any(r.status == "filtered" for r in rows)
    has_status = any(r.status for r in rows)
    columns = [Column("", "index")]
    if has_status:
        columns.append(Column("status", "status"))
    written = set(_answers(preview))
    columns += [Column(n, _kind(n, preview.rows, written)) for n in names]
    first_written = next((i for i, n in enumerate(names) if n in written), 0)
    out: list[Row] = []
    last: int | None = -1
    for row in rows:
        place = "" if row.place is None or row.place == last else f"{row.place:,}"
        last = row.place
        cells: list[AnyCell] = [Cell((place,))]
        n_filled = len(names)
        if row.status in _MARKED:  # what is missing begins with what a model would write
            n_filled = max(_n_filled(row.record, names), first_written)
        said = _said(row, steps)
        span = len(names) - n_filled
        if has_status:
            below = (said,) if said and not span else ()
            if below and row.status == "filtered":  # the status says so
                below = (_said(row, steps, "at"),)
            cells.append(Cell(_status(row.status, any_filtered), below))
        cells += [_cell(row.record, n) for n in names[:n_filled]]
        if span:
            cells.append(Cell(said, span=span, is_pending=row.status == "pending"))
        out.append(tuple(cells))
    return Table(tuple(columns), tuple(out))


_MARKED = frozenset({"pending", "filtered", "failed", "waiting"})


def _kind(name: str, rows: Sequence[PreviewRow], written: set[str]) -> ColumnKind:
    values = [v for r in rows if (v := r.record.get(name)) is not None and not _is_mark(v)]
    if values and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return "number"
    if name in written:
        return "written"
    short = all(len(v) <= WORD if isinstance(v, str) else isinstance(v, bool) for v in values)
    return "word" if values and short else "text"


def _is_mark(value: Any) -> bool:
    return isinstance(value, (Pending, Failed))


def _n_filled(record: Mapping[str, Any], names: Sequence[str]) -> int:
    """Number of columns up to the last one that holds a value."""
    filled = [i for i, n in enumerate(names) if n in record and not _is_mark(record[n])]
    return filled[-1] + 1 if filled else 0


def _cell(record: Mapping[str, Any], name: str) -> AnyCell:
    value = record.get(name)
    if name not in record or _is_mark(value):
        return Cell()
    return Value(value)


def _status(status: str, any_filtered: bool) -> Line:
    if not status and any_filtered:
        status = "kept"
    if status in _MARKS:
        mark, word = _MARKS[status]
        return (mark, f" {word}")
    return (_WORDS.get(status, ""),)


def _said(row: PreviewRow, steps: Mapping[str, Step], verb: str = "filtered at") -> Line:
    if row.status == "filtered":
        said: Line = (muted(f"{verb} {formats.cell(row.step, formats.MAX_NAME)}"),)
        step = steps.get(row.step)
        if isinstance(step, Filter):
            condition = condition_text(step.fn)
            if condition:
                verdict = " is false" if step.keep else " is true"
                return (*said, muted(": "), code(formats.cell(condition, 80)), muted(verdict))
        return said
    if row.status in ("pending", "waiting"):
        return (muted(formats.cell(row.said)),)
    if row.status == "failed":
        said_by = f"at {formats.cell(row.step, formats.MAX_NAME)}: " if row.step else ""
        return (f"{said_by}{formats.cell(without_roots(row.said), MAX_SAID)}",)
    return ()
