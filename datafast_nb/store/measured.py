"""What replies were like so far: tokens, seconds, how many were of use, what later steps kept.

Estimates measure on the answers that the memo holds. Where a prompt has just been edited it
holds none, so a run leaves a few figures of each LLM step in the memo, under the step's name
and output columns.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from datafast_nb.errors import MemoError
from datafast_nb.ranges import Uncertain, spread, student
from datafast_nb.store.memo import Memo
from datafast_nb.store.rows import Reply

VERSION = 1
MAX_WEIGHT = 500
"""Calls that kept figures stand for at most, so that newer ones count."""
ENOUGH = 5
"""Calls after which the figures of an edited step replace those of the step before."""
FEW = 20
"""A look at fewer records does not replace what more of them have shown."""
PRIOR_WEIGHT = 6.0
"""How many observations the assumed scatter counts for."""
SKEW = 0.5
"""How much wider a range is above than below, per relative scatter: replies are log-normal."""
MAX_NAMES = 20
"""Models, and steps behind, of which a step's figures are kept: those of the latest runs."""
LEAST_FOR_A_LINE = 8
LEAST_FIT = 0.25
"""A line is used where it explains so much of the scatter."""


@dataclass
class Fit:
    """Means and centred sums of pairs (x, y): how large y is, and how it goes with x."""

    n: float = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def add(self, x: float, y: float, weight: float = 1.0) -> None:
        """One more pair; less than 1 of it where it is much like one that is there."""
        self.merge(Fit(weight, x, y))

    def merge(self, other: Fit) -> None:
        """All pairs of another. Chan, Golub and LeVeque 1979."""
        n = self.n + other.n
        if not n:
            return
        dx, dy = other.x - self.x, other.y - self.y
        weight = self.n * other.n / n
        self.xx += other.xx + dx * dx * weight
        self.xy += other.xy + dx * dy * weight
        self.yy += other.yy + dy * dy * weight
        self.x += dx * other.n / n
        self.y += dy * other.n / n
        self.n = n

    def lighter(self) -> Fit:
        """The same figures, for at most `MAX_WEIGHT` pairs."""
        k = min(1.0, MAX_WEIGHT / self.n) if self.n else 1.0
        return Fit(self.n * k, self.x, self.y, self.xx * k, self.xy * k, self.yy * k)

    def expect(
        self,
        name: str,
        x: float | None,
        n_new: float,
        *,
        scatter: float,
        is_proportional: bool = False,
    ) -> Uncertain:
        """Mean of y over `n_new` further pairs whose mean x is `x` (None: like those seen).

        Parameters
        ----------
        name
            Of the figure: equal names give errors that go together.
        scatter
            Standard deviation of y, relative to its mean, that is assumed before any pair; it
            counts for `PRIOR_WEIGHT` pairs.
        is_proportional
            With few pairs, or where all were of another size, y is taken to grow as x does.
        """
        n, mean, rest = self.n, self.y, self.yy
        degrees = n - 1
        far = (x - self.x) ** 2 / self.xx if x is not None and self.xx > 0 else math.inf
        fit = self.xy**2 / (self.xx * self.yy) if self.xx > 0 and self.yy > 0 else 0.0
        is_near = n >= LEAST_FOR_A_LINE and far <= 1.0
        if x is not None and is_near and fit >= LEAST_FIT:
            mean += self.xy / self.xx * (x - self.x)
            mean = min(max(mean, self.y / 5), self.y * 5)
            rest = self.yy * (1.0 - fit)
            degrees = n - 2
        elif x is not None and is_proportional and self.x > 0 and not is_near:
            mean *= x / self.x
            rest *= (x / self.x) ** 2
            far = 0.0
        else:
            far = 0.0
        degrees += PRIOR_WEIGHT
        rest += PRIOR_WEIGHT * (scatter * mean) ** 2
        if mean <= 0:
            return Uncertain(mean)
        scattered = math.sqrt(max(0.0, rest) / degrees) / mean
        relative = scattered * math.sqrt(1.0 / n + far + 1.0 / max(1.0, n_new))
        return spread(mean, relative, student(name, degrees), SKEW * scattered)

    def to_list(self) -> list[float]:
        """As JSON."""
        return [self.n, self.x, self.y, self.xx, self.xy, self.yy]


