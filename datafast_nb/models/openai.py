"""OpenAI and every server that speaks its chat completions.

Calls go over our own connection, or through the official client (`client=`); both ways share
the wire format in `chat`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any, Self

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models.base import Model, Request, Response
from datafast_nb.models.chat import Structured, dropped_parameters, parse_reply, request_body
from datafast_nb.models.pricing import Price, as_price, similar_names
from datafast_nb.models.transport import send
from datafast_nb.models.wire import (
    Secret,
    SecretHeaders,
    WireReply,
    clean_text,
    encode_json,
    host_of,
    quote,
    without_login,
)

DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_NAME = "OPENAI_API_KEY"

# What the official client takes by name; the rest goes through its `extra_body`.
_CLIENT_FIELDS = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
    }
)


class _ChatModel(Model):
    """Settings and calls that both classes share."""

    provider = "openai"
    key_name = ""
    """Variable that holds the key where none is given; "" for none."""
    max_in_flight: int | None

    def __init__(
        self,
        model_id: str,
        *,
        api_key: str | None,
        base_url: str,
        client: Any,
        organization: str | None,
        price: Price | tuple[float, float] | None,
        timeout_s: float,
        max_in_flight: int | None,
        structured: Structured,
        cache_id: str | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self.name = model_id
        self.base_url = base_url
        self.client = client
        self.organization = organization
        self.price = as_price(price)
        self.timeout_s = timeout_s
        self.max_in_flight = max_in_flight
        self.structured: Structured = structured
        self.cache_id = cache_id
        self.api_key: Secret | str | None = api_key
        self.headers: Mapping[str, str] = headers or {}
        self._settle()

    def _settle(self) -> None:
        """Check the settings, hide the secret ones, derive the rest."""
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"model_id is {self.name!r}; give the model's name, as in 'gpt-4o'")
        if self.structured not in ("json_schema", "prompt"):
            raise ValueError(f"structured is {self.structured!r}; use 'json_schema' or 'prompt'")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s!r}; give seconds above 0")
        if self.client is not None:
            if type(self.client).__name__ in ("OpenAI", "AzureOpenAI"):
                raise TypeError(
                    f"client is a {type(self.client).__name__}, which blocks; "
                    f"give an Async{type(self.client).__name__}"
                )
            self.base_url = str(getattr(self.client, "base_url", self.base_url))
        self.base_url = self.base_url.strip().rstrip("/").removesuffix("/chat/completions")
        if not re.match(r"https?://[^/]", self.base_url):
            raise ValueError(
                f"base_url is {self.base_url!r}; give the full address, "
                "as in 'http://localhost:8000/v1'"
            )
        self.endpoint = self.cache_id or (
            "" if self.base_url == DEFAULT_BASE_URL else without_login(self.base_url)
        )
        self.parallel = self.max_in_flight
        self.price = as_price(self.price)
        if isinstance(self.api_key, str):
            self.api_key = Secret(self.api_key.strip())
        self.headers = SecretHeaders(self.headers)
        self._url = f"{self.base_url}/chat/completions"

    def with_(self, **changes: Any) -> Self:
        """A copy with other settings: `model.with_(timeout_s=300)`."""
        for derived, setting in (("parallel", "max_in_flight"), ("endpoint", "cache_id")):
            if derived in changes:
                changes[setting] = changes.pop(derived)
        new = super().with_(**changes)
        new._settle()
        return new

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(
                f"{self!r} holds a client with connections and a key, which cannot be pickled; "
                "build the model without client= where it must travel"
            )
        return vars(self).copy()

    def missing_key(self) -> str | None:
        """Name of the variable that should hold the key, where no key is found."""
        if self.client is not None or not self.key_name or self._key():
            return None
        return self.key_name

    def dropped_parameters(self, request: Request) -> list[str]:
        """Parameters that are set in the request but that this model does not accept."""
        return dropped_parameters(self.name, request)

    def _key(self) -> Secret:
        """The key that was given, else the variable's as it is now."""
        if isinstance(self.api_key, Secret) and self.api_key:
            return self.api_key
        return Secret(os.environ.get(self.key_name, "").strip() if self.key_name else "")

    async def complete(self, request: Request) -> Response:
        """Ask once. Raises LLMError."""
        body = request_body(self.name, request, structured=self.structured)
        if self.client is not None:
            return await self._ask_client(body)
        key = self._key()
        if self.key_name and not key:
            raise MissingKeyError(
                f"model {self.name!r} has no API key: the variable {self.key_name} is not set. "
                f"Set it, or give api_key= to {type(self).__name__}",
                kind="auth",
                model=self.name,
            )
        try:
            reply = await send(
                self._url,
                headers=self._headers(key),
                body=encode_json(body),
                timeout_s=self.timeout_s,
            )
        except LLMError as exc:
            exc.model = self.name
            raise
        return self._parse(reply, key)

    def _headers(self, key: Secret) -> SecretHeaders:
        headers = SecretHeaders({"Content-Type": "application/json"})
        if key:
            if not re.fullmatch(r"[!-~]+", key.reveal()):
                raise LLMError(
                    f"the API key of model {self.name!r} holds a space or another character that "
                    "no key has; copy it again",
                    kind="auth",
                    model=self.name,
                )
            headers["Authorization"] = f"Bearer {key.reveal()}"
        if self.organization:
            headers["OpenAI-Organization"] = self.organization
        headers.update(self.headers)
        return headers

    def _parse(self, reply: WireReply, key: Secret) -> Response:
        place = host_of(self.base_url)
        try:
            return parse_reply(
                reply, model=self.name, place=place, key_name=self.key_name, secret=key
            )
        except LLMError as exc:
            if exc.kind == "not_found":
                near = similar_names(self)
                if near:
                    exc.add_note(f"Models of a similar name: {', '.join(near)}")
            raise

    async def _ask_client(self, body: dict[str, Any]) -> Response:
        """The same call through the user's client, with its own retries switched off."""
        client = self.client
        if hasattr(client, "with_options"):
            client = client.with_options(max_retries=0)
        fields = {k: _plain(v) for k, v in body.items() if k in _CLIENT_FIELDS}
        extra = {k: v for k, v in body.items() if k not in _CLIENT_FIELDS}
        if extra:
            fields["extra_body"] = extra
        try:
            # The client's own timeout counts from byte to byte; this one bounds the whole.
            async with asyncio.timeout(self.timeout_s):
                made = await client.chat.completions.create(**fields, timeout=self.timeout_s)
            return self._parse(_reply_of(made), self._client_key())
        except LLMError as exc:
            failure = exc
        except Exception as exc:
            failure = self._client_error(exc)
        # Not chained: the client's error holds its request, and with it the key.
        failure.__context__ = None
        raise failure.with_traceback(None)

    def _client_key(self) -> Secret:
        """The key of the user's client, to be taken out of what the server says."""
        key = getattr(self.client, "api_key", None)
        return Secret(key if isinstance(key, str) else "")

    def _client_error(self, exc: Exception) -> LLMError:
        response = getattr(exc, "response", None)
        status = getattr(exc, "status_code", None)
        if isinstance(status, int) and response is not None and status >= 400:
            try:
                reply = WireReply(status, response.headers, response.content)
                self._parse(reply, self._client_key())
            except LLMError as failure:
                return failure
        names = {base.__name__ for base in type(exc).__mro__}
        if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
            kind, what = "timeout", f"did not answer within {self.timeout_s:g} s (timeout_s)"
        elif names & {"APIConnectionError", "OSError", "TransportError"}:
            kind, what = "connection", "could not be reached, or broke off"
        elif isinstance(exc, ValueError) or "APIResponseValidationError" in names:
            kind, what = "bad_reply", "got a reply that is no JSON of OpenAI's kind"
        else:
            kind, what = "bad_request", f"failed: {quote(str(exc), self._client_key())}"
        place = host_of(self.base_url)
        return LLMError(
            f"model {self.name!r}: the client for {place} {what} ({type(exc).__name__})",
            kind=kind,
            model=self.name,
        )


