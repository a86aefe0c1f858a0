"""Calls that wait, hang or do not end: pauses, deadlines, places in flight, turns of a machine."""

import asyncio
import itertools
import random
import threading
import time
from typing import Any

import openai
import pytest
from clock import VirtualLoop, engine_on
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.engine import scheduler as scheduler_module
from datafast_nb.engine.lanes import END_CANCELLED_S
from datafast_nb.engine.loop import spawn
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Model, Request, Response
from datafast_nb.options import options


def asking(model: Any, n: int, **settings: Any) -> dfn.Pipeline:
    given = {"output_columns": ["q"], "retry_delay": 0.001, **settings}
    records = [{"id": i, "text": f"text {i}"} for i in range(n)]
    return dfn.Source.list(records) >> dfn.LLMStep("{text}", model=model, **given)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


# Pauses.

PAUSES = {"429_seconds:1": 1.0, "429_ms:700": 0.7, "429_date:2": 2.0}


@pytest.mark.parametrize("fault", PAUSES)
def test_a_stated_wait_is_kept_by_the_whole_model_and_not_passed_by_a_quarter(fault):
    in_flight, number = 4, 8
    with StubServer(faults={number: fault}, latency_s=0.05) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        runs = [
            asking(model, 20, temperature=t).start(max_concurrent=in_flight) for t in (0.4, 0.5)
        ]
        for run in runs:
            assert len(run.result(30)) == 20
        arrived = [r.at_s for r in stub.requests]
    refused_at = arrived[number - 1] + 0.05
    during = [at for at in arrived if arrived[number - 1] < at < refused_at + PAUSES[fault] - 1.0]
    later = [at for at in arrived[number:] if at > refused_at + 0.04]
    if fault.startswith("429_date"):  # whole seconds: the server's own date may be one less
        assert later[0] - refused_at >= PAUSES[fault] - 1.0
    else:
        assert later[0] - refused_at >= PAUSES[fault]
    assert later[0] - refused_at <= 1.25 * PAUSES[fault]
    sent_meanwhile = len(arrived[number:]) - len(later)
    assert sent_meanwhile <= in_flight - 1 and len(during) <= in_flight - 1


def test_patience_is_an_option_and_the_run_can_be_resumed():
    options.max_retry_after_s = 3.0
    with StubServer(faults={3: "429_seconds:4"}) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        with pytest.raises(dfn.LLMError, match="max_retry_after_s") as caught:
            asking(model, 6).run(max_concurrent=1)
        assert stub.n_requests == 3
        assert [r["id"] for r in caught.value.result] == [0, 1]
        began = time.monotonic()
        assert len(asking(model, 6).run()) == 6
        assert stub.n_requests == 7
    assert time.monotonic() - began < 3, "the next run asks again when it is told to"


def test_a_refusal_without_a_stated_wait_holds_back_the_whole_model(monkeypatch):
    sent: list[tuple[float, str]] = []

    def answer(request: Request) -> str:
        now = asyncio.get_running_loop().time()
        sent.append((now, request.messages[-1]["content"]))
        if len(sent) == 5:
            raise LLMError("busy", kind="server", status=529)
        return "fine"

    monkeypatch.setattr(random, "random", lambda: 0.9)
    with engine_on(VirtualLoop(), monkeypatch):
        model = dfn.FakeModel(answer, latency_s=0.1, name="busy")
        assert len(asking(model, 30, retry_delay=20.0).run(max_concurrent=3)) == 30
    times = sorted(t for t, _ in sent)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 17.0 <= max(gaps) <= 19.0, "0.9 of 20 s, for all"


# Deadlines.


class Sleeper:
    """A user's model that blocks on its thread for the record named "text 1"."""

    name = "sleeper"
    timeout_s = 0.15

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked: list[str] = []

    def generate(self, prompt: str) -> str:
        self.asked.append(prompt)
        if prompt == "text 1":
            self.free.wait(20)
        return prompt


class Hanging(Sleeper):
    """The same as a coroutine."""

    generate = None

    async def complete(self, request: Request) -> Response:
        prompt = request.messages[-1]["content"]
        self.asked.append(prompt)
        if prompt == "text 1":
            await asyncio.sleep(1000)
        return Response(prompt)


@pytest.mark.parametrize("kind", [Sleeper, Hanging])
def test_users_models_have_a_total_deadline_for_each_attempt(kind):
    model = kind()
    began = time.monotonic()
    result = asking(model, 4, max_retries=2).run()
    wall = time.monotonic() - began
    model.free.set()
    assert 3 * model.timeout_s <= wall <= 3 * model.timeout_s + 3.0
    assert [r["id"] for r in result] == [0, 2, 3]
    assert model.asked.count("text 1") == 3
    (error,) = result.errors
    assert error.kind == "timeout"
    assert "sleeper did not finish its reply within 0.15 s (timeout_s)" in error.error


def test_the_deadline_of_a_model_that_names_none_is_an_option(monkeypatch):
    class Endless(Model):
        name = "endless"

        async def complete(self, request: Request) -> Response:
            await asyncio.sleep(1e9)
            raise AssertionError

    with engine_on(VirtualLoop(), monkeypatch) as loop:
        for options.timeout_s in (120.0, 7.0):
            began = loop.time()
            with pytest.raises(dfn.LLMError, match=r"options\.timeout_s"):
                asking(Endless(), 1, max_retries=1).run()
            assert 2 * options.timeout_s <= loop.time() - began <= 2 * options.timeout_s + 5


