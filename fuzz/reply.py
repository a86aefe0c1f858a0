"""Replies: any bytes of a provider give values of the declared schema, or a declared error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from datafast_nb.engine.calls import Call, reask
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Request, Response
from datafast_nb.models.chat import parse_reply
from datafast_nb.models.fake import FakeModel
from datafast_nb.models.messages import parse_messages
from datafast_nb.models.ollama_chat import parse_ollama
from datafast_nb.models.responses import parse_responses
from datafast_nb.models.wire import Secret, WireReply
from datafast_nb.records import normalise_records
from datafast_nb.steps.outputs import OutputSpec, Unusable
from datafast_nb.store import rows, typed_json
from fuzz.rules import Target, declared, require


class Review(BaseModel):
    """What a user might declare."""

    title: str
    stars: int = Field(ge=1, le=5)
    parts: list[Review] = []
    share: float | None = None


SPECS = (
    OutputSpec(["q"]),
    OutputSpec(["q", "a"]),
    OutputSpec({"texts": list[str], "n": int, "x": float, "any": dict[str, Any]}),
    OutputSpec(Review),
)
_ANSWERS = (
    '{"q": "what", "a": "that"}',
    '```json\n{"q": "what", "a": "that",}\n```',
    '{"texts": ["a", "b"], "n": 3, "x": 1.5, "any": {"k": [null, {"z": 1e5}]}}',
    '{"title": "T", "stars": 5, "parts": [{"title": "P", "stars": 1}], "share": null}',
    "Sure! Here you are: 42",
    '{"q": "\\ud800 \\u0000 é", "a": "cut',
)


def _wires(text: str) -> list[bytes]:
    chat = {
        "model": "m-1",
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }
    messages = {
        "type": "message",
        "model": "m-1",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 3},
    }
    tool = {**messages, "content": [{"type": "tool_use", "name": "answer", "input": {"q": text}}]}
    responses = {
        "status": "completed",
        "model": "m-1",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": text}]},
        ],
        "usage": {
            "input_tokens": 9,
            "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 1},
        },
    }
    ollama = {
        "model": "m-1",
        "message": {"role": "assistant", "content": text, "thinking": "Hm."},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 9,
        "eval_count": 4,
    }
    return [json.dumps(body).encode() for body in (chat, messages, tool, responses, ollama)]


SEEDS = (
    *(answer.encode() for answer in _ANSWERS),
    *(wire for answer in _ANSWERS[:4] for wire in _wires(answer)),
    b'{"error": {"message": "no", "type": "insufficient_quota", "code": 429}}',
    b'{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}',
    b'[{"error": {"code": 400, "message": "API key not valid", "status": "INVALID"}}]',
    b'{"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}',
    b'{"content": [], "stop_reason": "refusal", "stop_details": {"explanation": "no"}}',
    b"<html><body>Sign in</body></html>",
    b"",
)
WORDS = (
    *(b'"choices"', b'"message"', b'"content"', b'"refusal"', b'"finish_reason"', b'"length"'),
    *(b'"content_filter"', b'"usage"', b'"error"', b'"code"', b'"output"', b'"output_text"'),
    *(b'"stop_reason"', b'"max_tokens"', b'"tool_use"', b'"input"', b'"done"', b'"eval_count"'),
    *(b"```json\n", b"\n```", b",}", b",]", b'"q"', b'"a"', b'"texts"', b'"title"', b'"stars"'),
    *(b'\\"', b'"tool_calls"', b'"function"', b'"arguments"', b"<think>", b"</think>"),
)
_PARSERS: tuple[Callable[..., Response], ...] = (
    parse_reply,
    parse_messages,
    parse_responses,
    parse_ollama,
)
_MODEL = FakeModel("unused", name="m")
_REQUEST = Request(({"role": "user", "content": "ask"},))
_HEADERS = {"content-type": "application/json", "retry-after": "7"}


def check(data: bytes) -> str:
    """As text of an answer, and as the body of each dialect's reply."""
    text = data.decode("utf-8", "replace")
    words = [_check_answer(Response(text)), _check_answer(Response(data.decode("latin-1")))]
    status = (200, 200, 200, 400, 429, 500)[len(data) % 6]
    for parse in _PARSERS:
        reply = WireReply(status, _HEADERS, data)
        with declared(LLMError) as failed:
            response = parse(reply, model="m", secret=Secret("sk-planted-0123456789"))
        if failed:
            words.append(str(getattr(failed[0], "kind", "?")))
            require(len(str(failed[0])) < 3_000, "an endless message")
            continue
        words.append(_check_response(response))
        words.append(_check_answer(response))
    return " ".join(words)


def _check_response(response: Response) -> str:
    require(type(response.text) is str, "the text is no text")
    require(
        response.finish in ("stop", "length", "refused", "filtered", "other"), "an unknown finish"
    )
    require(response.model is None or type(response.model) is str, "the model's name is no text")
    if response.usage is not None:
        usage = response.usage
        for n in (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens):
            require(isinstance(n, int) and n >= 0, f"{n!r} tokens")
    return response.finish


def _check_answer(response: Response) -> str:
    """Judge, store and read again what every spec makes of the answer."""
    words = []
    for spec in SPECS:
        call = Call("key", "label", _MODEL, _REQUEST, spec.parse)
        reply, bad = call.judge(response, 0.1)
        require((bad is None) == (reply.verdict == "usable"), "a verdict against the reply")
        require((bad is None) == (call.values is not None), "values of an unusable reply")
        kept = rows.read_reply(rows.unseal(rows.seal("n", rows.dump(reply)), "n"))
        require(kept.verdict == reply.verdict, "another verdict is stored")
        require(_plain(kept.text) == _plain(reply.text), "another text is stored")
        if bad is None:
            _check_values(spec, call.values or {})
            again = spec.parse(kept.text)
            require(repr(again) == repr(call.values), "what is stored gives other values")
            words.append("usable")
        else:
            require(isinstance(bad, Unusable) and bool(bad.reason), "no reason")
            require(len(bad.reason) < 20_000, "an endless reason")
            asked = reask(_REQUEST, reply)
            require(asked.messages[0] == _REQUEST.messages[0], "another question")
            words.append(re.sub("[^a-z_ ]+", "", f"{bad.verdict} {bad.reason}")[:50])
    return "|".join(words)


def _plain(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _check_values(spec: OutputSpec, values: dict[str, Any]) -> None:
    require(list(values) == spec.columns, "other columns")
    records, _ = normalise_records([values], where=lambda i: "the reply")
    line = typed_json.encode(records[0])
    require(repr(typed_json.decode(line)) == repr(records[0]), "typed JSON differs")
    line.decode()
    require(_is_finite(values), "NaN or an infinite number")
    if spec is SPECS[0]:
        require(type(values["q"]) is str and bool(values["q"].strip()), "no text")
    elif spec is SPECS[1]:
        require(all(type(v) is str for v in values.values()), "no texts")
    elif spec is SPECS[2]:
        require(type(values["n"]) is int and type(values["x"]) is float, "other types")
        require(all(type(t) is str for t in values["texts"]), "other types in a list")
        require(type(values["any"]) is dict, "no dict")
    else:
        require(1 <= values["stars"] <= 5 and type(values["title"]) is str, "no review")


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list) else True


TARGET = Target("reply", SEEDS, WORDS, check)
