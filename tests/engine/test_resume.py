"""Runs with a checkpoint: what is complete is used, what changed is named, nothing is paid for it."""

import json
import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import datafast_nb as dfn
from datafast_nb.errors import BudgetExceededError, CheckpointError, PipelineChangedError
from datafast_nb.models.base import Response, Usage

N = 30


def rows(n=N):
    return [{"id": i, "text": f"fact {i}"} for i in range(n)]


def short(record):
    return {**record, "n": len(record["q"])}


class Lab:
    """A folder, a model that counts, and pipelines of a few steps."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ck = folder / "ck"
        self.out = folder / "out.jsonl"
        self.fail = lambda prompt: None
        self.model = dfn.FakeModel(self.answer)

    def answer(self, request):
        prompt = request.messages[-1]["content"]
        error = self.fail(prompt)
        if error is not None:
            raise error
        return Response(f"re {prompt}", Usage(5, 5))

    def pipe(self, ask="ask {text}", again="again {q}", source=None, temperature=0.7, fn=short):
        return (
            (dfn.Source.list(rows()) if source is None else source).as_step("load")
            >> dfn.Filter(fn=lambda r: r["id"] % 3 > 0).as_step("some")
            >> dfn.LLMStep(
                ask, output_columns=["q"], model=self.model, num_outputs=2, temperature=temperature
            ).as_step("ask")
            >> dfn.Map(fn).as_step("count")
            >> dfn.LLMStep(again, output_columns=["a"], model=self.model).as_step("again")
            >> dfn.Sink.jsonl(self.out)
        )

    def run(self, pipe=None, **how):
        how.setdefault("checkpoint_dir", self.ck)
        return (self.pipe() if pipe is None else pipe).run(show_progress=False, **how)

    def manifest(self):
        return json.loads((self.ck / "manifest.json").read_text("utf-8"))


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def full(result):
    """Rows, file-independent lineage and calls of a result."""
    steps = result.info.steps
    return repr(
        (
            list(result),
            [(s.name, s.n_in, s.n_out, s.fates) for s in steps],
            [list(s.parents.all()) for s in steps[1:]],
            [(c.key, c.label, c.verdict, c.values) for c in result.call_rows],
            result.info.row_ids,
            result.info.tokens,
            [(e.step, e.record, e.kind, e.input) for e in result.errors],
        )
    )


def test_files_and_manifest_are_those_of_the_spec(lab):
    lab.run(batch_size=20, rate_limits={"fake": 60_000})
    made = lab.manifest()
    assert [(e["index"], e["name"], e["status"], e["records"]) for e in made["steps"]] == [
        (0, "load", "complete", 30),
        (1, "some", "complete", 20),
        (2, "ask", "complete", 40),
        (3, "count", "complete", 40),
        (4, "again", "complete", 40),
        (5, "step_006_sink", "complete", 40),
    ]
    assert re.fullmatch("[0-9a-f]{16}", made["pipeline_hash"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["created_at"])
    assert made["current_step"] == 6 and made["config"]["rate_limits"] == {"fake": 60_000}
    assert made["config"]["batch_size"] == 20
    names = {p.name for p in lab.ck.iterdir()}
    assert {"manifest.json", "step_001_load.jsonl", "step_003_ask.jsonl"} <= names
    assert not [n for n in names if "partial" in n or "progress" in n or "tmp" in n or "lock" in n]
    read = [json.loads(line) for line in (lab.ck / "step_002_some.jsonl").read_bytes().splitlines()]
    assert read == [r for r in rows() if r["id"] % 3]
    assert lab.ck.stat().st_mode & 0o077 == 0


def test_resume_of_a_complete_run_gives_its_result_without_a_call(lab):
    straight = lab.run()
    sink = lab.out.read_bytes()
    lab.out.unlink()
    dfn.memo.close()
    dfn.options.home = lab.folder / "elsewhere"  # not even the memo is needed
    n = lab.model.calls
    resumed = lab.run(resume=True)
    assert lab.model.calls == n
    assert full(resumed) == full(straight)
    assert lab.out.read_bytes() == sink
    assert resumed.status == "complete"
    assert resumed.ledger.total.new == 0 and resumed.ledger.total.answered == 80
    assert "resumed from the checkpoint" in " ".join(resumed.info.notes)


def test_lineage_reaches_through_steps_that_were_read(lab):
    straight = lab.run()
    resumed = lab.run(resume=True)
    for column in ("text", "q", "n", "a"):
        a, b = straight.why(7, column).to_dict(), resumed.why(7, column).to_dict()
        for known in (a, b):
            known.pop("status"), known.pop("notes")
        assert a == b
    ways = [[(s.name, s.fate, s.records) for s in r.trace(7).trace] for r in (straight, resumed)]
    assert ways[0] == ways[1]
    assert list(resumed.at("ask")) == list(straight.at("ask"))
    assert list(resumed.dropped("some")) == list(straight.dropped("some"))


def stop_after_calls(lab, n):
    """Let the run be interrupted as a notebook's stop button does, at the n-th request."""

    def fail(prompt):
        if lab.model.calls >= n:
            return KeyboardInterrupt()
        return None

    return fail


