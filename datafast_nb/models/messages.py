"""Anthropic's messages API as pure functions: request → wire JSON, wire JSON → response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.chat import TOOL_NAME, TOOL_WORDS, count, has_free_keys, schema_words
from datafast_nb.models.verdicts import Dialect, Found, read_reply
from datafast_nb.models.wire import Secret, WireReply, error_code, raw_json

Structured = Literal["auto", "json_schema", "tool", "prompt"]

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}
# Errors that come with status 200, as a proxy or a stream passes them on.
_STATUS_OF_ERROR = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


def messages_body(name: str, request: Request, *, structured: str) -> dict[str, Any]:
    """Body of the call; what the model does not accept is left out.

    System messages go into `system`. The API needs `max_tokens`: where none is given, what the
    model surely takes is sent.
    """
    able = capabilities(name, "anthropic")
    turns: list[dict[str, Any]] = [dict(m) for m in request.messages if m["role"] != "system"]
    system = "\n\n".join(m["content"] for m in request.messages if m["role"] == "system")
    body: dict[str, Any] = {
        "model": name,
        "max_tokens": request.max_tokens or able.default_max_tokens,
        "messages": turns,
    }
    if system:
        body["system"] = system
    left_out = dropped(able, request)
    if request.temperature is not None and "temperature" not in left_out:
        body["temperature"] = request.temperature
    if request.top_p is not None and "top_p" not in left_out:
        body["top_p"] = request.top_p
    if request.schema is not None:
        way = way_of(name, request.schema, structured)
        if way == "json_schema":
            format_ = {"type": "json_schema", "schema": closed_schema(request.schema)}
            body["output_config"] = {"format": format_}
        elif way == "tool":
            body["tools"] = [
                {
                    "name": TOOL_NAME,
                    "description": TOOL_WORDS,
                    "input_schema": dict(request.schema),
                }
            ]
            body["tool_choice"] = {
                "type": "tool",
                "name": TOOL_NAME,
                "disable_parallel_tool_use": True,
            }
        elif turns:
            turns[-1]["content"] += schema_words(request.schema)
    for key, value in request.extra.items():
        if key == "output_config" and isinstance(value, Mapping) and key in body:
            value = {**value, **body[key]}  # `effort` beside our `format`
        body[key] = value
    return body


def way_of(name: str, schema: Mapping[str, Any], structured: str) -> str:
    """How the schema is sent: "json_schema", "tool" or "prompt"."""
    return ways_for(name, schema, structured)[0]


def ways_for(name: str, schema: Mapping[str, Any], structured: str) -> tuple[str, ...]:
    """Ways in which the schema may be sent, the best first.

    The output format knows neither keys of the model's choice nor schemas that hold themselves,
    and older models do not know it at all: "auto" takes the input of a tool then. Models that
    think unasked cannot be made to use a tool: the schema goes into their prompt.
    """
    if structured != "auto":
        return (structured,)
    able = capabilities(name, "anthropic")
    found = ["prompt"]
    if able.takes_sampling:
        found.insert(0, "tool")
    if able.takes_schema and not has_free_keys(schema) and not _is_recursive(schema):
        found.insert(0, "json_schema")
    return tuple(found)


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    """Whether some definition holds a reference to itself, through others too."""
    defs = schema.get("$defs", {})
    uses = {name: _references(part) for name, part in defs.items()}
    for start in uses:
        seen: set[str] = set()
        todo = list(uses[start])
        while todo:
            name = todo.pop()
            if name == start:
                return True
            if name not in seen:
                seen.add(name)
                todo.extend(uses.get(name, ()))
    return "#" in _references(schema)


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for item in node for name in _references(item)}
    if not isinstance(node, Mapping):
        return set()
    found = {name for value in node.values() for name in _references(value)}
    if isinstance(node.get("$ref"), str):
        found.add(node["$ref"].removeprefix("#/$defs/"))
    return found


_FORMATS = frozenset(
    {
        *("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6"),
        "uuid",
    }
)


def closed_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as the output format takes it.

    Objects are closed; what the format does not know (ranges, lengths, patterns, defaults) goes
    into the descriptions, as in the official client.
    """
    left = dict(schema)
    closed: dict[str, Any] = {}
    if "$defs" in left:
        closed["$defs"] = {name: closed_schema(part) for name, part in left.pop("$defs").items()}
    if "$ref" in left:
        closed["$ref"] = left.pop("$ref")
        return closed
    kind = left.pop("type", None)
    variants = {key: left.pop(key, None) for key in ("anyOf", "oneOf", "allOf")}
    literal = False
    values = left.get("enum")
    if isinstance(values, list) and values and all(map(_is_plain, values)):
        closed["enum"], literal = list(left.pop("enum")), True
    if "const" in left and _is_plain(left["const"]):
        closed["const"], literal = left.pop("const"), True
    if isinstance(variants["anyOf"] or variants["oneOf"], list):
        closed["anyOf"] = [closed_schema(v) for v in variants["anyOf"] or variants["oneOf"]]
    elif isinstance(variants["allOf"], list):
        closed["allOf"] = [closed_schema(v) for v in variants["allOf"]]
    elif not literal and kind is not None:
        closed["type"] = kind
    kind = None if literal else kind
    for key in ("description", "title"):
        value = left.pop(key, None)
        if value is not None:
            closed[key] = value
    if kind == "object":
        properties = left.pop("properties", {})
        closed["properties"] = {key: closed_schema(part) for key, part in properties.items()}
        left.pop("additionalProperties", None)
        closed["additionalProperties"] = False
        required = left.pop("required", None)
        if required is not None:
            closed["required"] = list(required)
    elif kind == "string" and left.get("format") in _FORMATS:
        closed["format"] = left.pop("format")
    elif kind == "array":
        items = left.pop("items", None)
        if items is not None:
            closed["items"] = closed_schema(items)
        if left.get("minItems") in (0, 1):
            closed["minItems"] = left.pop("minItems")
    if left:
        said = "{" + ", ".join(f"{key}: {value}" for key, value in left.items()) + "}"
        before = closed.get("description")
        closed["description"] = said if before is None else f"{before}\n\n{said}"
    return closed


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _find(data: Mapping[str, Any], body: bytes) -> Found | None:
    content = data.get("content")
    if not isinstance(content, list):
        return None
    reason = data.get("stop_reason")
    text = _text(content, body)
    if reason == "refusal" and not text:
        details = data.get("stop_details")
        said = details.get("explanation") if isinstance(details, Mapping) else None
        text = said if isinstance(said, str) else ""
    kinds = {block.get("type") for block in content if isinstance(block, dict)}
    return Found(
        text,
        ending=reason,
        has_thoughts=not kinds.isdisjoint({"thinking", "redacted_thinking"}),
        usage=_usage(data.get("usage")),
    )


