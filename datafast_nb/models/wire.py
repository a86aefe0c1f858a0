"""What all providers that speak HTTP have in common: keys, JSON both ways, failures.

A provider's own body and reply formats are in its adapter; the connection is in `transport`.
"""

from __future__ import annotations

import base64
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import orjson

from datafast_nb.errors import LLMError

MAX_QUOTED_CHARS = 300
# Shorter pieces of a key are too common in ordinary text to be taken for one.
_KEY_PIECE = 8
_KEY_SHAPED = re.compile(r"(?i)bearer\s+\S+|\b(?:sk|pk|key|gsk)[-_][\w*.-]{6,}|\bAIza[\w-]{10,}")


class Secret:
    """An API key that stays out of repr, `vars` and pickles. Copies keep it.

    An unpickled one is empty, so that the key is looked up again where it is used.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself; to be put into a request header and nowhere else."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key, its longer pieces and anything shaped like a key taken out."""
        key = self._value
        if len(key) >= _KEY_PIECE:
            encoded = base64.b64encode(key.encode()).decode()
            for form in (key, key[::-1], encoded):
                text = _cut_out(text, form)
        return _KEY_SHAPED.sub("[key]", text)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(set)" if self._value else "Secret(empty)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> tuple[type[Secret], tuple[()]]:
        return (Secret, ())


