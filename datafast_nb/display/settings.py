"""Settings as displays write them: functions by their code, objects by name, keys not at all."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.functions import function_text
from datafast_nb.display.views import Block, Line, Listing

MAX_SOURCE = 1_200
"""Characters of a function's code."""
MAX_ITEMS = 20
_SECRET = re.compile(
    r"(?i)(api|access|auth)_?key|secret|passw(or)?d|credential|authorization|(^|_)token$"
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def setting_body(
    name: str, value: Any, clean: Callable[[str], str] = str
) -> Line | tuple[Block, ...]:
    """What stands beside a setting's name. `clean` takes out what looks like a key."""
    if _SECRET.search(name):
        return ("set, not shown",)
    source = function_source(value) if inspect.isroutine(value) else ""
    if source:
        return (Listing((formats.clip(clean(source), MAX_SOURCE),)),)
    return (clean(setting_text(value)),)


def setting_text(value: Any, depth: int = 0) -> str:
    """A value in one line, without addresses, and without what a mapping keeps secret."""
    if depth > 3:
        return "…"
    if isinstance(value, (list, tuple)):
        return _some([setting_text(v, depth + 1) for v in value[:MAX_ITEMS]], len(value))
    if isinstance(value, Mapping):
        first = [item for item, _ in zip(value.items(), range(MAX_ITEMS), strict=False)]
        return _some([_pair(key, inner, depth + 1) for key, inner in first], len(value))
    if isinstance(value, type) or inspect.isroutine(value):
        return function_name(value)
    return _ADDRESS.sub("", formats.cell(value))


def function_name(fn: Any) -> str:
    """Name of a function or class; "lambda" for one without."""
    name = getattr(fn, "__name__", None)
    return "lambda" if name == "<lambda>" else formats.cell(name or type(fn).__name__)


def function_source(fn: Any) -> str:
    """Code of a function as it was written; of a lambda that alone. "" where it is not known."""
    code = getattr(fn, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    if code.co_name == "<lambda>":
        found = function_text(fn)
        return "" if found == "lambda" else found
    try:
        return inspect.cleandoc("\n" + inspect.getsource(fn))
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        return ""


def _some(shown: list[str], n: int) -> str:
    more = [f"… +{n - len(shown):,}"] if n > len(shown) else []
    return ", ".join([*shown, *more])


def _pair(key: Any, value: Any, depth: int) -> str:
    name = formats.cell(key, formats.MAX_NAME)
    return f"{name}: {'(not shown)' if _SECRET.search(name) else setting_text(value, depth)}"
