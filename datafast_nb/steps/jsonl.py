"""The sink of JSON Lines."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import math
import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, BinaryIO

import orjson

from datafast_nb.errors import SinkError
from datafast_nb.records import Record
from datafast_nb.steps.filesink import REMEDIES, FileSink, refuse, refuse_value
from datafast_nb.steps.live import LiveFile
from datafast_nb.store.files import open_binary, packed

_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME
_CHUNK = 1_000


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
    live
        While the run goes on, finished records are appended to `path + ".part"`, in the order in
        which they are finished; the file is removed when `path` is written. The run then takes
        `order="records"`, unless it says otherwise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        append: bool = False,
        columns: Sequence[str] | None = None,
        live: bool = False,
    ) -> None:
        super().__init__(path, columns)
        self.append = bool(append)
        self.live = bool(live)
        if live and self.file.lower().endswith(".gz"):
            raise ValueError(
                f"live=True needs a file that can be read while it grows, and {self.file!r} would "
                "be compressed; leave out .gz, or live=True"
            )
        self._live = LiveFile(self.path())
        self._n_live = 0

    @property
    def is_live(self) -> bool:
        """Finished records are to be seen before the run ends."""
        return self.live

    def begin_live(self) -> None:
        """Start `path + ".part"` anew."""
        self._live, self._n_live = LiveFile(self.path()), 0
        with self._refused_live():
            self._live.begin()

    def end_live(self) -> None:
        """Close `path + ".part"`."""
        self._live.close()

    def grow(self, records: Sequence[Record]) -> None:
        """Append finished records to `path + ".part"`."""
        lines = self._lines(records, self.columns or [], self._n_live)
        self._n_live += len(records)
        with self._refused_live():
            self._live.add(lines)

    @contextlib.contextmanager
    def _refused_live(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._live.close()
            remedy = REMEDIES.get(exc.errno or 0, "choose another path, or leave out live=True")
            try:
                refuse(self._live.path, exc.strerror or str(exc), remedy)
            except SinkError as error:
                raise error from exc

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Write all records, all or nothing; returns the absolute path of the file."""
        where = super().write(records, suffix=suffix)
        if self.live:
            self._live.remove()
        return where

    def _fill(
        self, file: BinaryIO, records: Sequence[Record], names: list[str], partial: bool
    ) -> None:
        with packed(file, self.file) as out:
            if self.append and not partial:
                self._copy_former(out)
            for start in range(0, len(records), _CHUNK):
                out.write(self._lines(records[start : start + _CHUNK], names, start))

    def _lines(self, records: Sequence[Record], names: list[str], start: int) -> bytes:
        """A line for each record; the first is number `start`, for errors."""
        lines = []
        for i, record in enumerate(records, start):
            if self.columns is not None:
                record = {name: record.get(name) for name in names}
            try:
                lines.append(orjson.dumps(record, default=json_value, option=_LINE))
            except TypeError:
                lines.append(self._slow_line(record, i))
        return b"".join(lines)

    def _slow_line(self, record: Record, index: int) -> bytes:
        """What orjson refuses: integers over 64 bits; and the errors, with their place."""
        parts = []
        for name, value in record.items():
            try:
                if not isinstance(name, str):
                    raise TypeError("column names are strings")
                pair = json_text({name: value})
                parts.append(pair[1:-1].encode())
            except (TypeError, ValueError) as exc:
                refuse_value(self.path(), index, name, exc)
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


def json_value(value: Any) -> Any:
    """What JSON Lines has for a value that JSON has no form for. Raises TypeError."""
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def json_text(value: Any) -> str:
    """JSON text of a value, as a line of JSON Lines has it. Raises TypeError, ValueError."""
    return json.dumps(
        _finite(value),
        default=json_value,
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
