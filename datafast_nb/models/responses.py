"""OpenAI's responses API as pure functions: request → wire JSON, wire JSON → response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.chat import (
    TOOL_NAME,
    TOOL_WORDS,
    count,
    is_filter,
    named_schema,
    schema_words,
)
from datafast_nb.models.verdicts import Dialect, Found, read_reply
from datafast_nb.models.wire import Secret, WireReply, raw_json

_ENDINGS: dict[str, Finish] = {"max_output_tokens": "length", "content_filter": "filtered"}


def responses_body(name: str, request: Request, *, structured: str) -> dict[str, Any]:
    """Body of the call. Nothing is stored at the provider (`store` is False)."""
    messages: list[dict[str, Any]] = [dict(message) for message in request.messages]
    left_out = dropped(capabilities(name), request)
    body: dict[str, Any] = {"model": name, "input": messages, "store": False}
    if request.temperature is not None and "temperature" not in left_out:
        body["temperature"] = request.temperature
    if request.top_p is not None and "top_p" not in left_out:
        body["top_p"] = request.top_p
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    if request.schema is not None:
        if structured == "json_schema":
            body["text"] = {"format": {"type": "json_schema", **named_schema(request.schema)}}
        elif structured == "tool":
            tool = {"type": "function", "name": TOOL_NAME, "description": TOOL_WORDS}
            body["tools"] = [{**tool, "parameters": dict(request.schema), "strict": False}]
            body["tool_choice"] = {"type": "function", "name": TOOL_NAME}
        else:
            if structured == "json_mode":
                body["text"] = {"format": {"type": "json_object"}}
            if messages:
                messages[-1]["content"] += schema_words(request.schema)
    body.update(request.extra)
    return body


def _find(data: Mapping[str, Any], body: bytes) -> Found | None:
    output, status = data.get("output"), data.get("status")
    if not isinstance(output, list):
        return None
    text, refusal, has_thoughts = _output_text(output, body)
    details = data.get("incomplete_details")
    ending = None if status in ("completed", None) else str(status)
    if status == "incomplete" and isinstance(details, Mapping):
        ending = str(details.get("reason"))
    return Found(
        text,
        ending=ending,
        refusal=refusal,
        has_thoughts=has_thoughts,
        usage=_usage(data.get("usage")),
    )


def _status_within(data: Mapping[str, Any], body: bytes) -> int | None:
    error = data.get("error")
    is_failed = data.get("status") == "failed" or not isinstance(data.get("output"), list)
    if not isinstance(error, dict) or not is_failed:
        return None
    code = error.get("code")
    if code == "rate_limit_exceeded":
        return 429
    return code if isinstance(code, int) and 400 <= code < 600 else 500


DIALECT = Dialect(
    title="OpenAI's responses API",
    holds="output",
    endings=_ENDINGS,
    find=_find,
    status_within=_status_within,
    is_filter=is_filter,
)


def parse_responses(
    reply: WireReply,
    *,
    model: str,
    place: str = "the server",
    key_name: str = "",
    secret: Secret | None = None,
) -> Response:
    """The response in a reply that arrived whole. Raises LLMError; see `read_reply`."""
    return read_reply(reply, DIALECT, model=model, place=place, key_name=key_name, secret=secret)


def _output_text(output: list[Any], body: bytes) -> tuple[str, str, bool]:
    """Text of all messages, or what our tool was given; text of the refusals; any reasoning."""
    text: list[str] = []
    refusal: list[str] = []
    called: str | None = None
    has_thoughts = False
    for i, item in enumerate(output):
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        has_thoughts = has_thoughts or kind == "reasoning"
        if kind == "function_call" and item.get("name") == TOOL_NAME and called is None:
            given = item.get("arguments", "")
            called = given if isinstance(given, str) else raw_json(body, "output", i, "arguments")
        if kind != "message":
            continue  # reasoning, calls of built-in tools
        for part in item.get("content") or ():
            if not isinstance(part, dict):
                continue
            if part.get("type") == "output_text" and isinstance(part.get("text"), str):
                text.append(part["text"])
            elif part.get("type") == "refusal" and isinstance(part.get("refusal"), str):
                refusal.append(part["refusal"])
    return "".join(text) if called is None else called, "".join(refusal), has_thoughts


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    out = usage.get("output_tokens_details")
    return Usage(
        count(usage.get("input_tokens")),
        count(usage.get("output_tokens")),
        count(details.get("cached_tokens")) if isinstance(details, dict) else 0,
        count(out.get("reasoning_tokens")) if isinstance(out, dict) else 0,
    )
