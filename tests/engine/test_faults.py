"""Models that fail, bounds that are reached: exact numbers of calls, and a fate for every record."""

import itertools
import math
import socket
import sys
import time
from collections import Counter
from hashlib import blake2b
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.options import options
from datafast_nb.store.memo import open_memo

BAD = "bad"
"""Text of the record that meets the fault."""


def texts(*given: str) -> list[dict[str, Any]]:
    return [{"id": i, "text": text} for i, text in enumerate(given)]


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


def asked(stub: StubServer) -> Counter[str]:
    """Requests by prompt; a re-ask counts for its first prompt."""
    return Counter(prompt_of(body) for body in stub.bodies)


def only_bad(fault: str, times: float = math.inf):
    """The fault for the bad record's requests, the first `times` of them."""
    seen = 0

    def choose(number: int, body: dict[str, Any]) -> str | None:
        nonlocal seen
        if prompt_of(body) != BAD:
            return None
        seen += 1
        return fault if seen <= times else None

    return choose


def ask(stub: StubServer, timeout_s: float = 20.0, **settings: Any) -> dfn.LLMStep:
    model = dfn.OpenAICompatibleModel("stub", stub.url, timeout_s=timeout_s)
    given = {"output_columns": ["q"], "retry_delay": 0.001, **settings}
    return dfn.LLMStep("{text}", model=model, **given).as_step("ask")


def with_one_bad(stub: StubServer, **settings: Any) -> dfn.Pipeline:
    return dfn.Source.list(texts("a", BAD, "c")) >> ask(stub, **settings)


# Failures of the call.

PASSING = {
    "429": "rate_limited",
    "408": "server",
    "500": "server",
    "502": "server",
    "503": "server",
    "504": "server",
    "529": "server",
    "reset_before": "connection",
    "close_before": "connection",
    "reset_mid_body": "connection",
    "close_mid_body": "connection",
    "hang": "timeout",
    "slow_drip": "timeout",
    "truncated_json": "bad_reply",
    "html_200": "html",
    "empty_choices": "bad_reply",
    "error_in_200": "server",
}


@pytest.mark.parametrize("on_error", ["skip", "retry"])
@pytest.mark.parametrize("fault", PASSING)
def test_failure_that_may_pass_is_retried_as_often_as_asked_then_the_record_has_failed(
    fault, on_error
):
    timeout_s = 0.15 if PASSING[fault] == "timeout" else 20.0
    with StubServer(faults=only_bad(fault)) as stub:
        pipeline = with_one_bad(stub, max_retries=2, on_error=on_error, timeout_s=timeout_s)
        result = pipeline.run()
        assert asked(stub) == {"a": 1, BAD: 3, "c": 1}
    assert [r["text"] for r in result] == ["a", "c"]
    (error,) = result.errors
    assert (error.step, error.record, error.kind) == ("ask", 1, PASSING[fault])
    assert error.input == {"id": 1, "text": BAD} and error.prompt == BAD
    assert [c.attempts for c in result.call_rows] == [1, 3, 1]
    fates = result.step("ask").fates
    assert (fates.advanced, fates.failed) == (2, 1)


@pytest.mark.parametrize("fault", ["429_ms:5", "503", "reset_before", "truncated_json"])
def test_failure_that_passes_costs_its_attempts_and_no_record(fault):
    with StubServer(faults=only_bad(fault, times=2)) as stub:
        result = with_one_bad(stub, max_retries=2, on_error="raise").run()
        assert asked(stub) == {"a": 1, BAD: 3, "c": 1}
    assert len(result) == 3 and result.errors == []


@pytest.mark.parametrize("fault", ["500", "400"])
def test_no_retries_where_none_are_wanted(fault):
    with StubServer(faults=only_bad(fault)) as stub:
        result = with_one_bad(stub, max_retries=0).run()
        assert asked(stub) == {"a": 1, BAD: 1, "c": 1}
    assert len(result) == 2


@pytest.mark.parametrize("fault", ["400", "413", "422", "redirect_other"])
def test_bad_request_is_not_retried_and_the_record_is_among_the_errors(fault):
    with StubServer(faults=only_bad(fault)) as stub:
        result = with_one_bad(stub, max_retries=5, on_error="retry").run()
        assert asked(stub) == {"a": 1, BAD: 1, "c": 1}
    (error,) = result.errors
    assert error.kind == "bad_request"
    assert [r["text"] for r in result] == ["a", "c"]


