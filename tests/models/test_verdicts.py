"""Every kind of bad reply in every dialect: its verdict, and never data, today or from disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from stub_server import StubServer, http
from stub_wires import schema_of, turns_of

import datafast_nb as dfn
from datafast_nb.engine.calls import Call
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Request, Response
from datafast_nb.models.chat import parse_reply
from datafast_nb.models.messages import parse_messages
from datafast_nb.models.ollama_chat import parse_ollama
from datafast_nb.models.responses import parse_responses
from datafast_nb.models.verdicts import CORRECTABLE, REMEDIES, judge
from datafast_nb.models.wire import WireReply
from datafast_nb.options import options
from datafast_nb.steps.outputs import OutputSpec, Unusable
from datafast_nb.store import rows
from datafast_nb.store.memo import open_memo

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
BAD = "bad"
OBJECT = {"q": str, "n": int}
Make = Callable[[StubServer], Any]
MODELS: dict[str, Make] = {
    "chat": lambda s: dfn.OpenAICompatibleModel("m", s.url),
    "chat, tool": lambda s: dfn.OpenAICompatibleModel("m", s.url, structured="tool"),
    "responses": lambda s: dfn.OpenAIModel("m", base_url=s.url, api_key=KEY, api="responses"),
    "responses, tool": lambda s: dfn.OpenAIModel(
        "m", base_url=s.url, api_key=KEY, api="responses", structured="tool"
    ),
    "anthropic": lambda s: dfn.AnthropicModel("claude-sonnet-4-6", base_url=s.root, api_key=KEY),
    "anthropic, tool": lambda s: dfn.AnthropicModel(
        "claude-sonnet-4-6", base_url=s.root, api_key=KEY, structured="tool"
    ),
    "gemini": lambda s: dfn.GeminiModel("m", base_url=s.url, api_key=KEY),
    "ollama": lambda s: dfn.OllamaModel("m", s.root),
}
# Fault of the stub server → verdict.
REPLIES = {
    "refusal": "refused",
    "content_filter": "filtered",
    "length": "cut",
    "all_thoughts": "cut_by_reasoning",
    "half_thoughts": "cut_by_reasoning",
    "null_content": "empty",
    "empty_content": "empty",
    "prose": "unparsable",
    "dup_keys": "duplicate_keys",
    "nan": "not_finite",
    "deep_nest": "too_deep",
    "missing_key": "wrong_schema",
    "array": "wrong_schema",
    "wrong_type": "wrong_type",
}
FAILURES = {
    "html_200": "html",
    "invalid_utf8": "not_utf8",
    "huge": "too_large",
    "truncated_json": "bad_reply",
    "empty_body": "bad_reply",
    "wrong_schema": "bad_reply",
    "empty_choices": "bad_reply",
    "error_in_200": "server",
}
# What a dialect has no words for.
OTHERWISE = {
    ("anthropic", "content_filter"): "refused",
    ("ollama", "refusal"): "unparsable",
    ("ollama", "content_filter"): "empty",
    ("ollama", "half_thoughts"): "cut",
}


def thoughts(wire: str, text: str) -> bytes:
    """A reply whose tokens went into reasoning, all or most of them; then it was cut."""
    if wire == "chat":
        usage = {"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 80}}
        message = {"content": text or None, "reasoning_content": "Hm"}
        body: Any = {"choices": [{"message": message, "finish_reason": "length"}], "usage": usage}
    elif wire == "responses":
        usage = {"output_tokens": 90, "output_tokens_details": {"reasoning_tokens": 80}}
        part = {"type": "output_text", "text": text}
        said = [{"type": "message", "content": [part]}] if text else []
        body = {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "reasoning", "summary": []}, *said],
            "usage": usage,
        }
    elif wire == "messages":
        # This API does not count thoughts: half an answer behind them is a plain cut.
        content = [{"type": "thinking", "thinking": "Hm", "signature": "x"}]
        body = {"content": content, "stop_reason": "max_tokens", "usage": {"output_tokens": 90}}
    else:
        message = {"content": text, "thinking": "Hm, let me see"}
        body = {"message": message, "done": True, "done_reason": "length", "eval_count": 90}
    return http(200, json.dumps(body).encode())


def only_bad(fault: str) -> Callable[[int, dict[str, Any]], str | bytes | None]:
    def choose(number: int, body: dict[str, Any]) -> str | bytes | None:
        if not str(turns_of(body)[0]["content"]).startswith(BAD):
            return None
        if not fault.endswith("_thoughts"):
            return fault
        path = "messages" if "max_tokens" in body and "output_config" in body else ""
        wire = path or ("ollama" if "stream" in body else "responses" if "input" in body else "")
        wire = wire or ("messages" if "input_schema" in str(body.get("tools")) else "chat")
        return thoughts(wire, '{"q": "ha' if fault == "half_thoughts" else "")

    return choose


def pipeline(model: Any, outputs: Any = OBJECT) -> dfn.Pipeline:
    step = dfn.LLMStep(
        "{text}", output_columns=outputs, model=model, max_retries=0, retry_delay=0.001
    )
    return dfn.Source.list([{"text": "good"}, {"text": BAD}]) >> step.as_step("ask")


def n_asked(stub: StubServer) -> int:
    """Questions, without looks at what models there are."""
    return sum(request.method == "POST" for request in stub.requests)


def stored(result: dfn.Result) -> list[rows.Reply]:
    """What the memo holds for the bad record."""
    row = next(c for c in result.call_rows if c.record == 1)
    return [r for draws in open_memo().stored([row.key]).values() for d in draws for r in d.replies]


@pytest.mark.parametrize("fault", [*REPLIES, *FAILURES])
@pytest.mark.parametrize("name", MODELS)
def test_a_bad_reply_has_its_verdict_and_is_never_data(name, fault):
    family = name.partition(",")[0]
    verdict = OTHERWISE.get((family, fault)) or {**REPLIES, **FAILURES}[fault]
    if fault == "huge":
        options.max_reply_bytes = 1_000_000
    with StubServer(faults=only_bad(fault)) as stub:
        made = pipeline(MODELS[name](stub))
        for _ in range(2):  # asked, then from disk or asked again
            result = made.run(max_concurrent=1)
            assert [r["text"] for r in result] == ["good"]
            assert [(e.record, e.kind) for e in result.errors] == [(1, verdict)]
            replies = stored(result)
            assert all(reply.verdict == verdict for reply in replies)
            assert bool(replies) == (fault in REPLIES), "a reply is kept, a failure is not"
            assert result.errors[0].text == (replies[-1].text if replies else None)
            open_memo().close()
            made = pipeline(MODELS[name](stub))
        n_paid = n_asked(stub)
        if fault in REPLIES:
            made.run()
            assert n_asked(stub) == n_paid, "a reply that was judged is not paid again"
    error = result.errors[0]
    assert error.remedy is REMEDIES[verdict] and error.remedy.advice in str(error.view())
    if verdict == "html":
        assert "text/html" in error.error
    if verdict == "cut_by_reasoning":
        assert "raise max_tokens" in error.error and "effort" in error.error
    raw = {"prose": "Sure!", "deep_nest": "[[[[", "dup_keys": '"another"', "nan": "NaN"}
    if fault in raw and "tool" not in name:
        assert raw[fault] in (error.text or "")


@pytest.mark.parametrize("name", MODELS)
def test_half_a_surrogate_pair_is_replaced_before_it_is_kept(name):
    with StubServer(faults=only_bad("lone_surrogate")) as stub:
        result = pipeline(MODELS[name](stub), outputs=["q"]).run()
    assert result[1]["q"] == "a\ufffdb"
    assert [r.text for r in stored(result)] == ["a\ufffdb"]


@pytest.mark.parametrize("name", [name for name in MODELS if "tool" in name])
@pytest.mark.parametrize(
    "answer", ['{"q": "x", "n": 1180591620717411303424}', '{"q": "x", "n": 1}']
)
def test_what_a_tool_was_given_is_read_as_it_was_written(name, answer):
    with StubServer(answer=lambda n, body: answer) as stub:
        result = pipeline(MODELS[name](stub)).run()
        assert all(schema_of(body) for body in stub.bodies)
    assert [(r["q"], r["n"]) for r in result] == [("x", json.loads(answer)["n"])] * 2


def test_arguments_that_are_an_object_are_read_as_they_were_written():
    body = (
        b'{"choices": [{"finish_reason": "tool_calls", "message": {"content": null, "tool_calls": '
        b'[{"function": {"name": "answer", "arguments": {"q": "x", "q": "y", "n": NaN}}}]}}]}'
    )
    said = parse_reply(WireReply(200, {}, body), model="m").text
    assert said == '{"q": "x", "q": "y", "n": NaN}'


@pytest.mark.parametrize("ending", ["content_filter: SAFETY", "SAFETY", "PROHIBITED_CONTENT"])
def test_filters_of_other_names_are_filters(ending):
    choice = {"message": {"content": "half"}, "finish_reason": ending}
    body = json.dumps({"choices": [choice]}).encode()
    assert parse_reply(WireReply(200, {}, body), model="m").finish == "filtered"


# Text of a refused or cut reply is withheld, whoever reads it.


@pytest.mark.parametrize("finish", ["refused", "filtered", "length"])
def test_text_that_reads_like_an_answer_stays_withheld(finish):
    text = '{"q": "x", "n": 1}'
    call = Call("k", "l", dfn.FakeModel("x"), Request(()), OutputSpec(OBJECT).parse)
    reply, bad = call.judge(Response(text, finish=finish), 0.1)
    assert bad is not None and call.values is None
    again = rows.read_reply(rows.unseal(rows.seal("n", rows.dump(reply)), "n"))
    for kept in (reply, again):
        assert kept.text == text and kept.verdict == bad.verdict
        for declared in (OBJECT, ["q"]):
            with pytest.raises(Unusable) as caught:
                OutputSpec(declared).parse(kept.text)
            assert (caught.value.verdict, caught.value.reason) == (bad.verdict, bad.reason)


def test_a_withheld_verdict_is_one_of_those_with_a_remedy_and_never_asked_with_a_correction():
    assert REMEDIES.keys() >= rows.NEVER_DATA
    assert REMEDIES.keys() >= CORRECTABLE and not CORRECTABLE & rows.NEVER_DATA


# Any bytes.

PARSERS = {
    "chat": parse_reply,
    "messages": parse_messages,
    "responses": parse_responses,
    "ollama": parse_ollama,
}
SPECS = (
    OutputSpec(["q"]),
    OutputSpec(["q", "a"]),
    OutputSpec({"q": str, "n": int, "x": float, "any": dict[str, Any]}),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "message", "content", "tool_calls", "function", "arguments"),
                    *("name", "finish_reason", "usage", "output", "type", "text", "status"),
                    *("incomplete_details", "stop_reason", "done", "done_reason", "error", "input"),
                    *("prompt_tokens", "completion_tokens", "completion_tokens_details", "code"),
                ]
            ),
            inner | st.sampled_from(["answer", "tool_use", "function_call", "message", "length"]),
            max_size=5,
        )
    ),
    max_leaves=15,
)
TEXTS = st.text(max_size=30) | st.text(
    alphabet=st.sampled_from('{}[]",:\\`qanx1e.-+ \nulltrue'), max_size=40
)


def said_by(wire: str, text: str, *, as_tool: bool) -> bytes:
    """A sound reply with that text, or with a tool that was given it."""
    if wire == "chat":
        call = {"function": {"name": "answer", "arguments": text}}
        message = {"tool_calls": [call]} if as_tool else {"content": text}
        body: Any = {"choices": [{"message": message, "finish_reason": "stop"}]}
    elif wire == "messages":
        block = {"type": "text", "text": text}
        body = {"content": [block], "stop_reason": "end_turn"}
    elif wire == "responses":
        part = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        called = {"type": "function_call", "name": "answer", "arguments": text}
        body = {"status": "completed", "output": [called if as_tool else part]}
    else:
        body = {"message": {"content": text}, "done": True, "done_reason": "stop"}
    return json.dumps(body).encode()


def check(wire: str, body: bytes) -> None:
    """Values of the declared schema, or one of the declared errors, in a second."""
    started = time.process_time()
    try:
        response = PARSERS[wire](WireReply(200, {}, body), model="m")
    except LLMError as exc:
        assert exc.kind in REMEDIES
        return
    response.text.encode()
    for spec in SPECS:
        values, bad = judge(response, Request(()), spec.parse)
        assert (values is None) == (bad is not None)
        if bad is not None:
            assert bad.verdict in REMEDIES and bad.reason and bad.advice
            continue
        assert values is not None and list(values) == spec.columns
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()
        if spec is SPECS[2]:
            assert type(values["n"]) is int and type(values["any"]) is dict
            assert type(values["x"]) is float and math.isfinite(values["x"])
    assert time.process_time() - started < 1


FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)


@pytest.mark.parametrize("wire", PARSERS)
@FEW
@example(b'{"choices": [{"message": {"content": "\\ud800"}}]}')
@example(b'{"content": [{"type": "tool_use", "name": "answer", "input": {"\\ud800": NaN}}]}')
@example(
    b'{"content": [{"type": "tool_use", "name": "answer", "input": '
    + b"[" * 1000
    + b"]" * 1000
    + b"}]}"
)
@example(b"[" * 100_000)
@example(b'{"choices": [{"message": {"tool_calls": {"a": 1}}}]}')
@given(body=st.binary(max_size=60) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_values_or_an_error_with_a_remedy(wire, body):
    check(wire, body)


@pytest.mark.parametrize("as_tool", [False, True])
@pytest.mark.parametrize("wire", PARSERS)
@FEW
@given(text=TEXTS | JSON.map(json.dumps))
def test_any_text_is_values_or_a_verdict_with_a_remedy(wire, as_tool, text):
    check(wire, said_by(wire, text, as_tool=as_tool))


@pytest.mark.parametrize("wire", ["chat", "messages", "responses", "ollama"])
@settings(max_examples=40)
@given(
    q=st.text(min_size=1, max_size=8),
    a=st.text(max_size=8),
    form=st.sampled_from(["{}", "```json\n{}\n```", " {} \n"]),
)
def test_no_part_of_a_whole_reply_gives_shortened_values(wire, q, a, form):
    spec = OutputSpec(["q", "a"])
    whole = form.replace("{}", json.dumps({"q": q, "a": a}, ensure_ascii=False))
    for end in range(len(whole)):
        body = said_by(wire, whole[:end], as_tool=end % 2 == 0)
        response = PARSERS[wire](WireReply(200, {}, body), model="m")
        values, _ = judge(response, Request(()), spec.parse)
        assert values is None or values == {"q": q, "a": a}
    body = said_by(wire, whole, as_tool=False)
    for end in range(len(body)):  # the reply itself is cut
        with pytest.raises(LLMError):
            PARSERS[wire](WireReply(200, {}, body[:end]), model="m")
