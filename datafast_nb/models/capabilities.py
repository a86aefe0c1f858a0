"""What a model accepts, by its name: parameters go only where they are taken.

One table per API, dated; the first pattern that fits the start of the name counts. What is not
accepted is left out of the request, and `dropped` tells which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from datafast_nb.models.base import Request


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model accepts."""

    takes_sampling: bool = True
    """`temperature` and `top_p`; others than the default are an error where it is False."""
    takes_both: bool = True
    """`temperature` and `top_p` in one request; where not, `top_p` is left out."""
    max_tokens_name: str = "max_tokens"
    takes_schema: bool = True
    """A JSON schema for the answer, other than as the input of a tool."""
    default_max_tokens: int = 8192
    """Sent where the API needs a bound and none is given."""


_NEW_NAME = "max_completion_tokens"
_REASONING = Capabilities(takes_sampling=False, max_tokens_name=_NEW_NAME)
# As of 2026-11: developers.openai.com/api/docs/guides/reasoning and the pages of the models.
# From gpt-5 on all reason, but for the chat variants of 5.x.
_OPENAI: tuple[tuple[str, Capabilities], ...] = (
    (r"gpt-5[\w.]*-chat", Capabilities(max_tokens_name=_NEW_NAME)),
    (r"gpt-([5-9]|\d\d)", _REASONING),
    (r"o[134](-|$)", _REASONING),
    (r"codex-mini", _REASONING),
)
_GONE = Capabilities(takes_sampling=False, takes_both=False)
_ONE_SAMPLER = Capabilities(takes_both=False)
# As of 2026-11: platform.claude.com/docs, "Migrating to Claude Opus 4.7" (sampling parameters
# are gone from there on) and "Structured outputs". Names not listed are taken for new models.
_ANTHROPIC: tuple[tuple[str, Capabilities], ...] = (
    (r"claude-(v1|2|instant)", Capabilities(takes_schema=False, default_max_tokens=4096)),
    (r"claude-3-7", Capabilities(takes_schema=False)),
    (r"claude-3", Capabilities(takes_schema=False, default_max_tokens=4096)),
    (r"claude-(opus|sonnet)-4(-0|-2025|$)", Capabilities(takes_schema=False)),
    (r"claude-(opus|sonnet)-4-[1-6](-|$)", _ONE_SAMPLER),
    (r"claude-haiku-4-5", _ONE_SAMPLER),
    (r"claude-", _GONE),
)
_TABLES = {"openai": _OPENAI, "anthropic": _ANTHROPIC}
_UNKNOWN = Capabilities()


@lru_cache(maxsize=128)
def capabilities(name: str, api: str = "openai") -> Capabilities:
    """What the model of that name accepts; "openai/…" and "ft:…" are looked through.

    Parameters
    ----------
    api
        "openai" or "anthropic"; others accept everything.
    """
    short = name.removeprefix(f"{api}/").removeprefix("ft:").removeprefix("anthropic.")
    for pattern, found in _TABLES.get(api, ()):
        if re.match(pattern, short):
            return found
    return _UNKNOWN


def dropped(able: Capabilities, request: Request) -> list[str]:
    """Names of the parameters that are set in the request but not sent."""
    if able.takes_sampling and able.takes_both:
        return []
    given = [
        name
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p))
        if value is not None
    ]
    if not able.takes_sampling:
        return [] if _does_not_reason(request) else given
    return ["top_p"] if len(given) == 2 else []


def _does_not_reason(request: Request) -> bool:
    """Asked not to reason, OpenAI's models take sampling parameters again."""
    effort = request.extra.get("reasoning_effort")
    if effort is None:
        reasoning = request.extra.get("reasoning")
        effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return effort == "none"
