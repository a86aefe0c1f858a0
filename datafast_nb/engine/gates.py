"""The gate of a model: every call of the process to it passes here before it is sent.

One gate per model identity, shared by all runs, used from the engine's loop only, so that
nothing needs a lock. It holds calls back while as many are in flight as may be, while the
provider has asked for a pause, while the minute's requests or tokens are used up, and while
another model of the same machine has its turn. Who waits is let through in order of arrival.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from datafast_nb.engine.pacing import Pace, RateLimit, Slice
from datafast_nb.errors import LLMError
from datafast_nb.models.base import FATAL, Model

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

SCOUT_S = 2.0
FORGIVE_S = 300.0
"""A refusal this long ago no longer holds back a run that begins."""
TURN_S = 60.0
"""A model of a machine goes on this long while another one of it waits."""
TICK_S = 1e-6  # rounding of sums of times
REFUSING = frozenset({429, 529})
"""HTTP statuses that say there are too many calls."""


class Member:
    """What one run brings to a gate."""

    __slots__ = ("has_calls", "in_flight", "limit")

    def __init__(self, in_flight: int, limit: RateLimit, has_calls: Callable[[], bool]) -> None:
        self.in_flight = in_flight
        """Calls in flight that the run allows itself."""
        self.limit = limit
        self.has_calls = has_calls
        """Whether calls of the run are waiting or under way."""


@dataclass(slots=True, eq=False)
class Pass:
    """Leave to send one request; goes back to the gate when it has ended."""

    piece: Slice
    tokens: int
    epoch: int
    """Number of times that the gate had narrowed when this was given out."""


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[Pass]
    tokens: int


class Gate:
    """State that all runs of the process share about one model."""

    def __init__(self, loop: AbstractEventLoop, host: Host | None = None) -> None:
        self.pace = Pace()
        self.in_flight = 0
        self.paused_until = 0.0
        """Loop time before which nothing is sent."""
        self.refused_in_a_row = 0
        """Connections that failed since the last one that did not."""
        self.counts_tokens = False
        """A limit on tokens is in force."""
        self.limit = 1
        """Calls in flight at present: what the runs allow, or fewer after a refusal."""
        self._loop = loop
        self._host = host
        self._members: list[Member] = []
        self._most = 1
        self._narrowed: float | None = None
        """Calls in flight that the provider bears, as far as it has shown; None: all."""
        self._epoch = 0
        self._refused_at = -math.inf
        self._scout = ""
        """The first call of the process: "" before it is sent, "out", "back"."""
        self._scout_until = 0.0
        self._queue: deque[_Waiter] = deque()
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0

    # Runs.

    def join(self, member: Member) -> None:
        """A run begins to ask this model."""
        if not self._members and self._loop.time() - self._refused_at > FORGIVE_S:
            self._narrowed = None
        self._members.append(member)
        self._measure()

    def part(self, member: Member) -> None:
        """A run has ended; its limits no longer hold."""
        self._members.remove(member)
        self._measure()
        self.pump()
        self.rest()

    def rest(self) -> None:
        """Calls of a run have come to an end: where models take turns, the next one may begin."""
        if self._host is not None and not self.in_flight:
            self._host.pump()

    @property
    def is_waited_for(self) -> bool:
        """Calls wait here."""
        return bool(self._queue)

    def has_calls(self) -> bool:
        """Whether some run has calls for this model that have not ended."""
        return any(m.has_calls() for m in self._members)

    def _measure(self) -> None:
        members = self._members
        # Each run keeps to its own bound by itself; together they keep to the largest.
        self._most = max((m.in_flight for m in members), default=1)
        pace = self.pace
        pace.rpm = min((m.limit.rpm for m in members if m.limit.rpm is not None), default=None)
        pace.tpm = min((m.limit.tpm for m in members if m.limit.tpm is not None), default=None)
        pace.is_limited = pace.rpm is not None or pace.tpm is not None
        self.counts_tokens = pace.tpm is not None
        self._set_limit()

    def _set_limit(self) -> None:
        most = self._most
        self.limit = most if self._narrowed is None else max(1, min(most, int(self._narrowed)))

    # Calls.

    def try_enter(self, tokens: int) -> Pass | None:
        """Leave to send at once, or None where it has to be waited for."""
        if self._queue or self.in_flight >= self.limit:
            return None
        now = self._loop.time()
        return None if self._wait_s(now, tokens) > TICK_S else self._take(now, tokens)

    async def enter(self, tokens: int) -> Pass:
        """Wait for leave to send a request of at most `tokens`."""
        waiter = _Waiter(self._loop.create_future(), tokens)
        self._queue.append(waiter)
        self.pump()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():
                self.give_back(waiter.future.result())
            elif waiter in self._queue:
                self._queue.remove(waiter)
                self.pump()
            raise

    def give_back(self, leave: Pass) -> None:
        """The request was not sent after all."""
        self.pace.give_back(leave.piece, leave.tokens)
        if self._scout == "out":
            self._scout = ""
        self._let_go()

    def leave(self, leave: Pass, *, tokens: int | None = None) -> None:
        """The call has ended with a reply, of `tokens` tokens; None: not counted."""
        self._scout = "back"
        if tokens is not None:
            self.pace.correct(leave.piece, tokens - leave.tokens)
        if self._narrowed is not None and leave.epoch == self._epoch:
            # One more in flight for each round of replies.
            wider = self._narrowed + 1.0 / self._narrowed
            self._narrowed = None if wider >= self._most else wider
            self._set_limit()
        self._let_go()

    def fail(self, leave: Pass, error: LLMError) -> None:
        """The call has ended without a reply."""
        self._scout = "" if error.kind in FATAL else "back"
        if not error.maybe_billed and leave.tokens:
            self.pace.correct(leave.piece, -leave.tokens)
        if is_refusal(error):
            self._refused_at = self._loop.time()
            if leave.epoch == self._epoch:  # others of the same round say nothing new
                self._epoch += 1
                self._narrowed = max(1.0, min(self.limit, self.in_flight) / 2)
                self._set_limit()
        self._let_go()

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`: the provider has asked for it, or refuses calls."""
        self.paused_until = max(self.paused_until, self._loop.time() + seconds)

    def pump(self) -> None:
        """Let through who may go now; see to it that the next one is looked at in time."""
        queue = self._queue
        while queue:
            waiter = queue[0]
            now = self._loop.time()
            wait = 0.0 if waiter.future.done() else self._wait_s(now, waiter.tokens)
            if wait > TICK_S:
                self._wake(now + wait)
                return
            queue.popleft()
            if not waiter.future.done():
                waiter.future.set_result(self._take(now, waiter.tokens))

    def _let_go(self) -> None:
        self.in_flight -= 1
        if self._host is not None:
            self.rest()
        if self._queue:
            self.pump()

    def _wait_s(self, now: float, tokens: int) -> float:
        """Seconds until a request may be sent; infinite where only the end of a call can tell."""
        if self.in_flight >= self.limit:
            return math.inf
        wait = self.paused_until - now
        # The first call of a process goes ahead: a bad key or a wrong name is then met once,
        # not by as many calls as may be in flight. A slow one holds the others back for a while.
        if self._scout == "out":
            wait = max(wait, self._scout_until - now)
        if wait <= 0 and self.pace.is_limited:
            wait = self.pace.wait_s(now, tokens)
        if wait <= 0 and self._host is not None:
            wait = self._host.wait_s(self, now)
        return wait

    def _take(self, now: float, tokens: int) -> Pass:
        if not self._scout:
            self._scout = "out"
            self._scout_until = now + SCOUT_S
        self.in_flight += 1
        return Pass(self.pace.take(now, tokens), tokens, self._epoch)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at == at:
                return
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.pump()


