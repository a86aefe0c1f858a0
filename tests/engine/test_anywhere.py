"""`run()` gives the same wherever it is called, and user functions run where their author expects."""

import asyncio
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.engine import events
from datafast_nb.store.memo import open_memo

N = 24

PROGRAM = """
import datafast_nb as dfn

def build(url):
    model = dfn.OpenAICompatibleModel("stub", url)
    return (
        dfn.Source.list([{"id": i, "text": f"fact {i}"} for i in range(24)])
        >> dfn.Filter(lambda r: r["id"] % 4 != 3)
        >> dfn.LLMStep("on {text}", output_columns=["q"], model=model, num_outputs=2)
        >> dfn.Map(lambda r: {**r, "n_chars": len(r["q"])})
    )
"""


def reply_to(number: int, body: dict[str, Any]) -> str:
    return "re: " + body["messages"][-1]["content"]


def expected() -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "text": f"fact {i}",
            "q": f"re: on fact {i}",
            "_model": "stub",
            "_output_index": k,
            "n_chars": len(f"re: on fact {i}"),
        }
        for i in range(N)
        if i % 4 != 3
        for k in range(2)
    ]


N_CALLS = len(expected())


def build(url: str) -> dfn.Pipeline:
    names: dict[str, Any] = {}
    exec(PROGRAM, names)
    return names["build"](url)


@pytest.fixture
def stub():
    with StubServer(answer=reply_to, latency_s=0.005) as server:
        yield server


def rows(n: int = N) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"fact {i}"} for i in range(n)]


def asking(stub: StubServer, n: int = N, prompt: str = "on {text}") -> dfn.Pipeline:
    model = dfn.OpenAICompatibleModel("stub", stub.url)
    return dfn.Source.list(rows(n)) >> dfn.LLMStep(prompt, output_columns=["q"], model=model)


def test_run_in_pytest(stub):
    assert build(stub.url).run() == expected()
    assert stub.n_requests == N_CALLS


