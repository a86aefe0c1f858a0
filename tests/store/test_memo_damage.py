"""A damaged memo costs money, never a wrong answer; one that a stranger made runs no code."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import diskcache
import pytest
from reliability.scale import SEED, dice, size, tell

from datafast_nb.errors import MemoError
from datafast_nb.store import database
from datafast_nb.store.disk import MemoDisk
from datafast_nb.store.memo import Memo, Reply
from datafast_nb.store.rows import dump, seal

IDENTITY = {"provider": "p", "endpoint": "", "model": "m"}
N = 300
DAMAGED = size(200, 1000)


def key(i: int) -> str:
    return f"{i:08x}" * 8


def text(i: int) -> str:
    return f"answer {i} " * 20


WANTED = [(key(i), "row.0") for i in range(N)]


def fill(memo: Memo, numbers: range = range(N)) -> None:
    errors: list[BaseException | None] = []
    for i in numbers:
        memo.put(key(i), "row.0", Reply(text(i), "usable"), identity=IDENTITY, done=errors.append)
    memo.flush()
    assert errors == [None] * len(numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A memo with N answers, closed."""
    memo = Memo(tmp_path / "memo")
    fill(memo)
    memo.close()
    return memo.path


def read(memo: Memo) -> int:
    """How many answers are there; all of them right."""
    by_key = memo.stored([k for k, _ in WANTED])
    found = memo.get_many(WANTED)
    for i, draw in enumerate(found):
        if draw is not None:
            assert [r.text for r in draw.replies] == [text(i)]
    for i, (k, _) in enumerate(WANTED):
        assert [r.text for d in by_key.get(k, []) for r in d.replies] in ([], [text(i)])
    return sum(draw is not None for draw in found)


def flip_bytes(data: bytearray, pick: random.Random) -> None:
    for _ in range(pick.choice([1, 3, 20])):
        data[pick.randrange(len(data))] = pick.randrange(256)


def overwrite(data: bytearray, pick: random.Random) -> None:
    size = pick.choice([8, 500, 4096])
    for _ in range(pick.choice([1, 3, 20])):
        start = pick.randrange(len(data) - size)
        data[start : start + size] = pick.randbytes(size)


def zero(data: bytearray, pick: random.Random) -> None:
    size = pick.choice([1, 100, 4096])
    for _ in range(pick.choice([1, 3, 20])):
        start = pick.randrange(len(data) - size)
        data[start : start + size] = bytes(size)


def swap_pages(data: bytearray, pick: random.Random) -> None:
    n = len(data) // 4096
    for _ in range(pick.choice([1, 3])):
        one, other = (pick.randrange(n) * 4096 for _ in range(2))
        kept = data[one : one + 4096]
        data[one : one + 4096] = data[other : other + 4096]
        data[other : other + 4096] = kept


def truncate(data: bytearray, pick: random.Random) -> None:
    del data[pick.randrange(len(data)) :]


DAMAGES = [flip_bytes, overwrite, zero, swap_pages, truncate]


@pytest.mark.timeout(600)
def test_random_damage_never_gives_a_wrong_value(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "cache.db").read_bytes()
    print(f"seed {SEED}")
    pick = dice("damage of the memo")
    found = []
    missing = n_aside = n_rows = n_silent = 0
    for n in range(DAMAGED):
        broken = bytearray(whole)
        DAMAGES[n % len(DAMAGES)](broken, pick)
        directory = tmp_path / "broken"
        directory.mkdir()
        (directory / "cache.db").write_bytes(broken)
        said: list[str] = []
        memo = Memo(directory, warn=said.append)
        read(memo)
        fill(memo, range(N, N + 3))  # the run goes on
        found.append(read(memo))
        assert all(memo.get_many([(key(i), "row.0") for i in range(N, N + 3)]))
        memo.close()
        # A byte in an index may hide a row without a word: it costs its price, as if never asked.
        n_silent += N - found[-1] if not said else 0
        aside = list(directory.glob("damaged-*.db"))
        for path in aside:
            assert any(path.name in message for message in said)
        if (directory / "damaged-rows.jsonl").exists():
            assert any("damaged-rows.jsonl" in message for message in said)
            n_rows += 1
        n_aside += bool(aside)
        missing += N - found[-1]
        shutil.rmtree(directory)
    tell("random damages of the memo's file", DAMAGED, f"of {len(DAMAGES)} kinds")
    tell("    wrong values", 0, f"0 of {sum(found):,} read after them")  # `read` has seen to it
    tell("    files moved aside and named", n_aside, f"{n_rows:,} more had rows moved and named")
    tell("    rows lost, to be asked again", missing, f"of {DAMAGED * N:,}; {n_silent} unnoticed")
    assert missing and n_aside > DAMAGED // 10  # the damage was real
    assert sum(found) > DAMAGED * N // 2  # and most is saved


