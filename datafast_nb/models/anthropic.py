"""Anthropic's Claude, and servers that speak its messages API."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from datafast_nb.models.base import Request, Response
from datafast_nb.models.capabilities import capabilities, dropped
from datafast_nb.models.messages import Structured, messages_body, parse_messages, ways_for
from datafast_nb.models.pricing import Price
from datafast_nb.models.remote import RemoteModel
from datafast_nb.models.wire import Secret, WireReply, host_of

DEFAULT_BASE_URL = "https://api.anthropic.com"
API_VERSION = "2026-10-21"
# The version above refuses sampling parameters for all models, also for those that take them.
SAMPLING_API_VERSION = "2023-06-01"
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


class AnthropicModel(RemoteModel):
    """A Claude model, asked through Anthropic's messages API.

    Newer models refuse `temperature` and `top_p`: they are left out there, and the run says so.
    They may think before they answer, and their thoughts count against `max_tokens`: give room,
    or `extra={"thinking": {"type": "disabled"}}` where the model allows it.
    What is written to Anthropic's prompt cache counts as plain input; its surcharge is not in
    the costs shown.

    Parameters
    ----------
    model_id
        The model's name, as Anthropic writes it.
    api_key
        None: the variable ANTHROPIC_API_KEY, read at each call.
    base_url
        None: the variable ANTHROPIC_BASE_URL, else Anthropic; without "/v1". Part of the memo key.
    client
        An `anthropic.AsyncAnthropic`, or a client like it (Bedrock, Vertex), to be used for the
        calls. Its retries are switched off for them; it may follow redirects.
    price
        `Price`, or (input, output) in US dollars per million tokens; None: the list price.
    timeout_s
        Deadline of one attempt, from connecting to the last byte.
    max_in_flight
        Calls in flight at most; None: the run decides.
    structured
        How a schema is sent. "json_schema": as output format; "tool": as the input of a tool
        that must be used; "prompt": written under the last message; "auto": the first of these
        that model, schema and server allow. A model that thinks cannot be made to use a tool.
    cache_id
        Name that stands for the address in memo keys, so that answers outlive a move.
    headers
        Further HTTP headers. Their values are hidden like the key.
    """

    provider = "anthropic"
    key_name = "ANTHROPIC_API_KEY"
    default_base_url = DEFAULT_BASE_URL
    ways = ("json_schema", "tool", "prompt")
    blocking_clients = ("Anthropic", "AnthropicBedrock", "AnthropicVertex", "AnthropicFoundry")
    list_path = "/v1/models?limit=1000"
    client_fields = frozenset(
        {"model", "messages", "max_tokens", "system", "tools", "tool_choice", "output_config"}
    )

    def __init__(
        self,
        model_id: str = "claude-sonnet-5-5",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        client: Any = None,
        price: Price | tuple[float, float] | None = None,
        timeout_s: float = 120.0,
        max_in_flight: int | None = None,
        structured: Structured = "auto",
        cache_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            model_id,
            api_key=api_key,
            base_url=base_url or os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_BASE_URL,
            client=client,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )

    def _settle(self) -> None:
        super()._settle()
        self._page = f"{self.base_url}/v1/messages"

    def _tidy(self, base_url: str) -> str:
        return base_url.removesuffix("/messages").removesuffix("/v1")

    def _url(self) -> str:
        return self._page

    def _key_headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key}

    def _own_headers(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {"anthropic-version": api_version(body)}

    def dropped_parameters(self, request: Request) -> list[str]:
        """Parameters that are set in the request but that this model does not accept."""
        return dropped(capabilities(self.name, "anthropic"), request)

    def _ways_for(self, schema: Mapping[str, Any]) -> tuple[str, ...]:
        return ways_for(self.name, schema, self.structured)

    def _body(self, request: Request, way: str) -> dict[str, Any]:
        return messages_body(self.name, request, structured=way)

    def _read(self, reply: WireReply, key: Secret) -> Response:
        place = host_of(self.base_url)
        return parse_messages(
            reply, model=self.name, place=place, key_name=self.key_name, secret=key
        )

    async def _call_client(self, client: Any, fields: dict[str, Any]) -> Any:
        headers = {"anthropic-version": SAMPLING_API_VERSION}
        if not _SAMPLING.isdisjoint(fields.get("extra_body", ())):
            fields["extra_headers"] = headers
        return await client.messages.create(**fields, timeout=self.timeout_s)


def api_version(body: Mapping[str, Any]) -> str:
    """The newest version of the API that takes this request."""
    return API_VERSION if _SAMPLING.isdisjoint(body) else SAMPLING_API_VERSION
