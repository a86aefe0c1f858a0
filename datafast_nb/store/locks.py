"""A directory that one run at a time may write: a lock file that names its owner.

The operating system holds the lock and lets go of it when the process dies, however it dies.
What stands in the file tells people who has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from datafast_nb.errors import CheckpointError

LOCK_NAME = "checkpoint.lock"
_TRIES = 20


class FolderLock:
    """The right to write into a directory, from `take` to `release`.

    Attributes
    ----------
    former
        Who had the lock and died without releasing it, in words; "" for nobody.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None
        self.former = ""

    def take(self) -> None:
        """Take the lock, also from an owner that is dead.

        Raises
        ------
        CheckpointError
            If a living process has it; names its id and host.
        OSError
            If the file cannot be written.
        """
        for _ in range(_TRIES):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not _lock(descriptor):
                    self._refuse_or_replace(descriptor)
                    continue
                if not self._is_still_there(descriptor):
                    continue  # released, and so removed, between our opening and locking it
                owner = _read(descriptor)
                if owner:
                    self.former = _in_words(owner)
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, _me())
                self._descriptor, descriptor = descriptor, -1
                return
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        raise CheckpointError(
            f"the lock {self._path} changes hands all the time; several runs use this directory: "
            "give each its own checkpoint_dir",
            path=str(self._path),
        )

    def release(self) -> None:
        """Let go and remove the file. Safe to call twice."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            with contextlib.suppress(OSError):
                if self._is_still_there(descriptor):
                    os.unlink(self._path)
        finally:  # also where an interrupt comes in between: the process goes on
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _refuse_or_replace(self, descriptor: int) -> None:
        owner = _read(descriptor)
        if owner and _is_dead(owner):
            # A child that the dead run had forked still holds its files open.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        who = _in_words(owner) if owner else "another run"
        here = " (this process)" if owner.get("pid") == os.getpid() else ""
        raise CheckpointError(
            f"the checkpoint directory {self._path.parent} is in use by {who}{here}. Wait for that "
            "run or stop it, or give this one a checkpoint_dir of its own; nothing has been asked",
            path=str(self._path.parent),
        )

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(descriptor))
        except FileNotFoundError:
            return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        # Far behind the text, which others must be able to read.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _me() -> bytes:
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "process_start": _process_start(os.getpid()),
    }
    return json.dumps(owner).encode()


def _read(descriptor: int) -> dict[str, Any]:
    """The owner as it stands in the file; empty where nothing readable stands there."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(descriptor, 4_096))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and type(owner.get("pid")) is int else {}


def _in_words(owner: dict[str, Any]) -> str:
    return (
        f"process {owner['pid']} on {str(owner.get('host'))[:60]!r}, which began at "
        f"{str(owner.get('started_at'))[:20]}"
    )


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner is surely gone: its id is free on this host, or another process's now."""
    if sys.platform == "win32" or owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    began = owner.get("process_start")
    return bool(began) and _process_start(owner["pid"]) not in ("", began)


def _process_start(pid: int) -> str:
    """When the process began, in the kernel's own count; "" where it cannot be known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""