def test_failed_call_is_asked_again_by_the_next_run_and_by_retry_failed():
    with StubServer(faults=only_bad("500", times=3)) as stub:
        pipeline = with_one_bad(stub, max_retries=0)
        first = pipeline.run()
        assert len(pipeline.run()) == 2
        assert len(first.retry_failed()) == 2
        result = first.retry_failed()
        assert asked(stub) == {"a": 1, BAD: 4, "c": 1}, "the others are not paid again"
    assert [r["text"] for r in result] == ["a", BAD, "c"]


def test_connections_of_one_record_that_break_do_not_stop_the_others():
    with StubServer(faults=only_bad("reset_before")) as stub:
        result = with_one_bad(stub, max_retries=6).run(max_concurrent=1)
        assert asked(stub) == {"a": 1, BAD: 7, "c": 1}
    assert [r["text"] for r in result] == ["a", "c"]


# Pauses that the provider asks for.


@pytest.mark.parametrize("fault", ["429_seconds:0.5", "429_ms:500"])
def test_retry_after_holds_back_every_call_of_the_model_and_loses_no_record(fault):
    n = 30
    with StubServer(faults={3: fault}, latency_s=0.02) as stub:
        pipeline = dfn.Source.list(texts(*map(str, range(n)))) >> ask(stub)
        result = pipeline.run(max_concurrent=4)
        arrived = [r.at_s for r in stub.requests]
    assert len(result) == n and len(arrived) == n + 1
    said = arrived[2] + 0.02
    early = [at for at in arrived if said + 0.1 < at < said + 0.5]
    assert early == [], "a call was sent during the pause"
    assert len([at for at in arrived if at >= said + 0.5]) >= n - 12
    assert arrived[-1] - said < 2.0


def test_pause_is_shared_with_another_run_of_the_same_model():
    with StubServer(faults={1: "429_ms:600"}) as stub:
        first = (dfn.Source.list(texts("a")) >> ask(stub)).start()
        while stub.n_requests < 1:
            assert not first.done
        time.sleep(0.1)
        began = time.monotonic()
        (dfn.Source.list(texts("b")) >> ask(stub)).run()
        assert time.monotonic() - began > 0.35
        assert len(first.result(10)) == 1


def test_rate_limit_that_stays_is_retried_up_to_max_retries():
    with StubServer(faults=only_bad("429_ms:10")) as stub:
        result = with_one_bad(stub, max_retries=3).run()
        assert asked(stub) == {"a": 1, BAD: 4, "c": 1}
    assert [e.kind for e in result.errors] == ["rate_limited"]


def test_wait_of_a_day_stops_the_run_and_says_so():
    with StubServer(faults=only_bad("429_huge")) as stub:
        began = time.monotonic()
        with pytest.raises(dfn.LLMError) as caught:
            with_one_bad(stub).run(max_concurrent=1)
        assert time.monotonic() - began < 5
        assert asked(stub) == {"a": 1, BAD: 1}
    error = caught.value
    assert error.kind == "rate_limited" and error.retry_after_s == 86400
    assert error.result.status == "failed"
    assert [r["text"] for r in error.result] == ["a"]
    assert any(said in str(error) for said in ("86400", "86,400", "24 h", "1440 min", "a day"))


# Failures that every call would meet.

FATAL = {
    "401": "auth",
    "403": "auth",
    "404": "not_found",
    "402": "quota",
    "429_quota": "quota",
}


@pytest.mark.parametrize("on_error", ["skip", "raise", "retry"])
@pytest.mark.parametrize("fault", FATAL)
def test_failure_that_all_would_meet_is_asked_once_and_stops_the_run(fault, on_error):
    with StubServer(faults=fault) as stub:
        pipeline = dfn.Source.list(texts(*"abcdefgh")) >> ask(stub, on_error=on_error)
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run(max_concurrent=1)
        assert stub.n_requests == 1
    error = caught.value
    assert error.kind == FATAL[fault]
    assert error.result is dfn.last
    assert (error.result.status, list(error.result)) == ("failed", [])
    fates = error.result.step("ask").fates
    assert (fates.failed, fates.waiting, fates.total) == (1, 7, 8)


def test_with_many_in_flight_a_bad_key_is_not_retried_and_not_shown(monkeypatch):
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with StubServer(faults="401", latency_s=0.02) as stub:
        model = dfn.OpenAIModel("gpt-4.1-nano", base_url=stub.url)
        pipeline = dfn.Source.list(texts(*map(str, range(50)))) >> dfn.LLMStep(
            "{text}", output_columns=["q"], model=model
        )
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run(max_concurrent=4)
        assert stub.n_requests <= 4
    assert "OPENAI_API_KEY" in str(caught.value)
    assert key not in str(caught.value) and key[3:] not in repr(caught.value.result.errors)


