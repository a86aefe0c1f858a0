import asyncio
from typing import Any

import pytest
from stub_server import StubServer

import datafast_nb as dfn
from datafast_nb.models.anthropic import AnthropicModel
from datafast_nb.models.base import Request
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.gemini import GeminiModel
from datafast_nb.models.ollama import OllamaModel
from datafast_nb.models.openai import OpenAICompatibleModel, OpenAIModel

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
HELLO = ({"role": "user", "content": "Hello"},)


def request(**settings: Any) -> Request:
    return Request(HELLO, **{"temperature": 0.5, "top_p": 0.9, "max_tokens": 50} | settings)


@pytest.mark.parametrize(
    "name",
    [
        *("o1", "o3-mini", "o4-mini", "gpt-5", "openai/gpt-5.2", "gpt-5-mini", "gpt-5.4-pro"),
        *("gpt-6-luna", "gpt-6.1-sol", "gpt-10", "ft:gpt-5-mini:org"),
    ],
)
def test_reasoning_models_of_openai_take_no_sampling(name):
    able = capabilities(name)
    assert not able.takes_sampling and able.max_tokens_name == "max_completion_tokens"


@pytest.mark.parametrize(
    "name",
    ["gpt-4o", "gpt-4.1", "gpt-4", "gpt-oss-20b", "gpt-5-chat-latest", "ollama1", "qwen3", "olmo"],
)
def test_other_names_take_it(name):
    assert capabilities(name).takes_sampling


@pytest.mark.parametrize(
    ("name", "takes", "both"),
    [
        ("claude-3-haiku-20240307", True, True),
        ("claude-sonnet-4-20250514", True, True),
        ("claude-opus-4-1-20250805", True, False),
        ("claude-haiku-4-5-20251001", True, False),
        ("anthropic.claude-sonnet-4-6", True, False),
        ("claude-opus-4-7", False, False),
        ("claude-opus-4-8", False, False),
        ("claude-sonnet-5", False, False),
        ("claude-haiku-5-5", False, False),
        ("claude-name-of-tomorrow", False, False),
        ("smollm2", True, True),
    ],
)
def test_claude_models_up_to_4_6_take_sampling(name, takes, both):
    able = capabilities(name, "anthropic")
    assert (able.takes_sampling, able.takes_both) == (takes, both)


@pytest.mark.parametrize("extra", [{"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}])
def test_a_model_told_not_to_reason_takes_sampling(extra):
    able = capabilities("gpt-6-luna")
    assert dropped(able, request(extra=extra)) == []
    assert dropped(able, request(extra={"reasoning_effort": "low"})) == ["temperature", "top_p"]


MODELS = [
    (lambda url, root: OpenAIModel("gpt-4.1", base_url=url, api_key=KEY), []),
    (
        lambda url, root: OpenAIModel("gpt-6-luna", base_url=url, api_key=KEY),
        ["temperature", "top_p"],
    ),
    (
        lambda url, root: OpenAIModel("o3", base_url=url, api_key=KEY, api="responses"),
        ["temperature", "top_p"],
    ),
    (lambda url, root: AnthropicModel("claude-sonnet-4-6", base_url=root, api_key=KEY), ["top_p"]),
    (
        lambda url, root: AnthropicModel("claude-opus-5", base_url=root, api_key=KEY),
        ["temperature", "top_p"],
    ),
    (lambda url, root: GeminiModel(base_url=url, api_key=KEY), []),
    (lambda url, root: OpenAICompatibleModel("qwen3", url), []),
]


@pytest.mark.parametrize(("make", "left_out"), MODELS)
def test_what_is_told_to_be_dropped_is_what_is_not_sent(make, left_out):
    with StubServer() as stub:
        model = make(stub.url, stub.root)
        asyncio.run(model.complete(request()))
        body = stub.bodies[0]
    assert model.dropped_parameters(request()) == left_out
    assert {"temperature", "top_p"} - body.keys() == set(left_out)
    sizes = [v for k, v in body.items() if "tokens" in k]
    assert sizes == [50]


def test_a_model_that_takes_all_drops_nothing():
    assert OllamaModel("m").dropped_parameters(request()) == []
    assert dfn.FakeModel().dropped_parameters(request()) == []


def notes_of(model: dfn.Model, **settings: Any) -> list[str]:
    rows = [{"t": str(i)} for i in range(5)]
    step = dfn.LLMStep(prompt="{t}", output_columns=["a"], model=model, **settings)
    said: list[str] = []

    def listen(event: Any) -> None:
        if type(event).__name__ == "Noted":
            said.append(event.text)

    (dfn.Source.list(rows) >> step).run(show_progress=False, on_event=listen)
    return [text for text in said if "does not accept" in text]


def test_a_run_says_once_what_was_left_out_and_only_when_it_asks():
    with StubServer() as stub:
        model = OpenAIModel("gpt-6-luna", base_url=stub.url, api_key=KEY)
        said = notes_of(model, top_p=0.5, temperature=0.2)
        assert stub.n_requests == 5
        assert len(said) == 1
        assert "'gpt-6-luna' does not accept temperature and top_p" in said[0]
        again = notes_of(model, top_p=0.5, temperature=0.2)
        assert again == []  # all answered from the memo
        assert notes_of(model, temperature=None) == []
        assert stub.n_requests == 10
        assert notes_of(model) == []  # the step's own default, which nobody asked for
        assert notes_of(OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY)) == []
