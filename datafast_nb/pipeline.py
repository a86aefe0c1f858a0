"""The pipeline: an immutable graph of steps, and what can be done with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from datafast_nb import validate
from datafast_nb.display import dag, shown, text
from datafast_nb.display.views import Document, Graph
from datafast_nb.engine import watching
from datafast_nb.engine.asked import checkpoint_plan, run_settings, set_log_level, whole_number
from datafast_nb.engine.confirm import confirm_first
from datafast_nb.engine.context import Order, Pick, RunSettings
from datafast_nb.engine.events import Event
from datafast_nb.engine.handle import Run
from datafast_nb.engine.identities import learn_identities
from datafast_nb.engine.kept import KeptResults
from datafast_nb.engine.limits import DEFAULT_IN_FLIGHT
from datafast_nb.engine.pacing import RateLimits
from datafast_nb.engine.preview import Preview, new_context, preview_of
from datafast_nb.engine.progress import listener as progress_listener
from datafast_nb.engine.runner import Runner
from datafast_nb.estimate import UNKNOWN, ExecutionEstimate, Range, StepEstimate, estimate_run
from datafast_nb.estimate_basis import count_of
from datafast_nb.graph import Node, chain, graft, is_fragment, ordered
from datafast_nb.options import options
from datafast_nb.pipeline_graph import static_graph
from datafast_nb.pipeline_view import pipeline_view
from datafast_nb.results import Result
from datafast_nb.steps.base import SinkStep, SourceStep, Step
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Map
from datafast_nb.trace import RecordTrace, ResultSource, trace_all
from datafast_nb.validate import CompiledPipeline

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

    from datafast_nb.widgets.panel import Panel

Listener = Callable[[Event], None]
Limits = Mapping[Any, int | Mapping[str, int]]


class Pipeline:
    """Steps joined by `>>`. Building one runs nothing; `run` does.

    Parameters
    ----------
    steps
        The steps in order: the same as joining them with `>>`.

    Notes
    -----
    A pipeline never changes: `>>` and `as_step` make new ones that share their past.
    """

    __slots__ = ("_compiled", "_kept", "_result", "_tail")

    def __init__(self, steps: Sequence[Step]) -> None:
        if isinstance(steps, Step):
            steps = [steps]
        for step in steps:
            _check_step(step)
        self._tail = chain(steps)
        self._result: Result | None = None
        self._kept = KeptResults()

    @classmethod
    def _of(cls, tail: Node, result: Result | None = None) -> Pipeline:
        made = cls.__new__(cls)
        made._tail = tail
        made._result = result
        made._kept = KeptResults()
        return made

    @classmethod
    def from_result(cls, result: Result) -> Pipeline:
        """A pipeline whose source is a Result's records, with their identities."""
        return cls._of(Node(ResultSource(result)), result)

    @property
    def steps(self) -> list[Step]:
        """The steps in order."""
        return [node.step for node in ordered(self._tail)]

    def __rshift__(self, other: Any) -> Pipeline:
        """Add a step, or the steps of a fragment without source."""
        if isinstance(other, Pipeline):
            if not is_fragment(ordered(other._tail)):
                raise TypeError(
                    "the pipeline on the right of >> has a source of its own; only steps or a "
                    "fragment without source can follow"
                )
            return Pipeline._of(graft(other._tail, self._tail), self._result)
        if isinstance(other, Result):
            raise TypeError("a Result stands on the left of >>: result >> step")
        _check_step(other)
        if isinstance(other, SourceStep):
            raise TypeError(
                f"{type(other).__name__} is a source and comes first: source >> step >> …"
            )
        return Pipeline._of(Node(other, (self._tail,)), self._result)

    def __rrshift__(self, other: Any) -> Pipeline:
        return self.steps[0].__rrshift__(other)

    def as_step(self, name: str) -> Pipeline:
        """A pipeline whose last step has a name."""
        return Pipeline._of(Node(self._tail.step.as_step(name), self._tail.parents), self._result)

    def compile(self) -> CompiledPipeline:
        """Check structure, columns and models.

        Raises
        ------
        PipelineValidationError
            With every problem; ColumnNotFoundError where all are missing columns.
        """
        return validate.compile_graph(self._tail)

    def hash(self) -> str:
        """16 hex digits that change when a step's settings or the source change."""
        return self.compile().fingerprint

    # Running.

    def run(
        self,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        resume_from: int | str | None = None,
        limit: int | None = None,
        pick: Pick = "first",
        limit_at: str | None = None,
        stop_after: int | str | None = None,
        budget: float | None = None,
        max_calls: int | None = None,
        batch_size: int = 1,
        max_concurrent: int = DEFAULT_IN_FLIGHT,
        rate_limits: Limits | None = None,
        order: Order | None = None,
        sinks: bool | Literal["auto"] = "auto",
        show_progress: bool | None = None,
        log_level: str | int | None = None,
        on_event: Listener | None = None,
        confirm: bool = False,
    ) -> Result:
        """Run the pipeline and wait for its records.

        Parameters
        ----------
        checkpoint_dir
            Directory that keeps the records of every complete step; made where it is missing.
            None: the memo alone keeps the answers. One run at a time uses a directory.
        resume
            Go on after the steps that are complete in `checkpoint_dir`; with an empty directory,
            or False, start from the beginning.
        resume_from
            Name or number of the step to do again, with all after it; what is before is used.
        limit
            Number of records that enter the first LLM step (the source's, where there is none);
            free steps before it run as in a full run. None: all.
        pick
            Which records the limit lets through: the first ones, evenly spread, or random ones.
        limit_at
            "source", or the name of the step at whose entry the limit counts.
        stop_after
            Name or number (from 0) of the last step to run.
        budget
            US dollars at list price that the run may spend; reserved before each call. None: no bound.
        max_calls
            Calls that the run may send, retries included. None: no bound.
        batch_size, max_concurrent
            Calls in flight per model: the larger of the two. Runs at the same time have together
            no more than the largest of their bounds; a model's own `parallel` holds for all.
        rate_limits
            Model, or its name → requests per minute, as in `{gpt4: 60}`, or
            `{gpt4: {"rpm": 60, "tpm": 90_000}}` with tokens per minute. Ceilings for any 60 s,
            over all runs of the process; between runs that differ, the strictest holds.
        order
            "steps": each step sees all records of the one before. "records": the same result, but
            a record goes on through the steps as soon as it can, so that a spent budget or a stop
            leaves finished records. None: "records" where there is a budget, a `checkpoint_dir`
            or a live sink, and no machine serves several models one after another; else "steps".
        sinks
            "auto": partial runs leave whole files alone; True: write all the same; False: write none.
        show_progress
            Show a progress line. None: where someone watches.
        log_level
            Level of the logger "datafast_nb" for this process, as in "INFO".
        on_event
            Function that is told of the run's events (`datafast_nb.engine.events`).
        confirm
            True: you know what the run costs; a large one without `budget=` or `max_calls=` is not
            asked about. Only notebooks ask (`options.confirm`).

        Raises
        ------
        PipelineValidationError
            If the pipeline does not compile.
        ValueError
            If `rate_limits` names a model that no step asks, or is no count.
        CheckpointError
            If `checkpoint_dir` cannot be written, is damaged, or another run uses it;
            PipelineChangedError where another pipeline wrote it.
        ConfirmationRequired
            Before a large run in a notebook: nothing has been asked, `.line` is what to type.
        RunInterrupted, BudgetExceededError, LLMError
            With `.result`: what was finished. Every answer that arrived is kept.
        """
        settings = run_settings(
            limit, pick, limit_at, budget, max_calls, (batch_size, max_concurrent), sinks, order
        )
        settings.rate_limits = self._rate_limits(rate_limits)
        settings.checkpoint = checkpoint_plan(checkpoint_dir, resume, resume_from)
        if log_level is not None:
            set_log_level(log_level)
        confirm_first(self, settings, stop_after, confirm)
        return self._run(settings, stop_after, show_progress, on_event)

    def start(
        self,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        resume_from: int | str | None = None,
        limit: int | None = None,
        pick: Pick = "first",
        limit_at: str | None = None,
        stop_after: int | str | None = None,
        budget: float | None = None,
        max_calls: int | None = None,
        batch_size: int = 1,
        max_concurrent: int = DEFAULT_IN_FLIGHT,
        rate_limits: Limits | None = None,
        order: Order | None = None,
        sinks: bool | Literal["auto"] = "auto",
        on_event: Listener | None = None,
        confirm: bool = False,
    ) -> Run:
        """Run on a worker thread and return at once; parameters as `run`.

        User functions run on that one thread. Problems of the pipeline raise here.
        """
        self.compile()
        settings = run_settings(
            limit, pick, limit_at, budget, max_calls, (batch_size, max_concurrent), sinks, order
        )
        settings.rate_limits = self._rate_limits(rate_limits)
        settings.checkpoint = checkpoint_plan(checkpoint_dir, resume, resume_from)
        confirm_first(self, settings, stop_after, confirm)

        def work(stop: Any, listen: Listener) -> Result:
            listeners = [listen] if on_event is None else [listen, on_event]
            return self._execute(settings, stop_after, listeners, stop)

        return Run(work, pipeline=self)

    def run_one(
        self, index: int | None = None, *, where: dict[str, Any] | None = None
    ) -> RecordTrace:
        """One record through the whole pipeline, sinks left out.

        Parameters
        ----------
        index
            Of the record that enters the first LLM step; 0 where nothing is given, negative from the end.
        where
            Values of the source row to take: `where={"id": "doc_007"}`; the first that has them.

        Returns
        -------
        RecordTrace
            The first output record as a mapping; `.trace` has every step, `.outputs` all outputs.
        """
        if index is not None and where is not None:
            raise ValueError("give an index or where=, not both")
        settings = RunSettings(sinks=False, where=where)
        if where is None:
            settings.one = 0 if index is None else int(index)
        return trace_all(self._run(settings, None, False, None))

    def preview(self, k: int = 5) -> Preview:
        """What can be had for nothing from the first `k` records of the source.

        Data steps run, answers that the memo has are shown, others stand as pending.
        """
        safe = options.preview_on_display == "safe"
        return preview_of(self, self.compile(), whole_number("k", k) or 0, no_functions=safe)

    def estimate(
        self,
        *,
        limit: int | None = None,
        pick: Pick = "first",
        limit_at: str | None = None,
        batch_size: int = 1,
        max_concurrent: int = DEFAULT_IN_FLIGHT,
        rate_limits: Limits | None = None,
    ) -> ExecutionEstimate:
        """Predict calls, tokens and dollars of `run(limit=…)`. Asks no model.

        Free steps run as in the full run, as far as they decide how many calls there are; each
        call is looked up in the memo, so the number of new calls is exact as far as earlier
        answers are on disk.

        Raises
        ------
        PipelineValidationError
            If the pipeline does not compile.
        """
        settings = run_settings(
            limit, pick, limit_at, None, None, (batch_size, max_concurrent), False
        )
        settings.rate_limits = self._rate_limits(rate_limits)
        settings.dry = True
        compiled = self.compile()
        last = _last_counted(compiled)
        if last is None:
            return _without_models(compiled, settings.limit, limit_at)
        if limit_at not in (None, "source"):
            last = max(last, compiled.index(str(limit_at)))
        return estimate_run(self._execute(settings, last, []).info, is_whole=True)

    def visualize(self) -> str:
        """The graph as text: a line a step, with what it is."""
        compiled, _ = validate.inspect_graph(self._tail)
        return text.Drawing(dag.graph_text(static_graph(compiled)))

    def graph(self) -> graphviz.Digraph:
        """The graph as a Graphviz object, to change, save or draw. Counts as in the display."""
        document = self.view()
        found = next(b for b in document.blocks if isinstance(b, Graph))
        return dag.dot_source(found)

    def _rate_limits(self, given: Limits | None) -> RateLimits:
        """The limits of a run; ValueError where they name a model that no step asks."""
        limits = RateLimits.of(given)
        if limits.entries:
            steps = [s for s in self.compile().steps if isinstance(s, LLMStep)]
            limits.check(m for step in steps for m in step.models)
        return limits

    def _run(
        self,
        settings: RunSettings,
        stop_after: int | str | None,
        show_progress: bool | None,
        on_event: Listener | None,
    ) -> Result:
        listeners = [] if on_event is None else [on_event]
        shown = progress_listener(show_progress)
        if shown is not None:
            listeners.append(shown)
        with watching.waited(self._tail) as wait:
            listeners += wait.listeners
            wait.result = self._execute(settings, stop_after, listeners, wait.stopped)
        return wait.loud_result()

    def _execute(
        self,
        settings: RunSettings,
        stop_after: int | str | None,
        listeners: list[Listener],
        stop: Any = None,
    ) -> Result:
        if not settings.dry:
            learn_identities(self.steps)
        compiled = self.compile()
        if stop_after is not None:
            settings.stop_after = compiled.index(stop_after)
        if settings.limit_at not in (None, "source"):
            compiled.index(str(settings.limit_at))
        ctx = new_context(compiled, settings, listeners)
        if stop is not None:
            ctx.stop_event = stop
        return Runner(ctx, self._whole(), self).run()

    def _whole(self) -> Pipeline:
        """The pipeline from the first source on, also where this one goes on from a Result."""
        nodes = ordered(self._tail)
        head = nodes[0].step
        if not isinstance(head, ResultSource) or head.pipeline is None:
            return self
        if len(nodes) == 1:
            whole: Pipeline = head.pipeline
            return whole
        fragment = chain([n.step for n in nodes[1:]])
        return Pipeline._of(graft(fragment, head.pipeline._tail))

    def _again(
        self, result: Result, listeners: Sequence[Listener] = (), stop: Any = None, **changes: Any
    ) -> Result:
        """Run as `result` was run, with other settings."""
        once = ("retry", "redraw", "dry", "sinks")
        kept = {k: v for k, v in result.info.settings.items() if k not in once}
        settings = RunSettings(**{**kept, "sinks": result.info.settings["sinks"], **changes})
        if settings.dry:
            settings.sinks = False
        if settings.checkpoint is not None:
            # What failed is asked again, so its step is done again; what is before it stands.
            failed = next((s.index for s in result.info.steps if s.has_any(settings.retry)), None)
            settings.checkpoint = replace(
                settings.checkpoint, resume=True, resume_from=failed if settings.retry else None
            )
        return self._execute(settings, settings.stop_after, list(listeners), stop)

    # Display. Nothing here asks a model or raises.

    def panel(self, **options: Any) -> Panel:
        """Buttons, progress, records and prompts of this pipeline, live; see `widgets.Panel`."""
        from datafast_nb.widgets.panel import Panel  # upward: a panel runs pipelines

        return Panel(self, **options)

    def to_code(self) -> str:
        """Python that builds this pipeline; what has no text of its own is said in a comment."""
        from datafast_nb.widgets.code import pipeline_code  # upward: beside the panel's copy button

        return pipeline_code(self)

    def view(self) -> Document:
        """Plain data for display: what stands here before a run. Asks no model."""
        return pipeline_view(self, self._kept)[0]

    def __repr__(self) -> str:
        names = " >> ".join(type(s).__name__ for s in self.steps)
        return f"Pipeline({names})"

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        forms: list[Document] = []

        def view() -> Document:
            forms.extend(pipeline_view(self, self._kept))
            return forms[0]

        made = shown.bundle(view, include, exclude)
        if "text/plain" in made and forms:
            made["text/plain"] = text.draw(forms[1])
        return made

    def __len__(self) -> int:
        raise TypeError(
            f"{_LAZY}; len(pipeline.run()) counts its records, len(pipeline.steps) its steps"
        )

    def __bool__(self) -> bool:
        raise TypeError(f"{_LAZY}; a pipeline is neither true nor false")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{_LAZY}; loop over pipeline.run() for records, pipeline.steps for steps")


