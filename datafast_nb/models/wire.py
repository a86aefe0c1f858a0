"""What all providers that speak HTTP have in common: keys, JSON both ways, failures.

A provider's own body and reply formats are in its adapter; the connection is in `transport`.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote as urlquote
from urllib.parse import urlsplit, urlunsplit

import orjson

from datafast_nb.errors import LLMError
from datafast_nb.models.retry_after import reset_s, retry_after_s, retry_delay_s

MAX_QUOTED_CHARS = 300
# Shorter pieces of a key are too common in ordinary text to be taken for one.
_KEY_PIECE = 8
# Headers whose values are no secrets.
_PLAIN_HEADER = re.compile(
    r"(?i)(?:anthropic|openai|x-stainless|content|accept)-|(?:accept|user-agent|host|connection)$"
    r"|(?:http-)?referer$|x-title$"
)
_URL_SAFE = str.maketrans("+/", "-_")
_KEY_SHAPED = re.compile(r"(?i)bearer\s+\S+|\b(?:sk|pk|key|gsk)[-_][\w*.-]{6,}|\bAIza[\w-]{10,}")


class Secret:
    """An API key that stays out of repr, `vars` and pickles. Copies keep it.

    An unpickled one is empty, so that the key is looked up again where it is used. `more` are
    other secrets of the same call, which are taken out of texts together with the key.
    """

    __slots__ = ("_more", "_value")

    def __init__(self, value: str = "", *more: str) -> None:
        self._value = value
        self._more = more

    def with_headers(self, headers: Mapping[str, Any]) -> Secret:
        """The same key, which also takes out what the headers hold, the usual ones excepted."""
        words = (
            word
            for name, value in headers.items()
            if isinstance(value, str) and not _PLAIN_HEADER.match(name)
            for word in value.split()
            if "://" not in word
        )
        return Secret(self._value, *self._more, *words)

    def reveal(self) -> str:
        """The key itself; to be put into a request header and nowhere else."""
        return self._value

    def redact(self, text: str) -> str:
        """`text` with the key, its longer pieces and anything shaped like a key taken out."""
        return _KEY_SHAPED.sub("[key]", self.hide(text))

    def hide(self, text: str) -> str:
        """`text` with the key and its longer pieces taken out, also where they are encoded."""
        keys = [key for key in (self._value, *self._more) if len(key) >= _KEY_PIECE]
        return _cut_out(text, {form for key in keys for form in _forms(key)}) if keys else text

    def clear(self, error: LLMError) -> LLMError:
        """The error without the key, and without frames and causes that could hold it."""
        error.args = tuple(self.hide(a) if isinstance(a, str) else a for a in error.args)
        notes = getattr(error, "__notes__", None)
        if notes:
            error.__notes__ = [self.hide(note) for note in notes]
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)

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


def _forms(key: str) -> set[str]:
    """The key as it may stand in an echo: reversed, in base64, in an address, in hex."""
    raw = key.encode()
    quoted, digits = urlquote(key, safe=""), raw.hex()
    made = {key, key[::-1], quoted, quoted.lower(), digits, digits.upper()}
    for shift in range(3):  # where it stands inside a longer text, base64 writes it three ways
        code = base64.b64encode(b"#" * shift + raw).decode()
        # Digits at the ends also hold bits of what stands around the key.
        code = code.rstrip("=")[2 * shift - (shift == 2) : -1]
        made |= {code, code.translate(_URL_SAFE)}
    return made


def _cut_out(text: str, forms: Iterable[str]) -> str:
    """`text` without the forms and their pieces of `_KEY_PIECE` characters or more."""
    pieces = {form[i : i + _KEY_PIECE] for form in forms for i in range(len(form) - _KEY_PIECE + 1)}
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

    secret = Secret(*keys)

    def clear(text: str) -> str:
        text = secret.hide(text)
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
    """The JSON object in a reply; lone surrogates become U+FFFD.

    Raises
    ------
    LLMError
        "html", "not_utf8" or "bad_reply".
    """
    value: Any = None
    kind, what = "bad_reply", "is no JSON object"
    try:
        value = orjson.loads(reply.body)
    except ValueError:
        # orjson refuses lone surrogates and NaN (in log probabilities), which servers do send.
        try:
            value = _clean(json.loads(reply.body.decode("utf-8")))
        except UnicodeDecodeError:
            kind, what = "not_utf8", "is no UTF-8"
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, dict):
        return value
    content_type = reply.headers.get("content-type", "no content type")
    if "html" in content_type.lower() or reply.body[:200].lstrip()[:1] == b"<":
        kind, what = "html", "is a web page, no JSON object"
    raise LLMError(
        f"model {model!r}: the reply {what} ({content_type[:60]}, {len(reply.body):,} bytes): "
        f"{quote(reply.body, secret) or 'empty'}. Is base_url the address of the API?",
        kind=kind,
        model=model,
        status=reply.status,
    )


class _Pairs(list[tuple[str, Any]]):
    """Keys and values of an object as they were written, a key twice where it stood twice."""


class _Written(str):
    """A piece of JSON as it was written."""


def raw_json(body: bytes, *path: str | int) -> str:
    """Part of a JSON body as it was written, but for spaces.

    A decoded part would hide what makes an answer unusable or another: keys that occur twice,
    NaN, numbers beyond 64 bits.
    """
    text = body.decode("utf-8", "replace")
    try:
        node: Any = json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_float=_Written,
            parse_int=_Written,
            parse_constant=_Written,
        )
    except RecursionError:
        return f"nested too deeply: {text}"
    for step in path:
        parts: Any = dict(node) if isinstance(node, _Pairs) else node
        node = parts[step]
    out: list[str] = []
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, _Written):
            out.append(node)
        elif isinstance(node, _Pairs):
            todo.append(_Written("}"))
            for i, (key, value) in reversed(list(enumerate(node))):
                name = json.dumps(clean_text(key), ensure_ascii=False)
                todo += [value, _Written(f"{', ' if i else ''}{name}: ")]
            out.append("{")
        elif isinstance(node, list):
            todo.append(_Written("]"))
            for i, value in reversed(list(enumerate(node))):
                todo += [value, _Written(", " if i else "")]
            out.append("[")
        else:
            value = clean_text(node) if isinstance(node, str) else node
            out.append(json.dumps(value, ensure_ascii=False))
    return "".join(out)


def quote(body: bytes | str, secret: Secret | None = None) -> str:
    """The start of what a provider sent, without the key, in one line."""
    if isinstance(body, bytes):
        # Cut first: redacting is slow on megabytes.
        body = body[: 12 * MAX_QUOTED_CHARS].decode("utf-8", "replace")
    text = " ".join((secret or Secret()).redact(body).split())
    left = len(text) - MAX_QUOTED_CHARS
    return text if left <= 0 else f"{text[:MAX_QUOTED_CHARS]}… ({left:,} more characters)"


# Words in an error's code or type that mean "no money", not "too fast".
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded"}
)
_SERVER_STATUSES = frozenset({408, 409, 425})
# What only the message tells, in a 400: Anthropic's empty account, Gemini's bad key.
_NO_CREDIT = "credit balance is too low"
_BAD_KEYS = ("API key not valid", "API key expired", "API Key not found")


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
    if status in (401, 403) or (status == 400 and message.startswith(_BAD_KEYS)):
        kind = "auth"
        remedy = f"Check the API key{f' in {key_name}' if key_name else ''} and what it may use"
    elif (
        status == 402
        or (status == 429 and code in _QUOTA_CODES)
        or (status == 400 and _NO_CREDIT in message)
    ):
        kind, remedy = "quota", "The account is out of credit: look at its billing page"
    elif status == 404:
        kind, remedy = "not_found", "Check the model's name and base_url"
    elif status == 429:
        kind, remedy = "rate_limited", "Lower max_concurrent, or set rate_limits="
    elif status in _SERVER_STATUSES or status >= 500:
        kind, remedy = "server", "Usually passes; try again later"
    wait_s = retry_after_s(reply.headers) if kind in ("rate_limited", "server") else None
    if wait_s is None and kind == "rate_limited":
        wait_s = retry_delay_s(reply.body)
    if wait_s is None and kind == "rate_limited":
        wait_s = reset_s(reply.headers)
    return LLMError(
        f"{place} answered {status} to model {model!r}: {said or 'nothing more'}. {remedy}",
        kind=kind,
        model=model,
        status=status,
        retry_after_s=wait_s,
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
    if isinstance(value, list) and value:  # Gemini's, at its address for OpenAI's clients
        value = value[0]
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", ""
    codes = [c for c in (error.get("code"), error.get("type")) if isinstance(c, str)]
    code = next((c for c in codes if c in _QUOTA_CODES), codes[0] if codes else "")
    message = error.get("message")
    return code, message if isinstance(message, str) else ""
