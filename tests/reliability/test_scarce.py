"""Too few open files, no more threads, a clock that jumps: an error or none, and no loss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

import datafast_nb as dfn
from reliability.nursery import reply_to, settle
from reliability.scale import dice, size, tell

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="limits of POSIX"),
    pytest.mark.timeout(size(200, 1200)),
]
N = 60
IN_FLIGHT = 100

CHILD = f"""
import json, resource, sys, threading
import datafast_nb as dfn
import aiohttp, datafast_nb.pipeline, datafast_nb.engine.runner, datafast_nb.models.remote
import datafast_nb.engine.checkpoint, diskcache

url, folder, n_files, n_threads = sys.argv[1:]
dfn.options.home = folder + "/home"
model = dfn.OpenAICompatibleModel("stub", url)
pipe = (
    dfn.Source.list([{{"id": i, "text": f"fact {{i}}"}} for i in range({N})])
    >> dfn.LLMStep("ask {{text}}", output_columns=["q"], model=model, retry_delay=0.01)
    >> dfn.LLMStep("again {{q}}", output_columns=["a"], model=model, retry_delay=0.01)
    >> dfn.Sink.jsonl(folder + "/out.jsonl")
)
if int(n_files):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(n_files), int(n_files)))
if n_threads != "-":
    # What Python raises where the system refuses; root is above RLIMIT_NPROC.
    left, real = [int(n_threads)], threading.Thread.start
    def start(self):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        real(self)
    threading.Thread.start = start
try:
    result = pipe.run(checkpoint_dir=folder + "/ck", resume=True, max_concurrent={IN_FLIGHT},
                      show_progress=False)
    said = [type(e.error).__name__ for e in result.errors]
    print(json.dumps(["complete", len(result), said]))
except (dfn.DatafastError, RuntimeError, OSError) as exc:
    print(json.dumps([type(exc).__name__, 0, str(exc)]))
"""


def run(stub: StubServer, folder: Path, files: int = 0, threads: str = "-") -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, stub.url, str(folder), str(files), threads],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def check_nothing_lost(stub: StubServer, folder: Path, limits: dict[str, Any]) -> str:
    """Run under the limits, then without: the second is whole and pays for no reply again."""
    before = stub.n_requests
    status, _, said = run(stub, folder, **limits)
    settle(stub)
    first = {b["messages"][-1]["content"] for b in stub.bodies[before:]}
    assert len(first) == stub.n_requests - before, "something was asked twice"
    assert run(stub, folder) == ["complete", N, []], (status, said)
    n_asked = settle(stub) - before
    assert n_asked == 2 * N, f"{n_asked - 2 * N} replies lost after {status}: {said}"
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    assert [r["q"] for r in rows] == [text_of(f"ask fact {i}") for i in range(N)]
    assert [r["a"] for r in rows] == [text_of(f"again {r['q']}") for r in rows]
    return str(status)


def text_of(prompt: str) -> str:
    return reply_to(0, {"messages": [{"content": prompt}]})


@pytest.mark.parametrize("files", range(16, 65, size(24, 4)))
def test_too_few_open_files_lose_nothing(tmp_path: Path, files: int) -> None:
    with StubServer(answer=reply_to, latency_s=0.02) as stub:
        status = check_nothing_lost(stub, tmp_path, {"files": files})
    tell(f"at most {files} open files", status, "0 replies lost")


@pytest.mark.parametrize("threads", range(size(4, 8)))
def test_system_without_threads_loses_nothing_and_hangs_nowhere(
    tmp_path: Path, threads: int
) -> None:
    with StubServer(answer=reply_to, latency_s=0.002) as stub:
        status = check_nothing_lost(stub, tmp_path, {"threads": str(threads)})
    # Without the engine's own thread there is no run; without the memo's it is slower.
    assert status == ("complete" if threads else "RuntimeError")
    tell(f"threads that can be started: {threads}", status, "0 replies lost")


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, None])
def test_clock_that_jumps_changes_neither_waits_nor_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float | None
) -> None:
    """Every look at the clock is an hour later, or earlier, or either."""
    real, rng, shift = time.time, dice("clock"), [0.0]

    def jumping() -> float:
        shift[0] += jump_s if jump_s is not None else rng.choice([-3600.0, 3600.0])
        return real() + shift[0]

    dfn.options.home = tmp_path / "home"
    dfn.options.lock_wait_s = 5.0
    started = time.monotonic()
    with StubServer(answer=reply_to, faults={5: "429_seconds:1", 9: "500"}) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, timeout_s=20)
        pipe = dfn.Source.list([{"text": f"fact {i}"} for i in range(30)]) >> dfn.LLMStep(
            "ask {text}", output_columns=["q"], model=model, retry_delay=0.05
        )
        monkeypatch.setattr(time, "time", jumping)
        settings: dict[str, Any] = {"max_concurrent": 1, "rate_limits": {model: 10_000}}
        result = pipe.run(**settings, checkpoint_dir=tmp_path / "ck")
        again = pipe.run(**settings, checkpoint_dir=tmp_path / "ck", resume=True)
        replayed = pipe.run(**settings)
        monkeypatch.undo()
        assert stub.n_requests == 32
        fifth, sixth = (r.at_s for r in stub.requests[4:6])
    assert [r["q"] for r in result] == [text_of(f"ask fact {i}") for i in range(30)]
    assert list(result) == list(again) == list(replayed)
    assert 0.99 <= sixth - fifth < 5, "the provider's second is a second, whatever the clock says"
    assert time.monotonic() - started < 20
