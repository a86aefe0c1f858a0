"""Files: written as a whole or not at all; read packed or plain; JSON, CSV, Parquet taken strictly.

Nothing here knows steps or records. Damage is an error with its place, never another value.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import io
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any, BinaryIO, NoReturn, cast

import orjson

from datafast_nb.errors import SourceError

Conversion = Callable[[str], Any]
"""Text of a cell to its value."""

_SHOWN_CHARS = 60
_MAX_STEM = 50
"""Characters of a file's name in that of the file aside: file systems take 255 bytes in all."""
_LEFT_OVER_S = 60.0
"""A file aside that is younger may be of a process that has just begun it."""
_BOM = b"\xef\xbb\xbf"


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Replace the file at `path` by what `write` puts into the open binary file it is given.

    The new file is written beside the old one, synced and renamed over it, so that a reader, a
    crash or a full disk never meets half a file. A symbolic link stays a link: its target is
    replaced. Mode bits and, where the process may, the owner of a former file are kept. What a
    killed process left of a write of the same file is removed.

    Raises
    ------
    OSError
        If it cannot be written. After this and any other error, `write`'s own included, no
        temporary file remains and the former file is untouched.
    """
    target = os.path.realpath(path)
    former = _former(target)
    folder, name = os.path.split(target)
    stem = f".{name[:_MAX_STEM]}."
    _remove_left_over(folder, stem)
    aside = os.path.join(folder, f"{stem}{secrets.token_hex(8)}.tmp")
    try:
        # os.open, not tempfile: a new file gets the mode of the user's umask, not 0600.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(aside, flags, 0o666), "wb") as file:
            _takes_lock(file.fileno())  # as long as it is open nobody takes it for a left-over
            write(file)
            file.flush()
            if former is not None:
                _keep_attributes(aside, former)
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        if isinstance(exc, OSError):
            exc.add_note(f"{target} was not written; " + _what_stands(former is not None))
        raise
    _sync_folder(folder)


def _remove_left_over(folder: str, stem: str) -> None:
    """Remove old files aside of a name that no process holds open any more."""
    is_aside = re.compile(re.escape(stem) + r"[0-9a-f]{16}\.tmp").fullmatch
    with contextlib.suppress(OSError):  # nobody's data: it may as well stay
        for name in filter(is_aside, os.listdir(folder)):
            path = os.path.join(folder, name)
            if time.time() - os.stat(path).st_mtime < _LEFT_OVER_S:
                continue
            with open(path, "rb") as file:
                is_free = _takes_lock(file.fileno())
            if is_free:
                os.unlink(path)


def _takes_lock(descriptor: int) -> bool:
    """Lock an open file for its time; False: another one has, or there are no such locks here."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed anyway
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def partial_path(path: str, suffix: str) -> str:
    """`path` with `suffix` before the extension: "a/name.jsonl" gives "a/name.partial.jsonl"."""
    if not suffix:
        return path
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    if is_packed(name):
        stem, inner = os.path.splitext(stem)
        extension = inner + extension
    return os.path.join(folder, f"{stem}.{suffix}{extension}")


def is_packed(path: str) -> bool:
    """Whether the name says that the file is compressed by gzip."""
    return path.lower().endswith(".gz")


@contextlib.contextmanager
def packed(file: BinaryIO, path: str) -> Iterator[IO[bytes]]:
    """`file`, or a compressor into it where `path` ends in ".gz"; `file` stays open."""
    if not is_packed(path):
        yield file
        return
    # Without name and time inside, the same content gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as out:
        yield cast(IO[bytes], out)


def open_binary(path: str) -> IO[bytes]:
    """The file for reading, unpacked where its name ends in ".gz"."""
    return cast(IO[bytes], gzip.GzipFile(path)) if is_packed(path) else open(path, "rb")


def open_text(path: str, encoding: str, *, newline: str) -> io.TextIOWrapper:
    """The file as text, unpacked where its name ends in ".gz"; `newline` as in `open`."""
    return io.TextIOWrapper(cast(BinaryIO, open_binary(path)), encoding=encoding, newline=newline)


def read_lines(path: str, encoding: str = "utf-8-sig") -> Iterator[bytes]:
    """Lines in UTF-8 with their ends, split at line feeds alone; a UTF-8 file is not decoded."""
    if encoding != "utf-8-sig":
        with open_text(path, encoding, newline="\n") as text:
            yield from (line.encode() for line in text)
        return
    with open_binary(path) as file:
        yield from (line.removeprefix(_BOM) for line in [file.readline()] if line)
        yield from file


