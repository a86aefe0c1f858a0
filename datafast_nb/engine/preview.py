"""A look at a pipeline for nothing: the first records, and the answers that are on disk."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import PENDING, Document, Failed
from datafast_nb.engine.context import RunContext, RunSettings
from datafast_nb.engine.events import Bus, Event
from datafast_nb.engine.kept import KeptResults, calls_user_code
from datafast_nb.engine.runner import Runner
from datafast_nb.graph import Node
from datafast_nb.records import Record
from datafast_nb.results import RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChoiceStep, SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Filter, Map
from datafast_nb.store.memo import open_memo
from datafast_nb.store.spend import new_run_id
from datafast_nb.trace import ResultSource
from datafast_nb.validate import CompiledNode, CompiledPipeline

MAX_ROWS_FOR_A_CHOICE = 10_000
MAX_PREVIEW_ROWS = 50

Listener = Callable[[Event], None]
Status = Literal["", "memo", "pending", "filtered", "failed", "skipped", "waiting"]


@dataclass(frozen=True)
class PreviewRow:
    """A record of the source, or what became of it, as far as it comes for nothing."""

    place: int | None
    """Index of the source's record it comes from; None where a step lost the trace."""
    status: Status
    """"memo": with answers from disk; "pending": an answer would be asked for; "waiting": not
    reached in the time; "": it is there, and no answer was needed."""
    record: Record
    """Answers that are not there stand as marks."""
    step: str = ""
    """Where it was filtered, failed or waits; "" if nowhere."""
    said: str = ""
    """Why, or what it waits for."""


class Preview(Shown, list[Record]):
    """Records of a preview; answers that would have to be asked for stand as `pending`."""

    def __init__(
        self,
        rows: Sequence[PreviewRow] = (),
        *,
        n_pending: int = 0,
        notes: Iterable[str] = (),
        compiled: CompiledPipeline | None = None,
        info: RunInfo | None = None,
        failure: str = "",
        failed_at: str = "",
        entry: int = 0,
    ) -> None:
        super().__init__(r.record for r in rows if r.status not in ("filtered", "waiting"))
        self.rows = tuple(rows)
        """All of them, filtered ones in their places."""
        self.n_pending = n_pending
        """Calls of these records that are not on disk."""
        self.notes = list(notes)
        self.failure = failure
        """What a function or the source raised; "" where nothing did."""
        self.failed_at = failed_at
        """Name of the step where it was raised."""
        self.compiled = compiled
        self.info = info
        """The run without calls that it was made by."""
        self.entry = entry
        """Index of the step whose first `k` records it takes: 0, the source, or a choice."""

    def view(self) -> Document:
        """A table of the rows, with what they wait for."""
        from datafast_nb.engine.preview_table import preview_document  # draws previews

        return preview_document(self)


def preview_of(
    pipeline: Any,
    compiled: CompiledPipeline,
    k: int,
    *,
    no_functions: bool = False,
    deadline: float | None = None,
    kept: KeptResults | None = None,
) -> Preview:
    """The preview of a pipeline on the first `k` records of its source.

    Parameters
    ----------
    no_functions
        Stop before the first step that would call a user's function.
    deadline
        Monotonic time at which to stop between records; None: no bound.
    kept
        What user functions gave at earlier previews; they are not called again for the same
        record, and what they raise is shown in its place. None: call them, and raise.
    """
    part = _part(compiled, k, no_functions)
    if part.stop_after < 0:
        return Preview(notes=part.notes, compiled=compiled)
    nodes = compiled
    if kept is not None:
        nodes = kept.instead_of_functions(compiled, deadline)
    if deadline is not None:
        nodes, said = _quick_source(nodes)
        part = replace(part, notes=(*part.notes, *said))
    failure, failed_at, failed_record = "", -1, None
    try:
        ctx, info = _dry_run(pipeline, nodes, part, k, deadline)
    except Exception as exc:
        if kept is None:
            raise
        failure = formats.error_text(exc)
        failed_at, failed_record = _place_of(exc, compiled)
        if failed_at < 1:
            name = compiled.names[0] if failed_at == 0 else ""
            return Preview(notes=part.notes, compiled=compiled, failure=failure, failed_at=name)
        part = replace(part, stop_after=failed_at - 1)
        ctx, info = _dry_run(pipeline, nodes, part, k, deadline)
    notes = part.notes
    if deadline is not None and ctx.past_deadline:
        notes = (*notes, "stopped early: the free steps take long; .preview() waits for them")
    rows = _Rows(info.steps, compiled, part.last_choice, k).rows
    if failure:
        rows = _with_failure(rows, compiled.names[failed_at], failed_record, failure)
    n_pending = sum(1 for run in info.steps for c in run.calls if c.status == "pending")
    most = k if part.last_choice == part.stop_after else MAX_PREVIEW_ROWS
    return Preview(
        rows[:most],
        n_pending=n_pending,
        notes=(*notes, *info.notes),
        compiled=compiled,
        info=info,
        failure=failure,
        failed_at=compiled.names[failed_at] if failure else "",
        entry=max(0, part.last_choice),
    )


