"""A model behind HTTP: its settings, key, address, and the two ways of asking it.

Calls go over our own connection, or through the provider's official client (`client=`). What
the body and the reply look like is the adapter's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from datafast_nb.errors import LLMError, MissingKeyError
from datafast_nb.models import ladder
from datafast_nb.models.base import Model, Request, Response
from datafast_nb.models.listing import Listing, listing_of
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

_CLIENT_SECRETS = ("api_key", "auth_token", "aws_secret_key", "aws_session_token")


class RemoteModel(Model):
    """Settings and calls that all models behind HTTP share. Adapters derive from it.

    Building one needs no key and opens nothing.
    """

    key_name: str = ""
    """Variable that holds the key where none is given; "" where no key is needed."""
    other_key_names: ClassVar[tuple[str, ...]] = ()
    """Variables that are read where `key_name` is not set."""
    default_base_url: ClassVar[str] = ""
    """The provider's own address, which is "" in memo keys."""
    ways: ClassVar[tuple[str, ...]] = ladder.WAYS
    """Ways of sending a schema that this adapter knows, the best first."""
    client_fields: ClassVar[frozenset[str]] = frozenset()
    """What the official client takes by name; the rest goes through its `extra_body`."""
    blocking_clients: ClassVar[tuple[str, ...]] = ()
    """Names of client classes that block; "Async" + the name is the one to use."""
    list_path: ClassVar[str] = ""
    """Where the server lists its models, below `base_url`."""
    max_in_flight: int | None

    def __init__(
        self,
        model_id: str,
        *,
        api_key: str | None,
        base_url: str,
        client: Any,
        price: Price | tuple[float, float] | None,
        timeout_s: float,
        max_in_flight: int | None,
        structured: str,
        cache_id: str | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self.name = model_id
        self.base_url = base_url
        self.client = client
        self.price = as_price(price)
        self.timeout_s = timeout_s
        self.max_in_flight = max_in_flight
        self.structured = structured
        self.cache_id = cache_id
        self.api_key: Secret | str | None = api_key
        self.headers: Mapping[str, str] = headers or {}
        self._settle()

    # What an adapter tells of its provider.

    def _url(self) -> str:
        """Address of the call."""
        raise NotImplementedError

    def _body(self, request: Request, way: str) -> dict[str, Any]:
        """The request as the provider writes it, its schema sent in one of `ways`."""
        raise NotImplementedError

    def _read(self, reply: WireReply, key: Secret) -> Response:
        """The response in a reply that arrived whole. Raises LLMError."""
        raise NotImplementedError

    def _key_headers(self, key: str) -> dict[str, str]:
        """Headers that carry the key."""
        return {"Authorization": f"Bearer {key}"}

    def _own_headers(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Further headers of the provider."""
        return {}

    async def _call_client(self, client: Any, fields: dict[str, Any]) -> Any:
        """Ask once through the official client."""
        raise NotImplementedError

    # Settings.

    def _settle(self) -> None:
        """Check the settings, hide the secret ones, derive the rest."""
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"model_id is {self.name!r}; give the model's name, as in 'gpt-4o'")
        if self.structured not in ("auto", *self.ways):
            known = ", ".join(repr(s) for s in ("auto", *self.ways[:-1]))
            raise ValueError(f"structured is {self.structured!r}; use {known} or {self.ways[-1]!r}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s!r}; give seconds above 0")
        if self.client is not None:
            kind = type(self.client).__name__
            if kind in self.blocking_clients:
                raise TypeError(f"client is a {kind}, which blocks; give an Async{kind}")
            self.base_url = self._client_address() or self.base_url
        self.base_url = self._tidy(self.base_url.strip().rstrip("/"))
        if not re.match(r"https?://[^/]", self.base_url):
            raise ValueError(
                f"base_url is {self.base_url!r}; give the full address, "
                "as in 'http://localhost:8000/v1'"
            )
        self.endpoint = self.cache_id or (
            "" if self.base_url == self.default_base_url else without_login(self.base_url)
        )
        self.parallel = self.max_in_flight
        self.price = as_price(self.price)
        if isinstance(self.api_key, str):
            self.api_key = Secret(self.api_key.strip())
        self.headers = SecretHeaders(self.headers)

    def _tidy(self, base_url: str) -> str:
        """The base address in an address that may name a page below it."""
        return base_url

    def _client_address(self) -> str:
        return str(getattr(self.client, "base_url", ""))

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

    # The key.

    def missing_key(self) -> str | None:
        """Name of the variable that should hold the key, where no key is found."""
        if self.client is not None or not self.key_name or self._key():
            return None
        return self.key_name

    def _key(self) -> Secret:
        """The key that was given, else the variable's as it is now."""
        if isinstance(self.api_key, Secret) and self.api_key:
            return self.api_key
        for name in (self.key_name, *self.other_key_names):
            value = os.environ.get(name, "").strip() if name else ""
            if value:
                return Secret(value)
        return Secret()

    def _headers(self, key: Secret, body: Mapping[str, Any]) -> SecretHeaders:
        headers = SecretHeaders({"Content-Type": "application/json"})
        if key:
            if not re.fullmatch(r"[!-~]+", key.reveal()):
                raise LLMError(
                    f"the API key of model {self.name!r} holds a space or another character that "
                    "no key has; copy it again",
                    kind="auth",
                    model=self.name,
                )
            headers.update(self._key_headers(key.reveal()))
        headers.update(self._own_headers(body))
        headers.update(self.headers)
        return headers

    # Asking.

    def _ways_for(self, schema: Mapping[str, Any]) -> tuple[str, ...]:
        """Ways in which this schema may be sent, the best first."""
        return self.ways if self.structured == "auto" else (self.structured,)

    def schema_way(self, schema: Mapping[str, Any]) -> str | None:
        """How the next request sends this schema, one of `ladder.WAYS`."""
        return ladder.way_now(self, self._ways_for(schema))

    async def complete(self, request: Request) -> Response:
        """Ask once.

        Raises
        ------
        LLMError
            `WayRefused` where the server does not take the schema the way it was sent: the next
            call sends it another way.
        """
        if request.schema is None:
            return await self._ask(request, "")
        ways = self._ways_for(request.schema)
        way = ladder.way_now(self, ways)
        try:
            response = await self._ask(request, way)
        except LLMError as exc:
            failure = ladder.after_failure(self, ways, way, exc)
            if failure is exc:
                raise
        else:
            ladder.note_success(self, way)
            return response
        raise failure

    async def _ask(self, request: Request, way: str) -> Response:
        body = self._body(request, way)
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
        secret = key.with_headers(self.headers)
        try:
            reply = await send(
                self._url(),
                headers=self._headers(key, body),
                body=encode_json(body),
                timeout_s=self.timeout_s,
            )
            return self._parse(reply, secret)
        except LLMError as exc:
            exc.model = self.name
            failure = secret.clear(exc)
        # Raised out here, where no local variable holds the reply: it may echo the key.
        raise failure

    def _parse(self, reply: WireReply, key: Secret) -> Response:
        try:
            return self._read(reply, key)
        except LLMError as exc:
            if exc.kind == "not_found":
                near = similar_names(self)
                if near:
                    exc.add_note(f"Models of a similar name: {', '.join(near)}")
            raise

    async def list_models(self, *, timeout_s: float = 10.0) -> Listing:
        """Ask the server which models it has. Costs nothing, asks no model.

        Raises
        ------
        LLMError
            If the server cannot be reached, refuses the key, or answers no list.
        """
        key = self._client_key() if self.client is not None else self._key()
        secret = key.with_headers(self.headers)
        try:
            reply = await send(
                self.base_url + self.list_path,
                headers=self._headers(key, {}),
                body=None,
                timeout_s=timeout_s,
            )
            return listing_of(
                reply,
                model=self.name,
                place=host_of(self.base_url),
                key_name=self.key_name,
                secret=secret,
            )
        except LLMError as exc:
            exc.model = self.name
            failure = secret.clear(exc)
        raise failure

    async def _ask_client(self, body: dict[str, Any]) -> Response:
        """The same call through the user's client, with its own retries switched off."""
        client = self.client
        if hasattr(client, "with_options"):
            client = client.with_options(max_retries=0)
        fields = {k: _plain(v) for k, v in body.items() if k in self.client_fields}
        extra = {k: v for k, v in body.items() if k not in self.client_fields}
        if extra:
            fields["extra_body"] = extra
        try:
            # The client's own timeout counts from byte to byte; this one bounds the whole.
            async with asyncio.timeout(self.timeout_s):
                reply = _reply_of(await self._call_client(client, fields))
            return self._parse(reply, self._client_key())
        except LLMError as exc:
            failure = exc
        except Exception as exc:
            failure = self._client_error(exc)
        # Not chained: the client's error holds its request, and with it the key.
        raise self._client_key().clear(failure)

    def _client_key(self) -> Secret:
        """The secrets of the user's client, to be taken out of what the server says."""
        held = [getattr(self.client, name, None) for name in _CLIENT_SECRETS]
        key, *more = (value if isinstance(value, str) else "" for value in held)
        secret = Secret(key, *more)
        headers: Any = None
        with contextlib.suppress(Exception):  # a client of the user's own
            headers = getattr(self.client, "default_headers", None)
            if headers is None:
                headers = self.client._client.headers
        return secret.with_headers(headers) if isinstance(headers, Mapping) else secret

    def _client_reply(self, exc: Exception) -> WireReply | None:
        """The reply that the client's error was made from, where there was one."""
        response = getattr(exc, "response", None)
        status = getattr(exc, "status_code", None)
        if isinstance(status, int) and response is not None and status >= 400:
            return WireReply(status, response.headers, response.content)
        return None

    def _client_error(self, exc: Exception) -> LLMError:
        reply = self._client_reply(exc)
        if reply is not None:
            try:
                self._parse(reply, self._client_key())
            except LLMError as failure:
                return failure
        names = {base.__name__ for base in type(exc).__mro__}
        if names & {"APITimeoutError", "TimeoutError", "TimeoutException"}:
            kind, what = "timeout", f"did not answer within {self.timeout_s:g} s (timeout_s)"
        elif names & {"APIConnectionError", "OSError", "TransportError"}:
            kind, what = "connection", "could not be reached, or broke off"
        elif isinstance(exc, UnicodeDecodeError):
            kind, what = "not_utf8", "got a reply that is no UTF-8"
        elif str(getattr(exc, "doc", ""))[:200].lstrip().startswith("<"):
            kind, what = "html", "got a web page, no JSON"
        elif isinstance(exc, ValueError) or "APIResponseValidationError" in names:
            kind, what = "bad_reply", "got a reply that is no JSON of this API's kind"
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
