"""List prices. Unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datafast_nb.models.base import Model

TOKENS_PER_MTOK = 1_000_000

# Our provider name → the name in genai-prices. A provider that is missing here has no known price.
_PRICE_LIST_PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "google": "google",
    "azure": "azure",
    "openrouter": "openrouter",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "together": "together",
    "fireworks": "fireworks",
    "cohere": "cohere",
    "xai": "x-ai",
}
# They run on the user's machine or make the answer up.
_FREE_PROVIDERS = frozenset({"local", "fake", "ollama"})
# Hosts of OpenAI-compatible services whose prices are listed under their own name.
_HOST_PROVIDERS = {
    "api.openai.com": "openai",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.x.ai": "x-ai",
    "generativelanguage.googleapis.com": "google",
    "api.anthropic.com": "anthropic",
}


class TokenCounts(Protocol):
    """Anything that counts tokens as `Usage` does."""

    @property
    def input_tokens(self) -> int:
        """All input tokens, cached ones included."""

    @property
    def output_tokens(self) -> int:
        """Output tokens, reasoning included."""

    @property
    def cached_input_tokens(self) -> int:
        """Part of `input_tokens` read from the provider's prompt cache."""


@dataclass(frozen=True, slots=True, repr=False)
class Price:
    """List price of a model, in US dollars per million tokens."""

    input_per_mtok_usd: float
    output_per_mtok_usd: float
    cached_input_per_mtok_usd: float | None = None
    """Input tokens from the provider's prompt cache; None: as other input."""
    source: str = ""
    """Where the price comes from, as in "genai-prices 0.2.3"."""

    def __post_init__(self) -> None:
        for name in ("input_per_mtok_usd", "output_per_mtok_usd", "cached_input_per_mtok_usd"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} is {value!r}; a price is a finite number of dollars, 0 or more. "
                    "Where it is not known, give no price at all"
                )

    def cost(self, tokens: TokenCounts) -> float:
        """US dollars for the counted tokens."""
        cached_price = self.cached_input_per_mtok_usd
        cached = min(tokens.cached_input_tokens, tokens.input_tokens)
        if cached_price is None:
            cached_price = self.input_per_mtok_usd
        return (
            (tokens.input_tokens - cached) * self.input_per_mtok_usd
            + cached * cached_price
            + tokens.output_tokens * self.output_per_mtok_usd
        ) / TOKENS_PER_MTOK

    @property
    def is_free(self) -> bool:
        """No token costs anything."""
        return self.input_per_mtok_usd == 0 and self.output_per_mtok_usd == 0

    def __repr__(self) -> str:
        source = f", {self.source}" if self.source else ""
        return f"Price({self.in_words()}{source})"

    def in_words(self) -> str:
        """Prices as the provider lists them: "$0.15 in, $0.60 out per 1M tokens"."""
        if self.is_free:
            return "free"
        parts = [f"{list_usd(self.input_per_mtok_usd)} in"]
        if self.cached_input_per_mtok_usd is not None:
            parts.append(f"{list_usd(self.cached_input_per_mtok_usd)} cached")
        parts.append(f"{list_usd(self.output_per_mtok_usd)} out per 1M tokens")
        return ", ".join(parts)


def list_usd(value: float) -> str:
    """A listed price, every digit of it: "$0.60", "$1.25", "$0.075", "$15"."""
    if value == round(value):
        return f"${value:,.0f}"
    digits = f"{value:.10f}".rstrip("0")
    return f"${value:,.2f}" if len(digits.partition(".")[2]) <= 2 else f"${digits}"


def as_price(price: Price | tuple[float, float] | None) -> Price | None:
    """The price that a user wrote down, perhaps as (input, output) per million tokens."""
    if price is None or isinstance(price, Price):
        return price
    if isinstance(price, (tuple, list)) and len(price) == 2:
        return Price(float(price[0]), float(price[1]), source="as given")
    raise TypeError(
        f"price is {price!r}; give Price(input_per_mtok_usd, output_per_mtok_usd) or a pair "
        "(input, output), in US dollars per million tokens"
    )


def price_of(model: Model) -> Price | None:
    """List price of a model; None where it is not known. Opens no socket.

    The model's own `price` comes first; local, fake and Ollama models are free; otherwise the
    tables of genai-prices that are installed. Some listed prices rise above a number of input
    tokens: the first tier is used, so that prompts beyond it (200,000 tokens and more)
    cost more than is shown.
    """
    given: Any = model.price
    if given is not None:
        return as_price(given)
    if model.provider in _FREE_PROVIDERS:
        return Price(0.0, 0.0, source="runs on this machine")
    provider = _list_provider(model)
    return None if provider is None else _listed(provider, model.name)


def similar_names(model: Model) -> list[str]:
    """Up to three listed models of the same provider whose names resemble this one's."""
    import difflib

    provider = _list_provider(model)
    return difflib.get_close_matches(model.name, _names(provider)) if provider else []


@lru_cache(maxsize=32)
def _names(provider: str) -> tuple[str, ...]:
    from genai_prices.data_snapshot import get_snapshot

    found = (p for p in get_snapshot().providers if p.id == provider)
    return tuple(m.id for p in found for m in p.models)


def listed_context(model: Model) -> int | None:
    """Tokens of prompt and answer together, as genai-prices lists them; None: not known."""
    provider = _list_provider(model)
    return None if provider is None else _context(provider, model.name)


@lru_cache(maxsize=64)
def _context(provider: str, name: str) -> int | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, found = get_snapshot().find_provider_model(name, None, provider, None)
    except LookupError:
        return None
    return found.context_window


def _list_provider(model: Model) -> str | None:
    """The provider's name in the price list; None where nobody lists its prices."""
    address = str(getattr(model, "base_url", None) or model.endpoint)
    if "//" in address:
        return _host_provider(address)
    return _PRICE_LIST_PROVIDERS.get(model.provider)


def _host_provider(endpoint: str) -> str | None:
    from urllib.parse import urlsplit

    host = urlsplit(endpoint).hostname or ""
    if host.endswith(".openai.azure.com"):
        return "azure"
    return _HOST_PROVIDERS.get(host)


@lru_cache(maxsize=512)
def _listed(provider: str, name: str) -> Price | None:
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(
            Usage(input_tokens=1, output_tokens=1), model_ref=name, provider_id=provider
        )
    except LookupError:
        return None
    listed: Any = found.model_price
    per_input, per_output = _per_mtok(listed.input_mtok), _per_mtok(listed.output_mtok)
    if per_input is None or per_output is None:
        return None
    return Price(
        per_input,
        per_output,
        _per_mtok(listed.cache_read_mtok),
        source=prices_version(),
    )


def _per_mtok(value: Any) -> float | None:
    """One entry of the table: a number, or tiers whose first is meant."""
    if value is None:
        return None
    return float(getattr(value, "base", value))


@lru_cache(maxsize=1)
def prices_version() -> str:
    """Name and version of the price tables: "genai-prices 0.2.3"."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"
