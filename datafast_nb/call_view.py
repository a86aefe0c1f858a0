"""How a call is shown: its status, its figures, the prompt as sent, the raw reply, the values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.values import blocks_of
from datafast_nb.display.views import (
    Block,
    Fact,
    Facts,
    Line,
    Listing,
    Mark,
    MarkName,
    Paragraph,
    Span,
    muted,
)
from datafast_nb.models.base import Message
from datafast_nb.runs import CallRow, EarlierReply
from datafast_nb.store.ledger import dollars

STATUS: dict[str, tuple[MarkName, str]] = {
    "answered": ("memo", "memo"),
    "new": ("new", "new"),
    "failed": ("failed", "failed"),
    "pending": ("pending", "pending"),
    "not_asked": ("pending", "not asked"),
}
MAX_MESSAGES = 12
MAX_EARLIER = 4
MAX_VALUES = 40
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def status_line(status: str) -> Line:
    """A mark and its word; nothing for ""."""
    if status not in STATUS:
        return ()
    mark, word = STATUS[status]
    return (Mark(mark), f" {word}")


def status_of(calls: Iterable[CallRow]) -> str:
    """What a record cost: "new" if any of its calls was asked in this run, else "answered"."""
    statuses = {c.status for c in calls}
    for status in ("new", "answered"):
        if status in statuses:
            return status
    return ""


def when(asked_at: float, *, has_year: bool = False) -> str:
    """Local time of a call: "20 Nov 16:04"; with its year "20 Nov 2026 16:04"."""
    try:
        t = time.localtime(asked_at)
    except (OverflowError, ValueError, OSError):  # a memo from elsewhere may hold anything
        return "at an unknown time"
    year = f" {t.tm_year}" if has_year else ""
    return f"{t.tm_mday} {MONTHS[t.tm_mon - 1]}{year} {t.tm_hour:02d}:{t.tm_min:02d}"


def figures(call: CallRow) -> list[str]:
    """Model, tokens, price and time of a call, as far as they are known."""
    out = [formats.cell(call.model, formats.MAX_NAME)] if call.model else []
    if call.status not in ("answered", "new", "failed"):
        return out
    if call.n_tries > 1:
        out.append(f"{call.n_tries} tries")
    if call.input_tokens or call.output_tokens:
        out.append(f"{call.input_tokens:,} → {call.output_tokens:,} tokens")
    if call.usd is None:
        out.append("price unknown")
    elif call.status != "failed" or call.usd:
        out.append(dollars(call.usd, 1))
    if call.asked_at is not None:
        took = f", {formats.seconds(call.latency_s)}" if call.latency_s else ""
        out.append(f"asked {when(call.asked_at)}{took}")
    elif call.latency_s:
        out.append(formats.seconds(call.latency_s))
    return out


def call_note(call: CallRow) -> Line:
    """Status and figures of a call in one line."""
    return (*status_line(call.status), muted("".join(f" · {f}" for f in figures(call))))


def call_facts(
    messages: Iterable[Message] | None,
    reply: str | None,
    values: Mapping[str, Any] | None,
    error: str = "",
    earlier: Sequence[EarlierReply] = (),
) -> Facts:
    """Prompt as sent → raw reply → parsed fields, one under the other.

    Parameters
    ----------
    messages, reply, values
        None: not known, or there is none.
    error
        Why there are no values.
    earlier
        Unusable replies between prompt and reply, with what was sent after each.
    """
    facts: list[Fact] = []
    if messages is None:
        facts.append(Fact("1 sent", _words("not kept: the run has very many calls")))
    else:
        sent = list(messages)
        for i, message in enumerate(sent[-MAX_MESSAGES:]):
            label = f"sent as {message['role']}"
            facts.append(Fact(f"1 {label}" if i == 0 else label, _listing(message["content"])))
        if len(sent) > MAX_MESSAGES:
            left = formats.plural(len(sent) - MAX_MESSAGES, "earlier message")
            facts.insert(0, Fact("", _words(f"{left}, such as examples")))
    n = 2
    for bad in earlier[:MAX_EARLIER]:
        facts.append(Fact(f"{n} unusable reply", _listing(bad.text)))
        reason = formats.clip(formats.printable(bad.reason or bad.verdict))
        facts.append(Fact(f"{n + 1} what was wrong", (Mark("failed"), f" {reason}")))
        again = _listing(bad.sent) if bad.sent else _words("the same once more")
        facts.append(Fact(f"{n + 2} sent as user" if bad.sent else f"{n + 2} sent again", again))
        n += 3
    if len(earlier) > MAX_EARLIER:
        more = f"and {len(earlier) - MAX_EARLIER:,} more, as unusable"
        facts.append(Fact("", _words(more)))
    if reply is not None:
        facts.append(Fact(f"{n} raw reply", _listing(reply)))
    elif not error:
        facts.append(Fact(f"{n} raw reply", _words("not kept: the run has very many calls")))
    if values is not None:
        facts.append(Fact(f"{n + 1} parsed", (value_facts(values),)))
    elif error:
        said: Line = (Mark("failed"), f" {formats.clip(formats.printable(error))}")
        facts.append(Fact(f"{n + 1} failed", said))
    return Facts(tuple(facts), is_ruled=True)


def value_facts(values: Mapping[str, Any]) -> Facts:
    """Columns and their values in full, at most `MAX_VALUES` of them."""
    facts = [
        Fact(formats.cell(name, formats.MAX_NAME), blocks_of(value))
        for name, value in list(values.items())[:MAX_VALUES]
    ]
    if len(values) > MAX_VALUES:
        n = formats.plural(len(values) - MAX_VALUES, "more column")
        facts.append(Fact("…", _words(n)))
    return Facts(tuple(facts))


def last_column(record: Mapping[str, Any]) -> str:
    """The column that was written last, bookkeeping left out; "" if there is none."""
    return next((c for c in reversed(list(record)) if not c.startswith("_")), "")


def _listing(text: str) -> tuple[Block, ...]:
    return (Listing((formats.clip(text),)),)


def _words(text: str) -> tuple[Block, ...]:
    return (Paragraph((Span(text, "muted"),)),)
