"""One record in full: its way through the steps, its calls, prompts and replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datafast_nb.call_view import STATUS
from datafast_nb.display import formats
from datafast_nb.errors import DatafastError, RecordError
from datafast_nb.models.verdicts import OTHER, REMEDIES
from datafast_nb.models.wire import Secret
from datafast_nb.records import Record
from datafast_nb.results import Result, RunInfo
from datafast_nb.runs import CallError, CallRow
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import Unusable
from datafast_nb.store.memo import open_memo
from datafast_nb.trace import RecordTrace, TraceStep

MAX_TEXT = 100_000
"""Characters of a prompt, a reply or a value that go to the browser."""
MAX_LINEAGE = 1_000_000
"""Characters of all texts of one record together, about."""
MAX_CALLS = 50


class _Texts:
    """Cuts texts, the more the more there were before: a record may have very many long ones."""

    def __init__(self) -> None:
        self._left = MAX_LINEAGE
        self.cut = False

    def take(self, text: str) -> str:
        most = min(MAX_TEXT, max(1_000, self._left))
        self._left -= min(len(text), most)
        if len(text) <= most:
            return text
        self.cut = True
        return text[:most]


def trace_detail(trace: RecordTrace, title: str, info: RunInfo | None) -> dict[str, Any]:
    """What the Record tab shows of a trace."""
    texts = _Texts()
    lineage = []
    before: Record = {}
    for step in trace.trace:
        lineage.append(_step(step, before, info, texts))
        if step.records:
            before = step.records[0]
    return {"title": title, "lineage": lineage}


def row_detail(result: Result, row: int, title: str) -> dict[str, Any]:
    """What the Record tab shows of one record of a Result."""
    if result._info is None or result.is_edited:
        values = _values(result[row], _Texts())
        step = {
            "step": "", "kind": "", "fate": "read", "note": "", "values": values,
            "added": [], "calls": [],
        }  # fmt: skip
        return {"title": title, "lineage": [step]}
    made = trace_detail(result.trace(row), title, result.info)
    last = made["lineage"][-1]
    if not last["values"]:  # of a large table the steps' records are not kept; its own it has
        last.update(values=_values(result[row], _Texts()), note="")
    return made


def failed_detail(result: Result, error: CallError, title: str) -> dict[str, Any]:
    """What the Record tab shows of a record that failed."""
    dropped = result.dropped(error.step)
    at = list(dropped._rows).index(error.record) if error.record in dropped._rows else None
    if at is None:  # it went on with its other answers
        before = result.at(result.step(error.step).index - 1)
        trace = before.trace(error.record)
        run = result.step(error.step)
        calls = tuple(c for c in run.calls if c.record == error.record)
        trace.trace.append(TraceStep(run.name, "advanced", (), calls, error.error, "LLMStep"))
    else:
        trace = dropped.trace(at)
    return trace_detail(trace, title, result.info)


def cell_detail(record: Mapping[str, Any], column: str) -> str:
    """A whole value as text."""
    value = record.get(column)
    return (value if isinstance(value, str) else _text(value))[: 10 * MAX_TEXT]


def _step(step: TraceStep, before: Record, info: RunInfo | None, texts: _Texts) -> dict[str, Any]:
    after = step.records[0] if step.records else {}
    values = after or (before if step.fate in ("filtered", "failed", "waiting") else {})
    said: dict[str, Any] = {
        "step": step.name,
        "kind": step.kind,
        "fate": step.fate,
        "note": step.note,
        "values": _values(values, texts),
        "added": [c for c in after if c not in before] if before else [],
        "calls": [call_detail(c, before, info, texts) for c in step.calls[:MAX_CALLS]],
    }
    if len(step.records) > 1:
        said["more"] = len(step.records) - 1
    return said


def _values(record: Record, texts: _Texts) -> dict[str, str]:
    return {str(k): texts.take(v if isinstance(v, str) else _text(v)) for k, v in record.items()}


def _text(value: Any) -> str:
    """Lists and dicts as JSON over several lines, other values as they are written."""
    if isinstance(value, (list, dict)):
        try:
            return json.dumps(value, ensure_ascii=False, indent=1, default=str)
        except (TypeError, ValueError):
            pass
    return "" if value is None else formats.one_line(value)


def call_detail(
    call: CallRow, before: Record, info: RunInfo | None, texts: _Texts | None = None
) -> dict[str, Any]:
    """A call as the browser gets it.

    Parameters
    ----------
    before
        The record that was asked about; {} where it is not known.
    """
    texts = texts or _Texts()
    texts.cut = False
    call, step = _whole(call, before, info)
    remedy = REMEDIES.get(call.verdict, OTHER) if call.status == "failed" else None
    said = {
        "key": call.key,
        "label": call.label,
        "model": call.model,
        "status": STATUS[call.status][1] if call.status in STATUS else call.status,
        "verdict": call.verdict,
        "messages": [
            {"role": m["role"], "content": texts.take(m["content"])} for m in call.messages or ()
        ],
        "text": None if call.text is None else texts.take(call.text),
        "fields": None if call.values is None else _values(call.values, texts),
        "tokens_in": call.input_tokens,
        "tokens_out": call.output_tokens,
        "usd": call.usd,
        "seconds": call.latency_s or None,
        "attempts": call.n_tries,
        "asked_at": call.asked_at,
        "request": texts.take(_request(call, step)),
        "error": call.error,
        "remedy": "" if remedy is None else remedy.advice,
        "earlier": [
            {"text": texts.take(e.text), "verdict": e.verdict, "reason": e.reason, "sent": e.sent}
            for e in call.earlier[:8]
        ],
    }
    if texts.cut:
        said["cut"] = True
    return said


def _whole(call: CallRow, before: Record, info: RunInfo | None) -> tuple[CallRow, LLMStep | None]:
    """The call with messages and reply, also of a run that had too many to keep them."""
    run = None if info is None else next((r for r in info.steps if r.name == call.step), None)
    step = run.step if run is not None and isinstance(run.step, LLMStep) else None
    if step is None or (call.messages is not None and (call.text is not None or not before)):
        return call, step
    if call.messages is None and before:
        try:
            variant = step.variants[call.variant]
            messages = tuple(step.messages(before, variant))
        except (KeyError, RecordError, IndexError):
            return call, step
        if variant.keys.key(messages) == call.key:
            call = replace(call, messages=messages)
    if call.text is None and call.values is not None:
        draw = open_memo().get_many([(call.key, call.label)])[0]
        for reply in reversed(draw.replies if draw is not None else ()):
            try:
                if step.parse(reply.text) == call.values:
                    return replace(call, text=reply.text), step
            except (Unusable, DatafastError):
                continue
    return call, step


def _request(call: CallRow, step: LLMStep | None) -> str:
    """The logical request as JSON: what decides the answer, no key, no address."""
    if step is None or call.messages is None or call.variant >= len(step.variants):
        return ""
    request = step.request(call.messages, step.variants[call.variant])
    said = {
        "model": call.model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "top_p": request.top_p,
        "schema": request.schema,
        **dict(request.extra),
    }
    kept = {k: v for k, v in said.items() if v is not None}
    return Secret().redact(json.dumps(kept, ensure_ascii=False, indent=2, default=str))


def error_groups(failed: Sequence[CallError], n_rows: int | None) -> list[dict[str, Any]]:
    """The failures by step and kind, most frequent first.

    `n_rows`: rows of the grid, behind which the failures stand in it; None: they do not.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for k, error in enumerate(failed):
        group = groups.get((error.step, error.kind))
        if group is None:
            again = " Retry asks again." if error.remedy.asks_again else ""
            group = groups[error.step, error.kind] = {
                "kind": error.kind,
                "step": error.step,
                "n": 0,
                "cause": error.remedy.cause or error.kind,
                "example": formats.clip(formats.printable(error.error), 1_000),
                "input": formats.cell(error.input, 300),
                "what_to_do": f"{error.remedy.advice}.{again}",
                "asks_again": error.remedy.asks_again,
                "rows": [],
            }
        group["n"] += 1
        if n_rows is not None and len(group["rows"]) < 100:
            group["rows"].append(n_rows + k)
    return sorted(groups.values(), key=lambda g: -g["n"])