def damage_header(data: bytearray) -> bytes:
    data[:100] = bytes(100)
    return bytes(data)


def damage_first_page(data: bytearray) -> bytes:
    data[:4096] = bytes(4096)
    return bytes(data)


def damage_schema(data: bytearray) -> bytes:
    """SQLite quotes the statement that it cannot read, and that is no UTF-8 any more."""
    return bytes(data).replace(b"CREATE TABLE Cache", b"CREATE T\xe1BLE Cache")


CASES: dict[str, tuple[Callable[[bytearray], bytes], int]] = {
    "header zeroed": (damage_header, N),
    "first page zeroed": (damage_first_page, N),
    "a table's definition is no UTF-8": (damage_schema, N),
    "a page in the middle overwritten": (
        lambda d: bytes(d[: 20 * 4096] + b"\xff" * 4096 + d[21 * 4096 :]),
        N * 8 // 10,
    ),
    "cut to a half": (lambda d: bytes(d[: len(d) // 2]), N // 5),
    "cut to 10 bytes": (lambda d: bytes(d[:10]), 0),
    "empty": (lambda d: b"", 0),
    "all zeros": (lambda d: bytes(len(d)), 0),
    "no database": (lambda d: b"hello, I am a text file\n" * 1000, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_damaged_file_is_moved_aside_and_what_is_readable_saved(folder: Path, case: str) -> None:
    damage, least = CASES[case]
    broken = damage(bytearray((folder / "cache.db").read_bytes()))
    (folder / "cache.db").write_bytes(broken)
    said: list[str] = []
    memo = Memo(folder, warn=said.append)
    assert read(memo) >= least
    (aside,) = folder.glob("damaged-*.db")
    assert aside.read_bytes() == broken
    assert any(aside.name in message for message in said)
    fill(memo, range(N, N + 5))
    assert memo.get_many([(key(N), "row.0")])[0] is not None
    memo.close()
    assert stat_mode(folder / "cache.db") == 0o600
    again: list[str] = []
    memo = Memo(folder, warn=again.append)
    assert again == []
    assert read(memo) >= least
    memo.close()


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_damage_while_open_is_noticed_and_written_through(folder: Path) -> None:
    said: list[str] = []
    memo = Memo(folder, warn=said.append)
    assert read(memo) == N
    other = Memo(folder)
    with open(folder / "cache.db", "r+b") as file:
        file.write(b"\x00" * 8192)
    fill(memo, range(N, N + 3))
    fill(other, range(N + 3, N + 6))
    for one in (memo, other):
        assert all(one.get_many([(key(i), "row.0") for i in range(N, N + 6)]))
    memo.close()
    other.close()


def edit(folder: Path, statement: str, *values: object) -> None:
    con = sqlite3.connect(folder / "cache.db")
    with con:
        con.execute(statement, values)
    con.close()


def test_a_row_with_a_wrong_checksum_is_moved_to_a_file(folder: Path) -> None:
    name = f"{key(5)}/row.0"
    edit(folder, "UPDATE Cache SET value = CAST(replace(value, 'answer', 'Answer') AS BLOB) "
         "WHERE key = ?", name)  # fmt: skip
    said: list[str] = []
    memo = Memo(folder, warn=said.append)
    assert read(memo) == N - 1
    memo.flush()
    assert "damaged-rows.jsonl" in said[0]
    assert name in (folder / "damaged-rows.jsonl").read_text()
    assert stat_mode(folder / "damaged-rows.jsonl") == 0o600
    fill(memo, range(5, 6))
    assert read(memo) == N
    memo.close()


@pytest.mark.parametrize("name", [None, 7, b"x/y"])
def test_a_row_whose_name_is_no_text_any_more_is_damaged(folder: Path, name: object) -> None:
    said: list[str] = []
    memo = Memo(folder, warn=said.append)
    stored = memo._access.read(lambda con: con.execute(SELECT_ONE).fetchall(), [])

    def other_name(work: object, default: object) -> list[tuple[object, bytes]]:
        return [(name, value) for (value,) in stored]

    real, memo._access.read = memo._access.read, other_name  # type: ignore[method-assign, assignment]
    assert memo.stored([key(5)]) == {}
    memo._access.read = real  # type: ignore[method-assign]
    assert said and "checksum" in said[0]
    assert read(memo) == N
    memo.close()


SELECT_ONE = f"SELECT value FROM Cache WHERE key = '{key(5)}/row.0'"


def test_a_value_in_the_place_of_another_is_not_taken(folder: Path) -> None:
    one, other = f"{key(1)}/row.0", f"{key(2)}/row.0"
    edit(folder, "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = ?) WHERE key = ?",
         one, other)  # fmt: skip
    memo = Memo(folder, warn=lambda message: None)
    assert read(memo) == N - 1
    memo.close()


def test_replay_of_a_damaged_memo_changes_nothing(folder: Path) -> None:
    data = bytearray((folder / "cache.db").read_bytes())
    data[20 * 4096 : 21 * 4096] = b"\xff" * 4096
    (folder / "cache.db").write_bytes(data)
    said: list[str] = []
    memo = Memo(folder, mode="replay", warn=said.append)
    assert read(memo) < N
    assert len(said) >= 1
    memo.close()
    assert (folder / "cache.db").read_bytes() == bytes(data)


def test_a_lost_wal_leaves_older_answers(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    fill(memo)
    copy = tmp_path / "copy"
    copy.mkdir()
    con = sqlite3.connect(memo.path / "cache.db")
    con.execute("PRAGMA wal_checkpoint(FULL)")
    con.close()
    fill(memo, range(N, N + 50))
    shutil.copy(memo.path / "cache.db", copy / "cache.db")  # without its WAL
    shutil.copy(memo.path / "cache.db-shm", copy / "cache.db-shm")  # a stale index of it
    memo.close()
    late = Memo(copy)
    assert read(late) == N
    late.close()


def test_a_wal_without_its_database_is_not_replayed(folder: Path) -> None:
    (folder / "cache.db-wal").write_bytes(b"7" * 10_000)
    (folder / "cache.db").unlink()
    memo = Memo(folder)
    assert read(memo) == 0
    fill(memo, range(1))
    assert read(memo) == 1
    memo.close()
    assert list(folder.glob("damaged-*wal"))


def test_a_repair_that_was_killed_is_finished(folder: Path) -> None:
    os.replace(folder / "cache.db", folder / "cache.repaired.db")
    memo = Memo(folder)
    assert read(memo) == N
    memo.close()


def test_a_newer_format_is_refused_with_a_remedy(folder: Path) -> None:
    name = database.FORMAT_ROW
    edit(folder, "UPDATE Cache SET value = ? WHERE key = ?", seal(name, dump(99)), name)
    before = (folder / "cache.db").read_bytes()
    with pytest.raises(MemoError, match=r"format 99.*Upgrade"):
        Memo(folder)
    assert (folder / "cache.db").read_bytes() == before


class Bomb:
    """Leaves a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_planted_pickle_does_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(str(mark)))
    k, label = WANTED[0]
    columns = "(key, raw, store_time, access_time, size, mode, filename, value)"
    edit(folder, "UPDATE Cache SET mode = 4, value = ? WHERE key = ?", bomb, f"{k}/{label}")
    edit(folder, f"INSERT INTO Cache{columns} VALUES (?, 0, 0, 0, 0, 4, NULL, ?)", bomb, bomb)
    edit(folder, f"INSERT INTO Cache{columns} VALUES ('!meta/x', 1, 0, 0, 0, 4, NULL, ?)", bomb)
    edit(folder, f"INSERT INTO Cache{columns} VALUES ('file', 1, 0, 0, 9, 2, '../../x', NULL)")
    memo = Memo(folder)
    assert memo.get_many(WANTED[:1]) == [None]
    assert memo.stored([k]) == {}
    assert memo.get_meta("x") is None
    assert memo.info().n_draws == N - 1
    assert memo.export(tmp_path / "out.jsonl") == N - 1
    fill(memo, range(1))
    memo.close()
    cache = diskcache.Cache(str(folder), disk=MemoDisk)
    for name in ("!meta/x", "file"):
        with pytest.raises(MemoError):
            cache.get(name)
    with pytest.raises(MemoError):
        list(cache)
    cache.close()
    assert not mark.exists()


def test_the_database_is_a_diskcache_cache_that_deletes_nothing(folder: Path) -> None:
    cache = diskcache.Cache(str(folder), disk=MemoDisk)
    assert len(cache) == N + 1  # the format is a row too
    assert cache.volume() >= (folder / "cache.db").stat().st_size
    assert cache.eviction_policy == "none"
    assert cache.cull_limit == 0
    assert cache.sqlite_synchronous == 2
    assert cache[f"{key(3)}/row.0"]["r"][0]["text"] == text(3)
    for value in (object(), {1, 2}):
        with pytest.raises(MemoError, match="never pickles"):
            cache.set("x", value)
    with pytest.raises(MemoError, match="key tuple"):
        cache.set(("a", "b"), 1)
    cache.set("x", {"a": [1, None]})
    assert cache.get("x") == {"a": [1, None]}
    cache.close()


def test_settings_that_would_delete_answers_are_put_back(folder: Path) -> None:
    edit(
        folder, "UPDATE Settings SET value = 'least-recently-stored' WHERE key = 'eviction_policy'"
    )
    edit(folder, "UPDATE Settings SET value = 10 WHERE key IN ('cull_limit', 'size_limit')")
    Memo(folder).close()
    cache = diskcache.Cache(str(folder), disk=MemoDisk)
    assert (cache.eviction_policy, cache.cull_limit, cache.size_limit) == ("none", 0, 2**62)
    cache.close()
