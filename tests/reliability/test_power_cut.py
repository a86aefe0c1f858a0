"""What a power cut can take: nothing that was acknowledged, and no order of writes that lies.

The system calls of a whole run are looked at, so that what is proven holds for any disk that
does what `fsync` says.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from stub_server import StubServer

from reliability.nursery import reply_to
from reliability.scale import tell
from reliability.syscalls import Event, synced_after, traced

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not shutil.which("strace"), reason="strace is not installed"
)
N_CALLS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """Folder and system calls of one run with memo, checkpoint and sink."""
    folder = tmp_path_factory.mktemp("traced")
    script = Path(__file__).with_name("traced.py")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with StubServer(answer=reply_to, latency_s=0.002) as stub:
        events = traced([sys.executable, str(script), stub.url, str(folder)], folder, env)
        assert stub.n_requests == N_CALLS
    return folder, events


@pytest.fixture(scope="module")
def durable(run: tuple[Path, list[Event]]) -> dict[str, tuple[int, int]]:
    """Text of each acknowledged reply → where it was surely on disk, where it was acknowledged."""
    folder, events = run
    wal = str(folder / "home" / "memo" / "cache.db-wal")
    found = {}
    for ack in events:
        if ack.path != str(folder / "acks"):
            continue
        key, label, text = json.loads(ack.data)
        committed = commit_of(events, wal, f"{key}/{label}".encode(), text.encode())
        synced = synced_after(events, wal, committed)
        assert synced is not None, f"{text!r} is never synced"
        found[text] = synced, ack.start
    assert len(found) == N_CALLS
    return found


def commit_of(events: list[Event], wal: str, name: bytes, text: bytes) -> int:
    """Where the transaction that wrote a row had written its last page.

    https://www.sqlite.org/fileformat.html#the_write_ahead_log: a frame is a head of 24 bytes
    and a page; bytes 4 to 8 of the head are not 0 in the last frame of a transaction.
    """
    writes = [e for e in events if e.path == wal and e.name == "pwrite64"]
    is_in, is_last = False, False
    for event in writes:
        if len(event.data) == 24:
            is_last = event.data[4:8] != bytes(4)
            continue
        is_in = is_in or (name in event.data and text in event.data)
        if is_in and is_last:
            return event.end
    raise AssertionError(f"{text!r} was never written to the log of the memo")


def test_no_reply_is_acknowledged_before_its_commit_is_synced(
    durable: dict[str, tuple[int, int]],
) -> None:
    early = [text for text, (synced, acked) in durable.items() if synced >= acked]
    tell("replies acknowledged before their sync", len(early), f"0 of {len(durable)}")
    assert early == []


def test_no_reply_is_used_by_the_next_step_before_it_is_synced(
    run: tuple[Path, list[Event]], durable: dict[str, tuple[int, int]]
) -> None:
    sent = [e for e in run[1] if e.name in ("sendto", "sendmsg", "write", "writev")]
    n_used = 0
    for text, (synced, _) in durable.items():
        uses = [e for e in sent if f"used {text}".encode() in e.data]
        n_used += any("again" in e.data.decode(errors="replace") for e in uses)
        assert all(e.start > synced for e in uses), text
    assert n_used == N_CALLS // 2


def test_folders_are_synced_before_the_first_reply_is_acknowledged(
    run: tuple[Path, list[Event]], durable: dict[str, tuple[int, int]]
) -> None:
    """A file in a folder that a power cut takes is gone too."""
    folder, events = run
    first = min(acked for _, acked in durable.values())
    memo = folder / "home" / "memo"
    wanted = {memo, memo.parent, memo / "cache.db"}
    early = [e for e in events if e.name.startswith(("mkdir", "rename")) and e.end < first]
    named = [(Path(e.texts[-1].decode()), e.end) for e in early if e.result == "0"]
    needs = [(path, place) for path, place in named if path in wanted]
    assert {path for path, _ in needs} == wanted
    for path, place in needs:
        synced = synced_after(events, str(path.parent), place)
        assert synced is not None and synced < first, f"{path} may be gone after a power cut"
    log = next(e for e in events if e.path == f"{memo}/cache.db-wal")
    synced = synced_after(events, str(memo), log.start)
    assert synced is not None and synced < first, "the log of the memo may be gone"


def test_files_are_synced_before_they_get_their_name_and_their_folder_before_the_manifest(
    run: tuple[Path, list[Event]],
) -> None:
    folder, events = run
    renames = [
        (e, *(Path(t.decode()) for t in e.texts))
        for e in events
        if e.name.startswith("rename") and b"progress" not in e.data
    ]
    named = [r for r in renames if r[2].parent in (folder, folder / "ck")]
    steps = [r for r in named if r[2].name.startswith("step_")]
    manifests = [r for r in named if r[2].name == "manifest.json"]
    assert len(steps) >= 8 and len(manifests) >= 4
    assert [r for r in named if r[2] == folder / "out.jsonl"]
    for event, source, target in named:
        writes = [e for e in events if e.path == str(source) and e.name == "write"]
        assert writes
        synced = synced_after(events, str(source), writes[-1].end)
        assert synced is not None and synced < event.start, f"{target} was renamed before its sync"
        if target.name == "manifest.json":
            continue  # that it is late costs a step's work, and no call
        kept = synced_after(events, str(target.parent), event.end)
        assert kept is not None, f"the folder of {target} was not synced"
        for manifest, aside, _ in manifests:
            text = b"".join(e.data for e in events if e.path == str(aside))
            if target.name.encode() in text and manifest.start > event.start:
                assert kept < manifest.start, f"the manifest may name {target}, which is not there"
