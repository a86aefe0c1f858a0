"""The writer thread of the memo: what is queued goes to disk in groups, then is acknowledged."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from datafast_nb.errors import MemoError
from datafast_nb.store import database
from datafast_nb.store.access import Access
from datafast_nb.store.overflow import Overflow
from datafast_nb.store.rows import (
    Body,
    DamagedRowError,
    Reply,
    Rows,
    dump,
    key_of,
    read_body,
    read_replies,
    seal,
    unseal,
)

Done = Callable[[BaseException | None], None]

_MAX_GROUP = 500  # replies in one commit
_IDLE_S = 2.0  # an idle thread ends after this
_LOOK_S = 0.001  # between two looks whether all is stored
_BULK = 1000  # names in one statement
_BAD_ROWS = "damaged-rows.jsonl"

_SELECT = (
    "SELECT w.key, c.value FROM json_each(?) AS w CROSS JOIN Cache AS c"
    " ON c.key = w.value AND c.raw = 1 AND c.mode = 1"
)


@dataclass(slots=True)
class Job:
    """A reply to append to row `name`, or a link to store there; neither: look at the row."""

    name: str
    reply: Reply | None = None
    identity: Mapping[str, str] | None = None
    done: Done | None = None
    of_label: str | None = None
    own: bool = False
    """The reply replaces a link that stands there."""
    spend: Mapping[str, Body] | None = None
    """Rows that say what was spent, stored together with the reply."""

    def addition(self) -> Body | None:
        """What is added to the row, in the form of a row."""
        if self.reply is not None:
            return {"i": dict(self.identity or {}), "r": [self.reply]}
        return None if self.of_label is None else {"of": self.of_label}


class Writer:
    """Queue and thread; the thread starts with the first job and ends when idle."""

    def __init__(self, access: Access, overflow: Overflow) -> None:
        self._access = access
        self._overflow = overflow
        self.reset()

    def reset(self) -> None:
        """Empty queue and no thread; after a fork, whose parent writes what was queued."""
        self._queue: list[Job] = []
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._busy = False
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Queue a job; returns at once."""
        with self._lock:  # not the condition: Ctrl-C on its way in could leave it locked for ever
            if self._access.closed:
                raise MemoError(
                    f"the memo {self._access.directory} is closed; open_memo() opens it again"
                )
            self._queue.append(job)
            if self._thread is None:
                self._start()
            elif len(self._queue) == 1:
                self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="datafast_nb-memo", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The system gives no thread. What is queued is paid: store it here, slow as it is.
            self._thread = None
            group, self._queue = self._queue, []
            self._tell(self._store(group))

    def flush(self) -> None:
        """Wait until the queue is stored, and what lies in overflow files if that is possible."""
        if threading.current_thread() is self._thread:
            return  # a done() callback: it would wait for itself
        if self._overflow.entries and not self._access.read_only and not self._access.closed:
            self._access.try_now()
            self.add(Job(""))
        while True:
            with self._lock:
                if not self._queue and not self._busy:
                    return
            time.sleep(_LOOK_S)  # Ctrl-C may end this, as it may not end a condition's wait

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                self._busy = False
                if not self._queue and not changed.wait_for(lambda: bool(self._queue), _IDLE_S):
                    self._thread = None
                    return
                group = self._queue[:_MAX_GROUP]
                del self._queue[:_MAX_GROUP]
                self._busy = True
            self._tell(self._store(group))

    def _tell(self, told: Iterable[tuple[Job, BaseException | None]]) -> None:
        for job, error in told:
            if job.done is not None:
                # Whatever a callback raises, the others' answers must go on.
                try:
                    job.done(error)
                except BaseException as exc:
                    self._warn(f"a callback of the memo failed: {exc!r}")

    def _warn(self, message: str) -> None:
        # Where warnings are errors this one must not stop the thread.
        with contextlib.suppress(Exception):
            self._access.warn(message)

    def _store(self, jobs: list[Job]) -> list[tuple[Job, BaseException | None]]:
        """Store a group; gives what to tell each job."""
        error: MemoError | None = None
        try:
            self._commit(jobs)
        except MemoError as exc:
            error = exc
        except Exception as exc:
            if len(jobs) > 1:
                # One of them cannot be written as JSON: it must not take the others with it.
                return [told for job in jobs for told in self._store([job])]
            error = MemoError(f"memo row {jobs[0].name!r} cannot be stored: {exc!r}")
            error.__cause__ = exc
        return [(job, error) for job in jobs]

    def _commit(self, jobs: list[Job]) -> None:
        # Entries of this moment: others may come while the transaction runs.
        spilled = [entry for entries in self._overflow.entries.values() for entry in entries]
        try:
            if self._access.transact(lambda con: self._write(con, jobs, spilled)) is not None:
                if spilled:
                    self._overflow.forget()
                return
        except sqlite3.Error as exc:  # the disk is full
            kept = None
            with contextlib.suppress(OSError):  # a small file may still fit, and all are paid
                kept = self._overflow.write(_additions(jobs))
            raise self._full(jobs, exc, kept) from exc
        try:
            self._overflow.write(_additions(jobs))
        except OSError as exc:
            raise self._full(jobs, exc, None) from exc

    def _full(self, jobs: list[Job], cause: Exception, kept: Path | None) -> MemoError:
        additions = _additions(jobs)
        n_bytes = sum(len(dump(body)) for _, body in additions)
        where = f"They are kept in {kept} until there is room" if kept else "They are lost"
        return MemoError(
            f"the memo {self._access.path} could not take {n_bytes} bytes ({len(additions)} "
            f"answers): {cause}. {where}. Free space on that disk, or choose another folder with "
            "options.home or the variable DATAFAST_NB_HOME, and run again"
        )

    def _write(
        self, con: sqlite3.Connection, jobs: Sequence[Job], spilled: Sequence[tuple[str, Body]]
    ) -> None:
        names = [job.name for job in jobs]
        names += [f"{key_of(job.name)}/{job.of_label}" for job in jobs if job.of_label]
        for name, body in spilled:
            names.append(name)
            if "of" in body:
                names.append(f"{key_of(name)}/{body['of']}")
        rows = Rows(self.load_bodies(con, names))
        for name, body in spilled:
            rows.absorb(name, body)
        for job in jobs:
            if job.reply is not None:
                rows.add_reply(job.name, job.reply, job.identity or {}, own=job.own)
            elif job.of_label is not None:
                rows.add_link(job.name, job.of_label)
            for name, body in (job.spend or {}).items():
                rows.absorb(name, body)
        write_rows(con, rows)

    def choose(self, con: sqlite3.Connection, picks: Mapping[str, int]) -> None:
        """Row name → index of the reply that answers from now on. To be called in a transaction."""
        rows = Rows(self.load_bodies(con, picks))
        for name, index in picks.items():
            rows.choose(name, index)
        write_rows(con, rows)

    def load_bodies(self, con: sqlite3.Connection, names: Iterable[str]) -> dict[str, Body]:
        """Rows of those names and what they link to; damaged ones are moved to a file.

        To be called in a transaction.
        """
        bodies: dict[str, Body] = {}
        bad: list[tuple[str, object]] = []
        wanted = list(dict.fromkeys(names))
        while wanted:
            targets: dict[str, None] = {}
            for i, value in select(con, wanted):
                name = wanted[i]
                try:
                    if name.startswith("!"):
                        bodies[name] = unseal(value, name)
                        continue
                    body = read_body(value, name)
                    if "of" in body:
                        targets[f"{key_of(name)}/{body['of']}"] = None
                    else:
                        read_replies(body)
                    bodies[name] = body
                except DamagedRowError:
                    bad.append((name, value))
            wanted = [name for name in targets if name not in bodies]
        if bad:
            self._warn(bad_rows_message(self._access.path))
            self._overflow.keep_damaged(self._access.directory / _BAD_ROWS, bad)
            con.executemany(
                "DELETE FROM Cache WHERE key = ? AND raw = 1", [(name,) for name, _ in bad]
            )
        return bodies


