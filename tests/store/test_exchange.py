"""Answers that move between people: export, load."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datafast_nb.errors import MemoError
from datafast_nb.store.memo import Memo, Reply

K1, K2 = "a" * 64, "b" * 64
GPT = {"provider": "openai", "endpoint": "", "model": "gpt-4o-mini"}
CLAUDE = {"provider": "anthropic", "endpoint": "", "model": "claude"}


@pytest.fixture
def memos(tmp_path: Path) -> Iterator[Callable[[str], Memo]]:
    made: list[Memo] = []

    def make(name: str) -> Memo:
        made.append(Memo(tmp_path / name))
        return made[-1]

    yield make
    for memo in made:
        memo.close()


def fill(memo: Memo) -> None:
    def done(error: BaseException | None) -> None:
        assert error is None

    memo.put(K2, "z.0", Reply("1", "usable", created=1.5), identity=GPT, done=done)
    memo.put(K1, "a.0", Reply("2", "refused"), identity=CLAUDE, done=done)
    memo.put(K2, "a.0", Reply("3 漢", "usable", input_tokens=4), identity=GPT, done=done)
    memo.put(K2, "z.0", Reply("4", "usable"), identity=GPT, done=done)
    memo.link(K2, "m.0", "z.0")
    memo.flush()


def test_round_trip_keeps_everything_and_is_the_same_bytes(
    memos: Callable[[str], Memo], tmp_path: Path
) -> None:
    one, other = memos("one"), memos("other")
    fill(one)
    assert one.export(tmp_path / "a.jsonl") == 3
    assert other.load(tmp_path / "a.jsonl") == 3
    assert other.stored([K1, K2]) == one.stored([K1, K2])
    assert other.info().by_model == one.info().by_model
    other.export(tmp_path / "b.jsonl")
    one.export(tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines[0]["datafast_nb_memo"] == 1
    assert [(d["key"], d["labels"]) for d in lines[1:]] == [
        (K2, ["z.0", "m.0"]), (K1, ["a.0"]), (K2, ["a.0"])
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.glob("*.jsonl*")) == ["a.jsonl", "b.jsonl"]


def test_load_again_changes_nothing(memos: Callable[[str], Memo], tmp_path: Path) -> None:
    memo = memos("one")
    fill(memo)
    before = memo.stored([K1, K2])
    memo.export(tmp_path / "a.jsonl")
    assert memo.load(tmp_path / "a.jsonl") == 0
    assert memo.stored([K1, K2]) == before


def test_load_merges_replies_and_links(memos: Callable[[str], Memo], tmp_path: Path) -> None:
    one, other = memos("one"), memos("other")
    fill(one)
    one.export(tmp_path / "a.jsonl")
    told: list[BaseException | None] = []
    other.put(K2, "z.0", Reply("mine", "usable"), identity=GPT, done=told.append)
    other.put(K2, "m.0", Reply("own draw", "usable"), identity=GPT, done=told.append)
    other.flush()
    assert other.load(tmp_path / "a.jsonl") == 3
    draws = {d.labels: [r.text for r in d.replies] for d in other.stored([K2])[K2]}
    assert draws == {("z.0",): ["mine", "1", "4"], ("m.0",): ["own draw"], ("a.0",): ["3 漢"]}


@pytest.mark.parametrize("models", [["claude"], ["anthropic/claude"], "claude"])
def test_export_of_some_models(
    memos: Callable[[str], Memo], tmp_path: Path, models: list[str]
) -> None:
    memo = memos("one")
    fill(memo)
    assert memo.export(tmp_path / "a.jsonl", models=models) == 1
    other = memos("other")
    assert other.load(tmp_path / "a.jsonl") == 1
    assert set(other.stored([K1, K2])) == {K1}


GOOD = {
    "key": K1, "labels": ["a.0"], "identity": GPT, "replies": [{"text": "1", "verdict": "usable"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1: the file is empty"),
        (['{"a": 1}'], "line 1: no header"),
        (["nonsense"], "line 1: no JSON"),
        (['{"datafast_nb_memo": 9, "draws": 0}'], "Upgrade datafast_nb"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, "{"], "line 3: no JSON"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD], "line 2: the file ends after 1 of 2"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, [1]], "line 3: no draw"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"labels": []}], "line 3: no draw"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"labels": ["a/b"]}], "line 3"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"key": "!meta"}], "line 3: no draw"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"key": 7}], "line 3: no draw"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"replies": [{}]}], "line 3: no draw"),
        ([{"datafast_nb_memo": 1, "draws": 2}, GOOD, GOOD | {"replies": "x"}], "line 3: no draw"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_nothing_of_it_stored(
    memos: Callable[[str], Memo], tmp_path: Path, lines: list[object], said: str
) -> None:
    path = tmp_path / "bad.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text))
    memo = memos("one")
    with pytest.raises(MemoError) as caught:
        memo.load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert memo.info().n_draws == 0


def test_missing_files_and_folders_are_named(memos: Callable[[str], Memo], tmp_path: Path) -> None:
    memo = memos("one")
    with pytest.raises(MemoError, match="nowhere"):
        memo.load(tmp_path / "nowhere.jsonl")
    with pytest.raises(MemoError, match="nowhere"):
        memo.export(tmp_path / "nowhere" / "a.jsonl")


def test_export_that_fails_leaves_the_former_file(
    memos: Callable[[str], Memo], tmp_path: Path
) -> None:
    target = tmp_path / "a.jsonl"
    target.mkdir()
    (target / "keep").write_text("1")
    with pytest.raises(MemoError):
        memos("one").export(target)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".a")] == []
    assert (target / "keep").exists()