def test_what_was_paid_before_a_bad_key_is_kept():
    faults = dict.fromkeys(range(6, 100), "401")
    with StubServer(faults=faults) as stub:
        pipeline = dfn.Source.list(texts(*map(str, range(10)))) >> ask(stub)
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run(max_concurrent=1)
        assert [r["id"] for r in caught.value.result] == [0, 1, 2, 3, 4]
        stub.faults = None
        assert len(pipeline.run()) == 10
        assert stub.n_requests == 6 + 5


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("max_retries", [0, 10])
def test_refused_connection_stops_the_run_after_five_in_a_row(max_retries):
    model = dfn.OpenAICompatibleModel("stub", f"http://127.0.0.1:{closed_port()}/v1")
    pipeline = dfn.Source.list(texts(*map(str, range(20)))) >> dfn.LLMStep(
        "{text}", output_columns=["q"], model=model, max_retries=max_retries, retry_delay=0.001
    )
    with pytest.raises(dfn.LLMError, match="cannot connect") as caught:
        pipeline.run(max_concurrent=1)
    assert caught.value.kind == "connection"
    assert caught.value.result.status == "failed"
    assert sum(c.attempts for c in caught.value.result.call_rows) == 5


# Answers that cannot be used. Fault: (verdict, questions with one re-ask).

TEXT = ["q"]
OBJECT = {"q": str, "n": int}
VERDICTS = {
    "refusal": (TEXT, "refused", 1),
    "content_filter": (TEXT, "filtered", 1),
    "length": (TEXT, "cut", 1),
    "empty_content": (TEXT, "empty", 2),
    "null_content": (TEXT, "empty", 2),
    "prose": (OBJECT, "unparsable", 2),
    "dup_keys": (OBJECT, "duplicate_keys", 2),
    "nan": (OBJECT, "not_finite", 2),
    "deep_nest": (OBJECT, "too_deep", 2),
    "missing_key": (OBJECT, "wrong_schema", 2),
    "wrong_type": (OBJECT, "wrong_type", 2),
    "array": (OBJECT, "wrong_schema", 2),
}


@pytest.mark.parametrize("fault", VERDICTS)
def test_unusable_answer_is_asked_again_once_or_not_at_all_then_the_record_is_skipped(fault):
    outputs, verdict, n_asked = VERDICTS[fault]
    with StubServer(faults=only_bad(fault)) as stub:
        pipeline = with_one_bad(stub, output_columns=outputs, on_error="skip")
        result = pipeline.run()
        assert asked(stub) == {"a": 1, BAD: n_asked, "c": 1}
        assert [r["text"] for r in result] == ["a", "c"]
        (error,) = result.errors
        assert (error.record, error.kind) == (1, verdict)
        # Paid and judged: no later run asks again, and the failure is still there.
        again = pipeline.run()
        assert stub.n_requests == 2 + n_asked
        assert [(e.record, e.kind) for e in again.errors] == [(1, verdict)]
        # Unless someone says so.
        stub.faults = None
        assert len(again.retry_failed()) == 3
        assert asked(stub) == {"a": 1, BAD: n_asked + 1, "c": 1}
        assert len(pipeline.run()) == 3
        assert stub.n_requests == 3 + n_asked


@pytest.mark.parametrize("fault", VERDICTS)
def test_unusable_answer_is_asked_again_up_to_max_retries_where_on_error_is_retry(fault):
    outputs, verdict, _ = VERDICTS[fault]
    with StubServer(faults=only_bad(fault)) as stub:
        pipeline = with_one_bad(stub, output_columns=outputs, on_error="retry", max_retries=3)
        result = pipeline.run()
        assert asked(stub) == {"a": 1, BAD: 4, "c": 1}
        assert [e.kind for e in result.errors] == [verdict]
        assert len(pipeline.run()) == 2
        assert stub.n_requests == 6


@pytest.mark.parametrize("fault", VERDICTS)
def test_unusable_answer_stops_the_run_where_on_error_is_raise(fault):
    outputs, verdict, n_asked = VERDICTS[fault]
    with StubServer(faults=only_bad(fault)) as stub:
        pipeline = with_one_bad(stub, output_columns=outputs, on_error="raise")
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run(max_concurrent=1)
        assert asked(stub)[BAD] == n_asked
    assert caught.value.kind == verdict
    assert caught.value.result.status == "failed"
    assert caught.value.result[0]["text"] == "a"


