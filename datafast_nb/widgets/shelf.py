"""What a panel shows: one Result, or the records that were run one by one, and their tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datafast_nb.call_view import when
from datafast_nb.engine.preview import Preview, PreviewRow
from datafast_nb.records import Record
from datafast_nb.results import Result
from datafast_nb.runs import CallError, StepRun
from datafast_nb.steps.base import SinkStep
from datafast_nb.store.ledger import Ledger
from datafast_nb.widgets.board import FINAL
from datafast_nb.widgets.rows import StepTable

MAX_TRIES = 1_000
"""Records that were run one by one and are shown together."""


@dataclass(frozen=True)
class Part:
    """A Result that is shown."""

    result: Result
    key: object = None
    """Which record, where it is a run of one; None: a run of many."""
    changes: Mapping[str, Any] | None = None
    """Edits of the draft that ran; None: not known."""
    at: float = 0.0
    """Unix time in seconds."""


class Shelf:
    """Results and their tables. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._parts: list[Part] = []
        self._tables: dict[str, StepTable] = {}
        self._preview: Preview | None = None
        self._growing: tuple[str, list[Record], list[str]] | None = None
        self._failures: tuple[int, int] | None = None
        self.version = 0
        """Higher after every change of what is shown."""

    @property
    def parts(self) -> list[Part]:
        """What is shown, in order."""
        with self._lock:
            return list(self._parts)

    @property
    def results(self) -> list[Result]:
        """Results that came from runs."""
        return [p.result for p in self.parts if p.result._info is not None]

    @property
    def is_whole(self) -> bool:
        """One Result of a run of many is shown."""
        parts = self.parts
        return len(parts) == 1 and parts[0].key is None

    @property
    def steps(self) -> list[list[StepRun]]:
        """What the runs did, Result by Result."""
        return [r.info.steps for r in self.results]

    @property
    def ledger(self) -> Ledger:
        """The bill of all that is shown."""
        ledgers = [r.ledger for r in self.results]
        if len(ledgers) == 1:
            return ledgers[0]
        lines: dict[tuple[str, str], Any] = {}
        for line in Ledger.joined(ledgers).lines:
            spot = (line.step, line.model)
            if spot in lines:
                lines[spot].add(line)
            else:
                lines[spot] = line
        return Ledger(list(lines.values()), ledgers[-1].prices if ledgers else "")

    def n_failed(self) -> int:
        """Failed calls, counted once for what is shown."""
        with self._lock:
            if self._failures is None or self._failures[0] != self.version:
                errors = [(k, e) for k, r in enumerate(self.results) for e in r.errors]
                self._failures = (self.version, len(_once_each(errors)))
            return self._failures[1]

    # Changes.

    def show(self, parts: Sequence[Part]) -> None:
        """Show these in place of all others."""
        with self._lock:
            self._parts = list(parts)
            self._growing = None
            self._changed()

    def add_try(self, part: Part) -> int:
        """Add a run of one record, in the place of an earlier one of the same; its number."""
        with self._lock:
            kept = self._parts
            if any(p.key is None or p.changes != part.changes for p in kept):
                kept = []  # other prompts: never mixed in one table
            places = [i for i, p in enumerate(kept) if p.key == part.key]
            if places:
                kept = [*kept[: places[0]], part, *kept[places[0] + 1 :]]
            else:
                kept = [*kept, part][-MAX_TRIES:]
            self._parts = kept
            self._changed()
            return next(i for i, p in enumerate(kept) if p is part)

    def replace(self, result: Result, by: Part) -> None:
        """Show another Result in the place of one."""
        with self._lock:
            self._parts = [by if p.result is result else p for p in self._parts]
            self._changed()

    def preview(self, preview: Preview | None) -> None:
        """Show a preview where there are no records."""
        with self._lock:
            self._preview = preview
            self._changed()

    def grow(self, step: str, records: list[Record], statuses: list[str]) -> None:
        """Show what a step of the run that goes on has made so far, as "final"."""
        with self._lock:
            self._growing = step, records, statuses
            self._changed()

    def stop_growing(self) -> None:
        """The run is over: show again what was shown before it."""
        with self._lock:
            if self._growing is not None:
                self._growing = None
                self._changed()

    @property
    def growing(self) -> str:
        """The step whose records are shown while its run goes on; "" where none are."""
        growing = self._growing
        return growing[0] if growing is not None else ""

    def _changed(self) -> None:
        self.version += 1
        self._tables = {}

    # Tables.

    def sizes(self) -> dict[str, dict[str, int]]:
        """Version and number of rows of each table, without making any."""
        with self._lock:
            found: dict[str, int] = {}
            for steps in self.steps:
                for run in steps:
                    found[run.name] = found.get(run.name, 0) + run.n_out
            if self._growing is not None:
                found[FINAL] = len(self._growing[1])
            elif self._parts:
                found[FINAL] = sum(len(p.result) for p in self._parts)
            else:
                found[FINAL] = len(self._preview) if self._preview is not None else 0
            return {name: {"version": self.version, "n": n} for name, n in found.items()}

    def table(self, name: str) -> StepTable:
        """The table of a step, or "final". Raises ValueError where there is none."""
        with self._lock:
            made = self._tables.get(name)
            parts, version = self._parts, self.version
        if made is not None:
            return made
        made = self._table(name, parts, version)
        with self._lock:
            if version == self.version:  # else it is of what was shown before
                self._tables[name] = made
        return made

    def _table(self, name: str, parts: Sequence[Part], version: int) -> StepTable:
        growing = self._growing
        if name == FINAL and growing is not None:
            _, records, statuses = growing
            return StepTable(FINAL, [Result(records)], version=version, statuses=statuses)
        if not parts:
            if name != FINAL:
                raise ValueError(f"step {name!r} has not run")
            return self._preview_table(version)
        if name == FINAL:
            results = [p.result for p in parts]
            failed = [
                (k, e)
                for k, r in enumerate(results)
                if r._info is not None and r._n_whole is None
                for e in r.errors
            ]
            return StepTable(name, results, _once_each(failed), version=version)
        results, failed = [], []
        for part in parts:
            if part.result._info is None:
                continue
            run = next((s for s in part.result.info.steps if s.name == name), None)
            if run is None:
                continue
            failed += [(len(results), e) for e in run.errors]
            last = part.result.info.steps[-1]
            passes = isinstance(run.step, SinkStep) and run is last
            results.append(part.result if passes else part.result.at(run.index))
        if not results:
            raise ValueError(f"step {name!r} has not run")
        return StepTable(name, results, _once_each(failed), version=version)

    def previewed(self) -> list[PreviewRow] | None:
        """The rows of the preview, where it is what "final" shows."""
        with self._lock:
            shown = None if self._parts or self._growing is not None else self._preview
        return None if shown is None else _previewed_rows(shown)

    def _preview_table(self, version: int) -> StepTable:
        preview = self._preview
        if preview is None:
            return StepTable(FINAL, [], version=version)
        rows = _previewed_rows(preview)
        statuses = [_PREVIEWED.get(r.status, "none") for r in rows]
        whys = [r.said for r in rows]
        records = Result([r.record for r in rows])
        return StepTable(FINAL, [records], version=version, statuses=statuses, whys=whys)

    def stale(self, changes: Mapping[str, Any]) -> str:
        """Words for records that come from another draft than the one that is edited now."""
        parts = self.parts
        if not parts or parts[-1].changes is None or parts[-1].changes == changes:
            return ""
        differs = "the draft differs" if changes else "it was of a draft"
        return f"results from the run of {when(parts[-1].at)}, {differs}"


def _previewed_rows(preview: Preview) -> list[PreviewRow]:
    return [r for r in preview.rows if r.status not in ("filtered", "waiting")]


_PREVIEWED = {"memo": "memo", "pending": "pending", "failed": "failed"}


def _once_each(failed: Sequence[tuple[int, CallError]]) -> list[tuple[int, CallError]]:
    """One error for each call."""
    return list({(k, e.step, e.key, e.label, e.record): (k, e) for k, e in failed}.values())
