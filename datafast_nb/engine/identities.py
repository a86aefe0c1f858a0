"""What a run asks of its models before it makes memo keys, and says of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from datafast_nb.engine.loop import spawn
from datafast_nb.models.base import Model, Request
from datafast_nb.models.transport import use_transport
from datafast_nb.options import mode
from datafast_nb.steps.base import Step
from datafast_nb.steps.llm import DEFAULT_TEMPERATURE, LLMStep


def learn_identities(steps: Iterable[Step]) -> None:
    """Let the models look up what their identity needs (the digest of an Ollama tag).

    Models without such a need cost nothing here; in mode "replay" none opens a socket.
    """
    llm_steps = [step for step in steps if isinstance(step, LLMStep)]
    models: dict[int, Model] = {}
    for step in llm_steps:
        models.update((id(m), m) for m in step.models if type(m).prepare is not Model.prepare)
    if not models:
        return
    if mode() != "replay":
        spawn(_prepare(list(models.values()))).result()
    for step in llm_steps:
        step.renew_keys()


async def _prepare(models: list[Model]) -> None:
    async with use_transport():
        await asyncio.gather(*(model.prepare() for model in models), return_exceptions=True)


def dropped_words(step: LLMStep) -> list[str]:
    """What the models of a step do not accept and get no part of, a sentence for each model."""
    said = []
    for model in step.models:
        names: list[str] = []
        for temperature in {v.temperature for v in step.variants if v.model is model}:
            request = Request(
                (),
                temperature=temperature,
                max_tokens=step.max_tokens,
                top_p=step.top_p,
                extra=step.extra,
            )
            dropped = set(model.dropped_parameters(request))
            if temperature == DEFAULT_TEMPERATURE:
                dropped.discard("temperature")  # nobody asked for it
            names += [n for n in dropped if n not in names]
        if names:
            what = " and ".join(sorted(names))
            said.append(
                f"model {model.name!r} does not accept {what}; the setting was left out of its calls"
            )
    return said
