"""`dfn.diff`: which records belong together, what differs, what it would cost, how it shows."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import datafast_nb as dfn
from datafast_nb.compare_sides import Way
from datafast_nb.display import html, markdown, text
from datafast_nb.display.views import PENDING, Cell, Document, Head, Section, Span, Table, plain
from datafast_nb.models.base import Request

ROWS = [{"id": i, "text": f"article number {i} about cats"} for i in range(8)]
V1 = "Write a question a reader would ask about: {text}"
V2 = "Write a hard question a reader would ask about: {text}"


def answer(request: Request) -> dict[str, Any]:
    prompt = request.messages[-1]["content"]
    n = int(re.search(r"number (\d+)", prompt)[1])  # type: ignore[index]
    hard = "hard " if "hard" in prompt and n % 2 else ""
    return {"question": f"What is the {hard}thing about number {n} here?"}


def grade(request: Request) -> dict[str, Any]:
    return {"score": 7 if "hard thing" in request.messages[-1]["content"] else 8}


class Counted(dfn.FakeModel):
    """A model that costs money, under the name that decides its answers' place in the memo."""

    def __init__(self, answers: Any = answer, name: str = "m1") -> None:
        super().__init__(answers, name=name, provider="test", price=(1.0, 4.0))


def build(
    prompt: str = V1,
    *,
    rows: list[dict[str, Any]] | None = None,
    model: dfn.Model | None = None,
    judge: dfn.Model | None = None,
    **settings: Any,
) -> dfn.Pipeline:
    return (
        dfn.Source.list(ROWS if rows is None else rows)
        >> dfn.LLMStep(
            prompt=prompt,
            output_columns={"question": str},
            model=model or Counted(),
            **settings,
        ).as_step("ask")
        >> dfn.LLMStep(
            prompt="Rate {question}",
            output_columns={"score": int},
            model=judge or Counted(grade, "judge"),
        ).as_step("judge")
    )


def forms(made: dfn.Comparison) -> list[str]:
    document = made.view()
    return [text.draw(document), html.draw(document), markdown.draw(document)]


def figure(made: dfn.Comparison, step: str, name: str) -> Any:
    return next(f for f in made.figures if f.step == step and f.name == name)


def all_text(document: Document) -> str:
    return text.draw(document)


# An edited prompt.


def test_an_edited_prompt_in_the_middle_step() -> None:
    made = dfn.diff(build().run(limit=5), build(V2).run(limit=5), names=("v1", "v2"))
    assert [r.index for r in made.changed] == [1, 3]
    assert [r.index for r in made.identical] == [0, 2, 4]
    assert made.only_a == made.only_b == made.pending == []
    assert made.changed[0].changed == ("question", "score")
    assert [(p.step, p.role, p.a, p.b) for p in made.prompts] == [("ask", "user", V1, V2)]
    assert [(c.kind, c.name) for c in made.changes] == [("changed", "ask")]
    mean = figure(made, "", "score")
    assert (mean.a, mean.b, mean.higher, mean.lower) == (8.0, 7.6, 0, 2)
    assert figure(made, "ask", "calls").a == figure(made, "ask", "calls").b == 5


def test_the_display_leads_with_what_changed_and_how_much() -> None:
    made = dfn.diff(build().run(limit=5), build(V2).run(limit=5), names=("v1", "v2"))
    head = made.view().blocks[0]
    assert isinstance(head, Head)
    assert head.title == "ask, v1 → v2"
    assert plain(head.facts) == "same 5 records · 2 answers differ, 3 are identical"
    prompt = next(b for b in made.view().blocks if isinstance(b, Section))
    assert prompt.title == "Prompt"
    line = prompt.body[0].line  # type: ignore[union-attr]
    assert [p.text for p in line if isinstance(p, Span) and p.style == "inserted"] == ["hard"]
    for drawn in forms(made):
        assert "8 → 7" in drawn
        assert "identical" in drawn


