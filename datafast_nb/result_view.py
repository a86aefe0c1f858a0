"""What a Result shows: what it is, what it cost, its funnel, its records, and how they came to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datafast_nb.call_view import call_facts, call_note, last_column, value_facts, when
from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fold,
    Graph,
    GraphNode,
    Head,
    Inline,
    Legend,
    Line,
    Mark,
    Paragraph,
    Row,
    Section,
    Table,
    Tile,
    Tiles,
    code,
    muted,
)
from datafast_nb.models.ladder import WAY_WORDS
from datafast_nb.options import shown_path
from datafast_nb.records import Record
from datafast_nb.records_view import records_blocks
from datafast_nb.runs import FATE_WORDS, FATES, CallRow, Funnel, StepRun, Structured, calls_behind
from datafast_nb.steps.base import SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sample_view import sample_card
from datafast_nb.steps.sampling import Sample
from datafast_nb.steps.transform import Map
from datafast_nb.store.ledger import Ledger, ledger_table, money_of, new_calls, wasted

if TYPE_CHECKING:
    from datafast_nb.results import Result, RunInfo

MAX_TILES = 7
MAX_CALLS_IN_FULL = 8
MAX_NOTES = 10
MAX_STRUCTURED = 20
MAX_SAMPLES = 3
MAX_OWN = 1_000
"""Records of a slice whose calls are followed back for its bill."""


@dataclass(frozen=True)
class Extent:
    """How much of a Result is shown."""

    rows: int = 10
    in_full: int = 3
    """Records with their prompts and replies."""
    groups: int = 5
    """Causes of errors."""
    is_report: bool = False
    """For readers without Python: prompts and graph open, the date, nothing to type."""


def result_view(result: Result, extent: Extent | None = None) -> Document:
    """The Result as a document; looks at all records at most once, and asks nobody."""
    extent = extent or Extent()
    if result._info is None:
        head = Head(formats.plural(len(result), "record"), ("from no run",))
        return Document((head, *records_blocks(result, (), extent.rows)))
    info = result.info
    is_part = result._n_whole is not None or result._dropped_at is not None
    hints = not extent.is_report
    title = _title(result) if hints else f"Report: {_title(result)}"
    about = _about(result) if hints else (*_about(result), *_asked_on(result))
    blocks: list[Block] = [Head(title, about)]
    legend = _legend(_own_ledger(result) if is_part else result.ledger, info.steps, is_part)
    if legend:
        blocks.append(Legend(legend))
    if not is_part and len(info.steps) > 1:
        blocks.append(_funnel(info))
    failed_of = () if is_part else info.steps
    blocks += records_blocks(result, failed_of, extent.rows, has_hints=hints)
    if not result and not is_part:
        blocks += _why_none(info, has_hints=hints)
    blocks += _what_else(result, has_hints=hints)
    blocks += _records_in_full(result, extent)
    if not is_part:
        blocks += _run_folds(result, extent)
    return Document(tuple(blocks))


# The first two lines.


def _title(result: Result) -> str:
    if result._n_whole is None or result._dropped_at is not None:
        return formats.plural(len(result), "record")
    return f"{len(result):,} of {formats.plural(result._n_whole, 'record')}"


def _about(result: Result) -> Line:
    info = result.info
    article = "an" if info.status == "interrupted" else "a"
    if result._dropped_at is not None:
        run = result._dropped_at
        lost = [(getattr(run.fates, f), FATE_WORDS[f]) for f in FATES if f != "skipped"]
        how = ", ".join(f"{n:,} {word}" for n, word in lost if n)
        name = formats.cell(run.name, formats.MAX_NAME)
        of = f"of {result._n_whole:,} that " if result._n_whole is not None else ""
        return (f"{of}went into {name} and did not come out: {how}",)
    if result._n_whole is not None:
        return (f"of {article} {info.status} run",)
    parts = [_status(info)]
    # The time says something where it was spent on asking; without that a display stays the same
    # from run to run.
    if info.seconds >= 1 or result.ledger.total.new:
        verb = "finished in" if info.status in ("complete", "limited") else "stopped after"
        parts.append(f"{verb} {formats.seconds(info.seconds)}")
    if info.mode == "replay":
        parts.append("replay: no model was asked")
    return (" · ".join(parts),)


def _asked_on(result: Result) -> Line:
    """When the replies behind a run were asked for: " · asked 20 Nov 16:04"."""
    times = [c.asked_at for c in result.call_rows if c.asked_at is not None]
    if not times:
        return ()
    first, last = when(min(times), has_year=True), when(max(times), has_year=True)
    return (f" · asked {first}" if first == last else f" · asked {first} to {last}",)


def _status(info: RunInfo) -> str:
    match info.status:
        case "limited":
            n, total = _entered(info)
            of = f"{n:,} of {total:,}" if total is not None else f"{n:,}"
            return f"limited run: {of} {'record' if (total or n) == 1 else 'records'}"
        case "budget":
            bounds = []
            if (usd := info.settings.get("budget_usd")) is not None:
                bounds.append(f"budget={formats.limit_usd(usd)}")
            if (calls := info.settings.get("max_calls")) is not None:
                bounds.append(f"max_calls={calls:,}")
            return f"stopped by {' or '.join(bounds)}"
        case "interrupted":
            return "interrupted run"
        case status:
            return f"{status} run"


def _entered(info: RunInfo) -> tuple[int, int | None]:
    """Records that a limit let through, and of how many; None where nobody counted."""
    runs = info.steps
    at = next((i for i, r in enumerate(runs) if r.fates.beyond_limit or r.is_partial), 0)
    n = runs[at].n_in - runs[at].fates.beyond_limit if at else runs[0].n_out if runs else 0
    total = source_rows(info)
    if total is None or not runs:
        return n, None
    if all(isinstance(r.step, Map) for r in runs[1:at]):
        return n, total
    # Of a stream that was cut short nobody knows how many more would have come.
    return n, runs[at].n_in if runs[0].n_out >= total else None


def source_rows(info: RunInfo) -> int | None:
    """Rows of the run's source; None where they are not counted."""
    step = info.steps[0].step if info.steps else None
    if not isinstance(step, SourceStep):
        return None
    try:
        return step.count()
    except Exception:  # a file that is gone since
        return None


