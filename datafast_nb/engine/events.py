"""What a run tells those who watch it. Nothing here is needed for a correct result."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datafast_nb.logs import logger, tell
from datafast_nb.records import Record
from datafast_nb.runs import CallRow

MOST_RECORDS = 20
"""Lost records that a log record names at most, for each kind of loss."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins."""

    step: str
    index: int
    n_in: int | None


@dataclass(frozen=True, slots=True)
class Finished:
    """Records that a step has finished, in the order in which their inputs came."""

    records: list[Record]
    is_new: list[bool]
    """Of each record: a model was asked for it in this run."""
    next: int
    """The input to go on with."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Calls of the running step so far."""

    step: str
    total: int
    done: int
    """Answered, new and failed; what was never asked is not done."""
    answered: int
    new: int
    failed: int
    paid_usd: float
    """At list price; NaN if unknown."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A step that asks models has, or may have, finished further records."""

    step: str
    index: int
    finished: Callable[[int], Finished]
    """The records made from those that entered at a place and behind it, up to the first that is
    not finished; only to be called while the event is heard."""
    calls: Sequence[CallRow] = ()
    """All calls of the step so far. They go on changing while it runs; any thread may read them."""
    inputs: Sequence[Record] = ()
    """What entered the step so far: a call is about `inputs[call.record]`."""
    in_flight: int = 0
    """Requests of the run under way, those of its other steps too."""


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has ended."""

    step: str
    index: int
    n_in: int
    n_out: int


@dataclass(frozen=True, slots=True)
class Noted:
    """A remark to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended, with this status."""

    status: str
    n_out: int


Event = RunStarted | StepStarted | Progress | Grown | StepFinished | Noted | RunFinished
Listener = Callable[[Event], None]


class Lost(Protocol):
    """A call that gave no usable answer."""

    @property
    def record(self) -> int:
        """Index of the record among the step's inputs."""

    @property
    def kind(self) -> str:
        """Verdict."""


class Bus:
    """Hands each event to every listener, on the thread of the run, and to the log.

    `run` is the name of the run; without one (previews, estimates) nothing is logged.
    """

    def __init__(self, listeners: list[Listener], *, run: str = "") -> None:
        self._listeners = listeners
        self.run = run

    def add(self, listener: Listener) -> None:
        """Tell this listener too."""
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Tell this listener no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Tell all listeners. A listener that raises is logged and left out from then on."""
        if self.run:
            _log(event, self.run)
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener of run events failed and is left out")
                self._listeners.remove(listener)

    def log_losses(self, step: str, lost: Sequence[Lost]) -> None:
        """Log which records a step has lost, for each kind of failure."""
        if not self.run:
            return
        for verdict, n in Counter(loss.kind for loss in lost).most_common():
            records = [loss.record for loss in lost if loss.kind == verdict]
            tell(
                logging.WARNING,
                f"step '{step}': no answer for {n:,} of its calls ({verdict})",
                event="records_lost",
                run=self.run,
                step=step,
                verdict=verdict,
                n_records=len(set(records)),
                records=records[:MOST_RECORDS],
            )


def _log(event: Event, run: str) -> None:
    """Runs and steps at INFO, remarks and runs that stop early at WARNING."""
    level = logging.INFO
    fields: dict[str, Any]
    match event:
        case RunStarted(steps):
            said, fields = f"run of {len(steps)} steps", {"event": "run_started", "steps": steps}
        case StepStarted(step, index, n_in):
            said = f"step '{step}' begins"
            fields = {"event": "step_started", "step": step, "index": index, "n_in": n_in}
        case StepFinished(step, index, n_in, n_out):
            said = f"step '{step}' has ended: {n_in:,} records in, {n_out:,} out"
            fields = {"event": "step_finished", "step": step, "index": index}
            fields |= {"n_in": n_in, "n_out": n_out}
        case Noted(text):
            level, said, fields = logging.WARNING, text, {"event": "note"}
        case RunFinished(status, n_out):
            level = logging.INFO if status in ("complete", "limited") else logging.WARNING
            said = f"run has ended, {status}: {n_out:,} records"
            fields = {"event": "run_finished", "status": status, "n_out": n_out}
        case _:
            return  # progress is for those who watch
    tell(level, said, run=run, **fields)
