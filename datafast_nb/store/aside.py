"""A file written beside its place, piece by piece, hashed, synced and renamed when it is whole."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from hashlib import sha256
from pathlib import Path
from types import TracebackType

_LEFT_OVER = re.compile(
    r"\.(manifest\.json|step_\d{3,6}_[A-Za-z0-9_.-]+)\.[0-9a-f]{12}\.tmp"
).fullmatch


class AsideFile:
    """A file to be. Until `finish` nothing stands under its name; `discard` leaves nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(self._aside, flags, 0o600), "wb")
        self._hash = sha256()
        self.n_bytes = 0
        self.is_finished = False

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        self._file.write(data)
        self._hash.update(data)
        self.n_bytes += len(data)

    @property
    def sha256(self) -> str:
        """Of all that was written, in hex."""
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Sync, and rename over what stands there. Raises OSError; the aside file then is gone.

        The rename itself survives a power cut from the next `sync_folder` on.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._aside, self._path)
        except BaseException:
            self.discard()
            raise
        self.is_finished = True

    def discard(self) -> None:
        """Remove what was written, where it was not finished."""
        if self.is_finished:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._aside)

    def __enter__(self) -> AsideFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()


def remove_left_over(folder: Path) -> None:
    """Remove the files that a killed run had begun; to be called by the owner of the folder."""
    for name in os.listdir(folder):
        if _LEFT_OVER(name):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder survive a power cut, where the system can."""
    # Windows and some network file systems cannot sync a folder; the file is in place by then.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
