import asyncio
import pickle
from typing import Any

import anthropic
import pytest
from fault_kinds import KINDS, RAW, REPLIES, pieces, visible_text
from pydantic import BaseModel
from stub_server import StubServer

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.anthropic import AnthropicModel
from datafast_nb.models.base import Message, Request, Response
from datafast_nb.models.messages import messages_body, parse_messages, way_of
from datafast_nb.models.wire import WireReply, encode_json
from datafast_nb.options import options

KEY = "sk-ant-test-Zq8Lm3Xw9Tr5Kd7V"


class Mood(BaseModel):
    mood: str
    points: int


class Counts(BaseModel):
    by_word: dict[str, int]


class Tree(BaseModel):
    name: str
    children: list["Tree"]


def request(*turns: str, system: str | None = None, **settings: Any) -> Request:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for i, text in enumerate(turns or ("Hello",)):
        messages.append({"role": "assistant" if i % 2 else "user", "content": text})
    return Request(tuple(messages), **settings)


def ask(model: AnthropicModel, ours: Request) -> Response:
    return asyncio.run(model.complete(ours))


def test_answer_usage_and_served_model_arrive():
    with StubServer() as stub:
        model = AnthropicModel("claude-sonnet-4-6", base_url=stub.root, api_key=KEY)
        reply = ask(model, request("two words", "yes", "and now?", system="Be brief"))
        sent = stub.requests[0]
    assert reply.text.startswith("echo:") and reply.finish == "stop"
    assert reply.model == "claude-sonnet-4-6-2026"
    assert sent.body == {
        "model": "claude-sonnet-4-6",
        "max_tokens": 1024,
        "system": "Be brief",
        "messages": [
            {"role": "user", "content": "two words"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and now?"},
        ],
        "temperature": 0.7,
    }


def test_all_input_tokens_count_and_those_from_the_cache_are_told_apart():
    with StubServer() as stub:
        model = AnthropicModel("claude-x", base_url=stub.root, api_key=KEY)
        usage = ask(model, request("one two three")).usage
    # The stub says 3 words, 3 tokens read from the cache, 2 written to it.
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens) == (8, 3)


NOT_ITS_OWN = {"429_quota"}  # Anthropic says it with a 400, tested below


@pytest.mark.parametrize("fault", sorted(set(KINDS) - NOT_ITS_OWN))
def test_fault_becomes_an_error_of_its_kind_without_the_key(fault):
    if fault == "huge":
        options.max_reply_bytes = 1_000_000
    timeout_s = 0.4 if KINDS[fault] == "timeout" else 20.0
    with StubServer(faults=fault) as stub:
        model = AnthropicModel("claude-x", base_url=stub.root, api_key=KEY, timeout_s=timeout_s)
        with pytest.raises(LLMError) as caught:
            ask(model, request())
        assert stub.n_requests == 1
    assert caught.value.kind == KINDS[fault]
    assert caught.value.model == "claude-x"
    shown = visible_text(caught.value, __file__)
    assert not [piece for piece in pieces(KEY) + pieces(KEY[::-1]) if piece in shown]


@pytest.mark.parametrize("fault", sorted(REPLIES))
def test_refusals_and_cuts_are_responses(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(AnthropicModel("claude-x", base_url=stub.root, api_key=KEY), request())
    text, finish = REPLIES[fault]
    # This API has one word for both.
    assert reply.finish == ("refused" if fault == "content_filter" else finish)
    if text is not None:
        assert reply.text == text


@pytest.mark.parametrize("fault", sorted(RAW))
@pytest.mark.parametrize("structured", ["json_schema", "tool"])
def test_text_is_handed_on_raw(fault, structured):
    with StubServer(faults=fault) as stub:
        model = AnthropicModel(
            "claude-sonnet-4-6", base_url=stub.root, api_key=KEY, structured=structured
        )
        reply = ask(model, request(schema=Mood.model_json_schema()))
    assert reply.finish == "stop" and reply.text


@pytest.mark.parametrize("reason", ["model_context_window_exceeded", "max_tokens"])
def test_a_full_context_is_a_cut(reason):
    body = {"content": [{"type": "text", "text": "half"}], "stop_reason": reason}
    reply = parse_messages(WireReply(200, {}, encode_json(body)), model="m")
    assert (reply.text, reply.finish) == ("half", "length")


def test_thinking_is_no_part_of_the_answer_and_a_pause_is_no_end():
    body = {
        "content": [
            {"type": "thinking", "thinking": "secret", "signature": "x"},
            {"type": "text", "text": "a"},
            {"type": "text", "text": "b"},
        ],
        "stop_reason": "pause_turn",
    }
    reply = parse_messages(WireReply(200, {}, encode_json(body)), model="m")
    assert (reply.text, reply.finish, reply.usage) == ("ab", "other", None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", "server"),
        ("rate_limit_error", "rate_limited"),
        ("authentication_error", "auth"),
        ("billing_error", "quota"),
        ("not_found_error", "not_found"),
        ("invalid_request_error", "bad_request"),
        ("something_new", "server"),
    ],
)
def test_an_error_with_status_200_is_that_error(kind, expected):
    body = {"type": "error", "error": {"type": kind, "message": "no"}}
    with pytest.raises(LLMError) as caught:
        parse_messages(WireReply(200, {}, encode_json(body)), model="m")
    assert caught.value.kind == expected


