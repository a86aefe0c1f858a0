"""What the specification promises, section by section, by its own examples."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
import spec_examples
from pydantic import BaseModel, create_model

import datafast_nb as dfn
from datafast_nb import (
    ColumnNotFoundError,
    DatafastError,
    FakeModel,
    Filter,
    FlatMap,
    LLMError,
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
from datafast_nb.models.base import Request

Record = dict[str, Any]

DOCUMENTS: list[Record] = [
    {"id": f"doc_{i:03d}", "text": f"Document {i}. " + "A sentence. " * (i % 20)}
    for i in range(150)
]


def answering(name: str) -> FakeModel:
    """A model whose answer tells model, column and prompt."""

    def answer(request: Request) -> Any:
        prompt = request.messages[-1]["content"]
        if request.schema is None:
            return f"{name} on {prompt}"
        return {column: f"{name}'s {column} on {prompt}" for column in request.schema["properties"]}

    return FakeModel(answer, name=name, provider="openai")


class _Source(Source):
    """Source with the documents in place of the hub."""

    @staticmethod
    def huggingface(dataset_name: str) -> Any:
        return Source.list(DOCUMENTS)


class SomeStep(Step):
    def process(self, records):
        for record in records:
            yield {**record, "seen": True}


@pytest.fixture
def names() -> dict[str, Any]:
    """Everything that the examples name."""
    return {
        **{name: getattr(dfn, name) for name in dfn.__all__},
        "Source": _Source,
        "SomeStep": SomeStep,
        "uuid4": uuid4,
        "gpt4": answering("gpt-4o"),
        "claude": answering("claude-sonnet"),
        "gemini": answering("gemini-flash"),
        "documents": DOCUMENTS[:3],
        "data": [{"id": 1}, {"id": 2}],
        "personas": [f"persona {i}" for i in range(10)],
        "large_topic_hierarchy": {
            f"domain {d}": [f"topic {d}.{t}" for t in range(20)] for d in range(6)
        },
        "all_prompts": [f"Prompt {i}: {{text}}" for i in range(12)],
        **{f"prompt{i}": f"Way {i} to ask about {{text}}" for i in range(1, 6)},
    }


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples write relative paths."""
    monkeypatch.chdir(tmp_path)


def three() -> Any:
    return Source.list(DOCUMENTS[:3])


def read_jsonl(path: str) -> list[Record]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# 3. Core concepts.


def test_3_2_a_record_passes_as_it_is(names):
    space, _ = spec_examples.run("3.2 a record", names)
    record = space["record"]
    assert list((Source.list([record]) >> Sink.list()).run()) == [record]


def test_3_3_a_pipeline_is_built_lazily_and_runs_in_order():
    order: list[str] = []

    def noting(name: str):
        return lambda r: order.append(name) or {**r, name: len(order)}

    pipeline = three() >> Map(noting("one")) >> Map(noting("two")) >> Sink.list()
    assert order == []
    pipeline.run()
    assert order == ["one"] * 3 + ["two"] * 3, "each step sees all records of the one before"


# 4. Sample.


def test_4_2_value_list_sample_and_pick_as_llm_parameters(names):
    prompts = ["A {text}", "B {text}", "C {text}"]

    def n_outputs(prompt: Any) -> int:
        step = LLMStep(prompt=prompt, output_columns=["out"], model=names["gpt4"])
        return len((Source.list(DOCUMENTS[:10]) >> step).run())

    assert n_outputs("A {text}") == 10
    assert n_outputs(prompts) == 30
    assert n_outputs(Sample(prompts, n=2)) == 20
    assert n_outputs(Sample(prompts, n=2).pick()) == 20


def test_4_3_sample_iterates_counts_and_picks_from_its_items():
    sample = Sample(["a", "b", "c", "d"], n=2, seed=1)
    assert (list(sample), len(sample)) == (["a", "b", "c", "d"], 4)
    picked = sample.pick()
    assert type(picked) is list and len(picked) == 2 and set(picked) < set("abcd")
    assert sample.pick() == picked, "the same seed picks the same"
    assert len(sample.pick(3)) == 3
    assert len({tuple(Sample(range(50), n=5, seed=s).pick()) for s in range(5)}) > 1


