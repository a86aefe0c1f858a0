"""What bounds the calls of a run: its budget, and the pause that a provider asks for."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass, field

from datafast_nb.display import formats
from datafast_nb.errors import LLMError
from datafast_nb.models.base import FATAL, Model, Request, Usage
from datafast_nb.models.pricing import Price, price_of
from datafast_nb.store.memo import Reply

DEFAULT_IN_FLIGHT = 16
MAX_BACKOFF_S = 60.0
SCOUT_S = 2.0
MAX_RETRY_AFTER_S = 120.0
REFUSED_IN_A_ROW = 5
DEFAULT_MAX_OUTPUT_TOKENS = 4096  # reserved where neither step nor model names a bound


class BudgetSpent(Exception):
    """The next call does not fit; the text says which bound is reached."""


@dataclass
class Budget:
    """Bounds on the calls of one run. Used from the engine's loop only.

    A call is paid for in advance: the UTF-8 bytes of its messages bound the input tokens,
    `max_tokens` the output. What was not needed is given back when the reply is there, so
    that spend at list price never passes the budget.
    """

    usd: float | None = None
    """None: no bound."""
    max_calls: int | None = None
    """Calls sent, retries included; None: no bound."""
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    calls: int = 0
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _holders: int = 0

    async def reserve(self, model: Model, request: Request) -> float:
        """Set aside the most that the call can cost; waits for running calls if they hold it.

        Raises
        ------
        BudgetSpent
            If it does not fit even when all running calls have ended.
        """
        worst = 0.0
        if self.usd is not None:
            worst = worst_usd(price_of(model), request)
        while True:
            if self.max_calls is not None and self.calls >= self.max_calls:
                raise BudgetSpent(f"max_calls={self.max_calls} is reached")
            if self.usd is None or self.spent_usd + self.reserved_usd + worst <= self.usd + 1e-12:
                self.reserved_usd += worst
                self.calls += 1
                self._holders += 1
                return worst
            if self._holders == 0:
                left = formats.usd(self.usd - self.spent_usd)
                room = f"has {left} left, and" if self.spent_usd else "is too little:"
                raise BudgetSpent(
                    f"budget={formats.limit_usd(self.usd)} {room} the next call may cost up to "
                    f"{formats.usd(worst)}"
                )
            self._released.clear()
            await self._released.wait()

    def settle(self, reserved: float, usd: float) -> None:
        """Give back a reservation and book what the call cost."""
        self.reserved_usd = max(0.0, self.reserved_usd - reserved)
        self.spent_usd += usd
        self._holders -= 1
        self._released.set()


def worst_usd(price: Price | None, request: Request) -> float:
    """The most that one call can cost at list price; NaN where the price is unknown.

    A token is at least one byte, so the UTF-8 bytes of the request bound its input tokens.
    """
    n_bytes = sum(len(m["content"].encode("utf-8", "replace")) + 16 for m in request.messages)
    if request.schema is not None:
        n_bytes += len(str(request.schema))
    return cost_usd(price, n_bytes, request.max_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def reply_usd(price: Price | None, reply: Reply) -> float:
    """List price of a reply; NaN where price or counts are unknown and it is not free."""
    if price is not None and price.is_free:
        return 0.0
    if reply.input_tokens is None or reply.output_tokens is None:
        return math.nan
    return cost_usd(price, reply.input_tokens, reply.output_tokens, reply.cached_input_tokens)


def cost_usd(price: Price | None, input_tokens: int, output_tokens: int, cached: int = 0) -> float:
    """List price of a call in dollars; NaN where the price is unknown."""
    if price is None:
        return math.nan
    return price.cost(Usage(input_tokens, output_tokens, cached))


@dataclass
class Gate:
    """State that all runs of the process share about one model."""

    paused_until: float = 0.0
    """Monotonic time before which nothing is sent."""
    refused_in_a_row: int = 0
    """Connections that failed since the last one that did not."""
    scout: asyncio.Event | None = None
    """Set when the first call of the process has come back; None before it is sent."""
    slots: asyncio.Semaphore | None = None
    """Calls in flight that a local model can take, over all runs."""

    def pause(self, seconds: float) -> None:
        """Send nothing for `seconds`: the provider asked for it."""
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)

    async def wait(self, stopped: asyncio.Event) -> bool:
        """Return when the pause is over or the run stops; True for the first call, which goes ahead.

        A bad key or a wrong model name is then met once, not by as many calls as may be in
        flight. A slow first answer holds the others back for no more than `SCOUT_S`.
        """
        if self.scout is None:
            self.scout = asyncio.Event()
            return True
        if not self.scout.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.scout.wait(), SCOUT_S)
        while (left := self.paused_until - time.monotonic()) > 0:
            if await sleep_or_stop(left, stopped):
                break
        return False

    def scout_is_back(self, error: LLMError | None = None) -> None:
        """The first call has ended; after a fatal error the next run sends one ahead again."""
        if self.scout is not None:
            self.scout.set()
        if error is not None and error.kind in FATAL:
            self.scout = None


_gates: dict[tuple[object, ...], Gate] = {}


def gate_of(model: Model, loop: asyncio.AbstractEventLoop) -> Gate:
    """The gate of a model, one per identity and event loop."""
    key = (id(loop), *sorted(model.identity().items()))
    gate = _gates.get(key)
    if gate is None:
        gate = _gates[key] = Gate()
        if model.parallel is not None:
            gate.slots = asyncio.Semaphore(model.parallel)
    return gate


async def sleep_or_stop(seconds: float, stopped: asyncio.Event) -> bool:
    """Sleep; True if the run was stopped before the time was over."""
    try:
        await asyncio.wait_for(stopped.wait(), seconds)
    except TimeoutError:
        return False
    return True


def backoff_s(base_s: float, attempt: int, jitter: float) -> float:
    """Seconds before attempt number `attempt` + 1: exponential with full jitter (0 ≤ jitter < 1).

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return min(MAX_BACKOFF_S, base_s * 2.0 ** (attempt - 1)) * jitter


def patience_error(error: LLMError, model: str) -> LLMError:
    """The error of a run that a provider tells to come back much later."""
    wait = formats.seconds(error.retry_after_s or 0.0)
    return LLMError(
        f"{model}: the provider asks to wait {wait} before the next call, more than a run waits "
        f"({formats.seconds(MAX_RETRY_AFTER_S)}). Run again then: every answer so far is kept",
        kind=error.kind,
        model=model,
        status=error.status,
        retry_after_s=error.retry_after_s,
    )


def too_long_a_wait(error: LLMError) -> bool:
    """The provider asks for more patience than a run has."""
    return error.retry_after_s is not None and error.retry_after_s > MAX_RETRY_AFTER_S
