"""What is paid is kept, what is kept is right: awkward places that runs can meet."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from enum import Enum

import pytest
from pydantic import BaseModel, field_validator

import datafast_nb as dfn
from datafast_nb.models.base import Response, Usage
from datafast_nb.options import options
from datafast_nb.store.memo import open_memo


def texts(n):
    return [{"id": i, "text": f"fact {i}"} for i in range(n)]


def ask(model, column="q", prompt="{text}", **more):
    return dfn.LLMStep(prompt, output_columns=[column], model=model, **more)


@pytest.fixture
def few_kept():
    options.keep_rows = 10


def test_a_sink_writes_more_records_than_a_result_keeps_between_steps(tmp_path, few_kept):
    out = tmp_path / "out.jsonl"
    result = (dfn.Source.list(texts(25)) >> dfn.Sink.jsonl(str(out))).run()
    assert len(result) == 25
    assert len(out.read_bytes().splitlines()) == 25


def test_an_answer_whose_reading_fails_is_kept_and_rescued_for_nothing():
    broken = [True]

    class Answer(BaseModel):
        q: str

        @field_validator("q")
        @classmethod
        def look_up(cls, value):
            if broken:
                raise KeyError("lookup")
            return value.upper()

    model = dfn.FakeModel({"q": "why"})
    pipeline = dfn.Source.list(texts(3)) >> dfn.LLMStep(
        "{text}", output_columns=Answer, model=model
    )
    with pytest.raises(dfn.LLMError, match="lookup"):
        pipeline.run()
    assert model.calls == open_memo().info().n_replies == 3
    with pytest.raises(dfn.LLMError):
        pipeline.run()
    broken.clear()
    assert [r["q"] for r in pipeline.run()] == ["WHY"] * 3
    assert model.calls == 3


def test_an_enum_in_the_answer_becomes_its_value():
    class Level(Enum):
        LOW = "low"

    model = dfn.FakeModel({"level": "low"})
    step = dfn.LLMStep("{text}", output_columns={"level": Level}, model=model)
    assert (dfn.Source.list(texts(1)) >> step).run()[0]["level"] == "low"


def test_a_run_that_fails_before_it_asks_leaves_nothing_claimed(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pipeline = dfn.Source.list(texts(3)) >> ask(dfn.OpenAIModel("gpt-4o-mini"))
    for _ in range(2):
        run = pipeline.start()
        with pytest.raises(dfn.MissingKeyError):
            run.result(timeout_s=10)


def test_a_model_that_cancels_itself_is_a_failed_call_and_no_hung_run():
    model = dfn.FakeModel([asyncio.CancelledError(), "fine", "fine", "fine"])
    run = (dfn.Source.list(texts(3)) >> ask(model)).start(max_concurrent=1)
    result = run.result(timeout_s=10)
    assert len(result) == 2 and len(result.errors) == 1
    assert len((dfn.Source.list(texts(3)) >> ask(model)).run()) == 3


def test_a_memo_that_is_closed_stops_the_run_before_more_is_paid():
    def answer(request):
        if model.calls == 3:
            open_memo().close()
        return "fine"

    model = dfn.FakeModel(answer)
    with pytest.raises(dfn.MemoError):
        (dfn.Source.list(texts(60)) >> ask(model)).run(max_concurrent=2)
    assert model.calls < 12


def test_spend_that_passes_its_reservation_counts_in_full():
    def answer(request):
        return Response("fine", usage=Usage(1_000_000, 0))

    model = dfn.FakeModel(answer, price=(1.0, 1.0))
    with pytest.raises(dfn.BudgetExceededError):
        (dfn.Source.list(texts(10)) >> ask(model)).run(budget=1.5, max_concurrent=1)
    assert model.calls <= 2


def test_a_budget_wants_a_bound_on_the_answer():
    model = dfn.FakeModel("fine", price=(1.0, 1.0))
    with pytest.raises(dfn.DatafastError, match="max_tokens"):
        (dfn.Source.list(texts(2)) >> ask(model, max_tokens=None)).run(budget=1.0)
    assert model.calls == 0


def test_a_paid_reply_without_token_counts_is_of_unknown_price():
    model = dfn.FakeModel(lambda request: Response("fine"), price=(1.0, 1.0))
    pipeline = dfn.Source.list(texts(2)) >> ask(model)
    assert str(pipeline.run().ledger).count("unknown") >= 1
    assert pipeline.run().ledger.saved_usd != 0


def test_an_interrupt_in_an_estimate_is_not_swallowed():
    def look(record):
        if record["id"] == 5:
            signal.raise_signal(signal.SIGINT)
        return True

    pipeline = dfn.Source.list(texts(10)) >> dfn.Filter(look) >> ask(dfn.FakeModel())
    with pytest.raises(KeyboardInterrupt):
        pipeline.estimate()


class Doubled(dfn.Step):
    def process(self, records):
        for record in records:
            yield record
            yield {**record, "id": -record["id"]}


class Newest(dfn.Step):
    def process(self, records):
        return sorted(records, key=lambda r: -r["id"])[:5]


def test_a_trace_reaches_a_step_that_changed_the_number_of_records():
    pipeline = dfn.Source.list(texts(3)) >> Doubled() >> ask(dfn.FakeModel())
    one = pipeline.run_one(0)
    assert one["text"] == "fact 0"
    assert one.trace[0].name == "step_001_source"
    result = pipeline.run()
    assert result.trace(2)["text"] == result[2]["text"]
    with pytest.raises(dfn.DatafastError, match="number of records"):
        result.dropped(1)


def test_a_step_that_sorts_and_cuts_keeps_each_record_with_its_row():
    model = dfn.FakeModel()
    pipeline = dfn.Source.list(texts(8)) >> Newest() >> ask(model)
    result = pipeline.run()
    for i, record in enumerate(result):
        trace = result.trace(i)
        assert {s.records[0]["id"] for s in trace.trace} == {record["id"]}
    fewer = dfn.Source.list(texts(8)[1:]) >> Newest() >> ask(model)
    fewer.run()
    assert model.calls == 5


def siblings(record):
    return [{**record, "style": s} for s in ("a", "b", "c")]


def test_a_step_put_in_before_a_flat_map_pays_nothing_again():
    model = dfn.FakeModel()
    source = dfn.Source.list(texts(4))
    (source >> dfn.FlatMap(siblings) >> ask(model)).run()
    paid = model.calls
    more = source >> dfn.Map(lambda r: dict(r)) >> dfn.FlatMap(siblings) >> ask(model)
    more.run(limit=6)
    more.run()
    assert model.calls == paid


def test_children_of_a_result_have_identities_of_their_own():
    model = dfn.FakeModel()
    first = dfn.Source.list(texts(3)) >> dfn.FlatMap(siblings) >> ask(model)
    further = first.run() >> dfn.FlatMap(lambda r: [{**r, "n": i} for i in range(3)])
    result = (further >> ask(model, "a", "{text} {style} {n}")).run()
    labels = [c.label for c in result.call_rows if c.step.endswith("llmstep")]
    assert len(set(labels)) == len(labels) == 27


def test_a_limit_at_a_free_step_keeps_lineage_and_fates():
    pipeline = (
        dfn.Source.list(texts(40))
        >> dfn.Map(lambda r: dict(r)).as_step("m")
        >> ask(dfn.FakeModel())
    )
    result = pipeline.run(limit=4, limit_at="m", pick="spread")
    for i, record in enumerate(result):
        assert result.trace(i).trace[0].records[0]["id"] == record["id"]
    for run in result.info.steps[1:]:
        assert run.fates.total == run.n_in


def test_a_step_that_is_answered_needs_no_key_of_its_own(monkeypatch):
    monkeypatch.setenv("A_KEY", "k")

    class Keyed(dfn.FakeModel):
        def missing_key(self):
            return None if os.environ.get("A_KEY") else "A_KEY"

    first, second = Keyed(name="first"), dfn.FakeModel(name="second")
    source = dfn.Source.list(texts(2))
    (source >> ask(first)).run()
    monkeypatch.delenv("A_KEY")
    assert len((source >> ask(first) >> ask(second, "a", "then {q}")).run()) == 2


def test_a_sink_that_cannot_write_hands_over_the_result(tmp_path):
    out = tmp_path / "gone" / "out.jsonl"
    out.parent.mkdir()

    def leave(record):
        out.parent.rmdir() if out.parent.exists() else None
        return record

    pipeline = (
        dfn.Source.list(texts(2))
        >> ask(dfn.FakeModel())
        >> dfn.Map(leave)
        >> dfn.Sink.jsonl(str(out))
    )
    with pytest.raises(dfn.SinkError) as caught:
        pipeline.run()
    assert len(caught.value.result) == len(dfn.last) == 2


def test_a_column_that_only_later_records_have_is_not_overwritten():
    def add(record):
        return {**record, "q": "mine"} if record["id"] == 2 else record

    model = dfn.FakeModel()
    with pytest.raises(dfn.DatafastError, match="overwrite"):
        (dfn.Source.list(texts(4)) >> dfn.Map(add) >> ask(model)).run()
    assert model.calls == 0


def test_a_fatal_error_does_not_wait_for_calls_that_back_off():
    def answer(request):
        if request.messages[-1]["content"] == "fact 0":
            raise dfn.LLMError("busy", kind="server")
        time.sleep(0.05)
        raise dfn.LLMError("no such model", kind="bad_request")

    model = dfn.FakeModel(answer)
    began = time.monotonic()
    with pytest.raises(dfn.LLMError):
        (dfn.Source.list(texts(2)) >> ask(model, on_error="raise", retry_delay=60.0)).run()
    assert time.monotonic() - began < 20


def test_a_stop_does_not_run_a_slow_step_to_its_end():
    model = dfn.FakeModel(latency_s=0.01)
    seen = []

    def slow(record):
        seen.append(record["id"])
        time.sleep(0.1)
        return record

    pipeline = dfn.Source.list(texts(80)) >> ask(model) >> dfn.Map(slow)
    run = pipeline.start(max_concurrent=4)
    while len(seen) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    run.stop()
    run.result(timeout_s=10)
    assert time.monotonic() - began < 3


def test_equal_questions_at_temperature_0_are_one_call_in_a_long_table():
    model = dfn.FakeModel(latency_s=0.001)
    records = [{"text": "same"} for _ in range(3000)]
    assert len((dfn.Source.list(records) >> ask(model, temperature=0)).run()) == 3000
    assert model.calls == 1


def test_a_limit_that_takes_all_is_a_complete_run():
    pipeline = dfn.Source.list(texts(5)) >> ask(dfn.FakeModel())
    assert pipeline.run(limit=5).status == "complete"
    assert pipeline.run(limit=4).status == "limited"


def test_an_edited_result_has_no_lineage_left_and_says_so():
    result = (dfn.Source.list(texts(3)) >> ask(dfn.FakeModel())).run()
    result.append({"text": "mine"})
    with pytest.raises(ValueError, match="edited"):
        result.trace(0)
    assert len((result >> dfn.Map(lambda r: r)).run()) == 4


def test_run_one_where_of_a_filtered_row_shows_that_row():
    pipeline = (
        dfn.Source.list(texts(6)) >> dfn.Filter(lambda r: r["id"] % 2 == 0) >> ask(dfn.FakeModel())
    )
    one = pipeline.run_one(where={"id": 1})
    assert not one.outputs
    assert [r["id"] for r in one.trace[0].records] == [1]
    assert one.trace[-1].fate == "filtered"


def test_a_forked_child_does_not_wait_for_its_parents_calls(tmp_path):
    code = """