@pytest.mark.parametrize(
    ("sample", "ids"),
    [
        (Sample(n=100, strategy="first"), range(100)),
        (Sample(n=100, strategy="last"), range(50, 150)),
        (Sample(strategy="systematic", step=10), range(0, 150, 10)),
        (Sample(frac=0.1, strategy="first"), range(15)),
        (Sample(n=1000), range(150)),
    ],
    ids=["first", "last", "systematic", "frac", "more than there are"],
)
def test_4_4_strategies_for_records(sample, ids):
    result = (Source.list(DOCUMENTS) >> sample).run()
    assert [r["id"] for r in result] == [f"doc_{i:03d}" for i in ids]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (Sample(["a", "b", "c", "d"], n=3, strategy="first"), ["a", "b", "c"]),
        (Sample(["a", "b", "c"], n=1, strategy="weighted", by=[0, 0, 1]), ["c"]),
    ],
)
def test_4_4_strategies_for_items(sample, expected):
    assert sample.pick() == expected


def test_4_5_a_sample_of_records(names):
    _, pipelines = spec_examples.run("4.5 a step of records", names)
    uniform, tenth, first = (p.run() for p in pipelines)
    assert (len(uniform), len(tenth), len(first)) == (100, 15, 50)
    ids = [r["id"] for r in uniform]
    assert ids == sorted(set(ids)), "no record twice, in their order"
    assert ids != [r["id"] for r in DOCUMENTS[:100]], "not the first ones"
    assert list(pipelines[0].run()) == list(uniform)
    assert list(first) == DOCUMENTS[:50]


def test_4_5_sampled_parameters(names):
    out = {"output_columns": ["out"]}
    prompt = {"prompt": "On {text}"}
    model = {"model": names["gpt4"]}
    rest = [{**out, **model}, {**out, **model}, {**out, **prompt}, {**out, **model}]
    space, steps = spec_examples.run("4.5 in parameters", names, rest)
    all_of_them, two, weighted, upfront = ((Source.list(DOCUMENTS) >> step).run() for step in steps)

    assert [r["_prompt_index"] for r in all_of_them] == [0, 1, 2] * 150

    pairs = [(two[i]["_prompt_index"], two[i + 1]["_prompt_index"]) for i in range(0, len(two), 2)]
    assert [r["id"] for r in two] == [d["id"] for d in DOCUMENTS for _ in range(2)]
    assert all(a != b for a, b in pairs)
    # These prompts have no fields, so the records differ by their rank among equals alone.
    assert len(set(pairs)) == 3, "chosen per record"

    assert len(weighted) == 150
    count = Counter(r["_model"] for r in weighted)
    assert count["gpt-4o"] > count["claude-sonnet"] > count["gemini-flash"] > 0

    assert len(space["selected_prompts"]) == 5
    assert set(space["selected_prompts"]) < set(names["all_prompts"])
    assert [r["_prompt_index"] for r in upfront] == [0, 1, 2, 3, 4] * 150


# 5. Seeds.


def test_5_2_dimensions():
    def records(seed: Any) -> list[Record]:
        return list(Pipeline([seed]).run())

    assert records(Seed.values("language", ["en", "fr", "de"])) == [
        {"language": "en"},
        {"language": "fr"},
        {"language": "de"},
    ]
    topics = {"Physics": ["Quantum", "Relativity"], "Biology": ["Genetics", "Evolution"]}
    assert records(Seed.expand("topic", "subtopic", topics)) == [
        {"topic": "Physics", "subtopic": "Quantum"},
        {"topic": "Physics", "subtopic": "Relativity"},
        {"topic": "Biology", "subtopic": "Genetics"},
        {"topic": "Biology", "subtopic": "Evolution"},
    ]
    grades = [r["grade_level"] for r in records(Seed.range("grade_level", 1, 12))]
    assert grades == list(range(1, 13)), "12 records with grade_level 1 through 12"


def test_5_2_product_and_zip():
    made = Pipeline(
        [
            Seed.product(
                Seed.values("persona", ["student", "teacher"]),
                Seed.values("language", ["en", "fr"]),
            )
        ]
    ).run()
    assert [(r["persona"], r["language"]) for r in made] == [
        ("student", "en"),
        ("student", "fr"),
        ("teacher", "en"),
        ("teacher", "fr"),
    ]
    zipped = Pipeline(
        [
            Seed.zip(
                Seed.values("question", ["Q1", "Q2", "Q3"]),
                Seed.values("answer", ["A1", "A2", "A3"]),
            )
        ]
    ).run()
    assert [(r["question"], r["answer"]) for r in zipped] == [
        ("Q1", "A1"),
        ("Q2", "A2"),
        ("Q3", "A3"),
    ]


def test_5_4_zip_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match=r"question|answer"):
        Seed.zip(Seed.values("question", ["Q1", "Q2"]), Seed.values("answer", ["A1"]))


def test_5_3_three_topics_in_two_languages(names):
    space, _ = spec_examples.run("5.3 simple", names)
    made = (space["seeds"] >> Sink.list()).run()
    pairs = [(r["topic"], r["language"]) for r in made]
    assert pairs == list(product(["AI", "Climate", "Health"], ["en", "fr"]))


