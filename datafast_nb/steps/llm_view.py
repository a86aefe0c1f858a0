"""The card of an LLM step: what is sent, to whom, how often, and what becomes of it."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.settings import function_name
from datafast_nb.display.views import (
    Block,
    Fact,
    Head,
    Line,
    Listing,
    Paragraph,
    fields_marked,
    muted,
)
from datafast_nb.steps.sampling import Sample

if TYPE_CHECKING:
    from datafast_nb.steps.llm import LLMStep

MAX_PROMPTS = 5
MAX_MODELS = 10
# Shown in a way of their own, not as settings.
SHOWN = frozenset(
    {
        *("prompt", "model", "temperature", "language", "output_columns", "num_outputs"),
        *("system_prompt", "examples", "input_columns", "forward_columns", "exclude_columns"),
    }
)

_ON_ERROR = {
    "raise": "the run stops",
    "retry": "unusable answers are asked again up to max_retries times",
}


def llm_head(step: LLMStep, name: str) -> Head:
    """`ask  LLMStep · gpt-4o-mini · temperature 0.7 · reads text · writes question`."""
    models = formats.some_names([m.name for m in step.models], 80) or "no model"
    parts = [step.maker_name()] if name != step.maker_name() else []
    parts += [models, temperature_words(step)]
    if step.fields:
        parts.append(f"reads {formats.some_names(step.fields)}")
    parts.append(f"writes {formats.some_names(step.spec.columns)}")
    return Head(formats.cell(name, formats.MAX_NAME), (" · ".join(parts),))


def llm_facts(step: LLMStep) -> list[Fact]:
    """Prompts, models, outputs, and how many calls a record takes."""
    facts = [*prompt_facts(step), *_model_facts(step)]
    if step.examples:
        facts.append(
            Fact("examples", (f"{formats.plural(len(step.examples), 'turn')} sent along",))
        )
    facts.append(Fact("writes", _outputs(step)))
    facts.append(Fact("calls", (calls_words(step),)))
    facts.extend(
        Fact(f"{name} drawn", (f"per record: {formats.described(sample)}",))
        for name, _, sample in step.samples
    )
    if step.forward_columns is not None:
        facts.append(Fact("keeps", (formats.some_names(step.forward_columns) or "no column",)))
    if step.exclude_columns:
        facts.append(Fact("leaves out", (formats.some_names(step.exclude_columns),)))
    if step.on_error != "skip":
        facts.append(Fact("on error", (_ON_ERROR[step.on_error],)))
    if step.max_retries != 3:
        facts.append(Fact("retries", (f"up to {step.max_retries:,} after 429, 5xx and time-outs",)))
    return facts


def prompt_facts(step: LLMStep) -> list[Fact]:
    """The system message and the templates, their fields marked."""
    facts = []
    if step.system_prompt is not None:
        facts.append(Fact("system", (_template(step.system_prompt),)))
    texts = [t.text for t in step._templates]
    for i, text in enumerate(texts[:MAX_PROMPTS]):
        label = "template" if len(texts) == 1 else f"template {i}"
        facts.append(Fact(label, (_template(text),)))
    if len(texts) > MAX_PROMPTS:
        facts.append(Fact("", (muted(f"and {len(texts) - MAX_PROMPTS:,} more templates"),)))
    return facts


def _template(text: str) -> Block:
    return Listing(fields_marked(formats.clip(text)))


def _model_facts(step: LLMStep) -> list[Fact]:
    if not step.models:
        return [Fact("model", ("none: give model=",))]
    lines: list[Block] = [Paragraph((repr(model),)) for model in step.models[:MAX_MODELS]]
    if len(step.models) > MAX_MODELS:
        lines.append(Paragraph((muted(f"and {len(step.models) - MAX_MODELS:,} more"),)))
    return [Fact("model" if len(step.models) == 1 else "models", tuple(lines))]


def temperature_words(step: LLMStep) -> str:
    """Words for the temperature, as "temperature 0.7" or "temperatures 0, 1"."""
    shown = ["the provider's" if t is None else f"{t:g}" for t in step._temperatures]
    return f"temperature{'s' * (len(shown) != 1)} {formats.some_names(shown, 60)}"


def calls_words(step: LLMStep) -> str:
    """Calls for a record, and the factors that make them: "4 a record: 2 prompts × 2 languages"."""
    factors = []
    for name, value, size in (
        ("prompt", step.prompt, len(step._templates)),
        ("model", step.model, len(step.models)),
        ("language", step.language, len(step._languages)),
        ("temperature", step.temperature, len(step._temperatures)),
        ("output", None, step.num_outputs),
    ):
        if isinstance(value, Sample):
            n = value.n_draws()
            factors.append(f"{formats.plural(n, name)} of {size:,}")
        elif size > 1:
            factors.append(formats.plural(size, name))
    n = step.calls_per_record
    return f"{n:,} a record" + (f": {' × '.join(factors)}" if factors else "")


def _outputs(step: LLMStep) -> Line:
    spec = step.spec
    if spec.is_text:
        return (f"{formats.cell(spec.columns[0], formats.MAX_NAME)}, the text of the reply",)
    types: dict[str, Any] = dict.fromkeys(spec.columns, str)
    if spec.types is not None:
        types = spec.types
    elif spec.model is not None:
        types = {name: field.annotation for name, field in spec.model.model_fields.items()}
    named = [f"{name}: {type_words(kind)}" for name, kind in types.items()]
    return (formats.some_names(named, 400), muted(" · asked for as JSON"))


def type_words(kind: Any) -> str:
    """A type as it is written: "int", "list[str]", "'yes' | 'no'"."""
    if kind is None or kind is type(None):
        return "None"
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(kind)))
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        return kind.__name__
    if inspect.isroutine(kind):
        return function_name(kind)
    return str(kind).replace("typing.", "")
