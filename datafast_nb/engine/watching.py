"""Which pipelines a cell waits for, and who wants to know: the panel shows and stops such runs."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from datafast_nb.engine.events import Listener
from datafast_nb.errors import RunInterrupted
from datafast_nb.graph import Node
from datafast_nb.results import Result


@dataclass(eq=False)
class Wait:
    """A cell that waits for a run."""

    is_run: bool = True
    """False: for a run that was started before, whose events go elsewhere."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """When set, the run ends and keeps what arrived."""
    listeners: list[Listener] = field(default_factory=list)
    result: Result | None = None
    """Set at the end; also a partial one."""
    error: BaseException | None = None
    """What the wait has ended with; None: with its result."""
    is_cut: bool = False
    """A watcher has ended it."""

    def cut(self) -> None:
        """End the run, and with it the cell."""
        self.is_cut = True
        self.stopped.set()

    def loud_result(self) -> Result:
        """The result; where a watcher has ended the run it raises, so that Run All stops as well."""
        assert self.result is not None
        if self.is_cut and self.result.status == "interrupted":
            raise interrupted("Stopped", self.result)
        return self.result


def interrupted(how: str, result: Result | None) -> RunInterrupted:
    """What a cell raises whose run was ended; None: the run is still winding down."""
    if result is None:
        return RunInterrupted(
            f"{how}: calls in flight come in; every answer that arrives is kept, run again to go on."
        )
    return RunInterrupted(
        f"{how}: {len(result):,} records finished; every answer that arrived is kept, run again "
        "to go on (dfn.last has the partial result).",
        result=result,
    )


class Watcher(Protocol):
    """Who is told. Nothing of it may take long: it is called on the thread of the cell."""

    def cell_waits(self, wait: Wait) -> None:
        """A cell begins to wait; add to `wait.listeners` what is to hear of the run."""

    def cell_goes_on(self, wait: Wait) -> None:
        """It no longer waits."""


_lock = threading.Lock()
_watchers: list[tuple[weakref.ref[Node], weakref.ref[Any]]] = []


def watch(tail: Node, watcher: Watcher) -> None:
    """Tell `watcher` of the cells that wait for the pipeline which ends in `tail`."""
    with _lock:
        _watchers[:] = [(node, other) for node, other in _watchers if other() is not None]
        _watchers.append((weakref.ref(tail), weakref.ref(watcher)))


def unwatch(watcher: Watcher) -> None:
    """Tell it no more."""
    with _lock:
        _watchers[:] = [
            (tail, other) for tail, other in _watchers if other() not in (None, watcher)
        ]


@contextmanager
def waited(tail: Node | None, stopped: threading.Event | None = None) -> Iterator[Wait]:
    """While it is open, this thread waits for the pipeline which ends in `tail`.

    `stopped`: what stops a run that was started before.
    """
    wait = Wait() if stopped is None else Wait(False, stopped)
    told: list[Any] = []
    if tail is not None and _watchers and threading.current_thread() is threading.main_thread():
        with _lock:
            told = [w() for node, w in _watchers if node() is tail]
    told = [watcher for watcher in told if watcher is not None]
    for watcher in told:
        watcher.cell_waits(wait)
    try:
        yield wait
    except BaseException as exc:
        wait.result, wait.error = getattr(exc, "result", None), exc
        raise
    finally:
        for watcher in told:
            watcher.cell_goes_on(wait)
        wait.error = None  # its traceback holds what the cell has held
