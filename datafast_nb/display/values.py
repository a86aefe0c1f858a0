"""Values of records: cut to a cell, or in full as blocks, each by what it is."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    ColumnKind,
    Fact,
    Facts,
    Failed,
    Listing,
    MarkName,
    Paragraph,
    Pending,
    muted,
)

MEASURE: dict[ColumnKind, int] = {
    "text": 46,
    "written": 66,
    "word": 28,
    "number": 24,
    "index": 12,
    "status": 24,
}
"""Characters of a cell before it is cut."""
SLACK = 14
"""Nothing is cut for so few characters: the note of the cut would be as long."""
MAX_ITEMS = 30
MAX_DEPTH = 4
MAX_FULL = 20_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A value in a cell: what stands there, and what opens."""

    head: str
    rest: str = ""
    n_rest: str = ""
    """How many characters were cut: "316"."""
    is_muted: bool = False
    mark: MarkName | None = None


def compact(value: Any, kind: ColumnKind, limit: int) -> Cut:
    """A value for a cell: about `MEASURE` characters, cut at a word; the rest up to `limit`."""
    if value is None:
        return Cut("None", is_muted=True)
    if type(value) is Pending:
        return Cut("pending", mark="pending")
    if type(value) is Failed:
        return Cut(repr(value), mark="failed")
    text = short(value)
    if text.isspace():
        return Cut("␣")
    text = text.strip()
    measure = min(MEASURE[kind], max(4, limit))
    if len(text) <= measure + SLACK:
        return Cut(" ".join(text.split()))
    at = _cut_at(text, measure)
    head = " ".join(text[:at].split())
    while text[at].isspace():
        at += 1
    n_rest = len(text) - at
    rest = text[at : at + limit]
    if n_rest > limit:
        rest += f"… +{n_rest - limit:,} more, see the record in full"
    return Cut(head, rest, f"{n_rest:,}")


def _cut_at(text: str, measure: int) -> int:
    """Where to cut: the last space before the measure, or the measure where words are long."""
    for at in range(measure, max(0, measure - SLACK), -1):
        if text[at].isspace():
            return at
    # Marks stay with the letter below them, and what is joined to one sign stays joined.
    at = measure
    while at < min(len(text), measure + SLACK) and (
        unicodedata.category(text[at])[0] == "M" or "\u200d" in text[at - 1 : at + 1]
    ):
        at += 1
    return at


def short(value: Any) -> str:
    """Any value as text, all but texts as one line; numbers as people write them."""
    try:
        return _short(value)
    except Exception:  # classes of users' own that are no numbers, dates or lists all the way
        return formats.one_line(value)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if hasattr(type(value), "dtype") and (item := _item(value)) is not None:
        return _short(item)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        rounded = float.__format__(value, ".6g")
        return float.__repr__(value) if "e" in rounded else rounded
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return formats.plural(len(value), "byte")
    if _is_chat(value):
        first = value[0]
        return f"{formats.plural(len(value), 'message')}: {first['role']}: {formats.one_line(first['content'])}"
    if isinstance(value, (list, dict)):
        made = _json(value)
        if made is not None:
            return made
    if isinstance(value, (set, frozenset)) and value:
        # Their own order changes from process to process.
        return f"{{{', '.join(sorted(map(formats.one_line, value)))}}}"
    return formats.one_line(value)


def _item(value: Any) -> Any:
    """A scalar of NumPy as the number of Python that it stands for; None: it stands for none."""
    is_plain = value.shape == () and value.dtype.kind in "biufSU"
    return value.item() if is_plain else None


def _json(value: Any, indent: int | None = None) -> str | None:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=_as_text)
    except Exception:  # a cycle, keys that are no text, a number too long: repr says it, bounded
        return None


def _as_text(value: Any) -> str:
    return formats.cell(short(value))


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in value[: MAX_ITEMS + 1]
        )
    )


def blocks_of(value: Any, depth: int = 0) -> tuple[Block, ...]:
    """A value in full: text with its lines, JSON indented, chats by role, lists and dicts by item."""
    try:
        return _blocks_of(value, depth)
    except Exception:  # see `short`
        return (Paragraph((formats.clip(short(value)),)),)


def _blocks_of(value: Any, depth: int) -> tuple[Block, ...]:
    if value is None:
        return (Paragraph((muted("None"),)),)
    if isinstance(value, str):
        return _text_blocks(str.__str__(value))
    if depth < MAX_DEPTH:
        if _is_chat(value):
            return _facts(
                [(m["role"], m["content"]) for m in value[: MAX_ITEMS + 1]], len(value), depth
            )
        if isinstance(value, list) and value:
            return _facts([(f"{i}", v) for i, v in enumerate(value[:MAX_ITEMS])], len(value), depth)
        if isinstance(value, dict) and value:
            first = islice(value.items(), MAX_ITEMS)
            pairs = [(formats.cell(k, formats.MAX_NAME), v) for k, v in first]
            return _facts(pairs, len(value), depth)
    return (Paragraph((formats.clip(short(value)),)),)


def _facts(pairs: list[tuple[str, Any]], n: int, depth: int) -> tuple[Block, ...]:
    facts = tuple(Fact(label, blocks_of(v, depth + 1)) for label, v in pairs[:MAX_ITEMS])
    if n <= MAX_ITEMS:
        return (Facts(facts),)
    return (Facts(facts), Paragraph((muted(f"… {n - MAX_ITEMS:,} more items"),)))


_CODE = re.compile(
    r"^\s*(```|def |class |import |from \w+ import |<\?xml|<html|SELECT |#include|function )"
)


def _text_blocks(text: str) -> tuple[Block, ...]:
    stripped = text.strip()
    if not stripped:
        return (Paragraph((muted("empty text" if not text else "only white space"),)),)
    if stripped[0] in "{[" and stripped[-1] in "}]" and len(text) <= MAX_FULL:
        indented = _indented(stripped)
        if indented is not None:
            return (Listing((indented,)),)
    if _CODE.match(text):
        return (Listing((formats.clip(text, MAX_FULL),)),)
    return (Paragraph((formats.clip(text, MAX_FULL),)),)


def _indented(text: str) -> str | None:
    """JSON with other white space, and nothing else of it changed; None: it is no JSON of that kind."""
    try:
        value = json.loads(text)
        # A key that stands twice or "1.10" would not come back: such a text stays as it is.
        for is_ascii in (False, True):
            made = json.dumps(value, ensure_ascii=is_ascii, indent=2)
            if "".join(made.split()) == "".join(text.split()):
                return made
    except (ValueError, RecursionError):
        pass
    return None
