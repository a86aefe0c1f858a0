"""The way of one record through a pipeline, and Results as sources of further pipelines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import index as as_index
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Document
from datafast_nb.lineage import base_row
from datafast_nb.records import Record, RowIds, column_names, copy_record
from datafast_nb.results import Result, RunInfo
from datafast_nb.runs import CallError, CallRow, StepRun
from datafast_nb.steps.base import SourceStep, Step
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sampling import Sample
from datafast_nb.steps.transform import FlatMap

if TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline


@dataclass(frozen=True)
class TraceStep:
    """One step on a record's way."""

    name: str
    fate: str
    """"read", "advanced", "written", "filtered", "failed", "skipped", "waiting", "left out"."""
    records: tuple[Record, ...]
    """Records after the step."""
    calls: tuple[CallRow, ...] = ()
    note: str = ""
    kind: str = ""
    """What the step is: its class, and what it says of itself."""
    origins: tuple[int | None, ...] = ()
    """For each record its parent's place among the records of the step before; None: not known."""
    row: int | None = None
    """Of a source: number of the row, from 0; None elsewhere and where it is not known."""


class RecordTrace(Shown, Mapping[str, Any]):
    """One record through the pipeline: the first output as a dict, `trace` for every step."""

    def __init__(
        self,
        outputs: Sequence[Record],
        trace: Sequence[TraceStep],
        result: Result | None = None,
        index: int | None = None,
    ) -> None:
        self.outputs = list(outputs)
        """All output records that came from the one input."""
        self.trace = list(trace)
        self.result = result
        self.index = index
        """Number of the record: among those of a Result, or that entered the first LLM step."""

    @property
    def record(self) -> Record:
        """The first output record. Raises KeyError saying where the record was dropped."""
        if not self.outputs:
            raise KeyError(self.why_dropped)
        return self.outputs[0]

    @property
    def why_dropped(self) -> str:
        """Where and why nothing came out; "" if something did."""
        if self.outputs:
            return ""
        for step in self.trace:
            if step.fate in ("filtered", "failed", "waiting", "left out"):
                note = f": {step.note}" if step.note else ""
                verb = step.fate if step.fate == "failed" else f"was {step.fate}"
                return f"the record {verb} at step '{step.name}'{note}"
        return "no record came out"

    @property
    def calls(self) -> list[CallRow]:
        """The calls about this record, in step order."""
        return [call for step in self.trace for call in step.calls]

    def __getitem__(self, key: str) -> Any:
        if not self.outputs:
            raise KeyError(f"{self.why_dropped}, so it has no {key!r}")
        return self.outputs[0][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs[0] if self.outputs else ())

    def __len__(self) -> int:
        return len(self.outputs[0]) if self.outputs else 0

    def __bool__(self) -> bool:
        return bool(self.outputs)

    def view(self) -> Document:
        """Plain data for display."""
        from datafast_nb.trace_view import trace_view  # beside: it reads a trace

        return trace_view(self)


def trace_output(result: Result, index: int) -> RecordTrace:
    """The way of one record of a Result, walked back by the parent indices."""
    n = len(result)
    at = as_index(index)
    if not -n <= at < n:
        rows = f"they are numbered 0 to {n - 1:,}" if n else "it is empty"
        raise IndexError(f"no record {at}: the Result has {formats.plural(n, 'record')}, {rows}")
    index = at % n
    made = _trace(result.info, [result._rows[index]], None, index)
    last = result.info.steps[-1].table if result.info.steps else None
    if last is None and not made.outputs:  # too many records to keep, but this one is here
        made.outputs = [copy_record(result[index])]
    if result._dropped_at is not None:
        made.trace.append(_last_step(result._dropped_at, result._rows[index]))
        made.outputs = []
    return made


def _last_step(run: StepRun, record: int) -> TraceStep:
    """The step that record `record` of its inputs did not leave, with the calls about it."""
    first = bisect_left(run.calls, record, key=lambda call: call.record)
    calls = tuple(takewhile(lambda call: call.record == record, run.calls[first:]))
    fate, note = _fate(run, [], [record])
    return TraceStep(run.name, fate, (), calls, note, _kind(run.step))


