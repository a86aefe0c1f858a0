"""Sources in memory: records of a list, rows of a DataFrame."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import count
from typing import Any

from datafast_nb.display.views import Fact
from datafast_nb.errors import RecordError, SourceError
from datafast_nb.records import Record, canonical_json, column_names, normalise_records
from datafast_nb.steps.base import SourceStep

_SERIAL = count(1)
_DICT_ONLY = frozenset({dict})


class ListSource(SourceStep):
    """Records of a list. The list is copied, the dicts in it are not."""

    in_memory = True

    def __init__(self, records: Sequence[Any]) -> None:
        if not isinstance(records, (list, tuple)):
            hint = "write Source.list(list(records))"
            if isinstance(records, Mapping):
                hint = "for one record write Source.list([record])"
            elif isinstance(records, str):
                hint = "for a file write Source.file(path)"
            elif hasattr(records, "columns"):
                hint = "write Source.dataframe(frame)"
            raise TypeError(
                f"Source.list takes a list of dicts, not {type(records).__name__}; {hint}"
            )
        self._records = list(records)
        self._serial = next(_SERIAL)
        self._content: str | None = None

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        """Records in pieces of at most `chunk`; the dicts are the user's own."""
        for start in range(0, len(self._records), chunk):
            yield self._records[start : start + chunk]

    def count(self) -> int:
        """Number of records."""
        return len(self._records)

    def columns(self) -> list[str]:
        """All columns of all records, in order of first appearance."""
        named = self._records
        if not _DICT_ONLY.issuperset(map(type, named)):
            named = [r for r in named if isinstance(r, Mapping)]
        return [key for key in column_names(named) if isinstance(key, str)]

    def place(self, index: int) -> str:
        """Name record `index` for errors."""
        return f"record {index} of the list"

    def content(self) -> str:
        """Hash of the records, made once; the list is the step's own."""
        if self._content is None:
            try:
                self._content = blake2b(canonical_json(self._records), digest_size=12).hexdigest()
            except (TypeError, RecordError):  # values that a run makes plain, or refuses
                self._content = self.version()
        return self._content

    def version(self) -> str:
        """Differs for every list given to Source.list in this process."""
        return f"list {self._serial}"

    def maker_name(self) -> str:
        """What makes such a source."""
        return "Source.list"

    def view_settings(self) -> list[Fact]:
        """No settings."""
        return []

    def describe(self) -> str:
        """Number of records."""
        return f"list of {len(self._records):,}"


class FrameSource(SourceStep):
    """Rows of a pandas DataFrame as it is now; missing values become None, the index is dropped."""

    from_frame = True
    in_memory = True

    def __init__(self, frame: Any) -> None:
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(frame, pandas.DataFrame):
            hint = (
                "write Source.list(records)" if isinstance(frame, (list, tuple)) else "convert it"
            )
            if hasattr(frame, "to_pandas"):
                hint = "write Source.dataframe(frame.to_pandas())"
            elif hasattr(frame, "to_frame"):
                hint = "write Source.dataframe(series.to_frame())"
            raise TypeError(
                f"Source.dataframe takes a pandas DataFrame, not {type(frame).__name__}; {hint}"
            )
        names = list(frame.columns)
        for name in names:
            if not isinstance(name, str):
                remedy = "df.columns = df.columns.map(str)"
                if isinstance(name, tuple):
                    remedy = 'df.columns = ["_".join(map(str, c)) for c in df.columns]'
                raise SourceError(
                    f"the DataFrame has a column named {name!r} ({type(name).__name__}); "
                    f"column names are strings. Write {remedy}"
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(
                f"the DataFrame has several columns named {', '.join(map(repr, twice))}; "
                "rename them, or keep the first with df.loc[:, ~df.columns.duplicated()]"
            )
        # A snapshot that costs nothing: pandas 3 copies when either frame is written to.
        self._frame = frame.copy(deep=False)
        self._serial = next(_SERIAL)
        self._content: str | None = None

    def read(self, chunk: int) -> Iterator[Sequence[Record]]:
        """Rows as dicts of plain values, in pieces of at most `chunk`."""
        frame = self._frame
        names = list(frame.columns)
        for start in range(0, len(frame), chunk):
            piece = frame.iloc[start : start + chunk]
            columns = [_plain_values(piece.iloc[:, i]) for i in range(len(names))]
            rows = zip(*columns, strict=True) if columns else iter([()] * len(piece))
            yield [dict(zip(names, row, strict=True)) for row in rows]

    def count(self) -> int:
        """Number of rows."""
        return len(self._frame)

    def columns(self) -> list[str]:
        """Columns of the frame."""
        return list(self._frame.columns)

    def place(self, index: int) -> str:
        """Name row `index` for errors, by its label where the index is not 0, 1, 2, …."""
        label = self._frame.index[index]
        return f"DataFrame row {index}" + ("" if label == index else f" (index {label!r})")

    def content(self) -> str:
        """Hash of the rows, made once; the frame is a snapshot."""
        if self._content is None:
            digest = blake2b(digest_size=12)
            try:
                for rows in self.read(4_096):
                    records, _ = normalise_records(rows, where=self.place, from_frame=True)
                    digest.update(canonical_json(records))
                self._content = digest.hexdigest()
            except (TypeError, RecordError):  # values that a run refuses
                self._content = self.version()
        return self._content

    def version(self) -> str:
        """Differs for every frame given to Source.dataframe in this process."""
        return f"frame {self._serial}"

    def maker_name(self) -> str:
        """What makes such a source."""
        return "Source.dataframe"

    def view_settings(self) -> list[Fact]:
        """No settings."""
        return []

    def describe(self) -> str:
        """Shape of the frame."""
        rows, columns = self._frame.shape
        return f"DataFrame, {rows:,} rows × {columns} columns"


_NAIVE_TIMES = frozenset(f"datetime64[{unit}]" for unit in ("s", "ms", "us", "ns"))
_TIME_OR_NONE = frozenset({dt.datetime, type(None)})


def _plain_values(column: Any) -> list[Any]:
    """Values of a Series as Python objects, None where missing."""
    if str(column.dtype) in _NAIVE_TIMES:
        times: list[Any] = column.to_numpy().astype("datetime64[us]").tolist()
        if all(map(_TIME_OR_NONE.__contains__, map(type, times))):
            return times  # else a year beyond 9999, which has no datetime
    values: list[Any] = column.tolist()
    if hasattr(column, "dt") and column.dtype.kind == "M":
        values = [v.to_pydatetime(warn=False) if hasattr(v, "to_pydatetime") else v for v in values]
    missing = column.isna().to_numpy()
    if missing.any():
        for i in missing.nonzero()[0].tolist():
            values[i] = None
    return values
