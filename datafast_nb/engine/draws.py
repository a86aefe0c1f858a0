"""Which stored draw answers a call: its own, else one whose row is gone.

A draw is named by the record that asked (its source row, and its place among the row's
children) and the rank among that record's identical requests, so that duplicates and several
outputs get answers of their own and nothing moves when rows come or go, or run alone. Under an
edited source the rows have other identities; their former draws, which no
row can claim any more, are adopted in input order rather than paid again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.lineage import base_row
from datafast_nb.store.memo import Draw, Reply

SHARED = "~"
"""Label of the one draw that all share at temperature 0."""

Spot = tuple[str, str]
"""A draw's place in the memo: (key, label)."""


def draw_label(
    ranks: dict[tuple[str, str], int],
    key: str,
    row_id: str,
    *,
    is_shared: bool,
    generation: int,
) -> str:
    """Label of the next draw of `row_id` under `key`; counts it in `ranks`."""
    if is_shared:
        label = SHARED
    else:
        rank = ranks.get((key, row_id), 0)
        ranks[key, row_id] = rank + 1
        label = f"{row_id}.{rank}"
    return f"{label}.g{generation}" if generation else label


def find_draws(
    ctx: RunContext, wanted: Sequence[Spot]
) -> tuple[list[Draw | None], dict[int, list[Draw]]]:
    """The draws that answer the calls at `wanted`, which stand in input order.

    Returns
    -------
    tuple
        For each place its own draw, or one adopted from a row that is gone, or None. And, for
        some of the None, draws of the same row under other places (a step before was edited):
        whether they are free is known when all calls of the step are planned (`adopt`).
    """
    found = ctx.memo.get_many(wanted)
    for i, draw in enumerate(found):
        if draw is None:
            continue
        if draw.label != wanted[i][1] and _owner_is_back(ctx, draw.label, wanted[i][1]):
            found[i] = None
        else:
            ctx.claimed.add((draw.key, draw.label))
    missing = {spot[0] for spot, draw in zip(wanted, found, strict=True) if draw is None}
    stored = ctx.memo.stored(missing) if missing else {}
    rows = ctx.all_rows() if stored else None
    doubtful: dict[int, list[Draw]] = {}
    if rows is None:
        return found, doubtful
    for i, spot in enumerate(wanted):
        if found[i] is not None:
            continue
        name = _Name.of(spot[1])
        gone, moved = [], []
        for draw in stored.get(spot[0], ()):
            if (draw.key, draw.label) in ctx.claimed:
                continue
            names = [_Name.of(known) for known in draw.labels or (draw.label,)]
            if any(n.row == SHARED or n.generation != name.generation for n in names):
                continue
            if all(n.row not in rows for n in names):
                gone.append(draw)
            elif all(n.row not in rows or (n.row, n.rank) == (name.row, name.rank) for n in names):
                moved.append(draw)
        gone.sort(key=lambda d: d.replies[0].created)  # in the order in which they were asked
        found[i] = adopt(ctx, spot, gone)
        if found[i] is None and moved:
            doubtful[i] = moved
    return found, doubtful


NO_ANSWER = ("refused", "cut")
"""Verdicts on replies that are not read again, whatever a step takes for an answer today."""


def answers_of(ctx: RunContext, spot: Spot, draw: Draw) -> Iterator[Reply]:
    """Replies that may answer a call: the chosen one, then from the latest back."""
    first = ctx.settings.redraw.get(spot, 0)
    if draw.chosen is not None and draw.chosen >= first:
        yield draw.replies[draw.chosen]
    for reply in reversed(draw.replies[first:]):
        if reply.verdict not in NO_ANSWER:
            yield reply


def _owner_is_back(ctx: RunContext, owner: str, label: str) -> bool:
    """The row whose draw `label` has taken over is in the source again: each needs its own."""
    row = _Name.of(owner).row
    if row == _Name.of(label).row:
        return False
    rows = ctx.all_rows()
    return rows is not None and row in rows


def adopt(ctx: RunContext, spot: Spot, candidates: Sequence[Draw]) -> Draw | None:
    """The first of the candidates that this run does not use yet; it gets the label as well."""
    for draw in candidates:
        if (draw.key, draw.label) not in ctx.claimed:
            ctx.claimed.add((draw.key, draw.label))
            if not ctx.settings.dry and ctx.memo.mode != "replay":
                ctx.memo.link(spot[0], spot[1], draw.label)
            return draw
    return None


@dataclass(frozen=True, slots=True)
class _Name:
    """A label taken apart: "ab12-1:3-2.0.g2"."""

    row: str
    """Of the source row: "ab12-1"."""
    rank: str
    generation: str

    @classmethod
    def of(cls, label: str) -> _Name:
        identity, *rest = label.split(".")
        row = base_row(identity)
        generation = rest[-1] if rest and rest[-1].startswith("g") else ""
        rank = rest[0] if rest and not rest[0].startswith("g") else ""
        return cls(row, rank, generation)


@dataclass(frozen=True, slots=True)
class _Claim:
    owner: Any
    others: list[tuple[SimpleQueue[Any], Any]]
    """Who waits for its end."""


class Asking:
    """Draws being asked for in this process, over all runs: one request per draw at a time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start with nothing asked for."""
        self._lock = threading.Lock()
        self._claims: dict[tuple[str, Spot], _Claim] = {}
        self.n_ended = 0
        """Draws that are not asked for any more, since the process began."""

    def claim(self, memo: str, spot: Spot, queue: SimpleQueue[Any], waiter: Any) -> bool:
        """True: ask. False: someone does; `waiter` comes through `queue` when they have ended."""
        with self._lock:
            theirs = self._claims.get((memo, spot))
            if theirs is None:
                self._claims[memo, spot] = _Claim(waiter, [])
                return True
            theirs.others.append((queue, waiter))
            return False

    def release(self, memo: str, spot: Spot, owner: Any) -> bool:
        """The draw has been asked for, or given up; False where `owner` has no claim on it."""
        with self._lock:
            claim = self._claims.get((memo, spot))
            if claim is None or claim.owner is not owner:
                return False
            del self._claims[memo, spot]
            self.n_ended += 1
        for queue, waiter in claim.others:
            queue.put(waiter)
        return True

    def __len__(self) -> int:
        return len(self._claims)


asking = Asking()
if hasattr(os, "register_at_fork"):
    # What the parent asks for, the parent asks for.
    os.register_at_fork(after_in_child=asking.forget)
