import asyncio
import copy
import doctest
import pickle
import threading
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from datafast_nb.errors import LLMError
from datafast_nb.models import fake
from datafast_nb.models.base import Message, Request, Response
from datafast_nb.models.fake import FakeModel, example_value
from datafast_nb.models.pricing import price_of


def ask(model: FakeModel, prompt: str = "Hello there", **settings: object) -> Response:
    message: Message = {"role": "user", "content": prompt}
    return asyncio.run(model.complete(Request((message,), **settings)))  # type: ignore[arg-type]


def test_list_of_answers_is_used_in_turn_and_from_the_start_again():
    model = FakeModel(["a", {"x": 1}, Response("c", finish="length")])
    replies = [ask(model) for _ in range(4)]
    assert [r.text for r in replies] == ["a", '{"x":1}', "c", "a"]
    assert replies[2].finish == "length"
    assert model.calls == 4


def test_exceptions_among_the_answers_are_raised_again_and_again():
    model = FakeModel(["fine", LLMError("slow down", kind="rate_limited", retry_after_s=2)])
    for _ in range(2):
        assert ask(model).text == "fine"
        with pytest.raises(LLMError) as caught:
            ask(model)
        assert (caught.value.kind, caught.value.retry_after_s) == ("rate_limited", 2)


def test_function_sees_the_request_and_history_keeps_it():
    model = FakeModel(lambda r: f"{r.messages[-1]['content']} at {r.temperature}")
    assert ask(model, "Hi", temperature=0.25).text == "Hi at 0.25"
    assert model.requests[0].messages[-1]["content"] == "Hi"


def test_without_answers_the_text_depends_on_the_prompt_alone():
    model = FakeModel()
    assert ask(model, "one").text == ask(model, "one").text != ask(model, "two").text
    assert "one" in ask(model, "one").text


class Inner(BaseModel):
    tags: list[str] = Field(min_length=3, max_length=3)
    kind: Literal["a", "b"]


class Outer(BaseModel):
    name: str = Field(max_length=10)
    long: str = Field(min_length=80)
    stars: int = Field(ge=1, le=5)
    above: int = Field(gt=3, lt=5)
    share: float = Field(gt=0, lt=1)
    even: int = Field(ge=3, le=9, multiple_of=2)
    maybe: int | None
    inner: Inner
    many: list[Inner]
    flag: bool
    pair: tuple[int, str]


@given(st.text(min_size=1))
def test_without_answers_a_schema_gets_an_object_that_fits(prompt):
    reply = ask(FakeModel(), prompt, schema=Outer.model_json_schema())
    Outer.model_validate_json(reply.text)


@given(st.integers(0, 2**64), st.integers(-50, 50), st.integers(0, 40))
def test_example_numbers_stay_in_their_range(seed, low, width):
    for kind in ("integer", "number"):
        schema = {"type": kind, "minimum": low, "maximum": low + width}
        assert low <= example_value(schema, seed, "x") <= low + width


def test_recursive_schema_ends():
    schema = {
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
        "$ref": "#/$defs/Node",
    }
    assert "next" in example_value(schema, 1, "x")


def test_usage_counts_words():
    usage = ask(FakeModel("three short words"), "two words").usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (2, 3)


def test_latency_does_not_block_other_calls():
    model = FakeModel("x", latency_s=0.1)
    request = Request(({"role": "user", "content": "x"},))

    async def ten() -> None:
        await asyncio.gather(*(model.complete(request) for _ in range(10)))

    start = time.perf_counter()
    asyncio.run(ten())
    assert 0.1 <= time.perf_counter() - start < 0.8


def test_calls_from_threads_are_all_counted_and_get_each_answer_once():
    model = FakeModel([str(i) for i in range(200)])
    seen: list[str] = []

    def work() -> None:
        seen.extend(ask(model).text for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.calls == 200
    assert sorted(seen, key=int) == [str(i) for i in range(200)]


def test_copies_share_the_history_and_pickles_work():
    model = FakeModel(["a", "b"])
    other = copy.copy(model)
    assert [ask(model).text, ask(other).text] == ["a", "b"]
    assert model.calls == other.calls == 2
    assert pickle.loads(pickle.dumps(model)).calls == 2
    assert model.with_(latency_s=0.5).latency_s == 0.5


def test_price_is_free_given_or_that_of_the_named_model():
    free, given_price = price_of(FakeModel()), price_of(FakeModel(price=(1, 2)))
    assert free is not None and free.is_free
    assert given_price is not None
    assert (given_price.input_per_mtok_usd, given_price.output_per_mtok_usd) == (1, 2)
    listed = price_of(FakeModel(name="gpt-4o-mini", provider="openai"))
    assert listed is not None and not listed.is_free


@pytest.mark.parametrize("answers", [[], 12])
def test_impossible_answers_are_refused_when_built(answers):
    with pytest.raises((TypeError, ValueError), match="answers is"):
        FakeModel(answers)


def test_answer_of_another_type_names_model_and_value():
    with pytest.raises(TypeError, match=r"'fake' has the answer 12 \(int\)"):
        ask(FakeModel(lambda r: 12))  # type: ignore[arg-type, return-value]


def test_examples_in_the_docstring_run():
    results = doctest.testmod(fake)
    assert results.attempted > 4 and results.failed == 0
