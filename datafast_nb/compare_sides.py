"""The two sides of a comparison: their records, which of them belong together, where they ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from datafast_nb.display import formats
from datafast_nb.display.views import PENDING
from datafast_nb.errors import PipelineValidationError, RecordError
from datafast_nb.lineage import base_row, child_id, child_ids
from datafast_nb.records import (
    Record,
    RowIds,
    canonical_json,
    column_names,
    copy_record,
    normalise_records,
)
from datafast_nb.results import Result, RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import Step
from datafast_nb.steps.llm import LLMStep
from datafast_nb.trace import RecordTrace, may_fan_out

if TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline

DEFAULT_LIMIT = 5
"""Records of a pipeline that are compared where no limit is given."""

Pair = tuple[int | None, int | None]
"""Places of a record in a and in b; None on the side that lacks it."""


@dataclass
class Side:
    """One of the two: its records, and the run that they come from."""

    name: str
    given: Any
    records: list[Record]
    ids: list[str] | None = None
    """Identities of the records; None where nobody knows them."""
    info: RunInfo | None = None
    is_dry: bool = False
    """A pipeline: answered from disk alone."""
    limit: int | None = None
    pipeline: Pipeline | None = None
    inputs: frozenset[str] = frozenset()
    """Columns of the source."""
    is_part: bool = False
    """A slice, or what a step dropped: the run has other records too."""

    @cached_property
    def ids_after(self) -> list[list[str] | None]:
        """Identities of the records that left each step; None where nobody knows them."""
        return [] if self.info is None else _ids_after(self.info)

    def ids_before(self, run: StepRun) -> list[str] | None:
        """Identities of the records that enter a step."""
        return self.ids_after[run.index - 1] if run.index else None

    @property
    def runs(self) -> list[StepRun]:
        """The steps of the run."""
        return [] if self.info is None else self.info.steps


def side_of(value: Any, name: str, other: Any, limit: int | None) -> Side:
    """One side, from what was given; a pipeline gets its answers from the memo alone.

    Raises what `compare.diff` raises.
    """
    given, value, other = value, _plain(value), _plain(other)
    if not isinstance(value, (list, tuple)):
        try:
            made = _from_memo(value, name, other, limit)
        except PipelineValidationError as exc:
            exc.add_note(f"in {name!r} of diff()")
            raise
    elif isinstance(value, Result) and value._info is not None:
        made = Side(name, value, [copy_record(r) for r in value], _row_ids(value), value.info)
        made.pipeline = value.pipeline
        made.is_part = value._n_whole is not None or value._dropped_at is not None
    else:
        records, _ = normalise_records(value, where=lambda i: f"record {i} of {name!r}")
        made = Side(name, value, records)
    source = made.runs[0].table if made.runs else None
    if source is not None:
        made.inputs = frozenset(column_names(source.records))
    made.given = given
    return made


def _plain(value: Any) -> Any:
    """A Result, a Pipeline or a list of records, from what was given."""
    from datafast_nb.pipeline import Pipeline  # upward: dry runs are the pipeline's own

    if isinstance(value, RecordTrace):
        value = value.result if value.result is not None else value.outputs
    if isinstance(value, Step):
        value = Pipeline([value])
    if isinstance(value, (Pipeline, list, tuple)):
        return value
    raise TypeError(
        f"diff compares Results, pipelines and lists of records, not {type(value).__name__}; "
        "of a DataFrame give frame.to_dict('records')"
    )


def _from_memo(pipeline: Any, name: str, other: Any, limit: int | None) -> Side:
    """What the memo answers of a pipeline on its first records, or on those of a Result."""
    from datafast_nb.engine.context import RunSettings  # upward: how a pipeline is run

    settings = RunSettings(limit=DEFAULT_LIMIT if limit is None else limit, dry=True, sinks=False)
    if limit is None and isinstance(other, Result) and other._info is not None:
        theirs = other.info.settings
        settings.limit = None
        for key in ("limit", "pick", "one", "where"):
            setattr(settings, key, theirs.get(key, getattr(settings, key)))
        if theirs.get("limit_at") in ("source", *pipeline.compile().names):
            settings.limit_at = theirs["limit_at"]
    result: Result = pipeline._execute(settings, None, [])
    info = result.info
    ids = _row_ids(result)
    items = list(zip(result, ids, strict=True)) if ids is not None else []
    made = Side(name, pipeline, list(result), ids, info, is_dry=True, limit=settings.limit)
    made.pipeline = pipeline
    waiting = [] if ids is None and len(result) else _waiting(info)
    if waiting:
        source = info.steps[0].table
        rows = source.row_ids or [] if source is not None else []
        place = {row: i for i, row in enumerate(rows)}
        items = [(copy_record(r), i) for r, i in [*items, *waiting]]
        items.sort(key=lambda item: place.get(base_row(item[1]), len(place)))
        made.records, made.ids = [r for r, _ in items], [i for _, i in items]
    return made


def _waiting(info: RunInfo) -> list[tuple[Record, str]]:
    """The records that pending calls of a dry run would make, as far as they are known."""
    out = []
    fan_outs = _fan_outs(info)
    for run in info.steps[1:]:
        before = info.steps[run.index - 1].table
        step = run.step
        if not isinstance(step, LLMStep) or before is None or before.row_ids is None:
            continue
        later = [r.step for r in info.steps[run.index :] if isinstance(r.step, LLMStep)]
        columns = [c for s in later for c in s.spec.columns]
        for call in run.calls:
            if call.status != "pending":
                continue
            record = before.records[call.record]
            kept = {k: record[k] for k in step.forwarded(list(record))}
            row = before.row_ids[call.record]
            if run.index in fan_outs:
                place = call.variant * step.num_outputs + call.output_index
                row = child_id(row, fan_outs[run.index], place)
            out.append(({**kept, **dict.fromkeys(columns, PENDING)}, row))
    return out


def _fan_outs(info: RunInfo) -> dict[int, int]:
    """Index of each step that may make several records of one → its number among them."""
    first = int(getattr(info.steps[0].step, "n_fan_outs", 0)) if info.steps else 0
    found = [run.index for run in info.steps if may_fan_out(run.step)]
    return {index: first + n for n, index in enumerate(found)}


def _row_ids(result: Result) -> list[str] | None:
    """Identities of a Result's records, also where no step of its run needed them."""
    info = result.info
    if len(result) != len(result._rows):
        return None  # edited as a list: which record is which is not sure
    known = info.row_ids if info.row_ids is not None else (_ids_after(info) or [None])[-1]
    if known is None or any(i >= len(known) for i in result._rows):
        return None
    return [known[i] for i in result._rows]


