"""Sinks that write one file, all or nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, BinaryIO, NoReturn

from datafast_nb.errors import SinkError
from datafast_nb.options import shown_path
from datafast_nb.records import Record, column_names
from datafast_nb.steps.base import SinkStep
from datafast_nb.store.files import atomic_write, partial_path

REMEDIES = {
    errno.ENOSPC: "free space on the disk, or choose another path",
    errno.EDQUOT: "free space in your quota, or choose another path",
    errno.EFBIG: "raise the limit on file sizes, or choose another path",
    errno.EROFS: "the disk is read-only, choose another path",
    errno.EACCES: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


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
        self.columns = None if columns is None else columns_of(columns)

    def path(self) -> str:
        """File that is written, absolute."""
        return os.path.abspath(os.path.expanduser(self.file))

    def check(self) -> None:
        """Raise SinkError for a missing or unwritable folder, or a path that is no plain file."""
        path = self.path()
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.exists(folder):
            refuse(
                path, f"the folder {folder} does not exist", f"create it: os.makedirs({folder!r})"
            )
        if not os.path.isdir(folder):
            refuse(path, f"{folder} is a file, not a folder", "choose another path")
        if os.path.isdir(path):
            refuse(path, "it is a folder", "add a file name")
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            refuse(path, "it is a device or pipe, not a plain file", "choose another path")
        if os.path.exists(path) and not os.access(path, os.W_OK):
            refuse(path, "the file is read-only", "choose another path or change its mode")
        if not os.access(folder, os.W_OK | os.X_OK):
            refuse(path, f"the folder {folder} is not writable", "choose another path")

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Write all records, all or nothing; returns the absolute path of the file."""
        self.check()
        path = partial_path(self.path(), suffix)
        names = self._names(records)
        try:
            atomic_write(path, lambda file: self._fill(file, records, names, bool(suffix)))
        except OSError as exc:
            reason = exc.strerror or str(exc)
            remedy = REMEDIES.get(exc.errno or 0, "choose another path, or free space there")
            try:
                refuse(path, reason, f"the former file, if any, stands untouched; {remedy}")
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


def columns_of(columns: Any) -> list[str]:
    """Checked `columns=` of a sink. Raises TypeError, ValueError."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(f"columns= is a list of column names, not {columns!r}")
    for name in columns:
        if not isinstance(name, str):
            raise TypeError(f"columns= is a list of column names; {name!r} is none")
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns= names every column to write once, not {list(columns)!r}")
    return list(columns)


def refuse(path: str, reason: str, remedy: str) -> NoReturn:
    """Raise SinkError: the file, why, and what to do."""
    raise SinkError(f"{path} cannot be written: {reason}; {remedy}")


def refuse_value(path: str, index: int | None, column: str, exc: Exception) -> NoReturn:
    """Raise SinkError for a value that the format cannot hold; index -1 is the header."""
    place = "" if index is None else "the header, " if index < 0 else f"record {index}, "
    reason = str(exc)
    if isinstance(exc, UnicodeEncodeError):
        reason = "it holds half of a surrogate pair (such as '\\ud83d'), which is no text"
    raise SinkError(
        f"{path}: {place}column {column!r} cannot be written: {reason}. "
        "Mend it in a Map before the sink; the former file, if any, stands untouched"
    ) from exc
