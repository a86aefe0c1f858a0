"""What lies in one row of the memo, and the checksum that no wrong value gets past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any
from zlib import crc32

import orjson

from datafast_nb.errors import MemoError

_SUM_BYTES = 8
_HEAD_BYTES = _SUM_BYTES + 4  # checksum, then the CRC of the row's name

SPEND = "!spend"
"""How names of rows begin that say what was spent."""

Body = dict[str, Any]
"""A draw, {"i": identity, "r": [reply, ...]}, or a link, {"of": label of the draw}.

A draw may say "c", the index of the reply that was chosen. Rows under `SPEND` hold {"spend": sums}.
"""


NEVER_DATA = frozenset({"refused", "filtered", "cut", "cut_by_reasoning"})
"""Verdicts by how a reply ended: its text is no answer, however it reads."""


class WithheldText(str):
    """Text of a reply that is no answer: kept for people, and never read as data."""

    verdict: str
    reason: str

    @classmethod
    def of(cls, text: str, verdict: str, reason: str) -> WithheldText:
        """The text with its verdict."""
        new = cls(text)
        new.verdict, new.reason = verdict, reason
        return new


@dataclass(frozen=True, slots=True)
class Reply:
    """One paid reply, raw, with what became of it."""

    text: str
    verdict: str
    """"usable", or why not: "refused", "cut", "empty", …: see `models.verdicts`."""
    reason: str = ""
    """Detail of the verdict, for people."""
    finish: str = "stop"
    """As in `models.base.Response`."""
    input_tokens: int | None = None
    """None: the provider did not say."""
    output_tokens: int | None = None
    cached_input_tokens: int = 0
    model: str | None = None
    """Name of the model that the provider says it used."""
    created: float = 0.0
    """Unix time in seconds at which a run came to ask: draws sorted by it stand in input order."""
    latency_s: float = 0.0
    attempts: int = 1


_REPLY_FIELDS = frozenset(f.name for f in fields(Reply))


class _NewReply:
    """A `Reply` in the making, with the same slots.

    A frozen dataclass sets its fields by a call each. With eleven of them that was a third of
    the time of a look-up, so replies are filled in here and then change their class.
    """

    __slots__ = tuple(f.name for f in fields(Reply))

    def __init__(
        self,
        text: str,
        verdict: str,
        reason: str = "",
        finish: str = "stop",
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_input_tokens: int = 0,
        model: str | None = None,
        created: float = 0.0,
        latency_s: float = 0.0,
        attempts: int = 1,
    ) -> None:
        self.text = text
        self.verdict = verdict
        self.reason = reason
        self.finish = finish
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cached_input_tokens = cached_input_tokens
        self.model = model
        self.created = created
        self.latency_s = latency_s
        self.attempts = attempts


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw under a key, with all replies that were paid for it, in order of arrival."""

    key: str
    label: str
    """First label it was stored under."""
    replies: tuple[Reply, ...]
    labels: tuple[str, ...]
    """All labels, the first one first; `Memo.get_many` gives the first alone."""
    chosen: int | None = None
    """Index of the reply that was chosen to answer; None: the latest usable one does."""


class DamagedRowError(ValueError):
    """Stored bytes are not what was written."""


def seal(name: str, body: bytes) -> bytes:
    """`body` with a checksum in front that also ties it to the row `name`."""
    # Without the name a damaged index could hand out an intact value of another row.
    tied = crc32(name.encode()).to_bytes(4, "big") + body
    return sha256(tied).digest()[:_SUM_BYTES] + tied


def unseal(value: object, name: str | None = None) -> Any:
    """The JSON value under a seal. Raises DamagedRowError.

    `name` is the row it should belong to; None: not checked.
    """
    if not isinstance(value, bytes) or len(value) <= _HEAD_BYTES:
        raise DamagedRowError("no sealed value")
    tied = value[_SUM_BYTES:]
    if sha256(tied).digest()[:_SUM_BYTES] != value[:_SUM_BYTES]:
        raise DamagedRowError("checksum differs")
    if name is not None and crc32(name.encode()).to_bytes(4, "big") != tied[:4]:
        raise DamagedRowError("value of another row")
    try:
        return orjson.loads(tied[4:])
    except ValueError as exc:
        raise DamagedRowError("no JSON") from exc


def read_body(value: object, name: object) -> Body:
    """The body of a draw or link from its sealed value. Raises DamagedRowError."""
    if not isinstance(name, str):
        raise DamagedRowError("no name")
    body = unseal(value, name)
    if type(body) is dict and (type(body.get("of")) is str or type(body.get("r")) is list):
        return body
    raise DamagedRowError("neither draw nor link")


def dump(value: Any) -> bytes:
    """JSON bytes; a lone surrogate, which no file can hold, becomes U+FFFD."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_mend(value))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_mend(k): _mend(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mend(v) for v in value]
    if isinstance(value, Reply):
        return {name: _mend(getattr(value, name)) for name in _REPLY_FIELDS}
    return value


def read_reply(data: Any) -> Reply:
    """A `Reply` from its JSON object; fields of later versions are left out.

    Raises
    ------
    DamagedRowError
        If it is none.
    """
    try:
        new = _NewReply(**data)
    except TypeError:
        if not isinstance(data, dict) or not {"text", "verdict"} <= data.keys():
            raise DamagedRowError("no reply") from None
        new = _NewReply(**{k: v for k, v in data.items() if k in _REPLY_FIELDS})
    if type(new.text) is not str or type(new.verdict) is not str:
        raise DamagedRowError("no reply")
    if new.verdict in NEVER_DATA:
        new.text = WithheldText.of(new.text, new.verdict, new.reason)
    reply: Any = new
    reply.__class__ = Reply
    return reply  # type: ignore[no-any-return]


def read_replies(body: Body) -> tuple[Reply, ...]:
    """All replies of a draw's body. Raises DamagedRowError."""
    replies = body.get("r")
    if not isinstance(replies, list) or not replies:
        raise DamagedRowError("no draw")
    if len(replies) == 1 and type(replies[0]) is dict:
        return (read_reply(replies[0]),)
    return tuple([r if type(r) is Reply else read_reply(r) for r in replies])