def test_figures_are_dollars_per_thousand_records_and_means() -> None:
    a, b = build().run(limit=4), build(V2).run(limit=4)
    made = dfn.diff(a, b)
    ask = [c for c in a.call_rows if c.step == "ask"]
    usd = sum(c.usd or 0 for c in ask)
    assert figure(made, "ask", "cost").a == pytest.approx(usd / 4 * 1000)
    assert figure(made, "all steps", "cost").a == pytest.approx(a.ledger.total.paid_usd / 4 * 1000)
    tokens = figure(made, "ask", "tokens in, mean")
    assert tokens.b - tokens.a == pytest.approx(1)  # one word more


def test_the_same_draws_cost_the_same_whether_asked_or_answered() -> None:
    asked: dict[str, int] = {}

    def moody(request: Request) -> Any:
        prompt = request.messages[0]["content"]
        asked[prompt] = asked.get(prompt, 0) + 1
        if "number 2" in prompt or ("number 5" in prompt and asked[prompt] == 1):
            return "no json"
        return {"question": "Why?"}

    pipeline = dfn.Source.list(ROWS) >> dfn.LLMStep(
        V1, output_columns={"question": str}, model=Counted(moody), retry_delay=0.0
    )
    first, again = pipeline.run(), pipeline.run()
    for old, new in zip(first.call_rows, again.call_rows, strict=True):
        tokens = [(c.input_tokens, c.output_tokens) for c in (old, new)]
        assert tokens[0] == tokens[1] and old.usd == pytest.approx(new.usd)
    made = dfn.diff(first, again)
    assert all(f.a == pytest.approx(f.b) for f in made.figures)
    paid = first.ledger.total
    saved = again.ledger.total
    assert saved.paid_usd == 0 == saved.wasted_usd and saved.failed == 1
    failed = next(c for c in first.call_rows if c.status == "failed")
    assert failed.usd is not None and paid.paid_usd == pytest.approx(saved.saved_usd + failed.usd)


def test_settings_that_changed_are_listed() -> None:
    a = build(temperature=0.7)
    b = build(temperature=0, model=Counted(name="m2"), system_prompt="Be brief.")
    made = dfn.diff(a, b)
    settings = {name: (x, y) for name, x, y in made.changes[0].settings}
    assert settings == {"model": ("m1", "m2"), "temperature": ("0.7", "0")}
    assert [(p.role, p.a, p.b) for p in made.prompts] == [("system", None, "Be brief.")]
    shown = all_text(made.view())
    assert "m1 → m2" in shown
    assert "0.7 → 0" in shown


def test_a_function_that_was_edited_is_listed() -> None:
    def steps(fn: Callable[[Any], Any]) -> dfn.Pipeline:
        return dfn.Source.list(ROWS) >> dfn.Filter(fn=fn).as_step("some")

    made = dfn.diff(steps(lambda r: r["id"] > 1).run(), steps(lambda r: r["id"] > 2).run())
    assert [(c.kind, c.name) for c in made.changes] == [("changed", "some")]
    assert [row.a["id"] for row in made.only_a] == [2]  # type: ignore[index]
    assert made.only_a[0].end == "filtered at 'some'"


def test_a_swapped_model_is_no_difference_of_a_record() -> None:
    a = build().run(limit=3)
    b = build(model=Counted(name="m2")).run(limit=3)
    assert {r["_model"] for r in a} == {r["_model"] for r in b} == {"judge"}
    made = dfn.diff(a.at("ask"), b.at("ask"))
    assert len(made.identical) == 3
    assert made.changes[0].settings == (("model", "m1", "m2"),)


# Steps that come and go.