_LAZY = "a pipeline holds no records until it is run"


def _check_step(step: Any) -> None:
    if isinstance(step, Step):
        return
    if isinstance(step, type) and issubclass(step, Step):
        raise TypeError(f"{step.__name__} is a class; write {step.__name__}(…)")
    if callable(step):
        raise TypeError("a function is no step; write Map(fn), FlatMap(fn) or Filter(fn=fn)")
    raise TypeError(f"{type(step).__name__} is no step: {step!r:.60}")


def _last_counted(compiled: CompiledPipeline) -> int | None:
    """Index of the last step that must run to count records and calls; None: no model is asked."""
    if not any(isinstance(c.step, LLMStep) for c in compiled.nodes):
        return None
    return max(i for i, c in enumerate(compiled.nodes) if not isinstance(c.step, (Map, SinkStep)))


def _without_models(
    compiled: CompiledPipeline, limit: int | None, limit_at: str | None
) -> ExecutionEstimate:
    """The estimate of a pipeline that asks no model: nothing of it is run."""
    n = count_of(compiled)
    at = 0 if limit_at in (None, "source") else compiled.index(str(limit_at))
    steps: list[StepEstimate] = []
    for i, node in enumerate(compiled.nodes):
        n_in = 0 if i == 0 else n
        if i and not isinstance(node.step, (Map, SinkStep)):
            n = None
        if limit is not None and i == at and n is not None:
            n = min(n, limit)
        out = UNKNOWN if n is None else Range.exact(float(n))
        entering = math.nan if n_in is None else float(n_in)
        steps.append(StepEstimate(node.name, entering, n is not None, out))
    return ExecutionEstimate(count_of(compiled), tuple(steps), "", limit=limit)
