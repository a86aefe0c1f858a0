"""What a full run would ask, as far as a display may find it out.

Exactly where that is quick: all free steps before the last model are the package's own and the
source is short. Otherwise from the records of the preview, at the size of the source.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from datafast_nb.display import formats
from datafast_nb.engine.context import RunSettings, Stopped
from datafast_nb.engine.kept import calls_user_code
from datafast_nb.engine.preview import Preview, new_context
from datafast_nb.engine.runner import Runner
from datafast_nb.estimate import ExecutionEstimate, StepEstimate, estimate_run
from datafast_nb.estimate_basis import count_of
from datafast_nb.ranges import NOTHING, Range
from datafast_nb.results import RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChoiceStep, SinkStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Filter, Map
from datafast_nb.validate import CompiledPipeline

MAX_EXACT_RECORDS = 2_000
MAX_EXACT_CALLS = 5_000
FIRST_RECORDS = 20
"""The limited run that a display proposes."""


@dataclass(frozen=True)
class Outlook:
    """A full run, seen from before it."""

    estimate: ExecutionEstimate | None = None
    """None: `reason` says why."""
    scope: Literal["exact", "sample", "per_1000"] = "exact"
    """"sample": the preview's records at the size of the source; "per_1000": at 1,000 records,
    as the size of the source is not known."""
    n_sample: int = 0
    """Records that it was measured on, where it is not exact."""
    info: RunInfo | None = None
    """The run without calls that it was made by."""
    first: ExecutionEstimate | None = None
    """Of `run(limit=20)`; None where that is the full run, or is not known exactly."""
    reason: str = ""
    unlooked: Mapping[str, float] = field(default_factory=dict)
    """Name of each step whose calls about the sample all have answers → its calls about other
    records, which nobody looked up. They count neither as new nor as answered."""
    is_bound: bool = False
    """No more new calls than those of the estimate are possible."""

    @property
    def is_exact(self) -> bool:
        """All records were looked at."""
        return self.scope == "exact"

    @property
    def has_new(self) -> bool:
        """There are new calls, as far as is known."""
        return self.estimate is not None and self.estimate.calls.high > 0

    @property
    def about(self) -> str:
        """What stands before a number of new calls."""
        return "" if self.is_exact else "up to " if self.is_bound else "~"


def outlook_of(
    pipeline: Any, compiled: CompiledPipeline, preview: Preview, seconds: float
) -> Outlook:
    """What a full run would ask. Runs no user function, and stops after `seconds`."""
    own = _n_own(compiled)
    last_llm = max(
        (i for i, n in enumerate(compiled.nodes) if isinstance(n.step, LLMStep)), default=0
    )
    n_source = count_of(compiled)
    whole = _preview_is_whole(compiled, preview, n_source)
    if whole and preview.info is not None:
        return Outlook(estimate_run(preview.info), info=preview.info)
    if own > last_llm and n_source is not None and n_source <= MAX_EXACT_RECORDS:
        per_record = [
            n.step.calls_per_record for n in compiled.nodes if isinstance(n.step, LLMStep)
        ]
        if n_source * math.prod(per_record) <= MAX_EXACT_CALLS:
            deadline = time.monotonic() + seconds
            info = _dry_run(pipeline, compiled, own - 1, None, deadline)
            if info is not None:
                first = _first(pipeline, compiled, own - 1, info, deadline)
                return Outlook(estimate_run(info), info=info, first=first)
    return _from_preview(compiled, preview, n_source, last_llm)


def _n_own(compiled: CompiledPipeline) -> int:
    """Number of steps from the start that run no code of the user."""
    for i, node in enumerate(compiled.nodes):
        if calls_user_code(node.step):
            return i
    return len(compiled.nodes)


def _preview_is_whole(compiled: CompiledPipeline, preview: Preview, n_source: int | None) -> bool:
    """The preview took all records through all steps: nothing is left to be guessed."""
    info = preview.info
    if info is None or preview.failure or preview.entry or not info.steps:
        return False
    source = info.steps[0]
    is_read = not source.is_partial or source.n_out == n_source
    is_through = all(r.n_in == b.n_out for b, r in zip(info.steps, info.steps[1:], strict=False))
    return is_read and is_through and len(info.steps) == len(compiled.nodes)


class _Deadline(threading.Event):
    """Stops a run when its time is up."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self._at = at

    def is_set(self) -> bool:
        return time.monotonic() > self._at


