"""Keys of paid answers: stable, and different whenever the question is."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import datafast_nb.models
from datafast_nb.errors import MemoError
from datafast_nb.models.base import Message, Model, Request
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.memo import KEY_FIELDS, RequestKeys

IDENTITY = {"provider": "openai", "endpoint": "", "model": "gpt-4o-mini"}
PARAMETERS: dict[str, Any] = {
    "temperature": 0.7,
    "max_tokens": 1024,
    "top_p": None,
    "schema": None,
    "extra": {},
}
MESSAGES: list[Message] = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "Name a colour. é 漢 \x00"},
]


def key(messages: Any = None, identity: Any = None, **changes: Any) -> str:
    keys = RequestKeys(identity or IDENTITY, **(PARAMETERS | changes))
    return keys.key(MESSAGES if messages is None else messages)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Request)])
def test_every_field_of_a_request_is_classified(field: str) -> None:
    in_key, reason = KEY_FIELDS[field]
    assert in_key
    assert reason


def test_every_part_of_a_models_identity_is_classified_as_key() -> None:
    assert all(KEY_FIELDS[name][0] for name in Model().identity())


def _configurable() -> list[type]:
    for module in pkgutil.iter_modules(datafast_nb.models.__path__):
        importlib.import_module(f"datafast_nb.models.{module.name}")
    found: list[type] = [LLMStep]
    todo: list[type] = [Model]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.startswith("datafast_nb.models."):
                found.append(cls)
    return found


def test_every_setting_of_steps_and_models_is_classified() -> None:
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    unclassified = {
        f"{cls.__name__}.{name}"
        for cls in _configurable()
        if "__init__" in vars(cls)
        for name, parameter in list(inspect.signature(cls).parameters.items())
        if name not in KEY_FIELDS and parameter.kind not in variadic
    }
    assert unclassified == set()


def test_keys_and_delivery_settings_stay_out() -> None:
    for name in ("api_key", "timeout_s", "max_retries", "retry_delay", "on_error", "resample"):
        assert KEY_FIELDS[name][0] is False


# Fixed for ever: a change of these asks every stored question again. Raise KEY_VERSION then.
GOLDEN = [
    ({}, "83e9648bafd67cb76c9c1bc4a1f7380901e9291fab05a11417b372ff55369bad"),
    ({"temperature": 0}, "0490b25973f26883e352e46951914d5ce9c81233dcf8f539d3ab810e8ba643b3"),
    (
        {"schema": {"type": "object", "properties": {"b": {}, "a": {}}}},
        "0657a40a38d2330e437a40e1b3c4f08cea98e7e982f04789fafa693b6f540b8b",
    ),
    (
        {"extra": {"seed": 1, "stop": ["\n"]}, "top_p": 0.5, "max_tokens": None},
        "0c5845f7f6f394053a2bcbef16876be15b57e1d46579bdf0cb8dad3fc1a4e1a9",
    ),
    (
        {"messages": [{"role": "user", "content": "\ud800"}]},
        "4546ec0c4cc0154ff450625849026d8abaa69a3837f8a6cc8ea720caf1721b9c",
    ),
]


@pytest.mark.parametrize(("changes", "golden"), GOLDEN)
def test_golden_keys(changes: dict[str, Any], golden: str) -> None:
    assert key(**changes) == golden


GOLDEN_STEPS = {
    "model openai": "bb766bfde632b7ea8fdb868068b2e0428e396e134183b8dc088568003a176700",
    "model anthropic": "fa9778909959106415712432bf6f0d1851648ed3dbc5a8f5821ac3facfa58a6f",
    "model gemini": "37ed31c06da135c35dc1367aa82dc7087cf37801b1791d1957c9113857008322",
    "model compatible": "bb0db64f374a4c58784076edd73e593a1d7d7733fea54f6d8d8287b194e91110",
    "model ollama": "9a26671902b855eac038e393b0e832ca6cfe4315ee5cd8e379a85c09e35295c9",
    "model fake": "5863a79ca53296de3a5c5d652a6af28e15ae2469d54924bd5e7a164a0fd57eed",
    "plain": "bb0db64f374a4c58784076edd73e593a1d7d7733fea54f6d8d8287b194e91110",
    "another model": "07ee278606411e8a055de0af092bf41c5a8fd02c7c982a76099edbf469d7ef59",
    "another address": "6b8b65f25d0c506dacbbe983ecf193434db998c5a6b04f5d0a0261f9c9758c32",
    "prompt": "4d73637cc0da24d126b77004b0888ab65fea5ac243f703782fb5729dfbdc11af",
    "system prompt": "2910ea21daa27374c276d56461f6f03a26ce5b8ad616c32345ed50607a68e20d",
    "examples": "04ca5fef8cbd6d908217200605eb170e47cbaed45b78e809238ba35944fb674d",
    "temperature": "4664875f0f71c99579f1bc3eb50474472bed436a2addcc614b4d0a2c9daa784f",
    "max_tokens": "3799c07ccbce3395344a29a5baa29b8ce49d8be4741626e53b1b33537e423924",
    "top_p": "2c34dd27f06f87c2cd7bab770f84455ae053abeb069100e5e7d7747090fdb1e0",
    "extra": "af1ef799e1d2ec8322bd1933da9bded8d354597029ff8947298bb73df330f497",
    "two columns": "8789c3d29065fb8181c98b69ba14a008b2204758b56a7af08dd5bd29e6d0a3ce",
    "typed columns": "095861d6015699eae12d9ee5c66c207b92a6745725d6c5812942c51ee872a894",
}
"""Of the steps in `step_keys.py`, from template and model to the key."""


@pytest.mark.parametrize("seed", range(6))
def test_keys_of_whole_steps_are_golden_in_every_process(seed: int) -> None:
    script = Path(__file__).with_name("step_keys.py")
    env = {"PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=env, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == GOLDEN_STEPS


def test_whatever_reaches_the_wire_changes_the_key_of_a_step() -> None:
    assert GOLDEN_STEPS["plain"] == GOLDEN_STEPS["model compatible"]
    assert len(set(GOLDEN_STEPS.values())) == len(GOLDEN_STEPS) - 1


def test_order_of_dicts_and_zero_as_float_do_not_matter() -> None:
    turned = [dict(reversed(list(m.items()))) for m in MESSAGES]
    assert key(turned) == key()
    assert key(tuple(MESSAGES)) == key()
    assert key(identity=dict(reversed(list(IDENTITY.items())))) == key()
    assert key(extra={"a": 1, "b": 2}) == key(extra={"b": 2, "a": 1})
    assert key(temperature=0) == key(temperature=0.0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
requests = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {
                    "role": st.sampled_from(["system", "user", "assistant"]),
                    "content": st.text(max_size=8),
                }
            ),
            max_size=3,
        ),
        "identity": st.dictionaries(
            st.text(max_size=4), st.text(max_size=4), min_size=1, max_size=3
        ),
        "temperature": st.none() | st.floats(0, 2),
        "max_tokens": st.none() | st.integers(1, 10**6),
        "top_p": st.none() | st.floats(0, 1),
        "schema": st.none() | st.dictionaries(st.text(max_size=4), json_values, max_size=2),
        "extra": st.dictionaries(st.text(max_size=4), json_values, max_size=2),
    }
)


def _exact(value: Any) -> Any:
    """For comparison as JSON does it, where True is not 1 and -0.0 is not 0.0."""
    if isinstance(value, dict):
        return sorted((k, _exact(v)) for k, v in value.items())
    if isinstance(value, list):
        return [_exact(v) for v in value]
    return repr(value)


@given(requests, requests, st.data())
def test_any_changed_field_changes_the_key(
    one: dict[str, Any], other: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(sorted(one)))
    changed = one | {field: other[field]}
    assert (key(**changed) == key(**one)) == (_exact(changed) == _exact(one))


def test_moving_text_between_messages_changes_the_key() -> None:
    one = [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}]
    other = [{"role": "user", "content": "a"}, {"role": "user", "content": "bc"}]
    assert key(one) != key(other)


def test_what_is_no_json_is_refused_with_the_model() -> None:
    with pytest.raises(MemoError, match="gpt-4o-mini"):
        key(extra={"x": object()})
