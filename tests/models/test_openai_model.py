import asyncio
import copy
import pickle
from enum import Enum
from typing import Any

import openai
import pytest
from fault_kinds import KINDS, RAW, REPLIES, pieces, visible_text
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field
from stub_server import FAULTS, StubServer

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.base import RETRYABLE, Message, Request, Response
from datafast_nb.models.capabilities import capabilities
from datafast_nb.models.chat import request_body, strict_schema
from datafast_nb.models.openai import OpenAICompatibleModel, OpenAIModel
from datafast_nb.options import options

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    size: int = Field(ge=1, le=9)
    colour: Colour = Field(description="What it looks like")


class Review(BaseModel):
    """A review."""

    text: str
    tags: list[str]
    part: Part = Field(description="The part in question")
    parts: list[Part]
    stars: int | None = None


def request(prompt: str = "Hello", system: str | None = None, **settings: Any) -> Request:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return Request(tuple(messages), **settings)


def ask(model: OpenAIModel | OpenAICompatibleModel, *args: Any, **settings: Any) -> Response:
    return asyncio.run(model.complete(request(*args, **settings)))


def test_answer_usage_and_served_model_arrive():
    with StubServer() as stub:
        reply = ask(OpenAIModel("gpt-4o", base_url=stub.url, api_key=KEY), "two words")
        sent = stub.requests[0]
    assert reply.text.startswith("echo:") and reply.finish == "stop"
    assert reply.usage is not None and reply.usage.input_tokens == 2
    assert reply.model == "gpt-4o-2026"
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "two words"}],
        "temperature": 0.7,
        "max_tokens": 1024,
    }


def test_every_fault_of_the_server_is_expected_somewhere():
    assert set(FAULTS) == KINDS.keys() | REPLIES.keys() | RAW


# Size and redirects are the client's own business there.
WAYS = [("own", fault) for fault in sorted(KINDS)] + [
    ("client", fault)
    for fault in sorted(KINDS)
    if fault not in ("huge", "gzip_bomb", "redirect_other")
]


@pytest.mark.parametrize(("way", "fault"), WAYS)
def test_fault_becomes_an_error_of_its_kind_without_the_key(way, fault):
    if fault == "huge":
        options.max_reply_bytes = 1_000_000

    async def call(url: str) -> Response:
        if way == "own":
            model = OpenAIModel("gpt-4o", base_url=url, api_key=KEY, timeout_s=timeout_s)
            return await model.complete(request())
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
            model = OpenAIModel("gpt-4o", client=client, timeout_s=timeout_s)
            return await model.complete(request())

    timeout_s = 0.4 if KINDS[fault] == "timeout" else 20.0
    with StubServer(faults=fault) as stub:
        with pytest.raises(LLMError) as caught:
            asyncio.run(call(stub.url))
        assert stub.n_requests == 1
    error = caught.value
    assert error.kind == KINDS[fault]
    assert error.model == "gpt-4o"
    shown = visible_text(error, __file__)
    assert not [piece for piece in pieces(KEY) + pieces(KEY[::-1]) if piece in shown]


