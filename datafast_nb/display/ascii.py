"""Documents for outputs that take nothing but ASCII.

Texts are rewritten before they are laid out, so that lines keep their width; what the layout
adds afterwards is replaced sign by sign.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

from datafast_nb.display import values
from datafast_nb.display.bounds import MAX_ROWS
from datafast_nb.display.formats import printable
from datafast_nb.display.views import SIGNS, Document, Mark, Spark, Table, Value
from datafast_nb.options import options

_SIGNS = str.maketrans("●○◌✕✓–−—↓▸·─×’‘“”", "*o.xv---|>|-x''\"\"")  # noqa: RUF001
_WORDS = {"…": "...", "→": "->", "≤": "<=", "≥": ">="}
_TEXTS = _SIGNS | str.maketrans(_WORDS)
_DRAWN = _SIGNS | str.maketrans("…→≤≥", "~><>")


def is_ascii_wanted() -> bool:
    """Whether displays are to be ASCII: by option, or since the output could take nothing else."""
    if options.ascii is not None:
        return options.ascii
    try:
        "".join(SIGNS.values()).encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def in_ascii(document: Document) -> Document:
    """The document with every text in ASCII; characters that have no like stand as codes."""
    made: Document = _rewritten(document)
    return made


def ascii_text(text: str) -> str:
    """A text in ASCII; signs have words that look like them, other characters their codes."""
    return _codes(printable(text).translate(_TEXTS))


def drawn_in_ascii(text: str) -> str:
    """What the layout wrote around texts in ASCII: as many signs, all ASCII."""
    return _codes(text.translate(_DRAWN))


def _rewritten(thing: Any) -> Any:
    if isinstance(thing, str):
        return ascii_text(thing)
    if isinstance(thing, tuple):
        return tuple(map(_rewritten, thing))
    if isinstance(thing, Value):
        cut = values.compact(thing.value, "text", 0)
        is_text = not cut.mark and not cut.is_muted
        return Value(_rewritten(values.short(thing.value))) if is_text else thing
    if isinstance(thing, Table):
        rows = (*map(_rewritten, thing.rows[:MAX_ROWS]), *thing.rows[MAX_ROWS:])
        return Table(_rewritten(thing.columns), rows, _rewritten(thing.total))
    if isinstance(thing, (Mark, Spark)) or not is_dataclass(thing) or isinstance(thing, type):
        return thing
    return replace(thing, **{f.name: _rewritten(getattr(thing, f.name)) for f in fields(thing)})


def _codes(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
