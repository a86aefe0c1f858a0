"""What was spent on calls: noted beside the answers, in the commits that store them.

Each run has a row per day, step and model that grows with its calls. A row holds sums since the
run began, so that the one with the most calls is right wherever two versions of it meet.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol

from datafast_nb.errors import MemoError
from datafast_nb.store.ledger import LedgerLine
from datafast_nb.store.memo import Memo, Reply
from datafast_nb.store.rows import SPEND, Body, DamagedRowError, spend_number, unseal


class Asked(Protocol):
    """What is noted of a model."""

    @property
    def name(self) -> str:
        """Its id."""

    @property
    def provider(self) -> str:
        """Who serves it."""


@dataclass(slots=True)
class Sums:
    """Sums over the calls of one run, day, step and model, as they are stored.

    Dollars are those that are known; `*_unpriced` counts the calls behind unknown ones.
    """

    step: str
    provider: str
    model: str
    n: int = 0
    """Times that something was added."""
    calls: int = 0
    """Replies that came, and calls that were lost on the way."""
    lost: int = 0
    """Calls without a reply that may have been billed; at the most that they can cost."""
    unusable: int = 0
    """Replies that could not be used."""
    answered: int = 0
    """Answers from disk."""
    input_tokens: int = 0
    output_tokens: int = 0
    paid: float = 0.0
    paid_unpriced: int = 0
    wasted: float = 0.0
    wasted_unpriced: int = 0
    saved: float = 0.0
    saved_unpriced: int = 0
    charged: float = 0.0
    """What counts against budgets: as `paid`, with the most it can be where that is unknown."""


_SUM_FIELDS = tuple(f.name for f in fields(Sums))


def today() -> str:
    """The local date, as in "2026-11-22"."""
    return time.strftime("%Y-%m-%d")


_own: set[str] = set()
"""Runs of this process."""


def new_run_id() -> str:
    """A name for a run: when it began, local time, and some random digits."""
    now = time.time()
    begun = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    run_id = f"{begun}.{int(now % 1 * 1000):03d}-{secrets.token_hex(2)}"
    _own.add(run_id)
    return run_id


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own.clear)


class SpendBook:
    """The spending of one run. Used from the engine's loop and from the run's thread."""

    def __init__(self, memo: Memo, run_id: str) -> None:
        self.run_id = run_id
        self._memo = memo
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, str, str, str], Sums] = {}
        self._names: dict[tuple[str, str, str, str], str] = {}
        self._changed: dict[tuple[str, str, str, str], None] = {}

    def add_reply(
        self, step: str, model: Asked, reply: Reply, usd: float, charged: float, *, is_usable: bool
    ) -> None:
        """A reply came; `take` gives the rows to store with it. `usd` is NaN where unknown."""
        with self._lock:
            sums = self._find(step, model.provider, model.name)
            sums.calls += 1
            sums.input_tokens += reply.input_tokens or 0
            sums.output_tokens += reply.output_tokens or 0
            sums.charged += charged
            if usd == usd:
                sums.paid += usd
            else:
                sums.paid_unpriced += 1
            if is_usable:
                return
            sums.unusable += 1
            if usd == usd:
                sums.wasted += usd
            else:
                sums.wasted_unpriced += 1

    def add_lost(self, step: str, model: Asked, usd: float) -> None:
        """A call was lost that may have been billed; stored soon."""
        with self._lock:
            sums = self._find(step, model.provider, model.name)
            sums.calls += 1
            sums.lost += 1
            if usd == usd:
                sums.paid += usd
                sums.wasted += usd
                sums.charged += usd
            else:
                sums.paid_unpriced += 1
                sums.wasted_unpriced += 1
        self._store()

    def add_saved(self, lines: Iterable[tuple[LedgerLine, str]]) -> None:
        """Answers from disk that a run has used, with the providers of their models."""
        with self._lock:
            for line, provider in lines:
                if not line.answered or line.saved_usd == 0:
                    continue
                sums = self._find(line.step, provider, line.model)
                sums.answered += line.answered
                if line.saved_usd == line.saved_usd:
                    sums.saved += line.saved_usd
                else:
                    sums.saved_unpriced += line.answered
        self._store()

    def take(self) -> dict[str, Body]:
        """Rows that have changed since they were taken, as they are now."""
        with self._lock:
            changed, self._changed = self._changed, {}
            # Not `asdict`, which copies deeply: this is done at every call.
            return {
                self._names[spot]: {"spend": {f: getattr(self._sums[spot], f) for f in _SUM_FIELDS}}
                for spot in changed
            }

    def _store(self) -> None:
        rows = self.take()
        # The memo is closed or only read: what is lost here is a note, not an answer.
        with contextlib.suppress(MemoError):
            self._memo.note_spend(rows)

    def _find(self, step: str, provider: str, model: str) -> Sums:
        spot = (today(), step, provider, model)
        sums = self._sums.get(spot)
        if sums is None:
            sums = self._sums[spot] = Sums(step, provider, model)
            self._names[spot] = f"{SPEND}/{spot[0]}/{self.run_id}/{len(self._sums)}"
        sums.n += 1
        self._changed[spot] = None
        return sums


def stored_spend(memo: Memo, day: str = "") -> list[tuple[str, str, Sums]]:
    """(Day, run, sums) of all that is stored, or of one day, in order of days and runs."""
    first = f"{SPEND}/{day}/" if day else f"{SPEND}/"
    last = first[:-1] + "0"  # the character after "/"

    def select(con: sqlite3.Connection) -> list[tuple[str, bytes]]:
        return con.execute(
            "SELECT key, value FROM Cache WHERE key >= ? AND key < ? AND raw = 1 AND mode = 1",
            (first, last),
        ).fetchall()

    waiting = memo.waiting(SPEND)  # before the database is asked: a merge moves them there
    none: list[tuple[str, bytes]] = []
    bodies: dict[str, Body] = {}
    for name, value in memo.read(select, none):
        with contextlib.suppress(DamagedRowError):
            bodies[name] = unseal(value, name)
    for name, body in waiting:
        if name.startswith(first) and spend_number(body) > spend_number(bodies.get(name)):
            bodies[name] = body
    found = []
    for name, body in sorted(bodies.items()):
        _, stored_day, run, _ = name.split("/")
        sums = _read(body)
        if sums is not None:
            found.append((stored_day, run, sums))
    return found


def _read(body: Any) -> Sums | None:
    """Sums from a stored row; fields of later versions are left out."""
    try:
        return Sums(**{k: v for k, v in body["spend"].items() if k in _SUM_FIELDS})
    except (TypeError, KeyError, AttributeError):
        return None


def spent_elsewhere(memo: Memo, day: str) -> float:
    """Dollars that other processes have charged on a day."""
    return sum(sums.charged for _, run, sums in stored_spend(memo, day) if run not in _own)
