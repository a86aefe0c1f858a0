"""What a RecordTrace and a Why show: what each step gave a record, what was asked for a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datafast_nb.call_view import (
    call_facts,
    call_note,
    figures,
    last_column,
    status_line,
    status_of,
    value_facts,
)
from datafast_nb.display import formats
from datafast_nb.display.values import blocks_of
from datafast_nb.display.views import (
    Block,
    Document,
    Fact,
    Facts,
    Fold,
    Head,
    Inline,
    Legend,
    Line,
    Mark,
    MarkName,
    Paragraph,
    Section,
    code,
    muted,
)
from datafast_nb.records import Record
from datafast_nb.store.ledger import Ledger, dollars, new_calls, wasted

if TYPE_CHECKING:
    from datafast_nb.trace import RecordTrace, TraceStep
    from datafast_nb.why import Why

MAX_STEPS = 60
MAX_SHOWN = 5
"""Records and calls of one step."""
MAX_COLUMNS = 40
SHORT_KEY = 8
"""Digits of a memo key that people need to tell two apart."""

FATES: dict[str, tuple[MarkName | None, str]] = {
    "read": (None, "read"),
    "advanced": ("kept", "kept"),
    "written": ("kept", "written"),
    "filtered": ("filtered", "filtered"),
    "failed": ("failed", "failed"),
    "skipped": ("kept", "skipped"),
    "waiting": ("pending", "not reached"),
    "left out": ("filtered", "left out"),
}


def trace_view(trace: RecordTrace) -> Document:
    """The record's way, step by step."""
    blocks: list[Block] = [Head(_title(trace), _about(trace))]
    legend = _legend(trace)
    if legend:
        blocks.append(Legend(legend))
    before: tuple[Record, ...] = ()
    for i, step in enumerate(trace.trace[:MAX_STEPS]):
        blocks.append(_step_section(step, before, i))
        before = step.records or before
    if len(trace.trace) > MAX_STEPS:
        more = formats.plural(len(trace.trace) - MAX_STEPS, "more step")
        blocks.append(Paragraph((f"{more}: .trace has all",), is_note=True))
    blocks.append(Paragraph(_next(trace), is_note=True))
    return Document(tuple(blocks))


def _title(trace: RecordTrace) -> str:
    where = trace.result.info.settings.get("where") if trace.result is not None else None
    if where is not None:
        return formats.cell(
            f"Record where {', '.join(f'{k} = {v!r}' for k, v in where.items())}", 100
        )
    return "Record" if trace.index is None else f"Record {trace.index:,}"


def _about(trace: RecordTrace) -> Line:
    if not trace.outputs:
        return (formats.cell(trace.why_dropped, 200),)
    n = len(trace.outputs)
    steps = formats.plural(len(trace.trace), "step")
    return (f"{formats.plural(n, 'record')} out · passed {steps}",)


def _legend(trace: RecordTrace) -> tuple[Line, ...]:
    calls = trace.calls
    total = Ledger.of(calls).total
    items: list[Line] = []
    if total.new:
        items.append((Mark("new"), f" {new_calls(total)}"))
    if total.answered:
        saved = f", saved {formats.usd(total.saved_usd)}" if total.saved_usd != 0 else ""
        items.append((Mark("memo"), f" {total.answered:,} from the memo{saved}"))
    if total.failed:
        items.append((Mark("failed"), f" {formats.plural(total.failed, 'failed call')}"))
    if total.wasted_usd != 0:
        items.append((Mark("warning"), f" {wasted(total)}"))
    asked_s = sum(c.latency_s for c in calls if c.status == "new")
    if asked_s:
        items.append((formats.seconds(asked_s),))
    return tuple(items)


def _step_section(step: TraceStep, before: Sequence[Record], i: int) -> Section:
    note: list[Inline] = [muted(f"{step.kind} · ")] if step.kind else []
    note += _fate(step)
    blocks: list[Block] = []
    n = len(step.records)
    for k, record in enumerate(step.records[:MAX_SHOWN]):
        old = _former(step, k, before)
        gained = _gained(record, old, is_first=i == 0)
        if n > 1:
            blocks.append(Paragraph((muted(f"record {k + 1:,} of {n:,}"),)))
        blocks += gained
    if n > MAX_SHOWN:
        more = formats.plural(n - MAX_SHOWN, "more record")
        blocks.append(Paragraph((muted(f"{more}: .trace[{i}].records"),)))
    for k, call in enumerate(step.calls[:MAX_SHOWN]):
        said = [*figures(call), *([f"key {call.key[:SHORT_KEY]}"] if call.key else [])]
        facts: Line = (muted(" · ".join(said)),)
        if len(step.calls) > 1:
            facts = call_note(call)
        # The values stand above as what the record gained.
        body = (call_facts(call.messages, call.text, None, call.error, call.earlier),)
        # What failed is what one has come to see.
        is_open = call.status == "failed"
        title = "prompt as sent → raw reply"
        if len(step.calls) > 1:
            title = f"call {k + 1:,}: {title}"
        blocks.append(Fold(title, facts, body, is_open=is_open, in_text=True))
    if len(step.calls) > MAX_SHOWN:
        more = formats.plural(len(step.calls) - MAX_SHOWN, "more call")
        blocks.append(Paragraph((muted(f"{more}: .trace[{i}].calls"),)))
    return Section(formats.cell(step.name, formats.MAX_NAME), tuple(note), tuple(blocks))


def _fate(step: TraceStep) -> list[Inline]:
    line: list[Inline] = []
    status = status_of(step.calls)
    if step.fate == "advanced" and status:
        line += status_line(status)
        line.append(muted(_cost(step)))
    else:
        mark, word = FATES.get(step.fate, (None, step.fate))
        line += [Mark(mark), f" {word}"] if mark is not None else [word]
    if step.row is not None:
        line.append(muted(f" · source row {step.row:,}"))
    if step.note:
        line.append(f" · {formats.cell(step.note, 400)}")
    return line


