"""`order="records"`: another schedule, the same result."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, FlatMap, LLMError, LLMStep, Map, Result, Sink, Source
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.store.memo import close_memos

PRICE = (0.0, 1_000.0)


class Scripted:
    """A model whose answers depend on the prompt alone; some calls are slow, some fail."""

    def __init__(self, *, slow: float = 0.0, fails: int = 0, seed: int = 0) -> None:
        self.asked: list[str] = []
        self._slow, self._fails, self._seed = slow, fails, seed
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        prompt = str(request.messages[-1]["content"])
        with self._lock:
            self.asked.append(prompt)
        draw = random.Random(f"{self._seed}{prompt}")
        if self._slow:
            time.sleep(random.random() * self._slow)
        if self._fails and draw.randrange(self._fails) == 0:
            return Response(text="no", finish="refused", usage=Usage(1, 1))
        return Response(text=f"<{len(prompt)}:{draw.randrange(1000)}>", usage=Usage(1, 1))


def three(rows: list[dict[str, Any]], model: FakeModel, **kw: Any) -> dfn.Pipeline:
    return (
        Source.list(rows)
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=model, **kw).as_step("a")
        >> LLMStep(prompt="B {a} {x}", output_columns=["b"], model=model, **kw).as_step("b")
        >> LLMStep(prompt="C {b} {x}", output_columns=["c"], model=model, **kw).as_step("c")
    )


def seen(result: Result) -> dict[str, Any]:
    """All that must not depend on the schedule."""
    info = result.info
    return {
        "records": list(result),
        "row_ids": info.row_ids,
        "tokens": info.tokens,
        "status": info.status,
        "steps": [
            {
                "name": run.name,
                "in": run.n_in,
                "out": run.n_out,
                "fates": run.fates,
                "parents": list(run.parents.all()),
                "table": run.table and (run.table.records, run.table.row_ids, run.table.flat),
                "selected": run.selected and list(run.selected),
                "call_of": run.call_of,
                "calls": [
                    (c.record, c.variant, c.output_index, c.key, c.label, c.status, c.text)
                    for c in run.calls
                ],
                "errors": [(e.record, e.kind, e.input, e.prompt) for e in run.errors],
                "paid": round(run.ledger.paid_usd, 6) if run.ledger is not None else None,
            }
            for run in info.steps
        ],
    }


def in_both_orders(make: Any, home: Path, **kw: Any) -> tuple[Result, Result]:
    found = []
    for order in ("steps", "records"):
        dfn.options.home = home / order
        found.append(make().run(order=order, **kw))
        close_memos()
    return found[0], found[1]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfn.options, "home", tmp_path / "home")


@pytest.mark.parametrize("fails", [0, 7])
def test_the_result_is_that_of_one_step_after_another(tmp_path, fails):
    def make() -> dfn.Pipeline:
        model = FakeModel(Scripted(slow=0.004, fails=fails), price=PRICE)
        return (
            Source.list([{"x": i % 17} for i in range(60)])
            >> Filter(fn=lambda r: r["x"] != 3)
            >> LLMStep(prompt="A {x}", output_columns=["a"], model=model, num_outputs=2)
            >> Map(lambda r: {**r, "n": len(r["a"])})
            >> FlatMap(lambda r: [{**r, "k": k} for k in range(r["x"] % 3)])
            >> LLMStep(
                prompt="B {a} {k}", output_columns=["b"], model=model, skip_if=lambda r: r["n"] > 7
            )
            >> Filter(fn=lambda r: r["x"] % 5 != 4)
            >> Sink.list().as_step("here")
            >> LLMStep(prompt="C {b}", output_columns=["c"], model=model)
            >> Map(lambda r: {**r, "deep": [r["c"]]})
        )

    steps, records = in_both_orders(make, tmp_path)
    assert seen(records) == seen(steps)
    assert len(steps) > 20
    assert bool(steps.errors) == bool(fails)


def test_records_are_finished_one_after_the_other():
    model = FakeModel(script := Scripted(slow=0.002))
    three([{"x": i} for i in range(100)], model).run(order="records", max_concurrent=4)
    first_c = next(i for i, p in enumerate(script.asked) if p.startswith("C"))
    assert first_c < 30
    at_half = Counter(p[0] for p in script.asked[:150])
    assert at_half["C"] >= 40
    assert Counter(p[0] for p in script.asked) == {"A": 100, "B": 100, "C": 100}


def test_half_the_budget_finishes_nearly_half_of_the_rows(tmp_path):
    rows = [{"x": i} for i in range(300)]
    whole = three(rows, FakeModel(Scripted(), price=PRICE)).run()
    cost = whole.ledger.paid_usd
    dfn.options.home = tmp_path / "other"
    model = FakeModel(script := Scripted(slow=0.004), price=PRICE)
    with pytest.raises(dfn.BudgetExceededError) as stopped:
        three(rows, model, max_tokens=1).run(budget=cost / 2, max_concurrent=6)
    part = stopped.value.result
    assert part.ledger.paid_usd <= cost / 2
    assert len(part) >= 0.45 * len(rows)
    assert all(r["c"] for r in part)
    n_asked = len(script.asked)
    done = three(rows, model, max_tokens=1).run(budget=cost)
    assert list(done) == list(whole)
    assert len(script.asked) == 900
    assert n_asked < 460


def test_it_is_what_budgets_and_checkpoints_take(tmp_path):
    def first_after(n: int, **kw: Any) -> bool:
        """Whether some record was through before all had begun."""
        dfn.options.home = tmp_path / str(len(kw) + n)
        model = FakeModel(script := Scripted(), price=PRICE)
        three([{"x": i} for i in range(n)], model, max_tokens=5).run(**kw)
        order = [p[0] for p in script.asked]
        return order.index("C") < len(order) - 1 - order[::-1].index("A")

    assert not first_after(60)
    assert first_after(61, budget=100)
    assert first_after(62, max_calls=1_000)
    assert first_after(63, checkpoint_dir=tmp_path / "ck")
    assert not first_after(64, checkpoint_dir=tmp_path / "ck2", order="steps")
    with pytest.raises(ValueError, match="order is 'rows'; use 'steps', 'records' or None"):
        first_after(5, order="rows")


def test_several_models_of_one_machine_stay_one_step_after_the_other():
    class Here(FakeModel):
        def machine(self) -> str | None:
            return "this one"

    asked: list[str] = []

    def answer(request: Request) -> str:
        asked.append(str(request.messages[-1]["content"])[0])
        return "fine"

    one, two = Here(answer, name="one"), Here(answer, name="two")
    pipeline = (
        Source.list([{"x": i} for i in range(30)])
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=one)
        >> LLMStep(prompt="B {x}", output_columns=["b"], model=two)
    )
    pipeline.run(max_calls=1_000)
    assert asked == ["A"] * 30 + ["B"] * 30


def test_a_mistake_in_a_function_shows_before_all_is_paid():
    def broken(record: dict[str, Any]) -> dict[str, Any]:
        raise ZeroDivisionError("no")

    model = FakeModel(script := Scripted(slow=0.01))
    pipeline = (
        Source.list([{"x": i} for i in range(100)])
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=model)
        >> Map(broken)
        >> LLMStep(prompt="B {a}", output_columns=["b"], model=model)
    )
    with pytest.raises(ZeroDivisionError) as caught:
        pipeline.run(order="records", max_concurrent=4)
    assert "from record 0 of step" in str(caught.value.__notes__)
    assert len(script.asked) < 20


def test_on_error_raise_ends_the_run_at_once():
    def answer(request: Request) -> Response | str:
        prompt = str(request.messages[-1]["content"])
        return Response(text="", finish="refused") if prompt == "B 5" else "fine"

    model = FakeModel(answer)
    pipeline = (
        Source.list([{"x": i} for i in range(100)])
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=model)
        >> LLMStep(prompt="B {x}", output_columns=["b"], model=model, on_error="raise")
    )
    with pytest.raises(LLMError) as caught:
        pipeline.run(order="records", max_concurrent=3)
    part = caught.value.result
    assert 0 < len(part) < 40
    assert [run.n_in for run in part.info.steps][1] == 100
    totals = [run.fates.total for run in part.info.steps[1:]]
    assert totals == [run.n_in for run in part.info.steps[1:]]


def test_a_stop_keeps_what_is_finished_and_the_rest_goes_on(tmp_path):
    rows = [{"x": i} for i in range(80)]
    model = FakeModel(script := Scripted(slow=0.02))
    run = three(rows, model).start(order="records", max_concurrent=4)
    while sum(p.startswith("C") for p in list(script.asked)) < 10:
        time.sleep(0.005)
    run.stop()
    part = run.result()
    assert 5 <= len(part) < 60
    assert part.info.status == "interrupted"
    for step in part.info.steps[1:]:
        assert step.fates.total == step.n_in
        assert len(step.table.records) == step.n_out
    done = three(rows, model).run()
    assert len(script.asked) == 240 == len(set(script.asked))
    assert [r for r in done if r in list(part)] == list(part)


def test_live_sink_grows_while_the_run_goes_on(tmp_path):
    path = tmp_path / "out.jsonl"
    live = tmp_path / "out.jsonl.part"
    seen_early: list[list[dict[str, Any]]] = []

    def answer(request: Request) -> str:
        if live.exists():
            seen_early.append([json.loads(line) for line in live.read_text().splitlines()])
        return f"<{request.messages[-1]['content']}>"

    pipeline = (
        Source.list([{"x": i} for i in range(60)])
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=FakeModel(answer))
        >> Filter(fn=lambda r: r["x"] % 2 == 0)
        >> Sink.jsonl(path, live=True)
    )
    result = pipeline.run(max_concurrent=3)
    assert not live.exists()
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(result)
    assert len(result) == 30
    sizes = list(map(len, seen_early))
    assert sizes == sorted(sizes) and 20 < max(sizes) < 30
    assert all(r["x"] % 2 == 0 and r["a"] for r in seen_early[-1])


def test_live_file_of_a_killed_run_stays_readable(tmp_path):
    import subprocess
    import sys

    code = """
