"""A model that answers from a script: for documentation, and for tests of pipelines."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from datafast_nb.models.base import Model, Request, Response, Usage
from datafast_nb.models.pricing import Price, as_price

Answer = str | Mapping[str, Any] | Response | BaseException
"""One answer: text, an object sent as JSON, a whole response, or an error to raise."""

# One lock for all fakes: a lock of its own would keep a model from being pickled.
_LOCK = threading.Lock()
_MAX_DEPTH = 20
_ECHO_WORDS = 12


class FakeModel(Model):
    """Answers without a provider, at once, for nothing, and keeps what it was asked.

    Parameters
    ----------
    answers
        A text; a list of answers, used in turn and from the start again; a function of the
        `Request` that returns an answer; or None: a text made from the prompt, always the
        same for the same prompt, and where a schema is given an object that fits it.
        An answer is a text, a dict (sent as JSON), a `Response`, or an exception to raise.
    name, provider
        Part of the memo key; with the names of a real model the estimates show its price.
    latency_s
        Seconds before each answer.
    price
        `Price`, or (input, output) in US dollars per million tokens; None: free, unless
        `provider` is a real one.
    parallel
        Calls in flight at most; None: the run decides.

    Examples
    --------
    >>> from datafast_nb.models.fake import FakeModel
    >>> model = FakeModel(["yes", "no"])
    >>> import asyncio
    >>> from datafast_nb.models.base import Request
    >>> ask = Request(({"role": "user", "content": "Is water wet?"},))
    >>> [asyncio.run(model.complete(ask)).text for _ in range(3)]
    ['yes', 'no', 'yes']
    >>> model.calls, model.requests[0].messages[-1]["content"]
    (3, 'Is water wet?')

    A function sees the request, so that answers can depend on the prompt:

    >>> shout = FakeModel(lambda request: request.messages[-1]["content"].upper())
    >>> asyncio.run(shout.complete(ask)).text
    'IS WATER WET?'
    """

    def __init__(
        self,
        answers: str
        | Sequence[Answer]
        | Mapping[str, Any]
        | Callable[[Request], Answer]
        | None = None,
        *,
        name: str = "fake",
        provider: str = "fake",
        latency_s: float = 0.0,
        price: Price | tuple[float, float] | None = None,
        parallel: int | None = None,
    ) -> None:
        if not (
            answers is None or callable(answers) or isinstance(answers, (str, Mapping, list, tuple))
        ):
            raise TypeError(
                f"answers is of type {type(answers).__name__}; give a text, a list of answers, "
                "a function of the request, or None"
            )
        if isinstance(answers, (list, tuple)) and not answers:
            raise ValueError("answers is an empty list; give at least one answer, or None")
        self.answers = answers
        self.name = name
        self.provider = provider
        self.latency_s = latency_s
        self.price = as_price(price)
        self.parallel = parallel
        self._requests: list[Request] = []

    @property
    def calls(self) -> int:
        """Number of requests so far. Copies made with `with_` share it."""
        return len(self._requests)

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in order of arrival."""
        with _LOCK:
            return list(self._requests)

    async def complete(self, request: Request) -> Response:
        """Give the next answer."""
        with _LOCK:
            number = len(self._requests)
            self._requests.append(request)
        if self.latency_s > 0:
            await asyncio.sleep(self.latency_s)
        return self._respond(self._answer(request, number), request)

    def _answer(self, request: Request, number: int) -> Answer:
        answers = self.answers
        if answers is None:
            return _made_up(request)
        if isinstance(answers, (str, Mapping)):
            return answers
        if callable(answers):
            return answers(request)
        answer: Answer = answers[number % len(answers)]
        return answer

    def _respond(self, answer: Answer, request: Request) -> Response:
        if isinstance(answer, BaseException):
            raise answer.with_traceback(None)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, Mapping):
            text = orjson.dumps(dict(answer)).decode()
        elif isinstance(answer, str):
            text = answer
        else:
            raise TypeError(
                f"{self.name!r} has the answer {answer!r} ({type(answer).__name__}); an answer "
                "is a text, a dict, a Response or an exception"
            )
        usage = Usage(
            input_tokens=sum(count_words(m["content"]) for m in request.messages),
            output_tokens=count_words(text),
        )
        return Response(text, usage=usage, model=self.name)


def count_words(text: str) -> int:
    """Words as a stand-in for tokens; at least 1 for a text that is not empty."""
    return len(text.split()) or int(bool(text))


def _made_up(request: Request) -> Answer:
    body = "\n".join(f"{m['role']}:{m['content']}" for m in request.messages)
    digest = blake2b(body.encode("utf-8", "replace"), digest_size=8).digest()
    prompt = request.messages[-1]["content"] if request.messages else ""
    words = prompt.split()
    start = " ".join(words[:_ECHO_WORDS]) + (" …" if len(words) > _ECHO_WORDS else "")
    text = f"Fake answer {digest[:3].hex()} to: {start}"
    if request.schema is None:
        return text
    made = example_value(request.schema, int.from_bytes(digest, "big"), text)
    return made if isinstance(made, Mapping) else orjson.dumps(made).decode()


def example_value(schema: Mapping[str, Any], seed: int, text: str) -> Any:
    """A value that fits a JSON schema, the same for the same arguments.

    `seed` chooses numbers and alternatives, `text` fills the strings. `pattern` and `format`
    are not looked at; optional keys are there, and the first of several types is taken.
    """
    return _example(schema, schema, seed, text, 0)


def _example(
    schema: Mapping[str, Any], root: Mapping[str, Any], seed: int, text: str, depth: int
) -> Any:
    if depth > _MAX_DEPTH:
        return None
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[part]
        return _example(target, root, seed, text, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][seed % len(schema["enum"])]
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            return _example(schema[word][0], root, seed, text, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged.update(part)
        return _example(merged, root, seed, text, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object" or (kind is None and "properties" in schema):
        return {
            name: _example(part, root, seed + i, f"{text} ({name})" if i else text, depth + 1)
            for i, (name, part) in enumerate(schema.get("properties", {}).items())
        }
    if kind == "array":
        prefix = schema.get("prefixItems")
        if prefix:
            return [_example(p, root, seed + i, text, depth + 1) for i, p in enumerate(prefix)]
        n_items = min(max(2, schema.get("minItems", 0)), schema.get("maxItems", math.inf))
        items = schema.get("items") or {"type": "string"}
        return [
            _example(items, root, seed + i, f"{text} #{i + 1}", depth + 1) for i in range(n_items)
        ]
    if kind in ("integer", "number"):
        return _number(schema, kind, seed)
    if kind == "boolean":
        return seed % 2 == 0
    if kind == "null":
        return None
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    made = text if len(text) >= low else text + "." * (low - len(text))
    return made if high is None else made[:high]


def _number(schema: Mapping[str, Any], kind: str, seed: int) -> int | float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 0 if high is None else min(0, high - 10)
    if high is None:
        high = low + 10
    if kind == "number":
        return round(float(low + (high - low) * (1 + seed % 98) / 100), 6)
    first = math.ceil(low) + int("exclusiveMinimum" in schema and math.ceil(low) == low)
    last = math.floor(high) - int("exclusiveMaximum" in schema and math.floor(high) == high)
    step = int(schema.get("multipleOf", 1)) or 1
    first = -(-first // step) * step
    return int(first + step * (seed % max(1, (last - first) // step + 1)))
