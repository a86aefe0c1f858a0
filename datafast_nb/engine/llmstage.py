"""One LLM step of a run: from records to calls, from answers to records.

For each record, in order: render the requests, name the draw of each (row identity, and
rank among the row's identical requests), look the draws up in bulk, ask for what is
missing, and put the outputs together in input order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.engine.events import Progress
from datafast_nb.engine.limits import cost_usd
from datafast_nb.engine.scheduler import Call
from datafast_nb.errors import LLMError, RecordError, ReplayMissError
from datafast_nb.lineage import Table
from datafast_nb.models.base import Message
from datafast_nb.models.pricing import price_of
from datafast_nb.options import options
from datafast_nb.records import FLAT_TYPES, Record, copy_record
from datafast_nb.results import CallError, CallRow, StepRun
from datafast_nb.steps.llm import LLMStep, PlanCounter, Variant
from datafast_nb.steps.outputs import REASKABLE, Unusable
from datafast_nb.store.memo import Draw, Memo

WINDOW = 1024
"""Records whose draws are looked up together."""
MAX_OUTSTANDING = 4096
"""Calls submitted and not yet back."""
PROGRESS_EVERY_S = 0.1

SHARED = "~"
"""Label of the one draw that all share at temperature 0."""

# Draws being asked for in this process, over all runs: (memo, key, label) → who waits for them.
_asking: dict[tuple[str, str, str], list[tuple[SimpleQueue[Any], _Slot]]] = {}
_asking_lock = threading.Lock()


@dataclass(slots=True, eq=False)
class _Slot:
    """A call's place in the step: its row, and what is needed to ask."""

    row: CallRow
    variant: Variant
    messages: list[Message]
    followers: list[_Slot] = field(default_factory=list)
    """Calls of this run that want the same draw."""
    is_asked: bool = False


