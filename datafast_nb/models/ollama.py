"""Ollama's own chat API: models on this machine, or on one nearby.

`dfn.ollama.models()` lists what is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Column, Document, Head, Paragraph, Row, Table, Value, code
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Request, Response
from datafast_nb.models.listing import Listing
from datafast_nb.models.ollama_chat import ollama_body, parse_ollama, server_address
from datafast_nb.models.pricing import Price
from datafast_nb.models.remote import RemoteModel
from datafast_nb.models.tags import known_digest, note_digests
from datafast_nb.models.wire import Secret, WireReply, host_of

__all__ = ["OllamaModel", "OllamaModels", "models"]

DEFAULT_HOST = "http://127.0.0.1:11434"
HOST_NAME = "OLLAMA_HOST"
DIGEST_CHARS = 12
"""Of a digest: as much as `ollama list` shows."""
LOOKUP_TIMEOUT_S = 2.0
# English has 4 to 4.5 bytes a token: a prompt with more than this for each token of the
# context is too long whatever is in it. What lies in between the server itself refuses.
BYTES_PER_TOKEN = 5
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0"})


class OllamaModel(RemoteModel):
    """A model that Ollama serves.

    Its answers are kept under the digest of the weights, which is looked up when a run begins
    and noted in the memo's folder: after `ollama pull` has brought other weights they are asked
    anew, on another machine with the same weights they are not, and a run whose answers are all
    there needs no server.

    Ollama cuts a prompt that is longer than the context without a word. Here such a prompt is
    an error: before it is sent where its length alone says so, else by the server, which is
    told not to cut (`truncate`, `shift`; servers of before October 2025 do not know these).

    Parameters
    ----------
    model_id
        Name with or without tag, as `ollama list` shows it.
    base_url, host
        Address of the server, two words for one thing. None: the variable OLLAMA_HOST, else
        http://127.0.0.1:11434.
    num_ctx
        Tokens of prompt and answer together. None: the server's default. Part of the memo key.
    parallel
        Calls at a time; the server's OLLAMA_NUM_PARALLEL should be as large.
    keep_alive
        How long the model stays in memory after a call: "10m", seconds, -1 for ever.
    think
        True, False, or "low", "medium", "high" where the model knows them. None: its default.
        Thoughts are not part of the answer, but count against `max_tokens`.
    options
        Further options of Ollama: {"seed": 3, "top_k": 40}. Part of the memo key.
    digest
        The weights that must be there, 12 or more hex digits as `ollama list` shows them; other
        weights under the name are then an error. None: whatever the name stands for.
    api_key
        Key of a server that wants one. None: the variable OLLAMA_API_KEY, which is never sent
        to this machine itself.
    client
        An `ollama.AsyncClient` to be used for the calls.
    timeout_s
        Deadline of one attempt, loading the model included.
    structured
        How a schema is sent. "json_schema": as `format`; "json_mode": under the last message,
        with any JSON object as `format`; "prompt": under the last message alone; "auto": the
        first of these that the server does not refuse.
    cache_id
        Name that stands for the address in memo keys.
    headers
        Further HTTP headers. Their values are hidden like the key.
    """

    provider = "ollama"
    default_base_url = DEFAULT_HOST
    blocking_clients = ("Client",)
    list_path = "/api/tags"
    ways: ClassVar[tuple[str, ...]] = ("json_schema", "json_mode", "prompt")
    client_fields: ClassVar[frozenset[str]] = frozenset(
        {"model", "messages", "stream", "options", "format", "think", "keep_alive"}
        | {"tools", "logprobs", "top_logprobs"}
    )

    def __init__(
        self,
        model_id: str = "llama3",
        base_url: str | None = None,
        *,
        host: str | None = None,
        num_ctx: int | None = 8192,
        parallel: int = 1,
        keep_alive: str | float | None = None,
        think: bool | str | None = None,
        options: Mapping[str, Any] | None = None,
        digest: str | None = None,
        api_key: str | None = None,
        client: Any = None,
        price: Price | tuple[float, float] | None = None,
        timeout_s: float = 600.0,
        structured: str = "auto",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if base_url is not None and host is not None:
            raise ValueError("base_url and host are two words for one thing; give one of them")
        self.num_ctx = num_ctx
        self.keep_alive = keep_alive
        self.think = think
        self.options: Mapping[str, Any] = dict(options or {})
        self.digest = digest
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url or host or os.environ.get(HOST_NAME) or DEFAULT_HOST,
            client=client,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=parallel,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )

    def _settle(self) -> None:
        for setting, value in (("num_ctx", self.num_ctx), ("parallel", self.max_in_flight)):
            if value is not None and (isinstance(value, bool) or value < 1):
                raise ValueError(f"{setting} is {value!r}; give 1 or more")
        if "num_ctx" in self.options:
            raise ValueError("options holds num_ctx; give it as num_ctx=")
        super()._settle()
        if self.digest is not None:
            self.digest = self.digest.removeprefix("sha256:").lower()
            if len(self.digest) < DIGEST_CHARS or not set(self.digest) <= set("0123456789abcdef"):
                raise ValueError(
                    f"digest is {self.digest!r}; give {DIGEST_CHARS} or more hex digits, as "
                    "`ollama list` shows them"
                )
        self._page = f"{self.base_url}/api/chat"
        self._settings = {
            name: json.dumps(value, sort_keys=True, default=str)
            for name, value in (
                ("num_ctx", self.num_ctx),
                ("think", self.think),
                ("options", self.options or None),
            )
            if value is not None
        }

    def _tidy(self, base_url: str) -> str:
        return server_address(base_url)

    def _client_address(self) -> str:
        inner = getattr(self.client, "_client", None)
        return str(getattr(inner, "base_url", ""))

    # Weights.

    def identity(self) -> dict[str, str]:
        """Provider, address, name, digest and what else changes the answers. Opens no socket.

        With a known digest the address does not count: the same weights are the same model.
        """
        digest = self.digest or known_digest(self.base_url, self.name)
        found = {
            "provider": self.provider,
            "endpoint": self.cache_id or ("" if digest else self.endpoint),
            "model": self.name.removesuffix(":latest"),
            **self._settings,
        }
        if digest:
            found["digest"] = digest[:DIGEST_CHARS]
        return found

    def machine(self) -> str | None:
        """The server's host: it loads one model after another."""
        return host_of(self.base_url)

    async def prepare(self) -> None:
        """Look the digests up and note them. Where nobody answers, the noted ones hold."""
        try:
            listing = await self.list_models(timeout_s=min(LOOKUP_TIMEOUT_S, self.timeout_s))
        except LLMError:
            return
        note_digests(self.base_url, _plain_digests(listing))

    async def _check_weights(self) -> None:
        if self.digest is None:
            return
        seen = known_digest(self.base_url, self.name)
        if not seen:
            await self.prepare()
            seen = known_digest(self.base_url, self.name)
        if seen and not (seen.startswith(self.digest) or self.digest.startswith(seen)):
            raise LLMError(
                f"model {self.name!r} at {host_of(self.base_url)} has the weights "
                f"{seen[:DIGEST_CHARS]}, not {self.digest[:DIGEST_CHARS]} as digest= asks. "
                "Pull those, or change digest=",
                kind="not_found",
                model=self.name,
            )

    # Asking.

    def _key(self) -> Secret:
        if isinstance(self.api_key, Secret) and self.api_key:
            return self.api_key
        if urlsplit(self.base_url).hostname in _LOCAL:
            return Secret()
        return Secret(os.environ.get("OLLAMA_API_KEY", "").strip())

    async def complete(self, request: Request) -> Response:
        """Ask once. Raises LLMError."""
        self._check_length(request)
        await self._check_weights()
        try:
            return await super().complete(request)
        except LLMError as exc:
            failure = exc
        if failure.kind == "not_found":
            await self._name_others(failure)
        raise _with_remedy(failure, self.base_url).with_traceback(None)

    async def list_models(self, *, timeout_s: float = 10.0) -> Listing:
        """Ask the server which models it has. Raises LLMError."""
        try:
            return await super().list_models(timeout_s=timeout_s)
        except LLMError as exc:
            failure = exc
        raise _with_remedy(failure, self.base_url).with_traceback(None)

    def _check_length(self, request: Request) -> None:
        if self.num_ctx is None:
            return
        n_bytes = sum(len(m["content"].encode("utf-8", "replace")) for m in request.messages)
        if n_bytes > self.num_ctx * BYTES_PER_TOKEN:
            raise LLMError(
                f"model {self.name!r}: the prompt has {n_bytes:,} bytes, about "
                f"{n_bytes // 4:,} tokens, and does not fit into num_ctx={self.num_ctx:,}; it was "
                "not sent. Shorten it, or give OllamaModel(num_ctx=…) more",
                kind="bad_request",
                model=self.name,
            )

    async def _name_others(self, failure: LLMError) -> None:
        try:
            listing = await self.list_models(timeout_s=LOOKUP_TIMEOUT_S)
        except LLMError:
            return
        there = formats.some_names(sorted(listing.names)) if listing.names else "none"
        failure.add_note(f"Models there: {there}")

    def _url(self) -> str:
        return self._page

    def _body(self, request: Request, way: str) -> dict[str, Any]:
        return ollama_body(
            self.name,
            request,
            structured=way,
            num_ctx=self.num_ctx,
            think=self.think,
            keep_alive=self.keep_alive,
            options=self.options,
        )

    def _read(self, reply: WireReply, key: Secret) -> Response:
        return parse_ollama(
            reply,
            model=self.name,
            place=host_of(self.base_url),
            num_ctx=self.num_ctx,
            secret=key,
        )

    async def _call_client(self, client: Any, fields: dict[str, Any]) -> Any:
        # The client knows neither `truncate` nor `shift`, and has no room for other fields.
        fields.pop("extra_body", None)
        return await client.chat(**fields)

    def _client_reply(self, exc: Exception) -> WireReply | None:
        status = getattr(exc, "status_code", None)
        if not isinstance(status, int) or status < 400:
            return None
        said = str(getattr(exc, "error", exc))
        return WireReply(status, {}, json.dumps({"error": said}).encode())


