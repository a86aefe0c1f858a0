"""What a sample did to a table, where both are known: before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.views import Block, Cell, Column, Paragraph, Row, Table, Value, muted
from datafast_nb.records import Record
from datafast_nb.steps.sampling import Sample

MAX_KINDS = 20
"""Different values up to which a column tells kinds of records apart."""
MAX_ROWS = 8
MAX_LOOKED_AT = 10_000
"""Records among which a column is looked for."""
_COUNTED = frozenset({str, int, bool, type(None)})


def sample_card(
    step: Sample,
    before: Sequence[Record],
    after: Sequence[Record],
    by: str | None = None,
) -> tuple[Block, ...]:
    """What a sample did to a table: how many stayed, and how a column was spread before and after.

    `by`: the column; None: the first whose values are few enough to be kinds of records, else
    the first of numbers; where there is neither, the counts stand alone.
    """
    from datafast_nb.display.columns import distribution

    n, kept = len(before), len(after)
    share = f", {kept / n:.0%}" if n else ""
    how = step.describe().partition(", ")[2]
    line = f"{formats.count(kept)} of {formats.plural(n, 'record')} stay{share} · {how}"
    blocks: list[Block] = [Paragraph((line,))]
    column = by if by is not None else _telling_column(before)
    if column is None:
        return tuple(blocks)
    sides = [[record.get(column) for record in side] for side in (before, after)]
    sparks = distribution(sides[0], sides[1])
    heads = tuple(
        Column(word, "number", spark if spark.bars else None)
        for word, spark in zip(("before", "after"), sparks, strict=True)
    )
    name = formats.cell(column, formats.MAX_NAME)
    rows = _share_rows(sides) if _are_kinds(sides[0]) else _figure_rows(sides)
    return (*blocks, Table((Column(name, "word"), *heads), rows))


def _telling_column(records: Sequence[Record]) -> str | None:
    names = list(dict.fromkeys(n for r in records[:MAX_LOOKED_AT] for n in r))
    values = {name: [r.get(name) for r in records[:MAX_LOOKED_AT]] for name in names}
    shown = [name for name in names if isinstance(name, str) and not name.startswith("_")]
    for name in shown:
        if _are_kinds(values[name]) and len(set(values[name])) > 1:
            return name
    return next((name for name in shown if _are_numbers(values[name])), None)


def _are_kinds(values: Sequence[Any]) -> bool:
    """Few values that come again, each of a type that can be counted."""
    if not values or not {type(v) for v in values} <= _COUNTED:
        return False
    distinct = len(set(values))
    return distinct <= MAX_KINDS and 2 * distinct <= len(values)


def _are_numbers(values: Sequence[Any]) -> bool:
    return bool(values) and {type(v) for v in values} <= {int, float}


def _share_rows(sides: Sequence[Sequence[Any]]) -> tuple[Row, ...]:
    counts = [Counter(side) for side in sides]
    order = [value for value, _ in counts[0].most_common()]
    named = order if len(order) <= MAX_ROWS else order[: MAX_ROWS - 1]
    rows: list[Row] = [
        (Value(value), *(_share(c[value], c.total()) for c in counts)) for value in named
    ]
    if len(named) < len(order):
        rest = [c.total() - sum(c[value] for value in named) for c in counts]
        others = Cell((muted(formats.plural(len(order) - len(named), "other")),))
        rows.append((others, *(_share(n, c.total()) for n, c in zip(rest, counts, strict=True))))
    return tuple(rows)


def _share(n: int, total: int) -> Cell:
    return Cell((formats.count(n), muted(f"  {n / total:.0%}"))) if total else Cell(("0",))


def _figure_rows(sides: Sequence[Sequence[Any]]) -> tuple[Row, ...]:
    numbers = [[v for v in side if type(v) in (int, float) and v == v] for side in sides]
    rows: list[Row] = []
    if not all(numbers):
        return ()
    for word, figure in (("least", min), ("median", _median), ("most", max)):
        rows.append((Cell((word,)), *(Value(figure(side)) for side in numbers)))
    return tuple(rows)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
