"""A graph that is too wide for a page, cut into rows one below the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TypeAlias

from datafast_nb.display.dot import Layout, Point

GAP = 26
"""Pixels between two rows."""
BEND = 6.0

Size: TypeAlias = tuple[int, int]
Edge: TypeAlias = tuple[int, int]


def folded(
    placed: Layout, sizes: tuple[Size, ...], edges: tuple[Edge, ...], *, aim: int, limit: int
) -> Layout | None:
    """The layout in rows of about equal width, at the left; None where it cannot be cut so.

    A row ends where one edge alone crosses, from a box with nothing above or below it to
    another such box. Rows are about `aim` pixels wide, at most `limit`.
    """
    spans = [(x - w / 2, x + w / 2) for (x, _), (w, _) in zip(placed.centers, sizes, strict=True)]
    rows = _rows(spans, edges, aim, limit)
    if rows is None:
        return None
    row_of = {i: n for n, row in enumerate(rows) for i in row}
    shifts: list[Point] = []
    lanes: list[float] = []  # in the middle of the gap below each row
    width = top = 0.0
    for n, row in enumerate(rows):
        left, right = min(spans[i][0] for i in row), max(spans[i][1] for i in row)
        ys = [
            placed.centers[i][1] + half for i in row for half in (-sizes[i][1] / 2, sizes[i][1] / 2)
        ]
        for edge, curve in zip(edges, placed.curves, strict=True):
            if all(row_of[i] == n for i in edge):
                ys.extend(y for _, y in curve)
        shifts.append((-left, top - min(ys)))
        width = max(width, right - left)
        top += max(ys) - min(ys) + GAP
        lanes.append(top - GAP / 2)
    centers = tuple(_moved(placed.centers, (shifts[row_of[i]] for i in range(len(sizes)))))
    curves = []
    for (tail, head), curve in zip(edges, placed.curves, strict=True):
        if row_of[tail] == row_of[head]:
            curves.append(tuple(_moved(curve, [shifts[row_of[tail]]] * len(curve))))
        else:
            (x0, y0), (x1, y1) = centers[tail], centers[head]
            start, end = (x0, y0 + sizes[tail][1] / 2), (x1, y1 - sizes[head][1] / 2)
            curves.append(_turn(start, end, lanes[row_of[tail]]))
    return Layout(width, top - GAP, centers, tuple(curves))


def _moved(points: Iterable[Point], shifts: Iterable[Point]) -> list[Point]:
    return [(x + dx, y + dy) for (x, y), (dx, dy) in zip(points, shifts, strict=True)]


def _rows(
    spans: list[Point], edges: tuple[Edge, ...], aim: int, limit: int
) -> list[set[int]] | None:
    """Boxes of each row; `spans` are their left and right ends."""
    order = sorted(range(len(spans)), key=lambda i: spans[i])
    ends = [*_cuts(order, spans, edges), len(order)]
    whole = max(right for _, right in spans) - spans[order[0]][0]
    n_rows = math.ceil(whole / aim)
    width = whole / n_rows
    while width <= limit:
        rows: list[set[int]] = []
        begin = 0
        for end, following in pairwise([*ends, len(order) + 1]):
            if following > len(order) or _width(order[begin:following], spans) > width:
                rows.append(set(order[begin:end]))
                begin = end
        if len(rows) <= n_rows and all(_width(row, spans) <= width for row in rows):
            return rows
        width += 2 * BEND
    return None


def _cuts(order: list[int], spans: list[Point], edges: tuple[Edge, ...]) -> list[int]:
    """Places in the order, from left to right, where a row may end."""

    def is_alone(i: int) -> bool:
        left, right = spans[i]
        return all(j == i or spans[j][1] <= left or spans[j][0] >= right for j in order)

    cuts = []
    for n in range(1, len(order)):
        start = set(order[:n])
        crossing = [edge for edge in edges if (edge[0] in start) != (edge[1] in start)]
        if len(crossing) == 1 and crossing[0][0] in start and all(map(is_alone, crossing[0])):
            cuts.append(n)
    return cuts


def _width(row: Iterable[int], spans: list[Point]) -> float:
    chosen = [spans[i] for i in row]
    return max(right for _, right in chosen) - min(left for left, _ in chosen)


def _turn(start: Point, end: Point, lane: float) -> tuple[Point, ...]:
    """From below the end of a row to above the start of the next, with rounded corners."""
    x0, x1 = start[0], end[0]
    if abs(x0 - x1) < 2 * BEND:
        return start, start, end, end
    r = BEND if x1 < x0 else -BEND
    stops = [
        start,
        (x0, lane - BEND),
        (x0 - r, lane),
        (x1 + r, lane),
        (x1, lane + BEND),
        end,
    ]
    corners = {1: (x0, lane), 3: (x1, lane)}
    out = [start]
    for i, (a, b) in enumerate(pairwise(stops)):
        out.extend((corners.get(i, a), corners.get(i, b), b))
    return tuple(out)