import os, sys
from datafast_nb import FakeModel, LLMStep, Sink, Source
n = 0
def answer(request):
    global n
    n += 1
    if n == 30:
        os.kill(os.getpid(), 9)
    return "fine"
(Source.list([{"x": i} for i in range(50)])
    >> LLMStep(prompt="A {x}", output_columns=["a"], model=FakeModel(answer))
    >> Sink.jsonl("out.jsonl", live=True)).run(max_concurrent=2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    lines = (tmp_path / "out.jsonl.part").read_text().splitlines()
    assert 20 <= len(lines) <= 30
    assert all(json.loads(line)["a"] == "fine" for line in lines)
    assert not (tmp_path / "out.jsonl").exists()


def test_live_sink_that_cannot_grow_says_so_before_money_is_spent(tmp_path):
    (tmp_path / "out.jsonl.part").mkdir()
    model = FakeModel(script := Scripted())
    pipeline = (
        Source.list([{"x": 1}])
        >> LLMStep(prompt="A {x}", output_columns=["a"], model=model)
        >> Sink.jsonl(tmp_path / "out.jsonl", live=True)
    )
    with pytest.raises(dfn.SinkError, match=r"out\.jsonl\.part cannot be written: Is a directory"):
        pipeline.run()
    assert script.asked == []
    with pytest.raises(ValueError, match=r"leave out \.gz"):
        Sink.jsonl("out.jsonl.gz", live=True)


def test_checkpoint_in_this_order_is_resumed(tmp_path):
    rows = [{"x": i} for i in range(40)]
    model = FakeModel(script := Scripted())
    with pytest.raises(dfn.BudgetExceededError):
        three(rows, model).run(checkpoint_dir=tmp_path / "ck", max_calls=70, max_concurrent=3)
    done = three(rows, model).run(checkpoint_dir=tmp_path / "ck", resume=True)
    assert len(script.asked) == 120 == len(set(script.asked))
    again = three(rows, model).run(checkpoint_dir=tmp_path / "ck", resume=True)
    assert list(again) == list(done) and len(done) == 40
    assert len(script.asked) == 120
    dfn.options.home = tmp_path / "fresh"
    assert list(three(rows, FakeModel(Scripted())).run()) == list(done)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_pipelines_in_both_orders(tmp_path_factory, data):
    kinds = data.draw(st.lists(st.sampled_from("LLLMFX"), min_size=1, max_size=6), label="kinds")
    n = data.draw(st.integers(0, 25), label="rows")
    fails = data.draw(st.sampled_from([0, 0, 4]), label="fails")
    in_flight = data.draw(st.integers(1, 8), label="in flight")
    limit = data.draw(st.none() | st.integers(0, 30), label="limit")
    outputs = data.draw(st.integers(1, 2), label="outputs")
    shared = data.draw(st.booleans(), label="temperature 0")

    def make() -> dfn.Pipeline:
        model = FakeModel(Scripted(slow=0.001, fails=fails), price=PRICE)
        made: Any = Source.list([{"x": i % 7, "p": str(i % 3)} for i in range(n)])
        for k, kind in enumerate(["L", *kinds]):
            if kind == "L":
                made = made >> LLMStep(
                    prompt=f"{k} {{p}} {{x}}",
                    output_columns=[f"o{k}"],
                    model=model,
                    num_outputs=outputs if k < 2 else 1,
                    temperature=0 if shared else None,
                )
            elif kind == "M":
                made = made >> Map(lambda r, k=k: {**r, "p": f"{r['p']}{k}"})
            elif kind == "F":
                made = made >> Filter(fn=lambda r, k=k: (r["x"] + k) % 4 != 0)
            else:
                made = made >> FlatMap(lambda r: [r] * (r["x"] % 3))
        return made

    home = tmp_path_factory.mktemp("home")
    found = []
    for order in ("steps", "records"):
        dfn.options.home = home / order
        try:
            result = make().run(order=order, limit=limit, max_concurrent=in_flight)
            found.append(seen(result))
        except LLMError as exc:  # every record was lost
            found.append(seen(exc.result) | {"error": str(exc)})
        close_memos()
    one, two = found
    for run in (*one["steps"], *two["steps"]):
        # Which of the calls that share an answer was the one to ask depends on the schedule.
        run["calls"] = [c[:5] for c in run["calls"]] if shared else run["calls"]
    assert two == one


@pytest.mark.parametrize("in_flight", [1, 4, 16])
@pytest.mark.parametrize("bound", [{"budget": 0.05}, {"max_calls": 45}])
def test_a_small_bound_buys_finished_rows_and_not_beginnings(bound, in_flight):
    # A call may cost ten times what it does: many in flight hold all of a small budget.
    model = FakeModel(script := Scripted(slow=0.004), price=PRICE)
    with pytest.raises(dfn.BudgetExceededError) as stopped:
        three([{"x": i} for i in range(60)], model, max_tokens=10).run(
            **bound, max_concurrent=in_flight
        )
    part = stopped.value.result
    assert len(script.asked) >= 38
    assert len(part) >= len(script.asked) // 3 - 1
    assert part.ledger.paid_usd <= 0.05
