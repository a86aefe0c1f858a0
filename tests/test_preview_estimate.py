"""Looking is free: previews of the first records, and estimates of what a run would ask and cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMError,
    LLMStep,
    Map,
    OpenAICompatibleModel,
    Pipeline,
    PipelineValidationError,
    Sample,
    Sink,
    Source,
    Step,
    options,
)
from datafast_nb.display.views import Cell, Section, Table, plain
from datafast_nb.estimate import StepEstimate
from datafast_nb.models.base import Request
from datafast_nb.models.pricing import price_of
from datafast_nb.steps.base import SourceStep

Record = dict[str, Any]


class Counting(SourceStep):
    """A source that counts what is taken from it."""

    def __init__(self, n: int, *, is_counted: bool = True) -> None:
        self.n = n
        self.is_counted = is_counted
        self._taken = 0

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        for start in range(0, self.n, chunk):
            stop = min(self.n, start + chunk)
            self._taken += stop - start
            yield [{"n": i, "text": f"text {i}"} for i in range(start, stop)]

    def count(self) -> int | None:
        return self.n if self.is_counted else None

    def columns(self) -> list[str]:
        return ["n", "text"]

    @property
    def taken(self) -> int:
        return self._taken


class Unasked(FakeModel):
    """Fails the test that asks it, and has a price."""

    async def complete(self, request: Request) -> Any:
        raise AssertionError("something free asked the model")


class Calls:
    """A function of one record that keeps the records it saw."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seen: list[int] = []
        self.seconds = seconds

    def __call__(self, record: Record) -> Record:
        self.seen.append(record["n"])
        if self.seconds:
            time.sleep(self.seconds)
        return record


def rows(n: int) -> list[Record]:
    return [{"n": i, "text": f"text {i}"} for i in range(n)]


def ask(model: Any = None, name: str = "ask", prompt: str = "Ask {text}", **more: Any) -> LLMStep:
    given: dict[str, Any] = {"output_columns": ["q"]} | more
    return LLMStep(prompt=prompt, model=model or FakeModel(), retry_delay=0, **given).as_step(name)


def display(pipeline: Pipeline) -> str:
    return pipeline._repr_mimebundle_()["text/plain"]


def previewed(pipeline: Pipeline) -> list[list[str]]:
    """Words of the cells of the preview in a pipeline's display."""
    sections = [b for b in pipeline.view().blocks if isinstance(b, Section)]
    body = next(s.body for s in sections if s.title == "Preview")
    rows = next((b.rows for b in body if isinstance(b, Table)), ())
    return [[plain(c.line) if isinstance(c, Cell) else str(c.value) for c in row] for row in rows]


def steps_of(pipeline: Pipeline, **settings: Any) -> dict[str, StepEstimate]:
    return {s.name: s for s in pipeline.estimate(**settings).steps}


# Previews: what they read and run.


@pytest.mark.parametrize("k", [0, 1, 5, 40])
def test_preview_shows_the_first_k_records(k):
    shown = (Source.list(rows(100)) >> Map(lambda r: {**r, "m": r["n"] * 2})).preview(k)
    assert [r["m"] for r in shown] == [2 * i for i in range(k)]


@pytest.mark.parametrize("is_answered", [False, True], ids=["nothing on disk", "answers on disk"])
@pytest.mark.parametrize("look", ["preview", "display"])
def test_a_look_reads_few_rows_of_a_long_source(look, is_answered):
    model = FakeModel()
    source = Counting(1_000_000)
    if is_answered:
        (Source.list(rows(3)) >> ask(model)).run()
    pipeline = source >> Map(lambda r: r) >> ask(model)
    before = source.taken
    started = time.perf_counter()
    if look == "preview":
        shown = pipeline.preview(5)
        assert [r["n"] for r in shown] == [0, 1, 2, 3, 4]
        assert shown.n_pending == (2 if is_answered else 5)
    else:
        assert "Preview" in display(pipeline)
    assert source.taken - before == 5
    assert time.perf_counter() - started < 3


def test_user_functions_run_on_at_most_k_records():
    first, second = Calls(), Calls()
    looked: list[int] = []

    def looks(record: Record) -> bool:
        looked.append(record["n"])
        return record["n"] % 2 == 0

    pipeline = Counting(1_000_000) >> Map(first) >> Filter(fn=looks) >> Map(second) >> ask()
    shown = pipeline.preview(5)
    assert first.seen == looked == [0, 1, 2, 3, 4] and second.seen == [0, 2, 4]
    assert [r["n"] for r in shown] == [0, 2, 4]
    first.seen.clear()
    display(pipeline)
    assert len(first.seen) <= 5


