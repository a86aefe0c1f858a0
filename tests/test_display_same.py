"""The same object shows the same each time: no clock, no address, no order of the moment, no path."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shown_objects import (
    Bundle,
    Display,
    ask,
    check,
    descriptions,
    every_object,
    records,
    results,
    shown,
)

import datafast_nb as dfn
from datafast_nb import FakeModel, Map, Result, Source, options
from datafast_nb.store.memo import close_memos

TESTS = Path(__file__).parent


def answered(model: FakeModel) -> dfn.Pipeline:
    return Source.list(records("w")).as_step("rows") >> ask("ask", model)


def of_answered(made: dfn.Pipeline) -> dict[str, Any]:
    """Objects about a pipeline of which every answer is in the memo."""
    result = made.run()
    assert all(call.status == "answered" for call in result.call_rows)
    return {
        "pipeline": made,
        "preview": made.preview(),
        "estimate": made.estimate(),
        "result": result,
        "slice": result[1:],
        "errors": result.errors,
        "funnel": result.funnel,
        "ledger": result.ledger,
        "trace": made.run_one(1),
        "why": result.why(0, "answer"),
        "comparison": dfn.diff(result, made),
        "compiled": made.compile(),
        "memo": dfn.memo.info(),
    }


_DURATION = r"(less than |[<~] ?)*\d[\d.]* (s|min|h)\b( \d+ (s|min)\b)?"
_DAY = r"\d+ [A-Z][a-z]{2}( \d{4})? \d\d:\d\d"


def without_times(bundle: Bundle) -> list[str]:
    """Words of the forms without what a clock says; lines follow the width of the words."""
    texts = []
    for text in Display(bundle).texts:
        text = re.sub(rf"{_DURATION}( to {_DURATION})?|{_DAY}|\d+ kB", "…", text)
        texts.append(re.sub(r"[\s─]+", " ", text).replace("/two/", "/one/"))
    return texts


def test_showing_changes_nothing(tmp_path):
    objects = every_object("word", tmp_path)
    first = {name: shown(obj) for name, obj in objects.items()}
    for _ in range(2):
        assert {name: shown(obj) for name, obj in objects.items()} == first


def test_equal_memos_show_the_same(tmp_path):
    """Everything is answered: what is shown follows from the pipeline and the memo alone."""
    options.home = tmp_path / "first"
    pipeline = partial(answered, FakeModel("fine", name="m"))
    pipeline().run()
    close_memos()
    seen = []
    for name in ("one", "two"):
        options.home = tmp_path / name
        shutil.copytree(tmp_path / "first", tmp_path / name)
        seen.append({key: shown(obj) for key, obj in of_answered(pipeline()).items()})
    for name in seen[0]:
        first, again = (json.dumps(s[name]).replace("/two/", "/one/") for s in seen)
        assert first == again, name


def test_two_runs_that_ask_show_the_same_but_for_times(tmp_path):
    seen = []
    for name in ("one", "two"):
        options.home = tmp_path / name
        seen.append({key: without_times(shown(obj)) for key, obj in results("word").items()})
    for name in seen[0]:
        assert seen[0][name] == seen[1][name], name


def test_displays_do_not_follow_the_clock(tmp_path, monkeypatch):
    objects = every_object("word", tmp_path)
    first = {name: shown(obj) for name, obj in objects.items()}
    later = time.time() + 400 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    assert {name: shown(obj) for name, obj in objects.items()} == first


def test_displays_do_not_follow_the_order_of_hashes(tmp_path):
    """Two processes with other seeds of Python's hashes, and the same memo, show the same."""
    script = (
        "import json, sys, pathlib, shown_objects as so, test_display_same as same\n"
        "model = so.FakeModel('fine', name='m')\n"
        "objects = {**so.descriptions('w'), **same.of_answered(same.answered(model))}\n"
        "odd = {'set': {'b', 'a', 'c', 'd'}, 'frozen': frozenset('xyz'), 'nested': [{'q', 'r'}]}\n"
        "out = {name: so.shown(obj) for name, obj in objects.items()}\n"
        "out['odd values'] = so.Result([odd])._repr_mimebundle_()\n"
        "pathlib.Path(sys.argv[1]).write_text(json.dumps(out), 'utf-8')\n"
    )
    options.home = tmp_path / "first"
    answered(FakeModel("fine", name="m")).run()
    close_memos()
    seen = []
    for seed in ("1", "2"):
        home = tmp_path / "home"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(tmp_path / "first", home)
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "DATAFAST_NB_HOME": str(home),
            "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent))),
            "COLUMNS": "100",
        }
        path = tmp_path / f"{seed}.json"
        subprocess.run([sys.executable, "-c", script, str(path)], env=env, check=True, timeout=60)
        seen.append(json.loads(path.read_text("utf-8")))
    for name in seen[0]:
        assert seen[0][name] == seen[1][name], name


def test_dates_are_those_of_replies(tmp_path, monkeypatch):
    """The one date in a display is data: when an answer was asked for. It stays what it was."""
    pipeline = answered(FakeModel("fine", name="m"))
    asked = time.time() - 40 * 86_400
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: asked)
        pipeline.run()
    moment = time.localtime(asked)
    day = f"asked {moment.tm_mday} {time.strftime('%b %H:%M', moment)}"
    for obj in (pipeline.run().why(0, "answer"), pipeline.run_one(0)):
        assert check(obj).shows(day)


def test_displays_hold_no_date_but_those_of_replies_and_no_path_of_this_machine(
    tmp_path, monkeypatch
):
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    monkeypatch.chdir(project)
    monkeypatch.delenv("DATAFAST_NB_HOME")
    objects = {**results("w"), **descriptions("w"), "memo card": dfn.memo}
    (project / "in.csv").write_text("a\n1\n", "utf-8")
    objects["file"] = Source.file("in.csv")
    objects["file by its full name"] = Source.file(str(project / "in.csv"))
    objects["missing file"] = Source.file("nothing.csv")
    for name, obj in objects.items():
        for form, text in check(obj).bundle.items():
            assert str(tmp_path) not in text, (name, form)
            assert str(Path(dfn.__file__).parent) not in text, (name, form)
            assert str(TESTS) not in text, (name, form)
            text = re.sub(r"asked \d+ \w{3} \d\d\\?:\d\d", "", text)
            if "memo" not in name:
                assert not re.search(r"\d\d\\?:\d\d\b|\b20\d\d\\?-\d\d|\b202\d\b", text), (
                    name,
                    form,
                )


def test_functions_and_objects_show_no_address():
    class Doubler:
        def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
            return {**record, "n": record["n"] * 2}

    class Plain:
        pass

    def kept(record: dict[str, Any]) -> dict[str, Any]:
        return record

    for fn in (Doubler(), lambda r: r, kept, partial(kept)):
        pipeline = Source.list([{"n": 1}]) >> Map(fn)
        check(pipeline)
        check(pipeline.steps[1])
        assert "0x" not in repr(pipeline.steps[1]) + pipeline.visualize() + repr(pipeline)
    for value in (Plain(), Plain, [Plain()], {"x": Plain()}, print, object()):
        result = Result([{"v": value}])
        display = check(result)
        assert "0x" not in "".join(display.bundle.values())


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland"])
def test_displays_without_replies_do_not_follow_the_time_zone(zone, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        made = {k: shown(v) for k, v in descriptions("w").items()}
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert {k: shown(v) for k, v in descriptions("w").items()} == made
