import math
import socket
from typing import Any

import pytest
from ollama_front import DIGEST, OllamaFront
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.models.probe import MAX_QUESTION_TOKENS, QUESTION
from datafast_nb.models.tally import tally_of

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
OPENAI_LIST = {"/v1/models": (200, {"object": "list", "data": [{"id": "gpt-4.1"}, {"id": "o3"}]})}
CLAUDE_LIST = {
    "/v1/models?limit=1000": (
        200,
        {"data": [{"id": "claude-sonnet-5-5", "max_input_tokens": 999_000}], "has_more": False},
    )
}
TAGS = {"/api/tags": (200, {"models": [{"name": "llama3.2:latest", "digest": DIGEST}]})}


def test_without_asking_it_looks_at_the_list_and_tells_the_cost():
    with StubServer(pages=OPENAI_LIST) as stub:
        model = dfn.OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY, price=(2.0, 8.0))
        found = model.probe(ask=False)
        assert [(r.method, r.path) for r in stub.requests] == [("GET", "/v1/models")]
        assert stub.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert (found.reachable, found.key_accepted, found.known) == (True, True, True)
    assert found.ok and not found.asked
    assert found.cost_usd == pytest.approx((80 * 2 + 64 * 8) / 1e6)
    shown = repr(found)
    assert "would cost at most $0.00067" in shown and "no question was asked" in shown
    assert tally_of(model).calls == 0


def test_asking_gives_speed_and_is_counted():
    with StubServer(pages=OPENAI_LIST, answer=lambda n, b: "1 2 3 4 5", latency_s=0.05) as stub:
        model = dfn.OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY, price=(2.0, 8.0))
        found = model.probe()
        assert stub.bodies[1]["max_tokens"] == 64
    assert found.ok and found.asked and found.answer == "1 2 3 4 5"
    assert found.seconds is not None and found.seconds >= 0.05
    assert found.tokens_per_s == pytest.approx(5 / found.seconds)
    assert "tokens/s" in repr(found)
    tally = tally_of(model)
    assert tally.calls == 1 and 0 < tally.usd <= found.cost_usd


@pytest.mark.parametrize(
    ("fault", "state", "says"),
    [
        ("401", (True, False, True), "API key"),
        ("404", (True, None, False), "model's name"),
        ("429_quota", (True, None, True), "out of credit"),
        ("length", None, ""),
        ("null_content", None, "empty"),
        ("refusal", None, "refused"),
    ],
)
def test_what_stands_against_it_is_told_and_not_raised(fault, state, says):
    with StubServer(faults=fault, pages=OPENAI_LIST) as stub:
        found = dfn.OpenAICompatibleModel("gpt-4.1", stub.url, api_key=KEY).probe()
    if state is not None:
        assert (found.reachable, found.key_accepted, found.known) == state
    assert says in found.problem
    assert found.ok is (says == "")
    assert KEY not in repr(found) + found._repr_html_()


def test_a_refused_key_asks_no_question():
    pages = {"/v1/models": (401, {"error": {"message": "bad key", "code": "invalid_api_key"}})}
    with StubServer(pages=pages) as stub:
        found = dfn.OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY).probe()
        assert stub.n_requests == 1
    assert found.key_accepted is False and not found.ok and not found.asked


def test_a_missing_key_opens_no_socket():
    with StubServer() as stub:
        found = dfn.OpenAIModel("gpt-4.1", base_url=stub.url).probe()
        assert stub.n_requests == 0
    assert found.key_accepted is False and "OPENAI_API_KEY" in found.problem


def test_a_model_that_is_not_listed_is_named_with_those_that_are():
    with StubServer(pages=OPENAI_LIST) as stub:
        found = dfn.OpenAICompatibleModel("gpt-4.2", stub.url).probe(ask=False)
    assert found.known is False and not found.ok
    assert "gpt-4.1, o3" in found.problem


def test_a_server_without_a_list_is_asked_all_the_same():
    with StubServer() as stub:
        found = dfn.OpenAICompatibleModel("m", stub.url).probe()
        assert stub.n_requests == 2
    assert found.ok and found.known is True and found.context is None
    assert math.isnan(found.cost_usd) and "its cost is unknown" in repr(found)


def test_a_server_that_is_not_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = dfn.OllamaModel("m", f"127.0.0.1:{port}").probe()
    assert found.reachable is False and "ollama serve" in found.problem and not found.asked


@pytest.mark.parametrize(
    ("make", "pages", "context"),
    [
        (
            lambda s: dfn.AnthropicModel("claude-sonnet-5-5", base_url=s.root, api_key=KEY),
            CLAUDE_LIST,
            999_000,
        ),
        (lambda s: dfn.OllamaModel("llama3.2", s.root, num_ctx=4096), TAGS, 4096),
    ],
)
def test_other_providers_lists_are_read(make: Any, pages: Any, context: int):
    with StubServer(pages=pages) as stub:
        found = make(stub).probe()
    assert found.ok and found.known and found.context == context
    assert found.tokens_per_s is not None


def test_context_of_a_known_model_comes_from_the_price_list():
    assert dfn.OpenAIModel("gpt-4.1").probe(ask=False).context == 1_000_000


def test_a_model_in_this_process():
    found = dfn.FakeModel(["1 2 3"]).probe()
    assert found.ok and found.answer == "1 2 3" and found.reachable is None
    assert found.cost_usd == 0 and "question  free" in repr(found)


def test_the_question_is_as_short_as_it_says():
    assert len(QUESTION[0]["content"].encode()) <= MAX_QUESTION_TOKENS


@pytest.mark.local_model
def test_a_real_model_through_three_dialects(llama_cpp):
    with OllamaFront(llama_cpp.url, llama_cpp.key, llama_cpp.name) as front:
        for model in (
            dfn.OpenAICompatibleModel(llama_cpp.name, f"{llama_cpp.url}/v1", api_key=llama_cpp.key),
            dfn.AnthropicModel(llama_cpp.name, base_url=llama_cpp.url, api_key=llama_cpp.key),
            dfn.OllamaModel(llama_cpp.name, front.url),
        ):
            found = model.probe()
            assert found.ok and found.known, found.problem
            assert found.tokens_per_s is not None and found.tokens_per_s > 0
        refused = dfn.AnthropicModel(llama_cpp.name, base_url=llama_cpp.url, api_key="wrong")
        assert refused.probe().key_accepted is False
