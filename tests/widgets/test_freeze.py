"""Panels in notebook files become static."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from datafast_nb.cli import main
from datafast_nb.widgets.freeze import WIDGET_MIME, freeze_notebook

STATIC = {
    "text/html": ['<div class="dfnb-static">', "<table></table></div>"],
    "text/plain": "3 records",
}
LIVE = {WIDGET_MIME: {"model_id": "abc", "version_major": 2}, "text/plain": "Live panel"}


def shown(data: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": copy.deepcopy(data), "metadata": {}}


def notebook(*cells: list[dict[str, Any]], widgets: bool = True) -> dict[str, Any]:
    state = {"application/vnd.jupyter.widget-state+json": {"state": {"abc": {}}}}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"widgets": state} if widgets else {},
        "cells": [{"cell_type": "markdown", "source": "é", "metadata": {}}]
        + [
            {"cell_type": "code", "source": "", "metadata": {}, "execution_count": 1, "outputs": o}
            for o in cells
        ],
    }


def written(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value), "utf-8")
    return path


def test_the_static_sibling_stays_and_the_panel_goes(tmp_path: Path) -> None:
    stream = {"output_type": "stream", "name": "stdout", "text": "hello"}
    path = written(tmp_path / "a.ipynb", notebook([stream, shown(STATIC), shown(LIVE)]))
    assert freeze_notebook(path) == 1
    after = json.loads(path.read_text("utf-8"))
    assert after["cells"][1]["outputs"] == [stream, shown(STATIC)]
    assert after["metadata"] == {}
    assert WIDGET_MIME not in path.read_text("utf-8")
    before = path.read_bytes()
    assert freeze_notebook(path) == 0
    assert path.read_bytes() == before


def test_other_widgets_stay_with_their_state(tmp_path: Path) -> None:
    other = shown({WIDGET_MIME: {"model_id": "tqdm"}, "text/plain": "0%"})
    path = written(tmp_path / "a.ipynb", notebook([other], [shown(STATIC), shown(LIVE)]))
    assert freeze_notebook(path) == 1
    after = json.loads(path.read_text("utf-8"))
    assert after["cells"][1]["outputs"] == [other]
    assert after["metadata"]["widgets"]


def test_what_a_panel_left_that_was_frozen_alive_is_taken_out(tmp_path: Path) -> None:
    empty = shown({"text/plain": "", "text/html": ""})
    path = written(tmp_path / "a.ipynb", notebook([empty, shown(STATIC)], widgets=False))
    assert freeze_notebook(path) == 1
    assert json.loads(path.read_text("utf-8"))["cells"][1]["outputs"] == [shown(STATIC)]


def test_a_file_that_is_no_notebook_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text("no JSON")
    with pytest.raises(ValueError, match="no notebook"):
        freeze_notebook(path)
    assert path.read_text() == "no JSON"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.ipynb", notebook([shown(STATIC), shown(LIVE)]))
    assert main(["freeze", str(path), str(path)]) == 0
    said = capsys.readouterr().out
    assert "1 output made static" in said and "no panel" in said
    assert main(["freeze", str(tmp_path / "none.ipynb")]) == 1


def test_a_widget_behind_a_panel_stays(tmp_path: Path) -> None:
    slider = shown({WIDGET_MIME: {"model_id": "slider"}, "text/plain": "IntSlider(value=0)"})
    path = written(tmp_path / "a.ipynb", notebook([shown(STATIC), shown(LIVE), slider]))
    assert freeze_notebook(path) == 1
    after = json.loads(path.read_text("utf-8"))
    assert after["cells"][1]["outputs"] == [shown(STATIC), slider]
    assert after["metadata"] != {}
