"""What a column holds, at a glance: its kind, a few bars, two or three words.

Values are read as `families` reads them, so that no code of a user's runs; nothing raises.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any, Literal

from datafast_nb.display import formats
from datafast_nb.display.families import Looked, look, spread
from datafast_nb.display.sparks import bars
from datafast_nb.display.views import Column, ColumnKind, Spark

MAX_LOOKED_AT = 50_000
MAX_CHARACTERS = 2_000_000
"""Of texts whose words are counted; of more, fewer texts are."""
MAX_BARS = 10
MAX_NAMES = 8
"""Bars of a column of categories."""
WORD = 16
"""Characters up to which a value is a word that stays on one line."""
CATEGORY = 60
"""Characters up to which texts may be names of something."""
FEW = 20
MIN_IDS = 4
"""Whole numbers that count up are ids; fewer of them may do so by chance."""
_FAMILY_WORDS = {
    "number": "numbers",
    "bool": "booleans",
    "text": "texts",
    "date": "dates",
    "list": "lists",
    "dict": "dicts",
    "other": "other objects",
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Scripts that put no spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def column_of(
    name: str,
    values: Sequence[Any],
    *,
    role: Literal["input", "written"] = "input",
    sampled_from: int | None = None,
    kind: ColumnKind | None = None,
) -> Column:
    """A column with its summary, from its values (None where a record has none).

    At most 50,000 of them are looked at, spread over all. `sampled_from`: the number of values
    that the caller took these from. `role` "written": by a model. `kind`: instead of the one
    that the values suggest. Never raises.
    """
    long: ColumnKind = "written" if role == "written" else "text"
    try:
        looked = look(spread(values, MAX_LOOKED_AT))
        summary = _summary(formats.cell(name, 40), looked)
    except Exception:  # a record may hold anything; its table is shown without this summary
        return Column(name, kind or long)
    missing = [f"{_percent(n, looked.n)} {word}" for word, n in looked.missing.items() if n]
    if looked.family == "none":
        missing = []
    note = ", ".join(filter(None, (summary.note, *missing)))
    words = ", ".join(filter(None, (summary.words, *missing)))
    total = max(sampled_from or 0, len(values))
    if total > looked.n and note:
        note = f"{note}, of {looked.n:,} sampled"
        words = f"{words}; {looked.n:,} of {total:,} sampled"
    spark = Spark(summary.bars, words) if summary.bars else None
    return Column(name, kind or summary.kind or long, spark, note)


def distribution(before: Sequence[Any], after: Sequence[Any]) -> tuple[Spark, Spark]:
    """The values of a column before and after some records were taken, in the same bins.

    Heights are shares of the records on each side, on one scale: equal shapes look equal,
    whatever the numbers of records. Without values there are no bars. Never raises.
    """
    try:
        return _distribution(*(look(spread(side, MAX_LOOKED_AT)) for side in (before, after)))
    except Exception:  # as in column_of
        return Spark((), "not known"), Spark((), "not known")


def _distribution(before: Looked, after: Looked) -> tuple[Spark, Spark]:
    sides = (before, after)
    found = {side.family for side in sides} - {"none"}
    counted: list[list[Any]]
    if found == {"text"}:
        texts = [*before.values, *after.values]
        if _are_names(texts):
            counted = [side.values for side in sides]
        else:
            counted = [_lengths(side.values, _is_unspaced(texts)) for side in sides]
    elif found == {"number"}:
        counted = [_finite(side.values) for side in sides]
    else:
        counted = [
            [_FAMILY_WORDS[f] for f in side.families]
            if found & {"mixed"} or len(found) > 1
            else side.values
            for side in sides
        ]
    if not any(counted):
        return Spark((), "no values"), Spark((), "no values")
    bins = _bins([value for side in counted for value in side])
    counts = [bins.counts(side) for side in counted]
    totals = [max(1, len(side)) for side in counted]
    heights = bars(n / total for side, total in zip(counts, totals, strict=True) for n in side)
    words = [
        ", ".join(
            f"{label} {_percent(n, total)}" for label, n in zip(bins.labels, side, strict=True) if n
        )
        for side, total in zip(counts, totals, strict=True)
    ]
    half = len(bins.labels)
    return (
        Spark(heights[:half], words[0] or "no values"),
        Spark(heights[half:], words[1] or "no values"),
    )


# What is said about them.


@dataclass(frozen=True, slots=True)
class _Summary:
    kind: ColumnKind | None = None
    """None: text of some length, by whomever it was written."""
    bars: tuple[float, ...] = ()
    words: str = ""
    note: str = ""


def _summary(name: str, looked: Looked) -> _Summary:
    values = looked.values
    match looked.family:
        case "none":
            words = " or ".join(word for word, n in looked.missing.items() if n)
            return _Summary("word", note=f"all {words}" if words else "")
        case "number":
            return _of_numbers(name, values)
        case "bool":
            counts = [values.count(True), values.count(False)]
            words = f"{name} true: {counts[0]:,}, {name} false: {counts[1]:,}"
            return _Summary("word", bars(counts), words, f"{_percent(counts[0], len(values))} true")
        case "text":
            return _of_texts(values)
        case "date":
            return _of_days(values)
        case "list":
            return _of_lengths(None, values, "items")
        case "dict":
            return _of_lengths(None, values, "keys")
        case "mixed":
            common = Counter(looked.families).most_common()
            total = len(looked.families)
            words = ", ".join(f"{_percent(n, total)} {_FAMILY_WORDS[f]}" for f, n in common)
            return _Summary(None, bars(n for _, n in common), words, "mixed types")
        case "other":
            names = list(dict.fromkeys(values))
            note = formats.cell(names[0], 24) if len(names) == 1 else f"{len(names):,} types"
            return _Summary(None, note=note)


def _of_numbers(name: str, values: list[Any]) -> _Summary:
    finite = _finite(values)
    odd = len(values) - len(finite)
    what = "infinite" if math.inf in map(abs, values) else "of over 308 digits"
    beyond = f"{odd:,} {what}" if odd else ""
    if len(finite) < 2:
        return _Summary("number", note=beyond)
    low, high = min(finite), max(finite)
    if low == high:
        return _Summary("number", note=", ".join(filter(None, ("all the same", beyond))))
    if _counts_up(values):
        return _Summary("number", note="all different")
    bins = _bins(finite)
    counts = bins.counts(finite)
    if isinstance(bins, _Names):
        named = zip(bins.labels, counts, strict=True)
        words = ", ".join(f"{name} {label}: {n:,}" for label, n in named)
    else:
        words = f"{name} from {_number(low)} to {_number(high)}"
    note = ", ".join(filter(None, (f"mean {_number(_mean(finite))}", beyond)))
    return _Summary("number", bars(counts), words, note)


def _counts_up(values: list[Any]) -> bool:
    """Whether they are likely numbers of rows: their mean and their spread say nothing."""
    return (
        len(values) >= MIN_IDS
        and all(type(v) is int for v in values)
        and all(a < b for a, b in pairwise(values))
    )


def _mean(values: list[Any]) -> float:
    try:
        return float(math.fsum(values) / len(values))
    except OverflowError:
        return math.fsum(v / len(values) for v in values)


def _of_texts(values: list[str]) -> _Summary:
    longest = max(map(len, values))
    kind: ColumnKind | None = "word" if longest <= WORD else None
    if len(values) > 1 and all(value == values[0] for value in values):
        return _Summary(kind, note="all the same")
    if _are_names(values):
        common = Counter(values).most_common()
        said = [f"{_label(value)} {n:,}" for value, n in common[:MAX_NAMES]]
        if len(common) > MAX_NAMES:
            said.append(f"{len(common) - MAX_NAMES:,} more values")
        heights = bars(n for _, n in common[:MAX_NAMES])
        return _Summary(kind, heights, ", ".join(said), f"{len(common):,} values")
    if longest <= WORD and len(values) > 1:
        n = len(set(values))
        return _Summary(kind, note="all different" if n == len(values) else f"{n:,} values")
    unspaced = _is_unspaced(values)
    return _of_lengths(kind, _lengths(values, unspaced), "characters" if unspaced else "words")


def _of_lengths(kind: ColumnKind | None, lengths: list[int], unit: str) -> _Summary:
    """Of texts, lists and dicts; `unit` in the plural."""
    low, high = min(lengths), max(lengths)
    if low == high:
        note = formats.plural(low, unit.removesuffix("s"))
        return _Summary(kind, note=note if len(lengths) == 1 else f"{note} each")
    words = f"number of {unit}, {low:,} to {high:,}"
    return _Summary(kind, bars(_bins(lengths).counts(lengths)), words, f"{low:,}–{high:,} {unit}")


def _of_days(days: list[float]) -> _Summary:
    first, last = _date(min(days)), _date(max(days))
    if first == last:
        return _Summary("word", note=first)
    heights = bars(_bins(days).counts(days))
    return _Summary("word", heights, f"from {first} to {last}", f"{first} – {last}")


def _are_names(texts: list[str]) -> bool:
    """Whether they are short ones that repeat: topics, labels, models."""
    longest = max(map(len, texts), default=0)
    if longest > CATEGORY:
        return False
    n = len(set(texts))
    return 2 * n <= len(texts) or (longest <= WORD and n <= FEW and n < len(texts))


def _is_unspaced(texts: list[str]) -> bool:
    start = "".join(text[:200] for text in texts[:200])
    return 3 * len(_UNSPACED.findall(start)) > len("".join(start.split())) > 0


def _lengths(texts: list[str], unspaced: bool) -> list[int]:
    """Words, or characters where words have no spaces between them. Of very long texts about."""
    if unspaced:
        return [len(text) for text in texts]
    mean = max(1.0, sum(map(len, texts)) / max(1, len(texts)))
    some = spread(texts, max(100, int(MAX_CHARACTERS / mean)))
    most = MAX_CHARACTERS // max(1, min(len(some), 100))
    return [
        len(text.split())
        if len(text) <= most
        else round(len(text[:most].split()) * len(text) / most)
        for text in some
    ]


def _finite(values: list[Any]) -> list[Any]:
    """Those that a float can hold; whole ones stay whole if all are and floats hold them exactly."""
    if all(type(v) is int and abs(v) <= 2**53 for v in values):
        return values
    return [number for number in map(_float, values) if math.isfinite(number)]


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


# Bins.


@dataclass(frozen=True, slots=True)
class _Names:
    """A bar per value."""

    names: tuple[Hashable, ...]
    labels: tuple[str, ...]

    def counts(self, values: Iterable[Any]) -> list[int]:
        found = Counter(values)
        return [found[name] for name in self.names]


@dataclass(frozen=True, slots=True)
class _Ranges:
    """A bar per range, each from its edge to the next, the last with its upper end."""

    edges: tuple[float, ...]
    labels: tuple[str, ...]

    def counts(self, values: Iterable[Any]) -> list[int]:
        out = [0] * (len(self.edges) - 1)
        inner = self.edges[1:-1]
        for place, n in Counter(bisect_right(inner, value) for value in values).items():
            out[place] = n
        return out


def _bins(values: Collection[Any]) -> _Names | _Ranges:
    """Bins for names or for finite numbers; for few whole numbers in a row one each."""
    kinds = set(map(type, values))
    if not kinds <= {int, float}:
        names = [name for name, _ in Counter(values).most_common(MAX_NAMES)]
        return _Names(tuple(names), tuple(map(_label, names)))
    low, high = min(values), max(values)
    most = min(MAX_BARS, max(2, math.ceil(math.log2(len(values))) + 1))  # Sturges 1926
    if kinds == {int}:
        if high - low < MAX_BARS:
            every = tuple(range(low, high + 1))
            return _Names(every, tuple(map(str, every)))
        step = math.ceil((high - low + 1) / most)
        starts = range(low, high + 1, step)
        labels = tuple(f"{a} to {a + step - 1}" for a in starts)
        return _Ranges((*starts, starts[-1] + step), labels)
    whole = float(high) - float(low)
    width = whole / most if math.isfinite(whole) else high / most - low / most
    edges = (*(low + i * width for i in range(most)), high)
    return _Ranges(edges, tuple(f"{_number(a)} to {_number(b)}" for a, b in pairwise(edges)))


# Words.


def _label(value: Any) -> str:
    return formats.cell(value, 24) or "empty"


def _number(value: float) -> str:
    """A few digits that matter: "8.3", "1204", "621k", "0.0021"."""
    size, sign = abs(value), "−" if value < 0 else ""
    if size and not 1e-4 <= size < 1e12:
        return f"{sign}{size:.1e}"
    if size >= 1e5:
        return f"{sign}{formats.amount(size)}"
    if size >= 100 or size == int(size):
        # No separators: the values below have none, and it may be a year.
        return f"{sign}{size:.0f}"
    text = f"{size:.{1 if size >= 1 else 1 - math.floor(math.log10(size))}f}"
    return f"{sign}{text.rstrip('0') if size < 1 else text}"


def _percent(part: int, whole: int) -> str:
    percent = 100 * part / max(1, whole)
    if 0 < percent < 1:
        return "<1%"
    return ">99%" if 99 < percent < 100 else f"{percent:.0f}%"


def _date(day: float) -> str:
    value = date.fromordinal(int(day))
    return f"{value.day} {_MONTHS[value.month - 1]} {value.year}"
