"""`manifest.json` of a checkpoint: which pipeline, which steps are complete, in which files.

The manifest is replaced as a whole, after the files that it names are on disk. Its own
checksum tells damage from content.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from datafast_nb.display import formats
from datafast_nb.errors import CheckpointError
from datafast_nb.records import canonical_json
from datafast_nb.store.aside import AsideFile
from datafast_nb.store.files import parse_json
from datafast_nb.store.typed_json import dump

MANIFEST_NAME = "manifest.json"
VERSION = 1
COMPLETE, IN_PROGRESS, PENDING = "complete", "in_progress", "pending"
MAX_BYTES = 50_000_000
_STEP_FILE = re.compile(
    r"step_\d{3,6}_[A-Za-z0-9_-]{1,80}(\.trail\.jsonl|\.partial\.jsonl|\.progress\.json|\.jsonl)"
).fullmatch


@dataclass
class FileMark:
    """A file as it was written."""

    name: str
    """Without folder."""
    bytes: int
    sha256: str
    lines: int


@dataclass
class StepEntry:
    """A step in the manifest."""

    index: int
    name: str
    kind: str
    """Class of the step."""
    fingerprint: str
    """Of the step and all before it."""
    own: str
    """Of the step alone."""
    settings: dict[str, list[str]] = field(default_factory=dict)
    """Name → hash, and the value in words where that is short and no secret."""
    status: str = PENDING
    records: int = 0
    """Records that left the step, so far."""
    file: FileMark | None = None
    trail: FileMark | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """What a resumed run needs to know of a complete step besides its records."""

    @property
    def stem(self) -> str:
        """Start of the names of the step's files: "step_003_generate"."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)[:60].strip("_") or "step"
        number = f"step_{self.index + 1:03d}"
        return plain if plain.startswith(f"{number}_") else f"{number}_{plain}"

    def restart(self) -> None:
        """As if the step had not run."""
        self.status, self.records = PENDING, 0
        self.file = self.trail = None
        self.facts = {}


@dataclass
class Manifest:
    """A checkpoint's table of contents."""

    pipeline_hash: str
    steps: list[StepEntry]
    selection: dict[str, Any]
    """Settings of the run that decide which records there are: limit, pick, limit_at."""
    config: dict[str, Any]
    """Other settings of the last run, for people."""
    created_at: str = ""
    updated_at: str = ""

    @property
    def current_step(self) -> int:
        """Index of the first step that is not complete; the number of steps if all are."""
        places = (e.index for e in self.steps if e.status != COMPLETE)
        return next(places, len(self.steps))

    def save(self, folder: Path) -> None:
        """Replace the file. Raises OSError; the former manifest then stands."""
        self.updated_at = now()
        self.created_at = self.created_at or self.updated_at
        body = {
            "version": VERSION,
            "pipeline_hash": self.pipeline_hash,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "steps": [_entry_json(e) for e in self.steps],
            "current_step": self.current_step,
            "config": self.config,
            "selection": self.selection,
        }
        body["check"] = _checksum(body)
        with AsideFile(folder / MANIFEST_NAME) as file:
            file.write(_text(body))
            file.finish()


