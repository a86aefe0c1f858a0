"""What the browser looks at: a table, a search or order of it, and the rows that are selected."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datafast_nb.widgets.board import FINAL
from datafast_nb.widgets.rows import StepTable, View
from datafast_nb.widgets.shelf import Shelf
from datafast_nb.widgets.wanted import Wanted

if TYPE_CHECKING:
    import pandas as pd


class Looking:
    """The browser's place in the tables. It outlives a run: the same search, the new rows.

    Selected rows do not, since other records stand there. Every method may be called from any
    thread.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self.step = FINAL
        """Table that is looked at, "final" or the name of a step."""
        self._view: tuple[int, View] | None = None
        """Version of the table, and the view of it; None: all rows."""
        self._wanted: Wanted | None = None
        self._selected: tuple[int, list[int]] = (-1, [])

    def at(self, table: StepTable, view: int | None) -> None:
        """The browser reads rows of a view; None: of all."""
        with self._lock:
            found = None if view is None else table.found(view)
            self.step = table.name
            self._view = None if found is None else (table.version, found)
            if view is None:
                self._wanted = None

    def wants(self, table: StepTable, wanted: Wanted, view: View) -> None:
        """The browser searches or sorts."""
        with self._lock:
            self.step, self._wanted, self._view = table.name, wanted, (table.version, view)

    def select(self, rows: Sequence[int]) -> None:
        """Rows of the table that is looked at; those that it does not have are left out."""
        table = self._table()
        n = len(table) + len(table.failed)
        with self._lock:
            self._selected = table.version, [i for i in rows if 0 <= i < n]

    @property
    def code(self) -> str:
        """The pandas expression for the rows that are looked at."""
        view = self._present_view(self._table())
        return "df" if view is None else view.code

    def rows(self) -> pd.DataFrame:
        """The rows that are looked at."""
        table = self._table()
        view = self._present_view(table)
        return _frame(table, range(len(table)) if view is None else [int(i) for i in view.rows])

    def selection(self) -> pd.DataFrame:
        """The selected rows; none after the table has changed."""
        table = self._table()
        version, rows = self._selected
        return _frame(table, rows if version == table.version else [])

    def _table(self) -> StepTable:
        try:
            return self._shelf.table(self.step)
        except ValueError:  # the run that is shown now does not have this step
            return self._shelf.table(FINAL)

    def _present_view(self, table: StepTable) -> View | None:
        with self._lock:
            view, wanted = self._view, self._wanted
        if view is not None and view[0] == table.version:
            return view[1]
        if wanted is None:
            return None
        try:
            return table.view(wanted)
        except ValueError:  # of columns that the table does not have any more
            return None


def _frame(table: StepTable, rows: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    n = len(table)
    if any(i >= n for i in rows):
        return pd.DataFrame([table.failed[i - n][1].input for i in rows if i >= n])
    return table.frame().iloc[list(rows)]
