"""Whether free steps that a checkpoint holds would give the same today: a look at the first records.

The checkpoint's records are used in any case; a difference is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datafast_nb.display import formats
from datafast_nb.engine.flow import where_in
from datafast_nb.lineage import Table
from datafast_nb.records import Record, copy_record, normalise_records
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChunkStep, SourceStep
from datafast_nb.store.typed_json import encode

N_RECORDS = 10


def recheck(kept: Sequence[tuple[StepRun, Table]], note: Callable[[str], None]) -> None:
    """Compute the first records of sources and record-wise steps again; note what differs."""
    tables = {run.index: table for run, table in kept}
    for run, table in kept:
        try:
            if isinstance(run.step, SourceStep):
                differs = run.rows is None and _source_differs(run.step, table)
                what = "reads other records now than"
            elif isinstance(run.step, ChunkStep) and run.index - 1 in tables:
                differs = _function_differs(run, run.step, tables[run.index - 1], table)
                what = "gives other records now than"
            else:
                continue
        except Exception as exc:  # of a user's function or source
            differs, what = True, f"raises now ({formats.error_text(exc)}), unlike for"
        if differs:
            note(
                f"step '{run.name}' {what} the {len(table):,} in the checkpoint, although its "
                "settings are the same (chance, the time, or something outside of it); the "
                f"checkpoint's are used. resume_from={run.name!r} takes the new ones"
            )


def _source_differs(source: SourceStep, table: Table) -> bool:
    if source.content():
        return False  # its fingerprint says what it reads
    if not source.is_near():
        return False
    rows = source.first_rows(N_RECORDS)
    records, _ = normalise_records(list(rows), where=source.place, from_frame=source.from_frame)
    n = min(len(records), N_RECORDS)
    return _lines(records[:n]) != _lines(table.records[:n])


def _function_differs(run: StepRun, step: ChunkStep, before: Table, after: Table) -> bool:
    if not run.parents.known or run.fates.beyond_limit:
        return False
    given = [copy_record(r) for r in before.records[:N_RECORDS]]
    out, _, is_user_made = step.run_chunk(given, flat=before.flat, where=where_in(run, 0))
    if is_user_made:
        out, _ = normalise_records(out, where=where_in(run, 0))
    n_out = 0
    for parent in run.parents.all():
        if parent >= len(given):
            break
        n_out += 1
    return _lines(out) != _lines(after.records[:n_out])


def _lines(records: list[Record]) -> list[bytes]:
    return [encode(record) for record in records]
