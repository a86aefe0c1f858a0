"""Files of a checkpoint's steps: the records, a line each, and beside them their trail.

`step_001_load.jsonl` is for people and for resuming; `step_001_load.trail.jsonl` holds what
lineage needs (identities, parents, calls, errors) and a checksum of each line, so that damage
has a place. Both are known to the manifest by size and sha256.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

from datafast_nb.display import formats
from datafast_nb.errors import CheckpointError
from datafast_nb.records import Record
from datafast_nb.store.aside import AsideFile
from datafast_nb.store.manifest import FileMark, StepEntry
from datafast_nb.store.typed_json import decode, dump, encode, load

PIECE = 1024
"""Records that share a line of the trail."""
_BLOCK = 1 << 20
_MAX_TAIL = 100_000_000
_TEXTS = frozenset({str})

Section = tuple[str, Any]
"""A line of the trail: what it holds ("parents", "calls", …) and plain JSON values."""


@dataclass
class StepData:
    """What the files of a step hold."""

    records: list[Record] | None = None
    """None where they were only checked."""
    row_ids: list[str] | None = None
    tokens: list[str] | None = None
    sections: dict[str, list[Any]] = field(default_factory=dict)


class StepWriter:
    """Writes the files of one step; until `finish` nothing stands under their names."""

    def __init__(self, folder: Path, entry: StepEntry) -> None:
        self._path = folder / f"{entry.stem}.jsonl"
        self._trail_path = folder / f"{entry.stem}.trail.jsonl"
        self._step = entry.name
        self.n_records = 0
        self._n_lines = 0
        self._file = self._opened(self._path)
        try:
            self._trail = self._opened(self._trail_path)
        except BaseException:
            self._file.discard()
            raise

    def add(
        self, records: Sequence[Record], row_ids: Sequence[str] | None, tokens: Sequence[str] | None
    ) -> None:
        """Append records. Raises CheckpointError, RecordError."""
        for start in range(0, len(records), PIECE):
            end = min(start + PIECE, len(records))
            shift = self.n_records - start
            lines = [encode(records[i], self._place, shift + i) + b"\n" for i in range(start, end)]
            body = [
                "records",
                list(map(crc32, lines)),
                None if row_ids is None else list(row_ids[start:end]),
                None if tokens is None else list(tokens[start:end]),
            ]
            self._put(self._file, self._path, b"".join(lines))
            self._put_line(body)
            self.n_records += end - start

    def finish(self, sections: Iterable[Section]) -> tuple[FileMark, FileMark]:
        """Add the rest of the trail and put both files in place; how they were written."""
        for name, body in sections:
            self._put_line([name, body])
        with self._telling(self._path, self._file.n_bytes):
            self._file.finish()
        with self._telling(self._trail_path, self._trail.n_bytes):
            self._trail.finish()
        return (
            FileMark(self._path.name, self._file.n_bytes, self._file.sha256, self.n_records),
            FileMark(self._trail_path.name, self._trail.n_bytes, self._trail.sha256, self._n_lines),
        )

    def discard(self) -> None:
        """Remove what was written, where it was not finished."""
        self._file.discard()
        self._trail.discard()

    def _place(self, index: int) -> str:
        return f"step '{self._step}', record {index}"

    def _put_line(self, body: list[Any]) -> None:
        self._n_lines += 1
        self._put(self._trail, self._trail_path, dump(body) + b"\n")

    def _opened(self, path: Path) -> AsideFile:
        with self._telling(path, 0):
            return AsideFile(path)

    def _put(self, file: AsideFile, path: Path, data: bytes) -> None:
        with self._telling(path, file.n_bytes + len(data)):
            file.write(data)

    @contextlib.contextmanager
    def _telling(self, path: Path, n_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise cannot_write(path, n_bytes, exc) from exc


def cannot_write(path: Path, n_bytes: int, exc: OSError) -> CheckpointError:
    """The error for a file of a checkpoint that cannot be written."""
    return CheckpointError(
        f"the checkpoint cannot write {path} ({n_bytes:,} bytes): {exc.strerror or exc}. Answers so "
        "far are in the memo and earlier steps in the checkpoint: make room, or mend what the "
        "message says, then run again with resume=True",
        path=str(path),
    )


def _joined(known: list[str] | None, more: Any, n: int) -> list[str] | None:
    if known is None or more is None:
        return None
    if type(more) is not list or len(more) != n or not _TEXTS.issuperset(map(type, more)):
        raise ValueError(f"not {n:,} texts for as many records")
    known.extend(more)
    return known


def read_step(
    folder: Path,
    entry: StepEntry,
    *,
    remedy: str,
    keep: bool,
    note: Callable[[str], None],
) -> StepData:
    """Read and check the files of a complete step.

    Parameters
    ----------
    remedy
        What to do about damage, for errors.
    keep
        False: check the records without keeping them.
    note
        Is told of repairs.

    Raises
    ------
    CheckpointError
        If a file is missing or not what was written; names file and line.
    """
    data = StepData()
    if entry.file is None or entry.trail is None:
        return data
    reading = _Reading(folder, entry, remedy, note)
    sums = reading.trail(data)
    data.records = reading.records(sums, keep)
    return data


class _Reading:
    def __init__(
        self, folder: Path, entry: StepEntry, remedy: str, note: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._entry = entry
        self._remedy = remedy
        self._note = note

    def trail(self, data: StepData) -> array[int]:
        """Fill in all but the records; the checksum of each record's line."""
        mark = self._entry.trail
        assert mark is not None
        path = self._folder / mark.name
        self._mend_tail(path, mark)
        lines, digest = self._lines(path)
        if digest != mark.sha256:
            self._refuse_trail(path, mark, lines)
        sums = array("Q")
        ids: list[str] | None = []
        tokens: list[str] | None = []
        for n, line in enumerate(lines, start=1):
            try:
                name, *body = load(line)
                if name != "records":
                    data.sections.setdefault(name, []).append(body[0])
                    continue
                sums.extend(body[0])
                n_more = len(body[0])
                ids, tokens = _joined(ids, body[1], n_more), _joined(tokens, body[2], n_more)
            except (ValueError, TypeError, LookupError, OverflowError) as exc:
                said = formats.error_text(exc)
                self._refuse(path, f"line {n:,} is not what this version writes ({said})")
        data.row_ids = ids
        data.tokens = tokens if len(sums) else None
        return sums

    def records(self, sums: array[int], keep: bool) -> list[Record] | None:
        """The records, each line checked as it is read."""
        mark = self._entry.file
        assert mark is not None
        path = self._folder / mark.name
        self._mend_tail(path, mark)
        kept: list[Record] | None = [] if keep else None
        n = 0
        for n, line in enumerate(self._each_line(path), start=1):
            if n > len(sums):
                self._refuse(
                    path, f"line {n:,}: {mark.lines:,} records were written, here are more"
                )
            if crc32(line) != sums[n - 1]:
                self._refuse(path, f"line {n:,} {self._why(line)}")
            if kept is not None:
                try:
                    kept.append(decode(line))
                except ValueError as exc:
                    self._refuse(path, f"line {n:,} is unreadable ({exc})")
        if n < mark.lines:
            self._refuse(path, f"ends after line {n:,}; {mark.lines:,} records were written")
        return kept

    def _why(self, line: bytes) -> str:
        if not line.endswith(b"\n"):
            return "is torn: the file ends in the middle of it"
        if b"\0" in line:
            return "holds NUL bytes"
        try:
            decode(line)
        except ValueError as exc:
            return f"is no readable record ({str(exc)[:100]})"
        return "is not the record that was written there: lines are lost, doubled or changed"

    def _each_line(self, path: Path) -> Iterator[bytes]:
        mark = self._entry.file
        assert mark is not None
        digest = sha256()
        try:
            with open(path, "rb") as file:
                for line in file:
                    digest.update(line)
                    yield line
        except OSError as exc:
            self._refuse(path, f"cannot be read: {exc.strerror or exc}")
        if digest.hexdigest() != mark.sha256:
            self._refuse(path, "is not what was written (its sha256 differs)")

    def _lines(self, path: Path) -> tuple[list[bytes], str]:
        try:
            text = path.read_bytes()
        except OSError as exc:
            self._refuse(path, f"cannot be read: {exc.strerror or exc}")
        lines = text.split(b"\n")
        return lines[:-1] if not lines[-1] else lines, sha256(text).hexdigest()

    def _refuse_trail(self, path: Path, mark: FileMark, lines: list[bytes]) -> NoReturn:
        for n, line in enumerate(lines, start=1):
            try:
                load(line)
            except ValueError:
                self._refuse(path, f"line {n:,} is damaged")
        if len(lines) != mark.lines:
            self._refuse(path, f"has {len(lines):,} lines; {mark.lines:,} were written")
        self._refuse(path, "is not what was written (its sha256 differs)")

    def _mend_tail(self, path: Path, mark: FileMark) -> None:
        """Cut off what stands behind a whole file, or add a lost line end."""
        try:
            size = os.stat(path).st_size
            if size == mark.bytes or not -1 <= size - mark.bytes <= _MAX_TAIL:
                return
            with open(path, "r+b") as file:
                digest = sha256()
                left = min(size, mark.bytes)
                while left and (block := file.read(min(_BLOCK, left))):
                    digest.update(block)
                    left -= len(block)
                if size < mark.bytes:
                    digest.update(b"\n")
                if digest.hexdigest() != mark.sha256:
                    return
                if size < mark.bytes:
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                else:
                    file.truncate(mark.bytes)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            self._refuse(path, "is missing")
        except OSError as exc:
            self._refuse(path, f"cannot be read: {exc.strerror or exc}")
        what = "its last line end was lost" if size < mark.bytes else (
            f"{size - mark.bytes:,} bytes that do not belong to it stood at its end"
        )  # fmt: skip
        self._note(f"checkpoint file {path.name} was repaired: {what}")

    def _refuse(self, path: Path, what: str) -> NoReturn:
        separator = ", " if what.startswith("line ") else " "
        raise CheckpointError(
            f"{path}{separator}{what}. The checkpoint of step '{self._entry.name}' cannot be used: "
            f"put a good copy of the file there, or {self._remedy}. Nothing has been asked",
            path=str(path),
        )
