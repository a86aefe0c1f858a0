"""The files of a checkpoint: exact values, damage found with its place, one owner at a time."""

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.errors import CheckpointError, RecordError
from datafast_nb.store.locks import LOCK_NAME, FolderLock
from datafast_nb.store.manifest import load_manifest
from datafast_nb.store.stepfile import read_step
from datafast_nb.store.typed_json import decode, encode

# Typed JSON.

ZONES = st.sampled_from(
    [
        None,
        dt.UTC,
        dt.timezone(dt.timedelta(hours=-3, minutes=-30)),
        dt.timezone(dt.timedelta(hours=1), "MEZ"),
        ZoneInfo("Europe/Paris"),
        ZoneInfo("UTC"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**70)
    | st.floats()
    | st.text(st.characters(codec=None))  # halves of surrogate pairs too
    | st.binary()
    | st.decimals()
    | st.dates()
    | st.builds(lambda t, fold: t.replace(fold=fold), st.times(), st.sampled_from([0, 1]))
    | st.builds(
        lambda t, zone, fold: t.replace(tzinfo=zone, fold=fold),
        st.datetimes(),
        ZONES,
        st.sampled_from([0, 1]),
    )
)
KEYS = st.text(max_size=8) | st.sampled_from(["$int", "$dict", "$datetime", "$bytes", "$"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3)
)


def same(a, b):
    """Equal in type and value, NaN and -0.0, time zones and the order of keys included."""
    if type(a) is not type(b):
        return False
    if type(a) is dict:
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if type(a) is list:
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (dt.datetime, dt.time)):
        zones = [a.tzinfo, b.tzinfo]
        names = [z and (type(z), str(z), getattr(z, "key", None)) for z in zones]
        return (
            a.replace(tzinfo=None) == b.replace(tzinfo=None)
            and a.fold == b.fold
            and names[0] == names[1]
        )
    return repr(a) == repr(b)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_record_comes_back_as_it_was(record):
    line = encode(record)
    assert b"\n" not in line
    assert same(decode(line), record)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (dt.datetime(2024, 1, 1, tzinfo=type("Own", (dt.tzinfo,), {})()), "time zone of the class"),
        (type("Stamp", (dt.datetime,), {})(2024, 1, 1), "Stamp"),
        ([[type("Money", (Decimal,), {})(1)]], "Money"),
        (10**5000, "digits"),
    ],
    ids=["foreign zone", "datetime subclass", "Decimal subclass", "long integer"],
)
def test_value_that_cannot_come_back_is_refused_with_its_place(value, said):
    with pytest.raises(RecordError, match=r"row 7, column 'x'.*" + said):
        encode({"a": 1, "x": value}, "row {}".format, 7)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_line_is_read_or_a_value_error(line):
    with contextlib.suppress(ValueError):
        assert type(decode(line)) is dict


# Damage.

N = 40


