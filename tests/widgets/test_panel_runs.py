"""What the panel's buttons run, and that nothing else costs anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from browser_stand_in import Browser

import datafast_nb as dfn
from datafast_nb.pipeline import Pipeline

Opened = Callable[..., Browser]


def qa(model: dfn.FakeModel, n: int = 6, **settings: Any) -> Pipeline:
    """Texts → question, one call a record."""
    step = dfn.LLMStep(
        prompt="Ask about: {text}", output_columns=["question"], model=model, **settings
    )
    records = [{"id": i, "text": f"text {i}"} for i in range(n)]
    return dfn.Source.list(records) >> step.as_step("ask")


def test_looking_editing_and_estimating_ask_nobody(opened: Opened) -> None:
    model = dfn.FakeModel(price=(1.0, 2.0))
    browser = opened(qa(model))
    browser.until(lambda s: s["estimate"] and s["tables"]["final"]["n"])
    browser.ask("set", controls={"limit": 3})
    browser.until(lambda s: s["estimate"] and s["estimate"]["new"] == 3)
    browser.ask("set", controls={"limit": 5, "temperature": 0.1, "n": 2, "concurrency": 3})
    state = browser.until(lambda s: s["estimate"] and s["estimate"]["new"] == 10)
    assert state["controls"]["temperature"] == 0.1
    said = browser.ask("draft", step="ask", prompt="Tell of {text} and {nothing}")
    assert said["unknown"] == ["nothing"]
    assert browser.ask("draft", step="ask", prompt="Tell of {text}")["rendered"] == "Tell of text 0"
    rows = browser.rows()
    assert [r["s"] for r in rows] == ["pending"] * len(rows)
    for op in ("cost", "graph", "errors", "columns", "code"):
        browser.ask(op, step="final")
    browser.ask("draft_drop")
    assert model.calls == 0


def test_run_one_asks_for_one_record_and_shows_it(opened: Opened) -> None:
    model = dfn.FakeModel()
    browser = opened(qa(model, num_outputs=2))
    browser.ask("run_one", record=4)
    state = browser.until(lambda s: s["focus"])
    assert model.calls == 2
    assert state["phase"] == "done"
    rows = browser.rows()
    assert [r["v"][:2] for r in rows] == [["4", "text 4"]] * 2
    assert {r["s"] for r in rows} == {"new"}
    detail = browser.ask("record", step="final", row=state["focus"]["row"])
    assert [s["step"] for s in detail["lineage"]] == ["step_001_source", "ask"]
    call = detail["lineage"][1]["calls"][0]
    assert call["messages"] == [{"role": "user", "content": "Ask about: text 4"}]
    sent = [m["content"] for r in model.requests for m in r.messages]
    assert call["messages"][0]["content"] in sent
    assert call["text"] == rows[0]["v"][2]
    browser.ask("run_one", record=1)
    browser.until(lambda s: s["tables"]["final"]["n"] == 4)
    browser.ask("run_one", record=4)  # answered: the same rows, in their places
    browser.until(lambda s: s["tables"]["final"]["version"] >= 3)
    assert model.calls == 4
    assert [r["v"][0] for r in browser.rows()] == ["4", "4", "1", "1"]


def test_run_takes_the_limit_and_a_second_run_asks_for_the_rest(opened: Opened) -> None:
    model = dfn.FakeModel(price=(1.0, 1.0))
    browser = opened(qa(model), limit=4)
    assert browser.ask("run") == {"id": 1, "ok": True}
    state = browser.until(lambda s: s["phase"] == "limited" and s["tables"]["final"]["n"] == 4)
    assert model.calls == 4
    assert state["progress"]["done"] == state["progress"]["new"] == 4
    assert state["said"] == "Done: 4 records of a limited run."
    browser.ask("set", controls={"limit": None})
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 6)
    assert model.calls == 6
    assert [r["s"] for r in browser.rows()] == ["memo"] * 4 + ["new"] * 2
    cost = browser.ask("cost")
    assert (cost["total"]["new"], cost["total"]["memo"]) == (2, 4)
    assert cost["total"]["paid"] == pytest.approx(browser.panel.result.ledger.paid_usd)


def test_three_clicks_are_one_run(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.2)
    browser = opened(qa(model), limit=None)
    replies = [browser.reply(browser.send("run")) for _ in range(3)]
    assert [r.get("busy", False) for r in replies] == [False, True, True]
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 6)
    assert model.calls == 6


def test_stop_keeps_what_arrived_and_the_next_run_asks_for_the_rest(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.05, parallel=2)
    browser = opened(qa(model, 60), limit=None)
    browser.ask("run")
    browser.until(lambda s: s["progress"] and s["progress"]["done"] >= 4)
    began = time.monotonic()
    assert browser.ask("stop")["stopping"] is True
    assert time.monotonic() - began < 1
    state = browser.until(lambda s: s["phase"] == "stopped" and "ask" in s["tables"])
    asked = model.calls
    assert 4 <= asked < 60
    kept = state["tables"]["final"]["n"]
    assert 4 <= kept <= asked
    time.sleep(0.4)
    assert model.calls == asked
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 60, 60)
    assert model.calls == 60


def test_retry_failed_asks_for_exactly_the_failed(opened: Opened) -> None:
    bad = {"on": True}

    def answer(request: Any) -> Any:
        text = request.messages[0]["content"]
        broken = bad["on"] and text.endswith(("1", "3", "5"))
        return "no JSON" if broken else {"question": "why?", "score": 3}

    model = dfn.FakeModel(answer)
    step = dfn.LLMStep(prompt="{text}", output_columns={"question": str, "score": int}, model=model)
    pipeline = dfn.Source.list([{"text": f"t {i}"} for i in range(6)]) >> step.as_step("ask")
    browser = opened(pipeline, limit=None)
    browser.ask("run")
    state = browser.until(lambda s: s["phase"] == "done" and s["errors"]["n"])
    assert state["errors"] == {"n": 3}
    (group,) = browser.ask("errors")["groups"]
    assert (group["n"], group["rows"]) == (3, [3, 4, 5])
    view = browser.ask("view", step="final", status="failed")
    failed = browser.rows(view=view["view"])
    assert [r["v"][0] for r in failed] == ["t 1", "t 3", "t 5"]
    assert all(r["s"] == "failed" and r["why"] for r in failed)
    detail = browser.ask("record", step="final", row=4)
    assert detail["lineage"][-1]["fate"] == "failed"
    assert detail["lineage"][-1]["calls"][0]["text"] == "no JSON"
    bad["on"] = False
    before = model.calls
    one = detail["lineage"][-1]["calls"][0]
    browser.ask("retry", key=one["key"], label=one["label"])
    browser.until(lambda s: s["errors"]["n"] == 2)
    assert model.calls == before + 1
    browser.ask("retry_failed")
    browser.until(lambda s: s["errors"]["n"] == 0 and s["tables"]["final"]["n"] == 6)
    assert model.calls == before + 3
    assert "no call has failed" in browser.refused("retry_failed")


def test_retry_of_a_good_answer_is_one_new_draw(opened: Opened) -> None:
    model = dfn.FakeModel(["one", "two", "three", "four"])
    browser = opened(qa(model, 3), limit=None)
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and "ask" in s["tables"])
    call = browser.ask("record", step="final", row=1)["lineage"][-1]["calls"][0]
    version = browser.state["tables"]["final"]["version"]
    browser.ask("retry", key=call["key"], label=call["label"])
    browser.until(lambda s: s["tables"]["final"]["version"] > version)
    assert model.calls == 4
    assert browser.rows()[1]["v"][2] == "four"


def test_a_draft_runs_its_record_alone_and_the_notebooks_pipeline_stays(opened: Opened) -> None:
    model = dfn.FakeModel(lambda r: r.messages[-1]["content"].upper())
    pipeline = qa(model)
    browser = opened(pipeline, limit=None)
    browser.ask("run")
    browser.until(lambda s: s["phase"] == "done" and "ask" in s["tables"])
    before = pipeline.hash()
    browser.ask("draft", step="ask", prompt="Draft: {text}", temperature=0.2)
    state = browser.until(lambda s: s["draft"]["changed"])
    assert state["stale"].endswith("the draft differs")
    browser.ask("set", controls={"record": 2})
    browser.ask("draft_run", rows="current")
    browser.until(lambda s: s["focus"])
    assert model.calls == 7
    assert [r["v"][2] for r in browser.rows()] == ["DRAFT: TEXT 2"]
    browser.ask("draft_run", rows=[0])
    time.sleep(0.3)
    assert model.calls == 7  # the same record, from the memo
    assert pipeline.hash() == before
    drafted = browser.panel.pipeline
    assert drafted.hash() != before
    assert drafted.steps[1].prompt == "Draft: {text}"
    browser.ask("draft_drop")
    assert browser.panel.pipeline is pipeline
    browser.until(lambda s: not s["draft"]["changed"] and s["stale"])


def test_a_large_run_is_asked_about_first(opened: Opened) -> None:
    dfn.options.confirm = True
    dfn.options.confirm_above_usd = 0.000001
    model = dfn.FakeModel(price=(10.0, 10.0))
    browser = opened(qa(model), limit=None)
    said = browser.ask("run")
    assert "new calls" in said["ask"] and "To run it" not in said["ask"]
    assert model.calls == 0
    assert browser.until(lambda s: s["phase"] == "idle")
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done")
    assert model.calls == 6


def test_a_budget_ends_the_run_and_keeps_the_rows(opened: Opened) -> None:
    model = dfn.FakeModel("yes", price=(0.0, 1000.0), parallel=1)
    browser = opened(qa(model, 20, max_tokens=1), limit=None)
    browser.ask("set", controls={"budget": 0.005})
    browser.ask("run")
    state = browser.until(lambda s: s["phase"] == "budget" and "ask" in s["tables"])
    assert model.calls == 5
    assert state["tables"]["final"]["n"] == 5


def test_a_missing_key_is_words_not_a_traceback(opened: Opened) -> None:
    step = dfn.LLMStep(prompt="{text}", output_columns=["a"], model=dfn.OpenAIModel("gpt-4.1-nano"))
    browser = opened(dfn.Source.list([{"text": "x"}]) >> step, limit=None)
    browser.ask("run")
    state = browser.until(lambda s: s["phase"] == "failed")
    assert state["error"]["title"] == "MissingKeyError"
    assert "OPENAI_API_KEY" in state["error"]["text"]
    assert "Traceback" not in str(state)


def test_a_pipeline_that_does_not_compile_says_so(opened: Opened) -> None:
    step = dfn.LLMStep(prompt="{txt}", output_columns=["a"], model=dfn.FakeModel())
    browser = opened(dfn.Source.list([{"text": "x"}]) >> step, limit=None)
    assert "ColumnNotFoundError" in browser.refused("run")
    state = browser.until(lambda s: s["phase"] == "failed")
    assert "txt" in state["error"]["text"]


def test_a_cell_that_waits_is_shown_stopped_and_loud(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.05, parallel=2)
    pipeline = qa(model, 100)
    browser = opened(pipeline)
    seen: list[dict[str, Any]] = []

    def click() -> None:
        seen.append(
            browser.until(lambda s: s["waiting"] and s["progress"] and s["progress"]["done"] > 2)
        )
        seen.append(browser.ask("stop"))

    clicks = threading.Thread(target=click)
    clicks.start()
    with pytest.raises(dfn.RunInterrupted, match="Stopped: ") as caught:
        pipeline.run(show_progress=False)
    clicks.join()
    assert seen[0]["phase"] == "running"
    assert seen[1]["stopping"] is True
    state = browser.until(lambda s: s["phase"] == "stopped" and not s["waiting"])
    state = browser.until(lambda s: s["tables"]["final"]["n"] == len(caught.value.result))
    assert 0 < state["tables"]["final"]["n"] < 100


def test_result_of_a_started_run_waits_too(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.3)
    pipeline = qa(model, 2)
    run = pipeline.start()
    browser = opened(run)
    assert browser.state["kind"] == "run"
    waited: list[bool] = []
    threading.Timer(0.1, lambda: waited.append(browser.panel.runs.is_waiting)).start()
    assert len(run.result()) == 2
    assert waited == [True]
    browser.until(lambda s: not s["waiting"] and s["tables"]["final"]["n"] == 2)
    assert model.calls == 2


def test_stop_ends_a_cell_that_waits_for_a_started_run(opened: Opened) -> None:
    model = dfn.FakeModel(latency_s=0.05, parallel=2)
    pipeline = qa(model, 100)
    browser = opened(pipeline)
    seen: list[dict[str, Any]] = []

    def click() -> None:
        browser.until(lambda s: s["waiting"])
        time.sleep(0.3)
        seen.append(browser.ask("stop"))

    clicks = threading.Thread(target=click)
    run = pipeline.start()
    clicks.start()
    with pytest.raises(dfn.RunInterrupted, match="Stopped: ") as caught:
        run.result()
    clicks.join()
    assert seen[0]["stopping"] is True
    assert 0 < len(caught.value.result) < 100
    assert run.result() is caught.value.result, "asked again it is no longer loud"


def test_another_pipelines_cell_is_none_of_its_business(opened: Opened) -> None:
    model = dfn.FakeModel()
    browser = opened(qa(model))
    qa(dfn.FakeModel(name="other")).run(show_progress=False)
    assert browser.state["phase"] == "idle"
    assert not browser.panel.runs.snapshot()


def test_records_of_two_drafts_never_stand_in_one_table(opened: Opened) -> None:
    browser = opened(qa(dfn.FakeModel(lambda r: r.messages[-1]["content"])))
    browser.ask("run_one", record=0)
    browser.until(lambda s: s["focus"])
    browser.ask("run_one", record=1)
    browser.until(lambda s: s["tables"]["final"]["n"] == 2)
    browser.ask("draft", step="ask", prompt="Other: {text}")
    browser.ask("run_one", record=2)
    browser.until(lambda s: s["focus"] and s["tables"]["final"]["n"] == 1)
    assert [r["v"][2] for r in browser.rows()] == ["Other: text 2"]
    assert browser.until(lambda s: s["stale"] == "")


def test_the_figures_at_the_end_are_those_of_all_steps(opened: Opened) -> None:
    model = dfn.FakeModel()
    two = qa(model, n=6) >> dfn.LLMStep(
        prompt="Rate {question}", output_columns=["score"], model=model
    ).as_step("rate")
    browser = opened(two)
    browser.ask("run", confirmed=True)
    state = browser.until(lambda s: s["phase"] in ("done", "limited"))
    progress = state["progress"]
    assert progress["new"] == model.calls == 12
    assert [line["step"] for line in progress["lines"]] == ["ask", "rate"]


def test_a_result_that_cannot_be_shown_is_said(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dfn.FakeModel()
    browser = opened(qa(model, n=2))

    def broken(*_: Any) -> None:
        raise RuntimeError("no table today")

    with monkeypatch.context() as patched:  # `undo()` would take back this test's own memo too
        patched.setattr(browser.panel.shelf, "show", broken)
        browser.ask("run", confirmed=True)
        state = browser.until(lambda s: s["error"])
    assert "no table today" in state["error"]["text"]
    assert model.calls == 2
    browser.ask("run", confirmed=True)
    browser.until(lambda s: s["phase"] == "done" and s["error"] is None)
    browser.ended()
    assert [r["s"] for r in browser.rows()] == ["memo", "memo"]
    assert model.calls == 2
