import asyncio

import pytest
from fault_kinds import KINDS, REPLIES
from stub_server import StubServer

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.base import Request
from datafast_nb.models.chat import parse_reply
from datafast_nb.models.gemini import DEFAULT_BASE_URL, GeminiModel
from datafast_nb.models.pricing import price_of
from datafast_nb.models.wire import WireReply, encode_json

KEY = "AIzaTestZq8Lm3Xw9Tr5Kd7V"
HELLO = Request(({"role": "user", "content": "Hello"},))


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
def test_either_variable_holds_the_key(monkeypatch, name):
    with StubServer() as stub:
        model = GeminiModel("gemini-3.8-flash", base_url=stub.url)
        assert model.missing_key() == "GEMINI_API_KEY"
        with pytest.raises(MissingKeyError, match="GEMINI_API_KEY"):
            asyncio.run(model.complete(HELLO))
        monkeypatch.setenv(name, KEY)
        assert model.missing_key() is None
        asyncio.run(model.complete(HELLO))
        assert stub.n_requests == 1
        assert stub.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_gemini_s_variable_comes_first(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", KEY[::-1])
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with StubServer() as stub:
        asyncio.run(GeminiModel(base_url=stub.url).complete(HELLO))
        assert stub.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_name_address_and_price():
    model = GeminiModel("models/gemini-3.8-flash")
    assert model.base_url == DEFAULT_BASE_URL
    assert model.identity() == {
        "provider": "gemini",
        "endpoint": "",
        "model": "gemini-3.8-flash",
    }
    price = price_of(model)
    assert price is not None and price.input_per_mtok_usd > 0


def google_error(code: int, status: str, message: str, *details: object) -> WireReply:
    """As Google's address for OpenAI's clients says it: in a list."""
    error = {"code": code, "status": status, "message": message, "details": list(details)}
    return WireReply(code, {}, encode_json({"e": [{"error": error}]})[5:-1])


def test_a_bad_key_is_told_by_a_400():
    reply = google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
    with pytest.raises(LLMError, match="GEMINI_API_KEY") as caught:
        parse_reply(reply, model="g", key_name="GEMINI_API_KEY")
    assert caught.value.kind == "auth"


def test_the_wait_is_told_in_the_body():
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}
    reply = google_error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota", retry)
    with pytest.raises(LLMError, match="exceeded your current quota") as caught:
        parse_reply(reply, model="g")
    assert caught.value.kind == "rate_limited"
    assert caught.value.retry_after_s == 17.5


@pytest.mark.parametrize(
    "fault", ["html_200", "404", "429", "500", "empty_choices", "invalid_utf8"]
)
def test_faults_have_their_kind(fault):
    with StubServer(faults=fault) as stub, pytest.raises(LLMError) as caught:
        asyncio.run(GeminiModel("gemini-3.8-flsh", base_url=stub.url, api_key=KEY).complete(HELLO))
    assert caught.value.kind == KINDS[fault]


@pytest.mark.parametrize("fault", sorted(REPLIES))
def test_refusals_and_cuts_are_responses(fault):
    with StubServer(faults=fault) as stub:
        reply = asyncio.run(GeminiModel(base_url=stub.url, api_key=KEY).complete(HELLO))
    assert reply.finish == REPLIES[fault][1]
