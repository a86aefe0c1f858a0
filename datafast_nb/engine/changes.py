"""What a checkpoint knows of the pipeline that wrote it, and how that differs from another."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.settings import setting_body
from datafast_nb.engine.context import RunSettings
from datafast_nb.errors import RecordError
from datafast_nb.fingerprints import setting_fingerprints, step_fingerprint
from datafast_nb.models.base import Model
from datafast_nb.models.wire import Secret
from datafast_nb.records import normalise_records
from datafast_nb.steps.base import SourceStep, Step
from datafast_nb.store.manifest import StepEntry
from datafast_nb.store.typed_json import encode
from datafast_nb.trace import ResultSource
from datafast_nb.validate import CompiledPipeline

UNREADABLE = "unreadable"
MAX_TEXT = 40
"""Longer values are said to have changed, and not shown: prompts stay out of messages."""
_TEXTS = frozenset({"prompt", "system_prompt", "examples"})
_MAX_CHANGES = 5


def entries_of(compiled: CompiledPipeline) -> list[StepEntry]:
    """The steps of a pipeline as a manifest lists them before a run."""
    out = []
    upstream = ""
    for i, node in enumerate(compiled.nodes):
        try:
            own = _own_fingerprint(node.step)
            settings = _settings(node.step, own)
        except RecordError:
            raise  # a value that a checkpoint cannot keep: better now than after the first answer
        except Exception:  # whatever a user's object raises: it cannot be compared later
            own, settings = UNREADABLE, {}
        upstream = sha256(f"{upstream}|{own}".encode()).hexdigest()[:16]
        kind = type(node.step).__name__
        out.append(StepEntry(i, node.name, kind, upstream, own, settings))
    return out


def difference(
    before: Sequence[StepEntry], now: Sequence[StepEntry], n: int
) -> tuple[int, str, list[str]] | None:
    """The first of the first `n` steps that differs: its number, its name, what differs in words.

    With `n` the number of all steps also steps that are gone at the end count.
    """
    for i, new in enumerate(now[:n]):
        if i >= len(before):
            return i, new.name, ["is new"]
        old = before[i]
        if old.own != new.own or UNREADABLE in (old.own, new.own):
            return i, new.name, _changes(old, new)
    if n == len(now) < len(before):
        return len(now), before[len(now)].name, ["is gone"]
    return None


def selection_of(settings: RunSettings, limited_at: int | None) -> dict[str, Any]:
    """The settings of a run that decide which records there are."""
    if settings.limit is None:
        return {"limit": None}
    return {"limit": settings.limit, "pick": settings.pick, "limited_step": limited_at}


def selection_text(selection: dict[str, Any]) -> str:
    """The same in words."""
    if selection.get("limit") is None:
        return "no limit"
    said = f"limit={selection['limit']}"
    if selection.get("pick") not in (None, "first"):
        said += f", pick={selection['pick']!r}"
    return f"{said} at step number {selection.get('limited_step')}"


def _own_fingerprint(step: Step) -> str:
    """Of the step alone; rows that lie in memory count by their exact values and order of keys."""
    if not isinstance(step, ResultSource) and not (isinstance(step, SourceStep) and step.in_memory):
        return step_fingerprint(step)
    digest = sha256(type(step).__qualname__.encode())
    for rows in step.read(4_096):
        records, _ = normalise_records(rows, where=step.place, from_frame=step.from_frame)
        for record in records:
            digest.update(encode(record) + b"\n")
    for identity in getattr(step, "row_ids", None) or ():
        digest.update(identity.encode() + b"\n")
    return digest.hexdigest()[:16]


def _settings(step: Step, own: str) -> dict[str, list[str]]:
    if isinstance(step, SourceStep) and (step.in_memory or isinstance(step, ResultSource)):
        return {"content": [own[:12], ""]}
    hashes = setting_fingerprints(step)
    config = step.config()
    out = {}
    for name, value in hashes.items():
        text = _text(name, config[name]) if name in config else ""
        out[str(name)] = [value, text]
    return out


def _text(name: str, value: Any) -> str:
    """A short value in words; "" for one that is long, secret, or no plain value."""
    if name in _TEXTS:
        return ""
    if isinstance(value, Model):
        value = value.name
    if isinstance(value, (list, tuple)):
        names = [v.name if isinstance(v, Model) else v for v in value[:10]]
        if len(value) > 10 or not all(isinstance(v, (str, int, float)) for v in names):
            return ""
        value = names
    elif not isinstance(value, (str, int, float, type(None))):
        return ""
    body = setting_body(name, value, Secret().redact)
    text = body[0] if len(body) == 1 else ""
    return text if isinstance(text, str) and len(text) <= MAX_TEXT else ""


def _changes(old: StepEntry, new: StepEntry) -> list[str]:
    if UNREADABLE in (old.own, new.own):
        when = "was" if old.own == UNREADABLE else "is"
        return [f"cannot be compared: its settings, or what it reads, {when} not readable"]
    if old.kind != new.kind:
        return [f"is a {new.kind}, and was a {old.kind}"]
    out = []
    for name in dict.fromkeys([*old.settings, *new.settings]):
        was, now = old.settings.get(name, ["", "not set"]), new.settings.get(name, ["", "not set"])
        if was[0] == now[0]:
            continue
        if name == "content":
            out.append("reads other records")
        elif was[1] and now[1] and was[1] != now[1]:
            out.append(f"has {name} {now[1]}, and had {was[1]}")
        else:
            out.append(f"has another {name}")
    if not out:
        out.append("has other code")
    if len(out) > _MAX_CHANGES:
        out[_MAX_CHANGES:] = [f"and {formats.plural(len(out) - _MAX_CHANGES, 'more change')}"]
    return out
