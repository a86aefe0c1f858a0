"""The `Disk` that diskcache uses for the memo: sealed JSON in the database, never pickle.

Apart from this file and the creation of the database, diskcache is not needed to read or
write the memo. `diskcache.Cache(folder, disk=MemoDisk)` opens it for inspection.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NoReturn

import diskcache
from diskcache.core import MODE_RAW

from datafast_nb.errors import MemoError
from datafast_nb.store.rows import DamagedRowError, dump, seal, unseal


class MemoDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys are text; values are JSON under a checksum, inside the database whatever their size."""

    def __init__(self, directory: str, **settings: Any) -> None:
        # Settings come out of the database file, which a stranger may have written.
        super().__init__(directory)

    def put(self, key: Any) -> tuple[Any, bool]:
        """Take text alone: diskcache would pickle other keys."""
        if type(key) is not str:
            _refuse(f"the key {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> Any:
        """Give text alone: diskcache would unpickle other keys, which can run code."""
        if not raw or type(key) is not str:
            _refuse("a stored key that is no text")
        return key

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, Any]:
        """Fields size, mode, filename, value of the row; size 0, as the database holds it all."""
        if read:
            _refuse("a file as value")
        try:
            body = dump(value)
        except (TypeError, ValueError) as exc:
            raise MemoError(
                f"memo row {key!r}: a {type(value).__name__} cannot be written as JSON ({exc}); "
                "the memo never pickles. Store text, numbers, booleans, None, lists and dicts"
            ) from exc
        return 0, MODE_RAW, None, sqlite3.Binary(seal(key, body))

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> Any:
        """Give the JSON value, or raise MemoError; no file named by a row is opened."""
        if mode != MODE_RAW or filename is not None or read:
            _refuse("a stored value that is pickled or lies in a file")
        try:
            return unseal(value)
        except DamagedRowError as exc:
            raise MemoError(f"a row of the memo is damaged ({exc}); it is not used") from exc


def _refuse(what: str) -> NoReturn:
    raise MemoError(
        f"the memo refuses {what}: it holds text keys and JSON values only, since reading a "
        "pickle can run code. Delete the row if you did not put it there"
    )
