"""`docs/reliability.md` is complete, and names tests that exist and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reliability_doc import DOC, ROOT, Ran, named_tests, rows_of, unknown

TEXT = DOC.read_text("utf-8")
ROWS = rows_of(TEXT)


def test_every_promise_and_every_fault_has_one_row_in_order():
    promises = [row.name for row in ROWS if row.name.startswith("G")]
    faults = [row.name for row in ROWS if not row.name.startswith("G")]
    assert promises == [f"G{n}" for n in range(1, 23)]
    assert faults == [str(n) for n in range(1, 63)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_tests_that_exist_or_says_what_is_left_out(row):
    assert row.tests or row.is_left_out
    assert unknown(row.tests) == []
    assert len(set(row.tests)) == len(row.tests)


def test_all_that_looks_like_a_test_is_read_as_one():
    assert set(re.findall(r"tests/[\w/]+\.py::[\w:]+", TEXT)) == named_tests()
    assert len(named_tests()) > 120


def test_few_rows_are_left_out():
    assert {row.name for row in ROWS if not row.tests} == {"G17", "57", "61"}


def test_what_is_not_promised_is_said():
    assert "## What is not promised" in TEXT and "macOS" in TEXT


@pytest.mark.parametrize(
    ("test", "is_known"),
    [
        ("tests/test_reliability_doc.py::test_few_rows_are_left_out", True),
        ("tests/properties/test_machine.py::TestMachine::runTest", True),
        ("tests/test_reliability_doc.py::test_nothing", False),
        ("tests/test_reliability_doc.py::ROWS", False),
        ("tests/test_nowhere.py::test_few_rows_are_left_out", False),
    ],
)
def test_tests_are_looked_up_where_they_are_written(test, is_known):
    assert unknown([test]) == ([] if is_known else [test])


def test_rows_are_found_in_a_table():
    text = "| | a |\n|---|---|\n| G3 | x `tests/a.py::test_b`<br>`tests/c.py::T::runTest` |\n| 4 | – |\n"
    three, four = rows_of(text)
    assert (three.name, three.tests) == ("G3", ("tests/a.py::test_b", "tests/c.py::T::runTest"))
    assert (four.name, four.tests, four.is_left_out) == ("4", (), False)


@pytest.mark.parametrize("is_ci", [False, True])
def test_a_named_test_must_have_run(is_ci):
    ran = Ran()
    ran.note("t.py::test_a[1]", "setup", "passed")
    ran.note("t.py::test_a[1]", "call", "failed")
    ran.note("t.py::test_b", "setup", "skipped")
    ran.note("t.py::test_c", "setup", "failed")
    named = {"t.py::test_a", "t.py::test_b", "t.py::test_c", "t.py::test_d"}
    skipped = ["t.py::test_b was skipped"] if is_ci else []
    late = ["t.py::test_c did not run", "t.py::test_d did not run"]
    assert ran.unproven(named, is_ci=is_ci) == skipped + late


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A small project with our check, whose table names one test that is there and one that is skipped."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "docs" / "reliability.md").write_text(
        "| G1 | `tests/test_x.py::test_here`<br>`tests/test_x.py::test_tool` |\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    for name in ("reliability_doc.py", "reliability_hooks.py"):
        source = (ROOT / "tests" / name).read_text("utf-8")
        (tmp_path / "tests" / name).write_text(source, encoding="utf-8")
    (tmp_path / "tests" / "conftest.py").write_text("from reliability_hooks import *\n")
    (tmp_path / "tests" / "test_x.py").write_text(
        "import pytest\ndef test_here(): pass\n"
        "@pytest.mark.skip(reason='no tool')\ndef test_tool(): pass\n"
    )
    return tmp_path


def outcome(folder: Path, *args: str, ci: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=folder,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_whole_suite_fails_if_a_named_test_is_skipped_in_continuous_integration(suite):
    assert outcome(suite)[0] == 0
    status, said = outcome(suite, ci="true")
    assert status == 1 and "test_tool was skipped" in said


def test_the_whole_suite_fails_if_a_named_test_is_gone_and_a_part_of_it_does_not(suite):
    (suite / "tests" / "test_x.py").write_text("def test_other(): pass\ndef test_tool(): pass\n")
    status, said = outcome(suite)
    assert status == 1 and "test_here did not run" in said
    assert outcome(suite, "-k", "test_")[0] == 0
    assert outcome(suite, "tests/test_x.py")[0] == 0
