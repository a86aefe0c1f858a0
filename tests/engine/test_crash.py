"""A run that is killed, and started again: nothing lost, and no more paid twice than was under way."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from stub_server import StubServer

from datafast_nb.store.memo import Memo

N_RECORDS = 60
N_CALLS = 2 * N_RECORDS
IN_FLIGHT = 6
KILLS_PER_SERIES = 10

CHILD = f"""
import json, sys
import datafast_nb as dfn

url, out, tone, width = sys.argv[1:]
pad = "x" * int(width)
model = dfn.OpenAICompatibleModel("stub", url)
pipeline = (
    dfn.Source.list([{{"id": i, "text": f"fact {{i}}", "pad": pad}} for i in range({N_RECORDS})])
    >> dfn.LLMStep(tone + " question on {{text}}", output_columns=["question"], model=model)
    >> dfn.LLMStep("answer {{question}}", output_columns=["answer"], model=model)
    >> dfn.Sink.jsonl(out)
)
result = pipeline.run(max_concurrent={IN_FLIGHT})
print(json.dumps([{{**r, "pad": ""}} for r in result]))
"""


def reply_to(number: int, body: dict[str, Any]) -> str:
    """An answer of the prompt's alone."""
    prompt = body["messages"][-1]["content"]
    return f"re {blake2b(prompt.encode(), digest_size=4).hexdigest()} {prompt}"


def prompts(stub: StubServer) -> list[str]:
    return [body["messages"][-1]["content"] for body in stub.bodies]


