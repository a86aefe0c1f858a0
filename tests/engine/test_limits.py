"""Requests and tokens per minute, calls in flight, turns, pauses: of one model, over all its runs."""

import asyncio
import itertools
import math
import random
from bisect import bisect_left
from collections import Counter
from types import SimpleNamespace

import pytest
from clock import VirtualLoop
from hypothesis import example, given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.engine.gates import TURN_S, Gate, Host, Member, gate_of
from datafast_nb.engine.limits import Budget, BudgetSpent, backoff_s, token_bound
from datafast_nb.engine.pacing import WINDOW_S, Pace, RateLimit, RateLimits
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Request

TOO_MANY = LLMError("slow down", kind="rate_limited", status=429)


def most_in_a_window(times: list[float], weights: list[int] | None = None) -> int:
    """The largest sum of weights over any half-open minute; `times` ascend."""
    sums = [0, *itertools.accumulate(weights or [1] * len(times))]
    return max(
        (sums[bisect_left(times, at + WINDOW_S)] - sums[i] for i, at in enumerate(times)), default=0
    )


# The count.


@settings(max_examples=150)
@given(
    rpm=st.integers(1, 500),
    tpm=st.none() | st.integers(50, 20_000),
    waits=st.lists(st.floats(0, 40), min_size=1, max_size=60),
    seed=st.integers(0, 10_000),
)
@example(rpm=1, tpm=None, waits=[0.0] * 5, seed=0)
@example(rpm=60, tpm=1000, waits=[0.0] * 60, seed=1)
def test_no_minute_has_more_requests_or_tokens_than_allowed(rpm, tpm, waits, seed):
    rng = random.Random(seed)
    pace = Pace()
    pace.rpm, pace.tpm = rpm, tpm
    now = rng.uniform(0, 1e6)
    times, used = [], []
    for idle in waits:
        now += idle
        for _ in range(rng.randint(1, 12)):
            bound = rng.randint(1, tpm) if tpm else 0
            while (wait := pace.wait_s(now, bound)) > 1e-9:
                now += wait
            piece = pace.take(now, bound)
            actual = rng.randint(0, bound)
            pace.correct(piece, actual - bound)
            times.append(now)
            used.append(actual)
    assert most_in_a_window(times) <= rpm
    if tpm:
        assert most_in_a_window(times, used) <= tpm