def test_a_fan_out_does_not_make_a_look_long():
    slow = Calls(0.02)
    options.preview_seconds = 0.3
    pipeline = Source.list(rows(3)) >> FlatMap(lambda r: [r] * 300) >> Map(slow)
    started = time.perf_counter()
    display(pipeline)
    assert time.perf_counter() - started < 2.5


def test_a_preview_is_not_longer_than_a_screen():
    shown = (Source.list(rows(5)) >> FlatMap(lambda r: [r] * 1000)).preview()
    assert len(shown) == 50


def test_a_preview_changes_no_record_of_the_source():
    given = [{"n": 0, "list": [1]}]

    def change(record: Record) -> Record:
        record["list"].append(2)
        record["n"] = 9
        return record

    pipeline = Source.list(given) >> Map(change)
    assert list(pipeline.preview()) == [{"n": 9, "list": [1, 2]}]
    assert given == [{"n": 0, "list": [1]}]
    assert list(pipeline.preview()) == [{"n": 9, "list": [1, 2]}]


def test_a_preview_writes_no_file(tmp_path):
    out = tmp_path / "out.jsonl"
    pipeline = Source.list(rows(2)) >> Sink.jsonl(str(out))
    assert len(pipeline.preview()) == 2
    display(pipeline)
    pipeline.estimate()
    assert not out.exists() and list(tmp_path.glob("out*")) == []


# Previews: answers.


def test_answers_that_are_not_on_disk_are_pending():
    model = Unasked()
    shown = (Source.list(rows(7)) >> ask(model)).preview(3)
    assert len(shown) == 3 and shown.n_pending == 3
    assert [repr(r["q"]) for r in shown] == ["pending"] * 3
    assert [r["n"] for r in shown] == [0, 1, 2]
    assert "3 answers pending" in repr(shown)
    assert model.calls == 0


def test_answers_on_disk_are_shown_and_the_others_pending():
    model = FakeModel(lambda r: r.messages[-1]["content"].upper())
    pipeline = Source.list(rows(6)) >> ask(model)
    pipeline.run(limit=2)
    assert model.calls == 2
    shown = pipeline.preview(4)
    assert [r["n"] for r in shown] == [0, 1, 2, 3]
    assert [r["q"] for r in shown[:2]] == ["ASK TEXT 0", "ASK TEXT 1"]
    assert [repr(r["q"]) for r in shown[2:]] == ["pending"] * 2
    assert shown.n_pending == 2 and model.calls == 2


def test_answers_are_looked_up_anew_at_each_display():
    pipeline = Source.list(rows(3)) >> ask(FakeModel(lambda r: "the answer"))
    assert display(pipeline).count("1 call of ask") == 3 and "the answer" not in display(pipeline)
    pipeline.run()
    assert "pending" not in display(pipeline) and "the answer" in display(pipeline)


def test_pending_answers_keep_the_order_of_the_records():
    model = FakeModel("yes")
    (Source.list(rows(6)[3:]) >> ask(model)).run()
    shown = (Source.list(rows(6)) >> ask(model)).preview(5)
    assert [r["n"] for r in shown] == [0, 1, 2, 3, 4]


def test_steps_behind_pending_answers_wait():
    after = Calls()
    pipeline = (
        Source.list(rows(3))
        >> ask()
        >> Map(after)
        >> ask(name="b", prompt="{q}", output_columns=["b"])
    )
    shown = pipeline.preview()
    assert after.seen == [] and shown.n_pending == 3
    (Source.list(rows(3)) >> pipeline.steps[1]).run(limit=1)
    shown = pipeline.preview()
    assert after.seen == [0]
    assert shown.n_pending == 3  # the second step's one, and two of the first


def test_several_answers_a_record_are_each_pending():
    shown = (Source.list(rows(2)) >> ask(num_outputs=3)).preview()
    assert shown.n_pending == 6
    assert "6 answers pending" in repr(shown)


def test_stored_failures_are_no_pending_answers():
    model = FakeModel([LLMError("no", kind="bad_request"), "fine"])
    pipeline = Source.list(rows(2)) >> ask(model)
    pipeline.run(max_concurrent=1)
    shown = pipeline.preview()
    assert [r["n"] for r in shown if r["q"] == "fine"] == [1]


