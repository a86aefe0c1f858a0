"""Prompt templates: text with `{column}` fields, and nothing else.

`{{` and `}}` are literal braces. There are no attributes, indexes, conversions or format
specifications, and values are put in as they are: data is never a template.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import orjson

from datafast_nb.errors import RecordError
from datafast_nb.records import refuse_long_integers

# A field with one of these is nearly always JSON or code that wants doubled braces;
# it is still a field where a column really has that name.
SUSPICIOUS = frozenset("\"'\n\r:;!,()=<>/\\")

# Integers under this have fewer digits than any limit that Python lets one set (640).
_SHORT_BITS = 2_000


class Template:
    """A parsed prompt.

    Raises
    ------
    ValueError
        On a brace that is neither doubled nor part of a field, with line and column.
    """

    __slots__ = ("_literals", "_names", "fields", "text")

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a prompt is text, not {type(text).__name__}: {text!r:.60}")
        self.text = text
        literals: list[str] = [""]
        names: list[str] = []
        for is_field, piece in _split(text):
            if is_field:
                names.append(piece)
                literals.append("")
            else:
                literals[-1] += piece
        self._literals = tuple(literals)
        self._names = tuple(names)
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(names))

    def render(self, values: Mapping[str, Any]) -> str:
        """The text with the fields' values.

        Raises
        ------
        KeyError
            If a field has no value.
        RecordError
            If a value cannot be written as text (bytes, half a surrogate pair).
        """
        names = self._names
        literals = self._literals
        parts = [literals[0]]
        for i, name in enumerate(names, start=1):
            value = values[name]
            parts.append(value if type(value) is str else field_text(value))
            parts.append(literals[i])
        text = "".join(parts)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as exc:
                raise RecordError(
                    f"{self._name_at(parts, exc.start)} holds half of a surrogate pair "
                    f"({text[exc.start]!a}), which is no text and cannot be sent. Mend it in a "
                    "Map first, for example with value.encode('utf-8', 'replace').decode()"
                ) from exc
        return text

    def _name_at(self, parts: list[str], index: int) -> str:
        """What stands at `index` of the joined parts, literals and values in turn."""
        for i, part in enumerate(parts):
            if index < len(part):
                return f"column {self._names[i // 2]!r}" if i % 2 else "the prompt's own text"
            index -= len(part)
        raise IndexError(index)

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def field_text(value: Any) -> str:
    """How a value stands in a prompt: None and NaN as nothing, lists and dicts as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (str, float, Decimal)):
        return str(value)
    if isinstance(value, int) and value.bit_length() < _SHORT_BITS:
        return str(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        raise RecordError(
            f"{len(value)} bytes cannot stand in a prompt; decode them to text in a Map first"
        )
    try:
        return orjson.dumps(value, default=_leaf_text).decode()
    except TypeError:
        # Wide integers, half a surrogate pair, or what `_leaf_text` refuses.
        with refuse_long_integers():
            return json.dumps(value, default=_leaf_text, ensure_ascii=False)


def _leaf_text(value: Any) -> str:
    kept = isinstance(value, (bytes, Decimal, dt.datetime, dt.date, dt.time))
    return field_text(value) if kept else str(value)


def is_missing(value: Any) -> bool:
    """None or NaN: counted, since an empty place in a prompt is seldom meant."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_suspicious(field: str) -> bool:
    """The field looks like JSON or code whose braces were not doubled."""
    return not field.strip() or any(c in SUSPICIOUS for c in field)


def escape(text: str) -> str:
    """`text` as a template that renders to `text`."""
    return text.replace("{", "{{").replace("}", "}}")


def _split(text: str) -> Iterator[tuple[bool, str]]:
    """Pieces of the template: (is a field, literal text or field name)."""
    i = 0
    start = 0
    n = len(text)
    while i < n:
        c = text[i]
        if c == "{":
            if text.startswith("{{", i):
                yield False, text[start : i + 1]
                i += 2
                start = i
                continue
            yield False, text[start:i]
            end = i + 1
            while end < n and text[end] not in "{}":
                end += 1
            if end == n or text[end] == "{":
                raise ValueError(
                    f"the prompt has a '{{' that opens no field, at {_position(text, i)}. "
                    "A field is {column}; a literal brace is written '{{' or '}}'"
                )
            yield True, text[i + 1 : end]
            i = start = end + 1
        elif c == "}":
            if not text.startswith("}}", i):
                raise ValueError(
                    f"the prompt has a lone '}}' at {_position(text, i)}. "
                    "A literal brace is written '{{' or '}}'"
                )
            yield False, text[start : i + 1]
            i += 2
            start = i
        else:
            # Jump to the next brace: prompts are long and braces are few.
            opening = text.find("{", i)
            closing = text.find("}", i)
            i = min(x for x in (opening, closing, n) if x >= 0)
    yield False, text[start:]


def _position(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    near = text[max(0, index - 15) : index + 25].replace("\n", " ")
    return f"line {line}, column {column} (near {near!r})"