@pytest.mark.parametrize("rpm", [1, 7, 60, 600, 6_000])
def test_the_rate_that_is_allowed_is_used(rpm):
    pace = Pace()
    pace.rpm = rpm
    start = now = 5000.0
    times = []
    while now < start + 20 * WINDOW_S:
        wait = pace.wait_s(now, 0)
        if wait > 1e-9:
            now += wait
        else:
            pace.take(now, 0)
            times.append(now)
    assert most_in_a_window(times) <= rpm
    assert len(times) / 20 >= 0.96 * rpm
    first = [t for t in times if t - start < 1e-6]
    assert len(first) == max(1, rpm // 10), "a short run need not wait"


def test_a_limit_that_comes_later_holds_for_what_was_sent_before():
    pace = Pace()
    for i in range(50):
        pace.take(1000.0 + i * 0.1, 10)
    pace.rpm = 50
    assert pace.wait_s(1005.0, 0) > 54
    pace.rpm, pace.tpm = None, 510
    assert pace.wait_s(1005.0, 10) == 0
    assert pace.wait_s(1005.0, 11) > 54


def test_a_request_above_a_whole_minutes_tokens_goes_alone():
    pace = Pace()
    pace.tpm = 1000
    assert pace.wait_s(0.0, 5000) == 0
    piece = pace.take(0.0, 5000)
    assert pace.wait_s(1.0, 1) > 58
    pace.correct(piece, 900 - 5000)
    assert pace.wait_s(1.0, 100) == 0
    assert pace.wait_s(1.0, 5000) > 58


def test_a_request_that_was_not_sent_is_not_counted():
    pace = Pace()
    pace.rpm = 1
    pace.give_back(pace.take(0.0, 0), 0)
    assert pace.wait_s(0.0, 0) == 0


def test_counting_takes_bounded_memory():
    pace = Pace()
    for i in range(50_000):
        pace.take(i * 0.01, 3)
    assert len(pace._slices) <= 250


# What users write.


def test_limits_by_model_by_name_and_by_provider_and_name():
    mine, other = dfn.FakeModel(name="a"), dfn.FakeModel(name="b")
    limits = RateLimits.of({mine: 60, "b": {"rpm": 30, "tpm": 9_000}, "fake/b": 20})
    assert limits.find(mine) == RateLimit(60, None)
    assert limits.find(dfn.FakeModel(name="a")) == RateLimit(60, None), (
        "the same model, built again"
    )
    assert limits.find(other) == RateLimit(20, 9_000), "the strictest"
    assert limits.find(dfn.FakeModel(name="c")) == RateLimit()
    assert limits.plain() == {"a": 60, "b": {"rpm": 30, "tpm": 9_000}, "fake/b": 20}


class Own:
    name = "own"

    def generate(self, prompt):
        return prompt


def test_a_limit_may_name_the_users_own_model():
    own = Own()
    pipeline = dfn.Source.list([{"x": "1"}]) >> dfn.LLMStep("{x}", output_columns=["y"], model=own)
    (adapted,) = pipeline.steps[-1].models
    assert RateLimits.of({own: 5}).find(adapted) == RateLimit(5, None)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"m": 0}, ValueError, "rpm is 0"),
        ({"m": -3}, ValueError, "rpm is -3"),
        ({"m": True}, ValueError, "rpm is True"),
        ({"m": 1.5}, ValueError, "1.5"),
        ({"m": "60"}, ValueError, "'60'"),
        ({"m": {"tpm": 0}}, ValueError, "tpm is 0"),
        ({"m": {"rps": 1}}, ValueError, "no 'rps'"),
        ({"m": {}}, ValueError, "nothing"),
        ([("m", 1)], TypeError, "mapping"),
        ({"n": 60}, ValueError, "'n', which no step asks; models here: m"),
        ({"mm": 60}, ValueError, "Did you mean 'm'"),
    ],
)
def test_limits_that_say_nothing_sensible_are_refused_before_a_call(given, error, said):
    model = dfn.FakeModel(name="m")
    step = dfn.LLMStep("{x}", output_columns=["y"], model=model)
    pipeline = dfn.Source.list([{"x": "1"}]) >> step
    for run in (pipeline.run, pipeline.start, pipeline.estimate):
        with pytest.raises(error, match=said):
            run(rate_limits=given)
    assert model.calls == 0


def test_the_estimate_knows_the_limit():
    model = dfn.FakeModel(name="m", latency_s=0.001)
    step = dfn.LLMStep("{x}", output_columns=["y"], model=model)
    pipeline = dfn.Source.list([{"x": str(i)} for i in range(110)]) >> step
    pipeline.run(limit=20)
    free, slow = pipeline.estimate(), pipeline.estimate(rate_limits={"m": 60})
    assert free.seconds.likely < 1.0
    assert slow.seconds.likely == pytest.approx(90 - 6, abs=1)


# The gate, under a clock of the tests.


def on_virtual_time(main):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main(loop), 1e7))
    finally:
        loop.close()


def a_gate(loop, *, in_flight=4, rpm=None, tpm=None, host=None) -> Gate:
    gate = Gate(loop, host)
    gate.join(Member(in_flight, RateLimit(rpm, tpm), lambda: True))
    return gate


async def enter(gate, tokens=0):
    return gate.try_enter(tokens) or await gate.enter(tokens)


async def warm(gate):
    """The first call of the process has come back."""
    gate.leave(await enter(gate))


@settings(max_examples=60)
@given(
    bounds=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    rpm=st.none() | st.integers(5, 200),
    n=st.integers(1, 60),
    refusals=st.lists(st.booleans(), min_size=80, max_size=80),
    seed=st.integers(0, 1000),
)
def test_in_flight_and_rate_are_ceilings_over_all_runs(bounds, rpm, n, refusals, seed):
    rng = random.Random(seed)
    sent, most = [], 0

    async def main(loop):
        gate = Gate(loop)
        answers = iter(refusals)

        async def run(bound):
            nonlocal most
            gate.join(Member(bound, RateLimit(rpm), lambda: True))
            slots = asyncio.Semaphore(bound)

            async def call():
                nonlocal most
                async with slots:
                    leave = await enter(gate)
                    sent.append(loop.time())
                    most = max(most, gate.in_flight)
                    await asyncio.sleep(rng.expovariate(1.0))
                    if next(answers, False):
                        gate.fail(leave, TOO_MANY)
                    else:
                        gate.leave(leave)

            await asyncio.gather(*(call() for _ in range(n)))

        await asyncio.gather(*map(run, bounds))
        assert gate.in_flight == 0

    on_virtual_time(main)
    assert len(sent) == n * len(bounds)
    assert most <= max(bounds)
    assert rpm is None or most_in_a_window(sent) <= rpm


