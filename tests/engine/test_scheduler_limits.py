"""Calls that fail, wait, hang or are too many: attempts, waits and deadlines of whole runs."""

import asyncio
import itertools
import random
import time
from bisect import bisect_left
from queue import SimpleQueue
from typing import Any

import pytest
from clock import FastLoop, VirtualLoop, engine_on
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.engine.calls import Call
from datafast_nb.engine.limits import Budget
from datafast_nb.engine.pacing import Pace, Slice
from datafast_nb.engine.scheduler import Scheduler
from datafast_nb.errors import LLMError
from datafast_nb.models.base import FATAL, RETRYABLE, Model, Request, Response, Usage
from datafast_nb.steps.outputs import Unusable


def texts(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"text {i}"} for i in range(n)]


def asking(model: Any, n: int, **settings: Any) -> dfn.Pipeline:
    given = {"output_columns": ["q"], "retry_delay": 0.001, **settings}
    return dfn.Source.list(texts(n)) >> dfn.LLMStep("{text}", model=model, **given)


# 10,000 scripts of faults, under a clock of the tests.

TIMEOUT_S = 30.0
REFUSALS = {"rate_limited": 429, "overloaded": 529}


class Scripted(Model):
    """Does what its script says, one entry an attempt: ("ok" | "empty" | kind, seconds, stated wait)."""

    def __init__(self, name: str, script: list[tuple[str, float, float | None]]) -> None:
        self.name = name
        self.script = script
        self.timeout_s = TIMEOUT_S
        self.spans: list[tuple[float, float]] = []
        """(start, end) of each attempt, loop time."""

    async def complete(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        what, seconds, stated = self.script[len(self.spans)]
        self.spans.append((loop.time(), 0.0))
        try:
            await asyncio.sleep(1e9 if what == "hang" else seconds)
        finally:
            self.spans[-1] = (self.spans[-1][0], loop.time())
        if what == "ok":
            return Response("fine", usage=Usage(1, 1))
        if what == "empty":
            return Response("", usage=Usage(1, 0))
        kind = "server" if what == "overloaded" else what
        status = REFUSALS.get(what)
        raise LLMError(
            what, kind=kind, status=status, retry_after_s=stated, maybe_billed=what == "connection"
        )


class InstantMemo:
    """Commits at once."""

    def put(self, key: str, label: str, reply: Any, *, identity: Any, done: Any, own: bool) -> None:
        done(None)


def parse(text: str) -> dict[str, Any]:
    if not text:
        raise Unusable("empty", "the answer is empty")
    return {"q": text}


PASSING = ("server", "connection", "bad_reply", "rate_limited", "overloaded", "hang", "timeout")
ENDING = ("bad_request", "too_large", "error")
STOPPING = ("auth", "not_found", "quota")


def random_script(rng: random.Random, *, may_stop: bool) -> list[tuple[str, float, float | None]]:
    script = []
    for _ in range(12):
        what = rng.choice(("ok", "ok", "empty", *PASSING, *PASSING, *ENDING[: rng.randint(0, 3)]))
        if may_stop and rng.random() < 0.3:
            what = rng.choice(STOPPING)
        stated = None
        if what in REFUSALS and rng.random() < 0.6:
            stated = rng.choice((0.0, 0.5, 7.0, 60.0, 120.0))
            if may_stop and rng.random() < 0.3:
                stated = rng.choice((120.5, 3600.0, 86400.0))
        script.append((what, rng.uniform(0.0, TIMEOUT_S * 0.9), stated))
    return script


def oracle(call: Call, model: Scripted) -> tuple[int, str]:
    """Attempts, and "ok" or the kind of the error, by the rules as they are written down."""
    reasks = call.reasks_left
    for n, (what, _, stated) in enumerate(model.script, start=1):
        if what == "ok":
            return n, "ok"
        if what == "empty":
            if reasks and n <= max(1, call.max_retries):
                reasks -= 1
                continue
            return n, "empty"
        kind = {"hang": "timeout", "overloaded": "server"}.get(what, what)
        if kind in FATAL or kind not in RETRYABLE or (stated or 0.0) > 120.0:
            return n, kind
        if n > call.max_retries:
            return n, kind
    raise AssertionError("the script is too short")


def check(call: Call, model: Scripted, n: int, outcome: str, retries: int, delay_s: float) -> None:
    spans = model.spans
    assert (call.attempts, len(spans)) == (n, n), model.script
    assert (call.error.kind if call.values is None else "ok") == outcome, model.script
    assert n <= 1 + max(1, retries)
    waits = 0.0
    for k, ((began, ended), (after, _)) in enumerate(itertools.pairwise(spans), start=1):
        what, _, stated = model.script[k - 1]
        wait = after - ended
        backoff = min(60.0, delay_s * 2 ** (k - 1))
        if what == "empty":
            assert wait == pytest.approx(0.0, abs=1e-3)
        elif stated:
            assert stated <= wait + 1e-6 and wait <= 1.25 * stated, (what, stated, wait)
        else:
            assert -1e-6 <= wait <= backoff + 1e-3, (what, backoff, wait)
        waits += max(wait, 0.0)
        assert ended - began <= TIMEOUT_S + 1e-6 + 1.0
    wall = spans[-1][1] - spans[0][0]
    assert wall <= n * TIMEOUT_S + waits + 5.0


def run_scripts(rng: random.Random, number: int, n_calls: int, *, may_stop: bool) -> None:
    finished: SimpleQueue[Call] = SimpleQueue()
    scheduler = Scheduler(InstantMemo(), in_flight=4, budget=Budget(), finished=finished)
    calls, wanted = [], {}
    for i in range(n_calls):
        model = Scripted(f"{number}/{i}", random_script(rng, may_stop=may_stop))
        retries, delay_s = rng.randint(0, 5), rng.choice((0.0, 0.1, 1.0, 10.0))
        everything = rng.random() < 0.5
        call = Call(
            key=str(i),
            label="",
            model=model,
            request=Request(({"role": "user", "content": "x"},)),
            parse=parse,
            max_retries=retries,
            retry_delay_s=delay_s,
            reasks_left=retries if everything else 1,
            reasks_all=everything,
        )
        calls.append(call)
        wanted[call] = (*oracle(call, model), retries, delay_s)
    scheduler.submit(calls)
    back = [finished.get(timeout=20) for _ in calls]
    fatal = scheduler.fatal
    scheduler.close()
    assert set(back) == set(calls)
    for call in calls:
        check(call, call.model, *wanted[call])
    stops = [w[1] for w in wanted.values() if w[1] in FATAL]
    if n_calls == 1:
        refused_for_long = wanted[calls[0]][1] in ("rate_limited", "server") and any(
            (stated or 0.0) > 120.0 for _, _, stated in calls[0].model.script[: calls[0].attempts]
        )
        assert (fatal is not None) == bool(stops or refused_for_long)


@pytest.mark.parametrize("seed", range(4))
def test_attempts_waits_and_deadlines_of_2500_random_scripts_are_as_written_down(seed, monkeypatch):
    rng = random.Random(seed)
    with engine_on(VirtualLoop(), monkeypatch):
        for number in range(90):
            run_scripts(rng, number, 25, may_stop=False)
        for number in range(250):
            run_scripts(rng, 1000 + number, 1, may_stop=True)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


# Rates and calls in flight, as a server sees them.


def most_in(times: list[float], window_s: float) -> int:
    return max(bisect_left(times, at + window_s) - i for i, at in enumerate(times))


def test_requests_of_two_runs_in_any_minute_stay_below_the_limit_of_one(monkeypatch):
    rpm, speed = 60, 40.0
    minute = 60.0 / speed  # of this test, in seconds
    let_go: list[float] = []
    take = Pace.take

    def noted(pace: Pace, now: float, tokens: int) -> Slice:
        let_go.append(time.monotonic())
        return take(pace, now, tokens)

    monkeypatch.setattr(Pace, "take", noted)
    with StubServer() as stub, engine_on(FastLoop(speed), monkeypatch):
        model = dfn.OpenAICompatibleModel("stub", stub.url, timeout_s=1000)
        first = asking(model, 70).start(rate_limits={model: rpm})
        twin = dfn.OpenAICompatibleModel("stub", stub.url, timeout_s=1000)
        second = asking(twin, 60, temperature=0.5).start()
        assert len(second.result(60)) == 60 and len(first.result(60)) == 70
        times = [r.at_s for r in stub.requests]
    assert len(times) == len(let_go) == 130
    # A request that was held up on its way comes nearer to those behind it: by so much
    # the server's minute is shorter than the one that was kept.
    late = [at - sent for at, sent in zip(times, let_go, strict=True)]
    uneven = max(late) - min(late)
    assert uneven < minute / 4
    assert most_in(times, minute - uneven) <= rpm
    took = times[-1] - times[0]
    assert 2 * minute - uneven <= took <= 3 * minute, "the limit is used, and not passed"


def test_calls_in_flight_of_two_runs_together_are_no_more_than_one_may_have():
    with StubServer(latency_s=0.01) as stub:
        models = [dfn.OpenAICompatibleModel("stub", stub.url) for _ in range(2)]
        runs = [
            asking(m, 60, temperature=t).start(max_concurrent=5)
            for m, t in zip(models, (0.5, 0.6), strict=True)
        ]
        for run in runs:
            assert len(run.result(30)) == 60
        assert stub.n_requests == 120
        assert 3 <= stub.max_in_flight <= 5


def test_the_models_own_bound_holds_for_all_runs():
    with StubServer(latency_s=0.01) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, max_in_flight=2)
        runs = [asking(model, 20, temperature=t).start() for t in (0.5, 0.6, 0.7)]
        for run in runs:
            assert len(run.result(30)) == 20
        assert stub.max_in_flight == 2


