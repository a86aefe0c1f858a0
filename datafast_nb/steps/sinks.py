"""Sinks: records into files and lists, all or nothing."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
import os
from collections.abc import Callable, Sequence
from typing import IO, Any, BinaryIO

from datafast_nb.errors import SinkError
from datafast_nb.records import FLAT_TYPES, Record, copy_record
from datafast_nb.steps.base import SinkStep
from datafast_nb.steps.filesink import FileSink, refuse, refuse_value
from datafast_nb.steps.jsonl import JsonlSink, json_text, json_value
from datafast_nb.store.files import packed

# A spreadsheet runs a cell that starts so. The last four are full-width forms of the first.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class ListSink(SinkStep):
    """Collects the records in `records`. Renamed copies of the sink share one list."""

    def __init__(self) -> None:
        self._cell: list[list[Record]] = [[]]

    @property
    def records(self) -> list[Record]:
        """Copies of the records of the last run; empty before it."""
        return self._cell[0]

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Replace the collected records by copies of `records`; `suffix` has no meaning here."""
        is_flat = FLAT_TYPES.issuperset
        self._cell[0] = [
            r.copy() if is_flat(map(type, r.values())) else copy_record(r) for r in records
        ]
        return "list"

    def describe(self) -> str:
        """What it collects into."""
        return "list"