# Previews: choices, options, time.


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_step_that_needs_all_records_of_a_long_source_is_named(is_counted):
    source = Counting(1_000_000, is_counted=is_counted)
    pipeline = source >> Sample(n=3).as_step("some") >> ask()
    shown = pipeline.preview()
    said = " ".join(shown.notes)
    assert "'some'" in said and "needs all records" in said
    assert ("1,000,000" in said) == is_counted
    assert [r["n"] for r in shown] == [0, 1, 2, 3, 4]
    assert source.taken <= 10_000
    assert "needs all records" in display(pipeline) and "needs all records" in repr(shown)


def test_a_choice_from_a_short_source_is_previewed_as_the_run_makes_it():
    pipeline = Source.list(rows(500)) >> Sample(n=20) >> Map(lambda r: {**r, "m": 1})
    whole = list(pipeline.run())
    assert list(pipeline.preview(4)) == whole[:4]


def test_a_choice_of_the_first_records_reads_no_more():
    source = Counting(1_000_000)
    shown = (source >> Sample(n=3, strategy="first") >> ask()).preview()
    assert [r["n"] for r in shown] == [0, 1, 2] and not shown.notes
    assert source.taken <= 10_000


def test_preview_on_display_auto_runs_functions_and_shows_their_errors():
    calls = Calls()
    pipeline = Source.list(rows(3)) >> Map(calls).as_step("mine")
    assert [row[0] for row in previewed(pipeline)] == ["0", "1", "2"]
    assert calls.seen == [0, 1, 2]
    broken = Source.list(rows(3)) >> Map(lambda r: r["no such"]).as_step("mine")
    assert "KeyError" in display(broken) and "step 'mine'" in display(broken)


def test_preview_on_display_safe_runs_no_user_function():
    options.preview_on_display = "safe"
    calls = Calls()

    class Own(Step):
        def process(self, records: Any) -> Any:
            raise AssertionError("safe displays run no user code")

    def skip(record: Record) -> bool:
        raise AssertionError("safe displays run no user code")

    for step in (
        Map(calls).as_step("mine"),
        Own().as_step("mine"),
        FlatMap(lambda r: [calls(r)]).as_step("mine"),
        Filter(fn=lambda r: bool(calls(r))).as_step("mine"),
        ask(name="mine", skip_if=skip),
    ):
        pipeline = Source.list(rows(3)) >> step
        assert "stops before step 'mine'" in display(pipeline)
        assert len(previewed(pipeline)) == 3
    assert calls.seen == []
    text = display(Source.list(rows(3)) >> ask())
    assert text.count("1 call of ask") == 3 and "stops before" not in text


def test_preview_on_display_off_reads_nothing():
    options.preview_on_display = "off"
    source = Counting(10)
    calls = Calls()
    text = display(source >> Map(calls) >> ask())
    assert source.taken == 0 and calls.seen == []
    assert text.startswith("Pipeline(3 steps, 10 records)") and "Preview" not in text


def test_a_slow_function_stops_the_preview_of_a_display_between_records():
    slow = Calls(0.15)
    options.preview_seconds = 0.2
    pipeline = Source.list(rows(100)) >> Map(slow)
    started = time.perf_counter()
    text = display(pipeline)
    assert time.perf_counter() - started < 1.0
    assert 1 <= len(slow.seen) < 5
    assert "stopped early" in text
    n = len(slow.seen)
    is_there = [row[1] != "waiting" for row in previewed(pipeline)]
    assert sum(is_there) >= n


def test_preview_called_by_name_waits_for_slow_functions():
    options.preview_seconds = 0.01
    slow = Calls(0.02)
    shown = (Source.list(rows(10)) >> Map(slow)).preview(6)
    assert len(shown) == 6 and not shown.notes


def test_displaying_twice_runs_user_functions_once():
    calls = Calls()
    pipeline = Source.list(rows(3)) >> Map(calls) >> ask()
    display(pipeline)
    display(pipeline)
    assert calls.seen == [0, 1, 2]


def test_a_preview_of_a_broken_pipeline_says_what_is_wrong():
    with pytest.raises(PipelineValidationError, match="Did you mean 'text'"):
        (Source.list(rows(3)) >> ask(prompt="Ask {txt}")).preview()
    with pytest.raises(ValueError, match="whole number"):
        (Source.list(rows(3)) >> ask()).preview(-1)


