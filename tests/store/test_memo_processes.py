"""Several processes at one memo: killed, stopped, forked, in each other's way, out of disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from reliability.scale import seconds, tell

from datafast_nb.errors import MemoError
from datafast_nb.store.memo import Memo, Reply

IDENTITY = {"provider": "p", "endpoint": "", "model": "m"}
KEY = "a" * 64
LOCK_WAIT_S = seconds(0.5, 30.0)

PRELUDE = """
import os, sys, threading, time
from pathlib import Path
from datafast_nb.store.memo import Memo, Reply
IDENTITY = {"provider": "p", "endpoint": "", "model": "m"}
folder = Path(sys.argv[1])
"""

posix = pytest.mark.skipif(os.name != "posix", reason="signals, fork and limits of POSIX")


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PRELUDE + textwrap.dedent(code)]
        + [str(a) for a in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "ResourceWarning" not in err
    return out


def put(memo: Memo, label: str, text: str) -> BaseException | None:
    told: list[BaseException | None] = []
    memo.put(KEY, label, Reply(text, "usable"), identity=IDENTITY, done=told.append)
    memo.flush()
    return told[0]


@posix
@pytest.mark.parametrize("seed", range(5))
def test_no_acknowledged_reply_is_lost_when_killed(tmp_path: Path, seed: int) -> None:
    code = """
        memo = Memo(folder)
        def done(label):
            return lambda error: os.write(1, f"{label} {error}\\n".encode())
        for i in range(100_000):
            memo.put("k" * 64, f"{i}.0", Reply(f"text {i}", "usable"), identity=IDENTITY,
                     done=done(i))
            time.sleep(0.0002)
    """
    process = start(code, tmp_path / "memo")
    assert process.stdout is not None and process.stderr is not None
    lines = [process.stdout.readline() for _ in range(20 + 90 * seed)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    acknowledged = [line.split()[0] for line in lines if line.endswith(" None\n")]
    assert len(acknowledged) >= 20 + 90 * seed
    memo = Memo(tmp_path / "memo")
    found = memo.get_many([("k" * 64, f"{i}.0") for i in acknowledged])
    memo.close()
    assert [d.replies[0].text if d else None for d in found] == [f"text {i}" for i in acknowledged]


@pytest.mark.timeout(300)
def test_eight_processes_store_8000_replies_without_a_locked_error(tmp_path: Path) -> None:
    code = """
        said = []
        memo, me, told = Memo(folder, warn=said.append), sys.argv[2], []
        shared = 0
        for i in range(1000):
            if i % 4 == 0:  # what the others store too, or have stored
                spot = ("s" * 64, f"{i}.0")
                if memo.get_many([spot])[0] is None:
                    shared += 1
                    memo.put(*spot, Reply(f"{me}-{i}", "usable"), identity=IDENTITY,
                             done=told.append)
                memo.flush()
            else:
                memo.put("k" * 64, f"{me}-{i}.0", Reply(me, "usable"), identity=IDENTITY,
                         done=told.append)
        memo.flush()
        print(len(told) - 750 - shared, len(told) - told.count(None), len(said), shared)
    """
    processes = [start(code, tmp_path / "memo", n) for n in range(8)]
    said = [[int(word) for word in finish(p).split()] for p in processes]
    assert [words[:3] for words in said] == [[0, 0, 0]] * 8
    n_shared = sum(words[3] for words in said)
    memo = Memo(tmp_path / "memo")
    own = memo.stored(["k" * 64])["k" * 64]
    shared = memo.stored(["s" * 64])["s" * 64]
    memo.close()
    assert sorted(d.label for d in own) == sorted(
        f"{n}-{i}.0" for n in range(8) for i in range(1000) if i % 4
    )
    assert len(shared) == 250
    replies = [r.text for d in shared for r in d.replies]
    assert len(replies) == len(set(replies)) == n_shared
    assert not list(memo.path.glob("overflow-*"))
    tell("8 processes at one memo", 6000 + n_shared, "replies stored, 0 errors, 0 lost")


def test_a_lock_held_for_ever_is_bypassed_and_replies_merged_later(tmp_path: Path) -> None:
    said: list[str] = []
    memo = Memo(tmp_path / "memo", lock_wait_s=1.0, warn=said.append)
    assert put(memo, "before.0", "0") is None
    holder = sqlite3.connect(memo.path / "cache.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    for i in range(5):
        assert put(memo, f"{i}.0", f"text {i}") is None
    memo.link(KEY, "linked.0", "before.0")
    memo.flush()
    waited = time.monotonic() - started
    assert 0.9 < waited < 3.0
    assert len(said) == 1 and "lock" in said[0]
    assert list(memo.path.glob("overflow-*.jsonl"))
    wanted = [(KEY, f"{i}.0") for i in range(5)]
    found = memo.get_many([*wanted, (KEY, "linked.0"), (KEY, "nowhere.0")])
    assert [d and d.replies[0].text for d in found] == [
        *(f"text {i}" for i in range(5)), "0", None
    ]  # fmt: skip
    # Another one sees them although the lock is still held, and so does one that replays.
    for mode in ("normal", "replay"):
        other = Memo(memo.path, lock_wait_s=0.2, warn=lambda message: None, mode=mode)
        assert all(other.get_many(wanted))
        other.close()
    holder.execute("ROLLBACK")
    holder.close()
    memo.flush()
    assert not list(memo.path.glob("overflow-*"))
    assert all(memo.get_many(wanted))
    assert put(memo, "after.0", "1") is None
    assert not list(memo.path.glob("overflow-*"))
    info = memo.info()
    assert (info.n_draws, info.n_replies) == (7, 7)
    (before,) = (d for d in memo.stored([KEY])[KEY] if d.label == "before.0")
    assert before.labels == ("before.0", "linked.0")
    memo.close()


def test_overflow_merged_twice_doubles_nothing(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo", lock_wait_s=0.1, warn=lambda message: None)
    holder = sqlite3.connect(memo.path / "cache.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert put(memo, "a.0", "1") is None
    (file,) = memo.path.glob("overflow-*.jsonl")
    text = file.read_bytes()
    holder.execute("ROLLBACK")
    holder.close()
    memo.close()
    file.write_bytes(text + text[:-10] + b"\n")  # left by one that was killed after its commit
    said: list[str] = []
    memo = Memo(tmp_path / "memo", warn=said.append)
    assert [len(d.replies) for d in memo.stored([KEY])[KEY]] == [1]
    assert not list(memo.path.glob("overflow-*.jsonl"))
    assert "damaged" in said[0]
    memo.close()


@posix
def test_a_stopped_process_in_a_transaction_does_not_stop_others(tmp_path: Path) -> None:
    code = """
        memo = Memo(folder)
        memo.set_meta("x", 1)
        def hold(con):
            print("held", flush=True)
            time.sleep(100)
        memo._access.change(hold)
    """
    process = start(code, tmp_path / "memo")
    try:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        memo = Memo(tmp_path / "memo", lock_wait_s=LOCK_WAIT_S, warn=lambda message: None)
        started = time.monotonic()
        assert [put(memo, f"{i}.0", "1") for i in range(100)] == [None] * 100
        waited = time.monotonic() - started
        assert LOCK_WAIT_S * 0.9 < waited < LOCK_WAIT_S + 2.5
        tell("100 replies while a stopped process holds the lock", f"{waited:.1f} s",
             f"allowed: {LOCK_WAIT_S:g} s of waiting")  # fmt: skip
        with pytest.raises(MemoError, match="lock"):
            memo.set_meta("y", 1)
        assert memo.get_meta("x") == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    memo.flush()
    assert not list(memo.path.glob("overflow-*"))
    memo.close()


@posix
def test_a_full_disk_is_told_with_path_and_bytes(tmp_path: Path) -> None:
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        memo, told = Memo(folder), []
        def put(n, size):
            memo.put("k" * 64, f"{n}.0", Reply("x" * size, "usable"), identity=IDENTITY,
                     done=lambda error: told.append(error))
            memo.flush()
        put(0, 100)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
        put(1, 1_000_000)
        assert told[0] is None and type(told[1]).__name__ == "MemoError", told
        print(told[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        put(2, 1_000_000)
        print([d.label for d in memo.stored(["k" * 64])["k" * 64]])
    """
    out = finish(start(code, tmp_path / "memo"))
    assert str(tmp_path / "memo" / "cache.db") in out
    assert "bytes" in out and "Free space" in out and "lost" in out
    assert "['0.0', '2.0']" in out
    assert not [p for p in (tmp_path / "memo").iterdir() if p.name.startswith("overflow")]
    memo = Memo(tmp_path / "memo")
    assert memo.info().n_draws == 2
    memo.close()


