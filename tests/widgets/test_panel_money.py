"""Panels in hands that are quick, that stop, edit and go on: what is paid is what was clicked."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from browser_stand_in import Browser

import datafast_nb as dfn
from datafast_nb.pipeline import Pipeline
from datafast_nb.widgets import growth
from datafast_nb.widgets.panel import Panel

Opened = Callable[..., Browser]


def asked(
    model: dfn.FakeModel, n: int = 6, prompt: str = "Ask {text}", **settings: Any
) -> Pipeline:
    step = dfn.LLMStep(prompt=prompt, output_columns=["said"], model=model, **settings)
    records = [{"id": i, "text": f"text {i}"} for i in range(n)]
    return dfn.Source.list(records) >> step.as_step("ask")


def prompts(model: dfn.FakeModel) -> list[str]:
    return [str(r.messages[-1]["content"]) for r in model.requests]


def test_asking_again_of_a_stopped_run_says_that_it_goes_on(opened: Opened) -> None:
    gate = threading.Event()

    def answer(request: Any) -> str:
        if "text 9" in request.messages[-1]["content"]:
            gate.wait(20)
        return "yes"

    model = dfn.FakeModel(answer, parallel=1)
    browser = opened(asked(model, 30), limit=None)
    try:
        browser.ask("run", confirmed=True)
        browser.until(lambda s: s["progress"] and s["progress"]["done"] >= 7)
        browser.ask("stop")
    finally:
        gate.set()
    browser.until(lambda s: s["phase"] == "stopped" and s["tables"]["final"]["n"] >= 7)
    calls = model.calls
    detail = browser.ask("record", step="final", row=0)
    call = detail["lineage"][-1]["calls"][0]
    said = browser.ask("retry", key=call["key"], label=call["label"])
    assert "goes on with the calls that are left" in said["ask"]
    assert model.calls == calls
    assert browser.until(lambda s: s["phase"] not in ("queued", "running"))


def test_a_message_that_is_sent_again_is_worked_off_once(opened: Opened) -> None:
    model = dfn.FakeModel()
    browser = opened(asked(model, 3), limit=None)
    content = {"id": 77_000, "op": "run_one", "record": 1}
    for _ in range(3):
        browser.panel.desk.receive(dict(content), lambda _: None)
        browser.ended()
    browser.until(lambda s: s["focus"])
    assert model.calls == 1
    assert not [s for s in browser.comm.sent if s.get("content", {}).get("busy")]


def test_a_run_behind_an_edit_is_of_the_edit(opened: Opened) -> None:
    model = dfn.FakeModel()
    browser = opened(asked(model, 1))
    for k in range(20):
        before = len(model.requests)
        browser.send("draft", step="ask", prompt=f"Edit {k} {{text}}")
        n = browser.send("draft_run", rows="current")
        assert "busy" not in browser.reply(n)
        browser.until(
            lambda s, k=k: s["phase"] == "done" and s["draft"]["prompt"].startswith(f"Edit {k} ")
        )
        browser.ended()
        assert prompts(model)[before:] == [f"Edit {k} text 0"]


def test_retrying_many_spends_one_budget(opened: Opened) -> None:
    bad = [True]

    def answer(request: Any) -> Any:
        return dfn.LLMError("no", kind="bad_request") if bad[0] else "x" * 40

    model = dfn.FakeModel(answer, price=(0.0, 50_000.0))  # about half a dollar a reply
    browser = opened(asked(model, 5, max_tokens=20), budget=None)
    for k in range(4):
        browser.ask("run_one", record=k)
        browser.ended()
    bad[0] = False
    browser.ask("set", controls={"budget": 1.2})
    before = browser.panel.result
    assert before is not None
    browser.ask("retry_failed", confirmed=True)
    browser.ended()
    paid = sum(r.ledger.paid_usd for r in browser.panel.shelf.results)
    assert paid <= 1.2


def test_figures_of_several_records_are_those_of_all(opened: Opened) -> None:
    model = dfn.FakeModel()
    browser = opened(asked(model, 4), limit=None)
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 4)
    browser.ask("draft", step="ask", prompt="Tell {text}")
    browser.ask("draft_run", rows=[0, 1, 2])
    state = browser.until(lambda s: s["what"] == "draft_run" and s["phase"] == "done")
    assert state["progress"]["new"] == state["progress"]["done"] == 3
    assert model.calls == 7


def test_an_explored_table_stays_when_one_record_is_run(opened: Opened) -> None:
    model = dfn.FakeModel()
    result = asked(model, 5).run()
    browser = opened(result.explore())
    browser.ask("run_one", record=2)
    state = browser.until(lambda s: s["focus"])
    assert state["tables"]["final"]["n"] == 5
    assert browser.panel.result is result
    assert model.calls == 5


def test_a_record_run_alone_and_asked_again_shows_the_new_reply(opened: Opened) -> None:
    model = dfn.FakeModel([f"reply {k}" for k in range(9)])
    browser = opened(asked(model, 9), limit=3)
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "limited" and s["tables"]["final"]["n"] == 3)
    browser.ask("run_one", record=5)
    first = browser.until(lambda s: s["focus"])["focus"]
    assert first["row"] is None
    browser.ended()
    call = browser.ask("record", step="final", row=None)["lineage"][-1]["calls"][0]
    browser.ask("retry", key=call["key"], label=call["label"])
    browser.until(lambda s: s["focus"] != first)
    again = browser.ask("record", step="final", row=None)["lineage"][-1]["calls"][0]
    assert again["text"] == "reply 4" != call["text"]


def test_a_growing_table_is_of_one_run(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "EVERY_S", 0.0)
    model = dfn.FakeModel(lambda r: r.messages[-1]["content"], latency_s=0.002, parallel=2)
    browser = opened(asked(model, 40), limit=None)
    for word in ("One", "Two", "Three"):
        browser.ask("draft", step="ask", prompt=f"{word} {{text}}")
        browser.ask("run", confirmed=True)
        while (state := browser.state)["phase"] != "done" or word not in str(browser.rows()):
            if state["stale"].startswith("so far"):
                said = {r["v"][2].split()[0] for r in browser.rows() if len(r["v"]) > 2}
                assert said <= {word}
        browser.ended()


def test_selected_rows_are_forgotten_and_a_search_holds_over_runs(opened: Opened) -> None:
    model = dfn.FakeModel()
    pipeline = asked(model, 6)
    browser = opened(pipeline, limit=None)
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 6)
    browser.ask("select", rows=[4])
    browser.ask("view", step="final", search="text 3", status="all", where=[], sort=[])
    assert list(browser.panel.selection["id"]) == [4]
    assert list(browser.panel.df["id"]) == [3]
    pipeline.run(limit=4)
    browser.until(lambda s: s["tables"]["final"]["n"] == 4)
    assert len(browser.panel.selection) == 0
    assert list(browser.panel.df["id"]) == [3]


def test_a_cell_that_fails_is_told_and_one_that_works_takes_the_words_back(opened: Opened) -> None:
    bad = [True]

    def answer(request: Any) -> str:
        if bad[0]:
            raise RuntimeError("the model is out")
        return "yes"

    model = dfn.FakeModel(answer)
    pipeline = asked(model, 2, on_error="raise")
    browser = opened(pipeline)
    with pytest.raises(Exception, match="the model is out"):
        pipeline.run()
    state = browser.until(lambda s: s["phase"] == "failed" and s["error"])
    assert "the model is out" in state["error"]["text"]
    assert state["what"] == "cell"
    bad[0] = False
    (pipeline >> dfn.Map(lambda r: r)).run()
    pipeline.run()
    state = browser.until(lambda s: s["phase"] == "done")
    assert state["error"] is None


def test_the_prompt_of_a_record_is_that_record_s_behind_others_that_failed(opened: Opened) -> None:
    def answer(request: Any) -> Any:
        text = request.messages[-1]["content"]
        return dfn.LLMError("no", kind="bad_request") if "text 1" in text else f"<{text}>"

    model = dfn.FakeModel(answer)
    two = asked(model, 5) >> dfn.LLMStep(
        prompt="Rate {said}", output_columns=["score"], model=model
    ).as_step("rate")
    browser = opened(two, limit=None)
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 4)
    browser.ask("set", controls={"record": 3})
    assert browser.ask("draft", step="rate")["rendered"] == "Rate <Ask text 3>"


def test_a_closed_panel_of_a_run_is_not_kept_by_the_run(opened: Opened) -> None:
    run = asked(dfn.FakeModel(), 2).start()
    run.result(20)
    panel = Panel(run)
    me = weakref.ref(panel)
    panel.close()
    del panel
    deadline = time.monotonic() + 20  # its threads end first
    while me() is not None and time.monotonic() < deadline:
        time.sleep(0.1)
        gc.collect()
    assert me() is None