# Estimates: counts.


def test_an_estimate_asks_nothing_and_counts_new_calls_exactly():
    model = Unasked()
    pipeline = (
        Source.list(rows(12)) >> Filter(fn=lambda r: r["n"] >= 2).as_step("late") >> ask(model)
    )
    estimate = pipeline.estimate()
    assert (estimate.total_records, estimate.total_llm_calls, estimate.total_answered) == (
        12,
        10,
        0,
    )
    assert estimate.is_exact
    by_name = {s.name: s for s in estimate.steps}
    assert (by_name["late"].records_in, by_name["late"].records_out) == (12, 10)
    assert (by_name["ask"].records_in, by_name["ask"].llm_calls) == (10, 10)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("more", "calls"),
    [
        ({}, 4),
        ({"num_outputs": 3}, 12),
        ({"prompt": ["One {text}", "Two {text}"]}, 8),
        ({"model": [FakeModel(name="a"), FakeModel(name="b")]}, 8),
        ({"language": ["en", "fr", "de"], "prompt": "In {language_name}: {text}"}, 12),
        ({"temperature": [0.1, 0.9], "num_outputs": 2}, 16),
        ({"skip_if": lambda r: r["n"] == 0}, 3),
        ({"prompt": Sample(["One {text}", "Two {text}", "Three {text}"], n=2)}, 8),
    ],
    ids=["one", "draws", "prompts", "models", "languages", "temperatures", "skipped", "sampled"],
)
def test_the_estimated_calls_are_those_of_the_run(more, calls):
    pipeline = Source.list(rows(4)) >> ask(**more)
    estimate = pipeline.estimate()
    assert estimate.total_llm_calls == calls and estimate.is_exact
    result = pipeline.run()
    assert result.ledger.total.new == calls
    after = pipeline.estimate()
    assert (after.total_llm_calls, after.total_answered) == (0, calls)


def test_equal_rows_at_temperature_0_are_one_call():
    pipeline = Source.list([{"text": "same"}] * 5) >> ask(temperature=0)
    estimate = pipeline.estimate()
    assert (estimate.total_llm_calls, estimate.total_answered) == (1, 4)
    assert pipeline.run().ledger.total.new == 1


def test_flat_map_before_the_model_multiplies_calls():
    pipeline = Source.list(rows(4)) >> FlatMap(lambda r: [r] * (r["n"] + 1)).as_step("fan") >> ask()
    by_name = steps_of(pipeline)
    assert by_name["fan"].records_out == 10 and by_name["ask"].llm_calls == 10
    assert pipeline.estimate().is_exact


@pytest.mark.parametrize("limit", [0, 1, 3, 100])
@pytest.mark.parametrize("pick", ["first", "spread", "random"])
def test_the_limit_bounds_the_calls(limit, pick):
    pipeline = Source.list(rows(10)) >> Filter(fn=lambda r: r["n"] >= 4) >> ask(num_outputs=2)
    estimate = pipeline.estimate(limit=limit, pick=pick)
    assert estimate.total_llm_calls == 2 * min(limit, 6)
    assert pipeline.run(limit=limit, pick=pick).ledger.total.new == estimate.total_llm_calls


def test_the_limit_may_count_at_the_source():
    pipeline = Source.list(rows(10)) >> Filter(fn=lambda r: r["n"] >= 4) >> ask()
    assert pipeline.estimate(limit=5, limit_at="source").total_llm_calls == 1


def test_answers_on_disk_are_counted_as_answered():
    pipeline = Source.list(rows(8)) >> ask()
    pipeline.run(limit=3)
    estimate = pipeline.estimate()
    assert (estimate.total_llm_calls, estimate.total_answered) == (5, 3)
    assert (
        pipeline.estimate(limit=3).total_llm_calls,
        pipeline.estimate(limit=4).total_llm_calls,
    ) == (0, 1)


def test_failures_on_disk_are_counted_apart():
    def answer(request: Request) -> Any:
        broken = request.messages[-1]["content"].endswith("2")
        return "" if broken else "fine"

    pipeline = Source.list(rows(4)) >> ask(FakeModel(answer))
    result = pipeline.run()
    assert len(result.errors) == 1
    estimate = pipeline.estimate()
    assert estimate.total_llm_calls == 0 and estimate.total_answered == 3
    assert steps_of(pipeline)["ask"].failed_before == 1
    assert pipeline.run().ledger.total.new == 0


