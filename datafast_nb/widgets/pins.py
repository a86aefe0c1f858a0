"""Pinned records. They outlive the table: after another run the same records are pinned."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from datafast_nb.results import Result
from datafast_nb.runs import way_back
from datafast_nb.steps.llm import LLMStep
from datafast_nb.widgets.board import FINAL
from datafast_nb.widgets.shelf import Shelf

LOOKED_AT = 5_000
"""Rows of a new table among which pinned records are looked for."""


@dataclass(frozen=True)
class _Pin:
    record: int | None
    """Which of the records that enter the first LLM step; None: it cannot be followed back."""
    row: int
    version: int
    """Of the table that the row was pinned in."""


class Pins:
    """The pinned rows of the final table. Every method may be called from any thread."""

    def __init__(self, shelf: Shelf, *, known_places: bool) -> None:
        self._shelf = shelf
        self._known_places = known_places
        """The records of a preview, in their order, are those that enter the first LLM step."""
        self._lock = threading.Lock()
        self._pins: list[_Pin] = []
        self._found: tuple[int, list[int]] | None = None

    def set(self, row: int, *, on: bool) -> None:
        """Pin a row of the final table, or take its pin away."""
        pinned = self._found_rows()
        record = self.record(row)
        with self._lock:
            self._pins = [
                p
                for p in self._pins
                if pinned.get(p) != row and (record is None or p.record != record)
            ]
            if on:
                self._pins.append(_Pin(record, row, self._shelf.version))
            self._found = None

    def rows(self) -> list[int]:
        """Where the pinned records stand in the final table; those that are not in it are left out."""
        version = self._shelf.version
        with self._lock:
            if self._found is not None and self._found[0] == version:
                return list(self._found[1])
        rows = list(self._found_rows().values())
        with self._lock:
            self._found = version, rows
        return list(rows)

    def record(self, row: int) -> int | None:
        """Which of the records that enter the first LLM step became a row of the final table.

        None where it cannot be followed back. Raises IndexError.
        """
        return _entered(self._shelf, row, self._known_places)

    def _found_rows(self) -> dict[_Pin, int]:
        with self._lock:
            pins = list(self._pins)
        shelf = self._shelf
        if not pins or shelf.growing:
            return {}
        wanted = {p.record for p in pins if p.record is not None}
        here = [p for p in pins if p.record is not None and p.version == shelf.version]
        found = {p.record: p.row for p in here if p.record is not None}
        table = shelf.table(FINAL)
        n = len(table) + len(table.failed)
        # Where every record becomes one, each stands in its own place.
        for row in (*(k for k in sorted(wanted) if k < n), *range(min(n, LOOKED_AT))):
            if len(found) == len(wanted):
                break
            record = self.record(row)
            if record in wanted:
                found.setdefault(record, row)
        return {
            p: found[p.record] if p.record is not None else p.row
            for p in pins
            if (p.record in found if p.record is not None else p.version == shelf.version)
        }


def _entered(shelf: Shelf, row: int, known_places: bool) -> int | None:
    preview = shelf.previewed()
    if preview is not None:
        return preview[row].place if known_places else None
    table = shelf.table(FINAL)
    if row >= len(table):
        k, error = table.failed[row - len(table)]
        result, at = shelf.results[k], error.record
        steps = result.info.steps[: result.step(error.step).index]
    else:
        result, local = table.place(row)
        if result._info is None:
            return None
        steps, at = result.info.steps, result._rows[local]
    return _first_asked(result, way_back(steps, at))


def row_of(result: Result, step: str, record: int) -> int | None:
    """Where one of the records that enter the first LLM step stands behind a step; None: nowhere."""
    run = result.step(step)
    steps = result.info.steps[: run.index + 1]
    for row in range(min(run.n_out, LOOKED_AT)):
        if _first_asked(result, way_back(steps, row)) == record:
            return row
    return None


def _first_asked(result: Result, way: list[int | None]) -> int | None:
    runs = result.info.steps
    first = next((i for i, s in enumerate(runs) if isinstance(s.step, LLMStep)), 0)
    return way[first - 1] if 0 < first <= len(way) else None
