"""Event loops whose clock is the tests': waits that take no time, or minutes that take a second."""

import asyncio
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datafast_nb.engine import scheduler
from datafast_nb.store.memo import Memo


class _Selector(selectors.DefaultSelector):
    """Does not wait for a timer: it moves the clock to it."""

    clock: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self.clock.n_elsewhere:
            return super().select(0.01)
        found = super().select(0)
        if not found:
            self.clock.now_s += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time moves only when nothing is left to do, and then to the next timer."""

    def __init__(self, start_s: float = 1000.0) -> None:
        selector = _Selector()
        selector.clock = self
        self.now_s = start_s
        self.n_elsewhere = 0
        """Writes that other threads are at: time stands still until they have ended."""
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s


class _FastSelector(selectors.DefaultSelector):
    speed = 1.0

    def select(self, timeout: float | None = None) -> list[Any]:
        return super().select(None if timeout is None else timeout / self.speed)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop whose seconds are shorter by `speed`."""

    def __init__(self, speed: float) -> None:
        selector = _FastSelector()
        selector.speed = self.speed = speed
        super().__init__(selector)

    def time(self) -> float:
        return time.monotonic() * self.speed


@contextmanager
def engine_on(loop: asyncio.AbstractEventLoop, monkeypatch: Any) -> Iterator[Any]:
    """Runs of the package ask on this loop."""
    thread = threading.Thread(target=loop.run_forever, name="test-loop", daemon=True)
    thread.start()
    monkeypatch.setattr(scheduler, "engine_loop", lambda: loop)
    if isinstance(loop, VirtualLoop):
        _stop_time_while_writing(loop, monkeypatch)
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()


def _stop_time_while_writing(loop: VirtualLoop, monkeypatch: Any) -> None:
    put = Memo.put

    def counted(memo: Memo, *args: Any, done: Any, **settings: Any) -> None:
        def ended(error: BaseException | None) -> None:
            done(error)
            loop.call_soon_threadsafe(count, -1)

        loop.n_elsewhere += 1
        put(memo, *args, done=ended, **settings)

    def count(change: int) -> None:
        loop.n_elsewhere += change

    monkeypatch.setattr(Memo, "put", counted)