@dataclass
class Replies:
    """Figures of the calls of one step to one model; what a call was re-asked is part of it."""

    tokens_in: Fit = field(default_factory=Fit)
    """Bytes of the prompt → input tokens of the call."""
    tokens_out: Fit = field(default_factory=Fit)
    """Bytes of the prompt → output tokens of the call."""
    seconds: Fit = field(default_factory=Fit)
    """Output tokens → seconds of the call."""
    n_calls: float = 0
    n_usable: float = 0
    n_replies: float = 0
    n_cached_tokens: float = 0
    """Input tokens that providers read from their prompt caches."""

    def add(
        self,
        n_bytes: float,
        tokens: tuple[int, int] | None,
        seconds: float,
        *,
        is_usable: bool,
        n_replies: int = 1,
        n_cached_tokens: int = 0,
        weight: float = 1.0,
    ) -> None:
        """One call; `tokens`: input and output, None where the provider did not count."""
        self.n_calls += 1
        self.n_usable += is_usable
        self.n_replies += n_replies
        self.n_cached_tokens += n_cached_tokens
        if tokens is not None:
            self.tokens_in.add(n_bytes, tokens[0], weight)
            self.tokens_out.add(n_bytes, tokens[1], weight)
        self.seconds.add(tokens[1] if tokens is not None else 0, max(seconds, 0.001))

    def add_draw(
        self, n_bytes: float, replies: Sequence[Reply], *, is_usable: bool, weight: float = 1.0
    ) -> None:
        """One call from the memo, with all replies that were paid for it."""
        counted = [
            (r.input_tokens, r.output_tokens)
            for r in replies
            if r.input_tokens is not None and r.output_tokens is not None
        ]
        self.add(
            n_bytes,
            (sum(i for i, _ in counted), sum(o for _, o in counted)) if counted else None,
            sum(r.latency_s for r in replies),
            is_usable=is_usable,
            n_replies=len(replies),
            n_cached_tokens=sum(r.cached_input_tokens for r in replies),
            weight=weight,
        )

    def merge(self, other: Replies) -> None:
        """All calls of another."""
        self.tokens_in.merge(other.tokens_in)
        self.tokens_out.merge(other.tokens_out)
        self.seconds.merge(other.seconds)
        self.n_calls += other.n_calls
        self.n_usable += other.n_usable
        self.n_replies += other.n_replies
        self.n_cached_tokens += other.n_cached_tokens

    @property
    def cached_share(self) -> float:
        """Share of the input tokens that came from providers' prompt caches."""
        total = self.n_calls * self.tokens_in.y
        return min(1.0, self.n_cached_tokens / total) if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for at most `MAX_WEIGHT` calls."""
        k = min(1.0, MAX_WEIGHT / self.n_calls) if self.n_calls else 1.0
        counts = [self.n_calls, self.n_usable, self.n_replies, self.n_cached_tokens]
        return {
            "in": self.tokens_in.lighter().to_list(),
            "out": self.tokens_out.lighter().to_list(),
            "s": self.seconds.lighter().to_list(),
            "n": [c * k for c in counts],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Replies:
        """From JSON. Raises TypeError, KeyError or ValueError where it is something else."""
        tokens_in, tokens_out, seconds = (
            Fit(*_numbers(data[name], 6)) for name in ("in", "out", "s")
        )
        return cls(tokens_in, tokens_out, seconds, *_numbers(data["n"], 4))


@dataclass
class Fan:
    """How many records a step makes of one: sums over the inputs seen."""

    n: float = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, per_input: Iterable[int], n: int) -> Fan:
        """Of `n` inputs, those with outputs having `per_input` of them."""
        counts = list(per_input)
        return cls(n, float(sum(counts)), float(sum(c * c for c in counts)))

    @property
    def mean(self) -> float:
        """Outputs per input; 1 where nothing has been seen."""
        return self.total / self.n if self.n else 1.0

    def expect(self, name: str, n_new: float) -> Uncertain:
        """Mean outputs of `n_new` further inputs, at least one having been seen."""
        if not self.total:
            return Uncertain(0.0)
        seen = Fit(self.n, 0.0, self.mean, yy=max(0.0, self.squares - self.total * self.mean))
        return seen.expect(name, None, n_new, scatter=0.3)


@dataclass
class StepFigures:
    """What a run leaves of one LLM step and of the free steps behind it."""

    settings: dict[str, str] = field(default_factory=dict)
    """Name of each setting that decides answers → digest of its value in the last run."""
    models: dict[str, Replies] = field(default_factory=dict)
    """By `model_name`."""
    after: dict[str, Fan] = field(default_factory=dict)
    """Name of each free step up to the next LLM step → what it made of its inputs."""

    def changed(self, settings: Mapping[str, str]) -> list[str]:
        """Names of the settings that are not those of the last run."""
        return [k for k, v in settings.items() if k in self.settings and self.settings[k] != v]

    def update(self, new: StepFigures) -> None:
        """Take up the figures of one more run."""
        is_edited = bool(self.changed(new.settings))
        self.settings = dict(new.settings)
        for name, replies in new.models.items():
            old = self.models.get(name)
            if old is None or (is_edited and replies.n_calls >= ENOUGH):
                old = replies
            else:
                old.merge(replies)
            _put_last(self.models, name, old)
        for name, fan in new.after.items():
            known = self.after.get(name)
            _put_last(
                self.after, name, fan if known is None or fan.n >= min(FEW, known.n) else known
            )


def _put_last(latest: dict[str, Any], name: str, value: Any) -> None:
    """Set a value and move it to the end; the first ones go where there are too many."""
    latest.pop(name, None)
    latest[name] = value
    while len(latest) > MAX_NAMES:
        del latest[next(iter(latest))]


def model_name(identity: Mapping[str, str]) -> str:
    """A model's identity in one string."""
    return "|".join(identity[k] for k in sorted(identity))


