"""How much the tests here do: enough for every change, or (DATAFAST_NB_SOAK=1) for a release."""

from __future__ import annotations

import os
import random
import time

SOAK = os.environ.get("DATAFAST_NB_SOAK", "") not in ("", "0")
"""Read here and nowhere else; tests have the variables of the package removed."""

SEED = int(os.environ.get("DATAFAST_NB_SOAK_SEED") or (time.time_ns() % 10**9 if SOAK else 5))
"""Of everything random here; printed with the figures, so that a soak can be had again."""

FIGURES: list[tuple[str, str, str]] = []
"""What was measured, its figure, what it must be; shown at the end of the tests."""


def size(usual: int, soak: int) -> int:
    """A count for this scale."""
    return soak if SOAK else usual


def seconds(usual: float, soak: float) -> float:
    """A time for this scale."""
    return soak if SOAK else usual


def dice(name: str) -> random.Random:
    """Random numbers of one test's own."""
    return random.Random(f"{SEED} {name}")


def tell(what: str, figure: object, bound: str) -> None:
    """Add a line to the table of figures."""
    shown = f"{figure:,}" if isinstance(figure, int) else str(figure)
    FIGURES.append((what, shown, bound))
