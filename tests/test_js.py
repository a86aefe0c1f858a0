"""The panel's JavaScript: its own tests under Node.js, and its types under TypeScript."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from datafast_nb.widgets import front

HERE = Path(__file__).parent / "js"
TSC = HERE / "node_modules" / ".bin" / "tsc"
PARTS = sorted((front.STATIC / "panel").glob("*.js"))
COMPLAINT = re.compile(r"^(?P<file>[^(\n]+)\((?P<line>\d+),(?P<column>\d+)\): (?P<words>error .*)$")


def needs(what: object, name: str, remedy: str) -> None:
    """Skip the test without a tool, or fail where continuous integration runs."""
    if not what:
        if os.environ.get("CI"):
            pytest.fail(f"no {name}; {remedy}")
        pytest.skip(f"no {name}; {remedy}")


def run(*command: str | Path, cwd: Path = HERE) -> tuple[int, str]:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def type_errors(parts: dict[str, str], folder: Path) -> list[str]:
    """What TypeScript has against a module in parts: "part:line:column: error …"."""
    # Where each line of the joined module stands: part, number of its line.
    places = [
        (name, number)
        for name, text in parts.items()
        for number in range(1, len(text.splitlines()) + 1)
    ]
    (folder / "panel.js").write_text("".join(parts.values()), "utf-8")
    config = {
        "extends": str(HERE / "tsconfig.json"),
        "files": ["panel.js", str(HERE / "fake.js")],
    }
    (folder / "tsconfig.json").write_text(json.dumps(config), "utf-8")
    status, said = run(TSC, "--noEmit", "--pretty", "false", "-p", folder, cwd=folder)
    found = []
    for line in said.splitlines():
        match = COMPLAINT.match(line)
        if match is None:
            found.append(line)
            continue
        name, number = Path(match["file"]).name, int(match["line"])
        if name == "panel.js":
            name, number = places[number - 1]
        found.append(f"{name}:{number}:{match['column']}: {match['words']}")
    return found or [f"tsc ended with status {status}"] * (status != 0)


def test_tests_in_javascript_pass() -> None:
    needs(shutil.which("node"), "Node.js", "install nodejs")
    files = sorted(HERE.glob("*.test.mjs"))
    assert files
    status, said = run("node", "--test", "--test-reporter=spec", *files)
    assert status == 0, said
    n_passed = re.search(r"^\S pass (\d+)$", said, re.MULTILINE)
    assert n_passed and int(n_passed[1]) >= len(files), said


def test_types_of_the_panel_are_right(tmp_path: Path) -> None:
    needs(TSC.exists() and shutil.which("node"), "TypeScript", "`make .make/js` installs it")
    assert PARTS
    errors = type_errors({p.name: p.read_text("utf-8") for p in PARTS}, tmp_path)
    assert not errors, "\n".join(errors)


def test_a_wrong_type_is_found_where_it_stands(tmp_path: Path) -> None:
    needs(TSC.exists() and shutil.which("node"), "TypeScript", "`make .make/js` installs it")
    parts = {
        "1_a.js": "/** @param {number} n */\nexport const twice = (n) => 2 * n;\n",
        "2_b.js": "// a comment\nexport const four = twice('2');\nexport const f = (x) => x;\n",
    }
    errors = type_errors(parts, tmp_path)
    assert [e.partition(": error")[0] for e in errors] == ["2_b.js:2:27", "2_b.js:3:19"], errors
