"""`Source`, and records from files. Nothing is opened before it is read."""

from __future__ import annotations

import codecs
import contextlib
import copy
import csv
import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NoReturn

from datafast_nb.display import formats
from datafast_nb.display.settings import setting_body
from datafast_nb.display.views import Fact
from datafast_nb.errors import SourceError
from datafast_nb.options import shown_path
from datafast_nb.records import Record
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.tables import FrameSource, ListSource
from datafast_nb.store.files import (
    Conversion,
    CsvTable,
    ParquetTable,
    check_dtype,
    json_error,
    parse_json,
    read_lines,
)

COLUMN_ROWS = 1_000  # rows of a file that are read to learn its columns, or their types
MAX_QUICK_BYTES = 1_000_000  # of a csv file that is read whole for a look at its first records
_READ_ERRORS = (OSError, EOFError, UnicodeError, zlib.error)
_EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "txt",
    ".text": "txt",
}
_TABLE_KEYS = ("records", "data", "rows")  # a JSON object may hold its array under one of these
_MOST_BYTES = {"json": 1 << 20, "parquet": 64 << 20}
"""Files up to which the first rows are cheap, where they cannot be streamed."""
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "txt")
_CSV_DIALECT = (
    "delimiter",
    "quotechar",
    "escapechar",
    "doublequote",
    "skipinitialspace",
    "quoting",
    "strict",
)
_OPTIONS = {
    "jsonl": ("encoding",),
    "json": ("encoding",),
    "csv": ("encoding", "sep", "names", "dtype", *_CSV_DIALECT),
    "tsv": ("encoding", "sep", "names", "dtype", *_CSV_DIALECT),
    "parquet": ("columns",),
    "txt": ("encoding",),
}


