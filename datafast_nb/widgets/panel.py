"""The panel: a pipeline with buttons, its records, prompts and bill, live in a cell."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from datafast_nb.display import formats
from datafast_nb.engine import watching
from datafast_nb.engine.handle import Run
from datafast_nb.engine.limits import DEFAULT_IN_FLIGHT
from datafast_nb.engine.progress import in_notebook
from datafast_nb.engine.watching import Wait
from datafast_nb.estimate_basis import count_of
from datafast_nb.models.base import Model
from datafast_nb.pipeline import Pipeline
from datafast_nb.records import Record
from datafast_nb.results import Result, last_result
from datafast_nb.trace import RecordTrace, trace_all
from datafast_nb.widgets import board
from datafast_nb.widgets.board import FINAL
from datafast_nb.widgets.draft import Drafts, has_known_places
from datafast_nb.widgets.freeze import EMPTY, in_words, static_bundle
from datafast_nb.widgets.growth import Growth
from datafast_nb.widgets.looking import Looking
from datafast_nb.widgets.pins import Pins
from datafast_nb.widgets.requests import Desk
from datafast_nb.widgets.shelf import Part, Shelf
from datafast_nb.widgets.threads import Pulse, Worker
from datafast_nb.widgets.work import Outcome, Runs

if TYPE_CHECKING:
    import pandas as pd

    from datafast_nb.widgets.model import PanelModel

MANY = ("run", "attached", "cell")
"""Runs of many records, which tables, bill and failures follow while they go on."""
THEIRS = ("attached", "cell")
"""Those that the panel has not begun."""
INSTALL = "pip install 'datafast-nb[panel]' makes this a live panel."


class Panel:
    """A pipeline, a Result or a run, live in a notebook. Showing it asks no model.

    Only its buttons do: Run one, Run, Retry, and the draft's. Without ipywidgets and anywidget the
    static display is shown.

    Parameters
    ----------
    about
        A pipeline; a Result, to look at; or a run that was started.
    limit
        Records that the Run button lets into the first LLM step; None: all.
    budget
        US dollars at list price that one click may spend; None: no bound.
    models
        Further models to choose from.
    """

    def __init__(
        self,
        about: Pipeline | Result | Run,
        *,
        limit: int | None = 20,
        budget: float | None = None,
        models: Sequence[Model] = (),
    ) -> None:
        self.kind = {Pipeline: "pipeline", Run: "run"}.get(type(about), "result")
        self.session = uuid4().hex
        self._model_id = uuid4().hex
        self._about = about
        self._lock = threading.RLock()
        self.shelf = Shelf()
        self.runs = Runs(self._wake, self._ended, self._new_growth)
        self.drafts: Drafts | None = None
        source = _pipeline_of(about)
        if source is not None:
            self.drafts = Drafts(source, models)
            watching.watch(source._tail, self)
        self.controls: dict[str, Any] = self._first_controls(limit, budget)
        self.looking = Looking(self.shelf)
        places = self.drafts is not None and has_known_places(self.drafts.original)
        self.pins = Pins(self.shelf, known_places=places)
        self.estimate: dict[str, Any] | None = None
        self.estimated: dict[str, float] = {}
        """Step → likely dollars, as foreseen for the last run."""
        self.focus: dict[str, Any] | None = None
        self.last_trace: RecordTrace | None = None
        self._memo: dict[str, Any] | None = None
        self._changes_of_run: dict[str, Any] = {}
        self._budget_of_run: float | None = None
        self._growth: Growth | None = None
        self.poll = "google.colab" in sys.modules
        name = f"datafast_nb-panel-{self.session[:6]}"
        me = weakref.ref(self)  # a thread must not keep a panel that nobody holds

        def beat() -> bool:
            panel = me()
            return panel is not None and panel._beat()

        self.look, self.act = Worker(f"{name}-look"), Worker(f"{name}-act")
        self.figures = Worker(f"{name}-figures")
        self._pulse = Pulse(f"{name}-pulse", beat)
        self._pushing = threading.RLock()
        self._pushed: dict[str, Any] = {}
        self._widget: PanelModel | None = None
        self._shown: list[tuple[str, str]] = []
        self._is_closed = False
        self.desk = Desk(self)
        if isinstance(about, Result):
            self.shelf.show([Part(about, None, None if about._info is None else {}, time.time())])
        elif isinstance(about, Run):
            self.runs.attach(about, "attached")
        else:
            last = _last_of(about)
            if last is not None:
                self.shelf.show([Part(last, None, {}, time.time())])

    # What a notebook asks of it.

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline with the edits made in the panel. Raises ValueError where there is none."""
        if self.drafts is None:
            raise ValueError("this Result came from no run, so it has no pipeline")
        return self.drafts.pipeline

    @property
    def result(self) -> Result | None:
        """The Result that is shown; of records that were run one by one the last one."""
        results = self.shelf.results
        return results[-1] if results else None

    def frame(self, step: str = FINAL) -> pd.DataFrame:
        """The table of a step as a DataFrame: the `df` of the expression below the table."""
        return self.shelf.table(step).frame()

    def status(self, step: str = FINAL) -> pd.Series:
        """Of each record of a step "new", "memo" or "none"."""
        return self.shelf.table(step).status()

    def failed(self, step: str = FINAL) -> pd.DataFrame:
        """The records that failed: a row for each failed call."""
        import pandas as pd

        return pd.DataFrame([e.input for _, e in self.shelf.table(step).failed])

    @property
    def df(self) -> pd.DataFrame:
        """The rows that the table shows now, searched, filtered and sorted."""
        return self.looking.rows()

    @property
    def selection(self) -> pd.DataFrame:
        """The selected rows; none where the table has changed since."""
        return self.looking.selection()

    def freeze(self) -> None:
        """Put the static display in the place of the panel, and close it."""
        bundle = static_bundle(self._static())
        shown, self._shown = self._shown, []
        if shown:
            for static_id, live_id in shown:
                _show(EMPTY, static_id, again=True)
                _show(bundle, live_id, again=True)
        self.close()

    def close(self) -> None:
        """End its threads and its line to the browser. A run goes on; `panel.runs.stop()` ends it."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        watching.unwatch(self)
        for worker in (self.look, self.act, self.figures):
            worker.close()
        self._pulse.close()
        widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()

    @property
    def is_closed(self) -> bool:
        """It was closed, or frozen."""
        return self._is_closed

    # Display.

    @property
    def widget(self) -> PanelModel | None:
        """The line to the browser; None without ipywidgets and anywidget."""
        with self._lock:
            if self._widget is None and not self._is_closed and can_be_live():
                from datafast_nb.widgets.model import PanelModel

                self._memo = self._memo or _quietly(board.memo_state)
                self._pushed = self.state()
                self._widget = PanelModel(self.desk.receive, self._pushed, self._model_id)
                self.desk.opened()
            return self._widget

    def _static(self) -> Any:
        """What the static display shows."""
        if self.shelf.is_whole:
            return self.shelf.parts[0].result
        return self._about

    def _ipython_display_(self) -> None:
        if not in_notebook():
            print(repr(self))
            return
        static = static_bundle(self._static())
        widget = self.widget
        if widget is None:
            if not can_be_live():
                static["text/html"] += f'<p style="opacity:.7">{INSTALL}</p>'
                static["text/plain"] += f"\n{INSTALL}"
            _show(static)
            return
        ids = (uuid4().hex, uuid4().hex)
        self._shown.append(ids)
        _show(static, ids[0])
        live: Any = widget._repr_mimebundle_()
        _show(live[0] if isinstance(live, tuple) else live, ids[1])

    def __repr__(self) -> str:
        return in_words(self._static())

    # State.

    def state(self) -> dict[str, Any]:
        """What the browser is told of its own accord."""
        at = self.runs.snapshot()
        progress = board.progress_state(at)
        phase, error = self.runs.phase, self.runs.error
        sizes = self.shelf.sizes()
        n_failed = self.shelf.n_failed()
        if self.going is not None and at is not None:
            n_failed = sum(p.failed for p in (*at.standing.before, *at.standing.lines))
        if progress is not None:
            # What others began is bound by what they said, not by the control here.
            progress["budget"] = None if self.runs.what in THEIRS else self._budget_of_run
        said = error[1] if error else ""
        return {
            "title": self._title(),
            "kind": self.kind,
            "session": self.session,
            "model": self._model_id,
            "phase": phase,
            "what": self.runs.what,
            "said": board.said(phase, self.runs.what, progress, sizes[FINAL]["n"], said),
            "error": None if error is None else {"title": error[0], "text": error[1]},
            "controls": dict(self.controls),
            "estimate": self.estimate,
            "progress": progress,
            "memo": self._memo,
            "steps": self.steps(),
            "tables": sizes,
            "errors": {"n": n_failed},
            "stale": self._remark(),
            "draft": self.desk.draft_state(),
            "focus": self.focus,
            "pins": self.pins.rows(),
            "waiting": self.runs.is_waiting,
            "poll": self.poll,
        }

    def steps(self) -> list[dict[str, Any]]:
        """Each step with its counts: of the run of many that goes on, else of what is shown."""
        compiled = None if self.drafts is None else self.drafts.compiled
        at = self.runs.snapshot()
        if at is not None and self.going is not None:
            return board.going_state(compiled, at)
        return board.steps_state(compiled, self.shelf.steps)

    @property
    def going(self) -> Growth | None:
        """What the run of many that goes on has made so far; None: there is none."""
        is_on = self.runs.phase in ("running", "stopping")
        return self._growth if is_on and self.runs.what in MANY else None

    def _remark(self) -> str:
        step = self.shelf.growing
        if step:
            return f"so far: records of step {formats.cell(step, 60)}"
        return "" if self.drafts is None else self.shelf.stale(self.drafts._changes)

    def _title(self) -> str:
        if self.drafts is None:
            return "Result"
        return formats.cell(self.drafts.compiled.nodes[-1].name, 60)

    def _first_controls(self, limit: int | None, budget: float | None) -> dict[str, Any]:
        drafts = self.drafts
        n = None
        if drafts is not None and has_known_places(drafts.original):
            n = count_of(drafts.compiled)
        steps = [] if drafts is None else drafts.llm_steps
        step = steps[-1] if steps else None
        settings = drafts.settings(step) if drafts is not None and step is not None else {}
        return {
            "limit": limit if n is None or limit is None else min(limit, n),
            "limit_max": n,
            "record": 0,
            "n_records": n,
            "models": [] if drafts is None else list(drafts.models),
            "model": settings.get("model", ""),
            "temperature": settings.get("temperature"),
            "n": settings.get("n", 1),
            "budget": budget,
            "concurrency": DEFAULT_IN_FLIGHT,
            "step": step,
            "llm_steps": steps,
        }

    def _wake(self) -> None:
        self._pulse.wake()

    def _beat(self) -> bool:
        """Push the state where it has changed; True while a run goes on."""
        widget = self._widget
        busy = self.runs.is_busy
        if widget is not None:
            with self._pushing:  # a state of another thread must not come behind a newer one
                state = self.state()
                if state != self._pushed:
                    self._pushed = state
                    widget.push(state)
        return busy

    # Runs.

    def begin(self, make: Callable[[], Run]) -> None:
        """Start what was claimed, and remember what it is a run of."""
        assert self.drafts is not None
        self._changes_of_run = deepcopy(self.drafts._changes)
        self._budget_of_run = self.controls["budget"]
        self.runs.begin(make)

    def _ended(self, outcome: Outcome) -> None:
        """A run has ended: its records are shown from the panel's own thread."""
        changes = {} if outcome.what in THEIRS else self._changes_of_run
        if not self.act.put(lambda: self._adopt(outcome, changes)):
            return

    def _new_growth(self) -> Growth:
        """Hears of one run what it has made so far."""
        me = weakref.ref(self)  # whoever holds the run does not hold the panel

        def show(step: str, records: list[Record], statuses: list[str]) -> None:
            panel = me()
            if panel is not None and panel.runs.is_busy:  # else its end was told already
                panel.shelf.grow(step, records, statuses)
                panel._wake()

        if self.runs.what in THEIRS:
            self.estimated = {}
        self._growth = Growth(show)
        return self._growth

    def _adopt(self, outcome: Outcome, changes: dict[str, Any]) -> None:
        """Show what a run gave; what goes wrong in it is said, and the table before stays."""
        try:
            self._show_outcome(outcome, changes)
        except Exception as exc:
            self.shelf.stop_growing()
            self.runs.complain(f"its records cannot be shown: {formats.error_text(exc)}")
            self.desk.estimate_again()
            raise

    def _show_outcome(self, outcome: Outcome, changes: dict[str, Any]) -> None:
        result = outcome.result
        if outcome.what in ("retry", "retry_failed"):
            self._put_in_place()
        elif outcome.what in ("run_one", "draft_run"):
            for _, made in self.desk.asker.take_done():
                self._adopt_one(Part(made, _key_of(made.info.settings), changes, time.time()))
        elif isinstance(result, Result) and result._info is not None:
            part = Part(result, _key_of(result.info.settings), changes, time.time())
            if part.key is not None:
                self._adopt_one(part)
            elif (
                outcome.error is None or len(result) or result.errors or result.ledger.total.n_calls
            ):
                self.focus = None
                self.shelf.show([part])
        if not self.runs.is_busy:
            self._growth = None
        self.shelf.stop_growing()  # a run that gave nothing leaves what was shown before
        self._memo = _quietly(board.memo_state)
        self.desk.estimate_again()
        self._wake()

    def _put_in_place(self) -> None:
        """Results that were asked again take the places of those before."""
        for old, new in self.desk.asker.take_done():
            part = next((p for p in self.shelf.parts if p.result is old), None)
            if part is not None and old is not None:
                self.shelf.replace(old, Part(new, part.key, part.changes, time.time()))
            if self.last_trace is not None and self.last_trace.result is old:
                self.last_trace = trace_all(new)
                if part is None:  # it is in no table: the Record tab alone shows it
                    self._focus_on(None)

    def _focus_on(self, row: int | None) -> None:
        at = 0 if self.focus is None else self.focus["serial"]
        version = self.shelf.version
        self.focus = {"step": FINAL, "row": row, "version": version, "serial": at + 1}

    def _adopt_one(self, part: Part) -> None:
        self.last_trace = trace_all(part.result)
        row: int | None = None
        if not (self.shelf.is_whole and self.shelf.parts[0].changes == part.changes):
            self.shelf.add_try(part)
            self.estimated = {}
            before = 0
            for other in self.shelf.parts:
                if other is part:
                    break
                before += len(other.result)
            row = before if len(part.result) else None
        self._focus_on(row)

    # Cells that wait for this pipeline; see `engine.watching`.

    def cell_waits(self, wait: Wait) -> None:
        """A cell begins to wait for a run of this pipeline."""
        self.runs.cell_waits(wait)

    def cell_goes_on(self, wait: Wait) -> None:
        """It no longer waits."""
        self.runs.cell_goes_on(wait)
        self._beat()  # at once: from here on an interrupt would meet other code