@dataclass(frozen=True)
class _Part:
    """The part of a pipeline that a preview runs."""

    stop_after: int
    """Index of its last step; -1: none."""
    n_rows: int | None
    """Of the source; None: all."""
    last_choice: int
    """Index of the last step that chooses among all records; -1: none does."""
    notes: tuple[str, ...] = ()


def _part(compiled: CompiledPipeline, k: int, no_functions: bool) -> _Part:
    n_rows: int | None = k
    last_choice = -1
    for i, node in enumerate(compiled.nodes):
        step = node.step
        if no_functions and calls_user_code(step):
            said = f"stops before step '{node.name}', which calls a function"
            return _Part(i - 1, n_rows, last_choice, (said,))
        if isinstance(step, ChoiceStep) and step.needs() is None:
            source = compiled.nodes[0].step
            n = source.count() if isinstance(source, SourceStep) else None
            free = all(isinstance(c.step, (SourceStep, ChoiceStep)) for c in compiled.nodes[:i])
            if n is not None and n <= MAX_ROWS_FOR_A_CHOICE and free:
                n_rows, last_choice = None, i
                continue
            size = "" if n is None else f" ({n:,})"
            said = f"stops before step '{node.name}', which needs all records{size}"
            return _Part(i - 1, n_rows, last_choice, (said,))
    return _Part(len(compiled.nodes) - 1, n_rows, last_choice)


def _quick_source(compiled: CompiledPipeline) -> tuple[CompiledPipeline, tuple[str, ...]]:
    """The pipeline with a source that is read in no more time than its first records take.

    With a note where that reads values otherwise than a run may.
    """
    first, *others = compiled.nodes
    quick = getattr(first.step, "quick", None)
    if quick is None:
        return compiled, ()
    source = quick()
    if source is first.step:
        return compiled, ()
    made = replace(compiled, nodes=(replace(first, node=Node(source)), *others))
    return made, (source.quick_note,)


def _dry_run(
    pipeline: Any, compiled: CompiledPipeline, part: _Part, k: int, deadline: float | None
) -> tuple[RunContext, RunInfo]:
    is_cut = 0 <= part.last_choice < part.stop_after
    settings = RunSettings(
        dry=True,
        sinks=False,
        source_rows=part.n_rows,
        deadline=deadline,
        stop_after=part.stop_after,
        limit=k if is_cut else None,
        limit_at=compiled.names[part.last_choice + 1] if is_cut else None,
    )
    ctx = new_context(compiled, settings)
    return ctx, Runner(ctx, pipeline).run().info


def new_context(
    compiled: CompiledPipeline, settings: RunSettings, listeners: Sequence[Listener] = ()
) -> RunContext:
    """What a run starts with. Behind a Result, its draws are taken and its ranks go on."""
    run = "" if settings.dry else new_run_id()
    ctx = RunContext(compiled, open_memo(), settings, Bus(list(listeners), run=run))
    head = compiled.nodes[0].step
    if isinstance(head, ResultSource):
        ctx.ranks.update(head.prior_ranks)
        ctx.claimed.update(head.prior_draws)
    return ctx


def _place_of(exc: BaseException, compiled: CompiledPipeline) -> tuple[int, int | None]:
    """Index of the step that an exception was raised in and of the record; -1 if not known."""
    said = "\n".join([*getattr(exc, "__notes__", ()), formats.error_text(exc)])
    for i, name in enumerate(compiled.names):
        found = re.search(rf"step '{re.escape(name)}'(?: \([^)\n]*\))?(?:, record (\d+))?", said)
        if found:
            return i, int(found[1]) if found[1] else None
    return -1, None


def _with_failure(
    rows: Sequence[PreviewRow], step: str, record: int | None, failure: str
) -> list[PreviewRow]:
    """Rows up to the step that raised: the record it raised for, and the others, left there."""
    out: list[PreviewRow] = []
    n = 0
    for row in rows:
        if row.status not in ("", "memo", "skipped"):
            out.append(row)
            continue
        is_it = n == record
        n += 1
        short = failure.partition(" · in ")[0]
        said = short if is_it else f"stopped: '{step}' raised an error"
        out.append(PreviewRow(row.place, "failed" if is_it else "waiting", row.record, step, said))
    return out


@dataclass
class _Leaf:
    """A record on its way, or where its way ended."""

    place: int | None
    record: Record
    has_answer: bool = False
    is_skipped: bool = False
    end: PreviewRow | None = None


