"""The end of asking before all is answered: what arrives in time is kept, the rest is let go.

And the losses for which a run ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from queue import Empty

from datafast_nb.engine.calls import Call
from datafast_nb.engine.context import RunContext
from datafast_nb.engine.llmstage import LLMStage
from datafast_nb.engine.scheduler import Scheduler
from datafast_nb.errors import LLMError
from datafast_nb.runs import StepRun
from datafast_nb.steps.llm import LLMStep


def name_place(error: LLMError, runs: Sequence[StepRun]) -> None:
    """Say in the message of an error that ended the run which step and record met it."""
    rows = (row for run in runs for row in run.calls if row.status == "failed")
    row = next((row for row in rows if row.error == str(error)), None)
    if row is not None:
        error.step = row.step
        error.args = (f"step '{row.step}', record {row.record}: {error}",)


def wind_down(ctx: RunContext, stages: Sequence[LLMStage], grace_s: float) -> None:
    """Stop asking; keep what arrives within `grace_s`, give up on the rest."""
    try:
        for stage in stages:
            stage.drop_held()
        if (scheduler := ctx.running_scheduler) is not None:
            _drain(ctx, scheduler, {s.run.name: s for s in stages}, grace_s)
    finally:
        let_go(stages)


def let_go(stages: Sequence[LLMStage]) -> None:
    """No further call comes back: others may ask for what is open, and the memo has the rest."""
    for stage in stages:
        stage.release_all()
    for stage in stages:
        stage.look_on_disk()
        if stage.n_planned:
            stage.tell(force=True)  # what has come since the stage told last


def _drain(
    ctx: RunContext, scheduler: Scheduler, stages: dict[str, LLMStage], grace_s: float
) -> None:
    scheduler.stop()
    end = time.monotonic() + grace_s
    cancelled = False
    while any(stage.n_asked for stage in stages.values()):
        try:
            item = ctx.finished.get(timeout=0.05)
        except Empty:
            if time.monotonic() <= end:
                continue
            if cancelled:
                break
            scheduler.cancel()
            cancelled = True
            end = time.monotonic() + 1.0
            continue
        if isinstance(item, Call):
            stages[item.owner.row.step].accept(item)


def loss_error(ctx: RunContext, run: StepRun, step: LLMStep) -> LLMError | None:
    """Why a run ends after a step: `on_error="raise"`, or every record was lost; None: it goes on."""
    if not run.errors:
        return None
    first = run.errors[0]
    if step.on_error == "raise":
        said = f"step '{run.name}', record {first.record}: {first.error}"
        return LLMError(said, kind=first.kind, model=first.model, step=run.name)
    settings = ctx.settings
    is_part = ctx.ending is not None or settings.one is not None or settings.where is not None
    if is_part or not run.fates.failed or run.fates.advanced + run.fates.skipped:
        return None
    kinds = Counter(e.kind for e in run.errors).most_common()
    return LLMError(
        f"step '{run.name}' lost every record ({', '.join(f'{n} × {k}' for k, n in kinds)}); the "
        f"first: {first.error}. What was received is kept: mend the cause and run again, or call "
        "dfn.last.retry_failed()",
        kind=first.kind,
        model=first.model,
        step=run.name,
    )