def _ids_after(info: RunInfo) -> list[list[str] | None]:
    """Identities of the records that left each step, made where no step of the run needed them."""
    out: list[list[str] | None] = []
    fan_outs = _fan_outs(info)
    for run in info.steps:
        table = run.table
        ids = table.row_ids if table is not None else None
        if ids is None and run.index == 0 and table is not None:
            try:
                ids = RowIds().take(table.records)
            except RecordError:  # a number too long to write: its row has no identity
                return [None] * len(info.steps)
        elif ids is None and run.index and out[-1] is not None:
            before, parents = out[-1], list(run.parents.all())
            if len(parents) == run.n_out and all(p < len(before) for p in parents):
                ids = child_ids(before, parents, fan_outs.get(run.index, 0))
        out.append(ids)
    return out


# Which records belong together.


def match_records(a: Side, b: Side, on: Sequence[str] | None) -> tuple[list[Pair], str]:
    """Pairs in the order of a, then what only b has; and a note on how they were matched.

    Raises ValueError where nobody knows which records belong together.
    """
    if on is not None:
        keys = [_values(side, on) for side in (a, b)]
        return _pairs(keys[0], keys[1]), f"matched on {', '.join(on)}"
    if a.ids is not None and b.ids is not None:
        pairs = _pairs(a.ids, b.ids)
        if _fan_out_numbers(a.ids) != _fan_out_numbers(b.ids):
            pairs = _matched_by_base(pairs, a.ids, b.ids)
        if any(i is not None and j is not None for i, j in pairs) or _is_through(a, b):
            return pairs, ""
    if len(a.records) == len(b.records):
        note = "matched by position: which record is which is not known"
        return [(i, i) for i in range(len(a.records))], note
    shared = [c for c in column_names(a.records) if c in column_names(b.records)]
    raise ValueError(
        f"{a.name!r} has {formats.plural(len(a.records), 'record')} and {b.name!r} "
        f"{len(b.records):,}, and which belong together is not known: name the columns that tell "
        f"records apart, diff(…, on='{(shared or ['id'])[0]}'). "
        f"Columns that both have: {formats.some_names(shared) or 'none'}"
    )


def first_pairs(pairs: Sequence[Pair], a: Side, b: Side, limit: int) -> list[Pair]:
    """The pairs of the first `limit` source rows, or the first pairs where rows are not known."""
    if a.ids is None or b.ids is None:
        return list(pairs[:limit])
    rows = [
        base_row(a.ids[i]) if i is not None else base_row(b.ids[j] if j is not None else "")
        for i, j in pairs
    ]
    chosen = set(list(dict.fromkeys(rows))[:limit])
    return [pair for pair, row in zip(pairs, rows, strict=True) if row in chosen]


