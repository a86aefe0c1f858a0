"""Runs a compiled pipeline: one step after another, each over all records of the one before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from datafast_nb.engine import flow
from datafast_nb.engine.checkpoint import checkpoint_of
from datafast_nb.engine.context import RunContext, Stopped
from datafast_nb.engine.events import RunFinished, RunStarted, StepFinished, StepStarted
from datafast_nb.engine.limits import BudgetSpent
from datafast_nb.engine.llmstage import LLMStage
from datafast_nb.engine.order import flowing_nodes
from datafast_nb.engine.recordflow import LossStops, RecordFlow
from datafast_nb.engine.selection import limit_index, matching, select
from datafast_nb.engine.sinking import write_sinks
from datafast_nb.engine.winding import let_go, loss_error, name_place, wind_down
from datafast_nb.errors import (
    BudgetExceededError,
    CheckpointError,
    DatafastError,
    LLMError,
    RunInterrupted,
    SinkError,
)
from datafast_nb.estimate_basis import keep_figures
from datafast_nb.graph import Node
from datafast_nb.lineage import Parents, Table
from datafast_nb.records import column_names
from datafast_nb.results import Result, RunInfo, remember
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sampling import Sample

GRACE_S = 1.0
"""After an interrupt, calls in flight have this long to arrive and be kept."""


class Runner:
    """One run. `run` returns the Result or raises with it attached."""

    def __init__(self, ctx: RunContext, pipeline: Any, ran: Any = None) -> None:
        self._ctx = ctx
        self._ran = ran
        self._pipeline = pipeline
        self._steps: list[StepRun] = []
        self._table: Table | None = None
        self._limited = False
        self._cause: BaseException | None = None
        self._checkpoint = checkpoint_of(ctx)

    def run(self) -> Result:
        """Run to the end.

        Raises
        ------
        RunInterrupted, BudgetExceededError, LLMError
            With `.result`: what was finished.
        CheckpointError
            Where the checkpoint cannot be used or written.
        """
        try:
            return self._run()
        finally:
            self._checkpoint.close()

    def _run(self) -> Result:
        ctx = self._ctx
        started = time.monotonic()
        ctx.bus.emit(RunStarted(tuple(ctx.compiled.names)))
        info = RunInfo(
            self._pipeline,
            ctx.compiled,
            self._steps,
            ran=self._ran,
            memo_path=str(ctx.memo.path),
            settings={k: v for k, v in vars(ctx.settings).items() if k != "deadline"},
        )
        try:
            self._check_sinks()
            self._execute()
        except (KeyboardInterrupt, Stopped) as exc:
            self._end_early(exc)
            self._keep_finished()
        except Exception as exc:
            info.status = "failed"
            if not ctx.settings.dry:
                failed = Result([], info)  # what came before the error is in its steps
                remember(failed)
                with suppress(AttributeError):  # of a class that takes no further attribute
                    exc._failed_run = failed  # type: ignore[attr-defined]
            ctx.bus.emit(RunFinished(info.status, 0))
            raise
        finally:
            if ctx.running_scheduler is not None:
                ctx.running_scheduler.close()
            if ctx.memo.mode != "replay":
                ctx.note_saved(self._steps)
                ctx.memo.flush()  # also where only links were made
        result = self._finish(info, time.monotonic() - started)
        if ctx.settings.dry:
            if self._cause is not None:
                raise self._cause
            return result
        self._tell_streams()
        ctx.bus.emit(RunFinished(info.status, len(result)))
        self._raise_cause(result)
        return result

    def _execute(self) -> None:
        ctx = self._ctx
        nodes = [c.node for c in ctx.compiled.nodes]
        last = len(nodes) - 1 if ctx.settings.stop_after is None else ctx.settings.stop_after
        nodes = nodes[: last + 1]
        limited = limit_index(nodes, ctx.compiled, ctx.settings)
        with_ids = (
            any(isinstance(n.step, (LLMStep, ChoiceStep)) for n in nodes)
            or ctx.settings.pick != "first"
            or self._checkpoint.is_on  # a later run may go on to steps that need them
        )
        restored = self._checkpoint.open(len(nodes), limited)
        self._steps.extend(restored.runs)
        self._limited = restored.limited
        chunks: flow.Chunks = iter(() if restored.table is None else (restored.table,))
        for i, node in enumerate(nodes[len(restored.runs) :], start=len(restored.runs)):
            if i < len(self._steps):
                continue  # went with the steps before it
            run = self._begin(i, node)
            step = node.step
            if isinstance(step, SourceStep):
                chunks = flow.read_source(ctx, run, step, with_ids=with_ids)
                if limited == 0:
                    chunks = self._limit_stream(run, chunks)
                chunks = self._checkpoint.tee(run, chunks)
                continue
            if isinstance(step, ChunkStep) and limited != i:
                chunks = self._checkpoint.tee(run, flow.through(ctx, run, step, chunks))
                continue
            table = self._gather(i, node, chunks, limited == i)
            self._checkpoint.settle(limited=self._limited)
            run.is_partial = self._limited
            if isinstance(step, LLMStep):
                part = self._select(table) if limited == i else None
                more = flowing_nodes(ctx.settings, nodes, i, limited)
                if more:
                    self._flow(run, more, table, part)
                else:
                    self._llm(run, step, table, part)
            elif limited == i:
                self._free_on_part(run, node, table, self._select(table))
            else:
                self._free(run, node, table)
            assert self._table is not None
            if run is self._steps[-1]:  # else it was saved, with those that went with it
                self._checkpoint.save(run, self._table, limited=self._limited)
            chunks = iter((self._table,)) if len(self._table) else iter(())
        self._table, _ = flow.gather(chunks)
        self._end_streams()
        self._checkpoint.settle(limited=self._limited)

    def _keep_finished(self) -> None:
        """After an interrupt in free steps: what went through all of them is the partial result."""
        while self._steps and not isinstance(self._steps[-1].step, (ChunkStep, SourceStep)):
            if self._steps[-1].n_out:
                break
            self._steps.pop()
        rest = self._ctx.compiled.nodes[len(self._steps) :]
        if not self._steps or not all(isinstance(c.step, SinkStep) for c in rest):
            self._table = None
            return
        self._table = self._steps[-1].table
        for c in rest:
            run = self._begin(len(self._steps), c.node)
            if self._table is not None:
                self._free(run, c.node, self._table)

    def _begin(self, i: int, node: Node) -> StepRun:
        self._ctx.check_stop()
        name = self._ctx.compiled.names[i]
        run = StepRun(name, i, node.step, str(node.step._site or ""))
        self._steps.append(run)
        if not isinstance(node.step, LLMStep):
            self._ctx.bus.emit(StepStarted(name, i, None))
        return run

    def _gather(self, i: int, node: Node, chunks: flow.Chunks, is_limited: bool) -> Table:
        """The records that enter a step over all records: as many as it and the limit need."""
        need = None
        settings = self._ctx.settings
        if is_limited and settings.where is None:
            if settings.one is not None and settings.one >= 0:
                need = settings.one + 1
            elif settings.one is None and settings.pick == "first":
                need = settings.limit
        if isinstance(node.step, Sample) and not is_limited:
            need = node.step.needs()
        if need == 0 and all(isinstance(r.step, (ChunkStep, SourceStep)) for r in self._steps[:-1]):
            self._limited = self._limited or is_limited
            return Table([], True, [])
        table, ended = flow.gather(chunks, need)
        source = self._steps[0]
        if isinstance(source.step, SourceStep):
            n_rows = source.step.count()
            ended = ended or (n_rows is not None and source.n_out >= n_rows)
        if is_limited and not ended:
            self._limited = True
        return table

    def _free(self, run: StepRun, node: Node, table: Table) -> None:
        step = node.step
        if isinstance(step, ChoiceStep):
            self._table = flow.choose(self._ctx, run, step, table)
        elif isinstance(step, SinkStep):
            run.parents.add(len(table), len(table), None)
            run.n_in = run.n_out = run.fates.advanced = len(table)
            run.table = table  # whole, whatever its size: it is written at the end of the run
            self._table = table
        elif isinstance(step, ChunkStep):
            self._table, _ = flow.gather(flow.through(self._ctx, run, step, iter((table,))))
        else:
            self._table = flow.process(self._ctx, run, step, table)
        if not isinstance(step, ChunkStep):
            self._ctx.bus.emit(StepFinished(run.name, run.index, run.n_in, run.n_out))

    def _free_on_part(
        self, run: StepRun, node: Node, table: Table, selected: Sequence[int]
    ) -> None:
        """A free step at whose entry the limit applies."""
        self._free(run, node, table.take(selected))
        if run.parents.known:
            part, run.parents = run.parents, Parents()
            run.parents.add(len(table), part.n_out, [selected[p] for p in part.all()])
        run.n_in = len(table)
        run.selected = selected
        run.fates.beyond_limit = len(table) - len(selected)

    def _llm(
        self, run: StepRun, step: LLMStep, table: Table, selected: Sequence[int] | None
    ) -> None:
        ctx = self._ctx
        self._check_overwrite(run, step, table)
        if selected is not None and len(selected) < len(table):
            self._limited = run.is_partial = True
        stage = LLMStage(ctx, run, step, table, selected)
        ctx.bus.emit(
            StepStarted(run.name, run.index, len(table) if selected is None else len(selected))
        )
        self._checkpoint.begin(run, stage)
        try:
            self._ask(stage.work, [stage])
        finally:  # also where a user's function fails: the step tells what was paid
            self._table = stage.output()
        flow.keep_table(run, self._table)
        self._end_llm(run, step)

    def _ask(self, work: Callable[[], None], stages: Sequence[LLMStage]) -> None:
        """Let stages ask; what ends the run early is kept as its cause."""
        try:
            self._ask_to_end(work, stages)
        except KeyboardInterrupt as exc:  # one more, while the run was winding down
            if self._ctx.running_scheduler is not None:
                self._ctx.running_scheduler.cancel()
            let_go(stages)
            self._end_early(exc)

    def _ask_to_end(self, work: Callable[[], None], stages: Sequence[LLMStage]) -> None:
        ctx = self._ctx
        try:
            work()
        except (KeyboardInterrupt, Stopped) as exc:
            failure = self._checkpoint.failure
            self._cause = failure or exc
            wind_down(ctx, stages, GRACE_S)
            ctx.end("interrupted" if failure is None else "failed")
        except BudgetSpent as exc:
            let_go(stages)
            ctx.end("budget")
            self._cause = exc
        except LossStops:
            wind_down(ctx, stages, GRACE_S)
            ctx.end("failed")  # the cause is found when the records are in their order again
        except (LLMError, DatafastError) as exc:
            wind_down(ctx, stages, GRACE_S)
            if not any(s.run.calls for s in stages) and not isinstance(exc, LLMError):
                raise
            ctx.end("failed")
            self._cause = exc
        except BaseException:
            wind_down(ctx, stages, GRACE_S)
            raise

    def _end_llm(self, run: StepRun, step: LLMStep) -> None:
        ctx = self._ctx
        self._note_missing(run)
        if not ctx.settings.dry and self._cause is None:
            self._cause = loss_error(ctx, run, step)
            if self._cause is not None:
                ctx.ending = "failed"
        ctx.bus.log_losses(run.name, run.errors)
        ctx.bus.emit(StepFinished(run.name, run.index, run.n_in, run.n_out))

    def _flow(
        self, run: StepRun, more: Sequence[Node], table: Table, selected: Sequence[int] | None
    ) -> None:
        """Several steps at the same time, from the LLM step of `run` on."""
        ctx = self._ctx
        step = run.step
        assert isinstance(step, LLMStep)
        self._check_overwrite(run, step, table)
        if selected is not None and len(selected) < len(table):
            self._limited = run.is_partial = True
        n = len(table) if selected is None else len(selected)
        ctx.bus.emit(StepStarted(run.name, run.index, n))
        runs = [run]
        for k, node in enumerate(more, start=1):
            runs.append(self._begin(run.index + k, node))
            if isinstance(node.step, LLMStep):
                ctx.bus.emit(StepStarted(runs[-1].name, runs[-1].index, None))
        for further in runs:
            further.is_partial = self._limited
        flowing = RecordFlow(ctx, runs, table, selected, self._check_overwrite)
        for stage in flowing.stages:
            self._checkpoint.begin(stage.run, stage)
        try:
            self._ask(flowing.work, flowing.stages)
            if ctx.ending is not None:
                flowing.pass_on_rest()
        except (KeyboardInterrupt, Stopped) as exc:
            let_go(flowing.stages)
            self._end_early(exc)
        finally:  # also where a user's function fails: the steps tell what was paid
            tables = self._tables(flowing)
        for further, made in zip(runs, tables, strict=True):
            self._table = made
            if isinstance(further.step, LLMStep):
                self._end_llm(further, further.step)
            elif isinstance(further.step, SinkStep):
                ctx.bus.emit(StepFinished(further.name, further.index, further.n_in, len(made)))
            self._checkpoint.save(further, made, limited=self._limited)

    def _tables(self, flowing: RecordFlow) -> Sequence[Table]:
        flowing.close()
        for _ in range(2):
            try:
                return flowing.tables()
            except KeyboardInterrupt as exc:  # what is finished is not given up for it
                self._end_early(exc)
        return flowing.tables()

    def _end_early(self, cause: BaseException) -> None:
        self._ctx.end("interrupted")
        self._cause = self._cause or cause

    def _check_overwrite(self, run: StepRun, step: LLMStep, table: Table) -> None:
        """Columns that only show in the data; compile refuses the others."""
        if step.overwrite or not table.records:
            return
        names = column_names(table.records)
        clash = set(step.forwarded(names)) & set(step.spec.columns)
        if clash:
            column = sorted(clash)[0]
            raise DatafastError(
                f"step '{run.name}' writes column {column!r}, which records already have "
                f"(columns: {', '.join(names)}). Choose another name, exclude it, or say "
                "overwrite=True; what was paid is kept"
            )

    def _note_missing(self, run: StepRun) -> None:
        for column, n in Counter(run.notes).items():
            self._ctx.note(
                f"step '{run.name}': {column!r} is None or NaN in {n} of its records; it stands as nothing in the prompt"
            )
        run.notes.clear()

    def _select(self, table: Table) -> list[int]:
        """What the limit lets through to the newest step."""
        settings = self._ctx.settings
        chosen = select(settings, table, self._steps[:-1])
        if settings.where is None and settings.one is None and len(chosen) < len(table):
            self._limited = True
        return chosen

    def _limit_stream(self, run: StepRun, chunks: flow.Chunks) -> flow.Chunks:
        """`limit` on a source's own records."""
        settings = self._ctx.settings
        if settings.pick != "first" or settings.where is not None or (settings.one or 0) < 0:
            table, _ = flow.gather(chunks)
            chosen = (
                self._select(table)
                if settings.where is None
                else matching(table, settings.where, ())
            )
            kept = table.take(chosen)
            self._set_source(run, kept, chosen)
            yield kept
            return
        first = settings.one or 0
        n = first + 1 if settings.one is not None else settings.limit
        assert n is not None
        table, ended = flow.gather(chunks, n)
        if settings.one is not None and len(table) < n:
            raise IndexError(f"run_one({settings.one}): the source has only {len(table)} records")
        self._limited = not ended
        rows = range(first, min(n, len(table)))
        kept = table.take(rows)
        self._set_source(run, kept, rows)
        if len(kept):
            yield kept

    def _set_source(self, run: StepRun, kept: Table, rows: Sequence[int]) -> None:
        run.rows = rows
        run.parents = type(run.parents)()
        run.parents.add(0, len(kept), None)
        run.n_out = len(kept)
        run.is_partial = True
        flow.keep_table(run, kept)

    def _end_streams(self) -> None:
        for run in self._steps:
            if isinstance(run.step, ChunkStep):
                # A stream that a limit cut short never came to its own end.
                run.fates.advanced = run.parents.n_parents
                lost = run.fates.beyond_limit + run.fates.waiting
                run.fates.filtered = run.n_in - lost - run.parents.n_parents

    def _tell_streams(self) -> None:
        for run in self._steps:
            if isinstance(run.step, (ChunkStep, SourceStep)):
                self._ctx.bus.emit(StepFinished(run.name, run.index, run.n_in, run.n_out))

    def _check_sinks(self) -> None:
        if self._ctx.settings.dry or self._ctx.settings.sinks is False:
            return
        last = self._ctx.settings.stop_after
        for node in self._ctx.compiled.nodes[: None if last is None else last + 1]:
            if isinstance(node.step, SinkStep):
                node.step.check()

    def _finish(self, info: RunInfo, seconds: float) -> Result:
        ctx = self._ctx
        self._end_streams()
        info.seconds = seconds
        info.status = ctx.ending or ("limited" if self._limited else "complete")
        if ctx.settings.source_rows is not None and self._steps and self._steps[0].is_partial:
            info.status = "limited"
        # Another run, or the user, may change these records: the tables of the steps stay as they are.
        table = self._table or Table([], True, [])
        info.row_ids, info.tokens = table.row_ids, table.tokens
        last = self._steps[-1].table if self._steps else None
        for run in self._steps:
            if run.table is not None and run.table.is_shared:
                run.table = run.table.unshared()
        records = table.copies() if last is not None or table.is_shared else table.records
        result = Result(records, info)
        if not ctx.settings.dry:
            remember(result)  # before anything can go wrong with a file
            try:
                if ctx.running_scheduler is not None:
                    keep_figures(ctx.memo, self._steps)
                write_sinks(ctx, info, self._steps, is_complete=info.status == "complete")
                self._checkpoint.finish(info)
            except KeyboardInterrupt as exc:
                info.status = "interrupted"
                self._cause = self._cause or exc
            except SinkError as exc:
                exc.result = result
                raise
        info.notes = list(ctx.notes.seen)
        return result

    def _raise_cause(self, result: Result) -> None:
        cause = self._cause
        if cause is None:
            return
        done = f"{len(result):,} records finished; every answer that arrived is kept, run again to go on"
        if isinstance(cause, KeyboardInterrupt):
            raise RunInterrupted(
                f"Interrupted: {done} (dfn.last has the partial result).", result=result
            ) from None
        if isinstance(cause, Stopped):
            return
        if isinstance(cause, BudgetSpent):
            raise BudgetExceededError(
                f"{cause}: {done}. Raise the bound for the rest.", result=result
            ) from None
        if isinstance(cause, (LLMError, CheckpointError, SinkError)):
            cause.result = result
        if isinstance(cause, LLMError) and cause.step is None:
            name_place(cause, self._steps)
        raise cause
