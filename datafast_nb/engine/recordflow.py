"""`order="records"`: records go on through several steps as soon as they can.

The result is that of one step after another; only the schedule differs. A record's calls at
a later step go before those of records that have come less far, and no further record begins
while enough calls are under way: a spent budget, or a look in the morning, finds finished rows.

An interrupt may come between any two lines. What counts of a level is its `mark`, set at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import Empty

from datafast_nb.engine.calls import Call
from datafast_nb.engine.context import RunContext
from datafast_nb.engine.flow import CHUNK, SLICE_S, keep_table
from datafast_nb.engine.limits import worst_usd
from datafast_nb.engine.llmoutput import Slot
from datafast_nb.engine.llmstage import MAX_OUTSTANDING, WINDOW, LLMStage
from datafast_nb.engine.scheduler import Scheduler
from datafast_nb.errors import DatafastError, SinkError
from datafast_nb.lineage import Fates, Parents, Table, child_ids
from datafast_nb.models.pricing import price_of
from datafast_nb.records import normalise_records
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChunkStep, SinkStep
from datafast_nb.steps.llm import LLMStep

PASS_S = 0.1
"""Functions of a step have this long before calls are looked after again."""

Entering = Callable[[StepRun, LLMStep, Table], None]
"""Looks at records that are about to enter an LLM step; raises where they cannot."""


class LossStops(Exception):
    """A record was lost at a step that is to end the run then."""


class _Level:
    """Records before a step, or behind the last, in the order in which they came."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.parents: list[int] = []
        """Of each record its place at the level before."""
        self.mark = (len(table), 0)
        """Records here, and those of the level before that are through; the rest of the lists is void."""

    def take_in(self, batch: Table, parents: Sequence[int], n_through: int) -> None:
        """Records come from the level before, of which `n_through` are through then."""
        table = self.table
        table.records.extend(batch.records)
        table.flat = table.flat and batch.flat
        if table.row_ids is not None and batch.row_ids is not None:
            table.row_ids.extend(batch.row_ids)
        if table.tokens is not None and batch.tokens is not None:
            table.tokens.extend(batch.tokens)
        self.parents.extend(parents)
        self.mark = (len(table), n_through)

    def tidy(self) -> None:
        """Drop what an interrupt has left of a batch."""
        n = self.mark[0]
        for items in (self.table.records, self.table.row_ids, self.table.tokens, self.parents):
            if items is not None:
                del items[n:]


