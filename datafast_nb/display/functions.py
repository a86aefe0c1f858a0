"""Functions of users as text: a lambda as it was written, others by their names."""

from __future__ import annotations

import ast
import inspect
import linecache
from types import CodeType
from typing import Any

MAX_SOURCE = 4_000
"""Characters of source in which a lambda is looked for."""


def function_text(fn: Any) -> str:
    """`lambda r: r["n"] > 1` where its source can be found, else the function's name."""
    name = str(getattr(fn, "__name__", type(fn).__name__))
    if name != "<lambda>":
        return name
    try:
        found = _lambda_in(_source(fn.__code__), fn.__code__)
    except Exception:  # source that is gone, half a line of it, edited since
        found = None
    return "lambda" if found is None else found


def condition_text(fn: Any) -> str:
    """What a lambda says after its colon; "" for other functions."""
    said = function_text(fn)
    return said.partition(": ")[2] if said.startswith("lambda") else ""


def _source(code: CodeType) -> str:
    """Source from the line where the function starts on."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    last = max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)
    return "".join(lines[code.co_firstlineno - 1 : last + 2])[:MAX_SOURCE]


def _lambda_in(source: str, code: CodeType) -> str | None:
    """The first lambda in a piece of source that compiles to `code`, on one line."""
    start = source.find("lambda")
    while start >= 0:
        end = len(source)
        while end > start:
            # Shorter and shorter, from one closing place to the next, until it is an expression.
            text = source[start:end].rstrip()
            wrapped = f"({text}\n)"  # in brackets it may go over several lines
            try:
                found = ast.parse(wrapped, mode="eval").body
            except (SyntaxError, ValueError):
                end = max(source.rfind(c, start, end) for c in ",)]}#\n")
                continue
            found = found.elts[0] if isinstance(found, ast.Tuple) else found
            if not isinstance(found, ast.Lambda):  # a call: `lambda r: 1).as_step("x"`
                end = max(source.rfind(c, start, end) for c in ",)]}#\n")
                continue
            if _is_same(found, code):
                written = ast.get_source_segment(wrapped, found) or ""
                return ast.unparse(found) if "\n" in written else written
            break
        start = source.find("lambda", start + 6)
    return None


def _is_same(found: ast.Lambda, code: CodeType) -> bool:
    whole = compile(ast.Expression(found), "<lambda>", "eval")
    made = next((c for c in whole.co_consts if inspect.iscode(c)), None)
    if made is None:
        return False
    if code.co_freevars:  # names of an enclosing function are globals in the piece
        return made.co_varnames == code.co_varnames and _constants(made) == _constants(code)
    return made.co_code == code.co_code and _names(made) == _names(code)


def _names(code: CodeType) -> tuple[object, ...]:
    return code.co_names, code.co_varnames, _constants(code)


def _constants(code: CodeType) -> list[str]:
    return [repr(c) for c in code.co_consts if not inspect.iscode(c) and not isinstance(c, str)] + [
        c for c in code.co_consts if isinstance(c, str) and "<" not in c
    ]
