"""Money: no run passes its bounds, nothing is paid twice, and every record has a fate."""

from __future__ import annotations

import math
import threading
from collections import Counter
from hashlib import blake2b

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.engine import limits
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.options import options
from datafast_nb.store.memo import open_memo
from datafast_nb.store.spend import Sums, stored_spend


@pytest.fixture(scope="module")
def new_home(tmp_path_factory):
    """Begins with an empty memo at each call."""

    def begin() -> None:
        end()
        options.home = tmp_path_factory.mktemp("home")

    def end() -> None:
        if options.home is not None:
            open_memo().close()
            options.home = None

    yield begin
    end()
    options.budget_usd_per_day = None


class Payee:
    """Answers at random, by the prompt and how often it came, and counts what that is worth."""

    def __init__(self, seed: int, max_tokens: int, price: tuple[float, float]) -> None:
        self.seed, self.max_tokens, self.price = seed, max_tokens, price
        self.spent_usd = 0.0
        """List price of replies, and the most that lost calls can cost."""
        self.replies: Counter[str] = Counter()
        """Usable ones, by prompt."""
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.model = dfn.FakeModel(self.answer, name=f"m{seed}", price=price, latency_s=0.0005)

    def answer(self, request: Request) -> Response:
        prompt = request.messages[0]["content"]
        with self._lock:
            self._asked[prompt] += 1
            draw = blake2b(f"{self.seed} {prompt} {self._asked[prompt]}".encode()).digest()
            n_input = 1 + draw[0] * sum(len(m["content"]) for m in request.messages) // 256
            n_output = draw[1] * self.max_tokens // 255
            what = draw[2] % 16
            if what == 0:
                raise dfn.LLMError("busy", kind="server", retry_after_s=0.0)
            if what == 1:  # billed, and nothing came
                self.spent_usd += limits.worst_usd(dfn.Price(*self.price), request)
                raise dfn.LLMError("lost", kind="connection", maybe_billed=True)
            self.spent_usd += (n_input * self.price[0] + n_output * self.price[1]) / 1e6
            if what in (2, 3):
                return Response("", usage=Usage(n_input, n_output))
            if what == 4:
                return Response("cut", finish="length", usage=Usage(n_input, n_output))
            self.replies[prompt] += 1
            return Response("fine", usage=Usage(n_input, n_output))


def asking(payee: Payee, n: int, word: str = "text", **more) -> dfn.Pipeline:
    return dfn.Source.list([{"text": f"{word} {i}"} for i in range(n)]) >> dfn.LLMStep(
        "about {text}",
        output_columns=["q"],
        model=payee.model,
        max_tokens=payee.max_tokens,
        max_retries=2,
        retry_delay=0.0,
        **more,
    )


def ended(pipeline: dfn.Pipeline, **bounds) -> dfn.Result:
    """The Result of a run, however it ends."""
    try:
        return pipeline.run(**bounds)
    except (dfn.BudgetExceededError, dfn.LLMError) as exc:
        return exc.result


def booked() -> float:
    open_memo().flush()
    return sum(sums.charged for _, _, sums in stored_spend(open_memo()))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 25),
    part=st.floats(0, 1.2),
    in_flight=st.integers(1, 16),
    max_tokens=st.integers(1, 400),
    price=st.tuples(st.floats(0.01, 50), st.floats(0.01, 200)),
    bound=st.sampled_from(["run", "day", "both"]),
    on_error=st.sampled_from(["skip", "retry"]),
)
@example(3, 20, 0.5, 16, 300, (2.0, 8.0), "day", "retry")
@example(3, 20, 0.5, 16, 300, (2.0, 8.0), "run", "skip")
def test_no_bound_is_passed_and_nothing_is_paid_twice(
    new_home, seed, n, part, in_flight, max_tokens, price, bound, on_error
):
    new_home()
    payee = Payee(seed, max_tokens, price)
    pipeline = asking(payee, n, on_error=on_error)
    usd = part * n * (40 * price[0] + max_tokens * price[1]) / 1e6
    options.budget_usd_per_day = usd if bound != "run" else None
    bounds = {"budget": usd} if bound != "day" else {}
    result = ended(pipeline, max_concurrent=in_flight, **bounds)
    assert payee.spent_usd <= usd + 1e-12
    assert math.isclose(result.ledger.paid_usd, payee.spent_usd, abs_tol=1e-9)
    assert math.isclose(booked(), payee.spent_usd, abs_tol=1e-9)
    fates = result.info.steps[1].fates
    assert fates.total == n and fates.advanced == len(result)
    assert len(result.errors) == fates.failed
    # Without the bound the rest is asked: a prompt that had its answer is not asked again.
    before = payee.replies.copy()
    options.budget_usd_per_day = None
    after = ended(pipeline)
    assert set(payee.replies.values()) <= {1} and before <= payee.replies
    assert after.info.steps[1].fates.advanced == len(payee.replies)
    assert after.info.steps[1].fates.total == n
    assert math.isclose(booked(), payee.spent_usd, abs_tol=1e-9)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    part=st.floats(0, 1.0),
    in_flight=st.integers(1, 8),
)
def test_runs_at_the_same_time_share_the_budget_of_the_day(new_home, seed, sizes, part, in_flight):
    new_home()
    price = (3.0, 12.0)
    payees = [Payee(seed + i, 200, price) for i in range(len(sizes))]
    usd = part * sum(sizes) * 200 * 12.0 / 1e6
    options.budget_usd_per_day = usd
    runs = [
        asking(payee, n, f"run {i}").start(max_concurrent=in_flight)
        for i, (payee, n) in enumerate(zip(payees, sizes, strict=True))
    ]
    for run, n in zip(runs, sizes, strict=True):
        try:
            result = run.result(timeout_s=60)
        except dfn.LLMError as exc:
            result = exc.result
        assert result.info.steps[1].fates.total == n
    spent = sum(payee.spent_usd for payee in payees)
    assert spent <= usd + 1e-12
    assert math.isclose(booked(), spent, abs_tol=1e-9)


