"""The question before a large run: asked in notebooks alone, before the first call, and in time."""

from __future__ import annotations

import inspect
import re
import time

import pytest

import datafast_nb as dfn
from datafast_nb.engine import confirm
from datafast_nb.options import options

PRICE = (20.0, 80.0)


@pytest.fixture
def asks():
    options.confirm = True


def texts(n, word="text"):
    return [{"text": f"{word} {i}"} for i in range(n)]


def asking(model, n=400, **more):
    return dfn.Source.list(texts(n)) >> dfn.LLMStep(
        "on {text}", output_columns=["q"], model=model, **more
    ).as_step("ask")


def priced(**more):
    return dfn.FakeModel("fine", price=PRICE, provider="acme", **more)


def test_a_large_run_is_asked_about_before_its_first_call(asks, tmp_path):
    model = priced()
    out, folder = tmp_path / "out.jsonl", tmp_path / "ck"
    pipeline = asking(model) >> dfn.Sink.jsonl(str(out))
    with pytest.raises(dfn.ConfirmationRequired) as caught:
        pipeline.run(checkpoint_dir=folder)
    assert model.calls == 0 and not out.exists() and not folder.exists()
    assert dfn.last is None or dfn.last.pipeline is not pipeline
    asked = caught.value
    assert asked.estimate.calls.likely == 400
    said = str(asked)
    assert "400 new calls" in said and "Nothing has been asked" in said
    assert "not asked before: all 400 of ask" in said and asked.line in said
    shown = "\n".join(asked._render_traceback_())
    assert said in shown and "tokens out" in shown


def test_the_line_that_it_gives_runs_it(asks):
    model = priced()
    pipeline = asking(model, 60, max_tokens=400)
    options.confirm_above_usd = 0.01
    with pytest.raises(dfn.ConfirmationRequired) as caught:
        pipeline.run(limit=50, pick="spread", max_concurrent=4)
    line = caught.value.line
    bound = float(
        re.fullmatch(r"\.run\(limit=50, pick='spread', max_concurrent=4, budget=(.+)\)", line)[1]
    )
    assert caught.value.estimate.cost.high <= bound <= 1.11 * caught.value.estimate.cost.high
    result = eval(f"pipeline{line}", {"pipeline": pipeline})
    assert len(result) == model.calls == 50


@pytest.mark.parametrize(
    "given", [{"budget": 1_000.0}, {"max_calls": 400}, {"confirm": True}, {"limit": 3}]
)
def test_a_bound_a_yes_or_a_small_run_is_not_asked_about(asks, given):
    model = priced()
    result = asking(model, 300).run(**given)
    assert len(result) == model.calls == given.get("limit", 300)


def test_scripts_are_not_asked_and_notebooks_are(monkeypatch):
    model = priced()
    options.confirm_above_usd = 0.0
    pipeline = asking(model, 3)
    assert len(pipeline.run()) == 3
    monkeypatch.setattr(confirm, "in_notebook", lambda: True)
    more = asking(model, 6)
    with pytest.raises(dfn.ConfirmationRequired):
        more.run()
    options.confirm = False
    assert len(more.run()) == 6


def test_what_the_memo_answers_is_not_asked_about(asks):
    model = priced()
    asking(model).run(confirm=True)
    assert len(asking(model).run()) == 400
    assert len(asking(model, 403).run()) == 403
    assert model.calls == 403


def test_a_prompt_that_changed_is_named(asks):
    model = priced()
    asking(model).run(confirm=True)
    options.confirm_above_usd = 0.001
    changed = dfn.Source.list(texts(400)) >> dfn.LLMStep(
        "about {text}", output_columns=["q"], model=model
    ).as_step("ask")
    with pytest.raises(dfn.ConfirmationRequired, match="prompt of 'ask' changed"):
        changed.run()


