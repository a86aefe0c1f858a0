"""From the calls of an LLM step to its output records, fates and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datafast_nb.engine.calls import Call, reask
from datafast_nb.engine.limits import reply_usd
from datafast_nb.lineage import Table, child_id
from datafast_nb.models import ladder
from datafast_nb.models.base import Message
from datafast_nb.models.pricing import Price
from datafast_nb.records import FLAT_TYPES, Record
from datafast_nb.runs import CallError, CallRow, EarlierReply, StepRun
from datafast_nb.steps.expansion import Variant
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import Unusable
from datafast_nb.store.ledger import Ledger
from datafast_nb.store.memo import Draw, Memo, Reply, open_memo


@dataclass(slots=True, eq=False)
class Slot:
    """A call's place in the step: its row, and what is needed to ask."""

    row: CallRow
    variant: Variant
    messages: tuple[Message, ...]
    followers: list[Slot] | None = None
    """Calls of this run that want the same draw; None: none so far."""
    is_kept: bool = False
    """Prompt and reply stay with the result also where a run has too many calls to keep them."""


def replies_to(step: LLMStep, draw: Draw, reply: Reply) -> tuple[Reply, ...]:
    """The reply and the unusable ones before it; answers that it took the place of are left out."""
    if len(draw.replies) == 1:
        return draw.replies
    last = draw.replies.index(reply)
    first = last
    while first and not _is_answer(step, draw.replies[first - 1]):
        first -= 1
    return draw.replies[first : last + 1]


def _is_answer(step: LLMStep, reply: Reply) -> bool:
    if reply.verdict != "usable":
        return False
    try:
        step.parse(reply.text)
    except Unusable:
        return False
    return True


def fill_figures(row: CallRow, replies: Sequence[Reply], price: Price | None) -> None:
    """When and how fast the last of the replies came, and what all of them came to."""
    reply = replies[-1]
    row.input_tokens = sum(r.input_tokens or 0 for r in replies)
    row.output_tokens = sum(r.output_tokens or 0 for r in replies)
    usd = sum(reply_usd(price, r) for r in replies)
    row.usd = usd if usd == usd else None
    row.first_was_good = replies[0].verdict == "usable"
    row.latency_s = reply.latency_s
    row.asked_at = reply.created or None


def copy_outcome(asked: CallRow, row: CallRow) -> None:
    """The outcome of a draw that this run asked for, for another call that shares it."""
    row.status = "answered" if asked.status == "new" else asked.status
    row.verdict, row.error, row.values = asked.verdict, asked.error, asked.values
    row.messages, row.text, row.earlier = asked.messages, asked.text, asked.earlier
    row.input_tokens, row.output_tokens = asked.input_tokens, asked.output_tokens
    row.latency_s, row.asked_at = asked.latency_s, asked.asked_at
    row.usd = asked.usd
    row.first_was_good = asked.is_first_try


def earlier_replies(
    step: LLMStep, slot: Slot, replies: Sequence[Reply]
) -> tuple[EarlierReply, ...]:
    """Replies of a draw before the one that counts, each with what was sent after it."""
    if not replies:
        return ()
    request = step.request(slot.messages, slot.variant)
    found = []
    for reply in replies:
        more = reask(request, reply).messages[len(request.messages) :]
        sent = more[-1]["content"] if more else ""
        found.append(EarlierReply(reply.text, reply.verdict, reply.reason, sent))
    return tuple(found)


def replies_before(memo: Memo, step: LLMStep, call: Call) -> tuple[EarlierReply, ...]:
    """Unusable replies that led to the last one of a call; the memo keeps their texts."""
    n = call.n_replies + (call.prior is not None) - 1
    if n < 1 or not call.n_replies:
        return ()
    draw = memo.get_many([(call.key, call.label)])[0]
    return () if draw is None else earlier_replies(step, call.owner, draw.replies[-1 - n : -1])


