"""Money at list price: what a run paid, what the memo saved, what was lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    AnyCell,
    Cell,
    Column,
    Document,
    Head,
    Inline,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
)

SHARED = "~"
"""How labels of draws begin that several calls share, at temperature 0."""


class CallFigures(Protocol):
    """What the ledger needs to know of a call."""

    step: str
    model: str
    key: str
    label: str
    status: str
    usd: float | None
    wasted_usd: float
    input_tokens: int
    output_tokens: int
    attempts: int
    n_replies: int
    latency_s: float


@dataclass
class LedgerLine:
    """Sums of the calls of one step and model. Dollars are NaN where a price is unknown."""

    step: str
    model: str
    n_calls: int = 0
    """Asked in this run, answered from disk, or known from disk to fail."""
    new: int = 0
    """Calls asked in this run, usable or not."""
    answered: int = 0
    """Calls answered from disk."""
    failed: int = 0
    input_tokens: int = 0
    """Tokens of new calls."""
    output_tokens: int = 0
    paid_usd: float = 0.0
    """New calls, usable or not."""
    saved_usd: float = 0.0
    """Answers that were on disk, at the price of asking today; one that several share counts once."""
    wasted_usd: float = 0.0
    """Part of `paid_usd` that bought no usable answer."""
    median_s: float | None = None
    """Median time of a reply, new or from disk; None: no reply, or not one step's."""
    asked_again: int = 0
    """Questions of this run beside the `new` calls: those after unusable replies."""
    unusable: int = 0
    """Replies of this run that could not be used."""

    def add(self, other: LedgerLine) -> None:
        """Add another line's figures; the median is of one line alone and is dropped."""
        for name in (
            "n_calls",
            "new",
            "answered",
            "failed",
            "input_tokens",
            "output_tokens",
            "paid_usd",
            "saved_usd",
            "wasted_usd",
            "asked_again",
            "unusable",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.median_s = None


@dataclass(repr=False)
class Ledger(Shown):
    """The bill of a run: one line per step and model, and their total."""

    lines: list[LedgerLine] = field(default_factory=list)
    prices: str = ""
    """The prices that the dollars are made of, in words; "" where they are not at hand."""

    @property
    def total(self) -> LedgerLine:
        """Sum of all lines; a dollar figure is NaN if any part of it is unknown."""
        total = LedgerLine("total", "")
        for line in self.lines:
            total.add(line)
        return total

    @property
    def paid_usd(self) -> float:
        """Dollars paid in this run, at list price; NaN if unknown."""
        return self.total.paid_usd

    @property
    def saved_usd(self) -> float:
        """Dollars that answers on disk saved; NaN if unknown."""
        return self.total.saved_usd

    @property
    def wasted_usd(self) -> float:
        """Dollars that bought no usable answer; NaN if unknown."""
        return self.total.wasted_usd

    @classmethod
    def of(cls, calls: Iterable[CallFigures]) -> Ledger:
        """The ledger of some calls. One pass; a microsecond a call."""
        lines: dict[tuple[str, str], LedgerLine] = {}
        latencies: dict[tuple[str, str], list[float]] = {}
        counted: set[tuple[str, str]] = set()
        for call in calls:
            # A run may end while a call that was sent waits for its next attempt.
            if call.status in ("pending", "not_asked") and not call.attempts:
                continue
            spot = (call.step, call.model)
            line = lines.get(spot)
            if line is None:
                line = lines[spot] = LedgerLine(*spot)
                latencies[spot] = []
            line.n_calls += 1
            if call.latency_s:
                latencies[spot].append(call.latency_s)
            usd = math.nan if call.usd is None else call.usd
            if call.label.startswith(SHARED):
                draw = (call.key, call.label)
                if draw in counted and call.status == "answered":
                    usd = 0.0
                counted.add(draw)
            if call.status == "answered":
                line.answered += 1
                line.saved_usd += usd
                continue
            if call.status == "failed":
                line.failed += 1
            if call.attempts:
                line.new += 1
                line.asked_again += max(0, call.n_replies - 1)
                line.unusable += call.n_replies - (call.status == "new")
                line.input_tokens += call.input_tokens
                line.output_tokens += call.output_tokens
                line.paid_usd += usd
                line.wasted_usd += call.wasted_usd
        for spot, line in lines.items():
            line.median_s = median(latencies[spot]) if latencies[spot] else None
        return cls(list(lines.values()))

    @classmethod
    def joined(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """One ledger with the lines of all."""
        return cls([replace(line) for ledger in ledgers for line in ledger.lines])

    def view(self) -> Document:
        """The bill as a table."""
        if not self.lines:
            return Document((Head("No calls", ("no model was asked",)),))
        head = Head(formats.plural(self.total.n_calls, "call"), money_of(self.total))
        return Document((head, ledger_table(self), self.basis))

    @property
    def basis(self) -> Paragraph:
        """What the dollars are made of, as a note."""
        total = self.total
        said = [self.prices or "List prices."]
        if total.asked_again:
            n = formats.plural(total.asked_again, "more question")
            said.append(f"Asked again: {n} after unusable replies, in what was paid.")
        if total.wasted_usd != 0:
            said.append(f"Wasted: {wasted_on(total)}.")
        return Paragraph((" ".join(said),), is_note=True)


def dollars(value: float, n_calls: int) -> str:
    """Dollars of some calls: "free" where they cost nothing, "unknown" without a price."""
    return "free" if value == 0 and n_calls else formats.usd(value)


def new_calls(line: LedgerLine) -> str:
    """What was asked and paid: "6 new calls, 1 asked again, paid $0.0012"."""
    paid = dollars(line.paid_usd, line.new)
    again = f", {line.asked_again:,} asked again" if line.asked_again else ""
    said = paid if paid == "free" else f"paid {paid}"
    return f"{formats.plural(line.new, 'new call')}{again}, {said}"


def wasted_on(line: LedgerLine) -> str:
    """What the wasted dollars were paid for, in words."""
    if not line.unusable:
        return "replies that were lost on the way"
    return "1 unusable reply" if line.unusable == 1 else f"{line.unusable:,} unusable replies"


def wasted(line: LedgerLine) -> str:
    """What was wasted, and on what: "wasted $0.0002 on 2 unusable replies"; "" for nothing."""
    if line.wasted_usd == 0:
        return ""
    return f"wasted {formats.usd(line.wasted_usd)} on {wasted_on(line)}"


def money_of(line: LedgerLine) -> Line:
    """What was paid, saved and wasted, in words; parts that are nothing are left out."""
    parts = []
    if line.new:
        paid = dollars(line.paid_usd, line.new)
        parts.append(paid if paid == "free" else f"paid {paid}")
    if line.answered and line.saved_usd != 0:
        parts.append(f"saved {formats.usd(line.saved_usd)}")
    if line.wasted_usd != 0:
        parts.append(f"wasted {formats.usd(line.wasted_usd)}")
    return (" · ".join(parts),) if parts else ()


def ledger_table(ledger: Ledger) -> Table:
    """The lines of a ledger and, where there are several, their total."""
    lines = ledger.lines
    # A step that asks several models has a line for each.
    has_models = len({line.model for line in lines}) > 1
    columns = [Column("step", "word"), *([Column("model", "word")] if has_models else [])]
    figures = ("memo", "new", "tokens in", "out", "paid", "saved", "wasted", "median")
    columns += [Column(name, "number") for name in figures]
    total = _row(ledger.total, has_models) if len(lines) > 1 else None
    return Table(tuple(columns), tuple(_row(line, has_models) for line in lines), total)


def _row(line: LedgerLine, has_models: bool) -> Row:
    cells: list[AnyCell] = [_cell(formats.cell(line.step, formats.MAX_NAME))]
    if has_models:
        cells.append(_cell(formats.cell(line.model, formats.MAX_NAME)))
    again: tuple[Line, ...] = ()
    if line.asked_again:
        again = ((f"{line.asked_again:,} asked again",),)
    cells += [
        _cell(_measured(line.answered)),
        Cell((_measured(line.new),), below=again),
        _cell(formats.amount(line.input_tokens) if line.new else "–"),
        _cell(formats.amount(line.output_tokens) if line.new else "–"),
        _cell(dollars(line.paid_usd, line.new) if line.new else "–"),
        _cell("–" if line.saved_usd == 0 else formats.usd(line.saved_usd)),
        _cell("–" if line.wasted_usd == 0 else formats.usd(line.wasted_usd)),
        _cell("" if line.median_s is None else formats.seconds(line.median_s)),
    ]
    if not line.failed:
        return tuple(cells)
    failed: tuple[Inline, ...] = (Mark("failed"), f" {line.failed:,} failed")
    first = cells[0]
    assert isinstance(first, Cell)
    return (replace(first, below=(failed,)), *cells[1:])


def _measured(n: int) -> str:
    return f"{n:,}" if n else "–"


def _cell(text: str) -> Cell:
    return Cell((text,) if text else ())
