"""A run in the background: `pipeline.start()` returns at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    Block,
    Document,
    Fact,
    Facts,
    Head,
    Legend,
    Line,
    Mark,
    Paragraph,
    code,
)
from datafast_nb.engine import watching
from datafast_nb.engine.events import (
    Event,
    Grown,
    Progress,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
)
from datafast_nb.engine.standing import Standing
from datafast_nb.errors import RunInterrupted
from datafast_nb.results import Result

if TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline
    from datafast_nb.widgets.panel import Panel

WIND_DOWN_S = 3.0
"""How long an interrupted cell waits for the run to end: calls in flight have a second."""


class Run(Shown):
    """A run on a worker thread. `await run`, or `run.result()`, gives its Result.

    A run that was stopped, or spent its budget, gives its partial Result; other failures raise.
    """

    def __init__(
        self,
        work: Callable[[threading.Event, Callable[[Event], None]], Result],
        *,
        clock: Callable[[], float] = time.monotonic,
        pipeline: Pipeline | None = None,
    ) -> None:
        self.pipeline = pipeline
        """What runs; None where it is not known."""
        self._stop_event = threading.Event()
        self._future: Future[Result] = Future()
        self._state = Snapshot()
        self._listeners: list[Callable[[Event], None]] = []
        self._grown: dict[str, Grown] = {}
        """Of each LLM step, what was heard of it last; for who listens later."""
        self._clock = clock
        self._status = "running"
        self._thread = threading.Thread(
            target=self._serve, args=(work,), name="datafast_nb-run", daemon=True
        )
        self._thread.start()

    def _serve(self, work: Callable[[threading.Event, Callable[[Event], None]], Result]) -> None:
        try:
            self._do(work)
        finally:  # a handle that is kept holds no step
            self._listeners = []
            self._grown = {}

    def _do(self, work: Callable[[threading.Event, Callable[[Event], None]], Result]) -> None:
        try:
            result = work(self._stop_event, self._listen)
        except BaseException as exc:
            partial = getattr(exc, "result", None)
            self._status = partial.status if isinstance(partial, Result) else "failed"
            if isinstance(partial, Result) and partial.status in ("budget", "interrupted"):
                self._future.set_result(partial)
            else:
                self._future.set_exception(exc)
            return
        self._status = result.status
        try:
            self._future.set_result(result)
        except InvalidStateError:  # an awaiting task was cancelled; the run went on
            return

    def _listen(self, event: Event) -> None:
        self._state = self._state.after(event, self._clock())
        if isinstance(event, Grown):
            self._grown = {**self._grown, event.step: event}
        for heard in self._listeners:
            heard(event)
        if isinstance(event, RunStarted):
            self._status = "running"  # of several runs, one after another
        elif isinstance(event, RunFinished):
            self._status = event.status

    @property
    def status(self) -> str:
        """At first "running", then the status of the Result, or "failed"."""
        return self._status

    @property
    def progress(self) -> Progress | None:
        """Calls of the running LLM step so far; None before the first."""
        return self._state.progress

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._future.done()

    def stop(self) -> None:
        """Send nothing more; the run ends within about a second and keeps what arrived."""
        self._stop_event.set()

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the Result.

        An interrupt of the waiting cell stops the run.

        Raises
        ------
        RunInterrupted
            If the cell was interrupted, or a panel's Stop has ended the run; `result` is the
            partial Result, None where calls were still in flight.
        TimeoutError
            After `timeout_s` seconds; the run goes on.
        """
        tail = None if self.done or self.pipeline is None else self.pipeline._tail
        with watching.waited(tail, self._stop_event) as wait:
            wait.result = self._wait(timeout_s)
            return wait.loud_result()

    def _wait(self, timeout_s: float | None) -> Result:
        waited = 0.0
        while True:
            # Waiting in short pieces: a single long wait would hold back Ctrl-C on some platforms.
            piece = 0.2 if timeout_s is None else min(0.2, max(0.0, timeout_s - waited))
            try:
                return self._future.result(timeout=piece)
            except TimeoutError:
                if self._future.done():
                    raise
                waited += piece
                if timeout_s is not None and waited >= timeout_s:
                    raise TimeoutError(
                        f"the run has not ended within {timeout_s:g} s; it goes on"
                    ) from None
            except KeyboardInterrupt:
                self.stop()
                raise self._interrupted() from None

    def _interrupted(self) -> RunInterrupted:
        """What an interrupted cell raises, once the run has come to its end."""
        with suppress(KeyboardInterrupt):  # one more: it is not waited for
            wait_for([self._future], WIND_DOWN_S)
        future = self._future
        is_there = future.done() and not future.cancelled() and future.exception() is None
        return watching.interrupted("Interrupted", future.result() if is_there else None)

    def __await__(self) -> Generator[Any, None, Result]:
        """The Result; cancelling the waiting task leaves the run alone."""
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def panel(self) -> Panel:
        """The run, live: progress, Stop, and its records as soon as it has ended."""
        from datafast_nb.widgets.panel import Panel  # upward: a panel runs pipelines

        return Panel(self)

    def tell(self, listener: Callable[[Event], None]) -> None:
        """Tell `listener` of every event from now on, on the run's thread. It must not raise."""
        self._listeners.append(listener)

    def view(self) -> Document:
        """Plain data for display: a snapshot, the same until the next event of the run."""
        return _view(self._snapshot(), self._error())

    def _snapshot(self) -> Snapshot:
        status = self._status
        if self._stop_event.is_set() and status == "running":
            status = "stopping"
        return replace(self._state, status=status)

    def _error(self) -> BaseException | None:
        if not self._future.done() or self._future.cancelled():
            return None
        return self._future.exception()

    def __repr__(self) -> str:
        return _line(self._snapshot())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands, as of its last event."""

    status: str = "running"
    steps: tuple[str, ...] = ()
    step: str = ""
    index: int = 0
    standing: Standing = field(default_factory=Standing)
    first: tuple[float, int] | None = None
    """Time of the first new answers of the steps that ask, in seconds of the clock, and how many came by then."""
    last: float = 0.0
    n_out: int | None = None
    in_flight: int = 0
    """Requests under way."""
    through: tuple[StepFinished, ...] = ()
    """Steps of this run that have ended."""

    def after(self, event: Event, now: float) -> Snapshot:
        """The snapshot after an event that came at `now`."""
        if isinstance(event, RunStarted):
            standing = self.standing.at_next_run()
            return replace(self, status="running", steps=event.steps, standing=standing, through=())
        if isinstance(event, StepStarted):
            return replace(self, step=event.step, index=event.index)
        if isinstance(event, RunFinished):
            return replace(self, status=event.status, n_out=event.n_out, in_flight=0)
        if isinstance(event, Grown):
            return replace(self, in_flight=event.in_flight)
        standing = self.standing.after(event)
        if isinstance(event, StepFinished):
            return replace(self, standing=standing, through=(*self.through, event))
        if not isinstance(event, Progress):
            return replace(self, standing=standing)
        is_first = len(standing.lines) == 1 and event.step not in self._asking
        # The time before the first answer says nothing of the rate: it is one call's, and start-up.
        had_none = self.first is not None and self.first[1] == 0
        if is_first or (had_none and event.new):
            return replace(self, standing=standing, first=(now, event.new), last=now)
        return replace(self, standing=standing, last=now)

    @property
    def _asking(self) -> list[str]:
        return [p.step for p in self.standing.lines]

    @property
    def progress(self) -> Progress | None:
        """Of the LLM steps that ask, or the last ones; None before the first."""
        return self.standing.together

    @property
    def paid_usd(self) -> float:
        """At list price, over all steps so far; NaN if unknown."""
        return self.standing.paid_usd

    @property
    def calls_per_s(self) -> float:
        """New calls a second since the step began; 0 before there are two moments to compare."""
        if self.progress is None or self.first is None or self.last <= self.first[0]:
            return 0.0
        return (self.progress.new - self.first[1]) / (self.last - self.first[0])

    @property
    def left_s(self) -> float | None:
        """Seconds until the step's calls are done, if all that are left are new; None: unknown."""
        if self.progress is None or self.calls_per_s <= 0:
            return None
        return (self.progress.total - self.progress.done) / self.calls_per_s


