"""Synthetic datasets in notebooks: pipelines with LLM steps whose answers are paid once.

::

    import datafast_nb as dfn

    pipeline = (
        dfn.Source.file("articles.jsonl")
        >> dfn.LLMStep(prompt="One question on: {text}", output_columns=["question"],
                       model=dfn.OpenAIModel("gpt-4.1-nano"))
        >> dfn.Sink.jsonl("questions.jsonl")
    )
    pipeline.run(limit=5)

`dfn.memo` is the project's memo (the store of paid answers) and `dfn.last` the last Result,
also a partial one; both are looked up at each access.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# At once, not lazily: the instance must take the place of the submodule of the same name.
from datafast_nb.options import options

if TYPE_CHECKING:
    from datafast_nb.compare import Comparison, diff
    from datafast_nb.engine.handle import Run
    from datafast_nb.errors import (
        BudgetExceededError,
        CheckpointError,
        ColumnNotFoundError,
        ConfirmationRequired,
        DatafastError,
        LLMError,
        MemoError,
        MissingKeyError,
        PipelineChangedError,
        PipelineValidationError,
        RecordError,
        ReplayMissError,
        RunInterrupted,
        SinkError,
        SourceError,
    )
    from datafast_nb.models import ollama
    from datafast_nb.models.aliases import claude, claude_haiku, gemini, gpt4, gpt4_mini
    from datafast_nb.models.anthropic import AnthropicModel
    from datafast_nb.models.base import Model
    from datafast_nb.models.fake import FakeModel
    from datafast_nb.models.gemini import GeminiModel
    from datafast_nb.models.local import LocalModel
    from datafast_nb.models.ollama import OllamaModel
    from datafast_nb.models.openai import OpenAICompatibleModel, OpenAIModel
    from datafast_nb.models.pricing import Price
    from datafast_nb.models.replay import ReplayModel
    from datafast_nb.pipeline import Pipeline
    from datafast_nb.records import Record
    from datafast_nb.results import Result
    from datafast_nb.steps.base import Step
    from datafast_nb.steps.llm import LLMStep
    from datafast_nb.steps.sampling import Sample
    from datafast_nb.steps.seeds import Seed
    from datafast_nb.steps.sinks import Sink
    from datafast_nb.steps.sources import Source
    from datafast_nb.steps.transform import Filter, FlatMap, Map
    from datafast_nb.store.memo import Memo
    from datafast_nb.store.spending import ledger
    from datafast_nb.trace import RecordTrace

    memo: Memo
    last: Result | None

__version__ = "0.1.0"

# `memo` and `last` stay out: a star import would open the memo and freeze both.
__all__ = [
    "AnthropicModel",
    "BudgetExceededError",
    "CheckpointError",
    "ColumnNotFoundError",
    "Comparison",
    "ConfirmationRequired",
    "DatafastError",
    "FakeModel",
    "Filter",
    "FlatMap",
    "GeminiModel",
    "LLMError",
    "LLMStep",
    "LocalModel",
    "Map",
    "MemoError",
    "MissingKeyError",
    "Model",
    "OllamaModel",
    "OpenAICompatibleModel",
    "OpenAIModel",
    "Pipeline",
    "PipelineChangedError",
    "PipelineValidationError",
    "Price",
    "Record",
    "RecordError",
    "RecordTrace",
    "ReplayMissError",
    "ReplayModel",
    "Result",
    "Run",
    "RunInterrupted",
    "Sample",
    "Seed",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Step",
    "claude",
    "claude_haiku",
    "diff",
    "gemini",
    "gpt4",
    "gpt4_mini",
    "ledger",
    "ollama",
    "options",
]

_HOME = {
    "AnthropicModel": "models.anthropic",
    "BudgetExceededError": "errors",
    "CheckpointError": "errors",
    "ColumnNotFoundError": "errors",
    "Comparison": "compare",
    "ConfirmationRequired": "errors",
    "DatafastError": "errors",
    "FakeModel": "models.fake",
    "Filter": "steps.transform",
    "FlatMap": "steps.transform",
    "GeminiModel": "models.gemini",
    "LLMError": "errors",
    "LLMStep": "steps.llm",
    "LocalModel": "models.local",
    "Map": "steps.transform",
    "MemoError": "errors",
    "MissingKeyError": "errors",
    "Model": "models.base",
    "OllamaModel": "models.ollama",
    "OpenAICompatibleModel": "models.openai",
    "OpenAIModel": "models.openai",
    "Pipeline": "pipeline",
    "PipelineChangedError": "errors",
    "PipelineValidationError": "errors",
    "Price": "models.pricing",
    "Record": "records",
    "RecordError": "errors",
    "RecordTrace": "trace",
    "ReplayMissError": "errors",
    "ReplayModel": "models.replay",
    "Result": "results",
    "Run": "engine.handle",
    "RunInterrupted": "errors",
    "Sample": "steps.sampling",
    "Seed": "steps.seeds",
    "Sink": "steps.sinks",
    "SinkError": "errors",
    "Source": "steps.sources",
    "SourceError": "errors",
    "Step": "steps.base",
    "claude": "models.aliases",
    "claude_haiku": "models.aliases",
    "diff": "compare",
    "gemini": "models.aliases",
    "gpt4": "models.aliases",
    "gpt4_mini": "models.aliases",
    "ledger": "store.spending",
    "ollama": "models",
}


def __getattr__(name: str) -> Any:
    if name == "memo":
        from datafast_nb.store.memo import open_memo

        return open_memo()  # not kept: `options.home` may change
    if name == "last":
        from datafast_nb.results import last_result

        return last_result()
    if name not in _HOME:
        raise AttributeError(
            f"datafast_nb has no name {name!r}; dir(datafast_nb) lists what it has", name=name
        )
    home = import_module(f"datafast_nb.{_HOME[name]}")
    # A module is an attribute of its package only once it has been imported.
    value = import_module(f"{home.__name__}.{name}") if name == "ollama" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "last", "memo"])
