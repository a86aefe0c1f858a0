"""The ledger of a project: what was paid, saved and wasted, by day, run, step and model, on disk."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

import datafast_nb as dfn
from datafast_nb.models.base import Response, Usage
from datafast_nb.options import options
from datafast_nb.store import spend
from datafast_nb.store.memo import Memo, open_memo
from datafast_nb.store.rows import Rows
from datafast_nb.store.spend import stored_spend
from datafast_nb.store.spending import Spending, SpendLine

USD = 0.001
"""List price of a reply of 10 tokens."""
PRICE = (0.0, USD * 1e5)


def texts(n, word="text"):
    return [{"text": f"{word} {i}"} for i in range(n)]


def answered(text="fine", n_out=10, **more):
    return Response(text, usage=Usage(2, n_out), **more)


def model_of(answer=None, **more):
    given = {"price": PRICE, "provider": "acme", "name": "m"} | more
    return dfn.FakeModel(answer or (lambda request: answered()), **given)


def asking(model, n=3, name="ask", word="text", **more):
    step = dfn.LLMStep("on {text}", output_columns=["q"], model=model, **more)
    return dfn.Source.list(texts(n, word)) >> step.as_step(name)


def test_a_line_per_day_run_step_and_model():
    model = model_of()
    first = asking(model, 3).run()
    second = asking(model, 5, name="again").run()
    one, two = sorted(dfn.ledger(), key=lambda line: line.step, reverse=True)
    assert (one.step, one.provider, one.model) == ("ask", "acme", "m")
    assert one.day == two.day == spend.today() and one.run != two.run
    assert one.project and one.project == two.project
    assert (one.calls, one.input_tokens, one.output_tokens, one.answered) == (3, 6, 30, 0)
    assert one.paid_usd == pytest.approx(first.ledger.paid_usd) == pytest.approx(3 * USD)
    assert (two.calls, two.answered) == (2, 3)
    assert two.paid_usd == pytest.approx(second.ledger.paid_usd) == pytest.approx(2 * USD)
    assert two.saved_usd == pytest.approx(second.ledger.saved_usd) == pytest.approx(3 * USD)
    assert one.wasted_usd == two.wasted_usd == 0


def test_sums_by_any_part_agree_with_the_total_and_with_pandas():
    small, large = model_of(name="s"), model_of(name="l", provider="other")
    asking(small, 2).run()
    (
        asking(small, 3, word="b")
        >> dfn.LLMStep("{q} {text}", output_columns=["a"], model=large).as_step("next")
    ).run()
    ledger = dfn.ledger()
    assert ledger.total.calls == small.calls + large.calls == 8
    for sums in (
        ledger.per_day, ledger.per_project, ledger.per_run, ledger.per_step, ledger.per_model,
        ledger.per("run", "step"),
    ):  # fmt: skip
        assert sum(line.calls for line in sums) == 8
        assert sum(line.paid_usd for line in sums) == pytest.approx(ledger.paid_usd)
        frame = sums.to_pandas()
        assert list(frame.columns[: len(sums.by)]) == list(sums.by) and len(frame) == len(sums)
        assert frame["calls"].sum() == 8
    assert [(line.provider, line.model, line.calls) for line in ledger.per_model] == [
        ("acme", "s", 5),
        ("other", "l", 3),
    ]
    assert {line.step: line.calls for line in ledger.per_step} == {"ask": 5, "next": 3}
    assert len(ledger.per_day) == len(ledger.per_project) == 1 and len(ledger.per_run) == 2
    assert ledger.today_usd == pytest.approx(ledger.paid_usd)
    assert set(ledger.to_pandas().columns) == set(SpendLine.__slots__)
    with pytest.raises(ValueError, match="choose from 'project', 'day'"):
        ledger.per("week")


def test_unusable_lost_and_interrupted_calls_are_paid_and_wasted():
    told = iter(["", answered("good"), dfn.LLMError("gone", kind="timeout"), answered("late")])

    def answer(request):
        what = next(told)
        if isinstance(what, dfn.LLMError):
            raise what
        return answered(what) if isinstance(what, str) else what

    result = asking(model_of(answer), 2, max_tokens=10, retry_delay=0.0).run(max_concurrent=1)
    assert [r["q"] for r in result] == ["good", "late"]
    line = dfn.ledger().total
    assert (line.calls, line.unusable, line.lost) == (4, 1, 1)
    assert line.paid_usd == pytest.approx(4 * USD) == pytest.approx(result.ledger.paid_usd)
    assert line.wasted_usd == pytest.approx(2 * USD) == pytest.approx(result.ledger.wasted_usd)


def test_failures_that_nobody_bills_are_no_calls():
    told = [dfn.LLMError("busy", kind="server"), answered()]
    model = model_of(told)
    asking(model, 1, retry_delay=0.0).run()
    assert model.calls == 2 and dfn.ledger().total.calls == 1


def test_a_call_that_is_cut_off_in_flight_counts_at_the_most_that_it_can_cost():
    model = model_of(latency_s=60.0)
    run = asking(model, 2, max_tokens=10).start(max_concurrent=2)
    until = time.monotonic() + 20
    while model.calls < 2 and time.monotonic() < until:
        time.sleep(0.01)
    run.stop()
    result = run.result(timeout_s=30)
    assert result.status == "interrupted"
    line = dfn.ledger().total
    assert (line.calls, line.lost) == (2, 2)
    assert line.wasted_usd == line.paid_usd == pytest.approx(2 * USD)
    assert result.ledger.paid_usd == pytest.approx(2 * USD)


def test_an_unknown_price_is_unknown_and_never_nothing():
    asking(model_of(price=None, provider="nobody"), 2).run()
    asking(model_of(), 2, name="known").run()
    ledger = dfn.ledger()
    assert math.isnan(ledger.paid_usd) and math.isnan(ledger.today_usd)
    by_step = {line.step: line.paid_usd for line in ledger.per_step}
    assert math.isnan(by_step["ask"]) and by_step["known"] == pytest.approx(2 * USD)
    assert "unknown" in repr(ledger)
    asking(model_of(price=None, provider="nobody"), 2).run()
    assert math.isnan(dfn.ledger().total.saved_usd)


def test_free_models_are_counted_as_free():
    asking(dfn.FakeModel(), 2).run()
    ledger = dfn.ledger()
    assert ledger.total.calls == 2 and ledger.paid_usd == 0 and "free" in repr(ledger)


def test_nothing_is_noted_by_what_asks_nobody():
    pipeline = asking(model_of(), 3)
    pipeline.preview()
    pipeline.estimate()
    repr(pipeline)
    assert len(dfn.ledger()) == 0
    result = pipeline.run()
    before = dfn.ledger().to_pandas()
    result.at("ask")
    pipeline.estimate()
    pipeline.preview()
    assert dfn.ledger().to_pandas().equals(before)


def test_a_run_past_midnight_has_a_line_for_each_day(monkeypatch):
    days = iter(["2026-03-01"] * 2 + ["2026-03-02"] * 99)
    monkeypatch.setattr(spend, "today", lambda: next(days))
    asking(model_of(), 5).run(max_concurrent=1)
    assert [(line.day, line.calls) for line in dfn.ledger().per_day] == [
        ("2026-03-01", 2),
        ("2026-03-02", 3),
    ]
    assert len(dfn.ledger().per_run) == 1


def test_answers_of_others_are_not_ones_own_spending(tmp_path):
    asking(model_of(), 3).run()
    open_memo().export(tmp_path / "calls.jsonl")
    options.home = tmp_path / "mine"
    open_memo().load(tmp_path / "calls.jsonl")
    assert len(dfn.ledger()) == 0
    assert asking(model_of(), 3).run().ledger.saved_usd == pytest.approx(3 * USD)
    line = dfn.ledger().total
    assert line.calls == 0 and line.saved_usd == pytest.approx(3 * USD)
    open_memo().close()


def test_it_is_not_taken_for_answers():
    asking(model_of(), 3).run()
    info = open_memo().info()
    assert (info.n_draws, info.n_replies) == (3, 3)
    assert "3 answers" in open_memo()._repr_html_()
    assert open_memo().export(options.home or open_memo().path.parent / "x.jsonl") == 3


# What others write, and what is killed.

CHILD = """
    import sys
    import datafast_nb as dfn
    from datafast_nb.models.base import Response, Usage
    word, n = sys.argv[1], int(sys.argv[2])
    def answer(request):
        print("asked", flush=True)
        return Response("fine", usage=Usage(2, 10))
    model = dfn.FakeModel(answer, price=(0.0, 100.0), provider="acme", name="m",
                          latency_s=0.004)
    rows = [{"text": f"{word} {i}"} for i in range(n)]
    step = dfn.LLMStep("on {text}", output_columns=["q"], model=model).as_step("ask")
    (dfn.Source.list(rows) >> step).run(max_concurrent=4)
