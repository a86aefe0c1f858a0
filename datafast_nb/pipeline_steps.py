"""Steps of a pipeline one by one, before a run: prompts as they would be sent, functions, files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datafast_nb.display import formats
from datafast_nb.display.functions import function_text
from datafast_nb.display.views import (
    Block,
    Fact,
    Facts,
    Fold,
    Line,
    Listing,
    Mark,
    Paragraph,
    code,
    fields_marked,
    muted,
    strong,
)
from datafast_nb.engine.outlook import Outlook
from datafast_nb.estimate import StepEstimate
from datafast_nb.pipeline_graph import kind_word
from datafast_nb.runs import CallRow, StepRun
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Filter, FlatMap, Map
from datafast_nb.validate import CompiledNode

MAX_TEMPLATES = 3
MAX_MESSAGES = 12


def llm_fold(
    node: CompiledNode,
    step: StepEstimate | None,
    runs: Sequence[StepRun],
    outlook: Outlook,
    width: int,
) -> Fold:
    """An LLM step: settings, templates, the first prompt that waits, what the memo holds.

    Parameters
    ----------
    runs
        What runs without calls did at this step, the preview's first.
    outlook
        What the step's estimate rests on.
    width
        Characters that a template or a prompt may take.
    """
    llm = node.step
    assert isinstance(llm, LLMStep)
    facts: list[Fact] = []
    templates = llm._templates
    for i, template in enumerate(templates[:MAX_TEMPLATES], start=1):
        label = "template" if len(templates) == 1 else f"template {i} of {len(templates)}"
        marked = fields_marked(formats.clip(template.text, width))
        facts.append(Fact(label, (Listing(marked),)))
    if llm._system is not None:
        marked = fields_marked(formats.clip(llm._system.text, width))
        facts.append(Fact("system", (Listing(marked),)))
    prompt = _first_prompt(runs, width)
    if prompt is not None:
        facts.append(prompt)
    if step is not None:
        facts.append(Fact("memo", _memo_words(step, outlook)))
    return Fold(formats.cell(node.name, 60), (muted(_settings(llm)),), (Facts(tuple(facts), True),))


def _settings(llm: LLMStep) -> str:
    parts = [type(llm).__name__, formats.some_names([m.name for m in llm.models]) or "no model"]
    temperatures = [t for t in llm._temperatures if t is not None]
    if temperatures:
        parts.append(f"temperature {', '.join(f'{t:g}' for t in temperatures)}")
    per_record = llm.calls_per_record
    if per_record != 1:
        parts.append(f"{per_record:,} calls a record")
    if llm.fields:
        parts.append(f"reads {formats.some_names(llm.fields)}")
    parts.append(f"writes {formats.some_names(llm.spec.columns)}")
    return " · ".join(parts)


def _first_prompt(runs: Sequence[StepRun], width: int) -> Fact | None:
    """The messages of the first call that waits for an answer, else of the first that has one."""
    for status, label in (("pending", "first pending"), ("answered", "first prompt")):
        for run in runs:
            call = next((c for c in run.calls if c.status == status and c.messages), None)
            if call is not None:
                said = "exactly as it would be sent" if status == "pending" else "answered on disk"
                note = Paragraph(
                    (muted(f"record {call.record:,} at this step, {said}"),), is_note=True
                )
                return Fact(label, (note, *_messages(call, width)))
    return None


def _messages(call: CallRow, width: int) -> list[Block]:
    messages = call.messages or ()
    if len(messages) == 1:
        return [Listing((formats.clip(messages[0]["content"], width),))]
    blocks: list[Block] = []
    share = max(200, width // min(len(messages), MAX_MESSAGES))
    for message in messages[:MAX_MESSAGES]:
        blocks.append(Paragraph((strong(message["role"]),), is_note=True))
        blocks.append(Listing((formats.clip(message["content"], share),)))
    if len(messages) > MAX_MESSAGES:
        n = len(messages) - MAX_MESSAGES
        blocks.append(Paragraph((muted(f"… and {n:,} more messages"),), is_note=True))
    return blocks


def _memo_words(step: StepEstimate, outlook: Outlook) -> Line:
    total = step.answered - step.shared + step.failed_before + step.llm_calls
    in_memo = step.answered - step.shared
    if outlook.unlooked.get(step.name):
        n = in_memo + step.failed_before
        line: Line = (Mark("memo"), f" all {n:,} looked up are answered")
    elif not step.llm_calls:
        n_all = in_memo + step.failed_before
        line = (Mark("memo"), f" all {n_all:,} answered" if n_all else " no call")
        if step.failed_before:
            line = (f"{in_memo:,} answered",)
    else:
        about = "" if step.calls.is_exact and outlook.is_exact else outlook.about or "~"
        new = f"{about}{step.llm_calls:,.0f} new"
        line = (f"{in_memo:,} of {about}{total:,.0f} answered, {new}",)
    if step.shared:
        line = (*line, f" · {step.shared:,} shared at temperature 0")
    if step.failed_before:
        said = f" {formats.plural(step.failed_before, 'call')} failed before and is not asked again"
        if step.failed_before > 1:
            said = said.replace("and is not", "and are not")
        line = (*line, " · ", Mark("failed"), said)
    return line


def free_fact(node: CompiledNode, step: StepEstimate | None) -> Fact:
    """A step that asks no model: what it does, and what it keeps."""
    name = formats.cell(node.name, 60)
    if isinstance(node.step, SourceStep):
        said = formats.described(node.step) or kind_word(node.step)
        columns = node.columns.names
        known = f": {formats.some_names(columns)}" if columns else ""
        return Fact(name, (f"{formats.cell(said)}{known}",))
    line: Line = (code(step_text(node.step)),)
    is_choice = isinstance(node.step, Filter)
    if step is not None and is_choice and step.out.is_exact and step.is_exact:
        keeps = f" · keeps {step.records_out:,.0f} of {step.records_in:,.0f}"
        line = (*line, muted(keeps))
    return Fact(name, line)


def step_text(step: Any) -> str:
    """A step as it is written, as far as it is known: `Filter(lambda r: r["n"] > 1)`."""
    kind = type(step).__name__
    if isinstance(step, (Map, FlatMap, Filter)):
        dropped = ", keep=False" if isinstance(step, Filter) and not step.keep else ""
        return f"{kind}({formats.cell(function_text(step.fn))}{dropped})"
    said = formats.cell(formats.described(step))
    return f"{kind}: {said}" if said else kind
