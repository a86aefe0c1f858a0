"""The code blocks of README run, top to bottom, in one project."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_readme_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for i, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, block {i + 1}", "exec"), names)
    said = capsys.readouterr().out
    assert "2 new calls" in said
    assert (tmp_path / "questions.jsonl").read_text("utf-8").count("\n") == 2


def test_readme_has_blocks_that_can_fail():
    assert len(BLOCKS) >= 4
    assert sum(block.count("assert ") for block in BLOCKS) >= 4


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:docs|benchmarks|notebooks)/[\w./-]*)`", README.read_text("utf-8"))
)
def test_files_that_readme_names_exist(path):
    assert (README.parent / path).exists()
