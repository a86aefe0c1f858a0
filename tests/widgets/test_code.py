"""`to_code()`: Python that builds the same pipeline."""

from __future__ import annotations

import ast
import itertools
import linecache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

import datafast_nb as dfn
from datafast_nb.pipeline import Pipeline
from datafast_nb.records import Record

_NUMBERS = itertools.count()
RECORDS = [{"id": 1, "text": "a 'quoted'\n\"text\" \\ {x}", "tags": ["ä", None, 2.5]}, {"id": 2}]


def shorten(record: Record) -> Record:
    return {**record, "text": str(record.get("text"))[:10]}


def is_long(record: Record) -> bool:
    return len(str(record.get("text"))) > 3


class Doubled(dfn.Step):
    def __init__(self, times: int = 2) -> None:
        self.times = times

    def process(self, records: Any) -> Any:
        return [r for r in records for _ in range(self.times)]


def built(code: str, **names: Any) -> Pipeline:
    space: dict[str, Any] = dict(names)
    file = f"<code {next(_NUMBERS)}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec"), space)  # as a cell: its source can be looked up
    made: Pipeline = space["pipeline"]
    return made


def ask(**settings: Any) -> dfn.LLMStep:
    given: dict[str, Any] = {
        "prompt": "Ask about {text}", "output_columns": ["q"], "model": dfn.FakeModel()
    }  # fmt: skip
    return dfn.LLMStep(**{**given, **settings})


source = dfn.Source.list(RECORDS)
PIPELINES: dict[str, Any] = {
    "list": Pipeline([source]),
    "empty list": Pipeline([dfn.Source.list([])]),
    "named": source.as_step("docs") >> ask().as_step("ask 'it'"),
    "lambdas": source
    >> dfn.Map(lambda r: {**r, "n": len(str(r)), "s": "x) , ("}, outputs=["n"])
    >> dfn.Filter(lambda r: r["n"] > 3, keep=False)
    >> dfn.FlatMap(lambda r: [r, r]),
    "functions": source >> dfn.Map(shorten) >> dfn.Filter(is_long),
    "own step": source >> Doubled(3),
    "sample": source >> dfn.Sample(n=1, seed=4, strategy="systematic"),
    "seeds": dfn.Seed.product(
        dfn.Seed.values("topic", ["a", "b"]),
        dfn.Seed.range("level", 3, 9, 2),
        dfn.Seed.expand("field", "part", {"P": ["q", "o"], "B": []}),
    )
    >> ask(prompt="{topic}"),
    "seed zip": Pipeline([dfn.Seed.zip(dfn.Seed.values("a", [1]), dfn.Seed.range("b", 5, 5, -1))]),
    "prompts": source
    >> ask(
        prompt=["Line one\nline two {text}\n", "other {{braces}} {text}"],
        temperature=[0, 0.5], num_outputs=2, language={"de": "German", "fr": "French"},
        system_prompt="You\tare", max_tokens=None, top_p=0.5, on_error="retry", max_retries=1,
        forward_columns=["id"], extra={"seed": 3}, resample=1,
        examples=[{"text": "x", "q": "y", "language": "de"}],
    ),
    "types": source
    >> ask(output_columns={"n": int, "labels": list[str], "kind": Literal["a", "b"], "m": int | None}),
    "sampled": source >> ask(prompt=dfn.Sample(["{text} a", "{text} b"], n=1)),
    "skip": source >> ask(skip_if=lambda r: not r.get("text")),
    "models": source
    >> ask(
        model=[
            dfn.OpenAIModel("gpt-4.1-nano", max_in_flight=3, cache_id="mine"),
            dfn.OpenAICompatibleModel("llama", "http://127.0.0.1:9/v1"),
            dfn.AnthropicModel("claude-haiku-4-5"),
            dfn.OllamaModel("llama3.2", num_ctx=4096),
            dfn.FakeModel(["a", {"q": 1}], name="f", price=(1.0, 2.0)),
        ]
    ),
    "sinks": source
    >> dfn.Sink.list()
    >> dfn.Sink.jsonl("out.jsonl", append=True, columns=["id"])
    >> dfn.Sink.csv("out.csv", escape_formulas=True, delimiter=";")
    >> dfn.Sink.parquet("out.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_what_the_code_builds_is_the_same_pipeline(name: str) -> None:
    pipeline = PIPELINES[name]
    code = pipeline.to_code()
    names = {"shorten": shorten, "is_long": is_long, "Doubled": Doubled}
    again = built(code, **names)
    assert [type(s) for s in again.steps] == [type(s) for s in pipeline.steps]
    assert [s.name for s in again.steps] == [s.name for s in pipeline.steps]
    assert again.hash() == pipeline.hash(), code
    assert again.to_code() == code
    for asked, before in zip(again.steps, pipeline.steps, strict=True):
        if isinstance(before, dfn.LLMStep):
            assert isinstance(asked, dfn.LLMStep)
            assert asked.on_error == before.on_error
            assert [m.identity() for m in asked.models] == [m.identity() for m in before.models]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("a;b\n1;2\n")
    for source in (
        dfn.Source.file(path, "csv", sep=";", dtype=str),
        dfn.Source.file(path, text_column="line"),
        dfn.Source.file(str(path)),
    ):
        pipeline = Pipeline([source])
        assert built(pipeline.to_code()).hash() == pipeline.hash()


def test_what_has_no_text_is_said_in_a_comment_and_named() -> None:
    frame = pd.DataFrame({"a": range(3)})
    pipeline = dfn.Source.dataframe(frame) >> dfn.Map(eval("lambda r: r"))
    code = pipeline.to_code()
    assert "# frame: the DataFrame, DataFrame, 3 rows" in code
    assert "# function: a lambda whose source is gone" in code
    ast.parse(code)
    again = built(code, frame=frame, function=pipeline.steps[1].fn)
    assert again.hash() == pipeline.hash()
    many = Pipeline([dfn.Source.list([{"a": i} for i in range(1_000)])])
    assert "# records: 1,000 records that were in memory" in many.to_code()


def test_names_of_a_closure_are_said() -> None:
    least = 7
    pipeline = dfn.Source.list([{"a": 1}]) >> dfn.Filter(lambda r: r["a"] > least)
    assert "# least: used by a lambda" in pipeline.to_code()


def test_no_key_gets_into_the_code() -> None:
    key = "sk-planted-0123456789abcdef0123456789"
    model = dfn.OpenAIModel("gpt-4.1-nano", api_key=key, headers={"X-Key": key})
    pipeline = dfn.Source.list([{"text": "x"}]) >> ask(model=model)
    code = pipeline.to_code()
    assert key not in code and "planted" not in code
    assert "headers" in code


def test_a_pipeline_behind_a_result_is_written_from_its_source() -> None:
    result = (dfn.Source.list([{"a": 1}]) >> dfn.Map(lambda r: {**r, "b": 2})).run()
    pipeline = result >> dfn.Map(lambda r: {**r, "c": 3})
    again = built(pipeline.to_code())
    assert list(again.run()) == list(pipeline.run())