def test_an_added_filter_says_what_it_removed() -> None:
    kept = dfn.Filter(fn=lambda r: r["id"] % 2 == 0).as_step("even")
    b = dfn.Source.list(ROWS) >> kept
    for step in build().steps[1:]:
        b = b >> step
    made = dfn.diff(build().run(limit=4), b.run(limit=4))
    assert [(c.kind, c.name) for c in made.changes] == [("added", "even")]
    assert [r.index for r in made.rows] == [0, 2]
    assert [(r.index, r.end) for r in made.only_a] == [
        (1, "filtered at 'even'"),
        (3, "filtered at 'even'"),
    ]
    # b went on to rows that a's limit left out.
    assert [r.end for r in made.only_b] == ["beyond the limit"] * 2
    calls = figure(made, "all steps", "calls")
    assert (calls.a, calls.b) == (8, 4)
    shown = all_text(made.view())
    assert "even added" in shown
    assert "2 beyond the limit of a" in shown
    assert "filtered at 'even'" in shown


def test_several_records_of_a_row_are_matched_by_their_places() -> None:
    def many(prompt: str) -> dfn.Result:
        n = {"calls": 0}

        def draw(request: Request) -> dict[str, str]:
            n["calls"] += 1
            return {"question": f"{request.messages[-1]['content'][:12]} draw {n['calls']}"}

        steps = (
            dfn.Source.list(ROWS[:2])
            >> dfn.FlatMap(lambda r: [{**r, "part": p} for p in "xy"])
            >> dfn.LLMStep(
                prompt=prompt + " {part}", output_columns={"question": str},
                num_outputs=2, model=Counted(draw),
            ).as_step("ask")
        )  # fmt: skip
        return steps.run(max_concurrent=1)

    a, b = many(V1), many(V2)
    made = dfn.diff(a, b)
    assert len(made.rows) == len(a) == 8
    assert not made.only_a
    assert not made.only_b
    for row in made.rows:
        assert row.a is not None and row.b is not None
        assert row.a["part"] == row.b["part"]
        assert row.a["_output_index"] == row.b["_output_index"]


def test_a_flat_map_that_was_added_leaves_the_first_child_with_the_record() -> None:
    split = dfn.FlatMap(lambda r: [{**r, "part": p} for p in "xyz"])
    a = (dfn.Source.list(ROWS[:2]) >> dfn.Map(lambda r: r)).run()
    b = (dfn.Source.list(ROWS[:2]) >> dfn.Map(lambda r: r) >> split).run()
    made = dfn.diff(a, b)
    assert [(r.index, r.changed) for r in made.rows] == [(0, ("part",)), (1, ("part",))]
    assert [r.b["part"] for r in made.only_b] == ["y", "z", "y", "z"]  # type: ignore[index]


def test_repeated_rows_are_matched_one_by_one() -> None:
    rows = [{"text": "article number 1 about cats"}] * 3
    a, b = build(rows=rows).run(), build(V2, rows=rows).run()
    made = dfn.diff(a, b)
    assert [r.index for r in made.rows] == [0, 1, 2]
    assert len({r.identity for r in made.rows}) == 3


# One side only.


def test_a_record_that_failed_on_one_side_says_why() -> None:
    def sometimes(request: Request) -> Any:
        return "no JSON" if "number 2" in request.messages[-1]["content"] else answer(request)

    a = build().run(limit=4)
    b = build(V2, model=Counted(sometimes)).run(limit=4)
    made = dfn.diff(a, b)
    assert [r.index for r in made.rows] == [0, 1, 3]
    (row,) = made.only_a
    assert row.end.startswith("failed at 'ask': ")
    unusable = figure(made, "ask", "unusable replies")
    assert (unusable.a, unusable.b, unusable.of) == (0, 1, (4, 4))
    shown = all_text(made.view())
    assert "Only in a" in shown
    assert "failed at 'ask'" in shown
    assert "1 of 4" in shown


def test_a_limit_on_one_side_compares_what_both_have() -> None:
    whole, part = build().run(), build(V2).run(limit=3)
    made = dfn.diff(whole, part)
    assert [r.index for r in made.rows] == [0, 1, 2]
    assert {r.end for r in made.only_a} == {"beyond the limit"}
    assert figure(made, "ask", "calls").a == 3
    assert "Only in a" not in all_text(made.view())