@pytest.mark.parametrize("order", ["steps", "records"])
@pytest.mark.parametrize("budget", [0, 1, 17, 40, 41, 63, 79])
def test_run_that_was_cut_off_at_any_call_goes_on_to_the_same_result(lab, tmp_path, budget, order):
    oracle = Lab(tmp_path / "oracle")
    oracle.folder.mkdir()
    dfn.options.home = tmp_path / "oracle" / "home"
    want = full(oracle.run())
    dfn.options.home = tmp_path / "home"
    with pytest.raises(BudgetExceededError):
        lab.run(max_calls=budget, max_concurrent=4, order=order)
    made = lab.manifest()
    current = made["current_step"]
    by_steps = order == "steps"
    assert made["steps"][current]["name"] == ("again" if by_steps and budget >= 40 else "ask")
    assert made["steps"][current]["status"] == "in_progress"
    n_calls = 0
    for step in made["steps"]:
        if step["status"] != "in_progress":
            continue
        stem = f"step_{step['index'] + 1:03d}_{step['name']}"
        partial = (lab.ck / f"{stem}.partial.jsonl").read_bytes().splitlines()
        progress = json.loads((lab.ck / f"{stem}.progress.json").read_text())
        assert len(partial) == step["records"] == progress["records"]
        n_calls += progress["completed_calls"]
    assert n_calls == (budget % 40 if by_steps else budget)
    assert not lab.out.exists()
    resumed = lab.run(resume=True)
    assert full(resumed) == want
    assert lab.out.read_bytes() == oracle.out.read_bytes()
    assert lab.model.calls == 80, "nothing is paid twice"
    assert not list(lab.ck.glob("*partial*")) and not list(lab.ck.glob("*progress*"))


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
@pytest.mark.parametrize("where", [None, "source", "again"])
def test_limited_run_resumes_as_it_was_limited(lab, limit, where):
    how = {"limit": limit, "limit_at": where, "pick": "spread"}
    straight = lab.run(**how)
    calls = lab.model.calls
    resumed = lab.run(resume=True, **how)
    assert full(resumed) == full(straight) and resumed.status == straight.status
    assert lab.model.calls == calls
    with pytest.raises(CheckpointError, match=rf"is of a run with limit={limit}.* has no limit"):
        lab.run(resume=True)


def test_limit_reads_no_more_of_a_stream_when_it_is_resumed(lab):
    straight = lab.run(limit=3, stop_after="ask")
    assert lab.manifest()["steps"][0]["records"] < N
    resumed = lab.run(limit=3, resume=True)
    assert list(resumed.at("ask")) == list(straight)
    assert lab.model.calls == 12


def test_stop_after_and_then_the_rest(lab):
    first = lab.run(stop_after="some")
    assert len(first) == 20 and lab.manifest()["current_step"] == 2
    result = lab.run(resume=True)
    assert len(result) == 40 and lab.model.calls == 80
    assert full(lab.run(resume=True)) == full(lab.run())
    assert list(lab.run(resume=True, stop_after="some")) == list(first)
    assert (
        lab.manifest()["current_step"] == 5
    )  # the steps behind are kept, the sink is written anew


def test_first_run_may_say_resume(lab):
    assert len(lab.run(resume=True)) == 40


@pytest.mark.parametrize("how", [{"resume": True}, {"resume_from": "ask"}])
def test_resume_needs_a_directory(lab, how):
    with pytest.raises(ValueError, match="needs checkpoint_dir="):
        lab.run(checkpoint_dir=None, **how)


