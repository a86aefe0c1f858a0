"""Runs the code blocks of examples.md as they stand there."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

FILE = Path(__file__).with_name("examples.md")
Names = Mapping[str, Any]


def _block(name: str) -> tuple[int, list[str]]:
    """Number of the first line, and the lines, of the block under a heading."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    start = lines.index(f"## {name}") + 3
    return start + 1, lines[start : lines.index("```", start)]


def _fill(code: str, n_rest: int) -> str:
    """Put the reader's part for each `...` outside of strings: `**rest[0]`, or a step."""
    tokens = list(tokenize.generate_tokens(io.StringIO(f"(\n{code}\n)").readline))
    places = [t.start for t in tokens if t.type == tokenize.OP and t.string == "..."]
    assert len(places) == n_rest, f"{len(places)} places to fill"
    lines = code.split("\n")
    for i, (row, column) in reversed(list(enumerate(places))):
        line = lines[row - 2]
        stars = "" if line[:column].endswith(">> ") else "**"
        lines[row - 2] = f"{line[:column]}{stars}rest[{i}]{line[column + 3 :]}"
    return "\n".join(lines)


def _compile(code: str, line: int, mode: str) -> CodeType:
    return compile("\n" * (line - 1) + code, str(FILE), mode)


def run(name: str, names: Names, rest: Sequence[Any] = ()) -> tuple[dict[str, Any], list[Any]]:
    """Run a block; its variables, and the values of its bare expressions."""
    line, lines = _block(name)
    tree = ast.parse(_fill("\n".join(lines), len(rest)))
    ast.increment_lineno(tree, line - 1)
    space = {**names, "rest": rest}
    values = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr):
            code = compile(ast.Expression(statement.value), str(FILE), "eval")
            values.append(eval(code, space))
        else:
            exec(compile(ast.Module([statement], []), str(FILE), "exec"), space)
    return space, values


def chain(name: str, names: Names, rest: Sequence[Any] = ()) -> Any:
    """The value of a block that is one chain of steps over several lines."""
    line, lines = _block(name)
    code = _fill("\n".join(lines), len(rest))
    return eval(_compile(f"({code}\n)", line, "eval"), {**names, "rest": rest})


def after(name: str, source: Any, names: Names) -> list[Any]:
    """`source >> step` for each `>> step` of a block."""
    first, lines = _block(name)
    starts = [i for i, text in enumerate(lines) if text.startswith(">> ")]
    made = []
    for i, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        code = "(source " + "\n".join(lines[i:end]) + "\n)"
        made.append(eval(_compile(code, first + i, "eval"), {**names, "source": source}))
    return made