def _plain(value: Any) -> Any:
    """The value without lone surrogates, which the client cannot encode."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _reply_of(made: Any) -> WireReply:
    """What the client returned, as it came over the wire; it returns HTML pages as text."""
    if hasattr(made, "model_dump"):
        made = made.model_dump(mode="json", warnings=False)
    if isinstance(made, Mapping):
        return WireReply(200, {"content-type": "application/json"}, encode_json(made))
    return WireReply(200, {}, str(made).encode("utf-8", "replace"))


class OpenAIModel(_ChatModel):
    """A model of OpenAI, asked through the chat completions.

    Building one needs no key and opens nothing.

    Parameters
    ----------
    model_id
        The model's name, as OpenAI writes it.
    api_key
        None: the variable OPENAI_API_KEY, read at each call.
    base_url
        None: the variable OPENAI_BASE_URL, else OpenAI. Part of the memo key.
    client
        An `openai.AsyncOpenAI`, or a client like it, to be used for the calls (Azure, own
        authentication, proxies). Its retries are switched off for them; it may follow redirects.
    price
        `Price`, or (input, output) in US dollars per million tokens; None: the list price.
    timeout_s
        Deadline of one attempt, from connecting to the last byte.
    max_in_flight
        Calls in flight at most; None: the run decides.
    structured
        "json_schema": the schema goes along as `response_format`; "prompt": it is written
        under the last message, for servers that know no schemas.
    cache_id
        Name that stands for the address in memo keys, so that answers outlive a move.
    headers
        Further HTTP headers. Their values are hidden like the key.
    """

    key_name = KEY_NAME

    def __init__(
        self,
        model_id: str = "gpt-4o",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        client: Any = None,
        organization: str | None = None,
        price: Price | tuple[float, float] | None = None,
        timeout_s: float = 120.0,
        max_in_flight: int | None = None,
        structured: Structured = "json_schema",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL,
            client=client,
            organization=organization,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )


class OpenAICompatibleModel(_ChatModel):
    """A model behind a server that speaks OpenAI's chat completions.

    vLLM, LM Studio, llama.cpp, OpenRouter, Azure's `/openai/v1`, … The key is optional and
    never taken from OPENAI_API_KEY; the other parameters are those of `OpenAIModel`.

    Parameters
    ----------
    base_url
        Address with the version, as in "http://localhost:8000/v1". Part of the memo key.
    """

    def __init__(
        self,
        model_id: str,
        base_url: str,
        *,
        api_key: str | None = None,
        client: Any = None,
        organization: str | None = None,
        price: Price | tuple[float, float] | None = None,
        timeout_s: float = 120.0,
        max_in_flight: int | None = None,
        structured: Structured = "json_schema",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url,
            client=client,
            organization=organization,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )
