"""Runs killed anywhere, any number of times: resumed, they are the run that nobody killed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

from reliability.nursery import Nursery, settle
from reliability.scale import SEED, dice, size, tell
from reliability.straight import Spot, Straights, acknowledged, look, outcome

KILLS = size(100, 1000)
"""Beside them are those of tests/engine: fresh processes, and one at every sync and rename."""

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="fork and signals of POSIX"),
    pytest.mark.timeout(size(300, 7200)),
]


def test_killed_at_random_and_resumed_is_the_straight_run_and_pays_twice_only_for_what_was_in_flight(
    stub: StubServer, nursery: Nursery, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    rng = dice("kills")
    straight = Straights(stub, nursery, tmp_path)
    kills = series = n_acknowledged = twice = bound = most = 0
    lost: list[Any] = []
    differ: list[Any] = []
    too_often: list[Any] = []
    while kills < KILLS:
        shape, checkpoint = rng.randrange(size(12, 60)), rng.random() < 0.5
        want = straight.get(shape=shape)
        folder = tmp_path / f"series-{series}"
        folder.mkdir()
        series += 1
        n_lives = rng.randint(1, 5)
        first = stub.n_requests
        allowed = stored = 0
        for life in range(n_lives + 1):
            in_flight = rng.randint(1, 8)
            order = {"shape": shape, "checkpoint": checkpoint, "in_flight": in_flight}
            where = f"seed {SEED}, series {series - 1}, life {life}, {order}"
            before = stub.n_requests
            is_last = life == n_lives
            at_disk = rng.random() < 0.4
            n_touch = rng.randint(1, 60 if checkpoint else 16)
            n_more, within_s = rng.randrange(25), rng.random() * 0.3
            if is_last:
                status = nursery.live(folder, **order)
                assert status == 0, where
            else:
                pid = nursery.start(folder, die_at=n_touch if at_disk else 0, **order)
                if not at_disk:
                    nursery.kill_after(pid, stub, n_more, within_s)
                status = nursery.wait()
                assert status in (0, signal.SIGKILL), where
            asked = settle(stub) - before
            now_stored, found = look(folder, tmp_path / "scratch")
            acks = acknowledged(folder)
            lost += [(where, spot) for spot, text in acks if text not in found.get(spot, [])]
            if status == 0:
                if outcome(folder) != (want.outcome, want.sink):
                    differ.append(where)
                stored = now_stored
                continue
            kills += 1
            allowed += in_flight
            n_gone = asked - (now_stored - stored)
            stored = now_stored
            most = max(most, n_gone)
            if not 0 <= n_gone <= in_flight:
                too_often.append((where, n_gone))
            if (folder / "out").exists() and (folder / "out").read_bytes() != want.sink:
                differ.append((where, "sink after the kill"))
            for path in folder.glob("ck/step_*.jsonl"):
                if ".partial." not in path.name and path.read_bytes()[-1:] not in (b"", b"\n"):
                    differ.append((where, f"half a {path.name}"))
        if stored != want.n_calls:  # more: a draw was paid twice; fewer: two calls share one
            differ.append((folder.name, f"{stored} replies in the memo, not {want.n_calls}"))
        acks = acknowledged(folder)
        n_acknowledged += len(acks)
        # Asked for again although it was there: it would be acknowledged again.
        lost += [(folder.name, spot) for spot in {s for s, _ in acks} if count(acks, spot) > 1]
        n_twice = stub.n_requests - first - want.n_calls
        if not 0 <= n_twice <= allowed:
            too_often.append((folder.name, n_twice, allowed))
        twice, bound = twice + n_twice, bound + allowed
        assert not left_over(folder)
        shutil.rmtree(folder)
    tell("random kills", kills, f"in {series} series, with and without checkpoint_dir")
    tell("calls paid twice, all kills", twice, f"≤ {bound:,} in flight at the kills")
    tell("replies gone in one kill, most", most, "≤ calls in flight (1 to 8)")
    tell("acknowledged replies", n_acknowledged, "")
    tell("acknowledged replies lost", len(lost), "0")
    tell("runs whose records or sink bytes differ", len(differ), "0")
    assert (lost, differ, too_often) == ([], [], [])
    assert n_acknowledged > 5 * kills, "the kills came too early to show anything"
    assert twice > 0, "no kill hit a call under way"


def count(acks: list[tuple[Spot, str]], spot: Spot) -> int:
    return sum(s == spot for s, _ in acks)


def left_over(folder: Path) -> list[str]:
    """Files of the checkpoint that only a run under way may have."""
    return [p.name for p in folder.glob("ck/*") if p.name.endswith((".tmp", ".lock"))]
