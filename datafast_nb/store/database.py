"""The database file of the memo: made by diskcache, opened with care, repaired when damaged.

Only this file and `store/disk.py` know diskcache. It makes the file, so that the memo is a
diskcache `Cache` which any tool for those can open. Rows are read and written on SQLite
connections of our own: diskcache's constructor rewrites all settings of an existing cache
(some 50 commits, waiting up to 60 s each for a foreign lock), its `set` takes twice the time of
one `executemany`, and it has no bulk look-up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from datafast_nb.errors import MemoError
from datafast_nb.options import HOME_NAME
from datafast_nb.store.rows import DamagedRowError, dump, seal, unseal

DB_NAME = "cache.db"  # diskcache's own name
FORMAT_VERSION = 1
FORMAT_ROW = "!meta/format"
"""Rows about the memo itself begin with "!", those of draws with the key."""

SETTINGS: dict[str, str | int] = {
    "eviction_policy": "none",  # the default deletes paid answers
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a file cut short under a mapping kills the process
    "sqlite_synchronous": 2,  # FULL: an acknowledged answer survives a power cut
    "disk_min_file_size": 2**62,
}

INSERT = (
    "INSERT INTO Cache(key, raw, store_time, access_time, access_count, tag, size, mode, value)"
    " VALUES (?1, 1, ?2, ?2, 0, NULL, 0, 1, ?3)"
    " ON CONFLICT(key, raw) DO UPDATE SET store_time = ?2, mode = 1, filename = NULL, value = ?3"
)
"""Parameters: name, Unix time, sealed value. Keeps the place of a row that exists."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file raises; the second where SQLite's message quotes bytes that are no UTF-8."""

_SALVAGE_S = 60.0
_REPAIRED = "cache.repaired.db"

Failure = Literal["busy", "full", "damaged", "moved", "other"]
# SQLite's primary result codes, https://www.sqlite.org/rescode.html
_FAILURES: dict[int, Failure] = {
    5: "busy",
    6: "busy",
    15: "busy",  # PROTOCOL: gave up waiting in the WAL's locking
    10: "full",  # IOERR: a file size limit or quota shows as a failed write
    13: "full",
    11: "damaged",
    26: "damaged",  # NOTADB
    14: "moved",  # CANTOPEN: the file was deleted
}
_EXTENDED: dict[int, Failure] = {
    1032: "moved",  # READONLY_DBMOVED
    266: "damaged",  # IOERR_READ: a bad sector
    522: "damaged",  # IOERR_SHORT_READ: cut short
    8202: "damaged",  # IOERR_DATA
    8458: "damaged",  # IOERR_CORRUPTFS
}


def failure(exc: sqlite3.Error | UnicodeDecodeError) -> Failure:
    """What an error of SQLite means to the memo."""
    if isinstance(exc, UnicodeDecodeError):
        return "damaged"
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:  # raised by the Python module: text that is no UTF-8
        return "damaged" if isinstance(exc, sqlite3.DatabaseError) else "other"
    if code in _EXTENDED:
        return _EXTENDED[code]
    if str(exc).startswith("no such"):
        return "damaged"  # our statements are fixed: a missing table is a missing page
    return _FAILURES.get(code & 0xFF, "other")


def file_identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another one put in its place later; None: no file."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def connect(path: Path, *, wait_s: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection for one thread at a time; waits up to `wait_s` at each lock."""
    uri = path.resolve().as_uri()
    if not read_only:
        return _prepare(f"{uri}?mode=rw", wait_s)
    try:
        con = _prepare(f"{uri}?mode=ro", wait_s)
        try:
            con.execute("SELECT 1 FROM sqlite_master").fetchall()
        except BaseException:
            con.close()
            raise
    except sqlite3.OperationalError:
        wal = Path(f"{path}-wal")
        if os.access(path.parent, os.W_OK) or (wal.exists() and wal.stat().st_size):
            raise
        # SQLite cannot make the index of the WAL in this folder, and there is no WAL.
        con = _prepare(f"{uri}?mode=ro&immutable=1", wait_s)
    return con


def _prepare(uri: str, wait_s: float) -> sqlite3.Connection:
    con = sqlite3.connect(
        uri, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False
    )
    try:
        con.execute("PRAGMA synchronous = 2")
        con.execute("PRAGMA mmap_size = 0")
        con.execute("PRAGMA cell_size_check = ON")
        con.execute("PRAGMA trusted_schema = OFF")  # the file may be a stranger's
        if sys.platform == "darwin":
            con.execute("PRAGMA fullfsync = 1")
            con.execute("PRAGMA checkpoint_fullfsync = 1")
    except BaseException:
        con.close()
        raise
    return con