def test_the_budget_of_the_day_holds_over_runs_and_says_what_is_kept():
    payee = dfn.FakeModel(
        lambda r: Response("fine", usage=Usage(0, 100)), price=(0.0, 100.0), provider="acme"
    )

    def run(first: int, n: int, **more) -> dfn.Result:
        rows = [{"text": f"row {i}"} for i in range(first, first + n)]
        step = dfn.LLMStep("{text}", output_columns=["q"], model=payee, max_tokens=100)
        return (dfn.Source.list(rows) >> step).run(**more)

    run(0, 3)  # before there is a bound: it counts all the same
    options.budget_usd_per_day = 0.075
    run(10, 3)
    with pytest.raises(dfn.BudgetExceededError) as caught:
        run(20, 4)
    assert payee.calls == 7 and len(caught.value.result) == 1
    said = str(caught.value)
    assert "options.budget_usd_per_day=$0.075 is used up: $0.070 spent today" in said
    assert "1 records finished; every answer that arrived is kept" in said
    options.budget_usd_per_day = 0.1
    assert len(run(20, 3)) == 3 and payee.calls == 9


def test_the_smaller_of_both_bounds_holds():
    model = dfn.FakeModel(lambda r: Response("fine", usage=Usage(0, 1)), price=(0.0, 1e6))
    rows = [{"text": f"row {i}"} for i in range(9)]
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model, max_tokens=1)
    options.budget_usd_per_day = 4.0
    with pytest.raises(dfn.BudgetExceededError, match=r"^budget=\$2.00"):
        (dfn.Source.list(rows) >> step).run(budget=2.0)
    assert model.calls == 2
    with pytest.raises(dfn.BudgetExceededError, match="budget_usd_per_day"):
        (dfn.Source.list(rows) >> step).run(budget=200.0)
    assert model.calls == 4


@pytest.mark.parametrize("more", [{}, {"budget": 1.0}])
def test_an_unknown_price_or_reply_length_is_refused_where_the_day_has_a_budget(more):
    options.budget_usd_per_day = 1.0
    source = dfn.Source.list([{"text": "a"}])
    unknown = dfn.FakeModel(provider="nobody", price=None)
    with pytest.raises(dfn.DatafastError, match=r"price.*price=\(input, output\)") as caught:
        (source >> dfn.LLMStep("{text}", output_columns=["q"], model=unknown)).run(**more)
    assert ("budget_usd_per_day" in str(caught.value)) == (not more)
    priced = dfn.FakeModel(price=(1, 1))
    endless = dfn.LLMStep("{text}", output_columns=["q"], model=priced, max_tokens=None)
    with pytest.raises(dfn.DatafastError, match="Set max_tokens"):
        (source >> endless).run(**more)
    assert unknown.calls == priced.calls == 0


def test_free_models_go_on_when_the_day_is_used_up():
    options.budget_usd_per_day = 0.0
    model = dfn.FakeModel("fine")
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model)
    assert len((dfn.Source.list([{"text": "a"}]) >> step).run()) == 1


def test_a_new_day_has_a_budget_of_its_own(monkeypatch):
    day = ["2026-03-01"]
    monkeypatch.setattr(limits, "today", lambda: day[0])
    model = dfn.FakeModel(lambda r: Response("fine", usage=Usage(0, 1)), price=(0.0, 1e6))
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model, max_tokens=1)
    pipeline = dfn.Source.list([{"text": f"row {i}"} for i in range(5)]) >> step
    options.budget_usd_per_day = 2.0
    for date, n in (("2026-03-01", 2), ("2026-03-01", 2), ("2026-03-02", 4)):
        day[0] = date
        with pytest.raises(dfn.BudgetExceededError):
            pipeline.run()
        assert model.calls == n
    day[0] = "2026-03-03"
    assert len(pipeline.run()) == 5


def test_what_other_processes_have_stored_counts(monkeypatch):
    memo = open_memo()
    options.budget_usd_per_day = 5.0
    sums = Sums("ask", "acme", "m", n=1, calls=1, paid=4.5, charged=4.5)
    row = {"spend": {name: getattr(sums, name) for name in Sums.__slots__}}
    memo.note_spend({f"!spend/{limits.today()}/elsewhere/1": row})
    memo.flush()
    model = dfn.FakeModel(lambda r: Response("fine", usage=Usage(0, 1)), price=(0.0, 1e6))
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model, max_tokens=1)
    with pytest.raises(dfn.BudgetExceededError, match=r"\$4.5 of it by other processes"):
        (dfn.Source.list([{"text": "a"}]) >> step).run()
    assert model.calls == 0