def test_5_3_topics_with_subtopics(names):
    space, _ = spec_examples.run("5.3 nested", names)
    made = (space["seeds"] >> Sink.list()).run()
    assert len(made) == 10
    assert made[0] == {"domain": "Science", "topic": "Physics", "persona": "student"}
    assert made[9] == {"domain": "Humanities", "topic": "Philosophy", "persona": "expert"}


def test_5_3_a_sample_of_seeds_in_a_pipeline(names):
    space, _ = spec_examples.run("5.3 with sampling", names)
    seeds = space["seeds"]
    chosen = list(seeds.run())
    assert len(chosen) == 200 == len({tuple(r.values()) for r in chosen})
    assert len({r["language"] for r in chosen}) == 4, "from all over the product"

    space, _ = spec_examples.run("5.3 seeds in a pipeline", {**names, "seeds": seeds})
    result = space["pipeline"].run()
    assert len(result) == 200 == names["gpt4"].calls
    written = read_jsonl("questions.jsonl")
    assert written == list(result)
    assert list(written[0]) == ["domain", "topic", "persona", "language", "question", "_model"]
    for seed, record in zip(chosen, written, strict=True):
        asked = (
            f"As a {seed['persona']}, ask a question about {seed['topic']} in {seed['language']}."
        )
        assert record == {**seed, "question": f"gpt-4o on {asked}", "_model": "gpt-4o"}


# 6. Records and data flow.


def test_6_1_records_are_plain_dicts(names):
    space, _ = spec_examples.run("6.1 record type", names)
    assert space["Record"] == dfn.Record
    assert {type(r) for r in (three() >> SomeStep()).run()} == {dict}


def test_6_2_a_step_of_ones_own_gets_all_records_and_yields_records():
    class Numbered(Step):
        def process(self, records):
            for i, record in enumerate(records):
                yield {**record, "number": i}
                if i == 1:
                    yield {"number": "extra"}

    result = (three() >> Numbered()).run()
    assert [r["number"] for r in result] == [0, 1, "extra", 2]


def test_6_3_an_id_added_by_map_is_kept_through_an_llm_step(names):
    step = LLMStep(
        prompt="Ask about {text}",
        input_columns=["text"],
        output_columns=["question"],
        model=names["gpt4"],
        forward_columns=["_id"],
    )
    pipeline = spec_examples.chain("6.3 record identity", names, [step])
    result = pipeline.run()
    assert [list(r) for r in result] == [["_id", "question", "_model"]] * 3
    assert len({r["_id"] for r in result}) == 3
    pipeline.run()
    assert names["gpt4"].calls == 3, "another _id is no other question"


# 8. Sources.


