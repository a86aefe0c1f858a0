"""Views as static HTML: escaped, inline styles, no script, nothing loaded from anywhere."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

from datafast_nb.display import views

# JupyterLab typesets two dollar signs as a formula; the class and the spans each prevent it.
_ROOT = '<div class="mathjax_ignore tex2jax_ignore" style="font-size:13px;line-height:1.45;max-width:1080px">'
# Jupyter's sanitiser drops overflow-wrap:anywhere and sizes in em, and keeps the older word and px.
_CELL = "padding:6px 14px 6px 0;vertical-align:top;"
_WORDS = (
    "min-width:140px;max-width:420px;word-wrap:break-word;overflow-wrap:anywhere;text-align:left"
)
_SHORT = "white-space:nowrap;text-align:left"
SHORT_CELL = 28
_NUMBERS = "white-space:nowrap;text-align:right"
MAX_PROBLEMS = 20
_LINE = "border-top:1px solid rgba(128,128,128,.25);background:none"
_CODE = "font-family:monospace;font-size:12px;white-space:pre-wrap"


def page(body: str) -> str:
    """A display: the root element around its parts."""
    return f"{_ROOT}{body}</div>"


def say(text: Any) -> str:
    """Any text, escaped; control characters shown; very long text cut."""
    shown = escape(views.printable(views.clip(str(text))))
    return shown.replace("$", "<span>$</span>").replace("\n", "<br>")


def head(text: str) -> str:
    """The first line of a display."""
    return f'<div style="font-size:16px;font-weight:600">{say(text)}</div>'


def line(text: str, *, muted: bool = False) -> str:
    """One line of text."""
    style = ' style="opacity:.7"' if muted else ""
    return f"<div{style}>{say(text)}</div>"


def fold(title: str, body: str) -> str:
    """A section that opens."""
    return f'<details style="padding:7px 0"><summary style="cursor:pointer">{say(views.cell(title))}</summary>{body}</details>'


def table(view: views.TableView) -> str:
    """A table."""
    title = (
        f'<div style="font-weight:600;padding:7px 0 0">{say(view.title)}</div>'
        if view.title
        else ""
    )
    note = line(view.note, muted=True) if view.note else ""
    if not view.columns:
        return title + note
    styles = [_CELL + _style_of(view, i) for i in range(len(view.columns))]
    header = "".join(
        f'<th style="{style};font-weight:600">{say(views.cell(c, views.MAX_NAME))}</th>'
        for c, style in zip(view.columns, styles, strict=True)
    )
    width = None if view.cell_width == views.MAX_CELL else view.cell_width
    body = "".join(
        f'<tr style="{_LINE}">'
        + "".join(
            f'<td style="{style}">{_value(v, width)}</td>'
            for v, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in view.rows
    )
    return (
        f'{title}<div style="overflow-x:auto"><table style="border-collapse:collapse;table-layout:auto;border:0">'
        f'<thead><tr style="background:none">{header}</tr></thead><tbody>{body}</tbody></table></div>{note}'
    )


def _style_of(view: views.TableView, i: int) -> str:
    """Short cells stay on one line: a long neighbour must not break names and numbers apart."""
    if view.columns[i] in view.right:
        return _NUMBERS
    longest = max((len(views.cell(row[i])) for row in view.rows), default=0)
    return _SHORT if longest <= SHORT_CELL and len(view.columns[i]) <= SHORT_CELL else _WORDS


def _value(value: Any, width: int | None) -> str:
    if value is None:
        return '<span style="opacity:.7">None</span>'
    if isinstance(value, int) and not isinstance(value, bool):
        return views.number(value)
    return say(views.cell(value, width))


def result(view: views.ResultView) -> str:
    """A run's records and figures."""
    parts = [head(f"{view.n:,} record{'s' * (view.n != 1)}, {view.status}")]
    if view.facts:
        parts.append(line(" · ".join(view.facts)))
    parts.append(table(view.table))
    if view.n_more:
        parts.append(line(f"{view.n_more:,} more: .df has all", muted=True))
    if view.errors is not None:
        parts.append(table(view.errors))  # what went wrong is not folded away
    parts.append(fold("Funnel", table(replace(view.funnel, title=""))))
    if view.ledger is not None:
        parts.append(fold(view.ledger.title.capitalize(), table(replace(view.ledger, title=""))))
    parts.extend(line(f"wrote {w}", muted=True) for w in view.written)
    parts.extend(line(f"note: {n}", muted=True) for n in view.notes)
    return page("".join(parts))


def trace(view: views.TraceView) -> str:
    """A record's way through a pipeline."""
    parts = [head(view.head)]
    for step in view.steps:
        note = f": {step.note}" if step.note else ""
        body = "".join(_call(call) for call in step.calls)
        for record in step.records:
            body += table(views.TableView("", ("column", "value"), tuple(record.items())))
        title = f"{step.name}: {step.fate}{note}"
        parts.append(fold(title, body) if body else line(views.cell(title)))
    return page("".join(parts))


def _call(call: views.TraceCallView) -> str:
    label = "error" if call.is_error else "reply"
    return (
        '<div style="padding:4px 0 4px 16px">'
        f'<div style="opacity:.7">{say(f"{call.model}, {call.status}")}</div>'
        f'<div style="{_CODE}">{say(call.prompt)}</div><div style="opacity:.7">{label}</div>'
        f'<div style="{_CODE}">{say(call.answer)}</div></div>'
    )


def pipeline(view: views.PipelineView) -> str:
    """A pipeline before a run."""
    parts = [head(view.head)]
    parts.extend(_remark(f"✕ {p}") for p in view.problems[:MAX_PROBLEMS])
    if len(view.problems) > MAX_PROBLEMS:
        parts.append(_remark(f"… and {len(view.problems) - MAX_PROBLEMS:,} more problems"))
    parts.append(table(views.TableView("", ("step", view.detail), view.steps)))
    parts.extend(_remark(f"! {w}") for w in view.warnings)
    if view.preview is not None:
        parts.append(table(view.preview))
    if view.failure:
        parts.append(_remark(f"✕ {view.failure}"))
    parts.extend(line(n, muted=True) for n in view.notes)
    if view.hint:
        parts.append(line(view.hint, muted=True))
    return page("".join(parts))


def _remark(text: str) -> str:
    return f'<div style="padding:4px 0">{say(text)}</div>'


def card(view: views.CardView) -> str:
    """Facts about one object."""
    facts = tuple((k, views.short_digests(v)) for k, v in view.facts)
    body = table(views.TableView("", ("", ""), facts))
    return page(head(view.head) + body + "".join(line(n, muted=True) for n in view.notes))
