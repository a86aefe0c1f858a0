"""Asking again for answers that are there, and going back: `resample`, `restore`, `draws`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import count

import pytest

import datafast_nb as dfn
from datafast_nb.models.base import Response, Usage
from datafast_nb.options import options
from datafast_nb.store.memo import Memo, open_memo

USD = 0.001


def counting(**more) -> dfn.FakeModel:
    """Numbers its answers: the first is "1", and costs a thousandth of a dollar."""
    numbers = count(1)
    return dfn.FakeModel(
        lambda request: Response(str(next(numbers)), usage=Usage(0, 10)),
        price=(0.0, USD * 1e5),
        provider="acme",
        **more,
    )


def texts(n):
    return [{"id": i, "topic": "tax" if i % 2 else "law", "text": f"text {i}"} for i in range(n)]


def asking(model, n=4, **more):
    return dfn.Source.list(texts(n)) >> dfn.LLMStep(
        "on {text}", output_columns=["q"], model=model, **more
    )


def answers(records) -> list[str]:
    return [r["q"] for r in records]


def test_resample_asks_some_anew_and_later_runs_use_the_new_ones():
    model = counting()
    before = asking(model).run(max_concurrent=1)
    after = before.resample([1, -1])
    assert answers(before) == ["1", "2", "3", "4"]
    assert answers(after) == ["1", "5", "3", "6"]
    assert after.ledger.paid_usd == pytest.approx(2 * USD) and after.status == "complete"
    assert answers(asking(model).run()) == answers(after)
    assert model.calls == 6
    assert after.draws(1, "q") == ["2", "5"] and after.draws(0, "q") == ["1"]


def test_restore_goes_back_and_forth_for_nothing():
    model = counting()
    result = asking(model).run(max_concurrent=1).resample(1).resample([1, 2])
    assert answers(result) == ["1", "6", "7", "4"]
    back = result.restore(1)
    assert answers(back) == ["1", "5", "7", "4"] and back.ledger.paid_usd == 0
    assert answers(back.restore(1)) == ["1", "2", "7", "4"]
    assert answers(asking(model).run()) == ["1", "2", "7", "4"]
    assert answers(back.restore(1, draw=2)) == ["1", "6", "7", "4"]
    assert model.calls == 7
    assert open_memo().info().n_replies == 7
    with pytest.raises(dfn.DatafastError, match="no older draw"):
        result.restore(0)
    with pytest.raises(dfn.DatafastError, match="no draw 9"):
        result.restore(1, draw=9)


def test_a_new_draw_counts_again_after_an_older_one_was_chosen():
    model = counting()
    back = asking(model, 1).run().resample().restore()
    assert answers(back) == ["1"]
    newest = back.resample()
    assert answers(newest) == answers(asking(model, 1).run()) == ["3"] and model.calls == 3
    assert newest.draws(0, "q") == ["1", "2", "3"]


def test_a_new_process_uses_the_chosen_draws_and_can_go_back(tmp_path):
    options.home = tmp_path / "home"
    model = counting()
    result = asking(model).run(max_concurrent=1).resample([0, 1])
    result.restore(0)
    open_memo().flush()
    code = """
        import datafast_nb as dfn
        def refuse(request):
            raise AssertionError("asked")
        model = dfn.FakeModel(refuse, provider="acme", price=(0.0, 100.0))
        rows = [{"id": i, "topic": "tax" if i % 2 else "law", "text": f"text {i}"} for i in range(4)]
        pipeline = dfn.Source.list(rows) >> dfn.LLMStep(
            "on {text}", output_columns=["q"], model=model)
        result = pipeline.run()
        print([r["q"] for r in result], result.draws(1, "q"))
        print([r["q"] for r in result.restore(1)], model.calls)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"DATAFAST_NB_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    # The first two were asked again at the same time: either may have got the earlier number.
    new = answers(result)[1]
    assert done.stdout.splitlines() == [
        f"['1', '{new}', '3', '4'] ['2', '{new}']",
        "['1', '2', '3', '4'] 0",
    ]
    assert answers(asking(model).run()) == ["1", "2", "3", "4"] and model.calls == 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {0, 1, 2, 3}),
        ({"where": {"topic": "tax"}}, {1, 3}),
        ({"rows": range(2), "where": {"topic": "tax"}}, {1}),
        ({"where": lambda r: r["id"] > 2}, {3}),
        ({"column": "q", "rows": 2}, {2}),
    ],
)
def test_rows_and_where_choose(given, expected):
    model = counting()
    before = asking(model).run(max_concurrent=1)
    after = before.resample(**given)
    changed = {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    assert changed == expected and model.calls == 4 + len(expected)
    assert answers(after.restore(**given)) == answers(before)


def test_a_slice_names_its_own_records():
    before = asking(counting()).run(max_concurrent=1)
    assert answers(before[2:].resample(0)) == ["1", "2", "5", "4"]


def test_an_earlier_column_renews_what_follows_from_it_and_its_return_is_free():
    first, second = counting(name="first"), counting(name="second")
    pipeline = (
        dfn.Source.list(texts(3))
        >> dfn.LLMStep("on {text}", output_columns=["q"], model=first)
        >> dfn.LLMStep("answer {q}", output_columns=["a"], model=second)
    )
    before = pipeline.run(max_concurrent=1)
    after = before.resample(1, column="q")
    assert (first.calls, second.calls) == (4, 4)
    assert [r["q"] for r in after] == ["1", "4", "3"] and after[1]["a"] == "4"
    back = after.restore(1, column="q")
    assert list(back) == list(before) and (first.calls, second.calls) == (4, 4)
    # The last LLM step is meant where no column is named.
    again = back.resample(0)
    assert (first.calls, second.calls) == (4, 5) and again[0]["q"] == before[0]["q"]


def test_several_outputs_of_a_record_have_draws_of_their_own():
    model = counting()
    before = asking(model, 2, num_outputs=2).run(max_concurrent=1)
    assert answers(before) == ["1", "2", "3", "4"]
    assert answers(before.resample(2)) == ["1", "2", "5", "4"]


def test_at_temperature_0_equal_prompts_get_the_new_answer_together():
    model = counting()
    rows = [{"text": "same"}, {"text": "same"}, {"text": "other"}]
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model, temperature=0)
    before = (dfn.Source.list(rows) >> step).run(max_concurrent=1)
    assert answers(before) == ["1", "1", "2"]
    assert answers(before.resample(0)) == ["3", "3", "2"] and model.calls == 3