def test_limit_bounds_the_rows_and_the_figures() -> None:
    made = dfn.diff(build().run(), build(V2).run(), limit=2)
    assert [r.index for r in made.rows] == [0, 1]
    assert made.only_a == made.only_b == []
    assert figure(made, "ask", "calls").b == 2


def test_results_of_different_sources_have_no_row_in_common() -> None:
    other = [{"id": 10 + i, "text": f"article number {i} about dogs"} for i in range(3)]
    made = dfn.diff(build().run(limit=2), build(rows=other).run())
    assert made.rows == []
    assert len(made.only_a) == 2
    shown = all_text(made.view())
    assert "no records in common" in shown
    assert "on='id'" in shown


def test_on_matches_by_columns() -> None:
    other = [{"id": i, "text": f"article number {i} about dogs"} for i in (2, 1, 9)]
    made = dfn.diff(build().run(limit=3), build(rows=other).run(), on="id")
    assert [(r.a["id"], r.b["id"]) for r in made.rows] == [(1, 1), (2, 2)]  # type: ignore[index]
    assert [r.b["id"] for r in made.only_b] == [9]  # type: ignore[index]
    with pytest.raises(ValueError, match="no such column; it has id, text"):
        dfn.diff(build().run(limit=3), build(rows=other).run(), on="name")


def test_an_empty_side_is_said() -> None:
    none = dfn.Source.list(ROWS) >> dfn.Filter(fn=lambda r: False).as_step("no")
    made = dfn.diff(none.run(), (dfn.Source.list(ROWS) >> dfn.Map(lambda r: r)).run())
    assert "a has no record" in all_text(made.view())
    assert {r.end for r in made.only_b} == {"filtered at 'no'"}


# Lists of records.


def test_lists_of_one_length_are_matched_by_position() -> None:
    made = dfn.diff([{"q": "one two"}, {"q": "same"}], [{"q": "one three"}, {"q": "same"}])
    assert [r.changed for r in made.rows] == [("q",), ()]
    assert "by position" in all_text(made.view())
    assert made.figures == []


def test_lists_of_different_lengths_want_a_column() -> None:
    with pytest.raises(ValueError, match="on='q'"):
        dfn.diff([{"q": "x"}], [{"q": "x"}, {"q": "y"}])
    made = dfn.diff([{"q": "x", "n": 1}], [{"q": "y", "n": 2}, {"q": "x", "n": 3}], on="q")
    assert [(r.index, r.changed) for r in made.rows] == [(0, ("n",))]


def test_records_are_compared_by_value() -> None:
    a = [{"j": '{"x": 1, "y": 2}', "d": {"u": 1, "w": [1]}, "n": 1, "f": math.nan, "t": "a"}]
    b = [{"j": '{"y":2,"x":1}', "d": {"w": [1], "u": 1}, "n": 1.0, "f": math.nan, "t": "a"}]
    assert dfn.diff(a, b).rows[0].changed == ()


def test_later_changes_of_the_records_do_not_reach_the_comparison() -> None:
    a, b = [{"q": ["x"]}], [{"q": ["y"]}]
    made = dfn.diff(a, b)
    before = repr(made)
    a[0]["q"].append("z")
    assert repr(made) == before
    assert made.rows[0].a == {"q": ["x"]}


@pytest.mark.parametrize("wrong", [3, "text", None, {"a": 1}])
def test_other_things_are_refused_by_name(wrong: Any) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        dfn.diff(wrong, [])


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="limit is -1"):
        dfn.diff([], [], limit=-1)
    with pytest.raises(ValueError, match="two different names"):
        dfn.diff([], [], names=("x", "x"))


# Pipelines: nothing is asked.


