"""`order="records"` when things go wrong: interrupts, losses, mistakes, several runs at a time."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import datafast_nb as dfn
import datafast_nb.engine as engine
from datafast_nb import FakeModel, Filter, FlatMap, LLMError, LLMStep, Map, Result, Sink, Source
from datafast_nb.engine.calls import Call
from datafast_nb.engine.draws import asking
from datafast_nb.engine.events import Event, Progress, StepStarted
from datafast_nb.engine.handle import Snapshot
from datafast_nb.models.base import Request, Response
from datafast_nb.store.memo import close_memos

ORDERS = pytest.mark.parametrize("order", ["steps", "records"])


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(dfn.options, "home", tmp_path / "home")
    yield
    assert len(asking) == 0, "a draw is still claimed: the next run would wait for ever"


def rows(n: int) -> list[dict[str, Any]]:
    return [{"x": i} for i in range(n)]


class Asked:
    """A model's answers, and which prompts it was asked."""

    def __init__(self, answer: Callable[[str], Any] = lambda prompt: "ok") -> None:
        self.prompts: list[str] = []
        self._answer = answer

    def __call__(self, request: Request) -> Any:
        prompt = str(request.messages[-1]["content"])
        self.prompts.append(prompt)
        return self._answer(prompt)

    def count(self, letter: str) -> int:
        return sum(p.startswith(letter) for p in self.prompts)


def ask(letter: str, model: FakeModel, fields: str = "{x}", **kw: Any) -> LLMStep:
    prompt, column = f"{letter} {fields}", letter.lower()
    return LLMStep(prompt, output_columns=[column], model=model, **kw).as_step(column)


def check_books(result: Result) -> None:
    """Every record of every step has one fate, what leaves a step enters the next."""
    steps = result.info.steps
    for run, behind in zip(steps[1:], [*steps[2:], None], strict=True):
        assert run.fates.total == run.n_in, run.name
        assert run.parents.n_out == run.n_out, run.name
        assert run.table is None or len(run.table) == run.n_out
        assert behind is None or behind.n_in == run.n_out, run.name
        for record in set(range(run.n_in)) - set(run.parents.all()):
            assert getattr(run.fates, run.loss_of(record)) > 0, run.name
        result.dropped(run.name)
    for call in result.call_rows:
        assert call.status != "pending"
    repr(result.errors)


# Interrupts.

FILES = ("recordflow", "llmstage", "stagerecords", "winding", "runner", "llmoutput", "partial")
PACKAGE = str(Path(dfn.__file__).parent)
TRACED = {str(Path(engine.__file__).with_name(f"{name}.py")) for name in FILES}


class InterruptAt:
    """Ctrl-C before the n-th line of the engine on this thread; another one `again_s` later."""

    def __init__(self, n: int | None, again_s: float = 0.0) -> None:
        self.n_lines = 0
        self._n, self._again_s = n, again_s
        self._is_over = False

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.n_lines += 1
            if self.n_lines == self._n:
                if self._again_s:
                    signal.setitimer(signal.ITIMER_REAL, self._again_s)
                raise KeyboardInterrupt
        return self._line

    def __enter__(self) -> InterruptAt:
        def stop(signum: int, frame: Any) -> None:
            if self._is_over:
                return
            if frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
                raise KeyboardInterrupt
            # In a callback of the collector it would be lost, in pytest it would end the tests.
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

        self._former = signal.signal(signal.SIGALRM, stop)
        self._tracer = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(self._tracer)
        signal.signal(signal.SIGALRM, self._former)


def bent(folder: Path, asked: Asked) -> dfn.Pipeline:
    """A pipeline in which records fan out, are filtered, skipped, refused, shared and written."""
    model = FakeModel(asked)
    return (
        Source.list(rows(16))
        >> ask("A", model, num_outputs=2)
        >> Map(lambda r: {**r, "y": r["x"] + 1})
        >> FlatMap(lambda r: [{**r, "k": k} for k in range(r["x"] % 3)])
        >> Sink.jsonl(folder / "middle.jsonl", live=True)
        >> ask("B", model, "{a} {k} {x}", skip_if=lambda r: r["x"] == 4, temperature=0)
        >> Filter(fn=lambda r: r["x"] % 4 != 3)
        >> ask("C", model, "{b} {y}")
        >> Sink.jsonl(folder / "end.jsonl")
    )


