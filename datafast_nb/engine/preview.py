"""A look at a pipeline for nothing: the first records, and the answers that are on disk."""

from __future__ import annotations

from typing import Any

from datafast_nb.display import html, text, views
from datafast_nb.engine.context import RunContext, RunSettings
from datafast_nb.engine.events import Bus
from datafast_nb.engine.runner import Runner
from datafast_nb.records import Record
from datafast_nb.results import StepRun
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.memo import open_memo
from datafast_nb.validate import CompiledPipeline

MAX_ROWS_FOR_A_CHOICE = 10_000
MAX_PREVIEW_ROWS = 50


class Preview(list[Record]):
    """Records of a preview; answers that would have to be asked for stand as `pending`."""

    def __init__(
        self, records: list[Record], n_pending: int = 0, notes: list[str] | None = None
    ) -> None:
        super().__init__(records)
        self.n_pending = n_pending
        """Calls of these records that are not on disk."""
        self.notes = list(notes or [])

    @classmethod
    def failed(cls, error: BaseException) -> Preview:
        """A preview that says why there is none."""
        said = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])]
        return cls([], 0, ["no preview: " + " · ".join(said)])

    def view(self) -> views.TableView:
        """Plain data for display."""
        pending = f", {self.n_pending} answers pending" if self.n_pending else ""
        n = len(self)
        return views.records_table(self, f"preview: {n} record{'s' * (n != 1)}{pending}")

    def __repr__(self) -> str:
        return "\n".join([text.table(self.view()), *(f"note: {n}" for n in self.notes)])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        body = html.table(self.view()) + "".join(html.line(n, muted=True) for n in self.notes)
        return {"text/plain": repr(self), "text/html": html.page(body)}


def preview_of(pipeline: Any, k: int, no_functions: bool, deadline: float | None) -> Preview:
    """The preview of a pipeline on the first `k` records of its source.

    Parameters
    ----------
    no_functions
        Stop before the first step that would call a user's function.
    deadline
        Monotonic time at which to stop between records; None: no bound.
    """
    compiled = pipeline.compile()
    notes: list[str] = []
    stop_after = len(compiled.nodes) - 1
    rows: int | None = k
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
                rows = None
                continue
            stop_after = i - 1
            notes.append(
                f"stops before step '{node.name}', which needs all records"
                + ("" if n is None else f" ({n:,})")
            )
            break
    settings = RunSettings(
        dry=True, sinks=False, source_rows=rows, deadline=deadline, stop_after=stop_after,
        limit=k if rows is None else None, limit_at=_after_choice(compiled) if rows is None else None,
    )  # fmt: skip
    ctx = RunContext(compiled, open_memo(), settings, Bus([]))
    result = Runner(ctx, pipeline).run()
    if deadline is not None and ctx.past_deadline:
        notes.append("stopped early: the free steps take long; .preview() waits for them")
    shown, pending = _with_pending(result.info.steps, list(result))
    notes.extend(result.info.notes)
    return Preview(shown[:MAX_PREVIEW_ROWS], pending, notes)


def _is_built_in(step: Any) -> bool:
    return type(step).__module__.startswith("datafast_nb.")


def _after_choice(compiled: CompiledPipeline) -> str:
    """Where the number of previewed records counts: behind the last choice."""
    at = max(i for i, n in enumerate(compiled.nodes) if isinstance(n.step, ChoiceStep))
    return compiled.names[at + 1] if at + 1 < len(compiled.names) else compiled.names[at]


def _with_pending(steps: list[StepRun], records: list[Record]) -> tuple[list[Record], int]:
    """Finished records, then those that wait for an answer, with pending cells."""
    out = list(records)
    n_pending = 0
    for run in steps:
        if not isinstance(run.step, LLMStep) or run.index == 0:
            continue
        before = steps[run.index - 1].table
        waiting: dict[int, int] = {}
        for call in run.calls:
            if call.status == "pending":
                waiting[call.record] = waiting.get(call.record, 0) + 1
        n_pending += sum(waiting.values())
        if before is None:
            continue
        for i in waiting:
            if i < len(before.records):
                cells = dict.fromkeys(run.step.spec.columns, views.PENDING)
                out.append({**before.records[i], **cells})
    return out, n_pending
