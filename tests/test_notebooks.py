"""Notebooks run as users run them: on the local model, and from the recording that ships."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datafast_nb.store.memo import Memo

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
QUICKSTART = NOTEBOOKS / "01_quickstart.ipynb"


def run_notebook(notebook: Path, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`notebook` under nbval, in a project of its own."""
    (folder / "pyproject.toml").touch()
    copy = shutil.copy(notebook, folder)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", copy]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("DATAFAST_NB_HOME", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.mark.local_model
@pytest.mark.timeout(300)
def test_quickstart_runs_on_the_local_model(project):
    done = run_notebook(QUICKSTART, project)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (project / "questions.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 10
    assert all(json.loads(line)["question"] for line in lines)
    memo = Memo(project / ".datafast_nb" / "memo")
    try:
        assert memo.info().n_draws == 13  # ten records, and three with another prompt
    finally:
        memo.close()


@pytest.mark.timeout(300)
def test_quickstart_runs_from_its_recording_without_a_model(project):
    recording = NOTEBOOKS / "recordings" / "01_quickstart.jsonl"
    home = project / "home"
    memo = Memo(home / "memo")
    try:
        assert memo.load(str(recording)) == 13
    finally:
        memo.close()
    # A home without weights would do as well: in replay mode nothing is loaded or asked.
    env = {"DATAFAST_NB_MODE": "replay", "DATAFAST_NB_HOME": str(home)}
    done = run_notebook(QUICKSTART, project, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(x) for x in (project / "questions.jsonl").read_text("utf-8").splitlines()]
    recorded = [json.loads(x) for x in recording.read_text("utf-8").splitlines()[1:]]
    answers = {json.loads(d["replies"][-1]["text"])["answer"] for d in recorded}
    assert len(rows) == 10 and {row["answer"] for row in rows} < answers


def test_replay_fails_on_an_unrecorded_prompt(project):
    changed = json.loads(QUICKSTART.read_text("utf-8"))
    for cell in changed["cells"]:
        cell["source"] = "".join(cell["source"]).replace("one quiz question", "a riddle")
    notebook = project / "changed.ipynb"
    notebook.write_text(json.dumps(changed), "utf-8")
    home = project / "home"
    Memo(home / "memo").close()
    folder = project / "run"
    folder.mkdir()
    done = run_notebook(notebook, folder, DATAFAST_NB_MODE="replay", DATAFAST_NB_HOME=str(home))
    assert done.returncode == 1
    assert "ReplayMissError" in done.stdout


@pytest.mark.timeout(300)
def test_cost_budget_resume_tells_what_it_says(project):
    done = run_notebook(NOTEBOOKS / "02_cost_budget_resume.ipynb", project)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (project / "tickets.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 119 and all(row["score"] in "12345" for row in rows)
    memo = Memo(project / ".datafast_nb" / "memo")
    try:
        # 120 complaints, one of them refused; 119 replies, one of them drawn twice; 119 scores.
        assert memo.info().n_draws == 120 + 120 + 119
    finally:
        memo.close()


@pytest.mark.timeout(300)
def test_the_panel_asks_only_for_what_a_cell_runs(project):
    done = run_notebook(NOTEBOOKS / "03_the_panel.ipynb", project)
    assert done.returncode == 0, done.stdout + done.stderr
    memo = Memo(project / ".datafast_nb" / "memo")
    try:
        # `pipeline.run(limit=10)`: ten questions, one of them refused, nine ratings. Panels: nothing.
        assert memo.info().n_draws == 10 + 9
    finally:
        memo.close()


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_stored_outputs_are_those_of_a_whole_run_from_top_to_bottom(notebook):
    code = [c for c in json.loads(notebook.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]


def test_quickstart_stores_its_figures():
    notebook = json.loads(QUICKSTART.read_text("utf-8"))
    assert re.search(
        r"10 records\W+complete run",
        json.dumps(notebook["cells"][17]["outputs"][-1]["data"]["text/plain"]),
    )


def test_a23_no_stored_output_needs_a_live_widget():
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        outputs = [o for c in cells for o in c.get("outputs", [])]
        assert outputs
        for output in outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            assert "text/plain" in output.get("data", {}) or "text" in output
