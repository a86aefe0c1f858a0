"""Figures of the panel against what the run did: bills, failures, budgets, states, at awkward moments."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from browser_stand_in import Browser

import datafast_nb as dfn
from datafast_nb.engine import watching
from datafast_nb.engine.llmstage import LLMStage
from datafast_nb.errors import LLMError
from datafast_nb.widgets import growth

Opened = Callable[..., Browser]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "EVERY_S", 0.0)


def asking(name: str, answer: Any = None, **settings: Any) -> dfn.LLMStep:
    """A step that writes the column of its name."""
    model = dfn.FakeModel(answer, name=name, price=(1_000.0, 2_000.0), **settings)
    return dfn.LLMStep(prompt=f"{name} {{x}}", output_columns=[name], model=model).as_step(name)


def source(n: int) -> Any:
    """Records with their number as text."""
    return dfn.Source.list([{"x": str(i)} for i in range(n)])


class Two:
    """Two steps that ask: the first loses two calls, the second waits behind its first answer."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        one = asking("one", self.first, parallel=1)
        two = asking("two", self.second, parallel=1)
        self.pipeline = source(8) >> one >> two

    def first(self, request: Any) -> Any:
        text = request.messages[-1]["content"]
        return LLMError("too rude", kind="refused") if text in ("one 1", "one 4") else "A"

    def second(self, request: Any) -> str:
        if not request.messages[-1]["content"].endswith(" 0"):
            assert self.opened.wait(20)
        return "B"


def at_the_second(state: dict[str, Any]) -> bool:
    progress = state["progress"]
    return bool(progress and progress["lines"][0]["step"] == "two" and progress["done"])


def test_failures_of_steps_that_are_through_are_counted_while_the_next_one_asks(
    opened: Opened,
) -> None:
    two = Two()
    view = opened(two.pipeline, limit=None)
    try:
        view.ask("run", confirmed=True)
        state = view.until(at_the_second)
        assert state["errors"] == {"n": 2}
        assert [(g["step"], g["n"]) for g in view.ask("errors")["groups"]] == [("one", 2)]
    finally:
        two.opened.set()
    view.ended()
    assert view.state["errors"] == {"n": 2}


def test_a_panel_of_a_run_under_way_has_its_whole_bill_and_all_failures(opened: Opened) -> None:
    two = Two()
    run = two.pipeline.start(confirm=True)
    try:
        first = opened(run.panel())
        first.until(at_the_second)
        late = opened(run.panel())
        state = late.until(lambda s: s["progress"] and s["errors"]["n"])
        bill = late.ask("cost")
        assert [line["step"] for line in bill["lines"]] == ["one", "two"]
        assert bill["total"]["paid"] == pytest.approx(state["progress"]["paid"])
        assert [g["n"] for g in late.ask("errors")["groups"]] == [2]
    finally:
        two.opened.set()
    late.ended()
    assert late.ask("cost")["total"]["paid"] == pytest.approx(run.result().ledger.paid_usd)


def test_the_record_of_a_live_failure_is_the_one_that_failed(opened: Opened) -> None:
    """Records overtake each other between two steps that ask; the third asks when they are in order."""
    first = threading.Event()
    gate = threading.Event()

    def a(request: Any) -> str:
        if request.messages[-1]["content"] == "a 0" and not first.is_set():
            first.set()
            return ""  # is asked again: the others overtake it
        return "A"

    def b(request: Any) -> Any:
        is_seven = request.messages[-1]["content"].endswith(" 7")
        return LLMError("bad seven", kind="refused") if is_seven else "B"

    def c(_: Any) -> str:
        assert gate.wait(20)
        return "C"

    again = dfn.LLMStep(
        prompt="a {x}",
        output_columns=["a"],
        model=dfn.FakeModel(a, name="a", price=(1.0, 2.0), parallel=8, latency_s=0.05),
        on_error="retry",
        max_retries=2,
    ).as_step("a")
    pipeline = (
        source(20)
        >> again
        >> asking("b", b, parallel=8, latency_s=0.05)
        >> dfn.Sample(n=18, strategy="first")
        >> asking("c", c, parallel=1)
    )
    view = opened(pipeline, limit=None, budget=500.0)
    try:
        view.ask("run", confirmed=True)
        view.until(
            lambda s: (
                s["progress"]
                and s["progress"]["lines"][-1]["step"] == "c"
                and s["progress"]["in_flight"]
            )
        )
        (group,) = view.ask("errors")["groups"]
    finally:
        gate.set()
    view.ended()
    (after,) = view.ask("errors")["groups"]
    assert "7" in after["input"]
    assert group["input"] == after["input"]


