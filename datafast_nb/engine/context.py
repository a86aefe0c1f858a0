"""What the parts of one run share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from queue import SimpleQueue
from typing import Any, Literal
from weakref import WeakKeyDictionary

from datafast_nb.engine.events import Bus, Noted
from datafast_nb.engine.identities import dropped_words
from datafast_nb.engine.limits import DEFAULT_IN_FLIGHT, Budget, day_spend
from datafast_nb.engine.pacing import RateLimits
from datafast_nb.engine.scheduler import Scheduler
from datafast_nb.errors import DatafastError, MissingKeyError, Notes
from datafast_nb.models.pricing import price_of
from datafast_nb.options import options
from datafast_nb.records import RowIds, normalise_records
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.memo import Memo
from datafast_nb.store.spend import SpendBook, new_run_id
from datafast_nb.trace import may_fan_out
from datafast_nb.validate import CompiledPipeline

Pick = Literal["first", "spread", "random"]
Order = Literal["steps", "records"]


@dataclass(frozen=True)
class CheckpointPlan:
    """Where a run keeps its steps, and whether it goes on from what is there."""

    folder: str
    resume: bool = False
    resume_from: int | str | None = None
    """Step to begin with; what is complete before it is used. None: the first incomplete one."""


@dataclass
class RunSettings:
    """How a pipeline is run. `Pipeline.run` documents the fields that users see."""

    limit: int | None = None
    pick: Pick = "first"
    limit_at: str | None = None
    stop_after: int | None = None
    one: int | None = None
    """`run_one`: index of the record that enters the limited step."""
    where: dict[str, Any] | None = None
    """`run_one`: values of the source row."""
    in_flight: int = DEFAULT_IN_FLIGHT
    rate_limits: RateLimits = field(default_factory=RateLimits)
    budget_usd: float | None = None
    max_calls: int | None = None
    sinks: bool | Literal["auto"] = "auto"
    order: Order | None = None
    """None: as the run needs it."""
    checkpoint: CheckpointPlan | None = None
    retry: frozenset[tuple[str, str]] = frozenset()
    """Draws whose stored failure is to be asked again."""
    redraw: dict[tuple[str, str], int] = field(default_factory=dict)
    """Draws to be asked again although they have answers → their replies that do not count now."""
    dry: bool = False
    """Ask nothing: answers come from the memo alone, others stay pending."""
    source_rows: int | None = None
    """Previews: read no more rows than this."""
    deadline: float | None = None
    """Previews: monotonic time at which to stop between records."""


MAX_ROWS_AT_ONCE = 10_000
END_S = 1.0
"""After an interrupt, finished answers have this long to pass the free steps that follow."""


class Stopped(BaseException):
    """`Run.stop()` was called. Not an Exception: user code must not swallow it."""


@dataclass
class RunContext:
    """State of one run, used from the thread of the run."""

    compiled: CompiledPipeline
    memo: Memo
    settings: RunSettings
    bus: Bus
    stop_event: threading.Event = field(default_factory=threading.Event)
    notes: Notes = field(default_factory=Notes)
    ranks: dict[tuple[str, str], int] = field(default_factory=dict)
    """(key, row) → identical requests of the row so far, in graph and expansion order."""
    claimed: set[tuple[str, str]] = field(default_factory=set)
    """(key, first label) of the draws that this run uses."""
    finished: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    """Calls that are back, and slots whose draw another run has ended asking for."""
    n_ended: int = 0
    """Draws that this run has ended asking for."""
    ending: str | None = None
    """Set when no further call may be sent: "interrupted", "budget" or "failed"."""
    end_by: float = 0.0
    """Monotonic time at which an interrupted run gives up on free steps."""
    rows_known: bool = True
    """All row identities of the unlimited pipeline can be known."""
    more_rows: set[str] = field(default_factory=set)
    """Identities made inside the pipeline, by steps that changed the number of records."""
    _scheduler: Scheduler | None = None
    _all_rows: frozenset[str] | None = None

    def scheduler(self, index: int) -> Scheduler:
        """The scheduler, made at the first call that has to be asked, by the step at `index`.

        Raises
        ------
        MissingKeyError
            If a model of the pipeline that may be asked lacks its key.
        DatafastError
            If the run, or the day, has a budget and a model no known price.
        """
        if self._scheduler is None:
            self._check_models(index)
            budget = Budget(
                self.settings.budget_usd,
                self.settings.max_calls,
                memo=self.memo,
                book=self.spend,
                day=day_spend(self.memo),
                usd_per_day=options.budget_usd_per_day,
            )
            self._scheduler = Scheduler(
                self.memo,
                in_flight=self.settings.in_flight,
                budget=budget,
                finished=self.finished,
                rate_limits=self.settings.rate_limits,
                tell=self.note,
            )
        return self._scheduler

    @cached_property
    def spend(self) -> SpendBook:
        """What the run spends."""
        return SpendBook(self.memo, self.bus.run or new_run_id())

    def note_saved(self, steps: Iterable[StepRun]) -> None:
        """Note what answers from disk have saved."""
        if self.settings.dry:
            return
        lines = []
        for run in steps:
            if isinstance(run.step, LLMStep):
                providers = {m.name: m.provider for m in run.step.models}
                lines += [(line, providers.get(line.model, "")) for line in run.ledger.lines]
        self.spend.add_saved(lines)

    @property
    def n_in_flight(self) -> int:
        """Requests of the run under way."""
        return 0 if self._scheduler is None else self._scheduler.n_in_flight

    @property
    def running_scheduler(self) -> Scheduler | None:
        """The scheduler, if one was made."""
        return self._scheduler

    def _check_models(self, index: int) -> None:
        last = self.settings.stop_after
        nodes = self.compiled.nodes[index : None if last is None else last + 1]
        for node in nodes:
            if isinstance(node.step, LLMStep):
                for said in dropped_words(node.step):
                    self.note(said)
                for model in node.step.models:
                    missing = model.missing_key()
                    if missing:
                        raise MissingKeyError(
                            f"step '{node.name}' would ask {model.name!r}, but {missing} is not set. Set it in "
                            "the environment, or give the model api_key=; nothing has been asked",
                            kind="auth",
                            model=model.name,
                            step=node.name,
                        )
                    bound, instead = "budget=", ", or bound the run with max_calls="
                    if self.settings.budget_usd is None:
                        if options.budget_usd_per_day is None:
                            continue
                        bound, instead = "options.budget_usd_per_day", ""
                    if node.step.max_tokens is None:
                        raise DatafastError(
                            f"step '{node.name}' has max_tokens=None, so what a call may cost has no "
                            f"bound and {bound} cannot be kept. Set max_tokens{instead}; nothing has "
                            "been asked"
                        )
                    if price_of(model) is None:
                        raise DatafastError(
                            f"step '{node.name}': the price of {model.name!r} is unknown, so {bound} "
                            "cannot be kept. Give the model price=(input, output) in dollars per "
                            f"million tokens{instead}; nothing has been asked"
                        )

    def check_stop(self) -> None:
        """Raise Stopped if someone asked the run to stop."""
        if self.ending == "interrupted":
            if time.monotonic() > self.end_by:
                raise Stopped
        elif self.stop_event.is_set() and self.ending is None:
            raise Stopped

    def end(self, how: str) -> None:
        """Send no further call; after an interrupt the free steps that follow have a second."""
        if self.ending is None:
            self.ending = how
            self.end_by = time.monotonic() + END_S

    @cached_property
    def fan_outs(self) -> dict[int, int]:
        """Index of each step that may make several records of one → its number among those.

        Steps that keep their number of records do not count, so that identities stay when one
        is put in; behind a Result the count goes on from that Result's own steps.
        """
        head = self.compiled.nodes[0].step
        n = int(getattr(head, "n_fan_outs", 0))
        found = {}
        for i, node in enumerate(self.compiled.nodes):
            if may_fan_out(node.step):
                found[i] = n
                n += 1
        return found

    @cached_property
    def has_samples(self) -> bool:
        """Some LLM step has parameters that are sampled per record."""
        return any(isinstance(n.step, LLMStep) and n.step.samples for n in self.compiled.nodes)

    @property
    def past_deadline(self) -> bool:
        """A preview has used its time."""
        return self.settings.deadline is not None and time.monotonic() > self.settings.deadline

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notes.seen:
            self.bus.emit(Noted(text))
        self.notes.add(text)

    def add_rows(self, row_ids: Iterable[str], *, are_all: bool) -> None:
        """Identities that a step made which changed the number of records."""
        self.more_rows.update(row_ids)
        self.rows_known = self.rows_known and are_all
        self._all_rows = None

    def all_rows(self) -> frozenset[str] | None:
        """Row identities of the whole, unlimited source; None where they cannot be known."""
        if not self.rows_known:
            return None
        if self._all_rows is None and self.settings.deadline is not None:
            sources = [n.step for n in self.compiled.nodes if isinstance(n.step, SourceStep)]
            if not all(rows_are_cached(s) for s in sources):
                return None  # a display does not read a whole source to see whose rows are gone
        if self._all_rows is None:
            rows: set[str] = set(self.more_rows)
            for node in self.compiled.nodes:
                if isinstance(node.step, SourceStep):
                    rows |= source_row_ids(node.step)
            self._all_rows = frozenset(rows)
        return self._all_rows


_row_cache: WeakKeyDictionary[SourceStep, tuple[str, frozenset[str]]] = WeakKeyDictionary()


def rows_are_cached(source: SourceStep) -> bool:
    """The identities of this source's rows are at hand, or few enough to make at once."""
    cached = _row_cache.get(source)
    if cached is not None and cached[0] == source.version():
        return True
    n = source.count()
    return n is not None and n <= MAX_ROWS_AT_ONCE


def source_row_ids(source: SourceStep) -> frozenset[str]:
    """Identities of all rows of a source; reads it whole, once per version."""
    version = source.version()
    cached = _row_cache.get(source)
    if cached is not None and cached[0] == version and version:
        return cached[1]
    given = getattr(source, "all_row_ids", None)
    rows = frozenset(_hash_rows(source) if given is None else given())
    _row_cache[source] = (version, rows)
    return rows


def _hash_rows(source: SourceStep) -> Iterator[str]:
    ids = RowIds()
    for chunk in source.read(4096):
        records, _ = normalise_records(chunk, where=source.place, from_frame=source.from_frame)
        yield from ids.take(records)