class FileSource(SourceStep):
    """Records of a file; the path is looked up when the file is read.

    Parameters
    ----------
    path
        File in one of the formats below; text formats may be compressed ("data.jsonl.gz").
    format
        "jsonl", "json", "csv", "tsv", "parquet" or "txt"; None: by the extension.
    text_column
        Column that holds the lines of a "txt" file. Every line is a record, blank ones too.
    **kwargs
        `encoding` (text formats, default UTF-8); `columns` (parquet); for csv and tsv `sep`,
        `names` (the columns of a file without header), `dtype` and the parameters of
        `csv.reader`.

    Notes
    -----
    Types of csv and tsv columns are decided by the whole file, which is read once more for it:
    a column of whole numbers gives int, of numbers float, of true and false bool; anything else
    is text exactly as written. Numbers with leading zeros or a plus sign are text ("007" stays
    "007"). Empty cells are None; so are NA, N/A, NaN, nan, null and None, but only in a column of
    numbers or booleans. `dtype=str` keeps all text, `dtype={"id": str}` one column.
    """

    quick_note = f"column types from the first {COLUMN_ROWS:,} rows; a full run may read others"
    """What to say where `quick` gave another source."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        text_column: str = "text",
        **kwargs: Any,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Source.file takes a path, not {type(path).__name__}")
        self.file = os.fspath(path)
        self.format = _format(self.file, format)
        self.text_column = text_column
        known = _OPTIONS[self.format]
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"Source.file has no option {name!r} for {self.format}; there are: "
                    f"{', '.join(known)}. For other ways to read a file use pandas and "
                    "Source.dataframe(frame)"
                )
        self.options = kwargs
        for name in ("names", "columns"):
            _check_names(name, kwargs.get(name))
        self._encoding()
        if self.format in ("csv", "tsv"):
            self._dialect()
            check_dtype(kwargs.get("dtype"))
        self._types: tuple[str, list[Conversion]] | None = None

    def read(self, chunk: int) -> Iterator[Sequence[Record]]:
        """Records in pieces of at most `chunk`; the file is streamed (a JSON array is not)."""
        self._check()
        try:
            if self.format == "parquet":
                yield from self._parquet().rows(chunk)
                return
            rows = iter(self._rows())
            while piece := list(islice(rows, chunk)):
                yield piece
        except _READ_ERRORS as exc:
            self._fail(exc)

    def count(self) -> int | None:
        """Number of rows of a parquet file; None for other formats."""
        if self.format != "parquet":
            return None
        self._check()
        return self._parquet().count()

    def columns(self) -> list[str] | None:
        """Columns by header or schema; of JSON files those of the first 1,000 records."""
        if self.format == "txt":
            return [self.text_column]
        self._check()
        if self.format == "parquet":
            return self._parquet().header()
        try:
            if self.format in ("csv", "tsv"):
                return self._table().header()
            seen = islice(self._rows(), COLUMN_ROWS)
            return list(dict.fromkeys(chain.from_iterable(seen)))
        except _READ_ERRORS as exc:
            self._fail(exc)

    def quick(self) -> FileSource:
        """The source for a look at its first records: a large csv file is not read whole.

        The types of its columns are then those of the first 1,000 rows, see `quick_note`.
        """
        if self.format not in ("csv", "tsv") or self.options.get("dtype") is str:
            return self
        version = self.version()
        if self._types is not None and self._types[0] == version:
            return self
        if os.stat(self._path()).st_size <= MAX_QUICK_BYTES:
            return self
        made = copy.copy(self)
        made._types = (version, self._table().conversions(COLUMN_ROWS))
        return made

    def place(self, index: int) -> str:
        """Where record `index` stands; counts the lines of a JSON Lines file for it."""
        where = f"file {self.file}"
        if self.format == "txt":
            return f"{where}, line {index + 1}"
        if self.format == "jsonl":
            filled = (n for n, line in enumerate(self._lines(), start=1) if line.strip())
            number = next(islice(filled, index, None), None)
            if number is not None:
                return f"{where}, line {number}"
        return f"{where}, record {index}"

    def version(self) -> str:
        """Absolute path, size and time of change; raises SourceError for a missing file."""
        self._check()
        found = os.stat(self._path())
        return f"{self._path()} {found.st_size} {found.st_mtime_ns}"

    def describe(self) -> str:
        """Path, relative inside the project."""
        return shown_path(self.file)

    def maker_name(self) -> str:
        """What makes such a source."""
        return "Source.file"

    def is_near(self) -> bool:
        """Whether the first rows can be read without most of the file."""
        most = _MOST_BYTES.get(self.format)
        try:
            return most is None or os.path.getsize(self._path()) <= most
        except OSError:
            return True  # reading will say what is wrong

    def first_rows(self, k: int) -> list[Record]:
        """The first `k` records."""
        self._check()
        try:
            if self.format == "parquet":
                return next(self._parquet().rows(k), [])
            return list(islice(self.quick()._rows(), k))
        except _READ_ERRORS as exc:
            self._fail(exc)

    def view_settings(self) -> list[Fact]:
        """Format, size, and what was said about reading it."""
        words = self.format
        with contextlib.suppress(OSError):
            words += f", {formats.file_size(os.path.getsize(self._path()))}"
        given = [Fact(name, setting_body(name, value)) for name, value in self.options.items()]
        return [Fact("format", (words,)), *given]

    def _rows(self) -> Iterator[Record]:
        if self.format == "jsonl":
            return self._read_jsonl()
        if self.format == "json":
            return self._read_json()
        return self._read_txt() if self.format == "txt" else self._read_csv()

    def _path(self) -> str:
        return os.path.abspath(os.path.expanduser(self.file))

    def _check(self) -> None:
        path = self._path()
        if os.path.isdir(path):
            raise SourceError(f"{path} is a folder; Source.file reads one file")
        if os.path.exists(path):
            return
        folder, name = os.path.split(path)
        if not os.path.isdir(folder):
            raise SourceError(f"there is no file {path}: the folder {folder} does not exist")
        from difflib import get_close_matches

        names = os.listdir(folder) if os.access(folder, os.R_OK) else []
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"Similar names there: {', '.join(near)}" if near else "No similar name there"
        raise SourceError(f"there is no file {path}. {hint}")

    def _encoding(self) -> str:
        chosen = self.options.get("encoding", "utf-8")
        try:
            name = codecs.lookup(chosen).name
        except LookupError:
            raise ValueError(
                f"Python knows no encoding {chosen!r}; common are utf-8, cp1252"
            ) from None
        return "utf-8-sig" if name == "utf-8" else name  # with or without a byte order mark

    def _lines(self) -> Iterator[bytes]:
        return read_lines(self._path(), self._encoding())

    def _fail(self, exc: Exception) -> NoReturn:
        if isinstance(exc, UnicodeError):
            encoding = self._encoding().removesuffix("-sig")
            raise SourceError(
                f"{self._path()} is not {encoding} text ({exc}); name its encoding, "
                'such as Source.file(..., encoding="cp1252") or "utf-16"'
            ) from exc
        raise SourceError(f"{self._path()} cannot be read: {exc}") from exc

    def _read_txt(self) -> Iterator[Record]:
        column = self.text_column
        for number, line in enumerate(self._lines(), start=1):
            try:
                text = line.decode()
            except UnicodeDecodeError as exc:
                exc.reason += f" in line {number}"
                raise
            yield {column: text.removesuffix("\n").removesuffix("\r")}

    def _read_jsonl(self) -> Iterator[Record]:
        for number, line in enumerate(self._lines(), start=1):
            text = line.strip()
            if not text:
                continue
            try:
                record = parse_json(text)
            except ValueError as exc:
                raise json_error(self._path(), exc, line, number) from exc
            if type(record) is not dict:
                hint = 'if the whole file is one JSON array, write format="json"'
                raise SourceError(
                    f"{self._path()}, line {number} holds a {type(record).__name__}, "
                    f"not an object of columns and values; {hint}"
                )
            yield record

    def _read_json(self) -> Iterator[Record]:
        lines = (line for line in self._lines() if not line.isspace())
        head = list(islice(lines, 2))
        if len(head) == 2 and head[0].lstrip().startswith(b"{"):
            try:
                parse_json(head[0])
            except ValueError:
                pass  # an object over several lines
            else:
                return self._read_jsonl()
        body = b"".join(self._lines())
        try:
            found = parse_json(body)
        except ValueError as exc:
            raise json_error(self._path(), exc, body) from exc
        if isinstance(found, dict):
            tables = {k: v for k, v in found.items() if k in _TABLE_KEYS and isinstance(v, list)}
            if len(tables) != 1:
                raise SourceError(
                    f"{self._path()} holds one object with the keys "
                    f"{formats.some_names(list(found)) or '(none)'}, "
                    'not an array of objects; if it is one record, write format="jsonl" and keep '
                    "it on one line"
                )
            (found,) = tables.values()
        if not isinstance(found, list):
            raise SourceError(
                f"{self._path()} holds a {type(found).__name__}, not an array of objects"
            )
        for i, record in enumerate(found):
            if type(record) is not dict:
                raise SourceError(
                    f"{self._path()}, element {i} of the array is a {type(record).__name__}, "
                    "not an object of columns and values"
                )
        return iter(found)

    def _dialect(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"strict": True}
        settings["delimiter"] = "\t" if self.format == "tsv" else ","
        if "sep" in self.options:
            settings["delimiter"] = self.options["sep"]
        settings.update({k: v for k, v in self.options.items() if k in _CSV_DIALECT})
        csv.reader([], **settings)  # raises TypeError for a wrong setting
        return settings

    def _parquet(self) -> ParquetTable:
        return ParquetTable(self._path(), self.options.get("columns"))

    def _table(self) -> CsvTable:
        return CsvTable(
            self._path(),
            self._encoding(),
            self._dialect(),
            names=self.options.get("names"),
            dtype=self.options.get("dtype"),
        )

    def _read_csv(self) -> Iterator[Record]:
        table = self._table()
        version = self.version()
        if self._types is None or self._types[0] != version:
            self._types = (version, table.conversions())
        return table.rows(self._types[1])


class Source:
    """Makers of sources."""

    @staticmethod
    def list(records: Sequence[Any]) -> ListSource:
        """Records of a list of dicts."""
        return ListSource(records)

    @staticmethod
    def dataframe(frame: Any) -> FrameSource:
        """Rows of a pandas DataFrame; the index is dropped (`df.reset_index()` keeps it)."""
        return FrameSource(frame)

    from_df = dataframe

    @staticmethod
    def file(
        path: str | os.PathLike[str],
        format: str | None = None,
        text_column: str = "text",
        **kwargs: Any,
    ) -> FileSource:
        """Records of a jsonl, json, csv, tsv, parquet or txt file; see `FileSource`."""
        return FileSource(path, format, text_column, **kwargs)


def _format(file: str, format: str | None) -> str:
    if format is not None:
        if format not in FORMATS:
            raise ValueError(
                f"Source.file knows no format {format!r}; there are: {', '.join(FORMATS)}"
            )
        return format
    name = file.lower().removesuffix(".gz")
    found = _EXTENSIONS.get(os.path.splitext(name)[1])
    if found is None:
        raise ValueError(
            f"the extension of {file!r} does not tell its format; give format=, "
            f"one of: {', '.join(FORMATS)}"
        )
    if found == "parquet" and name != file.lower():
        raise ValueError(f"{file!r}: a parquet file is not read through gzip; unpack it first")
    return found


def _check_names(option: str, names: Any) -> None:
    if names is not None and (
        isinstance(names, str) or not all(isinstance(name, str) for name in names)
    ):
        raise TypeError(f"{option}= is a list of column names, not {names!r}")