def test_pipelines_are_compared_without_a_call() -> None:
    model = Counted()
    a, b = build(model=model), build(V2, model=model)
    made = dfn.diff(a, b)
    assert model.calls == 0
    assert len(made.pending) == 5
    assert made.changed == made.identical == []
    assert all(r.a["question"] is PENDING for r in made.rows)  # type: ignore[index]
    calls, usd = made.to_ask
    assert calls == 20
    assert usd > 0
    shown = all_text(made.view())
    assert "same 5 records · 5 pending" in shown
    assert "dfn.diff(a.run(limit=5), b.run(limit=5))" in shown
    assert "asks 20 calls" in shown
    [repr(made), *forms(made)]
    assert model.calls == 0


def test_the_calls_that_it_announces_are_those_that_are_asked() -> None:
    model, judge = Counted(), Counted(grade, "judge")
    a, b = build(model=model, judge=judge), build(V2, model=model, judge=judge)
    a.run(limit=2)
    asked = model.calls + judge.calls
    calls, _ = dfn.diff(a, b, limit=4).to_ask
    dfn.diff(a.run(limit=4), b.run(limit=4))
    # The judge sees the same question twice where the prompts led to the same one.
    assert model.calls == 2 + 2 + 4
    assert calls >= model.calls + judge.calls - asked


def test_an_answer_that_both_want_is_counted_once() -> None:
    model = Counted()
    a = build(model=model)
    b = dfn.Pipeline([*a.steps, dfn.Filter(fn=lambda r: True)])
    assert dfn.diff(a, b, limit=3).to_ask[0] <= 3 + 2 * 3
    only = dfn.diff(dfn.Pipeline(a.steps[:2]), dfn.Pipeline(a.steps[:2]), limit=3)
    assert only.to_ask[0] == 3


def test_answers_on_disk_are_compared_and_others_stand_as_pending() -> None:
    model = Counted()
    a, b = build(model=model), build(V2, model=model)
    a.run(limit=4)
    b.run(limit=2)
    asked = model.calls
    made = dfn.diff(a, b, limit=4)
    assert model.calls == asked
    assert [r.index for r in made.identical] == [0]
    assert [r.index for r in made.changed] == [1]
    assert [r.index for r in made.pending] == [2, 3]
    pending = made.pending[0]
    assert pending.a is not None and pending.a["score"] == 8
    assert pending.b is not None and pending.b["question"] is PENDING
    rows = [r for b in made.view().blocks if isinstance(b, Table) for r in b.rows]
    assert any(isinstance(c, Cell) and c.is_pending for r in rows for c in r)


def test_a_pipeline_takes_the_limit_of_the_result_beside_it() -> None:
    made = dfn.diff(build().run(limit=3), build(V2))
    assert len(made.rows) == len(made.pending) == 3
    assert "dfn.diff(a, b.run(limit=3))" in all_text(made.view())


def test_figures_behind_pending_answers_are_not_made_up() -> None:
    made = dfn.diff(build().run(limit=3), build(V2))
    calls = figure(made, "all steps", "calls")
    assert calls.a == 6
    assert calls.b is None


def test_a_pipeline_that_cannot_run_says_which() -> None:
    with pytest.raises(dfn.PipelineValidationError) as caught:
        dfn.diff(build(), build("Ask about {nothing}"), names=("old", "new"))
    assert "in 'new' of diff()" in caught.value.__notes__


def test_no_function_of_the_user_runs_at_display() -> None:
    seen: list[int] = []

    def look(record: dict[str, Any]) -> bool:
        seen.append(record["id"])
        return True

    steps = dfn.Source.list(ROWS) >> dfn.Filter(fn=look)
    made = dfn.diff(dfn.Pipeline([*steps.steps, *build().steps[1:]]), build(V2))
    n = len(seen)
    assert n <= 16
    forms(made)
    assert len(seen) == n


# What it gives back.


def test_pipeline_by_name() -> None:
    a, b = build(), build(V2)
    made = dfn.diff(a, b, names=("v1", "v2"))
    assert made.pipeline("v2") is b
    assert made.pipeline("a") is a
    with pytest.raises(KeyError, match="'v1', 'v2'"):
        made.pipeline("v3")
    with pytest.raises(ValueError, match="list of records"):
        dfn.diff([{"x": 1}], [{"x": 1}]).pipeline("a")


