"""Documents as Markdown, as GitHub and language models read it: no HTML, nothing of the data obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from datafast_nb.display import dag, text, values
from datafast_nb.display.bounds import bounded
from datafast_nb.display.formats import printable
from datafast_nb.display.views import (
    SIGNS,
    AnyCell,
    Block,
    Cell,
    Column,
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
    Style,
    Table,
    Tiles,
    is_line,
)

MAX_CHARS = 100_000
MAX_ROWS = 100
MAX_CELL = 200
LONGEST = 4_000
# Every character that starts something in Markdown or in what viewers add to it (formulas, mentions).
_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~$@^:=-])")
# Some readers see an entity although its "&" has a backslash.
_ENTITY = re.compile(r"&(?=#?\w+;)")
# Begins a link on GitHub.
_LINKED = re.compile(r"\b(www)\.", re.IGNORECASE)

# Fields of a template have braces, which would keep asterisks around them from meaning anything.
_STYLES: dict[Style, Style] = {"muted": "", "field": "code"}
# The sign of emphasis, and what is written where it would not be taken for that.
_EMPHASIS: dict[Style, tuple[str, str, str]] = {
    "strong": ("**", "", ""),
    "inserted": ("**", "{+", "+}"),
    "deleted": ("~~", "[-", "-]"),
}


def draw(document: Document) -> str:
    """The document as Markdown of bounded size."""
    # Cut between parts: a table or a listing that is cut in two would be something else.
    kept: list[str] = []
    room = MAX_CHARS
    for part in filter(None, _blocks(bounded(document).blocks)):
        room -= len(part) + 2
        if room < 0:
            kept.append("… cut here: too long")
            break
        kept.append(part)
    return "\n\n".join(kept)


def _blocks(blocks: Sequence[Block]) -> list[str]:
    return [part for block in blocks for part in _block(block)]


def _block(block: Block) -> list[str]:
    match block:
        case Head(title, facts):
            return [f"{_title(title)} {_line(facts)}".strip()]
        case Legend(items):
            return [" · ".join(map(_line, items))]
        case Paragraph(line):
            return [_line(line)]
        case Listing(line):
            return [_fenced(text.said(line))]
        case Tiles(tiles):
            rows = [
                [escaped(t.label), escaped(t.figure), " · ".join(map(_line, t.lines))]
                for t in tiles[:MAX_ROWS]
            ]
            if len(tiles) > MAX_ROWS:
                rows.append([f"… {len(tiles) - MAX_ROWS:,} more", "", ""])
            return [_pipes(["", "", ""], ["---", "---:", "---"], rows)]
        case Table():
            return [_table(block)]
        case Facts(facts):
            more = [f"… {len(facts) - MAX_ROWS:,} more"] if len(facts) > MAX_ROWS else []
            return [*(part for fact in facts[:MAX_ROWS] for part in _fact(fact)), *more]
        case Section(title, note, body) | Fold(title, note, body):
            return [f"{_title(title)} {_line(note)}".strip(), *_blocks(body)]
        case Graph():
            return [_fenced(dag.graph_text(block))]


def escaped(words: str, limit: int = LONGEST) -> str:
    """Words as one line in which nothing is Markdown."""
    line = " ".join(printable(words).split())
    if len(line) > limit:
        line = f"{line[:limit]}… +{len(line) - limit:,}"
    return _LINKED.sub(r"\1\\.", _SPECIAL.sub(r"\\\1", _ENTITY.sub("&amp;", line)))


def _title(words: str) -> str:
    body = escaped(words)
    return body and f"**{body}**"


def _line(line: Line) -> str:
    out = ""
    for part in _merged(line):
        out += _part(part, out[-1:])
    # "1." and "1)" at the beginning would be a list.
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", out.strip())


def _merged(line: Line) -> Iterator[str | Span | Mark]:
    """The parts of a line; neighbours of one style are one, since two signs of it would be another."""
    full = (p for p in line if isinstance(p, Mark) or (p if isinstance(p, str) else p.text))
    for style, parts in groupby(full, key=_style):
        if style == "mark":
            yield from parts
        else:
            words = "".join(
                p if isinstance(p, str) else p.text for p in parts if not isinstance(p, Mark)
            )
            yield Span(words, style)


def _style(part: str | Span | Mark) -> Any:
    if isinstance(part, Mark):
        return "mark"
    style = part.style if isinstance(part, Span) else ""
    return _STYLES.get(style, style)


def _part(part: str | Span | Mark, before: str) -> str:
    if isinstance(part, Mark):
        return escaped(SIGNS[part.name])
    words = printable(part if isinstance(part, str) else part.text)
    lead, tail = " " * words[:1].isspace(), " " * words[-1:].isspace()
    if not words.strip():
        return lead
    body = escaped(words)
    style = part.style if isinstance(part, Span) else ""
    if style == "code":
        body = _code(words)
    elif style in _EMPHASIS:
        around, left, right = _EMPHASIS[style]
        if _is_flanked(body, before + lead):
            body = f"{around}{body}{around}"
        else:
            body = escaped(f"{left}{words.strip()}{right}")
    return f"{lead}{body}{tail}"


def _is_flanked(body: str, before: str) -> bool:
    """Whether signs of emphasis around the words would be taken for that."""
    return body[0].isalnum() and body[-1].isalnum() and before[-1:] not in ("*", "~")


def _code(words: str) -> str:
    """A code span: backticks inside need a longer fence."""
    line = " ".join(printable(words).split())
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]}… +{len(line) - LONGEST:,}"
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fenced(words: str) -> str:
    body = printable(words)
    if len(body) > LONGEST:
        body = f"{body[:LONGEST]}… +{len(body) - LONGEST:,}"
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", body)), default=0) + 1)
    return f"{fence}text\n{body}\n{fence}"


def _fact(fact: Fact) -> list[str]:
    label = _title(f"{SIGNS[fact.mark]} {fact.label}" if fact.mark else fact.label)
    if is_line(fact.body):
        return [f"{label} {_line(fact.body)}".strip()]
    body = _blocks([b for b in fact.body if not isinstance(b, (str, Span, Mark))])
    if len(body) == 1 and not body[0].startswith("`"):
        return [f"{label} {body[0]}".strip()]
    return [label, *body]


def _table(table: Table) -> str:
    rows = [_row(r, table.columns) for r in table.rows[:MAX_ROWS]]
    if len(table.rows) > MAX_ROWS:
        rows.append([f"… {len(table.rows) - MAX_ROWS:,} more rows"])
    if table.total:
        rows.append(_row(table.total, table.columns))
    rule = ["---:" if c.kind == "number" else "---" for c in table.columns]
    return _pipes([escaped(c.name) for c in table.columns], rule, rows)


def _row(row: Row, columns: Sequence[Column]) -> list[str]:
    out: list[str] = []
    for cell in row:
        column = columns[len(out)] if len(out) < len(columns) else Column("")
        out.append(_cell(cell, column))
        out.extend([""] * (cell.span - 1 if isinstance(cell, Cell) else 0))
    return out


def _cell(cell: AnyCell, column: Column) -> str:
    if isinstance(cell, Cell):
        parts = [cell.line]
        if cell.listing is not None:
            parts.append((Span(text.fit(text.said(cell.listing.line), MAX_CELL), "code"),))
        said = [_line(_without_pipes(line)) for line in (*parts, *cell.below)]
        said.extend(escaped(words, MAX_CELL) for words in _words(cell.body))
        return " · ".join(part for part in said if part)
    made = values.compact(cell.value, column.kind, LONGEST)
    words = f"{made.head} {made.rest}" if made.rest else made.head
    return escaped(f"{SIGNS[made.mark]} {words}" if made.mark else words, MAX_CELL)


def _without_pipes(line: Line) -> Line:
    """The line without code that holds a pipe: readers differ on whether it ends the cell."""
    return tuple(p.text if isinstance(p, Span) and "|" in p.text else p for p in line)


def _words(blocks: Sequence[Block]) -> list[str]:
    """What blocks in a cell say, line by line: a cell holds no tables and no listings."""
    return [line.strip() for line in text.draw(Document(tuple(blocks)), 200, False).split("\n")]


def _pipes(header: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not header:
        return ""
    lines = [header, rule, *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