def trace_all(result: Result) -> RecordTrace:
    """The trace of a run of one record: what became of it at each step, and all its outputs."""
    return _trace(result.info, None, result, result.info.settings.get("one"))


def _trace(
    info: RunInfo, outputs: list[int] | None, result: Result | None, index: int | None
) -> RecordTrace:
    runs = info.steps
    where = info.settings.get("where") if result is not None else None
    kept = _on_the_way(runs, outputs) if where is None else _from_row(runs, where)
    steps: list[TraceStep] = []
    sinks = {name for name, _ in info.written}
    for k, (run, chosen) in enumerate(zip(runs, kept, strict=True)):
        step = _step(run, chosen, kept[k - 1] if k else [], is_one=outputs is None)
        if run.name in sinks and step.fate == "advanced":
            step = replace(step, fate="written")
        steps.append(step)
        if run.index and not chosen and run.n_in:
            break
    final = steps[-1].records if steps and len(steps) == len(runs) else ()
    return RecordTrace([copy_record(r) for r in final], steps, result, index)


def _step(run: StepRun, chosen: list[int], before: list[int], *, is_one: bool) -> TraceStep:
    """A step on the way: `chosen` are its outputs, `before` those of the step before.

    `is_one`: the run was about this record alone, so all calls are its own.
    """
    table = run.table
    records: tuple[Record, ...] = ()
    if table is not None:
        chosen = [i for i in chosen if i < len(table)]
        records = tuple(copy_record(table.records[i]) for i in chosen)
    fate, note = _fate(run, chosen, before)
    if chosen and table is None:
        note = note or "too many records to keep; .at() computes them again"
    place = {i: k for k, i in enumerate(before)}
    parents = [run.parents.of(i) for i in chosen] if run.index else []
    row = None
    if not run.index and chosen:
        row = chosen[0] if run.rows is None else run.rows[chosen[0]]
    return TraceStep(
        run.name,
        fate,
        records,
        _calls(run, chosen, is_one=is_one),
        note,
        _kind(run.step),
        tuple(None if p is None else place.get(p) for p in parents),
        row,
    )


def _kind(step: Step) -> str:
    return "source" if isinstance(step, SourceStep) else type(step).__name__


def _on_the_way(runs: Sequence[StepRun], outputs: list[int] | None) -> list[list[int]]:
    """For each step the indices of the records that lead to the outputs (None: to all).

    Where the record was dropped, the way leads to the place where it was.
    """
    kept: list[list[int]] = [[] for _ in runs]
    at: list[int] | None = outputs
    for k in range(len(runs) - 1, -1, -1):
        run = runs[k]
        if at is None:
            at = list(range(run.n_out))
        kept[k] = at
        if k == 0:
            break
        if not run.parents.known:
            at = list(range(run.n_in))  # any of them may have had a part in it
        elif at:
            found = dict.fromkeys(p for i in at if (p := run.parents.of(i)) is not None)
            at = list(found)
        else:
            at = _asked_about(run)
    return kept


def _from_row(runs: Sequence[StepRun], where: Mapping[str, Any]) -> list[list[int]]:
    """For each step the indices of the records that come from the first source row like `where`."""
    table = runs[0].table
    records = table.records if table is not None else []
    at = [i for i, r in enumerate(records) if all(r.get(k) == v for k, v in where.items())][:1]
    kept = [at]
    for run in runs[1:]:
        here = set(at)
        at = [i for i, p in enumerate(run.parents.all()) if p in here]
        if not run.parents.known:
            at = list(range(run.n_out))
        kept.append(at)
    return kept


def _asked_about(run: StepRun) -> list[int] | None:
    """Inputs that a step without outputs looked at; None: all of them."""
    asked = {c.record for c in run.calls} | {e.record for e in run.errors}
    return sorted(asked) or None


def _calls(run: StepRun, chosen: list[int], *, is_one: bool) -> tuple[CallRow, ...]:
    if run.call_of is None:
        return ()
    if is_one:
        return tuple(run.calls)
    mine = {run.call_of[i] for i in chosen if run.call_of[i] >= 0}
    if run.partly_failed:
        # What a record that went on cost too: its calls that gave nothing.
        for record in {run.parents.of(i) for i in chosen}:
            first = bisect_left(run.calls, record or 0, key=lambda call: call.record)
            for k in range(first, len(run.calls)):
                if run.calls[k].record != record:
                    break
                if run.calls[k].status == "failed":
                    mine.add(k)
    return tuple(run.calls[k] for k in sorted(mine))