@pytest.mark.parametrize("fault", ["empty_content", "prose", "missing_key"])
def test_re_ask_that_succeeds_costs_one_call_and_no_record(fault):
    outputs = VERDICTS[fault][0]
    with StubServer(faults=only_bad(fault, times=1)) as stub:
        pipeline = with_one_bad(stub, output_columns=outputs, on_error="raise")
        result = pipeline.run()
        assert asked(stub) == {"a": 1, BAD: 2, "c": 1}
        assert len(result) == 3 and result.errors == []
        sent = [b["messages"] for b in stub.bodies if prompt_of(b) == BAD]
        assert len(pipeline.run()) == 3
        assert stub.n_requests == 4
    if fault == "empty_content":
        assert sent[1] == sent[0], "an empty answer teaches nothing"
    else:
        assert [m["role"] for m in sent[1]] == ["user", "assistant", "user"]
        assert "cannot be used" in sent[1][2]["content"]


def test_of_a_runaway_answer_the_correction_shows_the_start():
    with StubServer(faults=only_bad("deep_nest", times=1)) as stub:
        result = with_one_bad(stub, output_columns=OBJECT, on_error="raise").run()
        [echoed] = [b["messages"][1]["content"] for b in stub.bodies if len(b["messages"]) == 3]
    assert len(result) == 3
    assert echoed.startswith("[[[") and len(echoed) < 10_000


@pytest.mark.parametrize("fault", ["refusal", "content_filter", "length"])
def test_refused_and_cut_answers_are_drawn_again_only_where_on_error_is_retry(fault):
    with StubServer(faults=only_bad(fault, times=2)) as stub:
        assert len(with_one_bad(stub, on_error="skip").run()) == 2
        assert stub.n_requests == 3
        assert len(with_one_bad(stub, on_error="retry").run()) == 3
        assert asked(stub) == {"a": 1, BAD: 3, "c": 1}


@pytest.mark.parametrize("fault", ["fenced", "trailing_comma", "extra_key", "gzip", "chunked"])
def test_answer_that_can_be_mended_is_paid_once(fault):
    with StubServer(faults=only_bad(fault)) as stub:
        result = with_one_bad(stub, output_columns=OBJECT, on_error="raise").run()
        assert asked(stub) == {"a": 1, BAD: 1, "c": 1}
    assert len(result) == 3 and set(result[1]) == {"id", "text", "q", "n", "_model"}


# Runs that lose everything, or stop at the first loss.


