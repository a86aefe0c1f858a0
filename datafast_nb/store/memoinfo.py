"""What a memo holds, for people: counted in full, or looked at for a display."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Head,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
    code,
    muted,
)
from datafast_nb.options import shown_path
from datafast_nb.store import database

N_LOOKED_AT = 2_000
"""Newest rows in which a look counts the models: more would take time at every display."""
MAX_MODELS = 20
_WAIT_S = 0.2
# A row's value: 8 bytes of checksum, 4 of its name, then JSON that begins with the identity.
_HEAD_BYTES, _IDENTITY_BYTES = 12, 600
_IDENTITY = re.compile(rb'"(provider|model)":"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, repr=False)
class MemoInfo(Shown):
    """What a memo holds."""

    path: Path
    """Its folder."""
    n_bytes: int
    """Size of its files on disk."""
    n_draws: int
    n_replies: int
    by_model: dict[str, int]
    """"provider/model" → number of replies, most first."""
    by_verdict: dict[str, int]
    """Verdict → number of replies, most first."""
    oldest: float | None
    """Unix time of the first reply; None where there is none."""
    newest: float | None
    warnings: tuple[str, ...]
    """What was warned of since it was opened."""
    n_looked_at: int | None = None
    """The newest rows that `by_model` counts; None: all of them were read."""
    n_waiting: int = 0
    """Draws in files beside the database, to be merged."""
    mode: str = "normal"

    def view(self) -> Document:
        """Plain data for display."""
        blocks: list[Block] = [Head(self._title(), (self._dates(),))]
        blocks.extend(Paragraph((Mark("warning"), f" {w}")) for w in self.warnings[:10])
        facts = [
            Fact("folder", (shown_path(self.path),)),
            Fact("size", (formats.file_size(self.n_bytes),)),
        ]
        if self.mode != "normal":
            facts.append(Fact("mode", (f"{self.mode}: only reads, asks nobody",)))
        if self.n_waiting:
            waiting = f"{formats.plural(self.n_waiting, 'draw')} in files beside the database"
            facts.append(Fact("waiting", (waiting,)))
        if self.by_verdict:
            facts.append(Fact("verdicts", (_counted(self.by_verdict),)))
        blocks.append(Facts(tuple(facts), is_ruled=True))
        if self.by_model:
            blocks.extend(self._models())
        blocks.append(Paragraph(_NEXT, is_note=True))
        return Document(tuple(blocks))

    def _title(self) -> str:
        if not self.n_draws:
            return "Memo: no answer yet"
        if self.n_replies > self.n_draws:
            replies = formats.plural(self.n_replies, "reply", "replies")
            return f"Memo: {formats.plural(self.n_draws, 'answer')}, {replies}"
        return f"Memo: {formats.plural(self.n_draws, 'answer')}"

    def _dates(self) -> str:
        if self.oldest is None or self.newest is None:
            return "paid replies are kept on disk, and used again"
        first, last = _day(self.oldest), _day(self.newest)
        return f"of {first}" if first == last else f"from {first} to {last}"

    def _models(self) -> list[Block]:
        shown = list(self.by_model.items())[:MAX_MODELS]
        rows: list[Row] = [
            (Cell((formats.cell(name, formats.MAX_NAME),)), Cell((f"{n:,}",))) for name, n in shown
        ]
        what = "replies" if self.n_looked_at is None else "answers"
        blocks: list[Block] = [
            Table((Column("model", "word"), Column(what, "number")), tuple(rows))
        ]
        notes = []
        if len(self.by_model) > len(shown):
            notes.append(f"{formats.plural(len(self.by_model) - len(shown), 'more model')}")
        if self.n_looked_at is not None and self.n_looked_at < self.n_draws:
            notes.append(f"counted in the newest {self.n_looked_at:,}; memo.info() reads all")
        if notes:
            blocks.append(Paragraph((muted(" · ".join(notes)),), is_note=True))
        return blocks


_NEXT: Line = (
    code('memo.export("calls.jsonl")'),
    " writes the answers to a file for others, ",
    code('memo.load("calls.jsonl")'),
    " takes theirs in",
)


def _day(moment: float) -> str:
    return time.strftime("%d %b %Y %H:%M", time.localtime(moment)).lstrip("0")


def _counted(counts: dict[str, int]) -> str:
    return " · ".join(f"{n:,} {name}" for name, n in list(counts.items())[:MAX_MODELS])


def most_first(counts: dict[str, int]) -> dict[str, int]:
    """The counts in descending order, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def folder_bytes(folder: Path) -> int:
    """Size of the files in a folder."""
    total = 0
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):
                total += file.stat().st_size if file.is_file() else 0
    return total


