"""The records of an LLM step in a run, the calls about each, and what they make of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from datafast_nb.engine.context import RunContext
from datafast_nb.engine.draws import draw_label
from datafast_nb.engine.events import Finished, Grown
from datafast_nb.engine.llmoutput import Slot, assemble, outputs_of
from datafast_nb.errors import RecordError
from datafast_nb.lineage import Fates, Parents, Table
from datafast_nb.options import options
from datafast_nb.records import Record, copy_record
from datafast_nb.runs import CallRow, StepRun
from datafast_nb.steps.expansion import PlanCounter
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.prompts import is_missing

ALWAYS_KEPT = 256
"""First calls of a step, whose prompts and replies are kept in runs of any size: displays show them."""
ENDED = frozenset({"answered", "new", "failed"})
"""States of a call that has come to its end."""


def _no_more(start: int) -> Finished:
    return Finished([], [], start)


class StageRecords:
    """Records that enter an LLM step, in the order in which they come."""

    def __init__(
        self,
        ctx: RunContext,
        run: StepRun,
        step: LLMStep,
        table: Table,
        selected: Sequence[int] | None = None,
    ) -> None:
        self.ctx = ctx
        self.run = run
        self.step = step
        self.table = table
        self.selected = selected
        """Indices of the records that the limit lets through; None: all."""
        self.slots: list[list[Slot] | None] = [None] * len(table)
        """Calls of each record; None: not planned; []: skipped."""
        self.bad_prompt: dict[int, str] = {}
        """Why the prompt of a record could not be written."""
        self.where: Callable[[int], str] = lambda i: f"record {i}"
        """Names a record, for errors."""
        self.touched: list[int] = []
        """Records, some with repeats, a call of which has come to its end."""
        self.n_planned = 0
        self.n_calls = 0
        self._fan_out = ctx.fan_outs.get(run.index)
        table.tokens = self._tokens_of(table)

    def grow(self) -> range:
        """Records have come to the table; their indices."""
        n = len(self.slots)
        self.slots.extend([None] * (len(self.table) - n))
        return range(n, len(self.slots))

    def is_done(self, i: int) -> bool:
        """Every call of record `i` has come to its end, good or bad."""
        slots = self.slots[i]
        return slots is not None and all(s.row.status in ENDED for s in slots)

    def _tokens_of(self, table: Table) -> list[str] | None:
        """What decides sampled parameters here and further on, made where it is still missing."""
        if table.tokens is None and (self.ctx.has_samples or len(table) <= options.keep_rows):
            counter = PlanCounter()
            return [self.step.token(record, counter) for record in table.records]
        return table.tokens

    def _row_id(self, i: int) -> str:
        ids = self.table.row_ids
        assert ids is not None  # tables before an LLM step carry identities
        return ids[i]

    def plan_one(self, i: int, window: list[Slot]) -> None:
        """Name the calls about record `i`, and add them to `window`."""
        step = self.step
        record = self.table.records[i]
        self.n_planned += 1
        if step.skip_if is not None:
            copy = record.copy() if self.table.flat else copy_record(record)
            try:
                skip = bool(step.skip_if(copy))
            except Exception as exc:
                exc.add_note(f"in skip_if of step '{self.run.name}', {self.where(i)}")
                raise
            if skip:
                self.slots[i] = []
                self.touched.append(i)
                return
        slots: list[Slot] = []
        row_id = self._row_id(i)
        ranks = self.ctx.ranks
        tokens = self.table.tokens
        for variant in step.plan(record, tokens[i] if tokens is not None else ""):
            try:
                messages = tuple(step.messages(record, variant))
                key = variant.keys.key(messages)
            except KeyError as exc:
                self.bad_prompt[i] = (
                    f"the record has no column {exc.args[0]!r}, which the prompt uses"
                )
            except (RecordError, UnicodeError, TypeError) as exc:
                self.bad_prompt[i] = f"the prompt cannot be written: {exc}"
            if i in self.bad_prompt:
                self.slots[i] = slots
                self.touched.append(i)
                return
            for output_index in range(step.num_outputs):
                label = draw_label(
                    ranks,
                    key,
                    row_id,
                    is_shared=variant.is_deterministic,
                    generation=step.resample,
                )
                row = CallRow(
                    self.run.name, i, variant.index, output_index, key, label, variant.model.name
                )
                slot = Slot(row, variant, messages, is_kept=len(self.run.calls) < ALWAYS_KEPT)
                self.run.calls.append(row)
                slots.append(slot)
                window.append(slot)
        # All at once: an interrupt in between must not leave a record with some of its calls.
        self.slots[i] = slots
        self.n_calls += len(slots)
        for column in step.fields:
            if is_missing(record.get(column)):
                self.run.notes.append(column)

    def output(
        self,
        order: Sequence[int] | None = None,
        tokens: list[str] | None = None,
        made: Sequence[Record] | None = None,
    ) -> Table:
        """The output records in input order; fills the step's fates, errors and parents.

        Parameters
        ----------
        order
            Indices of the records in input order, where they came in another one.
        tokens
            Of the records in input order, where they were made later than the records came.
        made
            The output records in their order, where they were made before.
        """
        run, table, slots, bad = self.run, self.table, self.slots, self.bad_prompt
        run.fates, run.parents, run.errors, run.partly_failed = Fates(), Parents(), [], 0
        if order is not None:
            table, slots = table.take(order), [slots[i] for i in order]
            table.tokens = table.tokens or tokens
            table.tokens = self._tokens_of(table)
            bad = {place: bad[i] for place, i in enumerate(order) if i in bad}
            for place, some in enumerate(slots):
                for slot in some or ():
                    slot.row.record = place
        run.calls = [s.row for some in slots for s in some or ()]
        if order is not None:  # the calls name other places from now on
            self.ctx.bus.emit(Grown(run.name, run.index, _no_more, run.calls, table.records))
        return assemble(
            run,
            self.step,
            table,
            slots,
            bad,
            self.selected,
            self._fan_out,
            made,
        )

    def finished(self, start: int) -> Finished:
        """What has been made of input `start` and those behind it, up to the first not finished."""
        found = Finished([], [], start)
        end = start
        for at in self._chosen_from(start):
            slots = self.slots[at]
            if slots is None or not self.is_done(at):
                break
            records = self._outputs(at, slots)
            found.records.extend(records)
            is_new = any(s.row.status == "new" for s in slots)
            found.is_new.extend([is_new] * len(records))
            end = at + 1
        return replace(found, next=end)

    def _chosen_from(self, start: int) -> Iterator[int]:
        n = len(self.slots)
        if self.selected is None:
            yield from range(start, n)
            return
        for k in range(bisect_left(self.selected, start), len(self.selected)):
            if self.selected[k] < n:
                yield self.selected[k]

    def _outputs(self, i: int, slots: Sequence[Slot]) -> list[Record]:
        record = self.table.records[i]
        if not slots and i not in self.bad_prompt:
            return [self.step.skipped(record)]
        return [
            self.step.output(record, s.row.values, s.variant, s.row.output_index)
            for s in slots
            if s.row.values is not None
        ]

    def made(self, i: int) -> Table:
        """What the step has made of record `i` so far."""
        return outputs_of(self.step, self.table, i, self.slots[i], self.bad_prompt, self._fan_out)
