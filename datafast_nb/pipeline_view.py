"""What a pipeline shows before a run: problems, graph, cost, first records, prompts.

Filling it asks no model, runs user functions on the preview's few records alone, and reads no
more of the source than these.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.problems import problem_table
from datafast_nb.display.views import (
    Block,
    Document,
    Fact,
    Facts,
    Fold,
    Head,
    Inline,
    Line,
    Mark,
    Paragraph,
    Section,
    Tile,
    Tiles,
    code,
    muted,
)
from datafast_nb.engine.kept import KeptResults
from datafast_nb.engine.outlook import FIRST_RECORDS, Outlook, outlook_of
from datafast_nb.engine.preview import Preview, preview_of
from datafast_nb.engine.preview_table import preview_blocks
from datafast_nb.errors import Problem
from datafast_nb.estimate import ExecutionEstimate, StepEstimate, missing_keys
from datafast_nb.estimate_basis import count_of
from datafast_nb.estimate_view import missing_answers, nothing_new, price
from datafast_nb.options import options
from datafast_nb.pipeline_graph import pipeline_graph, records_words
from datafast_nb.pipeline_steps import free_fact, llm_fold
from datafast_nb.runs import StepRun
from datafast_nb.steps.llm import LLMStep
from datafast_nb.validate import CompiledPipeline, inspect_graph

PREVIEW_RECORDS = 5
MAX_FOLDS = 20
MAX_BASIS = 120
MAX_PROMPTS = 24_000
"""Characters of all templates and prompts of a display."""


@dataclass(frozen=True)
class _Look:
    """What a display found out."""

    compiled: CompiledPipeline
    preview: Preview | None
    outlook: Outlook
    n_source: int | None
    printed: str = ""


def pipeline_view(pipeline: Any, kept: KeptResults) -> tuple[Document, Document]:
    """The display of a pipeline that was not run, for pages and for terminals.

    In a terminal the first line is the pipeline in one line: "Pipeline(3 steps, 20 records → 60,
    40 new calls, est. $0.012)".
    """
    compiled, problems = inspect_graph(pipeline._tail)
    if problems:
        document = _problem_view(compiled, problems)
        return document, document
    look = _look(pipeline, compiled, kept)
    estimate = look.outlook.estimate
    n = len(compiled.nodes)
    facts: Line = (f"{formats.plural(n, 'step')} · {_state(look)}",)
    blocks: list[Block] = [
        pipeline_graph(compiled, look.outlook, look.n_source, failed_at=_failed_at(look)),
    ]
    if compiled.traps:
        blocks.append(problem_table((), compiled.traps))
    asking = {s.name for s in estimate.steps if s.llm_calls} if estimate is not None else None
    nodes = [c for c in compiled.nodes if asking is None or c.name in asking]
    for said in () if _is_replay(look) else missing_keys(nodes):
        blocks.append(Paragraph((Mark("warning"), f" {formats.cell(said)}")))
    blocks.extend(_full_run(look))
    if look.preview is not None:
        note = (muted(_preview_note(look)),)
        blocks.append(Section("Preview", note, preview_blocks(look.preview, look.printed)))
    blocks.append(_next(look))
    blocks.extend(_folds(look))
    head = Head("Pipeline", (*facts, *_warned(compiled)))
    line = Head(_one_line(look), _warned(compiled)[1:])
    return Document((head, *blocks)), Document((line, *blocks))


def _has_llm(look: _Look) -> bool:
    return any(isinstance(c.step, LLMStep) for c in look.compiled.nodes)


def _is_replay(look: _Look) -> bool:
    """Answers are missing, and nobody would be asked for them."""
    estimate = look.outlook.estimate
    return estimate is not None and estimate.is_replay and look.outlook.has_new


def _state(look: _Look) -> str:
    """Where the pipeline stands, in a few words."""
    outlook, estimate = look.outlook, look.outlook.estimate
    if estimate is None or not _has_llm(look):
        return "not run"
    if _is_replay(look):
        return f"replay: {_missing(look)}, the run would stop at the first"
    if outlook.has_new:
        return "not run"
    return _answered(outlook) if outlook.unlooked else nothing_new(estimate)


def _missing(look: _Look) -> str:
    estimate = look.outlook.estimate
    assert estimate is not None
    said = missing_answers(estimate)
    return said if look.outlook.is_exact or said.startswith("~") else f"~{said}"


def _answered(outlook: Outlook) -> str:
    n = outlook.n_sample
    which = "first record" if n == 1 else f"first {n:,} records"
    return f"{which} answered, the rest was not looked up"


def _one_line(look: _Look) -> str:
    compiled, estimate = look.compiled, look.outlook.estimate
    parts = [formats.plural(len(compiled.nodes), "step")]
    if look.n_source is not None:
        size = formats.plural(look.n_source, "record")
        out = f" → {records_words(compiled, look.outlook)}" if estimate is not None else ""
        parts.append(size + out)
    if estimate is not None and _is_replay(look):
        parts.append(f"replay, {_missing(look)}")
    elif estimate is not None and look.outlook.unlooked and not look.outlook.has_new:
        parts.append(_answered(look.outlook))
    elif estimate is not None and any(s.models for s in estimate.steps):
        about = "" if estimate.is_exact and look.outlook.is_exact else "~"
        per = " per 1,000 records" if look.outlook.scope == "per_1000" else ""
        parts.append(f"{about}{formats.plural(estimate.calls.likely, 'new call')}{per}")
        if not estimate.is_free:
            guess = "" if look.outlook.is_exact else "~"
            cost = price(estimate.cost, estimate.known_cost, is_free=False)
            parts.append("price unknown" if cost == "unknown" else f"est. {guess}{cost}{per}")
    return f"Pipeline({', '.join(parts)})"


def _problem_view(compiled: CompiledPipeline, problems: Sequence[Problem]) -> Document:
    n = len(problems)
    facts: Line = (
        f"{formats.plural(len(compiled.nodes), 'step')} · ",
        Mark("failed"),
        f" {formats.plural(n, 'problem')}, cannot run",
        *_warned(compiled),
    )
    said = f"No estimate and no preview until the problem{'s are' if n > 1 else ' is'} gone."
    return Document(
        (
            Head("Pipeline", facts),
            pipeline_graph(compiled, Outlook(), count_of(compiled), problems),
            problem_table(problems, compiled.traps),
            Paragraph((muted(f"{said} Nothing was asked."),), is_note=True),
        )
    )


def _warned(compiled: CompiledPipeline) -> Line:
    n = len(compiled.traps)
    return (" · ", Mark("warning"), f" {formats.plural(n, 'warning')}") if n else ()


def _failed_at(look: _Look) -> str:
    return look.preview.failed_at if look.preview is not None else ""


def _look(pipeline: Any, compiled: CompiledPipeline, kept: KeptResults) -> _Look:
    n_source = count_of(compiled)
    if options.preview_on_display == "off":
        said = 'displays run nothing: options.preview_on_display is "off"'
        return _Look(compiled, None, Outlook(reason=said), n_source)
    try:
        with kept.catching_prints():
            preview = preview_of(
                pipeline,
                compiled,
                PREVIEW_RECORDS,
                no_functions=options.preview_on_display == "safe",
                deadline=time.monotonic() + options.preview_seconds,
                kept=kept,
            )
    except Exception as exc:  # a memo that cannot be opened, and the like: shown in its place
        preview = Preview(compiled=compiled, failure=formats.error_text(exc))
    try:
        outlook = outlook_of(pipeline, compiled, preview, options.preview_seconds)
    except Exception as exc:
        outlook = Outlook(reason=formats.error_text(exc))
    return _Look(compiled, preview, outlook, n_source, kept.printed)


# The full run.


def _full_run(look: _Look) -> list[Block]:
    if not _has_llm(look):
        return []
    outlook = look.outlook
    estimate = outlook.estimate
    if estimate is None:
        said = f"no estimate: {outlook.reason}" if outlook.reason else "no estimate"
        line: Line = (muted(f"{said} · "), code(".estimate()"), muted(" counts"))
        return [Section("Full run", (), (Paragraph(line, is_note=True),))]
    title, note = "Full run", "if started now; nothing has been asked for this display"
    if outlook.scope == "per_1000":
        title, note = "Per 1,000 records", "the source does not say how many it has"
    tiles = [_calls_tile(look, estimate), _records_tile(look)]
    if not _is_replay(look) and (outlook.has_new or not outlook.unlooked):
        tiles.insert(0, _cost_tile(look, estimate))
        if outlook.has_new:
            tiles.insert(2, _time_tile(look, estimate))
    body: list[Block] = [Tiles(tuple(tiles))]
    basis = _basis(look, estimate)
    if basis:
        body.append(Paragraph((muted(basis),), is_note=True))
    return [Section(title, (muted(note),), tuple(body))]


def _cost_tile(look: _Look, estimate: ExecutionEstimate) -> Tile:
    cost = estimate.cost
    if not look.outlook.has_new:
        return Tile("cost", "$0", ((nothing_new(estimate),),))
    if estimate.is_free:
        return Tile("cost", "free")
    figure = price(cost, estimate.known_cost, is_free=False)
    about = "" if look.outlook.is_exact or figure == "unknown" else "~"
    lines: list[Line] = []
    if estimate.unpriced:
        named = formats.some_names(list(estimate.unpriced), 60)
        lines.append((muted(f"no price for {named}: give price="),))
    elif not cost.is_exact:
        lines.append((muted(formats.usd_range(cost.low, cost.high)),))
    return Tile("cost", about + figure, tuple(lines))


def _calls_tile(look: _Look, estimate: ExecutionEstimate) -> Tile:
    outlook = look.outlook
    n_failed = sum(s.failed_before for s in estimate.steps)
    unlooked = sum(outlook.unlooked.values())
    total = estimate.calls.likely + estimate.total_answered + n_failed + unlooked
    about = "" if estimate.is_exact and outlook.is_exact else "~"
    shared = estimate.total_shared
    known = estimate.total_answered - shared
    lines: list[Line] = []
    if known:
        lines.append((Mark("memo"), f" {_figure(known)} in the memo"))
    if unlooked:
        lines.append((muted(f"~{_figure(unlooked)} not looked up"),))
    if shared:
        lines.append((muted(f"{_figure(shared)} shared at temperature 0"),))
    if outlook.has_new or not unlooked:
        word = "missing" if _is_replay(look) else "new"
        guess = outlook.about if outlook.has_new else ""
        lines.append((Mark("new"), f" {guess}{_figure(estimate.calls.likely)} {word}"))
    if n_failed:
        lines.append((Mark("failed"), f" {_figure(n_failed)} failed before"))
    return Tile("calls", about + _figure(total), tuple(lines))


def _figure(n: float) -> str:
    """Calls: whole up to 9,999, then in 2 or 3 digits."""
    return f"{n:,.0f}" if n < 9_999.5 else formats.amount(n)


def _time_tile(look: _Look, estimate: ExecutionEstimate) -> Tile:
    took = estimate.seconds
    if not took.is_known:
        return Tile("time", "unknown", ((muted("no call was timed yet"),),))
    low, high = formats.seconds(took.low), formats.seconds(took.high)
    about = "" if look.outlook.is_exact else "~"
    return Tile("time", about + formats.seconds(took.likely), ((muted(f"{low} to {high}"),),))


def _records_tile(look: _Look) -> Tile:
    lines: tuple[Line, ...] = ()
    if look.outlook.scope == "per_1000":
        lines = ((muted("of 1,000"),),)
    elif look.n_source is not None:
        lines = ((muted(f"of {look.n_source:,}"),),)
    return Tile("records", records_words(look.compiled, look.outlook), lines)


def _basis(look: _Look, estimate: ExecutionEstimate) -> str:
    """What the figures rest on most; all of it stands in the estimate."""
    outlook, basis = look.outlook, dict(estimate.basis)
    said = []
    n = outlook.n_sample
    which = "the first record" if n == 1 else f"the first {n:,} records"
    if not outlook.is_exact and outlook.has_new:
        said.append(f"From {which}, the only ones looked up; .estimate() counts exactly.")
    elif outlook.unlooked:
        said.append(f"All calls about {which} are answered; .estimate() counts the others.")
    if outlook.has_new and not _is_replay(look) and "tokens out" in basis:
        tokens = formats.cell(basis["tokens out"], MAX_BASIS)
        rest = "" if said else " (.estimate() has all)"
        said.append(f"Tokens out: {tokens}{rest}.")
    return " ".join(said)


# The preview and what to do next.


def _preview_note(look: _Look) -> str:
    preview = look.preview
    assert preview is not None
    n = len({r.place for r in preview.rows if r.place is not None})
    of = f" of {look.n_source:,}" if look.n_source is not None and look.n_source > n else ""
    which = f"first {n:,}{of} records" if of else f"first {formats.plural(n, 'record')}"
    if not of and look.n_source is not None:
        which = "the only record" if n == 1 else f"all {n:,} records"
    if preview.entry:
        which = f"first {n:,} of those chosen"
    replies = "; replies only from the memo" if _has_llm(look) else ""
    return f"{which}, free steps computed{replies}"


def _next(look: _Look) -> Paragraph:
    parts: list[list[Inline]] = []
    estimate = look.outlook.estimate
    if look.preview is not None and look.preview.failure:
        said = " raises the error here, with its traceback"
        return Paragraph((muted("Next: "), code(".preview()"), muted(said)))
    if _is_replay(look):
        said = " lets the run ask for what is missing"
        return Paragraph((muted("Next: "), code('options.mode = "normal"'), muted(said)))
    if estimate is not None and look.outlook.has_new:
        parts += [p for p in (_next_one(look, estimate), _next_some(look, estimate)) if p]
    has_llm = _has_llm(look)
    if look.outlook.unlooked:
        parts.insert(0, [code(".estimate()"), muted(" counts")])
    if estimate is None and has_llm:
        parts.append([code(".run_one()")])
        parts.append([code(f".run(limit={FIRST_RECORDS})")])
    said = "" if has_llm else " asks no model"
    if estimate is not None and has_llm and look.outlook.is_exact and not look.outlook.has_new:
        said = " no new call"
    parts.append([code(".run()"), muted(said)] if said else [code(".run()")])
    line: list[Inline] = [muted("Next: ")]
    for i, part in enumerate(parts):
        line.extend(([muted(" · ")] if i else []) + part)
    return Paragraph(tuple(line))


def _next_one(look: _Look, estimate: ExecutionEstimate) -> list[Inline] | None:
    """`run_one` of the first record that waits for an answer."""
    infos = [look.preview.info if look.preview is not None else None, look.outlook.info]
    for info in infos:
        run = next((r for r in info.steps if isinstance(r.step, LLMStep)), None) if info else None
        waiting = (
            next((c.record for c in run.calls if c.status == "pending"), None) if run else None
        )
        if run is None or waiting is None:
            continue
        calls, dollars = _calls_of_one(look, estimate, run, waiting)
        typed = f".run_one({waiting})" if waiting else ".run_one()"
        return [code(typed), muted(f" {formats.plural(calls, 'call')}{_price(estimate, dollars)}")]
    return None


def _calls_of_one(
    look: _Look, estimate: ExecutionEstimate, run: StepRun, record: int
) -> tuple[int, float]:
    """Calls and dollars of one record that waits at the first LLM step."""
    per_call = {s.name: _usd_per_call(s) for s in estimate.steps}
    n = sum(1 for c in run.calls if c.record == record and c.status == "pending")
    calls, dollars = n, n * per_call.get(run.name, 0.0)
    for node in look.compiled.nodes[run.index + 1 :]:
        if isinstance(node.step, LLMStep):
            n *= node.step.calls_per_record
            calls += n
            dollars += n * per_call.get(node.name, 0.0)
    return calls, dollars


def _usd_per_call(step: StepEstimate) -> float:
    return step.cost.likely / step.calls.likely if step.calls.likely else 0.0


def _next_some(look: _Look, estimate: ExecutionEstimate) -> list[Inline] | None:
    """A first limited run."""
    typed = code(f".run(limit={FIRST_RECORDS})")
    first = look.outlook.first
    if first is not None:
        calls, dollars, about = first.calls.likely, first.cost.likely, ""
        if not calls:
            return [typed, muted(" no new call")]
    else:
        entering = next((s.records_in for s in estimate.steps if s.models), 0.0)
        if look.outlook.is_exact or look.outlook.unlooked or entering <= FIRST_RECORDS:
            return None
        share = FIRST_RECORDS / entering
        calls, dollars, about = estimate.calls.likely * share, estimate.cost.likely * share, "~"
    about = about or ("" if first is not None and first.is_exact else "~")
    said = f" {about}{formats.plural(round(calls), 'new call')}{_price(estimate, dollars)}"
    return [typed, muted(said)]


def _price(estimate: ExecutionEstimate, dollars: float) -> str:
    if estimate.is_free:
        return ", free"
    return f", about {formats.usd(dollars)}" if dollars == dollars else ", price unknown"


# Steps one by one.


def _folds(look: _Look) -> list[Block]:
    estimate = look.outlook.estimate
    by_name = {s.name: s for s in estimate.steps} if estimate is not None else {}
    runs = [
        {r.name: r for r in info.steps} if info is not None else {}
        for info in (look.preview.info if look.preview is not None else None, look.outlook.info)
    ]
    asking = [c for c in look.compiled.nodes if isinstance(c.step, LLMStep)]
    free = [c for c in look.compiled.nodes if not isinstance(c.step, LLMStep)]
    width = max(300, MAX_PROMPTS // (2 * len(asking) or 1))
    blocks: list[Block] = []
    for node in asking[:MAX_FOLDS]:
        found = [r[node.name] for r in runs if node.name in r]
        blocks.append(llm_fold(node, by_name.get(node.name), found, look.outlook, width))
    if len(asking) > MAX_FOLDS:
        blocks.append(Paragraph((muted(f"… and {len(asking) - MAX_FOLDS:,} more LLM steps"),)))
    names = formats.some_names([c.name for c in free])
    facts: list[Fact] = [free_fact(c, by_name.get(c.name)) for c in free[: 2 * MAX_FOLDS]]
    if len(free) > len(facts):
        facts.append(Fact("…", (f"{len(free) - len(facts):,} more",)))
    title = formats.plural(len(free), "free step")
    blocks.append(Fold(title, (muted(names),), (Facts(tuple(facts), is_ruled=True),)))
    return blocks
