"""Models of a user's own: `generate` on threads that hold back neither calls nor exit."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import Any

import pytest

from datafast_nb import LLMStep, Source
from datafast_nb.errors import LLMError
from datafast_nb.models.adapted import AdaptedModel
from datafast_nb.models.base import Message, Request, Response

N = 24


class Own:
    """A model that answers with what a function makes of the prompt."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def generate(self, prompt: str) -> Any:
        return self.answer(prompt)


def request(prompt: str = "Hello", **settings: Any) -> Request:
    message: Message = {"role": "user", "content": prompt}
    return Request((message,), **settings)


def ask(answer: Any) -> Response:
    return asyncio.run(AdaptedModel(Own(answer)).complete(request()))


@pytest.mark.parametrize(
    ("reply", "text"),
    [("fine", "fine"), ({"é": 1}, '{"é": 1}'), (Response("cut", finish="length"), "cut")],
)
def test_text_dicts_and_responses_are_replies(reply, text):
    assert ask(lambda prompt: reply).text == text


def test_another_reply_is_refused():
    with pytest.raises(LLMError, match="returned int") as caught:
        ask(lambda prompt: 5)
    assert caught.value.kind == "bad_request"


@pytest.mark.parametrize("error", [ValueError, StopIteration, SystemExit, KeyboardInterrupt])
def test_what_generate_raises_becomes_one_kind_of_error(error):
    def answer(prompt):
        raise error("odd")

    with pytest.raises(LLMError, match=f"generate.. raised {error.__name__}: odd") as caught:
        ask(answer)
    assert caught.value.kind == "error"
    assert isinstance(caught.value.__cause__, error)


def test_an_error_of_a_known_kind_is_passed_on():
    def answer(prompt):
        raise LLMError("slow down", kind="rate_limited", retry_after_s=2)

    with pytest.raises(LLMError) as caught:
        ask(answer)
    assert (caught.value.kind, caught.value.retry_after_s) == ("rate_limited", 2)


def test_as_many_calls_run_at_once_as_are_made():
    together = threading.Barrier(N, timeout=20)

    def answer(prompt):
        together.wait()
        return prompt.upper()

    async def all_at_once() -> list[Response]:
        model = AdaptedModel(Own(answer))
        return await asyncio.gather(*(model.complete(request(f"p{i}")) for i in range(N)))

    assert [r.text for r in asyncio.run(all_at_once())] == [f"P{i}" for i in range(N)]


def test_a_run_has_as_many_calls_in_flight_as_its_step_allows():
    together = threading.Barrier(N, timeout=20)

    def answer(prompt):
        together.wait()
        return prompt

    step = LLMStep("{x}", output_columns=["y"], model=Own(answer))
    source = Source.list([{"x": str(i)} for i in range(N)])
    result = (source >> step).run(max_concurrent=N)
    assert [r["y"] for r in result] == [str(i) for i in range(N)]


def test_generate_sees_the_context_of_its_caller():
    place = contextvars.ContextVar("place", default="none")

    async def call() -> Response:
        place.set("here")
        return await AdaptedModel(Own(lambda prompt: place.get())).complete(request())

    assert asyncio.run(call()).text == "here"


def test_a_cancelled_call_leaves_its_thread_to_end_alone():
    entered, free = threading.Event(), threading.Event()

    def answer(prompt):
        entered.set()
        free.wait(20)
        return "late"

    async def cancel() -> str:
        model = AdaptedModel(Own(answer))
        call = asyncio.create_task(model.complete(request()))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        free.set()
        return "over"

    assert asyncio.run(cancel()) == "over"


def test_the_process_exits_while_a_call_sleeps(tmp_path):
    script = """
import threading, time
from datafast_nb import LLMStep, Source

entered = threading.Event()

class Slow:
    def generate(self, prompt):
        entered.set()
        time.sleep(600)

run = (Source.list([{"x": 1}]) >> LLMStep("{x}", output_columns=["y"], model=Slow())).start()
assert entered.wait(20)
print("leaving")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert (done.stdout, done.returncode) == ("leaving\n", 0), done.stderr
