"""OpenAI's chat completions as pure functions: request → wire JSON, wire JSON → response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.verdicts import Dialect, Found, read_reply
from datafast_nb.models.wire import Secret, WireReply, encode_json, error_code, raw_json

Structured = Literal["auto", "json_schema", "tool", "json_mode", "prompt"]

TOOL_NAME = "answer"
TOOL_WORDS = "Gives the answer in the form that is wanted."
_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "filtered",
}


def request_body(name: str, request: Request, *, structured: str) -> dict[str, Any]:
    """Body of the chat completions call; what the model does not accept is left out.

    Parameters
    ----------
    structured
        How a schema is sent: "json_schema", "tool", "json_mode" or "prompt".
    """
    messages: list[dict[str, Any]] = [dict(message) for message in request.messages]
    able = capabilities(name)
    body: dict[str, Any] = {"model": name, "messages": messages}
    left_out = dropped(able, request)
    if request.temperature is not None and "temperature" not in left_out:
        body["temperature"] = request.temperature
    if request.top_p is not None and "top_p" not in left_out:
        body["top_p"] = request.top_p
    if request.max_tokens is not None:
        body[able.max_tokens_name] = request.max_tokens
    if request.schema is not None:
        if structured == "json_schema":
            body["response_format"] = response_format(request.schema)
        elif structured == "tool":
            function = {
                "name": TOOL_NAME,
                "description": TOOL_WORDS,
                "parameters": dict(request.schema),
            }
            body["tools"] = [{"type": "function", "function": function}]
            body["tool_choice"] = {"type": "function", "function": {"name": TOOL_NAME}}
        else:
            if structured == "json_mode":
                body["response_format"] = {"type": "json_object"}
            if messages:
                messages[-1]["content"] += schema_words(request.schema)
    body.update(request.extra)
    return body


def schema_words(schema: Mapping[str, Any]) -> str:
    """The schema as the end of a prompt, for servers that know no schemas."""
    return (
        "\n\nAnswer with one JSON object that fits this JSON schema, "
        f"and with nothing else:\n{encode_json(schema).decode()}"
    )


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` for a schema, in strict mode where the schema allows it."""
    return {"type": "json_schema", "json_schema": named_schema(schema)}


def named_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its name, in strict mode where it allows it."""
    title = re.sub(r"[^\w-]", "_", str(schema.get("title") or "answer"), flags=re.ASCII)[:64]
    is_strict = not has_free_keys(schema)
    return {
        "name": title,
        "strict": is_strict,
        "schema": strict_schema(schema) if is_strict else dict(schema),
    }


def has_free_keys(node: Any) -> bool:
    """Whether some object may have keys of the model's choice, which strict mode refuses."""
    if isinstance(node, list):
        return any(has_free_keys(item) for item in node)
    if not isinstance(node, Mapping):
        return False
    if node.get("type") == "object" and (
        not node.get("properties") or node.get("additionalProperties") not in (None, False)
    ):
        return True
    return any(has_free_keys(value) for value in node.values())


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


def _find(data: Mapping[str, Any], body: bytes) -> Found | None:
    choice = _first_choice(data)
    if choice is None:
        return None
    message = choice["message"]
    text = _content(message.get("content"))
    called = _tool_input(message.get("tool_calls"), body)
    refusal = message.get("refusal")
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    return Found(
        text if called is None else called,
        ending=choice.get("finish_reason"),
        refusal=refusal if isinstance(refusal, str) else "",
        has_thoughts=bool(thoughts),
        usage=_usage(data.get("usage")),
    )


def _first_choice(data: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    has_message = isinstance(choice, dict) and isinstance(choice.get("message"), dict)
    return choice if has_message else None


def _status_within(data: Mapping[str, Any], body: bytes) -> int | None:
    # OpenRouter sends the failures of the provider behind it with status 200.
    error = data.get("error")
    if not isinstance(error, dict) or _first_choice(data) is not None:
        return None
    status = error.get("code")
    return status if isinstance(status, int) and 400 <= status < 600 else None


def is_filter(reply: WireReply) -> bool:
    """Azure's content filter answers 400."""
    return error_code(reply.body) in ("content_filter", "content_policy_violation")


DIALECT = Dialect(
    title="OpenAI's chat completions",
    holds="choices",
    endings=_FINISH,
    find=_find,
    status_within=_status_within,
    is_filter=is_filter,
)


def parse_reply(
    reply: WireReply,
    *,
    model: str,
    place: str = "the server",
    key_name: str = "",
    secret: Secret | None = None,
) -> Response:
    """The response in a reply that arrived whole. Raises LLMError; see `read_reply`."""
    return read_reply(reply, DIALECT, model=model, place=place, key_name=key_name, secret=secret)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict)]
        return "".join(p for p in parts if isinstance(p, str))
    return ""


def _tool_input(calls: Any, body: bytes) -> str | None:
    """What our tool was given, as the model wrote it; None where it was not called."""
    for i, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and function.get("name") == TOOL_NAME:
            given = function.get("arguments")
            if isinstance(given, str):
                return given
            # Some servers give the object itself.
            place = ("choices", 0, "message", "tool_calls", i, "function", "arguments")
            return raw_json(body, *place) if given else "{}"
    return None


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    out = usage.get("completion_tokens_details")
    return Usage(
        count(usage.get("prompt_tokens")),
        count(usage.get("completion_tokens")),
        count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        count(out.get("reasoning_tokens")) if isinstance(out, dict) else 0,
    )


def count(value: Any) -> int:
    """A number of tokens as a provider counted them; 0 where it is none."""
    return value if isinstance(value, int) and value >= 0 else 0
