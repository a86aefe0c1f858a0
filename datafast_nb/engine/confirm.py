"""The question before a large run: what it may cost and take, before anything is asked."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.engine.context import RunSettings, Stopped
from datafast_nb.engine.identities import learn_identities
from datafast_nb.engine.limits import DEFAULT_IN_FLIGHT
from datafast_nb.engine.preview import new_context
from datafast_nb.engine.progress import in_notebook
from datafast_nb.engine.runner import Runner
from datafast_nb.errors import ConfirmationRequired
from datafast_nb.estimate import ExecutionEstimate, estimate_run
from datafast_nb.estimate_basis import count_of, is_free
from datafast_nb.options import mode, options
from datafast_nb.ranges import Range
from datafast_nb.steps.llm import LLMStep
from datafast_nb.validate import CompiledPipeline

if TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline

MAX_S = 3.0
"""Seconds for looking at all records; after that the first ones tell of the others."""
MAX_SAMPLE_S = 1.0
SAMPLES = (200, 20)
"""Records of which the first tell of the others."""


def confirm_first(
    pipeline: Pipeline, settings: RunSettings, stop_after: int | str | None, is_confirmed: bool
) -> None:
    """Ask before a large run that has no bound. Asks no model, and takes a few seconds at most.

    The figures are the upper ends of the estimate's ranges. What free steps do is found out by
    running them, as `estimate()` does: nothing stops a function inside a record.

    Raises
    ------
    ConfirmationRequired
        If the run may pass `options.confirm_above_usd` or `options.confirm_above_minutes`.
    """
    if is_confirmed or settings.budget_usd is not None or settings.max_calls is not None:
        return
    if not (in_notebook() if options.confirm is None else options.confirm) or mode() == "replay":
        return
    compiled = pipeline.compile()
    at = None if stop_after is None else compiled.index(stop_after)
    last = _last_llm(compiled, at)
    if last is None or not _may_matter(compiled, last):
        return
    try:
        learn_identities(pipeline.steps)
        estimate = bounded_estimate(pipeline, compiled, settings, last)
    except Exception:  # of a user's function: the run meets it as well, and tells where
        return
    if estimate is not None and not _is_large(estimate):
        return
    line = _line(settings, compiled, at, estimate)
    raise ConfirmationRequired(_words(estimate, line), estimate=estimate, line=line)


def _last_llm(compiled: CompiledPipeline, at: int | None) -> int | None:
    nodes = compiled.nodes if at is None else compiled.nodes[: at + 1]
    return max((i for i, n in enumerate(nodes) if isinstance(n.step, LLMStep)), default=None)


def _may_matter(compiled: CompiledPipeline, last: int) -> bool:
    """There is a threshold that a run of these models can pass."""
    if options.confirm_above_minutes is not None:
        return True
    steps = [n.step for n in compiled.nodes[: last + 1]]
    paid = any(isinstance(s, LLMStep) and not is_free(s) for s in steps)
    return paid and options.confirm_above_usd is not None


def _is_large(estimate: ExecutionEstimate) -> bool:
    usd, minutes = options.confirm_above_usd, options.confirm_above_minutes
    if usd is not None and estimate.known_cost.likely > usd:
        return True
    return minutes is not None and estimate.seconds.likely > minutes * 60


class _Deadline(threading.Event):
    """Stops a run when its time is up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._at = time.monotonic() + seconds

    def is_set(self) -> bool:
        return time.monotonic() > self._at


def bounded_estimate(
    pipeline: Pipeline, compiled: CompiledPipeline, settings: RunSettings, last: int
) -> ExecutionEstimate | None:
    """The estimate of the run, from a part of the records where all take too long; None: neither."""
    found = _dry_run(pipeline, compiled, settings, last, MAX_S)
    if found is not None:
        return found
    n = settings.limit if settings.limit is not None else count_of(compiled)
    for size in SAMPLES:
        if n is None or n <= size:
            continue
        sample = replace(settings, limit=size)
        if settings.limit is None:
            sample.limit_at = "source"  # its records are the ones whose number is known
        part = _dry_run(pipeline, compiled, sample, last, MAX_SAMPLE_S)
        if part is not None:
            return _scaled(part, n, size, settings.limit)
    return None


