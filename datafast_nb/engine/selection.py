"""Which records `limit=`, `pick=` and `run_one` let through, and at which step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datafast_nb.engine.context import RunSettings
from datafast_nb.errors import DatafastError
from datafast_nb.graph import Node
from datafast_nb.lineage import Table
from datafast_nb.records import Record
from datafast_nb.runs import StepRun
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.sampling import Sample
from datafast_nb.validate import CompiledPipeline


def limit_index(
    nodes: Sequence[Node], compiled: CompiledPipeline, settings: RunSettings
) -> int | None:
    """Index of the node at whose entry the limit applies (0: the source's output)."""
    if settings.limit is None and settings.one is None and settings.where is None:
        return None
    if settings.limit_at == "source":
        return 0
    if settings.limit_at is not None:
        return compiled.index(settings.limit_at)
    for i, node in enumerate(nodes):
        if isinstance(node.step, LLMStep):
            return i
    return 0


def select(settings: RunSettings, table: Table, before: Sequence[StepRun]) -> list[int]:
    """Indices of the records that the limit lets through, ascending.

    `before` are the steps before the limited one, from the source on.
    """
    n = len(table)
    if settings.where is not None:
        return matching(table, settings.where, before)
    if settings.one is not None:
        if not -n <= settings.one < n:
            raise IndexError(f"run_one({settings.one}): only {n} records come here")
        return [settings.one % n]
    limit = settings.limit
    if limit is None or limit >= n:
        return list(range(n))
    if limit == 0:
        return []
    if settings.pick == "spread":
        return sorted({i * n // limit for i in range(limit)})
    if settings.pick == "random":
        ids = table.row_ids or [str(i) for i in range(n)]
        return Sample(n=limit).choose(table.records, ids)
    return list(range(limit))


def matching(table: Table, where: dict[str, Any], before: Sequence[StepRun]) -> list[int]:
    """Records here that come from the first source row with these values."""
    between = before[1:]
    source = before[0].table if between else table
    if source is None:
        raise DatafastError(
            "run_one(where=…) needs the source's rows at hand; this source has too many. Use run_one(index)"
        )
    row = next((i for i, r in enumerate(source.records) if _has(r, where)), None)
    if row is None:
        known = ", ".join(source.records[0]) if source.records else "none"
        raise KeyError(
            f"run_one(where={where!r}): no source row has these values (columns: {known})"
        )
    at = list(range(len(table)))
    for run in reversed(between):
        if not run.parents.known:
            raise DatafastError(
                f"run_one(where=…) cannot see through step '{run.name}', which changed the number "
                "of records; use run_one(index)"
            )
        parents = list(run.parents.all())
        at = [parents[i] for i in at]
    return [i for i, origin in enumerate(at) if origin == row]


def _has(record: Record, values: dict[str, Any]) -> bool:
    return all(k in record and record[k] == v for k, v in values.items())
