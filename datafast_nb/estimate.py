"""What a run would ask and cost, before it asks anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datafast_nb.display import html, text, views
from datafast_nb.errors import DatafastError
from datafast_nb.models.base import Model
from datafast_nb.models.pricing import price_of
from datafast_nb.options import shown_path
from datafast_nb.steps.llm import LLMStep

if TYPE_CHECKING:
    from datafast_nb.results import RunInfo, StepRun
    from datafast_nb.validate import CompiledNode

BYTES_PER_TOKEN = 4.0
"""Rough size of a token of English text, where no reply has been measured."""
ASSUMED_OUTPUT_TOKENS = 256


@dataclass(frozen=True)
class StepEstimate:
    """One step of a run to come."""

    name: str
    records_in: float
    records_out: float
    is_exact: bool
    """The counts are known, not guessed: every earlier answer is on disk."""
    llm_calls: float = 0
    """Calls that would be asked and paid."""
    answered: int = 0
    """Calls that the memo answers."""
    failed_before: int = 0
    """Calls whose stored reply is no usable answer; they are not asked again."""
    models: tuple[str, ...] = ()
    estimated_tokens: float = 0
    """Input and output tokens of the new calls."""
    estimated_cost: float = 0.0
    """Dollars for the new calls at list price; NaN if unknown."""
    basis: str = ""


@dataclass(frozen=True)
class ExecutionEstimate:
    """Calls, tokens and dollars of a run to come. Made without asking a model."""

    total_records: int
    """Records of the source."""
    steps: tuple[StepEstimate, ...]
    memo_path: str
    notes: tuple[str, ...] = ()
    """What would keep the run from asking."""

    @property
    def total_llm_calls(self) -> float:
        """New calls of all steps; a whole number where all are known."""
        return sum(s.llm_calls for s in self.steps)

    @property
    def total_answered(self) -> int:
        """Calls that the memo answers."""
        return sum(s.answered for s in self.steps)

    @property
    def total_estimated_tokens(self) -> float:
        """Tokens of the new calls."""
        return sum(s.estimated_tokens for s in self.steps)

    @property
    def total_estimated_cost(self) -> float:
        """Dollars of the new calls at list price; NaN if a price is unknown."""
        return sum(s.estimated_cost for s in self.steps)

    @property
    def is_exact(self) -> bool:
        """The number of new calls is known, not guessed."""
        return all(s.is_exact for s in self.steps if s.models)

    def view(self) -> views.TableView:
        """Plain data for display."""
        rows = [
            (
                s.name,
                views.count(s.records_in, about=not s.is_exact),
                views.count(s.records_out, about=not s.is_exact or s.llm_calls > 0),
                views.count(s.llm_calls, about=not s.is_exact) if s.models else "",
                s.answered if s.models else "",
                s.failed_before or "",
                f"~{s.estimated_tokens:,.0f}" if s.models else "",
                views.usd(s.estimated_cost) if s.models else "",
                s.basis,
            )
            for s in self.steps
        ]
        calls = views.count(self.total_llm_calls, about=not self.is_exact)
        return views.TableView(
            title=(
                f"Estimate: {calls} calls new, {self.total_answered:,} answered, about "
                f"{views.usd(self.total_estimated_cost)} (list price)"
            ),
            columns=(
                "step",
                "in",
                "out",
                "calls new",
                "answered",
                "failed before",
                "tokens",
                "cost",
                "basis",
            ),
            rows=tuple(rows),
            right=frozenset(
                {"in", "out", "calls new", "answered", "failed before", "tokens", "cost"}
            ),
            note="\n".join((f"memo: {shown_path(self.memo_path)}", *self.notes)),
        ).without_empty()

    def __repr__(self) -> str:
        return text.table(self.view())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/plain": text.table(self.view()),
            "text/html": html.page(html.table(self.view())),
        }


def estimate_run(info: RunInfo) -> ExecutionEstimate:
    """The estimate that follows from a dry run: answers from the memo, the rest pending.

    What pending answers bring to later steps is guessed from what the same steps did with the
    answers that are there, and one for one where there are none.
    """
    steps: list[StepEstimate] = []
    pending_in = 0.0
    """Records that would come here once the pending answers are there."""
    for run in info.steps:
        n_in = float(run.n_in if run.index else 0)
        if isinstance(run.step, LLMStep):
            made, pending_in = _llm_estimate(run, run.step, pending_in)
            steps.append(made)
            continue
        rate = run.n_out / run.n_in if run.index and run.n_in else 1.0
        pending_out = pending_in * rate
        steps.append(
            StepEstimate(
                name=run.name,
                records_in=n_in + pending_in,
                records_out=run.n_out + pending_out,
                is_exact=pending_in == 0,
                basis=""
                if pending_in == 0
                else "selectivity of the records at hand"
                if run.n_in
                else "assumed: one for one",
            )
        )
        pending_in = pending_out
    n_records = info.steps[0].n_out if info.steps else 0
    asking = {s.name for s in steps if s.llm_calls}
    notes = missing_keys([n for n in info.compiled.nodes if n.name in asking])
    return ExecutionEstimate(n_records, tuple(steps), info.memo_path, tuple(notes))


def _llm_estimate(run: StepRun, step: LLMStep, pending_in: float) -> tuple[StepEstimate, float]:
    pending = [c for c in run.calls if c.status == "pending"]
    distinct = {(c.key, c.label): c.model for c in pending}
    answered = [c for c in run.calls if c.status == "answered"]
    failed = sum(1 for c in run.calls if c.status == "failed")
    further = pending_in * step.calls_per_record
    n_new = len(distinct) + further
    tokens_in = _mean_input(run, step)
    tokens_out, basis = _mean_output(step, [c.output_tokens for c in answered if c.output_tokens])
    per_call = {m.name: _call_usd(m, tokens_in, tokens_out) for m in step.models}
    cost = sum(per_call.get(name, math.nan) for name in distinct.values())
    if further:
        cost += further * sum(per_call.values()) / max(1, len(per_call))
    selected = run.n_in - run.fates.beyond_limit
    out = run.n_out + len(pending) + further
    made = StepEstimate(
        name=run.name,
        records_in=selected + pending_in,
        records_out=out,
        is_exact=pending_in == 0,
        llm_calls=len(distinct) if not further else n_new,
        answered=len(answered) + len(pending) - len(distinct),
        failed_before=failed,
        models=tuple(m.name for m in step.models),
        estimated_tokens=n_new * (tokens_in + tokens_out),
        estimated_cost=cost,
        basis=basis if n_new else "all on disk",
    )
    return made, len(pending) + further


def _call_usd(model: Model, tokens_in: float, tokens_out: float) -> float:
    price = price_of(model)
    if price is None:
        return math.nan
    return (price.input_per_mtok_usd * tokens_in + price.output_per_mtok_usd * tokens_out) / 1e6


def missing_keys(nodes: Sequence[CompiledNode]) -> list[str]:
    """A sentence for each model that could not be asked for want of a key."""
    found: dict[str, None] = {}
    for node in nodes:
        try:
            models = node.step.models if isinstance(node.step, LLMStep) else []
        except (TypeError, ValueError, DatafastError):
            continue  # compiling lists it as a problem
        for model in models:
            missing = model.missing_key()
            if missing:
                found[f"{missing} is not set: step '{node.name}' cannot ask {model.name!r}"] = None
    return list(found)


def _mean_input(run: StepRun, step: LLMStep) -> float:
    measured = [c.input_tokens for c in run.calls if c.status == "answered" and c.input_tokens]
    if measured:
        return sum(measured) / len(measured)
    sizes = [_bytes(c.messages) for c in run.calls if c.messages]
    if not sizes:
        sizes = [sum(len(t.text.encode()) for t in step._templates) / len(step._templates) + 200]
    return sum(sizes) / len(sizes) / BYTES_PER_TOKEN


def _bytes(messages: Sequence[Any]) -> float:
    return float(sum(len(m["content"].encode("utf-8", "replace")) + 16 for m in messages))


def _mean_output(step: LLMStep, measured: Sequence[int]) -> tuple[float, str]:
    if measured:
        return sum(measured) / len(measured), f"tokens measured on {len(measured)} replies"
    assumed = min(step.max_tokens or ASSUMED_OUTPUT_TOKENS, ASSUMED_OUTPUT_TOKENS)
    return float(assumed), f"assumed {assumed} output tokens a call"
