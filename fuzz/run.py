"""A target is fuzzed in a process of its own, so that a crash or a hang is a finding too."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from fuzz.mutate import Mutator
from fuzz.rules import FINDINGS, HERE, Target, findings_of, judge, keep_finding

NAMES = ("template", "reply", "jsonl", "manifest")
HANG_S = 30.0
"""Without a new input for so long the process hangs."""
MAX_PROCESS_BYTES = 4_000_000_000
MAX_FINDINGS = 20


@dataclass
class Report:
    """What came of fuzzing one target."""

    name: str
    n_inputs: int = 0
    seconds: float = 0.0
    n_ways: int = 0
    """Different outcomes seen."""
    findings: dict[str, str] = field(default_factory=dict)
    """Broken rule, and the file that breaks it."""

    def line(self) -> str:
        """For people."""
        rate = self.n_inputs / self.seconds if self.seconds else 0.0
        head = (
            f"{self.name:9} {self.n_inputs:>9,} inputs  {rate:>7,.0f}/s  "
            f"{self.n_ways:>5,} ways  {len(self.findings)} findings"
        )
        return "\n".join([head, *(f"  {rule}\n    {path}" for rule, path in self.findings.items())])


def load_target(name: str) -> Target:
    """The target of that name."""
    module = import_module(f"fuzz.{name}")
    made: Target = module.TARGET if hasattr(module, "TARGET") else module.target()
    return made


def fuzz(name: str, seconds: float, seed: int, folder: Path = FINDINGS) -> Report:
    """Fuzz one target in a child process; findings are written into `folder`."""
    with tempfile.TemporaryDirectory() as scratch:
        current = Path(scratch) / "current"
        told = Path(scratch) / "told"
        current.write_bytes(b"")
        child = subprocess.Popen(
            [sys.executable, "-m", "fuzz.run", name, str(seconds), str(seed), scratch, str(folder)],
            cwd=HERE.parent,
            stdout=subprocess.DEVNULL,
        )
        hung = _watch(child, told, seconds)
        report = Report(name)
        if told.exists():
            report = Report(**json.loads(told.read_text()))
        if hung or child.returncode != 0:
            rule = "hangs" if hung else f"the process ended with {child.returncode}"
            report.findings[rule] = str(keep_finding(name, current.read_bytes(), folder))
        return report


def _watch(child: subprocess.Popen[bytes], told: Path, seconds: float) -> bool:
    """Wait for the end; True where it had to be brought about."""
    until = time.monotonic() + seconds + HANG_S
    while child.poll() is None:
        if time.monotonic() > until:
            child.kill()
            child.wait()
            return True
        time.sleep(0.05)
    return False


def _work(name: str, seconds: float, seed: int, scratch: Path, folder: Path) -> None:
    target = load_target(name)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_PROCESS_BYTES, resource.RLIM_INFINITY))
    # Seconds of this process: a busy machine is no slow parser.
    mutator = Mutator(random.Random(f"{name} {seed}"), target.seeds, target.words)
    report = Report(name)
    ways: set[str] = set()
    places: set[str] = set()
    began = time.monotonic()
    start = [*target.seeds, *findings_of(name)]
    with open(scratch / "current", "r+b", buffering=0) as current:
        while time.monotonic() - began < seconds and len(report.findings) < MAX_FINDINGS:
            data = start.pop() if start else mutator.make()
            os.pwrite(current.fileno(), data, 0)
            os.ftruncate(current.fileno(), len(data))
            way, broken = judge(target, data)
            report.n_inputs += 1
            place = broken.partition(":")[0] if " at " not in broken else broken.partition(": ")[0]
            if broken and place not in places:
                places.add(place)
                report.findings[broken] = str(keep_finding(name, data, folder))
            elif not broken and way not in ways:
                ways.add(way)
                mutator.keep(data)
    report.seconds, report.n_ways = time.monotonic() - began, len(ways)
    (scratch / "told").write_text(json.dumps(vars(report)))


if __name__ == "__main__":
    _work(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