def digest(value: Any) -> str:
    """8 hex digits that tell one setting from another."""
    return blake2b(repr(value).encode("utf-8", "replace"), digest_size=4).hexdigest()


def read_figures(memo: Memo, step: str, columns: Sequence[str]) -> StepFigures | None:
    """What earlier runs left of a step; None where there is nothing, or nothing readable."""
    try:
        data = memo.get_meta(_place(step, columns))
        if not isinstance(data, dict) or data.get("v") != VERSION:
            return None
        return StepFigures(
            {str(k): str(v) for k, v in data["settings"].items()},
            {str(k): Replies.from_dict(v) for k, v in data["models"].items()},
            {str(k): Fan(*_numbers(v, 3)) for k, v in data["after"].items()},
        )
    except (MemoError, TypeError, KeyError, ValueError, AttributeError):
        return None


_adding = threading.Lock()
"""Held from reading figures to writing them: runs of one process lose none of each other."""


def _new_lock() -> None:
    global _adding
    _adding = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def add_figures(memo: Memo, step: str, columns: Sequence[str], new: StepFigures) -> None:
    """Add what one run saw of a step. Raises MemoError if it cannot be stored."""
    with _adding:
        known = read_figures(memo, step, columns) or StepFigures()
        known.update(new)
        data = {
            "v": VERSION,
            "settings": known.settings,
            "models": {k: v.to_dict() for k, v in known.models.items()},
            "after": {k: [v.n, v.total, v.squares] for k, v in known.after.items()},
        }
        memo.set_meta(_place(step, columns), data)


def _place(step: str, columns: Sequence[str]) -> str:
    name = repr((step, list(columns))).encode("utf-8", "replace")
    return f"measured/{blake2b(name, digest_size=12).hexdigest()}"


def _numbers(data: Any, n: int) -> list[float]:
    out = [float(v) for v in data]
    if len(out) != n or not all(map(math.isfinite, out)) or min(out[:3]) < 0:
        raise ValueError("no figures")
    return out