class Pipe:
    """A pipeline of five steps, its checkpoint, and what it makes."""

    def __init__(self, folder):
        self.ck = folder / "ck"
        self.out = folder / "out.jsonl"
        self.model = dfn.FakeModel()
        self.records = [
            {"id": i, "text": f"fact {i}", "at": dt.datetime(2024, 1, 1 + i % 28, tzinfo=dt.UTC)}
            for i in range(N)
        ]

    def build(self):
        return (
            dfn.Source.list(self.records).as_step("load")
            >> dfn.Filter(fn=lambda r: r["id"] % 4 > 0).as_step("some")
            >> dfn.LLMStep("ask {text}", output_columns=["q"], model=self.model, num_outputs=2)
            .as_step("ask")
            >> dfn.Map(lambda r: {**r, "n": len(r["q"])}).as_step("count")
            >> dfn.Sink.jsonl(self.out)
        )  # fmt: skip

    def run(self, **settings):
        return self.build().run(checkpoint_dir=self.ck, show_progress=False, **settings)

    def outcome(self):
        """Rows, file, lineage and bill of a resumed run, as text; or the refusal."""
        try:
            result = self.run(resume=True)
        except (CheckpointError, dfn.PipelineChangedError) as exc:
            return exc
        way = [(c.key, c.label, c.status, c.values) for c in result.call_rows]
        why = result.why(3, "q")
        parents = [list(s.parents.all()) for s in result.info.steps]
        ids = result.info.row_ids
        return repr((list(result), self.out.read_bytes(), way, why.reply, parents, ids))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished checkpoint: the pipe, its straight outcome, a pristine copy."""
    folder = tmp_path_factory.mktemp("made")
    old = dfn.options.home
    dfn.options.home = folder / "home"
    pipe = Pipe(folder)
    pipe.run()
    copy = folder / "copy"
    shutil.copytree(pipe.ck, copy)
    outcome = pipe.outcome()
    assert isinstance(outcome, str)
    dfn.options.home = old
    return pipe, outcome, copy, folder / "home"


@pytest.fixture
def pipe(made):
    pipe, _, copy, home = made
    dfn.options.home = home
    shutil.rmtree(pipe.ck)
    shutil.copytree(copy, pipe.ck)
    return pipe


def lines_of(data):
    return data.splitlines(keepends=True)


def change(path, edit):
    path.write_bytes(edit(path.read_bytes()))


STEP = "step_003_ask.jsonl"


def cut_line(data, more=0):
    """Without the line in the middle, or with it twice."""
    lines = lines_of(data)
    half = len(lines) // 2
    return b"".join(lines[: half + more] + lines[half + 1 - (more > 0) :])


def swap_lines(data):
    lines = lines_of(data)
    half = len(lines) // 2
    lines[half - 1], lines[half] = lines[half], lines[half - 1]
    return b"".join(lines)


DAMAGE = {
    "torn tail": lambda b: b[:-30],
    "last line lost": lambda b: b"".join(lines_of(b)[:-1]),
    "garbage in the middle": lambda b: b[:1500] + b"\xff\x00{]" + b[1504:],
    "line in the middle lost": cut_line,
    "line doubled": lambda b: cut_line(b, more=1),
    "two lines changed places": swap_lines,
    "one letter": lambda b: b.replace(b"fact 7", b"fact 8", 1),
    "NUL tail in place of content": lambda b: b[:-200] + b"\0" * 200,
    "all NUL": lambda b: b"\0" * len(b),
    "empty": lambda b: b"",
    "another's file": lambda b: b'{"a": 1}\n' * 60,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", [STEP, "step_003_ask.trail.jsonl", "step_001_load.jsonl"])
def test_damaged_step_file_is_refused_with_file_and_remedy(pipe, made, kind, name):
    before = (pipe.ck / name).read_bytes()
    change(pipe.ck / name, DAMAGE[kind])
    assert (pipe.ck / name).read_bytes() != before
    calls = pipe.model.calls
    error = pipe.outcome()
    assert isinstance(error, CheckpointError)
    assert error.path == str(pipe.ck / name) and error.path in str(error)
    assert "resume_from=" in str(error) or "resume=False" in str(error)
    assert pipe.model.calls == calls
    if name == STEP and kind not in ("empty", "last line lost"):
        assert f"{STEP}, line " in str(error)
    # The remedy that it names works, and pays nothing.
    first = {STEP: "ask", "step_003_ask.trail.jsonl": "ask"}.get(name)
    again = {"resume_from": first} if first else {}
    assert f"resume_from={first!r}" in str(error) or first is None
    pipe.run(**again)
    assert pipe.outcome() == made[1] and pipe.model.calls == calls


@pytest.mark.parametrize(
    ("what", "line"), [("line in the middle lost", 31), ("one letter", 11), ("line doubled", 32)]
)
def test_error_names_the_first_bad_line(pipe, what, line):
    change(pipe.ck / STEP, DAMAGE[what])
    assert f"{STEP}, line {line} " in str(pipe.outcome())


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (STEP, lambda b: b[:-1]),
        (STEP, lambda b: b + b'{"id": 1, "te'),
        (STEP, lambda b: b + b"\0" * 4096),
        ("step_003_ask.trail.jsonl", lambda b: b + b'["rec'),
        ("step_001_load.trail.jsonl", lambda b: b[:-1]),
    ],
    ids=["no last line end", "torn tail behind the whole", "NUL tail", "trail tail", "trail end"],
)
def test_tail_that_can_be_mended_is_mended_and_told(pipe, made, name, edit):
    whole = (pipe.ck / name).read_bytes()
    change(pipe.ck / name, edit)
    result = pipe.run(resume=True)
    assert any("repaired" in note and name in note for note in result.info.notes)
    assert (pipe.ck / name).read_bytes() == whole
    assert pipe.outcome() == made[1]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda b: b"", "is empty"),
        (lambda b: b"\0" * len(b), "is empty"),
        (lambda b: b[: len(b) // 2], "damaged at line"),
        (lambda b: os.urandom(500), "damaged"),
        (lambda b: b.replace(b'"records":30', b'"records":31'), "checksum"),
        (lambda b: b.replace(b'"version": 1', b'"version": 2'), "newer version"),
        (lambda b: b'{"name": "my tool"}', "not the manifest of a checkpoint"),
        (lambda b: b"[]", "not the manifest of a checkpoint"),
    ],
    ids=["empty", "NUL", "half", "random", "edited", "newer", "foreign", "list"],
)
def test_manifest_that_cannot_be_trusted_is_refused(pipe, edit, said):
    change(pipe.ck / "manifest.json", edit)
    before = sorted(p.name for p in pipe.ck.iterdir())
    error = pipe.outcome()
    assert isinstance(error, CheckpointError) and said in str(error)
    assert str(pipe.ck / "manifest.json") in str(error)
    assert sorted(p.name for p in pipe.ck.iterdir()) == before
    if said in ("newer version", "not the manifest of a checkpoint"):
        with pytest.raises(CheckpointError, match=said):  # never thrown away unasked
            pipe.run()
    else:
        assert pipe.run().status == "complete"


@pytest.mark.parametrize("name", ["manifest.json", STEP, "step_003_ask.trail.jsonl"])
def test_missing_file_is_refused(pipe, name):
    (pipe.ck / name).unlink()
    error = pipe.outcome()
    assert isinstance(error, CheckpointError) and error.path == str(pipe.ck / name)
    assert name in str(error)


def test_step_file_names_from_the_manifest_stay_in_the_directory(pipe):
    from datafast_nb.store import manifest

    body = json.loads((pipe.ck / "manifest.json").read_text())
    body["steps"][0]["file"]["name"] = "../outside.jsonl"
    del body["check"]
    body["check"] = manifest._checksum(body)
    (pipe.ck / "manifest.json").write_text(json.dumps(body))
    assert "no name of a step's file" in str(pipe.outcome())


def content_of(folder):
    """All that a resumed run takes from a checkpoint, as text; or the refusal."""
    try:
        found = load_manifest(folder)
        data = [
            read_step(folder, entry, remedy="-", keep=True, note=lambda text: None)
            for entry in found.steps
        ]
    except CheckpointError as exc:
        return exc
    return repr((found, data))


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_2000_random_byte_flips_are_refused_or_change_nothing(pipe):
    rng = random.Random(7)
    good = content_of(pipe.ck)
    assert isinstance(good, str)
    files = sorted(p for p in pipe.ck.iterdir())
    assert len(files) == 9
    refused = 0
    for i in range(2_000):
        path = files[i % len(files)]
        pristine = path.read_bytes()
        flip(path, rng)
        content = content_of(pipe.ck)
        if isinstance(content, CheckpointError):
            assert str(path) in str(content), "the error names another file"
            refused += 1
        else:
            assert content == good, f"a flip in {path.name} changed what is read"
        path.write_bytes(pristine)
    assert refused > 1_900


def test_runs_after_a_byte_flip_are_refused_or_the_same(pipe, made):
    rng = random.Random(11)
    files = sorted(p for p in pipe.ck.iterdir())
    outcomes = []
    for i in range(90):
        path = files[i % len(files)]
        pristine = path.read_bytes()
        flip(path, rng)
        outcome = pipe.outcome()
        outcomes.append(isinstance(outcome, CheckpointError) or outcome == made[1])
        path.write_bytes(pristine)
    assert all(outcomes)


# The lock.


def test_directory_in_use_is_refused_with_the_owner_s_id(tmp_path):
    lock = FolderLock(tmp_path)
    lock.take()
    try:
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on .*this process"):
            FolderLock(tmp_path).take()
    finally:
        lock.release()
    other = FolderLock(tmp_path)
    other.take()
    assert other.former == ""
    other.release()
    assert list(tmp_path.iterdir()) == []


HOLD = """
import os, sys, time, pathlib
from datafast_nb.store.locks import FolderLock
FolderLock(pathlib.Path(sys.argv[1])).take()
if len(sys.argv) > 2 and os.fork() == 0:
    time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_lock_of_a_living_process_holds_and_of_a_killed_one_is_taken_over(tmp_path, stopped):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        if stopped:
            child.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(CheckpointError, match=f"in use by process {child.pid} on"):
            FolderLock(tmp_path).take()
        assert time.monotonic() - started < 5
    finally:
        child.kill()
        child.communicate(timeout=10)
    lock = FolderLock(tmp_path)
    lock.take()
    assert f"process {child.pid} on" in lock.former
    lock.release()


def test_lock_that_a_child_of_the_dead_owner_holds_is_taken_over(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "fork"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout.readline() == "held\n"
        child.kill()
        child.wait(10)
        lock = FolderLock(tmp_path)
        lock.take()
        lock.release()
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"pid": "x"}', b'{"pid": 99999999999}'])
def test_lock_file_with_anything_in_it_but_no_owner_is_taken(tmp_path, text):
    (tmp_path / LOCK_NAME).write_bytes(text)
    lock = FolderLock(Path(tmp_path))
    lock.take()
    lock.release()
