"""The memo: what goes in comes out, in order, under every label."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import MemoError
from datafast_nb.options import options
from datafast_nb.store.folders import risky_folder
from datafast_nb.store.memo import Memo, Reply, close_memos, open_memo
from datafast_nb.store.rows import DamagedRowError, dump, read_reply, seal, unseal

IDENTITY = {"provider": "openai", "endpoint": "", "model": "gpt-4o-mini"}
K1, K2, K3 = "a" * 64, "b" * 64, "c" * 64
MakeMemo = Callable[..., Memo]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeMemo]:
    memos: list[Memo] = []

    def build(name: str = "memo", **settings: object) -> Memo:
        memo = Memo(tmp_path / name, **settings)  # type: ignore[arg-type]
        memos.append(memo)
        return memo

    yield build
    for memo in memos:
        memo.close()
    close_memos()


def reply(text: str, verdict: str = "usable", **fields: object) -> Reply:
    return Reply(text, verdict, **fields)  # type: ignore[arg-type]


def put(memo: Memo, key: str, label: str, *replies: Reply) -> None:
    errors: list[BaseException | None] = []
    for one in replies:
        memo.put(key, label, one, identity=IDENTITY, done=errors.append)
    memo.flush()
    assert errors == [None] * len(replies)


def texts(memo: Memo, key: str) -> list[tuple[tuple[str, ...], list[str]]]:
    return [(d.labels, [r.text for r in d.replies]) for d in memo.stored([key]).get(key, [])]


def test_replies_come_back_whole_and_in_order(make: MakeMemo) -> None:
    memo = make()
    first = reply(
        "Grün 漢\x00", "cut", reason="max_tokens", finish="length", input_tokens=3, output_tokens=4,
        cached_input_tokens=1, model="gpt-4o-mini-2024", created=1.25, latency_s=0.5, attempts=2,
    )  # fmt: skip
    second = reply("red")
    put(memo, K1, "row.0", first, second)
    (draw, missing) = memo.get_many([(K1, "row.0"), (K1, "row.1")])
    assert draw is not None
    assert (draw.key, draw.label, draw.replies) == (K1, "row.0", (first, second))
    assert missing is None
    memo.close()
    (again,) = make().get_many([(K1, "row.0")])
    assert again == draw


@given(
    text=st.text(st.characters()),
    verdict=st.text(min_size=1),
    tokens=st.none() | st.integers(0, 2**40),
    created=st.floats(0, 2**40),
)
def test_a_reply_survives_its_json(
    text: str, verdict: str, tokens: int | None, created: float
) -> None:
    made = reply(text, verdict, input_tokens=tokens, created=created)
    name = f"{K1}/r.0"
    (back,) = unseal(seal(name, dump([made])), name)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert read_reply(back).text == expected
    if text == expected and verdict.isprintable():
        assert read_reply(back) == made
        assert hash(read_reply(back)) == hash(made)


@given(st.binary(max_size=40), st.data())
def test_a_changed_byte_or_another_name_breaks_the_seal(text: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal("k/l", dump(text.hex())))
    assert unseal(bytes(sealed), "k/l") == text.hex()
    with pytest.raises(DamagedRowError):
        unseal(bytes(sealed), "k/m")
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedRowError):
        unseal(bytes(sealed), "k/l")


def test_fields_of_a_later_version_are_left_out() -> None:
    assert read_reply({"text": "a", "verdict": "usable", "mood": 1}) == reply("a")
    for wrong in ({"text": "a"}, {"text": 1, "verdict": "usable"}, [], None):
        with pytest.raises(DamagedRowError):
            read_reply(wrong)


def test_stored_gives_draws_in_order_of_storing_with_links_folded_in(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "z.0", reply("1"))
    put(memo, K1, "a.0", reply("2"))
    memo.link(K1, "m.0", "z.0")
    memo.link(K1, "n.0", "m.0")  # a link to a link stands for the draw
    put(memo, K2, "z.0", reply("other key"))
    assert texts(memo, K1) == [(("z.0", "m.0", "n.0"), ["1"]), (("a.0",), ["2"])]
    assert memo.stored([K3]) == {}
    assert set(memo.stored([K2, K3, K1])) == {K1, K2}
    linked = memo.get_many([(K1, "n.0"), (K1, "a.0")])
    assert [d.label for d in linked if d] == ["z.0", "a.0"]


def test_link_keeps_a_draw_of_its_own_and_ignores_an_unknown_target(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1"))
    put(memo, K1, "b.0", reply("2"))
    memo.link(K1, "b.0", "a.0")
    memo.link(K1, "c.0", "nowhere.0")
    memo.flush()
    assert texts(memo, K1) == [(("a.0",), ["1"]), (("b.0",), ["2"])]
    assert memo.get_many([(K1, "c.0")]) == [None]


def test_a_reply_for_an_adopted_label_joins_the_draw_it_stands_for(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1"))
    memo.link(K1, "b.0", "a.0")
    put(memo, K1, "b.0", reply("2"))
    assert texts(memo, K1) == [(("a.0", "b.0"), ["1", "2"])]


def test_large_values_stay_in_the_database(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "r.0", reply("x" * 3_000_000))
    assert not list(memo.path.rglob("*.val"))
    (draw,) = memo.get_many([(K1, "r.0")])
    assert draw is not None and len(draw.replies[0].text) == 3_000_000


def test_done_is_called_on_the_writer_thread_after_the_commit(make: MakeMemo) -> None:
    memo = make()
    seen: list[tuple[str, bool]] = []

    def done(error: BaseException | None) -> None:
        there = memo.get_many([(K1, "r.0")])[0] is not None
        seen.append((threading.current_thread().name, there and error is None))
        memo.flush()  # must not wait for itself

    memo.put(K1, "r.0", reply("1"), identity=IDENTITY, done=done)
    memo.flush()
    assert seen == [("datafast_nb-memo", True)]


def test_a_failing_callback_or_reply_does_not_take_others_with_it(make: MakeMemo) -> None:
    said: list[str] = []
    memo = make(warn=said.append)
    told: list[BaseException | None] = []

    def fail(error: BaseException | None) -> None:
        raise KeyError("callback")

    memo.put(K1, "a.0", reply("1"), identity=IDENTITY, done=fail)
    bad = reply("2", model=object())
    memo.put(K1, "b.0", bad, identity=IDENTITY, done=told.append)
    memo.put(K1, "c.0", reply("3"), identity=IDENTITY, done=told.append)
    memo.flush()
    assert [type(e) for e in told] == [MemoError, type(None)]
    assert [labels for labels, _ in texts(memo, K1)] == [("a.0",), ("c.0",)]
    assert "callback" in said[0]


def test_many_threads_read_and_write(make: MakeMemo) -> None:
    memo = make()
    wrong: list[object] = []

    def work(n: int) -> None:
        for i in range(50):
            memo.put(f"{n}{'k' * 20}", f"{i}.0", reply(f"{n}-{i}"), identity=IDENTITY, done=done)
            memo.get_many([(f"{n}{'k' * 20}", f"{i}.0")])

    def done(error: BaseException | None) -> None:
        if error is not None:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memo.flush()
    assert wrong == []
    assert memo.info().n_replies == 200


def test_the_idle_thread_ends_and_comes_back(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1"))
    until = time.monotonic() + 10
    while any(t.name == "datafast_nb-memo" for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.05)
    put(memo, K1, "b.0", reply("2"))
    assert len(texts(memo, K1)) == 2


@pytest.mark.parametrize(
    ("key", "label"), [("", "a"), ("!meta", "a"), ("k/", "a"), ("k", ""), ("k", "a/b")]
)
def test_names_that_could_be_misread_are_refused(make: MakeMemo, key: str, label: str) -> None:
    with pytest.raises(MemoError):
        make().put(key, label, reply("1"), identity=IDENTITY, done=lambda error: None)


def test_meta_values(make: MakeMemo) -> None:
    memo = make()
    assert memo.get_meta("limited") is None
    memo.set_meta("limited", {"/a/b.jsonl": 3})
    memo.set_meta("limited", {"/a/b.jsonl": 4})
    assert memo.get_meta("limited") == {"/a/b.jsonl": 4}
    assert memo.info().n_draws == 0
    with pytest.raises(MemoError, match="JSON"):
        memo.set_meta("x", object())
    with pytest.raises(MemoError, match="own"):
        memo.set_meta("format", 7)


def test_info_counts(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1", created=5.0), reply("2", "refused", created=9.0))
    put(memo, K2, "a.0", reply("3", created=7.0))
    memo.link(K1, "b.0", "a.0")
    info = memo.info()
    assert (info.n_draws, info.n_replies, info.oldest, info.newest) == (2, 3, 5.0, 9.0)
    assert info.by_model == {"openai/gpt-4o-mini": 3}
    assert info.by_verdict == {"usable": 2, "refused": 1}
    assert info.n_bytes > 4096
    assert info.path == memo.path


def test_only_the_owner_can_read(make: MakeMemo, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        memo = make("home/memo")
        put(memo, K1, "a.0", reply("1"))
        assert stat.S_IMODE(memo.path.stat().st_mode) == 0o700
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in memo.path.iterdir()}
        assert "cache.db-wal" in modes
        assert set(modes.values()) == {0o600}
    finally:
        os.umask(old)
    assert (tmp_path / "home" / ".gitignore").read_text() == "*\n"


def test_a_folder_of_the_user_is_not_hidden_from_git(make: MakeMemo, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir(mode=0o755)
    make("project/memo")
    assert not (tmp_path / "project" / ".gitignore").exists()
    assert (tmp_path / "project" / "memo" / ".gitignore").exists()
    assert stat.S_IMODE((tmp_path / "project").stat().st_mode) == 0o755


def test_a_file_in_place_of_the_folder_is_named(make: MakeMemo, tmp_path: Path) -> None:
    (tmp_path / "memo").write_text("no folder")
    with pytest.raises(MemoError, match="DATAFAST_NB_HOME"):
        make()


def test_open_memo_shares_one_object_per_folder_and_mode(tmp_path: Path) -> None:
    options.home = tmp_path / "home"
    memo = open_memo()
    assert memo.path == (tmp_path / "home" / "memo").resolve()
    assert open_memo(tmp_path / "home" / "memo") is memo
    assert open_memo(mode="replay") is not memo
    memo.close()
    with pytest.raises(MemoError, match="open_memo"):
        memo.get_many([(K1, "a.0")])
    assert open_memo() is not memo
    close_memos()


def test_a_deleted_memo_starts_over(make: MakeMemo) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1"))
    for path in memo.path.iterdir():
        path.unlink()
    memo.path.rmdir()
    assert memo.get_many([(K1, "a.0")]) == [None]
    put(memo, K1, "a.0", reply("2"))
    assert texts(memo, K1) == [(("a.0",), ["2"])]


def test_replay_reads_and_never_writes(make: MakeMemo, tmp_path: Path) -> None:
    memo = make()
    put(memo, K1, "a.0", reply("1"))
    memo.close()
    before = (memo.path / "cache.db").read_bytes()
    replay = make(mode="replay")
    assert texts(replay, K1) == [(("a.0",), ["1"])]
    for write in (
        lambda: replay.put(K1, "b.0", reply("2"), identity=IDENTITY, done=lambda e: None),
        lambda: replay.link(K1, "b.0", "a.0"),
        lambda: replay.set_meta("x", 1),
        lambda: replay.load(tmp_path / "x.jsonl"),
    ):
        with pytest.raises(MemoError, match="replay"):
            write()
    assert replay.export(tmp_path / "out.jsonl") == 1
    replay.close()
    assert (memo.path / "cache.db").read_bytes() == before


def test_replay_of_nothing_says_what_to_do(make: MakeMemo, tmp_path: Path) -> None:
    with pytest.raises(MemoError, match="Record one"):
        make(mode="replay")
    assert not (tmp_path / "memo").exists()


def test_an_unknown_mode_is_refused(make: MakeMemo) -> None:
    with pytest.raises(ValueError, match="'normal' or 'replay'"):
        make(mode="record")


MOUNTS = "/dev/a / ext4 rw 0 0\nnas:/x /mnt/my\\040nas nfs4 rw 0 0\n/dev/b /mnt/my\\040nas/local ext4 rw 0 0\n"


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("/data/me/p", None),
        ("/mnt/my nas/p", "nfs4"),
        ("/mnt/my nas/local/p", None),
        ("/data/me/Dropbox/p", "Dropbox"),
        ("/data/me/Dropbox (Personal)/p", "Dropbox"),
        ("/data/me/dropboxes/p", None),
        ("/data/me/OneDrive - Firm/p", "OneDrive"),
        ("/data/me/Library/Mobile Documents/p", "iCloud"),
        ("/data/me/Library/CloudStorage/GoogleDrive-me@x.org/p", "Google Drive"),
        ("/content/drive/MyDrive/p", "Google Drive"),
    ],
)
def test_risky_folders_are_known(folder: str, reason: str | None) -> None:
    said = risky_folder(Path(folder), MOUNTS)
    assert (said is None) == (reason is None)
    assert reason is None or (reason in str(said) and "DATAFAST_NB_HOME" in str(said))


def test_a_memo_in_a_cloud_folder_warns_once(make: MakeMemo) -> None:
    said: list[str] = []
    memo = make("Dropbox/memo", warn=said.append)
    assert len(said) == 1 and "Dropbox" in said[0]
    assert memo.info().warnings == tuple(said)
