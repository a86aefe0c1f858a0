"""Files that move answers between people: JSON Lines, one draw a line after a header."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from datafast_nb.errors import MemoError
from datafast_nb.store.access import Access
from datafast_nb.store.database import sync
from datafast_nb.store.keys import KEY_VERSION
from datafast_nb.store.overflow import Overflow
from datafast_nb.store.rows import (
    SPEND,
    Body,
    DamagedRowError,
    Rows,
    chosen_of,
    dump,
    fold_links,
    key_of,
    read_body,
    read_replies,
    row_name,
)
from datafast_nb.store.writer import Writer, write_rows

FORMAT = "datafast_nb_memo"
FORMAT_VERSION = 1
_BATCH = 500

# Names of rows about the memo itself begin with "!", and '"' is the character after it.
_SELECT_ALL = (
    "SELECT key, value FROM Cache WHERE key >= '\"' AND raw = 1 AND mode = 1 ORDER BY rowid"
)


def walk(
    access: Access, writer: Writer, overflow: Overflow
) -> Iterator[tuple[str, tuple[str, ...], Body]]:
    """(Key, all labels, body) of every draw, in order of storing; one moment's view."""
    writer.flush()
    waiting = overflow.entries  # before the database is asked: a merge moves them there
    none: list[tuple[str, bytes]] = []
    under: dict[str, dict[str, Body]] = {}
    order: dict[str, None] = {}
    for name, value in access.read(lambda con: con.execute(_SELECT_ALL).fetchall(), none):
        try:
            body = read_body(value, name)
            if "r" in body:
                body["r"] = list(read_replies(body))
        except DamagedRowError:
            continue
        order[name] = None
        under.setdefault(key_of(name), {})[name] = body
    for key, entries in waiting.items():
        if key == SPEND:
            continue
        rows = Rows(under.setdefault(key, {}))
        for name, body in entries:
            rows.absorb(name, body)
        order.update(dict.fromkeys(under[key]))
    folded: dict[str, dict[str, tuple[tuple[str, ...], Body]]] = {}
    for name in order:
        key, _, label = name.partition("/")
        if key not in folded:
            folded[key] = {labels[0]: (labels, body) for labels, body in fold_links(under[key])}
        if label in folded[key]:
            labels, body = folded[key][label]
            yield key, labels, body


def export_draws(
    draws: Iterable[tuple[str, tuple[str, ...], Body]], path: Path, models: Sequence[str] | None
) -> int:
    """See `Memo.export`."""
    wanted = None if models is None else {models} if isinstance(models, str) else set(models)
    lines = []
    for key, labels, body in draws:
        identity = body.get("i") or {}
        model = str(identity.get("model"))
        if wanted is not None and wanted.isdisjoint({model, f"{identity.get('provider')}/{model}"}):
            continue
        draw = {"key": key, "labels": labels, "identity": identity, "replies": body["r"]}
        index = chosen_of(body)
        lines.append(dump(draw if index is None else {**draw, "chosen": index}))
    header = {FORMAT: FORMAT_VERSION, "key_version": KEY_VERSION, "draws": len(lines)}
    temporary: str | None = None
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(fd, "wb") as file:
            file.write(dump(header) + b"\n")
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as exc:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise MemoError(
            f"the memo cannot be exported to {path}: {exc.strerror or exc}. Choose a folder that "
            "exists, can be written and has space; a former file stands untouched"
        ) from exc
    sync(path.parent)
    return len(lines)


def load_draws(access: Access, writer: Writer, path: Path) -> int:
    """See `Memo.load`."""

    def merge(con: sqlite3.Connection) -> int:
        n_grown = 0
        batch: list[tuple[str, tuple[str, ...], Body]] = []
        for draw in _read_draws(path):
            batch.append(draw)
            if len(batch) == _BATCH:
                n_grown += merge_batch(con, batch)
                batch = []
        return n_grown + merge_batch(con, batch)

    def merge_batch(
        con: sqlite3.Connection, batch: Sequence[tuple[str, tuple[str, ...], Body]]
    ) -> int:
        names = [row_name(key, label) for key, labels, _ in batch for label in labels]
        rows = Rows(writer.load_bodies(con, names))
        n_grown = 0
        for key, labels, body in batch:
            n_grown += rows.absorb(row_name(key, labels[0]), body)
            for label in labels[1:]:
                rows.add_link(row_name(key, label), labels[0])
        write_rows(con, rows)
        return n_grown

    try:
        return access.change(merge)
    except OSError as exc:
        raise MemoError(
            f"{path} cannot be read: {exc.strerror or exc}. Give the path of a file written by "
            "memo.export()"
        ) from exc


def _read_draws(path: Path) -> Iterator[tuple[str, tuple[str, ...], Body]]:
    n_draws = 0
    expected: Any = None
    with open(path, "rb") as file:
        for n, line in enumerate(file, start=1):
            try:
                data = orjson.loads(line)
            except ValueError as exc:
                raise _bad_line(path, n, f"no JSON ({exc})") from exc
            if n == 1:
                expected = _read_header(path, data)
                continue
            yield _read_draw(path, n, data)
            n_draws += 1
    if expected is None:
        raise _bad_line(path, 1, "the file is empty")
    if n_draws != expected:
        raise _bad_line(path, n_draws + 1, f"the file ends after {n_draws} of {expected} draws")


def _read_header(path: Path, data: Any) -> int:
    if not isinstance(data, dict) or type(data.get(FORMAT)) is not int:
        raise _bad_line(path, 1, f"no header {{{FORMAT!r}: {FORMAT_VERSION}, ...}}")
    if data[FORMAT] > FORMAT_VERSION:
        raise MemoError(
            f"{path} has format {data[FORMAT]}, written by a newer datafast_nb; this one knows "
            f"format {FORMAT_VERSION}. Upgrade datafast_nb"
        )
    if type(data.get("draws")) is not int:
        raise _bad_line(path, 1, "the header does not say how many draws follow")
    return int(data["draws"])


def _read_draw(path: Path, n: int, data: Any) -> tuple[str, tuple[str, ...], Body]:
    try:
        key, labels, identity = data["key"], data["labels"], data["identity"]
        if not isinstance(labels, list) or not labels or not isinstance(identity, dict):
            raise TypeError("labels is no list, or identity no object")
        for label in labels:
            row_name(key, label)
        body: Body = {"i": identity, "r": data["replies"], "c": data.get("chosen")}
        read_replies(body)
    except (KeyError, TypeError, AttributeError, DamagedRowError, MemoError) as exc:
        raise _bad_line(path, n, f"no draw ({type(exc).__name__}: {exc})") from exc
    return key, tuple(labels), body


def _bad_line(path: Path, n: int, what: str) -> MemoError:
    return MemoError(
        f"{path}, line {n}: {what}. Nothing of the file was loaded; export it again from the "
        "memo it came from"
    )
