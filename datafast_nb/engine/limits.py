"""What bounds one run and one call: the budget, the attempts, the deadlines, the patience."""

from __future__ import annotations

import asyncio
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

from datafast_nb.display import formats
from datafast_nb.errors import LLMError
from datafast_nb.models.adapted import AdaptedModel
from datafast_nb.models.base import Model, Request, Usage
from datafast_nb.models.local import LocalModel
from datafast_nb.models.pricing import Price, price_of
from datafast_nb.options import options
from datafast_nb.store.memo import Memo, Reply
from datafast_nb.store.spend import SpendBook, spent_elsewhere, today

DEFAULT_IN_FLIGHT = 16
MAX_BACKOFF_S = 60.0
REFUSED_IN_A_ROW = 5
DEFAULT_MAX_OUTPUT_TOKENS = 4096  # reserved where neither step nor model names a bound


class BudgetSpent(Exception):
    """The next call does not fit; the text says which bound is reached."""


OTHERS_EVERY_S = 1.0
"""Seconds after which the spending of other processes is looked up again."""
_SLACK_USD = 1e-12
"""Rounding of sums of dollars."""


class DaySpend:
    """What one memo's runs spend today: of this process as it happens, of others from disk.

    Used from the engine's loop only, whichever run asks.
    """

    def __init__(self) -> None:
        self.day = ""
        self.spent_usd = 0.0
        """By this process, today."""
        self.others_usd = 0.0
        self.reserved_usd = 0.0
        self.holders = 0
        self.waiting: set[asyncio.Event] = set()
        """Of runs that wait for a call to end."""
        self._looked_at = -math.inf

    @property
    def total_usd(self) -> float:
        """Spent today by all, as far as it is known."""
        return self.spent_usd + self.others_usd

    def begin(self) -> None:
        """Turn to a new day where one has begun: what is reserved then counts for it."""
        if self.day != today():
            self.day = today()
            self.spent_usd = self.others_usd = 0.0
            self._looked_at = -math.inf

    def look(self, memo: Memo) -> None:
        """Take in what other processes have stored."""
        if time.monotonic() - self._looked_at > OTHERS_EVERY_S:
            self.others_usd = spent_elsewhere(memo, self.day)
            self._looked_at = time.monotonic()

    def fits(self, worst_usd: float, bound_usd: float) -> bool:
        """Whether a call of at most that cost can be sent now."""
        total = self.total_usd + self.reserved_usd + worst_usd
        return worst_usd == 0 or total <= bound_usd + _SLACK_USD


_days: dict[str, DaySpend] = {}
if hasattr(os, "register_at_fork"):
    # What the parent spends, the child finds on disk.
    os.register_at_fork(after_in_child=_days.clear)


def day_spend(memo: Memo) -> DaySpend:
    """Today's spending from a memo, one object per folder and process."""
    return _days.setdefault(str(memo.path), DaySpend())


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
    memo: Memo | None = None
    """None: nothing is known of other runs."""
    book: SpendBook | None = None
    """Where spending is noted."""
    day: DaySpend = field(default_factory=DaySpend)
    """Shared with the other runs of the process."""
    usd_per_day: float | None = None
    """None: no bound."""
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _holders: int = 0

    def try_reserve(self, model: Model, request: Request) -> float | None:
        """Set aside the most that a call sent now can cost; None: running calls hold what it needs.

        Raises
        ------
        BudgetSpent
            If it does not fit even when all running calls have ended.
        """
        price = price_of(model)
        worst = 0.0 if price is None and self.usd is None else worst_usd(price, request)
        if self.max_calls is not None and self.calls >= self.max_calls:
            raise BudgetSpent(f"max_calls={self.max_calls} is reached")
        if self._fits(worst) and self._fits_today(worst):
            self.reserved_usd += worst
            self.day.reserved_usd += worst
            self.calls += 1
            self._holders += 1
            self.day.holders += 1
            return worst
        if self._holders == 0 and not self._fits(worst):
            assert self.usd is not None
            left = formats.usd(self.usd - self.spent_usd)
            room = f"has {left} left, and" if self.spent_usd else "is too little:"
            raise BudgetSpent(
                f"budget={formats.limit_usd(self.usd)} {room} the next call may cost up to "
                f"{formats.usd(worst)}"
            )
        if self.day.holders == 0:
            raise BudgetSpent(self._day_is_spent(worst))
        return None

    @property
    def is_bound(self) -> bool:
        """Some bound holds: of dollars, of calls, or of the day."""
        return any(b is not None for b in (self.usd, self.max_calls, self.usd_per_day))

    def has_room(self, under_way: int, further: int, worst: float) -> bool:
        """Whether it is likely that some calls can all be sent; read from any thread.

        Parameters
        ----------
        under_way
            Calls that have been sent and are not back.
        further
            Calls that are still to be sent.
        worst
            The most that one of them can cost; they are thought to cost what calls did so far.
        """
        n_done = self.calls - self._holders  # those on their way to the model count as under way
        if self.max_calls is not None and n_done + under_way + further > self.max_calls:
            return False
        mean = self.spent_usd / n_done if n_done > 0 else worst
        needed = (under_way + further) * mean + worst
        if self.usd is not None and self.spent_usd + needed > self.usd:
            return False
        return self.usd_per_day is None or self.day.total_usd + needed <= self.usd_per_day

    def _fits(self, worst: float) -> bool:
        if self.usd is None:
            return True
        return self.spent_usd + self.reserved_usd + worst <= self.usd + _SLACK_USD

    def _fits_today(self, worst: float) -> bool:
        self.day.begin()
        if self.usd_per_day is None:
            return True
        if self.memo is not None:
            self.day.look(self.memo)
        return self.day.fits(worst, self.usd_per_day)

    def _day_is_spent(self, worst: float) -> str:
        assert self.usd_per_day is not None
        spent = formats.usd(self.day.total_usd)
        here = "in this project"
        if self.day.others_usd:
            here += f", {formats.usd(self.day.others_usd)} of it by other processes"
        return (
            f"options.budget_usd_per_day={formats.limit_usd(self.usd_per_day)} is used up: "
            f"{spent} spent today ({self.day.day}, local time) {here}, and the next call may "
            f"cost up to {formats.usd(worst)}"
        )

    async def released(self) -> None:
        """Wait until a running call has ended."""
        self._released.clear()
        self.day.waiting.add(self._released)
        try:
            await self._released.wait()
        finally:
            self.day.waiting.discard(self._released)

    def settle(self, reserved: float, usd: float) -> None:
        """Give back a reservation and book what the call cost."""
        self.day.begin()
        for held in (self, self.day):
            held.reserved_usd = max(0.0, held.reserved_usd - reserved)
            held.spent_usd += usd
        self._holders -= 1
        self.day.holders -= 1
        self._released.set()
        for other in self.day.waiting:
            other.set()

    def note_reply(
        self, step: str, model: Model, reply: Reply, usd: float, charged: float, *, is_usable: bool
    ) -> None:
        """Note what a reply cost; `to_store` goes with it."""
        if self.book is not None:
            self.book.add_reply(step, model, reply, usd, charged, is_usable=is_usable)

    def note_lost(self, step: str, model: Model, usd: float) -> None:
        """Note what a call without a reply may have cost."""
        if self.book is not None and usd != 0:
            self.book.add_lost(step, model, usd)

    def to_store(self) -> dict[str, Any]:
        """What goes to the memo with the reply that was noted last."""
        return {} if self.book is None else {"spend": self.book.take()}


