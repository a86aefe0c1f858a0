"""A disk that is full from some write on: the run stops and says where, nothing is half written."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

from reliability.nursery import Nursery, settle
from reliability.scale import SEED, dice, size, tell
from reliability.straight import Straights, look, outcome

POINTS = size(4, 18)
"""Of each kind."""
WIDTH = 4000
KINDS = ["log", "memo", "step", "trail", "manifest", "jsonl", "csv", "parquet"]

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="fork and limits of POSIX"),
    pytest.mark.timeout(size(300, 3600)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_full_disk_stops_the_run_names_the_file_and_costs_only_what_was_not_kept(
    stub: StubServer, nursery: Nursery, tmp_path: Path, kind: str
) -> None:
    print(f"seed {SEED}")
    rng = dice(f"full disk {kind}")
    straight = Straights(stub, nursery, tmp_path)
    met: Counter[str] = Counter()
    most_gone = most_after = tries = 0
    while met.total() < POINTS:
        tries += 1
        assert tries < 10 * POINTS, "the limits did not bite"
        sink = kind if kind in ("jsonl", "csv", "parquet") else rng.choice(["jsonl", "parquet"])
        shown = {"shape": rng.randrange(size(4, 20)), "width": WIDTH, "sink": sink}
        want = straight.get(**shown)
        folder = tmp_path / f"point-{tries}"
        folder.mkdir()
        former = rng.randbytes(3000)
        (folder / "out").write_bytes(former)
        in_flight = rng.randint(1, 8)
        order: dict[str, Any] = {**shown, "in_flight": in_flight}
        order["checkpoint"] = kind in ("step", "trail", "manifest") or rng.random() < 0.5
        full = {
            "log": ["log", rng.randint(1, 8), rng.randrange(12_000)],
            "memo": ["memo", rng.randint(1, 8), rng.randrange(400)],
            "step": ["step", rng.randint(1, 5), rng.randrange(3000)],
            "trail": ["trail", rng.randint(1, 5), rng.randrange(1000)],
            "manifest": ["manifest", rng.randint(1, 5), rng.randrange(1500)],
        }.get(kind, ["sink", 1, rng.randrange(len(want.sink))])
        where = f"seed {SEED}, {order}, full {full}"

        before = stub.n_requests
        assert nursery.live(folder, full=full, **order) == 0, where
        asked = settle(stub) - before
        if not (folder / "error.json").exists():
            assert outcome(folder) == (want.outcome, want.sink), where
            continue
        name, said = json.loads((folder / "error.json").read_text())
        met[name] += 1
        assert str(folder) in said, f"{where}: no path in {said}"
        assert (folder / "out").read_bytes() == former, where
        assert [p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".lock"))] == [], (
            where
        )
        if (folder / "former").exists():
            manifest = (folder / "ck" / "manifest.json").read_bytes()
            assert manifest == (folder / "former").read_bytes(), where
        failed_s = float((folder / "full_at").read_text())
        n_after = sum(r.at_s > failed_s for r in stub.requests[before:])
        assert n_after <= in_flight, where
        gone = asked - look(folder, tmp_path / "scratch")[0]
        assert 0 <= gone <= in_flight, where

        assert nursery.live(folder, **order) == 0, where
        assert outcome(folder) == (want.outcome, want.sink), where
        assert settle(stub) - before == want.n_calls + gone, where
        most_gone, most_after = max(most_gone, gone), max(most_after, n_after)
        shutil.rmtree(folder)
    errors = ", ".join(f"{n} {name}" for name, n in sorted(met.items()))
    tell(f"full disk, {kind}", met.total(), errors)
    tell("    replies not kept, most", most_gone, "≤ calls in flight, paid again; no other was")
    tell("    requests after the failure, most", most_after, "≤ calls in flight (1 to 8)")
