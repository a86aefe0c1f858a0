"""How a schema is sent to a model: the ways there are, and which of them its server takes.

A server that refuses a request because of the way its schema is sent is asked the next way down,
and so are all later calls of that model. The way that worked is noted in the memo, so that no
later process is refused again. An answer that does not fit is no reason to climb down.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from datafast_nb.errors import LLMError, MemoError
from datafast_nb.models.base import Model, Request, Response

if TYPE_CHECKING:
    from datafast_nb.store.memo import Memo

WAYS = ("json_schema", "tool", "json_mode", "prompt")
"""From the best down; the last one asks nothing of the server."""
WAY_WORDS = {
    "json_schema": "as JSON schema",
    "tool": "as input of a tool",
    "json_mode": "in the prompt, with JSON mode",
    "prompt": "in the prompt",
}
_STATUSES = frozenset({400, 404, 422, 501})
_FORMAT = r"response format|output format|text format|request format|json object|json mode|grammar"
# What a server names when it refuses a way; in small letters, with spaces for "_", "-" and ".".
_NAMED = {
    "json_schema": re.compile(
        rf"{_FORMAT}|json schema|output config|structured output|guided|\bin format\b|\bschema\b"
    ),
    "tool": re.compile(r"\btools?\b|\bfunctions?\b"),
    "json_mode": re.compile(_FORMAT),
}


class WayRefused(LLMError):
    """The server does not take a schema this way. Asked again, the model sends it the next way."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the server of a model has refused, and what it took since."""

    refused: tuple[str, ...] = ()
    worked: str = ""
    """"": nothing yet, and what was refused may have been refused for another reason."""


# The engine's thread and those of runs and of the memo look here.
_LOCK = threading.Lock()
_standings: dict[str, Standing] = {}
_noted: set[tuple[str, str, Standing]] = set()


def place_of(model: Model) -> str:
    """Name of a model's note in the memo: provider, address, page of the API and model."""
    parts = (model.provider, model.endpoint, str(getattr(model, "api", "")), model.name)
    return f"way {blake2b(repr(parts).encode('utf-8', 'replace'), digest_size=12).hexdigest()}"


def way_now(model: Model, ways: Sequence[str]) -> str:
    """The best of `ways` that the model's server has not refused."""
    if not _standings:
        return ways[0]
    refused = _standings.get(place_of(model), Standing()).refused
    return next((way for way in ways if way not in refused), ways[-1])


def note_success(model: Model, way: str) -> None:
    """The server has taken a schema this way."""
    if not _standings:
        return
    place = place_of(model)
    standing = _standings.get(place)
    if standing is not None and standing.worked != way:
        with _LOCK:
            _standings[place] = Standing(standing.refused, way)


def after_failure(model: Model, ways: Sequence[str], way: str, error: LLMError) -> LLMError:
    """The error to raise: `WayRefused` where the next way down is worth a try."""
    place = place_of(model)
    with _LOCK:
        standing = _standings.get(place, Standing())
        if refuses(model, way, error) and way != ways[-1]:
            refused = standing.refused
            if way not in refused:
                _standings[place] = Standing((*refused, way))
            return WayRefused(
                f"model {model.name!r} takes no schema {WAY_WORDS.get(way, way)}; asked again, it "
                f"gets it another way. The server said: {error}",
                kind="bad_request",
                model=model.name,
                status=error.status,
            )
        if error.kind == "bad_request" and way == ways[-1] and not standing.worked:
            # It was not the way: the next call begins at the top again.
            _standings.pop(place, None)
    return error


def refuses(model: Model, way: str, error: LLMError) -> bool:
    """Whether a server's refusal is about the way in which the schema was sent."""
    named = _NAMED.get(way)
    if named is None or error.status not in _STATUSES:
        return False
    said = re.sub(rf"(?<!\w){re.escape(model.name)}(?!\w)", "", str(error))
    return named.search(re.sub(r"[_\-\s.]+", " ", said.lower())) is not None


async def complete_down(model: Model, request: Request) -> Response:
    """Ask a model once, by the best way that its server takes. Raises LLMError."""
    for _ in WAYS:
        with contextlib.suppress(WayRefused):
            return await model.complete(request)
    return await model.complete(request)


# The note in the memo.


def load(memo: Memo, model: Model) -> None:
    """Take up what an earlier process noted; note there what this one has learnt elsewhere."""
    place = place_of(model)
    if place in _standings:
        save(memo, model)
        return
    found = memo.get_meta(place)
    if not isinstance(found, dict):
        return
    refused, worked = found.get("refused"), found.get("worked")
    if isinstance(refused, list) and isinstance(worked, str) and worked in WAYS:
        standing = Standing(tuple(way for way in refused if way in WAYS), worked)
        with _LOCK:
            _standings.setdefault(place, standing)
        _noted.add((str(memo.path), place, standing))


def save(memo: Memo, model: Model) -> None:
    """Note the way that worked, where a better one was refused. Later calls do nothing."""
    if not _standings:
        return
    place = place_of(model)
    standing = _standings.get(place)
    if standing is None or not standing.worked:
        return
    note = (str(memo.path), place, standing)
    if note not in _noted:
        _noted.add(note)
        # Without the note a later process is refused once more, and no more than that.
        with contextlib.suppress(MemoError):
            memo.set_meta(place, {"refused": list(standing.refused), "worked": standing.worked})


def forget_all() -> None:
    """Forget what this process has learnt; notes in memos stay."""
    with _LOCK:
        _standings.clear()
        _noted.clear()
