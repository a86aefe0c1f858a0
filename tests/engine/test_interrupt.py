"""A run that someone stops: what is shown, what is kept, and what the next run pays."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from stub_server import StubServer

import datafast_nb as dfn

N = 40

SCRIPT = """
import json, sys
import datafast_nb as dfn

url, out, tone, on_exit = sys.argv[1:]
model = dfn.OpenAICompatibleModel("stub", url)
pipeline = (
    dfn.Source.list([{"id": i, "text": f"fact {i}"} for i in range(40)])
    >> dfn.LLMStep(tone + " question on {text}", output_columns=["question"], model=model)
    >> dfn.Sink.jsonl(out)
)
print("go", flush=True)
if on_exit == "uncaught":
    pipeline.run(max_concurrent=4)
try:
    result = pipeline.run(max_concurrent=4)
    print(json.dumps({"status": result.status, "rows": result}), flush=True)
except dfn.RunInterrupted as exc:
    print(json.dumps({"said": str(exc), "status": exc.result.status, "rows": exc.result,
                      "is_last": dfn.last is exc.result}), flush=True)
"""


def reply_to(number: int, body: dict[str, Any]) -> str:
    return "re: " + body["messages"][-1]["content"]


def prompts(stub: StubServer) -> list[str]:
    return [body["messages"][-1]["content"] for body in stub.bodies]


def rows(n: int = N) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"fact {i}"} for i in range(n)]


def asking(stub: StubServer, n: int = N) -> dfn.Pipeline:
    model = dfn.OpenAICompatibleModel("stub", stub.url)
    return dfn.Source.list(rows(n)) >> dfn.LLMStep("on {text}", output_columns=["q"], model=model)


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.002)


class Script:
    """The script above in a folder of its own."""

    def __init__(self, folder: Any, stub: StubServer) -> None:
        self.folder = folder
        self.stub = stub
        self.out = folder / "out.jsonl"
        self.partial = folder / "out.partial.jsonl"
        self.file = folder / "script.py"
        self.file.write_text(SCRIPT, encoding="utf-8")

    def start(self, tone: str = "one", on_exit: str = "caught") -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(self.file), self.stub.url, str(self.out), tone, on_exit],
            cwd=self.folder,
            env={**os.environ, "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, tone: str = "one") -> dict[str, Any]:
        said, errors = self.start(tone).communicate(timeout=60)
        assert said.count("\n") == 2, errors
        return json.loads(said.splitlines()[-1])

    def interrupt_after(self, n_requests: int, tone: str = "one", on_exit: str = "caught"):
        """SIGINT at that many requests; (seconds until it ended, stdout, stderr, exit code)."""
        child = self.start(tone, on_exit)
        first = self.stub.n_requests
        wait_for(lambda: self.stub.n_requests >= first + n_requests or child.poll() is not None)
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, errors = child.communicate(timeout=30)
        return time.monotonic() - began, said, errors, child.returncode


def test_interrupted_script_keeps_what_is_paid_and_the_next_run_pays_nothing_twice(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        script = Script(tmp_path, stub)
        seconds, said, errors, code = script.interrupt_after(12)
        partial = json.loads(said.splitlines()[-1])
        n_asked = stub.n_requests
        again = script.finish()
        asked = prompts(stub)
    assert code == 0, errors
    assert seconds < 10  # two on a machine that does nothing else
    assert partial["status"] == "interrupted"
    assert partial["said"].startswith("Interrupted") and "\n" not in partial["said"]
    assert partial["is_last"]
    assert len(partial["rows"]) == n_asked < N  # also those that were in flight
    assert again["status"] == "complete" and len(again["rows"]) == N
    assert [r for r in again["rows"] if r in partial["rows"]] == partial["rows"]
    assert max(Counter(asked).values()) == 1 and len(asked) == N


def test_interrupted_run_leaves_the_whole_file_and_writes_finished_rows_beside_it(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        script = Script(tmp_path, stub)
        script.finish()
        whole = script.out.read_bytes()
        assert len(whole.splitlines()) == N and not script.partial.exists()
        _, said, errors, _ = script.interrupt_after(8, "another")
        rows = json.loads(said.splitlines()[-1])["rows"]
        assert script.out.read_bytes() == whole, errors
        written = [json.loads(line) for line in script.partial.read_bytes().splitlines()]
        assert written == rows and 8 <= len(rows) < N
        final = script.finish("another")["rows"]
        assert [json.loads(line) for line in script.out.read_bytes().splitlines()] == final
    assert all(r["question"].startswith("re: another") for r in final)


def test_interrupted_first_run_writes_no_file_under_the_name(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        script = Script(tmp_path, stub)
        script.interrupt_after(8)
    assert not script.out.exists()
    assert len(script.partial.read_bytes().splitlines()) >= 8


def test_uncaught_interrupt_ends_the_script_with_the_message_as_last_line(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        seconds, said, errors, code = Script(tmp_path, stub).interrupt_after(8, "one", "uncaught")
    assert seconds < 10
    assert code != 0
    assert said == "go\n", "the line after the interrupted run is not reached"
    last = errors.strip().splitlines()[-1]
    assert "Interrupted: " in last and "every answer that arrived is kept" in last
    assert errors.count("records finished") == 1
    assert "never retrieved" not in errors and "was destroyed" not in errors


def test_interrupt_does_not_wait_for_a_model_that_hangs(tmp_path):
    with StubServer(answer=reply_to, latency_s=25.0) as stub:
        seconds, said, errors, code = Script(tmp_path, stub).interrupt_after(4)
    assert code == 0, errors
    assert seconds < 10
    assert json.loads(said.splitlines()[-1])["rows"] == []


def test_second_interrupt_does_not_wait_for_calls_in_flight(tmp_path):
    with StubServer(answer=reply_to, latency_s=25.0) as stub:
        script = Script(tmp_path, stub)
        child = script.start()
        wait_for(lambda: stub.n_requests >= 4)
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        said, errors = child.communicate(timeout=30)
    assert time.monotonic() - began < 5.0, errors
    assert json.loads(said.splitlines()[-1])["status"] == "interrupted"


# In a notebook.

CELLS = {
    "setup": """