@pytest.mark.parametrize(("fault", "kind"), [("400", "bad_request"), ("refusal", "refused")])
def test_run_that_loses_every_record_raises_with_its_result(fault, kind, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    with StubServer(faults=fault) as stub:
        pipeline = dfn.Source.list(texts("a", "b")) >> ask(stub) >> dfn.Sink.jsonl(str(out))
        with pytest.raises(dfn.LLMError, match="every record") as caught:
            pipeline.run()
        result = caught.value.result
        assert caught.value.kind == kind and caught.value.step == "ask"
        assert (result.status, list(result)) == ("failed", [])
        assert [e.record for e in result.errors] == [0, 1]
        assert result.step("ask").fates.failed == 2
        assert out.read_text() == "{}\n"
        stub.faults = None
        assert len(result.retry_failed()) == 2
        assert stub.n_requests == 4
    assert len(out.read_bytes().splitlines()) == 2


def test_failed_run_that_was_started_in_the_background_raises_from_result():
    with StubServer(faults="400") as stub:
        run = (dfn.Source.list(texts("a")) >> ask(stub)).start()
        with pytest.raises(dfn.LLMError) as caught:
            run.result(10)
    assert run.status == caught.value.result.status == "failed"


def test_skipped_records_are_not_lost_records():
    with StubServer(faults="400") as stub:
        step = ask(stub, skip_if=lambda r: r["id"] == 0)
        result = (dfn.Source.list(texts("a", "b")) >> step).run()
    assert [(r["id"], r["q"]) for r in result] == [(0, None)]
    assert result.status == "complete" and len(result.errors) == 1


def test_on_error_raise_keeps_what_is_paid_and_sends_nothing_more():
    names = ["a", "b", BAD, "d", "e", "f", "g", "h"]
    with StubServer(faults=only_bad("refusal"), latency_s=0.01) as stub:
        pipeline = dfn.Source.list(texts(*names)) >> ask(stub, on_error="raise")
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run(max_concurrent=1)
        result = caught.value.result
        n_first = stub.n_requests
        assert n_first <= 4, "the refused call, and at most the one behind it"
        assert len(result) == n_first - 1, "every answer that was paid is in the result"
        assert [e.record for e in result.errors] == [2]
        assert result.step("ask").fates.waiting == 8 - n_first
        rest = (dfn.Source.list(texts(*names)) >> ask(stub, on_error="skip")).run()
        assert asked(stub) == dict.fromkeys(names, 1)
    assert [r["text"] for r in rest] == [n for n in names if n != BAD]


# Budgets.


@pytest.fixture(scope="module")
def new_home(tmp_path_factory):
    """Gives an empty memo to each example of a property."""

    def make() -> None:
        close_home()
        options.home = tmp_path_factory.mktemp("home")

    def close_home() -> None:
        if options.home is not None:
            open_memo().close()
            options.home = None

    return make


PRICE = (2.0, 8.0)


class Spender:
    """A model whose answers use up to all of what a request may cost, and a count of that."""

    def __init__(self, seed: int, max_tokens: int) -> None:
        self.seed = seed
        self.max_tokens = max_tokens
        self.spent_usd = 0.0
        self.model = dfn.FakeModel(self.answer, price=PRICE, latency_s=0.0005)

    def answer(self, request: Request) -> Response:
        prompt = request.messages[-1]["content"]
        draw = blake2b(f"{self.seed} {prompt}".encode(), digest_size=4).digest()
        n_input = 1 + draw[0] * len(prompt.encode()) // 256
        n_output = draw[1] * self.max_tokens // 255
        self.spent_usd += (n_input * PRICE[0] + n_output * PRICE[1]) / 1e6
        text = "" if draw[2] < 40 else "cut" if draw[2] < 80 else "fine"
        finish = "length" if text == "cut" else "stop"
        return Response(text, finish=finish, usage=Usage(n_input, n_output))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 25),
    budget_calls=st.floats(0, 30),
    in_flight=st.integers(1, 16),
    max_tokens=st.integers(1, 400),
    on_error=st.sampled_from(["skip", "retry"]),
)
@example(seed=0, n=10, budget_calls=0.0, in_flight=4, max_tokens=100, on_error="skip")
@example(seed=1, n=20, budget_calls=6.5, in_flight=16, max_tokens=300, on_error="retry")
def test_spend_never_passes_the_budget_and_the_budget_is_used(
    new_home, seed, n, budget_calls, in_flight, max_tokens, on_error
):
    new_home()
    spender = Spender(seed, max_tokens)
    dearest = (100 * PRICE[0] + max_tokens * PRICE[1]) / 1e6  # more than any call can cost
    budget = budget_calls * dearest
    pipeline = dfn.Source.list(texts(*(f"text {i}" for i in range(n)))) >> dfn.LLMStep(
        "about {text}",
        output_columns=["q"],
        model=spender.model,
        max_tokens=max_tokens,
        on_error=on_error,
        max_retries=2,
    )
    try:
        result = pipeline.run(budget=budget, max_concurrent=in_flight)
    except dfn.BudgetExceededError as exc:
        result = exc.result
        assert result.status == "budget"
        assert spender.spent_usd > budget - dearest, "it stopped although a call would fit"
    except dfn.LLMError as exc:
        result = exc.result
        assert "every record" in str(exc)
    else:
        assert result.status == "complete"
    assert spender.spent_usd <= budget + 1e-12
    assert math.isclose(result.ledger.total.paid_usd, spender.spent_usd, abs_tol=1e-12)
    fates = result.info.steps[1].fates
    assert fates.total == n and fates.advanced == len(result)
    # A further run pays for the rest only: together as much as one run without a budget.
    whole = Spender(seed, max_tokens)
    again = dfn.Source.list(texts(*(f"text {i}" for i in range(n)))) >> dfn.LLMStep(
        "about {text}",
        output_columns=["q"],
        model=spender.model,
        max_tokens=max_tokens,
        on_error=on_error,
        max_retries=2,
    )
    _run_to_the_end(again)
    n_together, together_usd = spender.model.calls, spender.spent_usd
    new_home()
    _run_to_the_end(
        dfn.Source.list(texts(*(f"text {i}" for i in range(n))))
        >> dfn.LLMStep(
            "about {text}",
            output_columns=["q"],
            model=whole.model,
            max_tokens=max_tokens,
            on_error=on_error,
            max_retries=2,
        )
    )
    assert n_together == whole.model.calls
    assert math.isclose(together_usd, whole.spent_usd)


def _run_to_the_end(pipeline: dfn.Pipeline) -> dfn.Result:
    try:
        return pipeline.run()
    except dfn.LLMError as exc:
        assert exc.result is not None and "every record" in str(exc)
        return exc.result


