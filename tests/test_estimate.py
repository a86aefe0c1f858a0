"""Estimates: calls counted exactly where prompts are known, ranges, words, and what runs leave behind."""

from __future__ import annotations

import math
import os
import sqlite3
import statistics
import time
from hashlib import blake2b
from random import Random
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_server import StubServer

from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMError,
    LLMStep,
    Map,
    MemoError,
    OpenAICompatibleModel,
    OpenAIModel,
    Sample,
    Source,
    options,
)
from datafast_nb.display.views import Facts, Head, Legend, Table, plain
from datafast_nb.estimate import ExecutionEstimate, Range
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.models.pricing import Price
from datafast_nb.ranges import N_DRAWS, Uncertain, share
from datafast_nb.store.measured import (
    MAX_NAMES,
    Fan,
    Fit,
    Replies,
    StepFigures,
    add_figures,
    read_figures,
)
from datafast_nb.store.memo import Memo, open_memo

N_SEQUENCES = int(os.environ.get("ESTIMATE_SEQUENCES", "30"))


def rows(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"text number {1000 + i}"} for i in range(n)]


def ask(model: Any = None, name: str = "ask", prompt: str = "Ask {text}", **more: Any) -> LLMStep:
    given: dict[str, Any] = {"output_columns": ["q"], "retry_delay": 0} | more
    return LLMStep(prompt=prompt, model=model or FakeModel(), **given).as_step(name)


def steps(estimate: ExecutionEstimate) -> dict[str, Any]:
    return {s.name: s for s in estimate.steps}


# The count of new calls is what a server then receives.