def load_manifest(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint; None where there is none.

    Raises
    ------
    CheckpointError
        If it is damaged, of a newer version, or no manifest of a checkpoint; says what to do.
    """
    path = folder / MANIFEST_NAME
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CheckpointError(
            f"{path} cannot be read: {exc.strerror or exc}. Make it a readable file, or name "
            "another checkpoint_dir; nothing has been asked",
            path=str(path),
        ) from exc
    if not text.strip(b"\0 \r\n"):
        _refuse(path, "is empty")
    try:
        body = parse_json(text)
    except ValueError as exc:
        line = text[: getattr(exc, "pos", 0) or 0].count(b"\n") + 1
        _refuse(path, f"is damaged at line {line} ({exc})"[:200])
    if not is_manifest(body):
        raise CheckpointError(
            f"{path} is not the manifest of a checkpoint. Give an empty or new checkpoint_dir; "
            "nothing has been asked",
            path=str(path),
        )
    if _is_newer(body):
        raise CheckpointError(
            f"{path} was written by a newer version of datafast_nb (format {body['version']}, this one "
            f"reads up to {VERSION}). Upgrade datafast_nb, or name another checkpoint_dir; nothing "
            "has been asked",
            path=str(path),
        )
    try:
        check = body.pop("check", None)
        if check != _checksum(body):
            _refuse(path, "is damaged: its checksum does not fit its content")
        return _manifest(body)
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        _refuse(path, f"is damaged ({formats.error_text(exc)})"[:200])


def is_manifest(body: Any) -> bool:
    """Whether a JSON value is a checkpoint's manifest, of whatever version."""
    return isinstance(body, dict) and "pipeline_hash" in body and "steps" in body


def _is_newer(body: dict[str, Any]) -> bool:
    version = body.get("version")
    return type(version) is int and version > VERSION


def set_aside(folder: Path) -> str:
    """Rename a manifest that cannot be read; its new name, "" where there was none.

    Raises CheckpointError for a readable file that is no checkpoint's manifest, or a newer one.
    """
    path = folder / MANIFEST_NAME
    try:
        body = parse_json(path.read_bytes())
    except FileNotFoundError:
        return ""
    except ValueError:
        body = None
    if body is not None and (not is_manifest(body) or _is_newer(body)):
        load_manifest(folder)  # raises, and says so
    aside = folder / f"manifest.damaged.{os.getpid()}.json"
    os.replace(path, aside)
    return aside.name


def is_step_file(name: str) -> bool:
    """Whether a name is one of those that checkpoints give to the files of steps."""
    return _STEP_FILE(name) is not None


def now() -> str:
    """UTC time in seconds, as "2025-02-01T10:00:00Z"."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checksum(body: dict[str, Any]) -> str:
    return sha256(canonical_json(body)).hexdigest()


def _text(body: dict[str, Any]) -> bytes:
    """JSON with a line for each step."""
    lines = []
    for name, value in body.items():
        text = dump(value).decode()
        if name == "steps":
            text = "[\n  " + ",\n  ".join(dump(e).decode() for e in value) + "\n ]"
        lines.append(f' "{name}": {text}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _entry_json(entry: StepEntry) -> dict[str, Any]:
    body = {f.name: getattr(entry, f.name) for f in fields(entry)}
    for name in ("file", "trail"):
        body[name] = None if body[name] is None else vars(body[name])
    first = ("index", "name", "status", "records")  # as people look for them
    return {k: body[k] for k in (*first, *(k for k in body if k not in first))}


def _manifest(body: dict[str, Any]) -> Manifest:
    entries = []
    for i, known in enumerate(body["steps"]):
        marks = {
            name: None if known[name] is None else FileMark(**known[name])
            for name in ("file", "trail")
        }
        entry = StepEntry(**{**known, **marks})
        if entry.index != i or entry.status not in (COMPLETE, IN_PROGRESS, PENDING):
            raise ValueError(f"step {i} is listed wrongly")
        _check_types(entry, StepEntry)
        for mark in marks.values():
            if mark is None:
                continue
            _check_types(mark, FileMark)
            if not is_step_file(mark.name):
                raise ValueError(f"{mark.name!r} is no name of a step's file")
        entries.append(entry)
    return Manifest(
        body["pipeline_hash"],
        entries,
        dict(body["selection"]),
        dict(body["config"]),
        str(body["created_at"]),
        str(body["updated_at"]),
    )


def _check_types(thing: StepEntry | FileMark, kind: type) -> None:
    """Raise TypeError for a field that is none of what it is declared to be; nothing is negative."""
    for f in fields(kind):
        value: Any = getattr(thing, f.name)
        wanted = _TYPES.get(str(f.type).partition("[")[0])
        if wanted is None:
            continue
        if type(value) is not wanted or (isinstance(value, int) and value < 0):
            raise TypeError(f"{f.name} is {value!r:.60}")


_TYPES = {"int": int, "str": str, "dict": dict}


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(
        f"{path} {what}, so nobody knows which steps are complete. Put a good copy of it there, or "
        "start again with resume=False: answers that were paid come from the memo; nothing has "
        "been asked",
        path=str(path),
    )