def _status_within(data: Mapping[str, Any], body: bytes) -> int | None:
    error = data.get("error")
    if not isinstance(error, Mapping) or isinstance(data.get("content"), list):
        return None
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return _STATUS_OF_ERROR.get(error_code(body), 500)


DIALECT = Dialect(
    title="Anthropic's messages API",
    holds="content",
    endings=_FINISH,
    find=_find,
    status_within=_status_within,
)


def parse_messages(
    reply: WireReply,
    *,
    model: str,
    place: str = "the server",
    key_name: str = "",
    secret: Secret | None = None,
) -> Response:
    """The response in a reply that arrived whole. Raises LLMError; see `read_reply`."""
    return read_reply(reply, DIALECT, model=model, place=place, key_name=key_name, secret=secret)


def _text(content: list[Any], body: bytes) -> str:
    """The input of our tool as JSON, else the text of all blocks; thinking is left out."""
    text: list[str] = []
    for i, block in enumerate(content):
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_use" and block.get("name") == TOOL_NAME:
            return raw_json(body, "content", i, "input") if block.get("input") else "{}"
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            text.append(block["text"])
    return "".join(text)


def _usage(usage: Any) -> Usage | None:
    """Anthropic counts what it read from and wrote to its cache beside `input_tokens`."""
    if not isinstance(usage, dict):
        return None
    read = count(usage.get("cache_read_input_tokens"))
    written = count(usage.get("cache_creation_input_tokens"))
    return Usage(
        count(usage.get("input_tokens")) + read + written,
        count(usage.get("output_tokens")),
        read,
    )