def input_bound(request: Request) -> int:
    """The most input tokens that a request can have: a token is at least one byte of UTF-8."""
    n_bytes = sum(len(m["content"].encode("utf-8", "replace")) + 16 for m in request.messages)
    if request.schema is not None:
        n_bytes += len(str(request.schema))
    return n_bytes


def token_bound(request: Request) -> int:
    """The most tokens that a call can use, input and output."""
    return input_bound(request) + (request.max_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def worst_usd(price: Price | None, request: Request) -> float:
    """The most that one call can cost at list price; NaN where the price is unknown."""
    return cost_usd(price, input_bound(request), request.max_tokens or DEFAULT_MAX_OUTPUT_TOKENS)


def tokens_of(reply: Reply) -> int | None:
    """Tokens of a reply as the provider counted them; None where it did not."""
    if reply.input_tokens is None or reply.output_tokens is None:
        return None
    return reply.input_tokens + reply.output_tokens


def reply_usd(price: Price | None, reply: Reply) -> float:
    """List price of a reply; NaN where price or counts are unknown and it is not free."""
    if price is not None and price.is_free:
        return 0.0
    if reply.input_tokens is None or reply.output_tokens is None:
        return math.nan
    return cost_usd(price, reply.input_tokens, reply.output_tokens, reply.cached_input_tokens)


# A reply that was lost on the way has probably been billed.
_MAYBE_PAID = frozenset({"timeout", "bad_reply", "html", "not_utf8", "too_large"})


def lost_usd(price: Price | None, request: Request, error: LLMError) -> float:
    """What a reply that was lost on the way may have cost at most; NaN if unknown."""
    if not error.maybe_billed and error.kind not in _MAYBE_PAID:
        return 0.0
    return worst_usd(price, request)


def cost_usd(price: Price | None, input_tokens: int, output_tokens: int, cached: int = 0) -> float:
    """List price of a call in dollars; NaN where the price is unknown."""
    if price is None:
        return math.nan
    return price.cost(Usage(input_tokens, output_tokens, cached))


def backoff_s(base_s: float, attempt: int, jitter: float) -> float:
    """Seconds before attempt number `attempt` + 1: exponential with full jitter (0 ≤ jitter < 1).

    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return min(MAX_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 60)) * jitter


def deadline_s(model: Model) -> float:
    """Seconds after which the engine ends an attempt of this model: its `timeout_s`, if it has one.

    Adapters that watch their own deadline say more of what happened, and their clock may be
    rounded up to a whole second: they come first.
    """
    own: float | None = getattr(model, "timeout_s", None)
    if own is None:
        return options.timeout_s
    if isinstance(model, (AdaptedModel, LocalModel)):
        return own
    return own + (1.0 if own >= 5 else 0.25)


def late_error(model: Model) -> LLMError:
    """The error of an attempt that has not ended by its deadline."""
    own: float | None = getattr(model, "timeout_s", None)
    seconds, name = (options.timeout_s, "options.timeout_s") if own is None else (own, "timeout_s")
    return LLMError(
        f"{model.name} did not finish its reply within {seconds:g} s ({name}); "
        "the call may have been billed",
        kind="timeout",
        model=model.name,
        maybe_billed=True,
    )


def patience_error(error: LLMError, model: str) -> LLMError:
    """The error of a run that a provider tells to come back much later."""
    wait = formats.seconds(error.retry_after_s or 0.0)
    return LLMError(
        f"{model}: the provider asks to wait {wait} before the next call, more than a run waits "
        f"({formats.seconds(options.max_retry_after_s)}, options.max_retry_after_s). "
        "Run again then: every answer so far is kept",
        kind=error.kind,
        model=model,
        status=error.status,
        retry_after_s=error.retry_after_s,
    )


def too_long_a_wait(error: LLMError) -> bool:
    """The provider asks for more patience than a run has."""
    return error.retry_after_s is not None and error.retry_after_s > options.max_retry_after_s