def test_run_in_a_script(stub, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"{PROGRAM}\nimport json, sys\nprint(json.dumps(build(sys.argv[1]).run()))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), stub.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == expected()
    assert stub.n_requests == N_CALLS


def test_run_inside_asyncio_run(stub):
    async def main() -> dfn.Result:
        return build(stub.url).run()

    assert asyncio.run(main()) == expected()
    assert stub.n_requests == N_CALLS


def test_runs_one_after_another_in_loops_of_their_own(stub):
    async def main(prompt: str) -> dfn.Result:
        return asking(stub, 6, prompt).run()

    for prompt in ("a {text}", "b {text}"):
        assert [r["q"] for r in asyncio.run(main(prompt))] == [
            f"re: {prompt[0]} fact {i}" for i in range(6)
        ]


def test_run_from_two_threads_at_once_asks_each_question_once(stub):
    pipeline = build(stub.url)
    barrier = threading.Barrier(2)
    results: list[list[dict[str, Any]]] = []

    def work() -> None:
        barrier.wait(10)
        results.append(pipeline.run())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [expected(), expected()]
    assert stub.n_requests == N_CALLS


def test_two_threads_with_different_pipelines_do_not_mix(stub):
    results: dict[str, dfn.Result] = {}

    def work(tone: str) -> None:
        results[tone] = asking(stub, N, tone + " {text}").run()

    threads = [threading.Thread(target=work, args=(tone,)) for tone in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for tone in ("a", "b"):
        assert [r["q"] for r in results[tone]] == [f"re: {tone} fact {i}" for i in range(N)]
    assert stub.n_requests == 2 * N


@pytest.mark.slow
def test_run_in_a_notebook(stub, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = [
        PROGRAM,
        f"result = build({stub.url!r}).run()",
        "import json\nprint(json.dumps(result))",
        f"started = await build({stub.url!r}).start()\nprint(started == result, started.status)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    def printed(cell: int) -> str:
        outputs = notebook.cells[cell].outputs
        assert {o.output_type for o in outputs} <= {"stream"}, outputs
        return "".join(o.text for o in outputs if o.name == "stdout")

    assert json.loads(printed(2)) == expected()
    assert printed(3).split() == ["True", "complete"]
    assert stub.n_requests == N_CALLS
    shown = [o.output_type for o in notebook.cells[1].outputs]
    assert shown in ([], ["display_data"]), "at most the one progress line"


@pytest.mark.parametrize("place", ["main thread", "asyncio", "other thread"])
def test_map_uses_an_sqlite_connection_of_the_calling_thread(stub, place):
    def use_it() -> dfn.Result:
        with closing(sqlite3.connect(":memory:")) as con:  # refuses every other thread
            con.execute("CREATE TABLE codes (id, code)")
            con.executemany("INSERT INTO codes VALUES (?, ?)", [(i, i * i) for i in range(N)])

            def code(record):
                (found,) = con.execute("SELECT code FROM codes WHERE id = ?", [record["id"]])
                return {**record, "code": found[0]}

            def is_even(record):
                (found,) = con.execute("SELECT ? % 2 = 0", [record["code"]])
                return found[0]

            def skip(record):
                return con.execute("SELECT ? = 4", [record["code"]]).fetchone()[0]

            model = dfn.OpenAICompatibleModel("stub", stub.url)
            pipeline = (
                dfn.Source.list(rows())
                >> dfn.Map(code)
                >> dfn.LLMStep("on {text}", output_columns=["q"], model=model, skip_if=skip)
                >> dfn.Filter(is_even)
                >> dfn.FlatMap(lambda r: [code(r)])
            )
            return pipeline.run()

    async def main() -> dfn.Result:
        return use_it()

    if place == "main thread":
        result = use_it()
    elif place == "asyncio":
        result = asyncio.run(main())
    else:
        found: list[dfn.Result] = []
        thread = threading.Thread(target=lambda: found.append(use_it()))
        thread.start()
        thread.join(60)
        (result,) = found
    assert [r["code"] for r in result] == [i * i for i in range(0, N, 2)]
    assert result[1]["q"] is None and result[2]["q"] == "re: on fact 4"


def test_user_functions_of_a_started_run_share_one_named_worker_thread(stub):
    seen: set[str] = set()

    def look(record):
        seen.add(threading.current_thread().name)
        return record

    pipeline = dfn.Source.list(rows(4)) >> dfn.Map(look) >> dfn.Map(look)
    pipeline.start().result(timeout_s=10)
    assert seen == {"datafast_nb-run"}
    pipeline.run()
    assert seen == {"datafast_nb-run", threading.current_thread().name}


def nested(i: int) -> dict[str, Any]:
    return {"id": i, "text": f"fact {i}", "tags": ["a", ["b"]], "meta": {"k": {"n": i}}}


def spoil(record: dict[str, Any]) -> dict[str, Any]:
    record["tags"].append("spoilt")
    record["tags"][1].append("spoilt")
    record["meta"]["k"]["n"] = -1
    record["text"] = "spoilt"
    del record["id"]
    return record


SPOILERS = {
    "map": dfn.Map(spoil),
    "flat_map": dfn.FlatMap(lambda r: [spoil(r)]),
    "filter": dfn.Filter(lambda r: bool(spoil(r))),
    "skip_if": dfn.LLMStep(
        "{id}", output_columns=["x"], model=dfn.FakeModel(), skip_if=lambda r: not spoil(r)
    ),
}


@pytest.mark.parametrize("kind", SPOILERS)
@pytest.mark.parametrize("after_llm", [False, True])
def test_function_that_changes_its_record_harms_neither_source_nor_other_pipelines(kind, after_llm):
    given = [nested(i) for i in range(3)]
    base = dfn.Pipeline([dfn.Source.list(given)])
    if after_llm:
        base = base >> dfn.LLMStep(
            "on {text}", output_columns={"parts": list[str]}, model=dfn.FakeModel()
        )
    before = base.run()
    copy_of_before = json.loads(json.dumps(before))
    spoilt = (base >> SPOILERS[kind]).run()
    assert given == [nested(i) for i in range(3)]
    assert before == copy_of_before, "an earlier result"
    assert base.run() == copy_of_before, "a pipeline that shares the past"
    assert spoilt.at(len(base.steps) - 1) == copy_of_before, "the table before the step"
    if kind in ("map", "flat_map"):
        assert spoilt[0]["tags"] == ["a", ["b", "spoilt"], "spoilt"], "the function did its work"
    else:
        assert [r["tags"] for r in spoilt] == [["a", ["b"]]] * 3
        assert [r["id"] for r in spoilt] == [0, 1, 2]


def test_changing_a_result_changes_no_later_run_and_no_table_of_the_run():
    given = [nested(i) for i in range(3)]
    pipeline = dfn.Source.list(given) >> dfn.Map(lambda r: r)
    result = pipeline.run()
    spoil(result[0])
    assert given == result.at(0) == result.at(1) == pipeline.run() == [nested(i) for i in range(3)]
    spoil(result.at(1)[1])
    assert result.at(1)[1] == nested(1)


def test_function_that_keeps_its_record_and_changes_it_later_harms_nobody():
    kept = []

    def keep(record):
        kept.append(record)
        return record

    result = (dfn.Source.list([nested(i) for i in range(3)]) >> dfn.Map(keep)).run()
    for record in kept:
        spoil(record)
    assert result == result.at(1) == [nested(i) for i in range(3)]


def _run_in_fork(url: str, prompt: str, out: Any) -> None:
    model = dfn.OpenAICompatibleModel("stub", url)
    source = dfn.Source.list(rows(6))
    result = (source >> dfn.LLMStep(prompt, output_columns=["q"], model=model)).run()
    out.send([r["q"] for r in result])
    out.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_run_works_in_a_forked_process_and_its_answers_are_there_for_the_parent(stub):
    assert len(asking(stub, 6, "parent {text}").run()) == 6
    fork = multiprocessing.get_context("fork")
    found = {}
    for prompt in ("parent {text}", "child {text}"):
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=_run_in_fork, args=(stub.url, prompt, sender))
        process.start()
        sender.close()
        assert receiver.poll(30), "the run in the forked process hangs"
        found[prompt] = receiver.recv()
        process.join(30)
        assert process.exitcode == 0
    assert found["parent {text}"] == [f"re: parent fact {i}" for i in range(6)]
    assert found["child {text}"] == [f"re: child fact {i}" for i in range(6)]
    assert stub.n_requests == 12, "the child uses the parent's answers"
    assert len(asking(stub, 6, "child {text}").run()) == 6
    assert stub.n_requests == 12, "and the parent the child's"
    assert len(asking(stub, 6, "parent again {text}").run()) == 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_a_run_is_under_way_disturbs_neither(stub):
    stub.latency_s = 0.03
    run = asking(stub, 40, "parent {text}").start(max_concurrent=4)
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    while stub.n_requests < 8:
        assert not run.done
    process = fork.Process(target=_run_in_fork, args=(stub.url, "child {text}", sender))
    process.start()
    sender.close()
    assert receiver.poll(30), "the run in the forked process hangs"
    assert receiver.recv() == [f"re: child fact {i}" for i in range(6)]
    process.join(30)
    assert process.exitcode == 0
    assert [r["q"] for r in run.result(30)] == [f"re: parent fact {i}" for i in range(40)]
    assert stub.n_requests == 46
    assert open_memo().info().n_replies == 46


def test_listener_is_told_of_run_steps_and_progress_on_the_calling_thread(stub):
    told: list[tuple[Any, str]] = []
    pipeline = (
        dfn.Source.list(rows(6))
        >> dfn.LLMStep(
            "on {text}", output_columns=["q"], model=dfn.OpenAICompatibleModel("stub", stub.url)
        ).as_step("ask")
        >> dfn.Filter(lambda r: r["id"] < 4).as_step("few")
        >> dfn.Sink.list().as_step("end")
    )
    pipeline.run(on_event=lambda e: told.append((e, threading.current_thread().name)))
    seen = [event for event, _ in told]
    assert {name for _, name in told} == {threading.current_thread().name}
    assert isinstance(seen[0], events.RunStarted) and seen[0].steps[1:] == ("ask", "few", "end")
    assert isinstance(seen[-1], events.RunFinished)
    assert (seen[-1].status, seen[-1].n_out) == ("complete", 4)
    last = [e for e in seen if isinstance(e, events.Progress)][-1]
    assert (last.step, last.total, last.done, last.new, last.answered) == ("ask", 6, 6, 6, 0)
    finished = {e.step: (e.n_in, e.n_out) for e in seen if isinstance(e, events.StepFinished)}
    assert finished["ask"] == (6, 6) and finished["end"] == (4, 4)


def test_every_step_is_started_once_and_finished_once(stub):
    told: list[Any] = []
    pipeline = asking(stub, 6) >> dfn.Filter(lambda r: r["id"] < 4) >> dfn.Sink.list()
    result = pipeline.run(on_event=told.append)
    names = [s.name for s in result.info.steps]
    assert [e.step for e in told if isinstance(e, events.StepStarted)] == names
    assert sorted(e.step for e in told if isinstance(e, events.StepFinished)) == sorted(names)


def test_listener_that_fails_is_left_out_and_the_run_goes_on(stub, caplog):
    calls = []

    def broken(event):
        calls.append(event)
        raise RuntimeError("not my day")

    assert len(asking(stub, 6).run(on_event=broken)) == 6
    assert len(calls) == 1
    assert "a listener of run events failed" in caplog.text


class OwnError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@pytest.mark.parametrize("kind", ["map", "flat_map", "filter"])
def test_exception_in_a_function_keeps_its_type_and_names_step_and_record(stub, kind):
    def fail(record):
        if record["id"] == 2:
            raise OwnError(7, "no such thing")
        return [record] if kind == "flat_map" else record

    step = {"map": dfn.Map, "flat_map": dfn.FlatMap, "filter": dfn.Filter}[kind](fail)
    pipeline = asking(stub, 6) >> step.as_step("broken")
    with pytest.raises(OwnError) as caught:
        pipeline.run()
    assert caught.value.code == 7 and str(caught.value) == "7: no such thing"
    notes = "\n".join(caught.value.__notes__)
    assert "step 'broken'" in notes and "record 2" in notes
    assert "'text': 'fact 2'" in notes
    assert stub.n_requests == 6
    (asking(stub, 6) >> dfn.Map(lambda r: r)).run()
    assert stub.n_requests == 6, "what was paid before the exception is kept"


def test_exception_in_skip_if_keeps_its_type_and_names_step_and_record(stub):
    model = dfn.OpenAICompatibleModel("stub", stub.url)
    pipeline = dfn.Source.list(rows(3)) >> dfn.LLMStep(
        "on {text}", output_columns=["q"], model=model, skip_if=lambda r: r["nothing"]
    ).as_step("ask")
    with pytest.raises(KeyError) as caught:
        pipeline.run()
    notes = "\n".join(caught.value.__notes__)
    assert "'ask'" in notes and "record 0" in notes
    assert stub.n_requests == 0


def test_exception_in_a_started_run_keeps_its_notes(stub):
    def fail(record):
        raise OwnError(7, "no such thing")

    run = (dfn.Source.list(rows(3)) >> dfn.Map(fail).as_step("broken")).start()
    with pytest.raises(OwnError) as caught:
        run.result(timeout_s=10)
    assert "step 'broken'" in "\n".join(caught.value.__notes__)