def _fate(run: StepRun, chosen: list[int], before: list[int]) -> tuple[str, str]:
    """What became of the records `before` at a step, of which `chosen` came out; and why."""
    if run.index == 0:
        return "read", ""
    mine = set(before)
    errors = [e for e in run.errors if e.record in mine]
    if chosen:
        if run.call_of is not None and all(run.call_of[i] < 0 for i in chosen):
            return "skipped", "skip_if is true: no model was asked"
        if errors:
            return "advanced", f"{len(errors)} of its calls failed: {_reasons(errors)}"
        return "advanced", ""
    if errors:
        return "failed", _reasons(errors)
    losses = {run.loss_of(i) for i in mine}
    if losses == {"beyond_limit"}:
        return "left out", "beyond the limit of the run"
    if "filtered" in losses:
        return "filtered", ""
    return ("waiting", "") if "waiting" in losses else ("advanced", "")


def _reasons(errors: Sequence[CallError]) -> str:
    return "; ".join(dict.fromkeys(e.error for e in errors))


def may_fan_out(step: Step) -> bool:
    """Whether the step may make several records of one, each with an identity of its own."""
    if isinstance(step, LLMStep):
        return step.calls_per_record > 1
    return isinstance(step, FlatMap) or (isinstance(step, Sample) and step.replace)


class ResultSource(SourceStep):
    """A Result as the source of a further pipeline: records with the identities they had."""

    kind = "result"

    def __init__(self, result: Result) -> None:
        self._result = list(result)
        self.n_records = len(result)
        self.origin = None if result._info is None or result.is_edited else result[:]
        """The Result as it was, to follow values back further; None: it has no lineage."""
        info = result._info
        self.pipeline: Pipeline | None = info.pipeline if info is not None else None
        self.row_ids, self.tokens = _identities(result)
        whole = self.pipeline.steps if self.pipeline is not None else []
        self.n_fan_outs = sum(map(may_fan_out, whole))
        calls = result.call_rows if info is not None else []
        self.prior_ranks: dict[tuple[str, str], int] = {}
        """Requests that the Result's own steps made, per key and row: later ones rank behind them."""
        for call in calls:
            row, dot, _ = call.label.partition(".")
            if dot:
                spot = (call.key, row)
                self.prior_ranks[spot] = self.prior_ranks.get(spot, 0) + 1
        self.prior_draws = {(c.key, c.label) for c in calls}

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        """The records in pieces."""
        for start in range(0, len(self._result), chunk):
            yield self._result[start : start + chunk]

    def count(self) -> int:
        """Number of records."""
        return len(self._result)

    def columns(self) -> list[str]:
        """Columns of all records."""
        return column_names(self._result)

    def config(self) -> dict[str, Any]:
        """Records stand for themselves by their identities."""
        rows = self.row_ids or RowIds().take(self._result)
        return {"rows": rows, "n": self.n_records}

    def describe(self) -> str:
        """What it holds."""
        return f"{self.n_records:,} records of a result"

    def all_row_ids(self) -> Iterable[str]:
        """Identities of the whole source that the Result came from, as far as they are known."""
        if self.pipeline is None:
            return {base_row(i) for i in self.row_ids or ()}
        from datafast_nb.engine.context import source_row_ids  # upward: reads the first source

        rows = {base_row(i) for i in self.row_ids or ()}
        for step in self.pipeline.steps:
            if isinstance(step, SourceStep):
                rows |= source_row_ids(step)
        return rows


def _identities(result: Result) -> tuple[list[str] | None, list[str] | None]:
    """Identities and sampling tokens of a Result's records, where its run knew them."""
    if result._info is None or not result._info.steps:
        return None, None
    known = result._info
    if known.row_ids is None or result.is_edited:
        return None, None  # not known, or edited as a list: which record is which is not sure
    if any(i >= len(known.row_ids) for i in result._rows):
        return None, None
    ids = [known.row_ids[i] for i in result._rows]
    return ids, None if known.tokens is None else [known.tokens[i] for i in result._rows]
