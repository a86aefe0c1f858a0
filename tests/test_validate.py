"""compile(): every problem at once, with step, place and nearest name; and fingerprints."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from datafast_nb import (
    ColumnNotFoundError,
    FakeModel,
    Filter,
    FlatMap,
    LLMStep,
    Map,
    Pipeline,
    PipelineValidationError,
    Sample,
    Seed,
    Sink,
    Source,
    Step,
)
from datafast_nb.validate import step_fingerprint

ROWS = [{"id": 1, "text": "a", "topic": "t"}]


def rows() -> Any:
    return Source.list(ROWS)


def ask(prompt: Any = "On {text}", column: Any = "q", **more: Any) -> LLMStep:
    return LLMStep(prompt, output_columns=column, **{"model": FakeModel(), **more})


def problems(pipeline: Pipeline) -> list[Any]:
    with pytest.raises(PipelineValidationError) as caught:
        pipeline.compile()
    return caught.value.problems


def columns(pipeline: Pipeline) -> tuple[str, ...]:
    return pipeline.compile().nodes[-1].columns.names


class Tagger(Step):
    inputs = ("content",)
    outputs = ("tag", "score")

    def __init__(self, **mappings: Any) -> None:
        for name, value in mappings.items():
            setattr(self, name, value)

    def process(self, records):
        for record in records:
            yield {**record, "tag": "t", "score": 1}


# Problems.


def test_every_problem_is_told_at_once_in_step_order():
    pipeline = Pipeline(
        [
            Source.list(ROWS),
            ask("On {txt}"),
            Source.list(ROWS),
            Sample(["a", "b"], n=1),
            Tagger(),
            ask("{q} {nope}", "text", model=None),
            Sink.jsonl("out.jsonl", columns=["id", "missing"]),
        ]
    )
    found = problems(pipeline)
    assert {(p.step, p.kind) for p in found} == {
        ("step_002_llmstep", "column"),
        ("step_003_source", "structure"),
        ("step_004_sample", "structure"),
        ("step_005_tagger", "column"),
        ("step_006_llmstep", "column"),
        ("step_006_llmstep", "model"),
        ("step_006_llmstep", "parameter"),
        ("step_007_sink", "column"),
    }


def test_the_message_numbers_the_problems_and_says_how_many():
    pipeline = rows() >> ask("{a}") >> ask("{b}", "z")
    with pytest.raises(PipelineValidationError) as caught:
        pipeline.compile()
    text = str(caught.value)
    assert text.startswith("the pipeline has 2 problems:\n1. step 'step_002_llmstep' reads column")
    assert "\n2. step 'step_003_llmstep' reads column 'b'" in text


def test_one_problem_is_its_own_message():
    with pytest.raises(ColumnNotFoundError) as caught:
        (rows() >> ask("On {txt}").as_step("make_questions")).compile()
    line = caught.value.problems[0].site.rpartition(" ")[2]
    assert str(caught.value) == (
        "step 'make_questions' reads column 'txt', which no earlier step provides.\n"
        "  Columns here: id, text, topic. Did you mean 'text'?\n"
        f"  Step written at: test_validate.py, line {line}"
    )


@pytest.mark.parametrize("act", ["compile", "run", "start", "run_one", "estimate", "preview"])
def test_whatever_would_run_refuses_first(act):
    model = FakeModel()
    ran = []
    pipeline = rows() >> Map(ran.append, outputs=["x"]) >> ask("{text} {nope}", model=model)
    # A function's columns are open: what is missing shows where no function comes before.
    pipeline = Pipeline([*pipeline.steps[:1], pipeline.steps[2], pipeline.steps[1]])
    with pytest.raises(ColumnNotFoundError):
        getattr(pipeline, act)()
    assert (model.calls, ran) == (0, [])


def test_a_pipeline_with_problems_can_be_shown():
    pipeline = rows() >> ask("On {txt}")
    shown = pipeline._repr_mimebundle_()
    assert "did you mean text?" in " ".join(shown["text/plain"].split())
    assert "step_002_llmstep" in pipeline.visualize()
    assert repr(pipeline) == "Pipeline(ListSource >> LLMStep)"


def test_only_missing_columns_are_a_column_error():
    assert type(error(rows() >> ask("{a}") >> ask("{b}", "z"))) is ColumnNotFoundError
    assert type(error(rows() >> ask("{a}") >> ask(model=None))) is PipelineValidationError
    assert type(error(rows() >> ask(model=None))) is PipelineValidationError


def error(pipeline: Pipeline) -> Exception:
    with pytest.raises(PipelineValidationError) as caught:
        pipeline.compile()
    return caught.value


@pytest.mark.parametrize(
    ("steps", "step", "message"),
    [
        (lambda: [ask()], "step_001_llmstep", "comes first, but a pipeline starts with a source"),
        (lambda: [Map(dict), ask()], "step_001_map", "starts with a source"),
        (lambda: [rows(), rows()], "step_002_source", "a source in the middle"),
        (lambda: [rows(), Seed.values("x", [1])], "step_002_seed", "a source in the middle"),
        (lambda: [rows(), Sample(["a"], n=1)], "step_002_sample", r"Sample\(n=…\)"),
        (lambda: [rows(), Step()], "step_002_step", r"no process\(records\)"),
        (lambda: [rows(), ask(model=None)], "step_002_llmstep", r"LocalModel\(\) or OpenAIModel"),
        (lambda: [rows(), ask(model=[])], "step_002_llmstep", "model is an empty list"),
        (lambda: [rows(), ask(model="gpt-4o")], "step_002_llmstep", "give a model such as"),
        (
            lambda: [Source.file("not there.jsonl"), ask()],
            "step_001_source",
            "cannot be read.*not there.jsonl",
        ),
    ],
)
def test_structure_and_models_are_checked(steps, step, message):
    found = problems(Pipeline(steps()))
    assert any(p.step == step and re.search(message, p.message) for p in found), found


def test_a_fragment_is_fine_once_it_has_a_source():
    fragment = Map(lambda r: r) >> ask()
    assert "starts with a source" in str(error(fragment))
    (rows() >> fragment).compile()
    assert "starts with a source" in str(error(fragment)), "the fragment itself is as it was"


def test_names_that_occur_twice_are_refused():
    pipeline = (
        rows() >> ask().as_step("ask") >> ask("{q}", "a").as_step("ask") >> Sink.list().as_step("x")
    )
    [problem] = problems(pipeline)
    assert problem.step == "ask"
    assert "step 1" in problem.message or "before it" in problem.message
    with pytest.raises(PipelineValidationError, match="has the name of step"):
        (rows() >> Map(dict).as_step("step_001_source")).compile()


@pytest.mark.parametrize("name", ["", "  ", None, 5])
def test_a_name_is_a_text(name):
    with pytest.raises(ValueError, match="a step's name is a non-empty string"):
        ask().as_step(name)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("txt", "text"), ("Text", "text"), ("topics", "topic"), ("idd", "id"), ("zzz", None)],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda c: ask("On {" + c + "}"),
        lambda c: ask("hi", system_prompt="As {" + c + "}"),
        lambda c: ask("hi", input_columns=[c]),
        lambda c: ask("hi", forward_columns=[c]),
        lambda c: ask("hi", exclude_columns=[c]),
        lambda c: ask(Sample(["hi", "On {" + c + "}"], n=1)),
        lambda c: Tagger(inputs=[c]),
        lambda c: Sink.jsonl("out.jsonl", columns=["id", c]),
        lambda c: Sink.csv("out.csv", columns=[c]),
        lambda c: Sink.parquet("out.parquet", columns=[c]),
    ],
    ids=["prompt", "system", "input", "forward", "exclude", "sampled", "own", "jsonl", "csv", "pq"],
)
def test_a_missing_column_is_named_with_those_that_exist_and_the_nearest(make, wrong, meant):
    [problem] = problems(rows() >> make(wrong))
    assert f"column {wrong!r}" in problem.message
    assert "Columns here: id, text, topic." in problem.message
    assert ("Did you mean" in problem.message) == (meant is not None)
    if meant:
        assert f"Did you mean {meant!r}?" in problem.message


def test_a_field_that_is_json_says_how_to_write_braces():
    [problem] = problems(rows() >> ask('Reply {"q": 1} on {text}'))
    assert "'{{' and '}}'" in problem.message
    [problem] = problems(rows() >> Map(lambda r: r) >> ask('Reply {"q": 1} on {text}'))
    assert "'{{' and '}}'" in problem.message, "also where columns are open"


# Columns.


def test_columns_are_known_from_the_source_on(tmp_path):
    assert columns(rows() >> Filter(lambda r: True) >> Sample(n=1)) == ("id", "text", "topic")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert columns(Source.file(tmp_path / "a.csv") >> Sink.list()) == ("a", "b")
    assert columns(Seed.values("x", [1]) >> Sink.list()) == ("x",)
    uneven = Source.list([{"a": 1}, {"b": 2}])
    assert columns(uneven >> ask("{b}")) == ("a", "b", "q", "_model")


@pytest.mark.parametrize("make", [Map, FlatMap])
def test_a_function_opens_the_columns_and_outputs_keep_them_closed(make):
    opened = rows() >> make(lambda r: r) >> ask("{text} {anything}")
    assert opened.compile().nodes[-1].columns.is_open
    closed = rows() >> make(lambda r: r, outputs=["size"])
    assert columns(closed) == ("id", "text", "topic", "size")
    (closed >> ask("{text} {size}")).compile()
    [problem] = problems(closed >> ask("{sise}"))
    assert "Columns here: id, text, topic, size. Did you mean 'size'?" in problem.message


def test_an_empty_source_says_nothing_of_its_columns():
    (Source.list([]) >> ask("{whatever}")).compile()


def test_llm_steps_add_and_drop_columns():
    two = LLMStep(["a {text}", "b"], output_columns=["q", "a"], model=FakeModel(), num_outputs=2)
    assert columns(rows() >> two) == (
        "id", "text", "topic", "q", "a", "_model", "_prompt_index", "_output_index",
    )  # fmt: skip
    one = rows() >> two >> ask("{q}", "z", exclude_columns=["text"])
    assert columns(one) == ("id", "topic", "q", "a", "z", "_model")
    assert columns(one >> ask("{z}", "y", forward_columns=["z", "id"])) == (
        "id",
        "z",
        "y",
        "_model",
    )
    assert "Columns here: id, z, y" in str(
        error(one >> ask("{z}", "y", forward_columns=["z", "id"]) >> ask("{topic}"))
    )


def test_columns_after_open_and_chosen_ones_are_what_was_chosen():
    opened = rows() >> Map(lambda r: {**r, "size": 1})
    after = opened >> ask("{size}", forward_columns=["size", "id"])
    assert set(columns(after)) == {"id", "size", "q", "_model"}
    (after >> ask("{size} {id} {q}", "z")).compile()
    assert "reads column 'text'" in str(error(after >> ask("{text}", "z")))


def test_own_steps_say_what_they_read_and_add():
    assert "reads column 'content'" in str(error(rows() >> Tagger()))
    mapped = rows() >> Tagger(input_mappings={"text": "content"}, output_mappings={"tag": "label"})
    assert columns(mapped) == ("id", "text", "topic", "label", "score")
    (mapped >> ask("{label} {score}")).compile()
    assert "Columns here: id, text, topic, label, score" in str(error(mapped >> ask("{tag}")))
    opened = rows() >> Tagger(inputs=None, outputs=None)
    (opened >> ask("{whatever}")).compile()


def test_a_mapped_input_that_is_missing_is_named_as_it_is_here():
    wrong = Tagger(input_mappings={"txt": "content"})
    [problem] = problems(rows() >> wrong)
    assert "reads column 'txt'" in problem.message
    assert "Did you mean 'text'?" in problem.message


# Warnings and notes.


def warnings_of(pipeline: Pipeline) -> str:
    return "\n".join(pipeline.compile().warnings)


def test_several_outputs_at_temperature_0_are_a_trap():
    said = warnings_of(rows() >> ask(num_outputs=3, temperature=0).as_step("ask"))
    assert "step 'ask' asks for num_outputs=3 at temperature 0" in said
    assert "temperature 0" in warnings_of(rows() >> ask(num_outputs=2, temperature=[0.0, 1]))
    for fine in (ask(num_outputs=3), ask(temperature=0), ask(num_outputs=2, temperature=None)):
        assert warnings_of(rows() >> fine) == ""


def test_looping_over_an_llm_text_is_a_trap():
    loop = FlatMap(lambda r: [{"q": q} for q in r["q"]])
    said = warnings_of(rows() >> ask() >> loop.as_step("split"))
    assert "step 'split' reads 'q'" in said and "list[str]" in said
    assert warnings_of(rows() >> ask(column={"q": list[str]}) >> loop) == ""
    assert warnings_of(rows() >> ask(column="other") >> loop) == ""
    assert warnings_of(rows() >> ask() >> Map(lambda r: {"n": len(r["q"])})) == ""


def test_a_trap_does_not_keep_from_running():
    result = (rows() >> ask(num_outputs=2, temperature=0)).run()
    assert len({r["q"] for r in result}) == 1 and len(result) == 2


def test_a_missing_sink_is_a_note_and_no_warning():
    compiled = (rows() >> ask()).compile()
    assert compiled.warnings == ()
    assert any("no sink" in note for note in compiled.notes)
    assert (rows() >> Sink.list()).compile().notes == ()
    assert "no sink" not in (rows() >> ask())._repr_mimebundle_()["text/plain"]


# Steps of a compiled pipeline.


def test_steps_are_found_by_name_and_number():
    compiled = (rows() >> ask().as_step("ask") >> Sink.list()).compile()
    assert compiled.names == ["step_001_source", "ask", "step_003_sink"]
    assert [compiled.index(s) for s in ("ask", 1, -1, -3)] == [1, 1, 2, 0]
    with pytest.raises(KeyError, match=r"no step 'aks'.*Did you mean 'ask'"):
        compiled.index("aks")
    for wrong in (3, -4):
        with pytest.raises(IndexError, match="numbered 0 to 2"):
            compiled.index(wrong)


# Where a step was written.


def test_the_place_is_the_file_and_line_of_the_step():
    def made_in_a_function() -> Any:
        return LLMStep("{nope}", output_columns=["x"], model=FakeModel())

    line = sys._getframe().f_lineno
    pipeline = (
        rows()
        >> LLMStep("{a}", output_columns=["q"], model=FakeModel())
        >> made_in_a_function()
        >> LLMStep(
            "{b}",
            output_columns=["z"],
            model=FakeModel(),
        )
    )
    assert [p.site for p in problems(pipeline)] == [
        f"test_validate.py, line {line + 3}",
        f"test_validate.py, line {line - 2}",
        f"test_validate.py, line {line + 5}",
    ]


def test_the_place_of_a_named_copy_is_where_the_step_was_written():
    step = LLMStep("{nope}", output_columns=["x"], model=FakeModel())
    line = sys._getframe().f_lineno - 1

    named = step.as_step("named")
    assert problems(rows() >> named)[0].site == f"test_validate.py, line {line}"


@pytest.fixture
def shell() -> Iterator[Any]:
    """A real shell of IPython in this process."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    hooks = (sys.displayhook, sys.excepthook, list(sys.path), sys.modules.get("__main__"))
    made = InteractiveShell.instance(config=config)
    made.run_cell("import datafast_nb as dfn\nrows = [{'text': 'a'}]", store_history=True)
    yield made
    InteractiveShell.clear_instance()
    sys.displayhook, sys.excepthook, sys.path[:], main = hooks
    sys.modules["__main__"] = main


