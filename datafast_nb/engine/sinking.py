"""Writing sinks at the end of a run: a partial run never replaces a whole file."""

from __future__ import annotations

import os
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.errors import MemoError
from datafast_nb.lineage import Table
from datafast_nb.results import RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import SinkStep


def write_sinks(ctx: RunContext, info: RunInfo, steps: list[StepRun], *, is_complete: bool) -> None:
    """Write every sink that the run reached; fills `info.written`.

    Complete runs write the name. Interrupted and stopped ones write `name.partial.ext`.
    Limited ones write the name where nothing complete stands, else `name.partial.ext`.
    `sinks=True` writes the name in any case, `sinks=False` writes nothing.
    """
    if ctx.settings.sinks is False:
        return
    for run in steps:
        step = run.step
        if not isinstance(step, SinkStep):
            continue
        # A sink before the limit sees all records.
        whole = is_complete or (info.status == "limited" and not run.is_partial)
        path = step.path()
        table = run.table or Table([], True, [])
        insist = ctx.settings.sinks is True
        suffix = ""
        is_open = whole or insist or path is None
        if not is_open and (info.status != "limited" or not _may_replace(ctx, str(path))):
            suffix = "partial"
        if info.status in ("interrupted", "failed") and not table.records and not insist:
            continue  # nothing was finished: nothing to write
        where = step.write(table.records, suffix=suffix)
        info.written.append((run.name, where))
        if suffix:
            ctx.note(
                f"step '{run.name}': this run is {info.status}, so it wrote {os.path.basename(where)} "
                f"and left {os.path.basename(path or '')} as it is; sinks=True insists"
            )
        if path is not None and not suffix:
            _remember(ctx, path, "complete" if whole else "limited")
        cells = getattr(step, "formula_cells", 0)
        if cells and not getattr(step, "escape_formulas", False):
            ctx.note(
                f"step '{run.name}': {cells} cells start like a spreadsheet formula; "
                "escape_formulas=True quotes them"
            )


def _may_replace(ctx: RunContext, path: str) -> bool:
    """Nothing stands there, or what stands was written by a limited run and not touched since."""
    if not os.path.exists(path):
        return True
    known = ctx.memo.get_meta(_name(path))
    return bool(known) and known.get("status") == "limited" and known.get("stamp") == _stamp(path)


def _remember(ctx: RunContext, path: str, status: str) -> None:
    if ctx.memo.mode == "replay":
        return
    try:
        ctx.memo.set_meta(_name(path), {"status": status, "stamp": _stamp(path)})
    except MemoError as exc:
        ctx.note(f"cannot note that {os.path.basename(path)} is {status}: {exc}")


def _name(path: str) -> str:
    return f"sink:{os.path.abspath(path)}"


def _stamp(path: str) -> list[Any]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]
