"""The panel as an object and over its line: display, threads, what is said, what is kept secret."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from browser_stand_in import Browser, LocalComm, local_comms

import datafast_nb as dfn
from datafast_nb.pipeline import Pipeline
from datafast_nb.widgets import panel as panel_module
from datafast_nb.widgets.freeze import STATIC_CLASS, WIDGET_MIME
from datafast_nb.widgets.panel import Panel
from datafast_nb.widgets.threads import Pulse, Worker

Opened = Callable[..., Browser]


def qa(model: dfn.FakeModel, n: int = 6, **settings: Any) -> Pipeline:
    step = dfn.LLMStep(prompt="Ask: {text}", output_columns=["q"], model=model, **settings)
    records = [{"id": i, "text": f"text {i}"} for i in range(n)]
    return dfn.Source.list(records) >> step.as_step("ask")


class Screen:
    """What `IPython.display` would show."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import IPython

        self.places: dict[str, dict[str, Any]] = {}
        monkeypatch.setattr(IPython.display, "display", self.show)
        monkeypatch.setattr(IPython.display, "update_display", self.show)
        monkeypatch.setattr(panel_module, "in_notebook", lambda: True)

    def show(self, bundle: dict[str, Any], raw: bool = False, display_id: str = "") -> None:
        assert raw
        self.places[display_id or f"place {len(self.places)}"] = dict(bundle)


def test_shown_are_the_static_display_and_beside_it_the_panel(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch)
    browser = opened(qa(dfn.FakeModel()))
    browser.panel._ipython_display_()
    static, live = screen.places.values()
    assert f'<div class="{STATIC_CLASS}">' in static["text/html"]
    assert "text 0" in static["text/html"]
    assert WIDGET_MIME not in static
    assert live[WIDGET_MIME]["model_id"] == browser.panel.widget.model_id
    assert "text/html" not in live
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and "ask" in s["tables"])
    browser.ask("freeze")
    began = time.monotonic()
    while not browser.panel.is_closed and time.monotonic() - began < 10:
        time.sleep(0.01)
    time.sleep(0.05)
    static, live = screen.places.values()
    assert static == {"text/plain": "", "text/html": ""}
    assert WIDGET_MIME not in live
    assert "6 records" in live["text/html"]
    assert browser.comm.comm_id not in LocalComm.open_comms


def test_without_widgets_there_is_the_static_display_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen(monkeypatch)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    panel = Panel(qa(dfn.FakeModel()))
    panel._ipython_display_()
    (shown,) = screen.places.values()
    assert "pip install 'datafast-nb[panel]'" in shown["text/html"]
    assert "text 0" in shown["text/html"]
    assert panel.widget is None
    assert "text 0" in repr(panel)
    panel.freeze()