def test_a_refusal_halves_the_calls_in_flight_once_and_replies_widen_them_again():
    async def main(loop):
        gate = a_gate(loop, in_flight=16)
        await warm(gate)
        leaves = [gate.try_enter(0) for _ in range(17)]
        assert leaves[16] is None and gate.in_flight == 16
        seen = []
        for leave in leaves[:16]:
            gate.fail(leave, TOO_MANY)
            seen.append(gate.limit)
        assert set(seen) == {8}, "sixteen refusals of one round are one"
        for _ in range(5):
            gate.fail(await enter(gate), TOO_MANY)
        assert gate.limit == 1
        n = 0
        widths = [1]
        while gate.limit < 16:
            gate.leave(await enter(gate))
            n += 1
            widths.append(gate.limit)
        assert all(b - a in (0, 1) for a, b in itertools.pairwise(widths))
        assert 100 < n < 150, "one more for each round of replies"

    on_virtual_time(main)


def test_other_failures_do_not_narrow_the_gate():
    async def main(loop):
        gate = a_gate(loop, in_flight=8)
        for kind, status in (("server", 500), ("timeout", None), ("connection", None)):
            gate.fail(await enter(gate), LLMError("x", kind=kind, status=status))
        assert gate.limit == 8
        gate.fail(await enter(gate), LLMError("x", kind="server", status=529))
        assert gate.limit < 8

    on_virtual_time(main)


def test_a_refusal_long_ago_is_forgiven_when_a_run_begins():
    async def main(loop):
        gate = Gate(loop)
        for pause, limit in ((10.0, 1), (301.0, 8)):
            member = Member(8, RateLimit(), lambda: True)
            gate.join(member)
            gate.fail(await enter(gate), TOO_MANY)
            assert gate.limit == 1
            gate.part(member)
            await asyncio.sleep(pause)
            again = Member(8, RateLimit(), lambda: True)
            gate.join(again)
            assert gate.limit == limit
            gate.part(again)

    on_virtual_time(main)


def test_who_waits_is_let_through_in_order_and_after_the_pause_only():
    async def main(loop):
        gate = a_gate(loop, in_flight=3)
        await warm(gate)
        gate.pause(50.0)
        order = []

        async def call(number):
            leave = await enter(gate)
            order.append((number, loop.time()))
            await asyncio.sleep(1.0)
            gate.leave(leave)

        start = loop.time()
        await asyncio.gather(*(call(i) for i in range(9)))
        assert [number for number, _ in order] == list(range(9))
        assert [at - start for _, at in order] == pytest.approx([50] * 3 + [51] * 3 + [52] * 3)

    on_virtual_time(main)