@pytest.mark.parametrize("fault", sorted(REPLIES))
def test_refusals_and_cuts_are_responses(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(OpenAICompatibleModel("m", stub.url))
    text, finish = REPLIES[fault]
    assert reply.finish == finish
    if text is not None:
        assert reply.text == text


@pytest.mark.parametrize("fault", sorted(RAW))
def test_text_is_handed_on_raw(fault):
    with StubServer(faults=fault) as stub:
        reply = ask(OpenAICompatibleModel("m", stub.url), schema=Review.model_json_schema())
    assert reply.finish == "stop" and reply.text


@pytest.mark.parametrize(
    ("fault", "low", "high"),
    [
        ("429", None, None),
        ("429_seconds:7", 7, 7),
        ("429_ms:40", 0.04, 0.04),
        ("429_date:9", 8, 10),
        ("429_huge", 86400, 86400),
    ],
)
def test_wait_that_the_provider_asks_for(fault, low, high):
    with StubServer(faults=fault) as stub, pytest.raises(LLMError) as caught:
        ask(OpenAICompatibleModel("m", stub.url))
    wait = caught.value.retry_after_s
    assert wait is None if low is None else wait is not None and low <= wait <= high
    assert caught.value.kind in RETRYABLE


def test_unknown_model_comes_with_similar_names(monkeypatch):
    with StubServer(faults="404") as stub:
        # A proxy stands in for OpenAI's host, whose models are listed.
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{stub.port}")
        model = OpenAIModel("gpt-4o-mni", base_url="http://api.openai.com/v1", api_key=KEY)
        with pytest.raises(LLMError, match="gpt-4o-mni") as caught:
            ask(model)
    assert caught.value.kind == "not_found"
    assert "gpt-4o-mini" in caught.value.__notes__[0]


class Plain(BaseModel):
    city: str
    people: int


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (request("Hi", temperature=0.7), {"temperature": 0.7, "max_tokens": 1024}),
        (
            request("Hi", system="Be brief", temperature=None, max_tokens=None),
            {},
        ),
        (
            request("Hi", temperature=0.0, top_p=0.5, max_tokens=5, extra={"seed": 3}),
            {"temperature": 0.0, "top_p": 0.5, "max_tokens": 5, "seed": 3},
        ),
        (
            request("Hi", temperature=None, max_tokens=9, schema=Plain.model_json_schema()),
            {"max_tokens": 9, "response_format": Plain},
        ),
        (
            request("Hi", temperature=None, max_tokens=None, schema=Review.model_json_schema()),
            {"response_format": Review},
        ),
    ],
)
def test_body_is_that_of_the_official_client(ours, theirs):
    with StubServer() as stub:
        asyncio.run(OpenAIModel("gpt-4o", base_url=stub.url, api_key=KEY).complete(ours))
        with openai.OpenAI(base_url=stub.url, api_key=KEY, max_retries=0) as client:
            messages: Any = [dict(m) for m in ours.messages]
            with_type = "response_format" in theirs
            chat = client.chat.completions
            ask_sdk: Any = chat.parse if with_type else chat.create
            ask_sdk(model="gpt-4o", messages=messages, **theirs)
        assert stub.bodies[1].pop("stream", False) is False  # `parse` says what is the default
        assert stub.bodies[0] == stub.bodies[1]


@pytest.mark.parametrize("kind", [Plain, Review])
def test_strict_schema_is_that_of_the_official_client(kind):
    assert strict_schema(kind.model_json_schema()) == to_strict_json_schema(kind)


def test_defaults_are_dropped_in_strict_mode_which_refuses_them():
    class Defaults(BaseModel):
        default: int = 3
        part: Part = Field(Part(size=1, colour=Colour.RED), description="whole")

    strict = strict_schema(Defaults.model_json_schema())
    assert strict["required"] == ["default", "part"]
    assert "default" not in strict["properties"]["default"]
    assert "default" not in strict["properties"]["part"]


def test_strict_schema_of_a_recursive_model_ends():
    class Tree(BaseModel):
        left: "Tree | None" = Field(None, description="smaller")
        right: "Tree" = Field(description="larger")

    assert strict_schema(Tree.model_json_schema())["$defs"]["Tree"]["required"] == [
        "left",
        "right",
    ]


def test_free_keys_switch_strict_mode_off():
    class Counts(BaseModel):
        by_word: dict[str, int]

    sent = request_body("m", request(schema=Counts.model_json_schema()), structured="json_schema")
    wanted = sent["response_format"]["json_schema"]
    assert wanted["strict"] is False
    assert wanted["schema"] == Counts.model_json_schema()


def test_schema_in_the_prompt_for_servers_without_schemas():
    ours = request("Where?", schema=Plain.model_json_schema())
    sent = request_body("m", ours, structured="prompt")
    assert "response_format" not in sent
    assert sent["messages"][-1]["content"].startswith("Where?\n\n")
    assert '"city"' in sent["messages"][-1]["content"]
    assert ours.messages[-1]["content"] == "Where?"


@pytest.mark.parametrize(
    "name", ["o1", "o3-mini", "o4-mini", "gpt-5", "openai/gpt-5.2", "gpt-5-mini"]
)
def test_reasoning_models_get_no_sampling_parameters(name):
    model = OpenAIModel(name)
    ours = request(temperature=0.3, top_p=0.9, max_tokens=50)
    sent = request_body(name, ours, structured="json_schema")
    assert sent.keys() == {"model", "messages", "max_completion_tokens"}
    assert model.dropped_parameters(ours) == ["temperature", "top_p"]
    assert model.dropped_parameters(request(temperature=None)) == []


@pytest.mark.parametrize(
    "name", ["gpt-4o", "gpt-4.1", "ollama1", "o1pinion", "qwen3", "gpt-oss-20b"]
)
def test_other_models_take_them(name):
    assert capabilities(name).takes_sampling
    assert OpenAIModel(name).dropped_parameters(request()) == []


