"""Differences of two texts, word by word, and of two values, field by field.

Words are aligned by their longest common subsequence, computed on whole machine words at a
time (Hyyrö 2004): exact, and fast also for texts of few different words.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from datafast_nb.display.views import Inline, Line, Span, Style, muted

MAX_BYTES = 20_000
"""Larger texts are compared line by line."""
MAX_TABLE = 150_000_000
"""Bits of the table of an alignment: 19 MB."""
MIN_COMMON = 0.35
"""Texts with a smaller share of words in common are no edit of one another."""
MAX_FIELDS = 100
MAX_DEPTH = 4


class Missing:
    """Stands for a field that only the other value has."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()


# Texts.


def words(a: str, b: str) -> tuple[Line, Line]:
    """Both texts, with the words that only `a` has deleted, those that only `b` has inserted.

    Where hardly a word is common both stand unmarked, and the second says "rewritten".
    """
    found = _compare(a, b)
    if found.is_rewritten:
        return (a,), (b, muted(" rewritten"))
    return (
        _line(part for p in found.pieces for part in _marked(p.a, "deleted", p.is_same)),
        _line(part for p in found.pieces for part in _marked(p.b, "inserted", p.is_same)),
    )


def merged(a: str, b: str) -> Line:
    """One line of both texts: common words, deleted ones, inserted ones after them."""
    out: list[Inline] = []
    for p in _compare(a, b).pieces:
        if p.is_same:
            out.append(p.a)
            continue
        before = _common_space(p.a, p.b)
        rest_a, rest_b = p.a[len(before) :], p.b[len(before) :]
        after = _common_space(rest_a[::-1], rest_b[::-1])[::-1]
        end = len(after)
        out += [before, Span(rest_a[: len(rest_a) - end], "deleted")]
        out += [Span(rest_b[: len(rest_b) - end], "inserted"), after]
    return _line(out)


@dataclass(frozen=True, slots=True)
class _Piece:
    is_same: bool
    a: str
    b: str
    n_words: int = 0
    """Words that are common."""


@dataclass(frozen=True, slots=True)
class _Comparison:
    pieces: list[_Piece]
    is_rewritten: bool = False


def _compare(a: str, b: str) -> _Comparison:
    if a == b:
        return _Comparison([_Piece(True, a, b)])
    if a > b:  # one order for both directions, so that they mark the same words
        found = _compare(b, a)
        mirrored = [_Piece(p.is_same, p.b, p.a, p.n_words) for p in found.pieces]
        return _Comparison(mirrored, found.is_rewritten)
    by_lines = max(len(a.encode("utf-8", "replace")), len(b.encode("utf-8", "replace"))) > MAX_BYTES
    if by_lines:
        start, end = _same_lines(a, b)
        if start or end:
            inner = _compare(a[start : len(a) - end], b[start : len(b) - end])
            head, tail = a[:start], a[len(a) - end :]
            around = [_Piece(True, head, head, 2), *inner.pieces, _Piece(True, tail, tail, 2)]
            return _Comparison([p for p in around if p.a or p.b])
    tokens_a, tokens_b = (_lines if by_lines else _tokens)(a), (_lines if by_lines else _tokens)(b)
    pieces = _merge(_aligned(tokens_a, tokens_b))
    n_words = sum(t.is_word for t in tokens_a) + sum(t.is_word for t in tokens_b)
    common = 2 * sum(p.n_words for p in pieces if p.is_same)
    if a.strip() and b.strip() and n_words and common < MIN_COMMON * n_words * (1 + by_lines):
        return _Comparison([_Piece(False, a, b)], is_rewritten=True)
    return _Comparison(pieces)


def _same_lines(a: str, b: str) -> tuple[int, int]:
    """Characters of whole lines that are the same at the start, and at the end."""
    lines_a, lines_b = a.splitlines(keepends=True), b.splitlines(keepends=True)
    n, most = 0, min(len(lines_a), len(lines_b))
    while n < most and lines_a[n] == lines_b[n]:
        n += 1
    m = 0
    while m < most - n and lines_a[-1 - m] == lines_b[-1 - m]:
        m += 1
    return sum(map(len, lines_a[:n])), sum(map(len, lines_a[len(lines_a) - m :]))


