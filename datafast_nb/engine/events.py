"""What a run tells those who watch it. Nothing here is needed for a correct result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger("datafast_nb")


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins."""

    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins."""

    step: str
    index: int
    n_in: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """Calls of the running step so far."""

    step: str
    total: int
    done: int
    """Answered, new and failed; what was never asked is not done."""
    answered: int
    new: int
    failed: int
    paid_usd: float
    """At list price; NaN if unknown."""


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step has ended."""

    step: str
    index: int
    n_in: int
    n_out: int


@dataclass(frozen=True, slots=True)
class Noted:
    """A remark to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended, with this status."""

    status: str
    n_out: int


Event = RunStarted | StepStarted | Progress | StepFinished | Noted | RunFinished
Listener = Callable[[Event], None]


class Bus:
    """Hands each event to every listener, on the thread of the run."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners

    def emit(self, event: Event) -> None:
        """Tell all listeners. A listener that raises is logged and left out from then on."""
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener of run events failed and is left out")
                self._listeners.remove(listener)
