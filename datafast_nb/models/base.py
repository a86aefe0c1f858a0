"""What a model is to the engine: a request in, a response out, one coroutine.

Adapters turn a `Request` into wire JSON and wire JSON into a `Response`; they never
retry, sleep or print. Failures are `LLMError`s whose `kind` says whether asking again
can help (`RETRYABLE`) or would fail for every record (`FATAL`); the engine decides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Document
from datafast_nb.errors import LLMError
from datafast_nb.models.card import model_line, model_view

if TYPE_CHECKING:
    from pydantic import BaseModel

    from datafast_nb.models.listing import Listing
    from datafast_nb.models.pricing import Price
    from datafast_nb.models.probe import Probe


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """The logical request: what is asked, in no provider's dialect."""

    messages: tuple[Message, ...]
    temperature: float | None = 0.7
    """None: the provider's default."""
    max_tokens: int | None = 1024
    """Most output tokens; None: the provider's limit."""
    top_p: float | None = None
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer (an object); None: plain text."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the provider's own body."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Part of `input_tokens` that the provider read from its prompt cache."""
    reasoning_tokens: int = 0
    """Part of `output_tokens` that went into hidden reasoning, where the provider says so."""


Finish = Literal["stop", "length", "refused", "filtered", "other"]


@dataclass(frozen=True, slots=True)
class Response:
    """A reply that arrived whole. `text` is raw; nothing has been parsed or repaired."""

    text: str
    finish: Finish = "stop"
    """"length": cut at `max_tokens`; "refused" by the model, "filtered" by the provider."""
    usage: Usage | None = None
    model: str | None = None
    """Name of the model that the provider says it used."""
    has_thoughts: bool = False
    """The model reasoned before it answered, and the reply says so; not part of `text`."""


# Kinds of failure that may pass by themselves.
RETRYABLE = frozenset(
    {"rate_limited", "server", "timeout", "connection", "bad_reply", "html", "not_utf8"}
)
# Kinds that every further call of the run would meet as well.
FATAL = frozenset({"auth", "not_found", "quota", "replay_miss"})
# Other kinds of LLMError raised by adapters: "bad_request" (400, 413, 422), "too_large".

Self = TypeVar("Self", bound="Model")


class Model(Shown):
    """Base class of models: configuration only. Building one needs no key and opens nothing."""

    provider: str = "custom"
    """Provider name, part of the memo key."""
    name: str = "model"
    """Model id, part of the memo key."""
    endpoint: str = ""
    """Base address or `cache_id`, part of the memo key; "" for the provider's own."""
    parallel: int | None = None
    """Calls in flight that this model can take; None: the run decides."""
    price: Price | None = None
    """List price; None: looked up by provider and name, maybe unknown."""

    def identity(self) -> dict[str, str]:
        """What tells this model's answers from another's: provider, endpoint, model."""
        return {"provider": self.provider, "endpoint": self.endpoint, "model": self.name}

    def machine(self) -> str | None:
        """Name of the machine that loads one model at a time and runs this one.

        Models of one such machine are asked one after another. None: beside each other.
        """
        return None

    def missing_key(self) -> str | None:
        """What is missing before a call can be made ("OPENAI_API_KEY"), or None."""
        return None

    async def prepare(self) -> None:
        """Learn what `identity` needs from outside; a run awaits it before it makes memo keys.

        Raises nothing: what cannot be learnt stays as last known. Displays never call it.
        """

    async def list_models(self, *, timeout_s: float = 10.0) -> Listing | None:
        """The models that the server has, this one perhaps among them; None: it keeps no list.

        Raises
        ------
        LLMError
            If the server cannot be reached, refuses the key, or answers no list.
        """
        return None

    def dropped_parameters(self, request: Request) -> list[str]:
        """Parameters that are set in the request but that this model does not accept."""
        return []

    def schema_way(self, schema: Mapping[str, Any]) -> str | None:
        """How the next request sends this schema, one of `ladder.WAYS`; None: by its own means."""
        return None

    async def complete(self, request: Request) -> Response:
        """Ask once.

        Raises
        ------
        LLMError
            With `kind` set; see `RETRYABLE` and `FATAL`.
        """
        raise LLMError(
            f"model {self.name!r} ({type(self).__name__}) implements neither complete() nor generate()",
            kind="bad_request",
        )

    def generate(
        self,
        prompt: str,
        system_prompt: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 1024,
        response_format: type[BaseModel] | None = None,
    ) -> str | dict[str, Any]:
        """Ask once, now, and wait: text, or a dict where `response_format` is given.

        Nothing is memoized: pipelines are. Raises LLMError.
        """
        from datafast_nb.engine.direct import generate_now  # upward: needs the loop thread

        answer: str | dict[str, Any] = generate_now(
            self,
            prompt,
            system_prompt=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            response_format=response_format,
        )
        return answer

    def probe(self, *, ask: bool = True) -> Probe:
        """Whether this model can be used, and how fast it is; asks one tiny question.

        The question has about 30 tokens and an answer of at most 64. `probe(ask=False)` asks
        none and tells what the question would cost at most; it looks at the server's list of
        models, which costs nothing.

        Returns
        -------
        Probe
            What was found out, shown as a card; failures are in it, not raised.
        """
        from datafast_nb.engine.loop import spawn  # upward: needs the loop thread
        from datafast_nb.models.probe import probe_model

        return spawn(probe_model(self, ask=ask)).result()

    def with_(self: Self, **changes: Any) -> Self:
        """A copy with other settings: `model.with_(max_in_flight=4)`."""
        new = copy.copy(self)
        for key, value in changes.items():
            if key.startswith("_") or not hasattr(self, key):
                known = ", ".join(sorted(k for k in vars(self) if not k.startswith("_")))
                raise TypeError(f"{type(self).__name__} has no setting {key!r}; it has: {known}")
            setattr(new, key, value)
        return new

    def view(self) -> Document:
        """Plain data for display; of the key only whether it is there."""
        return model_view(self)

    def __repr__(self) -> str:
        return model_line(self)