def _dry_run(
    pipeline: Any, compiled: CompiledPipeline, stop_after: int, limit: int | None, deadline: float
) -> RunInfo | None:
    """A run without calls; None where its time was up."""
    settings = RunSettings(dry=True, sinks=False, stop_after=stop_after, limit=limit)
    ctx = new_context(compiled, settings)
    ctx.stop_event = _Deadline(deadline)
    try:
        return Runner(ctx, pipeline).run().info
    except Stopped:
        return None


def _first(
    pipeline: Any, compiled: CompiledPipeline, stop_after: int, info: RunInfo, deadline: float
) -> ExecutionEstimate | None:
    run = next((r for r in info.steps if isinstance(r.step, LLMStep)), None)
    if run is None or run.n_in <= FIRST_RECORDS or time.monotonic() > deadline:
        return None
    limited = _dry_run(pipeline, compiled, stop_after, FIRST_RECORDS, deadline)
    return None if limited is None else estimate_run(limited)


def _from_preview(
    compiled: CompiledPipeline, preview: Preview, n_source: int | None, last_llm: int
) -> Outlook:
    info = preview.info
    n_steps = 0 if info is None else len(info.steps)
    if info is None or n_steps <= last_llm:
        return Outlook(reason=_why_none(preview))
    n_taken = _n_taken(info, preview.entry)
    if not n_taken:
        return Outlook(reason="the preview holds no record to measure")
    total: float | None = info.steps[preview.entry].n_out if preview.entry else n_source
    scope: Literal["sample", "per_1000"] = "sample"
    if total is None:
        total, scope = 1_000.0, "per_1000"
    sample = estimate_run(info)
    missed = _not_reached(info, sample)
    if missed:
        which = f"first {n_taken:,}" if n_taken > 1 else "first record"
        return Outlook(reason=f"none of the {which} {missed}", n_sample=n_taken)
    scaled, unlooked = _scaled(info, sample, preview.entry, total / n_taken)
    if scope == "sample" and not preview.entry:
        scaled = replace(scaled, total_records=int(total))
    is_bound = (
        scope == "sample" and not unlooked and _is_bound(compiled, scaled, preview.entry, total)
    )
    return Outlook(scaled, scope, n_taken, info, unlooked=unlooked, is_bound=is_bound)


def _not_reached(info: RunInfo, sample: ExecutionEstimate) -> str:
    """What no record of the sample did: "reached 'ask'"; "" where it tells of all LLM steps."""
    for run, own in zip(info.steps, sample.steps, strict=True):
        if isinstance(run.step, LLMStep) and not run.calls and not own.calls.high:
            name = formats.cell(run.name, formats.MAX_NAME)
            return f"needed '{name}'" if own.records_in else f"reached '{name}'"
    return ""


def _n_taken(info: RunInfo, entry: int) -> int:
    """Records that went on from the step at `entry`."""
    later = info.steps[entry + 1 :]
    if not later:
        return info.steps[entry].n_out
    return later[0].n_in - later[0].fates.beyond_limit


def _why_none(preview: Preview) -> str:
    if preview.failure:
        return f"step '{preview.failed_at}' raised an error" if preview.failed_at else "an error"
    stops = [n for n in preview.notes if n.startswith("stops before")]
    return f"the preview {stops[0]}" if stops else ""