def parse_json(text: bytes) -> Any:
    """Parse strictly where it is cheap to: no key twice, no integer turned into a float.

    Raises ValueError.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _parse_slowly(text)
    # orjson keeps the last of equal keys and rounds integers over 64 bits. Keys are counted in
    # the text and in the value; a text where this proves nothing takes the slow way.
    n_keys = _count_keys(value)
    if n_keys < 0 or text.count(b'":') != n_keys or _has_spaced_colon(text):
        return _parse_slowly(text)
    return value


_ROUNDED = float(2**63)


def _has_spaced_colon(text: bytes) -> bool:
    return b" :" in text or b"\t:" in text or b"\n:" in text or b"\r:" in text


def _count_keys(value: Any) -> int:
    """Number of keys in all dicts of a JSON value; negative if an integer may have been rounded."""
    total = 0
    stack: list[Any] = [[value]]
    while stack:
        items = stack.pop()
        if type(items) is dict:
            total += len(items)
            items = items.values()
        for item in items:
            kind = type(item)
            if kind is dict or kind is list:
                stack.append(item)
            elif kind is float and not -_ROUNDED < item < _ROUNDED:
                return -1
    return total


def _parse_slowly(text: bytes) -> Any:
    try:
        value = json.loads(text.decode(), object_pairs_hook=_without_repeats)
        # Half of a surrogate pair, as in "\ud83d", is no text and could not be written again.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return record


def json_error(path: str, exc: ValueError, text: bytes, line: int | None = None) -> SourceError:
    """The error that names file, place and remedy for what `parse_json` refused."""
    place = path
    reason = str(exc)
    if isinstance(exc, json.JSONDecodeError):
        place += f", line {line or exc.lineno}, column {exc.colno}"
        reason = exc.msg
    elif line is not None:
        place += f", line {line}"
    remedy = "mend or remove the line"
    if line is None:
        remedy = 'mend the file; if it holds one object per line, write format="jsonl"'
    elif isinstance(exc, UnicodeDecodeError):
        remedy = 'name the encoding of the file, such as encoding="cp1252"'
    elif not text.endswith(b"\n"):
        remedy = "it is the last line and has no line end: the file was probably cut off there"
    start = text[:400].decode(errors="replace").strip()
    start = start if len(start) <= _SHOWN_CHARS else start[:_SHOWN_CHARS] + "…"
    return SourceError(f"{place} is not readable JSON ({reason}); {remedy}. It starts: {start}")


class CsvTable:
    """A CSV file whose columns have one type each, decided by the whole file.

    Parameters
    ----------
    dialect
        Parameters of `csv.reader`.
    names
        Columns of a file without header.
    dtype
        str, int, float or bool, or a dict of column to one of these; other columns are open.
    """

    def __init__(
        self,
        path: str,
        encoding: str,
        dialect: Mapping[str, Any],
        *,
        names: Sequence[str] | None = None,
        dtype: Any = None,
    ) -> None:
        self.path = path
        self.encoding = encoding
        self.dialect = dialect
        self.names = names
        self.dtype = dtype

    def header(self) -> list[str]:
        """Columns; empty for an empty file."""
        return next(self._cells())

    def rows(self, conversions: Sequence[Conversion]) -> Iterator[dict[str, Any]]:
        """Rows as dicts, None for empty cells; `conversions` as given by `conversions()`."""
        cells = self._cells()
        names = next(cells)
        for index, row in enumerate(cells):
            try:
                yield {
                    name: (convert(cell) if cell else None)
                    for name, convert, cell in zip(names, conversions, row, strict=True)
                }
            except (ValueError, KeyError) as exc:
                raise SourceError(
                    f"{self.path}, record {index}: a cell does not fit dtype= ({exc})"
                ) from exc

    def conversions(self, n_rows: int | None = None) -> list[Conversion]:
        """What turns the text of a cell into its value, for each column.

        Reads the whole file, or its first `n_rows`.
        """
        cells = self._cells()
        names = next(cells)
        if n_rows is not None:
            cells = islice(cells, n_rows)
        for name in self.dtype if isinstance(self.dtype, Mapping) else ():
            if name not in names:
                raise SourceError(
                    f"dtype= names the column {name!r}; {self.path} has: {', '.join(names)}"
                )
        forced = [_forced_conversion(self.dtype, name) for name in names]
        undecided = [i for i, conversion in enumerate(forced) if conversion is None]
        kinds = dict.fromkeys(undecided, _KINDS)
        seen: set[int] = set()
        while undecided and (piece := list(islice(cells, 4_000))):
            for i in undecided:
                texts = {row[i] for row in piece} - _MISSING
                if texts:
                    seen.add(i)
                    kinds[i] = [kind for kind in kinds[i] if all(map(kind[0], texts))]
            undecided = [i for i in undecided if kinds[i]]
        return [
            conversion or (kinds[i][0][1] if i in seen and kinds[i] else str)
            for i, conversion in enumerate(forced)
        ]

    def _cells(self) -> Iterator[list[str]]:
        """Header, then one list of texts per row, each of the header's length."""
        # Cells are texts of any length here; the module's limit is 131,072 characters.
        csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
        with open_text(self.path, self.encoding, newline="") as text:
            reader = csv.reader(text, **self.dialect)
            try:
                names = self._header(reader)
                yield names
                end = reader.line_num
                for row in reader:
                    if len(row) != len(names) and row:
                        self._refuse_ragged(row, names, end + 1)
                    end = reader.line_num
                    if row:
                        yield row
            except csv.Error as exc:
                raise SourceError(
                    f"{self.path}, line {reader.line_num} is not readable CSV ({exc}); mend the "
                    "quotes there, or name the dialect with sep=, quotechar=, strict=False"
                ) from exc

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        names = self.names if self.names is not None else next((row for row in reader if row), [])
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(
                f"{self.path} has several columns named {', '.join(map(repr, twice))}; rename "
                "them in the header, or give names=[...]"
            )
        return list(names)

    def _refuse_ragged(self, row: list[str], names: list[str], line: int) -> NoReturn:
        hint = "a cell with the separator in it needs quotes"
        if len(row) < len(names):
            hint = "if it is the last line, the file was probably cut off there"
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = "if another separator is used, give sep="
        raise SourceError(
            f"{self.path}, line {line} has {len(row)} cells, the header has {len(names)} "
            f"({', '.join(names)[:_SHOWN_CHARS]}); {hint}"
        )


