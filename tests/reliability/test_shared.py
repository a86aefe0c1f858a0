"""Runs of several processes at one memo, one of them stopped in the wrong moment."""

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

from reliability.nursery import settle
from reliability.scale import seconds, size, tell

N_PROCESSES = 8
N_CALLS = size(250, 1000)
"""Of each process: half are the same questions, half are its own."""

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX"),
    pytest.mark.timeout(size(300, 1200)),
]

CHILD = f"""
import json, sys, warnings
import datafast_nb as dfn
url, home, me, n, wait_s = sys.argv[1:]
dfn.options.home, dfn.options.lock_wait_s, n = home, float(wait_s), int(n)
model = dfn.OpenAICompatibleModel("stub", url)
rows = [{{"id": i, "text": f"shared {{i}}" if i % 2 else f"{{me}} {{i}}"}} for i in range(n)]
pipe = dfn.Source.list(rows) >> dfn.LLMStep("ask {{text}}", output_columns=["q"], model=model)
said = []
warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
result = pipe.run(max_concurrent={size(4, 8)}, show_progress=False)
print(json.dumps([{{r["text"]: r["q"] for r in result}}, said, len(result.errors)]))
"""


def start(
    stub: StubServer, home: Path, me: object, n: int = N_CALLS, lock_wait_s: float = 30.0
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, stub.url, str(home), str(me), str(n), str(lock_wait_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, str], list[str]]:
    """Question → answer, and the warnings."""
    out, errors = process.communicate(timeout=size(120, 600))
    assert process.returncode == 0, errors
    assert "locked" not in errors
    answers, said, n_errors = json.loads(out)
    assert n_errors == 0
    return answers, said


def of_number(number: int, body: dict[str, Any]) -> str:
    """Never the same answer twice, so that it shows whose it is."""
    return f"{body['messages'][-1]['content']} -> {number}"


def test_eight_processes_share_one_memo_and_later_runs_agree_and_pay_nothing(
    tmp_path: Path,
) -> None:
    with StubServer(answer=of_number, latency_s=0.002) as stub:
        home = tmp_path / "home"
        children = [start(stub, home, f"p{n}") for n in range(N_PROCESSES)]
        first = [finish(child) for child in children]
        n_asked = settle(stub)
        again = [finish(c) for c in [start(stub, home, f"p{n}") for n in range(N_PROCESSES)]]
        assert settle(stub) == n_asked, "an answer was lost: it was asked for again"
    assert [said for _, said in first + again] == [[]] * (2 * N_PROCESSES)
    assert all(len(answers) == N_CALLS for answers, _ in first + again)
    by_question: dict[str, set[str]] = {}
    for answers, _ in again:
        for question, answer in answers.items():
            by_question.setdefault(question, set()).add(answer)
    assert {len(given) for given in by_question.values()} == {1}, "one question, two answers"
    # Nobody else asked these, so that each later run has what the first one had.
    pairs = list(zip(first, again, strict=True))
    own = [(one[q], later[q]) for (one, _), (later, _) in pairs for q in one if q[0] == "p"]
    assert len(own) == N_PROCESSES * N_CALLS // 2
    assert all(one == later for one, later in own)
    n_distinct = N_CALLS // 2 * (N_PROCESSES + 1)
    assert n_distinct <= n_asked <= N_CALLS * N_PROCESSES
    raced = sum(one[q] != later[q] for (one, _), (later, _) in pairs for q in one)
    tell(f"runs of {N_PROCESSES} processes on one memo", N_PROCESSES * N_CALLS, "calls, 0 locked")
    tell("    asked for", n_asked, f"{n_distinct:,} different; later runs: 0")
    tell("    asked by several at once, another draw later", raced, "the memo has both")


HOLDER = """
import os, signal, sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("BEGIN IMMEDIATE")
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
LOCK_WAIT_S = seconds(1.0, 30.0)


def test_stopped_process_with_the_lock_delays_a_run_once_and_nothing_is_paid_twice(
    tmp_path: Path,
) -> None:
    n = 60
    with StubServer(answer=of_number, latency_s=0.002) as stub:
        home = tmp_path / "home"
        started = time.monotonic()
        finish(start(stub, home, "warm", n))
        usual_s = time.monotonic() - started
        before = settle(stub)
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(home / "memo" / "cache.db")],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            started = time.monotonic()
            answers, said = finish(start(stub, home, "p", n, LOCK_WAIT_S))
            took_s = time.monotonic() - started
            assert settle(stub) - before == n // 2  # the shared half was read, lock or no lock
            again, _ = finish(start(stub, home, "p", n, LOCK_WAIT_S))
            assert settle(stub) - before == n // 2
        finally:
            holder.kill()
            holder.communicate()
        assert again == answers
        assert any("holds the lock" in message for message in said)
        assert took_s < 3 * usual_s + LOCK_WAIT_S + 5
        later, said = finish(start(stub, home, "p", n))
        assert (later, said, settle(stub) - before) == (answers, [], n // 2)
    assert not list((home / "memo").glob("overflow-*"))
    tell("run while a stopped process holds the lock", f"+{max(0, took_s - usual_s):.1f} s",
         f"≤ {LOCK_WAIT_S:g} s of waiting in all; paid twice: 0")  # fmt: skip