def _show(bundle: dict[str, Any], place: str | None = None, *, again: bool = False) -> None:
    """Display a bundle; `again`: in place of what stands there."""
    from IPython import display as ipython

    show: Any = ipython.update_display if again else ipython.display
    show(bundle, raw=True, **({} if place is None else {"display_id": place}))


def can_be_live() -> bool:
    """Whether ipywidgets and anywidget are installed."""
    try:
        return all(
            importlib.util.find_spec(name) is not None for name in ("anywidget", "ipywidgets")
        )
    except (ImportError, ValueError):  # one of them is blocked
        return False


def _pipeline_of(about: Pipeline | Result | Run) -> Pipeline | None:
    if isinstance(about, Pipeline):
        return about
    if isinstance(about, Run):
        return about.pipeline
    return about._ran if about._info is not None else None


def _last_of(pipeline: Pipeline) -> Result | None:
    """The last Result, if it is this pipeline's and of a run of many."""
    last = last_result()
    if last is None or last._info is None or last._ran._tail is not pipeline._tail:
        return None
    return last if _key_of(last.info.settings) is None else None


def _key_of(settings: dict[str, Any]) -> object:
    """Which record a run of one was about; None for a run of many."""
    if settings.get("where") is not None:
        return repr(settings["where"])
    one: object = settings.get("one")
    return one


def _quietly(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return work()
    except Exception:  # the memo may be closed, locked or damaged: the run says it better
        return None