def test_resume_from_does_a_step_again_and_keeps_what_is_before(lab):
    lab.run()
    seen = []

    def counting(record):
        seen.append(record["id"])
        return record["id"] % 3 > 0

    before = (lab.ck / "step_002_some.jsonl").stat().st_mtime_ns
    result = lab.run(lab.pipe(again="once more {q}"), resume_from="again")
    assert result[0]["a"].startswith("re once more")
    assert (lab.ck / "step_002_some.jsonl").stat().st_mtime_ns == before
    assert lab.model.calls == 120
    assert full(lab.run(lab.pipe(again="once more {q}"), resume=True)) == full(result)
    with pytest.raises(KeyError, match="agian"):
        lab.run(resume_from="agian")
    with pytest.raises(CheckpointError, match="nothing to go on from"):
        lab.run(checkpoint_dir=lab.folder / "new", resume_from="ask")
    assert seen == []


@pytest.mark.parametrize(
    ("change", "step", "said"),
    [
        ({"ask": "tell {text}"}, "ask", "has another prompt"),
        ({"temperature": 0.2}, "ask", "has temperature 0.2, and had 0.7"),
        ({"again": "and {q}"}, "again", "has another prompt"),
        ({"fn": lambda r: {**r, "n": 1}}, "count", "has another fn"),
        ({"source": "shorter"}, "load", "reads other records"),
        ({"source": "other order of keys"}, "load", "reads other records"),
        ({"source": "frame"}, "load", "is a FrameSource, and was a ListSource"),
    ],
)
def test_changed_pipeline_is_refused_and_the_first_change_named(lab, change, step, said):
    import pandas as pd

    sources = {
        "shorter": dfn.Source.list(rows(29)),
        "other order of keys": dfn.Source.list([dict(reversed(r.items())) for r in rows()]),
        "frame": dfn.Source.dataframe(pd.DataFrame(rows())),
    }
    if "source" in change:
        change = {"source": sources[change["source"]]}
    lab.run()
    calls = lab.model.calls
    with pytest.raises(PipelineChangedError) as caught:
        lab.run(lab.pipe(**change), resume=True)
    error = caught.value
    assert error.step == step and said in error.changes and said in str(error)
    assert str(lab.ck) in str(error) and "resume=False" in str(error)
    assert ("resume_from=" in str(error)) == (step != "load")
    assert lab.model.calls == calls
    if step != "load":
        with pytest.raises(PipelineChangedError, match=step):
            lab.run(lab.pipe(**change), resume_from="again" if step != "again" else 5)
        lab.run(lab.pipe(**change), resume_from=step)
    else:
        lab.run(lab.pipe(**change))
    lab.run(lab.pipe(**change), resume=True)


def test_steps_that_came_or_went_are_named(lab):
    lab.run()
    longer = lab.pipe() >> dfn.Map(lambda r: r).as_step("extra")
    with pytest.raises(PipelineChangedError, match=r"'extra' \(number 6\) is new"):
        lab.run(longer, resume=True)
    assert len(lab.run(longer, resume_from="extra")) == 40
    with pytest.raises(PipelineChangedError, match=r"'extra' \(number 6\) is gone"):
        lab.run(resume=True)


def test_renamed_step_is_no_change(lab):
    source = dfn.Source.list([{"t": "x"}])
    ask = dfn.LLMStep("say {t}", output_columns=["q"], model=lab.model)
    one = lab.run(source >> ask.as_step("one"))
    two = lab.run(source >> ask.as_step("two"), resume=True)
    assert list(one) == list(two) and [s.name for s in two.info.steps][1] == "two"


@pytest.mark.parametrize("kind", ["frame", "file", "seed", "result", "own"])
def test_any_source_resumes(lab, kind):
    import pandas as pd

    class Own(dfn.Source.list([]).__class__.__mro__[1]):  # SourceStep
        def read(self, chunk):
            yield rows()

    def source():
        if kind == "frame":
            return dfn.Source.dataframe(pd.DataFrame(rows()))
        if kind == "file":
            path = lab.folder / "in.jsonl"
            if not path.exists():
                path.write_text("".join(json.dumps(r) + "\n" for r in rows()))
            return dfn.Source.file(path)
        if kind == "seed":
            return dfn.Seed.product(
                dfn.Seed.values("id", list(range(10))), dfn.Seed.values("text", ["a", "b", "c"])
            )
        return Own()

    if kind == "result":
        result = (dfn.Source.list(rows()) >> dfn.Map(lambda r: r)).run()
        pipes = [result >> s for s in [lab.pipe().steps[2]]] * 2
    else:
        pipes = [lab.pipe(source=source()) for _ in range(2)]
    straight = lab.run(pipes[0])
    calls = lab.model.calls
    resumed = lab.run(pipes[1], resume=True)
    assert full(resumed) == full(straight) and lab.model.calls == calls


