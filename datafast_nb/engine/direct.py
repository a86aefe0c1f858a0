"""`Model.generate`: one question, asked now, outside any pipeline and its memo."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from datafast_nb.engine.calls import unusable_error
from datafast_nb.engine.loop import engine_loop_is_here, spawn
from datafast_nb.errors import LLMError
from datafast_nb.models.base import Message, Model, Request, Response
from datafast_nb.models.ladder import complete_down
from datafast_nb.models.pricing import price_of
from datafast_nb.models.tally import note_call
from datafast_nb.models.verdicts import Unusable, judge
from datafast_nb.steps.outputs import OutputSpec

if TYPE_CHECKING:
    from pydantic import BaseModel


def generate_now(
    model: Model,
    prompt: str,
    *,
    system_prompt: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    response_format: type[BaseModel] | None = None,
) -> str | dict[str, Any]:
    """Ask `model` once and wait for the answer.

    Raises
    ------
    LLMError
        If the call fails, or the reply was refused, cut, empty or does not fit `response_format`.
    """
    messages: list[Message] = []
    if system_prompt is not None:
        messages.append({"role": "system", "content": system_prompt})
    messages.append({"role": "user", "content": prompt})
    spec = OutputSpec(response_format) if response_format is not None else OutputSpec(["text"])
    request = Request(
        messages=tuple(messages),
        temperature=temperature,
        max_tokens=max_tokens,
        schema=spec.schema(),
    )
    if engine_loop_is_here():
        raise LLMError(
            f"{model.name}: generate() waits, and cannot be called inside complete(); await "
            "complete(request) instead",
            kind="bad_request",
            model=model.name,
        )
    try:
        response = spawn(complete_down(model, request)).result()
    except Exception:
        note_call(model, math.nan, failed=True)  # perhaps billed, perhaps not
        raise
    note_call(model, _usd(model, response))
    values, bad = judge(response, request, spec.parse)
    if bad is not None or values is None:
        raise unusable_error(model, bad or Unusable("empty", "no answer")) from bad
    return values if response_format is not None else str(values["text"])


def _usd(model: Model, response: Response) -> float:
    price = price_of(model)
    if price is not None and price.is_free:
        return 0.0
    return math.nan if price is None or response.usage is None else price.cost(response.usage)