def bad_rows_message(path: Path) -> str:
    """The warning on rows that fail their checksum."""
    return (
        f"the memo {path} has rows whose checksum is wrong; they are moved to {_BAD_ROWS} "
        "beside it and asked again when needed"
    )


def select(con: sqlite3.Connection, names: Sequence[str]) -> list[tuple[int, bytes]]:
    """(Index in `names`, sealed value) of the rows that exist."""
    found: list[tuple[int, bytes]] = []
    for i in range(0, len(names), _BULK):
        part = con.execute(_SELECT, (orjson.dumps(names[i : i + _BULK]).decode(),)).fetchall()
        found += [(i + n, value) for n, value in part] if i else part
    return found


def write_rows(con: sqlite3.Connection, rows: Rows) -> None:
    """Store the changed rows in the open transaction."""
    now = time.time()
    bodies = rows.bodies
    con.executemany(
        database.INSERT, [(name, now, seal(name, dump(bodies[name]))) for name in rows.changed]
    )


def _additions(jobs: Iterable[Job]) -> list[tuple[str, Body]]:
    found = [(job.name, body) for job in jobs if (body := job.addition()) is not None]
    spent: dict[str, Body] = {}
    for job in jobs:
        spent.update(job.spend or {})
    return [*found, *spent.items()]
