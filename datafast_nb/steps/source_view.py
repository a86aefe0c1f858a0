"""What the cards of sources and seeds show: how many rows, their columns, the first of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Head,
    Mark,
    Paragraph,
    Row,
    Table,
    Value,
    muted,
)
from datafast_nb.errors import DatafastError
from datafast_nb.options import project_root

if TYPE_CHECKING:
    from datafast_nb.steps.base import SourceStep

N_ROWS = 5
MAX_COLUMNS = 12
MAX_SUMMARY = 10_000
"""Values of a column that its summary looks at."""


def source_view(source: SourceStep) -> Document:
    """How many rows, of which columns, and the first. What cannot be read says so in its place."""
    failures: list[str] = []
    count = _tried(source.count, failures)
    columns = rows = None
    if not failures and source.is_near():
        columns = _tried(source.columns, failures)
    if not failures and source.is_near():
        rows = _tried(lambda: source.first_rows(N_ROWS), failures)
    blocks: list[Block] = [_head(source, count, columns)]
    blocks.extend(Paragraph((Mark("failed"), f" {said}")) for said in failures)
    facts = source.view_settings()
    if columns and not rows:
        facts.append(Fact("columns", (formats.some_names(columns),)))
    if facts:
        blocks.append(Facts(tuple(facts), is_ruled=True))
    if rows:
        blocks.extend(rows_table(rows, total=count, columns=_summaries(source, count)))
    return Document(tuple(blocks))


def _summaries(source: SourceStep, count: int | None) -> Mapping[str, Column] | None:
    """Of all rows, where they are in memory and not too many."""
    from datafast_nb.display.columns import column_of

    if not source.in_memory or count is None or count > MAX_SUMMARY:
        return None
    rows = [row for row in source.first_rows(count) if isinstance(row, Mapping)]
    names = islice(dict.fromkeys(name for row in rows for name in row), MAX_COLUMNS)
    return {name: column_of(str(name), [row.get(name) for row in rows]) for name in names}


def _head(source: SourceStep, count: int | None, columns: Sequence[str] | None) -> Head:
    parts = [source.maker_name()]
    if not source.in_memory:
        parts.append(formats.cell(formats.described(source)))
    held = "" if count is None else formats.plural(count, "record")
    title = formats.cell(source.name, formats.MAX_NAME) if source.is_named else held
    if source.is_named and held:
        parts.append(held)
    if columns:
        parts.append(formats.plural(len(columns), "column"))
    title = title or parts.pop(0)
    return Head(title, (" · ".join(part for part in parts if part),))


def _tried(ask: Any, failures: list[str]) -> Any:
    try:
        return ask()
    except DatafastError as exc:
        failures.append(local_text(str(exc)))
    except Exception as exc:  # a user's own source
        failures.append(local_text(formats.error_text(exc)))
    return None


def local_text(text: str) -> str:
    """Text in which files are named as people name them: inside the project, or under `~`."""
    for base, prefix in ((project_root(), ""), (Path.home(), "~/")):
        if len(base.parts) > 1:
            text = text.replace(f"{base}{os.sep}", prefix)
    return formats.clip(text)


def rows_table(
    rows: Sequence[Any],
    *,
    total: int | None,
    columns: Mapping[str, Column] | None = None,
    noun: str = "record",
) -> list[Block]:
    """The first rows as a table, and how many more there are.

    `columns`: summaries of the columns; None: made of the rows where these are all there is.
    """
    from datafast_nb.display.columns import column_of

    records = [r if isinstance(r, Mapping) else {"value": r} for r in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = names[:MAX_COLUMNS]
    heads: list[Column] = [Column("", "index")]
    for name in shown:
        if columns is not None and name in columns:
            heads.append(columns[name])
        else:
            made = column_of(str(name), [record.get(name) for record in records])
            heads.append(made if total == len(rows) else Column(made.name, made.kind))
    body: list[Row] = []
    for i, record in enumerate(records):
        cells = (Value(record[name]) if name in record else Cell() for name in shown)
        body.append((Cell((muted(str(i)),)), *cells))
    blocks: list[Block] = [Table(tuple(heads), tuple(body))]
    notes = []
    if total is None:
        notes.append(f"the first {formats.plural(len(rows), noun)}")
    elif total > len(rows):
        notes.append(f"{formats.plural(total - len(rows), f'more {noun}')}")
    if len(names) > len(shown):
        n_more = len(names) - len(shown)
        named = formats.some_names([str(name) for name in names[MAX_COLUMNS:]])
        notes.append(f"{formats.plural(n_more, 'more column')}: {named}")
    if notes:
        blocks.append(Paragraph((muted(" · ".join(notes)),), is_note=True))
    return blocks
