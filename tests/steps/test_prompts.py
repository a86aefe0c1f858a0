"""Prompt templates: `{column}` fields and nothing else; data is never a template."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb import FakeModel, LLMStep, RecordError, Source
from datafast_nb.steps.prompts import Template, escape, field_text, is_missing, is_suspicious

TEXTS = st.text(max_size=30)
BRACED = st.text(alphabet=st.sampled_from("{}ab .!:[]0%$\\\n\"'"), max_size=30)
NAMES = st.text(min_size=1, max_size=12).filter(lambda s: not set(s) & set("{}"))
PIECES = st.lists(st.tuples(st.booleans(), NAMES, BRACED | TEXTS), max_size=8)

HOSTILE_DATA = [
    "{",
    "}",
    "{{",
    "}}",
    "{}",
    "{text}",
    "{other}",
    "{0}",
    "{text.__class__}",
    "{text!r}",
    "{text:>200000000}",
    "%s %(text)s",
    "$text ${text}",
    '{"a": {"b": [1, 2]}}',
]


@given(PIECES, st.data())
def test_rendering_is_the_substitution_of_each_field_once(pieces, data):
    record = {name: data.draw(BRACED | TEXTS) for _, name, _ in pieces}
    template = "".join("{" + n + "}" if field else escape(lit) for field, n, lit in pieces)
    wanted = "".join(record[n] if field else lit for field, n, lit in pieces)
    parsed = Template(template)
    assert parsed.render(record) == wanted
    assert list(parsed.fields) == list(dict.fromkeys(n for field, n, _ in pieces if field))


@given(BRACED | TEXTS)
def test_an_escaped_text_renders_to_itself(text):
    assert Template(escape(text)).render({}) == text
    assert Template(escape(text)).fields == ()


@given(BRACED | TEXTS)
def test_any_text_is_a_template_or_refused_with_its_position(text):
    try:
        parsed = Template(text)
    except ValueError as exc:
        found = re.search(r"at line (\d+), column (\d+) ", str(exc))
        assert found, exc
        line, column = map(int, found.groups())
        assert text.split("\n")[line - 1][column - 1] in "{}"
    else:
        # What is no field stands as it was, braces halved.
        gaps = {name: f"<{i}>" for i, name in enumerate(parsed.fields)}
        rendered = parsed.render(gaps)
        assert rendered.count("{") + rendered.count("}") <= text.count("{") + text.count("}")


@pytest.mark.parametrize("value", HOSTILE_DATA)
def test_data_with_braces_is_unchanged(value):
    record = {"text": value, "other": "SECRET"}
    assert Template("Ask: {text}!").render(record) == f"Ask: {value}!"
    assert Template("{text}{text}").render(record) == value + value


@pytest.mark.parametrize("value", HOSTILE_DATA)
def test_data_with_braces_reaches_the_model_unchanged(value):
    model = FakeModel("fine")
    step = LLMStep(
        "Ask: {text}", output_columns=["q"], model=model, system_prompt="On {text} {{sic}}"
    )
    (Source.list([{"text": value, "other": "SECRET"}]) >> step).run()
    [request] = model.requests
    assert [m["content"] for m in request.messages] == [f"On {value} {{sic}}", f"Ask: {value}"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{}}", "{}"),
        ("{{x}}", "{x}"),
        ("{{{x}}}", "{1}"),
        ("{{{{x}}}}", "{{x}}"),
        ("{x}{x}", "11"),
        ('Reply as {{"a": [{{"b": {x}}}]}}', 'Reply as {"a": [{"b": 1}]}'),
        (r"\frac{{a}}{{{x}}}", r"\frac{a}{1}"),
        ("", ""),
        ("no field", "no field"),
    ],
)
def test_doubled_braces_are_literal(template, rendered):
    assert Template(template).render({"x": 1}) == rendered


@pytest.mark.parametrize(
    ("template", "line", "column"),
    [
        ("{", 1, 1),
        ("}", 1, 1),
        ("a}b", 1, 2),
        ("ab\nc{d", 2, 2),
        ("ab\n\n  }", 3, 3),
        ("{a{b}", 1, 1),
        ("{a{{b}}", 1, 1),
        ("{a}}", 1, 4),
        ("{{a}", 1, 4),
        ("{{{", 1, 3),
        ("ok {x} {{ {", 1, 11),
    ],
)
def test_a_lone_brace_is_refused_with_its_place_and_the_remedy(template, line, column):
    with pytest.raises(ValueError, match=f"line {line}, column {column} ") as caught:
        Template(template)
    assert "'{{'" in str(caught.value) and "'}}'" in str(caught.value)


def test_a_lone_brace_is_refused_where_the_step_is_written():
    with pytest.raises(ValueError, match="line 1, column 1"):
        LLMStep('{"a": {text}}', output_columns=["q"])
    with pytest.raises(ValueError, match="line 1, column 4"):
        LLMStep("{text}", system_prompt="as }", output_columns=["q"])


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="a prompt is text, not int"):
        Template(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a.b",
        "a[0]",
        "text!r",
        "text:>10",
        "__class__",
        "0",
        " ",
        "<b>",
        '"a"',
        "ü – 語",
        "a\nb",
        "a'b",
        "",
        "model_dump",
    ],
)
def test_a_field_is_the_name_of_a_column_whatever_it_looks_like(name):
    template = Template("x {" + name + "} y")
    assert template.fields == (name,)
    assert template.render({name: "value", "text": "not this", "a": ["nor this"]}) == "x value y"


@pytest.mark.parametrize("field", ["text.upper", "text[0]", "text!r", "text:>9", "text.__class__"])
def test_there_are_no_attributes_indexes_conversions_or_formats(field):
    with pytest.raises(KeyError) as caught:
        Template("{" + field + "}").render({"text": "abc"})
    assert caught.value.args == (field,)


def test_a_missing_column_is_a_key_error_naming_it():
    with pytest.raises(KeyError) as caught:
        Template("{a} {b}").render({"a": 1})
    assert caught.value.args == ("b",)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        ("", ""),
        (" a ", " a "),
        (0, "0"),
        (2**80, str(2**80)),
        (1.5, "1.5"),
        (float("inf"), "inf"),
        (Decimal("1.50"), "1.50"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 1, 2, 3), "2024-02-29T01:02:03"),
        (
            dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC),
            "2024-02-29T01:02:03+00:00",
        ),
        (dt.time(1, 2), "01:02:00"),
        ([], "[]"),
        ({}, "{}"),
        (["a", 1, None, True], '["a",1,null,true]'),
        ({"é": "ü", "n": [1.5]}, '{"é":"ü","n":[1.5]}'),
        ([dt.date(2024, 2, 29)], '["2024-02-29"]'),
        ([Decimal("1.50")], '["1.50"]'),
        ([2**80], f"[{2**80}]"),
    ],
)
def test_values_stand_as_text(value, text):
    assert field_text(value) == text
    assert Template("<{x}>").render({"x": value}) == f"<{text}>"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_lists_and_dicts_stand_as_json(value):
    assert json.loads(field_text([value])) == [value]
    assert json.loads(field_text({"k": value})) == {"k": value}


@pytest.mark.parametrize(
    "value", [b"", b"abc", [b"abc"], {"a": [b"abc"]}], ids=["empty", "bytes", "list", "nested"]
)
def test_bytes_are_refused_and_never_stand_as_python_code(value):
    with pytest.raises(RecordError, match="decode"):
        Template("{x}").render({"x": value})


@pytest.mark.parametrize("value", ["\ud800", ["a\udfff"]])
def test_half_of_a_surrogate_pair_is_refused(value):
    with pytest.raises(RecordError, match="surrogate"):
        Template("{x}").render({"x": value})


@pytest.mark.parametrize("value", [10**5000, [10**5000]], ids=["alone", "list"])
def test_integers_too_long_to_write_are_refused(value):
    with pytest.raises(RecordError, match="digits"):
        Template("{x}").render({"x": value})


def test_half_of_a_surrogate_pair_is_refused_with_its_column():
    with pytest.raises(RecordError, match="column 'y'"):
        Template("é{x}{y}").render({"x": "ü", "y": "a\ud800"})


def test_a_value_that_is_no_text_costs_its_record_and_no_call():
    model = FakeModel("fine")
    records = [{"x": b"abc"}, {"x": "b"}, {"x": "\ud800"}]
    result = (Source.list(records) >> LLMStep("On {x}", output_columns=["q"], model=model)).run()
    assert [r["x"] for r in result] == ["b"]
    assert [(e.kind, e.record, e.input["x"]) for e in result.errors] == [
        ("prompt", 0, b"abc"),
        ("prompt", 2, "\ud800"),
    ]
    assert model.calls == 1


def test_missing_values_are_counted():
    records = [{"x": None}, {"x": math.nan}, {"x": "a"}]
    step = LLMStep("On {x}", output_columns=["q"], model=FakeModel("fine"))
    result = (Source.list(records) >> step).run()
    assert len(result) == 3
    assert any("'x'" in n and "2 of its records" in n for n in result.info.notes)
    assert [is_missing(v) for v in (None, math.nan, "", 0, [], False)] == [True, True] + [False] * 4


@pytest.mark.parametrize(
    "field", ['"a": 1', "a: b", "a; b", "", "  ", "\n a", "f(x)", "a=1", "</b"]
)
def test_fields_that_look_like_code_are_suspicious(field):
    assert is_suspicious(field)


@pytest.mark.parametrize("field", ["text", "a b", "a.b", "ü", "a-b", "__class__", "a[0]"])
def test_plain_names_are_not_suspicious(field):
    assert not is_suspicious(field)


def test_templates_are_equal_by_text():
    assert Template("a {b}") == Template("a {b}")
    assert hash(Template("a {b}")) == hash(Template("a {b}"))
    assert Template("a {b}") != Template("a {c}")
    assert Template("a") != "a"


def test_long_prompts_are_parsed_in_a_moment():
    for text in ["x" * 2_000_000, "{{ " * 20_000, "{a} " * 50_000, "{" + "y" * 1_000_000]:
        started = time.process_time()
        try:
            Template(text).render({"a": "1"})
        except ValueError:
            assert text.startswith("{y")
        assert time.process_time() - started < 2