def check_dtype(dtype: Any) -> None:
    """Raise ValueError for a `dtype` that CsvTable does not take."""
    for kind in dtype.values() if isinstance(dtype, Mapping) else [dtype]:
        _forced_conversion(kind, "")


_MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "None"})
_INT = re.compile(r" *(?:0|-?[1-9][0-9]{0,999}) *").fullmatch
_FLOAT = re.compile(
    r" *-?(?:(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf) *"
).fullmatch
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def _to_int(cell: str) -> int | None:
    return None if cell in _MISSING else int(cell)


def _to_float(cell: str) -> float | None:
    return None if cell in _MISSING else float(cell)


def _to_bool(cell: str) -> bool | None:
    return None if cell in _MISSING else _BOOLS[cell]


# Tried in this order: test of one cell, conversion of one cell.
_KINDS: list[tuple[Callable[[str], Any], Conversion]] = [
    (_INT, _to_int),
    (_FLOAT, _to_float),
    (_BOOLS.__contains__, _to_bool),
]
_CONVERSIONS: dict[str, Conversion] = {
    "str": str,
    "string": str,
    "object": str,
    "int": _to_int,
    "int64": _to_int,
    "float": _to_float,
    "float64": _to_float,
    "bool": _to_bool,
}


def _forced_conversion(dtype: Any, column: str) -> Conversion | None:
    """What `dtype` asks for; None where it leaves the column open."""
    kind = dtype.get(column) if isinstance(dtype, Mapping) else dtype
    if kind is None:
        return None
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    if name not in _CONVERSIONS:
        raise ValueError(f"dtype= takes str, int, float or bool, not {kind!r}")
    return _CONVERSIONS[name]


class ParquetTable:
    """A Parquet file, or some of its columns; errors are SourceErrors naming the file."""

    def __init__(self, path: str, columns: Sequence[str] | None = None) -> None:
        self.path = path
        self.columns = columns

    def header(self) -> list[str]:
        """Columns in the order of the file."""
        with self._open() as file:
            return self._names(file)

    def count(self) -> int:
        """Number of rows, from the file's metadata."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    def rows(self, chunk: int) -> Iterator[list[dict[str, Any]]]:
        """Rows as dicts, in pieces of at most `chunk`."""
        with self._open() as file:
            names = self._names(file)
            for batch in file.iter_batches(batch_size=chunk, columns=names):
                columns = [column.to_pylist() for column in batch.columns]
                rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
                yield [dict(zip(names, row, strict=True)) for row in rows]

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                yield file
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{self.path} is not a readable Parquet file: {exc}") from exc

    def _names(self, file: Any) -> list[str]:
        names = list(file.schema_arrow.names)
        if len(set(names)) < len(names):
            raise SourceError(f"{self.path} has several columns of the same name: {names}")
        for name in self.columns or ():
            if name not in names:
                raise SourceError(f"{self.path} has no column {name!r}; it has: {', '.join(names)}")
        return [name for name in names if self.columns is None or name in self.columns]


def _former(target: str) -> os.stat_result | None:
    try:
        former = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(former.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(former.st_mode):
        # A rename would put a plain file in place of a device or pipe such as /dev/null.
        raise OSError(errno.EINVAL, "not a regular file", target)
    return former


def _keep_attributes(aside: str, former: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only root may give a file away
            os.chown(aside, former.st_uid, former.st_gid)
    os.chmod(aside, stat.S_IMODE(former.st_mode))


def _what_stands(existed: bool) -> str:
    return "the former file stands untouched" if existed else "there is no file of that name"


def _sync_folder(folder: str) -> None:
    # The rename itself must survive a power cut. Windows and some network file systems cannot
    # sync a folder; the file is in place by then, so this is no error.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
