"""Models that fail by a script, and what a call makes of such a script by the rules alone."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass

import datafast_nb as dfn
from datafast_nb.models.base import Request, Response, Usage

RETRIED = {"429": "rate_limited", "500": "server", "timeout": "timeout", "reset": "connection"}
REFUSED_AT_ONCE = {"400": "bad_request", "too_large": "too_large"}
FATAL = {"401": "auth", "404": "not_found", "quota": "quota"}
UNUSABLE = {
    "refusal": "refused",
    "cut": "cut",
    "empty": "empty",
    "prose": "unparsable",
    "schema": "wrong_schema",
}
REASKED = frozenset({"empty", "unparsable", "wrong_schema"})
KINDS = {**RETRIED, **REFUSED_AT_ONCE, **FATAL, **UNUSABLE}
"""Fault → verdict."""


def fault(name: str, retry_after_s: float | None = None) -> Response:
    """The reply of that name; raises the errors."""
    usage = Usage(5, 5)
    if name == "good":
        return Response('{"a": "fine", "b": "too"}', usage=usage)
    if name == "refusal":
        return Response("I will not", finish="refused", usage=usage)
    if name == "cut":
        return Response('{"a": "fine", "b": "to', finish="length", usage=usage)
    if name == "empty":
        return Response("", usage=usage)
    if name == "prose":
        return Response("Sure, here you are: fine, too", usage=usage)
    if name == "schema":
        return Response('{"a": "fine", "c": 7}', usage=usage)
    status = int(name) if name.isdigit() else None
    raise dfn.LLMError(
        name,
        kind=KINDS[name],
        status=status,
        retry_after_s=retry_after_s,
        maybe_billed=name in ("reset", "timeout"),  # else five in a row would stop the run
    )


class ScriptedModel(dfn.FakeModel):
    """Answers the n-th request about a text by the n-th entry of the text's script, then well."""

    def __init__(self, scripts: dict[str, list[str]], name: str = "scripted") -> None:
        super().__init__(self._next, name=name, price=(1.0, 1.0))
        self.scripts = scripts
        self.asked: Counter[str] = Counter()
        self.given: defaultdict[str, list[str]] = defaultdict(list)
        self._lock = threading.Lock()

    def _next(self, request: Request) -> Response:
        text = request.messages[0]["content"]
        with self._lock:
            place = self.asked[text]
            self.asked[text] += 1
            script = self.scripts.get(text, [])
            name = script[place] if place < len(script) else "good"
            self.given[text].append(name)
        return fault(name)


@dataclass(frozen=True)
class Fate:
    """What becomes of a call."""

    verdict: str
    """"usable", or why not."""
    n_asked: int
    is_fatal: bool = False


def fate_of(script: list[str], *, max_retries: int, on_error: str) -> Fate:
    """By DESIGN's table: one budget of attempts, fatal causes asked once, unusable answers re-asked."""
    reasks = max_retries if on_error == "retry" else 1
    for n, name in enumerate([*script, "good"], start=1):
        if name == "good":
            return Fate("usable", n)
        kind = KINDS[name]
        if name in FATAL:
            return Fate(kind, n, True)
        if name in RETRIED:
            if n > max_retries:
                return Fate(kind, n)
        elif name in UNUSABLE:
            may = on_error == "retry" or kind in REASKED
            if not may or reasks == 0 or n > max(1, max_retries):
                return Fate(kind, n)
            reasks -= 1
        else:
            return Fate(kind, n)
    raise AssertionError