def test_results_with_other_values_but_the_same_rows_are_told_apart(lab):
    ask = dfn.LLMStep("ask {text}", output_columns=["q"], model=lab.model)
    one = (dfn.Source.list(rows()) >> ask).run()
    lab.model.answers = "another answer"
    two = (
        dfn.Source.list(rows())
        >> dfn.LLMStep("ask {text}", output_columns=["q"], model=lab.model, resample=1)
    ).run()
    assert one.info.row_ids == two.info.row_ids and list(one) != list(two)
    lab.run(one >> dfn.Map(short))
    with pytest.raises(PipelineChangedError, match="reads other records"):
        lab.run(two >> dfn.Map(short), resume=True)


def test_step_that_gives_other_records_now_is_told_and_the_file_wins(lab):
    import itertools

    ticks = itertools.count()

    class Ticking(dfn.Source.list([]).__class__.__mro__[1]):
        def read(self, chunk):
            yield [{"id": i, "text": "t", "tick": next(ticks)} for i in range(5)]

    def stamped(record):
        return {**record, "n": next(ticks)}

    def pipe():
        return lab.pipe(source=Ticking(), fn=stamped)

    straight = lab.run(pipe())
    resumed = lab.run(pipe(), resume=True)
    assert list(resumed) == list(straight)
    notes = " ".join(resumed.info.notes)
    assert "step 'load' reads other records now than the 5 in the checkpoint" in notes
    assert "step 'count' gives other records now" in notes
    assert "step 'some'" not in notes


def test_failed_records_stay_failed_until_they_are_retried(lab):
    lab.fail = lambda p: ValueError("no") if "fact 7" in p and p.startswith("ask") else None
    straight = lab.run()
    assert len(straight.errors) == 2
    lab.fail = lambda p: None
    resumed = lab.run(resume=True)
    assert full(resumed) == full(straight)
    assert resumed.to_dict()["metadata"]["skipped"] == 1
    mended = resumed.retry_failed()
    assert len(mended) == len(straight) + 2 and not mended.errors
    assert full(lab.run(resume=True)) == full(mended)


def test_same_prompt_in_two_steps_draws_on_behind_a_step_that_was_read(lab, tmp_path):
    count = iter(range(1000))
    lab.model.answers = lambda request: f"draw {next(count)}"

    def pipe():
        ask = [
            dfn.LLMStep("ask {text}", output_columns=[c], model=lab.model).as_step(c) for c in "ab"
        ]
        return dfn.Source.list(rows(6)) >> ask[0] >> ask[1]

    with pytest.raises(BudgetExceededError):
        lab.run(pipe(), max_calls=9, max_concurrent=1)
    result = lab.run(pipe(), resume=True)
    drawn = [r[c] for r in result for c in "ab"]
    assert len(set(drawn)) == 12
    assert full(pipe().run()) == full(result)  # what a straight run finds in the memo


def test_sampled_parameters_stay_behind_a_step_that_was_read(lab):
    def pipe():
        tones = dfn.Sample([f"be {tone} {{q}}" for tone in ("dry", "warm", "odd")], n=1)
        return (
            dfn.Source.list(rows(12))
            >> dfn.LLMStep("one {text}", output_columns=["q"], model=lab.model)
            >> dfn.LLMStep(prompt=tones, output_columns=["a"], model=lab.model)
        )

    straight = pipe().run()
    dfn.options.home = lab.folder / "other"
    with pytest.raises(BudgetExceededError):
        lab.run(pipe(), max_calls=15)
    resumed = lab.run(pipe(), resume=True)
    assert [r["a"] for r in resumed] == [r["a"] for r in straight]
    assert len({r["a"].split()[2] for r in resumed}) > 1


def test_tables_too_large_to_keep_resume_too(lab):
    dfn.options.keep_rows = 5
    straight = lab.run()
    resumed = lab.run(resume=True)
    assert list(resumed) == list(straight) and resumed.info.row_ids == straight.info.row_ids
    assert resumed.info.steps[2].table is None
    assert resumed.why(3, "q").reply == straight.why(3, "q").reply
    assert list(resumed.at("some")) == list(straight.at("some"))


