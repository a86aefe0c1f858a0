"""Random pipelines are run, cut off, damaged, edited and resumed: always as one straight run."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import datafast_nb as dfn
from datafast_nb.engine.changes import entries_of
from datafast_nb.errors import (
    BudgetExceededError,
    CheckpointError,
    PipelineChangedError,
    RunInterrupted,
)
from datafast_nb.store.memo import open_memo
from properties import small_pipelines as small
from properties.scale import FAST_DISK, many

STEPS = st.lists(
    st.tuples(st.sampled_from(small.KINDS), st.integers(0, 3), st.just(0)), min_size=2, max_size=6
).filter(lambda steps: any(kind == "ask" for kind, _, _ in steps))
ORDERS = st.sampled_from(["steps", "records"])
DAMAGE = ("cut", "flip", "zero", "drop", "double", "append", "remove")
# What runs leave and resumed ones do not read.
UNREAD = (".partial.jsonl", ".progress.json", ".lock", ".damaged")


class Straight:
    """What an uninterrupted run in a fresh memo gives, for each pipeline that was asked for."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, bytes, Counter[str]]] = {}

    def of(self, spec: small.Spec, n_rows: int) -> tuple[str, bytes, Counter[str]]:
        """Its story, the bytes of its file, and how often it paid for each prompt."""
        name = repr((spec, n_rows))
        if name not in self.known:
            with tempfile.TemporaryDirectory(dir=FAST_DISK) as folder:
                former, dfn.options.home = dfn.options.home, Path(folder) / "home"
                try:
                    result = small.run(spec, n_rows, Path(folder), in_flight=2, order="steps")
                    told = small.story(result)
                finally:
                    open_memo().close()
                    dfn.options.home = former
                paid = small.Log(Path(folder) / "asked.jsonl").counts()
                self.known[name] = told, written(Path(folder)), paid
        return self.known[name]


def written(folder: Path) -> bytes:
    out = folder / "out.jsonl"
    return out.read_bytes() if out.exists() else b"(none)"


class Failpoint:
    """Ends the run at the n-th touch of the disk, as a kill there would."""

    NAMES = ("fsync", "replace", "unlink")

    def __init__(self, n: int) -> None:
        self.left = n

    def __enter__(self) -> None:
        self._real = {name: getattr(os, name) for name in self.NAMES}
        for name, real in self._real.items():
            setattr(os, name, self._dying(real))

    def _dying(self, real: Any) -> Any:
        def call(*args: Any, **kw: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise small.Died
            return real(*args, **kw)

        return call

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)


