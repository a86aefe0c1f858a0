"""A run in the background: `pipeline.start()` returns at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any

from datafast_nb.display import html, text, views
from datafast_nb.engine.events import Event, Progress, RunFinished, StepStarted
from datafast_nb.results import Result


class Run:
    """A run on a worker thread. `await run`, or `run.result()`, gives its Result.

    A run that was stopped, or spent its budget, gives its partial Result; other failures raise.
    """

    def __init__(self, work: Callable[[threading.Event, Callable[[Event], None]], Result]) -> None:
        self._stop_event = threading.Event()
        self._future: Future[Result] = Future()
        self._step = ""
        self._progress: Progress | None = None
        self._status = "running"
        self._thread = threading.Thread(
            target=self._serve, args=(work,), name="datafast_nb-run", daemon=True
        )
        self._thread.start()

    def _serve(self, work: Callable[[threading.Event, Callable[[Event], None]], Result]) -> None:
        try:
            result = work(self._stop_event, self._listen)
        except BaseException as exc:
            partial = getattr(exc, "result", None)
            self._status = partial.status if isinstance(partial, Result) else "failed"
            if isinstance(partial, Result) and partial.status in ("budget", "interrupted"):
                self._future.set_result(partial)
            else:
                self._future.set_exception(exc)
            return
        self._status = result.status
        try:
            self._future.set_result(result)
        except InvalidStateError:  # an awaiting task was cancelled; the run went on
            return

    def _listen(self, event: Event) -> None:
        if isinstance(event, StepStarted):
            self._step = event.step
        elif isinstance(event, Progress):
            self._progress = event
        elif isinstance(event, RunFinished):
            self._status = event.status

    @property
    def status(self) -> str:
        """At first "running", then the status of the Result, or "failed"."""
        return self._status

    @property
    def progress(self) -> Progress | None:
        """Calls of the running LLM step so far; None before the first."""
        return self._progress

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._future.done()

    def stop(self) -> None:
        """Send nothing more; the run ends within about a second and keeps what arrived."""
        self._stop_event.set()

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the Result.

        An interrupt of the waiting cell stops the run.

        Raises
        ------
        TimeoutError
            After `timeout_s` seconds; the run goes on.
        """
        waited = 0.0
        while True:
            # Waiting in short pieces: a single long wait would hold back Ctrl-C on some platforms.
            piece = 0.2 if timeout_s is None else min(0.2, max(0.0, timeout_s - waited))
            try:
                return self._future.result(timeout=piece)
            except TimeoutError:
                if self._future.done():
                    raise
                waited += piece
                if timeout_s is not None and waited >= timeout_s:
                    raise TimeoutError(
                        f"the run has not ended within {timeout_s:g} s; it goes on"
                    ) from None
            except KeyboardInterrupt:
                self.stop()
                raise

    def __await__(self) -> Generator[Any, None, Result]:
        """The Result; cancelling the waiting task leaves the run alone."""
        return asyncio.shield(asyncio.wrap_future(self._future)).__await__()

    def view(self) -> views.CardView:
        """Plain data for display: a snapshot."""
        facts = [("step", self._step)] if self._step else []
        p = self._progress
        if p is not None:
            facts.append(
                (
                    "calls",
                    f"{p.done:,} of {p.total:,}: {p.answered:,} answered, {p.new:,} new, {p.failed:,} failed",
                )
            )
            facts.append(("paid", views.usd(p.paid_usd)))
        return views.CardView(f"Run: {self.status}", tuple(facts))

    def __repr__(self) -> str:
        return text.card(self.view())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": text.card(self.view()), "text/html": html.card(self.view())}
