"""Sinks: records into files and lists, all or nothing."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import errno
import io
import json
import math
import os
import stat
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import IO, Any, BinaryIO, NoReturn

import orjson

from datafast_nb.errors import SinkError
from datafast_nb.options import shown_path
from datafast_nb.records import FLAT_TYPES, Record, column_names, copy_record
from datafast_nb.steps.base import SinkStep
from datafast_nb.store.files import atomic_write, open_binary, packed, partial_path

# A spreadsheet runs a cell that starts so. The last four are full-width forms of the first.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_CHUNK = 1_000


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


class FileSink(SinkStep):
    """A sink that writes one file, atomically; subclasses know its format.

    Relative paths are looked up when the file is written. The folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"{type(self).__name__} takes a path, not {type(path).__name__}")
        self.file = os.fspath(path)
        if not os.path.basename(self.file):
            raise ValueError(f"{self.file!r} names no file; add a file name")
        self.columns = None if columns is None else _columns(columns)

    def path(self) -> str:
        """File that is written, absolute."""
        return os.path.abspath(os.path.expanduser(self.file))

    def check(self) -> None:
        """Raise SinkError for a missing or unwritable folder, or a path that is no plain file."""
        path = self.path()
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.exists(folder):
            _refuse(
                path, f"the folder {folder} does not exist", f"create it: os.makedirs({folder!r})"
            )
        if not os.path.isdir(folder):
            _refuse(path, f"{folder} is a file, not a folder", "choose another path")
        if os.path.isdir(path):
            _refuse(path, "it is a folder", "add a file name")
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            _refuse(path, "it is a device or pipe, not a plain file", "choose another path")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            _refuse(path, "the file is read-only", "choose another path or change its mode")
        if not os.access(folder, os.W_OK | os.X_OK):
            _refuse(path, f"the folder {folder} is not writable", "choose another path")

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Write all records, all or nothing; returns the absolute path of the file."""
        self.check()
        path = partial_path(self.path(), suffix)
        names = self._names(records)
        try:
            atomic_write(path, lambda file: self._fill(file, records, names, bool(suffix)))
        except OSError as exc:
            reason = exc.strerror or str(exc)
            remedy = _REMEDIES.get(exc.errno or 0, "choose another path, or free space there")
            try:
                _refuse(path, reason, f"the former file, if any, stands untouched; {remedy}")
            except SinkError as error:
                raise error from exc
        return path

    def describe(self) -> str:
        """Path, relative inside the project."""
        return shown_path(self.file)

    def _names(self, records: Sequence[Record]) -> list[str]:
        """Columns to write, in order."""
        found = column_names(records) if self.columns is None or records else []
        if self.columns is None:
            return found
        missing = [name for name in self.columns if name not in found] if records else []
        if missing:
            from difflib import get_close_matches

            near = get_close_matches(missing[0], found, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SinkError(
                f"{self.path()}: columns= names {missing[0]!r}, which no record has. "
                f"Columns here: {', '.join(found)}.{hint}"
            )
        return self.columns

    def _fill(
        self, file: BinaryIO, records: Sequence[Record], names: list[str], partial: bool
    ) -> None:
        raise NotImplementedError


class JsonlSink(FileSink):
    """JSON Lines: UTF-8, one object per line, keys in the record's order.

    Dates and times are written as ISO text, Decimal as its text, bytes as base64 text, NaN and
    infinite numbers as null; integers of any size as they are.

    Parameters
    ----------
    path
        File to write; a name that ends in ".gz" is compressed.
    append
        Keep what the file holds and write after it, still all or nothing. A partial file holds
        the records of its run alone.
    columns
        Columns to write, in this order, null where a record has none; None: all of each record.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        append: bool = False,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(path, columns)
        self.append = bool(append)

    def _fill(
        self, file: BinaryIO, records: Sequence[Record], names: list[str], partial: bool
    ) -> None:
        with packed(file, self.file) as out:
            if self.append and not partial:
                self._copy_former(out)
            for start in range(0, len(records), _CHUNK):
                lines = []
                for i, record in enumerate(records[start : start + _CHUNK], start):
                    if self.columns is not None:
                        record = {name: record.get(name) for name in names}
                    try:
                        lines.append(orjson.dumps(record, default=_json_value, option=_LINE))
                    except TypeError:
                        lines.append(self._slow_line(record, i))
                out.write(b"".join(lines))

    def _slow_line(self, record: Record, index: int) -> bytes:
        """What orjson refuses: integers over 64 bits; and the errors, with their place."""
        parts = []
        for name, value in record.items():
            try:
                if not isinstance(name, str):
                    raise TypeError("column names are strings")
                pair = _json_text({name: value})
                parts.append(pair[1:-1].encode())
            except (TypeError, ValueError) as exc:
                _refuse_value(self.path(), index, name, exc)
        return b"{" + b",".join(parts) + b"}\n"

    def _copy_former(self, out: IO[bytes]) -> None:
        path = self.path()
        if not os.path.exists(path):
            return
        last = b"\n"
        with open_binary(path) as former:
            while piece := former.read(1 << 20):
                out.write(piece)
                last = piece[-1:]
        if last != b"\n":
            out.write(b"\n")


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
                    _refuse_value(self.path(), i, name, exc)
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
                _refuse_value(self.path(), index, name, exc)
        try:
            pq.write_table(pa.table(arrays, names=names), file)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as exc:
            _refuse(self.path(), str(exc), "write empty dicts as text, or use Sink.jsonl")


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
    ) -> JsonlSink:
        """Write JSON Lines; see `JsonlSink`."""
        return JsonlSink(path, append, columns)

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


