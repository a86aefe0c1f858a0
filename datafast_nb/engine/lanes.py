"""A lane: the calls of one run to one model, and the watch over those under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from datafast_nb.engine.calls import Call
from datafast_nb.engine.gates import Gate, Member
from datafast_nb.engine.limits import deadline_s
from datafast_nb.engine.pacing import RateLimit
from datafast_nb.models.base import Model
from datafast_nb.models.pricing import price_of

END_CANCELLED_S = 1.0
"""An attempt that was cancelled has this long to end; then the run goes on without it."""


class Waiting:
    """Calls that wait, the deepest first, else in the order in which they came."""

    def __init__(self) -> None:
        self._at: list[deque[Call]] = [deque()]
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, call: Call) -> None:
        """Put a call behind those of its depth."""
        while len(self._at) <= call.depth:
            self._at.append(deque())
        self._at[call.depth].append(call)
        self._n += 1

    def popleft(self) -> Call:
        """Take the next call."""
        queue = next(q for q in reversed(self._at) if q)
        self._n -= 1
        return queue.popleft()


class Lane:
    """Calls of one run to one model. Used from the engine's loop only."""

    def __init__(
        self,
        model: Model,
        identity: dict[str, str],
        gate: Gate,
        *,
        in_flight: int,
        limit: RateLimit,
        give_up: Callable[[Lane, Call, asyncio.Task[None]], None],
    ) -> None:
        self.model = model
        self.identity = identity
        self.gate = gate
        self.price = price_of(model)
        self.limit = min(in_flight, model.parallel or in_flight)
        """Calls that the run may have under way."""
        self.queue = Waiting()
        self.workers = 0
        self.timeout_s = deadline_s(model)
        self._running: dict[Call, asyncio.Task[None]] = {}
        """Attempts under way, the oldest first, and the tasks that wait for them."""
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self.member = Member(self.limit, limit, self.has_calls)
        gate.join(self.member)

    @property
    def n_under_way(self) -> int:
        """Attempts that were sent and have not ended. The one figure that any thread may ask for."""
        return len(self._running)

    def has_calls(self) -> bool:
        """Whether calls are waiting or under way."""
        return self.workers > 0 or bool(self.queue)

    def close(self) -> None:
        """No further call will come."""
        self.rest()
        self.gate.part(self.member)

    def rest(self) -> None:
        """The last worker has left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.gate.rest()

    # Deadlines. One timer for all: attempts start in the order of their deadlines.

    def sent(self, call: Call, task: asyncio.Task[None]) -> None:
        """An attempt begins."""
        loop = task.get_loop()
        call.sent_at = loop.time()
        self._running[call] = task
        if self._timer is None:
            self._timer = loop.call_at(call.sent_at + self.timeout_s, self._look)

    def ended(self, call: Call) -> bool:
        """The attempt has come to an end; True where a deadline had cancelled it."""
        task = self._running.pop(call, None)
        if not call.is_late or task is None:
            return False
        call.is_late = False
        task.uncancel()
        return True

    def _look(self) -> None:
        """Cancel attempts that are late; give up those that do not end then either."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        again: float | None = None
        for call, task in list(self._running.items()):
            due = call.sent_at + self.timeout_s
            if due > now:
                again = due if again is None else min(again, due)
                break
            due += END_CANCELLED_S
            if not call.is_late:
                call.is_late = True
                task.cancel()
            elif due <= now:
                del self._running[call]
                self._give_up(self, call, task)
                continue
            again = due if again is None else min(again, due)
        if again is not None and self._timer is None:
            self._timer = loop.call_at(max(again, now), self._look)