def test_sink_in_the_middle_is_written_again(lab):
    middle = lab.folder / "middle.jsonl"

    def pipe():
        return (
            dfn.Source.list(rows(5))
            >> dfn.Sink.jsonl(middle)
            >> dfn.LLMStep("ask {text}", output_columns=["q"], model=lab.model)
        )

    lab.run(pipe())
    want = middle.read_bytes()
    middle.unlink()
    dfn.options.keep_rows = 2
    assert len(lab.run(pipe(), resume=True)) == 5
    assert middle.read_bytes() == want and lab.model.calls == 5


def test_start_takes_the_same_parameters(lab):
    run = lab.pipe().start(checkpoint_dir=lab.ck)
    straight = run.result(30)
    resumed = lab.pipe().start(checkpoint_dir=lab.ck, resume=True).result(30)
    assert full(resumed) == full(straight)


def test_no_call_before_the_directory_is_known_to_be_writable(lab):
    (lab.folder / "afile").write_text("x")
    for bad in (lab.folder / "afile", lab.folder / "afile" / "ck"):
        with pytest.raises(CheckpointError, match=r"cannot be used.*nothing has been asked"):
            lab.run(checkpoint_dir=bad)
    if os.geteuid() != 0:  # root may write anywhere
        closed = lab.folder / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(CheckpointError, match="cannot be used"):
            lab.run(checkpoint_dir=closed)
    assert lab.model.calls == 0
    with pytest.raises(ValueError, match="checkpoint_dir"):
        lab.run(checkpoint_dir="")


def test_value_that_a_checkpoint_cannot_keep_is_refused_before_the_first_call(lab):
    import datetime as dt

    class Odd(dt.tzinfo):
        def utcoffset(self, when):
            return dt.timedelta(0)

    source = dfn.Source.list([{"id": 1, "text": "a", "at": dt.datetime(2024, 1, 1, tzinfo=Odd())}])
    with pytest.raises(dfn.RecordError, match="'at'"):
        lab.run(lab.pipe(source=source))
    assert lab.model.calls == 0


def test_second_run_on_a_directory_is_refused_while_the_first_goes_on(lab):
    go = threading.Event()
    begun = threading.Event()

    def wait(record):
        begun.set()
        go.wait(20)
        return record

    slow = (dfn.Source.list(rows(3)) >> dfn.Map(wait)).start(checkpoint_dir=lab.ck)
    assert begun.wait(20)
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()}"):
        lab.run(resume=True)
    assert lab.model.calls == 0
    go.set()
    assert len(slow.result(20)) == 3
    assert len(lab.run()) == 40