def test_package_and_panel_import_without_widgets() -> None:
    code = (
        "import sys; sys.modules['anywidget'] = sys.modules['ipywidgets'] = None\n"
        "import datafast_nb as dfn\n"
        "p = dfn.Source.list([{'a': 1}]) >> dfn.Map(lambda r: r)\n"
        "print(repr(p.panel())); print(p.to_code()); r = p.run(); print(repr(r.explore()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 record" in done.stdout


def test_in_colab_everything_is_answered_inside_the_handler(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", object())
    model = dfn.FakeModel()
    browser = opened(qa(model), limit=None)
    assert browser.state["poll"] is True
    for op, fields in (("window", {}), ("view", {"search": "3"}), ("columns", {}), ("run", {})):
        n = browser.send(op, step="final", **fields)
        assert browser.comm.sent[-1]["content"]["id"] == n  # it did not come later
    for _ in range(100):
        state = browser.ask("poll")["state"]
        if state["phase"] == "done" and state["tables"]["final"]["n"] == 6:
            break
        time.sleep(0.05)
    assert model.calls == 6


def test_explore_shows_any_result(opened: Opened) -> None:
    result = qa(dfn.FakeModel()).run()
    browser = opened(result.explore())
    assert browser.state["kind"] == "result"
    assert [r["v"][1] for r in browser.rows(start=2, n=2)] == ["text 2", "text 3"]
    part = opened(result[2:4].explore())
    assert [r["v"][1] for r in part.rows()] == ["text 2", "text 3"]
    assert (
        part.ask("record", step="final", row=1)["lineage"][1]["calls"][0]["messages"][0]["content"]
        == "Ask: text 3"
    )
    alone = opened(dfn.Result([{"a": 1}, {"a": 2}]).explore())
    assert [r["v"] for r in alone.rows()] == [["1"], ["2"]]
    assert alone.ask("record", step="final", row=1)["lineage"][0]["values"] == {"a": "2"}
    assert alone.ask("graph")["nodes"] == []
    assert "nothing can be run" in alone.refused("run")


def test_view_selection_and_code_are_at_hand_in_python(opened: Opened) -> None:
    browser = opened(qa(dfn.FakeModel()).run().explore())
    panel = browser.panel
    view = browser.ask(
        "view", step="final", search="text", sort=[{"column": "id", "descending": True}]
    )
    assert list(panel.df["id"]) == [5, 4, 3, 2, 1, 0]
    said = browser.ask("code", what="view")["code"]
    space: dict[str, Any] = {"panel": panel}
    *lines, last = said.split("\n")
    exec("\n".join(lines), space)
    assert list(eval(last, space)["id"]) == list(panel.df["id"])
    assert browser.rows(view=view["view"])[0]["v"][0] == "5"
    browser.ask("select", rows=[1, 3])
    assert list(panel.selection["id"]) == [1, 3]
    assert browser.ask("pin", row=3, on=True)["pins"] == [3]
    assert browser.ask("pin", row=3, on=False)["pins"] == []
    assert "pipeline.run(" in browser.ask("code", what="run")["code"]
    assert browser.ask("cell", step="final", row=1, column="text")["text"] == "text 1"


def test_views_are_overtaken_by_newer_ones(opened: Opened) -> None:
    browser = opened(qa(dfn.FakeModel()).run().explore())
    gate = threading.Event()
    browser.panel.look.put(lambda: gate.wait(10) and None)
    ids = [browser.send("view", step="final", search=text) for text in ("1", "2", "text 3")]
    gate.set()
    replies = [browser.reply(n) for n in ids]
    assert [r["ok"] for r in replies] == [False, False, True]
    assert replies[0]["error"] == "overtaken"
    assert replies[2]["n"] == 1


def test_what_cannot_be_answered_is_said(opened: Opened) -> None:
    browser = opened(qa(dfn.FakeModel()).run().explore())
    assert "no request 'steal'" in browser.refused("steal")
    assert "has not run" in browser.refused("window", step="nowhere")
    assert "this view is gone" in browser.refused("window", step="final", view=99)
    assert "IndexError" not in browser.refused("record", step="final", row=-5)
    assert "no control" in browser.refused("set", controls={"colour": 1})
    assert "whole number" in browser.refused("set", controls={"limit": 1.5})
    assert "no model 'gpt-9'" in browser.refused("draft", step="ask", model="gpt-9")
    assert "temperature" in browser.refused("set", controls={"temperature": 9})
    browser.panel.desk.receive("no dict", lambda _: None)
    browser.panel.desk.receive({"id": 1}, lambda _: None)


def test_handlers_take_no_time_on_the_thread_of_the_message(opened: Opened) -> None:
    result = qa(dfn.FakeModel(), 3_000).run()
    browser = opened(result.explore())
    longest: dict[str, float] = {}
    browser.ask("columns", step="final")
    for _ in range(5):
        for op, fields in (
            ("window", {"start": 10}), ("view", {"search": "9"}), ("columns", {}), ("run", {}),
            ("record", {"row": 4}), ("graph", {}), ("stop", {}), ("pin", {"row": 1}),
        ):  # fmt: skip
            began = time.perf_counter()
            n = browser.send(op, step="final", **fields)
            took = time.perf_counter() - began
            longest[op] = min(longest.get(op, 9.0), took)
            browser.reply(n)
    assert max(longest.values()) < 0.005, longest


def test_the_state_comes_at_most_ten_times_a_second(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.005, parallel=2)
    browser = opened(qa(model, 600), limit=None)
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and "ask" in s["tables"], 60)
    pairs = zip(browser.comm.sent, browser.comm.times, strict=True)
    times = [t for s, t in pairs if s.get("method") == "update"]
    assert len(times) >= 5
    for i in range(len(times) - 12):
        assert times[i + 12] - times[i] > 0.9
    done = [s["progress"]["done"] for s in browser.states if s["progress"]]
    assert len(set(done)) >= 5
    assert done == sorted(done)
    assert done[-1] == 600 == model.calls


def test_hostile_texts_and_odd_numbers_arrive_as_json(opened: Opened) -> None:
    odd = "<img src=x onerror=alert(1)></script>\u202e\x1b[31m\ud83d\x00$1 and $2"
    records = [{odd: odd, "nan": float("nan"), "inf": float("-inf"), "big": 2**200, "list": [odd]}]
    model = dfn.FakeModel(odd)
    step = dfn.LLMStep(prompt="hello", output_columns=["reply"], model=model)
    browser = opened((dfn.Source.list(records) >> step).run().explore())
    row = browser.rows()[0]
    assert "<img src=x" in row["v"][0]
    for op in ("columns", "record", "cost", "graph", "errors"):
        browser.ask(op, step="final", row=0)
    browser.ask("view", step="final", search="IMG")
    assert json.dumps(browser.state)


def test_a_planted_key_is_nowhere(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-planted-4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    model = dfn.OpenAIModel("gpt-4.1-nano", api_key=key, base_url="http://127.0.0.1:9/v1")
    step = dfn.LLMStep(
        prompt="{t}", output_columns=["a"], model=model, max_retries=0, extra={"user": key}
    )
    browser = opened(dfn.Source.list([{"t": "x"}]) >> step, limit=None)
    for what in ("pipeline", "run"):
        browser.ask("code", what=what)
    browser.ask("run")
    browser.until(lambda s: s["phase"] not in ("idle", "queued", "running"), 60)
    browser.ask("errors")
    browser.ask("run_one", record=0)
    browser.until(lambda s: s["phase"] not in ("idle", "queued", "running"), 60)
    assert [s for s in browser.comm.sent if "planted" in json.dumps(s)] == []
    assert "planted" not in json.dumps(browser.comm.sent)


def test_four_starts_a_stop_and_paging_lose_and_double_nothing(opened: Opened) -> None:
    """Messages from several threads at once, as from subshells."""
    model = dfn.FakeModel(lambda r: f"re {r.messages[-1]['content']}", latency_s=0.002, parallel=4)
    browser = opened(qa(model, 200), limit=None)
    browser.ask("run")
    browser.until(lambda s: s["progress"])
    ids: list[int] = []

    def click(op: str, n: int) -> None:
        for k in range(n):
            ids.append(browser.send(op, step="final", start=k, record=k, n=50))
            time.sleep(0.003)

    for op in ("stop", "noop"):
        threads = [threading.Thread(target=click, args=("run", 3)) for _ in range(4)]
        threads += [threading.Thread(target=click, args=(op, 2))]
        threads += [threading.Thread(target=click, args=("window", 20)) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    for n in ids:
        browser.reply(n)
    idle = lambda s: s["phase"] not in ("queued", "running", "stopping")  # noqa: E731
    browser.until(idle, 60)
    browser.until(lambda s: "ask" in s["tables"])
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 200, 60)
    assert model.calls == 200
    rows = [r["v"] for start in (0, 100) for r in browser.rows(start=start)]
    assert [v[0] for v in rows] == [str(i) for i in range(200)]
    assert all(v[2] == f"re Ask: {v[1]}" for v in rows)
    assert len(ids) == len(set(ids))


def test_a_hundred_panels_leave_no_thread_and_no_comm() -> None:
    with local_comms():
        result = qa(dfn.FakeModel()).run()
        before, comms = threading.active_count(), len(LocalComm.open_comms)
        gone = []
        for _ in range(100):
            browser = Browser(result.explore())
            browser.rows()
            browser.ask("set", controls={"limit": 2})
            browser.panel.close()
            gone.append(weakref.ref(browser.panel))
            del browser
        began = time.monotonic()
        while threading.active_count() > before and time.monotonic() - began < 10:
            time.sleep(0.05)
        assert threading.active_count() <= before
        assert len(LocalComm.open_comms) == comms
        gc.collect()
        assert sum(ref() is not None for ref in gone) <= 2


def test_threads_end_when_there_is_nothing_to_do() -> None:
    did: list[str] = []
    worker = Worker("test-worker", idle_s=0.05)
    pulse = Pulse("test-pulse", lambda: did.append("beat") or False, every_s=0.01, idle_s=0.05)  # type: ignore[func-returns-value]
    for _ in range(2):
        worker.put(lambda: did.append("job"))
        worker.put(lambda: 1 / 0)  # type: ignore[arg-type]
        pulse.wake()
        time.sleep(0.4)
        assert worker._thread is None and pulse._thread is None
    assert sorted(did) == ["beat", "beat", "job", "job"]
    worker.close()
    assert worker.put(lambda: None) is False


def test_a_closed_panel_says_so(opened: Opened) -> None:
    browser = opened(qa(dfn.FakeModel()).run().explore())
    said: list[dict[str, Any]] = []
    browser.panel.close()
    browser.panel.desk.receive({"id": 7, "op": "window"}, said.append)
    assert said == [{"id": 7, "ok": False, "error": "this panel is closed"}]


def test_a_new_panel_of_a_pipeline_that_ran_shows_its_records(opened: Opened) -> None:
    pipeline = qa(dfn.FakeModel())
    pipeline.run()
    browser = opened(pipeline)
    assert browser.state["tables"]["final"]["n"] == 6
    assert browser.state["stale"] == ""


def test_safe_previews_call_no_function(opened: Opened) -> None:
    dfn.options.preview_on_display = "safe"
    called: list[int] = []
    pipeline = qa(dfn.FakeModel()) >> dfn.Map(lambda r: called.append(1) or r)  # type: ignore[func-returns-value]
    browser = opened(pipeline)
    browser.rows()
    browser.ask("set", controls={"limit": 1})
    time.sleep(0.3)
    assert not called


def test_a_pulse_beats_at_most_ten_times_a_second_and_ends_with_the_last_state() -> None:
    now = 0
    beats: list[tuple[float, int]] = []
    pulse = Pulse("test-pulse", lambda: bool(beats.append((time.monotonic(), now))))  # type: ignore[func-returns-value]
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        now += 1
        pulse.wake()
        time.sleep(0.001)
    time.sleep(0.3)
    pulse.close()
    assert 2 <= len(beats) <= 8
    assert all(b[0] - a[0] > 0.09 for a, b in pairwise(beats))
    assert beats[-1][1] == now