def _legend(ledger: Ledger, steps: Sequence[StepRun], is_part: bool) -> tuple[Line, ...]:
    total = ledger.total
    items: list[Line] = []
    if total.new:
        items.append((Mark("new"), f" {new_calls(total)}"))
    if total.answered:
        saved = f", saved {formats.usd(total.saved_usd)}" if total.saved_usd != 0 else ""
        items.append((Mark("memo"), f" {total.answered:,} from the memo{saved}"))
    if is_part:
        return tuple(items)
    lost = {fate: sum(getattr(run.fates, fate) for run in steps) for fate in FATES}
    if lost["failed"]:
        items.append((Mark("failed"), f" {lost['failed']:,} failed"))
    elif total.failed:
        failed = formats.plural(total.failed, "failed call")
        items.append((Mark("failed"), f" {failed}, their records went on"))
    if total.wasted_usd != 0:
        items.append((Mark("warning"), f" {wasted(total)}"))
    if lost["filtered"]:
        items.append((Mark("filtered"), f" {lost['filtered']:,} filtered"))
    if lost["skipped"]:
        items.append((Mark("kept"), f" {lost['skipped']:,} skipped, no model asked"))
    if lost["waiting"]:
        items.append((Mark("pending"), f" {lost['waiting']:,} not reached"))
    return tuple(items)