class Edited:
    """A pipeline in the hands of someone who edits it."""

    def __init__(self, seed: int, server: StubServer) -> None:
        self.rng = Random(seed)
        self.server = server
        self.rows = [{"n": i, "text": f"row {i}"} for i in range(self.rng.randint(2, 9))]
        self.n_rows = len(self.rows)
        self.prompts = ["Ask about {text}"]
        self.temperature = 0.7
        self.num_outputs = 1
        self.models = ["one"]
        self.has_second = False
        self.fault = ""
        self.result: Any = None

    def pipeline(self) -> Any:
        models = [OpenAICompatibleModel(m, self.server.url) for m in self.models]
        made: Any = Source.list([dict(r) for r in self.rows]) >> ask(
            models,
            prompt=self.prompts[-1],
            temperature=self.temperature,
            num_outputs=self.num_outputs,
            max_retries=0,
        )
        if self.has_second:
            made = made >> Filter(lambda r: r["n"] % 3 != 1).as_step("some")
            made = made >> ask(models[0], "again", "More of {q}", output_columns=["b"])
        return made

    def edit(self) -> str:
        name = self.rng.choice(
            [
                "add",
                "remove",
                "duplicate",
                "reorder",
                "prompt",
                "back",
                "temperature",
                "outputs",
                "model",
                "second",
                "fault",
                "nothing",
            ]
        )
        rng = self.rng
        if name == "add":
            self.n_rows += 1
            self.rows.insert(
                rng.randint(0, len(self.rows)), {"n": self.n_rows, "text": f"row {self.n_rows}"}
            )
        elif name == "remove" and self.rows:
            self.rows.pop(rng.randrange(len(self.rows)))
        elif name == "duplicate" and self.rows:
            self.rows.append(dict(rng.choice(self.rows)))
        elif name == "reorder":
            rng.shuffle(self.rows)
        elif name == "prompt":
            self.prompts.append(f"Version {len(self.prompts)} about {{text}}")
        elif name == "back":
            self.prompts.append(self.prompts[0])
        elif name == "temperature":
            self.temperature = rng.choice([0, 0.3, 0.7])
        elif name == "outputs":
            self.num_outputs = rng.randint(1, 3)
        elif name == "model":
            self.models = ["one", "two"] if len(self.models) == 1 else ["one"]
        elif name == "second":
            self.has_second = not self.has_second
        elif name == "fault":
            self.fault = rng.choice(["", "400", "500", "empty"])
        return name

    def fails(self, number: int, body: dict[str, Any]) -> str | None:
        text = str(body["messages"][-1]["content"])
        return self.fault if self.fault in ("400", "500") and "3" in text else None

    def answer(self, number: int, body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        return "" if self.fault == "empty" and "3" in text else f"answer {number}"

    def act(self) -> tuple[float | None, int]:
        """Estimate and run; the estimated calls (None: not exact) and those that were first asked."""
        pipeline = self.pipeline()
        kind = self.rng.choice(["run", "run", "limit", "spread", "one", "retry"])
        settings: dict[str, Any] = {}
        if kind in ("limit", "spread"):
            settings = {"limit": self.rng.randint(0, 6)}
            if kind == "spread":
                settings["pick"] = "spread"
        estimate = None
        if kind in ("run", "limit", "spread"):
            estimate = pipeline.estimate(**settings)
        before = self.server.n_requests
        result: Any = None
        try:
            if kind == "one":
                if self.rows:
                    pipeline.run_one(self.rng.randrange(len(self.rows)))
            elif kind == "retry" and self.result is not None:
                self.result.retry_failed()
            elif kind != "retry":
                result = self.result = pipeline.run(**settings, show_progress=False)
        except LLMError as exc:  # every record was lost
            result = exc.result
        except (IndexError, ValueError):
            assert kind in ("one", "retry")
        received = self.server.n_requests - before
        if estimate is None:
            return None, received
        again = sum(c.attempts - 1 for c in result.call_rows if c.attempts > 1)
        return (estimate.total_llm_calls if estimate.is_exact else None), received - again


@pytest.mark.parametrize("seed", range(N_SEQUENCES))
def test_an_exact_count_is_what_the_server_receives(seed):
    with StubServer(record=False) as server:
        edited = Edited(seed, server)
        server.faults, server.answer = edited.fails, edited.answer
        n_exact = 0
        story = []
        for _ in range(8):
            story.append(edited.edit())
            estimated, received = edited.act()
            if estimated is not None:
                n_exact += 1
                assert estimated == received, story
        assert n_exact


# Ranges and what they rest on.


def test_ranges_add_up_and_unknown_stays_unknown():
    both = Range(1, 2, 4) + Range.exact(3)
    assert both == Range(4, 5, 7) and both.is_known and not both.is_exact
    assert not (both + Range.exact(math.nan)).is_known
    assert Range.exact(3).is_exact


def test_uncertain_figures_are_joined_draw_by_draw():
    p = share("p", 5, 10)
    assert len(p.draws) == N_DRAWS and p.likely == 0.5
    twice = p + p
    assert twice.draws == (p * 2.0).draws  # what is shared stays shared
    assert (p - p).range == Range.exact(0.0)
    assert p.at_most(0.5).range.high == 0.5 and p.at_least(0.5).range.low == 0.5
    unknown = Uncertain(math.nan)
    assert not (p + unknown).range.is_known
    assert not p.at_least(unknown).range.is_known and not unknown.at_least(0.0).range.is_known
    assert share("p", 5, 10) == p


@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)).map(lambda t: (round(t[0]), round(t[1]))),
        min_size=2,
        max_size=40,
    ),
    st.integers(0, 40),
)
def test_fits_are_the_same_in_parts(pairs, cut):
    whole, first, second = Fit(), Fit(), Fit()
    for i, (x, y) in enumerate(pairs):
        whole.add(x, y)
        (first if i < cut else second).add(x, y)
    first.merge(second)
    assert first.to_list() == pytest.approx(whole.to_list(), rel=1e-6, abs=1e-3)
    assert whole.yy / (len(pairs) - 1) == pytest.approx(
        statistics.variance([y for _, y in pairs]), rel=1e-6, abs=1e-6
    )


def test_ranges_narrow_with_what_is_measured_and_follow_the_size_of_prompts():
    rng = Random(1)

    def width(n: int, *, noise: float) -> float:
        fit = Fit()
        for _ in range(n):
            x = rng.uniform(100, 1_000)
            fit.add(x, x / 4 * math.exp(rng.gauss(0, noise)))
        made = fit.expect("y", 2_000, 1_000, scatter=0.4, is_proportional=True)
        assert made.likely == pytest.approx(500, rel=0.35)
        return made.range.high / made.range.low

    assert width(200, noise=0.05) < width(20, noise=0.05) < width(3, noise=0.05)
    assert width(20, noise=0.05) < width(20, noise=0.5)
    assert width(200, noise=0.05) < 1.15