def test_8_2_files(names):
    rows = [{"id": 1, "text": 'one, and "two"'}, {"id": 2, "text": "zwei\nlines ä"}]
    Path("data.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    pd.DataFrame(rows).to_csv("data.csv", index=False)
    pd.DataFrame(rows).to_parquet("data.parquet")
    Path("documents.txt").write_text("first line\nsecond line\n", encoding="utf-8")
    _, sources = spec_examples.run("8.2 Source.file", names)
    read = [list(Pipeline([s]).run()) for s in sources]
    assert read[:3] == [rows, rows, rows]
    assert read[3] == [{"content": "first line"}, {"content": "second line"}]


def test_8_2_further_formats_by_extension_and_by_name():
    Path("a.json").write_text('[{"x": 1}, {"x": 2}]', encoding="utf-8")
    Path("a.tsv").write_text("x\ty\n1\ta,b\n", encoding="utf-8")
    Path("lines.txt").write_text("one\n", encoding="utf-8")
    Path("odd.data").write_text('{"x": 1}\n', encoding="utf-8")

    def read(*args: Any, **kwargs: Any) -> list[Record]:
        return list(Pipeline([Source.file(*args, **kwargs)]).run())

    assert read("a.json") == [{"x": 1}, {"x": 2}]
    assert read("a.tsv") == [{"x": 1, "y": "a,b"}]
    assert read("lines.txt") == [{"text": "one"}]
    assert read("odd.data", format="jsonl") == [{"x": 1}]


def test_8_3_a_list(names):
    _, (source,) = spec_examples.run("8.3 Source.list", names)
    assert list(Pipeline([source]).run()) == [
        {"text": "Document 1...", "category": "science"},
        {"text": "Document 2...", "category": "history"},
    ]


# 9. Sinks.

ANSWERED = [
    {"question": "q1", "answer": 'a, "b"', "score": 7, "draft": "x"},
    {"question": "q2", "answer": "zwei\nlines ä", "score": 8, "draft": "y"},
]


def test_9_1_jsonl(names):
    _, (everything, chosen) = spec_examples.run("9.1 Sink.jsonl", names)
    assert list((Source.list(ANSWERED) >> everything).run()) == ANSWERED
    assert read_jsonl("output.jsonl") == ANSWERED
    result = (Source.list(ANSWERED) >> chosen).run()
    assert [list(r) for r in read_jsonl("output.jsonl")] == [["question", "answer", "score"]] * 2
    assert list(result) == ANSWERED, "the records keep all columns"


def test_9_1_append():
    for _ in range(2):
        (Source.list(ANSWERED) >> Sink.jsonl("output.jsonl", append=True)).run()
    assert read_jsonl("output.jsonl") == ANSWERED * 2


def test_9_2_csv(names):
    _, (sink,) = spec_examples.run("9.2 Sink.csv", names)
    (Source.list(ANSWERED) >> sink).run()
    with open("output.csv", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{k: str(v) for k, v in r.items()} for r in ANSWERED]


def test_9_2_csv_takes_columns_and_the_writers_own_parameters():
    sink = Sink.csv("output.csv", columns=["score", "question"], delimiter=";")
    (Source.list(ANSWERED) >> sink).run()
    assert Path("output.csv").read_text(encoding="utf-8") == "score;question\n7;q1\n8;q2\n"


def test_9_3_parquet(names):
    _, (sink,) = spec_examples.run("9.3 Sink.parquet", names)
    (Source.list(ANSWERED) >> sink).run()
    assert pd.read_parquet("output.parquet").to_dict("records") == ANSWERED
    (Source.list(ANSWERED) >> Sink.parquet("few.parquet", columns=["score"])).run()
    assert list(pd.read_parquet("few.parquet").columns) == ["score"]


def test_9_5_list(names, capsys):
    space, _ = spec_examples.run("9.5 Sink.list", names)
    expected = [{"id": 1, "seen": True}, {"id": 2, "seen": True}]
    assert space["sink"].records == expected
    assert str(expected) in capsys.readouterr().out


# 10. Data operations.


def test_10_1_map(names):
    lengths, renamed = spec_examples.after("10.1 Map", three(), names)
    assert list(lengths.run()) == [{**d, "text_length": len(d["text"])} for d in DOCUMENTS[:3]]
    assert list(renamed.run()) == [
        {"id": d["id"], "content": d["text"].upper()} for d in DOCUMENTS[:3]
    ]


def test_10_2_flat_map(names):
    asked = [
        {"id": 1, "questions": ["a", "b"]},
        {"id": 2, "questions": []},
        {"id": 3, "questions": ["c"]},
    ]
    exploded, styled = spec_examples.after("10.2 FlatMap", Source.list(asked), names)
    assert list(exploded.run()) == [
        {"id": 1, "question": "a"},
        {"id": 1, "question": "b"},
        {"id": 3, "question": "c"},
    ]
    assert list(styled.run()) == [
        {**r, "style": style} for r in asked for style in ("formal", "casual")
    ]


def test_10_3_filter_by_a_function(names):
    source = Source.list(DOCUMENTS)
    (kept,) = spec_examples.after("10.3 Filter", source, names)
    expected = [d for d in DOCUMENTS if len(d["text"]) > 100]
    assert 0 < len(expected) < 150 and list(kept.run()) == expected
    dropped = source >> Filter(fn=lambda r: len(r["text"]) > 100, keep=False)
    assert list(dropped.run()) == [d for d in DOCUMENTS if len(d["text"]) <= 100]


# 11. LLMStep.

SIMPLE, OUTPUTS, PROMPTS, MODELS, LANGUAGES, SAMPLED, FULL = range(7)


def llm(index: int, names: dict[str, Any], records: list[Record] | None = None) -> Any:
    """The pipeline with the example of section 11 of this number."""
    source = Source.list(DOCUMENTS[:3] if records is None else records)
    return spec_examples.after("11.1 LLMStep", source, names)[index]


@pytest.mark.parametrize(
    ("index", "per_input", "added"),
    [
        (SIMPLE, 1, ["summary", "_model"]),
        (OUTPUTS, 3, ["question", "answer", "_model", "_output_index"]),
        (PROMPTS, 2, ["question", "answer", "_model", "_prompt_index"]),
        (MODELS, 2, ["question", "_model"]),
        (LANGUAGES, 3, ["translation", "_model", "_language"]),
        (SAMPLED, 2, ["question", "_model", "_prompt_index"]),
        (FULL, 16, ["question", "_model", "_prompt_index", "_language", "_output_index"]),
    ],
    ids=["simple", "outputs", "prompts", "models", "languages", "sampled", "full"],
)
def test_11_expansion_columns_and_order(names, index, per_input, added):
    pipeline = llm(index, names)
    estimate = pipeline.estimate()
    result = pipeline.run()
    assert [r["id"] for r in result] == [d["id"] for d in DOCUMENTS[:3] for _ in range(per_input)]
    assert [list(r) for r in result] == [["id", "text", *added]] * len(result)
    assert estimate.total_llm_calls == 3 * per_input
    assert names["gpt4"].calls + names["claude"].calls == 3 * per_input


def test_11_simple_asks_with_the_records_text(names):
    result = llm(SIMPLE, names).run()
    for record, document in zip(result, DOCUMENTS[:3], strict=True):
        assert record == {
            **document,
            "summary": f"gpt-4o on Summarize this text: {document['text']}".strip(),
            "_model": "gpt-4o",
        }


def test_11_several_columns_are_parsed_from_one_structured_answer(names):
    result = llm(OUTPUTS, names).run()
    asked = f"Generate a question about: {DOCUMENTS[0]['text']}"
    assert result[0]["question"] == f"gpt-4o's question on {asked}"
    assert result[0]["answer"] == f"gpt-4o's answer on {asked}"
    assert [r["_output_index"] for r in result] == [0, 1, 2] * 3
    assert {tuple(r.schema["required"]) for r in names["gpt4"].requests} == {("question", "answer")}


def test_11_each_prompt_and_each_model_gives_its_own_output(names):
    by_prompt = llm(PROMPTS, names).run()
    assert [r["_prompt_index"] for r in by_prompt] == [0, 1] * 3
    assert "factual" in by_prompt[0]["question"] and "inferential" in by_prompt[1]["question"]
    by_model = llm(MODELS, names).run()
    assert [r["_model"] for r in by_model] == ["gpt-4o", "claude-sonnet"] * 3
    assert [r["question"].split()[0] for r in by_model] == ["gpt-4o", "claude-sonnet"] * 3


def test_11_languages_fill_the_prompt_and_are_named_by_code(names):
    result = llm(LANGUAGES, names).run()
    assert [r["_language"] for r in result] == ["en", "fr", "de"] * 3
    for record, language in zip(result, ["English", "French", "German"] * 3, strict=True):
        assert record["translation"].startswith(f"gpt-4o on Translate to {language}: Document")


def test_11_the_code_of_a_language_stands_in_a_prompt_too(names):
    step = LLMStep(
        prompt="[{language}] {text}", output_columns=["out"], model=names["gpt4"], language="fr"
    )
    (record,) = (Source.list(DOCUMENTS[:1]) >> step).run()
    assert record["out"].startswith("gpt-4o on [fr] Document")
    assert "_language" not in record, "one language is no choice to note"


def test_11_sampled_prompts_are_chosen_per_record_and_stay(names):
    pipeline = llm(SAMPLED, names, DOCUMENTS[:40])
    result = pipeline.run()
    pairs = [
        (result[i]["_prompt_index"], result[i + 1]["_prompt_index"])
        for i in range(0, len(result), 2)
    ]
    assert all(a < b for a, b in pairs) and len(set(pairs)) > 4
    for record in result:
        asked = f"Way {record['_prompt_index'] + 1} to ask about {record['text']}"
        assert record["question"] == f"gpt-4o on {asked}".strip()
    assert list(pipeline.run()) == list(result)


def test_11_full_combination_in_the_order_of_the_expansion(names):
    result = llm(FULL, names).run()
    marks = [(r["_prompt_index"], r["_model"], r["_language"], r["_output_index"]) for r in result]
    one = list(product([0, 1], ["gpt-4o", "claude-sonnet"], ["en", "fr"], [0, 1]))
    assert marks == one * 3
    assert result[0]["question"].startswith("gpt-4o on Prompt A: Document 0")
    assert result[-1]["question"].startswith("claude-sonnet on Prompt B: Document 2")


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"forward_columns": ["id"]}, ["id"]),
        ({"exclude_columns": ["id"]}, ["text"]),
        ({}, ["id", "text"]),
    ],
)
def test_11_forwarded_columns(names, choice, kept):
    step = LLMStep(
        prompt="On {text}",
        input_columns=["text"],
        output_columns=["out"],
        model=names["gpt4"],
        **choice,
    )
    assert list((three() >> step).run()[0]) == [*kept, "out", "_model"]


