"""Source.file of JSON Lines and JSON: strict records, or an error that names the file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from typing import Any

from datafast_nb.errors import RecordError, SourceError
from datafast_nb.records import RowIds, normalise_records
from datafast_nb.steps.sources import FileSource
from datafast_nb.store.typed_json import decode, encode
from fuzz.rules import Target, declared, require

SEEDS = (
    b'{"id": 1, "text": "a"}\n{"id": 2, "text": "b\\u00e9"}\n',
    b'\xef\xbb\xbf{"a": [1, 2.5, -0.0, null, true], "b": {"c": {}}}\r\n\r\n{"a": "\\ud83d\\ude00"}',
    b'{"n": 18446744073709551615, "m": 1e308, "k": 123456789012345678901234567890}\n',
    b'[{"a": 1}, {"a": 2, "b": "x"}]',
    b'{"data": [{"a": "x"}], "n": 1}',
    b'{"$int": "5", "x": {"$bytes": "AA=="}, "y": {"$dict": {"$date": 1}}}\n',
    b'{\n "a": 1\n}\n',
)
WORDS = (
    b'{"',
    b'": ',
    b'"}',
    b"}\n{",
    b'"a"',
    b'"a":1,"a":2',
    b" :",
    b"\\u0041",
    b'"$dict":',
    b"[]",
)
_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _oracle(data: bytes) -> list[Any] | str:
    """The values of the lines, by the standard library alone; else what is wrong with one."""
    values = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        text = line.strip()
        if text:
            try:
                values.append(json.loads(text.decode(), object_pairs_hook=_pairs))
            except ValueError:
                return "no JSON"
            except RecursionError:  # how deep is too deep differs
                return "deep"
    return values


def _text(value: Any) -> str:
    """Tells 1 from 1.0, and NaN from nothing else."""
    try:
        return repr(value)
    except RecursionError:
        return "deep"


def _read(path: str, kind: str, chunk: int) -> list[Any] | None:
    source = FileSource(path, kind)
    with declared(SourceError) as bad:
        columns = source.columns()
        rows = [row for piece in source.read(chunk) for row in piece]
    if bad:
        require(os.path.basename(path) in str(bad[0]), "an error that does not name the file")
        require(len(str(bad[0])) < 2_000, "an endless message")
        return None
    require(set(columns or ()) == {k for row in rows[:1_000] for k in row}, "other columns")
    return rows


def check(data: bytes) -> str:
    """Read both formats, compare with the standard library, go on as a run does."""
    path = os.path.join(_FOLDER.name, "input.jsonl")
    with open(path, "wb") as file:
        file.write(data)
    words = []
    for kind in ("jsonl", "json"):
        rows = _read(path, kind, 3)
        words.append("bad" if rows is None else str(min(len(rows), 4)))
        if rows is None:
            continue
        if kind == "jsonl":
            wanted = _oracle(data)
            require(wanted != "no JSON", "a line is taken that is no JSON")
            require(wanted == "deep" or _text(rows) == _text(wanted), "another value")
        with declared(RecordError) as refused:
            records, _ = normalise_records(rows, where=lambda i: f"row {i}")
        if refused:
            words.append(re.sub("[0-9]+", "", str(refused[0]))[-40:])
            continue
        with declared(RecordError) as refused:
            lines = [encode(record) for record in records]
        if not refused:
            require(repr([decode(line) for line in lines]) == repr(records), "typed JSON differs")
        with declared(RecordError):
            require(len(set(RowIds().take(records))) == len(records), "rows share an identity")
        words.append("".join(sorted({type(v).__name__[0] for r in records for v in r.values()})))
    return " ".join(words)


TARGET = Target("jsonl", SEEDS, WORDS, check)
