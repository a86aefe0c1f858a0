"""The card of a model: what it is, what it costs, whether its key is there. Never the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Document,
    Fact,
    Facts,
    Head,
    Inline,
    Legend,
    Line,
    Mark,
    Paragraph,
    code,
    muted,
)
from datafast_nb.models.pricing import Price, list_usd, price_of, prices_version
from datafast_nb.models.tally import Tally, tally_of
from datafast_nb.models.wire import Secret
from datafast_nb.options import shown_path

if TYPE_CHECKING:
    from datafast_nb.models.base import Model

_STRUCTURES = {
    "json_schema": "the schema goes along with the request",
    "prompt": "the schema is written under the prompt",
    "tool": "the schema is the input of a tool",
    "json_mode": "the schema is written under the prompt, with JSON mode",
    "auto": "the best way that the server takes",
}

# What a card tells of a model's own settings. Others may hold a key, and are not shown.
_SETTINGS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("parallel", "in flight", lambda n: f"at most {formats.plural(n, 'call')} at a time"),
    ("timeout_s", "deadline", lambda s: f"{formats.seconds(s)} an attempt"),
    ("latency_s", "latency", lambda s: formats.seconds(s) if s else ""),
    ("num_ctx", "context", lambda n: f"{n:,} tokens, prompt and answer together"),
    ("think", "thinking", lambda how: {True: "on", False: "off"}.get(how, str(how))),
    ("keep_alive", "in memory", lambda t: f"{t} after a call"),
    ("api", "API", lambda name: {"responses": "responses"}.get(name, "")),
    ("n_ctx", "context", lambda n: f"{n:,} tokens, prompt and answer together"),
    ("threads", "threads", lambda n: f"{n:,}"),
    ("structured", "JSON", lambda word: _STRUCTURES.get(word, "")),
    ("path", "weights", shown_path),
    ("recording", "recording", shown_path),
)

MAX_CHARACTERS = 1_000
"""Of a name: what is beyond is not even looked at."""
NO_KEY = "not needed"
NO_KEY_GIVEN = "none given"


def model_line(model: Model) -> str:
    """`OpenAIModel('gpt-4o-mini', provider='openai', $0.15/$0.60 per 1M, key: set)`."""
    parts = [repr(_text(model, "name")), f"provider={_text(model, 'provider')!r}"]
    price = _price(model)
    if price is None:
        parts.append("price unknown")
    elif price.is_free:
        parts.append("free")
    else:
        parts.append(
            f"{list_usd(price.input_per_mtok_usd)}/{list_usd(price.output_per_mtok_usd)} per 1M"
        )
    key = _key_status(model)
    if key not in (NO_KEY, NO_KEY_GIVEN):
        parts.append(f"key: {key}")
    return formats.cell(f"{_class_name(model)}({', '.join(parts)})")


def model_view(model: Model) -> Document:
    """The card. Asks nobody, reads no file."""
    facts = [("price", _price_words(_price(model)))]
    key = _key_status(model)
    facts.append(("key", key))
    endpoint = _address(model)
    if endpoint:
        facts.append(("endpoint", endpoint))
    if _read(model, "parallel") is None:
        facts.append(("in flight", "as many as the run allows"))
    for name, label, words in _SETTINGS:
        value = _read(model, name)
        said = _said(words, value) if value is not None else ""
        if said:
            facts.append((label, said))
    provider = _text(model, "provider")
    name = formats.cell(_text(model, "name"), formats.MAX_NAME)
    blocks: list[Block] = [
        Head(name, (f"{formats.cell(provider, formats.MAX_NAME)} · {_class_name(model)}",)),
        _session(model),
        Facts(tuple(Fact(label, (formats.cell(said),)) for label, said in facts), is_ruled=True),
    ]
    missing = _missing_key(model)
    if missing:
        blocks.append(
            Paragraph(
                ("Nothing is asked before the key is there: ", *_how_to_set(missing)),
                is_note=True,
            )
        )
    return Document(tuple(blocks))


def _how_to_set(name: str) -> Line:
    if name.isidentifier():
        return (code(f"os.environ[{name!r}] = …"), " or ", code("api_key=…"))
    return (name,)


def _session(model: Model) -> Legend:
    try:
        tally = tally_of(model)
    except Exception:  # an attribute of a user's model that cannot be read
        tally = Tally()
    if not tally.calls:
        return Legend(((muted("no call in this session"),),))
    calls: list[Inline] = [Mark("new"), f" {formats.plural(tally.calls, 'call')} in this session"]
    items: list[Line] = [tuple(calls)]
    if tally.failed:
        items.append((Mark("failed"), f" {tally.failed:,} without a reply"))
    priced = tally.calls - tally.unpriced
    if tally.unpriced and not (priced and tally.usd):
        items.append(("paid unknown",))
    elif tally.unpriced:
        items.append((f"paid {formats.usd(tally.usd)}, and {tally.unpriced:,} of unknown price",))
    elif tally.usd:
        items.append((f"paid {formats.usd(tally.usd)}",))
    return Legend(tuple(items))


def _price_words(price: Price | None) -> str:
    if price is None:
        return "unknown; give price=(input, output) in dollars per 1M tokens"
    if price.is_free:
        return f"free, {price.source}" if price.source else "free"
    return f"{price.in_words()} · {price.source or prices_version()}"


def _price(model: Model) -> Price | None:
    try:
        return price_of(model)
    except Exception:  # a price or a name that a user's class cannot tell
        return None


def _missing_key(model: Model) -> str | None:
    try:
        missing = model.missing_key()
    except Exception as exc:
        return f"unknown ({type(exc).__name__} when it was looked for)"
    return None if missing is None else _clean(model, str(missing))


def _key_status(model: Model) -> str:
    missing = _missing_key(model)
    if missing is not None:
        return f"missing: {missing}"
    if _read(model, "client") is not None:
        return "the client's own"
    if _read(model, "key_name") or _read(model, "api_key"):
        return "set"
    return NO_KEY if _read(model, "api_key") is None else NO_KEY_GIVEN


def _address(model: Model) -> str:
    """Where it is asked, without what may be a key: user, password, query."""
    endpoint = str(_read(model, "endpoint") or "")
    if "//" in endpoint:
        try:
            parts = urlsplit(endpoint)
        except ValueError:
            return "an address that cannot be read"
        host = parts.netloc.rpartition("@")[2]
        endpoint = f"{parts.scheme}://{host}{parts.path}"
    return formats.short_digests(_clean(model, endpoint))


def _class_name(model: Model) -> str:
    return type(_read(model, "target") or model).__name__


def _text(model: Model, name: str) -> str:
    value = _read(model, name)
    return "?" if value is None else _clean(model, str(value)[:MAX_CHARACTERS])


def _clean(model: Model, text: str) -> str:
    """Text without the model's key, should someone have put it there."""
    key = _read(model, "api_key")
    secret = key if isinstance(key, Secret) else Secret(key if isinstance(key, str) else "")
    return secret.redact(text)


def _said(words: Callable[[Any], str], value: Any) -> str:
    try:
        return words(value)
    except Exception:  # a setting of another kind under the same name, in a user's class
        return ""


def _read(model: Model, name: str) -> Any:
    """An attribute, None where it is missing or a user's property raises."""
    try:
        return getattr(model, name, None)
    except Exception:
        return None