def test_calls_behind_pending_answers_are_guessed_and_marked():
    pipeline = (
        Source.list(rows(6))
        >> ask(num_outputs=2)
        >> Map(lambda r: r).as_step("map")
        >> ask(name="second", prompt="{q}", output_columns=["b"])
    )
    estimate = pipeline.estimate()
    by_name = {s.name: s for s in estimate.steps}
    assert not estimate.is_exact
    assert by_name["ask"].is_exact and by_name["ask"].llm_calls == 12
    assert not by_name["second"].is_exact and by_name["second"].llm_calls == 12
    assert estimate.total_llm_calls == 24
    assert pipeline.run().ledger.total.new == 24
    after = pipeline.estimate()
    assert after.is_exact and (after.total_llm_calls, after.total_answered) == (0, 24)


def test_what_later_steps_did_with_the_answers_at_hand_is_scaled():
    pipeline = (
        Source.list(rows(40))
        >> ask(FakeModel(lambda r: r.messages[-1]["content"].split()[-1]))
        >> Filter(fn=lambda r: int(r["q"]) % 2 == 0).as_step("even")
        >> FlatMap(lambda r: [r] * 3).as_step("fan")
        >> ask(name="second", prompt="{q}", output_columns=["b"])
    )
    pipeline.run(limit=8)
    by_name = steps_of(pipeline)
    assert by_name["ask"].llm_calls == 32 and by_name["ask"].answered == 8
    # Half of the records at hand advanced, each as three: 4 × 3 are answered, 32 / 2 × 3 to come.
    assert by_name["even"].records_out == pytest.approx(20)
    assert by_name["fan"].records_out == pytest.approx(60)
    assert by_name["second"].llm_calls == pytest.approx(48)
    assert by_name["second"].answered == 12


def test_a_limited_estimate_is_exact_where_its_answers_are_on_disk():
    pipeline = Source.list(rows(6)) >> ask() >> ask(name="b", prompt="{q}", output_columns=["b"])
    pipeline.run(limit=2)
    assert pipeline.estimate(limit=2).is_exact
    assert not pipeline.estimate().is_exact


@pytest.mark.parametrize("free", [Sink.list(), Map(lambda r: r)], ids=["sink", "map"])
def test_free_steps_behind_the_model_leave_the_number_of_calls_exact(free):
    estimate = (Source.list(rows(6)) >> ask() >> free).estimate()
    assert estimate.is_exact and estimate.total_llm_calls == 6
    assert "6 new calls" in repr(estimate)


def test_pipelines_without_a_model_cost_nothing():
    estimate = (Source.list(rows(3)) >> Map(lambda r: r)).estimate()
    assert (estimate.total_llm_calls, estimate.total_estimated_cost) == (0, 0)
    assert estimate.is_exact and "$0" in repr(estimate)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 12),
    modulus=st.integers(1, 4),
    fan=st.integers(0, 3),
    outputs=st.integers(1, 3),
    limit=st.none() | st.integers(0, 15),
)
def test_an_exact_estimate_is_what_the_run_asks(tmp_path_factory, n, modulus, fan, outputs, limit):
    options.home = tmp_path_factory.mktemp("memo")
    pipeline = (
        Source.list(rows(n))
        >> Filter(fn=lambda r: r["n"] % modulus == 0)
        >> FlatMap(lambda r: [{**r, "text": f"{r['text']}/{i}"} for i in range(fan)])
        >> ask(num_outputs=outputs)
    )
    estimate = pipeline.estimate(limit=limit)
    assert estimate.is_exact
    assert pipeline.run(limit=limit).ledger.total.new == estimate.total_llm_calls


# Estimates: dollars.


def test_an_unknown_price_is_unknown_and_never_naught():
    model = OpenAICompatibleModel("mine", "http://127.0.0.1:9/v1")
    estimate = (Source.list(rows(3)) >> ask(model)).estimate()
    assert math.isnan(estimate.total_estimated_cost)
    assert estimate.total_llm_calls == 3
    for text in (repr(estimate), estimate._repr_mimebundle_()["text/html"]):
        assert "unknown" in text and "$0" not in text and "nan" not in text.lower()