class CsvSink(FileSink):
    r"""CSV: UTF-8, a header, then one row per record, lines ended by "\n".

    None and NaN are empty cells, dates and times ISO text, lists and dicts JSON text, bytes
    base64 text. The header holds all columns of all records in order of first appearance.

    Parameters
    ----------
    path
        File to write; a name that ends in ".gz" is compressed.
    columns
        Columns to write, in this order; None: all.
    escape_formulas
        Write a single quote before texts that a spreadsheet would run as a formula (those
        starting with = + - @, tab, line ends and the full-width forms), header included.
        Without it texts stay as they are; `formula_cells` counts the risky ones.
    **kwargs
        Parameters of `csv.DictWriter`, such as `delimiter` and `quoting`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        escape_formulas: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, columns)
        self.escape_formulas = bool(escape_formulas)
        if "fieldnames" in kwargs:
            raise TypeError("Sink.csv takes columns=[...] in place of fieldnames=")
        csv.DictWriter(io.StringIO(), ["a"], **kwargs)  # raises TypeError for a wrong parameter
        self.options = kwargs
        self._formula_cells = [0]

    @property
    def formula_cells(self) -> int:
        """Texts in the last file that a spreadsheet would run; 0 with `escape_formulas`."""
        return self._formula_cells[0]

    def _fill(
        self, file: BinaryIO, records: Sequence[Record], names: list[str], partial: bool
    ) -> None:
        _check_some_column(self.path(), records, names)
        options = {"extrasaction": "ignore", **self.options}
        # Python before 3.13 leaves a lone "\r" unquoted unless the line end contains one, so the
        # writer gets "\r\n" and the wanted line end is put in its place.
        end = options.pop("lineterminator", "\n")
        header = {name: name for name in names}
        risky = 0
        with packed(file, self.file) as out:
            lines = _Lines(out, end)
            writer = csv.DictWriter(lines, names, lineterminator="\r\n", **options)
            rows = [header, *records] if names else []
            for i, record in enumerate(rows, start=-1):
                row = {name: _cell(value) for name, value in record.items()}
                try:
                    for name, value in row.items():
                        if type(value) is str and value.startswith(FORMULA_STARTS):
                            if self.escape_formulas:
                                row[name] = "'" + value
                            elif self.columns is None or name in names:
                                risky += 1
                    writer.writerow(row)
                except (UnicodeEncodeError, csv.Error, ValueError) as exc:
                    name = next((n for n, v in row.items() if not _is_text(v)), ", ".join(names))
                    refuse_value(self.path(), i, name, exc)
        self._formula_cells[0] = risky


class ParquetSink(FileSink):
    """Parquet, one table; a column holds values of one type, or int and float.

    A key that a nested dict lacks is null there. Without records the file has the columns of
    `columns`, or none.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> None:
        super().__init__(path, columns)

    def _fill(
        self, file: BinaryIO, records: Sequence[Record], names: list[str], partial: bool
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _check_some_column(self.path(), records, names)
        arrays = []
        for name in names:
            values = [record.get(name) for record in records]
            _check_one_type(self.path(), name, values)
            try:
                arrays.append(pa.array(values))
            except (pa.ArrowException, OverflowError, UnicodeError, TypeError) as exc:
                index = next((i for i, v in enumerate(values) if not _fits(pa, v)), None)
                refuse_value(self.path(), index, name, exc)
        try:
            pq.write_table(pa.table(arrays, names=names), file)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as exc:
            refuse(self.path(), str(exc), "write empty dicts as text, or use Sink.jsonl")


class Sink:
    """Makers of sinks."""

    @staticmethod
    def list() -> ListSink:
        """Collect the records in the sink's `records`."""
        return ListSink()

    @staticmethod
    def jsonl(
        path: str | os.PathLike[str],
        append: bool = False,
        columns: Sequence[str] | None = None,
        live: bool = False,
    ) -> JsonlSink:
        """Write JSON Lines; see `JsonlSink`."""
        return JsonlSink(path, append, columns, live)

    @staticmethod
    def csv(
        path: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        escape_formulas: bool = False,
        **kwargs: Any,
    ) -> CsvSink:
        """Write CSV; see `CsvSink`."""
        return CsvSink(path, columns, escape_formulas, **kwargs)

    @staticmethod
    def parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> ParquetSink:
        """Write Parquet; see `ParquetSink`."""
        return ParquetSink(path, columns)


class _Lines:
    """What `csv.writer` writes to: rows as UTF-8 with another line end."""

    def __init__(self, file: IO[bytes], end: str) -> None:
        self._write: Callable[[bytes], Any] = file.write
        self._end = end

    def write(self, row: str) -> int:
        self._write((row[:-2] + self._end).encode())
        return len(row)


def _cell(value: Any) -> Any:
    """A value for `csv.writer`: text and numbers stay, the rest becomes text."""
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if value is None or (kind is float and math.isnan(value)):
        return ""
    if kind is list or kind is dict:
        return json_text(value)
    return value if kind is float else json_value(value)


def _is_text(value: Any) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else _type_name(value)


def _type_name(value: Any) -> str:
    if type(value) is dt.datetime:
        return "datetime with time zone" if value.tzinfo else "datetime"
    return type(value).__name__


def _check_some_column(path: str, records: Sequence[Record], names: list[str]) -> None:
    if records and not names:
        refuse(path, f"its {len(records):,} records have no columns", "use Sink.jsonl for such")


def _check_one_type(path: str, column: str, values: list[Any]) -> None:
    """Refuse types that Arrow would refuse without a place, or mix (date and datetime) silently."""
    if len({*map(type, values)} - {type(None)}) < 2 and not isinstance(
        next((v for v in values if v is not None), None), (list, dict, dt.datetime)
    ):
        return
    seen: dict[str, tuple[Any, int]] = {}
    for i, value in enumerate(values):
        stack = [(column, value)]
        while stack:
            place, part = stack.pop()
            if part is None:
                continue
            first, at = seen.setdefault(place, (part, i))
            if _kind(first) != _kind(part):
                raise SinkError(
                    f"{path}: column {place!r} holds {_type_name(first)} in record {at} and "
                    f"{_type_name(part)} in record {i}; Parquet keeps one type per column. "
                    "Convert the values in a Map, or use Sink.jsonl"
                )
            if type(part) is dict:
                stack.extend((f"{place}.{key}", inner) for key, inner in part.items())
            elif type(part) is list:
                stack.extend((f"{place}[]", inner) for inner in part)


def _fits(pa: Any, value: Any) -> bool:
    try:
        pa.array([value])
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError):
        return False
    return True
