"""Text and numbers as displays write them: one line, bounded, nothing in it obeyed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

MAX_CELL = 300
MAX_NAME = 80
MAX_TEXT = 4_000
"""Characters of a prompt, a reply or a message."""
MAX_BITS = 1_000
"""Of a whole number that is written out."""
SLACK = 20
"""Values are not cut for so few characters: the note of the cut is as long."""

# What a terminal or a browser obeys: controls, lone surrogates, line and paragraph separators,
# marks of direction. Joiners and spaces of other scripts are text and stay.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>| |$)")
_DIGEST = re.compile(r"\b(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")


def some_names(names: Sequence[str], width: int = 200) -> str:
    """The first of the names, whole, in about `width` characters."""
    out = ""
    for i, name in enumerate(names):
        word = cell(name, MAX_NAME)
        if i and len(out) + len(word) > width:
            return f"{out}, …"
        out += f", {word}" if i else word
    return out


def cell(value: Any, width: int | None = None) -> str:
    """A value as one line of at most `width` characters, with what was cut counted.

    None: about `MAX_CELL`, and nothing is cut for a few characters.
    """
    out = one_line(value)
    if width is None:
        width = MAX_CELL if len(out) > MAX_CELL + SLACK else len(out)
    if len(out) <= width:
        return out
    # The count may get a digit more for the characters that make room for it.
    rest = f"… +{len(out) - width + 10:,}"
    n = max(1, width - len(rest))
    return f"{out[:n]}… +{len(out) - n:,}"


def one_line(value: Any) -> str:
    """Any value as one line, of any length; without addresses in memory."""
    try:
        if isinstance(value, str):
            out = str.__str__(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            out = digits(int.__pos__(value))
        else:
            out = _ADDRESS.sub("", str.__str__(repr(value)))
    except Exception as exc:  # a display never raises, whatever stands in a record
        out = f"<{type(value).__name__} that cannot be written: {type(exc).__name__}>"
    return printable(" ".join(out.split()))


def digits(value: int) -> str:
    """A whole number as it stands in a record: it may be an id, a year, a post code."""
    return _of_digits(value) if value.bit_length() > MAX_BITS else str(value)


def number(value: int) -> str:
    """A whole number that we counted, with separators; of very long ones the number of digits."""
    return _of_digits(value) if value.bit_length() > MAX_BITS else f"{value:,}"


def _of_digits(value: int) -> str:
    return f"a number of {int(value.bit_length() * math.log10(2)) + 1:,} digits"


def clip(text: str, width: int = MAX_TEXT) -> str:
    """Text of several lines cut at `width` characters, with what was cut counted."""
    if len(text) <= width + SLACK:
        return text
    return f"{text[:width]}… +{len(text) - width:,}"


def error_text(error: BaseException) -> str:
    """Type, message and notes of an exception, also of one that cannot be written."""
    try:
        said = str(error)
    except Exception as exc:  # users' exceptions are code of theirs
        said = f"its message cannot be written ({type(exc).__name__})"
    parts = [f"{type(error).__name__}: {said}" if said else type(error).__name__]
    parts.extend(str(note) for note in getattr(error, "__notes__", ()))
    return clip(" · ".join(clip(p, 600) for p in parts))


def described(thing: Any) -> str:
    """What `describe()` says, or why it cannot: settings that are wrong are shown, not raised."""
    try:
        return str(thing.describe())
    except Exception as exc:
        return f"cannot be described: {error_text(exc)}"


def printable(text: str) -> str:
    """Text with control and direction-changing characters shown, not obeyed."""
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    point = ord(found.group())
    return f"\\u{point:04x}" if point > 31 else f"\\x{point:02x}"


def short_digests(text: str) -> str:
    """Text in which a SHA-256 is named by its first 12 digits."""
    return _DIGEST.sub(r"\1…", text)


def usd(value: float | None) -> str:
    """Dollars with two significant digits; "unknown" for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value < 0:
        return f"−{usd(-value)}"
    if value < 1e-12:
        return "$0"
    if value >= 99.5:
        return f"${value:,.0f}"
    # Of the rounded value: 0.0999 is 0.10, with a digit less than its size asks for.
    places = 1 - math.floor(math.log10(float(f"{value:.1e}")))
    return f"${value:.{max(0, places)}f}"


def limit_usd(value: float) -> str:
    """A limit in dollars as it was typed, every digit of it: "$5.00", "$0.25", "$0.015"."""
    whole, _, rest = f"{value:.10f}".rstrip("0").partition(".")
    return f"${int(whole):,}.{rest:0<2}"


def count(value: float, *, about: bool = False) -> str:
    """A number of records or calls; "~" where it is a guess, "unknown" for NaN and infinity."""
    if not math.isfinite(value):
        return "unknown"
    return f"{'~' if about else ''}{value:,.0f}"


def seconds(value: float) -> str:
    """A duration: "< 0.01 s", "0.84 s", "9.2 s", "1 min 20 s", "2 h 5 min"; "unknown" for NaN and infinity."""
    if not math.isfinite(value):
        return "unknown"
    if value < 0.005:
        return "< 0.01 s" if value > 0 else "0 s"
    if value < 59.5:
        places = 2 if value < 0.995 else 1 if value < 9.95 else 0
        return f"{value:.{places}f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def usd_range(low: float, high: float) -> str:
    """A range of dollars, the sign once: "$0.13–0.27"; one figure where both read the same."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    a, b = usd(low), usd(high)
    return a if a == b else f"{a}–{b.removeprefix('$')}"


def amount(value: float) -> str:
    """A large number in 2–3 digits: "790", "1.7k", "621k", "1.2M"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:,.0f}{unit}"
    return f"{value:,.0f}"


def change(before: float, after: float) -> str:
    """A relative change with a true sign: "−16%", "+0.3%", "same"; "" where there is no base."""
    if before == after:
        return "same"
    if not before or not (math.isfinite(before) and math.isfinite(after)):
        return ""
    percent = 100 * abs(after - before) / abs(before)
    sign = "−" if after < before else "+"
    if percent < 0.05:
        return f"less than {sign}0.1%"
    return f"{sign}{percent:,.0f}%" if percent >= 0.95 else f"{sign}{percent:.1f}%"


def plural(n: float, word: str, words: str = "") -> str:
    """A number with its noun: "1 call", "40 calls", "2 replies"."""
    return f"{n:,.0f} {word if n == 1 else words or word + 's'}"


def file_size(n_bytes: float) -> str:
    """Bytes as people say them: "812 bytes", "4.2 kB", "1.3 MB"."""
    if n_bytes < 1_000:
        return plural(n_bytes, "byte")
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit * 0.9995:
            scaled = n_bytes / limit
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:,.0f} {unit}"
    return "1.0 kB"
