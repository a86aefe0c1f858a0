"""OpenAI and every server that speaks its chat completions.

Calls go over our own connection, or through the official client (`client=`); both ways share
the wire format in `chat` and `responses`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from datafast_nb.models.base import Request, Response
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.chat import Structured, parse_reply, request_body
from datafast_nb.models.pricing import Price
from datafast_nb.models.remote import RemoteModel
from datafast_nb.models.responses import parse_responses, responses_body
from datafast_nb.models.wire import Secret, WireReply, host_of

DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_NAME = "OPENAI_API_KEY"

Api = Literal["chat", "responses"]


class ChatModel(RemoteModel):
    """A model that is asked by OpenAI's chat completions or responses."""

    provider = "openai"
    default_base_url = DEFAULT_BASE_URL
    blocking_clients = ("OpenAI", "AzureOpenAI")
    list_path = "/models"
    client_fields = frozenset(
        {
            *("model", "messages", "temperature", "top_p", "max_tokens", "response_format"),
            *("max_completion_tokens", "input", "store", "max_output_tokens", "text"),
            *("tools", "tool_choice"),
        }
    )
    organization: str | None = None
    api: Api = "chat"

    def _settle(self) -> None:
        if self.api not in ("chat", "responses"):
            raise ValueError(f"api is {self.api!r}; use 'chat' or 'responses'")
        super()._settle()
        page = "responses" if self.api == "responses" else "chat/completions"
        self._page = f"{self.base_url}/{page}"

    def _tidy(self, base_url: str) -> str:
        return base_url.removesuffix("/chat/completions").removesuffix("/responses")

    def _url(self) -> str:
        return self._page

    def _own_headers(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {"OpenAI-Organization": self.organization} if self.organization else {}

    def dropped_parameters(self, request: Request) -> list[str]:
        """Parameters that are set in the request but that this model does not accept."""
        return dropped(capabilities(self.name), request)

    def _body(self, request: Request, way: str) -> dict[str, Any]:
        write = responses_body if self.api == "responses" else request_body
        return write(self.name, request, structured=way)

    def _read(self, reply: WireReply, key: Secret) -> Response:
        read = parse_responses if self.api == "responses" else parse_reply
        place = host_of(self.base_url)
        return read(reply, model=self.name, place=place, key_name=self.key_name, secret=key)

    async def _call_client(self, client: Any, fields: dict[str, Any]) -> Any:
        page = client.responses if self.api == "responses" else client.chat.completions
        return await page.create(**fields, timeout=self.timeout_s)


class OpenAIModel(ChatModel):
    """A model of OpenAI, asked through the chat completions or the responses API.

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
        How a schema is sent. "json_schema": as `response_format`; "tool": as the input of a
        tool that must be used; "json_mode": under the last message, with any JSON object as
        `response_format`; "prompt": under the last message alone; "auto": the first of these
        that the server does not refuse.
    cache_id
        Name that stands for the address in memo keys, so that answers outlive a move.
    headers
        Further HTTP headers. Their values are hidden like the key.
    api
        "chat" or "responses". Both ask the same model: an answer got by one is not paid again
        by the other.
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
        structured: Structured = "auto",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        api: Api = "chat",
    ) -> None:
        self.organization = organization
        self.api = api
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL,
            client=client,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )


class OpenAICompatibleModel(ChatModel):
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
        structured: Structured = "auto",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        api: Api = "chat",
    ) -> None:
        self.organization = organization
        self.api = api
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url,
            client=client,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )
