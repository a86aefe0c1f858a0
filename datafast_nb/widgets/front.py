"""The browser's half of the panel as two texts: an ES module and its style sheet.

The module lies in parts under `static/panel`, which are joined in the order of their names: what a
widget loads as text can import nothing. Comments and indentation stay behind.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"


@cache
def script() -> str:
    """The panel's ES module. No part has a text over several lines, so lines may be stripped."""
    lines = (
        line.strip()
        for part in sorted((STATIC / "panel").glob("*.js"))
        for line in part.read_text("utf-8").splitlines()
    )
    return "".join(f"{line}\n" for line in lines if not _is_left_out(line))


@cache
def style() -> str:
    """The panel's style sheet."""
    lines = (line.strip() for line in (STATIC / "panel.css").read_text("utf-8").splitlines())
    return "".join(f"{line}\n" for line in lines if not _is_left_out(line))


def _is_left_out(line: str) -> bool:
    """A line that is a comment, or a part of one, or empty."""
    whole = line.startswith("/*") and line.endswith("*/") and line.count("*/") == 1
    return line in ("", "*", "/**") or whole or line.startswith(("//", "* ", "*/"))
