"""Tables of steps as the panel's grid reads them: windows of rows, searched, filtered, sorted.

Which rows a view has is decided by pandas, with the very expression that the panel shows, so that
the expression gives the same rows in a cell.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from datafast_nb.call_view import STATUS
from datafast_nb.display import formats
from datafast_nb.display.views import PENDING
from datafast_nb.records import Record, column_names
from datafast_nb.results import Result
from datafast_nb.runs import CallError, calls_behind
from datafast_nb.widgets.wanted import (
    AS_TEXTS_CODE,
    CONTAINS,
    OPS,
    Sorting,
    Wanted,
    as_texts,
    compared,
    fitting,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MAX_ROWS = 200
MAX_CHARACTERS = 300
MAX_WINDOW_BYTES = 256_000
MIN_CELL_BYTES = 10
MAX_VIEWS = 8
MAX_ORDERS = 4
LARGE = 100_000
_LONG = 2_000
"""Characters of a value that are looked at to write its cell."""
_ITEMS = 40
_IN_NUMBERS = frozenset("0123456789.+-einfa")  # "1e-05", "inf", "nan"

WORDS = ("none", "memo", "new")
_CODE = {"answered": 1, "new": 2}


class Overtaken(Exception):
    """A newer request has made this one needless."""


@dataclass(frozen=True)
class View:
    """Rows of a table, in order."""

    id: int
    rows: Sequence[int] | np.ndarray[Any, Any]
    """Indices in the table; those of failed records stand behind the others."""
    code: str
    """pandas expression over `df` that gives the same rows."""


class StepTable:
    """Records that left one step, of one or several Results, and those that failed there.

    Parameters
    ----------
    parts
        Results whose records are the rows, one after another.
    failed
        (number of the part, error) of each failed call whose record is shown behind the rows.
    statuses, whys
        Of previews: status and remark of each row, in place of what the calls say.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Result],
        failed: Sequence[tuple[int, CallError]] = (),
        *,
        version: int = 1,
        statuses: Sequence[str] | None = None,
        whys: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.parts = list(parts)
        self.failed = list(failed)
        self.version = version
        self._given, self._whys = statuses, whys
        one = self.parts[0] if len(self.parts) == 1 else None
        self.records: list[Record] = one if one is not None else [r for p in parts for r in p]
        self._making = threading.Lock()
        self._series: dict[str, pd.Series] = {}
        self._texts: dict[str, pd.Series] = {}
        self._orders: dict[tuple[Sorting, ...], tuple[np.ndarray[Any, Any], str]] = {}
        self._views: dict[int, View] = {}
        self._ids = count(1)
        self._is_warm = False

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def columns(self) -> list[str]:
        """Columns in order of first appearance."""
        names = list(self._names)
        for _, error in self.failed:
            names += [name for name in error.input if name not in names]
        return names

    @cached_property
    def _names(self) -> list[str]:
        """Columns of the records alone: of a million they take a tenth of a second."""
        names: list[str] = column_names(self.records)
        return names

    # What pandas sees.

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The records as `Result.df` has them; text that is no Unicode makes its columns objects."""
        import pandas as pd

        names = self._names if columns is None else list(columns)
        try:
            return pd.DataFrame(list(self.records), columns=names)
        except UnicodeError:  # half of a surrogate pair, which Arrow refuses
            return pd.DataFrame(list(self.records), columns=names, dtype=object)

    def series(self, column: str) -> pd.Series:
        """One column, made once. Raises ValueError for a column that is not there."""
        if column not in self._series:
            if column not in self.columns:
                raise ValueError(f"no column {column!r}; there are: {', '.join(self.columns)}")
            with self._making:  # a search and `warm` must not both make the same column
                if column not in self._series:
                    self._series[column] = self.frame([column])[column]
        return self._series[column]

    def status(self) -> pd.Series:
        """Of each record "new" (something of it was asked in the run), "memo" or "none"."""
        import pandas as pd

        return pd.Series([WORDS[code] for code in self.codes.tolist()], dtype=object)

    @cached_property
    def codes(self) -> np.ndarray[Any, Any]:
        """The statuses as numbers, indices of `WORDS`."""
        import numpy as np

        if self._given is not None:
            known = [WORDS.index(s) if s in WORDS else 0 for s in self._given]
            return np.array(known, dtype=np.int8)
        found = [_codes_of(part) for part in self.parts]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int8)

    # Views.

    def view(self, wanted: Wanted, is_overtaken: Callable[[], bool] = lambda: False) -> View:
        """The rows that are wanted, in order.

        Raises
        ------
        ValueError
            For a column that is not there, or a comparison that makes no sense.
        Overtaken
            When `is_overtaken` says so between two pieces of work.
        """
        import numpy as np

        if wanted.status == "failed":
            return self._kept(range(len(self), len(self) + len(self.failed)), self._failed_code())
        masks: list[str] = []
        mask: Any = None
        for words, make in self._masks(wanted):
            if is_overtaken():
                raise Overtaken
            masks.append(words)
            made = np.asarray(make(), dtype=bool)
            mask = made if mask is None else mask & made
        code = "df"
        if masks:
            code = f"df[{masks[0]}]" if len(masks) == 1 else f"df[({') & ('.join(masks)})]"
        if is_overtaken():
            raise Overtaken
        if wanted.sort:
            order, words = self._order(wanted.sort)
            code += words
            rows = order if mask is None else order[mask[order]]
            return self._kept(rows, code)
        return self._kept(range(len(self)) if mask is None else np.flatnonzero(mask), code)

    def _masks(self, wanted: Wanted) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Each condition as text, and what computes it."""
        if wanted.status != "all":
            code = WORDS.index(wanted.status)
            words = f"panel.status({self.name!r}).eq({wanted.status!r})"
            yield words, lambda: self.codes == code
        for condition in wanted.where:
            series = self.series(condition.column)
            value = fitting(series, condition)
            text, work = OPS[condition.op]
            words = text.format(column=f"df[{condition.column!r}]", value=repr(value))
            yield words, partial(compared, series, value, work, condition)
        if wanted.search and self._is_odd:
            low = wanted.search.lower()
            yield (
                f"df.map(lambda v: v is not None and {low!r} in str(v).lower()).any(axis=1)",
                lambda: [
                    any(v is not None and low in str(v).lower() for v in r.values())
                    for r in self.records
                ],
            )
        elif wanted.search:
            contains = CONTAINS.format(value=repr(wanted.search))
            yield (
                f"df.apply(lambda s: s{contains}).any(axis=1)",
                lambda: self._search(wanted.search),
            )

    def _search(self, text: str) -> Any:
        import numpy as np

        found = np.zeros(len(self), dtype=bool)
        for column in self._names:
            if self.series(column).dtype.kind in "iuf" and not _may_be_in_number(text):
                continue
            if column not in self._texts:
                self._texts[column] = self.series(column).astype(str)
            if not text:
                continue
            found |= np.asarray(
                self._texts[column].str.contains(text, case=False, regex=False, na=False),
                dtype=bool,
            )
        return found

    def warm(self) -> None:
        """Make ready what a first search needs, in a large table a second's work."""
        if len(self) > LARGE and not self._is_warm:
            self._is_warm = True
            self._search("")

    @cached_property
    def _is_odd(self) -> bool:
        """Some text is no Unicode."""
        try:
            for column in self._names:
                if self.series(column).dtype == object:
                    self._texts[column] = self.series(column).astype(str)
        except UnicodeError:
            return True
        return False

    def _order(self, sort: tuple[Sorting, ...]) -> tuple[np.ndarray[Any, Any], str]:
        """All rows sorted, and how."""
        if sort not in self._orders:
            import pandas as pd

            names = [s.column for s in sort]
            if len(set(names)) < len(names):
                raise ValueError("a column is sorted by once")
            frame = pd.DataFrame({name: self.series(name) for name in names})
            ascending = [not s.descending for s in sort]
            if len(sort) == 1:
                by, up = repr(names[0]), "" if ascending[0] else ", ascending=False"
            else:
                by, up = repr(names), "" if all(ascending) else f", ascending={ascending}"
            words = f".sort_values({by}{up}, kind='stable')"
            try:
                made = frame.sort_values(names, ascending=ascending, kind="stable")
            except TypeError:  # of several kinds: as their texts
                words = f".sort_values({by}{up}, kind='stable', key={AS_TEXTS_CODE})"
                try:
                    made = frame.sort_values(
                        names, ascending=ascending, kind="stable", key=as_texts
                    )
                except UnicodeError as exc:
                    raise ValueError(
                        f"{names[0]!r} holds half of a surrogate pair, which pandas cannot sort"
                    ) from exc
            if len(self._orders) >= MAX_ORDERS:
                self._orders.pop(next(iter(self._orders)))
            self._orders[sort] = (made.index.to_numpy(), words)
        return self._orders[sort]

    def _failed_code(self) -> str:
        return f"panel.failed({self.name!r})"

    def _kept(self, rows: Any, code: str) -> View:
        view = View(next(self._ids), rows, code)
        self._views[view.id] = view
        while len(self._views) > MAX_VIEWS:
            self._views.pop(next(iter(self._views)))
        return view

    def rows_of(self, view: int | None) -> Sequence[int] | np.ndarray[Any, Any]:
        """Indices of a view's rows; None: all records. Raises ValueError for one that is gone."""
        if view is None:
            return range(len(self))
        if view not in self._views:
            raise ValueError("this view is gone: the table has changed")
        return self._views[view].rows

    def found(self, view: int) -> View | None:
        """A view that was made before; None: it is gone."""
        return self._views.get(view)

    # Windows.

    def window(self, start: int, n: int, view: int | None = None) -> dict[str, Any]:
        """Rows as the browser shows them, at most 200 of them and 256 KB: of wide ones fewer."""
        chosen = self.rows_of(view)
        total = len(chosen)
        start = max(0, min(start, total))
        n_columns = max(1, len(self.columns))
        n = max(0, min(n, MAX_ROWS, max(1, MAX_WINDOW_BYTES // (MIN_CELL_BYTES * n_columns))))
        picked = [int(i) for i in chosen[start : start + n]]
        per_cell = MAX_WINDOW_BYTES // (max(1, len(picked)) * n_columns)
        width = min(MAX_CHARACTERS, max(8, 2 * per_cell))
        rows = [self.row(i, width) for i in picked]
        while (size := _n_bytes(rows)) > MAX_WINDOW_BYTES and len(picked) > 1:
            if width > 8:
                width = max(8, min(width // 2, width * MAX_WINDOW_BYTES // size))
            else:
                picked = picked[: max(1, len(picked) * MAX_WINDOW_BYTES // size)]
            rows = [self.row(i, width) for i in picked]
        return {"start": start, "rows": rows, "n": total, "version": self.version}

    def row(self, i: int, width: int = MAX_CHARACTERS) -> dict[str, Any]:
        """One row; `i` counts failed records behind the others."""
        if i >= len(self):
            error = self.failed[i - len(self)][1]
            why = formats.cell(f"{error.remedy.cause or error.kind}: {error.error}", 300)
            cells = [cell_text(error.input.get(c), width) for c in self.columns]
            return {"i": i, "s": "failed", "v": cells, "usd": None, "sec": None, "why": why}
        record = self.records[i]
        cells = [cell_text(record[c], width) if c in record else "" for c in self.columns]
        if self._given is not None:
            said = "" if self._whys is None else formats.cell(self._whys[i], 300)
            given = {"s": self._given[i], "usd": None, "sec": None, "why": said or None}
            return {"i": i, "v": cells, **given}
        return {"i": i, **self._paid(i), "v": cells, "why": None}

    def _paid(self, i: int) -> dict[str, Any]:
        part, at = self.place(i)
        if part._info is None or part.is_edited:
            return {"s": "none", "usd": None, "sec": None}
        calls = calls_behind(part.info.steps, part._rows[at])
        words = {STATUS[c.status][1] for c in calls if c.status in STATUS}
        status = next((w for w in ("new", "memo") if w in words), "none")
        asked = [c for c in calls if c.status not in ("answered", "not_asked")]
        priced = [c.usd for c in asked if c.usd is not None]
        seconds = sum(c.latency_s for c in calls)
        return {
            "s": status,
            "usd": sum(priced) if priced and len(priced) == len(asked) else None,
            "sec": seconds if calls else None,
        }

    def place(self, i: int) -> tuple[Result, int]:
        """The Result that row `i` stands in, and its index there. Raises IndexError."""
        at = i
        for part in self.parts:
            if 0 <= at < len(part):
                return part, at
            at -= len(part)
        raise IndexError(f"no row {i}: the table has {formats.plural(len(self), 'row')}")


def _may_be_in_number(text: str) -> bool:
    """Whether the text of a number can hold it; to write a million numbers takes a second."""
    return text != "" and not any(c.isascii() and c.lower() not in _IN_NUMBERS for c in text)


def _n_bytes(rows: list[dict[str, Any]]) -> int:
    return len(json.dumps(rows, ensure_ascii=False).encode("utf-8", "replace"))


def cell_text(value: Any, width: int = MAX_CHARACTERS) -> str:
    """A value as one line; of large ones only the start is looked at."""
    if value is None:
        return ""
    if value is PENDING:
        return "…"
    if type(value) is str and len(value) > _LONG:
        start = formats.one_line(value[:_LONG])[: max(1, width - 12)]
        return f"{start}… +{len(value) - len(start):,}"[: width + 12][:MAX_CHARACTERS]
    return formats.cell(_start_of(value), width)[:MAX_CHARACTERS]


def _start_of(value: Any, depth: int = 0) -> Any:
    """A list or dict with its first items, so that writing it takes no time."""
    if isinstance(value, str):
        return value if len(value) <= _LONG else value[:_LONG] + "…"
    if depth > 3:
        return value if not isinstance(value, (list, dict)) else "…"
    if isinstance(value, dict):
        return {k: _start_of(v, depth + 1) for k, v in islice(value.items(), _ITEMS)}
    if isinstance(value, list):
        return [_start_of(v, depth + 1) for v in value[:_ITEMS]]
    return value


def _codes_of(part: Result) -> np.ndarray[Any, Any]:
    """Status of each record of a Result: the calls behind it, carried from step to step."""
    import numpy as np

    if part._info is None or part.is_edited:
        return np.zeros(len(part), dtype=np.int8)
    codes = np.zeros(0, dtype=np.int8)
    for run in part.info.steps:
        n = max(run.n_out, run.parents.n_out)
        if run.index == 0 or not run.parents.known:
            codes = np.zeros(n, dtype=np.int8)
        else:
            parents = np.fromiter(run.parents.all(), dtype=np.int64, count=run.parents.n_out)
            before = np.zeros(max(len(codes), int(parents.max(initial=-1)) + 1), dtype=np.int8)
            before[: len(codes)] = codes
            codes = before[parents]
        if run.call_of is not None and len(codes):
            own = np.array([_CODE.get(c.status, 0) for c in run.calls] + [0], dtype=np.int8)
            codes = np.maximum(codes, own[np.asarray(run.call_of, dtype=np.int64)])
    return codes[np.asarray(part._rows, dtype=np.int64)]
