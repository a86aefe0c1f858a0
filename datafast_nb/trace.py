"""The way of one record through a pipeline, and Results as sources of further pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datafast_nb.display import html, text, views
from datafast_nb.lineage import base_row
from datafast_nb.records import Record, RowIds, column_names, copy_record
from datafast_nb.results import CallRow, Result, RunInfo, StepRun
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
    """"read", "advanced", "filtered", "failed", "skipped", "waiting", "left out"."""
    records: tuple[Record, ...]
    """Records after the step."""
    calls: tuple[CallRow, ...] = ()
    note: str = ""


class RecordTrace(Mapping[str, Any]):
    """One record through the pipeline: the first output as a dict, `trace` for every step."""

    def __init__(
        self, outputs: Sequence[Record], trace: Sequence[TraceStep], result: Result | None = None
    ) -> None:
        self.outputs = list(outputs)
        """All output records that came from the one input."""
        self.trace = list(trace)
        self.result = result

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

    def view(self) -> views.TraceView:
        """Plain data for display."""
        steps = []
        before: tuple[Record, ...] = ()
        for s in self.trace:
            calls = tuple(_call_view(c) for c in s.calls[:_SHOWN])
            notes = [s.note] if s.note else []
            for word, n in (("calls", len(s.calls)), ("records", len(s.records))):
                if n > _SHOWN:
                    notes.append(f"{n - _SHOWN:,} more {word} are not shown")
            records = tuple(_changed(s.records, before))
            steps.append(views.TraceStepView(s.name, s.fate, "; ".join(notes), records, calls))
            before = s.records or before
        head = (
            f"{len(self.outputs)} record{'s' * (len(self.outputs) != 1)} out"
            if self.outputs
            else self.why_dropped
        )
        return views.TraceView(head, tuple(steps))

    def __repr__(self) -> str:
        return text.trace(self.view())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": text.trace(self.view()), "text/html": html.trace(self.view())}


_SHOWN = 5  # calls and records of a step that a trace shows
_MAX_COLUMNS = 40


def _call_view(call: CallRow) -> views.TraceCallView:
    is_error = call.text is None and bool(call.error)
    answer = call.error if call.text is None else call.text
    return views.TraceCallView(call.model, call.status, _prompt_text(call), answer, is_error)


def _changed(records: Sequence[Record], before: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """What is new in the records after a step, if it can be told; of wide records the start."""
    for i, record in enumerate(records[:_SHOWN]):
        old: Mapping[str, Any] = {}
        if len(before) == len(records):
            old = before[i]
        elif len(before) == 1:
            old = before[0]
        new = {k: v for k, v in record.items() if k not in old or not _is_same(old[k], v)}
        shown = dict(list(new.items())[:_MAX_COLUMNS])
        if len(new) > len(shown):
            shown["…"] = f"{len(new) - len(shown):,} more columns"
        if shown:
            yield shown


def _is_same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _prompt_text(call: CallRow) -> str:
    if call.messages is None:
        return ""
    if len(call.messages) == 1:
        return call.messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in call.messages)


def trace_output(info: RunInfo, output: int) -> RecordTrace:
    """The way of one final record, walked back by the parent indices."""
    return _trace(info, [output], None)


def trace_all(result: Result) -> RecordTrace:
    """The trace of a run of one record: what became of it at each step, and all its outputs."""
    return _trace(result.info, None, result)


def _trace(info: RunInfo, outputs: list[int] | None, result: Result | None) -> RecordTrace:
    runs = info.steps
    where = info.settings.get("where") if result is not None else None
    kept = _on_the_way(runs, outputs) if where is None else _from_row(runs, where)
    steps: list[TraceStep] = []
    for run, chosen in zip(runs, kept, strict=True):
        table = run.table
        records: tuple[Record, ...] = ()
        if table is not None:
            records = tuple(copy_record(table.records[i]) for i in chosen if i < len(table))
        fate, note = _fate(run, len(chosen))
        if chosen and table is None:
            note = note or "too many records to keep; .at() computes them again"
        steps.append(TraceStep(run.name, fate, records, _calls(run, chosen, outputs), note))
        if run.index and not chosen and run.n_in:
            break
    final = steps[-1].records if steps and len(steps) == len(runs) else ()
    return RecordTrace([copy_record(r) for r in final], steps, result)


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


def _calls(run: StepRun, chosen: list[int], outputs: list[int] | None) -> tuple[CallRow, ...]:
    if run.call_of is None:
        return ()
    if outputs is None:
        return tuple(run.calls)
    return tuple(run.calls[run.call_of[i]] for i in chosen if run.call_of[i] >= 0)


def _fate(run: StepRun, n_kept: int) -> tuple[str, str]:
    f = run.fates
    errors = "; ".join(dict.fromkeys(e.error for e in run.errors))
    if run.index == 0:
        return "read", ""
    if n_kept:
        if f.skipped and not f.advanced:
            return "skipped", "skip_if is true: no model was asked"
        if run.errors:
            return "advanced", f"{len(run.errors)} of its calls failed: {errors}"
        return "advanced", ""
    if f.failed:
        return "failed", errors
    if f.filtered:
        return "filtered", ""
    return ("waiting", "") if f.waiting else ("advanced", "")


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
    if known.row_ids is None or len(result) != len(result._rows):
        return None, None  # not known, or edited as a list: which record is which is not sure
    if any(i >= len(known.row_ids) for i in result._rows):
        return None, None
    ids = [known.row_ids[i] for i in result._rows]
    return ids, None if known.tokens is None else [known.tokens[i] for i in result._rows]
