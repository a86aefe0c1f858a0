"""The table of a panel grows while a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from browser_stand_in import Browser

from datafast_nb import FakeModel, LLMStep, Pipeline, Source
from datafast_nb.engine.events import Finished, Grown, RunStarted
from datafast_nb.errors import LLMError
from datafast_nb.widgets import growth


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "EVERY_S", 0.0)


Opened = Callable[..., Browser]


class Gate:
    """A model that answers the first few, and the others when it is opened."""

    def __init__(self, first: int, refused: tuple[str, ...] = ()) -> None:
        self.first = first
        self.refused = refused
        self.opened = threading.Event()
        self.model = FakeModel(self.answer, parallel=1, price=(1.0, 2.0))

    def answer(self, request: Any) -> Any:
        text = request.messages[-1]["content"]
        if int(text.split()[-1]) >= self.first:
            assert self.opened.wait(20)
        if text in self.refused:
            return LLMError("too rude", kind="refused")
        return f"answer to {text}"


def asked(n: int, model: FakeModel) -> Pipeline:
    rows = [{"id": i} for i in range(n)]
    step = LLMStep(prompt="Say {id}", output_columns=["said"], model=model)
    return Source.list(rows) >> step.as_step("ask")


def test_rows_come_while_the_run_goes_on_and_the_result_takes_their_place(opened: Opened) -> None:
    gate = Gate(4)
    view = opened(asked(30, gate.model), limit=None)
    try:
        view.ask("run", confirmed=True)
        grown = view.until(lambda s: s["stale"].startswith("so far") and s["tables"]["final"]["n"])
        assert grown["phase"] == "running"
        assert "ask" in grown["stale"]
        n = grown["tables"]["final"]["n"]
        assert 1 <= n <= 4
        graph = {node["id"]: node["badge"] for node in view.ask("graph")["nodes"]}
        assert graph["ask"].endswith("of 30 calls")
        assert [s["name"] for s in view.state["steps"] if s["live"]] == ["ask"]
        rows = view.rows(n=n)
        assert [r["v"][:2] for r in rows] == [[str(i), f"answer to Say {i}"] for i in range(n)]
        assert {r["s"] for r in rows} == {"new"}
        assert "ended" in view.refused("pin", row=0, on=True)
        assert view.ask("record", step="final", row=0)["lineage"][0]["values"]["id"] == "0"
        gate.opened.set()
        view.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 30)
        assert view.state["stale"] == ""
        assert len(view.rows()) == 30
        graph = {node["id"]: node["badge"] for node in view.ask("graph")["nodes"]}
        assert graph["ask"] == "30 → 30 · 30 new"
    finally:
        gate.opened.set()


def test_what_grew_gives_way_to_the_result_of_a_run_that_is_stopped(opened: Opened) -> None:
    gate = Gate(3)
    view = opened(asked(10, gate.model), limit=None)
    try:
        view.ask("run", confirmed=True)
        view.until(lambda s: s["tables"]["final"]["n"] >= 1 and s["stale"].startswith("so far"))
        assert view.ask("stop")["stopping"]
        gate.opened.set()
        state = view.until(lambda s: s["phase"] == "stopped" and not s["stale"])
        result = view.panel.result
        assert result is not None
        assert state["tables"]["final"]["n"] == len(result) >= 3
    finally:
        gate.opened.set()


def test_a_table_grows_by_a_tenth_at_least_and_a_step_behind_takes_over() -> None:
    shown: list[tuple[str, int]] = []
    made = {"a": 0, "b": 0}
    heard = growth.Growth(lambda step, records, _: shown.append((step, len(records))))

    def reader(step: str) -> Any:
        def finished(start: int) -> Finished:
            n = max(0, made[step] - start)
            return Finished([{"id": start + i} for i in range(n)], [True] * n, made[step])

        return finished

    heard(RunStarted(("a", "b")))
    for made["a"] in (1, 10, 10, 100, 101, 105, 110, 111):
        heard(Grown("a", 1, reader("a")))
        heard(Grown("b", 2, reader("b")))
    assert shown == [("a", 1), ("a", 10), ("a", 100), ("a", 110)]
    made["b"] = 2
    heard(Grown("b", 2, reader("b")))
    heard(Grown("a", 1, reader("a")))
    assert shown[4:] == [("b", 2)]


def test_a_broken_reader_does_not_disturb_the_run() -> None:
    heard = growth.Growth(lambda *_: None)

    def broken(_: int) -> Finished:
        raise RuntimeError("no")

    for _ in range(3):
        heard(Grown("a", 1, broken))


def test_bill_and_failures_are_there_while_the_run_goes_on(opened: Opened) -> None:
    gate = Gate(6, refused=("Say 1", "Say 4"))
    view = opened(asked(30, gate.model), limit=None, budget=1.0)
    try:
        view.ask("run", confirmed=True)
        going = view.until(
            lambda s: (
                s["progress"] and (s["progress"]["done"], s["progress"]["in_flight"]) == (6, 1)
            )
        )
        assert going["phase"] == "running"
        assert going["errors"] == {"n": 2}
        assert "in flight" in repr(view.panel.runs._run.view())  # type: ignore[union-attr]
        (group,) = view.ask("errors")["groups"]
        assert (group["n"], group["step"], group["rows"]) == (2, "ask", [])
        assert "too rude" in group["example"]
        assert "1" in group["input"]
        bill = view.ask("cost")
        assert [(b["step"], b["new"], b["failed"]) for b in bill["lines"]] == [("ask", 6, 2)]
        assert bill["note"].startswith("So far")
        assert bill["total"]["paid"] == pytest.approx(going["progress"]["paid"])
        assert bill["total"]["paid"] > 0
    finally:
        gate.opened.set()
    ended = view.until(lambda s: s["phase"] == "done" and s["tables"]["final"]["n"] == 28)
    assert ended["progress"]["in_flight"] is None
    assert view.panel.going is None
    (group,) = view.ask("errors")["groups"]
    assert (group["n"], group["rows"]) == (2, [28, 29])
    bill = view.ask("cost")
    assert (bill["total"]["new"], bill["total"]["failed"]) == (30, 2)
    assert not bill["note"].startswith("So far")