def test_the_range_of_one_reply_is_wide_and_that_of_many_narrow():
    def estimate(n: int) -> ExecutionEstimate:
        model = FakeModel(lambda r: "w " * (20 + hash_of(r) % 20), price=(1.0, 10.0), name=f"m{n}")
        pipeline = Source.list(rows(100)) >> ask(model)
        pipeline.run(limit=n)
        return pipeline.estimate()

    ratios = [e.cost.high / e.cost.low for e in map(estimate, (0, 1, 5, 50))]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 10 and ratios[-1] < 1.3


def hash_of(request: Request) -> int:
    return int(blake2b(request.messages[-1]["content"].encode(), digest_size=4).hexdigest(), 16)


def test_an_edited_prompt_is_estimated_from_replies_to_the_former_one():
    model = FakeModel("six words in each answer here", price=(1.0, 10.0))
    before = Source.list(rows(60)) >> ask(model) >> Filter(lambda r: r["id"] % 4 == 0).as_step("f")
    before = before >> ask(model, "next", "{q}", output_columns=["b"])
    before.run(limit=20)
    after = Source.list(rows(60)) >> ask(model, prompt="Now ask {text}")
    after = after >> Filter(lambda r: r["id"] % 4 == 0).as_step("f")
    after = after >> ask(model, "next", "{q}", output_columns=["b"])
    estimate = after.estimate()
    words = dict(estimate.basis)
    assert "prompt of 'ask' changed" in words["new because"]
    assert "next waits for answers of ask" in words["new because"]
    assert "20 replies to another prompt of this step" in words["tokens out"]
    assert "f: 5 of 20 records of an earlier run stay" in words["records"]
    by_name = steps(estimate)
    assert by_name["ask"].output_tokens == pytest.approx(60 * 6)
    assert by_name["next"].calls.likely == pytest.approx(15)
    assert 2 <= by_name["next"].calls.low < 15 < by_name["next"].calls.high <= 40
    assert by_name["ask"].calls == Range.exact(60)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"temperature": 0.1}, "temperature"),
        ({"max_tokens": 50}, "max_tokens"),
        ({"system_prompt": "Be kind."}, "system_prompt"),
        ({"resample": 1}, "resample"),
        ({"examples": [{"text": "a", "q": "b"}]}, "examples"),
    ],
)
def test_what_was_changed_is_named(change, name):
    (Source.list(rows(4)) >> ask()).run()
    estimate = (Source.list(rows(4)) >> ask(**change)).estimate()
    assert f"{name} of 'ask' changed" in dict(estimate.basis)["new because"]


def test_new_records_are_no_change_of_the_prompt():
    (Source.list(rows(4)) >> ask()).run()
    estimate = (Source.list(rows(6)) >> ask()).estimate()
    assert dict(estimate.basis)["new because"] == "not asked before: 2 of ask"


def test_figures_of_other_steps_calibrate_tokens_per_byte():
    model = FakeModel(
        lambda r: Response("ok", usage=Usage(len(r.messages[-1]["content"]), 1)), price=(1.0, 1.0)
    )
    (Source.list([{"text": f"{i} " * 200} for i in range(30)]) >> ask(model)).run()
    fresh = Source.list([{"t": "x" * 984}] * 5) >> ask(model, "other", "{t}", output_columns=["z"])
    assert fresh.estimate().steps[-1].input_tokens == pytest.approx(5 * 1_000, rel=0.1)


def test_kept_figures_that_are_damaged_are_ignored():
    pipeline = Source.list(rows(5)) >> ask()
    pipeline.run(limit=2)
    memo = open_memo()
    name = next(n for n in _meta_names(memo) if n.startswith("measured/"))
    for bad in (None, [], {"v": 1}, {"v": 99}, {"v": 1, "settings": 3, "models": 1, "after": 0}):
        memo.set_meta(name, bad)
        assert pipeline.estimate().total_llm_calls == 3
    good = {"v": 1, "settings": {}, "models": {"m": {"in": [1], "out": [], "s": [], "n": []}}}
    memo.set_meta(name, good | {"after": {}})
    assert pipeline.estimate().total_llm_calls == 3
    pipeline.run()
    assert read_figures(memo, "ask", ["q"]) is not None


def _meta_names(memo: Any) -> list[str]:
    con = sqlite3.connect(next(memo.path.glob("*.db")))
    try:
        found = con.execute("SELECT key FROM Cache WHERE key LIKE '!meta/%'").fetchall()
    finally:
        con.close()
    return [key.removeprefix("!meta/") for (key,) in found]


