"""Ways of sending a schema: which are tried, which are noted, and what is no reason to change."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from stub_server import StubServer
from stub_wires import way_of

import datafast_nb as dfn
from datafast_nb.errors import LLMError
from datafast_nb.models import ladder
from datafast_nb.models.base import Request
from datafast_nb.store.memo import open_memo

KEY = "sk-test-Zq8Lm3Xw9Tr5Kd7V"
OUTPUTS = {"q": str, "n": int}


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    ladder.forget_all()
    yield
    ladder.forget_all()


Make = Callable[[StubServer], Any]
MODELS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "chat": (lambda s: dfn.OpenAICompatibleModel("m", s.url), ladder.WAYS),
    "openai": (lambda s: dfn.OpenAIModel("gpt-4.1", base_url=s.url, api_key=KEY), ladder.WAYS),
    "responses": (
        lambda s: dfn.OpenAIModel("gpt-4.1", base_url=s.url, api_key=KEY, api="responses"),
        ladder.WAYS,
    ),
    "gemini": (
        lambda s: dfn.GeminiModel("gemini-3.8-flash", base_url=s.url, api_key=KEY),
        ladder.WAYS,
    ),
    "anthropic": (
        lambda s: dfn.AnthropicModel("claude-sonnet-4-6", base_url=s.root, api_key=KEY),
        ("json_schema", "tool", "prompt"),
    ),
    "anthropic that thinks": (
        lambda s: dfn.AnthropicModel("claude-opus-4-8", base_url=s.root, api_key=KEY),
        ("json_schema", "prompt"),
    ),
    "ollama": (lambda s: dfn.OllamaModel("m", s.root), ("json_schema", "json_mode", "prompt")),
}
# What servers say, by the way that they refuse.
SAYS = {
    "json_schema": "refuses:400:response_format.type: unknown value 'json_schema'",
    "tool": "refuses:400:this model does not support tools",
    "json_mode": "refuses:422:response_format is not supported",
}


def refusing(*ways: str) -> Callable[[int, dict[str, Any]], str | None]:
    return lambda n, body: SAYS[way_of(body)] if way_of(body) in ways else None


def pipeline(model: Any, n: int = 4, **settings: Any) -> dfn.Pipeline:
    step = dfn.LLMStep("{text}", output_columns=OUTPUTS, model=model, **settings)
    return dfn.Source.list([{"text": f"fact {i}"} for i in range(n)]) >> step.as_step("ask")


def sent(stub: StubServer) -> list[str]:
    return [way_of(body) for body in stub.bodies if "messages" in body or "input" in body]


@pytest.mark.parametrize("name", MODELS)
def test_every_way_is_refused_once_and_the_next_one_answers_all_records(name):
    make, ways = MODELS[name]
    for k in range(len(ways)):
        ladder.forget_all()
        with StubServer(faults=refusing(*ways[:k])) as stub:
            result = pipeline(make(stub)).run(max_concurrent=1)
            assert sent(stub) == [*ways[:k], *[ways[k]] * 4]
        assert len(result) == 4 and result.errors == []
        assert all(type(r["q"]) is str and type(r["n"]) is int for r in result)
        assert {c.attempts for c in result.call_rows} == {1}, "a refused way is no attempt"
        options_home_of_its_own()


def options_home_of_its_own() -> None:
    """An empty memo for the next round."""
    memo = open_memo()
    memo.close()
    for path in memo.path.parent.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("refused", [("json_schema",), ("json_schema", "tool")])
def test_the_way_that_worked_is_noted_and_a_new_memo_object_is_refused_nothing(refused):
    with StubServer(faults=refusing(*refused)) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        pipeline(model, 2).run(max_concurrent=1)
        assert len(sent(stub)) == 2 + len(refused)
        open_memo().close()
        ladder.forget_all()  # as a new process
        stub.reset()
        again = dfn.OpenAICompatibleModel("m", stub.url)
        pipeline(again, 6).run(max_concurrent=4)
        assert set(sent(stub)) == {ladder.WAYS[len(refused)]}
        assert stub.n_requests == 4, "answers got by another way are not paid again"
        # Another model of the same server stands for itself.
        stub.reset()
        pipeline(dfn.OpenAICompatibleModel("other", stub.url), 1).run()
        assert sent(stub)[0] == "json_schema"


CHILD = """
import sys
import datafast_nb as dfn
from datafast_nb.options import options
options.home = sys.argv[2]
model = dfn.OpenAICompatibleModel("m", sys.argv[1])
step = dfn.LLMStep("{text}", output_columns={"q": str, "n": int}, model=model)
source = dfn.Source.list([{"text": f"{sys.argv[3]} {i}"} for i in range(3)])
print(len((source >> step).run(show_progress=False)))
"""


def test_a_second_process_is_refused_nothing(tmp_path):
    with StubServer(faults=refusing("json_schema")) as stub:
        seen = []
        for name in ("first", "second"):
            stub.reset()
            command = [sys.executable, "-c", CHILD, stub.url, str(tmp_path / "home"), name]
            root = str(Path(dfn.__file__).parents[1])
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=120,
                env={**os.environ, "PYTHONPATH": root},
            )
            assert done.stdout.split() == ["3"], done.stderr
            seen.append(Counter(sent(stub)))
    first, second = seen
    assert first["tool"] == 3 and 1 <= first["json_schema"] <= 3
    assert second == {"tool": 3}


def test_with_many_in_flight_only_those_under_way_are_refused():
    in_flight = 6
    with StubServer(faults=refusing("json_schema"), latency_s=0.02) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        result = pipeline(model, 60).run(max_concurrent=in_flight)
        ways = Counter(sent(stub))
    assert len(result) == 60
    assert ways["tool"] == 60 and 1 <= ways["json_schema"] <= in_flight
    assert set(ways) == {"tool", "json_schema"}


def test_a_note_in_one_memo_is_made_in_the_next_one_too(tmp_path):
    with StubServer(faults=refusing("json_schema")) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        pipeline(model, 1).run()
        dfn.options.home = tmp_path / "elsewhere"
        pipeline(model, 2).run()
        assert open_memo().get_meta(ladder.place_of(model)) == {
            "refused": ["json_schema"],
            "worked": "tool",
        }


@pytest.mark.parametrize(
    "note",
    [None, [], {}, {"refused": 3, "worked": "tool"}, {"refused": ["x"], "worked": "magic"}, "tool"],
)
def test_a_note_that_says_nothing_is_no_note(note):
    with StubServer() as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        open_memo().set_meta(ladder.place_of(model), note)
        pipeline(model, 1).run()
        assert sent(stub) == ["json_schema"]


def test_nothing_is_noted_where_nothing_was_refused():
    with StubServer() as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        pipeline(model, 2).run()
        assert open_memo().get_meta(ladder.place_of(model)) is None


# What is no reason to climb down.

OTHER_REFUSALS = [
    "400",
    "422",
    "refuses:400:messages[0].content: string too long",
    "refuses:400:invalid value for temperature",
    "refuses:413:response_format makes this too large",
    "refuses:400:the model m-format does not take images",
]


@pytest.mark.parametrize("fault", OTHER_REFUSALS)
def test_a_request_that_is_refused_for_another_reason_is_sent_once(fault):
    with StubServer(faults=lambda n, body: fault if "fact 1" in str(body) else None) as stub:
        result = pipeline(dfn.OpenAICompatibleModel("m", stub.url), 3).run(max_concurrent=1)
        assert sent(stub) == ["json_schema"] * 3
    assert [e.kind for e in result.errors] == ["bad_request"]


@pytest.mark.parametrize("fault", ["prose", "wrong_type", "missing_key", "500", "429_ms:5"])
def test_a_bad_answer_or_a_failure_that_passes_changes_no_way(fault):
    with StubServer(faults={1: fault}) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        result = pipeline(model, 3, retry_delay=0.001).run(max_concurrent=1)
        assert sent(stub) == ["json_schema"] * 4
    assert len(result) == 3


def test_a_model_s_own_name_is_no_word_against_a_way():
    fault = "refuses:404:The model json_schema-tool does not exist"
    with StubServer(faults=fault) as stub:
        with pytest.raises(LLMError) as caught:
            pipeline(dfn.OpenAICompatibleModel("json_schema-tool", stub.url)).run(max_concurrent=1)
        assert caught.value.kind == "not_found" and stub.n_requests == 1


def test_a_request_that_no_way_makes_good_fails_and_leaves_no_mark():
    def choose(n: int, body: dict[str, Any]) -> str | None:
        if "fact 0" not in str(body):
            return None
        return SAYS.get(way_of(body), "refuses:400:never")

    with StubServer(faults=choose) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        result = pipeline(model, 2).run(max_concurrent=1)
        assert sent(stub) == [*ladder.WAYS, "json_schema"]
    assert [(e.record, e.kind) for e in result.errors] == [(0, "bad_request")]
    assert "never" in result.errors[0].error


def test_a_named_way_is_kept_to():
    with StubServer(faults=refusing("json_schema")) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url, structured="json_schema")
        with pytest.raises(LLMError, match="json_schema"):
            pipeline(model, 2).run(max_concurrent=1)
        assert sent(stub) == ["json_schema"] * 2
        for way in ladder.WAYS[1:]:
            stub.reset()
            named = dfn.OpenAICompatibleModel(f"m-{way}", stub.url, structured=way)
            assert len(pipeline(named, 1).run()) == 1
            assert sent(stub) == [way]


def test_plain_text_has_no_way():
    with StubServer(faults="refuses:400:response_format is not supported") as stub:
        step = dfn.LLMStep(
            "{text}", output_columns=["q"], model=dfn.OpenAICompatibleModel("m", stub.url)
        )
        with pytest.raises(LLMError):
            (dfn.Source.list([{"text": "a"}]) >> step).run()
        assert stub.n_requests == 1


def test_no_retries_are_needed_to_climb_down_and_max_calls_stays_a_ceiling():
    with StubServer(faults=refusing("json_schema", "tool")) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        with pytest.raises(dfn.BudgetExceededError) as caught:
            pipeline(model, 5, max_retries=0).run(max_calls=4, max_concurrent=1)
        assert stub.n_requests == 4
        assert len(caught.value.result) == 2


def test_generate_climbs_down_too():
    class Mood(BaseModel):
        mood: str

    with StubServer(faults=refusing("json_schema", "tool", "json_mode")) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        assert set(model.generate("How?", response_format=Mood)) == {"mood"}
        assert sent(stub) == list(ladder.WAYS)


def test_a_caller_of_complete_is_told_to_ask_again():
    request = Request(({"role": "user", "content": "?"},), schema={"type": "object"})
    with StubServer(faults=refusing("json_schema")) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        with pytest.raises(ladder.WayRefused, match="asked again"):
            asyncio.run(model.complete(request))
        assert model.schema_way({}) == "tool"
        assert json.loads(asyncio.run(model.complete(request)).text) == {}


@pytest.mark.parametrize(
    ("way", "status", "said"),
    [
        ("json_schema", 400, "Invalid parameter: 'response_format' of type 'json_schema' is not"),
        ("json_schema", 400, "This response_format type is unavailable now"),
        ("json_schema", 400, "This model does not support response format `json_schema`"),
        ("json_schema", 422, "body -> response_format: Extra inputs are not permitted"),
        ("json_schema", 400, "output_config: Extra inputs are not permitted"),
        ("json_schema", 400, "Go struct field ChatRequest.format of type string"),
        ("json_schema", 400, "failed to parse grammar"),
        ("tool", 404, "No endpoints found that support tool use"),
        ("tool", 400, "registry.example/m does not support tools"),
        ("tool", 400, "Unrecognized request argument supplied: functions"),
        ("tool", 400, "tool_choice: Thinking may not be enabled when tool use is forced"),
        ("json_mode", 400, "'response_format' of type 'json_object' is not supported"),
    ],
)
def test_words_of_servers_are_understood(way, status, said):
    model = dfn.OpenAICompatibleModel("m", "http://h/v1")
    error = LLMError(said, kind="bad_request", status=status)
    assert ladder.refuses(model, way, error)
    assert not ladder.refuses(model, "prompt", error)
    assert not ladder.refuses(model, way, LLMError(said, kind="server", status=500))


# What a result tells.


def test_a_result_tells_the_way_and_how_often_the_first_reply_fitted():
    def choose(n: int, body: dict[str, Any]) -> str | None:
        if way_of(body) == "json_schema":
            return SAYS["json_schema"]
        turns = body["messages"]
        return "prose" if len(turns) == 1 and "fact 1" in turns[0]["content"] else None

    with StubServer(faults=choose) as stub:
        model = dfn.OpenAICompatibleModel("m", stub.url)
        result = pipeline(model, 4).run(max_concurrent=1)
        [line] = result.structured
        assert (line.step, line.model, line.way) == ("ask", "m", "tool")
        assert (line.first_try, line.asked, line.rate) == (3, 4, 0.75)
        said = result._repr_html_()
        assert "as input of a tool" in said and "3 of 4" in said and "75%" in said
        # From disk, in a new process: the same.
        open_memo().close()
        ladder.forget_all()
        n = stub.n_requests
        again = pipeline(dfn.OpenAICompatibleModel("m", stub.url), 4).run()
        assert stub.n_requests == n and again.structured == [line]


def test_a_reply_that_failed_in_the_end_counts_as_asked_and_a_lost_one_does_not():
    def choose(n: int, body: dict[str, Any]) -> str | None:
        said = str(body)
        return "prose" if "fact 0" in said else "400" if "fact 1" in said else None

    with StubServer(faults=choose) as stub:
        result = pipeline(dfn.OpenAICompatibleModel("m", stub.url), 3).run(max_concurrent=1)
    [line] = result.structured
    assert (line.first_try, line.asked) == (1, 2)


def test_models_with_means_of_their_own_are_shown_only_where_something_did_not_fit():
    good = dfn.FakeModel({"q": "x", "n": 1})
    result = pipeline(good, 3).run()
    [line] = result.structured
    assert (line.way, line.first_try, line.asked) == (None, 3, 3)
    assert "first try" not in result._repr_html_()
    bad = dfn.FakeModel(
        lambda request: "prose" if len(request.messages) == 1 else '{"q": "x", "n": 1}'
    )
    other = dfn.LLMStep("{text}!", output_columns=OUTPUTS, model=bad)
    result = (dfn.Source.list([{"text": "a"}]) >> other).run()
    assert "0 of 1" in result._repr_html_()


def test_steps_of_plain_text_have_no_line():
    step = dfn.LLMStep("{text}", output_columns=["q"], model=dfn.FakeModel("x"))
    assert (dfn.Source.list([{"text": "a"}]) >> step).run().structured == []
