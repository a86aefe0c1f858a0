"""Views as text for terminals: aligned, cut to the width, no colours."""

from __future__ import annotations

import shutil
import unicodedata
from typing import Any

from datafast_nb.display import views
from datafast_nb.display.views import cell, clip, number, one_line, printable

MIN_COLUMN = 6
MAX_NUMBER = 16
"""Numbers up to this width are not cut: a number that is cut is another number."""
MAX_PROBLEMS = 20


def terminal_width() -> int:
    """Columns of the terminal, between 40 and 200."""
    return max(40, min(200, shutil.get_terminal_size((100, 24)).columns))


def display_width(text: str) -> int:
    """Columns that a text takes: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fit(value: Any, width: int) -> str:
    """A value as one line of at most `width` columns of the terminal, with what was cut counted."""
    line = one_line(value)
    if len(line) <= width and display_width(line) <= width:
        return line
    room = width - len(f"… +{len(line):,}")
    n = used = 0
    for char in line:
        used += _char_width(char)
        if used > room:
            break
        n += 1
    return f"{line[:n]}… +{len(line) - n:,}"


def joined(lines: list[str]) -> str:
    """The lines of a display: nothing in them moves a terminal's cursor but their ends."""
    return printable("\n".join(lines)).replace("\t", "    ")


def table(view: views.TableView, width: int | None = None) -> str:
    """An aligned table. Columns shrink, widest first, until it fits; then the last are left out."""
    lines = [clip(view.title)] if view.title else []
    if view.columns:
        lines.extend(_grid(view, width or terminal_width()))
    if view.note:
        lines.append(clip(view.note))
    return joined(lines)


def _grid(view: views.TableView, width: int) -> list[str]:
    header = [cell(c, views.MAX_NAME) for c in view.columns]
    cells = [[_text(v, view.cell_width) for v in row] for row in view.rows]
    right = [c in view.right for c in view.columns]
    sizes = [
        max([display_width(header[i]), *(display_width(row[i]) for row in cells)])
        for i in range(len(header))
    ]
    least = [
        min(size, MAX_NUMBER if is_right else MIN_COLUMN)
        for size, is_right in zip(sizes, right, strict=True)
    ]
    keep = list(range(len(header)))
    if cells and sum(sizes) + 2 * (len(keep) - 1) > width:
        keep = [i for i in keep if any(row[i] for row in cells)] or keep
    while len(keep) > 1 and sum(least[i] for i in keep) + 2 * (len(keep) - 1) > width:
        keep.pop()
    shown = _shrunk([sizes[i] for i in keep], [least[i] for i in keep], width)
    right = [right[i] for i in keep]
    out = [_line([header[i] for i in keep], shown, right), "  ".join("─" * s for s in shown)]
    out.extend(_line([row[i] for i in keep], shown, right) for row in cells)
    left_out = [header[i] for i in range(len(header)) if i not in keep]
    if any(row[i] for row in cells for i in range(len(header)) if i not in keep):
        out.append(f"+{len(left_out)} column{'s' * (len(left_out) != 1)}")
    return out


def _shrunk(sizes: list[int], least: list[int], width: int) -> list[int]:
    """Sizes that fit where that is possible; the widest column gives first."""
    sizes = list(sizes)
    room = width - 2 * (len(sizes) - 1)
    while sum(sizes) > room:
        able = [i for i in range(len(sizes)) if sizes[i] > least[i]]
        if not able:
            break
        widest = max(able, key=lambda i: sizes[i])
        second = max((sizes[i] for i in able if i != widest), default=0)
        goal = max(least[widest], min(second, sizes[widest] - 1), sizes[widest] - sum(sizes) + room)
        sizes[widest] = goal
    return sizes


def _text(value: Any, width: int) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return number(value)
    return cell(value, None if width == views.MAX_CELL else width)


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
        used += _char_width(c)
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
    lines.extend(f"wrote {clip(w)}" for w in view.written)
    lines.extend(f"note: {clip(n)}" for n in view.notes)
    return joined(lines)


def trace(view: views.TraceView) -> str:
    """A record's way through a pipeline."""
    width = terminal_width()
    lines = [fit(f"RecordTrace: {view.head}", width)]
    for step in view.steps:
        note = f": {step.note}" if step.note else ""
        lines.append(fit(f"{step.name}  {step.fate}{note}", width))
        for call in step.calls:
            label = "error" if call.is_error else "reply"
            who = f"  ({fit(call.model, width // 4)}, {call.status})"
            lines.append(f"  ask    {fit(call.prompt, width - 9)}")
            lines.append(f"  {label}  {fit(call.answer, width - 9 - display_width(who))}{who}")
        for record in step.records:
            for key, value in record.items():
                name = fit(key, width // 3)
                lines.append(f"    {name}: {fit(value, width - 6 - display_width(name))}")
            if len(step.records) > 1:
                lines.append("    ·")
    return joined(lines)


def pipeline(view: views.PipelineView) -> str:
    """A pipeline before a run."""
    lines = [clip(view.head)]
    lines.extend(f"problem: {clip(p)}" for p in view.problems[:MAX_PROBLEMS])
    if len(view.problems) > MAX_PROBLEMS:
        lines.append(f"… and {len(view.problems) - MAX_PROBLEMS:,} more problems")
    if view.steps:
        names = [cell(name, views.MAX_NAME) for name, _ in view.steps]
        size = max(map(display_width, names))
        for name, (_, detail) in zip(names, view.steps, strict=True):
            gap = " " * (size - display_width(name))
            lines.append(f"  {name}{gap}  {cell(detail)}".rstrip())
    lines.extend(f"warning: {clip(w)}" for w in view.warnings)
    if view.preview is not None and view.preview.columns:
        lines.extend(["", table(view.preview)])
    if view.failure:
        lines.append(f"✕ {clip(view.failure)}")
    lines.extend(f"note: {clip(n)}" for n in view.notes)
    if view.hint:
        lines.append(view.hint)
    return joined(lines)


def card(view: views.CardView) -> str:
    """Facts about one object."""
    size = max((len(k) for k, _ in view.facts), default=0)
    lines = [clip(view.head)]
    lines.extend(f"  {k.ljust(size)}  {cell(views.short_digests(v))}" for k, v in view.facts)
    lines.extend(f"note: {clip(n)}" for n in view.notes)
    return joined(lines)


class Drawing(str):
    """Text that shows as it is where a cell ends in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