"""


def start(home, word: str, n: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD), word, str(n)],
        env=os.environ | {"DATAFAST_NB_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_spending_survives_kill_9_exactly_as_far_as_answers_do(tmp_path):
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    rng = random.Random(seed)
    options.home = tmp_path / "home"
    paid_for = 0
    for _ in range(5):
        child = start(options.home, "text", 400)
        assert child.stdout is not None
        for _ in range(rng.randint(1, 60)):
            child.stdout.readline()
        time.sleep(rng.random() * 0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=60)
        memo = open_memo()
        n_replies = memo.info().n_replies
        assert n_replies >= paid_for
        paid_for = n_replies
        line = dfn.ledger().total
        assert line.calls == n_replies
        assert line.paid_usd == pytest.approx(n_replies * USD)
        memo.close()
    assert paid_for > 0
    assert len(asking(model_of(), 400).run()) == 400
    assert dfn.ledger().total.calls == 400 == open_memo().info().n_replies
    open_memo().close()


def test_processes_add_up(tmp_path):
    options.home = tmp_path / "home"
    children = [start(options.home, word, 40) for word in ("a", "b", "c")]
    for child in children:
        _, err = child.communicate(timeout=100)
        assert child.returncode == 0, err
    ledger = dfn.ledger()
    assert ledger.total.calls == 120 and len(ledger.per_run) == 3
    options.budget_usd_per_day = 121 * USD
    with pytest.raises(dfn.BudgetExceededError, match="by other processes"):
        asking(model_of(), 3, max_tokens=10).run()
    assert dfn.ledger().total.calls == 121
    open_memo().close()


def test_a_database_that_is_locked_takes_the_spending_later(tmp_path):
    """It goes to the overflow files with the answers, and counts from there already."""
    options.home, options.lock_wait_s = tmp_path / "home", 0.2
    memo = open_memo()
    foreign = sqlite3.connect(memo.path / "cache.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.warns(UserWarning, match="lock"):
        asking(model_of(), 5).run()
    other = Memo(memo.path, lock_wait_s=0.2)
    assert list(memo.path.glob("overflow-*.jsonl"))
    assert sum(sums.calls for _, _, sums in stored_spend(other)) == 5
    assert dfn.ledger().total.calls == 5
    foreign.execute("ROLLBACK")
    foreign.close()
    asking(model_of(), 6).run()
    other.flush()
    assert not list(memo.path.glob("overflow-*.jsonl"))
    assert dfn.ledger().total.calls == 6
    assert sum(sums.calls for _, _, sums in stored_spend(other)) == 6
    other.close()
    memo.close()


def test_a_row_that_is_damaged_costs_its_figures_only(tmp_path):
    options.home = tmp_path / "home"
    asking(model_of(), 3).run()
    asking(model_of(), 2, name="next", word="b").run()
    memo = open_memo()
    folder = memo.path
    memo.close()
    with sqlite3.connect(folder / "cache.db") as con:
        con.execute(
            "UPDATE Cache SET value = zeroblob(40) WHERE rowid ="
            " (SELECT min(rowid) FROM Cache WHERE key LIKE '!spend/%')"
        )
    con.close()
    assert [line.step for line in dfn.ledger()] == ["next"]
    assert len(asking(model_of(), 3).run()) == 3
    open_memo().close()


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_versions_of_a_row_the_later_one_stays(order):
    rows = Rows({})
    for n in order:
        rows.absorb("!spend/2026-03-01/run/1", {"spend": {"n": n, "paid": n * USD}})
    assert rows.bodies["!spend/2026-03-01/run/1"]["spend"]["n"] == 2


# Displays.


def test_it_shows_days_steps_and_runs_and_the_budget_of_the_day():
    options.budget_usd_per_day = 2.5
    asking(model_of(), 3).run()
    ledger = dfn.ledger()
    forms = ledger._repr_mimebundle_()
    for text in (forms["text/plain"], forms["text/html"], forms["text/markdown"]):
        text = text.replace("\\", "")  # Markdown escapes
        assert "ask" in text and "0.0030" in text and spend.today() in text
        assert "2.50" in text and "local dates" in text
    assert "Spending per step" in repr(ledger.per_step)
    assert repr(ledger) == repr(ledger)


def test_many_lines_are_cut_with_their_sum():
    lines = [
        SpendLine("p", f"2026-01-{i:02}", f"run {i:02}", f"step {i:02}", "acme", "m", calls=i,
                  paid_usd=float(i))
        for i in range(1, 31)
    ]  # fmt: skip
    shown = repr(Spending(lines, day="2026-01-30"))
    assert "16 more lines" in shown and "20 more lines" in shown and "465" in shown
    assert len(Spending(lines)._repr_html_()) < 60_000


def test_nothing_spent_says_so():
    assert "Nothing spent" in repr(dfn.ledger())
    assert len(dfn.ledger().to_pandas()) == 0
