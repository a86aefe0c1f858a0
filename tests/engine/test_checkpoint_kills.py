"""Runs with a checkpoint that are killed: resumed, they give what a straight run gives.

Kills at random are in tests/reliability; here they are at chosen places.
"""

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import pytest
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.errors import CheckpointError

N = 12
IN_FLIGHT = 4
N_CALLS = 2 * N + N
STRIDE = 7
"""Every so many touches of the disk; odd, so that both sides of a touch come up."""

# One process imports the package; each life is a fork of it, so that a kill costs little time.
NURSERY = f"""
import json, os, signal, sys
import datafast_nb as dfn
import aiohttp, orjson, diskcache, sqlite3, pandas
import datafast_nb.engine.runner, datafast_nb.models.remote, datafast_nb.store.memo

def fatal(names, n):
    # kill -9 at the n-th of these calls, before or after it is done
    left = [n]
    for name in names:
        real = getattr(os, name)
        def call(*args, real=real, **kw):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*args, **kw)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        setattr(os, name, call)

def live(url, folder, die_at, names):
    dfn.options.home = folder + "/home"
    model = dfn.OpenAICompatibleModel("stub", url)
    pipeline = (
        dfn.Source.list([{{"id": i, "text": f"fact {{i}}"}} for i in range({N})]).as_step("load")
        >> dfn.LLMStep("ask {{text}}", output_columns=["q"], model=model, num_outputs=2).as_step("ask")
        >> dfn.Filter(fn=lambda r: r["_output_index"] == 0).as_step("first")
        >> dfn.LLMStep("again {{q}}", output_columns=["a"], model=model).as_step("again")
        >> dfn.Map(lambda r: {{**r, "n": len(r["a"])}}).as_step("count")
        >> dfn.Sink.jsonl(folder + "/out.jsonl")
    )
    if die_at:
        fatal(names, die_at)
    result = pipeline.run(
        checkpoint_dir=folder + "/ck", resume=True, max_concurrent={IN_FLIGHT}, show_progress=False
    )
    lineage = [(c.key, c.label, c.values) for c in result.call_rows]
    rows = [list(r.items()) for r in result]
    with open(folder + "/result.json", "w") as file:
        json.dump([rows, lineage, result.info.row_ids, [list(s.parents.all()) for s in result.info.steps]], file)

while line := sys.stdin.readline():
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            live(*order)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    print(pid, flush=True)
    sys.stdin.readline()  # until then its id stays its own, also when it has ended
    print(os.waitpid(pid, 0)[1], flush=True)
"""
DISK = ["fsync", "replace", "unlink"]


def reply_to(number, body):
    prompt = body["messages"][-1]["content"]
    return f"re {blake2b(prompt.encode(), digest_size=4).hexdigest()} {prompt}"


class Nursery:
    """Starts lives of the script and says how each ended."""

    def __init__(self, url):
        self.url = url
        self.child = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        )

    def start(self, folder, die_at=0, names=DISK):
        self.child.stdin.write(json.dumps([self.url, str(folder), die_at, names]) + "\n")
        self.child.stdin.flush()
        pid = int(self.child.stdout.readline())
        assert pid > 1, "the nursery answers out of turn"
        return pid

    def wait(self):
        """Wait status of the life: 0, or the signal that killed it."""
        self.child.stdin.write("wait\n")
        self.child.stdin.flush()
        return int(self.child.stdout.readline())

    def close(self):
        self.child.stdin.close()
        self.child.wait(10)
        self.child.stdout.close()


@pytest.fixture(scope="module")
def stub():
    with StubServer(answer=reply_to, latency_s=0.004) as server:
        yield server


@pytest.fixture
def nursery(stub):
    made = Nursery(stub.url)
    yield made
    made.close()


def settle(stub):
    time.sleep(0.02)
    while stub.in_flight:
        time.sleep(0.002)
    return stub.n_requests


def outcome(folder):
    return (folder / "result.json").read_bytes(), (folder / "out.jsonl").read_bytes()