def test_spent_budget_keeps_finished_rows_and_leaves_the_whole_file(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    model = dfn.FakeModel("fine", price=(0.0, 1_000_000.0))  # a dollar a word
    pipeline = (
        dfn.Source.list(texts(*"abcdef"))
        >> dfn.LLMStep("{text}", output_columns=["q"], model=model, max_tokens=2)
        >> dfn.Sink.jsonl(str(out))
    )
    with pytest.raises(dfn.BudgetExceededError, match="budget=") as caught:
        pipeline.run(budget=4.0, max_concurrent=1)
    result = caught.value.result
    assert result is dfn.last and result.status == "budget"
    assert [r["text"] for r in result] == ["a", "b", "c"]  # the fourth might have cost two
    assert model.calls == 3
    assert out.read_text() == "{}\n"
    assert len((tmp_path / "out.partial.jsonl").read_bytes().splitlines()) == 3


def test_started_run_whose_budget_is_spent_gives_its_partial_result():
    model = dfn.FakeModel("fine", price=(0.0, 1_000_000.0))
    step = dfn.LLMStep("{text}", output_columns=["q"], model=model, max_tokens=1)
    run = (dfn.Source.list(texts(*"abcdef")) >> step).start(budget=2.0)
    partial = run.result(10)
    assert (run.status, partial.status, len(partial)) == ("budget", "budget", 2)


@pytest.mark.parametrize("fault", ["hang", "truncated_json", "reset_mid_body", "close_mid_body"])
def test_lost_reply_is_charged_in_full(fault):
    with StubServer(faults=fault) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, price=(0.0, 1_000_000.0), timeout_s=0.1)
        pipeline = dfn.Source.list(texts(*"abcdef")) >> dfn.LLMStep(
            "{text}", output_columns=["q"], model=model, max_tokens=10, retry_delay=0.001
        )
        with pytest.raises(dfn.BudgetExceededError):
            pipeline.run(budget=35.0, max_concurrent=1)
        assert stub.n_requests == 3


@pytest.mark.parametrize("max_calls", [0, 1, 4, 9])
@pytest.mark.parametrize("in_flight", [1, 16])
def test_max_calls_is_exact(max_calls, in_flight):
    with StubServer() as stub:
        pipeline = dfn.Source.list(texts(*map(str, range(10)))) >> ask(stub)
        with pytest.raises(dfn.BudgetExceededError, match=f"max_calls={max_calls}") as caught:
            pipeline.run(max_calls=max_calls, max_concurrent=in_flight)
        assert stub.n_requests == max_calls
        result = caught.value.result
        assert result.status == "budget" and len(result) == max_calls
        assert result.info.steps[1].fates.waiting == 10 - max_calls
        assert len(pipeline.run(max_calls=10 - max_calls)) == 10
        assert stub.n_requests == 10


@pytest.mark.parametrize(("fault", "n_rows"), [("500", 1), ("prose", 1)])
def test_max_calls_counts_retries_and_re_asks(fault, n_rows):
    with StubServer(faults=only_bad(fault)) as stub:
        pipeline = with_one_bad(stub, output_columns=OBJECT, max_retries=8, on_error="retry")
        with pytest.raises(dfn.BudgetExceededError) as caught:
            pipeline.run(max_calls=5, max_concurrent=1)
        assert asked(stub) == {"a": 1, BAD: 4}
    assert len(caught.value.result) == n_rows


def test_answers_on_disk_need_no_budget():
    with StubServer() as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)  # of unknown price
        step = dfn.LLMStep("{text}", output_columns=["q"], model=model)
        pipeline = dfn.Source.list(texts("a", "b")) >> step
        pipeline.run()
        assert len(pipeline.run(budget=0.0)) == len(pipeline.run(max_calls=0)) == 2
        assert stub.n_requests == 2


def test_unknown_price_with_a_budget_is_an_error_that_names_the_ways_out():
    with StubServer() as stub:
        pipeline = dfn.Source.list(texts("a", "b")) >> ask(stub)
        with pytest.raises(dfn.DatafastError) as caught:
            pipeline.run(budget=1.0)
        assert "price=" in str(caught.value) and "max_calls=" in str(caught.value)
        assert stub.n_requests == 0


def test_unknown_price_of_a_later_step_is_an_error_before_the_first_call():
    known = dfn.FakeModel("fine", price=(1.0, 1.0))
    with StubServer() as stub:
        pipeline = (
            dfn.Source.list(texts("a", "b"))
            >> dfn.LLMStep("{text}", output_columns=["p"], model=known)
            >> ask(stub)
        )
        with pytest.raises(dfn.DatafastError, match="price="):
            pipeline.run(budget=1.0)
        assert (known.calls, stub.n_requests) == (0, 0)