def test_free_models_are_asked_about_for_their_time_alone(asks):
    model = dfn.FakeModel("fine", latency_s=0.02)
    options.confirm_above_usd = 0.0
    assert len(asking(model, 20).run(max_concurrent=1)) == 20
    options.confirm_above_minutes = 0.01
    with pytest.raises(dfn.ConfirmationRequired) as caught:
        asking(model, 400).run(max_concurrent=1)
    assert caught.value.line == ".run(max_concurrent=1, confirm=True)"
    assert "take" in str(caught.value) and "cost" not in str(caught.value).splitlines()[0]
    options.confirm_above_minutes = None
    assert len(asking(model, 30).run()) == 30


def test_an_unknown_price_is_no_reason_to_ask_and_is_no_bound(asks):
    unknown = dfn.FakeModel("fine", provider="nobody")
    assert len(asking(unknown, 400).run()) == 400


def test_start_asks_at_once(asks):
    model = priced()
    with pytest.raises(dfn.ConfirmationRequired):
        asking(model).start()
    assert model.calls == 0
    assert len(asking(model).start(confirm=True).result(timeout_s=60)) == 400


def test_run_and_start_take_the_same_word():
    for method in (dfn.Pipeline.run, dfn.Pipeline.start):
        assert inspect.signature(method).parameters["confirm"].default is False


def test_steps_that_are_not_run_do_not_count(asks):
    model = priced()
    pipeline = (
        dfn.Source.list(texts(400))
        >> dfn.Map(lambda r: r)
        >> dfn.LLMStep("{text}", output_columns=["q"], model=model)
    )
    assert len(pipeline.run(stop_after=1)) == 400 and model.calls == 0


@pytest.mark.parametrize("seconds", [0.002, 0.2])
def test_slow_functions_hold_the_question_up_for_a_few_seconds_only(asks, monkeypatch, seconds):
    monkeypatch.setattr(confirm, "MAX_S", 0.3)
    monkeypatch.setattr(confirm, "MAX_SAMPLE_S", 0.5)
    model = priced()

    def slow(record):
        time.sleep(seconds)
        return [record] * 3

    pipeline = (
        dfn.Source.list(texts(50_000))
        >> dfn.FlatMap(slow)
        >> dfn.LLMStep("{text}", output_columns=["q"], model=model)
    )
    started = time.monotonic()
    with pytest.raises(dfn.ConfirmationRequired) as caught:
        pipeline.run()
    assert time.monotonic() - started < 30
    assert model.calls == 0
    if seconds == 0.002:
        assert caught.value.estimate.calls.likely == pytest.approx(150_000, rel=0.05)
        assert "from the first" in str(caught.value)
    else:
        assert caught.value.estimate is None and caught.value.line == ".run(confirm=True)"
        assert "nobody knows" in str(caught.value)


def test_an_error_of_a_users_function_is_the_runs_own(asks):
    def broken(record):
        raise ZeroDivisionError("mine")

    pipeline = (
        dfn.Source.list(texts(3))
        >> dfn.Map(broken)
        >> dfn.LLMStep("{text}", output_columns=["q"], model=priced())
    )
    with pytest.raises(ZeroDivisionError, match="mine"):
        pipeline.run()


def test_the_estimate_for_the_question_takes_little_time(asks):
    pipeline = asking(priced(), 5_000)
    started = time.monotonic()
    with pytest.raises(dfn.ConfirmationRequired):
        pipeline.run()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("usd", "said"), [(0.0123, "0.013"), (1.0, "1"), (3.41, "3.5"), (152.3, "160"), (99.5, "100")]
)
def test_the_proposed_budget_is_the_upper_end_rounded_up(usd, said):
    assert confirm._round_up(usd) == said


def test_what_counts_is_the_likely_cost_and_not_the_worst(asks):
    pipeline = asking(priced(), 40, max_tokens=2_000)
    cost = pipeline.estimate().cost
    assert cost.low < cost.likely < cost.high
    options.confirm_above_usd = (cost.likely + cost.high) / 2
    assert len(pipeline.run(limit=1)) == 1
    cost = pipeline.estimate().cost
    options.confirm_above_usd = cost.likely * 0.9
    with pytest.raises(dfn.ConfirmationRequired, match=r"may cost about \$"):
        pipeline.run()
    options.confirm_above_usd = cost.likely * 1.1
    assert len(pipeline.run()) == 40
