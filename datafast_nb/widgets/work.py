"""What a panel runs: one run at a time, on the thread of a `Run`, and those that a cell waits for."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from datafast_nb.display import formats
from datafast_nb.engine.events import Event
from datafast_nb.engine.handle import Run, Snapshot
from datafast_nb.engine.watching import Wait
from datafast_nb.results import Result
from datafast_nb.widgets.growth import Growth

Phase = Literal[
    "idle", "queued", "running", "stopping", "stopped", "done", "limited", "budget", "failed"
]
_ENDS: dict[str, Phase] = {
    "complete": "done",
    "limited": "limited",
    "interrupted": "stopped",
    "budget": "budget",
    "failed": "failed",
}
BUSY: frozenset[Phase] = frozenset({"queued", "running", "stopping"})


@dataclass(frozen=True)
class Outcome:
    """How a run has ended."""

    what: str
    """Name of what was asked for: "run", "run_one", …"""
    result: Any = None
    """What the run gave; None where it gave nothing."""
    error: BaseException | None = None
    """None where it ended as asked, was stopped, or spent its budget."""


class CellRun:
    """A run that a cell waits for: the panel hears its events and can stop it."""

    def __init__(self, wait: Wait, heard: Callable[[Event], None]) -> None:
        self.wait = wait
        self._heard = heard
        self._state = Snapshot()

    def __call__(self, event: Event) -> None:
        """Hear of an event, on the thread of the cell."""
        self._state = self._state.after(event, time.monotonic())
        self._heard(event)

    def snapshot(self) -> Snapshot:
        """Where it stands."""
        return (
            replace(self._state, status="stopping") if self.wait.stopped.is_set() else self._state
        )


class Runs:
    """The run of a panel, if there is one.

    Every method may be called from any thread. `changed` is called after each change, `ended`
    with each outcome on the thread of the run, with a lock held: it must only note it. `growth`
    makes what hears the events of one run of many.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        ended: Callable[[Outcome], None],
        growth: Callable[[], Growth],
    ) -> None:
        self._changed, self._ended, self._growth = changed, ended, growth
        self._lock = threading.Lock()
        self._phase: Phase = "idle"
        self._what = ""
        self._run: Run | None = None
        self._last = Snapshot()
        self._stops = False
        self._cells: list[CellRun] = []
        self._waits: list[Wait] = []
        self.error: tuple[str, str] | None = None
        """Title and text of what ended the last run, if it failed."""

    # What is going on.

    @property
    def phase(self) -> Phase:
        """Where the panel stands."""
        with self._lock:
            if self._cells and self._phase not in BUSY:
                return "stopping" if self._cells[-1].wait.stopped.is_set() else "running"
            return self._phase

    @property
    def what(self) -> str:
        """What was asked for last."""
        return self._what

    @property
    def is_busy(self) -> bool:
        """A run is on its way, of the panel or of a cell."""
        return self.phase in BUSY

    @property
    def is_waiting(self) -> bool:
        """A cell waits for a run of this pipeline, so that an interrupt reaches it."""
        return bool(self._waits)

    def snapshot(self) -> Snapshot | None:
        """Figures of the run that goes on, or of the last one; None before the first."""
        with self._lock:
            run, cell = self._run, self._cells[-1] if self._cells else None
        if run is not None:
            return run._snapshot()
        if cell is not None:
            return cell.snapshot()
        return self._last if self._last.steps else None

    # Beginning and ending.

    def claim(self, what: str) -> bool:
        """Take the place of the one run; False: something is on its way."""
        with self._lock:
            if self._phase in BUSY or self._cells:
                return False
            self._phase, self._what, self._stops = "queued", what, False
            self.error = None
        self._changed()
        return True

    def release(self, error: tuple[str, str] | None = None) -> None:
        """Give back a claim of which nothing came."""
        with self._lock:
            self._phase = "failed" if error else "stopped" if self._stops else "idle"
            self.error = error
        self._changed()

    def begin(self, make: Callable[[], Run]) -> None:
        """Start what was claimed. What `make` raises gives the claim back, and is raised."""
        try:
            if self._stops:
                self.release()
                return
            run = make()
        except BaseException:
            self.release()
            raise
        self.attach(run, self._what)

    def attach(self, run: Run, what: str) -> None:
        """Follow a run that was started."""
        with self._lock:
            self._run, self._what = run, what
            self._phase = "stopping" if self._stops else "running"
            stops = self._stops
        if stops:
            run.stop()
        if what in ("run", "attached"):
            growth = self._growth()
            growth.catch_up(run._grown)
            run.tell(growth)
        self._changed()
        me = weakref.ref(self)  # whoever holds the run does not hold the panel

        def over(_: object) -> None:
            runs = me()
            if runs is not None:
                runs._over(run, what)

        run._future.add_done_callback(over)

    def complain(self, words: str) -> None:
        """Say what went wrong after a run."""
        with self._lock:
            self.error = "The run has ended", words
        self._changed()

    def stop(self) -> bool:
        """Send nothing more; False: nothing is on its way."""
        with self._lock:
            if self._phase not in BUSY and not self._waits:
                return False
            self._stops = True
            run, waits = self._run, list(self._waits)
            if run is not None and self._phase == "running":
                self._phase = "stopping"
        if run is not None:
            run.stop()
        for wait in waits:
            wait.cut()
        self._changed()
        return True

    def _over(self, run: Run, what: str) -> None:
        error = run._future.exception()
        result = None if error is not None else run._future.result()
        if error is not None:
            result = _result_of(error)
        with self._lock:
            self._last = run._snapshot()
            self._run = None
            self._phase = _phase_of(result, error, stopped=self._stops)
            if self._phase == "limited" and what in ("run_one", "draft_run"):
                self._phase = "done"  # the records that were asked for
            self._what = what
            if error is not None:
                self.error = said_of(error)
            self._ended(Outcome(what, result, error))  # before anything else can be begun
        self._changed()

    # Cells that wait; see `engine.watching`.

    def cell_waits(self, wait: Wait) -> None:
        """A cell begins to wait for a run of this pipeline."""
        with self._lock:
            self._waits.append(wait)
            if wait.is_run:
                is_ours = self._phase in BUSY  # two runs at once: the table shows the panel's
                if not is_ours:
                    self._what, self.error = "cell", None
                cell = CellRun(wait, _unheard if is_ours else self._growth())
                wait.listeners.append(cell)
                self._cells.append(cell)
        self._changed()

    def cell_goes_on(self, wait: Wait) -> None:
        """It no longer waits."""
        with self._lock:
            self._waits = [w for w in self._waits if w is not wait]
            gone = [c for c in self._cells if c.wait is wait]
            self._cells = [c for c in self._cells if c.wait is not wait]
            if gone:
                self._last = gone[0].snapshot()
                if self._phase not in BUSY:
                    stopped = wait.stopped.is_set()
                    self._phase = _phase_of(wait.result, wait.error, stopped=stopped)
                    if self._phase == "failed" and wait.error is not None:
                        self.error = said_of(wait.error)
                result = wait.result if wait.error is None else _result_of(wait.error)
                self._ended(Outcome("cell", result, wait.error))
        self._changed()


def _result_of(error: BaseException) -> Any:
    """What a run gave that ended with an error; None: nothing."""
    made = getattr(error, "result", None)
    return made if isinstance(made, Result) else getattr(error, "_failed_run", None)


def _unheard(_: Event) -> None:
    """Hears of a run whose records are not shown."""


def _phase_of(result: Any, error: BaseException | None, *, stopped: bool) -> Phase:
    if isinstance(result, Result) and result._info is not None:
        if error is not None and result.status not in ("budget", "interrupted"):
            return "failed"
        return _ENDS.get(result.status, "done")
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if error is not None:
        return "failed"
    return "stopped" if stopped else "done"


def said_of(error: BaseException) -> tuple[str, str]:
    """Title and text of an error, without its traceback."""
    said = formats.error_text(error)
    name = type(error).__name__
    return name, formats.printable(said.removeprefix(f"{name}: "))