def run_cell(shell: Any, text: str) -> Any:
    done = shell.run_cell(textwrap.dedent(text).strip(), store_history=True, silent=False)
    if done.error_before_exec or done.error_in_exec:
        return done.error_before_exec or done.error_in_exec
    return done.result


def test_in_a_notebook_the_place_is_cell_and_line(shell, capsys):
    made = run_cell(
        shell,
        """
        model = dfn.FakeModel()
        source = dfn.Source.list(rows)
        questions = source >> dfn.LLMStep(
            "On {txt}", output_columns=["q"], model=model)
        """,
    )
    assert made is None
    run_cell(shell, '\n\nanswers = questions >> dfn.LLMStep("{x}", output_columns=["a"])')
    run_cell(shell, "count = 1")
    failed = run_cell(shell, "answers.compile()")
    assert [p.site for p in failed.problems] == [
        "cell 2, line 3",
        "cell 3, line 1",
        "cell 3, line 1",
    ]
    assert "Step written at: cell 2, line 3" in str(failed)
    capsys.readouterr()


def test_in_a_notebook_a_cell_that_runs_again_is_named_by_its_last_number(shell, capsys):
    cell = 'p = dfn.Source.list(rows) >> dfn.LLMStep("{x}", output_columns=["a"], model=dfn.FakeModel())'
    for number in (2, 3):
        run_cell(shell, cell)
        failed = run_cell(shell, "p.compile()") if number == 3 else None
    assert failed.problems[0].site == "cell 3, line 1"
    capsys.readouterr()