def test_one_unknown_price_makes_the_sum_unknown():
    unknown = OpenAICompatibleModel("mine", "http://127.0.0.1:9/v1")
    pipeline = (
        Source.list(rows(3)) >> ask() >> ask(unknown, "b", "Ask {text}", output_columns=["b"])
    )
    assert math.isnan(pipeline.estimate().total_estimated_cost)
    both = Source.list(rows(3)) >> ask([FakeModel(), unknown])
    assert math.isnan(both.estimate().total_estimated_cost)


def test_nothing_new_costs_nothing_also_at_an_unknown_price():
    model = FakeModel("fine", name="mystery", provider="someone")
    assert price_of(model) is None
    pipeline = Source.list(rows(2)) >> ask(model)
    assert math.isnan(pipeline.estimate().total_estimated_cost)
    pipeline.run()
    assert pipeline.estimate().total_estimated_cost == 0


def test_dollars_follow_from_measured_tokens_and_the_list_price():
    # Each prompt is three words, each answer four: FakeModel counts words as tokens.
    model = FakeModel("four words each time", price=(2.0, 30.0))
    pipeline = Source.list(rows(10)) >> ask(model)
    pipeline.run(limit=4)
    estimate = pipeline.estimate()
    assert estimate.total_llm_calls == 6
    assert estimate.total_estimated_tokens == pytest.approx(6 * (3 + 4))
    assert estimate.total_estimated_cost == pytest.approx(6 * (3 * 2.0 + 4 * 30.0) / 1e6)
    paid = pipeline.run().ledger.total.paid_usd
    assert paid == pytest.approx(estimate.total_estimated_cost)


def test_dollars_before_the_first_answer_follow_from_the_prompt_and_max_tokens():
    model = Unasked(price=(2.0, 30.0))
    pipeline = Source.list([{"text": "x" * 4_000}] * 5) >> ask(
        model, max_tokens=100, temperature=0.5
    )
    estimate = pipeline.estimate()
    # 4,000 letters are some 1,000 tokens; the answer is assumed to be as long as it may be.
    low = 5 * (1_000 * 2.0 + 100 * 30.0) / 1e6
    assert low <= estimate.total_estimated_cost <= low * 1.1
    assert "assumed 100 output tokens a call" in repr(estimate)


def test_several_models_are_each_counted_at_their_own_price():
    cheap = FakeModel("four words each time", name="cheap", price=(1.0, 1.0))
    dear = FakeModel("four words each time", name="dear", price=(10.0, 100.0))
    pipeline = Source.list(rows(10)) >> ask([cheap, dear])
    pipeline.run(limit=2)
    per_pair = (3 * 1 + 4 * 1 + 3 * 10 + 4 * 100) / 1e6
    estimate = pipeline.estimate()
    assert estimate.total_llm_calls == 16
    assert estimate.total_estimated_cost == pytest.approx(8 * per_pair)


def test_only_the_models_that_are_still_to_be_asked_are_counted():
    cheap = FakeModel("four words each time", name="cheap", price=(1.0, 1.0))
    dear = FakeModel("four words each time", name="dear", price=(10.0, 100.0))
    (Source.list(rows(10)) >> ask(dear)).run()
    pipeline = Source.list(rows(10)) >> ask([cheap, dear])
    estimate = pipeline.estimate()
    assert estimate.total_llm_calls == 10
    assert estimate.total_estimated_cost == pytest.approx(10 * (3 + 4) / 1e6)


def test_the_estimate_names_the_memo_and_its_figures():
    options.home = None
    estimate = (Source.list(rows(3)) >> ask()).estimate()
    text = repr(estimate)
    assert "3 new calls" in text
    assert "memo: " in text and ".datafast_nb" in estimate.memo_path


def test_an_estimate_of_a_broken_pipeline_lists_its_problems():
    with pytest.raises(PipelineValidationError, match="Did you mean 'text'"):
        (Source.list(rows(3)) >> ask(prompt="{txt}")).estimate()
    for bad in ({"limit": -1}, {"limit": 1.5}, {"pick": "last"}, {"limit": True}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
            (Source.list(rows(3)) >> ask()).estimate(**bad)


def test_preview_of_a_sample_shows_what_the_run_gives():
    records = [{"n": i} for i in range(60)]
    pipeline = Source.list(records) >> Sample(n=8)
    assert list(pipeline.preview(5)) == list(pipeline.run())[:5]
    further = pipeline >> Map(lambda r: {**r, "twice": 2 * r["n"]})
    assert list(further.preview(5)) == list(further.run())[:5]
