"""Answers that the database could not take, in files beside it until it can."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson

from datafast_nb.errors import MemoError
from datafast_nb.store.database import sync
from datafast_nb.store.rows import SPEND, Body, DamagedRowError, dump, read_replies, seal

_SUM = slice(0, 12)


class Overflow:
    """The overflow files of one memo, and what they hold.

    A file has all its lines when it gets its name and is never changed after, so that any
    process may merge and delete it; a reply merged twice is recognised.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self.entries: dict[str, list[tuple[str, Body]]] = {}
        """Key → (row name, what to add to it), in order."""
        self._files: list[Path] = []

    def read(self) -> list[str]:
        """Take in all files that lie there; returns warnings."""
        said = []
        for path in sorted(self._directory.glob("overflow-*.jsonl")):
            n_bad = 0
            entries: list[tuple[str, Body]] = []
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:  # merged by another process in this moment
                continue
            for line in lines:
                try:
                    entries.append(_read_line(line))
                except (ValueError, KeyError, TypeError, MemoError):
                    n_bad += 1
            if n_bad:
                aside = path.with_suffix(".damaged")
                said.append(
                    f"{n_bad} lines of {path} are damaged and left out; it stays as {aside.name}"
                )
                with contextlib.suppress(OSError):
                    aside.write_bytes(b"\n".join(lines))
            self._take(path, entries)
        return said

    def _take(self, path: Path, entries: Sequence[tuple[str, Body]]) -> None:
        with self._lock:
            for name, body in entries:
                self.entries.setdefault(name.partition("/")[0], []).append((name, body))
            self._files.append(path)

    def write(self, entries: Sequence[tuple[str, Body]]) -> Path:
        """Put entries into a file of their own, synced. Raises OSError, leaving no file."""
        if not entries:
            return self._directory
        plain = [(name, orjson.loads(dump(body))) for name, body in entries]
        lines = []
        for name, body in plain:
            checksum = seal(name, dump(body))[_SUM].hex()
            lines.append(dump({"row": name, "sum": checksum, "body": body}) + b"\n")
        pid, n = os.getpid(), 0
        while (path := self._directory / f"overflow-{pid}-{n}.jsonl").exists():
            n += 1
        temporary = path.with_suffix(".tmp")
        try:
            _write_private(temporary, b"".join(lines))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync(self._directory)
        self._take(path, plain)
        return path

    def forget(self) -> None:
        """The database holds it all: delete the files."""
        if not self._files:
            return
        with self._lock:
            files, self._files = self._files, []
            self.entries = {}
        for path in files:
            with contextlib.suppress(OSError):
                path.unlink()

    @staticmethod
    def keep_damaged(path: Path, rows: Sequence[tuple[str, object]]) -> None:
        """Append rows that failed their checksum to a file, for people."""
        text = b"".join(
            orjson.dumps({"row": name, "value": value.hex() if isinstance(value, bytes) else None})
            + b"\n"
            for name, value in rows
        )
        with contextlib.suppress(OSError):
            _write_private(path, text, os.O_APPEND)


def _read_line(line: bytes) -> tuple[str, Body]:
    data = orjson.loads(line)
    name, body = data["row"], data["body"]
    if seal(name, dump(body))[_SUM].hex() != data["sum"] or "/" not in name:
        raise DamagedRowError("checksum differs")
    if "of" not in body and not name.startswith(f"{SPEND}/"):
        read_replies(body)
    return name, body


def _write_private(path: Path, text: bytes, flag: int = os.O_TRUNC) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
