"""What is shown, not how: documents of a few kinds of blocks, plain data.

Live objects fill them in their `view()`; `html`, `text` and `markdown` draw them. Every
display is made of these blocks, so that a mark, a column or a fold means the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeGuard

# Inline parts of a line.

MarkName = Literal["memo", "new", "pending", "failed", "filtered", "kept", "added", "warning"]
Style = Literal["", "muted", "strong", "code", "field", "inserted", "deleted"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A sign with a colour. The word that says the same follows it in the line."""

    name: MarkName
    """"memo" ● answered from disk, "new" ○ asked and paid, "pending" ◌ would be asked,
    "failed" ✕, "filtered" –, "kept" ✓, "added" + (a field), "warning" !."""


@dataclass(frozen=True, slots=True)
class Span:
    """Text with a style: "code" is typed or sent, "field" a `{field}` of a template."""

    text: str
    style: Style = ""


Inline: TypeAlias = str | Span | Mark
Line: TypeAlias = tuple[Inline, ...]


def muted(text: str) -> Span:
    """Words of less weight."""
    return Span(text, "muted")


def strong(text: str) -> Span:
    """Words of more weight."""
    return Span(text, "strong")


def code(text: str) -> Span:
    """What is typed, or was sent."""
    return Span(text, "code")


# Cells of a table.


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a record: cut to the column's measure, the rest one click away."""

    value: Any


@dataclass(frozen=True, slots=True)
class Cell:
    """Words of ours in a cell, with smaller ones `below`."""

    line: Line = ()
    below: tuple[Line, ...] = ()
    span: int = 1
    """Columns that it takes."""
    is_pending: bool = False
    """Stands where answers would be: dotted blue edge at its left."""
    listing: Listing | None = None
    """Text as it was sent or received, under `line`."""
    body: tuple[Block, ...] = ()
    """Blocks under all that."""


AnyCell: TypeAlias = Value | Cell
Row: TypeAlias = tuple[AnyCell, ...]

ColumnKind = Literal["index", "status", "word", "text", "written", "number"]


@dataclass(frozen=True, slots=True)
class Spark:
    """A small picture of a column: bars from 0 to 1, and the same in words."""

    bars: tuple[float, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    kind: ColumnKind = "text"
    """"word" is short and stays on one line, "text" is cut at about 46 characters, "written"
    (by a model) at about 66, "number" stands at the right."""
    spark: Spark | None = None
    note: str = ""
    """What the spark shows, in two or three words: "6 values", "mean 8.3"."""


# Blocks.


@dataclass(frozen=True, slots=True)
class Head:
    """The first line: what is this."""

    title: str
    facts: Line = ()


@dataclass(frozen=True, slots=True)
class Legend:
    """The second line: what it cost and what was lost. It explains the marks. Items stay whole."""

    items: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A line of words. `is_note`: small; what a figure is based on, what to type next."""

    line: Line
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure with its name above and its explanation below."""

    label: str
    figure: str
    lines: tuple[Line, ...] = ()
    share: float | None = None
    """0 to 1: length of the bar below the figure; None: no bar."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Figures side by side: a funnel, an estimate."""

    tiles: tuple[Tile, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Without column names it has no header."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row | None = None
    """A last row with a line of its own above it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Text as it stands, monospace, line by line: a prompt, a reply, code."""

    line: Line


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what there is to say about it."""

    label: str
    body: Line | tuple[Block, ...]
    mark: MarkName | None = None
    """Stands before the name: "added", a column that a step gave."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names at the left, what they name at the right. `is_ruled`: hairlines between them."""

    facts: tuple[Fact, ...]
    is_ruled: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part with a title and a hairline above it, always open."""

    title: str
    note: Line = ()
    body: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Fold:
    """A part that opens with a click; its summary speaks while it is closed."""

    title: str
    note: Line = ()
    body: tuple[Block, ...] = ()
    is_open: bool = False
    in_text: bool = False
    """A terminal, which cannot open anything, shows the body too, not the summary alone."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A step of a pipeline in its graph."""

    name: str
    lines: tuple[Line, ...] = ()
    """Below the name: records, calls, price; at most 4 short ones."""
    is_paid: bool = False
    """Calls a model: thicker blue frame."""
    has_problem: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in order, edges by their places."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[int, int], ...]


Block: TypeAlias = (
    Head | Legend | Paragraph | Tiles | Table | Listing | Facts | Section | Fold | Graph
)


@dataclass(frozen=True, slots=True)
class Document:
    """A display."""

    blocks: tuple[Block, ...]


class Pending:
    """Stands in a preview for an answer that would have to be asked for."""

    def __repr__(self) -> str:
        return "pending"


PENDING = Pending()


@dataclass(frozen=True, repr=False)
class Failed:
    """Stands in a preview for an answer that is known to be unusable."""

    kind: str

    def __repr__(self) -> str:
        return f"failed: {self.kind}"


def fields_marked(template: str) -> Line:
    """The text of a prompt template with its `{fields}` marked."""
    out: list[Inline] = []
    at = 0
    while at < len(template):
        start = template.find("{", at)
        end = template.find("}", start)
        if start < 0 or end < 0:
            break
        if template.startswith("{{", start):
            out.append(template[at : start + 2])
            at = start + 2
            continue
        out.extend((template[at:start], Span(template[start : end + 1], "field")))
        at = end + 1
    out.append(template[at:])
    return tuple(part for part in out if part != "")


def plain(line: Line) -> str:
    """The words of a line, marks as signs."""
    return "".join(
        SIGNS[p.name] if isinstance(p, Mark) else p.text if isinstance(p, Span) else p for p in line
    )


SIGNS: dict[MarkName, str] = {
    "memo": "●",
    "new": "○",
    "pending": "◌",
    "failed": "✕",
    "filtered": "–",
    "kept": "✓",
    "added": "+",
    "warning": "!",
}


def is_line(body: Line | tuple[Block, ...]) -> TypeGuard[Line]:
    """Whether the body of a fact is a line of words and not blocks."""
    return all(isinstance(part, (str, Span, Mark)) for part in body)