import datafast_nb as dfn
model = dfn.OpenAICompatibleModel("stub", {url!r})
pipeline = (
    dfn.Source.list([{{"id": i, "text": f"fact {{i}}"}} for i in range(40)])
    >> dfn.LLMStep("on {{text}}", output_columns=["q"], model=model)
)
reached = []
""",
    "run": "reached.append('before')\nresult = pipeline.run(max_concurrent=4)\nreached.append('after')",
    "queued": "reached.append('queued')",
}


class Kernel:
    """A Jupyter kernel, asked over its messages as a notebook does."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def send(self, code: str) -> str:
        return self.client.execute(code, stop_on_error=True, allow_stdin=False)

    def reply(self, message_id: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            message = self.client.get_shell_msg(timeout=60)
            if message["parent_header"].get("msg_id") == message_id:
                return message["content"]
        raise AssertionError("the kernel did not answer")

    def outputs(self, *message_ids: str) -> list[tuple[str, dict[str, Any]]]:
        """(type, content) of what these requests showed; all must have been answered."""
        found = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                return found
            if message["parent_header"].get("msg_id") in message_ids:
                found.append((message["msg_type"], message["content"]))

    def value(self, expression: str) -> Any:
        message_id = self.client.execute(
            "", user_expressions={"x": f"__import__('json').dumps({expression})"}
        )
        found = self.reply(message_id)["user_expressions"]["x"]
        assert found["status"] == "ok", found
        return json.loads(eval(found["data"]["text/plain"]))


@contextmanager
def kernel(folder: Any):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env={**os.environ, "IPYTHONDIR": str(folder / "ipython")})
    try:
        made = Kernel(manager)
        try:
            yield made
        finally:
            made.client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.mark.slow