def look(folder: Path, *, warnings: tuple[str, ...], n_waiting: int, mode: str) -> MemoInfo:
    """What can be told at once, in time that does not grow with the memo.

    Reads on a connection of its own that waits for no lock, mends nothing and writes nothing.
    """
    n_draws = n_looked_at = 0
    by_model: dict[str, int] = {}
    oldest = newest = None
    try:
        path = folder / database.DB_NAME
        with contextlib.closing(database.connect(path, wait_s=_WAIT_S, read_only=True)) as con:
            n_draws = count_answers(con)
            oldest, newest = (_one(con, _STORED.format(order)) for order in ("ASC", "DESC"))
            names, n_links = _models_of_newest(con)
            by_model = most_first(names)
            n_looked_at = sum(names.values())
            n_draws -= n_links
    except (*database.ERRORS, OSError) as exc:
        warnings = (*warnings, f"the database cannot be read now: {formats.error_text(exc)}")
    return MemoInfo(
        path=folder,
        n_bytes=folder_bytes(folder),
        n_draws=n_draws,
        n_replies=n_draws,
        by_model=by_model,
        by_verdict={},
        oldest=oldest,
        newest=newest,
        warnings=warnings,
        n_looked_at=n_looked_at,
        n_waiting=n_waiting,
        mode=mode,
    )


# Names of rows about the memo itself begin with "!", and '"' is the character after it.
# The plus keeps SQLite from sorting all rows that the index on the key would give; rows keep
# their place in the order of storing.
_STORED = "SELECT store_time FROM Cache WHERE +key >= '\"' ORDER BY rowid {} LIMIT 1"
_NEWEST = (
    f"SELECT substr(value, {_HEAD_BYTES + 1}, {_IDENTITY_BYTES}) FROM Cache"
    " WHERE +key >= '\"' ORDER BY rowid DESC LIMIT ?"
)


def _one(con: sqlite3.Connection, statement: str) -> float | None:
    row = con.execute(statement).fetchone()
    return None if row is None or not isinstance(row[0], (int, float)) else float(row[0])


def count_answers(con: sqlite3.Connection) -> int:
    """Rows of answers. A trigger of diskcache's keeps the number of all rows."""
    row = con.execute("SELECT value FROM Settings WHERE key = 'count'").fetchone()
    own = con.execute("SELECT count(*) FROM Cache WHERE key < '\"'").fetchone()[0]
    return max(0, int(row[0]) - int(own)) if row else 0


def _models_of_newest(con: sqlite3.Connection) -> tuple[dict[str, int], int]:
    """Draws by "provider/model" among the newest rows, and the number of links among them."""
    found: Counter[str] = Counter()
    n_links = 0
    for (start,) in con.execute(_NEWEST, (N_LOOKED_AT,)):
        if not isinstance(start, bytes):
            continue
        if start.startswith(b'{"of"'):
            n_links += 1
            continue
        parts = dict(_IDENTITY.findall(start.partition(b'"r":')[0]))
        found["/".join(_text(parts.get(name, b"?")) for name in (b"provider", b"model"))] += 1
    return dict(found), n_links


def _text(raw: bytes) -> str:
    """Text between the quotes of a JSON string."""
    try:
        return str(orjson.loads(b'"' + raw + b'"'))
    except ValueError:
        return "?"
