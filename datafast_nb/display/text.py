"""Documents as text for terminals: aligned, cut to the width, no colours.

Every line fits the width, but for words of ours that cannot be broken. Folds show their summary,
and their body only where a terminal needs it (`in_text`).
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from datafast_nb.display import dag, values
from datafast_nb.display.ascii import ascii_text, drawn_in_ascii, in_ascii, is_ascii_wanted
from datafast_nb.display.bounds import bounded
from datafast_nb.display.formats import printable
from datafast_nb.display.views import (
    SIGNS,
    AnyCell,
    Block,
    Cell,
    Column,
    ColumnKind,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    Head,
    Legend,
    Line,
    Listing,
    Mark,
    Paragraph,
    Row,
    Section,
    Span,
    Table,
    Tiles,
    Value,
    is_line,
)

MIN_COLUMN = 6
_LEAST: dict[ColumnKind, int] = {"number": 40, "status": 16, "index": 16}
"""Widths up to which columns are not made narrower: a number that is cut is another number."""
MIN_ROOM = 20
"""Columns below which nothing is indented."""
MAX_LINES = 2_000
MAX_LISTING = 12
"""Lines of a prompt or a reply."""
MAX_CELL_LINES = 6
MAX_ROWS = 200
LONGEST = 4_000
"""Characters of one paragraph."""


def draw(document: Document, width: int | None = None, ascii_only: bool | None = None) -> str:
    """The document as text.

    Parameters
    ----------
    width
        Columns of the terminal; None: as many as it has, between 40 and 200.
    ascii_only
        Write nothing but ASCII: marks as letters, other characters as codes. None: as
        `options.ascii` says, and where the output's encoding could not take the marks.
    """
    is_ascii = is_ascii_wanted() if ascii_only is None else ascii_only
    document = bounded(document)
    lines = _blocks(
        (in_ascii(document) if is_ascii else document).blocks, width or terminal_width()
    )
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"… {len(lines) - MAX_LINES:,} more lines"]
    text = joined(lines)
    return drawn_in_ascii(text) if is_ascii else text


def terminal_width() -> int:
    """Columns of the terminal, between 40 and 200."""
    return max(40, min(200, shutil.get_terminal_size((100, 24)).columns))


def for_output(words: str) -> str:
    """Text in characters that this output takes."""
    return ascii_text(words) if is_ascii_wanted() else words


def joined(lines: Sequence[str]) -> str:
    """The lines of a display: nothing in them moves a terminal's cursor but their ends."""
    return printable("\n".join(line.rstrip() for line in lines)).replace("\t", " ")


# Widths of characters.


