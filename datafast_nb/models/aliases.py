"""Short names of models, behind a dated table: what each stood for, and what it is today.

The names are those of the specification; the models behind them are chosen so that they exist.
A name keeps its model within a version of this package, since another model is another key in
the memo: answers would be asked and paid anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from datafast_nb.models.anthropic import AnthropicModel
from datafast_nb.models.gemini import GeminiModel
from datafast_nb.models.openai import OpenAIModel

AS_OF = "2026-11-22"


@dataclass(frozen=True, slots=True)
class Alias:
    """What a short name stands for."""

    name: str
    model_id: str
    """The model today."""
    was: str
    """The model of the specification."""
    until: str
    """Day on which that one is switched off, or was, by its provider's page of deprecations."""
    source: str


_OPENAI = "developers.openai.com/api/docs/deprecations"
_ANTHROPIC = "platform.claude.com/docs/en/about-claude/model-deprecations"
_GOOGLE = "ai.google.dev/gemini-api/docs/deprecations"

ALIASES: tuple[Alias, ...] = (
    Alias("claude", "claude-sonnet-5-5", "claude-sonnet-4-20250514", "2026-06-15", _ANTHROPIC),
    # There never was a Haiku 4 of that date; Haiku 5.5 is the one of its kind.
    Alias("claude_haiku", "claude-haiku-5-5", "claude-haiku-4-20250514", "", _ANTHROPIC),
    Alias("gemini", "gemini-3.8-flash", "gemini-2.0-flash", "2026-06-01", _GOOGLE),
    Alias("gpt4", "gpt-6.1-sol", "gpt-4o", "2027-01-14", _OPENAI),
    Alias("gpt4_mini", "gpt-6-luna", "gpt-4o-mini", "2027-01-14", _OPENAI),
)
_IDS = {alias.name: alias.model_id for alias in ALIASES}

claude = AnthropicModel(_IDS["claude"])
claude_haiku = AnthropicModel(_IDS["claude_haiku"])
gemini = GeminiModel(_IDS["gemini"])
gpt4 = OpenAIModel(_IDS["gpt4"])
gpt4_mini = OpenAIModel(_IDS["gpt4_mini"])