def test_kept_figures_survive_their_json_and_stay_small():
    replies = Replies()
    for i in range(2_000):
        replies.add(100 + i % 7, (30 + i % 5, 10 + i % 11), 0.5, is_usable=i % 10 != 0)
    add_figures(open_memo(), "s", ["q"], StepFigures({"prompt": "a"}, {"m": replies}))
    kept = read_figures(open_memo(), "s", ["q"])
    assert kept is not None
    back = kept.models["m"]
    assert back.n_calls == 500 and back.n_usable == 450
    assert back.tokens_out.y == pytest.approx(replies.tokens_out.y)
    assert len(str(kept)) < 2_000


def test_a_longer_look_is_not_replaced_by_a_glance():
    known = StepFigures({"prompt": "a"}, {}, {"f": Fan(100, 30, 30)})
    known.update(StepFigures({"prompt": "b"}, {}, {"f": Fan(1, 1, 1), "g": Fan(1, 2, 4)}))
    assert known.after["f"].n == 100 and known.after["g"].total == 2
    known.update(StepFigures({"prompt": "b"}, {}, {"f": Fan(20, 2, 2)}))
    assert known.after["f"].total == 2


def test_figures_of_runs_at_the_same_time_add_up():
    memo = open_memo()

    def add() -> None:
        for _ in range(15):
            replies = Replies()
            replies.add(100, (30, 10), 0.5, is_usable=True)
            add_figures(memo, "s", ["q"], StepFigures({"prompt": "a"}, {"m": replies}))

    threads = [Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = read_figures(memo, "s", ["q"])
    assert kept is not None and kept.models["m"].n_calls == pytest.approx(60)


def test_figures_of_the_latest_models_and_steps_are_kept():
    known = StepFigures({"prompt": "a"})
    for i in range(30):
        replies = Replies()
        replies.add(100, (30, 10), 0.5, is_usable=True)
        known.update(StepFigures({"prompt": "a"}, {"m0": replies, f"m{i}": replies}))
        known.update(StepFigures({"prompt": "a"}, {}, {f"f{i}": Fan(9, 9, 9)}))
    assert len(known.models) == len(known.after) == MAX_NAMES
    assert "m0" in known.models and "m29" in known.models and "m5" not in known.models
    assert "f29" in known.after and "f0" not in known.after


def test_a_run_that_asks_nothing_leaves_nothing():
    pipeline = Source.list(rows(3)) >> ask()
    pipeline.run()
    before = sorted(_meta_names(open_memo()))
    kept = read_figures(open_memo(), "ask", ["q"])
    pipeline.run()
    pipeline.estimate()
    assert sorted(_meta_names(open_memo())) == before
    assert read_figures(open_memo(), "ask", ["q"]) == kept


def test_a_memo_that_takes_no_figures_does_not_spoil_the_run(monkeypatch):
    def refuse(*_: Any) -> None:
        raise MemoError("no room")

    monkeypatch.setattr(Memo, "set_meta", refuse)
    assert len((Source.list(rows(3)) >> ask()).run()) == 3


# Dollars.


def test_calls_asked_again_are_part_of_the_price():
    def answer(request: Request) -> Response:
        is_first = len(request.messages) == 1
        odd = int(request.messages[0]["content"].split()[-1]) % 20 < 11
        return Response("" if odd and is_first else "fine", usage=Usage(100, 100))

    pipeline = Source.list(rows(40)) >> ask(FakeModel(answer, price=(1.0, 1.0)))
    pipeline.run(limit=20)
    estimate = pipeline.estimate()
    words = dict(estimate.basis)
    assert words["asked again"] == "1.55 replies a call, as measured" and "not counted" not in words
    assert estimate.cost.likely == pytest.approx(20 * 1.55 * 200 / 1e6)


def test_a_price_known_in_part_is_said_in_part():
    known = FakeModel("a b", name="known", price=(10.0, 10.0))
    mystery = FakeModel("a b", name="mystery", provider="someone")
    estimate = (Source.list(rows(4)) >> ask([known, mystery])).estimate()
    assert math.isnan(estimate.total_estimated_cost) and math.isnan(estimate.usd_per_record)
    assert estimate.known_cost.likely > 0 and estimate.unpriced == ("mystery",)
    head = estimate.view().blocks[0]
    assert isinstance(head, Head) and head.title.endswith(" + unknown")
    assert "mystery, unknown" in dict(estimate.basis)["price"]


def test_nothing_with_an_unknown_price_is_called_naught():
    mystery = FakeModel("a b", name="mystery", provider="someone")
    pipeline = Source.list(rows(4)) >> ask(mystery)
    head = pipeline.estimate().view().blocks[0]
    assert isinstance(head, Head) and head.title == "unknown price"
    pipeline.run()
    head = pipeline.estimate().view().blocks[0]
    assert isinstance(head, Head) and head.title == "$0"


def test_what_providers_cache_is_cheaper():
    price = Price(10.0, 0.0, cached_input_per_mtok_usd=1.0)
    model = FakeModel(lambda r: Response("ok", usage=Usage(1_000, 1, 500)), price=price)
    pipeline = Source.list(rows(30)) >> ask(model)
    pipeline.run(limit=10)
    estimate = pipeline.estimate()
    assert estimate.cost.likely == pytest.approx(20 * (500 * 10 + 500 * 1) / 1e6, rel=0.01)
    assert estimate.cost.low < pipeline.run().ledger.total.paid_usd < estimate.cost.high


def test_replies_are_not_thought_longer_than_they_may_be():
    model = FakeModel("w " * 90, price=(0.0, 1.0))
    pipeline = Source.list(rows(50)) >> ask(model, max_tokens=100)
    first = pipeline.estimate()
    pipeline.run(limit=1)
    for estimate in (first, pipeline.estimate()):
        assert estimate.cost.high <= estimate.calls.high * 100 / 1e6 * 1.0001


def test_saved_and_per_record_dollars():
    model = FakeModel("four words each time", price=(0.0, 100.0))
    pipeline = Source.list(rows(10)) >> ask(model, num_outputs=2)
    pipeline.run(limit=4)
    estimate = pipeline.estimate()
    assert estimate.total_saved_usd == pytest.approx(8 * 4 * 100 / 1e6)
    assert estimate.records.likely == 20
    # What a further record costs: the 8 on disk are paid.
    assert estimate.new_records == 12
    assert estimate.usd_per_record == pytest.approx(estimate.cost.likely / 12)
    assert steps(estimate)["ask"].models == {"fake": 12}
    assert math.isnan((Source.list([]) >> ask(model)).estimate().usd_per_record)


def test_equal_questions_are_counted_and_saved_once():
    model = FakeModel("four words each time", price=(0.0, 100.0))
    pipeline = Source.list([{"text": "same"}] * 10) >> ask(model, temperature=0)
    estimate = pipeline.estimate()
    assert (estimate.total_llm_calls, estimate.total_shared) == (1, 9)
    legend = next(b for b in estimate.view().blocks if isinstance(b, Legend))
    said = [plain(i) for i in legend.items]
    assert said == ["○ 1 new call", "9 shared at temperature 0"]
    cells = [plain(c.line) for c in table_of(estimate).rows[1]]  # type: ignore[union-attr]
    assert cells[:5] == ["ask", "10", "–", "9", "1"]
    pipeline.run()
    estimate = pipeline.estimate()
    assert (estimate.total_answered, estimate.total_shared) == (10, 0)
    assert estimate.total_saved_usd == pytest.approx(4 * 100 / 1e6)


def test_the_source_is_counted_and_not_what_was_read_of_it(tmp_path):
    even = Filter(lambda r: r["id"] % 2 == 0).as_step("even")
    estimate = (Source.list(rows(30)) >> even >> ask()).estimate(limit=5)
    assert estimate.total_records == 30 and "5 of 30 records" in repr(estimate)
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"id": {i}, "text": "t"}}\n' for i in range(30)))
    limited = (Source.file(file) >> even >> ask()).estimate(limit=5)
    assert limited.total_records is None and " of 30 " not in repr(limited)
    whole = (Source.file(file) >> even >> ask()).estimate()
    assert whole.total_records == 30 and "15 of 30 records" in repr(whole)


