"""What a run did at each step: its calls, its errors, the fates of the records."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any, Literal

from datafast_nb.display import formats, views
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    AnyCell,
    Block,
    Cell,
    Column,
    Document,
    Head,
    Inline,
    Line,
    Listing,
    Mark,
    Paragraph,
    Row,
    code,
    muted,
)
from datafast_nb.lineage import Fates, Parents, Table
from datafast_nb.models.base import Message
from datafast_nb.models.verdicts import OTHER, REMEDIES, Remedy
from datafast_nb.records import Record
from datafast_nb.steps.base import Step
from datafast_nb.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class EarlierReply:
    """A reply that could not be used, and what was sent after it."""

    text: str
    verdict: str
    reason: str
    sent: str = ""
    """The correction that was sent; "": the same question once more."""


@dataclass(slots=True)
class CallRow:
    """One call of a run: a draw that was answered from disk, asked for, or failed."""

    step: str
    record: int
    """Index of the record among the step's inputs."""
    variant: int
    """Place in the step's expansion."""
    output_index: int
    key: str
    label: str
    model: str
    status: str = "pending"
    """"answered" (from disk), "new" (asked in this run), "failed", "not_asked", "pending"."""
    verdict: str = ""
    error: str = ""
    attempts: int = 0
    """Times a request was sent in this run."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    """List price of the replies; None if unknown."""
    wasted_usd: float = 0.0
    """Part of `usd` that bought no usable answer; NaN if unknown."""
    latency_s: float = 0.0
    asked_at: float | None = None
    """Unix time in seconds at which the run that asked came to this call; None: not asked."""
    messages: tuple[Message, ...] | None = None
    """As sent; None where a run has too many calls to keep them."""
    text: str | None = None
    """The raw reply."""
    values: dict[str, Any] | None = None
    n_replies: int = 0
    """Replies that arrived in this run: more than one where an unusable one was asked again."""
    earlier: tuple[EarlierReply, ...] = ()
    """Unusable replies before `text`, of this run or from disk; kept where `messages` are."""
    first_was_good: bool | None = None
    """Of a draw from disk: its first reply could be used."""

    @property
    def is_first_try(self) -> bool | None:
        """Whether the first reply could be used; None where no reply came."""
        if self.first_was_good is not None or not self.n_replies:
            return self.first_was_good
        return self.values is not None and self.n_tries == 1

    @property
    def n_tries(self) -> int:
        """Replies that it took, of this run and from disk, as far as they are known."""
        return max(self.n_replies, len(self.earlier) + 1)

    def to_dict(self) -> dict[str, Any]:
        """All but the values, which stand in the records; what people look for comes first."""
        return {
            "step": self.step,
            "record": self.record,
            "status": self.status,
            "model": self.model,
            "tries": self.n_tries if self.text is not None else self.n_replies,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "usd": self.usd,
            "latency_s": self.latency_s,
            "prompt": self.messages[-1]["content"] if self.messages else None,
            "reply": self.text,
            "verdict": self.verdict,
            "error": self.error,
            "asked_at": self.asked_at,
            "wasted_usd": self.wasted_usd,
            "attempts": self.attempts,
            "variant": self.variant,
            "output_index": self.output_index,
            "messages": None if self.messages is None else list(self.messages),
            "earlier": [asdict(reply) for reply in self.earlier],
            "key": self.key,
            "label": self.label,
        }


@dataclass(frozen=True, slots=True, repr=False)
class CallError(Shown):
    """A call that gave no usable answer."""

    step: str
    record: int
    """Index of the record among the step's inputs."""
    kind: str
    error: str
    model: str
    key: str
    label: str
    text: str | None
    """The raw reply, where one came."""
    prompt: str | None
    """The last message as sent, where it could be written."""
    input: Record
    """The record that was asked about."""

    def to_dict(self) -> dict[str, Any]:
        """As a dict, in the form of the spec's metadata."""
        out = asdict(self)
        out["record_id"] = next(
            (self.input[c] for c in ("_id", "id") if c in self.input), self.record
        )
        return out

    def view(self) -> Document:
        """What was asked about which record, what came back, and what to do about it."""
        from datafast_nb.call_view import value_facts  # it draws what this file defines

        remedy = self.remedy
        facts = [
            views.Fact(
                "cause", (Mark("failed"), f" {remedy.cause or formats.cell(self.kind, 60)}")
            ),
            views.Fact("message", (formats.clip(formats.printable(self.error), MAX_EXAMPLE),)),
        ]
        if self.prompt is not None:
            facts.append(views.Fact("last message sent", (Listing((formats.clip(self.prompt),)),)))
        if self.text is not None:
            facts.append(views.Fact("raw reply", (Listing((formats.clip(self.text),)),)))
        facts.append(views.Fact("the record", (value_facts(self.input),)))
        again = ("; ", code(".retry_failed()"), " asks it again") if remedy.asks_again else ()
        facts.append(views.Fact("what to do", (remedy.advice, *again)))
        model = f" · {formats.cell(self.model, formats.MAX_NAME)}" if self.model else ""
        step = formats.cell(self.step, formats.MAX_NAME)
        head = Head("Failed call", (f"at {step}, its record {self.record:,}{model}",))
        return Document((head, views.Facts(tuple(facts), is_ruled=True)))

    @property
    def remedy(self) -> Remedy:
        """What this kind of failure means, and what to do about it."""
        return REMEDIES.get(self.kind, OTHER)

    def __repr__(self) -> str:
        return f"<CallError {self.step}, record {self.record}: {formats.cell(self.error, 60)}>"


