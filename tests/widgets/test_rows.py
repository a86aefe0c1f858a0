"""Views of tables: the rows are those that the shown pandas expression gives."""

from __future__ import annotations

import json
import time
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.results import Result
from datafast_nb.widgets.columns import column_summaries
from datafast_nb.widgets.rows import MAX_WINDOW_BYTES, Overtaken, StepTable, cell_text
from datafast_nb.widgets.wanted import OPS, Condition, Sorting, Wanted

_TEXTS = st.text(st.sampled_from("aAbBß éİ0.'\"\\\n[]💡"), max_size=6)
_NUMBERS = st.one_of(
    st.integers(-3, 3), st.floats(-2, 2, width=16), st.sampled_from([float("inf"), 2**70])
)
_VALUES = st.one_of(
    st.none(), st.booleans(), _NUMBERS, _TEXTS, st.lists(st.integers(0, 2), max_size=2)
)
_KINDS = [_TEXTS, _NUMBERS, st.booleans(), st.one_of(st.none(), _NUMBERS), _VALUES,
          st.one_of(st.none(), _TEXTS), st.integers(-5, 5)]  # fmt: skip
_COLUMNS = ("a", "b b", "c'")


@st.composite
def tables(draw: Any) -> list[dict[str, Any]]:
    kinds = {name: draw(st.sampled_from(_KINDS)) for name in _COLUMNS}
    n = draw(st.integers(1, 12))
    records = []
    for _ in range(n):
        names = draw(st.lists(st.sampled_from(_COLUMNS), unique=True))
        records.append({name: draw(kinds[name]) for name in names})
    return records


_WANTED = st.builds(
    Wanted,
    search=st.one_of(st.just(""), _TEXTS),
    where=st.lists(
        st.builds(
            Condition,
            st.sampled_from(_COLUMNS),
            st.sampled_from(sorted(OPS)),
            st.one_of(_NUMBERS, _TEXTS, st.booleans(), st.lists(_NUMBERS, max_size=2)),
        ),
        max_size=2,
    ).map(tuple),
    sort=st.lists(
        st.builds(Sorting, st.sampled_from(_COLUMNS), st.booleans()),
        max_size=2,
        unique_by=lambda s: s.column,
    ).map(tuple),
)


@settings(max_examples=150)
@given(tables(), _WANTED)
def test_the_expression_gives_the_rows_of_the_view(
    records: list[dict[str, Any]], wanted: Wanted
) -> None:
    table = StepTable("final", [Result(records)])
    try:
        view = table.view(wanted)
    except ValueError:
        return  # said to be no question that pandas could answer
    df = table.frame()
    same = eval(view.code, {"df": df, "panel": None, "inf": float("inf")})
    assert list(same.index) == [int(i) for i in view.rows]


def test_most_questions_are_answered() -> None:
    """The test above would also pass if every view were refused."""
    records = [
        {"n": i % 7, "t": f"Text {i}", "x": None if i % 3 else i / 2, "m": [i]} for i in range(50)
    ]
    table = StepTable("final", [Result(records)])
    df = table.frame()
    for wanted, n in (
        (Wanted(search="TEXT 1"), 11),
        (Wanted(where=(Condition("n", ">=", "5"),)), 14),
        (Wanted(where=(Condition("x", "is null", None), Condition("n", "in", [1, 2]))), None),
        (Wanted(where=(Condition("t", "contains", "49"),), sort=(Sorting("n", True),)), 1),
        (Wanted(sort=(Sorting("x"), Sorting("n", True))), 50),
        (Wanted(sort=(Sorting("m"),)), 50),
    ):
        view = table.view(wanted)
        same = eval(view.code, {"df": df})
        assert list(same.index) == [int(i) for i in view.rows]
        assert n is None or len(view.rows) == n


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"sort": [{"column": "z"}]}, "no column 'z'"),
        ({"where": [{"column": "a", "op": ">", "value": "much"}]}, "holds numbers"),
        ({"where": [{"column": "t", "op": ">", "value": 3}]}, "cannot compare"),
        ({"where": [{"column": "a", "op": "~", "value": 3}]}, "no comparison"),
        ({"status": "odd"}, "no status"),
    ],
)
def test_a_question_without_sense_is_refused_in_words(wanted: dict[str, Any], words: str) -> None:
    table = StepTable("final", [Result([{"a": 1, "t": "x"}])])
    with pytest.raises(ValueError, match=words):
        table.view(Wanted.of(wanted))


def test_half_a_surrogate_pair_can_be_searched_beside() -> None:
    table = StepTable("final", [Result([{"t": "bad \ud83d"}, {"t": "good"}])])
    view = table.view(Wanted(search="good"))
    assert list(view.rows) == [1]
    assert list(eval(view.code, {"df": table.frame()}).index) == [1]
    window = table.window(0, 10)
    json.dumps(window, ensure_ascii=False).encode()
    assert window["rows"][0]["v"] == ["bad \\ud83d"]


def test_an_overtaken_view_is_given_up() -> None:
    table = StepTable("final", [Result([{"a": 1}])])
    with pytest.raises(Overtaken):
        table.view(Wanted(search="x"), lambda: True)


