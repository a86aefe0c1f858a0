"""A look at a pipeline for nothing: the first records, and the answers that are on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from datafast_nb.display import html, text, views
from datafast_nb.engine.context import RunContext, RunSettings
from datafast_nb.engine.events import Bus
from datafast_nb.engine.runner import Runner
from datafast_nb.graph import Node
from datafast_nb.records import Record, copy_record
from datafast_nb.results import StepRun
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.memo import open_memo
from datafast_nb.validate import CompiledPipeline

MAX_ROWS_FOR_A_CHOICE = 10_000
MAX_PREVIEW_ROWS = 50
MAX_KEPT = 10_000
"""Results of one function that a pipeline keeps between two displays."""


class Preview(list[Record]):
    """Records of a preview; answers that would have to be asked for stand as `pending`."""

    def __init__(
        self, records: list[Record], n_pending: int = 0, notes: list[str] | None = None
    ) -> None:
        super().__init__(records)
        self.n_pending = n_pending
        """Calls of these records that are not on disk."""
        self.notes = list(notes or [])
        self.failure = ""
        """Why there is no preview; "" where there is one."""

    @classmethod
    def failed(cls, error: BaseException) -> Preview:
        """A preview that says why there is none."""
        made = cls([])
        made.failure = f"no preview: {views.error_text(error)}"
        return made

    def view(self) -> views.TableView:
        """Plain data for display."""
        pending = f", {self.n_pending} answers pending" if self.n_pending else ""
        n = len(self)
        return views.records_table(self, f"preview: {n} record{'s' * (n != 1)}{pending}")

    def __repr__(self) -> str:
        return text.joined([text.table(self.view()), *(f"note: {n}" for n in self.notes)])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        body = html.table(self.view()) + "".join(html.line(n, muted=True) for n in self.notes)
        return {"text/plain": repr(self), "text/html": html.page(body)}


def preview_of(
    pipeline: Any,
    k: int,
    no_functions: bool,
    deadline: float | None,
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
        record. None: call them.
    """
    compiled = pipeline.compile()
    if kept is not None:
        compiled = kept.instead_of_functions(compiled)
    notes: list[str] = []
    stop_after = len(compiled.nodes) - 1
    rows: int | None = k
    last_choice = -1
    for i, node in enumerate(compiled.nodes):
        step = node.step
        is_user_code = isinstance(step, ChunkStep) or not _is_built_in(step)
        if isinstance(step, LLMStep):
            is_user_code = step.skip_if is not None
        if is_user_code and no_functions:
            stop_after = i - 1
            notes.append(f"stops before step '{node.name}', which calls a function")
            break
        if isinstance(step, ChoiceStep) and step.needs() is None:
            source = compiled.nodes[0].step
            n = source.count() if isinstance(source, SourceStep) else None
            free = all(isinstance(c.step, (SourceStep, ChoiceStep)) for c in compiled.nodes[:i])
            if n is not None and n <= MAX_ROWS_FOR_A_CHOICE and free:
                rows, last_choice = None, i
                continue
            stop_after = i - 1
            notes.append(
                f"stops before step '{node.name}', which needs all records"
                + ("" if n is None else f" ({n:,})")
            )
            break
    is_cut = 0 <= last_choice < stop_after
    settings = RunSettings(
        dry=True,
        sinks=False,
        source_rows=rows,
        deadline=deadline,
        stop_after=stop_after,
        limit=k if is_cut else None,
        limit_at=compiled.names[last_choice + 1] if is_cut else None,
    )
    ctx = RunContext(compiled, open_memo(), settings, Bus([]))
    result = Runner(ctx, pipeline).run()
    if deadline is not None and ctx.past_deadline:
        notes.append("stopped early: the free steps take long; .preview() waits for them")
    shown, pending = _with_pending(result.info.steps, list(result))
    notes.extend(result.info.notes)
    most = k if last_choice == stop_after else MAX_PREVIEW_ROWS
    return Preview(shown[:most], pending, notes)


def _is_built_in(step: Any) -> bool:
    return type(step).__module__.startswith("datafast_nb.")


def _with_pending(steps: list[StepRun], records: list[Record]) -> tuple[list[Record], int]:
    """Finished records, and those without an answer with a mark in its place, in input order."""
    n_pending = 0
    # Walked back from the end: each record with its index among the outputs of the step at hand.
    placed: list[tuple[int | None, Record]] = list(enumerate(records))
    for run in reversed(steps[1:]):
        placed = [(None if i is None else run.parents.of(i), r) for i, r in placed]
        if not isinstance(run.step, LLMStep):
            continue
        waiting: dict[int, None] = {}
        for call in run.calls:
            if call.status == "pending":
                n_pending += 1
                waiting[call.record] = None
        stands: dict[int, Any] = dict.fromkeys(waiting, views.PENDING)
        done = set(run.parents.all())
        for error in run.errors:
            if error.record not in done:
                stands.setdefault(error.record, views.Failed(error.kind))
        before = steps[run.index - 1].table
        if before is None or not stands:
            continue
        columns = run.step.spec.columns
        for i, mark in stands.items():
            if i < len(before.records):
                placed.append((i, {**before.records[i], **dict.fromkeys(columns, mark)}))
        placed.sort(key=lambda pair: (pair[0] is None, pair[0] or 0))
    return [record for _, record in placed], n_pending


class KeptResults:
    """What the functions of a pipeline gave for records of its previews.

    A cell is displayed again and again; a slow function, or one that prints, runs once.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Any]] = {}
        """Number of the step → record as text → what the function gave."""

    def instead_of_functions(self, compiled: CompiledPipeline) -> CompiledPipeline:
        """The pipeline with functions that call the user's only for records not seen before."""
        nodes = []
        for i, node in enumerate(compiled.nodes):
            name = "skip_if" if isinstance(node.step, LLMStep) else "fn"
            fn = getattr(node.step, name, None)
            if callable(fn) and _is_built_in(node.step):
                step = copy.copy(node.step)
                setattr(step, name, self._remembering(fn, self._of.setdefault(i, {})))
                node = replace(node, node=Node(step, node.node.parents))
            nodes.append(node)
        return replace(compiled, nodes=tuple(nodes))

    def _remembering(
        self, fn: Callable[[Record], Any], kept: dict[str, Any]
    ) -> Callable[[Record], Any]:
        def remembered(record: Record) -> Any:
            try:
                key = repr(record)
            except Exception:  # a value that cannot be written: nothing to know the record by
                return fn(record)
            if key not in kept:
                result = fn(record)
                if isinstance(result, Iterator):
                    return _listed(result, kept, key)
                if len(kept) < MAX_KEPT:
                    kept[key] = _own(result)
                return result
            return _own(kept[key])

        return remembered


def _listed(made: Iterator[Any], kept: dict[str, Any], key: str) -> Iterator[Any]:
    """What a generator makes, as it makes it; kept where it came to its end."""
    out = []
    for item in made:
        out.append(_own(item))
        yield item
    if len(kept) < MAX_KEPT:
        kept[key] = out


def _own(value: Any) -> Any:
    """A copy that later steps may change."""
    if isinstance(value, dict):
        return copy_record(value)
    return [_own(v) for v in value] if isinstance(value, list) else value