MAX_GROUPS = 20
MAX_REASON = 300
MAX_EXAMPLE = 1_000


class ErrorList(Shown, list[CallError]):
    """The failed calls of a run."""

    steps: Sequence[StepRun] = ()
    """What ran: the calls there say what asking again would cost."""

    @property
    def groups(self) -> list[tuple[str, str, int, CallError]]:
        """(step, kind, count, first example), most frequent first."""
        counts = Counter((e.step, e.kind) for e in self)
        first: dict[tuple[str, str], CallError] = {}
        for e in self:
            first.setdefault((e.step, e.kind), e)
        return [(s, k, n, first[s, k]) for (s, k), n in counts.most_common()]

    @property
    def summary(self) -> Line:
        """Records and causes in words."""
        n_records = len({(e.step, e.record) for e in self})
        n_causes = len({e.kind for e in self})
        said = f"{formats.plural(n_records, 'record')}, {formats.plural(n_causes, 'cause')}"
        if len(self) != n_records:
            said = f"{formats.plural(len(self), 'call')} about {said}"
        return (said,)

    def view(self) -> Document:
        """The failures by step and cause, and what to do about each."""
        if not self:
            return Document((Head("No failed calls"),))
        title = formats.plural(len(self), "failed call")
        return Document((Head(title, self.summary), *self.blocks()))

    def blocks(self, n_groups: int = MAX_GROUPS, *, has_hints: bool = True) -> tuple[Block, ...]:
        """The groups as a table, at most `n_groups` of them; `has_hints`: with what to do."""
        groups = self.groups
        records: dict[tuple[str, str], set[int]] = {}
        for e in self:
            records.setdefault((e.step, e.kind), set()).add(e.record)
        columns = (
            Column("records", "number"),
            Column("step", "word"),
            Column("cause", "text"),
            Column("first example", "written"),
            *((Column("what to do", "text"),) if has_hints else ()),
        )
        rows = tuple(
            self._row(step, kind, n, len(records[step, kind]), first)[: len(columns)]
            for step, kind, n, first in groups[:n_groups]
        )
        table = views.Table(columns, rows)
        n_more = len(groups) - n_groups
        if n_more <= 0:
            return (table,)
        more: Line = (formats.plural(n_more, "more group"),)
        if has_hints:
            more = (*more, ": all are in ", code(".errors"))
        return (table, Paragraph(more, is_note=True))

    def _row(self, step: str, kind: str, n: int, n_records: int, first: CallError) -> Row:
        remedy = REMEDIES.get(kind, OTHER)
        cause: Line = (Mark("failed"), f" {remedy.cause or formats.cell(kind, 60)}")
        how_many: tuple[Line, ...] = ((formats.plural(n, "call"),),) if n != n_records else ()
        whose: Line = (f"{self._place(first)}: {formats.cell(_first_text(first.input), 80)}",)
        raw = None if first.text is None else Listing((formats.clip(first.text, MAX_EXAMPLE),))
        return (
            Cell((f"{n_records:,}",), below=how_many),
            Cell((formats.cell(step, formats.MAX_NAME),)),
            Cell(cause, below=((formats.cell(first.error, MAX_REASON),),)),
            Cell((muted("no reply came"),) if raw is None else (), below=(whose,), listing=raw),
            self._what_to_do(step, remedy, n),
        )

    def _place(self, error: CallError) -> str:
        """Which record it was: "source row 5", or its number among the inputs of the step."""
        at = next((k for k, run in enumerate(self.steps) if run.name == error.step), 0)
        row = way_back(self.steps[:at], error.record)[0] if at else None
        if row is None:
            return f"input record {error.record:,}"
        rows = self.steps[0].rows
        return f"source row {row if rows is None else rows[row]:,}"

    def _what_to_do(self, step: str, remedy: Remedy, n: int) -> Cell:
        if not remedy.asks_again:
            return Cell((remedy.advice,))
        again = "asks this one again" if n == 1 else f"asks these {n:,} again"
        usd = self._usd_per_call(step)
        if usd is not None:
            again += ", free" if usd == 0 else f", about {formats.usd(usd * n)}"
        return Cell((code(".retry_failed()"),), below=((again,), (remedy.advice,)))

    def _usd_per_call(self, step: str) -> float | None:
        """What a call of the step costs on average; None: not known."""
        run = next((run for run in self.steps if run.name == step), None)
        if run is None:
            return None
        # Of a large run the start is enough.
        some = islice((c for c in run.calls if c.values is not None and c.usd is not None), 1_000)
        known = [c.usd for c in some if c.usd is not None]
        return fmean(known) if known else None


