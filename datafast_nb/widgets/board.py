"""The panel's state as plain data: what `docs/panel-protocol.md` calls `state`, part by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from datafast_nb.display import dot, formats
from datafast_nb.engine.handle import Snapshot
from datafast_nb.estimate import ExecutionEstimate
from datafast_nb.estimate_view import bounded, duration, price
from datafast_nb.options import options
from datafast_nb.pipeline_graph import edges_of
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.ledger import LedgerLine
from datafast_nb.store.memo import open_memo
from datafast_nb.store.memoinfo import count_answers
from datafast_nb.store.spend import stored_spend, today
from datafast_nb.validate import CompiledPipeline
from datafast_nb.widgets.work import Phase

FINAL = "final"


def finite(value: float | None) -> float | None:
    """A number that JSON can carry; None for what is not known."""
    return None if value is None or not math.isfinite(value) else value


def progress_state(at: Snapshot | None) -> dict[str, Any] | None:
    """Figures of the steps that ask, at the end of all; None before the first call."""
    if at is None:
        return None
    goes_on = at.status in ("running", "stopping")
    standing = at.standing
    together = standing.together if goes_on else standing.all_together
    if together is None:
        return None
    lines = [
        {
            "step": p.step,
            "total": p.total,
            "done": p.done,
            "memo": p.answered,
            "new": p.new,
            "failed": p.failed,
        }
        for p in (standing.lines if goes_on else (*standing.before, *standing.lines))
    ]
    return {
        "lines": lines,
        "total": together.total,
        "done": together.done,
        "memo": together.answered,
        "new": together.new,
        "failed": together.failed,
        "paid": finite(at.paid_usd),
        "in_flight": at.in_flight if goes_on else None,
        "rate": at.calls_per_s,
        "eta": finite(at.left_s),
    }


def estimate_state(estimate: ExecutionEstimate, n_records: int | None) -> dict[str, Any]:
    """What the next run would ask and cost."""
    cost, calls = estimate.cost, estimate.calls
    known = cost.is_known
    new = "no new call" if not calls.high else f"{bounded(calls)} new"
    parts = [new]
    if estimate.total_answered:
        parts.append(f"{estimate.total_answered:,} in the memo")
    if calls.high:
        said = price(cost, estimate.known_cost, is_free=estimate.is_free)
        if known and not cost.is_exact:
            said += f" ({formats.usd_range(cost.low, cost.high)})"
        took = duration(estimate.seconds)
        parts += [said, took if estimate.seconds.is_known else f"time {took}"]
    return {
        "records": n_records,
        "calls": finite(round(calls.likely + estimate.total_answered)) if calls.is_known else None,
        "new": finite(calls.likely),
        "memo": estimate.total_answered,
        "low": finite(cost.low) if known else None,
        "likely": finite(cost.likely) if known else None,
        "high": finite(cost.high) if known else None,
        "seconds": finite(estimate.seconds.likely),
        "exact": estimate.is_exact,
        "text": " · ".join(parts),
        "notes": list(estimate.notes),
    }


def memo_state() -> dict[str, Any]:
    """Answers on disk, and what was paid today and saved in all. Reads the memo's sums."""
    memo = open_memo()
    memo.flush()
    saved = paid = 0.0
    is_known = True
    for day, _, sums in stored_spend(memo):
        saved += sums.saved
        if day == today():
            paid += sums.paid
            is_known = is_known and not sums.paid_unpriced
    return {
        "answers": memo.read(count_answers, 0),
        "saved": saved,
        "paid_today": paid if is_known else None,
        "budget_today": options.budget_usd_per_day,
    }


def steps_state(
    compiled: CompiledPipeline | None, runs: Sequence[Sequence[StepRun]]
) -> list[dict[str, Any]]:
    """Each step with its counts, summed over the Results that are shown."""
    found: dict[str, dict[str, Any]] = {}
    for node in () if compiled is None else compiled.nodes:
        found[node.name] = _step_line(node.name, _kind(node.step))
    for steps in runs:
        for run in steps:
            line = found.setdefault(run.name, _step_line(run.name, _kind(run.step)))
            total = run.ledger.total
            added = (
                ("n_in", run.n_in),
                ("n_out", run.n_out),
                ("new", total.new),
                ("memo", total.answered),
                ("failed", run.fates.failed),
                ("filtered", run.fates.filtered),
            )
            for name, n in added:
                line[name] = (line[name] or 0) + n
    return list(found.values())


def going_state(compiled: CompiledPipeline | None, at: Snapshot) -> list[dict[str, Any]]:
    """Each step with its counts in the run that goes on."""
    found: dict[str, dict[str, Any]] = {}
    for node in () if compiled is None else compiled.nodes:
        found[node.name] = _step_line(node.name, _kind(node.step))
    for event in at.through:
        if event.step in found:
            found[event.step].update(n_in=event.n_in, n_out=event.n_out)
    for p in at.standing.lines:
        if p.step in found:
            is_live = p.step not in at.standing.ended
            found[p.step].update(new=p.new, memo=p.answered, failed=p.failed, live=is_live)
            found[p.step].update(done=p.done, total=p.total)
    for p in at.standing.before:
        if p.step in found:
            found[p.step].update(new=p.new, memo=p.answered, failed=p.failed)
    if not any(line["live"] for line in found.values()) and at.step in found:
        found[at.step]["live"] = True
    return list(found.values())


