"""Requests and tokens per minute: what a user allows a model, and the count that keeps to it.

Times are seconds of a monotonic clock that the caller reads; nothing here waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from datafast_nb.models.base import Model
from datafast_nb.ranges import Uncertain

WINDOW_S = 60.0
N_SLICES = 240
BURST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What may be sent to one model in any 60 s."""

    rpm: int | None = None
    """Requests, retries included; None: no limit."""
    tpm: int | None = None
    """Tokens, input and output; None: no limit."""

    @classmethod
    def of(cls, value: Any, name: str) -> RateLimit:
        """From a number of requests, or a mapping with "rpm" and "tpm". Raises ValueError."""
        if not isinstance(value, Mapping):
            value = {"rpm": value}
        unknown = [str(k) for k in value if k not in ("rpm", "tpm")]
        if unknown or not value:
            said = f"no {unknown[0]!r}" if unknown else "nothing"
            raise ValueError(
                f"rate_limits of {name!r} has {said}; give requests per minute (60), "
                'or {"rpm": 60, "tpm": 90_000}'
            )
        for key, n in value.items():
            if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
                raise ValueError(
                    f"rate_limits of {name!r}: {key} is {n!r}; use a whole number of 1 or more per "
                    "minute, or None for no limit"
                )
        return cls(value.get("rpm"), value.get("tpm"))

    def plain(self) -> int | dict[str, int] | None:
        """As a user writes it: 60, or {"rpm": 60, "tpm": 90000}."""
        if self.tpm is None:
            return self.rpm
        given = {"rpm": self.rpm, "tpm": self.tpm}
        return {k: n for k, n in given.items() if n is not None}


@dataclass(frozen=True)
class RateLimits:
    """`rate_limits=` of a run: limits by model, or by a model's name."""

    entries: tuple[tuple[Any, RateLimit], ...] = ()

    @classmethod
    def of(cls, given: Mapping[Any, Any] | None) -> RateLimits:
        """From the mapping that a user gave. Raises TypeError or ValueError."""
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"rate_limits is of type {type(given).__name__}; give a mapping of models or names to "
                "requests per minute, as in {model: 60}"
            )
        return cls(tuple((key, RateLimit.of(value, _name(key))) for key, value in given.items()))

    def find(self, model: Model) -> RateLimit:
        """What holds for a model: the strictest of the entries that mean it."""
        found = [limit for key, limit in self.entries if _means(key, model)]
        return RateLimit(_least(f.rpm for f in found), _least(f.tpm for f in found))

    def least_s(self, model: Model, n_calls: Uncertain) -> Uncertain | float:
        """Seconds that so many calls take by the limit on requests, at least."""
        rpm = self.find(model).rpm
        if rpm is None:
            return 0.0
        return ((n_calls - max(1.0, BURST_SHARE * rpm)) * (WINDOW_S / rpm)).at_least(0.0)

    def check(self, models: Iterable[Model]) -> None:
        """Raise ValueError where a name is that of none of the models."""
        known = list(models)
        for key, _ in self.entries:
            if isinstance(key, str) and not any(_means(key, m) for m in known):
                names = sorted({m.name for m in known})
                near = get_close_matches(key, names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"rate_limits names {key!r}, which no step asks; models here: "
                    f"{', '.join(names) or 'none'}.{hint}"
                )

    def plain(self) -> dict[str, int | dict[str, int] | None]:
        """Model name → limit, as JSON can hold it."""
        return {_name(key): limit.plain() for key, limit in self.entries}


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(getattr(key, "name", key))


def _means(key: Any, model: Model) -> bool:
    if isinstance(key, str):
        return key in (model.name, f"{model.provider}/{model.name}")
    if key is model or getattr(model, "target", None) is key:
        return True
    mine = (model.provider, model.endpoint, model.name)
    return isinstance(key, Model) and mine == (key.provider, key.endpoint, key.name)


def _least(numbers: Iterable[int | None]) -> int | None:
    return min((n for n in numbers if n is not None), default=None)