def test_interrupt_in_a_notebook_is_one_line_stops_run_all_and_loses_nothing(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub, kernel(tmp_path) as nb:
        assert nb.reply(nb.send(CELLS["setup"].format(url=stub.url)))["status"] == "ok"
        run, queued, also_queued = (nb.send(CELLS[c]) for c in ("run", "queued", "queued"))
        wait_for(lambda: stub.n_requests >= 12)
        nb.manager.interrupt_kernel()
        began = time.monotonic()
        stopped = nb.reply(run)
        seconds = time.monotonic() - began
        assert [nb.reply(m)["status"] for m in (queued, also_queued)] == ["aborted", "aborted"]
        n_asked = stub.n_requests
        outputs = nb.outputs(run)

        assert stopped["status"] == "error" and stopped["ename"] == "RunInterrupted"
        assert seconds < 10  # two on a machine that does nothing else
        (shown,) = [content for kind, content in outputs if kind == "error"]
        assert len(shown["traceback"]) == 1 and "\n" not in shown["traceback"][0]
        assert shown["traceback"][0].startswith("Interrupted: ")
        assert not [c for kind, c in outputs if kind == "stream"], "nothing beside the line"

        assert nb.value("reached") == ["before"]
        assert nb.value("dfn.last.status") == "interrupted"
        assert nb.value("dfn.last") == nb.value(
            "[{'id': r['id'], 'text': r['text'], 'q': 're: on ' + r['text'], '_model': 'stub'} for r in dfn.last]"
        )
        assert nb.value("len(dfn.last)") == n_asked < N

        # The kernel goes on, and so does the run.
        assert nb.reply(nb.send(CELLS["run"]))["status"] == "ok"
        assert nb.value("[result.status, len(result)]") == ["complete", N]
        assert nb.value("reached") == ["before", "before", "after"]
        assert max(Counter(prompts(stub)).values()) == 1 and stub.n_requests == N


@pytest.mark.slow
def test_interrupting_the_cell_that_waits_for_a_started_run_stops_the_run(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.05) as stub, kernel(tmp_path) as nb:
        nb.reply(nb.send(CELLS["setup"].format(url=stub.url)))
        assert nb.reply(nb.send("run = pipeline.start(max_concurrent=4)"))["status"] == "ok"
        waiting = nb.send("run.result()")
        wait_for(lambda: stub.n_requests >= 12)
        nb.manager.interrupt_kernel()
        assert nb.reply(waiting)["status"] == "error"
        nb.reply(nb.send("partial = run.result(5)"))
        assert nb.value("[run.status, partial.status]") == ["interrupted", "interrupted"]
        assert nb.value("len(partial)") == stub.n_requests < N


# In this process.


def interrupt_soon(condition: Any) -> threading.Thread:
    """Ctrl-C for the main thread once the condition holds."""

    def work() -> None:
        wait_for(condition)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work, name="ctrl-c")
    thread.start()
    return thread


def test_interrupt_keeps_rows_in_input_order_and_says_so_in_last(tmp_path):
    with StubServer(answer=reply_to, latency_s=0.03) as stub:
        pipeline = asking(stub)
        thread = interrupt_soon(lambda: stub.n_requests >= 10)
        with pytest.raises(dfn.RunInterrupted) as caught:
            pipeline.run(max_concurrent=4)
        thread.join()
    partial = caught.value.result
    assert partial is dfn.last
    assert partial.status == "interrupted"
    assert [r["id"] for r in partial] == sorted(r["id"] for r in partial)
    assert len(partial) == stub.n_requests
    fates = partial.info.steps[1].fates
    assert (fates.advanced, fates.waiting) == (len(partial), N - len(partial))
    assert partial.errors == [], "what was not asked has not failed"


def test_interrupt_inside_a_map_before_the_calls_pays_nothing():
    seen = []

    def look(record):
        seen.append(record["id"])
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)
        return record

    with StubServer(answer=reply_to) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        pipeline = (
            dfn.Source.list(rows())
            >> dfn.Map(look)
            >> dfn.LLMStep("on {text}", output_columns=["q"], model=model)
        )
        with pytest.raises(dfn.RunInterrupted) as caught:
            pipeline.run()
        assert stub.n_requests == 0
        assert list(caught.value.result) == []
        assert seen == [0, 1, 2, 3, 4]
        assert len(pipeline.run()) == N