def test_in_a_notebook_a_step_made_by_a_function_is_placed_where_the_function_stands(shell, capsys):
    run_cell(
        shell,
        """
        def make(prompt):
            return dfn.LLMStep(prompt, output_columns=["a"], model=dfn.FakeModel())
        """,
    )
    run_cell(shell, "other = 1")
    run_cell(shell, 'pipeline = dfn.Source.list(rows) >> make("{x}")')
    failed = run_cell(shell, "pipeline.compile()")
    assert failed.problems[0].site == "cell 2, line 2"
    capsys.readouterr()


def test_in_a_notebook_a_step_of_a_module_is_placed_in_its_file(shell, capsys, tmp_path):
    (tmp_path / "my_steps.py").write_text(
        "import datafast_nb as dfn\n\n"
        'STEP = dfn.LLMStep("{x}", output_columns=["a"], model=dfn.FakeModel())\n'
    )
    run_cell(shell, f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import my_steps")
    failed = run_cell(shell, "(dfn.Source.list(rows) >> my_steps.STEP).compile()")
    assert failed.problems[0].site == "my_steps.py, line 3"
    capsys.readouterr()
    sys.modules.pop("my_steps")


# Fingerprints.

SCRIPT = '''
import sys
from datafast_nb import *
from datafast_nb.validate import step_fingerprint
from pydantic import BaseModel

WORDS = ["a", "b"]
LIMIT = 3
TABLE = {"x": 1, "y": [2, 3]}

class Answer(BaseModel):
    title: str
    tags: set[str] = {"a", "b", "c"}

def helper(text):
    return text in {"alpha", "beta", "gamma", "delta"} or len(text) > LIMIT

def make(threshold, names):
    def inner(record, *, scale=2.5, default={"p", "q", "r"}):
        """Words."""
        parts = [w for w in record["text"].split() if w in {"one", "two", "three", 4, None}]
        return {**record, "n": len(parts) * scale + threshold, "w": WORDS, "h": helper("x"),
                "names": sorted(names), "more": (lambda r: r in {"u", "v", "w"})(TABLE)}
    return inner

class Own(Step):
    def __init__(self):
        self.words = {"x", "y", "z"}
        self.fn = lambda r: r["text"] in {"i", "j", "k"}
    def process(self, records):
        return [r for r in records if r["text"] in self.words]

model = FakeModel()
steps = [
    Map(lambda r: {**r, "k": r["text"] in {"alpha", "beta", "gamma"}}),
    Map(make(1, {"m", "n", "o", "p"})),
    FlatMap(make(2, frozenset({"m", "n", "o"}))),
    Filter(helper, keep=False),
    Own(),
    Sample(n=3),
    Seed.values("x", ["a", "b"]),
    Seed.product(Seed.values("x", ["a", "b"]), Seed.values("y", [1, 2])),
    LLMStep("On {text}", output_columns={"tags": list[str], "n": int}, model=model),
    LLMStep(["On {text}", "Of"], output_columns=Answer, model=[model, FakeModel(name="b")],
            language={"en": "English", "fr": "French"}, skip_if=helper, extra={"b": 1, "a": 2}),
    LLMStep(Sample(["a", "b"], n=1), output_columns=["q"], model=OpenAIModel("gpt-4o-mini")),
    Sink.jsonl("out.jsonl", columns=["a"]),
    Sink.list(),
]
pipeline = Pipeline([Seed.values("text", ["a", "b"]), *steps[:6], *steps[8:9]])
print(pipeline.hash(), *[step_fingerprint(s) for s in steps])
'''


def run_script(text: str, folder: Path, seed: str = "0") -> list[str]:
    path = folder / "steps.py"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_fingerprints_are_the_same_in_every_process(tmp_path):
    found = [run_script(SCRIPT, tmp_path, seed) for seed in "0123"]
    assert found[1:] == found[:1] * 3
    assert len(set(found[0])) == len(found[0])


def test_an_edited_source_has_another_hash_in_another_process(tmp_path):
    script = """
from datafast_nb import *
print((Source.list([{"text": %r}]) >> Map(dict)).hash())
"""
    assert run_script(script % "a", tmp_path) != run_script(script % "b", tmp_path)


def test_a_cell_that_runs_again_gives_the_same_hash():
    def cell(text: str = "a") -> Any:
        return Source.list([{"text": text}]) >> Map(dict) >> ask()

    assert cell().hash() == cell().hash()
    assert cell().hash() != cell("b").hash()


LIMIT = 3
OTHER = 3


def uses_global(record: Any) -> Any:
    return len(record["text"]) > LIMIT


def closing_over(value: Any) -> Any:
    return lambda r: value


def fingerprint(fn: Any) -> str:
    return step_fingerprint(Map(fn))


def with_globals(**names: Any) -> Any:
    """A function that reads the globals A and f."""
    space: dict[str, Any] = {}
    exec("def fn(record):\n    return (A, f(record))", space)
    space.update({"A": 1, "f": len, **names})
    return space["fn"]


def exec_function(text: str) -> Any:
    space: dict[str, Any] = {}
    exec(text, space)
    return space["fn"]


CODES = [
    "def fn(r):\n    return {**r, 'a': 1}",
    "def fn(r):\n    return {**r, 'a': 2}",
    "def fn(r):\n    return {**r, 'a': 1.0}",
    "def fn(r):\n    return {**r, 'a': True}",
    "def fn(r):\n    return {**r, 'a': '1'}",
    "def fn(r):\n    return {**r, 'b': 1}",
    "def fn(r):\n    return {**r, 'a': r.get(1)}",
    "def fn(r):\n    return {**r, 'a': r.pop(1)}",
    "def fn(r):\n    return {**r, 'a': 1 in {1, 2}}",
    "def fn(r):\n    return {**r, 'a': 1 in {1, 3}}",
    "def fn(r, n=1):\n    return n",
    "def fn(r, n=2):\n    return n",
    "def fn(r, *, n=1):\n    return n",
    "def fn(r, *, n=2):\n    return n",
    "def fn(r, n=('a', 1)):\n    return n",
    "def fn(r, n=('a', 2)):\n    return n",
    "def fn(r):\n    return [x + 1 for x in r]",
    "def fn(r):\n    return [x + 2 for x in r]",
    "def fn(r):\n    return (lambda s: (lambda t: 1))",
    "def fn(r):\n    return (lambda s: (lambda t: 2))",
    "def fn(r):\n    return -1 < r < 1",
    "def fn(r):\n    return -1 <= r < 1",
]


def test_another_code_or_default_is_another_fingerprint():
    prints = [fingerprint(exec_function(text)) for text in CODES]
    assert len(set(prints)) == len(CODES)
    assert prints == [fingerprint(exec_function(text)) for text in CODES]


def test_the_name_place_and_use_of_a_function_do_not_matter():
    def one(record):
        return {**record, "n": len(record["text"]) + 1}

    def two(record):

        # Somewhere else, under another name.
        return {**record, "n": len(record["text"]) + 1}

    before = fingerprint(one)
    for _ in range(200):  # enough for the interpreter to adapt the code
        one({"text": "a"})
    assert fingerprint(one) == before == fingerprint(two)


CLOSED = [
    None, 0, 1, 1.5, True, "a", "b", ["a"], ["b"], {"a": 1}, {"a": 2}, {"p"}, {"q"},
    [["a", {"b": [1]}]], [["a", {"b": [2]}]], list(range(2000)), [*range(1999), 0],
    {str(i): i for i in range(2000)}, {str(i): -i for i in range(2000)}, {*range(3000)},
    {*range(1, 3001)}, len, str, exec_function(CODES[0]), exec_function(CODES[1]),
    closing_over(1), closing_over(2),
]  # fmt: skip


def test_what_a_function_closes_over_counts():
    prints = [fingerprint(closing_over(value)) for value in CLOSED]
    assert [CLOSED[i] for i, p in enumerate(prints) if p in prints[:i]] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 2),
        ("a", "b"),
        (None, 0),
        (1.5, 2.5),
        ([1], [2]),
        ((1, "a"), (1, "b")),
        ({"a": [1]}, {"a": [2]}),
        ({"a", "b"}, {"a", "c"}),
        (frozenset({1}), frozenset({2})),
        (b"a", b"b"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_plain_globals_that_a_function_reads_count(before, after):
    assert fingerprint(with_globals(A=before)) == fingerprint(with_globals(A=before))
    assert fingerprint(with_globals(A=before)) != fingerprint(with_globals(A=after))


def test_functions_that_a_function_calls_count_and_others_do_not():
    first, second = exec_function(CODES[0]), exec_function(CODES[1])
    assert fingerprint(with_globals(f=first)) != fingerprint(with_globals(f=second))
    deep = with_globals(f=with_globals(f=first))
    assert fingerprint(deep) != fingerprint(with_globals(f=with_globals(f=second)))
    assert fingerprint(with_globals(unused=1)) == fingerprint(with_globals(unused=2))


def test_globals_are_those_of_the_moment(monkeypatch):
    before = fingerprint(uses_global)
    monkeypatch.setitem(globals(), "OTHER", 4)
    assert fingerprint(uses_global) == before
    monkeypatch.setitem(globals(), "LIMIT", 4)
    assert fingerprint(uses_global) != before


def test_functions_that_call_themselves_or_each_other_have_fingerprints():
    space: dict[str, Any] = {}
    names = [f"f{i}" for i in range(7)]
    for name in names:
        calls = " + ".join(f"{other}(r)" for other in names)
        exec(f"def {name}(r):\n    return {calls}", space)

    def inner(record):
        return inner(record)

    started = time.process_time()
    assert fingerprint(space["f0"]) == fingerprint(space["f0"])
    assert time.process_time() - started < 1, "displays compile each time"
    assert fingerprint(inner) == fingerprint(inner)


@dataclasses.dataclass
class Settings:
    size: int
    lock: Any = dataclasses.field(default_factory=threading.Lock)


@dataclasses.dataclass
class Plain:
    size: int


def test_dataclasses_count_by_their_fields_also_those_that_cannot_be_copied():
    assert fingerprint(closing_over(Plain(1))) != fingerprint(closing_over(Plain(2)))
    assert fingerprint(closing_over(Settings(1))) == fingerprint(closing_over(Settings(1)))
    assert fingerprint(closing_over(Settings(1))) != fingerprint(closing_over(Settings(2)))


class Opaque:
    pass


def test_other_things_count_by_their_type_alone():
    assert fingerprint(closing_over(Opaque())) == fingerprint(closing_over(Opaque()))
    assert fingerprint(closing_over(Opaque())) != fingerprint(closing_over(object()))


class Answer(BaseModel):
    title: str


def test_an_edited_output_model_is_another_fingerprint():
    models = [
        create_model("Answer", title=(str, ...)),
        create_model("Answer", title=(str, ...), score=(int, ...)),
        create_model("Answer", title=(int, ...)),
    ]
    prints = [step_fingerprint(ask(column=m)) for m in models]
    assert len(set(prints)) == 3


def own_step(body: str) -> Step:
    space: dict[str, Any] = {"Step": Step}
    exec(f"class Own(Step):\n    def process(self, records):\n        {body}", space)
    made: Step = space["Own"]()
    return made


def test_an_edited_process_of_an_own_step_is_another_fingerprint():
    same = [step_fingerprint(own_step("return [dict(r, a=1) for r in records]")) for _ in "12"]
    assert len(set(same)) == 1
    assert step_fingerprint(own_step("return [dict(r, a=2) for r in records]")) != same[0]


def test_settings_of_an_own_step_count():
    assert step_fingerprint(Tagger(size=1)) == step_fingerprint(Tagger(size=1))
    assert step_fingerprint(Tagger(size=1)) != step_fingerprint(Tagger(size=2))


def test_a_changed_step_changes_the_fingerprints_from_there_on():
    source, first, last = rows(), Map(lambda r: r), Sink.list()

    def prints(*steps: Step) -> list[str]:
        return [n.fingerprint for n in Pipeline([source, *steps]).compile().nodes]

    one = prints(first, ask(), last)
    two = prints(first, ask("Of {text}"), last)
    assert [a == b for a, b in zip(one, two, strict=True)] == [True, True, False, False]
    named = prints(first.as_step("a"), ask(on_error="raise", max_retries=0).as_step("b"), last)
    assert named == one
    assert prints(ask(), first, last)[1:] != one[1:]


def test_a_result_of_many_records_counts_by_its_records():
    many = Source.list([{"n": i} for i in range(1200)])
    result = (many >> Filter(lambda r: r["n"] != 5)).run()
    other = (many >> Filter(lambda r: r["n"] != 6)).run()
    assert (result >> Map(dict)).hash() == (result >> Map(dict)).hash()
    assert (result >> Map(dict)).hash() != (other >> Map(dict)).hash()
    assert (result[:5] >> Map(dict)).hash() != (result[5:10] >> Map(dict)).hash()


def test_a_changed_file_is_another_hash(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    pipeline = Source.file(path) >> ask()
    before = pipeline.hash()
    assert pipeline.hash() == before
    path.write_text('{"text": "bb"}\n')
    assert pipeline.hash() != before