def test_a_window_stays_below_256_kb_and_its_cells_below_300_characters() -> None:
    for n_columns, n_rows in ((3, 200), (60, 200), (2_000, 5)):
        records = [{f"c{k}": "ÄÖ" * 400 for k in range(n_columns)} for _ in range(300)]
        began = time.perf_counter()
        window = StepTable("final", [Result(records)]).window(50, 1_000)
        assert time.perf_counter() - began < 5
        assert n_rows <= len(window["rows"]) <= 200
        assert window["start"] == 50
        size = len(json.dumps(window, ensure_ascii=False).encode())
        assert size <= MAX_WINDOW_BYTES + 1_000
        assert max(len(c) for r in window["rows"] for c in r["v"]) <= 300


def test_cells_of_huge_values_take_no_time() -> None:
    values = [
        "x" * 10_000_000,
        ["y" * 1_000_000] * 50,
        {str(i): list(range(100)) for i in range(10_000)},
    ]
    began = time.perf_counter()
    for value in values * 20:
        assert len(cell_text(value)) <= 300
    assert time.perf_counter() - began < 1
    assert cell_text("x" * 10_000_000).endswith("…") is False
    assert "+9,999," in cell_text("x" * 10_000_000)


def test_status_of_rows_follows_the_calls_behind_them() -> None:
    model = dfn.FakeModel()
    first = dfn.LLMStep(prompt="{t}", output_columns=["q"], model=model, num_outputs=2)
    second = dfn.LLMStep(prompt="{q}", output_columns=["a"], model=model)
    source = dfn.Source.list([{"t": str(i)} for i in range(6)])
    keep = dfn.Filter(lambda r: r["t"] != "2")
    (source >> keep >> first.as_step("one")).run(limit=2)
    result = (source >> keep >> first.as_step("one") >> second.as_step("two")).run()
    one = StepTable("one", [result.at("one")])
    assert list(one.status()) == ["memo"] * 4 + ["new"] * 6
    both = StepTable("final", [result, result[:1]])
    assert list(both.status()) == ["new"] * 11
    for table in (one, both):
        rows = table.window(0, 200)["rows"]
        assert [r["s"] for r in rows] == list(table.status())
    view = one.view(Wanted(status="memo"))
    assert list(view.rows) == [0, 1, 2, 3]
    assert view.code == "df[panel.status('one').eq('memo')]"


def test_column_summaries() -> None:
    records = [
        {"n": i, "topic": "ab"[i % 2], "ok": i % 2 == 0, "l": [0] * (i % 4), "x": None if i % 4 else 1.5,
         "text": f"a text of some {i} words and more of them, so that it is none of few names"}
        for i in range(100)
    ]  # fmt: skip
    found = {c["name"]: c for c in column_summaries(records, list(records[0]))}
    assert {k: c["kind"] for k, c in found.items()} == {
        "n": "number", "topic": "category", "ok": "bool", "l": "list", "x": "number", "text": "text",
    }  # fmt: skip
    assert found["x"]["nulls"] == 0.75
    assert found["topic"]["distinct"] == 2
    assert found["n"]["sampled"] is None
    many = column_summaries([{"n": 1.5 * i} for i in range(60_000)], ["n"])
    assert many[0]["sampled"] == 20_000
    assert "sampled" in many[0]["words"]
    assert 0 < max(many[0]["bars"]) <= 1


@pytest.mark.slow
def test_a_million_rows() -> None:
    """Sort and filter below 2 s, windows below 20 ms; bounds three times as wide: others work too."""
    n = 1_000_000
    topics = ("Physics", "Biology", "Tax", "Law")
    records = [
        {"id": i, "topic": topics[i % 4], "question": f"What is item {i * 7919 % n}?", "score": i * 31 % 1000 / 10}
        for i in range(n)
    ]  # fmt: skip
    table = StepTable("final", [Result(records)])
    took: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        began = time.perf_counter()
        made = work()
        took[name] = time.perf_counter() - began
        return made

    timed("first window", lambda: table.window(0, 100))
    view = timed("sort", lambda: table.view(Wanted(sort=(Sorting("score", True),))))
    window = timed("window of a view", lambda: table.window(n - 100, 100, view.id))
    assert window["rows"][-1]["v"][3] == "0.0"
    timed("window", lambda: table.window(n // 2, 100))
    found = timed("search", lambda: table.view(Wanted(search="ITEM 99")))
    assert len(found.rows) == sum("item 99" in r["question"] for r in records)
    timed("search again", lambda: table.view(Wanted(search="item 98")))
    where = Wanted(where=(Condition("score", ">=", 99),), sort=(Sorting("score", True),))
    timed("filter and sort", lambda: table.view(where))
    timed("sort text", lambda: table.view(Wanted(sort=(Sorting("question"),))))
    timed("columns", lambda: column_summaries(records, list(records[0])))
    print({k: round(v, 3) for k, v in took.items()})
    for name in ("sort", "search", "search again", "filter and sort", "sort text", "columns"):
        assert took[name] < 6, took
    for name in ("window", "window of a view"):
        assert took[name] < 0.06, took


def test_frame_is_what_result_df_is() -> None:
    result = (dfn.Source.list([{"a": 1}, {"a": None, "b": [1]}]) >> dfn.Map(lambda r: r)).run()
    pd.testing.assert_frame_equal(StepTable("final", [result]).frame(), result.df)