def test_a_new_reply_that_is_of_no_use_leaves_the_older_answer_to_later_runs():
    told = iter(["good", "", ""])
    model = dfn.FakeModel(lambda r: next(told), price=(1, 1), provider="acme")
    before = asking(model, 1).run()
    with pytest.raises(dfn.LLMError, match="lost every record"):
        before.resample()
    assert answers(asking(model, 1).run()) == ["good"] and model.calls == 3
    assert before.draws(0, "q") == ["good"]


def test_a_budget_bounds_it_and_what_was_not_asked_keeps_its_answer():
    model = counting()
    before = asking(model, max_tokens=10).run(max_concurrent=1)
    with pytest.raises(dfn.BudgetExceededError) as caught:
        before.resample(budget=2 * USD)
    assert model.calls == 6 and caught.value.result.status == "budget"
    kept = answers(asking(model, max_tokens=10).run())
    assert model.calls == 6
    assert sum(a != b for a, b in zip(answers(before), kept, strict=True)) == 2
    with pytest.raises(dfn.BudgetExceededError):
        before.resample(max_calls=0)
    assert model.calls == 6


def test_notebooks_ask_before_a_costly_one():
    options.confirm = True
    model = counting()
    before = asking(model).run()
    options.confirm_above_usd = 3 * USD
    with pytest.raises(dfn.ConfirmationRequired, match=r"4 calls again may cost about \$0.0040"):
        before.resample()
    assert model.calls == 4
    assert len(before.resample([0, 1])) == len(before.resample(confirm=True)) == 4
    assert model.calls == 10


def test_retrying_failed_calls_later_does_not_ask_the_others_again():
    model = counting()
    after = asking(model).run().resample()
    again = after.retry_failed()
    assert answers(again) == answers(after) and model.calls == 8


def test_a_checkpoint_follows_both(tmp_path):
    model = counting()
    before = asking(model).run(checkpoint_dir=tmp_path, max_concurrent=1)
    after = before.resample(1)
    assert answers(after) == ["1", "5", "3", "4"]
    assert answers(after.restore(1)) == answers(before)
    resumed = asking(model).run(checkpoint_dir=tmp_path, resume=True)
    assert answers(resumed) == answers(before) and model.calls == 5


def test_a_choice_travels_with_an_export(tmp_path):
    asking(counting()).run(max_concurrent=1).resample(1).restore(1)
    open_memo().export(tmp_path / "calls.jsonl")
    other = Memo(tmp_path / "other")
    other.load(tmp_path / "calls.jsonl")
    other.close()
    options.home = tmp_path
    (tmp_path / "other").rename(tmp_path / "memo")
    model = counting()
    assert answers(asking(model).run()) == ["1", "2", "3", "4"] and model.calls == 0


def test_what_cannot_be_asked_again_says_so():
    model = counting()
    result = asking(model).run()
    with pytest.raises(KeyError, match="writes column 'x'; they write q"):
        result.resample(column="x")
    with pytest.raises(IndexError, match="no record 4"):
        result.resample(4)
    with pytest.raises(dfn.DatafastError, match="no record is as"):
        result.resample(where={"topic": "none"})
    with pytest.raises(dfn.DatafastError, match="no step of this run asks"):
        (dfn.Source.list(texts(1)) >> dfn.Map(dict)).run().resample()
    result.reverse()
    with pytest.raises(ValueError, match="edited"):
        result.resample(0)
    assert model.calls == 4


def test_older_draws_are_no_unusable_replies_of_the_new_one():
    result = asking(counting(), 1).run().resample()
    later = asking(counting(), 1).run()
    assert later.ledger.saved_usd == pytest.approx(USD)
    (call,) = later.call_rows
    assert call.text == "2" and call.earlier == () and call.n_tries == 1
    (call,) = result.call_rows
    assert call.earlier == () and result.ledger.wasted_usd == 0