class Host:
    """A machine that holds one model at a time: its models take turns.

    A turn lasts as long as the model has calls, but no longer than `TURN_S` while another waits.
    """

    def __init__(self) -> None:
        self._holder: Gate | None = None
        self._since = 0.0
        self._waiting: list[Gate] = []

    def wait_s(self, gate: Gate, now: float) -> float:
        """Seconds until it may be this model's turn; 0: it is."""
        holder = self._holder
        left = self._since + TURN_S - now
        if holder is gate:
            if left > 0 or not any(g.is_waited_for for g in self._waiting):
                return 0.0
        elif holder is None or (holder.in_flight == 0 and (left <= 0 or not holder.has_calls())):
            self._holder, self._since = gate, now
            if gate in self._waiting:
                self._waiting.remove(gate)
            return 0.0
        if gate not in self._waiting:
            self._waiting.append(gate)
        return left if left > 0 else math.inf

    def pump(self) -> None:
        """The model whose turn it was has nothing in flight: look at those that wait."""
        for gate in list(self._waiting):
            if gate is not self._holder:
                gate.pump()


# Weak: an event loop that is gone (after a fork, in tests) takes its gates along.
_gates: WeakKeyDictionary[AbstractEventLoop, dict[tuple[object, ...], Gate]] = WeakKeyDictionary()
_hosts: WeakKeyDictionary[AbstractEventLoop, dict[str, Host]] = WeakKeyDictionary()


def gate_of(model: Model, identity: dict[str, str], loop: AbstractEventLoop) -> Gate:
    """The gate of a model, one per identity, machine and event loop."""
    gates = _gates.setdefault(loop, {})
    name = model.machine()
    key = (name, *sorted(identity.items()))
    gate = gates.get(key)
    if gate is None:
        hosts = _hosts.setdefault(loop, {})
        host = None if name is None else hosts.setdefault(name, Host())
        gate = gates[key] = Gate(loop, host)
    return gate


def is_refusal(error: LLMError) -> bool:
    """The provider says that there are too many calls."""
    return error.status in REFUSING or error.kind == "rate_limited"


def pause_s(error: LLMError, delay_s: float) -> float | None:
    """Seconds for which a failure holds back every call of the model; None: only its own.

    A stated wait is kept, and passed by up to a tenth, so that many runs do not come back at
    one moment; a refusal that states none holds the model back for the call's own delay.
    """
    stated = error.retry_after_s
    if stated:
        return stated * (1.0 + 0.1 * random.random())
    return delay_s if is_refusal(error) else None
