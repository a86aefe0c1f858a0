"""Views as text for terminals: aligned, cut to the width, no colours."""

from __future__ import annotations

import shutil
import unicodedata
from typing import Any

from datafast_nb.display import views
from datafast_nb.display.views import cell

MIN_COLUMN = 6


def terminal_width() -> int:
    """Columns of the terminal, between 40 and 200."""
    return max(40, min(200, shutil.get_terminal_size((100, 24)).columns))


def display_width(text: str) -> int:
    """Columns that a text takes: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def table(view: views.TableView, width: int | None = None) -> str:
    """An aligned table. Columns shrink, widest first, until it fits."""
    lines = [view.title] if view.title else []
    if view.columns:
        lines.extend(_grid(view, width or terminal_width()))
    if view.note:
        lines.append(view.note)
    return "\n".join(lines)


def _grid(view: views.TableView, width: int) -> list[str]:
    cells = [[_text(v) for v in row] for row in view.rows]
    header = [views.printable(c) for c in view.columns]
    sizes = [
        max([display_width(header[i]), *(display_width(row[i]) for row in cells)])
        for i in range(len(header))
    ]
    room = width - 2 * (len(sizes) - 1)
    while sum(sizes) > room and max(sizes) > MIN_COLUMN:
        widest = sizes.index(max(sizes))
        second = sorted(sizes)[-2] if len(sizes) > 1 else 0
        over = sum(sizes) - room
        sizes[widest] = (
            max(MIN_COLUMN, second, sizes[widest] - over)
            if sizes[widest] > second
            else sizes[widest] - 1
        )
    right = [c in view.right for c in view.columns]
    out = [_line(header, sizes, right), "  ".join("─" * s for s in sizes)]
    out.extend(_line(row, sizes, right) for row in cells)
    return out


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return cell(value)


def _line(cells: list[str], sizes: list[int], right: list[bool]) -> str:
    out = []
    for text, size, is_right in zip(cells, sizes, right, strict=True):
        shown = _cut(text, size)
        gap = " " * (size - display_width(shown))
        out.append(gap + shown if is_right else shown + gap)
    return "  ".join(out).rstrip()


def _cut(text: str, size: int) -> str:
    if display_width(text) <= size:
        return text
    out = ""
    used = 0
    for c in text:
        used += display_width(c)
        if used > size - 1:
            break
        out += c
    return out + "…"


def result(view: views.ResultView) -> str:
    """A run's records and figures."""
    head = f"Result: {view.n:,} record{'s' * (view.n != 1)}, {view.status}"
    lines = [head]
    if view.facts:
        lines.append(" · ".join(view.facts))
    if view.table.rows:
        lines.extend(["", table(view.table)])
    if view.n_more:
        lines.append(f"{view.n_more:,} more: .df has all")
    if len(view.funnel.rows) > 1:
        lines.extend(["", table(view.funnel)])
    if view.errors is not None:
        lines.extend(["", table(view.errors)])
    lines.extend(f"wrote {w}" for w in view.written)
    lines.extend(f"note: {n}" for n in view.notes)
    return "\n".join(lines)


def trace(view: views.TraceView) -> str:
    """A record's way through a pipeline."""
    width = terminal_width()
    lines = [f"RecordTrace: {views.printable(view.head)}"]
    for step in view.steps:
        note = f": {cell(step.note, width)}" if step.note else ""
        lines.append(f"{step.name}  {step.fate}{note}")
        for model, status, prompt, reply in step.calls:
            lines.append(f"  ask    {cell(prompt, width - 9)}")
            lines.append(f"  reply  {cell(reply, width - 9)}  ({model}, {status})")
        for record in step.records:
            for key, value in record.items():
                lines.append(f"    {key}: {cell(value, max(20, width - 6 - len(key)))}")
            if len(step.records) > 1:
                lines.append("    ·")
    return "\n".join(lines)


def pipeline(view: views.PipelineView) -> str:
    """A pipeline before a run."""
    lines = [view.head]
    lines.extend(f"problem: {p}" for p in view.problems)
    if view.steps:
        size = max(len(name) for name, _ in view.steps)
        lines.extend(f"  {name.ljust(size)}  {detail}".rstrip() for name, detail in view.steps)
    lines.extend(f"warning: {w}" for w in view.warnings)
    if view.preview is not None and view.preview.columns:
        lines.extend(["", table(view.preview)])
    lines.extend(f"note: {n}" for n in view.notes)
    if view.hint:
        lines.append(view.hint)
    return "\n".join(lines)


def card(view: views.CardView) -> str:
    """Facts about one object."""
    size = max((len(k) for k, _ in view.facts), default=0)
    lines = [view.head, *(f"  {k.ljust(size)}  {v}" for k, v in view.facts)]
    lines.extend(f"note: {n}" for n in view.notes)
    return "\n".join(lines)