class Slice:
    """Requests sent within a short stretch of time; they count until it is a window old."""

    __slots__ = ("n_requests", "n_tokens", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.n_requests = 0
        self.n_tokens = 0


class Pace:
    """Counts what is sent to a model, and says when the next request may go.

    A bucket that holds a tenth of a minute's requests and fills evenly spreads them; a window
    over the last 60 s is the ceiling, which a full bucket alone would pass by that tenth. It is
    counted in slices, from the end of each and one slice longer than 60 s, so that memory is
    bounded and the way to the server may take unequal times. Counting goes on without a limit:
    one that comes with a later run holds for what was sent before.
    """

    __slots__ = (
        "_due",
        "_end",
        "_n_requests",
        "_n_tokens",
        "_slice_s",
        "_slices",
        "is_limited",
        "rpm",
        "tpm",
    )

    def __init__(self) -> None:
        self.rpm: int | None = None
        self.tpm: int | None = None
        self.is_limited = False
        """`wait_s` need not be asked otherwise."""
        self._end = -math.inf
        """Of the slice that the last request was counted in."""
        self._slice_s = WINDOW_S / N_SLICES
        self._slices: deque[Slice] = deque()
        self._n_requests = 0
        self._n_tokens = 0
        self._due = 0.0
        """Time at which the bucket is full again."""

    def wait_s(self, now: float, tokens: int) -> float:
        """Seconds until a request of this many tokens may be sent; 0: now."""
        rpm, tpm = self.rpm, self.tpm
        if rpm is None and tpm is None:
            return 0.0
        self._forget(now)
        wait = 0.0
        if rpm is not None:
            # Generic cell rate algorithm, ITU-T I.371: the bucket as one time.
            each = WINDOW_S / rpm
            wait = max(0.0, self._due - now - max(0.0, BURST_SHARE * WINDOW_S - each))
            if self._n_requests >= rpm:
                wait = max(wait, self._when(self._n_requests - rpm + 1, "n_requests") - now)
        if tpm is not None and self._n_tokens and self._n_tokens + tokens > tpm:
            # A request that may need more than a whole minute's tokens goes alone.
            excess = self._n_tokens + min(tokens, tpm) - tpm
            wait = max(wait, self._when(excess, "n_tokens") - now)
        return wait

    def take(self, now: float, tokens: int) -> Slice:
        """Count a request that is sent now."""
        slices = self._slices
        if now < self._end and slices:
            piece = slices[-1]
        else:
            self._forget(now)
            self._end = (int(now / self._slice_s) + 1) * self._slice_s
            piece = Slice(self._end + self._slice_s + WINDOW_S)
            slices.append(piece)
        piece.n_requests += 1
        self._n_requests += 1
        if self.rpm is not None:
            self._due = max(self._due, now) + WINDOW_S / self.rpm
        if tokens:
            piece.n_tokens += tokens
            self._n_tokens += tokens
        return piece

    def correct(self, piece: Slice, tokens: int) -> None:
        """Add tokens (or take away) that a request of this slice used after all."""
        piece.n_tokens += tokens
        if piece.n_requests:
            self._n_tokens += tokens

    def give_back(self, piece: Slice, tokens: int) -> None:
        """A request that was counted has not been sent."""
        self.correct(piece, -tokens)
        if piece.n_requests:
            piece.n_requests -= 1
            self._n_requests -= 1
        if self.rpm is not None:
            self._due -= WINDOW_S / self.rpm

    def _forget(self, now: float) -> None:
        slices = self._slices
        while slices and slices[0].until <= now:
            old = slices.popleft()
            self._n_requests -= old.n_requests
            self._n_tokens -= old.n_tokens
            old.n_requests = old.n_tokens = 0

    def _when(self, excess: int, count: str) -> float:
        """Time at which so many are no longer counted."""
        until = 0.0
        for piece in self._slices:
            until = piece.until
            excess -= getattr(piece, count)
            if excess <= 0:
                break
        return until