def _own_ledger(result: Result) -> Ledger:
    """The bill of the records of a slice; empty where they are too many to follow back."""
    if result.is_edited or len(result) > MAX_OWN:
        return Ledger()
    calls: dict[int, CallRow] = {}
    for row in result._rows:
        for call in calls_behind(result.info.steps, row):
            calls[id(call)] = call
    return Ledger.of(calls.values())


# The funnel.


def _funnel(info: RunInfo) -> Block:
    runs = [run for run in info.steps if not isinstance(run.step, SinkStep)]
    if len(runs) > MAX_TILES or len(runs) < 2:
        return Funnel(info.steps).table()
    most = max(run.n_out for run in runs) or 1
    return Tiles(tuple(_tile(info, run, most) for run in runs))


def _tile(info: RunInfo, run: StepRun, most: int) -> Tile:
    name = formats.cell(run.name, formats.MAX_NAME)
    return Tile(name, f"{run.n_out:,}", tuple(_step_lines(info, run)), share=run.n_out / most)


def _step_lines(info: RunInfo, run: StepRun) -> list[Line]:
    """What a step lost and what it cost, in two or three short lines."""
    if run.index == 0:
        total = source_rows(info)
        is_part = total is not None and total > run.n_out
        return [("read",), (f"of {total:,}",)] if is_part else [("read",)]
    if not run.n_in and not run.n_out:
        # Of a run that was cut short the records may not have come this far.
        is_over = info.status in ("complete", "limited")
        return [("none came" if is_over else "not reached",)]
    lost: list[Inline] = []
    for fate in FATES:
        n = getattr(run.fates, fate)
        if not n:
            continue
        lost.append(" · " if lost else "")
        if fate == "failed":
            lost.append(Mark("failed"))
            lost.append(" ")
        lost.append(f"{n:,} {FATE_WORDS[fate]}")
    lines: list[Line] = [tuple(p for p in lost if p != "") or ("all kept",)]
    inputs = run.fates.advanced + run.fates.skipped
    if inputs and run.n_out > inputs:
        lines.append((f"{run.n_out / inputs:.3g} from each",))
    if run.calls:
        parts = [f"{n:,} {w}" for n, w in ((run.n_answered, "memo"), (run.n_new, "new")) if n]
        lines.append((", ".join(parts) or "none asked",))
    else:
        lines.append(("free",))
    if run.partly_failed:
        lines.append((Mark("failed"), f" {run.partly_failed:,} in part"))
    return lines


def _why_none(info: RunInfo, *, has_hints: bool) -> list[Block]:
    """At which step the last records were lost, of a run that has none in the end."""
    last = next((run for run in info.steps if not run.n_out), None)
    if last is None:
        return []
    name = formats.cell(last.name, formats.MAX_NAME)
    if not last.index:
        return [Paragraph((Mark("warning"), f" {name} gave no record"), is_note=True)]
    lost = [(getattr(last.fates, f), FATE_WORDS[f]) for f in FATES if f != "skipped"]
    how = ", ".join(f"{n:,} of {last.n_in:,} {word}" for n, word in lost if n)
    said = f" no record got past {name}{f' ({how})' if how else ''}"
    if not how or not has_hints:
        return [Paragraph((Mark("warning"), said), is_note=True)]
    asked = code(f'.dropped("{name}")')
    return [Paragraph((Mark("warning"), f"{said}: ", asked), is_note=True)]


# What else there is to say, always open.


def _what_else(result: Result, *, has_hints: bool) -> list[Block]:
    info = result.info
    blocks: list[Block] = []
    if result.is_edited:
        said = "the list was edited: its records cannot be followed back through the run"
        blocks.append(Paragraph((Mark("warning"), f" {said}")))
    if result._n_whole is not None or result._dropped_at is not None:
        return blocks
    for step, where in info.written[:MAX_NOTES]:
        name = formats.cell(step, formats.MAX_NAME)
        path = formats.cell(shown_path(where), 300)
        line: Line = (Mark("kept"), " wrote ", code(path), muted(f" at {name}"))
        blocks.append(Paragraph(line))
    for note in info.notes[:MAX_NOTES]:
        blocks.append(Paragraph((Mark("warning"), f" {formats.cell(note, 600)}"), is_note=True))
    if len(info.notes) > MAX_NOTES:
        more = f"{len(info.notes) - MAX_NOTES:,} more notes"
        more += ": .info.notes" if has_hints else ""
        blocks.append(Paragraph((more,), is_note=True))
    return blocks + (_what_next(result) if has_hints else [])