def test_df_has_a_row_per_record_and_both_values() -> None:
    made = dfn.diff(build().run(limit=4), build(V2).run(limit=3), names=("v1", "v2"))
    frame = made.df
    assert list(frame.columns) == ["index", "status", "v1_question", "v2_question", "v1_score", "v2_score"]  # fmt: skip
    assert list(frame["status"]) == ["identical", "differs", "identical", "only v1"]
    assert frame["v2_score"][1] == 7


def test_a_trace_can_be_compared() -> None:
    made = dfn.diff(build().run_one(1), build(V2).run_one(1))
    assert [r.changed for r in made.rows] == [("question", "score")]


def test_a_slice_compares_its_own_records() -> None:
    made = dfn.diff(build().run(limit=5)[1:3], build(V2).run(limit=5))
    assert [r.a["id"] for r in made.rows] == [1, 2]  # type: ignore[index]


def test_figures_of_slices_rest_on_their_own_records() -> None:
    rows = [{"id": i, "text": f"article number {i} about cats" + " and" * 40 * i} for i in range(8)]
    a, b = build(rows=rows).run(), build(V2, rows=rows).run()
    made = dfn.diff(a[:3], b[:3])
    cost = figure(made, "ask", "cost")
    own = [c.usd or 0.0 for c in a.step("ask").calls[:3]]
    assert cost.of == (3, 3) and cost.a == pytest.approx(1000 * sum(own) / 3)
    assert figure(dfn.diff(a[:3], b), "ask", "cost").of == (3, 3)
    only = dfn.diff(a[:3], b).only_b
    assert {row.end for row in only} == {"not among the records given"}


def test_dropped_records_against_their_result() -> None:
    whole = build() >> dfn.Filter(lambda r: r["id"] < 5).as_step("k")
    result = whole.run()
    made = dfn.diff(result.dropped("k"), result)
    assert {row.end for row in made.only_a} == {"filtered at 'k'"}
    assert {row.end for row in made.only_b} == {"not among the records given"}
    assert "gave fewer" not in all_text(made.view()) and "free" not in all_text(made.view())


def test_a_result_against_itself_is_identical() -> None:
    result = build().run(limit=3)
    made = dfn.diff(result, result)
    assert len(made.identical) == 3
    assert made.changes == []
    assert "3 are identical" in all_text(made.view())
    assert "6 new calls" in all_text(made.view())


def test_ends_are_decided_or_not() -> None:
    part = dfn.diff(build().run(limit=3), build(V2).run(limit=3))
    way: Way = part.ways[0]
    kinds = [way.end_of(row).kind for row in way.rows]
    assert kinds == ["out"] * 3 + ["beyond"] * (len(kinds) - 3)


# Display.

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m and \x07 bell",
    "left \u202e thgir and \u2066 more",
    "$a_1$ and $$x$$ and \\(y\\)",
    "`code` **bold** | pipe | [link](javascript:alert(1))",
    "\ud800 half a pair",
    "a\u2028b\u2029c",
    "{field} {{braces}} {{% raw %}}",
    "=cmd|' /C calc'!A0",
]


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_texts_are_shown_and_not_obeyed(payload: str) -> None:
    a = [{"q": f"some words {payload} stay", payload: "x y z", "d": {payload: 1}}]
    b = [{"q": f"some more words {payload} stay", payload: "x q z", "d": {payload: 2}}]
    made = dfn.diff(a, b, names=(f"a {payload}", f"b {payload}"))
    for drawn in forms(made):
        assert "\x1b" not in drawn
        assert "\u202e" not in drawn
        drawn.encode()
    page = html.draw(made.view())
    assert "<script" not in page
    assert "<img" not in page
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", page)


def test_the_same_comparison_shows_the_same() -> None:
    a, b = build().run(limit=4), build(V2).run(limit=4)
    assert forms(dfn.diff(a, b)) == forms(dfn.diff(a, b))
    again = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", all_text(dfn.diff(a, b).view()))
    assert "ADDRESS" not in again


