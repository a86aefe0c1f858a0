"""The dialects that the stub server speaks: one text, said as each provider says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from datafast_nb.models.fake import count_words

Say = Callable[..., bytes]
"""(text, finish="stop", refusal=None) → JSON of a reply; finish may be "length", "content_filter"."""


def wire_of(path: str) -> str:
    """The dialect of a page: "chat", "messages", "responses", "ollama", "" where nobody answers."""
    ends = {
        "/chat/completions": "chat",
        "/messages": "messages",
        "/responses": "responses",
        "/api/chat": "ollama",
    }
    return next((wire for end, wire in ends.items() if path.endswith(end)), "")


def turns_of(body: dict[str, Any]) -> list[Any]:
    """What was asked, in any dialect; the system prompt of the messages API first."""
    turns = body.get("messages") or body.get("input") or []
    return [{"role": "system", "content": body["system"]}, *turns] if body.get("system") else turns


def schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that came along, in any dialect."""
    found = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    found = found or (body.get("text") or {}).get("format", {}).get("schema")
    found = found or (body.get("output_config") or {}).get("format", {}).get("schema")
    found = found or next((_tool_schema(t) for t in body.get("tools", ())), None)
    asked = body.get("format")
    return found or (asked if isinstance(asked, dict) else _told_schema(body))


def _tool_schema(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function") or {}
    return tool.get("input_schema") or tool.get("parameters") or function["parameters"]


def _told_schema(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that stands at the end of the last message."""
    last = turns_of(body)[-1]["content"] if turns_of(body) else ""
    if "JSON schema, and with nothing else:\n" not in str(last):
        return None
    return orjson.loads(last.rpartition("\n")[2])


def way_of(body: dict[str, Any]) -> str:
    """How the schema came along; "" where none did."""
    if body.get("tools"):
        return "tool"
    asked = body.get("response_format") or (body.get("text") or {}).get("format")
    asked = asked or (body.get("output_config") or {}).get("format") or body.get("format")
    if asked in ("json", {"type": "json_object"}):
        return "json_mode"
    return "json_schema" if asked else "prompt" if _told_schema(body) else ""


def sayer(wire: str, body: dict[str, Any]) -> Say:
    """How this dialect answers that request."""
    return partial(_SAY[wire], body)


def _counts(body: dict[str, Any], text: Any) -> tuple[int, int]:
    n_input = sum(count_words(str(m.get("content"))) for m in turns_of(body))
    return n_input, count_words(text) if isinstance(text, str) else 0


def _model(body: dict[str, Any]) -> str:
    return f"{body.get('model', 'stub')}-2026"


def _chat(
    body: dict[str, Any], text: Any, finish: str = "stop", refusal: str | None = None
) -> bytes:
    n_input, n_output = _counts(body, text)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if text and body.get("tools") and finish == "stop":
        # Arguments are text, and may be as broken as any.
        call = {"name": body["tools"][0]["function"]["name"], "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": "call_stub", "type": "function", "function": call}]
        finish = "tool_calls"
    if refusal is not None:
        message["refusal"] = refusal
    return orjson.dumps(
        {
            "id": "chatcmpl-stub",
            "object": "chat.completion",
            "created": 1,
            "model": _model(body),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": n_input,
                "completion_tokens": n_output,
                "total_tokens": n_input + n_output,
            },
        }
    )


def _messages(
    body: dict[str, Any], text: Any, finish: str = "stop", refusal: str | None = None
) -> bytes:
    n_input, n_output = _counts(body, text)
    reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
    content: list[Any] = []
    if text is not None:
        content = [{"type": "text", "text": text}]
    if text and body.get("tools") and finish == "stop" and text.startswith("{"):
        try:
            json.loads(text)
        except ValueError:
            pass  # a fault of the text: said as text
        else:
            name = body["tools"][0]["name"]
            content = [{"type": "tool_use", "id": "toolu_stub", "name": name, "input": "@input@"}]
    said = orjson.dumps(
        {
            "id": "msg_stub",
            "type": "message",
            "role": "assistant",
            "model": _model(body),
            "content": content,
            "stop_reason": "refusal" if refusal else reasons[finish],
            "stop_sequence": None,
            "stop_details": {"type": "refusal", "explanation": refusal} if refusal else None,
            "usage": {
                "input_tokens": n_input,
                "output_tokens": n_output,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 2,
            },
        }
    )
    # As it was written: with keys that occur twice, and numbers that are none.
    return said.replace(b'"@input@"', (text or "").encode())


def _responses(
    body: dict[str, Any], text: Any, finish: str = "stop", refusal: str | None = None
) -> bytes:
    n_input, n_output = _counts(body, text)
    parts: list[Any] = []
    if text is not None:
        parts.append({"type": "output_text", "text": text, "annotations": []})
    if refusal is not None:
        parts.append({"type": "refusal", "refusal": refusal})
    called: list[Any] = []
    if text and body.get("tools") and finish == "stop":
        name, parts = body["tools"][0]["name"], []
        called = [{"type": "function_call", "id": "fc_stub", "name": name, "arguments": text}]
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    cut = {"reason": reasons[finish]} if finish in reasons else None
    said = {
        "type": "message",
        "id": "msg_stub",
        "role": "assistant",
        "status": "incomplete" if cut else "completed",
        "content": parts,
    }
    return orjson.dumps(
        {
            "id": "resp_stub",
            "object": "response",
            "created_at": 1,
            "model": _model(body),
            "status": "incomplete" if cut else "completed",
            "incomplete_details": cut,
            "error": None,
            "output": [{"type": "reasoning", "id": "rs_stub", "summary": []}, said, *called],
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": n_input,
                "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
                "output_tokens": n_output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": n_input + n_output,
            },
        }
    )


def _ollama(
    body: dict[str, Any], text: Any, finish: str = "stop", refusal: str | None = None
) -> bytes:
    n_input, n_output = _counts(body, text)
    return orjson.dumps(
        {
            "model": _model(body),
            "created_at": "2026-11-21T00:00:00Z",
            "message": {"role": "assistant", "content": refusal or text, "thinking": "Hm."},
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "prompt_eval_count": n_input,
            "eval_count": n_output,
        }
    )


_SAY = {"chat": _chat, "messages": _messages, "responses": _responses, "ollama": _ollama}

EMPTY: dict[str, bytes] = {
    "chat": b'{"choices": []}',
    "messages": b'{"type": "message", "content": null}',
    "responses": b'{"object": "response", "output": null}',
    "ollama": b'{"model": "m", "message": null, "done": true}',
}
"""Replies without a place for an answer."""


def error_body(wire: str, code: str, message: str) -> bytes:
    """An error as the dialect says it."""
    if wire == "ollama":
        return orjson.dumps({"error": message})
    error = {"message": message, "type": code, "code": code}
    if wire == "messages":
        return orjson.dumps({"type": "error", "error": {"type": code, "message": message}})
    return orjson.dumps({"error": error})
