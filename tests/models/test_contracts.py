"""Each adapter against its official client: the same request gives the same body.

Deliberate differences, which the tests take out of the comparison:

- Anthropic: its client no longer knows `temperature` and `top_p`, which its version of the API
  refuses; they go through `extra_body`, and we name the version before. The key goes out as
  `x-api-key`, which every server of this API reads, where the client sends `Authorization`.
- Ollama: we add `truncate` and `shift`, so that nothing is cut in silence; its client adds an
  empty `tools`.
- OpenAI's responses: we add `store: false`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import anthropic
import ollama
import openai
import pytest
from anthropic.lib._parse._transform import transform_schema
from pydantic import BaseModel, Field
from stub_server import StubServer

from datafast_nb.models.anthropic import API_VERSION, SAMPLING_API_VERSION, AnthropicModel
from datafast_nb.models.base import Message, Request, Response
from datafast_nb.models.gemini import GeminiModel
from datafast_nb.models.messages import closed_schema
from datafast_nb.models.ollama import OllamaModel
from datafast_nb.models.openai import OpenAIModel

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
OLD_CLAUDE = "claude-sonnet-4-6"  # takes sampling parameters


class Mood(BaseModel):
    """How it feels."""

    mood: Literal["good", "bad"]
    why: str = Field(description="In a few words", max_length=80)
    points: int = Field(ge=1, le=9)


class Group(BaseModel):
    best: Mood
    others: list[Mood] = Field(min_length=1)
    note: str | None = None


def request(prompt: str = "Hello", system: str | None = None, **settings: Any) -> Request:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return Request(tuple(messages), **settings)


def ask(model: Any, ours: Request) -> Response:
    reply: Response = asyncio.run(model.complete(ours))
    return reply


ANTHROPIC: list[tuple[Request, dict[str, Any]]] = [
    (
        request("Hi", temperature=0.5, max_tokens=50),
        {"max_tokens": 50, "extra_body": {"temperature": 0.5}},
    ),
    (
        request("Hi", system="Be brief", temperature=None, max_tokens=9, top_p=0.5),
        {"max_tokens": 9, "system": "Be brief", "extra_body": {"top_p": 0.5}},
    ),
    (
        request("Hi", temperature=None, max_tokens=9, schema=Group.model_json_schema()),
        {"max_tokens": 9, "output_format": Group},
    ),
    (
        request("Hi", temperature=None, extra={"stop_sequences": ["x"]}),
        {"max_tokens": 1024, "stop_sequences": ["x"]},
    ),
    (
        request(
            "Hi",
            temperature=None,
            schema=Mood.model_json_schema(),
            extra={"output_config": {"effort": "low"}},
        ),
        {"max_tokens": 1024, "output_config": {"effort": "low"}, "output_format": Mood},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), ANTHROPIC)
def test_anthropic_sends_what_the_official_client_sends(ours, theirs):
    with StubServer() as stub:
        ask(AnthropicModel(OLD_CLAUDE, base_url=stub.root, api_key=KEY), ours)
        with anthropic.Anthropic(base_url=stub.root, api_key=KEY, max_retries=0) as client:
            pages: Any = client.messages
            call = pages.parse if "output_format" in theirs else pages.create
            call(model=OLD_CLAUDE, messages=[{"role": "user", "content": "Hi"}], **theirs)
        own, official = stub.requests
    assert own.path == official.path == "/v1/messages"
    assert own.headers["x-api-key"] == KEY
    assert official.headers["authorization"] == f"Bearer {KEY}"
    is_sampled = "extra_body" in theirs
    assert official.headers["anthropic-version"] == API_VERSION
    assert own.headers["anthropic-version"] == (SAMPLING_API_VERSION if is_sampled else API_VERSION)
    assert own.body == official.body


@pytest.mark.parametrize("kind", [Mood, Group])
def test_closed_schema_is_that_of_the_official_client(kind):
    assert closed_schema(kind.model_json_schema()) == transform_schema(kind)


OLLAMA: list[tuple[OllamaModel, Request, dict[str, Any]]] = [
    (
        OllamaModel("llama3.2", num_ctx=None),
        request("Hi", temperature=0.5, max_tokens=50, top_p=0.9),
        {"options": {"temperature": 0.5, "num_predict": 50, "top_p": 0.9}},
    ),
    (
        OllamaModel("llama3.2", num_ctx=2048, keep_alive="10m", think=True, options={"top_k": 5}),
        request("Hi", temperature=0, max_tokens=None, extra={"seed": 3}),
        {
            "options": {"num_ctx": 2048, "temperature": 0, "top_k": 5, "seed": 3},
            "keep_alive": "10m",
            "think": True,
        },
    ),
    (
        OllamaModel("llama3.2", num_ctx=None),
        request("Hi", system="S", temperature=None, max_tokens=9, schema=Group.model_json_schema()),
        {"options": {"num_predict": 9}, "format": Group.model_json_schema()},
    ),
]


@pytest.mark.parametrize(("model", "ours", "theirs"), OLLAMA)
def test_ollama_sends_what_the_official_client_sends(model, ours, theirs):
    with StubServer() as stub:
        ask(model.with_(base_url=stub.root), ours)
        with ollama.Client(host=stub.root) as client:
            client.chat(model="llama3.2", messages=[dict(m) for m in ours.messages], **theirs)
        own, official = stub.requests
    assert own.path == official.path == "/api/chat"
    assert own.body.pop("truncate") is False and own.body.pop("shift") is False
    assert official.body.pop("tools") == []
    assert own.body == official.body


RESPONSES: list[tuple[Request, dict[str, Any]]] = [
    (
        request("Hi", temperature=0.5, max_tokens=50),
        {"temperature": 0.5, "max_output_tokens": 50},
    ),
    (
        request("Hi", system="S", temperature=None, max_tokens=None, top_p=0.5),
        {"top_p": 0.5},
    ),
    (
        request("Hi", temperature=None, max_tokens=9, schema=Group.model_json_schema()),
        {"max_output_tokens": 9, "text_format": Group},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), RESPONSES)
def test_responses_send_what_the_official_client_sends(ours, theirs):
    with StubServer() as stub:
        model = OpenAIModel("gpt-4.1", base_url=stub.url, api_key=KEY, api="responses")
        ask(model, ours)
        with openai.OpenAI(base_url=stub.url, api_key=KEY, max_retries=0) as client:
            messages: Any = [dict(m) for m in ours.messages]
            pages: Any = client.responses
            call = pages.parse if "text_format" in theirs else pages.create
            call(model="gpt-4.1", input=messages, store=False, **theirs)
        own, official = stub.requests
    assert own.path == official.path == "/v1/responses"
    assert own.body == official.body


def test_gemini_sends_what_the_official_client_sends_to_its_address():
    ours = request("Hi", system="S", temperature=0.5, max_tokens=9, schema=Mood.model_json_schema())
    with StubServer() as stub:
        ask(GeminiModel("models/gemini-3.8-flash", base_url=stub.url, api_key=KEY), ours)
        with openai.OpenAI(base_url=stub.url, api_key=KEY, max_retries=0) as client:
            messages: Any = [dict(m) for m in ours.messages]
            client.chat.completions.parse(
                model="gemini-3.8-flash",
                messages=messages,
                temperature=0.5,
                max_tokens=9,
                response_format=Mood,
            )
        own, official = stub.requests
    official.body.pop("stream", None)  # `parse` says what is the default
    assert own.headers["authorization"] == official.headers["authorization"] == f"Bearer {KEY}"
    assert own.body == official.body


async def _through_clients(url: str, root: str) -> None:
    ours = request("Hi", system="S", temperature=None, schema=Mood.model_json_schema())
    async with anthropic.AsyncAnthropic(base_url=root, api_key=KEY, max_retries=5) as client:
        through = AnthropicModel(OLD_CLAUDE, client=client)
        sampled = request("Hi", temperature=0.5)
        for asked in (ours, sampled):
            await through.complete(asked)
            await AnthropicModel(OLD_CLAUDE, base_url=root, api_key=KEY).complete(asked)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=5) as other:
        page = OpenAIModel("gpt-4.1", client=other, api="responses")
        await page.complete(ours)
        await OpenAIModel("gpt-4.1", base_url=url, api_key=KEY, api="responses").complete(ours)
    async with ollama.AsyncClient(host=root) as local:
        model = OllamaModel("llama3.2", client=local)
        assert model.base_url == root
        await model.complete(ours)
    await OllamaModel("llama3.2", root).complete(ours)


def test_the_way_through_a_client_sends_the_same():
    with StubServer() as stub:
        asyncio.run(_through_clients(stub.url, stub.root))
        sent = stub.requests
    assert sent[6].body.pop("tools") == []
    assert sent[7].body.pop("truncate") is False and sent[7].body.pop("shift") is False
    assert len(sent) == 8
    for through, own in zip(sent[::2], sent[1::2], strict=True):
        assert through.body == own.body
        for name in ("anthropic-version",):
            assert through.headers.get(name) == own.headers.get(name)


@pytest.mark.parametrize("fault", ["401", "404", "429", "500", "529", "html_200", "truncated_json"])
def test_faults_through_a_client_have_the_same_kind(fault):
    async def kinds(root: str, url: str) -> list[tuple[str, str]]:
        found = []
        async with (
            anthropic.AsyncAnthropic(base_url=root, api_key=KEY, max_retries=5) as client,
            openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=5) as other,
            ollama.AsyncClient(host=root) as local,
        ):
            pairs = [
                (
                    AnthropicModel("claude-x", client=client),
                    AnthropicModel("claude-x", base_url=root, api_key=KEY),
                ),
                (
                    OpenAIModel("m", client=other, api="responses"),
                    OpenAIModel("m", base_url=url, api_key=KEY, api="responses"),
                ),
                (
                    OllamaModel("m", client=local),
                    OllamaModel("m", root),
                ),
            ]
            for pair in pairs:
                seen = []
                for model in pair:
                    with pytest.raises(Exception) as caught:
                        await model.complete(request())  # type: ignore[attr-defined]
                    seen.append(caught.value.kind)  # type: ignore[attr-defined]
                    assert KEY not in str(caught.value)
                found.append((seen[0], seen[1]))
        return found

    with StubServer(faults=fault) as stub:
        for through, own in asyncio.run(kinds(stub.root, stub.url)):
            assert through == own
        # Asked once each; Ollama looks which models are there where one is not.
        assert len([r for r in stub.requests if r.method == "POST"]) == 6
