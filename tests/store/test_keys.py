"""Keys of paid answers: stable, and different whenever the question is."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys
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


@pytest.mark.parametrize("seed", ["0", "1", "5"])
def test_key_is_the_same_in_another_process(seed: str) -> None:
    code = (
        "from datafast_nb.store.memo import RequestKeys\n"
        f"print(RequestKeys({IDENTITY!r}, **{PARAMETERS!r}).key({MESSAGES!r}))"
    )
    env = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert ran.stdout.strip() == key(), ran.stderr


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