def test_interrupt_inside_a_map_after_the_calls_keeps_the_answers(tmp_path):
    armed = [True]

    def look(record):
        if armed and record["id"] == 5:
            signal.raise_signal(signal.SIGINT)
        return {**record, "n_chars": len(record["q"])}

    out = tmp_path / "out.jsonl"
    with StubServer(answer=reply_to) as stub:
        pipeline = asking(stub) >> dfn.Map(look) >> dfn.Sink.jsonl(str(out))
        with pytest.raises(dfn.RunInterrupted) as caught:
            pipeline.run()
        partial = caught.value.result
        assert partial.status == "interrupted"
        assert all("n_chars" in r for r in partial), "a finished record went through every step"
        assert not out.exists()
        armed.clear()
        assert len(pipeline.run()) == N
        assert stub.n_requests == N
    assert len(out.read_bytes().splitlines()) == N


def test_interrupt_during_the_second_llm_step_keeps_finished_rows_of_both():
    with StubServer(answer=reply_to, latency_s=0.03) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        pipeline = asking(stub) >> dfn.LLMStep("then {q}", output_columns=["a"], model=model)
        thread = interrupt_soon(lambda: stub.n_requests >= N + 10)
        with pytest.raises(dfn.RunInterrupted) as caught:
            pipeline.run(max_concurrent=4)
        thread.join()
        partial = caught.value.result
        assert len(partial) == stub.n_requests - N
        assert all(r["a"] == f"re: then {r['q']}" for r in partial)
        assert len(partial.at(1)) == N
        assert len(pipeline.run()) == N
        assert stub.n_requests == 2 * N


def test_interrupt_during_the_first_of_two_llm_steps_asks_nothing_in_the_second():
    with StubServer(answer=reply_to, latency_s=0.03) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        pipeline = asking(stub) >> dfn.LLMStep("then {q}", output_columns=["a"], model=model)
        thread = interrupt_soon(lambda: stub.n_requests >= 10)
        with pytest.raises(dfn.RunInterrupted) as caught:
            pipeline.run(max_concurrent=4)
        thread.join()
        assert list(caught.value.result) == []
        assert len(caught.value.result.at(1)) == stub.n_requests
        assert not [p for p in prompts(stub) if p.startswith("then")]


def test_stopped_run_gives_its_partial_result_and_the_next_run_the_rest():
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        pipeline = asking(stub)
        run = pipeline.start(max_concurrent=4)
        assert run.status == "running" and not run.done
        wait_for(lambda: stub.n_requests >= 10)
        began = time.monotonic()
        run.stop()
        partial = run.result(timeout_s=5)
        assert time.monotonic() - began < 10
        assert run.status == partial.status == "interrupted" and run.done
        assert len(partial) == stub.n_requests < N
        assert partial is dfn.last
        assert len(pipeline.run()) == N
        assert stub.n_requests == N


def test_stopped_run_leaves_the_whole_file(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        run = (asking(stub) >> dfn.Sink.jsonl(str(out))).start(max_concurrent=4)
        wait_for(lambda: stub.n_requests >= 10)
        run.stop()
        partial = run.result(timeout_s=5)
    assert out.read_text() == "{}\n"
    written = (tmp_path / "out.partial.jsonl").read_bytes().splitlines()
    assert [json.loads(line) for line in written] == partial


def test_stopped_run_takes_finished_answers_through_the_free_steps_that_follow():
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        pipeline = asking(stub) >> dfn.Map(lambda r: {**r, "n_chars": len(r["q"])})
        run = pipeline.start(max_concurrent=4)
        wait_for(lambda: stub.n_requests >= 10)
        run.stop()
        partial = run.result(timeout_s=5)
        assert len(partial) == stub.n_requests < N
    assert all("n_chars" in r for r in partial)


def test_run_stopped_in_the_first_of_two_llm_steps_has_no_finished_rows():
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        model = dfn.OpenAICompatibleModel("stub", stub.url)
        pipeline = asking(stub) >> dfn.LLMStep("then {q}", output_columns=["a"], model=model)
        run = pipeline.start(max_concurrent=4)
        wait_for(lambda: stub.n_requests >= 10)
        run.stop()
        partial = run.result(timeout_s=5)
        assert not [p for p in prompts(stub) if p.startswith("then")]
    assert [r for r in partial if "a" not in r] == []
    assert 10 <= len(partial.at(1)) < N


def test_stop_before_a_map_ends_is_seen_between_records():
    model = dfn.FakeModel()
    inside, released = threading.Event(), threading.Event()

    def slow(record):
        inside.set()
        released.wait(0.05)
        return record

    pipeline = (
        dfn.Source.list(rows(200))
        >> dfn.Map(slow)
        >> dfn.LLMStep("on {text}", output_columns=["q"], model=model)
    )
    run = pipeline.start()
    try:
        assert inside.wait(10)
        run.stop()
        assert list(run.result(timeout_s=3)) == []  # all of them would take ten seconds
    finally:
        released.set()
        run.result(timeout_s=10)
    assert model.calls == 0


def test_waiting_with_a_time_limit_leaves_the_run_alone():
    with StubServer(answer=reply_to, latency_s=0.1) as stub:
        run = asking(stub, 12).start(max_concurrent=4)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="goes on"):
            run.result(timeout_s=0.1)
        assert time.monotonic() - began < 0.9
        assert len(run.result()) == 12
        assert run.status == "complete" and stub.n_requests == 12