def _pairs(keys_a: Sequence[Hashable], keys_b: Sequence[Hashable]) -> list[Pair]:
    """Equal keys together, the first with the first where one stands several times."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for j, key in enumerate(keys_b):
        places[key].append(j)
    for found in places.values():
        found.reverse()
    pairs: list[Pair] = [
        (i, places[k].pop() if places.get(k) else None) for i, k in enumerate(keys_a)
    ]
    rest = sorted(j for found in places.values() for j in found)
    return [*pairs, *((None, j) for j in rest)]


def _matched_by_base(
    pairs: Sequence[Pair], ids_a: Sequence[str], ids_b: Sequence[str]
) -> list[Pair]:
    """A step that makes several records came or went: what is left of a source row, in order."""
    left: dict[str, list[int]] = defaultdict(list)
    for i, j in reversed(pairs):
        if i is None and j is not None:
            left[base_row(ids_b[j])].append(j)
    out: list[Pair] = []
    for i, j in pairs:
        if i is not None and j is None and left.get(base_row(ids_a[i])):
            j = left[base_row(ids_a[i])].pop()
        if i is not None:
            out.append((i, j))
    return [*out, *((None, j) for j in sorted(j for found in left.values() for j in found))]


def _fan_out_numbers(ids: Iterable[str]) -> set[str]:
    return {part.partition("-")[0] for i in ids for part in i.split(":")[1:]}


def _is_through(a: Side, b: Side) -> bool:
    """Lineage reaches from the sources to the records of both."""
    return all(run.parents.known for side in (a, b) for run in side.runs)


def _values(side: Side, on: Sequence[str]) -> list[Hashable]:
    out: list[Hashable] = []
    for i, record in enumerate(side.records):
        for column in on:
            if column not in record:
                raise ValueError(
                    f"on={column!r}: record {i} of {side.name!r} has no such column; "
                    f"it has {formats.some_names(list(record))}"
                )
        values = [record[c] for c in on]
        try:
            out.append(canonical_json(values))
        except TypeError:  # a pending answer
            out.append(repr(values))
    return out


# Where source rows ended.


@dataclass(frozen=True)
class End:
    """What became of a source row."""

    kind: Literal[
        "", "out", "failed", "filtered", "pending", "waiting", "beyond", "absent", "apart"
    ]
    """"beyond": left out by a limit; "waiting": the run stopped before; "apart": of the run, but
    not of the slice that is compared; "": not known."""
    step: str = ""
    why: str = ""

    @property
    def is_decided(self) -> bool:
        """The run has seen the row to its end."""
        return self.kind in ("out", "failed", "filtered", "pending")

    @property
    def words(self) -> str:
        """As people read it: "filtered at 'keep_good'"."""
        at = f" at '{self.step}'"
        match self.kind:
            case "":
                return ""
            case "out":
                return (
                    f"one of its calls failed{at}: {self.why}" if self.why else "gave fewer records"
                )
            case "failed":
                return f"failed{at}: {self.why}"
            case "beyond":
                return "beyond the limit"
            case "waiting":
                return f"not reached: the run stopped{at}"
            case "apart":
                return "not among the records given"
            case "absent":
                return "not among the source rows"
        return self.kind + at


class Way:
    """Where the source rows of a side ended."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self._after: list[set[str] | None] = []
        """Source rows that left each step; None where the step's records were not kept."""
        self._failed: dict[tuple[int, str], str] = {}
        self._pending: set[tuple[int, str]] = set()
        self._not_asked: set[tuple[int, str]] = set()
        ids = side.ids if side.is_part else None
        self._own = None if ids is None else set(map(base_row, ids))
        """Of a slice: the source rows of its records; None: all that the run had."""
        self._let_in: dict[int, set[str]] = {}
        """Where a limit applies: source rows that it let into the step."""
        for run in side.runs:
            self._look(run)

    def _look(self, run: StepRun) -> None:
        rows = self.side.ids_before(run)
        if rows is not None:
            for error in run.errors:
                spot = (run.index, base_row(rows[error.record]))
                self._failed.setdefault(spot, f"{error.kind}: {formats.cell(error.error, 200)}")
            for call in run.calls:
                if call.status in ("pending", "not_asked"):
                    found = self._pending if call.status == "pending" else self._not_asked
                    found.add((run.index, base_row(rows[call.record])))
            if run.selected is not None:
                self._let_in[run.index] = {base_row(rows[i]) for i in run.selected}
        ids = self.side.ids_after[run.index]
        self._after.append(None if ids is None else set(map(base_row, ids)))

    @property
    def rows(self) -> list[str]:
        """The source rows, in order; [] where they are not known."""
        ids = self.side.ids_after[0] if self.side.ids_after else None
        return list(dict.fromkeys(map(base_row, ids or ())))

    def end_of(self, row: str) -> End:
        """What became of a source row."""
        info = self.side.info
        if info is None or not self._after or self._after[0] is None:
            return End("")
        if self._own is not None and row not in self._own:
            return End("apart")
        for run, after in zip(self.side.runs, self._after, strict=True):
            spot = (run.index, row)
            if after is None or row in after:
                continue
            if run.index == 0:
                return End("absent" if info.status == "complete" else "beyond")
            if spot in self._failed:
                return End("failed", run.name, self._failed[spot])
            if spot in self._pending:
                return End("pending", run.name)
            if spot in self._not_asked:
                return End("waiting", run.name)
            if row not in self._let_in.get(run.index, {row}):
                return End("beyond", run.name)
            if run.fates.waiting:
                return End("waiting", run.name)
            return End("filtered", run.name)
        for run in self.side.runs:
            if (run.index, row) in self._pending:
                return End("pending", run.name)
            if (run.index, row) in self._failed:
                return End("out", run.name, self._failed[run.index, row])
        return End("out")