def test_one_who_stops_waiting_holds_nobody_up():
    async def main(loop):
        gate = a_gate(loop, in_flight=1)
        await warm(gate)
        held = await enter(gate)
        tasks = [asyncio.ensure_future(enter(gate)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[2].cancel()
        gate.leave(held)  # leave is given to the second ...
        tasks[1].cancel()  # ... who goes at the same moment
        leave = await asyncio.wait_for(tasks[3], 1.0)
        assert gate.in_flight == 1
        gate.leave(leave)
        assert gate.in_flight == 0 and not gate.is_waited_for

    on_virtual_time(main)


def test_the_first_call_goes_ahead_and_a_slow_one_holds_the_others_for_two_seconds():
    async def main(loop):
        gate = a_gate(loop)
        start = loop.time()
        first = await enter(gate)
        assert gate.try_enter(0) is None
        second = await enter(gate)
        assert loop.time() - start == pytest.approx(2.0)
        gate.fail(second, LLMError("no", kind="auth"))
        gate.leave(first)

    on_virtual_time(main)


def test_the_strictest_limit_of_the_runs_holds_and_leaves_with_its_run():
    async def main(loop):
        gate = Gate(loop)
        wide = Member(2, RateLimit(100, 5000), lambda: True)
        strict = Member(9, RateLimit(10, None), lambda: True)
        gate.join(wide)
        gate.join(strict)
        assert (gate.pace.rpm, gate.pace.tpm, gate.limit) == (10, 5000, 9)
        gate.part(strict)
        assert (gate.pace.rpm, gate.pace.tpm, gate.limit) == (100, 5000, 2)
        gate.part(wide)
        assert (gate.pace.rpm, gate.pace.tpm, gate.counts_tokens) == (None, None, False)

    on_virtual_time(main)


# Machines that hold one model at a time.


def turns(n_calls: dict[str, int], seconds: float) -> tuple[list[tuple[str, float]], int]:
    """(model, start) of each call in order, and the most models that were asked at once."""
    log: list[tuple[str, float]] = []
    busy: Counter[str] = Counter()
    most = 0

    async def main(loop):
        host = Host()
        left = Counter(n_calls)

        async def run(name):
            nonlocal most
            gate = Gate(loop, host)
            member = Member(2, RateLimit(), lambda: left[name] > 0)
            gate.join(member)

            async def work():
                nonlocal most
                for _ in range(n_calls[name] // 2):
                    leave = await enter(gate)
                    log.append((name, loop.time()))
                    busy[name] += 1
                    most = max(most, sum(1 for n in busy.values() if n))
                    await asyncio.sleep(seconds)
                    busy[name] -= 1
                    left[name] -= 1
                    gate.leave(leave)
                    await asyncio.sleep(0.01)  # the reply is stored before the next is sent

            await asyncio.gather(work(), work())
            gate.part(member)

        await asyncio.gather(*map(run, n_calls))

    on_virtual_time(main)
    return log, most


def test_models_of_one_machine_are_asked_one_after_another():
    log, most = turns({"a": 10, "b": 8, "c": 6}, seconds=1.0)
    assert most == 1
    assert [name for name, _ in itertools.groupby(n for n, _ in log)] == ["a", "b", "c"]
    assert len(log) == 24


def test_a_turn_ends_after_a_minute_where_another_model_waits():
    log, most = turns({"a": 400, "b": 60}, seconds=1.0)
    assert most == 1 and len(log) == 460
    first_b = next(at for name, at in log if name == "b")
    assert TURN_S <= first_b - log[0][1] <= TURN_S + 2.5
    changes = len([1 for _ in itertools.groupby(n for n, _ in log)])
    assert changes == 3, "b is done within its minute, then a goes on"


# Budget and back-off.


def ask(text="x", max_tokens=10):
    return Request(({"role": "user", "content": text},), max_tokens=max_tokens)


def test_budget_that_running_calls_hold_is_waited_for_and_one_that_is_spent_is_not():
    model = dfn.FakeModel(price=(0.0, 1_000_000.0))  # a dollar a token of output

    async def main(loop):
        budget = Budget(usd=25.0)
        held = [budget.try_reserve(model, ask()) for _ in range(3)]
        assert held == [10.0, 10.0, None]
        waiting = asyncio.ensure_future(budget.released())
        await asyncio.sleep(0)
        budget.settle(10.0, 4.0)
        await waiting
        assert budget.try_reserve(model, ask()) == 10.0
        budget.settle(10.0, 10.0)
        budget.settle(10.0, 10.0)
        with pytest.raises(BudgetSpent, match=r"has \$1\S* left"):
            budget.try_reserve(model, ask())
        assert budget.spent_usd == 24.0 and budget.calls == 3

    on_virtual_time(main)


@given(st.text(max_size=200), st.none() | st.integers(1, 9000))
def test_the_bound_on_tokens_is_above_bytes_and_output(text, max_tokens):
    bound = token_bound(ask(text, max_tokens))
    assert bound >= len(text.encode("utf-8", "replace")) + (max_tokens or 1)


@given(st.floats(0, 10), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_never_negative(base, attempt, jitter):
    delay = backoff_s(base, attempt, jitter)
    assert 0 <= delay <= 60 and delay <= base * 2.0 ** min(attempt - 1, 60)
    assert math.isfinite(delay)


def test_one_gate_for_one_model_and_another_loop_has_its_own():
    model = SimpleNamespace(machine=lambda: "here")
    loops = [VirtualLoop(), VirtualLoop()]
    try:
        who = {"provider": "p", "endpoint": "", "model": "m"}
        gate = gate_of(model, who, loops[0])
        assert gate_of(model, dict(reversed(who.items())), loops[0]) is gate
        assert gate_of(model, {**who, "model": "n"}, loops[0]) is not gate
        assert gate_of(model, who, loops[1]) is not gate
    finally:
        for loop in loops:
            loop.close()
