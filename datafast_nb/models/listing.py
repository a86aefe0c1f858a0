"""What a server says of its models: names, and for some the context, in one of three dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datafast_nb.errors import LLMError
from datafast_nb.models.wire import Secret, WireReply, decode_json, quote, status_error


@dataclass(frozen=True, slots=True)
class Listing:
    """Models of a server, in its order."""

    names: tuple[str, ...]
    contexts: Mapping[str, int] = field(default_factory=dict)
    """Name → tokens of prompt and answer together, where the server says so."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Name → hash of the weights (Ollama)."""
    entries: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """What the server said of each, as it came."""
    is_whole: bool = True
    """False: the server has more models than it listed."""

    def has(self, name: str) -> bool | None:
        """Whether the model is there; None where the list was cut and does not show it."""
        wanted = _bare(name)
        if any(_bare(known) == wanted for known in self.names):
            return True
        return False if self.is_whole else None

    def context(self, name: str) -> int | None:
        """Tokens of prompt and answer together, if the server says so."""
        wanted = _bare(name)
        return next((n for known, n in self.contexts.items() if _bare(known) == wanted), None)


def _bare(name: str) -> str:
    """Gemini lists "models/gemini-…", Ollama "llama3.2:latest"."""
    return name.removeprefix("models/").removesuffix(":latest")


# Names under which servers tell the size of a model's context.
_CONTEXT_FIELDS = (
    *("max_input_tokens", "context_length", "max_model_len", "context_window"),
    *("inputTokenLimit", "max_context_length"),
)


def listing_of(
    reply: WireReply, *, model: str, place: str, key_name: str = "", secret: Secret | None = None
) -> Listing:
    """The list in a reply. Raises LLMError."""
    if reply.status >= 400:
        raise status_error(reply, model=model, place=place, key_name=key_name, secret=secret)
    data = decode_json(reply, model=model, secret=secret)
    entries = data.get("data", data.get("models"))
    if not isinstance(entries, list):
        raise LLMError(
            f"{place} answered no list of models: {quote(reply.body, secret)}. Is base_url the "
            "address of the API?",
            kind="bad_reply",
            model=model,
            status=reply.status,
        )
    names: list[str] = []
    contexts: dict[str, int] = {}
    digests: dict[str, str] = {}
    for entry in entries:
        name = _name(entry)
        if not name:
            continue
        names.append(name)
        size = next((entry[f] for f in _CONTEXT_FIELDS if isinstance(entry.get(f), int)), None)
        if size:
            contexts[name] = size
        digest = entry.get("digest")
        if isinstance(digest, str) and digest:
            digests[name] = digest
    told = tuple(entry for entry in entries if _name(entry))
    return Listing(tuple(names), contexts, digests, told, is_whole=not data.get("has_more"))


def _name(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return ""
    found = entry.get("id") or entry.get("name") or entry.get("model")
    return found if isinstance(found, str) else ""