def refusing_some(prompt: str) -> Any:
    if prompt.endswith("5"):
        return Response("no", finish="refused")
    return f"<{sum(map(ord, prompt))}>"


# An interrupt between the opening of a file and its first use leaves the file to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers of POSIX")
@pytest.mark.parametrize("checkpoint", [False, True], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("again_s", [0.0, 0.001, 0.006], ids=["once", "twice", "twice later"])
def test_an_interrupt_between_any_two_lines_loses_nothing(tmp_path, again_s, checkpoint):
    files = ("middle.jsonl", "end.jsonl")

    def start(name: str) -> tuple[Path, Asked, dict[str, Any]]:
        close_memos()
        dfn.options.home = tmp_path / name / "home"
        asked = Asked(refusing_some)
        kw: dict[str, Any] = {"checkpoint_dir": tmp_path / name / "ck", "resume": True}
        return tmp_path / name, asked, kw if checkpoint else {}

    folder, asked, kw = start("whole")
    with InterruptAt(None) as counter:
        folder.mkdir()
        whole = list(bent(folder, asked).run(order="records", max_concurrent=3, **kw))
    n_asked = len(asked.prompts)
    written = [(folder / name).read_bytes() for name in files]
    draw = random.Random(f"{again_s}{checkpoint}")
    n_interrupted = 0
    for n in range(8):
        folder, asked, kw = start(str(n))
        folder.mkdir()
        at = draw.randrange(1, counter.n_lines)
        with InterruptAt(at, again_s):
            try:
                result = bent(folder, asked).run(order="records", max_concurrent=3, **kw)
            except dfn.RunInterrupted as exc:
                result = exc.result
                n_interrupted += 1
            except KeyboardInterrupt:  # before the first step, or behind the last
                result = None
        assert len(asking) == 0, at
        if result is not None:
            check_books(result)
            rest = iter(whole)
            assert all(r in rest for r in result), "in order, and each as in the whole"
        order = draw.choice(["steps", "records"])
        again = bent(folder, asked).run(order=order, **kw)
        assert list(again) == whole, at
        assert [(folder / name).read_bytes() for name in files] == written, at
        assert n_asked <= len(asked.prompts) <= n_asked + 3, at
        assert not list(folder.glob("*.part")), at
    assert n_interrupted >= 4
    gc.collect()  # here, where a file that nobody closed is no error


@ORDERS
def test_an_interrupt_while_a_prompt_is_written_makes_no_skipped_record(order):
    class Interrupting(LLMStep):
        def messages(self, record: Any, variant: Any) -> Any:
            if record["x"] == 7:
                raise KeyboardInterrupt
            return super().messages(record, variant)

    step = Interrupting("B {x} {a}", output_columns=["b"], model=FakeModel(Asked()))
    pipeline = Source.list(rows(20)) >> ask("A", FakeModel(Asked())) >> step
    with pytest.raises(dfn.RunInterrupted) as caught:
        pipeline.run(order=order)
    fates = caught.value.result.info.steps[-1].fates
    assert fates.skipped == 0 and fates.waiting > 0
    assert all(r["b"] == "ok" for r in caught.value.result)
    check_books(caught.value.result)


def test_an_interrupt_in_a_function_leaves_its_records_waiting_and_not_filtered():
    def interrupted(record: dict[str, Any]) -> dict[str, Any]:
        if record["x"] == 7:
            raise KeyboardInterrupt
        return record

    model = FakeModel(Asked())
    pipeline = (
        Source.list(rows(20))
        >> ask("A", model)
        >> Map(interrupted).as_step("map")
        >> ask("B", model)
    )
    with pytest.raises(dfn.RunInterrupted) as caught:
        pipeline.run(order="records", max_concurrent=2)
    part = caught.value.result
    check_books(part)
    run = next(run for run in part.info.steps if run.name == "map")
    assert run.fates.filtered == 0 and run.fates.waiting >= 1
    lost = set(range(run.n_in)) - set(run.parents.all())
    assert {run.loss_of(i) for i in lost} == {"waiting"}
    assert [r["x"] for r in part] == sorted(r["x"] for r in part) and part


def test_a_stop_is_seen_between_the_records_of_a_slow_function():
    def slow(record: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return record

    model = FakeModel(Asked())
    first = Source.list(rows(1_000)) >> ask("A", model)
    first.run()  # so that all come to the slow function at once
    run = (first >> Map(slow) >> ask("B", model)).start(order="records")
    time.sleep(0.3)
    began = time.monotonic()
    run.stop()
    part = run.result(30)
    assert time.monotonic() - began < 5
    assert part.status == "interrupted"
    check_books(part)


# Errors of user functions, of models, of sinks.


@ORDERS
def test_a_failing_function_leaves_a_true_bill(order):
    def broken(record: dict[str, Any]) -> dict[str, Any]:
        if record["x"] == 7:
            raise ZeroDivisionError("no")
        return record

    model = FakeModel(asked := Asked())
    pipeline = Source.list(rows(20)) >> ask("A", model) >> ask("B", model) >> Map(broken)
    with pytest.raises(ZeroDivisionError):
        pipeline.run(order=order, max_concurrent=2)
    assert dfn.last.status == "failed"
    assert dfn.last.ledger.total.new == len(asked.prompts)
    if order == "records":
        assert len(asked.prompts) < 40
        check_books(dfn.last)


@ORDERS
def test_a_failing_skip_if_leaves_a_true_bill_and_names_the_record(order):
    def broken(record: dict[str, Any]) -> bool:
        if record["x"] == 1_100:
            raise ZeroDivisionError("no")
        return False

    model = FakeModel(asked := Asked())
    pipeline = Source.list(rows(1_200)) >> ask("A", model, skip_if=broken)
    pipeline = pipeline >> ask("B", model)
    with pytest.raises(ZeroDivisionError) as caught:
        pipeline.run(order=order)
    assert "record 1100" in str(caught.value.__notes__)
    assert dfn.last.ledger.total.new == len(asked.prompts)
    check_books(dfn.last)


def test_a_value_that_no_record_can_hold_is_named_by_its_own_record():
    def fan(record: dict[str, Any]) -> list[dict[str, Any]]:
        bad = {**record, "k": object() if record["x"] == 5 else 2}
        return [{**record, "k": 0}, {**record, "k": 1}, bad]

    model = FakeModel(Asked())
    pipeline = Source.list(rows(9)) >> ask("A", model) >> FlatMap(fan) >> ask("B", model)
    with pytest.raises(dfn.RecordError, match=r"from record 5 of step 'a', column 'k' holds"):
        pipeline.run(order="records")


@ORDERS
def test_columns_that_turn_up_twice_stop_the_run_and_say_so(order):
    model = FakeModel(Asked())
    twice = Map(lambda r: {**r, "b": 1} if r["x"] == 7 else r)
    pipeline = Source.list(rows(20)) >> ask("A", model) >> twice >> ask("B", model)
    with pytest.raises(dfn.DatafastError, match="step 'b' writes column 'b', which records alr"):
        pipeline.run(order=order, max_concurrent=2)


def test_a_failure_on_disk_stops_a_step_that_must_not_lose_records_before_anything_is_paid():
    def refuses(prompt: str) -> Any:
        return Response("no", finish="refused") if prompt == "A 3" else "ok"

    model = FakeModel(asked := Asked(refuses))
    (Source.list(rows(4)) >> ask("A", model)).run()
    asked.prompts.clear()
    pipeline = Source.list(rows(200)) >> ask("A", model, on_error="raise") >> ask("B", model)
    with pytest.raises(LLMError, match="step 'a', record 3: the model refused") as caught:
        pipeline.run(order="records", max_concurrent=2)
    assert asked.prompts == []
    assert caught.value.result.status == "failed"
    check_books(caught.value.result)


def test_a_loss_at_a_later_step_stops_the_run_soon():
    model = FakeModel(asked := Asked())
    lacking = Map(lambda r: {"a": r["a"]} if r["x"] == 5 else r)
    second = ask("B", model, on_error="raise")
    pipeline = Source.list(rows(200)) >> ask("A", model) >> lacking >> second >> ask("C", model)
    with pytest.raises(LLMError, match="step 'b', record 5: the record has no column 'x'"):
        pipeline.run(order="records", max_concurrent=2)
    assert len(asked.prompts) < 60
    check_books(dfn.last)


@pytest.mark.parametrize("kind", ["auth", "quota"])
def test_a_fatal_error_in_the_middle_keeps_every_answer(kind):
    done = threading.Event()

    def fails_late(prompt: str) -> Any:
        if prompt.startswith("B") and prompt.endswith(" 9") and not done.is_set():
            raise LLMError("no more", kind=kind, status=401)
        return "ok"

    model = FakeModel(asked := Asked(fails_late))
    pipeline = Source.list(rows(60)) >> ask("A", model) >> ask("B", model, "{a} {x}")
    pipeline = pipeline >> ask("C", model, "{b} {x}")
    with pytest.raises(LLMError, match="no more") as caught:
        pipeline.run(order="records", max_concurrent=4)
    part = caught.value.result
    check_books(part)
    assert 0 < len(part) < 30 and part.ledger.total.new == len(asked.prompts)
    done.set()
    whole = pipeline.run(order="steps")
    assert len(whole) == 60
    assert len(asked.prompts) == 181 and max(Counter(asked.prompts).values()) == 2


def test_what_a_live_sink_cannot_write_ends_the_run_with_its_result(tmp_path):
    def cut(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "half": "\ud83d" if record["x"] == 7 else "whole"}

    model = FakeModel(asked := Asked())
    path = tmp_path / "out.jsonl"
    pipeline = Source.list(rows(60)) >> ask("A", model) >> Map(cut) >> Sink.jsonl(path, live=True)
    with pytest.raises(dfn.SinkError, match=r"column 'half' cannot be written") as caught:
        pipeline.run(max_concurrent=2)
    part = caught.value.result
    assert 7 <= len(part) < 60 and len(asked.prompts) < 60
    check_books(part)
    # Without a live file the same stops at the end of the run, with a result as well.
    plain = Source.list(rows(60)) >> ask("A", model) >> Map(cut) >> Sink.jsonl(path)
    with pytest.raises(dfn.SinkError, match=r"column 'half' cannot be written") as caught:
        plain.run()
    assert len(caught.value.result) == 60


# What is asked before it may be, and how far ahead.


class Keyless(FakeModel):
    def missing_key(self) -> str | None:
        return "SOME_KEY"


@ORDERS
@pytest.mark.parametrize("n_known", [1_200, 1_500])
def test_keys_of_earlier_steps_are_checked_before_later_ones_ask(order, n_known):
    asked = Asked()
    (Source.list(rows(n_known)) >> ask("A", FakeModel(asked, name="one"))).run()
    asked.prompts.clear()
    pipeline = Source.list(rows(1_500)) >> ask("A", Keyless(asked, name="one"))
    pipeline = pipeline >> ask("B", FakeModel(asked, name="two"))
    if n_known == 1_500:  # a step that has all its answers needs no key
        assert len(pipeline.run(order=order)) == 1_500
        return
    with pytest.raises(dfn.MissingKeyError, match="nothing has been asked"):
        pipeline.run(order=order)
    assert asked.prompts == []


def test_records_do_not_all_begin_because_their_first_answers_are_on_disk(monkeypatch):
    first = Source.list(rows(3_000)) >> ask("A", FakeModel(Asked()))
    first.run()
    most = [0]
    submit = engine.scheduler.Scheduler.submit
    flying: set[int] = set()

    def counting(self: Any, calls: Any) -> None:
        flying.update(map(id, calls))
        most[0] = max(most[0], len(flying))
        submit(self, calls)

    monkeypatch.setattr(engine.scheduler.Scheduler, "submit", counting)
    accept = engine.llmstage.LLMStage.accept

    def back(self: Any, call: Call) -> None:
        flying.discard(id(call))
        accept(self, call)

    monkeypatch.setattr(engine.llmstage.LLMStage, "accept", back)
    assert len((first >> ask("B", FakeModel(Asked()))).run(order="records")) == 3_000
    assert 16 < most[0] <= 1_024 + 2 * 20  # a look-up, and what two models may have under way


def test_the_first_step_does_not_run_ahead_of_a_slow_second_model():
    fast, slow = Asked(), Asked()
    ahead: list[int] = []

    def lagging(prompt: str) -> str:
        ahead.append(len(fast.prompts) - len(slow.prompts))
        return "ok"

    slow._answer = lagging
    second = ask("B", FakeModel(slow, name="slow", latency_s=0.002, parallel=2))
    pipeline = Source.list(rows(200)) >> ask("A", FakeModel(fast, name="fast")) >> second
    assert len(pipeline.run(order="records", max_concurrent=8)) == 200
    # 8 and 2 calls at once, and a quarter (at least 2) more of each.
    assert max(ahead) <= 8 + 2 + 2 + 2


# Several runs at a time.


@pytest.mark.parametrize("orders", [("records", "records"), ("records", "steps")])
@pytest.mark.parametrize("temperature", [0.7, 0])
def test_runs_of_the_same_rows_in_other_orders_share_every_answer(orders, temperature):
    asked = Asked(lambda prompt: f"<{len(prompt)}>")
    runs = []
    for k, order in enumerate(orders):
        some = rows(150)
        random.Random(k).shuffle(some)
        model = FakeModel(asked, latency_s=0.0005)
        pipeline = Source.list(some) >> ask("A", model, temperature=temperature)
        pipeline = pipeline >> ask("B", model, "{x} {a}", temperature=temperature)
        runs.append(pipeline.start(order=order))
    found = [sorted((r["x"], r["a"], r["b"]) for r in run.result(60)) for run in runs]
    assert found[0] == found[1] and len(found[0]) == 150
    assert max(Counter(asked.prompts).values()) == 1


def test_calls_that_wait_their_turn_hold_up_no_other_run():
    asked = Asked()
    gate = threading.Event()

    class Gated(FakeModel):
        async def complete(self, request: Request) -> Response:
            while not gate.is_set():
                await asyncio.sleep(0.005)
            return await super().complete(request)

    slow = Gated("ok", name="slow", parallel=1)
    model = FakeModel(asked, name="fast")
    first = Source.list(rows(300)) >> ask("A", model)
    held = (first >> ask("B", slow)).start(order="records", max_concurrent=2)
    try:
        while not asked.prompts:
            time.sleep(0.005)
        # The other run has looked at all rows, but asks for few while its second model sleeps.
        other = first.start(order="steps")
        assert len(other.result(20)) == 300
    finally:
        gate.set()
    assert len(held.result(30)) == 300
    assert max(Counter(asked.prompts).values()) == 1


@ORDERS
def test_an_answer_that_came_between_look_up_and_question_is_not_paid_again(order):
    looked, answered = threading.Event(), threading.Event()

    class Slow(LLMStep):
        def parse(self, text: str) -> dict[str, Any]:
            if text == "A 0" and threading.current_thread().name == "datafast_nb-run":
                looked.set()
                assert answered.wait(20)
            return super().parse(text)

    model = FakeModel(asked := Asked(lambda prompt: prompt))
    (Source.list(rows(1)) >> ask("A", model)).run()
    step = Slow("A {x}", output_columns=["a"], model=model).as_step("a")
    run = (Source.list(rows(30)) >> step >> ask("B", model)).start(order=order)
    assert looked.wait(20)
    (Source.list(rows(30)) >> ask("A", model)).run()
    answered.set()
    assert len(run.result(30)) == 30
    assert max(Counter(asked.prompts).values()) == 1


# What watchers see.


def test_events_come_in_order_and_figures_never_pass_their_totals():
    events: list[Event] = []
    model = FakeModel(Asked(refusing_some), latency_s=0.001)
    pipeline = (
        Source.list(rows(400))
        >> ask("A", model)
        >> Filter(fn=lambda r: r["x"] % 2 == 0)
        >> ask("B", model)
        >> FlatMap(lambda r: [r, r])
        >> ask("C", model)
    )
    result = pipeline.run(order="records", on_event=events.append)
    begun = [e.index for e in events if isinstance(e, StepStarted)]
    assert begun == sorted(begun) and len(set(begun)) == len(begun)
    at = Snapshot()
    for n, event in enumerate(events):
        at = at.after(event, float(n))
        if isinstance(event, Progress):
            assert 0 <= event.done <= event.total, event
            assert event.done == event.answered + event.new + event.failed
            assert at.left_s is None or at.left_s >= 0
    last = {e.step: e for e in events if isinstance(e, Progress)}
    for run in result.info.steps:
        if run.calls:
            assert last[run.name].total == last[run.name].done == len(run.calls)


def test_tokens_of_a_small_part_of_a_large_table_are_the_same(monkeypatch, tmp_path):
    found = []
    for order in ("steps", "records"):
        monkeypatch.setattr(dfn.options, "home", tmp_path / order)
        monkeypatch.setattr(dfn.options, "keep_rows", 10)
        model = FakeModel(Asked(), latency_s=0.001)
        some = Filter(fn=lambda r: r["x"] < 5)
        pipeline = Source.list(rows(20)) >> ask("A", model) >> some >> ask("B", model)
        pipeline = pipeline >> FlatMap(lambda r: [r, r]) >> ask("C", model)
        found.append(pipeline.run(order=order).info.tokens)
        close_memos()
    assert found[0] == found[1] and len(found[0]) == 10


# Files.


def test_a_resumed_run_in_the_other_order_is_the_same(tmp_path):
    def make(folder: Path, asked: Asked) -> tuple[dfn.Pipeline, Path]:
        close_memos()
        dfn.options.home = folder / "home"
        folder.mkdir(exist_ok=True)
        return bent(folder, asked), folder / "ck"

    whole_asked = Asked(refusing_some)
    pipeline, ck = make(tmp_path / "whole", whole_asked)
    whole = list(pipeline.run(checkpoint_dir=ck, order="steps"))
    written = (tmp_path / "whole" / "end.jsonl").read_bytes()
    for n, (order, then) in enumerate([("records", "steps"), ("steps", "records")] * 3):
        asked = Asked(refusing_some)
        folder = tmp_path / str(n)
        pipeline, ck = make(folder, asked)
        with pytest.raises(dfn.BudgetExceededError) as stopped:
            bound = len(whole_asked.prompts) * (n + 1) // 7
            pipeline.run(checkpoint_dir=ck, order=order, max_calls=bound, max_concurrent=2)
        part = stopped.value.result
        check_books(part)
        n_files = 0
        for run in part.info.steps:
            for file in ck.glob(f"step_*_{run.name}.partial.jsonl"):
                n_files += 1
                assert len(file.read_text().splitlines()) == run.n_out
            for file in ck.glob(f"step_*_{run.name}.progress.json"):
                told = json.loads(file.read_text())
                assert told["completed_calls"] <= told["total_calls"] == len(run.calls)
        assert n_files
        result = pipeline.run(checkpoint_dir=ck, order=then, resume=True)
        assert list(result) == whole and result.status == "complete"
        assert (folder / "end.jsonl").read_bytes() == written
        assert sorted(asked.prompts) == sorted(whole_asked.prompts)
        check_books(result)


def test_two_live_sinks_grow_and_a_second_try_writes_them_anew(tmp_path):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text('{"x":-1}\n', encoding="utf-8")
    mended = threading.Event()

    def answer(prompt: str) -> Any:
        if prompt == "B 7" and not mended.is_set():
            return Response("no", finish="refused")
        if prompt.startswith("B"):
            grown = Path(f"{first}.part").read_text("utf-8").splitlines()
            sizes.append(len(grown))
            assert all(list(json.loads(line)) == ["a"] for line in grown)
        return "ok"

    sizes: list[int] = []
    model = FakeModel(answer_of := Asked(answer))
    pipeline = (
        Source.list(rows(40))
        >> ask("A", model)
        >> Sink.jsonl(first, append=True, columns=["a"], live=True)
        >> ask("B", model)
        >> Sink.jsonl(second, live=True)
    )
    result = pipeline.run(max_concurrent=2)
    assert sizes == sorted(sizes) and 0 < sizes[-1] <= 40
    assert first.read_text("utf-8").splitlines() == ['{"x":-1}', *['{"a":"ok"}'] * 40]
    mended.set()
    again = result.retry_failed()
    assert (len(result), len(again)) == (39, 40)
    assert len(answer_of.prompts) == 81
    assert [json.loads(line) for line in second.read_text("utf-8").splitlines()] == list(again)
    before = (first.read_bytes(), second.read_bytes())
    part = pipeline.run(limit=3, sinks=False)
    assert len(part) == 3 and (first.read_bytes(), second.read_bytes()) == before
    assert not list(tmp_path.glob("*.part"))


# Edits.


class Reversed(dfn.Step):
    def process(self, records: Any) -> Any:
        return list(reversed(list(records)))


def odd(seed: int, model: FakeModel, shift: int, version: int) -> tuple[dfn.Pipeline, Any]:
    """A pipeline of many kinds of steps by a seed, and how to run it; `version` edits its second."""
    draw = random.Random(seed)
    n = draw.choice([3, 10, 20])
    made: Any = Source.list([{"x": (i + shift) % 7, "p": str(i % 3)} for i in range(n)])
    for k, kind in enumerate("L" + "".join(draw.choices("LLLMFXSR", k=4))):
        if kind == "L":
            prompt: Any = f"{k}v{version if k == 1 else 0} {{p}} {{x}}"
            prompts = [prompt, [prompt, f"{prompt} again"], dfn.Sample([prompt, f"{k} {{p}}"], n=1)]
            step: dfn.Step = LLMStep(
                draw.choice(prompts),
                output_columns=[f"o{k}"],
                model=model,
                language=draw.choice([None, ["en", "fr"], dfn.Sample(["en", "fr", "de"], n=1)]),
                temperature=draw.choice([0.7, 0, [0.1, 0.5]]),
                num_outputs=draw.choice([1, 1, 2]),
                skip_if=draw.choice([None, lambda r: r["x"] == 2]),
            )
        elif kind == "M":
            step = Map(lambda r, k=k: {**r, "p": f"{r['p']}{k % 2}"})
        elif kind == "F":
            step = Filter(fn=lambda r, k=k: (r["x"] + k) % 4 != 0)
        elif kind == "X":
            step = FlatMap(lambda r: [r] * (r["x"] % 3))
        else:
            step = dfn.Sample(n=5) if kind == "S" else Reversed()
        made = made >> step.as_step(f"s{k}")
    kw: dict[str, Any] = {"max_concurrent": draw.randrange(1, 6)}
    if draw.random() < 0.4:
        kw |= {"limit": draw.choice([0, 1, 4]), "limit_at": f"s{draw.randrange(5)}"}
    return made, kw


@pytest.mark.parametrize("seed", range(12))
def test_edited_pipelines_are_the_same_in_both_orders(tmp_path, seed):
    """Rows go and come back, a step in the middle is edited: answers are taken over alike."""
    found: list[list[Any]] = []
    for order in ("steps", "records"):
        close_memos()
        dfn.options.home = tmp_path / order
        asked = Asked(lambda prompt: f"<{random.Random(prompt).randrange(1_000)}>")
        seen: list[Any] = []
        for shift, version in ((0, 0), (1, 0), (1, 1), (0, 0)):
            pipeline, kw = odd(seed, FakeModel(asked, latency_s=0.0003), shift, version)
            result = pipeline.run(order=order, **kw)
            check_books(result)
            steps = [
                (
                    run.fates,
                    list(run.parents.all()),
                    [(c.record, c.variant, c.output_index, c.key, c.label) for c in run.calls],
                )
                for run in result.info.steps
            ]
            seen.append((list(result), result.info.row_ids, result.info.tokens, steps))
            seen.append(len(asked.prompts))
            if result:
                trace = pipeline.run_one(0)
                seen.append((dict(trace), len(trace.outputs)))
        found.append(seen)
    assert found[0] == found[1]
