"""The engine's event loop: one per process, on a daemon thread of its own.

It lives beside whatever loop the caller may be in (Jupyter, pytest, asyncio.run), so
nothing has to be nested or patched.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid = 0
_thread: threading.Thread | None = None


def engine_loop() -> asyncio.AbstractEventLoop:
    """The running loop, started at the first call and again after a fork."""
    global _loop, _pid, _thread
    with _lock:
        alive = _thread is not None and _thread.is_alive()
        if _loop is None or _pid != os.getpid() or _loop.is_closed() or not alive:
            _loop = asyncio.new_event_loop()
            _pid = os.getpid()
            started = threading.Event()
            _thread = threading.Thread(
                target=_serve, args=(_loop, started), name="datafast_nb-engine", daemon=True
            )
            _thread.start()
            started.wait()
        return _loop


def _serve(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.set)
    loop.run_forever()


def engine_loop_is_here() -> bool:
    """Whether the caller runs on the engine's own thread, where waiting would stop everything."""
    return threading.current_thread() is _thread


def spawn(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Start a coroutine on the engine's loop from any other thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, engine_loop())


def _renew_lock_after_fork() -> None:
    # Another thread may have held the lock at the moment of the fork.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_after_fork)
