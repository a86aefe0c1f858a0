"""Random pipelines in processes that are killed with kill -9 at random points, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from properties import small_pipelines as small
from properties.scale import FAST_DISK, many

LIVES = Path(__file__).with_name("killed_lives.py")
STEPS = st.lists(
    st.tuples(st.sampled_from([*small.KINDS, "ask"]), st.integers(0, 3), st.just(0)),
    min_size=2,
    max_size=6,
).filter(lambda steps: any(kind == "ask" for kind, _, _ in steps))
ORDERS = st.sampled_from(["steps", "records"])
DEATHS = st.lists(
    st.tuples(st.sampled_from(["call", "call", "disk"]), st.integers(1, 30), ORDERS),
    min_size=1,
    max_size=3,
)


class Lives:
    """Has runs lived, one at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(LIVES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        )

    def live(
        self, folder: Path, death: tuple[str, int, str] = ("", 0, "steps"), **order: Any
    ) -> int:
        """Wait status: 0, or the signal that killed it."""
        assert self._child.stdin is not None and self._child.stdout is not None
        body = {"folder": str(folder), "death": death, **order}
        self._child.stdin.write(json.dumps(body) + "\n")
        self._child.stdin.flush()
        return int(self._child.stdout.readline())

    def close(self) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(20)
        self._child.stdout.close()


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    made = Lives()
    yield made
    made.close()


@settings(
    max_examples=many(8, 300),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(spec=STEPS, n_rows=st.integers(2, 8), in_flight=st.integers(1, 8), deaths=DEATHS)
def test_a_run_killed_anywhere_any_number_of_times_is_the_straight_run(
    lives: Lives,
    spec: small.Spec,
    n_rows: int,
    in_flight: int,
    deaths: list[tuple[str, int, str]],
) -> None:
    order: dict[str, Any] = {"spec": spec, "n_rows": n_rows, "in_flight": in_flight}
    with (
        tempfile.TemporaryDirectory(dir=FAST_DISK) as straight,
        tempfile.TemporaryDirectory(dir=FAST_DISK) as killed,
    ):
        assert lives.live(Path(straight), **order) == 0
        kills = 0
        for death in deaths:
            status = lives.live(Path(killed), death, **order)
            assert status in (0, signal.SIGKILL)
            kills += status != 0
        assert lives.live(Path(killed), **order) == 0
        for name in ("story.txt", "out.jsonl"):
            assert _read(killed, name) == _read(straight, name)
        paid = [small.Log(Path(f) / "asked.jsonl").counts() for f in (killed, straight)]
        assert not paid[1] - paid[0], "an answer that nobody gave"
        assert (paid[0] - paid[1]).total() <= in_flight * kills
        left = [n for n in os.listdir(Path(killed) / "ck") if "tmp" in n or n.endswith(".lock")]
        assert not left, left


def _read(folder: str, name: str) -> bytes:
    path = Path(folder) / name
    return path.read_bytes() if path.exists() else b"(none)"
