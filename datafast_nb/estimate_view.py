"""How an estimate is shown: the price first, then each step, then what the figures rest on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Head,
    Legend,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
    muted,
)
from datafast_nb.options import shown_path
from datafast_nb.ranges import Range

if TYPE_CHECKING:
    from datafast_nb.estimate import ExecutionEstimate, StepEstimate

_EMPTY = Cell()
_ZERO = "–"
"""A measured zero."""


def estimate_view(estimate: ExecutionEstimate) -> Document:
    """Price, calls, a row per step, and the basis of the figures."""
    blocks: list[Block] = [Head(*_head(estimate)), Legend(_legend(estimate)), _table(estimate)]
    facts = tuple(Fact(name, (words,)) for name, words in estimate.basis)
    if facts:
        blocks.append(Facts(facts))
    blocks.extend(Paragraph((Mark("warning"), " ", note)) for note in estimate.notes)
    if any(s.models for s in estimate.steps):
        blocks.append(Paragraph(_note(estimate), is_note=True))
    return Document(tuple(blocks))


def bounded(count: Range) -> str:
    """A number of records or calls: "866" where it is known, "≤ 868" or "~520" where it is not."""
    if count.is_exact:
        return formats.count(count.likely)
    if count.likely >= count.high:
        return f"≤ {formats.count(count.high)}"
    return formats.count(count.likely, about=True)


def price(cost: Range, known: Range, *, is_free: bool) -> str:
    """The likely price: "$0.15", "free", "unknown", or "$0.10 + unknown"."""
    if is_free:
        return "free"
    if not cost.is_known and known.likely > 0:
        return f"{formats.usd(known.likely)} + unknown"
    return formats.usd(cost.likely)


def duration(seconds: Range) -> str:
    """The likely time: "1 min 20 s", "< 1 s", or "unknown"."""
    if not seconds.is_known:
        return "unknown"
    return formats.seconds(seconds.likely) if seconds.likely >= 1 else "< 1 s"


def _head(estimate: ExecutionEstimate) -> tuple[str, Line]:
    if not any(s.models for s in estimate.steps):
        return "$0", ("no step asks a model",)
    if not estimate.calls.high:
        return "$0", ("every answer is on disk",)
    limit = estimate.limit
    words = "for a full run" if limit is None else f"for run(limit={limit:,})"
    cost = estimate.cost
    if cost.is_known and not cost.is_exact:
        words += f", range {formats.usd_range(cost.low, cost.high)}"
    time = duration(estimate.seconds)
    tail = {"unknown": "time unknown", "< 1 s": "less than 1 s"}.get(time, f"about {time}")
    title = price(cost, estimate.known_cost, is_free=estimate.is_free)
    if title == "unknown":
        title = "unknown price"
    return title, (f"{words} ", muted("·"), f" {tail}")


def _legend(estimate: ExecutionEstimate) -> tuple[Line, ...]:
    calls = estimate.calls
    items: list[Line] = []
    if calls.high:
        noun = "new call" if calls.likely == 1 else "new calls"
        items.append((Mark("new"), f" {bounded(calls)} {noun}"))
    if estimate.total_answered:
        words = f" {estimate.total_answered:,} in the memo"
        saved = estimate.total_saved_usd
        items.append((Mark("memo"), words + (f", saving {formats.usd(saved)}" if saved else "")))
    n_failed = sum(s.failed_before for s in estimate.steps)
    if n_failed:
        items.append((Mark("failed"), f" {n_failed:,} failed before, not asked again"))
    first = next((s for s in estimate.steps if s.models), None)
    if first is not None and first.records_in < estimate.total_records:
        name = estimate.steps[0].name
        noun = "records" if name.startswith("step_0") else formats.cell(name, formats.MAX_NAME)
        items.append((f"{first.records_in:,.0f} of {estimate.total_records:,} {noun}",))
    return tuple(items)


def _table(estimate: ExecutionEstimate) -> Table:
    names = ("step", "records", "memo", "new", "tokens in", "out", "cost", "range", "time")
    entering = [Range.exact(s.records_in) for s in estimate.steps]
    for i, before in enumerate(estimate.steps[:-1]):
        # What one step gives is what the next one takes, unless a limit stands between them.
        if not before.out.is_exact and before.out.likely == entering[i + 1].likely:
            entering[i + 1] = before.out
    rows = [_row(s, r) for s, r in zip(estimate.steps, entering, strict=True)]
    has_total = any(s.models for s in estimate.steps)
    total = _total(estimate) if has_total else _cells(*[""] * len(names))
    used = [i for i in range(len(names)) if any(row[i] != _EMPTY for row in (*rows, total))]
    return Table(
        tuple(Column(names[i], "number" if i else "word") for i in used),
        tuple(tuple(row[i] for i in used) for row in rows),
        tuple(total[i] for i in used) if has_total else None,
    )


def _row(step: StepEstimate, entering: Range) -> Row:
    name = formats.cell(step.name, formats.MAX_NAME)
    if not step.models:
        return _cells(name, bounded(step.out), "", "", "", "", "free", "", "")
    return _cells(
        name,
        bounded(entering),
        *_calls(step.answered, step.calls),
        *_tokens(step.input_tokens, step.output_tokens, step.calls),
        *_cost(step.cost, step.known_cost, step.is_free),
        duration(step.seconds) if step.calls.high else "",
    )


def _total(estimate: ExecutionEstimate) -> Row:
    tokens_in = sum(s.input_tokens for s in estimate.steps)
    tokens_out = sum(s.output_tokens for s in estimate.steps)
    return _cells(
        "total",
        "",
        *_calls(estimate.total_answered, estimate.calls),
        *_tokens(tokens_in, tokens_out, estimate.calls),
        *_cost(estimate.cost, estimate.known_cost, estimate.is_free),
        duration(estimate.seconds) if estimate.calls.high else "",
    )


def _calls(answered: int, new: Range) -> tuple[str, str]:
    return f"{answered:,}" if answered else _ZERO, bounded(new) if new.high else _ZERO


def _tokens(tokens_in: float, tokens_out: float, new: Range) -> tuple[str, str]:
    if not new.high:
        return "", ""
    return formats.amount(tokens_in), formats.amount(tokens_out)


def _cost(cost: Range, known: Range, is_free: bool) -> tuple[str, str]:
    has_range = cost.is_known and not cost.is_exact
    return (
        price(cost, known, is_free=is_free),
        formats.usd_range(cost.low, cost.high) if has_range else "",
    )


def _cells(*words: str) -> Row:
    return tuple(Cell((w,)) if w else _EMPTY for w in words)


def _note(estimate: ExecutionEstimate) -> Line:
    per = estimate.usd_per_record
    words = "" if math.isnan(per) or not per else f"{formats.usd(per)} per finished record · "
    return (muted(f"{words}memo: {shown_path(estimate.memo_path)}"),)