def test_models_of_one_step_are_told_apart_in_the_basis():
    seen, other = FakeModel("a b c", name="seen"), FakeModel("a b c", name="other")
    (Source.list(rows(10)) >> ask(seen)).run(limit=5)
    words = dict((Source.list(rows(10)) >> ask([seen, other])).estimate().basis)
    assert "ask, seen: " in words["tokens out"] and "ask, other: " in words["tokens out"]


def test_what_no_count_depends_on_is_not_run():
    seen: list[str] = []

    def noted(word: str) -> Any:
        return Map(lambda r: seen.append(word) or r)

    free = (Source.list(rows(9)) >> noted("free") >> Filter(lambda r: True)).estimate()
    assert seen == [] and free.total_llm_calls == 0 and "not counted" in repr(free)
    assert (Source.list(rows(9)) >> noted("free")).estimate(limit=4).records == Range.exact(4)
    pipeline = Source.list(rows(9)) >> noted("before") >> ask() >> noted("after")
    pipeline.run()
    seen.clear()
    estimate = pipeline.estimate()
    assert seen == ["before"] * 9 and estimate.records == Range.exact(9)
    assert [s.records_out for s in estimate.steps] == [9, 9, 9, 9]


def test_many_steps_are_estimated_in_reasonable_time():
    pipeline: Any = Source.list(rows(3))
    for i in range(60):
        column = "text" if not i else f"c{i - 1}"
        model = FakeModel(price=(1.0, 2.0))
        pipeline = pipeline >> ask(model, f"s{i}", f"{i} {{{column}}}", output_columns=[f"c{i}"])
    started = time.process_time()
    first = pipeline.estimate()
    assert time.process_time() - started < 2.5
    assert pipeline.estimate().cost == first.cost