# Keys and replay.


def test_missing_key_is_refused_before_the_first_call_also_where_only_a_later_step_lacks_it():
    first = dfn.FakeModel("fine")
    with StubServer() as stub:
        model = dfn.OpenAIModel("gpt-4.1-nano", base_url=stub.url)
        pipeline = (
            dfn.Source.list(texts("a", "b"))
            >> dfn.LLMStep("{text}", output_columns=["p"], model=first)
            >> dfn.LLMStep("{p}", output_columns=["q"], model=model).as_step("second")
        )
        with pytest.raises(dfn.MissingKeyError, match="OPENAI_API_KEY") as caught:
            pipeline.run()
        assert "second" in str(caught.value)
        assert (first.calls, stub.n_requests) == (0, 0)


def test_fully_answered_run_needs_no_key(monkeypatch):
    with StubServer() as stub:
        model = dfn.OpenAIModel("gpt-4.1-nano", base_url=stub.url)
        step = dfn.LLMStep("{text}", output_columns=["q"], model=model)
        pipeline = dfn.Source.list(texts("a", "b")) >> step
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
        paid = pipeline.run()
        monkeypatch.delenv("OPENAI_API_KEY")
        assert pipeline.run() == paid
        more = dfn.Source.list(texts("a", "b", "c")) >> step
        with pytest.raises(dfn.MissingKeyError):
            more.run()
        assert stub.n_requests == 2


def test_missing_key_of_a_step_that_is_not_reached_does_not_matter():
    first = dfn.FakeModel("fine")
    model = dfn.OpenAIModel("gpt-4.1-nano")
    pipeline = (
        dfn.Source.list(texts("a", "b"))
        >> dfn.LLMStep("{text}", output_columns=["p"], model=first).as_step("first")
        >> dfn.LLMStep("{p}", output_columns=["q"], model=model)
    )
    assert len(pipeline.run(stop_after="first")) == 2


