"""Calls in flight: asked on the engine's loop, stored by the memo, handed back when on disk.

The thread of the run submits calls and takes them back from `finished`. A worker asks,
retries what may pass, judges the reply, and goes on with the next call while the memo's
writer commits: nobody sees an answer before it is on disk.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from datafast_nb.display import formats
from datafast_nb.engine.calls import Call, know_ways, reask
from datafast_nb.engine.gates import gate_of, pause_s
from datafast_nb.engine.lanes import END_CANCELLED_S, Lane
from datafast_nb.engine.limits import (
    REFUSED_IN_A_ROW,
    Budget,
    BudgetSpent,
    backoff_s,
    late_error,
    lost_usd,
    patience_error,
    reply_usd,
    token_bound,
    tokens_of,
    too_long_a_wait,
)
from datafast_nb.engine.loop import engine_loop
from datafast_nb.engine.pacing import RateLimits
from datafast_nb.errors import DatafastError, LLMError, MemoError
from datafast_nb.models import ladder
from datafast_nb.models.base import FATAL, RETRYABLE, Request, Response
from datafast_nb.models.transport import use_transport
from datafast_nb.models.wire import clear_of_keys
from datafast_nb.steps.outputs import Unusable
from datafast_nb.store.memo import Memo, Reply

T = TypeVar("T")

START_S = 30.0
CLOSE_S = 5.0


class Scheduler:
    """Asks calls of one run. Built on the run's thread; used from there but for `_`-methods.

    Parameters
    ----------
    in_flight
        Calls in flight for a model that does not say itself.
    finished
        Takes the calls back to the run's thread.
    rate_limits
        What the run allows its models per minute.
    tell
        Takes a sentence for the user, on the thread that calls `close`.

    Raises
    ------
    DatafastError
        If the engine does not answer, since a model's `complete` blocks its loop.
    """

    def __init__(
        self,
        memo: Memo,
        *,
        in_flight: int,
        budget: Budget,
        finished: SimpleQueue[Any],
        rate_limits: RateLimits | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.finished = finished
        self.fatal: Exception | None = None
        """Why the run must stop; set before the calls come back."""
        self._memo = memo
        self._in_flight = in_flight
        self._limits = rate_limits or RateLimits()
        self._tell = tell
        self.budget = budget
        self._loop = engine_loop()
        self._lanes: dict[int, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._parked: set[asyncio.Task[Any]] = set()
        """Tasks that wait before a call is sent: a stop ends them at once."""
        self._known_ways: set[int] = set()
        self._left_behind: dict[str, None] = {}
        """Models whose calls have not ended when they were cancelled."""
        self._stopping = False
        self._committed: deque[Call] = deque()
        self._is_told = False
        self._done = asyncio.Event()
        self._context: Context | None = None
        started = threading.Event()
        self._main = asyncio.run_coroutine_threadsafe(self._serve(started), self._loop)
        if not started.wait(START_S):
            self._main.cancel()
            raise DatafastError(
                f"the engine has not answered for {START_S:g} s: complete() of some model blocks "
                "its event loop. Let it await, or give the model generate() instead, which may "
                "block; then restart the kernel. Nothing has been asked"
            )

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue calls; each comes back through `finished`, in the order of its end."""
        know_ways(self._memo, calls, self._known_ways)
        self._loop.call_soon_threadsafe(self._accept, list(calls))

    def stop(self) -> None:
        """Send nothing more. Calls not yet sent come back at once with kind "not_asked"."""
        self._loop.call_soon_threadsafe(self._stop)

    def cancel(self) -> None:
        """Give up on the calls in flight; they come back with kind "not_asked"."""
        self._loop.call_soon_threadsafe(self._cancel)

    def close(self) -> None:
        """End the session and every task. Calls still in flight are cancelled.

        Takes no longer than `CLOSE_S`: a model that does not end its calls is left behind, and
        the user is told.
        """
        self._loop.call_soon_threadsafe(self._finish)
        try:
            self._main.result(timeout=CLOSE_S)
        except TimeoutError:
            self._left_behind.update(dict.fromkeys(lane.model.name for lane in self._busy_lanes()))
        if self._left_behind and self._tell is not None:
            self._tell(
                f"calls of {', '.join(self._left_behind)} have not ended although they were "
                "cancelled; they are left to themselves, and their answers are lost. complete() "
                "must not catch asyncio.CancelledError, nor block"
            )

    @property
    def n_in_flight(self) -> int:
        """Requests under way."""
        return sum(lane.n_under_way for lane in tuple(self._lanes.values()))

    def _busy_lanes(self) -> list[Lane]:
        return [lane for lane in self._lanes.values() if lane.workers]

    async def _serve(self, started: threading.Event) -> None:
        async with use_transport():
            self._context = copy_context()  # the workers' context: the run's session is in it
            started.set()
            await self._done.wait()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=END_CANCELLED_S)
            for lane in self._lanes.values():
                if lane.workers:
                    self._left_behind[lane.model.name] = None
                lane.close()

    def _finish(self) -> None:
        self._stop()
        self._done.set()

    def _accept(self, calls: list[Call]) -> None:
        lanes: list[Lane] = []
        for call in calls:
            if self._stopping:
                self._not_asked(call)
                continue
            lane = self._lanes.get(id(call.model)) or self._open(call)
            lane.queue.append(call)
            if not lanes or lanes[-1] is not lane:
                lanes.append(lane)
        for lane in lanes:
            self._hire(lane)

    def _open(self, call: Call) -> Lane:
        model = call.model
        identity = model.identity()
        lane = self._lanes[id(model)] = Lane(
            model,
            identity,
            gate_of(model, identity, self._loop),
            in_flight=self._in_flight,
            limit=self._limits.find(model),
            give_up=self._give_up,
        )
        return lane

    def _hire(self, lane: Lane) -> None:
        """Workers up to the limit; a worker leaves when its queue is empty."""
        for _ in range(min(lane.limit - lane.workers, len(lane.queue))):
            lane.workers += 1
            task = self._loop.create_task(self._work(lane), context=self._context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: Lane) -> None:
        call: Call | None = None
        try:
            while lane.queue and not self._stopping:
                call = lane.queue.popleft()
                await self._ask(call, lane)
                if call.is_given_up:
                    break
        finally:
            if call is None or not call.is_given_up:  # else another one took its place
                self._dismiss(lane)

    def _dismiss(self, lane: Lane) -> None:
        lane.workers -= 1
        if lane.queue and not self._stopping:
            self._hire(lane)  # whatever ended this one, the queue must be served
        elif not lane.workers:
            lane.rest()

    async def _ask(self, call: Call, lane: Lane) -> None:
        request = call.request if call.prior is None else reask(call.request, call.prior)
        model = lane.model
        try:
            while True:
                if not await self._admit(call, lane, request):
                    self._not_asked(call)
                    return
                try:
                    response = await self._attempt(call, lane, request)
                except LLMError as exc:
                    if isinstance(exc, ladder.WayRefused) and not call.is_given_up:
                        call.attempts -= 1  # the same question goes out another way
                        call.note(0.0, exc)
                        self._hand_in(call, lane)
                        continue
                    clear_of_keys(exc, model)
                    if call.is_given_up or not await self._after_failure(call, lane, request, exc):
                        return
                    continue
                if call.is_given_up:
                    return
                reply, again = self._after_reply(call, lane, response)
                # The place in flight is free when the reply is on disk: a process that is killed
                # has then no more to pay again than what it may have in flight.
                call.on_disk = self._loop.create_future()
                self._memo.put(
                    call.key,
                    call.label,
                    reply,
                    identity=lane.identity,
                    done=partial(self._stored, call, not again),
                    own=call.own,
                    **self.budget.to_store(),
                )
                await call.on_disk
                if not again:
                    return
                call.on_disk = None
                call.reasks_left -= 1
                request = reask(call.request, reply)
        except BudgetSpent as exc:
            self._fatal_stop(exc)
            self._not_asked(call)
        except MemoError as exc:
            self._fatal_stop(exc)
            self._fail(call, LLMError(str(exc), kind="memo", model=model.name))
        except asyncio.CancelledError:
            if call.is_given_up:
                return
            task = asyncio.current_task()
            if task is None or task.cancelling():
                if call.on_disk is None:  # else the reply is here, and comes back when it is stored
                    if call.reserved is not None:  # it was sent: it may be billed all the same
                        self._lose(call, lane, request, late_error(model))
                    self._not_asked(call)
                raise
            said = f"{model.name}: the model cancelled its own call"
            self._fail(call, LLMError(said, kind="error", model=model.name))
        except BaseException as exc:  # a model's own mistake: a failed call, not a hung run
            if call.is_given_up:
                return
            error = LLMError(
                f"{model.name}: {formats.error_text(exc)}", kind="error", model=model.name
            )
            error.__cause__ = exc
            clear_of_keys(error, lane.model)
            if call.reserved is not None:  # it was sent, and no reply has been counted
                call.note(0.0, error)
            self._fail(call, error)
        finally:
            self._hand_in(call, lane)

    async def _admit(self, call: Call, lane: Lane, request: Request) -> bool:
        """Wait until the call may be sent, by the model's gate and the budget; False: the run stops."""
        gate = lane.gate
        while True:
            tokens = token_bound(request) if gate.counts_tokens else 0
            leave = gate.try_enter(tokens)
            if leave is None:
                leave = await self._park(gate.enter(tokens))
            call.leave = leave
            if not self._stopping:
                call.reserved = self.budget.try_reserve(lane.model, request)
                if call.reserved is not None:
                    call.attempts += 1
                    return True
            call.leave = None
            gate.give_back(leave)
            if self._stopping:
                return False
            await self._park(self.budget.released())

    async def _park(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something before the call is sent; a stop cancels it."""
        task = asyncio.current_task()
        assert task is not None
        if self._stopping:
            task.cancel()
        self._parked.add(task)
        try:
            return await waiting
        finally:
            self._parked.discard(task)

    async def _attempt(self, call: Call, lane: Lane, request: Request) -> Response:
        """Ask once, until the deadline. Raises what the model raises, or LLMError "timeout"."""
        task = asyncio.current_task()
        assert task is not None
        lane.sent(call, task)
        try:
            response = await lane.model.complete(request)
        except BaseException:
            was_late = lane.ended(call)
            if not was_late or task.cancelling():  # also cancelled by the run
                raise
            raise late_error(lane.model) from None
        lane.ended(call)
        return response

    def _after_reply(self, call: Call, lane: Lane, response: Response) -> tuple[Reply, bool]:
        """Judge and book; the reply to keep, and whether the call is asked again."""
        reply, bad = call.judge(response, self._loop.time() - call.sent_at)
        self._settle(call, self._book(call, reply, bad, lane))
        lane.gate.refused_in_a_row = 0
        leave, call.leave = call.leave, None
        if leave is not None:
            lane.gate.leave(leave, tokens=tokens_of(reply))
        return reply, bad is not None and call.may_reask(bad) and not self._stopping

    async def _after_failure(
        self, call: Call, lane: Lane, request: Request, error: LLMError
    ) -> bool:
        """Wait before the next attempt; False if there is none and the call was handed back."""
        self._lose(call, lane, request, error)
        error = self._weigh(error, lane)
        may_retry = self.fatal is None and error.kind in RETRYABLE
        may_retry = may_retry and call.attempts <= call.max_retries
        delay = backoff_s(call.retry_delay_s, call.attempts, random.random())
        pause = pause_s(error, delay) if may_retry else error.retry_after_s
        if pause and not too_long_a_wait(error):
            lane.gate.pause(pause)
        leave, call.leave = call.leave, None
        if leave is not None:
            lane.gate.fail(leave, error)
        if not may_retry:
            self._fail(call, error)
        elif not pause:
            await self._park(asyncio.sleep(delay))
        return may_retry

    def _weigh(self, error: LLMError, lane: Lane) -> LLMError:
        """Stop the run where every further call would fail as well."""
        gate = lane.gate
        is_refused = error.kind == "connection" and not error.maybe_billed
        gate.refused_in_a_row = gate.refused_in_a_row + 1 if is_refused else 0
        if gate.refused_in_a_row >= REFUSED_IN_A_ROW:
            gate.refused_in_a_row = 0
            self._fatal_stop(error)
        elif error.kind in FATAL:
            self._fatal_stop(error)
        elif too_long_a_wait(error):
            error = patience_error(error, lane.model.name)
            self._fatal_stop(error)
        return error

    def _give_up(self, lane: Lane, call: Call, task: asyncio.Task[None]) -> None:
        """The model has swallowed the cancellation of a late call: go on without that task."""
        call.is_given_up = True
        self._left_behind[lane.model.name] = None
        self._tasks.discard(task)
        error = late_error(lane.model)
        self._lose(call, lane, call.request, error)
        self._hand_in(call, lane)
        self._fail(call, error)
        self._dismiss(lane)

    def _hand_in(self, call: Call, lane: Lane) -> None:
        """Give back what an attempt still holds, however it ended: the others must not wait."""
        leave, call.leave = call.leave, None
        if leave is not None:
            lane.gate.leave(leave)
        self._settle(call, 0.0)

    def _settle(self, call: Call, usd: float) -> None:
        reserved, call.reserved = call.reserved, None
        if reserved is not None:
            self.budget.settle(reserved, usd)

    def _lose(self, call: Call, lane: Lane, request: Request, error: LLMError) -> None:
        """Book an attempt without a reply."""
        lost = lost_usd(lane.price, request, error)
        self.budget.note_lost(call.step, lane.model, lost)
        call.note(lost, error)
        call.usd += lost
        call.wasted_usd += lost
        self._settle(call, lost if lost == lost else 0.0)

    def _book(self, call: Call, reply: Reply, bad: Unusable | None, lane: Lane) -> float:
        call.input_tokens += reply.input_tokens or 0
        call.output_tokens += reply.output_tokens or 0
        usd = reply_usd(lane.price, reply)
        call.note(usd, bad=bad)
        call.usd += usd
        if bad is not None:
            call.wasted_usd += usd
        # Not counted by the provider: against a budget stands the most that it can be.
        charged = usd if usd == usd else call.reserved or 0.0
        self.budget.note_reply(call.step, lane.model, reply, usd, charged, is_usable=bad is None)
        return charged

    def _fail(self, call: Call, error: LLMError) -> None:
        call.values = None
        call.error = error
        if call.stops_run:
            self._fatal_stop(error)
        self.finished.put(call)

    def _not_asked(self, call: Call) -> None:
        call.values = None
        if call.error is None:
            call.error = LLMError("the run stopped before this call", kind="not_asked")
        self.finished.put(call)

    def _stored(self, call: Call, is_last: bool, error: BaseException | None) -> None:
        """Runs on the memo's writer thread, after the commit."""
        if error is not None:
            fault = (
                error
                if isinstance(error, MemoError)
                else MemoError(f"the memo cannot store a reply: {error}")
            )
            self._stop_from_writer(fault)
        elif call.request.schema is not None:
            ladder.save(self._memo, call.model)
        if is_last:
            if call.values is None and call.stops_run and call.error is not None:
                self._stop_from_writer(call.error)
            self.finished.put(call)
        self._committed.append(call)
        if not self._is_told:
            # Waking the loop costs more than a call: once for all that is committed together.
            self._is_told = True
            self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        """Let the workers whose replies are on disk take their next call."""
        self._is_told = False
        while self._committed:
            on_disk = self._committed.popleft().on_disk
            if on_disk is not None and not on_disk.done():
                on_disk.set_result(None)

    def _stop_from_writer(self, error: Exception) -> None:
        if self.fatal is None:
            self.fatal = error  # at once: the run's thread may look before the loop does
        self._loop.call_soon_threadsafe(self._stop)

    def _fatal_stop(self, error: Exception) -> None:
        if self.fatal is None:
            self.fatal = error
        self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for lane in self._lanes.values():
            while lane.queue:
                self._not_asked(lane.queue.popleft())
        for task in self._parked:
            task.cancel()

    def _cancel(self) -> None:
        self._stop()
        for task in list(self._tasks):
            task.cancel()