def _with_remedy(failure: LLMError, address: str) -> LLMError:
    """A refused connection says how to start the server."""
    failure.__context__ = None
    if failure.kind != "connection" or failure.maybe_billed:
        return failure
    place = host_of(address)
    return LLMError(
        f"no Ollama answers at {place}. Is it running? Start it with `ollama serve`, or say where "
        f"it is with {HOST_NAME} or host=",
        kind=failure.kind,
        model=failure.model,
    )


def _plain_digests(listing: Listing) -> dict[str, str]:
    return {name: d.removeprefix("sha256:") for name, d in listing.digests.items()}


# What is there.


class OllamaModels(Shown, list[dict[str, Any]]):
    """Models of an Ollama server, a dict each; `models` says what they hold."""

    def __init__(self, rows: list[dict[str, Any]], place: str) -> None:
        super().__init__(rows)
        self.place = place

    def view(self) -> Document:
        """Plain data for display."""
        head = Head(f"Ollama at {self.place}", (formats.plural(len(self), "model"),))
        if not self:
            return Document(
                (head, Paragraph(("Get one with ", code("ollama pull llama3.2")), is_note=True))
            )
        columns = (
            Column("name", "word"),
            Column("parameters", "word"),
            Column("quantization", "word"),
            Column("size", "word"),
            Column("digest", "word"),
        )
        rows: list[Row] = [
            (
                Value(row["name"]),
                Value(row["parameters"]),
                Value(row["quantization"]),
                Value(None if row["size_bytes"] is None else formats.file_size(row["size_bytes"])),
                Value(row["digest"]),
            )
            for row in self
        ]
        return Document((head, Table(columns, tuple(rows))))