def display_width(text: str) -> int:
    """Columns that a text takes: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_char_width, text))


@lru_cache(maxsize=4096)
def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _take(text: str, width: int) -> int:
    """How many characters of the text fit into `width` columns."""
    if text.isascii():
        return max(0, width)
    used = 0
    for i, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return i
    return len(text)


def fit(text: str, width: int) -> str:
    """One line of at most `width` columns, with what was cut counted where there is room for it."""
    line = " ".join(printable(text).split())
    if display_width(line) <= width:
        return line
    room = width - len(f"… +{len(line):,}")
    if room < 4:
        return line[: _take(line, width - 1)].rstrip() + "…" if width > 0 else ""
    n = _take(line, room)
    return f"{line[:n]}… +{len(line) - n:,}"


def wrapped(text: str, width: int) -> list[str]:
    """The words of a text in lines of at most `width` columns; longer words are broken."""
    lines: list[str] = []
    line = ""
    used = 0
    for word in text.split():
        wide = display_width(word)
        if line and used + 1 + wide <= width:
            line += " " + word
            used += 1 + wide
            continue
        if line:
            lines.append(line)
        if wide > width:
            *full, word = _pieces(word, width)
            lines.extend(full)
            wide = display_width(word)
        line, used = word, wide
    return [*lines, line] if line else lines


def _pieces(word: str, width: int) -> list[str]:
    """A word broken into pieces of at most `width` columns, of one character at least."""
    out: list[str] = []
    start = used = 0
    for i, char in enumerate(word):
        wide = _char_width(char)
        if used + wide > width and i > start:
            out.append(word[start:i])
            start, used = i, 0
        used += wide
    return [*out, word[start:]]


# Lines and blocks.


def said(line: Line) -> str:
    """The words of a line; marks as signs, differences in brackets."""
    return "".join(map(_part, line))


def _part(part: str | Span | Mark) -> str:
    if isinstance(part, Mark):
        return SIGNS[part.name]
    text = printable(part if isinstance(part, str) else part.text)
    if isinstance(part, Span) and part.style in ("inserted", "deleted"):
        return f"{{+{text}+}}" if part.style == "inserted" else f"[-{text}-]"
    return text


def _blocks(blocks: Sequence[Block], width: int) -> list[str]:
    return [line for block in blocks for line in _block(block, width)]


def _block(block: Block, width: int) -> list[str]:
    match block:
        case Head(title, facts):
            return wrapped(f"{_bounded(printable(title))}  {_bounded(said(facts))}", width)
        case Legend(items):
            return _items([said(i) for i in items], width)
        case Paragraph(line):
            return wrapped(_bounded(said(line)), width)
        case Listing(line):
            return _listing(said(line), width)
        case Tiles():
            return _tiles(block, width)
        case Table():
            return ["", *_table(block, width)]
        case Facts(facts):
            return _facts(facts, width)
        case Section(title, note, body):
            return ["", *wrapped(f"{printable(title)}  {said(note)}", width), *_blocks(body, width)]
        case Fold():
            return _fold(block, width)
        case Graph():
            return _graph(block, width)


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… +{len(text) - LONGEST:,}"


def _items(items: Sequence[str], width: int) -> list[str]:
    """Items two spaces apart, none broken where it fits a line."""
    lines: list[str] = []
    for item in items:
        item = " ".join(item.split())
        if lines and display_width(lines[-1]) + 2 + display_width(item) <= width:
            lines[-1] += "  " + item
        else:
            lines.extend(wrapped(_bounded(item), width))
    return lines


def _listing(text: str, width: int) -> list[str]:
    indent = "  " if width >= MIN_ROOM else ""
    room = width - len(indent)
    lines = text.split("\n")
    out: list[str] = []
    for line in lines:
        line = (
            line.expandtabs(4).rstrip() if line.isascii() else line.replace("\t", "    ").rstrip()
        )
        pieces = [line]
        if display_width(line) > room:
            lead = " " * min(len(line) - len(line.lstrip()), room // 3)
            pieces = [lead + piece for piece in wrapped(line, room - len(lead))]
        out.extend(indent + piece for piece in pieces)
        if len(out) > MAX_LISTING:
            rest = f"… {len(lines):,} lines in all" if len(lines) > 1 else "…"
            return [*out[:MAX_LISTING], indent + rest]
    return out


def _tiles(block: Tiles, width: int) -> list[str]:
    """One line a figure: its name, the figure, what explains it."""
    names = [fit(t.label, width // 3) for t in block.tiles[:MAX_ROWS]]
    figures = [fit(t.figure, width // 2 - 2) for t in block.tiles[:MAX_ROWS]]
    a = max(map(display_width, names), default=0)
    b = max(map(display_width, figures), default=0)
    room = width - a - b - 4
    out: list[str] = []
    for name, figure, tile in zip(names, figures, block.tiles, strict=False):
        head = f"{_left(name, a)}  {_right(figure, b)}"
        lines = _few(" · ".join(said(line) for line in tile.lines), max(room, width - 4))
        if room >= MIN_ROOM or (len(lines) == 1 and display_width(lines[0]) <= room):
            lines = _few(" · ".join(said(line) for line in tile.lines), room)
            out.append(f"{head}  {lines[0]}" if lines else head)
            out.extend(" " * (a + b + 4) + line for line in lines[1:])
        else:
            out.extend([head, *("    " + line for line in lines)])
    if len(block.tiles) > MAX_ROWS:
        out.append(f"… {len(block.tiles) - MAX_ROWS:,} more")
    return out


def _few(text: str, width: int) -> list[str]:
    """The words of a text in at most `MAX_CELL_LINES` lines."""
    lines = wrapped(_bounded(text), width)
    if len(lines) <= MAX_CELL_LINES:
        return lines
    last = fit(" ".join(lines[MAX_CELL_LINES - 1 :]), width)
    return [*lines[: MAX_CELL_LINES - 1], last]


def _fold(block: Fold, width: int) -> list[str]:
    head = wrapped(f"▸ {_bounded(printable(block.title))}  {_bounded(said(block.note))}", width)
    if not block.in_text:
        return head
    indent = "  " if width >= MIN_ROOM else ""
    body = _blocks(block.body, width - len(indent))
    return [*head, *(indent + line for line in body if line)]


def _facts(facts: Sequence[Fact], width: int) -> list[str]:
    names = [f"{SIGNS[f.mark]} {f.label}" if f.mark else f.label for f in facts[:MAX_ROWS]]
    labels = [fit(name, width // 3) for name in names]
    size = max(map(display_width, labels), default=0)
    out: list[str] = []
    # Where the names leave no room beside them, what they name stands below them.
    room = width - size - 2
    for label, fact in zip(labels, facts, strict=False):
        if room < MIN_ROOM - 4:
            out.extend([label, *(line for line in _body(fact.body, width) if line)])
            continue
        body = [line for line in _body(fact.body, room) if line]
        out.append(f"{_left(label, size)}  {body[0] if body else ''}")
        out.extend(" " * (size + 2) + line for line in body[1:])
    if len(facts) > MAX_ROWS:
        out.append(f"… {len(facts) - MAX_ROWS:,} more")
    return out


def _body(body: Line | tuple[Block, ...], width: int) -> list[str]:
    if is_line(body):
        return wrapped(_bounded(said(body)), width)
    return _blocks([part for part in body if not isinstance(part, (str, Span, Mark))], width)


def _graph(block: Graph, width: int) -> list[str]:
    is_chain = block.edges == tuple((i, i + 1) for i in range(len(block.nodes) - 1))
    if is_chain:
        parts = [f"{n.name} {said(n.lines[0])}".strip() if n.lines else n.name for n in block.nodes]
        line = " → ".join(" ".join(printable(p).split()) for p in parts)
        if display_width(line) <= width:
            return [line]
    out: list[str] = []
    for line in dag.graph_text(block).split("\n"):
        indent = line[: len(line) - len(line.lstrip())][: width // 3]
        pieces = wrapped(line, width - len(indent) - 2)
        out.extend(indent + ("  " if i else "") + piece for i, piece in enumerate(pieces))
    return out


def _left(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))


def _right(text: str, width: int) -> str:
    return " " * (width - display_width(text)) + text


# Tables.


def _table(table: Table, width: int) -> list[str]:
    """An aligned table. Columns shrink, widest first, until it fits; then the last are left out."""
    columns = table.columns
    rows = [*table.rows[:MAX_ROWS], *((table.total,) if table.total else ())]
    sizes, least = _sizes(columns, rows)
    keep = list(range(len(columns)))
    while len(keep) > 1 and sum(least[i] for i in keep) + 2 * (len(keep) - 1) > width:
        keep.pop()
    shown = dict(
        zip(keep, _shrunk([sizes[i] for i in keep], [least[i] for i in keep], width), strict=True)
    )
    if any(shown[i] < min(sizes[i], 3 * MIN_COLUMN) for i in keep if _is_of_words(table, i)):
        return _stacked(rows, columns, width)
    out: list[str] = []
    if any(c.name for c in columns):
        names = tuple(Value(c.name) for c in columns)
        out = [*_row(names, columns, shown), "  ".join("─" * shown[i] for i in keep)]
    for n, row in enumerate(rows):
        if table.total and n == len(rows) - 1:
            out.append("  ".join("─" * shown[i] for i in keep))
        out.extend(_row(row, columns, shown))
    if len(table.rows) > MAX_ROWS:
        out.append(f"… {len(table.rows) - MAX_ROWS:,} more rows")
    n_less = len(columns) - len(keep)
    if n_less:
        out.append(f"+{n_less} column{'s' * (n_less != 1)}")
    return out


def _is_of_words(table: Table, i: int) -> bool:
    """Whether a column holds words of ours alone, which are read and not compared."""
    cells = [cell for row in table.rows[:MAX_ROWS] for at, _, cell in _placed(row) if at == i]
    return (
        table.columns[i].kind not in ("number", "index")
        and bool(table.columns[i].name)
        and all(isinstance(c, Cell) and c.span == 1 and not c.body for c in cells)
    )


def _stacked(rows: Sequence[Row], columns: Sequence[Column], width: int) -> list[str]:
    """Rows one below the other, for words that would not fit side by side."""
    out: list[str] = []
    for row in rows:
        texts = [(columns[i].name, _text(cell, columns[i])) for i, _, cell in _placed(row)]
        spoken = [(name, text) for name, text in texts if text]
        if not spoken:
            continue
        (name, first), *rest = spoken
        head = f"{name} {first}" if columns[0].kind == "number" else first
        out.extend(wrapped(_bounded(head), width))
        facts = [Fact(name, (text,)) for name, text in rest]
        out.extend("  " + line for line in _facts(facts, width - 2))
    return out


def _sizes(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """What each column would like, and the least that it needs."""
    sizes = [display_width(fit(c.name, 40)) for c in columns]
    for row in rows:
        for i, n, cell in _placed(row):
            if n == 1 and i < len(sizes):
                sizes[i] = max(sizes[i], min(80, display_width(_text(cell, columns[i]))))
    # A column whose cells all lie in wider ones still shows some of what stands there.
    least = []
    for size, column in zip(sizes, columns, strict=True):
        most = _LEAST.get(column.kind, MIN_COLUMN)
        least.append(min(size, most))
    return sizes, least


def _placed(row: Row) -> Iterator[tuple[int, int, AnyCell]]:
    """(first column, number of columns, cell) of every cell."""
    at = 0
    for cell in row:
        n = cell.span if isinstance(cell, Cell) else 1
        yield at, n, cell
        at += n


def _row(row: Row, columns: Sequence[Column], shown: dict[int, int]) -> list[str]:
    """The lines of a row: values are cut to one line, words of ours are wrapped."""
    cells: list[tuple[list[str], int, bool]] = []
    for i, n, cell in _placed(row):
        here = [k for k in range(i, i + n) if k in shown]
        if not here:
            continue
        room = sum(shown[k] for k in here) + 2 * (len(here) - 1)
        column = columns[i] if n == 1 else Column("")
        text = _text(cell, column)
        is_roomy = room >= 3 * MIN_COLUMN
        lines = _few(text, room) if isinstance(cell, Cell) and is_roomy else [fit(text, room)]
        if isinstance(cell, Cell) and cell.body:
            body = [x for x in _blocks(cell.body, room if is_roomy else 80) if x]
            body = body if is_roomy else [fit(" ".join(body), room)]
            lines = [*(lines if text else []), *body]
        cells.append((lines, room, column.kind == "number"))
    return [
        "  ".join(
            (_right if right else _left)(lines[k] if k < len(lines) else "", room)
            for lines, room, right in cells
        )
        for k in range(max((len(lines) for lines, _, _ in cells), default=0))
    ]


def _text(cell: AnyCell, column: Column) -> str:
    """A cell as one line."""
    if isinstance(cell, Cell):
        lines = [said(cell.line), *(said(line) for line in cell.below)]
        if cell.listing is not None:
            lines.insert(1, said(cell.listing.line))
        return " · ".join(line for line in lines if line)
    made = values.compact(cell.value, column.kind, LONGEST)
    head = f"{SIGNS[made.mark]} {made.head}" if made.mark else made.head
    return printable(f"{head} {made.rest}" if made.rest else head)


def _shrunk(sizes: list[int], least: list[int], width: int) -> list[int]:
    """Sizes that fit where that is possible; the widest column gives first."""
    sizes = list(sizes)
    room = width - 2 * (len(sizes) - 1)
    while sum(sizes) > room:
        able = [i for i in range(len(sizes)) if sizes[i] > least[i]]
        if not able:
            return [min(size, room) for size in sizes]  # one alone, or they would not be kept
        widest = max(able, key=lambda i: sizes[i])
        second = max((sizes[i] for i in able if i != widest), default=0)
        goal = max(least[widest], min(second, sizes[widest] - 1), sizes[widest] - sum(sizes) + room)
        sizes[widest] = goal
    return sizes


class Drawing(str):
    """Text that shows as it is where a cell ends in it."""

    __slots__ = ()

    def __new__(cls, drawn: str) -> Drawing:
        """The text in characters that this output takes."""
        return super().__new__(cls, for_output(drawn))

    def __repr__(self) -> str:
        return str(self)