# Time.


@pytest.mark.parametrize(("parallel", "seconds"), [(None, 2.5), (1, 40.0)])
def test_time_follows_from_latency_and_calls_in_flight(parallel, seconds):
    model = FakeModel("ok", parallel=parallel, name=f"m{parallel}")
    pipeline = Source.list(rows(100)) >> ask(model)
    pipeline.run(limit=20)
    assert pipeline.estimate().seconds.high < 1
    memo = open_memo()
    figures = read_figures(memo, "ask", ["q"])
    assert figures is not None
    # An edited prompt takes its time from earlier runs: those are told to have been slow.
    for replies in figures.models.values():
        replies.seconds.y = 0.4
    add_figures(memo, "ask", ["q"], StepFigures({"prompt": "x"}, figures.models))
    edited = (Source.list(rows(100)) >> ask(model, prompt="Otherwise {text}")).estimate()
    assert edited.seconds.likely == pytest.approx(seconds, rel=0.01)
    assert edited.seconds.low < seconds < edited.seconds.high < 3 * seconds
    assert f"{parallel or 16} in flight" in dict(edited.basis)["time"]


def test_time_is_unknown_until_a_call_was_timed():
    estimate = (Source.list(rows(3)) >> ask()).estimate()
    assert not estimate.seconds.is_known
    head = estimate.view().blocks[0]
    assert isinstance(head, Head) and "time unknown" in plain(head.facts)
    assert "unknown" in dict(estimate.basis)["time"]


# Steps behind pending answers.


def test_a_filter_of_which_nothing_is_known_bounds_the_calls():
    pipeline = Source.list(rows(30)) >> ask() >> Filter(lambda r: True).as_step("f")
    pipeline = pipeline >> ask(None, "next", "{q}", output_columns=["b"])
    estimate = pipeline.estimate()
    calls = steps(estimate)["next"].calls
    assert calls.likely == calls.high == 30 and calls.low < 5
    assert "≤ 30" in repr(estimate)
    assert dict(estimate.basis)["records"] == "f: assumed that all stay"


def test_a_filter_that_kept_none_may_keep_some():
    pipeline = Source.list(rows(100)) >> ask() >> Filter(lambda r: r["id"] >= 20).as_step("f")
    pipeline = pipeline >> ask(None, "next", "{q}", output_columns=["b"])
    pipeline.run(limit=20)
    calls = steps(pipeline.estimate())["next"].calls
    assert calls.likely == 0 and calls.low == 0 and 3 < calls.high < 25


def test_failures_at_hand_lower_what_comes_out():
    model = FakeModel(lambda r: "" if r.messages[-1]["content"].endswith("1") else "ok")
    pipeline = Source.list(rows(100)) >> ask(model, max_retries=0)
    pipeline.run(limit=20)
    estimate = pipeline.estimate()
    assert steps(estimate)["ask"].failed_before == 2
    assert estimate.records.likely == pytest.approx(18 + 80 * 0.9)
    assert 70 < estimate.records.low < 90 < estimate.records.high <= 98