def chosen_of(body: Body) -> int | None:
    """Index of the reply that was chosen in a draw's body; None: none was."""
    index = body.get("c")
    return index if type(index) is int and 0 <= index < len(body["r"]) else None


def row_name(key: str, label: str) -> str:
    """Name of the row of one draw. Raises MemoError where the parts could be misread."""
    if not key or "/" in key or key[0] == "!":
        raise MemoError(f"memo key {key!r} is empty or holds '/' or a leading '!'; use RequestKeys")
    if not label or "/" in label:
        raise MemoError(f"draw label {label!r} is empty or holds '/'")
    return f"{key}/{label}"


def spend_number(body: Body | None) -> int:
    """How often something was added to a row of spending; 0 where there is none."""
    sums = body.get("spend") if isinstance(body, dict) else None
    n = sums.get("n") if isinstance(sums, dict) else None
    return n if isinstance(n, int) else 0


def key_of(name: str) -> str:
    """The key in a row's name."""
    return name.partition("/")[0]


def fold_links(bodies: Mapping[str, Body]) -> list[tuple[tuple[str, ...], Body]]:
    """(All labels, body) of each draw among the rows of one key, in their order."""
    labels: dict[str, list[str]] = {}
    for name, body in bodies.items():
        if "of" not in body:
            label = name.partition("/")[2]
            labels[label] = [label]
    for name, body in bodies.items():
        if body.get("of") in labels:
            labels[body["of"]].append(name.partition("/")[2])
    return [
        (tuple(labels[name.partition("/")[2]]), body)
        for name, body in bodies.items()
        if "of" not in body
    ]


class Rows:
    """Rows as they will be after some changes, from rows as they are.

    Every row that a change touches must be in `bodies` before it, where it exists.
    """

    def __init__(self, bodies: dict[str, Body]) -> None:
        self.bodies = bodies
        self.changed: dict[str, None] = {}
        """Names of rows to write, in order of their first change."""

    def add_reply(
        self,
        name: str,
        reply: Reply,
        identity: Mapping[str, str],
        *,
        once: bool = False,
        own: bool = False,
    ) -> None:
        """Append a reply to the draw of that name.

        `once`: unless this very reply is there; `own`: a link there gives way to a new draw.
        """
        body = self.bodies.get(name)
        if own and body is not None and "of" in body:
            body = None
        if body is not None and "of" in body:
            # The draw was adopted in the meantime: the reply joins the draw it stands for.
            name = f"{key_of(name)}/{body['of']}"
            body = self.bodies.get(name)
        if body is None:
            body = self.bodies[name] = {"i": dict(identity), "r": []}
        elif once and reply in read_replies(body):
            return
        body["r"].append(reply)
        body.pop("c", None)  # the latest counts again
        self.changed[name] = None

    def choose(self, name: str, index: int) -> None:
        """Let reply number `index` of a draw answer from now on. Raises MemoError where there is none."""
        body = self.bodies.get(name)
        if body is not None and "of" in body:
            name = f"{key_of(name)}/{body['of']}"
            body = self.bodies.get(name)
        if body is None or not 0 <= index < len(body["r"]):
            raise MemoError(f"the memo holds no reply {index} of draw {name!r}")
        body["c"] = index
        self.changed[name] = None

    def add_link(self, name: str, label: str) -> None:
        """Let row `name` stand for the draw `label` of its key, unless it is taken already."""
        key = key_of(name)
        target = self.bodies.get(f"{key}/{label}")
        if target is not None and "of" in target:
            label = target["of"]
            target = self.bodies.get(f"{key}/{label}")
        if target is None or name in self.bodies:
            return
        self.bodies[name] = {"of": label}
        self.changed[name] = None

    def absorb(self, name: str, body: Body) -> bool:
        """Merge a row from elsewhere, dropping nothing; says whether it brought anything new."""
        before = len(self.changed)
        if "spend" in body:
            if spend_number(body) > spend_number(self.bodies.get(name)):
                self.bodies[name] = body
                self.changed[name] = None
            return len(self.changed) > before
        if "of" in body:
            self.add_link(name, str(body["of"]))
            return len(self.changed) > before
        grown, is_new = False, name not in self.bodies
        for reply in read_replies(body):
            n = self._count(name)
            self.add_reply(name, reply, body.get("i") or {}, once=True)
            grown = grown or self._count(name) > n
        index = chosen_of(body)
        if is_new and index is not None and name in self.changed:
            self.bodies[name]["c"] = index
        return grown

    def _count(self, name: str) -> int:
        body = self.bodies.get(name)
        if body is not None and "of" in body:
            body = self.bodies.get(f"{key_of(name)}/{body['of']}")
        return 0 if body is None else len(body["r"])
