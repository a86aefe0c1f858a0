"""Replies against declared outputs: values of the schema, or Unusable with a reason."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import time
from decimal import Decimal
from typing import Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, field_validator

from datafast_nb import FakeModel, LLMStep, Sink, Source
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.models.verdicts import CORRECTABLE, judge
from datafast_nb.records import normalise_records
from datafast_nb.steps.outputs import OutputSpec, Unusable


class Point(BaseModel):
    x: int
    label: str | None = None


class Answer(BaseModel):
    title: str
    score: float
    points: list[Point]
    kind: Literal["a", "b"] = "a"


TYPES: dict[str, Any] = {
    "texts": list[str],
    "n": int,
    "share": float,
    "yes": bool,
    "kind": Literal["easy", "hard"],
    "note": Optional[str],  # noqa: UP045  # both spellings are used by people
    "point": Point,
    "day": dt.date,
    "anything": Any,
    "table": dict[str, int],
}
GOOD: dict[str, Any] = {
    "texts": ["a", "b"],
    "n": 3,
    "share": 0.5,
    "yes": True,
    "kind": "easy",
    "note": None,
    "point": {"x": 1, "label": "p"},
    "day": "2024-02-29",
    "anything": [1, {"a": None}],
    "table": {"a": 1},
}
SPECS: dict[str, Any] = {
    "text": ["q"],
    "names": ["q", "a"],
    "typed": {"n": int, "texts": list[str], "kind": Literal["easy", "hard"], "any": Any},
    "model": Answer,
}
ODD_NAMES = ["model_dump", "a b", "_x", "__class__", "c0", "class", "ü", "model_fields", "schema"]


def fails(spec: OutputSpec, text: str) -> Unusable:
    with pytest.raises(Unusable) as caught:
        spec.parse(text)
    assert caught.value.reason
    assert caught.value.verdict in CORRECTABLE | {"empty"} and caught.value.advice
    return caught.value


# Any text.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["q", "a", "n", "texts", "kind", "any", "title", "score", "points"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
REPLIES = (
    st.text(max_size=60)
    | JSON.map(json.dumps)
    | JSON.map(lambda v: f"```json\n{json.dumps(v)}\n```")
    | st.text(alphabet=st.sampled_from('{}[]",:\\`qa1e.-+ \nnulltrufs'), max_size=60)
)


@pytest.mark.parametrize("kind", SPECS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@example(text='{"q": "\\ud800", "a": "\\udfff x"}')
@example(text='{"n": 1e999, "texts": [], "kind": "easy", "any": 1e999}')
@example(text='{"n": 1, "texts": ["\\ud800"], "kind": "easy", "any": {"\\ud800": ["\\ud800"]}}')
@example(text='{"title": "", "score": -1e999, "points": []}')
@example(text='{"n": 1, "texts": [], "kind": "easy", "any": ' + "[" * 150 + "]" * 150 + "}")
@example(text="[" * 50_000)
@example(text='{"q":' * 50_000)
@example(text="9" * 10_000)
@example(text="\ufeff{}")
@given(text=REPLIES)
def test_any_text_gives_values_of_the_schema_or_is_unusable(kind, text):
    spec = OutputSpec(SPECS[kind])
    try:
        values = spec.parse(text)
    except Unusable as exc:
        assert exc.verdict in CORRECTABLE | {"empty"} and exc.reason
        return
    assert list(values) == spec.columns
    [record], _ = normalise_records([values], where=str)
    assert record == values, "values are plain"
    written = json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # text, and finite
    if kind in ("text", "names"):
        assert all(type(v) is str for v in values.values())
    elif kind == "model":
        Answer.model_validate_json(written)
    else:
        for name, declared in SPECS[kind].items():
            TypeAdapter(declared).validate_python(values[name], strict=True)


RUNAWAY = {
    "spaces": " " * 50_000,
    "fence, then spaces": "```json\n" + " " * 50_000,
    "fence, then lines": "```json\n" + "\n" * 50_000,
    "fence, object, then spaces": '```json\n{"q": "x",' + " " * 50_000,
    "fence, then tabs and spaces": "```\n" + "\t " * 25_000,
    "closed fence, spaces, more": "```\n{}\n```" + " " * 50_000 + "x",
    "fences": "```\n" * 100_000,
    "quotes": '"' * 300_000,
    "commas": "[" + "," * 300_000 + "]",
    "commas and spaces": "[" + ", ]" * 100_000,
    "open brackets": "[" * 50_000,
    "open objects": '{"q":' * 50_000,
    "nested": "[" * 50_000 + "]" * 50_000,
    "nested, with a trailing comma": "[" * 50_000 + "1," + "]" * 50_000,
    "backslashes": '{"q": "' + "\\" * 300_000,
    "digits": '{"q": ' + "9" * 300_000 + "}",
    "exponent": '{"q": 1e' + "9" * 300_000 + "}",
    "keys": "{" + ",".join(f'"k{i}": 1' for i in range(30_000)) + "}",
}


@pytest.mark.parametrize("kind", ["names", "typed", "model"])
@pytest.mark.parametrize("text", RUNAWAY.values(), ids=RUNAWAY)
def test_a_runaway_reply_is_unusable_within_a_second(kind, text):
    started = time.process_time()
    fails(OutputSpec(SPECS[kind]), text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("depth", [110, 500, 900, 50_000])
@pytest.mark.parametrize("declared", [{"a": Any}, {"a": list}, {"a": dict[str, Any]}])
def test_deep_nesting_is_unusable_where_it_cannot_be_kept(declared, depth):
    for text in ("[" * depth + "]" * depth, '{"b": ' * depth + "1" + "}" * depth):
        assert fails(OutputSpec(declared), f'{{"a": {text}}}').verdict == "too_deep"


# No part of a reply passes for the whole.

WHOLE = st.fixed_dictionaries({"q": st.text(max_size=12), "a": st.text(max_size=12)})


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "```\n{}```", "\n {} \n"])
@given(values=WHOLE)
def test_no_part_of_a_reply_gives_shortened_values(form, ascii_only, values):
    text = form.replace("{}", json.dumps(values, ensure_ascii=ascii_only))
    spec = OutputSpec(["q", "a"])
    assert spec.parse(text) == values
    for end in range(len(text)):
        try:
            part = spec.parse(text[:end])
        except Unusable:
            continue
        assert part == values


@pytest.mark.parametrize("indent", [None, 2])
def test_no_part_of_a_typed_reply_gives_other_values(indent):
    spec = OutputSpec(TYPES)
    text = f"```json\n{json.dumps(GOOD, indent=indent)}\n```\n"
    whole = spec.parse(text)
    for end in range(len(text)):
        try:
            part = spec.parse(text[:end])
        except Unusable:
            continue
        assert part == whole


@pytest.mark.parametrize(
    "text",
    [
        '{"q": "a cut val',
        '{"q": "x", "a": "y"',
        '{"q": "x", "a": "y',
        '{"q": "x", "a": "y",',
        '```json\n{"q": "x", "a": "y"}',
        '```json\n{"q": "x", "a": "y"}\n``',
        'Here you are: {"q": "x", "a": "y"}',
        '{"q": "x", "a": "y"} I hope this helps',
        '{"q": "x", "a": "y"}{"q": "x", "a": "y"}',
        "{'q': 'x', 'a': 'y'}",
        '{"q": "x" "a": "y"}',
        '{q: "x", a: "y"}',
        '{"q": "x",, "a": "y"}',
        '{"q": "x", "a": "y",,}',
        '{"q": "line\nbreak", "a": "y"}',
        "prose",
    ],
)
def test_what_is_not_json_is_unparsable(text):
    assert fails(OutputSpec(["q", "a"]), text).verdict == "unparsable"


# The repairs.


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"q": "x", "a": "y"}\n```',
        '```\n{"q": "x", "a": "y"}\n```',
        '```JSON \r\n{"q": "x", "a": "y"}\r\n```\n\n',
        '  \n```json5\n\n{"q": "x", "a": "y"}\n\n  ```  ',
        '{"q": "x", "a": "y",}',
        '{"q": "x", "a": "y" , \n }',
        '```json\n{"q": "x", "a": "y",}\n```',
        '\n\t{"q": "x", "a": "y"}\n',
    ],
)
def test_fences_and_trailing_commas_are_mended(text):
    assert OutputSpec(["q", "a"]).parse(text) == {"q": "x", "a": "y"}


@given(
    st.lists(
        st.text(alphabet=st.sampled_from(',]}{[" \\ab`\n'), max_size=8), min_size=1, max_size=4
    )
)
def test_mending_a_comma_changes_no_text(texts):
    text = json.dumps({"texts": texts})
    mended = text[:-2] + ",]" + ",}"
    assert OutputSpec({"texts": list[str]}).parse(mended) == {"texts": texts}


def test_a_fence_inside_a_text_stays():
    values = {"q": "```python\nprint(1)\n```", "a": "y"}
    spec = OutputSpec(["q", "a"])
    assert spec.parse(json.dumps(values)) == values
    assert spec.parse(f"```json\n{json.dumps(values)}\n```") == values


# What is refused.


@pytest.mark.parametrize(
    "text",
    [
        '{"q": "x", "q": "y", "a": "z"}',
        '{"q": "x", "a": "z", "a": "z"}',
        '```json\n{"q": "x", "q": "y", "a": "z"}\n```',
    ],
)
def test_duplicate_keys_are_refused(text):
    bad = fails(OutputSpec(["q", "a"]), text)
    assert bad.verdict == "duplicate_keys" and "twice" in bad.reason


def test_duplicate_keys_inside_a_value_are_refused():
    for text in ('{"point": {"x": 1, "x": 2}}', '{"point": {"x": 1, "x": 2},}'):
        assert fails(OutputSpec({"point": Point}), text).verdict == "duplicate_keys"


class Scored(BaseModel):
    score: float


class Inner(BaseModel):
    parts: list[Scored]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    ("declared", "form"),
    [
        ({"score": float}, '{"score": %s}'),
        ({"scores": list[float]}, '{"scores": [1.0, %s]}'),
        ({"score": Any}, '{"score": %s}'),
        (Scored, '{"score": %s}'),
        (Inner, '{"parts": [{"score": %s}]}'),
        ({"inner": Scored}, '{"inner": {"score": %s}}'),
    ],
    ids=["float", "list", "any", "model", "nested model", "model in a dict"],
)
def test_numbers_that_are_none_are_refused(declared, form, number):
    assert fails(OutputSpec(declared), form % number).verdict == "not_finite"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "an array"),
        ('[{"q": "x", "a": "y"}]', "an array"),
        ('"text"', "text"),
        ("3", "a number"),
        ("null", "null"),
        ("true", "a boolean"),
    ],
)
@pytest.mark.parametrize("kind", ["names", "typed", "model"])
def test_what_is_no_object_has_the_wrong_schema(kind, text, what):
    bad = fails(OutputSpec(SPECS[kind]), text)
    assert bad.verdict == "wrong_schema"
    assert what in bad.reason


@pytest.mark.parametrize("kind", ["names", "typed", "model"])
def test_a_missing_key_has_the_wrong_schema_and_is_named(kind):
    spec = OutputSpec(SPECS[kind])
    good = {
        "names": {"q": "x", "a": "y"},
        "typed": {"n": 1, "texts": [], "kind": "easy", "any": 0},
        "model": {"title": "t", "score": 1, "points": []},
    }[kind]
    spec.parse(json.dumps(good))
    for name in good:
        rest = {k: v for k, v in good.items() if k != name}
        bad = fails(spec, json.dumps(rest))
        assert bad.verdict == "wrong_schema"
        assert name in bad.reason


@pytest.mark.parametrize("extra", ["_model", "id", "__class__", "model_dump", "text", "c0"])
def test_extra_keys_are_ignored_and_overwrite_nothing(extra):
    reply = json.dumps({"q": "x", "a": "y", extra: "forged"})
    assert OutputSpec(["q", "a"]).parse(reply) == {"q": "x", "a": "y"}
    assert OutputSpec({"q": str, "a": Any}).parse(reply) == {"q": "x", "a": "y"}
    step = LLMStep("On {text}", output_columns=["q", "a"], model=FakeModel(reply, name="real"))
    [record] = (Source.list([{"id": 1, "text": "t"}]) >> step).run()
    assert record == {"id": 1, "text": "t", "q": "x", "a": "y", "_model": "real"}


@pytest.mark.parametrize("value", ["1", "null", "true", '["x"]', '{"x": "y"}'])
def test_a_text_column_takes_only_text(value):
    bad = fails(OutputSpec(["q", "a"]), f'{{"q": {value}, "a": "y"}}')
    assert bad.verdict == "wrong_type"
    assert "'q'" in bad.reason
    fails(OutputSpec({"q": str}), f'{{"q": {value}}}')


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
@pytest.mark.parametrize("kind", SPECS)
def test_an_empty_reply_is_empty(kind, text):
    assert fails(OutputSpec(SPECS[kind]), text).verdict == "empty"


# Values.


def test_one_text_column_is_the_reply_itself_stripped():
    assert OutputSpec("q").parse(' {"q": 1}\n') == {"q": '{"q": 1}'}
    assert OutputSpec(["q"]).schema() is None


def test_typed_columns_give_typed_values():
    assert OutputSpec(TYPES).parse(json.dumps(GOOD)) == {
        **GOOD,
        "day": dt.date(2024, 2, 29),
        "point": {"x": 1, "label": "p"},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("texts", "a"),
        ("texts", ["a", 1]),
        ("texts", [["a"]]),
        ("texts", {"0": "a"}),
        ("texts", None),
        ("n", "three"),
        ("n", 1.5),
        ("n", None),
        ("share", "much"),
        ("yes", "maybe"),
        ("yes", 2),
        ("note", 3),
        ("point", [1]),
        ("point", {"x": "far"}),
        ("day", "tomorrow"),
        ("table", {"a": "b"}),
    ],
)
def test_values_of_another_type_have_the_wrong_type(name, value):
    bad = fails(OutputSpec(TYPES), json.dumps({**GOOD, name: value}))
    assert bad.verdict == "wrong_type"
    assert name in bad.reason


@pytest.mark.parametrize(("name", "value"), [("kind", "Easy"), ("point", {"label": "p"})])
def test_values_that_are_not_among_those_asked_for_have_the_wrong_schema(name, value):
    bad = fails(OutputSpec(TYPES), json.dumps({**GOOD, name: value}))
    assert bad.verdict == "wrong_schema"
    assert name in bad.reason


def test_integers_of_any_size_are_kept():
    assert OutputSpec({"n": int}).parse(f'{{"n": {2**80}}}') == {"n": 2**80}


def test_a_pydantic_model_gives_its_fields_and_defaults():
    values = OutputSpec(Answer).parse('{"title": "t", "score": 1, "points": [{"x": 1}]}')
    assert values == {
        "title": "t",
        "score": 1.0,
        "points": [{"x": 1, "label": None}],
        "kind": "a",
    }
    assert type(values["points"][0]) is dict


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        (UUID, "12345678-1234-5678-1234-567812345678"),
        (dt.timedelta, "PT1H"),
        (Level, "low"),
        (Decimal, "1.50"),
        (set[str], ["a"]),
        (tuple[int, str], [1, "a"]),
        (bytes, "abc"),
        (dt.datetime, "2024-02-29T01:02:03Z"),
    ],
    ids=["uuid", "timedelta", "enum", "decimal", "set", "tuple", "bytes", "datetime"],
)
def test_types_whose_values_are_no_json_give_plain_values_or_are_refused_before_a_call(
    declared, sent
):
    try:
        spec = OutputSpec({"v": declared})
    except TypeError:
        return
    values = spec.parse(json.dumps({"v": sent}))
    [record], _ = normalise_records([values], where=str)
    assert record == values


def test_a_value_that_is_no_json_changes_none_beside_it():
    spec = OutputSpec({"v": dict[int, Any], "w": tuple[UUID, dt.date, Level]})
    sent = "12345678-1234-5678-1234-567812345678"
    values = spec.parse(json.dumps({"v": {"1": 2}, "w": [sent, "2024-02-29", "low"]}))
    assert values == {"v": {"1": 2}, "w": [sent, dt.date(2024, 2, 29), "low"]}


@pytest.mark.parametrize("error", [KeyError, RuntimeError, RecursionError, ZeroDivisionError])
def test_an_error_of_the_users_own_validator_leaves_the_reply_unreadable(error):
    class Odd(BaseModel):
        a: str

        @field_validator("a")
        @classmethod
        def check(cls, value: str) -> str:
            raise error("odd")

    with pytest.raises(Unusable, match=f"reading the reply raised {error.__name__}") as caught:
        OutputSpec(Odd).parse('{"a": "x"}')
    assert caught.value.verdict == "unreadable"


class Aliased(BaseModel):
    title: str = Field(alias="the title")


@pytest.mark.parametrize(
    ("declared", "row"),
    [
        (["q"], {"q": "x"}),
        (["q", "a"], {"q": "x {y}", "a": 'z"'}),
        (TYPES, {**GOOD, "day": dt.date(2024, 2, 29)}),
        (Answer, {"title": "t", "score": 0.5, "points": [{"x": 1, "label": None}], "kind": "b"}),
        (Aliased, {"title": "t"}),
    ],
    ids=["text", "names", "typed", "model", "aliased model"],
)
def test_an_example_is_a_reply_that_gives_its_values(declared, row):
    spec = OutputSpec(declared)
    assert spec.parse(spec.example_text({**row, "other": object()})) == row


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("form", ["names", "one typed", "typed"])
def test_columns_may_have_odd_names(name, form):
    declared: Any = {
        "names": [name, "q"],
        "one typed": {name: str},
        "typed": {"q": str, name: list[str]},
    }[form]
    spec = OutputSpec(declared)
    value = ["x"] if form == "typed" else "x"
    reply = {"q": "y", name: value}
    wanted = {c: reply[c] for c in spec.columns}
    assert spec.parse(json.dumps(reply)) == wanted
    assert set(spec.schema()["properties"]) == set(wanted)
    assert spec.parse(spec.example_text(reply)) == wanted


@pytest.mark.parametrize("kind", ["names", "typed", "model"])
def test_schemas_close_their_objects_and_require_every_key(kind):
    def look(part: Any) -> int:
        if isinstance(part, list):
            return sum(look(p) for p in part)
        if not isinstance(part, dict):
            return 0
        n = 0
        if part.get("type") == "object" and "properties" in part:
            assert part["additionalProperties"] is False
            assert part["required"] == list(part["properties"])
            n = 1
        return n + sum(look(p) for p in part.values())

    spec = OutputSpec(SPECS[kind])
    schema = spec.schema()
    assert list(schema["properties"]) == spec.columns
    assert look(schema) == (2 if kind == "model" else 1)
    json.dumps(schema)


@pytest.mark.parametrize("kind", ["names", "typed", "model"])
def test_a_value_made_from_the_schema_is_usable(kind):
    step = LLMStep("On {x}", output_columns=SPECS[kind], model=FakeModel())
    [record] = (Source.list([{"x": 1}]) >> step).run()
    assert set(step.spec.columns) <= set(record)


# Half characters.

HALVES = [
    '{"q": "\\ud800", "a": "x"}',
    '{"q": "ok \\udc00!", "a": "x"}',
    '{"q": "\ud800", "a": ""}',
]


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("declared", [["q", "a"], {"q": str, "a": Any}, {"q": Any, "a": Any}])
def test_escapes_of_half_a_surrogate_pair_never_become_data(declared, text):
    try:
        values = OutputSpec(declared).parse(text)
    except Unusable:
        return
    values["q"].encode()


def test_escapes_of_half_a_surrogate_pair_do_not_cost_the_file(tmp_path):
    def answer(request):
        half = "one" in str(request.messages)
        return '{"q": "\\ud800", "a": "x"}' if half else {"q": "fine", "a": "x"}

    step = LLMStep("On {x}", output_columns=["q", "a"], model=FakeModel(answer))
    path = tmp_path / "out.jsonl"
    (Source.list([{"x": "one"}, {"x": "two"}]) >> step >> Sink.jsonl(path)).run()
    assert '"fine"' in path.read_text("utf-8")


def test_whole_surrogate_pairs_are_characters():
    assert OutputSpec(["q", "a"]).parse('{"q": "\\ud83d\\ude00", "a": "\\u0000"}') == {
        "q": "😀",
        "a": "\x00",
    }


# How a reply ended.


ASKED = Request(({"role": "user", "content": "?"},), max_tokens=50)
ENDS: dict[str, tuple[Response, str]] = {
    "refused": (Response("fine", finish="refused"), "refused"),
    "filtered": (Response("fine", finish="filtered"), "filtered"),
    "cut": (Response("fine", finish="length"), "cut"),
    "cut to nothing": (Response("", finish="length"), "cut"),
    "cut, with few thoughts": (
        Response("fine", finish="length", usage=Usage(1, 50, 0, 20)),
        "cut",
    ),
    "cut, mostly thoughts": (
        Response("fine", finish="length", usage=Usage(1, 50, 0, 30)),
        "cut_by_reasoning",
    ),
    "all thoughts": (Response("", finish="length", usage=Usage(1, 50, 0, 50)), "cut_by_reasoning"),
    "thoughts that nobody counted": (
        Response(" ", finish="length", has_thoughts=True),
        "cut_by_reasoning",
    ),
    "cut while thinking aloud": (Response("<think>Hm, ", finish="length"), "cut_by_reasoning"),
    "cut after thinking aloud": (Response("<think>Hm</think>Th", finish="length"), "cut"),
}


@pytest.mark.parametrize("name", ENDS)
def test_replies_that_ended_badly_are_unusable_whatever_they_say(name):
    response, verdict = ENDS[name]
    values, bad = judge(response, ASKED, OutputSpec("q").parse)
    assert values is None and bad is not None and bad.verdict == verdict
    if response.finish == "length":
        assert "max_tokens of 50" in bad.reason and "raise max_tokens" in bad.reason
    assert ("effort" in bad.reason) == (verdict == "cut_by_reasoning")


@pytest.mark.parametrize("finish", ["stop", "other"])
def test_replies_that_ended_well_are_read(finish):
    response = Response("fine", finish=finish, has_thoughts=True, usage=Usage(1, 50, 0, 49))
    assert judge(response, ASKED, OutputSpec("q").parse) == ({"q": "fine"}, None)


def test_judging_raises_nothing_whatever_the_reader_does():
    def explode(text):
        raise KeyError("x")

    values, bad = judge(Response("fine"), ASKED, explode)
    assert values is None and bad is not None and bad.verdict == "unreadable"


# Declarations.


@pytest.mark.parametrize(
    ("declared", "error", "message"),
    [
        ([], ValueError, "empty"),
        ({}, ValueError, "empty"),
        (["q", "q"], ValueError, "twice"),
        ([""], TypeError, "non-empty"),
        ([1], TypeError, "non-empty"),
        ({1: str}, TypeError, "non-empty"),
        (5, TypeError, "list of names"),
        (int, TypeError, "list of names"),
    ],
)
def test_declarations_that_say_nothing_are_refused(declared, error, message):
    with pytest.raises(error, match=message):
        OutputSpec(declared)


def test_a_dict_of_texts_is_a_list_of_names():
    assert OutputSpec({"q": str, "a": str}).schema() == OutputSpec(["q", "a"]).schema()


def test_numbers_given_as_floats_are_finite():
    assert math.isclose(OutputSpec({"s": float}).parse('{"s": 1e-5}')["s"], 1e-5)