def _first_text(record: Record) -> Any:
    """The first value that is a text of several words, else any text; without one the record."""
    texts = [v for k, v in record.items() if isinstance(v, str) and not k.startswith("_")]
    return next((t for t in texts if " " in t.strip()), texts[0] if texts else record)


Loss = Literal["filtered", "failed", "waiting", "beyond_limit"]
"""Fate of a record that a step did not let through."""


@dataclass
class StepRun:
    """What a run did at one step."""

    name: str
    index: int
    step: Step
    site: str
    parents: Parents = field(default_factory=Parents)
    fates: Fates = field(default_factory=Fates)
    table: Table | None = None
    """Records that left the step; None where they were too many to keep."""
    n_in: int = 0
    n_out: int = 0
    calls: list[CallRow] = field(default_factory=list)
    rows: Sequence[int] | None = None
    """Of a source that a limit applies to: the row of each record; None: in order from the first."""
    selected: Sequence[int] | None = None
    """Inputs that a limit let through, ascending; None: all of them."""
    not_reached: frozenset[int] = frozenset()
    """Inputs of a step that asks no model which it did not come to before the run ended."""
    call_of: list[int] | None = None
    """For each output record the index of its call; -1 for a skipped record."""
    errors: list[CallError] = field(default_factory=list)
    partly_failed: int = 0
    """Records that advanced although some of their calls failed."""
    is_partial: bool = False
    """Saw only part of what a full run would bring here."""
    notes: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    """The bill of `calls`, made when the step has ended."""
    ways: dict[str, str | None] = field(default_factory=dict)
    """Of a step with a schema: how each model was sent it, None: by means of its own."""
    found: dict[int, Record] = field(default_factory=dict, repr=False, compare=False)
    """Where there is no table: records that were computed again to look back, by their indices."""
    again: Sequence[Record] | None = field(default=None, repr=False, compare=False)
    """All records computed again, of a step that cannot be asked about one record alone."""

    def has_any(self, spots: Collection[tuple[str, str]]) -> bool:
        """Some call failed here, or has its draw (key, label) among these."""
        return bool(self.errors) or any((c.key, c.label) in spots for c in self.calls)

    def loss_of(self, record: int) -> Loss:
        """What became of input `record`, which has no output."""
        at = bisect_left(self.errors, record, key=lambda error: error.record)
        if at < len(self.errors) and self.errors[at].record == record:
            return "failed"
        if self.selected is not None:
            at = bisect_left(self.selected, record)
            if at == len(self.selected) or self.selected[at] != record:
                return "beyond_limit"
        if record in self.not_reached:
            return "waiting"
        return "filtered" if self.call_of is None else "waiting"

    def child_of(self, record: int) -> int | None:
        """Index of the first output of input `record` of an LLM step; None if it has none."""
        # The outputs of an LLM step stand in the order of their inputs.
        place = bisect_left(range(self.n_out), record, key=lambda i: self.parents.of(i) or 0)
        return place if place < self.n_out and self.parents.of(place) == record else None

    @property
    def n_new(self) -> int:
        """Calls asked in this run."""
        return self.ledger.total.new

    @property
    def n_answered(self) -> int:
        """Calls answered from disk."""
        return self.ledger.total.answered


