"""The panel's threads: one that works off requests, one that says some times a second how it stands.

Both begin with the first thing to do and end by themselves when there has been nothing for a
while, so that panels which nobody looks at any more hold no thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from datafast_nb.logs import logger

IDLE_S = 5.0
EVERY_S = 0.2
"""Shortest time between two pushes of the state: with the replies on a table that grows, at most
twelve messages a second."""


class Worker:
    """Does jobs one after another on a thread of its own."""

    def __init__(self, name: str, *, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._idle_s = idle_s
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(self, job: Callable[[], None]) -> bool:
        """Do it when those before are done; False: closed, it is not done."""
        with self._changed:
            if self._is_closed:
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def close(self) -> None:
        """Do nothing more; the job that is being done comes to its end."""
        with self._changed:
            self._is_closed = True
            self._jobs.clear()
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._jobs and not self._is_closed:
                    self._changed.wait(self._idle_s)
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:  # a job answers for its own errors; this one did not
                logger.exception("a job of the panel failed")
            del job  # what it holds would stay while the thread waits


class Pulse:
    """Calls `beat` after `wake()`, at most every `every_s`, and on while it returns True."""

    def __init__(
        self,
        name: str,
        beat: Callable[[], bool],
        *,
        every_s: float = EVERY_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._name, self._beat = name, beat
        self._every_s, self._idle_s = every_s, idle_s
        self._changed = threading.Condition()
        self._is_due = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something has changed. Takes microseconds, from any thread."""
        with self._changed:
            self._is_due = True
            if self._is_closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """No further beat."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _serve(self) -> None:
        goes_on = False
        while True:
            with self._changed:
                if not (self._is_due or goes_on or self._is_closed):
                    self._changed.wait(self._idle_s)
                if self._is_closed or not (self._is_due or goes_on):
                    self._thread = None
                    return
                self._is_due = False
            began = time.monotonic()
            try:
                goes_on = self._beat()
            except Exception:
                goes_on = False
                logger.exception("the panel could not say how it stands")
            with self._changed:
                # At its own pace also where many things change at once: the last state wins.
                end = began + self._every_s
                while not self._is_closed and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