def check(con: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """See that this is a memo this version can use, and that nothing in it deletes answers.

    Raises
    ------
    MemoError
        If a newer version wrote it.
    sqlite3.DatabaseError
        If it is damaged or locked.
    """
    found = con.execute("SELECT value FROM Cache WHERE key = ? AND raw = 1", (FORMAT_ROW,))
    row = found.fetchone()
    version: object = None
    if row is not None:
        with contextlib.suppress(DamagedRowError):
            version = unseal(row[0], FORMAT_ROW)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise MemoError(
            f"the memo {path} has format {version}, written by a newer datafast_nb; this one "
            f"knows format {FORMAT_VERSION}. Upgrade datafast_nb, or use another memo through "
            "options.home or the variable DATAFAST_NB_HOME"
        )
    settings = dict(con.execute("SELECT key, value FROM Settings").fetchall())
    wrong = {k: v for k, v in SETTINGS.items() if settings.get(k) != v}
    if read_only or not (wrong or version is None):
        return
    con.execute("BEGIN IMMEDIATE")
    try:
        con.executemany("INSERT OR REPLACE INTO Settings VALUES (?, ?)", list(wrong.items()))
        if version is None:
            con.execute(INSERT, _format_row())
        con.execute("COMMIT")
    except BaseException:
        if con.in_transaction:
            con.execute("ROLLBACK")
        raise


def _format_row() -> tuple[str, float, bytes]:
    return FORMAT_ROW, time.time(), seal(FORMAT_ROW, dump(FORMAT_VERSION))


def prepare_folder(directory: Path) -> None:
    """Make the folder of the memo, readable by its owner alone and ignored by git.

    Raises
    ------
    MemoError
        If there is a file in its place, or it cannot be made or written to.
    """
    parent = directory.parent
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
    except OSError as exc:
        raise MemoError(
            f"the memo cannot be kept in {directory}: {exc.strerror or exc}. Choose a folder "
            "you can write to with options.home or the variable DATAFAST_NB_HOME"
        ) from exc
    for folder in reversed(made):
        sync(folder.parent)  # else a power cut could take the folder, with all that is synced in it
    if not os.access(directory, os.W_OK | os.X_OK):
        raise MemoError(
            f"the memo folder {directory} is read-only. Choose another with options.home or the "
            "variable DATAFAST_NB_HOME, or use mode 'replay', which only reads"
        )
    own = [f for f in (parent, directory) if f in made or f.name == HOME_NAME]
    if directory not in own and (directory / DB_NAME).exists():
        own.append(directory)
    for folder in own:
        with contextlib.suppress(OSError):  # not ours to change, or a system without modes
            os.chmod(folder, 0o700)
    if own and not (own[0] / ".gitignore").exists():
        # Prompts and answers are nobody's business but the owner's; only where the folder is
        # ours, since "*" in a folder of the user's would hide their work from git.
        with contextlib.suppress(OSError):
            (own[0] / ".gitignore").write_text("*\n", encoding="utf-8")


@contextlib.contextmanager
def _alone(directory: Path, wait_s: float) -> Iterator[None]:
    """One process at a time makes or replaces the file; the lock of a dead one is free."""
    con = sqlite3.connect(directory / "lock.db", timeout=wait_s, isolation_level=None)
    try:
        os.chmod(directory / "lock.db", 0o600)
        con.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        con.close()


def create(directory: Path, wait_s: float) -> None:
    """Make an empty memo where there is none; complete at once under its name.

    Raises
    ------
    MemoError, OSError, sqlite3.OperationalError
        If it cannot be written, or another process holds the folder for longer than `wait_s`.
    """
    path = directory / DB_NAME
    if path.exists():
        return
    with _alone(directory, wait_s):
        if path.exists():
            return
        repaired = directory / _REPAIRED  # left by a process that died while repairing
        if not repaired.exists():
            _build(directory, repaired, ())
        _put_in_place(directory)


def _build(directory: Path, target: Path, rows: Iterable[tuple[str, float, bytes]]) -> int:
    """Write a whole memo with these rows to `target`; returns their number."""
    import diskcache

    from datafast_nb.store.disk import MemoDisk

    folder = Path(tempfile.mkdtemp(dir=directory, prefix="new-"))  # mode 0700
    try:
        # Synced once at the end instead of at each of diskcache's commits.
        settings = {**SETTINGS, "sqlite_synchronous": 0}
        cache = diskcache.Cache(str(folder), disk=MemoDisk, **settings)
        cache.close()
        path = folder / DB_NAME
        with contextlib.closing(connect(path, wait_s=1.0)) as con:
            con.execute("BEGIN IMMEDIATE")
            con.executemany("INSERT OR REPLACE INTO Settings VALUES (?, ?)", list(SETTINGS.items()))
            con.executemany(INSERT, rows)
            ((n_rows,),) = con.execute("SELECT count(*) FROM Cache").fetchall()
            con.execute(INSERT, _format_row())
            con.execute("COMMIT")
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.chmod(path, 0o600)
        sync(path)
        os.replace(path, target)
        sync(directory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(n_rows)


def _put_in_place(directory: Path) -> None:
    # A WAL without its database would be replayed into the new one.
    path = directory / DB_NAME
    for end in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{end}", _free_name(directory, f"orphan{end}"))
    os.replace(directory / _REPAIRED, path)
    sync(directory)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on Windows
        return
    try:
        os.fsync(fd)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(fd)


def _free_name(directory: Path, end: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for n in range(1000):
        path = directory / f"damaged-{stamp}{f'-{n}' if n else ''}.{end}"
        if not path.exists():
            return path
    raise MemoError(f"{directory} holds 1,000 damaged files of this second; remove some")


_repairing = threading.Lock()


def forget_locks() -> None:
    """After a fork: a thread that held the lock does not exist in the child."""
    global _repairing
    _repairing = threading.Lock()


def repair(directory: Path, seen: tuple[int, int] | None, wait_s: float) -> str | None:
    """Move the damaged file `seen` aside and put one with its readable rows in its place.

    Returns
    -------
    str or None
        What was done, for a warning; None where another process was faster.
    """
    path = directory / DB_NAME
    with _repairing, _alone(directory, wait_s):
        if file_identity(path) != seen:
            return None
        with contextlib.ExitStack() as stack:
            try:
                con = connect(path, wait_s=min(wait_s, 5.0))
                stack.callback(con.close)
                # Keeps other writers out until the new file stands; they look at which
                # file they have after they got the lock.
                con.execute("BEGIN IMMEDIATE")
            except ERRORS:
                pass
            n_rows = _build(directory, directory / _REPAIRED, _salvage(path, directory))
            aside = _free_name(directory, "db")
            # The WAL goes along: SQLite looks for it under the name of its database.
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}-wal", f"{aside}-wal")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}-shm")
            os.replace(path, aside)
            _put_in_place(directory)
        return (
            f"the memo {path} was damaged; it is kept as {aside.name} beside it. {n_rows} rows "
            "could be read and were saved; what is missing is asked again when needed"
        )


def _salvage(path: Path, directory: Path) -> Iterator[tuple[str, float, bytes]]:
    """Rows of a damaged database whose checksum is right, in order of storing."""
    n_rows = 0
    for row in _read_good_rows(path):
        n_rows += 1
        yield row
    if n_rows:
        return
    # Nothing at all: perhaps only the first page is lost, and that is the same in every
    # memo but for two counters. The WAL is left out, it may be what is damaged.
    with tempfile.TemporaryDirectory(dir=directory, prefix="new-") as folder:
        fresh = Path(folder) / "fresh.db"
        copy = Path(folder) / DB_NAME
        _build(Path(folder), fresh, ())
        with contextlib.suppress(OSError):
            shutil.copyfile(path, copy)
            _replace_first_page(copy, fresh.read_bytes())
            yield from _read_good_rows(copy)


def _read_good_rows(path: Path) -> Iterator[tuple[str, float, bytes]]:
    until = time.monotonic() + _SALVAGE_S
    try:
        con = connect(path, wait_s=1.0)
    except ERRORS:
        return
    with contextlib.closing(con):
        con.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # Sealed rows are above 60 bytes, so that there are fewer than this. A damaged page
        # may claim any number.
        most = os.path.getsize(path) // 32 + 1
        try:
            ((last,),) = con.execute("SELECT max(rowid) FROM Cache NOT INDEXED").fetchall()
            last = min(last or 0, most)
        except ERRORS:
            last = most
        spans = [(0, last)]
        while spans and time.monotonic() < until:
            low, high = spans.pop()
            part = min(high, low + 4999)
            if part < high:
                spans.append((part + 1, high))
            try:
                found = con.execute(
                    "SELECT key, store_time, value FROM Cache NOT INDEXED"
                    " WHERE rowid BETWEEN ? AND ? AND raw = 1 AND mode = 1 ORDER BY rowid",
                    (low, part),
                ).fetchall()
            except ERRORS:
                if part > low:
                    middle = (low + part) // 2
                    spans += [(middle + 1, part), (low, middle)]
                continue
            for name, stored, value in found:
                if type(name) is str and name != FORMAT_ROW:
                    with contextlib.suppress(DamagedRowError):
                        unseal(value, name)
                        yield name, stored if isinstance(stored, float) else 0.0, value


def _replace_first_page(path: Path, fresh: bytes) -> None:
    page_bytes = int.from_bytes(fresh[16:18], "big")
    n_pages = os.path.getsize(path) // page_bytes
    # https://www.sqlite.org/fileformat.html: 24 change counter, 28 size in pages,
    # 92 the counter for which that size holds.
    page = bytearray(fresh[:page_bytes])
    page[28:32] = n_pages.to_bytes(4, "big")
    page[92:96] = page[24:28]
    with open(path, "r+b") as file:
        file.write(page)
