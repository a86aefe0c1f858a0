"""Google's Gemini, through its endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datafast_nb.models.chat import Structured
from datafast_nb.models.openai import ChatModel
from datafast_nb.models.pricing import Price

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com/v1beta/openai"


class GeminiModel(ChatModel):
    """A model of Google's Gemini.

    It thinks before it answers, and its thoughts count against `max_tokens`: give room, or
    `extra={"reasoning_effort": "none"}` where the model allows it.

    Parameters
    ----------
    model_id
        The model's name, as Google writes it.
    api_key
        None: the variable GEMINI_API_KEY, else GOOGLE_API_KEY, read at each call.
    base_url
        None: Google. Part of the memo key.
    client
        An `openai.AsyncOpenAI` with Google's address, or a client like it (Vertex AI).

    The other parameters are those of `OpenAIModel`.
    """

    provider = "gemini"
    key_name = "GEMINI_API_KEY"
    other_key_names = ("GOOGLE_API_KEY",)
    default_base_url = DEFAULT_BASE_URL

    def __init__(
        self,
        model_id: str = "gemini-3.8-flash",
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
            model_id.removeprefix("models/"),
            api_key=api_key,
            base_url=base_url or DEFAULT_BASE_URL,
            client=client,
            price=price,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            structured=structured,
            cache_id=cache_id,
            headers=headers,
        )
