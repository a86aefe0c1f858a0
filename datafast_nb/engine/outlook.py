"""What a full run would ask, as far as a display may find it out.

Exactly where that is quick: all free steps before the last model are the package's own and the
source is short. Otherwise from the records of the preview, at the size of the source.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datafast_nb.engine.context import RunSettings, Stopped
from datafast_nb.engine.kept import calls_user_code
from datafast_nb.engine.preview import Preview, new_context
from datafast_nb.engine.runner import Runner
from datafast_nb.estimate import ExecutionEstimate, estimate_run
from datafast_nb.ranges import NOTHING, UNKNOWN, Range
from datafast_nb.results import RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.llm import LLMStep
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

    @property
    def is_exact(self) -> bool:
        """All records were looked at."""
        return self.scope == "exact"

    def shared(self, name: str) -> int:
        """Calls of a step that are answered together with another new one, at temperature 0."""
        steps = self.info.steps if self.info is not None else ()
        run = next((r for r in steps if r.name == name), None)
        return _n_shared(run) if run is not None and self.is_exact else 0


def _n_shared(run: StepRun) -> int:
    pending = [(c.key, c.label) for c in run.calls if c.status == "pending"]
    return len(pending) - len(set(pending))


def outlook_of(
    pipeline: Any, compiled: CompiledPipeline, preview: Preview, seconds: float
) -> Outlook:
    """What a full run would ask. Runs no user function, and stops after `seconds`."""
    own = _n_own(compiled)
    last_llm = max(
        (i for i, n in enumerate(compiled.nodes) if isinstance(n.step, LLMStep)), default=0
    )
    n_source = source_count(compiled)
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


def source_count(compiled: CompiledPipeline) -> int | None:
    """Records of the source, where it knows them without reading."""
    source = compiled.nodes[0].step
    try:
        return source.count() if isinstance(source, SourceStep) else None
    except Exception:  # a file that is gone, a source of the user: the run says it better
        return None


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
    if run is None or run.n_in <= FIRST_RECORDS:
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
    scaled = _scaled(info, estimate_run(info), preview.entry, total / n_taken)
    if scope == "sample" and not preview.entry:
        scaled = replace(scaled, total_records=int(total))
    return Outlook(scaled, scope, n_taken, info)


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
) -> ExecutionEstimate:
    """The estimate of the preview's records at the size of the source.

    The memo was asked about the preview's records only: the calls of all others count as new.
    """
    steps = []
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
            known = own.answered - _n_shared(run) + own.failed_before
            calls = _times(own.calls, factor)
            calls = _plus(calls, known * (factor - 1))
            more = calls.likely / own.calls.likely if own.calls.likely else 0.0
            cost = _times(own.cost, more) if more else _cost_of(run, calls)
            made = replace(
                made,
                calls=calls,
                answered=own.answered - _n_shared(run),
                cost=cost,
                seconds=_times(own.seconds, more) if more else _unless_none(calls),
                input_tokens=own.input_tokens * more,
                output_tokens=own.output_tokens * more,
            )
        steps.append(made)
    return replace(
        sample,
        steps=tuple(steps),
        calls=_sum([s.calls for s in steps]),
        cost=_sum([s.cost for s in steps]),
        seconds=_sum([s.seconds for s in steps]),
        basis=tuple(b for b in sample.basis if b[0] not in ("new because", "records")),
    )


def _cost_of(run: StepRun, calls: Range) -> Range:
    """Dollars of further calls, by those that were answered."""
    paid = [math.nan if c.usd is None else c.usd for c in run.calls if c.status == "answered"]
    return _times(calls, sum(paid) / len(paid)) if paid else NOTHING


def _unless_none(calls: Range) -> Range:
    return UNKNOWN if calls.high else NOTHING


def _times(amount: Range, factor: float) -> Range:
    return Range(amount.low * factor, amount.likely * factor, amount.high * factor)


def _plus(amount: Range, more: float) -> Range:
    return Range(amount.low + more, amount.likely + more, amount.high + more)


def _sum(amounts: Sequence[Range]) -> Range:
    return sum(amounts, NOTHING)