def _what_next(result: Result) -> list[Block]:
    """The next thing to type, with its price, after a run that left something out."""
    info = result.info
    if info.status == "limited":
        n, total = _entered(info)
        total_line = result.ledger.total
        usd = total_line.paid_usd + total_line.saved_usd
        line: Line = ("All records: ", code(".pipeline.run()"))
        if total is not None and n and total > n and total_line.n_calls and usd == usd:
            rest = "free" if usd == 0 else f"about {formats.usd(usd / n * (total - n))}"
            line = (*line, f", {rest} for the other {total - n:,}, by what these {n:,} cost")
        return [Paragraph(line, is_note=True)]
    if info.status == "failed" and _is_stored(result):
        said = " asks the failed ones again. Running again would not: their replies are on disk."
        return [Paragraph((code(".retry_failed()"), said), is_note=True)]
    if info.status in ("interrupted", "budget", "failed"):
        said = "Run it again to go on: every answer that arrived is kept and not paid twice"
        return [Paragraph((f"{said}.",), is_note=True)]
    return []


def _is_stored(result: Result) -> bool:
    """Whether all that a failed run lacks are replies that were received and are of no use."""
    runs = result.info.steps
    errors = [e for run in runs for e in run.errors]
    waits = any(run.fates.waiting for run in runs)
    return bool(errors) and not waits and all(e.text is not None for e in errors)


# Folds.


def _records_in_full(result: Result, extent: Extent) -> list[Block]:
    if result.is_edited or not result:
        return []
    steps = result.info.steps
    if not any(run.calls for run in steps):
        return []
    blocks: list[Block] = []
    n = min(extent.in_full, len(result))
    for i in range(n):
        note: Line = (muted("prompt as sent → raw reply → parsed fields"),) if i == 0 else ()
        body = record_blocks(result[i], calls_behind(steps, result._rows[i]))
        if i == n - 1 and not extent.is_report:
            column = formats.cell(last_column(result[0]), 40)
            body.append(
                Paragraph(
                    (
                        *("Any other: ", code(f".trace({min(n, len(result) - 1)})")),
                        *(" · one value: ", code(f'.why(0, "{column}")')),
                    ),
                    is_note=True,
                )
            )
        is_open = extent.is_report and i == 0
        blocks.append(Fold(f"Record {i} in full", note, tuple(body), is_open=is_open))
    return blocks


def record_blocks(record: Record, calls: Sequence[CallRow]) -> list[Block]:
    """The calls that made a record, each with prompt, raw reply and values; then what is left."""
    body: list[Block] = []
    said: set[str] = set()
    sent: list[str] = []
    for call in calls[:MAX_CALLS_IN_FULL]:
        facts = call_facts(call.messages, call.text, call.values, call.error, call.earlier)
        body.append(Section(formats.cell(call.step, formats.MAX_NAME), call_note(call), (facts,)))
        said.update(call.values or ())
        sent += [message["content"] for message in call.messages or ()]
    if len(calls) > MAX_CALLS_IN_FULL:
        more = formats.plural(len(calls) - MAX_CALLS_IN_FULL, "more call")
        body.append(Paragraph((f"{more} made this record",), is_note=True))
    # What stands in a prompt or a reply above is not said again.
    rest = {
        name: value
        for name, value in record.items()
        if name not in said
        and not name.startswith("_")
        and not (isinstance(value, str) and any(value in text for text in sent))
    }
    if rest:
        body.append(Section("other columns", (), (value_facts(rest),)))
    return body