class SecretHeaders(dict[str, str]):
    """HTTP headers whose values stay out of repr, tracebacks with locals, and pickles."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(sorted(self))}>" if self else "<no headers>"

    __str__ = __repr__

    def __reduce__(self) -> tuple[type[SecretHeaders], tuple[()]]:
        return (SecretHeaders, ())

    def __copy__(self) -> SecretHeaders:
        return SecretHeaders(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretHeaders:
        return SecretHeaders(self)


def _cut_out(text: str, key: str) -> str:
    pieces = {key[i : i + _KEY_PIECE] for i in range(len(key) - _KEY_PIECE + 1)}
    hidden: list[tuple[int, int]] = []
    for i in range(len(text) - _KEY_PIECE + 1):
        if text[i : i + _KEY_PIECE] in pieces:
            if hidden and i <= hidden[-1][1]:
                hidden[-1] = (hidden[-1][0], i + _KEY_PIECE)
            else:
                hidden.append((i, i + _KEY_PIECE))
    for start, end in reversed(hidden):
        text = f"{text[:start]}[key]{text[end:]}"
    return text


def clear_of_keys(error: LLMError, model: object) -> None:
    """Take keys out of the error's message and notes; what it was raised from goes if it names one.

    Keys are the model's own, those of variables ending in _API_KEY, and what is shaped like one.
    """
    own = getattr(model, "api_key", None)
    keys = [value for name, value in os.environ.items() if name.endswith("_API_KEY")]
    keys.append(own.reveal() if isinstance(own, Secret) else own if isinstance(own, str) else "")

    def clear(text: str) -> str:
        for key in keys:
            if len(key) >= _KEY_PIECE:
                text = text.replace(key, "[key]")
        return _KEY_SHAPED.sub(lambda m: "[key]" if _is_key(m.group()) else m.group(), text)

    for link in (error.__cause__, error.__context__):
        said = "" if link is None else _said(link)
        if clear(said) != said:
            error.__cause__ = error.__context__ = None
    error.args = tuple(clear(a) if isinstance(a, str) else a for a in error.args)
    notes = getattr(error, "__notes__", None)
    if notes:
        error.__notes__ = [clear(str(note)) for note in notes]


def _is_key(word: str) -> bool:
    """`key_points` is a name, `key-9f3a0` a key."""
    return any(c.isdigit() or c == "*" for c in word)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception of a user's own
        return ""


@dataclass(slots=True)
class WireReply:
    """An HTTP reply that arrived whole. Its repr leaves out what may echo a key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Names in any case, where the mapping allows; built by hand they are in small letters."""
    body: bytes = field(repr=False)


@lru_cache(maxsize=64)
def host_of(url: str) -> str:
    """Host and port of an address, for messages; no path, query or password."""
    parts = urlsplit(url)
    host = parts.hostname or url[:60]
    try:
        return f"{host}:{parts.port}" if parts.port else host
    except ValueError:
        return host


def without_login(url: str) -> str:
    """An address without user, password and query: those may be keys."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.rpartition("@")[2].partition("?")[0]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def clean_text(text: str) -> str:
    """`text` with lone surrogates, which no UTF-8 can hold, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(k)): _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    return value


def encode_json(body: Mapping[str, Any]) -> bytes:
    """JSON of a request body; lone surrogates become U+FFFD. Raises LLMError."""
    try:
        return orjson.dumps(body)
    except TypeError:
        pass
    try:
        return json.dumps(_clean(body), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise LLMError(
            f"the request is no JSON ({exc}); look at extra= and the schema", kind="bad_request"
        ) from exc


def decode_json(reply: WireReply, *, model: str, secret: Secret | None = None) -> dict[str, Any]:
    """The JSON object in a reply; lone surrogates become U+FFFD. Raises LLMError "bad_reply"."""
    value: Any = None
    try:
        value = orjson.loads(reply.body)
    except ValueError:
        # orjson refuses lone surrogates and NaN (in log probabilities), which servers do send.
        try:
            value = _clean(json.loads(reply.body.decode("utf-8")))
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, dict):
        return value
    kind = reply.headers.get("content-type", "no content type")
    raise LLMError(
        f"model {model!r}: the reply is no JSON object ({kind[:60]}, {len(reply.body):,} bytes): "
        f"{quote(reply.body, secret) or 'empty'}. Is base_url the address of the API?",
        kind="bad_reply",
        model=model,
        status=reply.status,
    )


def quote(body: bytes | str, secret: Secret | None = None) -> str:
    """The start of what a provider sent, without the key, in one line."""
    if isinstance(body, bytes):
        # Cut first: redacting is slow on megabytes.
        body = body[: 12 * MAX_QUOTED_CHARS].decode("utf-8", "replace")
    text = " ".join((secret or Secret()).redact(body).split())
    left = len(text) - MAX_QUOTED_CHARS
    return text if left <= 0 else f"{text[:MAX_QUOTED_CHARS]}… ({left:,} more characters)"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait; None where it does not say.

    A date is taken relative to the server's own `Date`, so that a wrong clock here does no harm.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            until = _timestamp(value)
            if until is None:
                continue
            now = _timestamp(headers.get("date", ""))
            seconds = max(0.0, until - (time.time() if now is None else now))
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _timestamp(http_date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(http_date).timestamp()
    except (ValueError, OverflowError):
        return None


# Words in an error's code or type that mean "no money", not "too fast".
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
)
_SERVER_STATUSES = frozenset({408, 409, 425})


def status_error(
    reply: WireReply, *, model: str, place: str, key_name: str = "", secret: Secret | None = None
) -> LLMError:
    """The error that a status of 400 or above stands for.

    Parameters
    ----------
    place
        Who answered, for the message: "api.openai.com".
    key_name
        Variable that should hold the key, for the remedy; "" where there is none.
    """
    status = reply.status
    code, message = _error_details(reply.body)
    said = quote(message or reply.body, secret)
    kind, remedy = "bad_request", "Asking again will not help: change the request"
    if status in (401, 403):
        kind = "auth"
        remedy = f"Check the API key{f' in {key_name}' if key_name else ''} and what it may use"
    elif status == 402 or (status == 429 and code in _QUOTA_CODES):
        kind, remedy = "quota", "The account is out of credit: look at its billing page"
    elif status == 404:
        kind, remedy = "not_found", "Check the model's name and base_url"
    elif status == 429:
        kind, remedy = "rate_limited", "Lower max_concurrent or the requests per minute"
    elif status in _SERVER_STATUSES or status >= 500:
        kind, remedy = "server", "Usually passes; try again later"
    return LLMError(
        f"{place} answered {status} to model {model!r}: {said or 'nothing more'}. {remedy}",
        kind=kind,
        model=model,
        status=status,
        retry_after_s=retry_after_s(reply.headers) if kind in ("rate_limited", "server") else None,
    )


def error_code(body: bytes) -> str:
    """The code in a provider's error body; "" where it has none."""
    return _error_details(body)[0]


def _error_details(body: bytes) -> tuple[str, str]:
    """Code and message of a provider's error body; "" where it has none."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return "", ""
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    codes = [c for c in (error.get("code"), error.get("type")) if isinstance(c, str)]
    code = next((c for c in codes if c in _QUOTA_CODES), codes[0] if codes else "")
    message = error.get("message")
    return code, message if isinstance(message, str) else ""
