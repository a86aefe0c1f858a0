"""Documents as drawers take them: texts that are nothing but text, bounded in depth and number.

A text may be of a class of its own: that of `markupsafe.Markup` says that it is HTML, and what
others say when they are asked for their characters, nobody knows. Numbers of rows, facts and
tiles are the drawers' to bound, each says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Head,
    Inline,
    Legend,
    Line,
    Listing,
    Mark,
    Paragraph,
    Row,
    Section,
    Span,
    Spark,
    Table,
    Tile,
    Tiles,
    Value,
    is_line,
    muted,
)

MAX_DEPTH = 16
"""Blocks in blocks."""
MAX_BLOCKS = 300
MAX_LINES = 60
"""Lines of a legend, a tile or a cell."""
MAX_PARTS = 2_000
"""Parts of a line."""
MAX_COLUMNS = 60
MAX_ROWS = 200
"""Rows that a drawer looks at, at most; what follows them stays as it is."""
MAX_NAME = 300
MAX_TEXT = 20_000


def bounded(document: Document) -> Document:
    """The document with exact strings, rows that fit their columns, and nothing without end."""
    return Document(_blocks(document.blocks, 0))


def exact(text: Any, limit: int = MAX_TEXT) -> str:
    """The characters of a text, of whatever class it is; cut at `limit` with what was cut counted."""
    said = str.__str__(text) if isinstance(text, str) else formats.one_line(text)
    return formats.clip(said, limit)


def _blocks(blocks: Sequence[Block], depth: int) -> tuple[Block, ...]:
    if depth >= MAX_DEPTH and blocks:
        return (Paragraph((muted("nested too deep to be shown"),)),)
    out = [_block(block, depth) for block in blocks[:MAX_BLOCKS]]
    if len(blocks) > MAX_BLOCKS:
        out.append(Paragraph((muted(f"… {len(blocks) - MAX_BLOCKS:,} more parts"),)))
    return tuple(out)


def _block(block: Block, depth: int) -> Block:
    match block:
        case Head():
            return Head(_name(block.title), _line(block.facts))
        case Legend():
            return Legend(_lines(block.items))
        case Paragraph() | Listing():
            return replace(block, line=_line(block.line))
        case Tiles():
            return Tiles((*map(_tile, block.tiles[:MAX_ROWS]), *block.tiles[MAX_ROWS:]))
        case Table():
            return _table(block, depth)
        case Facts():
            shown = (_fact(fact, depth) for fact in block.facts[:MAX_ROWS])
            return replace(block, facts=(*shown, *block.facts[MAX_ROWS:]))
        case Section() | Fold():
            body = _blocks(block.body, depth + 1)
            return replace(block, title=_name(block.title), note=_line(block.note), body=body)
        case Graph():
            return replace(block, nodes=tuple(map(_node, block.nodes)))


def _name(text: Any) -> str:
    return exact(text, MAX_NAME)


def _line(line: Line) -> Line:
    parts: list[Inline] = list(map(_part, line[:MAX_PARTS]))
    if len(line) > MAX_PARTS:
        parts.append(muted(f"… {len(line) - MAX_PARTS:,} more parts"))
    return tuple(parts)


def _part(part: Any) -> Inline:
    if isinstance(part, Mark):
        return part
    return Span(exact(part.text), part.style) if isinstance(part, Span) else exact(part)


def _lines(lines: Sequence[Line]) -> tuple[Line, ...]:
    out = list(map(_line, lines[:MAX_LINES]))
    if len(lines) > MAX_LINES:
        out.append((f"… {len(lines) - MAX_LINES:,} more",))
    return tuple(out)


def _tile(tile: Tile) -> Tile:
    return Tile(_name(tile.label), _name(tile.figure), _lines(tile.lines), tile.share)


def _node(node: GraphNode) -> GraphNode:
    return replace(node, name=_name(node.name), lines=_lines(node.lines))


def _fact(fact: Fact, depth: int) -> Fact:
    if is_line(fact.body):
        return Fact(_name(fact.label), _line(fact.body), fact.mark)
    blocks = [part for part in fact.body if not isinstance(part, (str, Span, Mark))]
    return Fact(_name(fact.label), _blocks(blocks, depth + 1), fact.mark)


# Tables.


def _table(table: Table, depth: int) -> Table:
    widest = max((_width(row) for row in (*table.rows[:MAX_ROWS], table.total or ())), default=0)
    n = max(1, len(table.columns), min(widest, MAX_COLUMNS))
    columns = list(map(_column, table.columns))
    columns += [Column("")] * (n - len(columns))
    if n > MAX_COLUMNS:
        n = MAX_COLUMNS
        left_out = len(columns) - MAX_COLUMNS + 1
        columns = [*columns[: MAX_COLUMNS - 1], Column(f"+{left_out:,} columns")]
    is_cut = n < len(table.columns)

    def row(cells: Row) -> Row:
        return tuple(_cells(cells, n - is_cut, depth))

    rows = (*map(row, table.rows[:MAX_ROWS]), *table.rows[MAX_ROWS:])
    return Table(tuple(columns), rows, row(table.total) if table.total else table.total)


def _column(column: Column) -> Column:
    spark = column.spark and Spark(column.spark.bars, exact(column.spark.words))
    return replace(column, name=_name(column.name), note=_name(column.note), spark=spark)


def _width(row: Row) -> int:
    return sum(_span(cell) for cell in row)


def _span(cell: AnyCell) -> int:
    return max(1, cell.span) if isinstance(cell, Cell) else 1


def _cells(row: Row, n: int, depth: int) -> Iterator[AnyCell]:
    """The cells that lie in the first `n` columns."""
    at = 0
    for cell in row:
        if at >= n:
            return
        span = min(_span(cell), n - at)
        at += span
        yield _cell(cell, span, depth)


def _cell(cell: AnyCell, span: int, depth: int) -> AnyCell:
    if isinstance(cell, Value):
        return cell
    return replace(
        cell,
        line=_line(cell.line),
        below=_lines(cell.below),
        span=span,
        listing=None if cell.listing is None else Listing(_line(cell.listing.line)),
        body=_blocks(cell.body, depth + 1),
    )
