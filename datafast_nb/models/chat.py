"""OpenAI's chat completions as pure functions: request → wire JSON, wire JSON → response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from datafast_nb.errors import LLMError
from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.wire import (
    Secret,
    WireReply,
    decode_json,
    encode_json,
    error_code,
    quote,
    status_error,
)

Structured = Literal["json_schema", "prompt"]


@dataclass(frozen=True)
class Capabilities:
    """What a model accepts."""

    takes_sampling: bool = True
    """`temperature` and `top_p`; others than the default are an error where it is False."""
    max_tokens_name: str = "max_tokens"


_REASONING = Capabilities(takes_sampling=False, max_tokens_name="max_completion_tokens")
# As of 2026-11, platform.openai.com/docs/guides/reasoning and the pages of the models.
# The first pattern that fits the start of the name counts.
_CAPABILITIES: tuple[tuple[str, Capabilities], ...] = (
    (r"gpt-5[\w.]*-chat", Capabilities(max_tokens_name="max_completion_tokens")),
    (r"gpt-5", _REASONING),
    (r"o[134](-|$)", _REASONING),
    (r"codex-mini", _REASONING),
)

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "refused",
}


@lru_cache(maxsize=64)
def capabilities(name: str) -> Capabilities:
    """What the model of that name accepts; "openai/…" and "ft:…" are looked through."""
    short = name.removeprefix("openai/").removeprefix("ft:")
    for pattern, found in _CAPABILITIES:
        if re.match(pattern, short):
            return found
    return Capabilities()


def request_body(name: str, request: Request, *, structured: Structured) -> dict[str, Any]:
    """Body of the chat completions call; what the model does not accept is left out."""
    messages: list[dict[str, Any]] = [dict(message) for message in request.messages]
    able = capabilities(name)
    body: dict[str, Any] = {"model": name, "messages": messages}
    dropped = dropped_parameters(name, request)
    if request.temperature is not None and "temperature" not in dropped:
        body["temperature"] = request.temperature
    if request.top_p is not None and "top_p" not in dropped:
        body["top_p"] = request.top_p
    if request.max_tokens is not None:
        body[able.max_tokens_name] = request.max_tokens
    if request.schema is not None:
        if structured == "json_schema":
            body["response_format"] = response_format(request.schema)
        elif messages:
            schema = encode_json(request.schema).decode()
            messages[-1]["content"] += (
                "\n\nAnswer with one JSON object that fits this JSON schema, "
                f"and with nothing else:\n{schema}"
            )
    body.update(request.extra)
    return body


def dropped_parameters(name: str, request: Request) -> list[str]:
    """Names of the parameters that are set in the request but not sent to this model."""
    if capabilities(name).takes_sampling or request.extra.get("reasoning_effort") == "none":
        return []
    given = {"temperature": request.temperature, "top_p": request.top_p}
    return [parameter for parameter, value in given.items() if value is not None]


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` for a schema, in strict mode where the schema allows it."""
    title = re.sub(r"[^\w-]", "_", str(schema.get("title") or "answer"), flags=re.ASCII)[:64]
    is_strict = not _has_free_keys(schema)
    return {
        "type": "json_schema",
        "json_schema": {
            "name": title,
            "strict": is_strict,
            "schema": strict_schema(schema) if is_strict else dict(schema),
        },
    }


def _has_free_keys(node: Any) -> bool:
    """Whether some object may have keys of the model's choice, which strict mode refuses."""
    if isinstance(node, list):
        return any(_has_free_keys(item) for item in node)
    if not isinstance(node, Mapping):
        return False
    if node.get("type") == "object" and (
        not node.get("properties") or node.get("additionalProperties") not in (None, False)
    ):
        return True
    return any(_has_free_keys(value) for value in node.values())


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as strict mode wants it: every key required, none besides, no defaults."""
    strict: dict[str, Any] = _strict(schema, schema, frozenset())
    return strict


def _strict(node: Any, root: Mapping[str, Any], inlined: frozenset[str]) -> Any:
    if isinstance(node, list):
        return [_strict(item, root, inlined) for item in node]
    if not isinstance(node, Mapping):
        return node
    if "$ref" in node and len(node) > 1:
        # Strict mode takes no words beside a reference: what it points to is put in its place,
        # unless that holds the reference again.
        ref = str(node["$ref"])
        if ref in inlined:
            return {"$ref": ref}
        target: Any = root
        for part in ref.removeprefix("#/").split("/"):
            target = target[part]
        whole = {**target, **{k: v for k, v in node.items() if k != "$ref"}}
        return _strict(whole, root, inlined | {ref})
    new: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            new[key] = {name: _strict(part, root, inlined) for name, part in value.items()}
        elif key == "allOf" and isinstance(value, list) and len(value) == 1:
            new.update(_strict(value[0], root, inlined))
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems", "items", "not"):
            new[key] = _strict(value, root, inlined)
        elif key != "default":
            new[key] = value
    if isinstance(new.get("properties"), dict):
        new["additionalProperties"] = False
        new["required"] = list(new["properties"])
    return new


def parse_reply(
    reply: WireReply,
    *,
    model: str,
    place: str = "the server",
    key_name: str = "",
    secret: Secret | None = None,
) -> Response:
    """The response in a reply that arrived whole.

    Raises
    ------
    LLMError
        If the status or the body is an error. A refusal and a cut are responses.
    """
    who = {"model": model, "place": place, "key_name": key_name}
    if reply.status >= 400:
        return _parse_failure(reply, who, secret)
    data = decode_json(reply, model=model, secret=secret)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        # OpenRouter sends the failures of the provider behind it with status 200.
        error = data.get("error")
        status = error.get("code") if isinstance(error, dict) else None
        if isinstance(status, int) and 400 <= status < 600:
            return _parse_failure(WireReply(status, reply.headers, reply.body), who, secret)
        raise LLMError(
            f"model {model!r}: the reply of {place} holds no choices: "
            f"{quote(reply.body, secret)}. Does it speak OpenAI's chat completions?",
            kind="bad_reply",
            model=model,
            status=reply.status,
        )
    text = _content(message.get("content"))
    reason = choice.get("finish_reason")
    finish: Finish = "stop" if reason is None else _FINISH.get(str(reason), "other")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        text, finish = text or refusal, "refused"
    served = data.get("model")
    return Response(
        text,
        finish=finish,
        usage=_usage(data.get("usage")),
        model=served if isinstance(served, str) else None,
    )


def _parse_failure(reply: WireReply, who: Mapping[str, str], secret: Secret | None) -> Response:
    """Raise what the status stands for; Azure's content filter answers 400 and is a refusal."""
    code = error_code(reply.body)
    if code in ("content_filter", "content_policy_violation"):
        return Response(quote(reply.body, secret), finish="refused")
    raise status_error(reply, **who, secret=secret)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict)]
        return "".join(p for p in parts if isinstance(p, str))
    return ""


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    counts = (
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details.get("cached_tokens") if isinstance(details, dict) else 0,
    )
    return Usage(*(n if isinstance(n, int) and n >= 0 else 0 for n in counts))
