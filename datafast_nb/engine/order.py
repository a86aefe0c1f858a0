"""Which steps a run takes at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from datafast_nb.engine.context import RunSettings
from datafast_nb.graph import Node
from datafast_nb.steps.base import ChunkStep, SinkStep
from datafast_nb.steps.llm import LLMStep


def flowing_nodes(
    settings: RunSettings, nodes: Sequence[Node], i: int, limited: int | None
) -> Sequence[Node]:
    """Steps behind the LLM step `i` that its records go through as soon as they can.

    `limited` is the step at whose entry a limit applies: it needs to see all records.
    """
    if settings.dry or settings.order == "steps":
        return []
    end = i + 1
    while end < len(nodes) and isinstance(nodes[end].step, (LLMStep, ChunkStep, SinkStep)):
        if end == limited:
            break
        end += 1
    steps = [n.step for n in nodes[i:end]]
    asking = [s for s in steps if isinstance(s, LLMStep)]
    is_live = any(isinstance(s, SinkStep) and s.is_live for s in steps)
    if len(asking) < 2 and not is_live:
        return []
    if settings.order is None and not is_live:
        may_end_early = settings.budget_usd is not None or settings.max_calls is not None
        if not may_end_early and settings.checkpoint is None:
            return []
        if _share_a_machine(asking):
            return []
    return nodes[i + 1 : end]


def _share_a_machine(steps: Sequence[LLMStep]) -> bool:
    """Several models of one machine: to go from one to the other for every record costs time."""
    on: dict[str, set[str]] = {}
    for model in (m for step in steps for m in step.models):
        machine = model.machine()
        if machine is not None:
            on.setdefault(machine, set()).add(model.name)
    return any(len(names) > 1 for names in on.values())
