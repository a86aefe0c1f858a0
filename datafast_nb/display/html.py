"""Documents as static HTML: escaped, inline styles, no script, nothing loaded from anywhere.

The templates draw one kind of block each; what is cut where, is decided here. A document that
becomes too large is drawn again with less text in its cells and listings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from datafast_nb.display import dag, formats, sparks, values
from datafast_nb.display.bounds import bounded, exact
from datafast_nb.display.views import (
    SIGNS,
    AnyCell,
    Block,
    Cell,
    ColumnKind,
    Document,
    Facts,
    Fold,
    Graph,
    Paragraph,
    Row,
    Section,
    Span,
    Spark,
    Table,
    is_line,
    muted,
    plain,
)

if TYPE_CHECKING:
    from jinja2 import Environment

TYPICAL_BYTES = 60_000
MAX_BYTES = 200_000
WIDTH = 1_080
"""Of a display in px, at most."""
MIN_TEXT = 125
"""Least width of a column of text in px."""
MAX_COLUMNS = 10
"""A table of so many, besides index and status, is no wider than a display: what wraps gets less room."""
TIGHT: dict[ColumnKind, int] = {"text": 96, "written": 96, "word": 96, "status": 120}
"""Their widths then."""
NOTE = 14
"""Characters of a note below a name that count for the width: what is longer wraps."""
TEXT = ("text", "written")
"""Kinds of columns that share the room that short ones leave."""
MAX_SHORT = 200
"""Greatest width in px of a column of short cells: longer words wrap."""
MAX_NUMBER = 340
"""The same for numbers, which never do."""
GAP = 14
"""Px between columns: the padding of a cell, which is not part of its width."""
COLOURS = {
    "memo": "#2b9a66",
    "kept": "#2b9a66",
    "added": "#2b9a66",
    "new": "#2f7fe0",
    "pending": "#2f7fe0",
    "failed": "#e5484d",
    "warning": "#b8720a",
    "filtered": "#808080",
}


@dataclass(frozen=True)
class Limits:
    """How much of long texts is drawn."""

    cell: int
    """Characters of a cell, with what opens."""
    listing: int
    """Characters of a prompt or a reply."""
    rows: int
    """Rows of one table, facts of one list, tiles."""


# Tried in turn until the document is small enough; the last holds for anything.
_LIMITS = (
    Limits(1_000, 8_000, 200),
    Limits(600, 3_000, 100),
    Limits(300, 1_000, 60),
    Limits(80, 300, 30),
    Limits(20, 60, 10),
)


def draw(document: Document) -> str:
    """The document as an HTML fragment of at most `MAX_BYTES` bytes."""
    document = bounded(document)
    for i, limits in enumerate(_LIMITS):
        out = _draw(document, limits)
        size = len(out.encode())
        if size <= TYPICAL_BYTES or (i >= 2 and size <= MAX_BYTES):
            return out
    # Notes of what is left out need room too.
    return _draw(Document(_fitting(document.blocks, MAX_BYTES * 3 // 4)), _LIMITS[-1])


_TOO_LARGE = Paragraph((muted("… too large to be shown here"),))


def _fitting(blocks: Sequence[Block], room: int) -> tuple[Block, ...]:
    """The blocks that fit into `room` bytes; what is too large is named in its place."""
    out: list[Block] = []
    for block in blocks:
        if (size := _size(block)) > room and isinstance(block, (Section, Fold)):
            empty = replace(block, body=())
            block = replace(block, body=_fitting(block.body, room - _size(empty)))
            size = _size(block)
        if size > room:
            if not out or out[-1] is not _TOO_LARGE:
                out.append(_TOO_LARGE)
            continue
        room -= size
        out.append(block)
    return tuple(out)


def _size(block: Block) -> int:
    return len(_draw(Document((block,)), _LIMITS[-1]).encode())


def page(document: Document, title: str) -> str:
    """The document as a file of its own, for any browser: light and dark, nothing loaded."""
    shown: str = (
        _environment()
        .get_template("page.jinja")
        .render(title=exact(title), body=_markup(_draw(bounded(document), _LIMITS[0])))
    )
    return shown


def _draw(document: Document, limits: Limits) -> str:
    shown: str = (
        _environment()
        .get_template("document.jinja")
        .render(document=document.blocks, limits=limits)
    )
    return shown


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader

    made = Environment(
        loader=PackageLoader("datafast_nb.display"),
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    made.filters.update(
        kind=lambda thing: type(thing).__name__,
        attr=_attribute,
        safe_uri=lambda uri: _markup(escape(uri)),
        cut=_cut,
        figure=formats.count,
        compact=values.compact,
        layout=_layout,
        label_width=_label_width,
        percent=lambda share: f"{max(0.0, min(1.0, share)) * 100:.0f}",
        is_line=is_line,
        is_empty=lambda cell: isinstance(cell, Cell) and not cell.line,
        closes=_closes,
        is_words=lambda line: all(isinstance(p, str) for p in line),
        length_of=lambda line: len(plain(line)),
        has_bars=lambda tiles: any(t.share is not None for t in tiles.tiles),
        graph_text=dag.graph_text,
    )
    made.globals.update(signs=SIGNS, colours=COLOURS, spark_image=_spark, graph_image=_graph)
    return made


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _finalize(value: Any) -> Any:
    """Every text of a template that is not markup of ours, as it may stand between tags."""
    if hasattr(value, "__html__"):
        return value
    return _markup(_said(str(value)))


def _said(text: str) -> str:
    # JupyterLab typesets what stands between two dollar signs as a formula; the spans prevent it.
    shown = escape(formats.printable(text)).replace("$", "<span>$</span>")
    return shown.replace("\n", "<br>")


def _attribute(text: Any) -> Any:
    """Text as the value of an attribute in double quotes; one line."""
    said = " ".join(formats.printable(formats.clip(str(text), 2_000)).split())
    return _markup(escape(said))


def _cut(text: str, limit: int) -> str:
    return formats.clip(text, limit)


def _spark(spark: Spark, right: bool) -> tuple[str, int, int]:
    return sparks.spark_uri(spark, right)


def _graph(graph: Graph) -> tuple[str, int, int] | None:
    return dag.graph_image(graph)


def _closes(note: Any, before: Any) -> bool:
    """Whether a note ends the table above it: the hairline between them belongs to both."""
    if not (isinstance(note, Paragraph) and note.is_note and isinstance(before, Table)):
        return False
    return before.total is None and any(c.kind in TEXT for c in before.columns)


@dataclass(frozen=True)
class _Layout:
    """How wide a table and its columns are."""

    style: str
    widths: tuple[str, ...]
    are_whole: tuple[bool, ...]
    """Whether the cells of a column stay on one line."""
    has_header: bool
    has_sparks: bool


def _layout(table: Table, n_rows: int) -> _Layout:
    """Short columns get what they need; columns of text share what is left, and scroll if it is little.

    The columns of a table with texts have fixed widths, so that a long word cannot take the room of
    all others: px for short columns, percents of the display's full width for texts.
    """
    table = replace(table, rows=table.rows[:n_rows])
    needs = [_needs(table, i) for i in range(len(table.columns))]
    are_texts = [c.kind in TEXT for c in table.columns]
    if any(are_texts):
        needs = _tightened(table, needs)
    has_header = any(c.name for c in table.columns)
    has_sparks = any(c.spark for c in table.columns)
    if not any(are_texts):
        style = f"table-layout:auto;min-width:{min(540, max(200, sum(needs)))}px"
        return _Layout(style, ("",) * len(needs), (True,) * len(needs), has_header, has_sparks)
    # With fixed widths a long word on one line would lie over its neighbour.
    are_whole = tuple(c.kind in ("index", "status", "number") for c in table.columns)
    short = sum(n for n, is_text in zip(needs, are_texts, strict=True) if not is_text)
    weights = [_weight(table, i) if is_text else 0 for i, is_text in enumerate(are_texts)]
    least = max(820, short + MIN_TEXT * sum(are_texts))
    if _is_to_fit(table) and least > WIDTH:
        least = max(WIDTH, short + TIGHT["text"] * sum(are_texts))
    full = max(WIDTH, least)
    shares = _shares(weights, full - short)
    gaps = [GAP] * (len(needs) - 1) + [0]
    widths = tuple(
        f"width:{100 * share / full:.1f}%;" if is_text else f"width:{need - gap}px;"
        for need, gap, share, is_text in zip(needs, gaps, shares, are_texts, strict=True)
    )
    style = f"table-layout:fixed;width:100%;min-width:{least}px"
    return _Layout(style, widths, are_whole, has_header, has_sparks)


def _is_to_fit(table: Table) -> bool:
    return sum(c.kind not in ("index", "status") for c in table.columns) <= MAX_COLUMNS


def _tightened(table: Table, needs: list[int]) -> list[int]:
    """Needs of the columns, less for words that wrap where texts would have no room."""
    kinds = [c.kind for c in table.columns]
    over = sum(TIGHT[k] if k in TEXT else n for k, n in zip(kinds, needs, strict=True)) - WIDTH
    while _is_to_fit(table) and over > 0:
        able = [i for i, k in enumerate(kinds) if k not in TEXT and needs[i] > TIGHT.get(k, 10**6)]
        if not able:
            break
        widest = max(able, key=lambda i: needs[i])
        cut = min(8, over, needs[widest] - TIGHT[kinds[widest]])
        needs = [n - cut if i == widest else n for i, n in enumerate(needs)]
        over -= cut
    return needs


def _shares(weights: list[int], room: float) -> list[float]:
    """The room by weight; none gets less than its bars and a few words need."""
    n_open = sum(w > 0 for w in weights)
    least = min(TIGHT["text"], room / n_open)
    spare = room - least * n_open
    return [least + spare * w / sum(weights) if w else 0 for w in weights]


def _weight(table: Table, i: int) -> int:
    """Share of a column of text: more for long texts, up to the measure at which they are cut."""
    column = table.columns[i]
    most = values.MEASURE[column.kind]
    longest = len(column.name)
    for row in table.rows:
        for at, cell in _placed(row):
            if at != i:
                continue
            if isinstance(cell, Cell):
                # Words of ours are not cut: more of them, more room.
                most = max(most, min(100, _length(cell)))
                longest = max(longest, _length(cell))
            else:
                longest = max(longest, len(values.compact(cell.value, column.kind, 80).head))
    return 24 + min(most, longest)


def _length(cell: Cell) -> int:
    """Characters of a cell's longest line, smaller and bold ones by the room they take."""
    if cell.span > 1:
        return 0
    is_bold = any(isinstance(part, Span) and part.style == "strong" for part in cell.line)
    lengths = [len(plain(cell.line)) * (1.1 if is_bold else 1)]
    return math.ceil(max(lengths + [len(plain(line)) * 12 / 13 for line in cell.below]))


