"""Calls in flight: asked on the engine's loop, stored by the memo, handed back when on disk.

The thread of the run submits calls and takes them back from `finished`. A worker asks,
retries what may pass, judges the reply, and goes on with the next call while the memo's
writer commits: nobody sees an answer before it is on disk.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from datafast_nb.display import formats
from datafast_nb.engine.limits import (
    REFUSED_IN_A_ROW,
    Budget,
    BudgetSpent,
    Gate,
    backoff_s,
    gate_of,
    patience_error,
    reply_usd,
    sleep_or_stop,
    too_long_a_wait,
    worst_usd,
)
from datafast_nb.engine.loop import engine_loop
from datafast_nb.errors import LLMError, MemoError
from datafast_nb.models.base import FATAL, RETRYABLE, Message, Model, Request, Response
from datafast_nb.models.pricing import Price, price_of
from datafast_nb.models.tally import note_call
from datafast_nb.models.transport import use_transport
from datafast_nb.models.wire import clear_of_keys
from datafast_nb.steps.outputs import REASKABLE, Unusable, verdict_of_finish
from datafast_nb.store.memo import Memo, Reply

# A reply that was lost on the way has probably been billed.
_MAYBE_PAID = frozenset({"timeout", "bad_reply", "too_large"})


@dataclass(slots=True)
class Call:
    """One draw to be asked for, and what came of it."""

    key: str
    label: str
    model: Model
    request: Request
    parse: Callable[[str], dict[str, Any]]
    max_retries: int = 3
    retry_delay_s: float = 1.0
    reasks_left: int = 1
    """Further questions after an unusable answer."""
    reasks_all: bool = False
    """Ask again after refusals and cut answers too."""
    prior: Reply | None = None
    """The unusable reply that an earlier run got for this draw."""
    planned: float = 0.0
    """Unix time at which the run came to this call; ascending in input order."""
    own: bool = False
    """Store the reply under this label also where it is a link to another draw."""
    owner: Any = None
    """Of the submitter; not looked at here."""
    on_disk: asyncio.Future[None] | None = None
    values: dict[str, Any] | None = None
    """Output values; None: failed."""
    error: LLMError | None = None
    """Why it failed; kind "not_asked" where the run stopped before."""
    reply: Reply | None = None
    """The last reply."""
    attempts: int = 0
    n_replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    """List price of all replies of this call."""
    wasted_usd: float = 0.0


@dataclass(slots=True)
class _Lane:
    """Calls of one model."""

    model: Model
    gate: Gate
    limit: int
    price: Price | None
    queue: deque[Call] = field(default_factory=deque)
    workers: int = 0


class Scheduler:
    """Asks calls of one run. Built on the run's thread; used from there but for `_`-methods.

    Parameters
    ----------
    in_flight
        Calls in flight for a model that does not say itself.
    finished
        Takes the calls back to the run's thread.
    """

    def __init__(
        self, memo: Memo, *, in_flight: int, budget: Budget, finished: SimpleQueue[Any]
    ) -> None:
        self.finished = finished
        self.fatal: Exception | None = None
        """Why the run must stop; set before the calls come back."""
        self.on_raise = False
        """Stop at the first failed call."""
        self._memo = memo
        self._in_flight = in_flight
        self.budget = budget
        self._loop = engine_loop()
        self._lanes: dict[int, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._committed: deque[Call] = deque()
        self._is_told = False
        self._done = asyncio.Event()
        self._stopped = asyncio.Event()
        self._context: Context | None = None
        started = threading.Event()
        self._main = asyncio.run_coroutine_threadsafe(self._serve(started), self._loop)
        started.wait()

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue calls; each comes back through `finished`, in the order of its end."""
        self._loop.call_soon_threadsafe(self._accept, list(calls))

    def stop(self) -> None:
        """Send nothing more. Calls not yet sent come back at once with kind "not_asked"."""
        self._loop.call_soon_threadsafe(self._stop)

    def cancel(self) -> None:
        """Give up on the calls in flight; they come back with kind "not_asked"."""
        self._loop.call_soon_threadsafe(self._cancel)

    def close(self) -> None:
        """End the session and every task. Calls still in flight are cancelled."""
        self._loop.call_soon_threadsafe(self._finish)
        self._main.result(timeout=30)

    async def _serve(self, started: threading.Event) -> None:
        async with use_transport():
            self._context = copy_context()  # the workers' context: the run's session is in it
            started.set()
            await self._done.wait()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _finish(self) -> None:
        self._stop()
        self._done.set()

    def _accept(self, calls: list[Call]) -> None:
        lanes: list[_Lane] = []
        for call in calls:
            if self._stopping:
                self._not_asked(call)
                continue
            lane = self._lanes.get(id(call.model))
            if lane is None:
                model = call.model
                lane = self._lanes[id(model)] = _Lane(
                    model,
                    gate_of(model, self._loop),
                    min(self._in_flight, model.parallel or self._in_flight),
                    price_of(model),
                )
            lane.queue.append(call)
            if not lanes or lanes[-1] is not lane:
                lanes.append(lane)
        for lane in lanes:
            self._hire(lane)

    def _hire(self, lane: _Lane) -> None:
        """Workers up to the limit; a worker leaves when its queue is empty."""
        for _ in range(min(lane.limit - lane.workers, len(lane.queue))):
            lane.workers += 1
            task = self._loop.create_task(self._work(lane), context=self._context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, lane: _Lane) -> None:
        try:
            while lane.queue and not self._stopping:
                await self._ask(lane.queue.popleft(), lane)
        finally:
            lane.workers -= 1
            if lane.queue and not self._stopping:
                self._hire(lane)  # whatever ended this one, the queue must be served

    async def _ask(self, call: Call, lane: _Lane) -> None:
        request = call.request
        if call.prior is not None:
            request = reask(request, call.prior)
        reserved: float | None = None
        try:
            while True:
                is_scout = await lane.gate.wait(self._stopped)
                if self._stopping:
                    self._not_asked(call)
                    return
                reserved = await self.budget.reserve(lane.model, request)
                call.attempts += 1
                started = time.monotonic()
                try:
                    if lane.gate.slots is None:
                        response = await lane.model.complete(request)
                    else:
                        async with lane.gate.slots:
                            started = time.monotonic()
                            response = await lane.model.complete(request)
                except LLMError as exc:
                    clear_of_keys(exc, lane.model)
                    lost = self._lost_usd(lane, request, exc)
                    note_call(lane.model, lost, failed=True)
                    call.usd += lost
                    call.wasted_usd += lost
                    self.budget.settle(reserved, lost if lost == lost else 0.0)
                    reserved = None
                    retry = await self._wait_to_retry(call, lane, exc, is_scout=is_scout)
                    if not retry:
                        return
                    continue
                lane.gate.refused_in_a_row = 0
                lane.gate.scout_is_back()
                reply, bad = self._judge(call, response, time.monotonic() - started, lane)
                self.budget.settle(reserved, self._book(call, reply, bad, lane))
                reserved = None
                again = bad is not None and self._may_reask(call, bad)
                # The place in flight is free when the reply is on disk: a process that is killed
                # has then no more to pay again than what it may have in flight.
                call.on_disk = self._loop.create_future()
                self._memo.put(
                    call.key,
                    call.label,
                    reply,
                    identity=lane.model.identity(),
                    done=partial(self._stored, call, not again),
                    own=call.own,
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
            self._fail(call, LLMError(str(exc), kind="memo", model=lane.model.name))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                if call.on_disk is None:  # else the reply is here, and comes back when it is stored
                    self._not_asked(call)
                raise
            said = f"{lane.model.name}: the model cancelled its own call"
            self._fail(call, LLMError(said, kind="error", model=lane.model.name))
        except BaseException as exc:  # a model's own mistake: a failed call, not a hung run
            if reserved is not None:  # it was sent, and no reply has been counted
                note_call(lane.model, 0.0, failed=True)
            error = LLMError(
                f"{lane.model.name}: {formats.error_text(exc)}",
                kind="error",
                model=lane.model.name,
            )
            error.__cause__ = exc
            clear_of_keys(error, lane.model)
            self._fail(call, error)
        finally:
            if call.n_replies == 0 and lane.gate.scout is not None:
                lane.gate.scout_is_back()  # however it ended: the others must not wait
            if reserved is not None:
                self.budget.settle(reserved, 0.0)

    def _judge(
        self, call: Call, response: Response, latency_s: float, lane: _Lane
    ) -> tuple[Reply, Unusable | None]:
        bad = verdict_of_finish(response.finish, call.request.max_tokens)
        if bad is None:
            try:
                call.values = call.parse(response.text)
            except Unusable as exc:
                bad = exc
        usage = response.usage
        reply = Reply(
            text=response.text,
            verdict="usable" if bad is None else bad.verdict,
            reason="" if bad is None else bad.reason,
            finish=response.finish,
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cached_input_tokens=usage.cached_input_tokens if usage else 0,
            model=response.model,
            created=call.planned,
            latency_s=round(latency_s, 4),
            attempts=call.attempts,
        )
        call.reply = reply
        call.n_replies += 1
        if bad is not None:
            call.values = None
            call.error = LLMError(
                f"{lane.model.name}: {bad.reason}", kind=bad.verdict, model=lane.model.name
            )
        return reply, bad

    def _book(self, call: Call, reply: Reply, bad: Unusable | None, lane: _Lane) -> float:
        call.input_tokens += reply.input_tokens or 0
        call.output_tokens += reply.output_tokens or 0
        usd = reply_usd(lane.price, reply)
        note_call(lane.model, usd)
        call.usd += usd
        if bad is not None:
            call.wasted_usd += usd
        if usd == usd:
            return usd
        # Not counted by the provider: against a budget stands the most that it can be.
        worst = worst_usd(lane.price, call.request)
        return worst if worst == worst else 0.0

    def _lost_usd(self, lane: _Lane, request: Request, error: LLMError) -> float:
        """What a reply that was lost on the way may have cost at most; NaN if unknown."""
        if not error.maybe_billed and error.kind not in _MAYBE_PAID:
            return 0.0
        return worst_usd(lane.price, request)

    def _may_reask(self, call: Call, bad: Unusable) -> bool:
        return (
            call.reasks_left > 0
            and (call.reasks_all or bad.verdict in REASKABLE)
            and not self._stopping
        )

    async def _wait_to_retry(
        self, call: Call, lane: _Lane, error: LLMError, *, is_scout: bool
    ) -> bool:
        """Wait before the next attempt; False if there is none and the call was handed back."""
        if error.kind == "connection" and not error.maybe_billed:
            lane.gate.refused_in_a_row += 1
        else:
            lane.gate.refused_in_a_row = 0
        if lane.gate.refused_in_a_row >= REFUSED_IN_A_ROW:
            lane.gate.refused_in_a_row = 0
            self._fatal_stop(error)
        elif error.kind in FATAL:
            self._fatal_stop(error)
        elif too_long_a_wait(error):
            error = patience_error(error, lane.model.name)
            self._fatal_stop(error)
        if is_scout:
            lane.gate.scout_is_back(error)
        if self.fatal is None and error.kind in RETRYABLE and call.attempts <= call.max_retries:
            if error.retry_after_s is not None:
                lane.gate.pause(error.retry_after_s * (1.0 + 0.1 * random.random()))
            else:
                delay = backoff_s(call.retry_delay_s, call.attempts, random.random())
                await sleep_or_stop(delay, self._stopped)
            return True
        self._fail(call, error)
        return False

    def _fail(self, call: Call, error: LLMError) -> None:
        call.values = None
        call.error = error
        if self.on_raise:
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
        if is_last:
            if call.values is None and self.on_raise and call.error is not None:
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
        self._stopped.set()
        for lane in self._lanes.values():
            while lane.queue:
                self._not_asked(lane.queue.popleft())

    def _cancel(self) -> None:
        self._stop()
        for task in list(self._tasks):
            task.cancel()


def reask(request: Request, bad: Reply) -> Request:
    """The question after an unusable reply: with the reply and what is wrong with it.

    A refused, cut or empty reply teaches the model nothing; the same question is asked again.
    """
    if bad.verdict not in ("unparsable", "wrong_schema") or not bad.text.strip():
        return request
    correction: list[Message] = [
        {"role": "assistant", "content": bad.text},
        {
            "role": "user",
            "content": f"That answer cannot be used: {bad.reason}. Give the answer again, "
            "complete and in the required form, and nothing else.",
        },
    ]
    return Request(
        messages=(*request.messages, *correction),
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        top_p=request.top_p,
        schema=request.schema,
        extra=request.extra,
    )
