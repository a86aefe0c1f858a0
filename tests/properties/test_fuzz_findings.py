"""What fuzzing found stays mended, and each target is fuzzed for a second."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from properties.scale import many

sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz import rules, run
from fuzz.mutate import MAX_BYTES, Mutator


@pytest.fixture(scope="module", params=run.NAMES)
def target(request: pytest.FixtureRequest) -> rules.Target:
    return run.load_target(request.param)


def test_seeds_and_findings_keep_to_the_rules(target: rules.Target) -> None:
    for data in [*target.seeds, *rules.findings_of(target.name)]:
        _, broken = rules.judge(target, data)
        assert not broken, (broken, data[:200])


@pytest.mark.parametrize("name", run.NAMES)
def test_a_second_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    report = run.fuzz(name, many(1, 60), seed=11, folder=tmp_path)
    assert not report.findings, report.line()
    assert report.n_inputs >= 10 and report.n_ways >= 5


# The fuzzer itself: it must see what it looks for.


def broken_target(check: Any) -> rules.Target:
    return rules.Target("planted", (b"seed",), (), check)


def test_what_breaks_a_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_S", 0.2)

    def raising(data: bytes) -> str:
        raise KeyError("planted")

    def busy(data: bytes) -> str:
        while time.process_time() < end:
            pass
        return "done"

    assert rules.judge(broken_target(lambda data: "fine"), b"x") == ("fine", "")
    assert rules.judge(broken_target(raising), b"x")[1].startswith("KeyError at test_fuzz_findings")
    end = time.process_time() + rules.MAX_S + 0.1
    assert "took 0." in rules.judge(broken_target(busy), b"x")[1]


def test_a_process_that_hangs_or_dies_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "sitecustomize.py"
    planted.write_text("import sys\nif 'template' in sys.orig_argv:\n import os\n os._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = run.fuzz("template", 1, seed=1, folder=tmp_path / "findings")
    assert list(report.findings) == ["the process ended with 7"]
    planted.write_text("import sys, time\nif 'template' in sys.orig_argv: time.sleep(60)\n")
    monkeypatch.setattr(run, "HANG_S", 0.5)
    report = run.fuzz("template", 0.1, seed=1, folder=tmp_path / "findings")
    assert list(report.findings) == ["hangs"]
    assert len(list((tmp_path / "findings" / "template").glob("*.bin"))) == 1


def test_mutations_are_bounded_and_varied() -> None:
    mutator = Mutator(random.Random(3), [b'{"a": [1, 2]}', b"plain"], [b"WORD"])
    made = [mutator.make() for _ in range(3_000)]
    assert max(map(len, made)) <= MAX_BYTES and len(set(made)) > 1_500
    for sign in (b"WORD", b"[" * 900, b"7" * 5_000, b"\xed\xa0\x80"):
        assert any(sign in data for data in made), sign
