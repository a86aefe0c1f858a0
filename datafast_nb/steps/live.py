"""A file that grows while a run goes on, for people to read: `name.jsonl.part`."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO


class LiveFile:
    """Whole lines in the order in which they come; every line that is there can be read.

    It is a look at the run and no result: not flushed to the disk, and begun anew by the next run.
    """

    def __init__(self, path: str) -> None:
        self.path = path + ".part"
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Start with an empty file. Raises OSError."""
        self.close()
        # Private at first, like what the engine keeps; the sink's own file gets the usual mode.
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb", buffering=0)

    def add(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError; a line that was cut off is taken back."""
        if self._file is None:
            return
        size = self._file.seek(0, os.SEEK_END)
        left = memoryview(lines)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BaseException:  # also an interrupt
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self) -> None:
        """Grow no further."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """The records are in a file of their own now."""
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)