def test_11_skip_if_asks_nobody_and_system_prompt_is_sent(names):
    step = LLMStep(
        prompt="On {text}",
        output_columns=["out"],
        model=names["gpt4"],
        system_prompt="You are terse.",
        skip_if=lambda r: r["id"] == "doc_001",
        temperature=0.3,
        max_tokens=99,
        top_p=0.5,
    )
    result = (three() >> step).run()
    assert [r["out"] is None for r in result] == [False, True, False]
    assert names["gpt4"].calls == 2
    sent = names["gpt4"].requests[0]
    assert sent.messages[0] == {"role": "system", "content": "You are terse."}
    assert (sent.temperature, sent.max_tokens, sent.top_p) == (0.3, 99, 0.5)


# 15. Pipelines.


def test_15_1_a_list_of_steps_is_the_same_pipeline(names):
    steps = [three(), Map(lambda r: {**r, "n": 1}), Sink.list()]
    joined = steps[0] >> steps[1] >> steps[2]
    listed = Pipeline(steps)
    assert list(listed.run()) == list(joined.run())
    assert [type(s) for s in listed.steps] == [type(s) for s in joined.steps]
    assert listed.hash() == joined.hash()


def test_15_1_stop_after_limit_and_run_one(names):
    pipeline = (
        Source.list(DOCUMENTS).as_step("load")
        >> Map(lambda r: {**r, "n": len(r["text"])}).as_step("measure")
        >> LLMStep(prompt="On {text}", output_columns=["out"], model=names["gpt4"]).as_step("ask")
        >> Sink.jsonl("out.jsonl")
    )
    assert list(pipeline.run(stop_after="load")) == DOCUMENTS
    assert list(pipeline.run(stop_after=0)) == DOCUMENTS
    assert list(pipeline.run(stop_after=1)[0]) == ["id", "text", "n"]
    assert names["gpt4"].calls == 0 and not Path("out.jsonl").exists()
    one = pipeline.run_one()
    assert dict(one) == {
        **DOCUMENTS[0],
        "n": len(DOCUMENTS[0]["text"]),
        "out": "gpt-4o on On Document 0.",
        "_model": "gpt-4o",
    }
    assert names["gpt4"].calls == 1 and not Path("out.jsonl").exists()
    result = pipeline.run(limit=3)
    assert [r["id"] for r in result] == ["doc_000", "doc_001", "doc_002"]
    assert names["gpt4"].calls == 3
    assert read_jsonl("out.jsonl") == list(result)