class LLMStage:
    """Runs one LLM step over a table."""

    def __init__(self, ctx: RunContext, run: StepRun, step: LLMStep, table: Table) -> None:
        self._ctx = ctx
        self._run = run
        self._step = step
        self._table = table
        self._memo: Memo = ctx.memo
        self._slots: list[list[_Slot] | None] = [None] * len(table)
        """Calls of each record; None: not planned; []: skipped."""
        self._bad_prompt: dict[int, str] = {}
        self._n_calls = 0
        self._n_done = 0
        self._n_failed = 0
        self._n_answered = 0
        self._n_new = 0
        self._paid = 0.0
        self._outstanding = 0
        self._prices = {id(v.model): price_of(v.model) for v in step.variants}
        self._flat_outputs = True
        self._keep = True
        self._last_progress = 0.0
        self._wake: SimpleQueue[Any] = SimpleQueue()
        self._leaders: dict[tuple[str, str], _Slot] = {}
        self._batch: list[Call] = []

    def work(self, selected: Sequence[int] | None = None) -> None:
        """Ask about the records at `selected` (ascending; None: all) and wait for the answers.

        Raises
        ------
        LLMError, BudgetExceededError, KeyboardInterrupt, Stopped
            What was answered before is kept: call `output` all the same.
        """
        counter = PlanCounter()
        chosen = None if selected is None else set(selected)
        upto = len(self._table) if not chosen else max(chosen) + 1
        if chosen is not None and not chosen:
            upto = 0
        shared = self._rows_of(chosen)
        try:
            for start in range(0, upto, WINDOW):
                self._ctx.check_stop()
                window: list[_Slot] = []
                for i in range(start, min(start + WINDOW, upto)):
                    if chosen is None or i in chosen:
                        self._plan(i, counter, window)
                    elif self._step.samples or (shared is not None and self._row_id(i) in shared):
                        self._count_ghost(i, counter)
                self._resolve(window)
                while self._outstanding > MAX_OUTSTANDING:
                    self._take()
                    self._take_ready()
                self._take_ready()
            while self._outstanding:
                self._take()
                self._take_ready()
        finally:
            self._progress(force=True)

    # Planning.

    def _row_id(self, i: int) -> str:
        ids = self._table.row_ids
        assert ids is not None  # tables before an LLM step carry identities
        return ids[i]

    def _rows_of(self, chosen: set[int] | None) -> set[str] | None:
        return None if chosen is None else {self._row_id(i) for i in chosen}

    def _plan(self, i: int, counter: PlanCounter, window: list[_Slot]) -> None:
        step = self._step
        record = self._table.records[i]
        if step.skip_if is not None:
            copy = record.copy() if self._table.flat else copy_record(record)
            try:
                skip = bool(step.skip_if(copy))
            except Exception as exc:
                exc.add_note(f"in skip_if of step '{self._run.name}', record {i}")
                raise
            if skip:
                step.plan(record, counter)
                self._slots[i] = []
                return
        slots: list[_Slot] = []
        self._slots[i] = slots
        row_id = self._row_id(i)
        ranks = self._ctx.ranks
        for variant in step.plan(record, counter):
            try:
                messages = step.messages(record, variant)
                key = variant.keys.key(messages)
            except KeyError as exc:
                self._bad_prompt[i] = f"the record has no column {exc.args[0]!r}, which the prompt uses"
                return
            except (RecordError, UnicodeError, TypeError) as exc:
                self._bad_prompt[i] = f"the prompt cannot be written: {exc}"
                return
            for output_index in range(step.num_outputs):
                label = self._label(key, row_id, variant, ranks)
                row = CallRow(
                    self._run.name, i, variant.index, output_index, key, label, variant.model.name
                )
                slot = _Slot(row, variant, messages)
                slots.append(slot)
                window.append(slot)
                self._run.calls.append(row)
        self._n_calls += len(slots)
        for column in step.fields:
            value = record.get(column)
            if value is None or value != value:
                self._run.notes.append(column)

    def _label(
        self, key: str, row_id: str, variant: Variant, ranks: dict[tuple[str, str], int]
    ) -> str:
        if variant.is_deterministic:
            label = SHARED
        else:
            rank = ranks.get((key, row_id), 0)
            ranks[key, row_id] = rank + 1
            label = f"{row_id}.{rank}"
        return f"{label}.g{self._step.resample}" if self._step.resample else label

    def _count_ghost(self, i: int, counter: PlanCounter) -> None:
        """Count the requests of a record that is not asked about: later ones of its row keep their rank."""
        record = self._table.records[i]
        for variant in self._step.plan(record, counter):
            if variant.is_deterministic:
                continue
            try:
                key = variant.keys.key(self._step.messages(record, variant))
            except (KeyError, RecordError, UnicodeError, TypeError):
                return
            spot = (key, self._row_id(i))
            self._ctx.ranks[spot] = self._ctx.ranks.get(spot, 0) + self._step.num_outputs

    # Look-up.

    def _resolve(self, window: list[_Slot]) -> None:
        found = self._memo.get_many([(s.row.key, s.row.label) for s in window])
        misses: list[_Slot] = []
        for slot, draw in zip(window, found, strict=True):
            if draw is not None:
                self._ctx.claimed.add((draw.key, draw.label))
                if self._settle(slot, draw):
                    continue
                self._want(slot, draw)
            else:
                misses.append(slot)
        for slot, adopted in self._adopt(misses):
            if adopted is None:
                self._want(slot, None)
            elif not self._settle(slot, adopted):
                self._want(slot, adopted)
        self._submit()
        if self._n_calls > options.keep_rows and self._keep:
            self._keep = False
            for row in self._run.calls:
                row.messages = row.text = None

    def _adopt(self, misses: list[_Slot]) -> list[tuple[_Slot, Draw | None]]:
        """For each slot without a draw of its own a stored draw whose row is gone, if there is one."""
        if not misses:
            return []
        stored = self._memo.stored({s.row.key for s in misses})
        if not stored:
            return [(s, None) for s in misses]
        rows = self._ctx.all_rows()
        out: list[tuple[_Slot, Draw | None]] = []
        for slot in misses:
            draw = self._orphan(slot, stored.get(slot.row.key, ()), rows)
            if draw is not None:
                self._ctx.claimed.add((draw.key, draw.label))
                if not self._ctx.settings.dry and self._memo.mode != "replay":
                    self._memo.link(draw.key, slot.row.label, draw.label)
            out.append((slot, draw))
        return out

    def _orphan(
        self, slot: _Slot, candidates: Sequence[Draw], rows: frozenset[str] | None
    ) -> Draw | None:
        if rows is None:
            return None
        _, generation = _split_label(slot.row.label)
        for draw in candidates:
            if (draw.key, draw.label) in self._ctx.claimed:
                continue
            parts = [_split_label(label) for label in (draw.labels or (draw.label,))]
            if all(row not in rows and row != SHARED and g == generation for row, g in parts):
                return draw
        return None

    def _settle(self, slot: _Slot, draw: Draw) -> bool:
        """Answer a call from its stored draw, if that says enough."""
        row = slot.row
        forced = (row.key, row.label) in self._ctx.settings.retry
        last = None
        for reply in reversed(draw.replies):
            if reply.verdict in ("refused", "cut"):
                continue
            try:
                row.values = self._step.parse(reply.text)
            except Unusable as exc:
                last = last or exc
                continue
            row.status, row.verdict = "answered", "usable"
            self._fill(slot, reply.text, reply.input_tokens, reply.output_tokens, reply.latency_s)
            price = self._prices[id(slot.variant.model)]
            usd = cost_usd(price, reply.input_tokens or 0, reply.output_tokens or 0, reply.cached_input_tokens)
            row.usd = usd if usd == usd else None
            self._n_answered += 1
            self._finish(slot)
            return True
        if forced or self._reasks_left(draw) > 0:
            return False
        reply = draw.replies[-1]
        row.status, row.verdict = "failed", reply.verdict if last is None else last.verdict
        row.error = reply.reason if last is None else last.reason
        self._fill(slot, reply.text, reply.input_tokens, reply.output_tokens, reply.latency_s)
        row.usd = 0.0
        self._n_failed += 1
        self._finish(slot)
        return True

    def _reasks_left(self, draw: Draw | None) -> int:
        """Questions still due after the unusable replies of a draw."""
        step = self._step
        allowed = step.max_retries if step.on_error == "retry" else 1
        if draw is None or not draw.replies:
            return allowed
        if step.on_error != "retry" and draw.replies[-1].verdict not in REASKABLE:
            return 0
        return allowed - (len(draw.replies) - 1)

    # Asking.

    def _want(self, slot: _Slot, draw: Draw | None) -> None:
        """Ask for a draw, or wait for someone who does."""
        ctx = self._ctx
        row = slot.row
        if ctx.settings.dry or ctx.ending is not None:
            row.status = "pending" if ctx.settings.dry else "not_asked"
            return
        if self._memo.mode == "replay":
            raise ReplayMissError(
                f"step '{row.step}', record {row.record}: the recording in {self._memo.path} holds no "
                f"answer to this request ({slot.messages[-1]['content'][:60]!r}…). Replay mode asks "
                "nobody; run without it, or record the new prompts"
            )
        leader = self._leaders.get((row.key, row.label))
        if leader is not None and leader.is_asked:
            leader.followers.append(slot)
            self._outstanding += 1
            return
        spot = (str(self._memo.path), row.key, row.label)
        with _asking_lock:
            waiting = _asking.get(spot)
            if waiting is not None:
                waiting.append((self._wake, slot))
            else:
                _asking[spot] = []
        self._outstanding += 1
        if waiting is not None:
            return
        slot.is_asked = True
        self._leaders[row.key, row.label] = slot
        self._batch.append(self._call(slot, draw))

    def _submit(self) -> None:
        """Hand the calls of a window to the scheduler together: waking its loop costs more than a call."""
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        try:
            scheduler = self._ctx.scheduler()
        except BaseException:
            for call in batch:
                self._release(call.owner)
                self._outstanding -= 1
            raise
        scheduler.on_raise = self._step.on_error == "raise"
        scheduler.submit(batch)

    def _call(self, slot: _Slot, draw: Draw | None) -> Call:
        step = self._step
        forced = (slot.row.key, slot.row.label) in self._ctx.settings.retry
        prior = None if forced or draw is None or not draw.replies else draw.replies[-1]
        reasks = self._reasks_left(None if forced else draw)
        return Call(
            key=slot.row.key,
            label=slot.row.label,
            model=slot.variant.model,
            request=step.request(slot.messages, slot.variant),
            parse=step.parse,
            max_retries=step.max_retries,
            retry_delay_s=step.retry_delay,
            reasks_left=reasks - (prior is not None),
            reasks_all=step.on_error == "retry",
            prior=prior,
            owner=slot,
        )

    def _take_ready(self) -> None:
        """Take what is back, without waiting."""
        scheduler = self._ctx.running_scheduler
        while True:
            try:
                if scheduler is not None:
                    self._accept(scheduler.finished.get_nowait())
                else:
                    self._retry_waiting(self._wake.get_nowait())
            except Empty:
                break
        while not self._wake.empty():
            self._retry_waiting(self._wake.get_nowait())
        self._raise_fatal()

    def _take(self) -> None:
        """Wait for one call to come back."""
        scheduler = self._ctx.running_scheduler
        queue = self._wake if scheduler is None else scheduler.finished
        while True:
            self._ctx.check_stop()
            try:
                # A short wait, so that signals and stops are seen soon.
                item = queue.get(timeout=0.05 if self._wake_expected() else 0.2)
            except Empty:
                self._progress()
                if not self._wake.empty():
                    return
                self._raise_fatal()
                continue
            if isinstance(item, Call):
                self._accept(item)
            else:
                self._retry_waiting(item)
            return

    def _wake_expected(self) -> bool:
        return self._outstanding > 0 and not self._leaders

    def _raise_fatal(self) -> None:
        scheduler = self._ctx.running_scheduler
        if scheduler is not None and scheduler.fatal is not None and not self._outstanding:
            raise scheduler.fatal

    def _accept(self, call: Call) -> None:
        slot: _Slot = call.owner
        row = slot.row
        self._release(slot)
        reply = call.reply
        row.attempts = call.attempts
        row.input_tokens, row.output_tokens = call.input_tokens, call.output_tokens
        row.usd = call.usd if call.usd == call.usd else None
        row.wasted_usd = call.wasted_usd if call.wasted_usd == call.wasted_usd else 0.0
        if self._keep:
            row.messages = tuple(slot.messages)
            row.text = reply.text if reply is not None else None
        row.latency_s = reply.latency_s if reply is not None else 0.0
        if call.values is not None:
            row.values = call.values
            row.status, row.verdict = "new", "usable"
            self._n_new += 1
        elif call.error is not None and call.error.kind == "not_asked":
            row.status = "not_asked"
        else:
            error = call.error or LLMError("no answer")
            row.status, row.verdict, row.error = "failed", error.kind, str(error)
            self._n_failed += 1
        self._paid += call.usd
        self._ctx.claimed.add((row.key, row.label))
        for follower in slot.followers:
            f = follower.row
            f.status = "answered" if row.status == "new" else row.status
            f.verdict, f.error, f.values = row.verdict, row.error, row.values
            f.messages, f.text, f.usd = row.messages, row.text, row.usd
            f.input_tokens, f.output_tokens = row.input_tokens, row.output_tokens
            if f.status == "answered":
                self._n_answered += 1
            elif f.status == "failed":
                self._n_failed += 1
                f.usd = 0.0
            self._outstanding -= 1
            self._finish(follower)
        slot.followers = []
        self._outstanding -= 1
        self._finish(slot)
        self._progress()

    def _retry_waiting(self, slot: _Slot) -> None:
        """Another run has finished with the draw that this slot waited for."""
        self._outstanding -= 1
        draw = self._memo.get_many([(slot.row.key, slot.row.label)])[0]
        if draw is not None and self._settle(slot, draw):
            return
        self._want(slot, draw)
        self._submit()

    def _release(self, slot: _Slot) -> None:
        spot = (str(self._memo.path), slot.row.key, slot.row.label)
        with _asking_lock:
            waiting = _asking.pop(spot, [])
        for queue, waiter in waiting:
            queue.put(waiter)
        self._leaders.pop((slot.row.key, slot.row.label), None)

    def abandon(self, grace_s: float) -> None:
        """Stop asking; keep what arrives within `grace_s`, give up on the rest."""
        scheduler = self._ctx.running_scheduler
        if scheduler is None:
            return
        scheduler.stop()
        end = time.monotonic() + grace_s
        cancelled = False
        while self._leaders:
            try:
                item = scheduler.finished.get(timeout=0.05)
            except Empty:
                if time.monotonic() > end:
                    if cancelled:
                        break
                    scheduler.cancel()
                    cancelled = True
                    end = time.monotonic() + 1.0
                continue
            if isinstance(item, Call):
                self._accept(item)
        for slot in list(self._leaders.values()):
            self._release(slot)

    def _fill(
        self, slot: _Slot, text: str, tokens_in: int | None, tokens_out: int | None, latency: float
    ) -> None:
        row = slot.row
        row.input_tokens, row.output_tokens = tokens_in or 0, tokens_out or 0
        row.latency_s = latency
        if self._keep:
            row.messages = tuple(slot.messages)
            row.text = text

    def _finish(self, slot: _Slot) -> None:
        self._n_done += 1

    def _progress(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_progress < PROGRESS_EVERY_S:
            return
        self._last_progress = now
        per_record = self._n_calls / max(1, sum(s is not None for s in self._slots)) if not force else 0
        total = self._n_calls if force else max(self._n_calls, round(per_record * len(self._table)))
        self._ctx.bus.emit(
            Progress(
                self._run.name, total, self._n_done, self._n_answered, self._n_new, self._n_failed, self._paid
            )
        )

    # Output.

    def output(self, selected: Sequence[int] | None = None) -> Table:
        """The output records in input order; fills the step's fates, errors and parents."""
        run, step, table = self._run, self._step, self._table
        out: list[Record] = []
        ids: list[str] = []
        parents: list[int] = []
        call_of: list[int] = []
        flat = table.flat
        fates = run.fates
        chosen = None if selected is None else set(selected)
        at = 0  # index of the record's first call among the step's calls
        for i, record in enumerate(table.records):
            slots = self._slots[i]
            if chosen is not None and i not in chosen:
                fates.beyond_limit += 1
                continue
            if slots is None:
                fates.waiting += 1
                continue
            if not slots and i not in self._bad_prompt:
                fates.skipped += 1
                out.append(step.skipped(record))
                ids.append(self._row_id(i))
                parents.append(i)
                call_of.append(-1)
                continue
            n_good = n_bad = 0
            for k, slot in enumerate(slots):
                row = slot.row
                if row.values is not None:
                    n_good += 1
                    made = step.output(record, row.values, slot.variant, row.output_index)
                    if flat and any(type(v) not in FLAT_TYPES for v in row.values.values()):
                        flat = False
                    out.append(made)
                    ids.append(self._row_id(i))
                    parents.append(i)
                    call_of.append(at + k)
                elif row.status == "failed":
                    n_bad += 1
                    run.errors.append(self._error(i, record, slot))
            at += len(slots)
            if i in self._bad_prompt:
                n_bad += 1
                run.errors.append(self._prompt_error(i, record))
            if n_good:
                fates.advanced += 1
                run.partly_failed += bool(n_bad)
            elif n_bad:
                fates.failed += 1
            else:
                fates.waiting += 1
        run.parents.add(len(table), len(out), parents)
        run.call_of = call_of
        run.n_in, run.n_out = len(table), len(out)
        return Table(out, flat, ids)

    def _error(self, i: int, record: Record, slot: _Slot) -> CallError:
        row = slot.row
        return CallError(
            step=row.step,
            record=i,
            kind=row.verdict,
            error=row.error,
            model=row.model,
            key=row.key,
            label=row.label,
            text=row.text,
            prompt=slot.messages[-1]["content"],
            input=record,
        )

    def _prompt_error(self, i: int, record: Record) -> CallError:
        return CallError(
            self._run.name, i, "prompt", self._bad_prompt[i], "", "", "", None, None, record
        )


def _split_label(label: str) -> tuple[str, str]:
    """Row identity and generation of a label: "ab12-1.0.g2" → ("ab12-1", "g2")."""
    parts = label.split(".")
    generation = parts[-1] if parts[-1].startswith("g") and len(parts) > 1 else ""
    return parts[0], generation