def _step_line(name: str, kind: str) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "n_in": None, "n_out": None,
        "new": 0, "memo": 0, "failed": 0, "filtered": 0, "live": False,
    }  # fmt: skip


def _kind(step: Any) -> str:
    if isinstance(step, SourceStep):
        return "source"
    if isinstance(step, SinkStep):
        return "sink"
    return "llm" if isinstance(step, LLMStep) else type(step).__name__


def said(phase: Phase, what: str, progress: dict[str, Any] | None, n_rows: int, error: str) -> str:
    """One sentence for the status line and the live region."""
    if phase == "queued":
        return "Starting."
    if phase in ("running", "stopping"):
        words = "Stopping: calls in flight come in" if phase == "stopping" else "Running"
        if progress is None:
            return f"{words}."
        figures = f"{progress['done']:,} of {formats.plural(progress['total'], 'call')}"
        return f"{words}: {figures}."
    rows = formats.plural(n_rows, "record")
    match phase:
        case "done":
            return f"Done: {rows}."
        case "limited":
            return f"Done: {rows} of a limited run."
        case "stopped":
            return f"Stopped: {rows} finished, every answer that arrived is kept."
        case "budget":
            return f"The budget is spent: {rows} finished, every answer that arrived is kept."
        case "failed":
            return f"Failed: {formats.cell(error, 200)}"
    return f"{rows} to look at." if n_rows else "Nothing has run."


def cost_state(
    lines: Sequence[LedgerLine], total: LedgerLine, estimated: dict[str, float], note: str
) -> dict[str, Any]:
    """The bill, beside what was foreseen."""
    known = [v for v in estimated.values() if math.isfinite(v)]
    left = dict(estimated)  # of a step: it stands on the first of its lines
    return {
        "lines": [_bill(line, left.pop(line.step, None)) for line in lines],
        "total": _bill(total, sum(known) if known else None),
        "note": note,
    }


def _bill(line: LedgerLine, estimated: float | None) -> dict[str, Any]:
    return {
        "step": line.step,
        "model": line.model,
        "calls": line.n_calls,
        "new": line.new,
        "memo": line.answered,
        "failed": line.failed,
        "tokens_in": line.input_tokens,
        "tokens_out": line.output_tokens,
        "paid": finite(line.paid_usd),
        "saved": finite(line.saved_usd),
        "wasted": finite(line.wasted_usd),
        "estimated": finite(estimated),
    }


def graph_state(compiled: CompiledPipeline, steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Places of the steps and of the edges between them, in pixels."""
    nodes: list[dict[str, Any]] = []
    for i, line in enumerate(steps[: len(compiled.nodes)]):
        badge = _badge(line, is_first=i == 0)
        name = formats.cell(line["name"], 40)
        width = 20 + round(7.2 * max(len(name), len(badge)))
        nodes.append({
            "id": line["name"], "name": name, "kind": line["kind"], "badge": badge,
            "w": width, "h": 44,
        })  # fmt: skip
    edges = edges_of(compiled)
    centers: list[tuple[float, float]]
    placed = dot.layout(tuple((n["w"], n["h"]) for n in nodes), edges)
    if placed is None:  # no dot program: one after another
        at = 0.0
        centers = []
        for node in nodes:
            centers.append((at + node["w"] / 2, 24.0))
            at += node["w"] + 28
        size = (max(0.0, at - 28), 48.0)
        curves = [_straight(nodes, centers, a, b) for a, b in edges]
    else:
        centers, size = list(placed.centers), (placed.width, placed.height)
        curves = [_polyline(curve) for curve in placed.curves]
    for node, (x, y) in zip(nodes, centers, strict=True):
        node["x"], node["y"] = round(x - node["w"] / 2, 1), round(y - node["h"] / 2, 1)
    return {
        "nodes": nodes,
        "edges": [
            {"from": nodes[a]["id"], "to": nodes[b]["id"], "points": points, "label": ""}
            for (a, b), points in zip(edges, curves, strict=True)
        ],
        "width": math.ceil(size[0]),
        "height": math.ceil(size[1]),
    }


def _badge(line: dict[str, Any], *, is_first: bool) -> str:
    if line["n_out"] is None:
        if not line.get("total"):
            return "at work" if line["live"] else str(line["kind"])
        failed = f" · {line['failed']:,} failed" if line["failed"] else ""
        return formats.cell(f"{line['done']:,} of {line['total']:,} calls{failed}", 44)
    counts = f"{line['n_out']:,}" if is_first else f"{line['n_in']:,} → {line['n_out']:,}"
    more = [f"{line[k]:,} {k}" for k in ("new", "failed", "filtered") if line[k]]
    return formats.cell(" · ".join([counts, *more]), 44)


def _straight(nodes: list[dict[str, Any]], centers: Any, a: int, b: int) -> list[list[float]]:
    (ax, ay), (bx, by) = centers[a], centers[b]
    return [[ax + nodes[a]["w"] / 2, ay], [bx - nodes[b]["w"] / 2, by]]


def _polyline(curve: Sequence[tuple[float, float]], n: int = 8) -> list[list[float]]:
    """Bézier curves as points on them."""
    points = [[round(curve[0][0], 1), round(curve[0][1], 1)]]
    for i in range(0, len(curve) - 3, 3):
        p = curve[i : i + 4]
        for k in range(1, n + 1):
            t = k / n
            w = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            x, y = (sum(w[j] * p[j][axis] for j in range(4)) for axis in (0, 1))
            points.append([round(x, 1), round(y, 1)])
    return points