import os, sys, time, datafast_nb as dfn
model = dfn.FakeModel(latency_s=1.5)
pipeline = dfn.Source.list([{"text": "a"}]) >> dfn.LLMStep("{text}", output_columns=["q"], model=model)
run = pipeline.start()
time.sleep(0.3)
pid = os.fork()
if pid == 0:
    ok = len(pipeline.run()) == 1
    os._exit(0 if ok else 1)
began = time.monotonic()
while time.monotonic() - began < 20:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(pid, 9)
sys.exit(3)
"""
    env = {**os.environ, "DATAFAST_NB_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=60, check=False)
    assert done.returncode == 0


def test_generate_inside_complete_is_refused_not_hung():
    inner = dfn.FakeModel()

    class Outer(dfn.Model):
        name = "outer"

        async def complete(self, request):
            return Response(str(inner.generate("hello")))

    done = threading.Event()
    failed = []

    def work():
        try:
            (dfn.Source.list(texts(1)) >> ask(Outer())).run()
        except dfn.LLMError as exc:
            failed.append(str(exc))
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(10)
    assert "await" in failed[0]


def test_an_error_that_ends_the_run_says_where_it_was_met():
    def answer(request):
        asked = request.messages[-1]["content"]
        return dfn.LLMError("this account is closed", kind="quota") if asked == "on 3" else "fine"

    step = dfn.LLMStep("on {n}", output_columns=["q"], model=dfn.FakeModel(answer)).as_step("ask")
    with pytest.raises(
        dfn.LLMError, match=r"^step 'ask', record 3: this account is closed"
    ) as caught:
        (dfn.Source.list([{"n": n} for n in range(8)]) >> step).run(max_concurrent=1)
    assert caught.value.step == "ask" and len(caught.value.result) == 3