def test_a_budget_is_shown_of_the_run_that_it_binds(opened: Opened) -> None:
    step = asking("one", latency_s=0.01)
    view = opened(source(3) >> step, limit=None, budget=9.0)
    view.ask("run", confirmed=True)
    state = view.ended()
    assert state["progress"]["budget"] == 9.0
    view.ask("set", controls={"budget": 4.0})
    assert view.until(lambda s: s["controls"]["budget"] == 4.0)["progress"]["budget"] == 9.0
    view.panel.pipeline.run(confirm=True)  # as a cell does, which says nothing of a budget
    assert view.until(lambda s: s["what"] == "cell")["progress"]["budget"] is None


def test_the_bill_of_a_run_that_ends_in_a_users_mistake_is_kept(opened: Opened) -> None:
    def broken(_: Any) -> Any:
        raise ValueError("not a number")

    pipeline = source(5) >> asking("one") >> dfn.Map(broken)
    view = opened(pipeline, limit=None)
    for begin in ("panel", "cell"):
        if begin == "panel":
            view.ask("run", confirmed=True)
        else:
            with pytest.raises(ValueError, match="not a number"):
                pipeline.run(confirm=True)
        state = view.until(lambda s, b=begin: s["phase"] == "failed" and (s["what"] == "cell") == (b == "cell"))  # type: ignore[misc]  # fmt: skip
        assert "not a number" in state["error"]["text"]
        view.ended()
        total = view.ask("cost")["total"]
        assert total["new"] + total["memo"] == 5
        if begin == "panel":
            assert total["paid"] == pytest.approx(state["progress"]["paid"])
            assert total["paid"] > 0
        assert {s["name"]: s["n_out"] for s in view.state["steps"]}["one"] == 5


def test_failures_without_a_call_are_shown_where_they_end_the_run(opened: Opened) -> None:
    step = dfn.LLMStep(
        prompt="one {x}", output_columns=["y"], model=dfn.FakeModel(), on_error="raise"
    ).as_step("one")
    mixed = dfn.Source.list([{"x": "a"}, {"z": "b"}])
    view = opened(mixed >> dfn.Filter(lambda r: "z" in r) >> step, limit=None)
    view.ask("run", confirmed=True)
    view.until(lambda s: s["phase"] == "failed")
    view.ended()
    assert view.ask("cost")["lines"] == []
    assert view.state["errors"] == {"n": 1}
    (group,) = view.ask("errors")["groups"]
    assert "no column 'x'" in group["example"]


def test_a_retry_that_ends_in_a_users_mistake_leaves_the_table(opened: Opened) -> None:
    bad = {"one 2"}
    is_broken = [False]

    def answer(request: Any) -> Any:
        return LLMError("no", kind="refused") if request.messages[-1]["content"] in bad else "A"

    def maybe(record: Any) -> Any:
        if is_broken[0]:
            raise ValueError("not a number")
        return record

    view = opened(source(5) >> asking("one", answer) >> dfn.Map(maybe), limit=None)
    view.ask("run", confirmed=True)
    assert view.ended()["tables"]["final"]["n"] == 4
    bad.clear()
    is_broken[0] = True
    view.ask("retry_failed")
    view.until(lambda s: s["phase"] == "failed")
    assert view.ended()["tables"]["final"]["n"] == 4