def test_lone_surrogates_reach_no_server():
    with StubServer() as stub:
        ask(OpenAICompatibleModel("m", stub.url), "a\ud800b")
        assert stub.bodies[0]["messages"][0]["content"] == "a\ufffdb"


def test_key_is_read_when_called_and_its_lack_names_the_variable(monkeypatch):
    with StubServer() as stub:
        model = OpenAIModel("gpt-4o", base_url=stub.url)
        assert model.missing_key() == "OPENAI_API_KEY"
        with pytest.raises(MissingKeyError, match="OPENAI_API_KEY") as caught:
            ask(model)
        assert caught.value.kind == "auth" and stub.n_requests == 0
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert model.missing_key() is None
        ask(model)
        assert stub.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(vars(model))


def test_compatible_model_never_sends_the_key_of_openai(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with StubServer() as stub:
        model = OpenAICompatibleModel("m", stub.url)
        ask(model)
        assert "authorization" not in stub.requests[0].headers
    assert model.missing_key() is None


def test_key_with_odd_characters_is_refused_before_sending():
    with StubServer() as stub, pytest.raises(LLMError) as caught:
        ask(OpenAIModel("gpt-4o", base_url=stub.url, api_key=f"{KEY}\r\nX-Evil: 1"))
    assert caught.value.kind == "auth" and stub.n_requests == 0
    assert KEY not in visible_text(caught.value, __file__)


def test_key_and_headers_are_in_no_view_and_no_pickle_but_in_copies():
    model = OpenAICompatibleModel(
        "m", "http://localhost:1/v1", api_key=KEY, headers={"api-key": KEY[::-1]}
    )
    for view in (repr(model), str(vars(model)), str(model.identity()), str(vars(model.with_()))):
        assert KEY not in view and KEY[::-1] not in view
    pickled = pickle.dumps(model)
    assert KEY.encode() not in pickled and KEY[::-1].encode() not in pickled
    assert pickle.loads(pickled).identity() == model.identity()
    with StubServer() as stub:
        ask(copy.deepcopy(model.with_(base_url=stub.url)))
        sent = stub.requests[0].headers
    assert sent["authorization"] == f"Bearer {KEY}" and sent["api-key"] == KEY[::-1]


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        (OpenAIModel("m"), ""),
        (OpenAIModel("m", base_url="https://api.openai.com/v1/"), ""),
        (OpenAIModel("m", base_url="http://localhost:1/v1/"), "http://localhost:1/v1"),
        (OpenAIModel("m", base_url="http://localhost:1/v1", cache_id="mine"), "mine"),
        (OpenAICompatibleModel("m", "http://h/v1/chat/completions"), "http://h/v1"),
        (OpenAIModel("m").with_(base_url="http://h/v1/"), "http://h/v1"),
        (OpenAIModel("m").with_(cache_id="x"), "x"),
    ],
)
def test_identity(model, endpoint):
    assert model.identity() == {"provider": "openai", "endpoint": endpoint, "model": "m"}


def test_settings_are_checked_when_built():
    for settings, what in (
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"structured": "yaml"}, "structured"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"model_id": ""}, "model_id"),
    ):
        with pytest.raises(ValueError, match=what):
            OpenAIModel(**settings)
    with pytest.raises(TypeError, match="has no setting 'temprature'"):
        OpenAIModel("m").with_(temprature=0)
    with (
        openai.OpenAI(api_key=KEY) as client,
        pytest.raises(TypeError, match="AsyncOpenAI"),
    ):
        OpenAIModel("m", client=client)


def test_clients_own_retries_are_off_and_its_bodies_are_ours():
    async def both(url: str) -> None:
        ours = request("Hi", system="S", schema=Review.model_json_schema(), extra={"seed": 1})
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=5) as client:
            through = OpenAIModel("gpt-4o", client=client)
            await through.complete(ours)
            await OpenAIModel("gpt-4o", base_url=url, api_key=KEY).complete(ours)
            assert through.missing_key() is None
            assert through.endpoint == url
            assert through.with_(timeout_s=3.0).client is client
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(through)

    with StubServer() as stub:
        asyncio.run(both(stub.url))
        assert stub.n_requests == 2
        assert stub.bodies[0] == stub.bodies[1]


def test_max_in_flight_is_the_models_parallel():
    model = OpenAIModel("m", max_in_flight=3)
    assert (model.parallel, model.with_(max_in_flight=7).parallel) == (3, 7)
    assert model.with_(parallel=9).max_in_flight == 9
    assert model.with_(endpoint="mine").identity()["endpoint"] == "mine"