class SocketWatch:
    """Names of socket operations, while it is on. An audit hook cannot be taken away again."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.is_on and event.startswith("socket."):
            self.seen.append(event)


@pytest.fixture(scope="module")
def socket_watch():
    watch = SocketWatch()
    yield watch
    watch.is_on = False


def test_replay_opens_no_socket_and_gives_the_recorded_rows(socket_watch):
    with StubServer() as stub:
        pipeline = dfn.Source.list(texts("a", "b")) >> ask(stub, num_outputs=2)
        recorded = pipeline.run()
    open_memo().close()
    options.mode = "replay"
    socket_watch.seen.clear()
    socket_watch.is_on = True
    replayed = pipeline.run()
    socket_watch.is_on = False
    assert replayed == recorded and len(replayed) == 4
    assert socket_watch.seen == []
    assert {c.status for c in replayed.call_rows} == {"answered"}


def test_the_watch_of_sockets_sees_a_run_that_asks(socket_watch):
    with StubServer() as stub:
        socket_watch.seen.clear()
        socket_watch.is_on = True
        (dfn.Source.list(texts("a")) >> ask(stub)).run()
        socket_watch.is_on = False
    assert "socket.connect" in socket_watch.seen


def test_miss_in_replay_names_step_and_record_and_asks_nobody(socket_watch):
    with StubServer() as stub:
        (dfn.Source.list(texts("a", "b")) >> ask(stub)).run()
        open_memo().close()
        options.mode = "replay"
        wider = dfn.Source.list(texts("a", "b", "c")) >> ask(stub)
        socket_watch.seen.clear()
        socket_watch.is_on = True
        with pytest.raises(dfn.ReplayMissError) as caught:
            wider.run()
        socket_watch.is_on = False
        assert "step 'ask'" in str(caught.value) and "record 2" in str(caught.value)
        assert "'c" in str(caught.value), "the prompt that is missing"
        assert socket_watch.seen == []
        assert stub.n_requests == 2


# Fates.


class Moody:
    """Answers by the prompt and the attempt: good, or with one of the faults."""

    FAULTS = ("ok", "ok", "ok", "server", "bad_request", "refused", "cut", "empty", "prose")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.attempts: Counter[str] = Counter()
        self.model = dfn.FakeModel(self.answer)

    def answer(self, request: Request) -> Response:
        prompt = request.messages[0]["content"]
        self.attempts[prompt] += 1
        word = f"{self.seed} {self.attempts[prompt]} {prompt}"
        draw = blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
        mood = self.FAULTS[draw[0] % len(self.FAULTS)]
        usage = Usage(3, 3)
        if mood in ("server", "bad_request"):
            raise dfn.LLMError(mood, kind=mood)
        if mood == "refused":
            return Response("no", finish="refused", usage=usage)
        if mood == "cut":
            return Response("and th", finish="length", usage=usage)
        if mood == "empty":
            return Response("", usage=usage)
        if mood == "prose" or request.schema is None:
            return Response(f"word {draw[1] % 5}", usage=usage)
        return Response(
            orjson.dumps(dict.fromkeys(request.schema["properties"], f"v{draw[1] % 5}")).decode(),
            usage=usage,
        )


def _make(kind: str, number: int, k: int, moody: Moody) -> dfn.Step:
    """Step `number` of a random pipeline."""
    if kind == "filter":
        return dfn.Filter(lambda r: r["n"] % (k + 2) != 0)
    if kind == "map":
        return dfn.Map(lambda r: {**r, "n": r["n"] * 7 % 11})
    if kind == "flat_map":
        return dfn.FlatMap(lambda r: [{**r, "n": r["n"] + j} for j in range(r["n"] % (k + 2))])
    if kind == "sample":
        return dfn.Sample(n=k * 3 + 1)
    outputs = [f"c{number}"] if k % 2 else [f"c{number}", f"d{number}"]
    return dfn.LLMStep(
        f"step {number} on {{n}}",
        output_columns=outputs,
        model=moody.model,
        num_outputs=1 + (k == 3),
        on_error="retry" if k == 2 else "skip",
        max_retries=k % 3,
        retry_delay=0.0,
        skip_if=(lambda r: r["n"] % 5 == 1) if k in (0, 3) else None,
    )


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    numbers=st.lists(st.integers(0, 12), min_size=1, max_size=25),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["filter", "map", "flat_map", "sample", "llm", "llm"]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=5,
    ),
    limit=st.none() | st.integers(0, 12),
    pick=st.sampled_from(["first", "spread", "random"]),
    max_calls=st.none() | st.integers(0, 20),
)
def test_fates_of_the_inputs_of_every_step_add_up(
    new_home, seed, numbers, steps, limit, pick, max_calls
):
    new_home()
    moody = Moody(seed)
    pipeline = dfn.Pipeline([dfn.Source.list([{"n": n} for n in numbers])])
    for number, (kind, k) in enumerate(steps):
        pipeline = pipeline >> _make(kind, number, k, moody)
    for _ in range(2):  # the second run finds part of its answers, and part of its failures
        try:
            result = pipeline.run(limit=limit, pick=pick, max_calls=max_calls)
        except (dfn.LLMError, dfn.BudgetExceededError) as exc:
            result = exc.result
            assert result is not None, exc
        _check_fates(result)


def _check_fates(result: dfn.Result) -> None:
    steps = result.info.steps
    for before, run in itertools.pairwise(steps):
        f = run.fates
        parts = (f.advanced, f.filtered, f.failed, f.skipped, f.waiting, f.beyond_limit)
        assert min(parts) >= 0
        assert sum(parts) == run.n_in, (run.name, f)
        assert run.n_in == before.n_out, (run.name, "takes what the step before gave")
        assert len({e.record for e in run.errors}) == f.failed + run.partly_failed
        if run.parents.known:
            assert len(set(run.parents.all())) == f.advanced + f.skipped
    assert len(steps[-1].table) == steps[-1].n_out == len(result)


def test_fates_of_an_interrupted_run_add_up():
    def stop(record):
        if record["n"] == 7:
            raise KeyboardInterrupt
        return record

    pipeline = (
        dfn.Source.list([{"n": n} for n in range(12)])
        >> dfn.Filter(lambda r: r["n"] != 3)
        >> dfn.LLMStep("{n}", output_columns=["q"], model=dfn.FakeModel())
        >> dfn.Map(stop)
    )
    with pytest.raises(dfn.RunInterrupted) as caught:
        pipeline.run()
    for run in caught.value.result.info.steps[1:]:
        assert run.fates.total == run.n_in


def test_bad_key_is_asked_once_whatever_is_in_flight():
    with StubServer(faults=lambda n, body: "401") as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url, api_key="no")
        records = [{"text": f"fact {i}"} for i in range(40)]
        pipeline = dfn.Source.list(records) >> dfn.LLMStep(
            "{text}", output_columns=["q"], model=model
        )
        for n_runs in (1, 2):
            with pytest.raises(dfn.LLMError) as caught:
                pipeline.run(max_concurrent=16)
            assert caught.value.kind == "auth"
            assert stub.n_requests == n_runs
