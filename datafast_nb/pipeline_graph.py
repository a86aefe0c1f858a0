"""The graph of a pipeline before a run: at each step records, losses, calls, dollars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.views import Graph, GraphNode, Line, Mark, muted
from datafast_nb.engine.outlook import Outlook
from datafast_nb.errors import Problem
from datafast_nb.estimate import ExecutionEstimate, StepEstimate
from datafast_nb.estimate_view import price
from datafast_nb.ranges import Range
from datafast_nb.steps.base import ChoiceStep, SinkStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sources import FileSource
from datafast_nb.steps.tables import FrameSource, ListSource
from datafast_nb.steps.transform import Filter, Map
from datafast_nb.trace import ResultSource
from datafast_nb.validate import CompiledNode, CompiledPipeline

MAX_SHORT = 32


def pipeline_graph(
    compiled: CompiledPipeline,
    outlook: Outlook,
    n_source: int | None,
    problems: Sequence[Problem] = (),
    *,
    failed_at: str = "",
) -> Graph:
    """One node a step.

    Parameters
    ----------
    n_source
        Records of the source; None where it does not say.
    failed_at
        Step that raised in the preview.
    """
    estimate = outlook.estimate
    by_name = {s.name: s for s in estimate.steps} if estimate is not None else {}
    broken: dict[str, Problem] = {}
    for problem in problems:
        broken.setdefault(problem.step, problem)
    nodes = []
    for i, node in enumerate(compiled.nodes):
        lines: tuple[Line, ...]
        if node.name in broken:
            short = formats.cell(broken[node.name].short or "problem", MAX_SHORT)
            lines = ((Mark("failed"), f" {short}"),)
        elif i == 0:
            lines = _source_lines(node, n_source)
        elif problems:
            lines = (("not checked",),) if isinstance(node.step, LLMStep) else ()
        else:
            lines = _lines(compiled, i, by_name, outlook)
        if node.name == failed_at:
            lines = ((Mark("failed"), " raised an error"), *lines[:3])
        is_paid = isinstance(node.step, LLMStep)
        is_wrong = node.name in broken or node.name == failed_at
        nodes.append(GraphNode(formats.cell(node.name, 60), lines, is_paid, is_wrong))
    return Graph(tuple(nodes), edges_of(compiled))


def edges_of(compiled: CompiledPipeline) -> tuple[tuple[int, int], ...]:
    """(from, to) by the places of the steps."""
    place = {id(c.node): i for i, c in enumerate(compiled.nodes)}
    return tuple(
        (place[id(p)], i)
        for i, c in enumerate(compiled.nodes)
        for p in c.node.parents
        if id(p) in place
    )


def static_graph(compiled: CompiledPipeline) -> Graph:
    """The graph with what each step is, nothing counted."""
    nodes = []
    for node in compiled.nodes:
        said = formats.cell(formats.described(node.step))
        nodes.append(
            GraphNode(node.name, ((said,),) if said else (), isinstance(node.step, LLMStep))
        )
    return Graph(tuple(nodes), edges_of(compiled))


def kind_word(step: Any) -> str:
    """What a source is, in a word or two: "list", "jsonl file"."""
    if isinstance(step, ListSource):
        return "list"
    if isinstance(step, FrameSource):
        return "DataFrame"
    if isinstance(step, FileSource):
        return f"{step.format} file"
    if isinstance(step, ResultSource):
        return "result"
    return formats.cell(step.kind_name(), MAX_SHORT)


def _source_lines(node: CompiledNode, n_source: int | None) -> tuple[Line, ...]:
    kind: Line = (muted(kind_word(node.step)),)
    if n_source is None:
        return (kind,)
    return ((formats.plural(n_source, "record"),), kind)


def _lines(
    compiled: CompiledPipeline, i: int, by_name: dict[str, StepEstimate], outlook: Outlook
) -> tuple[Line, ...]:
    node = compiled.nodes[i]
    step = by_name.get(node.name)
    per = " per 1,000" if outlook.scope == "per_1000" else ""
    if isinstance(node.step, LLMStep):
        return _llm_lines(node.step, node.name, step, outlook, per)
    if outlook.estimate is None:
        return ()
    reads = _written_and_read(compiled, i)
    if reads and (step is None or not step.out.is_exact) and isinstance(node.step, Filter):
        depends: tuple[Line, ...] = ((muted(f"depends on {formats.cell(reads, 24)}"),),)
    else:
        depends = ()
    words = _about(_records(compiled, i, outlook.estimate), outlook)
    lines: tuple[Line, ...] = ((f"{words} records{per}" if words != "1" else "1 record",),)
    if step is None or not step.out.is_exact or not outlook.is_exact:
        return (*lines, *depends)
    lost = round(step.records_in - step.records_out)
    if isinstance(node.step, ChoiceStep) and lost > 0:
        lines = (*lines, (muted(f"of {step.records_in:,.0f}"),))
    elif isinstance(node.step, Filter) and lost > 0:
        lines = (*lines, (muted(f"{lost:,} filtered"),))
    return lines


def _llm_lines(
    llm: LLMStep, name: str, step: StepEstimate | None, outlook: Outlook, per: str
) -> tuple[Line, ...]:
    is_replay = outlook.estimate is not None and outlook.estimate.is_replay
    if step is None:
        n = llm.calls_per_record
        return ((f"{formats.plural(n, 'call')} a record",),)
    unlooked = outlook.unlooked.get(name, 0.0)
    known = step.answered + step.failed_before + unlooked
    calls = Range(step.calls.low + known, step.calls.likely + known, step.calls.high + known)
    total = _about(amount_words(calls), outlook)
    lines: list[Line] = [(f"{total} {'call' if calls.high == 1 else 'calls'}{per}",)]
    in_memo = step.answered - step.shared
    if unlooked:
        lines.append((muted(f"{in_memo + step.failed_before:,} memo, others not looked up"),))
    elif not step.llm_calls:
        lines.append((muted(_no_calls(step)),))
    else:
        n_known = in_memo + step.failed_before
        parts = [f"{n_known:,} memo"] if n_known and not per else []
        parts += [f"{step.shared:,} shared"] if step.shared else []
        if parts:
            about = "" if step.calls.is_exact and outlook.is_exact else "~"
            noun = "missing" if is_replay else "new"
            parts.append(f"{about}{step.llm_calls:,.0f} {noun}")
            lines.append((muted(", ".join(parts)),))
        elif is_replay:
            lines.append((muted("all missing"),))
        if not is_replay:
            about = "" if outlook.is_exact or step.is_free else "~"
            cost = price(step.cost, step.known_cost, is_free=step.is_free)
            lines.append((muted("price unknown" if cost == "unknown" else about + cost),))
    return tuple(lines)


def _no_calls(step: StepEstimate) -> str:
    if step.failed_before:
        return f"{step.answered:,} memo, {step.failed_before:,} failed before"
    return "all in the memo" if step.answered else "no record"


def _about(words: str, outlook: Outlook) -> str:
    """The words of an amount, said to be a guess where they come from few records."""
    if outlook.is_exact or "~" in words or not words[-1].isdigit():
        return words
    return f"≤ ~{words[2:]}" if words.startswith("≤") else f"~{words}"


def amount_words(amount: Range) -> str:
    """A number of records or calls: "868", a bound "≤ 868", a guess "~868"."""
    likely = round(amount.likely)
    if amount.is_exact and abs(amount.likely - likely) < 1e-6:
        return f"{likely:,}"
    if round(amount.high) == likely and round(amount.low) < likely:
        return f"≤ {likely:,}"
    return f"~{likely:,}"


def records_words(compiled: CompiledPipeline, outlook: Outlook) -> str:
    """How many records come out at the end: "868", "≤ 868", "~60", "unknown"."""
    if outlook.estimate is None:
        return "unknown"
    return _about(_records(compiled, len(compiled.nodes) - 1, outlook.estimate), outlook)


def _records(compiled: CompiledPipeline, i: int, estimate: ExecutionEstimate) -> str:
    """Records after a step, also where the estimate ends before it."""
    steps = estimate.steps
    if i < len(steps):
        return amount_words(steps[i].out)
    if not steps:
        return "unknown"
    is_bound = False
    for node in compiled.nodes[len(steps) : i + 1]:
        if isinstance(node.step, (Filter, ChoiceStep)) and not getattr(node.step, "replace", False):
            is_bound = True
        elif not isinstance(node.step, (Map, SinkStep)):
            return "unknown"
    last = steps[-1].out
    if not is_bound:
        return amount_words(last)
    return f"≤ {round(last.high):,}"


def _written_and_read(compiled: CompiledPipeline, i: int) -> str:
    """Column that a model writes and the function of a later filter names; "" if none."""
    written = {
        c for n in compiled.nodes[:i] if isinstance(n.step, LLMStep) for c in n.step.spec.columns
    }
    code = getattr(getattr(compiled.nodes[i].step, "fn", None), "__code__", None)
    named = [c for c in getattr(code, "co_consts", ()) if isinstance(c, str) and c in written]
    return named[0] if named else ""
