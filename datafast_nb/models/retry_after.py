"""How long a provider asks to wait, read from the headers of its reply."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime

MAX_RESET_S = 60.0
"""A reset says when all of a limit is free again, which a single call need not wait for."""
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
# What is left of a limit, and when it is whole again.
_RESETS = tuple(
    (style.format(what, "remaining"), style.format(what, "reset"))
    for style, whats in (
        ("x-ratelimit-{1}-{0}", ("requests", "tokens")),
        (
            "anthropic-ratelimit-{0}-{1}",
            ("requests", "tokens", "input-tokens", "output-tokens"),
        ),
    )
    for what in whats
)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait; None where it does not say.

    A date is taken relative to the server's own `Date`, so that a wrong clock here does no harm;
    one that is past means 0.
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
            seconds = max(0.0, until - _now(headers))
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until a used-up limit is whole again, `MAX_RESET_S` at most; None if not said.

    For refusals without `Retry-After`. OpenAI's form is a duration ("6m0s", "120ms"),
    Anthropic's a date of RFC 3339.
    """
    found = []
    for remaining, reset in _RESETS:
        left, value = headers.get(remaining), headers.get(reset)
        if left is None or value is None or left.strip() != "0":
            continue
        seconds = _duration_s(value.strip())
        if seconds is None:
            until = _date(value.strip())
            if until is None:
                continue
            seconds = max(0.0, until - _now(headers))
        found.append(min(seconds, MAX_RESET_S))
    return max(found, default=None)


# Gemini says it in the body alone: {"@type": "…RetryInfo", "retryDelay": "17s"}.
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,6}(?:\.\d{1,9})?)s"')


def retry_delay_s(body: bytes) -> float | None:
    """Seconds to wait that Google's error body names; None where it names none."""
    found = _RETRY_DELAY.search(body[:20_000])
    return float(found[1]) if found else None


def _duration_s(text: str) -> float | None:
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    return sum(float(n) * _UNITS_S[unit] for n, unit in _PART.findall(text))


def _date(text: str) -> float | None:
    try:
        made = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()


def _now(headers: Mapping[str, str]) -> float:
    """The server's clock, else ours."""
    now = _timestamp(headers.get("date", ""))
    return time.time() if now is None else now


def _timestamp(http_date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(http_date).timestamp()
    except (ValueError, OverflowError):
        return None