def test_awaited_run_gives_its_result_while_the_callers_loop_goes_on():
    async def main(stub: StubServer) -> tuple[dfn.Result, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        result = await asking(stub, 12).start(max_concurrent=4)
        ticking.cancel()
        return result, ticks

    with StubServer(answer=reply_to, latency_s=0.1) as stub:
        result, ticks = asyncio.run(main(stub))
    assert [r["id"] for r in result] == list(range(12))
    assert ticks >= 10


def test_cancelling_the_task_that_awaits_leaves_the_run_alone():
    async def main(stub: StubServer) -> dfn.Run:
        run = asking(stub, 12).start(max_concurrent=4)

        async def wait() -> dfn.Result:
            return await run

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.05)
        return run

    with StubServer(answer=reply_to, latency_s=0.1) as stub:
        run = asyncio.run(main(stub))
        assert len(run.result(timeout_s=10)) == 12


def test_interrupt_while_waiting_for_a_started_run_stops_it():
    with StubServer(answer=reply_to, latency_s=0.05) as stub:
        run = asking(stub).start(max_concurrent=4)
        thread = interrupt_soon(lambda: stub.n_requests >= 10)
        with pytest.raises(KeyboardInterrupt):
            run.result()
        thread.join()
        partial = run.result(timeout_s=3)
    assert run.status == partial.status == "interrupted"
    assert 10 <= len(partial) == stub.n_requests < N


def test_started_run_that_fails_raises_from_result_and_from_await():
    def broken(record):
        raise ZeroDivisionError("in here")

    pipeline = dfn.Source.list(rows(3)) >> dfn.Map(broken)
    run = pipeline.start()
    with pytest.raises(ZeroDivisionError, match="in here"):
        run.result(timeout_s=10)
    assert run.status == "failed"

    async def main() -> None:
        await pipeline.start()

    with pytest.raises(ZeroDivisionError, match="in here"):
        asyncio.run(main())


def test_run_threads_end_and_one_loop_serves_all_runs():
    before = set(threading.enumerate())
    with StubServer(answer=reply_to, latency_s=0.02) as stub:
        for n in (4, 8):
            asking(stub, n).run()
        run = asking(stub).start(max_concurrent=4)
        wait_for(lambda: stub.n_requests >= 12)
        run.stop()
        run.result(timeout_s=5)
        thread = interrupt_soon(lambda: stub.n_requests >= 24)
        with pytest.raises(dfn.RunInterrupted):
            asking(stub).run(max_concurrent=4)
        thread.join()
        new = {t for t in threading.enumerate() if t not in before}
        wait_for(lambda: not [t for t in new if t.name == "datafast_nb-run" and t.is_alive()], 2)
    left = [t.name for t in threading.enumerate() if t not in before]
    assert set(left) <= {"datafast_nb-engine", "datafast_nb-memo"}
    assert left.count("datafast_nb-memo") <= 1
    names = [t.name for t in threading.enumerate()]
    assert names.count("datafast_nb-engine") == 1