def test_displays_are_bounded() -> None:
    words_a = [f"w{i % 97}" for i in range(20_000)]
    words_b = [w if i % 50 else f"x{i}" for i, w in enumerate(words_a)]
    a = [{f"c{k}": " ".join(words_a) for k in range(12)} for _ in range(30)]
    b = [{f"c{k}": " ".join(words_b) for k in range(12)} for _ in range(30)]
    made = dfn.diff(a[:1], b[:1])
    assert len(html.draw(made.view())) < 60_000
    short_a = [{k: v[:2_000] for k, v in r.items()} for r in a]
    short_b = [{k: v[:2_000] for k, v in r.items()} for r in b]
    page = html.draw(dfn.diff(short_a, short_b).view())
    assert len(page.encode()) < 200_000
    assert "Not shown" in page


def test_many_records_are_counted() -> None:
    a = [{"q": f"the thing {i} is here"} for i in range(60)]
    b = [{"q": f"the thing {i} is {'here' if i % 2 else 'gone'}"} for i in range(60)]
    shown = all_text(dfn.diff(a, b).view())
    assert "10 that differ" in shown
    assert "30 identical" in shown


def test_many_identical_records_are_compared_quickly() -> None:
    rows = [{"id": i, "text": f"text {i}"} for i in range(20_000)]
    result = (dfn.Source.list(rows) >> dfn.Map(lambda r: {**r, "z": 1})).run()
    started = time.process_time()
    made = dfn.diff(result, result)
    assert "20,000 are identical" in repr(made) and made.identical is made.identical
    assert time.process_time() - started < 1.5


def test_the_text_form_fits_in_100_columns() -> None:
    made = dfn.diff(build().run(limit=4), build(V2).run(limit=4))
    drawn = text.draw(made.view(), 100)
    assert max(map(len, drawn.splitlines())) <= 100


def test_json_answers_are_compared_by_field() -> None:
    a = [{"j": json.dumps({"k": "one two three", "n": 1})}]
    b = [{"j": json.dumps({"n": 2, "k": "one two three"})}]
    table = next(x for x in dfn.diff(a, b).view().blocks if isinstance(x, Table))
    assert [plain(c.line) for c in table.rows[0] if isinstance(c, Cell)] == ["0", "j.n", "1", "2"]


def test_columns_of_the_source_that_one_side_drops_make_no_difference() -> None:
    a = build(exclude_columns=["text"]).run(limit=2)
    made = dfn.diff(a, build().run(limit=2))
    assert len(made.identical) == 2
    assert [s[0] for s in made.changes[0].settings] == ["exclude_columns"]


def test_what_each_side_paid_stands_with_its_name_and_several_changes_as_facts() -> None:
    a = build(rows=ROWS[:4]).run()
    b = build(V2, rows=ROWS[:4], judge=Counted(grade, name="other")).run()
    made = dfn.diff(a, b, names=("old", "new"))
    head = made.view().blocks[0]
    assert isinstance(head, Head) and head.title == "old → new"
    assert "2 steps changed: ask, judge" in plain(head.facts)
    said = all_text(made.view())
    assert "run of old: 8 new calls, paid $" in said and "run of new: 8 new calls, paid $" in said
    assert '.pipeline("new")' in said and "cmp" not in said


def test_a_column_that_only_came_is_no_other_answer() -> None:
    before = build(rows=ROWS[:3])
    after = before >> dfn.Map(lambda r: {**r, "x": 1}).as_step("add")
    head = dfn.diff(before.run(), after.run()).view().blocks[0]
    assert isinstance(head, Head)
    assert "new column x, nothing else differs" in plain(head.facts)


def test_records_that_are_the_same_are_readable_as_text() -> None:
    result = build(rows=ROWS[:3]).run()
    assert (
        "article number 0 about cats" in dfn.diff(result, result)._repr_mimebundle_()["text/plain"]
    )
