"""Figures that are not known exactly: a likely value, and draws of what it may be.

A sum or product of such figures is taken draw by draw, so that what they share (one step's
selectivity decides the calls of all later ones) stays shared. The draws are the quantiles of a
distribution in an order that a name decides: the same question gives the same answer, and most
figures of a pipeline are put together from a few tables.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from random import Random
from statistics import NormalDist

N_DRAWS = 400
TAIL = 0.02
"""Share of the draws left out at each end of a range."""
MAX_SD = 4.0
"""Draws further out than so many standard deviations are taken for this many."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is not known exactly: low and high hold it in about 19 of 20 cases."""

    low: float
    likely: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Range:
        """A figure that is known."""
        return cls(value, value, value)

    @property
    def is_exact(self) -> bool:
        """Low and high are the same figure."""
        return self.low == self.high

    @property
    def is_known(self) -> bool:
        """False where some part of it is unknown: NaN."""
        return not math.isnan(self.low + self.likely + self.high)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)


NOTHING = Range.exact(0.0)
UNKNOWN = Range.exact(math.nan)


@dataclass(frozen=True, slots=True)
class Uncertain:
    """A likely value, and `N_DRAWS` draws of it; () where it is exact."""

    likely: float
    draws: tuple[float, ...] = ()

    def __add__(self, other: Uncertain | float) -> Uncertain:
        return self._with(other, operator.add)

    def __sub__(self, other: Uncertain | float) -> Uncertain:
        return self._with(other, operator.sub)

    def __mul__(self, other: Uncertain | float) -> Uncertain:
        return self._with(other, operator.mul)

    def at_most(self, other: Uncertain | float) -> Uncertain:
        """The smaller of both, draw by draw; NaN where one is unknown."""
        return self._with(other, lambda a, b: b if b < a or math.isnan(b) else a)

    def at_least(self, other: Uncertain | float) -> Uncertain:
        """The larger of both, draw by draw; NaN where one is unknown."""
        return self._with(other, lambda a, b: b if b > a or math.isnan(b) else a)

    def _with(self, other: Uncertain | float, join: Callable[[float, float], float]) -> Uncertain:
        if not isinstance(other, Uncertain):
            other = Uncertain(other)
        likely = join(self.likely, other.likely)
        if not self.draws and not other.draws:
            return Uncertain(likely)
        mine = self.draws or repeat(self.likely, N_DRAWS)
        theirs = other.draws or repeat(other.likely, N_DRAWS)
        return Uncertain(likely, tuple(map(join, mine, theirs)))

    @property
    def is_exact(self) -> bool:
        """It can be nothing but `likely`."""
        return not self.draws or all(d == self.likely for d in self.draws)

    @property
    def range(self) -> Range:
        """Where nearly all draws lie, and the likely value."""
        if not self.draws:
            return Range.exact(self.likely)
        if math.isnan(self.likely):
            return UNKNOWN
        ordered = sorted(self.draws)
        cut = int(TAIL * len(ordered))
        return Range(
            min(ordered[cut], self.likely), self.likely, max(ordered[-1 - cut], self.likely)
        )


ZERO = Uncertain(0.0)


UNIFORM = tuple([(i + 0.5) / N_DRAWS for i in range(N_DRAWS)])
"""Quantiles of a share of which nothing is known."""
NORMAL = tuple([NormalDist().inv_cdf(u) for u in UNIFORM])
"""Quantiles of the standard normal distribution."""


def drawn(name: str, likely: float, quantiles: Sequence[float]) -> Uncertain:
    """A figure whose draws are `N_DRAWS` quantiles in the order that belongs to `name`."""
    return Uncertain(likely, tuple([quantiles[i] for i in _order(name)]))


@lru_cache(maxsize=4_096)
def _order(name: str) -> tuple[int, ...]:
    random = Random(name).random
    keys = [random() for _ in range(N_DRAWS)]
    return tuple(sorted(range(N_DRAWS), key=keys.__getitem__))


def share(name: str, n_yes: float, n: float) -> Uncertain:
    """The share of yes in future, after `n_yes` of `n`: Beta with Jeffreys' prior."""
    return drawn(name, n_yes / n, beta(n_yes + 0.5, n - n_yes + 0.5))


@lru_cache(maxsize=1_024)
def beta(yes: float, no: float) -> tuple[float, ...]:
    """Quantiles of a Beta distribution, from as many draws."""
    rng = Random(f"{yes} {no}")
    return tuple(sorted([rng.betavariate(yes, no) for _ in range(N_DRAWS)]))


def between(name: str, low: float, likely: float, high: float) -> Uncertain:
    """A positive figure of which nothing is known but its bounds: even on a log scale."""
    return drawn(name, likely, _even(max(low, 1e-9), max(high, low, 1e-9)))


@lru_cache(maxsize=1_024)
def _even(low: float, high: float) -> tuple[float, ...]:
    bottom, size = math.log(low), math.log(high / low)
    return tuple([math.exp(bottom + size * u) for u in UNIFORM])


def triangular(name: str, low: float, likely: float, high: float) -> Uncertain:
    """A figure between two bounds, most often near the likely one."""
    if low == high:
        return Uncertain(likely)
    left, right, peak = likely - low, high - likely, (likely - low) / (high - low)
    size = high - low
    return drawn(
        name,
        likely,
        [
            low + math.sqrt(u * size * left)
            if u < peak
            else high - math.sqrt((1 - u) * size * right)
            for u in UNIFORM
        ],
    )


def student(name: str, degrees: float) -> Uncertain:
    """Draws of Student's t: by how many standard errors a measured mean may be off."""
    return drawn(name, 0.0, _student(round(degrees, 2)))


@lru_cache(maxsize=1_024)
def _student(degrees: float) -> tuple[float, ...]:
    """Quantiles of Student's t, of 3 degrees or more: Abramowitz and Stegun 1972, 26.7.5."""
    d = degrees
    out = []
    for z in NORMAL:
        q = z * z
        t = z + z * (
            (q + 1) / (4 * d)
            + ((5 * q + 16) * q + 3) / (96 * d**2)
            + (((3 * q + 19) * q + 17) * q - 15) / (384 * d**3)
        )
        out.append(max(-MAX_SD, min(MAX_SD, t)))
    return tuple(out)


def spread(mean: float, relative: float, errors: Uncertain, skew: float = 0.0) -> Uncertain:
    """A positive figure measured as `mean`, with `relative` standard error, off by `errors`.

    On a log scale. `skew` stretches the upper side: a mean of few values of which rare ones are
    large is more often far too low than far too high.
    """
    up = relative * (1.0 + skew)
    return Uncertain(
        mean, tuple([mean * math.exp((up if t > 0 else relative) * t) for t in errors.draws])
    )


def binomial(name: str, n: Uncertain, p: Uncertain) -> Uncertain:
    """How many of `n` there will be, each with the chance `p`. Normal approximation."""
    expected = n * p
    if expected.is_exact and p.likely in (0.0, 1.0):
        return expected
    noise = drawn(name, 0.0, NORMAL)
    chance = p.draws or (p.likely,) * N_DRAWS
    total = n.draws or (n.likely,) * N_DRAWS
    draws = [
        min(m, max(0.0, m * q + z * math.sqrt(max(0.0, m * q * (1.0 - q)))))
        for m, q, z in zip(total, chance, noise.draws, strict=True)
    ]
    return Uncertain(expected.likely, tuple(draws))