def _cost(step: TraceStep) -> str:
    known = [c.usd for c in step.calls if c.usd is not None]
    parts = [dollars(sum(known), 1)] if len(known) == len(step.calls) else ["price unknown"]
    took = sum(c.latency_s for c in step.calls)
    if took:
        parts.append(formats.seconds(took))
    return "".join(f" · {part}" for part in parts)


def _former(step: TraceStep, k: int, before: Sequence[Record]) -> Record | None:
    """The record that record `k` was made of; None: not known."""
    origin = step.origins[k] if k < len(step.origins) else None
    return before[origin] if origin is not None and origin < len(before) else None


def _gained(record: Record, old: Record | None, *, is_first: bool) -> list[Block]:
    """Columns that are new or changed, in full, and the names of those that are gone."""
    new: dict[str, Any] = record
    if old is not None:
        new = {k: v for k, v in record.items() if k not in old or not is_same(old[k], v)}
    # Bookkeeping says what the line of the call says.
    new = {k: v for k, v in new.items() if not k.startswith("_")}
    facts = []
    for name, value in list(new.items())[:MAX_COLUMNS]:
        is_new = old is None or name not in old
        label = formats.cell(name, formats.MAX_NAME)
        facts.append(Fact(label, blocks_of(value), "added" if is_new else None))
    blocks: list[Block] = [Facts(tuple(facts))] if facts else []
    if len(new) > MAX_COLUMNS:
        more = formats.plural(len(new) - MAX_COLUMNS, "more column")
        blocks.append(Paragraph((muted(more),)))
    gone = [k for k in old or () if k not in record and not k.startswith("_")]
    if gone:
        blocks.append(Paragraph((muted(f"without {formats.some_names(gone)}"),)))
    if old is None and not is_first:
        blocks.append(Paragraph((muted("made of several records, or nobody knows of which"),)))
    return blocks


def is_same(a: Any, b: Any) -> bool:
    """Whether two values of records are the same, also of the same type (1 is not True)."""
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # a value whose == is a user's code
        return a is b


def _next(trace: RecordTrace) -> Line:
    parts: list[Inline] = []
    verb = "trace" if trace.result is None else "run_one"
    if trace.index is not None and trace.outputs and trace.outputs[0]:
        name = formats.cell(last_column(trace.outputs[0]), 40)
        parts += ["One value: ", code(f'.{verb}({trace.index})["{name}"]')]
    if trace.index is not None:
        parts += [" · " if parts else "", "next record: ", code(f".{verb}({trace.index + 1})")]
        cost = Ledger.of(trace.calls).total
        usd = cost.paid_usd + cost.saved_usd
        if verb == "run_one" and cost.n_calls and usd == usd:
            parts.append(f", {'free' if usd == 0 else f'about {formats.usd(usd)}'}")
    if not parts:
        parts.append("every step with its records and calls: ")
        parts.append(code(".trace"))
    return tuple(p for p in parts if p != "")


WRITTEN = {
    "source": "read by",
    "model": "written by a model at",
    "skipped": "left empty by",
    "function": "made by",
    "unknown": "hidden by",
}


def why_view(why: Why) -> Document:
    """One value: what it is, who wrote it, of what."""
    column = formats.cell(why.column, formats.MAX_NAME)
    blocks: list[Block] = [Head(f"{column} of record {why.row:,}", _written(why))]
    if why.call is not None:
        key: Line = (muted(f" · key {why.key}"),) if why.key else ()
        blocks.append(Legend(((*call_note(why.call), *key),)))
    blocks.append(Facts((Fact(column, blocks_of(why.value)),), is_ruled=True))
    blocks += [Paragraph((Mark("warning"), f" {formats.cell(n, 400)}")) for n in why.notes]
    call = why.call
    if call is not None:
        blocks.append(call_facts(call.messages, call.text, call.values, "", call.earlier))
    if why.record_in is not None:
        note: Line = (muted(f"before {formats.cell(why.step, formats.MAX_NAME)}"),)
        body = (value_facts(why.record_in),)
        blocks.append(Fold("The record", note, body, is_open=why.kind == "function", in_text=True))
    if why.origin is not None:
        blocks.append(_origin(why.origin))
    blocks.append(Paragraph(_whence(why), is_note=True))
    return Document(tuple(blocks))


def _written(why: Why) -> Line:
    return (f"{WRITTEN.get(why.kind, why.kind)} {formats.cell(why.step, formats.MAX_NAME)}",)


def _origin(origin: Why) -> Block:
    """Where a value that a function passed on comes from."""
    column = formats.cell(origin.column, formats.MAX_NAME)
    note: Line = (f"as {column}, ", *_written(origin))
    call = origin.call
    if call is None:
        body: tuple[Block, ...] = _origin_body(origin)
    else:
        facts = call_facts(call.messages, call.text, call.values, "", call.earlier)
        body = (Paragraph(call_note(call)), facts)
    return Fold("The same value before", note, body, is_open=True, in_text=True)


def _origin_body(origin: Why) -> tuple[Block, ...]:
    if origin.origin is not None:
        return (_origin(origin.origin),)
    return (Paragraph(_whence(origin)),)


def _whence(why: Why) -> Line:
    parts = []
    if why.source_index is not None:
        parts.append(f"from row {why.source_index:,} of the source")
    if why.identity:
        parts.append(f"row identity {formats.cell(why.identity, 40)}")
    if not parts:
        parts.append("the row of the source is not known")
    return (" · ".join(parts),)
