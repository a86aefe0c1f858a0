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
from datafast_nb.records import Record, RowIds, copy_record, normalise_records
from datafast_nb.runs import CallRow, StepRun, way_back
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import Unusable
from datafast_nb.steps.transform import Filter
from datafast_nb.store.memo import open_memo
from datafast_nb.trace import ResultSource
from datafast_nb.validate import nearest

if TYPE_CHECKING:
    from datafast_nb.results import Result

ROWS_READ = 1024
"""Rows of a source that are read at once in search of one."""
MAX_FOUND = 1_000
"""Records of a step that are kept for further looks."""


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
    """A look back from one record of a Result.

    Where a run kept no tables, the one record is computed again from its row of the source: user
    functions are called on it alone, and what they gave is kept with the run.
    """

    def __init__(self, result: Result, row: int) -> None:
        self._result = result
        self._row = row
        self._steps: Sequence[StepRun] = result.info.steps
        self._way = way_back(self._steps, result._rows[row])
        for run in self._steps:
            if len(run.found) > MAX_FOUND:
                run.found.clear()

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
        way = [at]
        record = self._known(k, at)
        while record is None:
            k -= 1
            parent = self._steps[k + 1].parents.of(way[-1])
            assert parent is not None  # `_known` has what stands behind a hidden lineage
            way.append(parent)
            record = self._known(k, parent)
        for child, parent in zip(reversed(way[:-1]), reversed(way[1:]), strict=True):
            k += 1
            record = self._next(self._steps[k], child, parent, record)
            self._steps[k].found[child] = record
        return record

    def _known(self, k: int, at: int) -> Record | None:
        """The record, where it need not be made of the one before."""
        run = self._steps[k]
        if run.table is not None:
            return run.table.records[at]
        if at in run.found:
            return run.found[at]
        if k == 0:
            run.found[at] = self._read(run, at)
            return run.found[at]
        if run.parents.known and isinstance(run.step, _RECORD_WISE):
            return None
        if run.again is None:
            again = self._result.at(k)
            if len(again) != run.n_out:
                raise _changed(run.name)
            run.again = again
        return run.again[at]

    def _read(self, run: StepRun, at: int) -> Record:
        """A row of the source, read again as far as it stands."""
        source = run.step
        assert isinstance(source, SourceStep)
        row = at if run.rows is None else run.rows[at]

        def where(_: int) -> str:
            return f"step '{run.name}', {source.place(row)}"

        start = 0
        for chunk in source.read(ROWS_READ):
            if row < start + len(chunk):
                raw = chunk[row - start : row - start + 1]
                [record], _ = normalise_records(raw, where=where, from_frame=source.from_frame)
                identity = self._identity(self._way) if self._way[0] == at else ""
                if hasattr(source, "row_ids") or _is_row(record, identity):
                    return record
                break
            start += len(chunk)
        raise _changed(run.name)

    def _next(self, run: StepRun, at: int, parent: int, before: Record) -> Record:
        """Output `at` of a step, made of its input `parent`."""
        step = run.step
        if isinstance(step, LLMStep):
            assert run.call_of is not None
            place = run.call_of[at]
            if place < 0:
                return step.skipped(before)
            call = run.calls[place]
            return step.output(before, call.values or {}, _variant(step, call), call.output_index)
        if not isinstance(step, ChunkStep) or type(step) is Filter:
            return before
        where = f"step '{run.name}', record {parent}"
        out, _, is_user_made = step.run_chunk([before], flat=False, where=lambda _: where)
        if is_user_made:
            out, _ = normalise_records(out, where=lambda _: where)
        first, end = at, at + 1
        while first and run.parents.of(first - 1) == parent:
            first -= 1
        while run.parents.of(end) == parent:
            end += 1
        if len(out) != end - first:
            raise _changed(run.name)
        made: Record = out[at - first]
        return made


_RECORD_WISE = (ChunkStep, ChoiceStep, SinkStep, LLMStep)
"""Steps whose outputs can be made again of their one input."""


def _is_row(record: Record, identity: str) -> bool:
    """Whether a source row has this identity; also where the identity is not known."""
    return not identity or RowIds().take([record])[0] == identity.partition("-")[0]


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