class Bench:
    """A folder with the script, its own memo and sink file; the stub runs outside of the script."""

    def __init__(self, folder: Path, stub: StubServer) -> None:
        folder.mkdir()
        self.folder = folder
        self.stub = stub
        self.home = folder / "home"
        self.out = folder / "out.jsonl"
        self.script = folder / "child.py"
        self.script.write_text(CHILD, encoding="utf-8")

    def start(self, tone: str = "one", width: int = 0) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(self.script), self.stub.url, str(self.out), tone, str(width)],
            cwd=self.folder,
            env={**os.environ, "DATAFAST_NB_HOME": str(self.home), "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stamp(self) -> tuple[int, ...] | None:
        """Changes with every write to the sink file; None: there is none."""
        try:
            stat = self.out.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def finish(self, tone: str = "one", width: int = 0) -> list[dict[str, Any]]:
        """Run to the end; the rows that `run` returned, but for the column that makes them wide."""
        said, errors = self.start(tone, width).communicate(timeout=60)
        assert said, errors
        return json.loads(said)

    def kill_at(self, n_prompts: int, tone: str = "one") -> None:
        """Start, and kill -9 as soon as that many different prompts have been received."""
        child = self.start(tone)
        end = time.monotonic() + 60
        try:
            # Not len(set(…)) of all at every look: the stub shares this process's CPU.
            while self.stub.n_requests < n_prompts or len(set(prompts(self.stub))) < n_prompts:
                assert child.poll() is None, child.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.0005)
        finally:
            child.kill()
            child.wait(10)
            child.stdout.close()
            child.stderr.close()
        assert child.returncode == -9

    def settle(self) -> int:
        """Requests received when nothing more is under way."""
        time.sleep(0.03)
        while self.stub.in_flight:
            time.sleep(0.005)
        return self.stub.n_requests

    def check_memo(self) -> int:
        """Open the memo as the next process would; the replies it holds."""
        warned: list[str] = []
        memo = Memo(self.home / "memo", warn=warned.append)
        try:
            n_replies = memo.info().n_replies
        finally:
            memo.close()
        assert warned == []
        with closing(sqlite3.connect(self.home / "memo" / "cache.db")) as con:
            assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not list((self.home / "memo").glob("*damaged*"))
        return n_replies


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Rows and file of a run that nobody disturbed."""
    with StubServer(answer=reply_to) as stub:
        bench = Bench(tmp_path_factory.mktemp("whole") / "bench", stub)
        rows = bench.finish()
        assert stub.n_requests == N_CALLS
        return rows, bench.out.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("series", [1])  # many more are in tests/reliability, of forked processes
def test_killed_at_ten_random_points_gives_the_same_dataset_and_pays_only_what_was_in_flight_twice(
    tmp_path, uninterrupted, series
):
    points = sorted(random.Random(series).sample(range(N_CALLS), KILLS_PER_SERIES))
    with StubServer(answer=reply_to, latency_s=0.01) as stub:
        bench = Bench(tmp_path / "bench", stub)
        ends = []
        stored = 0
        for point in points:
            bench.kill_at(point)
            ends.append(bench.settle())
            assert not bench.out.exists(), "a killed run has not finished, so it wrote no file"
            if (bench.home / "memo").exists():
                now = bench.check_memo()
                assert now >= stored, "an answer that was on disk is gone"
                stored = now
        rows = bench.finish()
        asked = prompts(stub)
        n_replies = bench.check_memo()
    whole_rows, whole_bytes = uninterrupted
    assert rows == whole_rows
    assert bench.out.read_bytes() == whole_bytes
    assert n_replies == N_CALLS, "every answer is kept once"
    # Paid twice on account of a kill: asked in that life, and again in a later one.
    for start, end in zip([0, *ends], ends, strict=False):
        again = set(asked[start:end]) & set(asked[end:])
        assert len(again) <= IN_FLIGHT
        assert max(Counter(asked[start:end]).values(), default=0) <= 1
    assert set(asked) == set(whole_prompts(whole_rows))


def whole_prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [f"one question on {r['text']}" for r in rows] + [
        f"answer {r['question']}" for r in rows
    ]


def test_killed_run_leaves_the_whole_file_of_an_earlier_run_as_it_is(tmp_path, uninterrupted):
    with StubServer(answer=reply_to, latency_s=0.005) as stub:
        bench = Bench(tmp_path / "bench", stub)
        bench.finish()
        assert bench.out.read_bytes() == uninterrupted[1]
        bench.kill_at(N_CALLS + N_CALLS // 2, tone="another")
        assert bench.out.read_bytes() == uninterrupted[1]
        assert [p.name for p in bench.folder.glob("*.jsonl")] == ["out.jsonl"]
        rows = bench.finish("another")
    assert rows != uninterrupted[0]
    assert [json.loads(line) for line in bench.out.read_bytes().splitlines()] == rows


@pytest.mark.slow
def test_killed_around_the_writing_of_the_file_leaves_the_old_one_or_the_new_one_whole(tmp_path):
    width = 400_000  # 24 MB in all: writing them takes a while
    outcomes = set()
    with StubServer(answer=reply_to) as stub:
        bench = Bench(tmp_path / "bench", stub)
        bench.finish("zero", width)

        def look() -> tuple[Any, ...]:
            files = sorted(f.name for f in bench.folder.iterdir() if f.is_file())
            return files, bench.stamp()

        for i, delay_s in enumerate([0.0, 0.004, 0.016, None], start=1):
            before, stamp, seen = bench.out.read_bytes(), bench.stamp(), look()
            child = bench.start(f"tone{i}", width)
            while look() == seen if delay_s is not None else bench.stamp() == stamp:
                assert child.poll() is None, child.stderr.read()
            time.sleep(delay_s or 0.0)
            child.kill()
            child.communicate(timeout=10)
            after = bench.out.read_bytes()
            outcomes.add(after != before)
            if after != before:
                lines = [json.loads(line) for line in after.splitlines()]
                assert len(lines) == N_RECORDS and after.endswith(b"\n")
                assert all(r["question"].split()[2] == f"tone{i}" for r in lines)
            bench.finish(f"tone{i}", width)
    assert outcomes == {True, False}, "the kills were all too early, or all too late"


def test_killed_while_the_memo_cannot_commit_pays_no_more_twice_than_was_in_flight(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.01) as stub:
        bench = Bench(tmp_path / "bench", stub)
        bench.kill_at(IN_FLIGHT)  # the memo's file exists
        before = bench.settle()
        with closing(sqlite3.connect(bench.home / "memo" / "cache.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            child = bench.start()
            end = time.monotonic() + 30
            while stub.n_requests == before and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(0.5)  # fifty times the latency of a call
            child.kill()
            child.communicate(timeout=10)
            other.rollback()
        held = bench.settle()
        assert held > before, "the run reads the memo while another process holds the lock"
        bench.finish()
        asked = prompts(stub)
    again = set(asked[before:held]) & set(asked[held:])
    assert len(again) <= IN_FLIGHT