def test_directory_with_step_files_of_unknown_origin_is_left_alone(lab):
    lab.ck.mkdir()
    (lab.ck / "step_001_load.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        lab.run()
    assert (lab.ck / "step_001_load.jsonl").read_text() == '{"mine": 1}\n'


def test_starting_afresh_removes_the_steps_of_the_former_run_and_nothing_else(lab):
    lab.run()
    (lab.ck / "notes.txt").write_text("mine")
    lab.run(dfn.Pipeline([dfn.Source.list(rows(2))]))
    assert {p.name for p in lab.ck.iterdir()} == {
        "manifest.json", "notes.txt", "step_001_source.jsonl", "step_001_source.trail.jsonl",
    }  # fmt: skip


def test_running_step_shows_its_finished_records(lab, monkeypatch):
    monkeypatch.setattr("datafast_nb.engine.partial.EVERY_S", 0.0)
    monkeypatch.setattr("datafast_nb.engine.llmstage.PROGRESS_EVERY_S", 0.0)
    seen = []

    def look(event):
        found = list(lab.ck.glob("*.partial.jsonl"))
        if found:
            lines = found[0].read_bytes().splitlines()
            progress = found[0].with_name(found[0].name.replace("partial.jsonl", "progress.json"))
            told = json.loads(progress.read_text()) if progress.exists() else {}
            seen.append((len([json.loads(line) for line in lines]), told))

    # A listener of the user's runs before the checkpoint's, so it sees the state of the last event.
    straight = lab.run(on_event=look, max_concurrent=2)
    counts = [n for n, _ in seen]
    assert len(set(counts)) > 5 and max(counts) <= 40
    last = next(told for n, told in reversed(seen) if told)
    assert last["step_name"] == "again" and last["completed_calls"] <= last["total_calls"] == 40
    assert len(straight) == 40


def test_keys_stay_out_of_every_file(lab, tmp_path):
    key = "sk-live-abcdefgh12345678"
    model = dfn.OpenAICompatibleModel("m", "http://127.0.0.1:9/v1", api_key=key)
    pipe = dfn.Source.list(rows(2)) >> dfn.LLMStep(
        "ask {text}", output_columns=["q"], model=model, max_retries=0
    )
    with pytest.raises(dfn.LLMError):
        lab.run(pipe)
    files = list(lab.ck.iterdir())
    assert len(files) >= 3
    for path in files:
        assert key.encode() not in path.read_bytes() and key[8:].encode() not in path.read_bytes()


class Machine(RuleBasedStateMachine):
    """Run, cut off, lose the tail of a file, edit, resume: always as one straight run."""

    @initialize(n=st.integers(3, 12) | st.just(0), outputs=st.integers(1, 2))
    def begin(self, n, outputs):
        import tempfile

        # Memory where there is some: each run waits for the disk a dozen times.
        shared = Path("/dev/shm")
        self.temp = tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None)
        folder = Path(self.temp.name)
        self.former_home = dfn.options.home
        dfn.options.home = folder / "home"
        self.n, self.outputs = n, outputs
        self.version = 0
        self.lab = Lab(folder)
        self.asked = []
        self.lab.model.answers = self.answer
        self.cut_off = 0

    def answer(self, request):
        prompt = request.messages[-1]["content"]
        self.asked.append(prompt)
        return f"re {prompt}"

    def pipe(self):
        model, v = self.lab.model, self.version
        return (
            dfn.Source.list([{"id": i, "text": f"f{i}"} for i in range(self.n)]).as_step("load")
            >> dfn.FlatMap(lambda r: [{**r, "k": k} for k in range(r["id"] % 3)]).as_step("fan")
            >> dfn.LLMStep(
                "ask {text} {k}", output_columns=["q"], model=model, num_outputs=self.outputs
            ).as_step("ask")
            >> dfn.Filter(fn=lambda r: r["id"] != 4).as_step("but")
            >> dfn.LLMStep(f"v{v} {{q}}", output_columns=["a"], model=model).as_step("again")
            >> dfn.Sink.jsonl(self.lab.out)
        )

    def want(self):
        out = []
        for i in range(self.n):
            for k in range(i % 3):
                for o in range(self.outputs):
                    if i == 4:
                        continue
                    q = f"re ask f{i} {k}"
                    record = {"id": i, "text": f"f{i}", "k": k, "q": q}
                    if self.outputs > 1:
                        record["_output_index"] = o
                    out.append((record["id"], k, q, f"re v{self.version} {q}"))
        return out

    @rule(calls=st.integers(0, 20), resume=st.booleans())
    def run_some(self, calls, resume):
        try:
            result = self.lab.run(self.pipe(), max_calls=calls, max_concurrent=3, resume=resume)
        except BudgetExceededError:
            self.cut_off += 1
        except PipelineChangedError as exc:
            assert resume and exc.step == "again"
        except CheckpointError as exc:
            assert resume and "step_" in exc.path
        else:
            self.check(result)

    @rule()
    def edit(self):
        self.version += 1

    @rule(which=st.integers(0, 20), share=st.floats(0, 1))
    def damage(self, which, share):
        files = sorted(self.lab.ck.glob("step_*")) if self.lab.ck.exists() else []
        if files:
            path = files[which % len(files)]
            os.truncate(path, int(share * path.stat().st_size))

    @rule(step=st.sampled_from(["fan", "ask", "but", "again"]))
    def resume_from(self, step):
        try:
            self.check(self.lab.run(self.pipe(), resume_from=step))
        except (CheckpointError, PipelineChangedError) as exc:
            assert "Nothing has been asked" in str(exc) or "nothing" in str(exc)

    @rule()
    def resume(self):
        try:
            result = self.lab.run(self.pipe(), resume=True)
        except PipelineChangedError as exc:
            assert exc.step == "again"
        except CheckpointError as exc:
            assert "step_" in exc.path
            self.check(self.lab.run(self.pipe()))
        else:
            self.check(result)

    def check(self, result):
        rows = [(r["id"], r["k"], r["q"], r["a"]) for r in result]
        assert rows == self.want()
        lines = [json.loads(line) for line in self.lab.out.read_bytes().splitlines()]
        assert [(r["id"], r["k"], r["q"], r["a"]) for r in lines] == rows

    @invariant()
    def nothing_is_paid_twice(self):
        if hasattr(self, "asked"):
            most = {p: self.asked.count(p) for p in set(self.asked)}
            assert all(n <= self.outputs for n in most.values())

    def teardown(self):
        if hasattr(self, "temp"):
            dfn.memo.close()
            dfn.options.home = self.former_home
            self.temp.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=12, deadline=None)