def test_15_1_estimate_names_calls_tokens_and_cost(names):
    pipeline = Source.list(DOCUMENTS).as_step("load") >> LLMStep(
        prompt="On {text}", output_columns=["out"], model=names["gpt4"], num_outputs=2
    ).as_step("generate")
    estimate = pipeline.estimate()
    assert estimate.total_records == 150
    assert estimate.total_llm_calls == 300
    assert estimate.total_estimated_tokens > 300
    assert 0 < estimate.total_estimated_cost < 10
    load, generate = estimate.steps
    assert (load.name, load.records_out, load.llm_calls) == ("load", 150, 0)
    assert (generate.name, generate.records_out, generate.llm_calls) == ("generate", 300, 300)
    assert f"{estimate.total_estimated_cost:.2f}" == f"{generate.estimated_cost:.2f}"
    assert "generate" in repr(estimate) and "300" in repr(estimate)
    assert names["gpt4"].calls == 0


def test_15_1_visualize_is_text_that_names_the_steps(names):
    pipeline = three().as_step("load") >> Filter(fn=lambda r: True) >> Sink.list()
    drawn = pipeline.visualize()
    assert isinstance(drawn, str)
    assert drawn.index("load") < drawn.index("step_002_filter") < drawn.index("step_003_sink")


def test_15_2_named_steps(names):
    pipeline = (
        Source.list(DOCUMENTS)
        .as_step("load")
        >> Filter(fn=lambda r: len(r["text"]) > 100)
        .as_step("filter_short")
        >> LLMStep(prompt="On {text}", output_columns=["out"], model=names["gpt4"])
        .as_step("generate_questions")
        >> Sink.jsonl("output.jsonl")
    )  # fmt: skip
    expected = ["load", "filter_short", "generate_questions", "step_004_sink"]
    assert pipeline.compile().names == expected
    result = pipeline.run()
    assert len(result.at("filter_short")) == len(result) == len(read_jsonl("output.jsonl"))


def test_15_2_as_step_on_a_pipeline_names_its_last_step():
    pipeline = (three() >> Map(lambda r: r)).as_step("same")
    assert pipeline.compile().names == ["step_001_source", "same"]


