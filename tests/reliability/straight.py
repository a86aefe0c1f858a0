"""What lives leave behind, and what one that nobody disturbed leaves, to compare them with."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stub_server import StubServer

from datafast_nb.store.memo import Memo
from reliability.nursery import Nursery, settle

Spot = tuple[str, str]


@dataclass
class Straight:
    """What a run that nobody disturbed leaves."""

    outcome: bytes
    sink: bytes
    n_calls: int


class Straights:
    """Undisturbed runs of the shapes, each made once."""

    def __init__(self, stub: StubServer, nursery: Nursery, folder: Path) -> None:
        self._stub, self._nursery, self._folder = stub, nursery, folder
        self._known: dict[str, Straight] = {}

    def get(self, **order: Any) -> Straight:
        name = json.dumps(order)
        if name not in self._known:
            folder = self._folder / f"straight-{len(self._known)}"
            folder.mkdir()
            before = self._stub.n_requests
            assert self._nursery.live(folder, in_flight=3, **order) == 0
            n_calls = settle(self._stub) - before
            self._known[name] = Straight(*outcome(folder), n_calls)
            shutil.rmtree(folder)
        return self._known[name]


def outcome(folder: Path) -> tuple[bytes, bytes]:
    """Records with their lineage, and the bytes of the sink file."""
    return (folder / "result.json").read_bytes(), (folder / "out").read_bytes()


def acknowledged(folder: Path) -> list[tuple[Spot, str]]:
    """Places and texts of the replies that a life was told are stored, in all lives so far."""
    path = folder / "acks"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    said = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [((key, label), text) for key, label, text in said]


def look(folder: Path, scratch: Path) -> tuple[int, dict[Spot, list[str]]]:
    """Replies in the memo, and those at acknowledged places.

    From a copy: the next life is to find the files as this one left them.
    """
    if not (folder / "home" / "memo" / "cache.db").exists():
        return 0, {}
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder / "home" / "memo", scratch)
    warned: list[str] = []
    memo = Memo(scratch, warn=warned.append)
    try:
        spots = [spot for spot, _ in acknowledged(folder)]
        draws = memo.get_many(spots)
        n_replies = memo.info().n_replies
    finally:
        memo.close()
    assert warned == []
    found = {s: [r.text for r in d.replies] for s, d in zip(spots, draws, strict=True) if d}
    return n_replies, found
