"""The records of a run that goes on, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from datafast_nb.engine.events import Event, Grown, RunStarted
from datafast_nb.engine.llmoutput import call_error
from datafast_nb.logs import logger
from datafast_nb.records import Record
from datafast_nb.runs import CallError
from datafast_nb.store.ledger import Ledger

EVERY_S = 1.0
"""Shortest time between two looks at what is finished."""
SHARE = 10
"""A table grows by one part in as many at least: whoever shows it reads all of it again."""


class Growth:
    """Hears of a run and hands on what each of its LLM steps has made so far.

    Parameters
    ----------
    show
        Called on the thread of the run with the step's name, its records so far in the order of
        their inputs, and of each record "new" or "memo".
    """

    def __init__(
        self,
        show: Callable[[str, list[Record], list[str]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._clock = show, clock
        self._heard: dict[str, Grown] = {}
        """Of each LLM step, what was heard of it last."""
        self._begin()

    def _begin(self) -> None:
        self._index = -1
        self._next = 0
        self._records: list[Record] = []
        self._statuses: list[str] = []
        self._shown = 0
        self._looked = float("-inf")
        self._is_broken = False

    def __call__(self, event: Event) -> None:
        """Hear of an event. Never raises."""
        if isinstance(event, RunStarted):
            self._begin()
            self._heard = {}
        elif isinstance(event, Grown):
            self._heard = {**self._heard, event.step: event}  # other threads read it
            if self._is_broken:
                return
            try:
                self._look(event)
            except Exception:  # the run says better what is wrong
                self._is_broken = True
                logger.exception("the records of a run that goes on cannot be shown")

    def catch_up(self, heard: Mapping[str, Grown]) -> None:
        """What was told before this listens: the bill and the failures are of the whole run."""
        self._heard = {**heard, **self._heard}

    @property
    def ledger(self) -> Ledger:
        """The bill so far. A microsecond a call, on the thread that asks."""
        heard = self._heard
        return Ledger.joined(Ledger.of(list(event.calls)) for event in heard.values())

    @property
    def errors(self) -> list[CallError]:
        """The calls that have failed so far, without those whose prompt could not be written."""
        return [
            call_error(call, event.inputs[call.record], None)
            for event in self._heard.values()
            for call in list(event.calls)
            if call.status == "failed" and call.error
        ]

    def _look(self, event: Grown) -> None:
        now = self._clock()
        if event.index < self._index or now - self._looked < EVERY_S:
            return
        if event.index > self._index and not event.finished(0).records:
            return  # those of the step before stay until there is something
        if event.index > self._index:
            self._begin()
            self._index = event.index
        self._looked = now
        found = event.finished(self._next)
        self._next = found.next
        self._records += found.records
        self._statuses += ["new" if is_new else "memo" for is_new in found.is_new]
        if len(self._records) - self._shown >= max(1, self._shown // SHARE):
            self._shown = len(self._records)
            self._show(event.step, list(self._records), list(self._statuses))
