"""The memo: every paid reply, on disk before anyone sees it, and used again.

Here are look-ups, the writer thread and what happens when the database cannot be written.
Keys are in `store/keys.py`, rows in `store/rows.py`, the file in `store/database.py`, files
that move answers between people in `store/exchange.py`. Which draw of a key a row uses is
the engine's decision: here labels are opaque.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Document
from datafast_nb.errors import MemoError
from datafast_nb.options import home, options, shown_path
from datafast_nb.options import mode as mode_in_force
from datafast_nb.store import database
from datafast_nb.store.access import Access
from datafast_nb.store.folders import risky_folder
from datafast_nb.store.keys import KEY_FIELDS, KEY_VERSION, RequestKeys
from datafast_nb.store.memoinfo import MemoInfo, folder_bytes, look, most_first
from datafast_nb.store.overflow import Overflow
from datafast_nb.store.rows import (
    Body,
    DamagedRowError,
    Draw,
    Reply,
    Rows,
    chosen_of,
    dump,
    fold_links,
    key_of,
    read_body,
    read_replies,
    row_name,
    seal,
    unseal,
)
from datafast_nb.store.writer import Done, Job, Writer, bad_rows_message, select

__all__ = [
    "KEY_FIELDS",
    "KEY_VERSION",
    "Draw",
    "Memo",
    "MemoInfo",
    "Reply",
    "RequestKeys",
    "close_memos",
    "open_memo",
]

T = TypeVar("T")

_BULK = 1000  # keys in one statement
_META = "!meta/"

# "0" is the character after "/".
_SELECT_UNDER = (
    "SELECT c.key, c.value FROM json_each(?) AS w CROSS JOIN Cache AS c"
    " ON c.key >= w.value || '/' AND c.key < w.value || '0' AND c.raw = 1 AND c.mode = 1"
    " ORDER BY c.rowid"
)


class Memo(Shown):
    """A store of paid replies, shared by threads and processes.

    Parameters
    ----------
    directory
        Folder of the memo; made where it is missing, except in replay mode.
    mode
        "normal" or "replay"; in replay nothing is written.
    lock_wait_s
        Seconds to wait, in all, for a lock that another process does not give back. After
        that replies go to files beside the database, and are merged when the lock is free.
    warn
        Takes warnings, each once; may be called on the writer thread. None: Python's
        `warnings.warn`.

    Raises
    ------
    MemoError
        If the folder cannot be used, a newer version wrote it, or replay mode finds nothing.
    """

    def __init__(
        self,
        directory: Path,
        *,
        mode: str = "normal",
        lock_wait_s: float = 30.0,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        if mode not in ("normal", "replay"):
            raise ValueError(f"mode is {mode!r}; use 'normal' or 'replay'")
        self.path = Path(directory).expanduser().resolve()
        self.mode = mode
        is_replay = mode == "replay"
        self._access = Access(self.path, read_only=is_replay, lock_wait_s=lock_wait_s, warn=warn)
        self._overflow = Overflow(self.path)
        self._writer = Writer(self._access, self._overflow)
        if not is_replay:
            database.prepare_folder(self.path)
            risk = risky_folder(self.path)
            if risk:
                self._access.warn(risk)
        elif not self._access.path.is_file():
            raise MemoError(
                f"mode is 'replay', and there is no memo in {self.path}. Record one in mode "
                "'normal', or load an export there: memo.load('calls.jsonl')"
            )
        _memos.add(self)
        try:
            self._access.read(lambda con: None, None)
            if not is_replay:
                self._access.open_writer()
            for message in self._overflow.read():
                self._access.warn(message)
            self._writer.flush()
        except BaseException:
            self._access.close()
            raise

    def __repr__(self) -> str:
        return f"Memo({shown_path(self.path)!r}, mode={self.mode!r})"

    def get_many(self, wanted: Sequence[tuple[str, str]]) -> list[Draw | None]:
        """Stored draws for exact (key, label) pairs, in order; None where there is none.

        A pair that is a link gives the draw it stands for.
        """
        out: list[Draw | None] = [None] * len(wanted)
        # Before the database is asked: a merge in between moves answers there.
        waiting = self._overflow.entries
        names = [f"{key}/{label}" for key, label in wanted]
        places: Sequence[int] = range(len(names))
        for _ in range(2):  # the second time for the targets of links
            links: list[int] = []
            link_names: list[str] = []
            for i, value in self._fetch(names):
                place = places[i]
                key = wanted[place][0]
                try:
                    body = read_body(value, names[i])
                    of = body.get("of")
                    if of is None:
                        label = names[i][len(key) + 1 :]
                        out[place] = _draw(key, (label,), body)
                    else:
                        links.append(place)
                        link_names.append(f"{key}/{of}")
                except DamagedRowError:
                    self._report_bad_row(names[i])
            if not links:
                break
            names, places = link_names, links
        if waiting:
            self._add_waiting(wanted, waiting, out)
        return out

    def _add_waiting(
        self,
        wanted: Sequence[tuple[str, str]],
        waiting: Mapping[str, object],
        out: list[Draw | None],
    ) -> None:
        keys = {key for key, _ in wanted if key in waiting}
        by_label = {
            (key, label): draw
            for key, draws in self.stored(keys).items()
            for draw in draws
            for label in draw.labels
        }
        for i, (key, label) in enumerate(wanted):
            if key in keys and (draw := by_label.get((key, label))) is not None:
                out[i] = replace(draw, labels=(draw.label,))

    def stored(self, keys: Iterable[str]) -> dict[str, list[Draw]]:
        """All draws under those of `keys` that have any, in order of storing."""
        asked = list(dict.fromkeys(keys))

        def select_under(con: sqlite3.Connection) -> list[tuple[str, bytes]]:
            found = []
            for i in range(0, len(asked), _BULK):
                part = orjson.dumps(asked[i : i + _BULK]).decode()
                found += con.execute(_SELECT_UNDER, (part,)).fetchall()
            return found

        waiting = self._overflow.entries
        none: list[tuple[str, bytes]] = []
        bodies: dict[str, dict[str, Body]] = {}
        for name, value in self._access.read(select_under, none):
            try:
                body = read_body(value, name)
                if "r" in body:
                    body["r"] = list(read_replies(body))
            except DamagedRowError:
                self._report_bad_row(name)
                continue
            bodies.setdefault(key_of(name), {})[name] = body
        if waiting:
            for key in asked:
                if key in waiting:
                    rows = Rows(bodies.setdefault(key, {}))
                    for name, body in waiting[key]:
                        rows.absorb(name, body)
        return {
            key: draws
            for key, under in bodies.items()
            if (draws := [_draw(key, labels, body) for labels, body in fold_links(under)])
        }

    def put(
        self,
        key: str,
        label: str,
        reply: Reply,
        *,
        identity: Mapping[str, str],
        done: Done,
        own: bool = False,
        spend: Mapping[str, Body] | None = None,
    ) -> None:
        """Append a paid reply to a draw; returns at once.

        A reply under a label that was linked to another draw joins that draw, unless `own`:
        then the label gets a draw of its own and the link is forgotten.

        `spend`: rows of `store/spend.py`, stored with the reply or not at all. `done` is called
        on the writer thread when the reply is safe on disk, or with the error if it is not.
        """
        self._check_writable("a reply was to be stored")
        self._writer.add(Job(row_name(key, label), reply, identity, done, own=own, spend=spend))

    def note_spend(self, rows: Mapping[str, Body]) -> None:
        """Store rows of `store/spend.py`; returns at once."""
        self._check_writable("spending was to be noted")
        if rows:
            self._writer.add(Job("", spend=rows))

    def read(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Run `work` on the reading connection; `default` where the database is out of reach."""
        return self._access.read(work, default)

    def waiting(self, key: str) -> list[tuple[str, Body]]:
        """Rows under a key in files beside the database, to be merged."""
        return list(self._overflow.entries.get(key, ()))

    def link(self, key: str, label: str, of_label: str) -> None:
        """Let `label` stand for the stored draw `of_label` of the same key as well.

        Returns at once. A label that has a draw of its own keeps it.
        """
        self._check_writable("a draw was to be adopted")
        row_name(key, of_label)
        self._writer.add(Job(row_name(key, label), of_label=of_label))

    def choose(self, picks: Mapping[tuple[str, str], int]) -> None:
        """Let a reply that is not the latest answer: (key, label) → its index in `Draw.replies`.

        On disk when this returns. A reply that comes later counts again.

        Raises
        ------
        MemoError
            If there is no such reply, or the database cannot be written.
        """
        self._check_writable("a draw was to be chosen")
        self.flush()
        names = {row_name(key, label): index for (key, label), index in picks.items()}
        self._access.change(lambda con: self._writer.choose(con, names))

    def flush(self) -> None:
        """Wait until everything queued is stored (or has failed)."""
        self._writer.flush()

    def close(self) -> None:
        """Store what is queued and let go of the files. The memo cannot be used after."""
        if self._access.closed:
            return
        self.flush()
        self._access.closed = True
        self._access.close()
        with _opening:
            for place, memo in list(_opened.items()):
                if memo is self:
                    del _opened[place]

    def info(self) -> MemoInfo:
        """Counts and sizes; reads every row."""
        from datafast_nb.store.exchange import walk

        by_model: dict[str, int] = {}
        by_verdict: dict[str, int] = {}
        times: list[float] = []
        n_draws = 0
        for _, _, body in walk(self._access, self._writer, self._overflow):
            n_draws += 1
            identity = body.get("i") or {}
            model = f"{identity.get('provider', '?')}/{identity.get('model', '?')}"
            for reply in read_replies(body):
                by_model[model] = by_model.get(model, 0) + 1
                by_verdict[reply.verdict] = by_verdict.get(reply.verdict, 0) + 1
                times.append(reply.created)
        return MemoInfo(
            path=self.path,
            n_bytes=folder_bytes(self.path),
            n_draws=n_draws,
            n_replies=len(times),
            by_model=most_first(by_model),
            by_verdict=most_first(by_verdict),
            oldest=min(times, default=None),
            newest=max(times, default=None),
            warnings=tuple(self._access.said),
            mode=self.mode,
        )

    def view(self) -> Document:
        """Plain data for display: what can be told without reading every row."""
        return look(
            self.path,
            warnings=tuple(self._access.said),
            n_waiting=sum(map(len, self._overflow.entries.values())),
            mode=self.mode,
        ).view()

    def export(self, path: str | Path, *, models: Sequence[str] | None = None) -> int:
        """Write draws to a JSON Lines file, in order of storing; returns their number.

        Parameters
        ----------
        path
            The file; replaced as a whole, or left as it was.
        models
            Model ids, or "provider/model"; None: all.
        """
        from datafast_nb.store.exchange import export_draws, walk

        draws = walk(self._access, self._writer, self._overflow)
        return export_draws(draws, Path(path), models)

    def load(self, path: str | Path) -> int:
        """Merge an exported file, all or nothing; no stored reply is dropped or doubled.

        Returns
        -------
        int
            Number of draws that are new or gained replies.

        Raises
        ------
        MemoError
            Naming the line that is no draw; nothing of the file is then stored.
        """
        from datafast_nb.store.exchange import load_draws

        self._check_writable(f"{path} was to be loaded")
        return load_draws(self._access, self._writer, Path(path))

    def get_meta(self, name: str) -> Any:
        """The JSON value stored by `set_meta`, or None."""
        row = _META + name
        found = self._fetch([row])
        if not found:
            return None
        try:
            return unseal(found[0][1], row)
        except DamagedRowError:
            self._report_bad_row(row)
            return None

    def set_meta(self, name: str, value: Any) -> None:
        """Store a small JSON value; it is on disk when this returns.

        Raises
        ------
        MemoError
            If it is no JSON, or the database cannot be written within `lock_wait_s`.
        """
        self._check_writable(f"{name!r} was to be noted")
        row = _META + name
        if row == database.FORMAT_ROW:
            raise MemoError(f"the name {name!r} is the memo's own; choose another")
        try:
            sealed = seal(row, dump(value))
        except TypeError as exc:
            raise MemoError(f"the value of {name!r} cannot be written as JSON: {exc}") from exc

        def store(con: sqlite3.Connection) -> None:
            con.execute(database.INSERT, (row, time.time(), sealed))

        self._access.change(store)

    def _fetch(self, names: Sequence[str]) -> list[tuple[int, bytes]]:
        none: list[tuple[int, bytes]] = []
        return self._access.read(lambda con: select(con, names), none)

    def _report_bad_row(self, name: object) -> None:
        if self.mode == "replay" or not isinstance(name, str):
            self._access.warn(
                f"the memo {self._access.path} has rows whose checksum is wrong; they count as "
                "missing"
            )
        else:
            self._writer.add(Job(name))  # it looks again, in a transaction, and moves the row
            self._access.warn(bad_rows_message(self._access.path))

    def _check_writable(self, what: str) -> None:
        if self.mode == "replay":
            raise MemoError(
                f"{what}, but the memo {self.path} is open in mode 'replay', which only reads; "
                "use mode 'normal' (options.mode or DATAFAST_NB_MODE)"
            )

    def _before_fork(self) -> None:
        self._access.before_fork()

    def _after_fork_in_parent(self) -> None:
        self._access.after_fork_in_parent()

    def _after_fork_in_child(self) -> None:
        self._access.after_fork_in_child()
        self._writer.reset()


