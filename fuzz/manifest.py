"""Checkpoints: a directory that someone changed gives the same records, or a CheckpointError.

An input is the files of a directory. It is tried as it is, and sealed anew: with the checksums
that its writer would have given, so that what lies behind them is reached too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import datafast_nb as dfn
from datafast_nb.errors import CheckpointError, DatafastError
from datafast_nb.options import options
from datafast_nb.records import canonical_json
from datafast_nb.store.manifest import COMPLETE, load_manifest
from datafast_nb.store.memo import open_memo
from datafast_nb.store.stepfile import read_step
from datafast_nb.store.typed_json import decode, encode, unwrap
from fuzz.rules import Target, declared, require

_FILE, _NAME = b"\x1d\x1d", b"\x1d"  # before a file, and behind its name
_BASE = Path("/dev/shm") if os.path.isdir("/dev/shm") else None
_FOLDER = tempfile.TemporaryDirectory(dir=_BASE)
_RUN_EVERY = 8
_WHOLE = {"limit": None}


def _pipeline(model: Any) -> dfn.Pipeline:
    records: list[dict[str, Any]] = [
        {"id": i, "text": f"fact {i}", "more": {"k": [i, None]}} for i in range(6)
    ]
    records[1]["odd"], records[2]["odd"] = 2**70, b"bytes"
    return (
        dfn.Source.list(records).as_step("load")
        >> dfn.FlatMap(lambda r: [r] * (r["id"] % 3)).as_step("fan")
        >> dfn.LLMStep("ask {text}", output_columns=["q"], model=model).as_step("ask")
        >> dfn.Filter(lambda r: r["id"] != 2).as_step("but")
        >> dfn.LLMStep("again {q}", output_columns=["a"], model=model).as_step("again")
    )


def _answer(request: Any) -> Any:
    prompt = request.messages[-1]["content"]
    if prompt == "again re ask fact 1":
        return dfn.LLMError("no", kind="bad_request")
    return f"re {prompt}"


def _packed(folder: Path) -> bytes:
    return b"".join(
        _FILE + path.name.encode() + _NAME + path.read_bytes() for path in sorted(folder.iterdir())
    )


def _run(folder: Path) -> tuple[bytes, list[str]]:
    """Records of the pipeline, and what was asked for them."""
    model = dfn.FakeModel(_answer)
    pipeline = _pipeline(model)
    result = pipeline.run(checkpoint_dir=folder, resume=True, show_progress=False)
    repr(result)
    asked = [request.messages[-1]["content"] for request in model.requests]
    return b"\n".join(encode(record) for record in result), asked


class _Oracle:
    """The straight run, made once."""

    seeds: tuple[bytes, ...] = ()
    rows = b""

    @classmethod
    def make(cls) -> tuple[bytes, ...]:
        if cls.seeds:
            return cls.seeds
        base = Path(_FOLDER.name)
        former, options.home = options.home, base / "home"
        try:
            cls.rows, _ = _run(base / "whole")
            pipeline = _pipeline(dfn.FakeModel(_answer))
            pipeline.run(checkpoint_dir=base / "half", stop_after="ask", show_progress=False)
            cut = dfn.Source.list([{"a": 1}]) >> dfn.Map(lambda r: r)
            cut.run(checkpoint_dir=base / "other", limit=1, show_progress=False)
        finally:
            open_memo().close()
            options.home = former
        cls.seeds = tuple(_packed(base / name) for name in ("whole", "half", "other"))
        return cls.seeds


WORDS = (
    *(b'"file":null', b'"trail":null', b'"facts":{}', b'"status":"pending"', b'"records":0'),
    *(b'"version":2', b'"steps":[]', b'["records"', b'["parents"', b'["calls"', b'["call_of"'),
    *(b'["rows"', b'["claims"', b'["error"', b'{"$int":', b'{"$datetime":', b'{"$dict":', _FILE),
    *(b"../step_001_load.jsonl", b"manifest.json", b"step_002_fan.jsonl", b"checkpoint.lock"),
)


def _unpack(data: bytes) -> dict[str, bytes]:
    files = {}
    for part in data.split(_FILE)[1:]:
        name, _, body = part.partition(_NAME)
        plain = re.sub(rb"[^A-Za-z0-9_.-]", b"", name).decode()[:80]
        if plain.strip("."):
            files[plain] = body
    return files


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the checksums that fit them, as far as there are places for them."""
    files = dict(files)
    body = _json(files.get("manifest.json", b""))
    if not isinstance(body, dict):
        return files
    steps = body.get("steps")
    for entry in steps if isinstance(steps, list) else ():
        marks = [entry.get(k) for k in ("file", "trail")] if isinstance(entry, dict) else []
        names = [m.get("name") if isinstance(m, dict) else None for m in marks]
        if len(names) == 2 and all(isinstance(n, str) and n in files for n in names):
            files[names[1]] = _resummed(files[names[1]], files[names[0]])
        for mark, name in zip(marks, names, strict=True):
            if isinstance(name, str) and name in files:
                text = files[name]
                mark["bytes"], mark["sha256"] = len(text), sha256(text).hexdigest()
                mark["lines"] = len(text.split(b"\n")) - text.endswith(b"\n")
    body.pop("check", None)
    try:
        body["check"] = sha256(canonical_json(body)).hexdigest()
        files["manifest.json"] = json.dumps(body).encode()
    except (RecursionError, ValueError, DatafastError, TypeError):
        pass
    return files