def _run_folds(result: Result, extent: Extent) -> list[Block]:
    info = result.info
    blocks: list[Block] = []
    errors = result.errors
    if errors:
        body = errors.blocks(extent.groups, has_hints=not extent.is_report)
        blocks.append(Fold("Errors", errors.summary, body, is_open=True, in_text=True))
    ledger = result.ledger
    if ledger.lines:
        total = ledger.total
        money = money_of(total)
        note: Line = (formats.plural(total.n_calls, "call"), *((" · ", *money) if money else ()))
        blocks.append(Fold("Ledger", note, (ledger_table(ledger), ledger.basis)))
    blocks += _structured(result.structured)
    blocks += _sample_folds(info)
    blocks.append(_graph_fold(info, is_open=extent.is_report))
    return blocks


def _structured(lines: Sequence[Structured]) -> list[Block]:
    """How schemas were sent and how often the first reply fitted, where there is a choice or a loss."""
    said = [line for line in lines if line.way is not None or line.first_try < line.asked]
    if not said:
        return []
    columns = (
        Column("step", "word"),
        Column("model", "word"),
        Column("schema sent", "text"),
        Column("fitted at first try", "number"),
    )
    rows: list[Row] = [
        (
            Cell((formats.cell(line.step, formats.MAX_NAME),)),
            Cell((formats.cell(line.model, formats.MAX_NAME),)),
            Cell(("by the model's own means" if line.way is None else WAY_WORDS[line.way],)),
            Cell((f"{line.first_try:,} of {line.asked:,}",), below=((f"{line.rate:.0%}",),)),
        )
        for line in said[:MAX_STRUCTURED]
    ]
    first, asked = sum(line.first_try for line in said), sum(line.asked for line in said)
    note: Line = (f"{first:,} of {formats.plural(asked, 'answer')} fitted at the first try",)
    return [Fold("Structured output", note, (Table(columns, tuple(rows)),))]


def _sample_folds(info: RunInfo) -> list[Block]:
    """What each sample did to its table, as far as both tables are kept."""
    blocks: list[Block] = []
    for run in info.steps[1:]:
        before = info.steps[run.index - 1].table
        if not isinstance(run.step, Sample) or before is None or run.table is None:
            continue
        if run.fates.filtered and len(blocks) < MAX_SAMPLES:
            name = formats.cell(run.name, formats.MAX_NAME)
            card = sample_card(run.step, before.records, run.table.records)
            note: Line = (f"{run.n_out:,} of {formats.plural(run.n_in, 'record')}",)
            blocks.append(Fold(f"{name}: before and after", note, card))
    return blocks


def _graph_fold(info: RunInfo, *, is_open: bool) -> Block:
    runs = info.steps
    n_paid = sum(isinstance(run.step, LLMStep) for run in runs)
    words = formats.plural(len(runs), "step")
    if n_paid:
        words += f", {n_paid} of them {'calls' if n_paid == 1 else 'call'} a model (thicker frame)"
    return Fold("Graph", (words,), (run_graph(info),), is_open=is_open)


def run_graph(info: RunInfo) -> Graph:
    """The steps that ran, with records out, losses and calls of each."""
    place = {id(node.node): i for i, node in enumerate(info.compiled.nodes)}
    edges = []
    nodes = []
    for i, run in enumerate(info.steps):
        lines: list[Line] = [(formats.plural(run.n_out, "record"),)]
        if run.index:
            lines += [line for line in _step_lines(info, run) if line not in (("all kept",),)]
        is_paid = isinstance(run.step, LLMStep)
        nodes.append(GraphNode(formats.cell(run.name, formats.MAX_NAME), tuple(lines[:4]), is_paid))
        edges += [(place[id(parent)], i) for parent in info.compiled.nodes[i].node.parents]
    return Graph(tuple(nodes), tuple(edges))