class _Rows:
    """The rows of a preview: every record followed from the source to where it is now."""

    def __init__(
        self, runs: Sequence[StepRun], compiled: CompiledPipeline, last_choice: int, k: int
    ) -> None:
        self._nodes = compiled.nodes
        start = max(0, last_choice)
        leaves = self._first(runs, start)[: k if last_choice >= 0 else None]
        for run in runs[start + 1 :]:
            leaves = self._after(run, leaves)
        self.rows = [leaf.end or _ended(leaf) for leaf in leaves]

    def _first(self, runs: Sequence[StepRun], start: int) -> list[_Leaf]:
        table = runs[start].table
        places: list[int | None] = list(range(runs[start].n_out))
        for run in reversed(runs[1 : start + 1]):
            places = [None if p is None else run.parents.of(p) for p in places]
        records = table.records if table is not None else []
        return [_Leaf(p, r) for p, r in zip(places, records, strict=False)]

    def _after(self, run: StepRun, leaves: list[_Leaf]) -> list[_Leaf]:
        """The leaves after a step."""
        made = run.table.records if run.table is not None else []
        active = [leaf for leaf in leaves if leaf.end is None]
        if not run.parents.known:
            ended = [leaf for leaf in leaves if leaf.end is not None]
            return [_Leaf(None, r, any(a.has_answer for a in active)) for r in made] + ended
        parents = list(run.parents.all())[: len(made)]
        children: dict[int, list[_Leaf]] = defaultdict(list)
        new = []
        for output, (parent, record) in enumerate(zip(parents, made, strict=True)):
            if parent >= len(active):
                continue
            leaf = active[parent]
            child = _Leaf(leaf.place, record, leaf.has_answer, leaf.is_skipped)
            if run.call_of is not None:
                answered = run.call_of[output] >= 0
                child.has_answer |= answered
                child.is_skipped |= not answered
            children[parent].append(child)
            new.append(child)
        unanswered = Counter(c.record for c in run.calls if c.status == "pending")
        out: list[_Leaf] = []
        index = -1
        for leaf in leaves:
            if leaf.end is not None:
                out.append(leaf)
                continue
            index += 1
            out.extend(children[index])
            if unanswered[index] or not children[index]:
                end = self._end(run, index, leaf, unanswered[index])
                out.append(_Leaf(leaf.place, end.record, end=end))
        if parents != sorted(parents):  # a step that sorts decides the order
            out = new + [leaf for leaf in out if leaf.end is not None]
        return out

    def _end(self, run: StepRun, index: int, leaf: _Leaf, n_pending: int) -> PreviewRow:
        """Where and why a record goes no further."""
        step, record = run.step, leaf.record
        if n_pending:
            assert isinstance(step, LLMStep)
            said = calls_to_come(self._nodes[run.index :], n_pending)
            marked = {**record, **dict.fromkeys(step.spec.columns, PENDING)}
            return PreviewRow(leaf.place, "pending", marked, run.name, said)
        if isinstance(step, LLMStep):
            error = next((e for e in run.errors if e.record == index), None)
            if error is not None:
                marked = {**record, **dict.fromkeys(step.spec.columns, Failed(error.kind))}
                said = f"{error.kind}: {error.error}"
                return PreviewRow(leaf.place, "failed", marked, run.name, said)
        if index >= run.n_in or isinstance(step, LLMStep):
            return PreviewRow(leaf.place, "waiting", record, run.name, "not reached in the time")
        return PreviewRow(leaf.place, "filtered", record, run.name)


def _ended(leaf: _Leaf) -> PreviewRow:
    status: Status = "memo" if leaf.has_answer else "skipped" if leaf.is_skipped else ""
    return PreviewRow(leaf.place, status, leaf.record)


def calls_to_come(nodes: Sequence[CompiledNode], n_calls: int) -> str:
    """What a record waits for: "1 call of ask, then up to 1 of judge".

    Parameters
    ----------
    nodes
        From the step that waits on.
    n_calls
        Its calls for the record.
    """
    first, *later = nodes
    parts = [f"{formats.plural(n_calls, 'call')} of {formats.cell(first.name, formats.MAX_NAME)}"]
    n: int | None = n_calls
    is_bound = False
    for node in later:
        step = node.step
        if isinstance(step, LLMStep):
            n = None if n is None else n * step.calls_per_record
            is_bound = is_bound or step.skip_if is not None
            size = "some" if n is None else f"up to {n:,}" if is_bound else f"{n:,}"
            parts.append(f"{size} of {formats.cell(node.name, formats.MAX_NAME)}")
        elif isinstance(step, (Filter, ChoiceStep)) and not getattr(step, "replace", False):
            is_bound = True
        elif not isinstance(step, (Map, SinkStep)):
            n = None
    return ", then ".join(parts)