def _aligned(a: Sequence[_Token], b: Sequence[_Token]) -> Iterator[_Piece]:
    """Pieces in order; neighbours may be of one kind."""
    at_a = at_b = 0
    for i, j in [*_matches([t.text for t in a], [t.text for t in b]), (len(a), len(b))]:
        only_a = "".join(t.space + t.text for t in a[at_a:i])
        only_b = "".join(t.space + t.text for t in b[at_b:j])
        if i < len(a):
            token = a[i]
            if token.space == b[j].space:
                yield _Piece(False, only_a, only_b)
                yield _Piece(True, token.space + token.text, token.space + token.text, token.words)
            else:
                yield _Piece(False, only_a + token.space, only_b + b[j].space)
                yield _Piece(True, token.text, token.text, token.words)
        else:
            yield _Piece(False, only_a, only_b)
        at_a, at_b = i + 1, j + 1


def _merge(pieces: Iterator[_Piece]) -> list[_Piece]:
    """Neighbours of one kind joined, and changes with fewer than two words between them."""
    joined: list[_Piece] = []
    for piece in pieces:
        if not piece.a and not piece.b:
            continue
        if joined and joined[-1].is_same == piece.is_same:
            piece = _joined(joined.pop(), piece)
        joined.append(piece)
    out: list[_Piece] = []
    for piece in joined:
        if len(out) >= 2 and not piece.is_same and out[-1].n_words < 2:
            before, between = out[-2], out[-1]
            # Text that was wrapped anew differs at every line end, and in no word.
            if not before.is_same and not (_is_space(before) or _is_space(piece)):
                del out[-2:]
                piece = _joined(_joined(before, between), piece)
        out.append(piece)
    return out


def _joined(first: _Piece, second: _Piece) -> _Piece:
    is_same = first.is_same and second.is_same
    n_words = first.n_words + second.n_words if is_same else 0
    return _Piece(is_same, first.a + second.a, first.b + second.b, n_words)


def _is_space(piece: _Piece) -> bool:
    return not piece.a.strip() and not piece.b.strip()


