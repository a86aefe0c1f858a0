import asyncio
from typing import Any

import openai
import pytest
from fault_kinds import KINDS, RAW, REPLIES, pieces, visible_text
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Request, Response
from datafast_nb.models.openai import OpenAICompatibleModel, OpenAIModel
from datafast_nb.models.responses import parse_responses
from datafast_nb.models.wire import WireReply, encode_json
from datafast_nb.options import options

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def request(prompt: str = "Hello", **settings: Any) -> Request:
    return Request(({"role": "user", "content": prompt},), **settings)


def ask(url: str, ours: Request | None = None, **settings: Any) -> Response:
    model = OpenAIModel("gpt-4.1", base_url=url, api_key=KEY, api="responses", **settings)
    return asyncio.run(model.complete(ours or request()))


def parse(body: dict[str, Any], status: int = 200) -> Response:
    return parse_responses(WireReply(status, {}, encode_json(body)), model="m")


def test_answer_and_usage_arrive_and_nothing_is_stored_there():
    with StubServer() as stub:
        reply = ask(stub.url, request("one two three", max_tokens=9))
        assert stub.bodies[0] == {
            "model": "gpt-4.1",
            "input": [{"role": "user", "content": "one two three"}],
            "store": False,
            "temperature": 0.7,
            "max_output_tokens": 9,
        }
    assert reply.text.startswith("echo:") and reply.model == "gpt-4.1-2026"
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.cached_input_tokens) == (3, 1)


@pytest.mark.parametrize("fault", sorted(KINDS))
def test_fault_becomes_an_error_of_its_kind_without_the_key(fault):
    if fault == "huge":
        options.max_reply_bytes = 1_000_000
    timeout_s = 0.4 if KINDS[fault] == "timeout" else 20.0
    with StubServer(faults=fault) as stub, pytest.raises(LLMError) as caught:
        ask(stub.url, timeout_s=timeout_s)
    assert caught.value.kind == KINDS[fault]
    shown = visible_text(caught.value, __file__)
    assert not [piece for piece in pieces(KEY) + pieces(KEY[::-1]) if piece in shown]


@pytest.mark.parametrize("fault", sorted(REPLIES))
def test_refusals_and_cuts_are_responses(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(stub.url)
    text, finish = REPLIES[fault]
    assert reply.finish == finish
    if text is not None:
        assert reply.text == text


@pytest.mark.parametrize("fault", sorted(RAW))
def test_text_is_handed_on_raw(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(stub.url, request(schema=SCHEMA))
    assert reply.finish == "stop" and reply.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "sorry"}, "server"),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, "rate_limited"),
    ],
)
def test_a_failed_response_is_an_error(error, kind):
    with pytest.raises(LLMError) as caught:
        parse({"status": "failed", "error": error, "output": []})
    assert caught.value.kind == kind


def test_cut_while_reasoning_is_a_cut_without_text():
    reply = parse(
        {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [{"type": "reasoning", "summary": []}],
        }
    )
    assert (reply.text, reply.finish) == ("", "length")


def test_both_apis_share_the_answers():
    with StubServer() as stub:
        for api in ("chat", "responses"):
            model = OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY, api=api)
            step = dfn.LLMStep(prompt="{t}", output_columns=["a"], model=model)
            (dfn.Source.list([{"t": "x"}]) >> step).run(show_progress=False)
        assert stub.n_requests == 1


def test_address_may_name_the_page():
    model = OpenAICompatibleModel("m", "http://h/v1/responses", api="responses")
    assert model.base_url == "http://h/v1"
    with pytest.raises(ValueError, match="'chat' or 'responses'"):
        OpenAIModel(api="completions")  # type: ignore[arg-type]


@pytest.mark.local_model
def test_a_real_server_gives_both_clients_the_same_text(llama_cpp):
    url = f"{llama_cpp.url}/v1"
    model = OpenAICompatibleModel(llama_cpp.name, url, api_key=llama_cpp.key, api="responses")
    ours = asyncio.run(model.complete(request("Name a colour.", temperature=0.0, max_tokens=9)))
    with openai.OpenAI(base_url=url, api_key=llama_cpp.key, max_retries=0) as client:
        theirs = client.responses.create(
            model=llama_cpp.name, input="Name a colour.", temperature=0.0, max_output_tokens=9
        )
    assert ours.text and ours.text == theirs.output_text
    assert theirs.usage is not None and ours.usage is not None
    assert ours.usage.input_tokens == theirs.usage.input_tokens
