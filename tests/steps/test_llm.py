"""LLM steps: what they expand to, what they send, and what stands in their records."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datafast_nb import (
    ColumnNotFoundError,
    DatafastError,
    FakeModel,
    LLMStep,
    Map,
    Model,
    Sample,
    Sink,
    Source,
    options,
)
from datafast_nb.options import home
from datafast_nb.steps.expansion import PlanCounter
from datafast_nb.steps.llm import BOOKKEEPING
from datafast_nb.validate import step_fingerprint

ROWS = [{"id": i, "text": f"text {i}"} for i in range(3)]


def echo(name: str = "fake", **more: Any) -> FakeModel:
    return FakeModel(lambda r: f"{name}|{r.messages[-1]['content']}", name=name, **more)


def run(step: LLMStep, rows: Any = ROWS) -> Any:
    return (Source.list(rows) >> step).run(max_concurrent=1)


def step_of(prompt: Any = "On {text}", **settings_: Any) -> LLMStep:
    return LLMStep(prompt, output_columns=["q"], **{"model": echo(), **settings_})


# Construction.


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({"output_columns": None}, TypeError, "output_columns"),
        ({"output_columns": []}, ValueError, "output_columns is empty"),
        ({"model": FakeModel(), "llm": FakeModel()}, TypeError, "model= and llm="),
        ({"num_outputs": 0}, ValueError, "num_outputs is 0; use a whole number of 1 or more"),
        ({"num_outputs": -1}, ValueError, "num_outputs"),
        ({"num_outputs": 1.5}, ValueError, "num_outputs"),
        ({"num_outputs": True}, ValueError, "num_outputs"),
        ({"num_outputs": None}, ValueError, "num_outputs"),
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"max_tokens": "10"}, ValueError, "max_tokens"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_retries": 1.5}, ValueError, "max_retries"),
        ({"on_error": "ignore"}, ValueError, "'skip', 'raise' or 'retry'"),
        ({"skip_if": True}, TypeError, "skip_if is a function"),
        ({"forward_columns": ["a"], "exclude_columns": ["b"]}, ValueError, "not both"),
        ({"forward_columns": [1]}, TypeError, "forward_columns is a list of column names"),
        ({"exclude_columns": [None]}, TypeError, "exclude_columns is a list of column names"),
        ({"temperature": -0.1}, ValueError, "temperature is -0.1"),
        ({"temperature": [0.5, -1]}, ValueError, "temperature is -1"),
        ({"temperature": float("nan")}, ValueError, "temperature is nan"),
        ({"temperature": float("inf")}, ValueError, "temperature is inf"),
        ({"temperature": True}, ValueError, "temperature is True"),
        ({"temperature": "hot"}, ValueError, "temperature is 'hot'"),
        ({"temperature": []}, ValueError, "temperature is an empty list"),
        ({"language": []}, ValueError, "language is an empty list"),
        ({"language": {}}, ValueError, "language is empty"),
        ({"prompt": []}, ValueError, "prompt is an empty list"),
        ({"prompt": ["fine", "{"]}, ValueError, "opens no field"),
        ({"prompt": 5}, TypeError, "a prompt is text"),
        ({"prompt": Sample(n=1)}, ValueError, r"Sample\(\[a, b, c\], n=1\)"),
        ({"system_prompt": "}"}, ValueError, "lone"),
        ({"system_prompt": ["a", "b"]}, TypeError, "a prompt is text"),
    ],
)
def test_mistakes_are_refused_where_the_step_is_written(settings_, error, message):
    given_ = {"prompt": "On {text}", "output_columns": ["q"], **settings_}
    with pytest.raises(error, match=message):
        LLMStep(**given_)


@pytest.mark.parametrize("wrong", ["gpt-4o", 5, [FakeModel(), "gpt-4o"], FakeModel, []])
def test_what_is_no_model_is_a_problem_before_anything_is_asked(wrong):
    with pytest.raises((DatafastError, TypeError, ValueError), match="model"):
        (Source.list(ROWS) >> step_of(model=wrong)).run()


def test_positional_parameters_are_prompt_inputs_outputs_model():
    model = echo()
    result = run(LLMStep("On {text}", ["text"], ["q"], model))
    assert [r["q"] for r in result] == [f"fake|On text {i}" for i in range(3)]


def test_llm_is_another_name_for_model():
    model = echo("other")
    assert run(LLMStep("{text}", output_columns=["q"], llm=model))[0]["_model"] == "other"


def test_a_step_copies_the_lists_it_is_given():
    columns, extra, examples = ["text"], {"a": 1}, [{"text": "t", "q": "a"}]
    step = step_of(forward_columns=columns, extra=extra, examples=examples, input_columns=columns)
    columns.append("id")
    extra["b"] = 2
    examples.clear()
    assert (step.forward_columns, step.input_columns) == (["text"], ["text"])
    assert (step.extra, len(step.examples)) == ({"a": 1}, 1)


def test_a_renamed_copy_shares_nothing_that_matters():
    step = step_of()
    _ = step.variants
    named = step.as_step("ask")
    assert (named.name, step.name) == ("ask", "LLMStep")
    assert step_fingerprint(named) == step_fingerprint(step)


# Expansion.

SIZES = st.integers(1, 3)


@settings(max_examples=25)
@given(SIZES, SIZES, st.integers(0, 3), SIZES, st.integers(1, 2), st.integers(1, 2))
def test_expansion_is_the_product_in_order(n_prompts, n_models, n_langs, n_temps, n_out, n_rows):
    prompts = [f"P{i} {{text}}" + (" {language}" if n_langs else "") for i in range(n_prompts)]
    models = [echo(f"m{i}") for i in range(n_models)]
    languages = ["en", "fr", "de"][:n_langs]
    temperatures = [0.5, 0.7, 1.0][:n_temps]
    step = step_of(
        prompts,
        model=models,
        language=languages or None,
        temperature=temperatures,
        num_outputs=n_out,
    )
    assert step.calls_per_record == n_prompts * n_models * max(1, n_langs) * n_temps * n_out
    assert step.expected_calls(ROWS[0]) == (step.calls_per_record,) * 3

    wanted = []
    axes = (range(n_prompts), range(n_models), languages or [None], temperatures, range(n_out))
    for row, (p, m, lang, temp, out) in product(ROWS[:n_rows], product(*axes)):
        record = {**row, "q": f"m{m}|P{p} {row['text']}" + (f" {lang}" if lang else "")}
        record["_model"] = f"m{m}"
        for name, value, n in [
            ("_prompt_index", p, n_prompts),
            ("_language", lang, n_langs),
            ("_temperature", temp, n_temps),
            ("_output_index", out, n_out),
        ]:
            if n > 1:
                record[name] = value
        wanted.append(record)
    result = run_apart(step, n_rows)
    assert list(result) == wanted
    assert all(list(a) == list(b) for a, b in zip(result, wanted, strict=True)), "column order"
    assert sum(m.calls for m in models) == len(wanted)


def run_apart(step: LLMStep, n_rows: int) -> Any:
    """Run in a memo of its own: the examples of a test share its folder."""
    options.home = Path(home()).parent / uuid4().hex
    try:
        return run(step, ROWS[:n_rows])
    finally:
        options.home = None


def test_variants_are_made_in_the_order_of_the_expansion():
    step = step_of(["a {text}", "b {text}"], model=[echo("x"), echo("y")], temperature=[0, 1])
    assert [v.choice for v in step.variants] == list(product([0, 1], [0, 1], [0], [0, 1]))
    assert [v.index for v in step.variants] == list(range(8))
    assert [v.is_deterministic for v in step.variants] == [True, False] * 4


def test_a_list_of_one_is_as_good_as_the_item():
    one = run(step_of("On {text}"))
    listed = run(step_of(["On {text}"], model=[echo()], temperature=[0.7], language=["en"]))
    assert list(one) == list(listed)


def test_the_same_model_twice_gives_two_answers():
    model = FakeModel(["first", "second"])
    result = run(step_of(model=[model, model]), ROWS[:1])
    assert [r["q"] for r in result] == ["first", "second"]


def test_each_temperature_is_sent_and_noted():
    model = FakeModel(["a", "b", "c"])
    result = run(step_of(model=model, temperature=[0, 0.7, None]), ROWS[:1])
    assert [r.temperature for r in model.requests] == [0.0, 0.7, None]
    assert [r["_temperature"] for r in result] == [0.0, 0.7, None]


def test_parameters_reach_the_request():
    model = echo()
    run(step_of(model=model, temperature=0.3, max_tokens=7, top_p=0.9, extra={"seed": 5}))
    sent = model.requests[0]
    assert (sent.temperature, sent.max_tokens, sent.top_p, dict(sent.extra), sent.schema) == (
        0.3, 7, 0.9, {"seed": 5}, None,
    )  # fmt: skip


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8},
    {"temperature": None},
    {"max_tokens": 5},
    {"max_tokens": None},
    {"top_p": 0.5},
    {"top_p": 1.0},
    {"extra": {"seed": 1}},
    {"extra": {"seed": 2}},
    {"extra": {"seed": "1"}},
    {"prompt": "Of {text}"},
    {"system_prompt": "Be brief"},
    {"system_prompt": ""},
    {"examples": [{"text": "t", "q": "a"}]},
    {"examples": [{"text": "t", "q": "b"}]},
    {"output_columns": {"q": str}},
    {"output_columns": {"q": int}},
    {"output_columns": ["q", "a"]},
    {"model": echo("other")},
    {"model": echo(provider="else")},
]


def keys_of(settings_: dict[str, Any]) -> set[str]:
    step = LLMStep(**{"prompt": "On {text}", "output_columns": ["q"], "model": echo(), **settings_})
    return {v.keys.key(step.messages(ROWS[0], v)) for v in step.variants}


def test_whatever_changes_the_answer_changes_the_key():
    keys = [keys_of(p) for p in PARAMETERS]
    assert len(set().union(*keys)) == len(PARAMETERS)


@pytest.mark.parametrize(
    "settings_",
    [
        {"num_outputs": 3},
        {"on_error": "raise"},
        {"max_retries": 0},
        {"retry_delay": 9.0},
        {"resample": 1},
        {"forward_columns": []},
        {"exclude_columns": ["id"]},
        {"input_columns": ["text"]},
        {"skip_if": lambda r: False},
        {"overwrite": True},
        {"output_columns": ["answer"]},
        {"temperature": [0.7]},
        {"extra": {}},
        {"language": "en"},
    ],
    ids=lambda s: next(iter(s)),
)
def test_whatever_does_not_change_the_answer_leaves_the_key(settings_):
    assert keys_of(settings_) == keys_of({})


# Columns.


def test_all_input_columns_are_kept_by_default_and_outputs_follow():
    [first, *_] = run(step_of())
    assert list(first) == ["id", "text", "q", "_model"]


@pytest.mark.parametrize(
    ("settings_", "kept"),
    [
        ({"forward_columns": ["id"]}, ["id"]),
        ({"forward_columns": ["text", "id"]}, ["id", "text"]),
        ({"forward_columns": "id"}, ["id"]),
        ({"forward_columns": []}, []),
        ({"exclude_columns": ["text"]}, ["id"]),
        ({"exclude_columns": "text"}, ["id"]),
        ({"exclude_columns": ["id", "text"]}, []),
        ({"exclude_columns": []}, ["id", "text"]),
    ],
)
def test_forwarded_and_excluded_columns(settings_, kept):
    pipeline = Source.list(ROWS) >> step_of(**settings_)
    assert [list(r) for r in pipeline.run()] == [[*kept, "q", "_model"]] * 3
    assert list(pipeline.compile().nodes[-1].columns.names) == [*kept, "q", "_model"]


@pytest.mark.parametrize("parameter", ["forward_columns", "exclude_columns"])
def test_a_chosen_column_that_is_not_there_is_refused(parameter):
    with pytest.raises(ColumnNotFoundError, match=r"column 'idd'[^?]*Did you mean 'id'"):
        (Source.list(ROWS) >> step_of(**{parameter: ["idd"]})).compile()


def test_forwarded_columns_of_a_function_reach_the_next_step():
    pipeline = (
        Source.list(ROWS)
        >> Map(lambda r: {**r, "size": len(r["text"])})
        >> step_of(forward_columns=["size"])
        >> LLMStep("{size} {q}", output_columns=["a"], model=echo())
    )
    assert [r["a"] for r in pipeline.run()] == [f"fake|6 fake|On text {i}" for i in range(3)]


def test_writing_over_a_column_is_refused_before_a_call_or_asked_for():
    model = echo()
    with pytest.raises(DatafastError, match="writes column 'text', which the records already have"):
        run(LLMStep("On {text}", output_columns=["text"], model=model))
    assert model.calls == 0
    again = run(LLMStep("On {text}", output_columns=["text"], model=model, overwrite=True))
    assert [r["text"] for r in again] == [f"fake|On text {i}" for i in range(3)]
    dropped = LLMStep("On {text}", output_columns=["text"], model=model, exclude_columns=["text"])
    assert list(run(dropped)) == [{**r, "_model": "fake"} for r in again]


@pytest.mark.parametrize("late", [0, 2], ids=["in the first record", "in a later record"])
def test_a_column_that_only_the_data_shows_is_not_written_over(late):
    model = echo()
    pipeline = (
        Source.list(ROWS)
        >> Map(lambda r: {**r, "q": "mine"} if r["id"] >= late else r)
        >> step_of(model=model)
    )
    with pytest.raises(DatafastError, match="writes column 'q'"):
        pipeline.run()
    assert model.calls == 0


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_bookkeeping_columns_cannot_be_outputs(name):
    with pytest.raises(DatafastError, match=f"writes '{name}', a bookkeeping column"):
        (Source.list(ROWS) >> LLMStep("x", output_columns=[name, "q"], model=echo())).compile()


def test_bookkeeping_is_that_of_the_last_step():
    first = step_of(["a {text}", "b {text}"], model=[echo("x"), echo("y")], num_outputs=2)
    second = LLMStep("Title of {q}", output_columns=["t"], model=echo("z"))
    result = (Source.list(ROWS[:1]) >> first >> second).run()
    assert len(result) == 8
    assert {tuple(r) for r in result} == {("id", "text", "q", "t", "_model")}
    assert {r["_model"] for r in result} == {"z"}
    calls = result.calls
    assert Counter(calls[calls["step"] == "step_002_llmstep"]["model"]) == {"x": 4, "y": 4}


def test_bookkeeping_of_the_source_may_be_read_in_a_prompt():
    [record] = run(step_of("by {_model}"), [{"_model": "old"}])
    assert record == {"q": "fake|by old", "_model": "fake"}


def test_input_columns_are_a_whitelist():
    step = LLMStep("{text} {id}", ["text"], ["q"], echo())
    with pytest.raises(DatafastError, match=r"uses \{id\} in a prompt, which is not in input_col"):
        (Source.list(ROWS) >> step).compile()
    with pytest.raises(ColumnNotFoundError, match="reads column 'txt'"):
        (Source.list(ROWS) >> LLMStep("hi", ["txt"], ["q"], echo())).compile()


def test_a_column_missing_in_one_record_costs_that_record():
    model = echo()
    rows = Source.list([{"text": "a"}, {"text": "b"}, {"text": "c"}])
    holes = Map(lambda r: r if r["text"] != "b" else {"other": 1})
    result = (rows >> holes >> step_of(model=model)).run()
    assert [r["text"] for r in result] == ["a", "c"]
    [error] = result.errors
    assert (error.kind, error.record, error.input) == ("prompt", 1, {"other": 1})
    assert "'text'" in error.error
    assert model.calls == 2


def test_the_records_of_a_step_are_not_the_records_before_it():
    rows = [{"id": 1, "tags": ["a"], "text": "t"}]
    result = (Source.list(rows) >> step_of(num_outputs=2) >> Map(spoil)).run()
    assert [r["tags"] for r in result] == [["a", "x"]] * 2
    assert result.at(1)[0]["tags"] == result.at(0)[0]["tags"] == rows[0]["tags"] == ["a"]


def spoil(record):
    record["tags"].append("x")
    return record


# Languages.


@pytest.mark.parametrize(
    ("language", "pairs"),
    [
        ("fr", [("fr", "French")]),
        (["en", "de"], [("en", "English"), ("de", "German")]),
        (("en", "de"), [("en", "English"), ("de", "German")]),
        ({"en": "British English", "tlh": "Klingon"}, [("en", "British English"), ("tlh", "Klingon")]),
        ([("en", "Simple English"), "tlh"], [("en", "Simple English"), ("tlh", "tlh")]),
        (Sample(["en", "de"], n=2), [("en", "English"), ("de", "German")]),
    ],
)  # fmt: skip
def test_languages_fill_code_and_name(language, pairs):
    step = step_of("{text} in {language_name} ({language})", language=language)
    result = run(step, ROWS[:1])
    assert [r["q"] for r in result] == [f"fake|text 0 in {n} ({c})" for c, n in pairs]
    if len(pairs) > 1:
        assert [r["_language"] for r in result] == [c for c, _ in pairs]
    else:
        assert "_language" not in result[0]


def test_languages_stand_in_system_prompt_and_examples_too():
    model = echo()
    step = step_of(
        model=model,
        language="fr",
        system_prompt="Answer in {language_name}",
        prompt="{text} ({language})",
        examples=[{"text": "e", "q": "a"}],
    )
    run(step, ROWS[:1])
    assert [m["content"] for m in model.requests[0].messages] == [
        "Answer in French",
        "e (fr)",
        "a",
        "text 0 (fr)",
    ]


def test_language_fields_without_language_are_columns_or_refused():
    [record] = run(step_of("{text} in {language}"), [{"text": "t", "language": "Elvish"}])
    assert record["q"] == "fake|t in Elvish"
    with pytest.raises(ColumnNotFoundError, match=r"uses \{language\} in a prompt.*language="):
        (Source.list(ROWS) >> step_of("{text} in {language}")).compile()


def test_the_steps_language_goes_before_a_column_of_that_name():
    [record] = run(step_of("{language}", language="fr"), [{"text": "t", "language": "Elvish"}])
    assert (record["q"], record["language"]) == ("fake|fr", "Elvish")


# Examples.


def test_examples_are_earlier_turns_of_the_same_prompt():
    model = FakeModel({"q": "x", "a": "y"})
    step = LLMStep(
        ["On {text}", "Of {text}"],
        output_columns=["q", "a"],
        model=model,
        system_prompt="Be {mood}",
        examples=[
            {"text": "one {text}", "q": "Q1", "a": "Ä"},
            {"text": "two", "q": "Q2", "a": "A2"},
        ],
    )
    run(step, [{"text": "now", "mood": "kind"}])
    assert [[(m["role"], m["content"]) for m in r.messages] for r in model.requests] == [
        [
            ("system", "Be kind"),
            ("user", f"{word} one {{text}}"),
            ("assistant", '{"q": "Q1", "a": "Ä"}'),
            ("user", f"{word} two"),
            ("assistant", '{"q": "Q2", "a": "A2"}'),
            ("user", f"{word} now"),
        ]
        for word in ("On", "Of")
    ]  # fmt: skip


def test_an_example_for_one_text_column_is_its_text():
    model = echo()
    run(step_of(model=model, examples=[{"text": "e", "q": 5}]), ROWS[:1])
    assert [m["content"] for m in model.requests[0].messages] == ["On e", "5", "On text 0"]


@pytest.mark.parametrize("example", [{"text": "t"}, {"q": "a"}, {}])
def test_an_example_without_a_column_is_refused_before_a_call(example):
    model = echo()
    with pytest.raises(DatafastError, match=r"examples\[1\] has no '(q|text)'"):
        run(step_of(model=model, examples=[{"text": "t", "q": "a"}, example]))
    assert model.calls == 0


# Skipping.


def test_a_skipped_record_goes_on_once_with_its_outputs_none():
    model = echo()
    step = LLMStep(
        ["a {text}", "b {text}"],
        output_columns=["q"],
        model=model,
        num_outputs=2,
        language=["en", "fr"],
        skip_if=lambda r: r["id"] == 1,
    )
    result = run(step)
    assert [r["id"] for r in result] == [0] * 8 + [1] + [2] * 8
    assert result[8] == {
        "id": 1, "text": "text 1", "q": None, "_model": None, "_prompt_index": None,
        "_language": None, "_output_index": None,
    }  # fmt: skip
    assert model.calls == 16
    fates = result.step(1).fates
    assert (fates.advanced, fates.skipped, fates.total) == (2, 1, 3)
    assert not result.errors


@pytest.mark.parametrize("answer", [1, "yes", [0], True])
def test_skip_if_takes_what_bool_takes(answer):
    assert [r["q"] for r in run(step_of(skip_if=lambda r: answer))] == [None] * 3
    assert None not in [r["q"] for r in run(step_of(skip_if=lambda r: not answer))]


def test_skip_if_cannot_change_the_record():
    def change(record):
        record["text"] = "gone"
        record["tags"].append("x")
        return False

    rows = [{"text": "t", "tags": ["a"]}]
    [record] = run(step_of(skip_if=change), rows)
    assert record == {"text": "t", "tags": ["a"], "q": "fake|On t", "_model": "fake"}


# on_error.


@pytest.mark.parametrize(("on_error", "asked"), [("skip", 2), ("retry", 3), ("raise", 2)])
def test_unusable_answers_are_asked_again_as_on_error_says(on_error, asked):
    model = FakeModel(lambda r: "" if "text 1" in str(r.messages) else "fine")
    pipeline = Source.list(ROWS) >> step_of(
        model=model, on_error=on_error, max_retries=2, retry_delay=0
    )
    if on_error == "raise":
        with pytest.raises(DatafastError) as caught:
            pipeline.run(max_concurrent=1)
        result = caught.value.result
        assert result.status == "failed"
    else:
        result = pipeline.run(max_concurrent=1)
        assert [r["id"] for r in result] == [0, 2]
        assert result.status == "complete"
    assert sum("text 1" in str(r.messages) for r in model.requests) == asked
    assert [(e.kind, e.input["id"]) for e in result.errors] == [("empty", 1)]


# Sampled parameters.


@pytest.mark.parametrize(
    ("settings_", "per_record"),
    [
        ({"prompt": Sample(["a {text}", "b {text}", "c {text}"], n=2)}, 2),
        ({"prompt": Sample(["a {text}", "b {text}"], n=5)}, 2),
        ({"model": Sample([echo("x"), echo("y"), echo("z")], n=1)}, 1),
        ({"language": Sample(["en", "fr", "de"], n=2)}, 2),
        ({"prompt": Sample(["a {text}", "b {text}", "c {text}", "d {text}"], frac=0.5)}, 2),
        (
            {
                "prompt": Sample(["a {text}", "b {text}", "c {text}"], n=2),
                "model": Sample([echo("x"), echo("y"), echo("z")], n=2),
                "temperature": [0.1, 0.2],
                "num_outputs": 2,
            },
            16,
        ),
        ({"prompt": Sample(["a {text}", "b {text}"], n=3, replace=True)}, 3),
        ({"prompt": Sample(["a {text}", "b {text}", "c {text}"], n=2, strategy="first")}, 2),
    ],
)
def test_a_sampled_parameter_gives_its_number_of_draws(settings_, per_record):
    step = step_of(**settings_)
    assert step.calls_per_record == per_record
    counts = Counter(r["id"] for r in run(step, [{"id": i, "text": f"t{i}"} for i in range(6)]))
    assert set(counts.values()) == {per_record}


def test_draws_of_one_record_are_different_items_in_their_order():
    step = step_of(Sample([f"{i} {{text}}" for i in range(5)], n=3))
    for record in run(step, [{"text": "t"}] * 8), run(step, [{"text": f"t{i}"} for i in range(8)]):
        indices = [r["_prompt_index"] for r in record]
        for i in range(0, len(indices), 3):
            assert indices[i] < indices[i + 1] < indices[i + 2]


def choices(step: LLMStep, rows: list[dict[str, Any]]) -> list[list[tuple[int, ...]]]:
    counter = PlanCounter()
    return [[v.choice for v in step.plan(r, step.token(r, counter))] for r in rows]


def sampled(**more: Any) -> LLMStep:
    return step_of(
        Sample([f"{i} {{text}}" for i in range(6)], n=2, **more),
        model=Sample([echo("x"), echo("y"), echo("z")], n=1),
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.data())
def test_the_same_token_gives_the_same_choice_whatever_stands_around_it(numbers, data):
    rows = [{"text": f"t{n}", "id": i} for i, n in enumerate(numbers)]
    whole = choices(sampled(), rows)
    assert choices(sampled(), rows) == whole
    unused = [{**r, "other": i} for i, r in enumerate(rows)]
    assert choices(sampled(), unused) == whole, "unused columns do not move it"
    gone = data.draw(st.integers(0, len(rows) - 1))
    last_of_its_kind = rows[gone]["text"] not in [r["text"] for r in rows[gone + 1 :]]
    if last_of_its_kind:
        assert (
            choices(sampled(), rows[:gone] + rows[gone + 1 :]) == whole[:gone] + whole[gone + 1 :]
        )


def test_equal_records_and_different_records_are_drawn_apart():
    same = choices(sampled(), [{"text": "t"}] * 30)
    assert len({tuple(c) for c in same}) > 5
    different = choices(sampled(), [{"text": f"t{i}"} for i in range(30)])
    assert len({tuple(c) for c in different}) > 5


def test_another_seed_is_another_choice_and_no_seed_a_fresh_one():
    rows = [{"text": f"t{i}"} for i in range(20)]
    assert choices(sampled(seed=1), rows) != choices(sampled(), rows)
    assert choices(sampled(seed=0), rows) == choices(sampled(), rows)
    assert choices(sampled(seed=None), rows) != choices(sampled(seed=None), rows)


def test_two_sampled_parameters_of_a_step_are_drawn_independently():
    step = step_of(Sample(["a {text}", "b {text}"], n=1), model=Sample([echo("x"), echo("y")], n=1))
    pairs = {(c[0][0], c[0][1]) for c in choices(step, [{"text": f"t{i}"} for i in range(60)])}
    assert pairs == set(product([0, 1], [0, 1]))


def test_every_item_is_drawn_about_as_often():
    step = step_of(Sample([f"{i} {{text}}" for i in range(4)], n=1))
    counts = Counter(c[0][0] for c in choices(step, [{"text": f"t{i}"} for i in range(800)]))
    assert set(counts) == {0, 1, 2, 3}
    assert all(140 < n < 260 for n in counts.values())


# Settings and fingerprint.

CHANGES: list[dict[str, Any]] = [
    {"prompt": "Of {text}"},
    {"prompt": ["On {text}"] * 2},
    {"prompt": Sample(["On {text}", "Of {text}"], n=1)},
    {"prompt": Sample(["On {text}", "Of {text}"], n=1, seed=1)},
    {"output_columns": ["a"]},
    {"output_columns": {"q": int}},
    {"output_columns": {"q": list[str]}},
    {"output_columns": {"q": list[int]}},
    {"model": echo("other")},
    {"model": [echo(), echo("other")]},
    {"temperature": 0.1},
    {"temperature": [0.7, 0.8]},
    {"max_tokens": 10},
    {"top_p": 0.5},
    {"num_outputs": 2},
    {"forward_columns": ["id"]},
    {"exclude_columns": ["id"]},
    {"language": "fr"},
    {"language": {"fr": "Québécois"}},
    {"skip_if": lambda r: r["id"] == 1},
    {"skip_if": lambda r: r["id"] == 2},
    {"system_prompt": "Be brief"},
    {"examples": [{"text": "t", "q": "a"}]},
    {"resample": 1},
    {"extra": {"seed": 1}},
]


def make(changes: dict[str, Any]) -> LLMStep:
    return LLMStep(**{"prompt": "On {text}", "output_columns": ["q"], "model": echo(), **changes})


def test_every_setting_that_changes_the_records_changes_the_fingerprint():
    prints = [step_fingerprint(make(c)) for c in [{}, *CHANGES]]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "changes",
    [
        {"on_error": "raise"},
        {"on_error": "retry"},
        {"max_retries": 9},
        {"retry_delay": 0.1},
        {"extra": {}},
        {"examples": None},
    ],
    ids=str,
)
def test_settings_that_change_no_record_leave_the_fingerprint(changes):
    assert step_fingerprint(make(changes)) == step_fingerprint(make({}))
    assert step_fingerprint(make(changes).as_step("named")) == step_fingerprint(make({}))


def test_use_does_not_change_the_fingerprint():
    step = make({"prompt": Sample(["On {text}", "Of {text}"], n=1)})
    before = step_fingerprint(step)
    (Source.list(ROWS) >> step >> Sink.list()).run()
    _ = step.variants, repr(step), step.calls_per_record
    assert step_fingerprint(step) == before == step_fingerprint(copy.copy(step))


class Own:
    """A user's model: no subclass of Model."""

    provider = "mine"

    def __init__(self, name: str) -> None:
        self.name = name

    def generate(self, prompt, system_prompt=None, temperature=0.7, max_tokens=1024, **more):
        return f"{self.name} says {prompt}"


def test_a_users_model_counts_by_its_name():
    assert keys_of({"model": Own("a")}) != keys_of({"model": Own("b")})
    assert step_fingerprint(make({"model": Own("a")})) == step_fingerprint(
        make({"model": Own("a")})
    )
    assert step_fingerprint(make({"model": Own("a")})) != step_fingerprint(
        make({"model": Own("b")})
    )


def test_config_holds_what_decides_the_answers():
    config = make({"on_error": "raise"}).config()
    assert config["prompt"] == "On {text}"
    assert isinstance(config["model"], Model)
    assert not {"on_error", "max_retries", "retry_delay", "variants", "models"} & set(config)
    assert not [name for name in config if name.startswith("_")]


def test_describe_tells_model_calls_and_outputs():
    assert make({}).describe() == "fake, → q"
    many = make({"prompt": ["a", "b"], "model": [echo("x"), echo("y")], "num_outputs": 3})
    assert many.describe() == "x + y, 12 calls a record, → q"
    assert "no model" in make({"model": None}).describe()