def _dry_run(
    pipeline: Pipeline,
    compiled: CompiledPipeline,
    settings: RunSettings,
    last: int,
    seconds: float,
) -> ExecutionEstimate | None:
    own = replace(settings, dry=True, sinks=False, checkpoint=None, order="steps", stop_after=last)
    ctx = new_context(compiled, own)
    ctx.stop_event = _Deadline(seconds)
    try:
        return estimate_run(Runner(ctx, pipeline).run().info)
    except Stopped:
        return None


def _scaled(part: ExecutionEstimate, n: int, size: int, limit: int | None) -> ExecutionEstimate:
    factor = n / size

    def grown(range_: Range) -> Range:
        return Range(range_.low * factor, range_.likely * factor, range_.high * factor)

    said = f"from the first {size} records: the others would have taken too long"
    return replace(
        part,
        steps=(),
        calls=grown(part.calls),
        cost=grown(part.cost),
        known_cost=grown(part.known_cost),
        seconds=grown(part.seconds),
        basis=(("all figures", said), *part.basis),
        limit=limit,
        new_records=math.nan,
    )


def _words(estimate: ExecutionEstimate | None, line: str) -> str:
    if estimate is None:
        said = [
            "nobody knows what this run may cost: the steps before the model take longer than "
            f"{MAX_S:g} s. Nothing has been asked."
        ]
    else:
        n = formats.plural(round(estimate.calls.likely), "new call")
        said = [f"this run may {_figures(estimate)}: {n}. Nothing has been asked."]
        basis = dict(estimate.basis)
        if "all figures" in basis:
            said.append(f"Figures: {basis['all figures']}")
        elif "new because" in basis:
            said.append(f"New because: {basis['new because']}")
    said += [
        f"To run it: {line}",
        "Or less of it first: limit=. Never ask: options.confirm = False (asked above "
        f"{_thresholds()})",
    ]
    return "\n  ".join(said)


def _thresholds() -> str:
    usd, minutes = options.confirm_above_usd, options.confirm_above_minutes
    said = [] if usd is None else [f"options.confirm_above_usd={usd:g}"]
    said += [] if minutes is None else [f"options.confirm_above_minutes={minutes:g}"]
    return ", ".join(said)


def _figures(estimate: ExecutionEstimate) -> str:
    cost, seconds = estimate.known_cost, estimate.seconds
    parts = []
    if cost.high > 0:
        more = f" and the price of {', '.join(estimate.unpriced)}" if estimate.unpriced else ""
        likely = formats.usd(cost.likely)
        between = formats.usd_range(cost.low, cost.high)
        is_known = likely == between
        parts.append(
            f"cost {likely}{more}" if is_known else f"cost about {likely} ({between}){more}"
        )
    if math.isfinite(seconds.high):
        low, high = formats.seconds(seconds.low), formats.seconds(seconds.high)
        parts.append(f"take {low if low == high else f'{low} to {high}'}")
    return " and ".join(parts)


def _line(
    settings: RunSettings,
    compiled: CompiledPipeline,
    at: int | None,
    estimate: ExecutionEstimate | None,
) -> str:
    """The call that runs it, with what was given and a bound a little above the estimate."""
    given: dict[str, Any] = {}
    if settings.checkpoint is not None:
        given["checkpoint_dir"] = settings.checkpoint.folder
        if settings.checkpoint.resume:
            given["resume"] = True
        if settings.checkpoint.resume_from is not None:
            given["resume_from"] = settings.checkpoint.resume_from
    defaults = RunSettings()
    for name in ("limit", "pick", "limit_at", "sinks", "order"):
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            given[name] = value
    if at is not None:
        given["stop_after"] = compiled.names[at]
    if settings.in_flight != DEFAULT_IN_FLIGHT:
        given["max_concurrent"] = settings.in_flight
    words = [f"{name}={value!r}" for name, value in given.items()]
    if settings.rate_limits.entries:
        words.append("rate_limits=…")
    if estimate is not None and estimate.known_cost.high > 0 and not estimate.unpriced:
        words.append(f"budget={_round_up(estimate.known_cost.high)}")
    else:
        words.append("confirm=True")
    return f".run({', '.join(words)})"


def _round_up(usd: float) -> str:
    """At least as much, in two digits: 3.41 is "3.5"."""
    unit = 10.0 ** (math.floor(math.log10(usd)) - 1)
    return f"{math.ceil(usd / unit - 1e-9) * unit:.10g}"