def test_calls_in_flight_fall_when_the_server_refuses_and_rise_again():
    width: list[int] = []

    def overloaded(number: int, body: dict[str, Any]) -> str | None:
        # The server bears four at once, for a while.
        width.append(stub.in_flight + 1)
        return "529" if number <= 150 and stub.in_flight + 1 > 4 else None

    with StubServer(faults=overloaded, latency_s=0.004) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        result = asking(model, 500, max_retries=20).run(max_concurrent=16)
        n_requests = stub.n_requests
    assert len(result) == 500
    refused = n_requests - 500
    assert 0 < refused <= 60, "most of the calls while it was overloaded were borne"
    assert max(width[:40]) > 8
    assert max(width[-60:]) > 8, "it goes faster again when the server bears more"


def test_tokens_per_minute_are_a_ceiling_and_what_was_not_needed_is_given_back(monkeypatch):
    tpm = 3000
    used: list[tuple[float, int]] = []

    def answer(request: Request) -> Response:
        n = random.Random(request.messages[-1]["content"]).randint(20, 200)
        used.append((asyncio.get_running_loop().time(), n))
        return Response("fine", usage=Usage(n // 2, n - n // 2))

    with engine_on(VirtualLoop(), monkeypatch):
        model = dfn.FakeModel(answer, name="counted")
        result = asking(model, 120, max_tokens=300).run(rate_limits={"counted": {"tpm": tpm}})
    assert len(result) == 120
    times, total = [t for t, _ in used], sum(n for _, n in used)
    sums = [0, *itertools.accumulate(n for _, n in used)]
    worst = max(sums[bisect_left(times, at + 60.0)] - sums[i] for i, at in enumerate(times))
    assert worst <= tpm
    minutes = (times[-1] - times[0]) / 60.0
    assert minutes <= total / (0.8 * tpm) + 1, "reservations of 300 tokens are not held for long"


@pytest.mark.parametrize("max_calls", [0, 7, 23])
def test_the_number_of_calls_is_exact_under_a_limit_too(max_calls, monkeypatch):
    with engine_on(VirtualLoop(), monkeypatch):
        model = dfn.FakeModel("fine", name="m")
        with pytest.raises(dfn.BudgetExceededError) as caught:
            asking(model, 40).run(max_calls=max_calls, rate_limits={"m": 10})
        assert (model.calls, len(caught.value.result)) == (max_calls, max_calls)
        assert len(asking(model, 40).run(max_calls=40 - max_calls, rate_limits={"m": 600})) == 40
        assert model.calls == 40


def test_spend_is_exact_under_a_limit_too(monkeypatch):
    with engine_on(VirtualLoop(), monkeypatch):
        model = dfn.FakeModel("fine", name="m", price=(0.0, 1_000_000.0))  # a dollar a word
        with pytest.raises(dfn.BudgetExceededError) as caught:
            asking(model, 40, max_tokens=2).run(budget=12.0, rate_limits={"m": 6})
        assert model.calls == len(caught.value.result) == 11, "a twelfth might have cost two"


def test_stop_ends_calls_that_wait_for_their_minute_at_once():
    model = dfn.FakeModel("fine", name="to be stopped")
    run = asking(model, 50).start(rate_limits={model: 10})
    wait_for(lambda: model.calls == 1)
    time.sleep(0.1)
    began = time.monotonic()
    run.stop()
    partial = run.result(10)
    assert time.monotonic() - began < 5.0
    assert model.calls == len(partial) == 1
    assert partial.step(1).fates.waiting == 49


# One budget of attempts.


@pytest.mark.parametrize(
    ("script", "retries", "everything", "n"),
    [
        (["empty"] * 9, 3, True, 4),
        (["server", "server", "empty", "empty", "empty"], 3, True, 4),
        (["server", "server", "server", "empty", "ok"], 3, True, 4),
        (["empty", "empty"], 3, False, 2),
        (["empty", "ok"], 0, False, 2),
        (["empty", "server", "ok"], 1, False, 2),
        (["server"] * 9, 0, True, 1),
    ],
)
def test_retries_and_re_asks_share_one_budget(script, retries, everything, n):
    finished: SimpleQueue[Call] = SimpleQueue()
    scheduler = Scheduler(InstantMemo(), in_flight=2, budget=Budget(), finished=finished)
    model = Scripted("budget", [(what, 0.0, None) for what in script])
    call = Call(
        key="",
        label="",
        model=model,
        request=Request(({"role": "user", "content": "x"},)),
        parse=parse,
        max_retries=retries,
        retry_delay_s=0.0,
        reasks_left=retries if everything else 1,
        reasks_all=everything,
    )
    scheduler.submit([call])
    assert finished.get(timeout=10) is call
    scheduler.close()
    assert call.attempts == len(model.spans) == n