def _scaled(
    info: RunInfo, sample: ExecutionEstimate, entry: int, factor: float
) -> tuple[ExecutionEstimate, dict[str, float]]:
    """The estimate of the sample at the size of the source, and the calls nobody looked up.

    The memo was asked about the sample alone. Where it answers all of a step's calls, it may
    answer those of the other records as well; where it lacks one, theirs count as new.
    """
    steps: list[StepEstimate] = []
    unlooked: dict[str, float] = {}
    for i, (run, own) in enumerate(zip(info.steps, sample.steps, strict=True)):
        if i < entry or (i == entry and entry):
            steps.append(own)
            continue
        made = replace(
            own,
            records_in=own.records_in * factor,
            out=_times(own.out, factor),
            is_exact=False,
        )
        if isinstance(run.step, LLMStep):
            rows = _rows(run, own)
            if own.calls.high:
                made = _with_more_calls(made, own, rows, factor)
            elif rows.likely:
                unlooked[run.name] = rows.likely * (factor - 1)
        steps.append(made)
    known_cost = _sum([s.known_cost for s in steps])
    n_known = info.steps[-1].n_out
    estimate = replace(
        sample,
        steps=tuple(steps),
        calls=_sum([s.calls for s in steps]),
        cost=_sum([s.cost for s in steps]),
        known_cost=known_cost,
        seconds=_sum([s.seconds for s in steps]),
        new_records=max(0.0, steps[-1].out.likely - n_known),
        basis=tuple(b for b in sample.basis if b[0] not in ("new because", "records")),
    )
    return estimate, unlooked


def _with_more_calls(
    made: StepEstimate, own: StepEstimate, rows: Range, factor: float
) -> StepEstimate:
    """The new calls of the sample, and one for each that the other records would make."""
    more = _times(rows, factor - 1)
    low = own.calls.low + (0.0 if own.shared else more.low)  # all may be equal to the first
    calls = Range(low, own.calls.likely + more.likely, own.calls.high + more.high)
    by = calls.likely / own.calls.likely if own.calls.likely else 1.0
    return replace(
        made,
        calls=calls,
        answered=own.answered - own.shared,
        shared=0,
        cost=_times(own.cost, by),
        known_cost=_times(own.known_cost, by),
        seconds=_times(own.seconds, by),
        input_tokens=own.input_tokens * by,
        output_tokens=own.output_tokens * by,
        models={name: n * by for name, n in own.models.items()},
    )


def _rows(run: StepRun, own: StepEstimate) -> Range:
    """Calls that the sample makes, equal ones at temperature 0 each for itself.

    How many of few records are equal says nothing about many others.
    """
    n_planned = float(len(run.calls))
    spots = {(c.key, c.label) for c in run.calls}
    pending = {(c.key, c.label) for c in run.calls if c.status == "pending"}
    single = n_planned / len(spots) if spots else 1.0
    further = own.calls.likely - len(pending)
    return Range(
        n_planned + max(0.0, own.calls.low - len(pending)),
        n_planned + max(0.0, further * single),
        n_planned + max(0.0, own.calls.high - len(pending), further * single),
    )


def _is_bound(
    compiled: CompiledPipeline, scaled: ExecutionEstimate, entry: int, total: float
) -> bool:
    """No step can ask more than it is estimated to: each record before it makes at most one."""
    most = total
    for i, node in enumerate(compiled.nodes[: len(scaled.steps)]):
        step, own = node.step, scaled.steps[i]
        if i <= entry:
            continue
        if isinstance(step, LLMStep):
            if type(step).expected_calls is not LLMStep.expected_calls:
                return False
            most *= step.calls_per_record
            if own.calls.likely + own.answered + own.failed_before < most - 1e-6:
                return False
        elif isinstance(step, ChoiceStep):
            if getattr(step, "replace", False):
                return False
        elif not isinstance(step, (Map, Filter, SinkStep)):
            return False
    return True


def _times(amount: Range, factor: float) -> Range:
    return Range(amount.low * factor, amount.likely * factor, amount.high * factor)


def _sum(amounts: Sequence[Range]) -> Range:
    return sum(amounts, NOTHING)
