"""Runs a compiled pipeline: one step after another, each over all records of the one before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datafast_nb.engine import flow
from datafast_nb.engine.context import RunContext, RunSettings, Stopped
from datafast_nb.engine.events import RunFinished, RunStarted, StepFinished, StepStarted
from datafast_nb.engine.limits import BudgetSpent
from datafast_nb.engine.llmstage import LLMStage
from datafast_nb.engine.sinking import write_sinks
from datafast_nb.errors import (
    BudgetExceededError,
    DatafastError,
    LLMError,
    RunInterrupted,
    SinkError,
)
from datafast_nb.estimate_basis import keep_figures
from datafast_nb.graph import Node
from datafast_nb.lineage import Parents, Table
from datafast_nb.records import Record, column_names
from datafast_nb.results import Result, RunInfo, remember
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sampling import Sample
from datafast_nb.validate import CompiledPipeline

GRACE_S = 1.0
"""After an interrupt, calls in flight have this long to arrive and be kept."""


class Runner:
    """One run. `run` returns the Result or raises with it attached."""

    def __init__(self, ctx: RunContext, pipeline: Any, ran: Any = None) -> None:
        self._ctx = ctx
        self._ran = ran
        self._pipeline = pipeline
        self._steps: list[StepRun] = []
        self._stage: LLMStage | None = None
        self._table: Table | None = None
        self._limited = False
        self._cause: BaseException | None = None

    def run(self) -> Result:
        """Run to the end.

        Raises
        ------
        RunInterrupted, BudgetExceededError, LLMError
            With `.result`: what was finished.
        """
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
            ctx.end("interrupted")
            self._cause = self._cause or exc
            self._keep_finished()
        except Exception:
            info.status = "failed"
            if not ctx.settings.dry:
                remember(Result([], info))  # what came before the error is in its steps
            ctx.bus.emit(RunFinished(info.status, 0))
            raise
        finally:
            if ctx.running_scheduler is not None:
                ctx.running_scheduler.close()
            if ctx.memo.mode != "replay":
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
        )
        chunks: flow.Chunks = iter(())
        for i, node in enumerate(nodes):
            run = self._begin(i, node)
            step = node.step
            if isinstance(step, SourceStep):
                chunks = flow.read_source(ctx, run, step, with_ids=with_ids)
                if limited == 0:
                    chunks = self._limit_stream(run, chunks)
                continue
            if isinstance(step, ChunkStep) and limited != i:
                chunks = flow.through(ctx, run, step, chunks)
                continue
            table = self._gather(i, node, chunks, limited == i)
            run.is_partial = self._limited
            if isinstance(step, LLMStep):
                self._llm(run, step, table, self._select(table) if limited == i else None)
            elif limited == i:
                self._free_on_part(run, node, table, self._select(table))
            else:
                self._free(run, node, table)
            assert self._table is not None
            chunks = iter((self._table,)) if len(self._table) else iter(())
        self._table, _ = flow.gather(chunks)
        self._end_streams()

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
        if need == 0 and isinstance(self._steps[-2].step, (ChunkStep, SourceStep)):
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
        try:
            stage.work()
        except (KeyboardInterrupt, Stopped) as exc:
            self._cause = exc
            self._abandon(stage)
            ctx.end("interrupted")
        except BudgetSpent as exc:
            ctx.end("budget")
            self._cause = exc
        except (LLMError, DatafastError) as exc:
            self._abandon(stage)
            if not run.calls and not isinstance(exc, LLMError):
                raise
            ctx.end("failed")
            self._cause = exc
        except BaseException:
            self._abandon(stage)
            raise
        self._table = stage.output()
        flow.keep_table(run, self._table)
        self._note_missing(run)
        if not ctx.settings.dry and ctx.ending is None:
            self._check_losses(run, step)
        ctx.bus.emit(StepFinished(run.name, run.index, run.n_in, run.n_out))

    def _abandon(self, stage: LLMStage) -> None:
        try:
            stage.abandon(GRACE_S)
        except KeyboardInterrupt:
            if self._ctx.running_scheduler is not None:
                self._ctx.running_scheduler.cancel()

    def _check_losses(self, run: StepRun, step: LLMStep) -> None:
        """`on_error="raise"`, and a step that lost every record."""
        ctx = self._ctx
        if not run.errors:
            return
        first = run.errors[0]
        if step.on_error == "raise":
            ctx.ending = "failed"
            self._cause = LLMError(
                f"step '{run.name}', record {first.record}: {first.error}",
                kind=first.kind, model=first.model, step=run.name,
            )  # fmt: skip
        elif (
            run.fates.failed
            and not (run.fates.advanced + run.fates.skipped)
            and ctx.settings.one is None
            and ctx.settings.where is None
        ):
            kinds = ", ".join(
                f"{n} × {k}" for k, n in Counter(e.kind for e in run.errors).most_common()
            )
            ctx.ending = "failed"
            self._cause = LLMError(
                f"step '{run.name}' lost every record ({kinds}); the first: {first.error}. What was "
                "received is kept: mend the cause and run again, or call dfn.last.retry_failed()",
                kind=first.kind, model=first.model, step=run.name,
            )  # fmt: skip

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
                "overwrite=True; nothing has been asked"
            )

    def _note_missing(self, run: StepRun) -> None:
        for column, n in Counter(run.notes).items():
            self._ctx.note(
                f"step '{run.name}': {column!r} is None or NaN in {n} of its records; it stands as nothing in the prompt"
            )
        run.notes.clear()

    def _select(self, table: Table) -> list[int]:
        """Indices of the records that the limit lets through, ascending."""
        settings = self._ctx.settings
        n = len(table)
        if settings.where is not None:
            return self._matching(table, settings.where, self._steps[1:-1])
        if settings.one is not None:
            if not -n <= settings.one < n:
                raise IndexError(f"run_one({settings.one}): only {n} records come here")
            return [settings.one % n]
        limit = settings.limit
        if limit is None or limit >= n:
            return list(range(n))
        if limit == 0:
            self._limited = True
            return []
        self._limited = True
        if settings.pick == "spread":
            return sorted({i * n // limit for i in range(limit)})
        if settings.pick == "random":
            ids = table.row_ids or [str(i) for i in range(n)]
            return Sample(n=limit).choose(table.records, ids)
        return list(range(limit))

    def _matching(
        self, table: Table, where: dict[str, Any], between: Sequence[StepRun]
    ) -> list[int]:
        """Records here that come from the first source row with these values."""
        source = self._steps[0].table if between else table
        if source is None:
            raise DatafastError(
                "run_one(where=…) needs the source's rows at hand; this source has too many. Use run_one(index)"
            )
        row = next((i for i, r in enumerate(source.records) if _has(r, where)), None)
        if row is None:
            known = ", ".join(source.records[0]) if source.records else "none"
            raise KeyError(
                f"run_one(where={where!r}): no source row has these values (columns: {known})"
            )
        at = list(range(len(table)))
        for run in reversed(between):
            if not run.parents.known:
                raise DatafastError(
                    f"run_one(where=…) cannot see through step '{run.name}', which changed the number "
                    "of records; use run_one(index)"
                )
            parents = list(run.parents.all())
            at = [parents[i] for i in at]
        return [i for i, origin in enumerate(at) if origin == row]

    def _limit_stream(self, run: StepRun, chunks: flow.Chunks) -> flow.Chunks:
        """`limit` on a source's own records."""
        settings = self._ctx.settings
        if settings.pick != "first" or settings.where is not None or (settings.one or 0) < 0:
            table, _ = flow.gather(chunks)
            chosen = (
                self._select(table)
                if settings.where is None
                else self._matching(table, settings.where, ())
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
                run.fates.filtered = run.n_in - run.fates.beyond_limit - run.parents.n_parents

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
        if isinstance(cause, LLMError):
            cause.result = result
        raise cause


def _has(record: Record, values: dict[str, Any]) -> bool:
    return all(k in record and record[k] == v for k, v in values.items())


def limit_index(
    nodes: Sequence[Node], compiled: CompiledPipeline, settings: RunSettings
) -> int | None:
    """Index of the node at whose entry the limit applies (0: the source's output)."""
    if settings.limit is None and settings.one is None and settings.where is None:
        return None
    if settings.limit_at == "source":
        return 0
    if settings.limit_at is not None:
        return compiled.index(settings.limit_at)
    for i, node in enumerate(nodes):
        if isinstance(node.step, LLMStep):
            return i
    return 0