def _draw(key: str, labels: tuple[str, ...], body: Body) -> Draw:
    return Draw(key, labels[0], read_replies(body), labels, chosen_of(body))


_opened: dict[tuple[Path, str], Memo] = {}
_opening = threading.RLock()
_memos: weakref.WeakSet[Memo] = weakref.WeakSet()
_not_ours: list[sqlite3.Connection] = []


def open_memo(directory: Path | None = None, *, mode: str | None = None) -> Memo:
    """The memo in `directory`, one object per folder, mode and process.

    None: the folder `memo` in `options.home()`, and `options.mode()`.

    Raises
    ------
    MemoError
        See `Memo`.
    """
    folder = Path(directory).expanduser().resolve() if directory else home() / "memo"
    place = folder, mode or mode_in_force()
    with _opening:
        memo = _opened.get(place)
        if memo is None:
            wait_s = options.lock_wait_s
            memo = _opened[place] = Memo(folder, mode=place[1], lock_wait_s=wait_s)
        return memo


def close_memos() -> None:
    """Store what is queued and close every memo of this process."""
    for memo in list(_memos):
        with contextlib.suppress(Exception):
            memo.close()


atexit.register(close_memos)
if hasattr(os, "register_at_fork"):

    def _each(method: Callable[[Memo], None]) -> Callable[[], None]:
        def run() -> None:
            for memo in list(_memos):
                method(memo)

        return run

    def _new_locks() -> None:
        global _opening
        _opening = threading.RLock()
        database.forget_locks()

    os.register_at_fork(
        before=_each(Memo._before_fork),
        after_in_parent=_each(Memo._after_fork_in_parent),
        after_in_child=_each(Memo._after_fork_in_child),
    )
    os.register_at_fork(after_in_child=_new_locks)