def test_skipped_records_ask_nothing_also_behind_pending_answers():
    pipeline = Source.list(rows(40)) >> ask()
    pipeline = pipeline >> ask(
        None, "next", "{q}", output_columns=["b"], skip_if=lambda r: r["id"] % 2 == 0
    )
    pipeline.run(limit=20)
    by_name = steps(pipeline.estimate())
    assert by_name["next"].calls.likely == pytest.approx(10)
    assert by_name["next"].out.likely == pytest.approx(40)
    fresh = Source.list(rows(40)) >> ask(prompt="New {text}", name="other")
    fresh = fresh >> ask(None, "new", "{q}", output_columns=["b"], skip_if=lambda r: True)
    calls = steps(fresh.estimate())["new"].calls
    assert calls.low < 5 and calls.high == 40


def test_a_choice_behind_pending_answers_keeps_its_size():
    pipeline = Source.list(rows(50)) >> ask() >> Sample(n=10).as_step("some")
    pipeline = pipeline >> ask(None, "next", "{q}", output_columns=["b"])
    by_name = steps(pipeline.estimate())
    assert by_name["some"].out.likely == 10
    assert by_name["next"].calls.high == 10 and not by_name["next"].is_exact


def test_a_limit_at_a_later_step_bounds_its_calls():
    pipeline = Source.list(rows(50)) >> ask()
    pipeline = pipeline >> ask(None, "next", "{q}", output_columns=["b"])
    by_name = steps(pipeline.estimate(limit=7, limit_at="next"))
    assert by_name["ask"].calls == Range.exact(50)
    assert by_name["next"].calls.likely == 7 and by_name["next"].calls.high == 7


def test_equal_questions_behind_pending_answers_may_be_one():
    pipeline = Source.list([{"id": i, "text": f"t {i % 2}"} for i in range(40)]) >> ask()
    pipeline = pipeline >> ask(None, "next", "About {text}", output_columns=["b"], temperature=0)
    pipeline.run(limit=20)
    calls = steps(pipeline.estimate())["next"].calls
    assert calls.low <= 2 and calls.likely <= 4 and calls.high <= 20


def test_a_step_in_rounds_says_how_many_calls_it_expects():
    class Rounds(LLMStep):
        def expected_calls(self, record: dict[str, Any]) -> tuple[int, int, int]:
            return 1, 2, 5

    step = Rounds(prompt="{text}", output_columns=["q"], model=FakeModel()).as_step("rounds")
    estimate = (Source.list(rows(10)) >> step).estimate()
    calls = estimate.calls
    assert not estimate.is_exact and calls.likely == 20
    assert 10 <= calls.low < 20 < calls.high <= 50


def test_fan_outs_are_scaled_with_their_scatter():
    def parts(r: dict[str, Any]) -> list[dict[str, Any]]:
        return [r] * (1 + r["id"] % 3)

    pipeline = Source.list(rows(90)) >> ask() >> FlatMap(parts).as_step("fan")
    pipeline = pipeline >> ask(None, "next", "{q}", output_columns=["b"])
    pipeline.run(limit=30)
    calls = steps(pipeline.estimate())["next"].calls
    assert calls.likely == pytest.approx(120)
    assert 80 < calls.low < 120 < calls.high < 170


# What is shown.


def table_of(estimate: ExecutionEstimate) -> Table:
    return next(b for b in estimate.view().blocks if isinstance(b, Table))