def _resummed(trail: bytes, records: bytes) -> bytes:
    """The trail with the CRC of each line of the records."""
    sums = [crc32(line) for line in records.splitlines(keepends=True)]
    lines = []
    for line in trail.split(b"\n"):
        found = _json(line) if line.startswith(b'["records"') else None
        if isinstance(found, list) and len(found) > 1:
            found[1], sums = sums, []
            line = json.dumps(found).encode()
        lines.append(line)
    return b"\n".join(lines)


def _lay(files: dict[str, bytes]) -> Path:
    folder = Path(_FOLDER.name) / "try"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder


def _read(files: dict[str, bytes]) -> str:
    """Read manifest and step files as a resumed run does, without the run."""
    folder = _lay(files)
    with declared(CheckpointError) as refused:
        manifest = load_manifest(folder)
        for entry in manifest.steps if manifest is not None else ():
            if entry.status == COMPLETE:
                read_step(folder, entry, remedy="start again", keep=True, note=lambda text: None)
    return _word(refused)


def _word(refused: list[BaseException]) -> str:
    if not refused:
        return "read"
    said = str(refused[0])
    require(len(said) < 3_000, "an endless message")
    path = getattr(refused[0], "path", "")
    require(bool(path) and Path(_FOLDER.name) in Path(path).parents, f"no path: {said}")
    return re.sub(r"[^a-zA-Z ]+", "", said.replace(_FOLDER.name, ""))[:70]


def _resume(files: dict[str, bytes], *, is_sealed: bool) -> str:
    """A resumed run: the straight run's records, or refused before a call."""
    folder = _lay(files)
    shutil.rmtree(Path(_FOLDER.name) / "memo", ignore_errors=True)
    former, options.home = options.home, Path(_FOLDER.name) / "memo"
    rows = b""
    try:
        with declared(CheckpointError) as refused:
            rows, _ = _run(folder)
    finally:
        open_memo().close()
        options.home = former
    if not refused and not is_sealed:
        require(rows == _Oracle.rows, "a damaged checkpoint gives other records")
    return _word(refused)


def _lines(files: dict[str, bytes]) -> str:
    """Every line that is taken as a record is written again as the same record."""
    words = set()
    for body in files.values():
        for line in body.split(b"\n")[:50]:
            for read in (decode, lambda text: {"v": unwrap(json.loads(text))}):
                words.add(_line(line, read))
    return ",".join(sorted(words))


def _line(line: bytes, read: Callable[[bytes], Any]) -> str:
    try:
        json.loads(line)
    except RecursionError:
        if read is not decode:
            return "deep"
    except ValueError:
        pass
    with declared(ValueError) as bad:
        record = read(line)
    if bad:
        return re.sub("[^a-z]+", " ", str(bad[0]))[:12]
    with declared(dfn.RecordError) as bad:
        again = encode(record)
    if not bad:
        require(repr(decode(again)) == repr(record), "a record is read back as another")
    return "record"


def check(data: bytes) -> str:
    """As it is and sealed anew; one input in a few by a whole run."""
    _Oracle.make()
    files = _unpack(data)
    words = [_read(files), _lines(files)]
    sealed = _sealed(files)
    words.append(_read(sealed))
    if sha256(data).digest()[0] % _RUN_EVERY == 0:
        words.append(_resume(files, is_sealed=False))
        words.append(_resume(sealed, is_sealed=True))
    return "|".join(words)


def target() -> Target:
    """The target; makes its seeds by running a pipeline."""
    return Target("manifest", _Oracle.make(), WORDS, check)