def test_an_empty_account_stops_the_run():
    said = "Your credit balance is too low to access the Anthropic API. Please go to Plans."
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": said}}
    with pytest.raises(LLMError, match="out of credit") as caught:
        parse_messages(WireReply(400, {}, encode_json(body)), model="m")
    assert caught.value.kind == "quota"


def test_max_tokens_is_always_sent():
    for name, most in (("claude-3-haiku-20240307", 4096), ("claude-sonnet-5-5", 8192)):
        assert (
            messages_body(name, request(max_tokens=None), structured="auto")["max_tokens"] == most
        )


@pytest.mark.parametrize(
    ("name", "kind", "way"),
    [
        ("claude-sonnet-5-5", Mood, "json_schema"),
        ("claude-haiku-4-5", Mood, "json_schema"),
        ("claude-3-5-haiku-latest", Mood, "tool"),
        ("claude-sonnet-4-20250514", Mood, "tool"),
        ("claude-sonnet-4-6", Counts, "tool"),
        ("claude-sonnet-4-6", Tree, "tool"),
        ("claude-opus-5", Counts, "prompt"),
        ("claude-opus-5", Tree, "prompt"),
    ],
)
def test_schema_goes_the_way_that_model_and_schema_allow(name, kind, way):
    ours = request("Where?", schema=kind.model_json_schema())
    assert way_of(name, kind.model_json_schema(), "auto") == way
    body = messages_body(name, ours, structured="auto")
    assert ("output_config" in body) is (way == "json_schema")
    assert ("tools" in body) is (way == "tool")
    assert ("\n\nAnswer with one JSON object" in body["messages"][-1]["content"]) is (
        way == "prompt"
    )
    assert ours.messages[-1]["content"] == "Where?"
    if way == "tool":
        assert body["tool_choice"]["name"] == body["tools"][0]["name"]
        assert body["tools"][0]["input_schema"] == kind.model_json_schema()


@pytest.mark.parametrize("structured", ["json_schema", "tool", "prompt"])
def test_every_way_gives_an_answer_of_the_schema(structured):
    def answer(number: int, body: dict[str, Any]) -> str:
        return '{"mood": "good", "points": 3}'

    with StubServer(answer=answer) as stub:
        model = AnthropicModel(
            "claude-sonnet-4-6", base_url=stub.root, api_key=KEY, structured=structured
        )
        reply = ask(model, request(schema=Mood.model_json_schema()))
    assert Mood.model_validate_json(reply.text) == Mood(mood="good", points=3)


@pytest.mark.parametrize(
    ("base_url", "endpoint"),
    [
        (None, ""),
        ("https://api.anthropic.com/", ""),
        ("https://api.anthropic.com/v1/messages", ""),
        ("http://localhost:1/anthropic/v1", "http://localhost:1/anthropic"),
    ],
)
def test_identity(base_url, endpoint):
    model = AnthropicModel("claude-x", base_url=base_url)
    assert model.identity() == {
        "provider": "anthropic",
        "endpoint": endpoint,
        "model": "claude-x",
    }


def test_key_is_read_when_called_and_stays_out_of_views_and_pickles(monkeypatch):
    with StubServer() as stub:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", stub.root)
        model = AnthropicModel("claude-x")
        assert model.missing_key() == "ANTHROPIC_API_KEY"
        with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
            ask(model, request())
        assert stub.n_requests == 0
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        assert model.missing_key() is None
        ask(model, request())
        assert stub.requests[0].headers["x-api-key"] == KEY
    given = AnthropicModel("claude-x", api_key=KEY)
    assert KEY not in repr(vars(given)) + repr(given) + str(given.identity())
    assert KEY.encode() not in pickle.dumps(given)


@pytest.mark.local_model
def test_a_real_server_gives_both_clients_the_same_text(llama_cpp):
    model = AnthropicModel(llama_cpp.name, base_url=llama_cpp.url, api_key=llama_cpp.key)
    ours = ask(model, request("Name a colour.", system="Be brief.", temperature=0.0, max_tokens=9))
    with anthropic.Anthropic(
        base_url=llama_cpp.url, api_key=llama_cpp.key, max_retries=0
    ) as client:
        theirs = client.messages.create(
            model=llama_cpp.name,
            system="Be brief.",
            messages=[{"role": "user", "content": "Name a colour."}],
            max_tokens=9,
            extra_body={"temperature": 0.0},
        )
    assert ours.text and ours.text == theirs.content[0].text  # type: ignore[union-attr]
    counted = theirs.usage.input_tokens + (theirs.usage.cache_read_input_tokens or 0)
    assert ours.usage is not None and ours.usage.input_tokens == counted
    assert ask(model, request("Tell a long story.", max_tokens=3)).finish == "length"


@pytest.mark.local_model
def test_a_real_server_refuses_a_wrong_key_and_a_long_prompt(llama_cpp):
    model = AnthropicModel(llama_cpp.name, base_url=llama_cpp.url, api_key=llama_cpp.key)
    with pytest.raises(LLMError, match="context") as caught:
        ask(model, request("word " * 5000))
    assert caught.value.kind == "bad_request"
    with pytest.raises(LLMError) as refused:
        ask(model.with_(api_key="wrong"), request())
    assert refused.value.kind == "auth"