def test_the_view_answers_what_it_costs_first():
    model = FakeModel("four words each time", name="gpt-4o-mini", provider="openai")
    pipeline = Source.list(rows(1_000)).as_step("articles")
    pipeline = pipeline >> Filter(lambda r: r["id"] < 868).as_step("long_enough") >> ask(model)
    pipeline.run(limit=2)
    estimate = pipeline.estimate()
    head, legend, *_ = estimate.view().blocks
    assert isinstance(head, Head) and head.title.startswith("$0.00")
    assert plain(head.facts).startswith("for a full run, range $0.00")
    assert isinstance(legend, Legend)
    said = [plain(i) for i in legend.items]
    assert said[0] == "○ 866 new calls" and said[1].startswith("● 2 in the memo, saving $0.0000")
    assert said[2] == "868 of 1,000 articles"
    rows_shown = [[plain(c.line) for c in row] for row in table_of(estimate).rows]  # type: ignore[union-attr]
    assert rows_shown[0] == ["articles", "1,000", "", "", "", "", "free", "", ""]
    assert rows_shown[2][:4] == ["ask", "868", "2", "866"]
    facts = next(b for b in estimate.view().blocks if isinstance(b, Facts))
    assert [f.label for f in facts.facts] == [
        "tokens in", "tokens out", "price", "time", "new because", "not counted",
    ]  # fmt: skip
    price = dict(estimate.basis)["price"]
    assert price.startswith("gpt-4o-mini, $0.15 in and $0.60 out per 1M tokens, genai-prices")
    assert "per finished record" in repr(estimate)


def test_the_view_says_why_there_is_nothing_to_pay():
    pipeline = Source.list(rows(3)) >> ask()
    pipeline.run()
    head = pipeline.estimate().view().blocks[0]
    assert isinstance(head, Head)
    assert (head.title, plain(head.facts)) == ("$0", "every answer is on disk")
    assert [c.name for c in table_of(pipeline.estimate()).columns] == [
        "step", "records", "memo", "new", "cost",
    ]  # fmt: skip
    head = (Source.list(rows(3)) >> Map(dict)).estimate().view().blocks[0]
    assert isinstance(head, Head)
    assert (head.title, plain(head.facts)) == ("$0", "no step asks a model")


def test_a_free_model_is_free_and_a_limit_is_named():
    head = (Source.list(rows(9)) >> ask()).estimate(limit=4).view().blocks[0]
    assert isinstance(head, Head)
    assert head.title == "free" and plain(head.facts).startswith("for run(limit=4)")


def test_a_missing_key_is_a_warning_and_no_key_is_shown(monkeypatch):
    model = OpenAIModel("gpt-4o-mini")
    estimate = (Source.list(rows(2)) >> ask(model)).estimate()
    assert any("OPENAI_API_KEY is not set" in n for n in estimate.notes)
    assert "! OPENAI_API_KEY is not set" in repr(estimate)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    estimate = (Source.list(rows(2)) >> ask(model)).estimate()
    assert estimate.notes == ()
    assert all("sk-planted" not in text for text in estimate._repr_mimebundle_().values())


def test_the_same_question_has_the_same_answer_and_displays_are_bounded():
    model = [FakeModel("a b c", name="m" * 300 + str(i), price=(1.0, 2.0)) for i in range(30)]
    pipeline: Any = Source.list(rows(10)) >> ask(model, "n" * 200) >> Filter(lambda r: True)
    for k in range(6):
        pipeline = pipeline >> ask(model[0], f"s{k}", "{q}", output_columns=[f"c{k}"])
    pipeline.run(limit=1)
    first, second = pipeline.estimate(), pipeline.estimate()
    assert first.view() == second.view()
    assert all(len(text) < 60_000 for text in first._repr_mimebundle_().values())


def test_the_memo_is_named_without_the_machines_paths(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    options.home = tmp_path / "kept"
    estimate = (Source.list(rows(2)) >> ask()).estimate()
    assert "memo: kept/memo" in repr(estimate)
    assert all(str(tmp_path) not in text for text in estimate._repr_mimebundle_().values())


def test_no_range_goes_beyond_what_prompt_and_max_tokens_can_cost():
    counts = [(9, 3), (300, 900), (12, 2), (700, 4), (5, 800), (40, 3), (11, 2)]

    def answer(request: Request) -> Response:
        n = int(request.messages[-1]["content"].split()[1])
        return Response(text="fine", usage=Usage(*counts[n % 7]))

    model = FakeModel(answer, price=(2.5, 10))
    source = Source.list([{"text": f"{i} " + "word " * (5 + 5 * i)} for i in range(8)])
    pipeline = source >> LLMStep(prompt="Ask {text}", output_columns=["q"], model=model)
    pipeline.run(limit=7)
    # 300 bytes and a frame of 1,000 tokens at $2.50, 1,024 tokens at $10.
    assert pipeline.estimate().cost.high <= (1_300 * 2.5 + 1_024 * 10) / 1e6