def test_15_2_two_continuations_share_their_past_and_not_their_names():
    base = three() >> Map(lambda r: {**r, "n": 1})
    named = base.as_step("count")
    longer = base >> Filter(fn=lambda r: False)
    assert base.compile().names == ["step_001_source", "step_002_map"]
    assert named.compile().names == ["step_001_source", "count"]
    assert (len(base.run()), len(longer.run())) == (3, 0)


def test_15_3_automatic_names_count_all_steps():
    pipeline = (
        three()
        >> Filter(fn=lambda r: True)
        >> Map(lambda r: r).as_step("mine")
        >> FlatMap(lambda r: [r])
        >> Sample(n=1)
        >> LLMStep(prompt="On {text}", output_columns=["out"], model=FakeModel())
        >> Sink.list()
    )
    assert pipeline.compile().names == [
        "step_001_source",
        "step_002_filter",
        "mine",
        "step_004_flatmap",
        "step_005_sample",
        "step_006_llmstep",
        "step_007_sink",
    ]


def test_15_3_all_problems_are_told_at_once(names):
    pipeline = (
        three()
        >> LLMStep(
            prompt="On {text} and {txt}",
            input_columns=["text", "txt"],
            output_columns=["question"],
            model=names["gpt4"],
            forward_columns=["idd"],
        )
        >> LLMStep(prompt="Answer {questoin}", output_columns=["answer"])
        >> Sink.jsonl("out.jsonl", columns=["answr"])
    )
    with pytest.raises(PipelineValidationError) as caught:
        pipeline.compile()
    problems = caught.value.problems
    assert [p.step for p in problems] == [
        "step_002_llmstep",
        "step_002_llmstep",
        "step_003_llmstep",
        "step_003_llmstep",
        "step_004_sink",
    ]
    said = str(caught.value)
    for column, meant in [("txt", "text"), ("questoin", "question"), ("answr", "answer")]:
        assert f"'{column}'" in said and f"Did you mean '{meant}'?" in said
    assert "'idd'" in said and "no model" in said
    with pytest.raises(PipelineValidationError):
        pipeline.run()
    assert names["gpt4"].calls == 0


def test_15_3_the_first_step_is_a_source():
    with pytest.raises(PipelineValidationError, match="starts with a source"):
        Pipeline([Map(lambda r: r), Sink.list()]).run()
    seeds = Pipeline([Seed.values("x", [1]), Sink.list()])
    assert list(seeds.run()) == [{"x": 1}]


def test_15_3_a_missing_sink_is_noted_and_runs():
    assert any("sink" in note for note in (three() >> Map(lambda r: r)).compile().notes)
    assert not any("sink" in note for note in (three() >> Sink.list()).compile().notes)


def test_15_3_columns_after_a_function_are_not_guessed(names):
    pipeline = (
        three()
        >> Map(lambda r: {**r, "topic": "x"})
        >> LLMStep(prompt="On {topic}", output_columns=["out"], model=names["gpt4"])
    )
    assert len(pipeline.run()) == 3


# 18. Models.


def test_18_1_any_object_with_name_provider_and_generate_is_a_model():
    class Mine:
        """The protocol and nothing else."""

        calls: list[dict[str, Any]] = []  # noqa: RUF012

        @property
        def name(self) -> str:
            return "mine"

        @property
        def provider(self) -> str:
            return "home"

        def generate(
            self,
            prompt: str,
            system_prompt: str | None = None,
            temperature: float = 0.7,
            max_tokens: int = 1024,
            response_format: type | None = None,
        ) -> str | dict[str, Any]:
            self.calls.append({"prompt": prompt, "system_prompt": system_prompt, "t": temperature})
            if "JSON" in prompt:
                return {"question": "Why?", "answer": "Because."}
            return f"mine on {prompt}"

    model = Mine()
    text = LLMStep(
        prompt="On {id}",
        output_columns=["out"],
        model=model,
        system_prompt="Terse.",
        temperature=0.2,
    )
    pipeline = three() >> text
    result = pipeline.run()
    assert [r["out"] for r in result] == [f"mine on On doc_00{i}" for i in range(3)]
    assert {r["_model"] for r in result} == {"mine"}
    assert all(c["system_prompt"] == "Terse." and c["t"] == 0.2 for c in model.calls)
    pipeline.run()
    assert len(model.calls) == 3, "its answers are kept"
    pair = LLMStep(prompt="On {id}", output_columns=["question", "answer"], model=model)
    assert [(r["question"], r["answer"]) for r in (three() >> pair).run()] == [
        ("Why?", "Because.")
    ] * 3


def test_18_1_a_model_of_the_package_keeps_the_protocol(names):
    model = names["gpt4"]
    assert (model.name, model.provider) == ("gpt-4o", "openai")
    assert model.generate("Hello", system_prompt="Terse.", temperature=0.1) == "gpt-4o on Hello"