def test_a_price_of_other_controls_is_never_told(opened: Opened) -> None:
    slow = threading.Event()

    def wait(record: Any) -> Any:
        slow.wait(0.02)
        return record

    view = opened(source(60) >> dfn.Map(wait) >> asking("one"), limit=2)
    view.until(lambda s: s["estimate"] and s["estimate"]["new"] == 2)
    begin = len(view.states)
    view.ask("set", controls={"limit": 50})
    view.until(lambda s: s["estimate"] and s["estimate"]["new"] == 50)
    for state in view.states[begin:]:
        if state["controls"]["limit"] == 50 and state["estimate"] is not None:
            assert state["estimate"]["new"] == 50
    assert any(s["estimate"] is None for s in view.states[begin:])
    begin = len(view.states)
    view.ask("set", controls={"record": 3})  # of no weight for the price
    view.until(lambda s: s["controls"]["record"] == 3)
    assert all(s["estimate"] for s in view.states[begin:])


def test_a_prompt_is_shown_for_the_record_that_is_named(opened: Opened) -> None:
    view = opened(source(100) >> asking("one"), limit=None)
    view.ask("set", controls={"record": 40})
    assert view.ask("draft", step="one", prompt="Tell {x}")["rendered"] == "Tell 40"
    view.ask("set", controls={"record": 90})
    said = view.ask("draft", step="one", prompt="Tell {x}")
    assert not said["rendered"], "better none than another record's"


def test_an_estimate_stands_once_for_a_step_with_two_models(opened: Opened) -> None:
    models = [dfn.FakeModel(name=name, price=(1_000.0, 2_000.0)) for name in ("ma", "mb")]
    step = dfn.LLMStep(prompt="Say {x}", output_columns=["y"], model=models).as_step("one")
    pipeline = source(4) >> step
    view = opened(pipeline, limit=None)
    estimate = view.until(lambda s: s["estimate"] and s["estimate"]["likely"])["estimate"]
    view.ask("run", confirmed=True)
    view.ended()
    bill = view.ask("cost")
    assert len(bill["lines"]) == 2
    known = [line["estimated"] for line in bill["lines"] if line["estimated"] is not None]
    assert known == [pytest.approx(estimate["likely"])]
    assert bill["total"]["estimated"] == pytest.approx(estimate["likely"])
    pipeline.run()
    view.until(lambda s: s["what"] == "cell")
    view.ended()
    bill = view.ask("cost")
    assert bill["total"]["memo"] == 8
    assert bill["total"]["estimated"] is None, "it was foreseen for another run"


def test_a_row_far_down_can_be_pinned(opened: Opened) -> None:
    pipeline = (
        source(6_500)
        >> dfn.Filter(lambda r: r["x"] != "0")
        >> asking("one")
        >> dfn.Filter(lambda r: r["x"] != "5")
    )
    pipeline.run(confirm=True, show_progress=False)
    view = opened(pipeline, limit=None)
    view.ask("run", confirmed=True)
    view.ended()
    assert view.ask("pin", row=6_000, on=True)["pins"] == [6_000]
    assert view.ask("pin", row=3_000, on=True)["pins"] == [6_000, 3_000]
    assert view.ask("pin", row=6_000, on=False)["pins"] == [3_000]


def test_a_state_never_comes_behind_a_newer_one(opened: Opened) -> None:
    """The pulse is held in the middle of a push, while the cell's thread says that it goes on."""
    pipeline = source(3) >> asking("one")
    view = opened(pipeline, limit=1)
    view.until(lambda s: s["estimate"])
    widget = view.panel.widget
    assert widget is not None
    push, held, go = widget.push, threading.Event(), threading.Event()

    def slow(state: dict[str, Any]) -> None:
        if threading.current_thread().name.endswith("pulse") and state["waiting"]:
            held.set()
            go.wait(2)
        push(state)

    vars(widget)["push"] = slow

    threading.Timer(0.5, go.set).start()
    with pytest.raises(RuntimeError), watching.waited(pipeline._tail):
        assert held.wait(20)
        raise RuntimeError("ended with nothing")
    assert view.until(lambda s: not s["waiting"])["phase"] == view.panel.state()["phase"]


def test_a_handle_that_is_kept_holds_no_step(opened: Opened) -> None:
    run = (source(40) >> asking("one", latency_s=0.005)).start(confirm=True)
    view = opened(run.panel())
    view.ended()
    view.panel.close()
    assert len(run.result()) == 40
    run._thread.join(10)
    gc.collect()
    # By type: the class of a proxy whose object is gone cannot be asked for.
    assert not [o for o in gc.get_objects() if type(o) is LLMStage]
