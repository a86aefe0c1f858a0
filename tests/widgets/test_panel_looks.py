"""What the panel shows where little is known: prompts of pending records, records of large tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser_stand_in import Browser

import datafast_nb as dfn
from datafast_nb.results import Result
from datafast_nb.widgets.rows import StepTable
from datafast_nb.widgets.wanted import Wanted

Opened = Callable[..., Browser]
NUMBERS = [1.5, float("nan"), float("inf"), -float("inf"), 1e-7, 1e22, -0.0, 123456789.25]


def two_steps(model: dfn.FakeModel) -> dfn.Pipeline:
    ask = dfn.LLMStep(prompt="Ask {text}", output_columns=["question"], model=model)
    judge = dfn.LLMStep(prompt="Judge {question}", output_columns=["score"], model=model)
    rows = [{"text": f"text {i}"} for i in range(4)]
    return dfn.Source.list(rows) >> ask.as_step("ask") >> judge.as_step("judge")


def test_a_prompt_is_shown_only_when_its_fields_are_known(opened: Opened) -> None:
    model = dfn.FakeModel(lambda r: "an answer to " + r.messages[-1]["content"])
    browser = opened(two_steps(model))
    browser.until(lambda s: s["tables"]["final"]["n"] == 4)
    assert browser.ask("draft", step="ask")["rendered"] == "Ask text 0"
    assert browser.ask("draft", step="judge")["rendered"] == ""
    assert model.calls == 0
    browser.ask("run_one", record=0)
    browser.until(lambda s: s["phase"] == "done" and s["focus"])
    # What is shown is what was sent.
    shown = browser.ask("draft", step="judge")["rendered"]
    assert shown == model.requests[-1].messages[-1]["content"] == "Judge an answer to Ask text 0"


def test_a_record_of_a_large_table_shows_its_values(opened: Opened) -> None:
    rows = [{"n": i} for i in range(12_000)]
    double = dfn.Map(lambda r: {**r, "double": 2 * r["n"]}).as_step("double")
    browser = opened((dfn.Source.list(rows) >> double).run(show_progress=False))
    lineage = browser.ask("record", step="final", row=11_000)["lineage"]
    assert [stage["step"] for stage in lineage][-1] == "double"
    assert lineage[-1]["values"] == {"n": "11000", "double": "22000"}
    assert lineage[-1]["note"] == ""


@pytest.mark.parametrize(
    "text",
    ["5", "e-", "E+", "nan", "NaN", "INF", "-", ".0", "1e-07", "k", "İnf", "True", "x1", "  "],
)
def test_a_search_that_leaves_numbers_out_finds_what_pandas_finds(text: str) -> None:
    rows = [
        {"f": x, "i": k, "b": k % 2 == 0, "t": f"x{k}", "m": [k] if k % 3 else None}
        for k, x in enumerate(NUMBERS)
    ]
    table = StepTable("final", [Result(rows)])
    view = table.view(Wanted(search=text))
    same = eval(view.code, {"df": table.frame()})
    assert [int(i) for i in view.rows] == list(same.index)
    assert "str.contains" in view.code
