"""The tables of `docs/reliability.md`: which tests prove which promise and which fault.

`conftest.py` notes the tests that ran, and at the end of a run of the whole suite holds the
tables to it: what a table names must have run.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "reliability.md"
_ROW = re.compile(r"^\| (G?\d+) \|(.+)\|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")


@dataclass(frozen=True)
class Row:
    """A promise ("G1") or a fault ("1")."""

    name: str
    text: str
    tests: tuple[str, ...]

    @property
    def is_left_out(self) -> bool:
        """It says that something is still to come, or not tested."""
        return (
            "**Later:**" in self.text or "**No test**" in self.text or "**No test:**" in self.text
        )


def rows_of(text: str) -> list[Row]:
    """The rows of both tables, in order."""
    return [Row(m[1], m[2], tuple(_TEST.findall(m[2]))) for m in _ROW.finditer(text)]


@cache
def named_tests() -> frozenset[str]:
    """Every test that a table names."""
    return frozenset(test for row in rows_of(DOC.read_text("utf-8")) for test in row.tests)


@cache
def written_in(path: Path) -> frozenset[str]:
    """Names by which pytest knows the tests of a file, without their parameters."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).endswith(".TestCase"):
            found |= {f"{ast.unparse(target)}::runTest" for target in node.targets}
    return frozenset(name for name in found if name.startswith(("test", "Test")))


def unknown(tests: Iterable[str], root: Path = ROOT) -> list[str]:
    """Those of the tests that are not written anywhere."""
    missing = []
    for test in tests:
        place, _, name = test.partition("::")
        if not (root / place).is_file() or name not in written_in(root / place):
            missing.append(test)
    return missing


class Ran:
    """Which tests of a session ran, and which were skipped, without their parameters."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.skipped: set[str] = set()
        self.problems: list[str] = []

    def note(self, node_id: str, when: str, outcome: str) -> None:
        """Take in a report of pytest."""
        name = node_id.partition("[")[0]
        if outcome == "skipped":
            self.skipped.add(name)
        elif when == "call":
            self.ran.add(name)

    def unproven(self, named: Collection[str], *, is_ci: bool) -> list[str]:
        """Named tests that did not run; skipped ones count in continuous integration."""
        said = []
        for test in sorted(named):
            if is_ci and test in self.skipped:
                said.append(f"{test} was skipped")
            elif test not in self.ran | self.skipped:
                said.append(f"{test} did not run")
        return said


def is_whole(config: pytest.Config) -> bool:
    """Whether all tests were asked for: no path, no selection."""
    option = config.option
    chosen = (
        *(option.keyword, option.markexpr, option.collectonly, getattr(option, "lf", False)),
        *(option.deselect, option.ignore, option.ignore_glob, option.maxfail),
        getattr(option, "stepwise", False),
    )
    source = config.args_source
    return not any(chosen) and source is pytest.Config.ArgsSource.TESTPATHS


def in_ci() -> bool:
    """Whether nothing may be skipped for a missing tool."""
    return bool(os.environ.get("CI"))