_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
_REMEDIES = {
    errno.ENOSPC: "free space on the disk, or choose another path",
    errno.EDQUOT: "free space in your quota, or choose another path",
    errno.EFBIG: "raise the limit on file sizes, or choose another path",
    errno.EROFS: "the disk is read-only, choose another path",
    errno.EACCES: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class _Lines:
    """What `csv.writer` writes to: rows as UTF-8 with another line end."""

    def __init__(self, file: IO[bytes], end: str) -> None:
        self._write: Callable[[bytes], Any] = file.write
        self._end = end

    def write(self, row: str) -> int:
        self._write((row[:-2] + self._end).encode())
        return len(row)


def _json_value(value: Any) -> Any:
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _json_text(value: Any) -> str:
    return json.dumps(
        _finite(value),
        default=_json_value,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, as orjson writes them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(v) for v in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys of a dict are strings")
        return {key: _finite(v) for key, v in value.items()}
    return value


def _cell(value: Any) -> Any:
    """A value for `csv.writer`: text and numbers stay, the rest becomes text."""
    kind = type(value)
    if kind is str or kind is int or kind is bool:
        return value
    if value is None or (kind is float and math.isnan(value)):
        return ""
    if kind is list or kind is dict:
        return _json_text(value)
    return value if kind is float else _json_value(value)


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
        _refuse(path, f"its {len(records):,} records have no columns", "use Sink.jsonl for such")


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


def _columns(columns: Any) -> list[str]:
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(f"columns= is a list of column names, not {columns!r}")
    for name in columns:
        if not isinstance(name, str):
            raise TypeError(f"columns= is a list of column names; {name!r} is none")
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns= names every column to write once, not {list(columns)!r}")
    return list(columns)


def _refuse(path: str, reason: str, remedy: str) -> NoReturn:
    raise SinkError(f"{path} cannot be written: {reason}; {remedy}")


def _refuse_value(path: str, index: int | None, column: str, exc: Exception) -> NoReturn:
    place = "" if index is None else "the header, " if index < 0 else f"record {index}, "
    reason = str(exc)
    if isinstance(exc, UnicodeEncodeError):
        reason = "it holds half of a surrogate pair (such as '\\ud83d'), which is no text"
    raise SinkError(
        f"{path}: {place}column {column!r} cannot be written: {reason}. "
        "Mend it in a Map before the sink; the former file, if any, stands untouched"
    ) from exc
