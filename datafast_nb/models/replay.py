"""A model that answers from a recording: no key, no socket, no cost."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from datafast_nb.errors import LLMError, MemoError
from datafast_nb.models.base import Finish, Model, Request, Response, Usage
from datafast_nb.models.pricing import Price

# One lock for all recordings: a lock of its own would keep a model from being pickled.
_LOCK = threading.Lock()
_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "refused": "refused",
    "filtered": "filtered",
    "other": "other",
}
_PROMPT_CHARS = 120

_Who = tuple[tuple[str, str], ...]
"""Items of a model's identity, sorted."""


class ReplayModel(Model):
    """Answers from a file that `memo.export` wrote, and from nothing else.

    It takes on the identity of the recorded model, so that its answers have the same memo keys.
    Each recorded draw of a request is given once, in the order of the file.

    Parameters
    ----------
    recording
        The file, JSON Lines; read now.
    model
        Name of the recorded model, where the file holds several.

    Raises
    ------
    MemoError
        If the file cannot be read, holds no answers, or holds several models and `model`
        names none of them.
    """

    def __init__(self, recording: str | Path, *, model: str | None = None) -> None:
        self.recording = Path(recording).expanduser().absolute()
        identity, draws = _read(self.recording, model)
        self.name = identity["model"]
        self.provider = identity["provider"]
        self.endpoint = identity["endpoint"]
        self.price = Price(0.0, 0.0, source="recorded")
        self._identity = identity
        self._draws = draws
        self._given: dict[str, int] = {}

    def identity(self) -> dict[str, str]:
        """That of the recorded model."""
        return dict(self._identity)

    async def complete(self, request: Request) -> Response:
        """Give the next recorded draw.

        Raises
        ------
        LLMError
            With kind "replay_miss" where the recording has no further answer.
        """
        from datafast_nb.store.keys import RequestKeys

        key = RequestKeys(
            self._identity,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            top_p=request.top_p,
            schema=request.schema,
            extra=request.extra,
        ).key(request.messages)
        draws = self._draws.get(key, [])
        with _LOCK:
            number = self._given.get(key, 0)
            if number < len(draws):
                self._given[key] = number + 1
                return draws[number]
        raise LLMError(self._miss(request, len(draws)), kind="replay_miss", model=self.name)

    def _miss(self, request: Request, n_recorded: int) -> str:
        prompt = " ".join(request.messages[-1]["content"].split()) if request.messages else ""
        start = prompt[:_PROMPT_CHARS] + ("…" if len(prompt) > _PROMPT_CHARS else "")
        if n_recorded:
            held = f"all {n_recorded} recorded answers to this request have been given"
        else:
            held = "no answer to this request with these settings is recorded"
        return (
            f"{self.recording.name}: {held} (model {self.name!r}, prompt {start!r}). "
            "Record it with the real model and export the memo again"
        )

    def __repr__(self) -> str:
        n_draws = sum(map(len, self._draws.values()))
        return (
            f"ReplayModel({self.name!r}, provider={self.provider!r}, "
            f"recorded: {n_draws:,} answers in {self.recording.name})"
        )


def _read(path: Path, model: str | None) -> tuple[dict[str, str], dict[str, list[Response]]]:
    """Identity of the chosen model and its draws by key."""
    found: dict[_Who, dict[str, list[Response]]] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    _take(line, f"{path.name}, line {number}", found)
    except OSError as exc:
        raise MemoError(
            f"cannot read the recording {path} ({exc.strerror}); check the path"
        ) from exc
    names = sorted({dict(who)["model"] for who in found})
    chosen = [who for who in found if model is None or dict(who)["model"] == model]
    if not found:
        raise MemoError(f"{path} holds no answers; write a recording with memo.export(…)")
    if not chosen:
        raise MemoError(f"{path} has no answers of model {model!r}; it has: {', '.join(names)}")
    if len(chosen) > 1:
        held = ", ".join(_shown(dict(who)) for who in chosen)
        raise MemoError(
            f"{path} holds answers of {len(chosen)} models: {held}. Choose one with model=…, "
            "or export them into files of their own"
        )
    return dict(chosen[0]), found[chosen[0]]


def _shown(who: Mapping[str, str]) -> str:
    rest = [f"{k} {v}" for k, v in who.items() if k not in ("provider", "endpoint", "model")]
    told = " ".join([who["provider"], who["endpoint"] or "default", *rest])
    return f"{who['model']} ({told})"


def _take(line: bytes, place: str, found: dict[_Who, dict[str, list[Response]]]) -> None:
    try:
        entry = orjson.loads(line)
    except ValueError as exc:
        raise MemoError(f"{place} is no JSON ({exc}); export the memo again") from exc
    if isinstance(entry, dict) and "key" not in entry:
        _check_header(entry, place)
        return
    try:
        who = entry["identity"]
        if not {"provider", "endpoint", "model"} <= who.keys():
            raise KeyError("identity")
        identity = tuple(sorted((str(k), str(v)) for k, v in who.items()))
        reply = _latest(entry["replies"])
        response = None if reply is None else _response(reply)
        draws = found.setdefault(identity, {}).setdefault(str(entry["key"]), [])
    except (KeyError, TypeError, AttributeError) as exc:
        raise MemoError(
            f"{place} is no answer of a memo export ({exc}); export the memo again"
        ) from exc
    if response is not None:
        draws.append(response)


def _check_header(header: Mapping[str, Any], place: str) -> None:
    from datafast_nb.store.exchange import FORMAT, FORMAT_VERSION
    from datafast_nb.store.keys import KEY_VERSION

    if header.get(FORMAT) != FORMAT_VERSION or header.get("key_version") != KEY_VERSION:
        raise MemoError(
            f"{place}: this is no export of a memo, or one by another version of datafast_nb "
            "whose requests have other keys. Export it again with this version"
        )


def _latest(replies: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The reply that counts: the last usable one, else the last."""
    usable = [reply for reply in replies if reply["verdict"] == "usable"]
    kept = usable or replies
    return kept[-1] if kept else None


def _response(reply: Mapping[str, Any]) -> Response:
    usage = None
    if reply.get("input_tokens") is not None:
        usage = Usage(
            input_tokens=reply["input_tokens"],
            output_tokens=reply.get("output_tokens") or 0,
            cached_input_tokens=reply.get("cached_input_tokens") or 0,
        )
    return Response(
        reply["text"],
        finish=_FINISHES.get(reply.get("finish", "stop"), "other"),
        usage=usage,
        model=reply.get("model"),
    )