@dataclass(frozen=True, slots=True)
class Structured:
    """How the answers of one step and model came that have a schema."""

    step: str
    model: str
    way: str | None
    """How the schema was sent, one of `models.ladder.WAYS`; None: by means of the model's own."""
    asked: int
    """Draws that have a reply, of this run and from disk."""
    first_try: int
    """Those whose first reply could be used."""

    @property
    def rate(self) -> float:
        """Share of first replies that could be used; NaN where there is none."""
        return self.first_try / self.asked if self.asked else math.nan


def structured_lines(steps: Sequence[StepRun]) -> list[Structured]:
    """One line for each step with a schema and each of its models that has replies."""
    found = []
    for run in steps:
        asked: Counter[str] = Counter()
        good: Counter[str] = Counter()
        for call in run.calls if run.ways else ():
            is_good = call.is_first_try
            if is_good is not None:
                asked[call.model] += 1
                good[call.model] += is_good
        found += [
            Structured(run.name, name, way, asked[name], good[name])
            for name, way in run.ways.items()
            if asked[name]
        ]
    return found


def way_back(steps: Sequence[StepRun], output: int) -> list[int | None]:
    """For each step the index, among its outputs, of the record that became output `output`.

    None at the steps that lie before one which hides the lineage.
    """
    way: list[int | None] = [None] * len(steps)
    at: int | None = output
    for k in range(len(steps) - 1, -1, -1):
        way[k] = at
        if at is None or k == 0:
            break
        at = steps[k].parents.of(at)
    return way


def calls_behind(steps: Sequence[StepRun], output: int) -> list[CallRow]:
    """Calls that made one record of the last step, in step order, as far as its lineage is known."""
    found: list[CallRow] = []
    for run, at in zip(steps, way_back(steps, output), strict=True):
        if at is not None and run.call_of is not None and at < len(run.call_of):
            place = run.call_of[at]
            if place >= 0:
                found.append(run.calls[place])
    return found


FATES = ("filtered", "failed", "skipped", "waiting", "beyond_limit")
FATE_WORDS = {
    "filtered": "filtered",
    "failed": "failed",
    "skipped": "skipped",
    "waiting": "not reached",
    "beyond_limit": "beyond limit",
}


@dataclass(frozen=True, repr=False)
class Funnel(Shown):
    """Fates of the inputs of every step; they add up to its number of inputs."""

    steps: Sequence[StepRun]

    def view(self) -> Document:
        """A row per step: records in, what became of them, records out, calls."""
        runs = list(self.steps)
        if not runs:
            return Document((Head("No steps", ("nothing ran",)),))
        first, last = runs[0].n_out, runs[-1].n_out
        facts = (
            f"{first:,} → {formats.plural(last, 'record')}, {formats.plural(len(runs), 'step')}",
        )
        return Document((Head("Funnel", facts), self.table()))

    def table(self) -> views.Table:
        """The figures; columns that are nowhere more than 0 are left out."""
        runs = list(self.steps)
        lost = [f for f in FATES if any(getattr(run.fates, f) for run in runs)]
        has_calls = any(run.calls for run in runs)
        columns = [Column("step", "word"), Column("in", "number")]
        columns += [Column(FATE_WORDS[f], "number") for f in lost]
        columns.append(Column("out", "number"))
        if has_calls:
            columns += [Column("memo", "number"), Column("new", "number")]
        rows = []
        for run in runs:
            cells: list[AnyCell] = [Cell((formats.cell(run.name, formats.MAX_NAME),))]
            # A source takes no records in.
            cells.append(Cell((f"{run.n_in:,}",) if run.index else ()))
            for fate in lost:
                n = getattr(run.fates, fate)
                mark: tuple[Inline, ...] = (Mark("failed"), " ") if n and fate == "failed" else ()
                cells.append(Cell((*mark, f"{n:,}" if n else "–") if run.index else ()))
            cells.append(Cell((f"{run.n_out:,}",)))
            if has_calls:
                # Zero is a dash, as for the fates and in the ledger; no calls at all is empty.
                for n in (run.n_answered, run.n_new):
                    cells.append(Cell((f"{n:,}" if n else "–",) if run.calls else ()))
            rows.append(tuple(cells))
        return views.Table(tuple(columns), tuple(rows))