def _matches(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, ascending; of the ends alone where it is too large."""
    n, most = 0, min(len(a), len(b))
    while n < most and a[n] == b[n]:
        n += 1
    m = 0
    while m < most - n and a[-1 - m] == b[-1 - m]:
        m += 1
    start = [(i, i) for i in range(n)]
    end = [(len(a) - k, len(b) - k) for k in range(m, 0, -1)]
    mid_a, mid_b = a[n : len(a) - m], b[n : len(b) - m]
    if not mid_a or not mid_b or len(mid_a) * len(mid_b) > MAX_TABLE:
        return start + end
    return [*start, *((i + n, j + n) for i, j in _longest_common(mid_a, mid_b)), *end]


def _longest_common(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, by bit-parallel dynamic programming."""
    where: dict[str, int] = {}
    for i, text in enumerate(a):
        where[text] = where.get(text, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    rows = []
    for text in b:
        hits = row & where.get(text, 0)
        row = (row + hits | row - hits) & full
        rows.append(row)
    found = []
    i, j = len(a) - 1, len(b) - 1
    while i >= 0 and j >= 0:
        if a[i] == b[j]:
            found.append((i, j))
            i -= 1
            j -= 1
        elif rows[j] >> i & 1:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def _marked(text: str, style: Style, is_same: bool) -> Iterator[Inline]:
    """A piece of one text; space around changed words is not marked, space alone is."""
    core = text.strip()
    if is_same or not core:
        yield text if is_same else Span(text, style)
        return
    start = text.index(core)
    yield from (text[:start], Span(core, style), text[start + len(core) :])


def _common_space(a: str, b: str) -> str:
    """White space with which both texts start."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n] and a[n].isspace():
        n += 1
    return a[:n]


def _line(parts: Iterator[Inline] | list[Inline]) -> Line:
    """The parts without empty ones, neighbouring plain texts joined."""
    out: list[Inline] = []
    for part in parts:
        if part == "" or (isinstance(part, Span) and not part.text):
            continue
        if isinstance(part, str) and out and isinstance(out[-1], str):
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


# Words.

_Kind = Literal["space", "word", "single", "extend", "flag", "other"]


@dataclass(frozen=True, slots=True)
class _Token:
    space: str
    """White space before it."""
    text: str
    words: int = 0
    """1 for a word; 2 for a line, which never is too short to stand between two changes."""

    @property
    def is_word(self) -> bool:
        return self.words > 0


def _lines(text: str) -> list[_Token]:
    return [_Token("", line, 2) for line in text.splitlines(keepends=True)]


def _tokens(text: str) -> list[_Token]:
    """Words, `{fields}`, signs one by one; letters of scripts without spaces one by one.

    What people see as one character stays whole: letters with their marks, joined emoji, flags.
    """
    out: list[_Token] = []
    space_from = at = 0
    while at < len(text):
        if _kind(text[at]) == "space":
            at += 1
            continue
        end, is_word = _token_end(text, at)
        out.append(_Token(text[space_from:at], text[at:end], int(is_word)))
        space_from = at = end
    if space_from < len(text):
        out.append(_Token(text[space_from:], ""))
    return out


def _token_end(text: str, start: int) -> tuple[int, bool]:
    """End of the token that starts at `start`, and whether it is a word."""
    if text[start] == "{":
        close = text.find("}", start, start + 80)
        inside = text[start + 1 : close]
        if close > 0 and inside and not any(c in "{}" or c.isspace() for c in inside):
            return close + 1, True
    kind = _kind(text[start])
    at = start + 1
    while at < len(text) and _joins(text, start, at, kind):
        at += 1
    is_sign = kind == "other" and at == start + 1 and unicodedata.category(text[start]) != "So"
    return at, not is_sign


def _joins(text: str, start: int, at: int, kind: _Kind) -> bool:
    """The character at `at` belongs to the token that starts at `start`."""
    now = _kind(text[at])
    if now == "extend":
        return True
    if kind == "word":
        after = text[at + 1 : at + 2]
        if text[at] in "'’":
            return bool(after) and _kind(after) == "word"
        if text[at] in ".,":
            return text[at - 1].isdigit() and after.isdigit()
        return now == "word"
    if kind == "flag":
        return now == "flag" and at == start + 1
    return kind == now == "other" and text[at - 1] == "\u200d"


# Scripts that put no space between words.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x312F), (0x31A0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip


@lru_cache(maxsize=4096)
def _kind(char: str) -> _Kind:
    if char.isspace():
        return "space"
    point = ord(char)
    category = unicodedata.category(char)
    if (
        category in ("Mn", "Mc", "Me")
        or char in "\u200c\u200d"
        or 0x1F3FB <= point <= 0x1F3FF  # tones of skin
        or 0xE0020 <= point <= 0xE007F  # tags of regional flags
    ):
        return "extend"
    if 0x1F1E6 <= point <= 0x1F1FF:
        return "flag"
    if char.isalnum() or char == "_":
        return "single" if any(low <= point <= high for low, high in _UNSPACED) else "word"
    return "other"


# Values.


def is_same(a: Any, b: Any) -> bool:
    """The values are equal; JSON texts and dicts whatever the order of their keys, NaN too."""
    try:
        if isinstance(a, str) and isinstance(b, str):
            return a == b or _is_same(_parsed(a), _parsed(b))
        return _is_same(a, b)
    except RecursionError:
        return False


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, bool) or isinstance(b, bool):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or (a != a and b != b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_same, a, b))
    return type(a) is type(b) and bool(a == b)


def fields(name: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """What differs, field by field: (path, value of a, value of b), at most `MAX_FIELDS`.

    Dicts, lists of one length and JSON texts of these are looked into; anything else is one
    field. `MISSING` stands where one of them has no such field.
    """
    out: list[tuple[str, Any, Any]] = []
    _collect(out, name, a, b, 0)
    return out


def _collect(out: list[tuple[str, Any, Any]], name: str, a: Any, b: Any, depth: int) -> None:
    if len(out) >= MAX_FIELDS or is_same(a, b):
        return
    inner_a, inner_b = (_parsed(v) if isinstance(v, str) and depth == 0 else v for v in (a, b))
    if depth < MAX_DEPTH and isinstance(inner_a, dict) and isinstance(inner_b, dict):
        for key in {**inner_a, **inner_b}:
            path = f"{name}.{key}"
            _collect(out, path, inner_a.get(key, MISSING), inner_b.get(key, MISSING), depth + 1)
    elif (
        depth < MAX_DEPTH
        and isinstance(inner_a, list)
        and isinstance(inner_b, list)
        and len(inner_a) == len(inner_b)
    ):
        for i, (x, y) in enumerate(zip(inner_a, inner_b, strict=True)):
            _collect(out, f"{name}[{i}]", x, y, depth + 1)
    else:
        out.append((name, a, b))


def _parsed(text: str) -> Any:
    """The object or list that a text writes down as JSON; the text itself where it is none."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def is_number(value: Any) -> bool:
    """A finite number, no boolean."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) or math.isfinite(value)