def models(host: str | None = None) -> OllamaModels:
    """The models that an Ollama server has.

    Parameters
    ----------
    host
        Address of the server. None: the variable OLLAMA_HOST, else this machine.

    Returns
    -------
    OllamaModels
        A list of dicts, by name: name, parameters ("3.2B"), quantization, family, size_bytes,
        digest (12 hex digits), modified (ISO time). Unknown is None.

    Raises
    ------
    LLMError
        If no Ollama answers there.
    """
    from datafast_nb.engine.loop import spawn  # upward: needs the loop thread

    model = OllamaModel("any", host)
    listing = spawn(model.list_models()).result()
    note_digests(model.base_url, _plain_digests(listing))
    rows = [_row(entry) for entry in listing.entries]
    return OllamaModels(sorted(rows, key=lambda row: row["name"]), host_of(model.base_url))


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    details = entry.get("details")
    details = details if isinstance(details, Mapping) else {}
    digest = str(entry.get("digest") or "").removeprefix("sha256:")
    size = entry.get("size")
    return {
        "name": str(entry.get("name") or entry.get("model")),
        "parameters": details.get("parameter_size") or None,
        "quantization": details.get("quantization_level") or None,
        "family": details.get("family") or None,
        "size_bytes": size if isinstance(size, int) else None,
        "digest": digest[:DIGEST_CHARS] or None,
        "modified": entry.get("modified_at") or None,
    }