@pytest.fixture
def straight(stub, nursery, tmp_path_factory):
    """What a life that nobody disturbed leaves."""
    folder = tmp_path_factory.mktemp("straight")
    before = stub.n_requests
    nursery.start(folder)
    assert nursery.wait() == 0
    assert settle(stub) - before == N_CALLS
    return outcome(folder)


@pytest.mark.slow
def test_killed_before_and_after_syncs_renames_and_removals(stub, nursery, straight, tmp_path):
    """Through a whole run: between step file, trail and manifest too."""
    touch = 0
    while True:
        touch += STRIDE
        folder = tmp_path / str(touch)
        folder.mkdir()
        nursery.start(folder, touch)
        if nursery.wait() == 0:
            break
        nursery.start(folder)
        assert nursery.wait() == 0
        assert outcome(folder) == straight, f"killed at touch {touch}"
    assert touch > 40


def test_second_process_is_refused_with_the_first_one_s_id(stub, nursery, tmp_path, capfd):
    pid = nursery.start(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    try:
        lock = tmp_path / "ck" / "checkpoint.lock"
        end = time.monotonic() + 20
        while not (lock.exists() and lock.read_bytes()) and time.monotonic() < end:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.002)
            os.kill(pid, signal.SIGSTOP)
        dfn.options.home = tmp_path / "other"
        pipe = dfn.Pipeline([dfn.Source.list([{"a": 1}])])
        with pytest.raises(CheckpointError, match=f"in use by process {pid} on"):
            pipe.run(checkpoint_dir=tmp_path / "ck")
    finally:
        os.kill(pid, signal.SIGKILL)
        assert nursery.wait() == signal.SIGKILL
    result = pipe.run(checkpoint_dir=tmp_path / "ck")
    assert len(result) == 1
    assert any(f"taken over from process {pid}" in note for note in result.info.notes)


FULL = """
import json, resource, signal, sys
import datafast_nb as dfn
folder, limit = sys.argv[1], int(sys.argv[2])
dfn.options.home = folder + "/home"
model = dfn.FakeModel(lambda request: "re " + request.messages[-1]["content"][:20])
wide = {"pad": "x" * 100_000}
pipeline = (
    dfn.Source.list([{"id": i, "text": f"fact {i}"} for i in range(40)]).as_step("load")
    >> dfn.LLMStep("ask {text}", output_columns=["q"], model=model).as_step("ask")
    >> dfn.Map(lambda r: {**r, **wide}).as_step("widen")
    >> dfn.LLMStep("again {q}", output_columns=["a"], model=model).as_step("again")
)
dfn.memo.info()
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    result = pipeline.run(checkpoint_dir=folder + "/ck", resume=True, order="steps")
    print(json.dumps({"calls": model.calls, "rows": len(result)}))
except dfn.DatafastError as exc:
    print(json.dumps({"calls": model.calls, "error": type(exc).__name__, "said": str(exc)}))
"""


def full(folder: Path, limit: int):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_full_disk_names_the_file_leaves_none_half_and_resumes_for_nothing(tmp_path):
    # Room for the memo, whose log grows by its commits, and not for 40 records of 100 KB.
    told = full(tmp_path, 3_000_000)
    assert told["error"] == "CheckpointError", told
    assert "step_003_widen.jsonl" in told["said"] and "bytes" in told["said"]
    assert "resume=True" in told["said"]
    assert told["calls"] == 40, "no call after the file that could not be written"
    names = sorted(p.name for p in (tmp_path / "ck").iterdir())
    assert names == [
        "manifest.json",
        "step_001_load.jsonl",
        "step_001_load.trail.jsonl",
        "step_002_ask.jsonl",
        "step_002_ask.trail.jsonl",
    ]
    assert full(tmp_path, 0) == {"calls": 40, "rows": 40}


@pytest.mark.parametrize("limit", [1, 400, 1_500])
def test_full_disk_from_the_start_is_told_before_the_first_call(tmp_path, limit):
    told = full(tmp_path, limit)
    assert told["calls"] == 0 and told["error"] == "CheckpointError", told
    assert str(tmp_path / "ck") in told["said"]
    assert [p.name for p in (tmp_path / "ck").iterdir() if p.suffix in (".tmp", ".jsonl")] == []
    assert full(tmp_path, 0) == {"calls": 80, "rows": 40}