class RecordFlow:
    """Steps that work record by record, the first of them an LLM step, all at the same time.

    Parameters
    ----------
    runs
        Of the steps, in order: LLM steps, record-wise steps and sinks.
    table
        Records that enter the first of them.
    selected
        Indices of those that the limit lets through; None: all.
    entering
        Is shown the records that enter an LLM step.
    """

    def __init__(
        self,
        ctx: RunContext,
        runs: Sequence[StepRun],
        table: Table,
        selected: Sequence[int] | None,
        entering: Entering,
    ) -> None:
        self._ctx = ctx
        self._runs = list(runs)
        self._entering = entering
        self._chosen = range(len(table)) if selected is None else selected
        self._n_fed = 0
        self._levels = [_Level(table)]
        self._one_for_one = [True] * len(self._runs)
        self._slice = [1] * len(self._runs)
        """Records that a record-wise step is given before a stop is looked for."""
        self.stages: list[LLMStage] = []
        self._stage_at: dict[int, LLMStage] = {}
        self._by_name: dict[str, LLMStage] = {}
        self._passed_on: dict[int, set[int]] = {}
        """Records of each LLM step whose outputs are at the level behind."""
        self._refusing: set[int] = set()
        """LLM steps that records cannot enter."""
        for at, run in enumerate(self._runs):
            here = self._levels[at].table
            if isinstance(run.step, LLMStep):
                tokens = here.tokens
                stage = LLMStage(ctx, run, run.step, here, selected if at == 0 else None)
                if at:  # tokens are made at the first LLM step or nowhere
                    here.tokens = tokens
                    stage.where = lambda i, at=at: self._place(at, i)  # type: ignore[misc]
                stage.depth, stage.holds = len(self.stages), True
                self.stages.append(stage)
                self._stage_at[at] = self._by_name[run.name] = stage
                self._passed_on[at] = set()
            behind = Table([], True, [], None if here.tokens is None else [])
            self._levels.append(_Level(behind))
        self._must_look = False
        """No call may be sent before it is known which steps ask at all."""
        self._live = []
        if ctx.settings.sinks is not False:
            self._live = [r.step for r in runs if isinstance(r.step, SinkStep) and r.step.is_live]
        for sink in self._live:
            sink.begin_live()
        self._room = self._calls_at_once()

    def _calls_at_once(self) -> int:
        """Calls under way from which on no further record begins: all models have enough to do."""
        bound = self._ctx.settings.in_flight
        models = {id(v.model): v.model for s in self.stages for v in s.step.variants}
        limits = [min(bound, m.parallel or bound) for m in models.values()]
        return sum(n + max(2, n // 4) for n in limits)

    def work(self) -> None:
        """Take all records through all steps.

        Raises
        ------
        LLMError, BudgetSpent, LossStops, KeyboardInterrupt, Stopped
            What was answered before is kept: call `pass_on_rest` and `tables` all the same.
        """
        try:
            while True:
                self._ctx.check_stop()
                if self._may_feed():
                    self._feed()
                self._pass_on()
                self._settle_doubtful()
                self._send()
                if self._is_over():
                    break
                self._take()
                self._raise_fatal()
        finally:
            self._tell()

    def pass_on_rest(self) -> None:
        """The run ends early: what records have got so far goes on, without further calls."""
        try:
            self._tidy()
            self._pass_on(all_of_them=True)
        finally:
            self._tell()

    def close(self) -> None:
        """No record comes any more."""
        for sink in self._live:
            sink.end_live()

    # The way of the records.

    def _is_ending(self) -> bool:
        scheduler = self._ctx.running_scheduler
        is_fatal = scheduler is not None and scheduler.fatal is not None
        return is_fatal or any(s.has_loss for s in self.stages)

    def _may_feed(self) -> bool:
        first = self.stages[0]
        if self._n_fed >= len(self._chosen) or self._is_ending():
            return False
        if self._must_look:
            return True
        return (
            first.n_held < self._room
            and sum(s.n_sent for s in self.stages) < self._room
            and sum(s.n_open for s in self.stages) < MAX_OUTSTANDING
        )

    def _feed(self) -> None:
        """Look up the next records at the first step."""
        some = self._chosen[self._n_fed : self._n_fed + WINDOW]
        self._n_fed += len(some)
        self.stages[0].plan(some)

    def _send(self) -> None:
        """Hand calls to the scheduler: those of later steps at once, of the first while there is room."""
        if self._is_ending() or not any(s.n_held for s in self.stages):
            return
        scheduler = self._ctx.running_scheduler or self._try_models()
        if scheduler is None:
            return
        first, *later = self.stages
        calls = [call for stage in reversed(later) for call in stage.ready(stage.n_held)]
        is_bound = scheduler.budget.is_bound
        while first.n_held and (room := self._room - sum(s.n_sent for s in self.stages)) > 0:
            if is_bound and not self._can_be_finished(scheduler, first):
                break
            calls += first.ready(1 if is_bound else room)
        if calls:
            scheduler.submit(calls)

    def _can_be_finished(self, scheduler: Scheduler, first: LLMStage) -> bool:
        """Whether the bounds will do for the records under way, and for one more to the end."""
        n_stages = len(self.stages)
        under_way = sum(s.n_sent for s in self.stages)
        if not under_way:
            return True
        further = sum(s.n_sent * (n_stages - s.depth - 1) for s in self.stages)
        call, n_calls = first.next_held()
        worst = worst_usd(price_of(call.model), call.request)
        worst = 0.0 if worst != worst else worst
        return scheduler.budget.has_room(under_way, further + n_calls * n_stages, worst)

    def _try_models(self) -> Scheduler | None:
        """The scheduler, if all models that may be asked can be."""
        first = self.stages[0]
        if self._n_fed >= len(self._chosen):
            first = next(s for s in self.stages if s.n_open or s.has_doubtful)
        try:
            scheduler = self._ctx.scheduler(first.run.index)
        except DatafastError:
            if first.n_held:
                raise
            self._must_look = True  # perhaps that step need not ask
            return None
        self._must_look = False
        return scheduler

    def _pass_on(self, *, all_of_them: bool = False) -> None:
        """Records go as far as they can: from an LLM step when all their calls have ended.

        `all_of_them`: with the calls that have, from every record that was looked at.
        """
        for at, run in enumerate(self._runs):
            stage = self._stage_at.get(at)
            if stage is None:
                self._through(at, run, for_s=None if all_of_them else PASS_S)
                continue
            if at:
                self._plan(at, stage)
            touched, stage.touched = stage.touched, []
            if all_of_them:
                self._forward(at, _looked_at(stage))
            elif touched:
                self._forward(at, [i for i in dict.fromkeys(touched) if stage.is_done(i)])

    def _plan(self, at: int, stage: LLMStage) -> None:
        """Look up the calls of records that have come to a later LLM step."""
        new = stage.grow()
        if not new or at in self._refusing:
            return
        try:
            self._entering(stage.run, stage.step, self._levels[at].table.take(new))
        except DatafastError:
            self._refusing.add(at)
            raise
        stage.plan(new)

    def _forward(self, at: int, indices: Sequence[int]) -> None:
        """Outputs of an LLM step go to the level behind it."""
        stage, gone, behind = self._stage_at[at], self._passed_on[at], self._levels[at + 1]
        batch = Table([], True, [], None if stage.table.tokens is None else [])
        parents: list[int] = []
        new = [i for i in indices if i not in gone]
        for i in new:
            made = stage.made(i)
            _extend(batch, made)
            parents += [i] * len(made)
        behind.take_in(batch, parents, 0)
        gone.update(new)

    def _through(self, at: int, run: StepRun, *, for_s: float | None) -> None:
        """A step that asks no model takes records that have come to it, for about `for_s` seconds."""
        here, behind = self._levels[at], self._levels[at + 1]
        n, start = here.mark[0], behind.mark[1]
        until = None if for_s is None else time.perf_counter() + for_s
        while start < n and (until is None or time.perf_counter() < until):
            end = min(n, start + self._slice[at])
            part = here.table.take(range(start, end))
            if isinstance(run.step, ChunkStep):
                self._ctx.check_stop()
                began = time.perf_counter()
                made, parents = self._chunk(at, run, run.step, part, start)
                each_s = (time.perf_counter() - began) / len(part)
                self._slice[at] = max(1, min(CHUNK, int(SLICE_S / max(each_s, 1e-6))))
            else:
                self._grow(run, part)
                self._slice[at] = CHUNK
                made, parents = part, range(start, end)
            behind.take_in(made, parents, end)
            start = end

    def _grow(self, run: StepRun, part: Table) -> None:
        for sink in self._live:
            if sink is run.step:
                try:
                    sink.grow(part.records)
                except SinkError:
                    self._live.remove(sink)  # once is enough: the rest goes into the partial file
                    sink.end_live()
                    raise

    def _chunk(
        self, at: int, run: StepRun, step: ChunkStep, part: Table, start: int
    ) -> tuple[Table, Sequence[int]]:
        def where(i: int) -> str:
            site = f" ({run.site})" if run.site else ""
            return f"step '{run.name}'{site}, {self._place(at, start + i)}"

        out, places, is_user_made = step.run_chunk(part.records, flat=part.flat, where=where)
        flat = part.flat
        if is_user_made:
            maker = where if places is None else lambda i: where(places[i])
            out, flat = normalise_records(out, where=maker, notes=self._ctx.notes)
        if places is None:
            return Table(out, flat, part.row_ids, part.tokens), range(start, start + len(out))
        self._one_for_one[at] = False
        ids, tokens = self._children(run, part, places)
        return Table(out, flat, ids, tokens), [start + p for p in places]

    def _children(
        self, run: StepRun, table: Table, places: Sequence[int]
    ) -> tuple[list[str] | None, list[str] | None]:
        """Identities and tokens of the records that a record-wise step makes of those at `places`."""
        fan_out = self._ctx.fan_outs.get(run.index, 0)
        ids, tokens = table.row_ids, table.tokens
        return (
            None if ids is None else child_ids(ids, places, fan_out),
            None if tokens is None else child_ids(tokens, places, fan_out),
        )

    def _place(self, at: int, i: int) -> str:
        """Names a record at a level by the one of the first step that it comes from."""
        for level in range(at, 0, -1):
            i = self._levels[level].parents[i]
        return f"from record {i} of step '{self._runs[0].name}'"

    def _is_passing(self, at: int) -> bool:
        """The step at a place has records to pass on; an LLM step those whose calls have ended."""
        stage = self._stage_at.get(at)
        if stage is None:
            return self._levels[at].mark[0] > self._levels[at + 1].mark[1]
        return bool(stage.touched)

    def _settle_doubtful(self) -> None:
        if self._n_fed < len(self._chosen):
            return
        for at in range(len(self._runs)):
            stage = self._stage_at.get(at)
            if stage is not None and stage.has_doubtful:
                stage.settle_doubtful()
            if self._is_passing(at) or (stage is not None and stage.n_open):
                return

    def _is_over(self) -> bool:
        if self._n_fed < len(self._chosen) or any(s.n_open or s.has_doubtful for s in self.stages):
            return False
        return not any(map(self._is_passing, range(len(self._runs))))

    # Calls that come back.

    def _take(self) -> None:
        queue = self._ctx.finished
        is_idle = not self._may_feed() and not any(map(self._is_passing, range(len(self._runs))))
        try:
            # A short wait, so that signals and stops are seen soon.
            self._accept(queue.get(timeout=0.1) if is_idle else queue.get_nowait())
            while True:
                self._accept(queue.get_nowait())
        except Empty:
            self._expect()
            for stage in self.stages:
                if stage.n_planned:
                    stage.tell()

    def _accept(self, item: Call | Slot) -> None:
        slot: Slot = item.owner if isinstance(item, Call) else item
        self._by_name[slot.row.step].take(item)

    def _raise_fatal(self) -> None:
        if not self._is_ending():
            return
        scheduler = self._ctx.running_scheduler
        fatal = None if scheduler is None else scheduler.fatal
        if scheduler is not None and fatal is None:
            scheduler.stop()
        if any(s.n_sent for s in self.stages):
            return
        for stage in self.stages:
            stage.drop_held()
        if not any(s.n_open for s in self.stages):  # else another run asks for them
            raise fatal or LossStops()

    def _expect(self) -> None:
        """How many records will come to each LLM step, if it goes on as so far."""
        expected = float(len(self._chosen))
        before: int | None = None
        for at, stage in self._stage_at.items():
            if before is not None:
                n_gone = len(self._passed_on[before])
                expected = expected * self._levels[at].mark[0] / n_gone if n_gone else 0.0
            stage.n_expected = expected
            before = at

    def _tell(self) -> None:
        self._expect()
        for stage in self.stages:
            stage.tell(force=True)

    # The result.

    def _tidy(self) -> None:
        """Take up what an interrupt has left."""
        for level in self._levels:
            level.tidy()
        for at, gone in self._passed_on.items():
            gone.update(self._levels[at + 1].parents)

    def tables(self) -> Sequence[Table]:
        """What left each step, in the order of the input; fills in the runs of the steps."""
        self._tidy()
        for at, stage in self._stage_at.items():
            self._forward(at, _looked_at(stage))
            stage.grow()
        made: list[Table] = []
        order: Sequence[int] = range(self._levels[0].mark[0])
        for at, run in enumerate(self._runs):
            rank = {i: place for place, i in enumerate(order)}
            behind = self._levels[at + 1]
            parents = behind.parents
            # Children of one record came together and in their order: a stable sort keeps it.
            further = sorted(range(len(parents)), key=lambda i, p=parents, r=rank: r[p[i]])  # type: ignore[misc]
            given = made[-1].tokens if made else None
            if isinstance(run.step, LLMStep):
                records = [behind.table.records[i] for i in further]
                table = self._stage_at[at].output(order if at else None, given, records)
                assert len(table) == len(further), "a record has been lost between steps"
            else:
                table = behind.table.take(further)
                places = [rank[parents[i]] for i in further]
                self._fill(at, run, places, rank)
                if given is not None and table.tokens is None:
                    table.tokens = self._children(run, made[-1], places)[1]
            if isinstance(run.step, SinkStep):
                run.table = table  # whole, whatever its size: it is written at the end of the run
            else:
                keep_table(run, table)
            made.append(table)
            order = further
        return made

    def _fill(self, at: int, run: StepRun, parents: list[int], rank: dict[int, int]) -> None:
        """Figures of a step that asks no model."""
        n_in, n_through = self._levels[at].mark[0], self._levels[at + 1].mark[1]
        is_plain = self._one_for_one[at] and n_through == n_in
        run.n_in, run.n_out = n_in, len(parents)
        run.parents, run.fates = Parents(), Fates()
        run.parents.add(n_in, len(parents), None if is_plain else parents)
        run.not_reached = frozenset(rank[i] for i in range(n_through, n_in))
        run.fates.advanced = run.parents.n_parents
        run.fates.waiting = n_in - n_through
        run.fates.filtered = n_through - run.parents.n_parents


def _looked_at(stage: LLMStage) -> list[int]:
    return [i for i, slots in enumerate(stage.slots) if slots is not None]


def _extend(table: Table, more: Table) -> None:
    table.records.extend(more.records)
    table.flat = table.flat and more.flat
    if table.row_ids is not None and more.row_ids is not None:
        table.row_ids.extend(more.row_ids)
    if table.tokens is not None and more.tokens is not None:
        table.tokens.extend(more.tokens)
