"""Two results, or two versions of a pipeline, on the same records: `diff`.

`compare_sides` finds the records, `compare_steps` the changes, `compare_view` draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from datafast_nb.compare_sides import End, Pair, Side, Way, first_pairs, match_records, side_of
from datafast_nb.compare_steps import (
    Figure,
    PromptChange,
    Scope,
    StepChange,
    column_figures,
    compare_figures,
    compare_steps,
)
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import PENDING, Document
from datafast_nb.display.worddiff import MISSING, is_same
from datafast_nb.estimate import estimate_run
from datafast_nb.lineage import base_row
from datafast_nb.records import Record, column_names
from datafast_nb.steps.llm import BOOKKEEPING

if TYPE_CHECKING:
    import pandas as pd

    from datafast_nb.pipeline import Pipeline


def diff(
    a: Any,
    b: Any,
    *,
    limit: int | None = None,
    on: str | Sequence[str] | None = None,
    names: tuple[str, str] = ("a", "b"),
) -> Comparison:
    """Compare two results, two versions of a pipeline, or two lists of records. Asks no model.

    Records are matched by the source row they come from, and by their place among its
    records. Of a pipeline the answers that are on disk are compared; others stand as pending.

    Parameters
    ----------
    a, b
        Results, pipelines, lists of records; the two need not be of one kind.
    limit
        Records to compare, counted as `Pipeline.run` counts them. None: of pipelines the first
        5, or as many as the Result on the other side has; otherwise all.
    on
        Columns that name a record, in place of its source row.
    names
        What the two are called in the display.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        If nobody knows which records belong together.
    PipelineValidationError
        If a pipeline does not compile.
    """
    if len(names) != 2 or str(names[0]) == str(names[1]):
        raise ValueError(f"names is {names!r}; give two different names")
    called = (str(names[0]), str(names[1]))
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ValueError(f"limit is {limit!r}; use a whole number of 0 or more")
    left = side_of(a, called[0], b, limit)
    right = side_of(b, called[1], a, limit)
    pairs, note = match_records(left, right, [on] if isinstance(on, str) else on)
    if limit is not None:
        pairs = first_pairs(pairs, left, right, limit)
    return Comparison(left, right, pairs, note, is_limited=limit is not None)


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """A record on both sides, or on one of them."""

    index: int
    """Place of the record in `a`; in `b` where `a` has none."""
    identity: str
    """Of its source row, and its place among the row's records; "" where nobody knows."""
    a: Record | None
    b: Record | None
    changed: tuple[str, ...] = ()
    """Columns that differ."""
    is_pending: bool = False
    """Some answer of it is not on disk."""
    end: str = ""
    """Where it stands on one side only: what became of it on the other."""