def assemble(
    run: StepRun,
    step: LLMStep,
    table: Table,
    slots_of: Sequence[list[Slot] | None],
    bad_prompts: Mapping[int, str],
    selected: Sequence[int] | None,
    fan_out: int | None,
    made: Sequence[Record] | None = None,
) -> Table:
    """The output records in input order; fills the step's fates, errors and parents.

    Parameters
    ----------
    slots_of
        Calls of each record; None: not planned; []: skipped.
    bad_prompts
        Why the prompt of a record could not be written.
    selected
        Indices of the records that the limit let through; None: all.
    fan_out
        The step's number among those that make several records of one; None: it makes one.
    made
        The output records, where they were made before (`outputs_of`).
    """
    ready = None if made is None else iter(made)
    out: list[Record] = []
    ids: list[str] = []
    parents: list[int] = []
    call_of: list[int] = []
    flat = table.flat
    fates = run.fates
    row_ids = table.row_ids or [""] * len(table)
    tokens = table.tokens
    made_tokens: list[str] = []
    # Where one of several models or prompts is drawn, its place tells nothing.
    chosen = None if selected is None else set(selected)
    at = 0  # index of the record's first call among the step's calls
    for i, record in enumerate(table.records):
        slots = slots_of[i]
        if chosen is not None and i not in chosen:
            fates.beyond_limit += 1
            continue
        if slots is None:
            fates.waiting += 1
            continue
        if not slots and i not in bad_prompts:
            fates.skipped += 1
            out.append(step.skipped(record) if ready is None else next(ready))
            ids.append(row_ids[i])
            if tokens is not None:
                made_tokens.append(tokens[i])
            parents.append(i)
            call_of.append(-1)
            continue
        n_good = n_bad = 0
        for k, slot in enumerate(slots):
            row = slot.row
            if row.values is not None:
                n_good += 1
                if ready is None:
                    out.append(step.output(record, row.values, slot.variant, row.output_index))
                else:
                    out.append(next(ready))
                if flat and not FLAT_TYPES.issuperset(map(type, row.values.values())):
                    flat = False
                place = row.variant * step.num_outputs + row.output_index
                ids.append(row_ids[i] if fan_out is None else child_id(row_ids[i], fan_out, place))
                if tokens is not None:
                    token = tokens[i]
                    made_tokens.append(
                        token if fan_out is None else child_id(token, fan_out, place)
                    )
                parents.append(i)
                call_of.append(at + k)
            elif row.status == "failed":
                n_bad += 1
                run.errors.append(call_error(row, record, slot.messages[-1]["content"]))
        at += len(slots)
        if i in bad_prompts:
            n_bad += 1
            run.errors.append(
                CallError(run.name, i, "prompt", bad_prompts[i], "", "", "", None, None, record)
            )
        if n_good:
            fates.advanced += 1
            run.partly_failed += bool(n_bad)
        elif n_bad:
            fates.failed += 1
        else:
            fates.waiting += 1
    run.parents.add(len(table), len(out), parents)
    run.call_of = call_of
    run.selected = selected
    run.ledger = Ledger.of(run.calls)
    run.ways = _ways(step)
    run.n_in, run.n_out = len(table), len(out)
    return Table(out, flat, ids, made_tokens if tokens is not None else None)


def _ways(step: LLMStep) -> dict[str, str | None]:
    """How each model of a step is sent its schema; empty where it has none."""
    schema = step.spec.schema()
    if schema is None:
        return {}
    found = {}
    for model in step.models:
        if model.schema_way(schema) is not None:
            ladder.load(open_memo(), model)  # where all answers were on disk, no call has done so
        found[model.name] = model.schema_way(schema)
    return found


def call_error(call: CallRow, given: Record, prompt: str | None) -> CallError:
    """A failed call with the record that it was about, and the last message where it is at hand."""
    return CallError(
        step=call.step,
        record=call.record,
        kind=call.verdict,
        error=call.error,
        model=call.model,
        key=call.key,
        label=call.label,
        text=call.text,
        prompt=prompt,
        input=given,
    )


def outputs_of(
    step: LLMStep,
    table: Table,
    i: int,
    slots: Sequence[Slot] | None,
    bad_prompts: Mapping[int, str],
    fan_out: int | None,
) -> Table:
    """What `assemble` makes of one record of the table."""
    record = table.records[i]
    row_id = table.row_ids[i] if table.row_ids is not None else ""
    token = None if table.tokens is None else table.tokens[i]
    made = Table([], table.flat, [], None if token is None else [])
    assert made.row_ids is not None
    if slots is None:
        return made
    if not slots and i not in bad_prompts:
        made.records.append(step.skipped(record))
        made.row_ids.append(row_id)
        if made.tokens is not None and token is not None:
            made.tokens.append(token)
    for slot in slots:
        row = slot.row
        if row.values is None:
            continue
        made.records.append(step.output(record, row.values, slot.variant, row.output_index))
        made.flat = made.flat and FLAT_TYPES.issuperset(map(type, row.values.values()))
        place = row.variant * step.num_outputs + row.output_index
        made.row_ids.append(row_id if fan_out is None else child_id(row_id, fan_out, place))
        if made.tokens is not None and token is not None:
            made.tokens.append(token if fan_out is None else child_id(token, fan_out, place))
    return made
