"""Memos that earlier versions wrote, one for each format: read as they were meant."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from make_memo_fixture import pipeline

import datafast_nb as dfn
from datafast_nb.store.memo import Memo, Reply

FORMATS = sorted(p.name for p in (Path(__file__).parent / "fixtures").glob("memo_*"))


@pytest.fixture(params=FORMATS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a stored memo, as it lies in a project."""
    return Path(
        shutil.copytree(Path(__file__).parent / "fixtures" / request.param, tmp_path / "home")
    )


def expected(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "expected.json").read_text(encoding="utf-8"))
    return found


def test_there_is_one_for_the_format_of_today() -> None:
    from datafast_nb.store.database import FORMAT_VERSION

    assert f"memo_{FORMAT_VERSION}" in FORMATS


@pytest.mark.parametrize("mode", ["normal", "replay"])
def test_stored_replies_are_read_as_they_were_written(home: Path, mode: str) -> None:
    want = expected(home)
    before = (home / "memo" / "cache.db").read_bytes()
    said: list[str] = []
    memo = Memo(home / "memo", mode=mode, warn=said.append)
    spots = list(dict.fromkeys((key, label) for key, label, _ in want["replies"]))
    for spot, draw in zip(spots, memo.get_many(spots), strict=True):
        assert draw is not None
        stored = [reply for key, label, reply in want["replies"] if (key, label) == spot]
        assert [
            {k: asdict(r)[k] for k in s} for r, s in zip(draw.replies, stored, strict=True)
        ] == (stored)
    key, label, of = want["link"]
    (linked,) = memo.get_many([(key, label)])
    assert linked is not None and linked.label == of
    assert all(memo.get_meta(name) == value for name, value in want["meta"].items())
    assert memo.info().n_replies == len(want["replies"]) + want["calls"]
    memo.close()
    assert said == []
    if mode == "replay":
        assert (home / "memo" / "cache.db").read_bytes() == before


def test_stored_memo_takes_new_replies(home: Path) -> None:
    memo = Memo(home / "memo")
    n = memo.info().n_replies
    key, label, _ = expected(home)["replies"][0]
    for place in (label, "new.0"):
        memo.put(key, place, Reply("new", "usable"), identity={}, done=lambda error: None)
    memo.flush()
    assert memo.info().n_replies == n + 2
    memo.close()


def test_run_that_was_paid_then_is_answered_now(home: Path) -> None:
    """Keys, row identities and draws are as they were: nothing is asked again."""
    dfn.options.home = home
    model = dfn.FakeModel("another answer", name="fixture")
    result = pipeline(model).run(show_progress=False)
    assert model.calls == 0
    assert [dict(r) for r in result] == expected(home)["records"]
