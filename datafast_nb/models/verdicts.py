"""What becomes of a reply: usable, or a verdict with its reason and what to do about it.

Every reply goes through here twice: `read_reply` turns what came over the wire in some dialect
into a `Response`, `judge` turns a `Response` into values or a verdict. The sentences for people
are in one table, `REMEDIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datafast_nb.errors import LLMError
from datafast_nb.models.base import Finish, Request, Response, Usage
from datafast_nb.models.wire import Secret, WireReply, decode_json, quote, status_error

Parse = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Remedy:
    """What a kind of failure means, and what helps."""

    cause: str
    advice: str
    asks_again: bool = False
    """Asking the same again may help: `retry_failed()`."""


_MORE = 'on_error="retry" asks more often'
_THINK = "raise max_tokens=, or lower the reasoning effort in extra="
_WRONG_PLACE = "look at base_url= and proxies"

REMEDIES: Mapping[str, Remedy] = {
    # Failures of the call.
    "auth": Remedy("the key was refused", "set the right key, then run again"),
    "not_found": Remedy("no such model", "correct the model's name or address, then run again"),
    "quota": Remedy("the account's quota is used up", "raise the quota, then run again"),
    "rate_limited": Remedy("too many requests", "max_concurrent=4 asks more slowly", True),
    "timeout": Remedy("no reply in time", "a longer timeout_s= gives it more time", True),
    "connection": Remedy("no connection", "look at the network and the address", True),
    "server": Remedy("error of the provider's server", "it may pass by itself", True),
    "bad_request": Remedy("the request was refused", "change what the message names"),
    # What arrived is no reply of the API.
    "bad_reply": Remedy("reply that is none of the API", _WRONG_PLACE, True),
    "html": Remedy(
        "a web page instead of a reply", f"sign in to the network, or {_WRONG_PLACE}", True
    ),
    "not_utf8": Remedy("reply that is no UTF-8", _WRONG_PLACE, True),
    "too_large": Remedy("reply too large", "lower max_tokens="),
    # What the model answered is of no use.
    "refused": Remedy("the model refused", "change the prompt, or ask the same again", True),
    "filtered": Remedy(
        "a content filter stopped it", "change the prompt, or ask the same again", True
    ),
    "cut": Remedy("reply cut at max_tokens", "raise max_tokens="),
    "cut_by_reasoning": Remedy("hidden reasoning used up max_tokens", _THINK),
    "empty": Remedy("empty reply", _MORE, True),
    "unparsable": Remedy("reply is no JSON", _MORE, True),
    "duplicate_keys": Remedy("a key occurs twice in the reply", _MORE, True),
    "not_finite": Remedy("NaN or an infinite number in the reply", _MORE, True),
    "too_deep": Remedy("reply nested too deeply", _MORE, True),
    "wrong_schema": Remedy("reply lacks what was asked", _MORE, True),
    "wrong_type": Remedy("a value of the reply has another type", _MORE, True),
    "unreadable": Remedy("your validator raised", "mend it: the replies are on disk, run again"),
    # No reply was asked for, or none could be kept.
    "prompt": Remedy("prompt cannot be written", "mend the record, or leave it out with skip_if="),
    "replay_miss": Remedy("not in the recording", 'options.mode = "normal" asks the model'),
    "memo": Remedy("the memo could not store it", "mend what the message says, then run again"),
    "error": Remedy("the model's own code raised", "mend the model, then run again"),
}
"""By the kinds of `LLMError` and the verdicts on replies."""
OTHER = Remedy("", "mend what the message says", True)

# Verdicts of a reply that the model may mend when it is shown what is wrong.
CORRECTABLE = frozenset(
    {"unparsable", "duplicate_keys", "not_finite", "too_deep", "wrong_schema", "wrong_type"}
)
# Those after which the question is asked once more.
REASKABLE = CORRECTABLE | {"empty"}


class Unusable(Exception):
    """A reply cannot be used; `verdict` says how, the text why."""

    def __init__(self, verdict: str, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason

    @property
    def advice(self) -> str:
        """What to do about it."""
        return REMEDIES.get(self.verdict, OTHER).advice


# From the wire to a response.


@dataclass(frozen=True, slots=True)
class Found:
    """The parts of a reply, as a dialect finds them in its JSON."""

    text: str
    ending: object = None
    """How the reply ended, in the provider's word; None: it does not say."""
    refusal: str = ""
    """The model's words where it refused."""
    has_thoughts: bool = False
    """The model reasoned, and the reply says so other than by a number of tokens."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API writes its replies."""

    title: str
    """In messages: "OpenAI's chat completions"."""
    holds: str
    """What every answer has, in messages: "choices"."""
    endings: Mapping[str, Finish]
    find: Callable[[Mapping[str, Any], bytes], Found | None]
    """Parts of an answer; None where the reply has no place for one."""
    status_within: Callable[[Mapping[str, Any], bytes], int | None]
    """Status of an error that came with status 200; None where there is none."""
    is_filter: Callable[[WireReply], bool] = lambda reply: False
    """Whether a status of 400 or above stands for the content filter."""


