"""Keys of whole steps, as a run makes them: printed by a process of its own as JSON."""

from __future__ import annotations

import json
from typing import Any

import datafast_nb as dfn
from datafast_nb.steps.llm import LLMStep

RECORD = {"id": 1, "text": "naïve café 漢 {x}", "n": 2}
URL = "http://127.0.0.1:1/v1"
MODELS: dict[str, Any] = {
    "openai": dfn.OpenAIModel("gpt-4o-mini"),
    "anthropic": dfn.AnthropicModel("claude-haiku"),
    "gemini": dfn.GeminiModel("gemini-flash"),
    "compatible": dfn.OpenAICompatibleModel("a/b", URL),
    "ollama": dfn.OllamaModel("qwen3:4b", digest="sha256:" + "1" * 64),
    "fake": dfn.FakeModel("x"),
}
# Each differs from "plain" in one thing that reaches the wire.
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "another model": {"model": dfn.OpenAICompatibleModel("a/c", URL)},
    "another address": {"model": dfn.OpenAICompatibleModel("a/b", URL + "/x")},
    "prompt": {"prompt": "About {text}."},
    "system prompt": {"system_prompt": "Short."},
    "examples": {"examples": [{"text": "t", "q": "a"}]},
    "temperature": {"temperature": 0.3},
    "max_tokens": {"max_tokens": 17},
    "top_p": {"top_p": 0.9},
    "extra": {"extra": {"seed": 1, "stop": ["\n"]}},
    "two columns": {"output_columns": ["q", "a"]},
    "typed columns": {"output_columns": {"q": str, "n": int}},
}


def key_of(**settings: Any) -> str:
    given = {"prompt": "About {text}", "output_columns": ["q"], "model": MODELS["compatible"]}
    step = LLMStep(**{**given, **settings})
    (variant,) = step.variants
    return variant.keys.key(tuple(step.messages(RECORD, variant)))


def keys() -> dict[str, str]:
    found = {f"model {name}": key_of(model=model) for name, model in MODELS.items()}
    return found | {name: key_of(**settings) for name, settings in CHANGES.items()}


if __name__ == "__main__":
    print(json.dumps(keys()))
