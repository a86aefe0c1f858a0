"""Views as static HTML: escaped, inline styles, no script, nothing loaded from anywhere."""

from __future__ import annotations

from html import escape
from typing import Any

from datafast_nb.display import views

# JupyterLab typesets two dollar signs as a formula; the class and the spans each prevent it.
_ROOT = '<div class="mathjax_ignore tex2jax_ignore" style="font-size:13px;line-height:1.45;max-width:1080px">'
_CELL = "padding:6px 14px 6px 0;vertical-align:top;word-wrap:break-word;"
_LINE = "border-top:1px solid rgba(128,128,128,.25);background:none"
_CODE = "font-family:monospace;font-size:12px;white-space:pre-wrap"


def page(body: str) -> str:
    """A display: the root element around its parts."""
    return f"{_ROOT}{body}</div>"


def say(text: Any) -> str:
    """Any text, escaped; control characters shown."""
    return escape(views.printable(str(text))).replace("$", "<span>$</span>").replace("\n", "<br>")


def head(text: str) -> str:
    """The first line of a display."""
    return f'<div style="font-size:16px;font-weight:600">{say(text)}</div>'


def line(text: str, *, muted: bool = False) -> str:
    """One line of text."""
    style = ' style="opacity:.7"' if muted else ""
    return f"<div{style}>{say(text)}</div>"


def fold(title: str, body: str) -> str:
    """A section that opens."""
    return f'<details style="padding:7px 0"><summary style="cursor:pointer">{say(title)}</summary>{body}</details>'


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
    align = ["right" if c in view.right else "left" for c in view.columns]
    header = "".join(
        f'<th style="{_CELL}text-align:{a};font-weight:600">{say(c)}</th>'
        for c, a in zip(view.columns, align, strict=True)
    )
    body = "".join(
        f'<tr style="{_LINE}">'
        + "".join(
            f'<td style="{_CELL}text-align:{a}">{_value(v)}</td>'
            for v, a in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in view.rows
    )
    return (
        f'{title}<div style="overflow-x:auto"><table style="border-collapse:collapse;table-layout:auto;border:0">'
        f'<thead><tr style="background:none">{header}</tr></thead><tbody>{body}</tbody></table></div>{note}'
    )


def _value(value: Any) -> str:
    if value is None:
        return '<span style="opacity:.7">None</span>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return say(views.cell(value))


def result(view: views.ResultView) -> str:
    """A run's records and figures."""
    parts = [head(f"{view.n:,} record{'s' * (view.n != 1)}, {view.status}")]
    if view.facts:
        parts.append(line(" · ".join(view.facts)))
    parts.append(table(view.table))
    if view.n_more:
        parts.append(line(f"{view.n_more:,} more: .df has all", muted=True))
    parts.append(fold("Funnel", table(view.funnel)))
    if view.errors is not None:
        parts.append(fold(view.errors.title, table(view.errors)))
    if view.ledger is not None:
        parts.append(fold("Ledger", table(view.ledger)))
    parts.extend(line(f"wrote {w}", muted=True) for w in view.written)
    parts.extend(line(f"note: {n}", muted=True) for n in view.notes)
    return page("".join(parts))


def trace(view: views.TraceView) -> str:
    """A record's way through a pipeline."""
    parts = [head(view.head)]
    for step in view.steps:
        note = f": {step.note}" if step.note else ""
        body = "".join(
            f'<div style="padding:4px 0 4px 16px"><div style="opacity:.7">{say(f"{model}, {status}")}</div>'
            f'<div style="{_CODE}">{say(prompt)}</div><div style="opacity:.7">reply</div>'
            f'<div style="{_CODE}">{say(reply)}</div></div>'
            for model, status, prompt, reply in step.calls
        )
        for record in step.records:
            body += table(
                views.TableView("", ("column", "value"), tuple((k, v) for k, v in record.items()))
            )
        parts.append(fold(f"{step.name}: {step.fate}{note}", body))
    for record in view.outputs:
        parts.append(
            table(
                views.TableView(
                    "output", ("column", "value"), tuple((k, v) for k, v in record.items())
                )
            )
        )
    return page("".join(parts))


def pipeline(view: views.PipelineView) -> str:
    """A pipeline before a run."""
    parts = [head(view.head)]
    parts.extend(line(f"✕ {p}") for p in view.problems)
    parts.append(table(views.TableView("", ("step", "what it does"), view.steps)))
    parts.extend(line(f"! {w}") for w in view.warnings)
    if view.preview is not None:
        parts.append(table(view.preview))
    parts.extend(line(n, muted=True) for n in view.notes)
    if view.hint:
        parts.append(line(view.hint, muted=True))
    return page("".join(parts))


def card(view: views.CardView) -> str:
    """Facts about one object."""
    body = table(views.TableView("", ("", ""), view.facts))
    return page(head(view.head) + body + "".join(line(n, muted=True) for n in view.notes))
