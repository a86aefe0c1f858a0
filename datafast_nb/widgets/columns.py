"""What stands above each column of the grid: kind, nulls, distinct values, small bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datafast_nb.display.columns import column_of
from datafast_nb.display.families import Looked, look, spread
from datafast_nb.display.views import PENDING
from datafast_nb.records import Record

MAX_COLUMNS = 200
MAX_LOOKED_AT = 20_000
"""Records, spread over all: the first rows are drawn when the columns are known, so this must be quick."""
_KINDS = {"number": "number", "bool": "bool", "list": "list", "text": "text"}
_SHORT = 60
"""Characters up to which texts that repeat are names of something."""


def column_summaries(records: Sequence[Record], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A summary of each column, from at most 20,000 records spread over all. Never raises."""
    looked = spread(records, MAX_LOOKED_AT)
    sampled = len(looked) if len(looked) < len(records) else None
    return [_summary(name, looked, sampled, len(records)) for name in columns[:MAX_COLUMNS]]


def _summary(
    name: str, records: Sequence[Record], sampled: int | None, total: int
) -> dict[str, Any]:
    values = [None if (v := r.get(name)) is PENDING else v for r in records]
    made = column_of(name, values, sampled_from=total)
    try:
        seen = look(values)
        kind, distinct = _kind(seen), _distinct(seen)
        n_missing = sum(seen.missing.values())
    except Exception:  # a record may hold anything
        kind, distinct, n_missing = "other", None, 0
    return {
        "name": name,
        "kind": kind,
        "nulls": n_missing / len(values) if values else 0,
        "distinct": distinct,
        "bars": list(made.spark.bars) if made.spark is not None else [],
        "words": made.note or (made.spark.words if made.spark is not None else ""),
        "sampled": sampled,
    }


def _kind(seen: Looked) -> str:
    if seen.family != "text":
        return _KINDS.get(seen.family, "other")
    texts = seen.values
    is_name = max(map(len, texts)) <= _SHORT and 2 * len(set(texts)) <= len(texts)
    return "category" if is_name else "text"


def _distinct(seen: Looked) -> int | None:
    """Different values among those looked at; None where they are known by length alone."""
    return len(set(seen.values)) if seen.family in ("text", "number", "bool", "date") else None