@posix
def test_both_sides_of_a_fork_go_on(tmp_path: Path) -> None:
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        memo, told = Memo(folder), []
        def put(label):
            memo.put("k" * 64, label, Reply(label, "usable"), identity=IDENTITY, done=told.append)
        for i in range(200):
            put(f"before-{i}.0")
        pid = os.fork()
        for i in range(100):
            put(f"{'parent' if pid else 'child'}-{i}.0")
            assert memo.get_many([("k" * 64, "before-0.0")]) is not None
        memo.flush()
        if pid == 0:
            assert told.count(None) >= 100, told
            memo.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert told == [None] * 300
        print(len(memo.stored(["k" * 64])["k" * 64]))
    """
    assert finish(start(code, tmp_path / "memo")) == "400\n"


def test_what_is_queued_is_stored_at_exit(tmp_path: Path) -> None:
    code = """
        memo = Memo(folder)
        for i in range(500):
            memo.put("k" * 64, f"{i}.0", Reply("x", "usable"), identity=IDENTITY,
                     done=lambda error: None)
    """
    finish(start(code, tmp_path / "memo"))
    memo = Memo(tmp_path / "memo")
    assert memo.info().n_draws == 500
    memo.close()


def test_import_stays_light(tmp_path: Path) -> None:
    code = """
        heavy = {"diskcache", "pandas", "numpy", "pydantic", "aiohttp"} & set(sys.modules)
        print(sorted(heavy))
    """
    assert finish(start(code, tmp_path)) == "[]\n"
