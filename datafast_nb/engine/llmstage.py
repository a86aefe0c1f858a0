"""One LLM step of a run: from records to calls, from answers to records.

For each record, in order: render the requests, name the draw of each (row identity, and
rank among the row's identical requests), look the draws up in bulk, ask for what is
missing, and put the outputs together in input order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import Empty
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.engine.draws import adopt, asking, draw_label, find_draws
from datafast_nb.engine.events import Progress
from datafast_nb.engine.llmoutput import (
    Slot,
    assemble,
    copy_outcome,
    earlier_replies,
    fill_figures,
    replies_before,
)
from datafast_nb.engine.scheduler import Call, Scheduler
from datafast_nb.errors import LLMError, RecordError, ReplayMissError
from datafast_nb.lineage import Table
from datafast_nb.models.pricing import price_of
from datafast_nb.options import options
from datafast_nb.records import copy_record
from datafast_nb.runs import CallRow, StepRun
from datafast_nb.steps.expansion import PlanCounter
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import REASKABLE, Unusable
from datafast_nb.steps.prompts import is_missing
from datafast_nb.store.memo import Draw, Memo, Reply

WINDOW = 1024
"""Records whose draws are looked up together."""
MAX_OUTSTANDING = 4096
"""Calls submitted and not yet back."""
ALWAYS_KEPT = 256
"""First calls of a step, whose prompts and replies are kept in runs of any size: displays show them."""
PROGRESS_EVERY_S = 0.1


class LLMStage:
    """Runs one LLM step over a table."""

    def __init__(
        self,
        ctx: RunContext,
        run: StepRun,
        step: LLMStep,
        table: Table,
        selected: Sequence[int] | None = None,
    ) -> None:
        self._selected = selected
        self._ctx = ctx
        self._run = run
        self._step = step
        self._table = table
        self._memo: Memo = ctx.memo
        self._slots: list[list[Slot] | None] = [None] * len(table)
        """Calls of each record; None: not planned; []: skipped."""
        self._bad_prompt: dict[int, str] = {}
        self._n_planned = 0
        self._n_calls = 0
        self._n_failed = 0
        self._n_answered = 0
        self._n_new = 0
        self._paid = 0.0
        self._outstanding = 0
        self._prices = {id(v.model): price_of(v.model) for v in step.variants}
        self._keep = True
        self._last_progress = 0.0
        self._place = str(ctx.memo.path)
        self._leaders: dict[tuple[str, str], Slot] = {}
        self._shared: dict[tuple[str, str], CallRow] = {}
        """What this run asked for at temperature 0."""
        self._batch: list[Call] = []
        self._doubtful: list[tuple[Slot, list[Draw]]] = []
        self._make_tokens()

    def work(self) -> None:
        """Ask about the records and wait for the answers.

        Raises
        ------
        LLMError, BudgetExceededError, KeyboardInterrupt, Stopped
            What was answered before is kept: call `output` all the same.
        """
        chosen = range(len(self._table)) if self._selected is None else self._selected
        try:
            for start in range(0, len(chosen), WINDOW):
                self._ctx.check_stop()
                window: list[Slot] = []
                for i in chosen[start : start + WINDOW]:
                    self._plan(i, window)
                    self._n_planned += 1
                self._resolve(window)
                while self._outstanding > MAX_OUTSTANDING:
                    self._take()
                    self._take_ready()
                self._take_ready()
            self._settle_doubtful()
            while self._outstanding:
                self._take()
                self._take_ready()
        finally:
            self._progress(force=True)

    # Planning.

    def _make_tokens(self) -> None:
        """At the first LLM step: what decides sampled parameters here and further on."""
        table = self._table
        if table.tokens is None and (self._ctx.has_samples or len(table) <= options.keep_rows):
            counter = PlanCounter()
            table.tokens = [self._step.token(record, counter) for record in table.records]

    def _row_id(self, i: int) -> str:
        ids = self._table.row_ids
        assert ids is not None  # tables before an LLM step carry identities
        return ids[i]

    def _plan(self, i: int, window: list[Slot]) -> None:
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
                self._slots[i] = []
                return
        slots: list[Slot] = []
        self._slots[i] = slots
        row_id = self._row_id(i)
        ranks = self._ctx.ranks
        tokens = self._table.tokens
        for variant in step.plan(record, tokens[i] if tokens is not None else ""):
            try:
                messages = tuple(step.messages(record, variant))
                key = variant.keys.key(messages)
            except KeyError as exc:
                self._bad_prompt[i] = (
                    f"the record has no column {exc.args[0]!r}, which the prompt uses"
                )
                return
            except (RecordError, UnicodeError, TypeError) as exc:
                self._bad_prompt[i] = f"the prompt cannot be written: {exc}"
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
                    self._run.name, i, variant.index, output_index, key, label, variant.model.name
                )
                slot = Slot(row, variant, messages, is_kept=len(self._run.calls) < ALWAYS_KEPT)
                # The row first: an interrupt in between must not leave a slot without its row.
                self._run.calls.append(row)
                slots.append(slot)
                window.append(slot)
        self._n_calls += len(slots)
        for column in step.fields:
            if is_missing(record.get(column)):
                self._run.notes.append(column)

    # Look-up.

    def _resolve(self, window: list[Slot]) -> None:
        found, doubtful = find_draws(self._ctx, [(s.row.key, s.row.label) for s in window])
        for i, (slot, draw) in enumerate(zip(window, found, strict=True)):
            if i in doubtful and not self._run.is_partial:
                self._doubtful.append((slot, doubtful[i]))
            elif draw is None or not self._settle(slot, draw):
                self._want(slot, draw)
        self._submit()
        if self._n_calls > options.keep_rows and self._keep:
            self._keep = False
            for row in self._run.calls[ALWAYS_KEPT:]:
                row.messages, row.earlier = None, ()
                if row.status != "failed":  # errors keep their raw reply
                    row.text = None

    def _settle_doubtful(self) -> None:
        """Calls whose row has draws under other places: those that no call of this step took."""
        for slot, candidates in self._doubtful:
            draw = adopt(self._ctx, (slot.row.key, slot.row.label), candidates)
            if draw is None or not self._settle(slot, draw):
                self._want(slot, draw)
        self._doubtful = []
        self._submit()

    def _settle(self, slot: Slot, draw: Draw) -> bool:
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
            self._fill(slot, reply, draw)
            self._n_answered += 1
            self._finish(slot)
            return True
        if forced or self._reasks_left(draw) > 0:
            return False
        reply = draw.replies[-1]
        row.status, row.verdict = "failed", reply.verdict if last is None else last.verdict
        row.error = reply.reason if last is None else last.reason
        self._fill(slot, reply, draw)
        self._n_failed += 1
        self._finish(slot)
        return True

    def _reasks_left(self, draw: Draw | None) -> int:
        """Questions still due after the unusable replies of a draw."""
        step = self._step
        allowed = step.max_retries if step.on_error == "retry" else 1
        if draw is None or not draw.replies:
            return allowed
        # "usable" once, and no more: the declared outputs have become stricter.
        if step.on_error != "retry" and draw.replies[-1].verdict not in {*REASKABLE, "usable"}:
            return 0
        return allowed - (len(draw.replies) - 1)

    # Asking.

    def _want(self, slot: Slot, draw: Draw | None) -> None:
        """Ask for a draw, or wait for someone who does."""
        ctx = self._ctx
        row = slot.row
        if ctx.settings.dry or ctx.ending is not None:
            row.status = "pending" if ctx.settings.dry else "not_asked"
            if ctx.settings.dry and self._keeps(slot):
                row.messages = slot.messages
            return
        if self._memo.mode == "replay":
            raise ReplayMissError(
                f"step '{row.step}', record {row.record}: the recording in {self._memo.path} holds no "
                f"answer to this request ({slot.messages[-1]['content'][:60]!r}…). Replay mode asks "
                "nobody; run without it, or record the new prompts"
            )
        done = self._shared.get((row.key, row.label))
        if done is not None:
            self._copy_outcome(done, row)
            self._finish(slot)
            return
        leader = self._leaders.get((row.key, row.label))
        if leader is not None:
            if leader.followers is None:
                leader.followers = []
            leader.followers.append(slot)
            self._outstanding += 1
            return
        self._outstanding += 1
        # Noted before the claim: an interrupt in between must not leave it behind.
        self._leaders[row.key, row.label] = slot
        if not asking.claim(self._place, (row.key, row.label), self._ctx.finished, slot):
            del self._leaders[row.key, row.label]
            return
        self._batch.append(self._call(slot, draw))

    def _submit(self) -> None:
        """Hand the calls of a window to the scheduler together: waking its loop costs more than a call."""
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        try:
            scheduler = self._ctx.scheduler(self._run.index)
        except BaseException:
            for call in batch:
                self._release(call.owner)
                self._outstanding -= 1
            raise
        scheduler.on_raise = self._step.on_error == "raise"
        scheduler.submit(batch)

    def _call(self, slot: Slot, draw: Draw | None) -> Call:
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
            # Only asked where its own draw is missing: a link there is one to a row that came back.
            own=draw is None,
            planned=time.time(),
            owner=slot,
        )

    def _take_ready(self) -> None:
        """Take what is back, without waiting."""
        while True:
            try:
                self._take_item(self._ctx.finished.get_nowait())
            except Empty:
                break
        self._raise_fatal()

    def _take(self) -> None:
        """Wait for one call to come back."""
        while True:
            self._ctx.check_stop()
            try:
                # A short wait, so that signals and stops are seen soon.
                self._take_item(self._ctx.finished.get(timeout=0.1))
            except Empty:
                self._progress()
                continue
            return

    def _take_item(self, item: Any) -> None:
        if isinstance(item, Call):
            self._accept(item)
        else:
            self._look_again(item)

    def _raise_fatal(self) -> None:
        scheduler = self._ctx.running_scheduler
        if scheduler is not None and scheduler.fatal is not None and not self._outstanding:
            raise scheduler.fatal

    def _accept(self, call: Call) -> None:
        slot: Slot = call.owner
        row = slot.row
        self._release(slot)
        reply = call.reply
        row.attempts = call.attempts
        row.input_tokens, row.output_tokens = call.input_tokens, call.output_tokens
        row.usd = call.usd if call.usd == call.usd else None
        row.wasted_usd = call.wasted_usd if call.wasted_usd == call.wasted_usd else 0.0
        row.n_replies = call.n_replies
        if self._keeps(slot):
            row.messages = slot.messages
            row.earlier = replies_before(self._memo, self._step, call)
        row.text = reply.text if reply is not None else None
        row.latency_s = reply.latency_s if reply is not None else 0.0
        row.asked_at = call.planned if call.attempts else None
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
        if not self._keeps(slot) and row.status != "failed":
            row.text = None
        self._paid += call.usd
        self._ctx.claimed.add((row.key, row.label))
        if slot.variant.is_deterministic:
            self._shared[row.key, row.label] = row
        for follower in slot.followers or ():
            self._copy_outcome(row, follower.row)
            self._outstanding -= 1
            self._finish(follower)
        slot.followers = None
        self._outstanding -= 1
        self._finish(slot)
        self._progress()

    def _copy_outcome(self, asked: CallRow, row: CallRow) -> None:
        copy_outcome(asked, row)
        self._n_answered += row.status == "answered"
        self._n_failed += row.status == "failed"

    def _look_again(self, slot: Slot) -> None:
        """Another run has finished with the draw that this slot waited for."""
        self._outstanding -= 1
        draw = self._memo.get_many([(slot.row.key, slot.row.label)])[0]
        if draw is not None and self._settle(slot, draw):
            return
        self._want(slot, draw)
        self._submit()

    def _release(self, slot: Slot) -> None:
        spot = (slot.row.key, slot.row.label)
        if self._leaders.pop(spot, None) is not None:
            asking.release(self._place, spot)

    def abandon(self, grace_s: float) -> None:
        """Stop asking; keep what arrives within `grace_s`, give up on the rest."""
        scheduler = self._ctx.running_scheduler
        try:
            if scheduler is not None:
                self._drain(scheduler, grace_s)
        finally:
            for slot in list(self._leaders.values()):
                self._release(slot)
        self._look_on_disk()

    def _drain(self, scheduler: Scheduler, grace_s: float) -> None:
        scheduler.stop()
        end = time.monotonic() + grace_s
        cancelled = False
        while self._leaders:
            try:
                item = self._ctx.finished.get(timeout=0.05)
            except Empty:
                if time.monotonic() <= end:
                    continue
                if cancelled:
                    break
                scheduler.cancel()
                cancelled = True
                end = time.monotonic() + 1.0
                continue
            if isinstance(item, Call):
                self._accept(item)

    def _look_on_disk(self) -> None:
        """Calls that were cut off between their answer and its being taken: the memo has them."""
        self._memo.flush()
        lost = [s for slots in self._slots for s in slots or () if s.row.status == "pending"]
        found = self._memo.get_many([(s.row.key, s.row.label) for s in lost])
        for slot, draw in zip(lost, found, strict=True):
            if draw is None or not self._settle(slot, draw):
                slot.row.status = "not_asked"

    def _keeps(self, slot: Slot) -> bool:
        """Whether the call's prompt and reply stay with the result."""
        return self._keep or slot.is_kept

    def _fill(self, slot: Slot, reply: Reply, draw: Draw) -> None:
        row = slot.row
        fill_figures(row, reply, draw, self._prices[id(slot.variant.model)])
        if self._keeps(slot):
            row.messages = slot.messages
            before = draw.replies[: draw.replies.index(reply)]
            row.earlier = earlier_replies(self._step, slot, before)
        if self._keeps(slot) or row.status == "failed":
            row.text = reply.text

    def _finish(self, slot: Slot) -> None:
        if not self._keeps(slot):
            slot.messages = slot.messages[-1:] if slot.row.status == "failed" else ()

    def _progress(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._last_progress < PROGRESS_EVERY_S:
            return
        self._last_progress = now
        n_records = len(self._table) if self._selected is None else len(self._selected)
        per_record = self._n_calls / max(1, self._n_planned)
        total = self._n_calls if force else round(per_record * n_records)
        self._ctx.bus.emit(
            Progress(
                self._run.name,
                total,
                self._n_answered + self._n_new + self._n_failed,
                self._n_answered,
                self._n_new,
                self._n_failed,
                self._paid,
            )
        )

    def output(self) -> Table:
        """The output records in input order; fills the step's fates, errors and parents."""
        return assemble(
            self._run,
            self._step,
            self._table,
            self._slots,
            self._bad_prompt,
            self._selected,
            self._ctx.fan_outs.get(self._run.index),
        )
