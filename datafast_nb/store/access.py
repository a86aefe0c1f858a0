"""Access to the memo's database that never waits for ever and mends what is broken.

Locks of other processes are waited for up to a limit in all, a damaged file is repaired, a
file that was replaced is opened anew, and nothing is open in the moment of a fork.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from datafast_nb.errors import MemoError
from datafast_nb.store import database

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_RETRY_LOCK_S = 1.0
_TRIES = 3
_not_ours: list[sqlite3.Connection] = []  # connections that crossed a fork; never closed


class Side:
    """One connection and the file it belongs to; `lock` guards both."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.con: sqlite3.Connection | None = None
        self.seen: tuple[int, int] | None = None

    def drop(self) -> None:
        """Close the connection, which rolls back what it has begun."""
        con, self.con = self.con, None
        if con is not None:
            with contextlib.suppress(sqlite3.Error):
                con.close()


class Access:
    """One reading and one writing connection to the database in a folder.

    Two are enough: look-ups are made in bulk and bound by Python, and there is one writer.
    """

    def __init__(
        self,
        directory: Path,
        *,
        read_only: bool,
        lock_wait_s: float,
        warn: Callable[[str], None] | None,
    ) -> None:
        self.directory = directory
        self.path = directory / database.DB_NAME
        self.read_only = read_only
        self.said: dict[str, None] = {}
        """Warnings given so far."""
        self.closed = False
        self.bypassing = False
        """A lock was waited for in vain: reads and writes do not wait any more."""
        self._broken = False
        self._warn_user = warn
        self._lock_wait_s = lock_wait_s
        self._lock_left_s = lock_wait_s
        self._next_try = 0.0
        self._held: list[Side] = []
        self.reset()

    def reset(self) -> None:
        """Fresh locks and no connections."""
        self._reader = Side()
        self._writer = Side()

    def close(self) -> None:
        """Close the connections; the next use opens them again, unless `closed` is set."""
        for side in (self._reader, self._writer):
            with side.lock:
                side.drop()

    def open_writer(self) -> None:
        """Open what writing needs, before requests take up the files that the process may open."""
        with self._writer.lock, contextlib.suppress(*database.ERRORS):  # told when it is written to
            self._use(self._writer)

    def read(self, work: Work[T], default: T) -> T:
        """Run `work` on the reading connection; `default` where the database is out of reach.

        Raises
        ------
        MemoError
            If the database cannot be used for another reason than a lock or damage.
        """
        with self._reader.lock:
            if self.closed:
                raise MemoError(f"the memo {self.directory} is closed; open_memo() opens it again")
            for _ in range(_TRIES):
                if self._broken:
                    return default
                started = time.monotonic()
                try:
                    con = self._use(self._reader)
                    con.execute(f"PRAGMA busy_timeout = {int(self._wait_s() * 1000)}")
                    found = work(con)
                    if self.read_only:
                        self._got_lock()  # no writer is there to notice it
                    return found
                except database.ERRORS as exc:
                    seen = self._reader.seen
                    self._reader.drop()
                    if database.failure(exc) == "busy":
                        if not self._may_wait_more(started):
                            return default
                    elif not self.mend(exc, seen):
                        return default
            self._give_up("it failed again and again")
            return default

    def change(self, work: Work[T]) -> T:
        """Run `work` in a transaction on the calling thread.

        Raises
        ------
        MemoError
            If the database cannot be written; nothing has changed then.
        """
        self._next_try = 0.0
        done = self.transact(work)
        if done is None:
            raise MemoError(
                f"the memo {self.path} cannot be written: another process holds its lock, or it "
                "is damaged beyond repair. Close that process, or choose another folder with "
                "options.home or the variable DATAFAST_NB_HOME"
            )
        return done[0]

    def transact(self, work: Work[T]) -> tuple[T] | None:
        """Run `work` in a transaction; None: the database is out of reach, nothing changed.

        Raises
        ------
        sqlite3.DatabaseError
            If the disk is full (`database.failure`).
        MemoError
            As in `read`.
        """
        with self._writer.lock:
            for _ in range(_TRIES):
                con: sqlite3.Connection | None = None
                try:
                    con = self._begin()
                    if con is None:
                        return None
                    result = work(con)
                    con.execute("COMMIT")
                    return (result,)
                except database.ERRORS as exc:
                    seen = self._writer.seen
                    self._writer.drop()
                    if database.failure(exc) == "full":
                        raise
                    if not self.mend(exc, seen):
                        return None
                except BaseException:
                    self._writer.drop()
                    raise
            self._give_up("it failed again and again")
            return None

    def try_now(self) -> None:
        """Let the next transaction ask for the lock even if that failed a moment ago."""
        self._next_try = 0.0

    def _begin(self) -> sqlite3.Connection | None:
        """A connection with the write lock; None: do without the database for now."""
        if self._broken or (self.bypassing and time.monotonic() < self._next_try):
            return None
        while True:
            started = time.monotonic()
            try:
                con = self._use(self._writer)
                con.execute(f"PRAGMA busy_timeout = {int(self._wait_s() * 1000)}")
                con.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if database.failure(exc) != "busy":
                    raise
                if self._may_wait_more(started):
                    continue
                return None
            if database.file_identity(self.path) == self._writer.seen:
                self._got_lock()
                return con
            # Repaired while we waited: what is written to the old file would be lost.
            self._writer.drop()

    def _use(self, side: Side) -> sqlite3.Connection:
        """The connection to the file that stands there now: a repair may have replaced it."""
        current = database.file_identity(self.path)
        if side.con is not None and side.seen == current:
            return side.con
        side.drop()
        if current is None and not self.read_only:
            database.prepare_folder(self.directory)
            try:
                database.create(self.directory, self._wait_s())
            except OSError as exc:
                raise MemoError(
                    f"the memo {self.path} cannot be made: {exc.strerror or exc}. Free space "
                    "there, or choose another folder with options.home or DATAFAST_NB_HOME"
                ) from exc
            current = database.file_identity(self.path)
        side.seen = current
        con = database.connect(self.path, wait_s=self._wait_s(), read_only=self.read_only)
        try:
            database.check(con, self.path, read_only=self.read_only)
        except BaseException:
            con.close()
            raise
        side.con = con
        return con

    def _wait_s(self) -> float:
        return 0.0 if self.bypassing else max(self._lock_left_s, 0.0)

    def _got_lock(self) -> None:
        self._lock_left_s = self._lock_wait_s
        self.bypassing = False

    def _may_wait_more(self, started: float) -> bool:
        if not self.bypassing:
            self._lock_left_s -= time.monotonic() - started
            if self._lock_left_s > 0.05:
                time.sleep(0.01)  # SQLite may give up early, for one during recovery
                return True
        self.bypassing = True
        self._next_try = time.monotonic() + _RETRY_LOCK_S
        self.warn(
            f"another process holds the lock of the memo {self.path} for longer than "
            f"{self._lock_wait_s:g} s. New answers are kept in overflow files beside it and "
            "merged when the lock is free; close or kill that process"
        )
        return False

    def mend(self, exc: sqlite3.Error | UnicodeDecodeError, seen: tuple[int, int] | None) -> bool:
        """React to an error of the database file `seen`; says whether another try makes sense."""
        kind = database.failure(exc)
        if kind in ("moved", "busy"):
            return True
        if kind != "damaged":
            raise MemoError(
                f"the memo {self.path} cannot be used: {exc}. Check the disk and the rights of "
                "the folder, or choose another with options.home or DATAFAST_NB_HOME"
            ) from exc
        if self.read_only:
            self.warn(
                f"the memo {self.path} is damaged ({exc}); answers that cannot be read count as "
                "missing. Open it once in mode 'normal' to repair it"
            )
            return False
        try:
            message = database.repair(self.directory, seen, self._wait_s())
        except (OSError, *database.ERRORS, MemoError) as error:
            self._give_up(f"{exc}; the repair failed: {error}")
            return False
        if message:
            self.warn(message)
        return True

    def _give_up(self, why: str) -> None:
        self._broken = True
        self.warn(
            f"the memo {self.path} cannot be used ({why}). The run goes on without it; new "
            "answers are kept in overflow files beside it"
        )

    def warn(self, message: str) -> None:
        """Give a warning, once."""
        if message in self.said:
            return
        self.said[message] = None
        if self._warn_user is not None:
            self._warn_user(message)
        else:
            warnings.warn(message, UserWarning, stacklevel=3)

    def before_fork(self) -> None:
        """Let nothing be open: SQLite in the child would believe in locks it does not have."""
        self._held = [
            side for side in (self._reader, self._writer) if side.lock.acquire(timeout=2.0)
        ]
        for side in self._held:
            side.drop()

    def after_fork_in_parent(self) -> None:
        """Go on; connections are opened again when needed."""
        held, self._held = self._held, []
        for side in held:
            side.lock.release()

    def after_fork_in_child(self) -> None:
        """Start over with own locks and connections."""
        for side in (self._reader, self._writer):
            if side.con is not None:
                _not_ours.append(side.con)  # closing it would drop what the parent needs
        self._held = []
        self.reset()
