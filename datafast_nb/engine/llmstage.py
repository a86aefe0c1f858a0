"""One LLM step of a run: from records to calls, from answers to records.

For each record, in order: render the requests, name the draw of each (row identity, and
rank among the row's identical requests), look the draws up in bulk, ask for what is
missing, and put the outputs together in input order. `work` does it for a table that is at
hand; a flow of records (`recordflow`) hands in records as they come and takes them when done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from queue import Empty

from datafast_nb.engine.calls import Call
from datafast_nb.engine.context import RunContext
from datafast_nb.engine.draws import adopt, answers_of, asking, find_draws
from datafast_nb.engine.events import Grown, Progress
from datafast_nb.engine.llmoutput import (
    Slot,
    copy_outcome,
    earlier_replies,
    fill_figures,
    replies_before,
    replies_to,
)
from datafast_nb.engine.stagerecords import ALWAYS_KEPT, StageRecords
from datafast_nb.errors import LLMError, ReplayMissError
from datafast_nb.lineage import Table
from datafast_nb.models.pricing import price_of
from datafast_nb.options import options
from datafast_nb.runs import CallRow, StepRun
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import REASKABLE, Unusable
from datafast_nb.store.memo import Draw, Memo, Reply

WINDOW = 1024
"""Records whose draws are looked up together."""
MAX_OUTSTANDING = 4096
"""Calls submitted and not yet back."""
PROGRESS_EVERY_S = 0.1


class LLMStage(StageRecords):
    """Runs one LLM step over a table."""

    def __init__(
        self,
        ctx: RunContext,
        run: StepRun,
        step: LLMStep,
        table: Table,
        selected: Sequence[int] | None = None,
    ) -> None:
        super().__init__(ctx, run, step, table, selected)
        self._memo: Memo = ctx.memo
        self._n_failed = 0
        self._n_answered = 0
        self._n_new = 0
        self._paid = 0.0
        self._outstanding = 0
        self._prices = {id(v.model): price_of(v.model) for v in step.variants}
        self._keep = True
        self._last_progress = 0.0
        self._place = str(ctx.memo.path)
        self.depth = 0
        """LLM steps before this one that ask at the same time; the deepest is served first."""
        self.holds = False
        """Calls wait until someone takes them from `ready`."""
        self.n_sent = 0
        """Calls with the scheduler."""
        self.n_expected: float | None = None
        """Records that will come, where they are not at hand yet."""
        self.used: set[tuple[str, str]] = set()
        """Draws of other labels that answer calls of this step."""
        self._leaders: dict[tuple[str, str], Slot] = {}
        self._shared: dict[tuple[str, str], CallRow] = {}
        """What this run asked for at temperature 0."""
        self._batch: deque[Call] = deque()
        """Calls of the leaders that are not claimed yet."""
        self._n_ended_before = asking.n_ended - ctx.n_ended
        self._doubtful: list[tuple[Slot, list[Draw]]] = []

    def work(self) -> None:
        """Ask about the records and wait for the answers.

        Raises
        ------
        LLMError, BudgetExceededError, KeyboardInterrupt, Stopped
            What was answered before is kept: call `output` all the same.
        """
        chosen = range(len(self.table)) if self.selected is None else self.selected
        try:
            for start in range(0, len(chosen), WINDOW):
                self.ctx.check_stop()
                self.plan(chosen[start : start + WINDOW])
                while self._outstanding > MAX_OUTSTANDING:
                    self._take()
                    self._take_ready()
                self._take_ready()
            self.settle_doubtful()
            while self._outstanding:
                self._take()
                self._take_ready()
        finally:
            self.tell(force=True)

    # Planning.

    def plan(self, indices: Sequence[int]) -> None:
        """Look up the calls of some records, and ask for those that no stored draw answers."""
        window: list[Slot] = []
        for i in indices:
            self.plan_one(i, window)
        self._resolve(window)

    # Look-up.

    def _resolve(self, window: list[Slot]) -> None:
        found, doubtful = find_draws(self.ctx, [(s.row.key, s.row.label) for s in window])
        for i, (slot, draw) in enumerate(zip(window, found, strict=True)):
            if i in doubtful and not self.run.is_partial:
                self._doubtful.append((slot, doubtful[i]))
            elif draw is None or not self._settle(slot, draw):
                self._want(slot, draw)
        self._submit()
        if self.n_calls > options.keep_rows and self._keep:
            self._keep = False
            for row in self.run.calls[ALWAYS_KEPT:]:
                row.messages, row.earlier = None, ()
                if row.status != "failed":  # errors keep their raw reply
                    row.text = None

    def settle_doubtful(self) -> None:
        """All records are planned: calls whose row has draws under other places: those that no call of this step took."""
        for slot, candidates in self._doubtful:
            draw = adopt(self.ctx, (slot.row.key, slot.row.label), candidates)
            if draw is None or not self._settle(slot, draw):
                self._want(slot, draw)
        self._doubtful = []
        self._submit()

    def _settle(self, slot: Slot, draw: Draw) -> bool:
        """Answer a call from its stored draw, if that says enough."""
        row = slot.row
        if draw.label != row.label:
            self.used.add((draw.key, draw.label))
        forced = (row.key, row.label) in self.ctx.settings.retry
        last = None
        for reply in answers_of(self.ctx, (row.key, row.label), draw):
            try:
                row.values = self.step.parse(reply.text)
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
        step = self.step
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
        ctx = self.ctx
        row = slot.row
        if ctx.settings.dry or ctx.ending is not None:
            row.status = "pending" if ctx.settings.dry else "not_asked"
            if ctx.settings.dry and self._keeps(slot):
                row.messages = slot.messages
            return
        if self._memo.mode == "replay":
            raise ReplayMissError(
                f"step '{row.step}', {self.where(row.record)}: the recording in {self._memo.path} holds no "
                f"answer to this request ({slot.messages[-1]['content'][:60]!r}…). Replay mode asks "
                "nobody; run without it, or record the new prompts"
            )
        done = self._shared.get((row.key, row.label))
        if done is not None:
            self._copy_outcome(done, row)
            self._finish(slot)
            return
        leader = self._leaders.get((row.key, row.label))
        self._outstanding += 1
        if leader is not None:
            if leader.followers is None:
                leader.followers = []
            leader.followers.append(slot)
            return
        # Taken from now on: its answer is stored before it is back, and a sibling's look-up sees it.
        ctx.claimed.add((row.key, row.label))
        # Noted before the claim: an interrupt in between must not leave it behind.
        self._leaders[row.key, row.label] = slot
        self._batch.append(self._call(slot, draw))

    def _submit(self) -> None:
        """Hand the calls of a window to the scheduler together: waking its loop costs more than a call."""
        while self._batch and not self.holds:
            scheduler = self.ctx.scheduler(self.run.index)
            scheduler.submit(self.ready(len(self._batch)))

    def _claimed(self, batch: list[Call]) -> list[Call]:
        """Of some calls those to be asked: no other run does so, nor has since they were looked up."""
        mine = []
        for call in batch:
            spot = (call.key, call.label)
            if asking.claim(self._place, spot, self.ctx.finished, call.owner):
                mine.append(call)
            else:
                del self._leaders[spot]
        if not mine or asking.n_ended - self.ctx.n_ended == self._n_ended_before:
            return mine
        batch, mine = mine, []
        draws = self._memo.get_many([(call.key, call.label) for call in batch])
        for call, draw in zip(batch, draws, strict=True):
            if draw is None:
                mine.append(call)
            elif self._settle(call.owner, draw):
                self._release(call.owner)
                self._outstanding -= 1
                self._follow(call.owner, draw)
            else:
                mine.append(self._call(call.owner, draw))
        return mine

    def _follow(self, slot: Slot, draw: Draw | None) -> None:
        """Calls that share the draw of `slot`, which somebody else has asked for."""
        followers, slot.followers = slot.followers or (), None
        for follower in followers:
            self._outstanding -= 1
            if draw is None or not self._settle(follower, draw):
                self._want(follower, draw)

    @property
    def has_loss(self) -> bool:
        """A call has failed in a step that is to end the run then."""
        return self.step.on_error == "raise" and bool(self._n_failed or self.bad_prompt)

    @property
    def n_held(self) -> int:
        """Calls that are not with the scheduler yet."""
        return len(self._batch)

    @property
    def has_doubtful(self) -> bool:
        """Some calls are looked up again when all records are planned."""
        return bool(self._doubtful)

    @property
    def n_asked(self) -> int:
        """Draws that this run asks for, and that are not back."""
        return len(self._leaders)

    @property
    def n_open(self) -> int:
        """Calls that have not come to their end: held, sent, or asked by someone else."""
        return self._outstanding

    def next_held(self) -> tuple[Call, int]:
        """The first of the calls that `send` would send, and their number."""
        first = self._batch[0]
        record = first.owner.row.record
        return first, sum(1 for _ in takewhile(lambda c: c.owner.row.record == record, self._batch))

    def ready(self, n: int) -> list[Call]:
        """Of the next `n` calls, and those of the same record, the ones that the caller is to send."""
        batch: list[Call] = []
        while self._batch:
            record = self._batch[0].owner.row.record
            if len(batch) >= n and batch[-1].owner.row.record != record:
                break
            batch.append(self._batch.popleft())
        batch = self._claimed(batch)
        self.n_sent += len(batch)
        return batch

    def drop_held(self) -> None:
        """Calls that are not with the scheduler are not asked any more."""
        batch, self._batch = self._batch, deque()
        for call in batch:
            self.n_sent += 1  # `accept` takes it back
            call.error = LLMError("the run stopped before this call", kind="not_asked")
            self.accept(call)

    def _call(self, slot: Slot, draw: Draw | None) -> Call:
        step = self.step
        forced = (slot.row.key, slot.row.label) in self.ctx.settings.retry
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
            depth=self.depth,
            stops_run=step.on_error == "raise",
            run=self.ctx.bus.run,
            step=self.run.name,
            record=slot.row.record,
            owner=slot,
        )

    def _take_ready(self) -> None:
        """Take what is back, without waiting."""
        while True:
            try:
                self.take(self.ctx.finished.get_nowait())
            except Empty:
                break
        self._raise_fatal()

    def _take(self) -> None:
        """Wait for one call to come back."""
        while True:
            self.ctx.check_stop()
            try:
                # A short wait, so that signals and stops are seen soon.
                self.take(self.ctx.finished.get(timeout=0.1))
            except Empty:
                self.tell()
                continue
            return

    def take(self, item: Call | Slot) -> None:
        """What came through `ctx.finished`: a call, or a slot that another run has asked for."""
        if isinstance(item, Call):
            self.accept(item)
        else:
            self._look_again(item)

    def _raise_fatal(self) -> None:
        scheduler = self.ctx.running_scheduler
        if scheduler is not None and scheduler.fatal is not None and not self._outstanding:
            raise scheduler.fatal

    def accept(self, call: Call) -> None:
        """A call is back: fill in its row, and those of the calls that share its draw."""
        slot: Slot = call.owner
        row = slot.row
        self.n_sent -= 1
        self._release(slot)
        reply = call.reply
        row.attempts = call.attempts
        row.input_tokens, row.output_tokens = call.input_tokens, call.output_tokens
        row.usd = call.usd if call.usd == call.usd else None
        row.wasted_usd = call.wasted_usd
        row.n_replies = call.n_replies
        if self._keeps(slot):
            row.messages = slot.messages
            row.earlier = replies_before(self._memo, self.step, call)
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
        self.ctx.claimed.add((row.key, row.label))
        if slot.variant.is_deterministic:
            self._shared[row.key, row.label] = row
        for follower in slot.followers or ():
            self._copy_outcome(row, follower.row)
            self._outstanding -= 1
            self._finish(follower)
        slot.followers = None
        self._outstanding -= 1
        self._finish(slot)
        self.tell()

    def _copy_outcome(self, asked: CallRow, row: CallRow) -> None:
        copy_outcome(asked, row)
        self._n_answered += row.status == "answered"
        self._n_failed += row.status == "failed"

    def _look_again(self, slot: Slot) -> None:
        """Another run has finished with the draw that this slot waited for."""
        self._outstanding -= 1
        draw = self._memo.get_many([(slot.row.key, slot.row.label)])[0]
        if draw is None or not self._settle(slot, draw):
            self._want(slot, draw)
        self._follow(slot, draw)
        self._submit()

    def _release(self, slot: Slot) -> None:
        spot = (slot.row.key, slot.row.label)
        # Out of the list last: what an interrupt leaves in it is released again.
        if asking.release(self._place, spot, slot):
            self.ctx.n_ended += 1
        if self._leaders.get(spot) is slot:
            del self._leaders[spot]

    def release_all(self) -> None:
        """Others may ask for what this run has not got."""
        for slot in list(self._leaders.values()):
            self._release(slot)

    def look_on_disk(self) -> None:
        """Calls that were cut off between their answer and its being taken: the memo has them."""
        self._memo.flush()
        lost = [s for slots in self.slots for s in slots or () if s.row.status == "pending"]
        found = self._memo.get_many([(s.row.key, s.row.label) for s in lost])
        for slot, draw in zip(lost, found, strict=True):
            if draw is None or not self._settle(slot, draw):
                slot.row.status = "not_asked"

    def _keeps(self, slot: Slot) -> bool:
        """Whether the call's prompt and reply stay with the result."""
        return self._keep or slot.is_kept

    def _fill(self, slot: Slot, reply: Reply, draw: Draw) -> None:
        row = slot.row
        replies = replies_to(self.step, draw, reply)
        fill_figures(row, replies, self._prices[id(slot.variant.model)])
        if self._keeps(slot):
            row.messages = slot.messages
            row.earlier = earlier_replies(self.step, slot, replies[:-1])
        if self._keeps(slot) or row.status == "failed":
            row.text = reply.text

    def _finish(self, slot: Slot) -> None:
        self.touched.append(slot.row.record)
        if not self._keeps(slot):
            slot.messages = slot.messages[-1:] if slot.row.status == "failed" else ()

    def tell(self, *, force: bool = False) -> None:
        """Tell of the progress, not too often."""
        now = time.monotonic()
        if not force and now - self._last_progress < PROGRESS_EVERY_S:
            return
        self._last_progress = now
        n_records: float = len(self.table) if self.selected is None else len(self.selected)
        if self.n_expected is not None:
            n_records = max(n_records, self.n_expected)
        per_record = self.n_calls / max(1, self.n_planned)
        total = self.n_calls if force else round(per_record * n_records)
        self.ctx.bus.emit(
            Progress(
                self.run.name,
                total,
                self._n_answered + self._n_new + self._n_failed,
                self._n_answered,
                self._n_new,
                self._n_failed,
                self._paid,
            )
        )
        run, in_flight = self.run, self.ctx.n_in_flight
        calls, inputs = run.calls, self.table.records
        self.ctx.bus.emit(Grown(run.name, run.index, self.finished, calls, inputs, in_flight))
