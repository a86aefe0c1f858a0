"""Which stored draw answers a call: its own, else one whose row is gone.

A draw is named by the row that asked and its rank among that row's identical requests, so
that duplicates and several outputs get answers of their own and nothing moves when rows come
or go. Under an edited source the rows have other identities; their former draws, which no
row can claim any more, are adopted in input order rather than paid again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.store.memo import Draw

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


def split_label(label: str) -> tuple[str, str]:
    """Row identity and generation of a label: "ab12-1.0.g2" → ("ab12-1", "g2")."""
    parts = label.split(".")
    generation = parts[-1] if len(parts) > 1 and parts[-1].startswith("g") else ""
    return parts[0], generation


def find_draws(ctx: RunContext, wanted: Sequence[Spot]) -> list[Draw | None]:
    """For each place in input order the draw that answers it, own or adopted; None: to be asked."""
    found = ctx.memo.get_many(wanted)
    for draw in found:
        if draw is not None:
            ctx.claimed.add((draw.key, draw.label))
    missing = {spot[0] for spot, draw in zip(wanted, found, strict=True) if draw is None}
    if not missing:
        return found
    stored = ctx.memo.stored(missing)
    rows = ctx.all_rows() if stored else None
    if rows is None:
        return found
    for i, (key, label) in enumerate(wanted):
        if found[i] is not None:
            continue
        draw = _orphan(ctx, label, stored.get(key, ()), rows)
        if draw is None:
            continue
        found[i] = draw
        ctx.claimed.add((key, draw.label))
        if not ctx.settings.dry and ctx.memo.mode != "replay":
            ctx.memo.link(key, label, draw.label)
    return found


def _orphan(
    ctx: RunContext, label: str, candidates: Sequence[Draw], rows: frozenset[str]
) -> Draw | None:
    _, generation = split_label(label)
    for draw in candidates:
        if (draw.key, draw.label) in ctx.claimed:
            continue
        parts = [split_label(known) for known in draw.labels or (draw.label,)]
        if all(row not in rows and row != SHARED and g == generation for row, g in parts):
            return draw
    return None


class Asking:
    """Draws being asked for in this process, over all runs: one request per draw at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, Spot], list[tuple[SimpleQueue[Any], Any]]] = {}

    def claim(self, memo: str, spot: Spot, queue: SimpleQueue[Any], waiter: Any) -> bool:
        """True: ask. False: someone does; `waiter` comes through `queue` when they have ended."""
        with self._lock:
            others = self._waiting.get((memo, spot))
            if others is None:
                self._waiting[memo, spot] = []
                return True
            others.append((queue, waiter))
            return False

    def release(self, memo: str, spot: Spot) -> None:
        """The draw has been asked for, or given up."""
        with self._lock:
            others = self._waiting.pop((memo, spot), [])
        for queue, waiter in others:
            queue.put(waiter)


asking = Asking()