def test_18_3_output_as_a_pydantic_model(names):
    space, _ = spec_examples.run("18.3 structured output", names)
    qa: type[BaseModel] = space["QAOutput"]
    step = LLMStep(prompt="On {text}", output_columns=qa, model=names["gpt4"])
    result = (three() >> step).run()
    assert list(result[0]) == ["id", "text", "question", "answer", "_model"]
    assert result[0]["answer"] == "gpt-4o's answer on On Document 0. "
    assert type(names["gpt4"].generate("Hello", response_format=qa)) is dict


def test_18_3_a_list_of_columns_asks_for_what_the_specs_model_asks_for(names):
    output_columns = ["question", "answer"]
    step = LLMStep(prompt="On {text}", output_columns=output_columns, model=names["gpt4"])
    (three() >> step).run()
    response_format = create_model("LLMStepOutput", **{col: (str, ...) for col in output_columns})  # noqa: C420
    wanted = response_format.model_json_schema()
    asked = names["gpt4"].requests[0].schema
    assert asked["type"] == wanted["type"] and asked["required"] == wanted["required"]
    assert {n: p["type"] for n, p in asked["properties"].items()} == {
        n: p["type"] for n, p in wanted["properties"].items()
    }


# 19. Errors.


def test_19_1_error_types():
    assert issubclass(DatafastError, Exception)
    for error in (PipelineValidationError, ColumnNotFoundError, LLMError):
        assert issubclass(error, DatafastError)


def test_19_1_a_missing_column_alone_is_column_not_found(names):
    step = LLMStep(prompt="On {txt}", output_columns=["out"], model=names["gpt4"])
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'text'"):
        (three() >> step).run()


def failing(*ids: str) -> FakeModel:
    """A model that refuses connections for the documents `ids`, as often as it is asked."""

    def answer(request: Request) -> Any:
        prompt = request.messages[-1]["content"]
        if any(i in prompt for i in ids):
            return LLMError("Rate limit exceeded", kind="rate_limited")
        return f"on {prompt}"

    return FakeModel(answer)


def test_19_2_skip_goes_on_and_keeps_the_error():
    step = LLMStep(
        prompt="On {id}",
        output_columns=["out"],
        model=failing("doc_001"),
        on_error="skip",
        max_retries=0,
    )
    result = (three() >> step).run()
    assert [r["id"] for r in result] == ["doc_000", "doc_002"]
    assert [e.input["id"] for e in result.errors] == ["doc_001"]


def test_19_2_raise_stops_with_what_was_finished():
    step = LLMStep(
        prompt="On {id}",
        output_columns=["out"],
        model=failing("doc_001"),
        on_error="raise",
        max_retries=0,
    )
    with pytest.raises(LLMError, match="Rate limit exceeded") as caught:
        (three() >> step).run(max_concurrent=1)
    assert [r["id"] for r in caught.value.result] == ["doc_000"]


@pytest.mark.parametrize(("n_failures", "n_out"), [(2, 3), (3, 2)])
def test_19_2_retry_asks_up_to_max_retries_more(n_failures, n_out):
    seen: Counter[str] = Counter()

    def answer(request: Request) -> Any:
        prompt = request.messages[-1]["content"]
        seen[prompt] += 1
        if "doc_001" in prompt and seen[prompt] <= n_failures:
            return LLMError("Rate limit exceeded", kind="rate_limited")
        return f"on {prompt}"

    step = LLMStep(
        prompt="On {id}",
        output_columns=["out"],
        model=FakeModel(answer),
        on_error="retry",
        max_retries=2,
        retry_delay=0.001,
    )
    result = (three() >> step).run()
    assert len(result) == n_out
    assert seen == {"On doc_000": 1, "On doc_001": 3, "On doc_002": 1}


def test_19_4_records_with_metadata_on_what_was_skipped():
    records = [{"_id": "abc", "id": "x1"}, {"id": "x2"}, {"id": "x3"}]
    step = LLMStep(
        prompt="On {id}", output_columns=["out"], model=failing("x1"), max_retries=0
    ).as_step("generate")
    result = (Source.list(records) >> step).run()
    told = result.to_dict()
    assert told["records"] == list(result)
    metadata = told["metadata"]
    assert (metadata["total_input"], metadata["total_output"], metadata["skipped"]) == (3, 2, 1)
    (error,) = metadata["errors"]
    assert (error["record_id"], error["step"]) == ("abc", "generate")
    assert "Rate limit exceeded" in error["error"]
    json.dumps(told)
