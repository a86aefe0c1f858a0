"""Which weights a name at an Ollama server stands for: its digest, as last seen.

A tag can be pulled anew, so answers are kept under the digest. It is looked up when a run
begins and noted in the memo's folder: a run whose answers are all on disk needs no server, and
a display opens no socket.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import orjson

from datafast_nb.errors import MemoError
from datafast_nb.options import home

FILE_NAME = "ollama.json"

_lock = threading.Lock()
_seen: dict[tuple[Path, str], dict[str, str]] = {}
"""(folder of the memo, address of the server) → name → digest."""


def full_name(name: str) -> str:
    """A name with its tag, as Ollama lists it: "llama3.2" is "llama3.2:latest"."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def known_digest(address: str, name: str) -> str:
    """The digest that was last seen at this address under this name; "" where none was."""
    folder = home()
    with _lock:
        known = _seen.get((folder, address))
        if known is None:
            known = _seen[folder, address] = _noted(folder).get(address, {})
        return known.get(full_name(name), "")


def note_digests(address: str, digests: Mapping[str, str]) -> None:
    """Keep what the server at this address has now.

    Names that it no longer has stay as they were, so that their answers are still found.
    """
    folder = home()
    found = {full_name(name): digest for name, digest in digests.items()}
    with _lock:
        known = _seen.get((folder, address))
        if known is None:
            known = _noted(folder).get(address, {})
        merged = {**known, **found}
        _seen[folder, address] = merged
        if merged == known:
            return
        notes = _noted(folder)
        notes[address] = {**notes.get(address, {}), **merged}
        _write(folder, notes)


def _noted(folder: Path) -> dict[str, dict[str, str]]:
    """What the file says; whatever it does not say rightly, it does not say."""
    try:
        data = orjson.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {
        address: {k: v for k, v in names.items() if isinstance(v, str)}
        for address, names in data.items()
        if isinstance(names, dict)
    }


def _write(folder: Path, notes: Mapping[str, Mapping[str, str]]) -> None:
    from datafast_nb.store.files import atomic_write
    from datafast_nb.store.memo import open_memo

    def write(file: BinaryIO) -> None:
        file.write(data)

    data = orjson.dumps(notes, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    # Where it cannot be noted, the next process looks it up again.
    with contextlib.suppress(OSError, MemoError):
        if not folder.is_dir():
            open_memo()  # makes the folder, private and out of git
        atomic_write(folder / FILE_NAME, write)