def _line(at: Snapshot) -> str:
    """`Run(running 42/100, $0.03, ETA 12 s)`."""
    p = at.progress
    parts = [f"{at.status} {p.done:,}/{p.total:,}" if p is not None else at.status]
    if p is not None and at.paid_usd:
        parts.append(formats.usd(at.paid_usd))
    if at.status == "running" and at.left_s is not None:
        parts.append(f"ETA {formats.seconds(at.left_s)}")
    return f"Run({', '.join(parts)})"


def _view(at: Snapshot, error: BaseException | None) -> Document:
    is_over = at.status not in ("running", "stopping")
    p = at.progress
    title = f"Run {at.status}" if is_over else at.status.capitalize()
    facts = ""
    if p is not None:
        where = "" if is_over else f" of {formats.cell(p.step, formats.MAX_NAME)}"
        facts = f"{p.done:,} of {formats.plural(p.total, 'call')}{where}"
    elif is_over:
        facts = "no model was asked"
    elif at.step:
        facts = f"at {formats.cell(at.step, formats.MAX_NAME)}"
    if at.n_out is not None and at.status != "failed":
        facts += f" · {formats.plural(at.n_out, 'record')}"
    blocks: list[Block] = [Head(title, (facts,) if facts else ())]
    if p is not None:
        blocks.append(_legend(at, p))
    if error is not None:
        blocks.append(Paragraph((Mark("failed"), f" {formats.error_text(error)}")))
    rows = [] if is_over else _running(at)
    if rows:
        blocks.append(Facts(tuple(Fact(name, (said,)) for name, said in rows), is_ruled=True))
    blocks.append(Paragraph(_next(at.status), is_note=True))
    return Document(tuple(blocks))