def _placed(row: Row) -> Iterator[tuple[int, AnyCell]]:
    """Cells with the index of their first column."""
    at = 0
    for cell in row:
        yield at, cell
        at += cell.span if isinstance(cell, Cell) else 1


def _label_width(facts: Facts) -> int:
    """Width in px of the names: one for all, since the tables of facts have fixed columns."""
    longest = max((len(f.label) + 2 * bool(f.mark) for f in facts.facts), default=0)
    return max(112 if facts.is_ruled else 0, min(190, 14 + round(longest * 7.7)))


def _needs(table: Table, i: int) -> int:
    """Width in px of a column of short cells, the gap behind it included."""
    column = table.columns[i]
    longest = (
        2
        if column.kind == "index"
        else math.ceil(max(1.1 * len(column.name), 0.82 * min(NOTE, len(column.note))))
    )
    for row in table.rows:
        for at, cell in _placed(row):
            if at != i:
                continue
            if isinstance(cell, Cell):
                longest = max(longest, _length(cell))
            else:
                cut = values.compact(cell.value, column.kind, 40)
                note = len(f" … +{cut.n_rest}") if cut.rest else 0
                longest = max(longest, len(cut.head) + note)
    bars = sparks.spark_uri(column.spark)[1] + GAP + 2 if column.spark else 0
    if column.kind == "number":
        return max(bars, min(MAX_NUMBER, 16 + round(longest * 7.7)))
    # Words that wrap break within, where the font is wider than most.
    return max(bars, min(MAX_SHORT, 16 + round(longest * (8.4 if column.kind == "word" else 7.7))))
