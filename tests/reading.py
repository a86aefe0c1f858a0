"""Reading documents as plain words, whatever draws them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from datafast_nb.display import formats
from datafast_nb.display.views import (
    SIGNS,
    Cell,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    Head,
    Legend,
    Listing,
    Mark,
    Paragraph,
    Section,
    Span,
    Table,
    Tiles,
    Value,
    plain,
)

BlockKind = TypeVar("BlockKind")


def all_blocks(document: Document) -> Iterator[Any]:
    """Every block, also inside folds, sections and facts."""
    yield from _inside(document.blocks)


def _inside(blocks: Iterable[Any]) -> Iterator[Any]:
    for block in blocks:
        yield block
        if isinstance(block, (Fold, Section)):
            yield from _inside(block.body)
        if isinstance(block, Facts):
            for fact in block.facts:
                if not is_line(fact.body):
                    yield from _inside(fact.body)


def is_line(body: Any) -> bool:
    return all(isinstance(part, (str, Span, Mark)) for part in body)


def those(document: Document, kind: type[BlockKind]) -> list[BlockKind]:
    """All blocks of a kind, in reading order."""
    return [b for b in all_blocks(document) if isinstance(b, kind)]


def fold(document: Document, title: str) -> Fold:
    """The fold with that title."""
    [found] = [f for f in those(document, Fold) if f.title == title]
    return found


def cells(row: Iterable[Any]) -> list[str]:
    """Words of the cells of a row."""
    return [cell_words(c) for c in row]


def cell_words(cell: Any) -> str:
    if isinstance(cell, Value):
        return formats.one_line(cell.value)
    assert isinstance(cell, Cell)
    parts = [plain(cell.line), *map(plain, cell.below)]
    if cell.listing is not None:
        parts.append(plain(cell.listing.line))
    return "\n".join(p for p in parts if p)


def words(document: Document) -> str:
    """All that a document says, a line for each of its parts."""
    return "\n".join(line for b in document.blocks for line in _lines(b))


def _lines(block: Any) -> Iterator[str]:
    match block:
        case Head(title, facts):
            yield f"{title}  {plain(facts)}".rstrip()
        case Legend(items):
            yield from map(plain, items)
        case Paragraph(line) | Listing(line):
            yield plain(line)
        case Tiles(tiles):
            for tile in tiles:
                yield f"{tile.label} {tile.figure}"
                yield from map(plain, tile.lines)
        case Table(columns, rows, total):
            yield " | ".join(c.name for c in columns)
            for row in (*rows, *((total,) if total else ())):
                yield " | ".join(cells(row))
        case Facts(facts):
            for fact in facts:
                yield from _fact(fact)
        case Section(title, note, body) | Fold(title, note, body):
            yield f"{title} {plain(note)}".rstrip()
            for inner in body:
                yield from _lines(inner)
        case Graph(nodes):
            for node in nodes:
                yield node.name
                yield from map(plain, node.lines)


def _fact(fact: Fact) -> Iterator[str]:
    body: Any = fact.body
    label = f"{SIGNS[fact.mark]} {fact.label}" if fact.mark else fact.label
    if is_line(body):
        yield f"{label}: {plain(body)}"
        return
    yield f"{label}:"
    for inner in body:
        yield from _lines(inner)
