"""Templates against the oracle of the fuzz target, and through a whole LLM step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.steps.prompts import Template, escape
from properties.scale import many

sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz import template as target

BRACED = st.text(alphabet=st.sampled_from('{}ab .!:[]0%$\\\n"\u2028é'), max_size=25)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: not set(name) & set("{}")
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | BRACED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a{b}c", [("text", "a"), ("field", "b"), ("text", "c")]),
        ("{{{x}}}", [("text", "{"), ("field", "x"), ("text", "}")]),
        ("{}", [("field", "")]),
        ("{a", None),
        ("{a{b}", None),
        ("a}}}", None),
    ],
)
def test_the_oracle_is_right_about_what_is_known(
    text: str, tokens: list[tuple[str, str]] | None
) -> None:
    assert target.oracle(text) == tokens


@settings(max_examples=many(300, 20_000))
@given(
    text=BRACED | st.text(max_size=20), values=st.lists(BRACED | st.text(max_size=6), max_size=4)
)
def test_any_text_is_refused_or_rendered_token_by_token(text: str, values: list[str]) -> None:
    parts = [part.encode("utf-8", "surrogatepass") for part in (text, *values)]
    target.check(b"\x1e".join(part.replace(b"\x1e", b"") for part in parts))


@settings(max_examples=many(60, 2_000))
@given(
    pieces=st.lists(st.tuples(st.booleans(), NAMES, BRACED), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_model_is_asked_what_the_substitution_gives(
    new_home: Any, pieces: list[tuple[bool, str, str]], data: st.DataObject
) -> None:
    new_home()
    record = {"id": 0} | {name: data.draw(BRACED) for _, name, _ in pieces}
    prompt = "".join("{" + name + "}" if field else escape(text) for field, name, text in pieces)
    wanted = "".join(str(record[name]) if field else text for field, name, text in pieces)
    model = dfn.FakeModel("fine")
    step = dfn.LLMStep(prompt, output_columns=["an answer"], model=model, overwrite=True)
    (dfn.Source.list([record]) >> step).run(show_progress=False)
    assert [r.messages[-1]["content"] for r in model.requests] == [wanted]


@given(value=DATA, other=DATA)
def test_data_is_never_a_template(value: Any, other: Any) -> None:
    record = {"x": value, "y": other}
    try:
        both = Template("{x}|{y}").render(record)
        alone = [Template("{" + name + "}").render(record) for name in "xy"]
    except dfn.RecordError:
        return
    assert both == "|".join(alone)
    assert not isinstance(value, str) or alone[0] == value


def test_half_a_surrogate_pair_is_refused_also_where_a_prompt_has_no_field() -> None:
    with pytest.raises(dfn.RecordError, match=r"the prompt's own text .*surrogate"):
        Template("no field \ud800").render({})