def stop_at(n: int) -> Any:
    """A listener that interrupts the run at its n-th event."""
    left = [n]

    def listen(event: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return listen


class Machine(RuleBasedStateMachine):
    """One checkpoint directory and one memo, against straight runs in fresh ones."""

    @initialize(spec=STEPS, n_rows=st.integers(2, 9) | st.integers(0, 1))
    def begin(self, spec: small.Spec, n_rows: int) -> None:
        self.temp = tempfile.TemporaryDirectory(dir=FAST_DISK)
        self.folder = Path(self.temp.name)
        self.ck = self.folder / "ck"
        self.former_home = dfn.options.home
        dfn.options.home = self.folder / "home"
        self.straight = Straight()
        self.log = small.Log(self.folder / "asked.jsonl")
        self.spec, self.n_rows = spec, n_rows
        self.seen: list[small.Spec] = []
        self.of_hash: dict[str, small.Spec] = {}
        self.written: small.Spec | None = None
        """The pipeline that the manifest is of; None: there is no manifest."""
        self.damaged: set[str] = set()
        self.harm: dict[str, bytes | None] = {}
        """What the damaged files held then; None: removed."""
        self.may_lose = 0

    def run(self, resume: bool, in_flight: int, **how: Any) -> dfn.Result | None:
        """Run as it stands; None where the checkpoint was refused, as it should be."""
        spec = list(self.spec)
        if spec not in self.seen:
            self.seen.append(spec)
            pipeline = small.build(spec, self.n_rows, self.folder, dfn.FakeModel(), small.Fuse())
            self.of_hash[entries_of(pipeline.compile())[-1].fingerprint] = spec
        before = self.log.counts()
        try:
            return small.run(
                spec, self.n_rows, self.folder, in_flight=in_flight, resume=resume, **how
            )
        except PipelineChangedError as exc:
            assert resume and self.written is not None
            changed = [i for i, (a, b) in enumerate(zip(self.written, spec, strict=True)) if a != b]
            assert changed, "the pipeline is the one of the checkpoint"
            assert exc.step == f"s{changed[0] + 1}" and exc.changes
            assert f"'{exc.step}'" in str(exc)
        except CheckpointError as exc:
            path = Path(exc.path)
            assert path.parent == self.ck and path.name in self.damaged, exc
            assert path.name in str(exc)
        assert self.log.counts() == before, "asked although it was refused"
        return None

    def look(self) -> None:
        """Learn of which pipeline the manifest is now."""
        path = self.ck / "manifest.json"
        if not path.exists():
            self.written = None
        elif "manifest.json" not in self.damaged:
            self.written = self.of_hash[json.loads(path.read_bytes())["pipeline_hash"]]

    def check(self, result: dfn.Result) -> None:
        told, content, _ = self.straight.of(self.spec, self.n_rows)
        assert small.story(result) == told
        if result.status == "complete":
            assert written(self.folder) == content
        left = [p.name for p in self.ck.iterdir() if "tmp" in p.name or "partial" in p.name]
        assert not left or result.status != "complete", left
        self.damaged = set()
        self.look()

    @rule(
        resume=st.booleans(),
        in_flight=st.integers(1, 4),
        way=st.sampled_from(["event", "function", "disk", "calls", "calls"]),
        n=st.integers(1, 8) | st.integers(1, 40),
        order=ORDERS,
    )
    def kill(self, resume: bool, in_flight: int, way: str, n: int, order: str) -> None:
        how: dict[str, Any] = {"order": order}
        fuse = small.Fuse(n if way == "function" else None)
        if way == "event":
            how["on_event"] = stop_at(n)
        elif way == "calls":
            how["max_calls"] = n
        result = None
        try:
            with Failpoint(n if way == "disk" else -1):
                result = self.run(resume, in_flight, fuse=fuse, **how)
        except (small.Died, RunInterrupted, KeyboardInterrupt):
            self.may_lose += in_flight
        except BudgetExceededError:
            pass  # nothing is in flight then
        if result is not None:
            self.check(result)
        elif not self.is_refused():
            # The run went on at least to where the directory is taken: what was damaged was read,
            # and repaired, or has been removed.
            self.damaged &= {p.name for p in self.ck.iterdir()} if self.ck.exists() else set()
        # What a run has written anew is not damaged any more, whatever became of that run.
        self.damaged = {n for n in self.damaged if self.bytes_of(n) in (self.harm[n], None)}
        self.look()

    def bytes_of(self, name: str) -> bytes | None:
        path = self.ck / name
        return path.read_bytes() if path.exists() else None

    def is_refused(self) -> bool:
        return bool(self.damaged) or self.written is None

    @rule(in_flight=st.integers(1, 4), order=ORDERS)
    def resume(self, in_flight: int, order: str) -> None:
        was_edited = self.written is not None and self.written != list(self.spec)
        was_damaged = bool(self.damaged)
        result = self.run(True, in_flight, order=order)
        if result is None:
            assert was_edited or was_damaged
            result = self.run(False, in_flight, order=order) if self.can_start_again() else None
        else:
            assert not was_edited, "another pipeline's checkpoint was used"
        if result is not None:
            self.check(result)

    def can_start_again(self) -> bool:
        if not self.ck.joinpath("manifest.json").exists():
            for path in self.ck.glob("step_*"):  # as the error says
                path.unlink()
        return True

    @rule(at=st.integers(0, 5), version=st.integers(0, 2))
    def edit(self, at: int, version: int) -> None:
        at %= len(self.spec)
        kind, k, _ = self.spec[at]
        self.spec = [*self.spec[:at], (kind, k, version), *self.spec[at + 1 :]]

    @precondition(lambda self: self.ck.exists())
    @rule(which=st.integers(0, 30), how=st.sampled_from(DAMAGE), at=st.floats(0, 1))
    def corrupt(self, which: int, how: str, at: float) -> None:
        files = [
            p
            for p in sorted(self.ck.iterdir())
            if not any(word in p.name for word in UNREAD) and p.stat().st_size
        ]
        if not files:
            return
        path = files[which % len(files)]
        before = path.read_bytes()
        spot = int(at * (len(before) - 1))
        lines = before.splitlines(keepends=True)
        line = spot % len(lines)
        if how == "remove":
            path.unlink()
        else:
            path.write_bytes(
                {
                    "cut": before[:spot],
                    "flip": before[:spot] + bytes([before[spot] ^ 4]) + before[spot + 1 :],
                    "zero": before[:spot] + bytes(len(before) - spot),
                    "drop": b"".join(lines[:line] + lines[line + 1 :]),
                    "double": b"".join(lines[: line + 1] + lines[line:]),
                    "append": before + before[:spot],
                }[how]
            )
        self.damaged.add(path.name)
        self.harm[path.name] = self.bytes_of(path.name)

    @invariant()
    def little_is_paid_twice(self) -> None:
        if not hasattr(self, "log"):
            return
        ideal: Counter[str] = Counter()
        for spec in self.seen:
            ideal |= self.straight.of(spec, self.n_rows)[2]
        twice = self.log.counts() - ideal
        assert twice.total() <= self.may_lose, twice

    def teardown(self) -> None:
        if not hasattr(self, "temp"):
            return
        try:
            self.resume(in_flight=3, order="steps")
        finally:
            dfn.memo.close()
            dfn.options.home = self.former_home
            self.temp.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=many(35, 1_000), stateful_step_count=many(8, 20), deadline=None
)


SWEPT: small.Spec = [("fan", 0, 0), ("ask", 1, 0), ("filter", 1, 0), ("sink", 0, 0), ("ask", 0, 0)]


@pytest.mark.parametrize("order", ["steps", "records"])
def test_a_run_that_ends_at_any_touch_of_the_disk_leaves_the_directory_free(order: str) -> None:
    told, content, paid = Straight().of(SWEPT, 4)
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        dfn.options.home = Path(name) / "home"
        died = n = 0
        while died == n:
            n += 1
            folder = Path(name) / str(n)
            folder.mkdir()
            try:
                with Failpoint(n):
                    small.run(SWEPT, 4, folder, in_flight=2, order=order)
            except small.Died:
                died += 1
            result = small.run(SWEPT, 4, folder, in_flight=2, order=order, resume=True)
            assert small.story(result) == told and written(folder) == content
            left = [p.name for p in (folder / "ck").iterdir()]
            assert not [n for n in left if "tmp" in n or "lock" in n], (n, left)
        assert died > 30
        logs = [small.Log(Path(name) / str(i) / "asked.jsonl").counts() for i in range(1, n + 1)]
        assert (sum(logs, Counter()) - paid).total() <= 2 * died, "one memo for all"
        dfn.memo.close()
