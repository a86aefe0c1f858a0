"""Files: written as a whole or not at all, opened packed or plain, JSON read strictly."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, cast

import orjson

_BOM = b"\xef\xbb\xbf"


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], None]) -> None:
    """Replace the file at `path` by what `write` puts into the open binary file it is given.

    The new file is written beside the old one, synced and renamed over it, so that a reader, a
    crash or a full disk never meets half a file. A symbolic link stays a link: its target is
    replaced. Mode bits and, where the process may, the owner of a former file are kept.

    Raises
    ------
    OSError
        If it cannot be written. After this and any other error, `write`'s own included, no
        temporary file remains and the former file is untouched.
    """
    target = os.path.realpath(path)
    former = _former(target)
    folder = os.path.dirname(target)
    aside = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
    try:
        # os.open, not tempfile: a new file gets the mode of the user's umask, not 0600.
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(aside, flags, 0o666), "wb") as file:
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