def read_reply(
    reply: WireReply,
    dialect: Dialect,
    *,
    model: str,
    place: str,
    key_name: str = "",
    secret: Secret | None = None,
) -> Response:
    """The response in a reply that arrived whole, in any dialect.

    Raises
    ------
    LLMError
        If the status or the body is an error, or the body is no reply of this API. Refused,
        filtered and cut replies are responses.
    """
    data: Mapping[str, Any] = {}
    if reply.status < 400:
        data = decode_json(reply, model=model, secret=secret)
        status = dialect.status_within(data, reply.body)
        if status is not None:
            reply = WireReply(status, reply.headers, reply.body)
    if reply.status >= 400:
        if dialect.is_filter(reply):
            return Response(quote(reply.body, secret), finish="filtered")
        raise status_error(reply, model=model, place=place, key_name=key_name, secret=secret)
    found = dialect.find(data, reply.body)
    if found is None:
        raise LLMError(
            f"model {model!r}: the reply of {place} holds no {dialect.holds}: "
            f"{quote(reply.body, secret)}. Does it speak {dialect.title}?",
            kind="bad_reply",
            model=model,
            status=reply.status,
        )
    finish: Finish = "stop" if found.ending is None else finish_of(found.ending, dialect.endings)
    if found.refusal:
        finish = "refused"
    served = data.get("model")
    return Response(
        found.text or found.refusal,
        finish=finish,
        usage=found.usage,
        model=served if isinstance(served, str) else None,
        has_thoughts=found.has_thoughts,
    )


# Some servers say more: "content_filter: SAFETY".
_FILTERS = ("content_filter", "safety", "prohibited_content", "blocklist", "recitation", "spii")


def finish_of(ending: object, endings: Mapping[str, Finish]) -> Finish:
    """How a reply ended, by the provider's word for it."""
    word = str(ending)
    known = endings.get(word)
    if known is not None:
        return known
    return "filtered" if word.lower().partition(":")[0].strip() in _FILTERS else "other"


# From a response to values.


def judge(
    response: Response, request: Request, parse: Parse
) -> tuple[dict[str, Any] | None, Unusable | None]:
    """Values of the reply, or why it cannot be used. Raises nothing: the reply is paid."""
    bad = _by_its_end(response, request.max_tokens)
    if bad is not None:
        return None, bad
    try:
        return parse(response.text), None
    except Unusable as exc:
        return None, exc
    except Exception as exc:  # the user's code
        said = f"reading the reply raised {type(exc).__name__}: {exc}"
        return None, Unusable("unreadable", said)


def _by_its_end(response: Response, max_tokens: int | None) -> Unusable | None:
    """Why a reply is unusable whatever its text says, by the way it ended."""
    match response.finish:
        case "length":
            return _cut(response, max_tokens)
        case "refused":
            return Unusable("refused", "the model refused")
        case "filtered":
            return Unusable("filtered", "the provider's content filter stopped the reply")
    return None


def _cut(response: Response, max_tokens: int | None) -> Unusable:
    bound = f" of {max_tokens:,}" if max_tokens else ""
    usage = response.usage or Usage()
    n, n_output = usage.reasoning_tokens, usage.output_tokens
    text = response.text.strip()
    thinks_aloud = text.startswith("<think>") and "</think>" not in text
    has_thoughts = n > 0 or response.has_thoughts or thinks_aloud
    if has_thoughts and (not text or thinks_aloud or 2 * n > n_output):
        most = f"{n:,} of {max(n, n_output):,} output tokens" if n else "the tokens"
        left = "nothing was left for the answer" if not text or thinks_aloud else "it is cut"
        return Unusable(
            "cut_by_reasoning",
            f"the reply was cut at max_tokens{bound}: {most} went into hidden reasoning, and "
            f"{left}; {_THINK}",
        )
    return Unusable("cut", f"the reply was cut at max_tokens{bound}; {REMEDIES['cut'].advice}")
