"""Where one value of a Result comes from: its step, what was asked, what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index as as_index
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Document
from datafast_nb.errors import DatafastError
from datafast_nb.lineage import base_row
from datafast_nb.models.base import Message
from datafast_nb.records import Record, copy_record
from datafast_nb.runs import CallRow, StepRun, way_back
from datafast_nb.steps.base import ChoiceStep, SinkStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import Unusable
from datafast_nb.steps.transform import Filter
from datafast_nb.store.memo import open_memo
from datafast_nb.trace import ResultSource
from datafast_nb.validate import nearest

if TYPE_CHECKING:
    from datafast_nb.results import Result


@dataclass(frozen=True, repr=False)
class Why(Shown):
    """Where one value comes from."""

    row: int
    """Index of the record in the Result, from 0."""
    column: str
    value: Any
    kind: str
    """"source" (it was read), "model", "skipped" (`skip_if` was true: no model was asked),
    "function" (of a Map, a FlatMap, a step of the user's), "unknown" (a step hides the lineage)."""
    step: str
    """Name of the step that wrote the value; of kind "unknown": of the step that hides it."""
    call: CallRow | None = None
    """Of kind "model": the call, with messages and raw reply."""
    record_in: Record | None = None
    """The record that the step read; None for a source, and where it is not known."""
    source_index: int | None = None
    """Number of the source's row that the record comes from, from 0; None: not known."""
    identity: str = ""
    """Identity of that row in the memo; "" where the run needed none."""
    origin: Why | None = None
    """Of a function that copied or renamed a value: where that one comes from."""
    notes: tuple[str, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...] | None:
        """The messages as sent; None where no model was asked."""
        return None if self.call is None else self.call.messages

    @property
    def reply(self) -> str | None:
        """The raw reply; None where no model was asked."""
        return None if self.call is None else self.call.text

    @property
    def key(self) -> str:
        """First 8 digits of the request's key in the memo; "" where no model was asked."""
        return "" if self.call is None else self.call.key[:8]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        call = self.call
        return {
            "row": self.row,
            "column": self.column,
            "value": self.value,
            "kind": self.kind,
            "step": self.step,
            "model": None if call is None else call.model,
            "status": None if call is None else call.status,
            "key": self.key or None,
            "messages": None if call is None else list(map(dict, call.messages or ())),
            "reply": self.reply,
            "parsed": None if call is None else dict(call.values or {}),
            "input_tokens": None if call is None else call.input_tokens,
            "output_tokens": None if call is None else call.output_tokens,
            "usd": None if call is None else call.usd,
            "latency_s": None if call is None else call.latency_s,
            "asked_at": None if call is None else call.asked_at,
            "record_in": self.record_in,
            "source_index": self.source_index,
            "identity": self.identity or None,
            "origin": None if self.origin is None else self.origin.to_dict(),
            "notes": list(self.notes),
        }

    def view(self) -> Document:
        """Plain data for display."""
        from datafast_nb.trace_view import why_view  # beside: it reads an explanation

        return why_view(self)


def explain(result: Result, row: int, column: str) -> Why:
    """Where the value in `column` of record `row` comes from; errors as `Result.why` says."""
    info = result.info
    result._check_unedited()
    n = len(result)
    at = as_index(row)
    if not -n <= at < n:
        rows = f"they are numbered 0 to {n - 1:,}" if n else "it is empty"
        raise IndexError(f"no record {at}: the Result has {formats.plural(n, 'record')}, {rows}")
    at %= n
    record = result[at]
    if column not in record:
        raise KeyError(
            f"record {at} has no column {column!r}.{nearest(str(column), list(record))} "
            f"Its columns: {formats.some_names(list(record))}"
        )
    place = result._rows[at]
    if not info.steps:
        raise DatafastError("the run did no step, so nothing is known of its records")
    look = _Look(result, at)
    why = look.explain(len(info.steps) - 1, place, column)
    value = record[column]
    if why.kind != "unknown" and not _equal(value, why.value):
        note = "the record was changed after the run: this is where the value of the run comes from"
        why = replace(why, notes=(*why.notes, note))
    return replace(why, row=at, value=value)


class _Look:
    """A look back from one record of a Result; computes again, once, what was not kept."""

    def __init__(self, result: Result, row: int) -> None:
        self._result = result
        self._row = row
        self._steps: Sequence[StepRun] = result.info.steps
        self._way = way_back(self._steps, result._rows[row])
        self._again: dict[int, Sequence[Record]] = {}

    def explain(self, last: int, place: int, column: str) -> Why:
        """Where `column` of record `place` of step number `last` comes from."""
        way = way_back(self._steps[: last + 1], place)
        for k in range(last, 0, -1):
            run, at = self._steps[k], way[k]
            assert at is not None  # the loop ends at a step that hides what is before it
            step = run.step
            if isinstance(step, LLMStep):
                if column in step.spec.columns or column in step.bookkeeping:
                    return self._by_model(run, way, column)
            elif isinstance(step, (ChoiceStep, SinkStep)) or type(step) is Filter:
                pass  # they change no record
            elif way[k - 1] is None:
                said = f"step '{run.name}' hides which records its own were made of"
                value = self._record(k, at)[column]
                return self._why("unknown", run, way, column, value, notes=(said,))
            else:
                before, after = self._record(k - 1, way[k - 1] or 0), self._record(k, at)
                if column not in before or not _equal(before[column], after[column]):
                    return self._by_function(run, way, column, before, after[column])
            if way[k - 1] is None:
                said = f"step '{run.name}' hides which records its own were made of"
                return self._why("unknown", run, way, column, None, notes=(said,))
        return self._by_source(way, column)

    def _by_source(self, way: list[int | None], column: str) -> Why:
        run, at = self._steps[0], way[0] or 0
        step = run.step
        row = self._source_row(way)
        if isinstance(step, ResultSource) and step.origin is not None and row is not None:
            made = explain(step.origin, row, column)
            return replace(made, notes=(*made.notes, f"read from record {row:,} of a Result"))
        return self._why("source", run, way, column, self._record(0, at)[column])

    def _by_function(
        self, run: StepRun, way: list[int | None], column: str, before: Record, value: Any
    ) -> Why:
        same = [c for c in before if _equal(before[c], value)]
        origin = None
        # A number or a short word may be the same by chance.
        if len(same) == 1 and isinstance(value, (str, list, dict)) and len(value) > 3:
            origin = self.explain(run.index - 1, way[run.index - 1] or 0, same[0])
        why = self._why("function", run, way, column, value, record_in=copy_record(before))
        return replace(why, origin=origin)

    def _by_model(self, run: StepRun, way: list[int | None], column: str) -> Why:
        at, parent = way[run.index], way[run.index - 1]
        assert at is not None and run.call_of is not None and parent is not None
        before = self._record(run.index - 1, parent)
        place = run.call_of[at]
        if place < 0:
            said = ("skip_if was true for the record, so no model was asked",)
            return self._why(
                "skipped", run, way, column, None, record_in=copy_record(before), notes=said
            )
        call = self._whole(run, run.calls[place], before)
        step = run.step
        assert isinstance(step, LLMStep)
        values = step.output(before, call.values or {}, _variant(step, call), call.output_index)
        why = self._why("model", run, way, column, values[column], record_in=copy_record(before))
        return replace(why, call=call)

    def _whole(self, run: StepRun, call: CallRow, before: Record) -> CallRow:
        """The call with messages and reply, also of a run that had too many to keep them."""
        step = run.step
        assert isinstance(step, LLMStep)
        if call.messages is not None and call.text is not None:
            return call
        variant = _variant(step, call)
        messages = tuple(step.messages(before, variant))
        if variant.keys.key(messages) != call.key:
            raise _changed(run.name)
        text = call.text
        if text is None:
            draw = open_memo().get_many([(call.key, call.label)])[0]
            for reply in reversed(draw.replies if draw is not None else ()):
                if reply.verdict in ("refused", "cut"):
                    continue
                try:
                    if step.parse(reply.text) == call.values:
                        text = reply.text
                        break
                except Unusable:
                    continue
        return replace(call, messages=messages, text=text)

    def _why(
        self,
        kind: str,
        run: StepRun,
        way: list[int | None],
        column: str,
        value: Any,
        *,
        record_in: Record | None = None,
        notes: tuple[str, ...] = (),
    ) -> Why:
        return Why(
            row=self._row,
            column=column,
            value=value,
            kind=kind,
            step=run.name,
            record_in=record_in,
            source_index=self._source_row(way),
            identity=self._identity(way),
            notes=notes,
        )

    def _source_row(self, way: list[int | None]) -> int | None:
        at = way[0]
        rows = self._steps[0].rows
        return at if at is None or rows is None else rows[at]

    def _identity(self, way: list[int | None]) -> str:
        for run, at in zip(self._steps, way, strict=False):
            ids = run.table.row_ids if run.table is not None else None
            if at is not None and ids is not None and at < len(ids):
                return base_row(ids[at])
        ids = self._result.info.row_ids
        place = self._result._rows[self._row]
        return base_row(ids[place]) if ids is not None and place < len(ids) else ""

    def _record(self, k: int, at: int) -> Record:
        """Record `at` of those that left step number `k`. Raises DatafastError."""
        table = self._steps[k].table
        if table is not None:
            return table.records[at]
        if k not in self._again:
            self._again[k] = self._result.at(k)
            if len(self._again[k]) != self._steps[k].n_out:
                raise _changed(self._steps[k].name)
        return self._again[k][at]


def _variant(step: LLMStep, call: CallRow) -> Any:
    return step.variants[call.variant]


def _changed(step: str) -> DatafastError:
    return DatafastError(
        f"step '{step}': the run kept no table of so many records, and what can be computed again "
        "is no longer what it was: its source or the memo has changed since. Run the pipeline "
        "again (nothing is paid twice) and ask its Result"
    )


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of records are the same, type included; NaN is itself."""
    if type(a) is not type(b):
        return False
    return a is b or bool(a == b) or (a != a and b != b)
