"""What a run did at a step, as plain JSON for a checkpoint's trail, and back.

Prompts and replies stay in the memo: of most calls only key and label are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.engine.stagerecords import ALWAYS_KEPT
from datafast_nb.lineage import Fates, Table
from datafast_nb.runs import CallError, CallRow, StepRun
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.ledger import Ledger
from datafast_nb.store.stepfile import PIECE, Section, StepData
from datafast_nb.store.typed_json import unwrap, wrap

_CALL_FIELDS = (
    "record", "variant", "output_index", "key", "label", "model", "status", "verdict", "error",
    "input_tokens", "output_tokens", "usd", "latency_s", "asked_at",
)  # fmt: skip
_ERROR_FIELDS = ("record", "kind", "error", "model", "key", "label", "text", "prompt")

Claim = tuple[str, str]


def facts_of(run: StepRun, *, flat: bool, limited: bool, said: Sequence[str]) -> dict[str, Any]:
    """Figures of a step for the manifest. `said`: remarks of the run so far."""
    return {
        "n_in": run.n_in,
        "fates": asdict(run.fates),
        "partly_failed": run.partly_failed,
        "is_partial": run.is_partial,
        "limited": limited,
        "flat": flat,
        "parents_n_in": run.parents.n_in,
        "is_lineage_known": run.parents.known,
        "notes": list(run.notes),
        "said": list(said),
    }


def sections_of(run: StepRun, claims: Sequence[Claim]) -> Iterator[Section]:
    """Lines of the trail behind the records. `claims`: draws of other labels that were used."""
    parents = run.parents
    if parents.known and not _is_one_for_one(run):
        yield from _pieces("parents", list(parents.all()))
    if run.rows is not None:
        yield from _pieces("rows", list(run.rows))
    if run.call_of is not None:
        yield from _pieces("call_of", run.call_of)
    for start in range(0, len(run.calls), PIECE):
        yield (
            "calls",
            [_call(run.calls, i) for i in range(start, min(start + PIECE, len(run.calls)))],
        )
    for error in run.errors:
        given = wrap(error.input, lambda: f"step '{run.name}', an input record")
        yield "error", [*(getattr(error, name) for name in _ERROR_FIELDS), given]
    yield from _pieces("claims", list(map(list, claims)))


def restored_run(run: StepRun, facts: dict[str, Any], data: StepData, n_out: int) -> None:
    """Fill in a step's run from the checkpoint; the bill counts its calls as answered from disk."""
    run.n_in, run.n_out = facts["n_in"], n_out
    run.fates = Fates(**facts["fates"])
    run.partly_failed, run.is_partial = facts["partly_failed"], facts["is_partial"]
    run.notes = list(facts["notes"])
    run.parents.known = facts["is_lineage_known"]
    parents = _joined(data, "parents") if "parents" in data.sections else None
    if run.parents.known:
        run.parents.add(facts["parents_n_in"], n_out, parents)
    if "rows" in data.sections:
        run.rows = _joined(data, "rows")
    if not isinstance(run.step, LLMStep):
        return
    run.call_of = _joined(data, "call_of")
    run.calls = [_call_row(run.name, body) for body in _joined(data, "calls")]
    for *values, given in data.sections.get("error", ()):
        fields: dict[str, Any] = dict(zip(_ERROR_FIELDS, values, strict=True))
        run.errors.append(CallError(step=run.name, input=unwrap(given), **fields))
    if data.records is not None:
        columns = run.step.spec.columns
        for record, place in zip(data.records, run.call_of, strict=True):
            if place >= 0:
                run.calls[place].values = {c: record[c] for c in columns if c in record}
    run.ledger = Ledger.of(run.calls)


def restore_context(ctx: RunContext, run: StepRun, table: Table, data: StepData) -> None:
    """What later steps of the run must know of a step that they find complete."""
    for row in run.calls:
        ctx.claimed.add((row.key, row.label))
        identity, dot, rest = row.label.partition(".")
        if dot and rest.partition(".")[0].isdecimal():
            rank = int(rest.partition(".")[0]) + 1
            spot = (row.key, identity)
            ctx.ranks[spot] = max(ctx.ranks.get(spot, 0), rank)
    ctx.claimed.update((key, label) for key, label in _joined(data, "claims"))
    if not run.parents.known and table.row_ids is not None:
        ctx.add_rows(table.row_ids, are_all=not run.is_partial)


def _is_one_for_one(run: StepRun) -> bool:
    parents = run.parents
    if run.index == 0:
        return True
    return parents.n_in == parents.n_out and all(i == p for i, p in enumerate(parents.all()))


def _pieces(name: str, items: Sequence[Any]) -> Iterator[Section]:
    for start in range(0, max(1, len(items)), PIECE):
        yield name, list(items[start : start + PIECE])


def _joined(data: StepData, name: str) -> list[Any]:
    return [item for piece in data.sections.get(name, ()) for item in piece]


def _call(calls: Sequence[CallRow], i: int) -> list[Any]:
    row = calls[i]
    body = [getattr(row, name) for name in _CALL_FIELDS]
    if i < ALWAYS_KEPT:
        return [*body, None if row.messages is None else list(row.messages), row.text]
    return body


def _call_row(step: str, body: list[Any]) -> CallRow:
    n = len(_CALL_FIELDS)
    fields: dict[str, Any] = dict(zip(_CALL_FIELDS, body[:n], strict=True))
    row = CallRow(step=step, **fields)
    if len(body) > n:
        row.messages = None if body[n] is None else tuple(body[n])
        row.text = body[n + 1]
    if row.status == "new":
        row.status = "answered"
    elif row.status == "failed":
        row.usd = 0.0
    return row
