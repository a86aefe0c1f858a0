"""Fingerprints: what changes when a step, or a function it calls, is edited."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from datafast_nb.models.base import Model
from datafast_nb.records import canonical_json
from datafast_nb.steps.base import SourceStep, Step
from datafast_nb.steps.expansion import as_model


def step_fingerprint(step: Step) -> str:
    """16 hex digits that change when the step's settings change.

    Functions, also those of a user's step class, count by code, defaults, closure and the
    plain globals they use; anything else is opaque and counts by its type alone.
    """
    seen: dict[int, int] = {}
    config = {k: _plain(v, 0, seen) for k, v in sorted(step.config().items())}
    body = [type(step).__qualname__, config]
    for cls in type(step).__mro__:
        if cls.__module__.partition(".")[0] == "datafast_nb":
            break
        methods = {k: v for k, v in sorted(vars(cls).items()) if isinstance(v, types.FunctionType)}
        body.append(_plain(methods, 0, seen))
    if isinstance(step, SourceStep):
        body.append(step.content())
    return sha256(canonical_json(body)).hexdigest()[:16]


def setting_fingerprints(step: Step) -> dict[str, str]:
    """12 hex digits for each setting, to tell which of them changed; "content" of a source."""
    found = {k: _plain(v, 0, {}) for k, v in step.config().items()}
    if isinstance(step, SourceStep):
        found["content"] = step.content()
    return {k: sha256(canonical_json(v)).hexdigest()[:12] for k, v in found.items()}


MAX_ITEMS = 1000
"""Longer lists and dicts count by a hash of their JSON."""


def _plain(value: Any, depth: int, seen: dict[int, int]) -> Any:
    """`seen`: functions met so far, so that those that call each other are looked at once."""
    if depth > 6:
        return "…"
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, Model):
        return value.identity()
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        if len(value) > MAX_ITEMS:
            return [type(value).__name__, len(value), _digest(value)]
        if isinstance(value, Mapping):
            return [
                [_plain(k, depth + 1, seen), _plain(v, depth + 1, seen)] for k, v in value.items()
            ]
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [_plain(v, depth + 1, seen) for v in items]
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, Step):
        return [type(value).__qualname__, _plain(value.config(), depth + 1, seen)]
    if typing.get_origin(value) is not None:  # list[str], Literal["a"], str | None
        return [str(typing.get_origin(value)), _plain(typing.get_args(value), depth + 1, seen)]
    if isinstance(value, type):
        name = f"{value.__module__}.{value.__qualname__}"
        fields = getattr(value, "model_fields", None)
        if not isinstance(fields, dict) or id(value) in seen:
            return name
        seen[id(value)] = len(seen)
        return [
            name,
            {
                k: [_plain(f.annotation, 0, seen), _plain(f.default, 0, seen), repr(f.metadata)]
                for k, f in fields.items()
            },
        ]
    if type(value).__module__ == "typing":  # Any
        return repr(value)
    if dataclasses.is_dataclass(value):
        return [
            type(value).__qualname__,
            {
                f.name: _plain(getattr(value, f.name, None), depth + 1, seen)
                for f in dataclasses.fields(value)
            },
        ]
    if hasattr(value, "generate") or hasattr(value, "complete"):
        return as_model(value).identity()
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _digest(value: Any) -> str:
    """Hash of many plain values; "" where some have no JSON."""
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    elif isinstance(value, Mapping):
        value = list(value.items())
    try:
        return sha256(canonical_json(value)).hexdigest()
    except TypeError:
        return ""


def _function(fn: types.FunctionType, seen: dict[int, int]) -> Any:
    if id(fn) in seen:
        return ["function", seen[id(fn)]]
    seen[id(fn)] = len(seen)
    closure = []
    for cell in fn.__closure__ or ():
        try:
            closure.append(_plain(cell.cell_contents, 1, seen))
        except ValueError:  # not yet filled: the function refers to itself
            closure.append("…")
    used = {
        name: _plain(fn.__globals__[name], 1, seen)
        for name in sorted(_global_names(fn.__code__))
        if name in fn.__globals__ and isinstance(fn.__globals__[name], _PLAIN_GLOBALS)
    }
    return [
        _code(fn.__code__),
        _plain(fn.__defaults__, 1, seen),
        _plain(fn.__kwdefaults__, 1, seen),
        closure,
        used,
    ]


_PLAIN_GLOBALS = (
    str, int, float, bool, bytes, list, tuple, dict, set, frozenset, types.FunctionType, type(None),
)  # fmt: skip


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _global_names(const)
    return names


def _code(code: types.CodeType) -> list[Any]:
    consts = [_code(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    return [
        code.co_code.hex(),
        consts,
        list(code.co_names),
        list(code.co_varnames[: code.co_argcount]),
    ]


def _constant(value: Any) -> str:
    # The order of a frozenset's repr depends on the process.
    return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)