class Comparison(Shown):
    """Two versions on the same records; `rows`, `prompts` and `figures` have the differences.

    Attributes
    ----------
    a, b
        What was compared.
    rows
        Records that both sides have, pending ones included.
    only_a, only_b
        Records that one side lacks; `end` says what became of them there.
    changes
        Steps that differ, with their prompts and settings.
    figures
        Cost, tokens, time and losses of the LLM steps that differ, and means of columns.
    note
        How records were matched, where not by their source rows.
    """

    def __init__(
        self, a: Side, b: Side, pairs: Sequence[Pair], note: str = "", *, is_limited: bool = False
    ) -> None:
        self._sides = (a, b)
        self.a, self.b = a.given, b.given
        self.note = note
        self.rows: list[ComparedRow] = []
        self.only_a: list[ComparedRow] = []
        self.only_b: list[ComparedRow] = []
        self.ways = (Way(a), Way(b))
        self._ignored = _ignored_columns(a, b)
        for i, j in pairs:
            self._add(i, j)
        self.changes: list[StepChange] = compare_steps(a, b)
        rows = (*self.rows, *self.only_a, *self.only_b)
        among = {base_row(row.identity) for row in rows} if is_limited else None
        self.scope = Scope(self.ways, among)
        self.figures: list[Figure] = compare_figures(self.changes, self.scope)
        if self.columns:
            both = [
                (r.a, r.b)
                for r in self.rows
                if r.a is not None and r.b is not None and not r.is_pending
            ]
            self.figures += column_figures(both, self.columns)
        self._to_ask = _cost_of_pending(a, b)

    def _add(self, i: int | None, j: int | None) -> None:
        a, b = self._sides
        left = None if i is None else a.records[i]
        right = None if j is None else b.records[j]
        side, place = (a, i) if i is not None else (b, j)
        assert place is not None  # a pair has one record at least
        identity = side.ids[place] if side.ids is not None else ""
        if left is not None and right is not None:
            # Of a large result most values are the same object on both sides.
            changed = tuple(
                c
                for c in {**left, **right}
                if (x := left.get(c, MISSING)) is not (y := right.get(c, MISSING))
                and c not in self._ignored
                and not is_same(x, y)
            )
            waits = (a.is_dry or b.is_dry) and any(
                v is PENDING for r in (left, right) for c, v in r.items() if c not in self._ignored
            )
            self.rows.append(ComparedRow(place, identity, left, right, changed, waits))
            return
        end = self.ways[i is not None].end_of(base_row(identity)) if identity else End("")
        is_pending = end.kind == "pending"
        row = ComparedRow(place, identity, left, right, (), is_pending, end.words)
        if is_pending:
            self.rows.append(row)
        else:
            (self.only_b if left is None else self.only_a).append(row)

    @property
    def names(self) -> tuple[str, str]:
        """What the two are called."""
        return self._sides[0].name, self._sides[1].name

    @property
    def sides(self) -> tuple[Side, Side]:
        """The two with their runs."""
        return self._sides

    @cached_property
    def changed(self) -> list[ComparedRow]:
        """Records that differ."""
        return [r for r in self.rows if r.changed and not r.is_pending]

    @cached_property
    def identical(self) -> list[ComparedRow]:
        """Records that are the same on both sides."""
        return [r for r in self.rows if not r.changed and not r.is_pending]

    @cached_property
    def pending(self) -> list[ComparedRow]:
        """Records of which some answer is not on disk."""
        return [r for r in self.rows if r.is_pending]

    @cached_property
    def columns(self) -> list[str]:
        """Columns that differ in some record, in order of first appearance."""
        differ = {c for row in self.rows for c in row.changed}
        if not differ:
            return []
        seen = column_names([r for row in self.rows for r in (row.a, row.b) if r is not None])
        return [c for c in seen if c in differ]

    @property
    def prompts(self) -> list[PromptChange]:
        """Templates that were edited."""
        return [p for change in self.changes for p in change.prompts]

    @property
    def df(self) -> pd.DataFrame:
        """A row per record: index, status, and the columns that differ, of both sides.

        `status` is "differs", "identical", "pending", "only a" or "only b" (with the names that
        the two have); a column "question" stands as "a_question" and "b_question".
        """
        import pandas as pd

        columns = self.columns
        table = []
        for row in (*self.rows, *self.only_a, *self.only_b):
            out: dict[str, Any] = {"index": row.index, "status": self._status(row)}
            for column in columns:
                for name, record in zip(self.names, (row.a, row.b), strict=True):
                    value = None if record is None else record.get(column)
                    out[f"{name}_{column}"] = None if value is PENDING else value
            table.append(out)
        names = ["index", "status", *(f"{n}_{c}" for c in columns for n in self.names)]
        return pd.DataFrame(table, columns=names)

    def _status(self, row: ComparedRow) -> str:
        if row.is_pending:
            return "pending"
        if row.b is None:
            return f"only {self.names[0]}"
        if row.a is None:
            return f"only {self.names[1]}"
        return "differs" if row.changed else "identical"

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of one side, by its name. Raises KeyError, and ValueError for mere records."""
        for place, side in zip("ab", self._sides, strict=True):
            if name == side.name or (name == place and name not in self.names):
                if side.pipeline is None:
                    raise ValueError(f"{side.name!r} is a list of records: no pipeline made it")
                return side.pipeline
        raise KeyError(f"no side is called {name!r}; they are {self.names[0]!r}, {self.names[1]!r}")

    @property
    def to_ask(self) -> tuple[float, float]:
        """Calls and dollars (NaN: unknown) that the pending answers of both sides would cost.

        An answer that both want is paid once.
        """
        return self._to_ask

    def view(self) -> Document:
        """Plain data for display."""
        from datafast_nb.compare_view import compare_view  # it draws this class

        return compare_view(self)


def _ignored_columns(a: Side, b: Side) -> frozenset[str]:
    """Columns that make no difference: bookkeeping, and source columns that one side drops."""
    if not a.records or not b.records:
        return frozenset(BOOKKEEPING)
    one_sided = set(column_names(a.records)) ^ set(column_names(b.records))
    return frozenset(BOOKKEEPING) | (one_sided & (a.inputs | b.inputs))


def _cost_of_pending(a: Side, b: Side) -> tuple[float, float]:
    calls = usd = 0.0
    wanted: set[tuple[str, str]] = set()
    for side in (a, b):
        if not side.is_dry or side.info is None:
            continue
        steps = {s.name: s for s in estimate_run(side.info).steps}
        for run in side.runs:
            spots = {(c.key, c.label) for c in run.calls if c.status == "pending"}
            n = steps[run.name].llm_calls if run.name in steps else 0.0
            if not n:
                continue
            own = n - len(spots & wanted)
            calls += own
            usd += steps[run.name].estimated_cost * own / n
            wanted |= spots
    return calls, usd