def test_the_official_clients_calls_have_a_total_deadline():
    with StubServer(faults={2: "slow_drip"}) as stub:
        client = openai.AsyncOpenAI(base_url=stub.url, api_key="k", timeout=60)
        model = dfn.OpenAIModel("stub", client=client, timeout_s=0.3)
        began = time.monotonic()
        result = asking(model, 2, max_retries=0).run(max_concurrent=1)
        assert time.monotonic() - began < 3.0
        spawn(client.close()).result(10)  # on the loop that opened its connections
    assert [e.kind for e in result.errors] == ["timeout"]


class Stubborn(Model):
    """Goes on when it is cancelled."""

    name = "stubborn"
    timeout_s = 0.1

    def __init__(self) -> None:
        self.cancelled = 0

    async def complete(self, request: Request) -> Response:
        if request.messages[-1]["content"] != "text 1":
            return Response("fine")
        while self.cancelled < 4:
            try:
                await asyncio.sleep(0.05 if self.cancelled > 1 else 1000)
                if self.cancelled > 1:
                    break
            except asyncio.CancelledError:
                self.cancelled += 1
        return Response("much too late")


def test_a_model_that_swallows_its_cancellation_is_left_behind_and_named():
    model = Stubborn()
    told: list[str] = []
    began = time.monotonic()
    result = asking(model, 4, max_retries=3).run(
        max_concurrent=1, on_event=lambda event: told.append(getattr(event, "text", ""))
    )
    wall = time.monotonic() - began
    assert END_CANCELLED_S <= wall <= END_CANCELLED_S + 3.0
    assert [r["id"] for r in result] == [0, 2, 3], "the others are asked in its place"
    assert [(e.record, e.kind) for e in result.errors] == [(1, "timeout")]
    assert any("stubborn have not ended although" in text for text in told)


def test_stopping_does_not_wait_for_a_model_that_swallows_its_cancellation():
    class Deaf(Model):
        name = "deaf"
        asked = threading.Event()
        free = threading.Event()

        async def complete(self, request: Request) -> Response:
            self.asked.set()
            while not self.free.is_set():
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue
            return Response("late")

    model = Deaf()
    run = asking(model, 5).start()
    assert model.asked.wait(10)
    began = time.monotonic()
    run.stop()
    partial = run.result(20)
    assert time.monotonic() - began < 6.0
    assert partial.status == "interrupted" and len(partial) == 0
    model.free.set()
    assert len(asking(dfn.FakeModel(), 3).run()) == 3, "the engine serves the next run"


def test_a_model_that_blocks_the_engines_loop_is_met_with_an_error_not_with_a_hang(monkeypatch):
    class Blocking(Model):
        name = "blocking"
        asked = threading.Event()
        free = threading.Event()

        async def complete(self, request: Request) -> Response:
            self.asked.set()
            self.free.wait(30)
            return Response("late")

    monkeypatch.setattr(scheduler_module, "START_S", 0.2)
    monkeypatch.setattr(scheduler_module, "CLOSE_S", 0.2)
    model = Blocking()
    run = asking(model, 2).start()
    assert model.asked.wait(10)
    try:
        with pytest.raises(dfn.DatafastError, match="blocks its event loop"):
            asking(dfn.FakeModel(), 1).run()
        began = time.monotonic()
        run.stop()
        run.result(20)
        assert time.monotonic() - began < 6.0
    finally:
        model.free.set()
    assert len(asking(dfn.FakeModel(), 2).run()) == 2


# Places in flight, and machines.


def test_a_call_that_waits_for_a_place_is_not_sent_after_a_stop():
    model = dfn.FakeModel("fine", name="local", latency_s=0.3, parallel=1)
    first = asking(model, 5).start()
    wait_for(lambda: model.calls == 1)
    second = asking(model, 5, temperature=0.1).start()
    time.sleep(0.05)
    began = time.monotonic()
    second.stop()
    assert len(second.result(10)) == 0
    assert time.monotonic() - began < 0.25
    first.stop()
    assert len(first.result(10)) == model.calls <= 2


class OnMachine(dfn.FakeModel):
    """A fake that says on which machine it runs, and when it was asked."""

    where: str | None = None
    busy: dict[str, int]
    log: list[tuple[str, int]]

    def machine(self) -> str | None:
        return self.where

    async def complete(self, request: Request) -> Response:
        self.busy[self.name] = self.busy.get(self.name, 0) + 1
        n_models = sum(1 for n in self.busy.values() if n)
        self.log.append((self.name, n_models))
        try:
            return await super().complete(request)
        finally:
            self.busy[self.name] -= 1


@pytest.mark.parametrize("where", [None, "gpu"])
def test_models_of_a_step_are_asked_beside_each_other_but_in_turn_on_one_machine(where):
    models = []
    busy: dict[str, int] = {}
    log: list[tuple[str, int]] = []
    for name in "abc":
        model = OnMachine("fine", name=name, latency_s=0.005)
        model.where, model.busy, model.log = where, busy, log
        models.append(model)
    result = asking(models, 12).run(max_concurrent=3)
    assert len(result) == 36
    most = max(n for _, n in log)
    changes = len([1 for _ in itertools.groupby(name for name, _ in log)])
    if where is None:
        assert most == 3
    else:
        assert most == 1 and changes == 3, "each model is loaded once"


def test_local_models_share_their_machine():
    assert dfn.LocalModel().machine() == dfn.LocalModel(n_ctx=512).machine() is not None
    assert dfn.FakeModel().machine() is None
    assert dfn.OpenAICompatibleModel("m", "http://127.0.0.1:8000/v1").machine() is None
