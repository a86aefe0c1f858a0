"""Ollama's chat as pure functions: address, request → wire JSON, wire JSON → response."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from datafast_nb.errors import LLMError
from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.chat import count, schema_words
from datafast_nb.models.verdicts import Dialect, Found, read_reply
from datafast_nb.models.wire import Secret, WireReply, quote

# Fields of the body itself; other names in `extra` are options.
_BODY_FIELDS = frozenset(
    {"format", "options", "think", "keep_alive", "tools", "logprobs", "top_logprobs", "truncate"}
    | {"shift"}
)


def server_address(host: str) -> str:
    """The address in what OLLAMA_HOST may hold: "", "host", ":port", "host:port/path", a URL.

    An address to listen at ("0.0.0.0") is this machine.
    """
    scheme, separator, rest = host.strip().partition("://")
    port = {"http": 80, "https": 443}.get(scheme, 11434) if separator else 11434
    if not separator:
        scheme, rest = "http", host.strip()
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port or port
    except ValueError:
        raise ValueError(
            f"{host!r} is no address of a server; write it like 'localhost:11434' or "
            "'https://example.org'"
        ) from None
    if name in ("0.0.0.0", "::", "localhost"):
        name = "127.0.0.1"
    try:
        if ipaddress.ip_address(name).version == 6:
            name = f"[{name}]"
    except ValueError:
        pass
    path = parts.path.strip("/")
    place = name if (scheme, port) in (("http", 80), ("https", 443)) else f"{name}:{port}"
    return f"{scheme}://{place}{'/' + path if path else ''}"


def ollama_body(
    name: str,
    request: Request,
    *,
    structured: str,
    num_ctx: int | None,
    think: bool | str | None,
    keep_alive: str | float | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Body of the call. The server is told not to cut what is too long (`truncate`, `shift`)."""
    messages: list[dict[str, Any]] = [dict(message) for message in request.messages]
    chosen: dict[str, Any] = {}
    for key, value in (
        ("num_ctx", num_ctx),
        ("temperature", request.temperature),
        ("top_p", request.top_p),
        ("num_predict", request.max_tokens),
    ):
        if value is not None:
            chosen[key] = value
    chosen.update(options)
    body: dict[str, Any] = {
        "model": name,
        "messages": messages,
        "stream": False,
        "options": chosen,
        "truncate": False,
        "shift": False,
    }
    if request.schema is not None:
        if structured == "json_schema":
            body["format"] = dict(request.schema)
        else:
            if structured == "json_mode":
                body["format"] = "json"
            if messages:
                messages[-1]["content"] += schema_words(request.schema)
    if think is not None:
        body["think"] = think
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    for key, value in request.extra.items():
        if key == "options":
            chosen.update(value)
        elif key in _BODY_FIELDS:
            body[key] = value
        else:
            chosen[key] = value
    return body


_ENDINGS: dict[str, Finish] = {"stop": "stop", "length": "length"}
_TOO_LONG = ("context size", "context length", "exceeds the context")


def _find(data: Mapping[str, Any], body: bytes) -> Found | None:
    message = data.get("message")
    if not isinstance(message, Mapping) or data.get("done") is not True:
        return None
    content = message.get("content")
    usage = None
    if data.get("prompt_eval_count") is not None or data.get("eval_count") is not None:
        usage = Usage(count(data.get("prompt_eval_count")), count(data.get("eval_count")))
    return Found(
        content if isinstance(content, str) else "",
        ending=data.get("done_reason"),
        has_thoughts=bool(message.get("thinking")),
        usage=usage,
    )


def _status_within(data: Mapping[str, Any], body: bytes) -> int | None:
    return 500 if data.get("error") and _find(data, body) is None else None


DIALECT = Dialect(
    title="Ollama's chat",
    holds="finished message",
    endings=_ENDINGS,
    find=_find,
    status_within=_status_within,
)


def parse_ollama(
    reply: WireReply,
    *,
    model: str,
    place: str = "the server",
    num_ctx: int | None = None,
    secret: Secret | None = None,
) -> Response:
    """The response in a reply of Ollama's chat that arrived whole. Raises LLMError."""
    try:
        return read_reply(reply, DIALECT, model=model, place=place, secret=secret)
    except LLMError as exc:
        failure = _with_remedy(exc, reply, place, num_ctx, secret)
    raise failure


def _with_remedy(
    error: LLMError, reply: WireReply, place: str, num_ctx: int | None, secret: Secret | None
) -> LLMError:
    """The error in words that fit Ollama."""
    model = error.model
    said = quote(reply.body, secret)
    if error.status == 404:
        return LLMError(
            f"{place} has no model {model!r}: {said or 'nothing more'}. Get it with "
            f"`ollama pull {model}`, or take one that is there",
            kind="not_found",
            model=model,
            status=404,
        )
    is_answer = error.status is not None and error.status < 400
    if not is_answer and any(words in said for words in _TOO_LONG):
        size = "the server's default" if num_ctx is None else f"num_ctx={num_ctx:,}"
        return LLMError(
            f"{place}: the prompt does not fit into the context of model {model!r} ({size}): "
            f"{said}. Shorten it, or give OllamaModel(num_ctx=…) more",
            kind="bad_request",
            model=model,
            status=error.status,
        )
    return error