def _legend(at: Snapshot, p: Progress) -> Legend:
    items: list[Line] = [
        (Mark("memo"), f" {p.answered:,} from the memo"),
        (Mark("new"), f" {p.new:,} new"),
    ]
    if p.failed:
        items.append((Mark("failed"), f" {p.failed:,} failed"))
    items.append((f"paid {formats.usd(at.paid_usd)}",))
    return Legend(tuple(items))


def _running(at: Snapshot) -> list[tuple[str, str]]:
    rows = []
    together = len(at.standing.lines) > 1
    if together and at.progress is not None:
        rows.append(("steps", f"{formats.cell(at.progress.step, 200)}, at the same time"))
    elif at.step:
        place = f", {at.index + 1} of {len(at.steps)}" if at.steps else ""
        rows.append(("step", f"{formats.cell(at.step, formats.MAX_NAME)}{place}"))
    if at.in_flight:
        rows.append(("in flight", formats.plural(at.in_flight, "call")))
    if at.left_s is not None:
        rows.append(("rate", f"{at.calls_per_s:,.2g} new calls a second"))
        rows.append(
            (
                "left",
                f"about {formats.seconds(at.left_s)} for {'these steps' if together else 'this step'}",
            )
        )
    return rows


def _next(status: str) -> Line:
    if status == "running":
        return (
            code("run.stop()"),
            " ends it and keeps what arrived, ",
            code("run.result()"),
            " or ",
            code("await run"),
            " waits for the Result",
        )
    if status == "stopping":
        return ("calls in flight come in, nothing more is sent; ", code("run.result()"))
    if status == "failed":
        return (code("run.result()"), " raises the error; answers so far are in the memo")
    return (code("run.result()"), " is the Result")
