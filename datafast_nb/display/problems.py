"""Problems of a pipeline as a table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from datafast_nb.display import formats
from datafast_nb.display.views import Cell, Column, Line, Mark, Row, Table, code, muted
from datafast_nb.errors import Problem
from datafast_nb.options import project_root

MAX_PROBLEMS = 20
"""Rows of a table of problems."""


def problem_table(problems: Sequence[Problem], traps: Sequence[Problem]) -> Table:
    """Problems, then warnings: step, what is wrong, what to do, where it was written."""
    rows: list[Row] = []
    found = [(Mark("failed"), p) for p in problems] + [(Mark("warning"), t) for t in traps]
    for mark, problem in found[:MAX_PROBLEMS]:
        below: tuple[Line, ...] = ()
        if problem.columns is not None:
            here = formats.cell(problem.columns)
            below = ((muted(f"columns here: {here}"),),)
        rows.append(
            (
                Cell((mark, f" {formats.cell(problem.step, formats.MAX_NAME)}")),
                Cell(_quoted_as_code(problem.what), below),
                Cell(_quoted_as_code(problem.fix)),
                Cell((formats.cell(problem.site),)),
            )
        )
    if len(found) > MAX_PROBLEMS:
        rows.append((Cell((f"… and {len(found) - MAX_PROBLEMS:,} more",), span=4),))
    kind = "problem" if problems else "warning"
    columns = (Column("step", "word"), Column(kind, "written"), Column("fix", "written"))
    return Table((*columns, Column("written at", "word")), tuple(rows))


def _quoted_as_code(text: str) -> Line:
    """A sentence with its 'quoted names' and settings=1 as code."""
    said = formats.cell(without_roots(text), 600)
    parts = re.split(r"(?<![\w(\[])'([^'\s]{1,60})'(?![\w)\]])|\b([a-z_]+=[^\s,;:]+)", said)
    return tuple(code(p) if i % 3 else p for i, p in enumerate(parts) if p)


def without_roots(text: str) -> str:
    """A message with paths as people read them: from the project, or from the home directory."""
    text = text.replace(f"{project_root()}{os.sep}", "")
    home = str(Path.home())
    return text.replace(home + os.sep, f"~{os.sep}") if len(home) > 1 else text
