"""The project's ledger for people: what was paid, saved and wasted per day, run, step and model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Head,
    Line,
    Paragraph,
    Row,
    Table,
    code,
)
from datafast_nb.options import options, shown_path
from datafast_nb.store.ledger import dollars
from datafast_nb.store.memo import open_memo
from datafast_nb.store.spend import Sums, stored_spend, today

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("project", "day", "run", "step", "provider", "model")
MAX_DAYS = 14
MAX_ROWS = 10
_SUMMED = ("calls", "unusable", "lost", "answered", "input_tokens", "output_tokens")
_DOLLARS = ("paid_usd", "saved_usd", "wasted_usd")


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What some calls came to, at list price. Dollars are NaN where a price is unknown."""

    project: str = ""
    """Folder of the memo; "" in a sum over several, as for all that follow."""
    day: str = ""
    """Local date on which the replies came, as in "2026-11-22"."""
    run: str = ""
    """Local time at which the run began, and some digits."""
    step: str = ""
    provider: str = ""
    model: str = ""
    calls: int = 0
    """Replies that came, and calls that were lost on the way; each is asked, and paid, by itself."""
    unusable: int = 0
    """Replies that could not be used."""
    lost: int = 0
    """Calls without a reply that may have been billed; counted at the most that they can cost."""
    answered: int = 0
    """Answers from disk that would have cost something, counted in each run that used them."""
    input_tokens: int = 0
    output_tokens: int = 0
    paid_usd: float = 0.0
    saved_usd: float = 0.0
    """List price of the answers from disk."""
    wasted_usd: float = 0.0
    """Part of `paid_usd` that bought no usable answer."""

    @classmethod
    def of(cls, project: str, day: str, run: str, sums: Sums) -> SpendLine:
        """A line from a stored row."""
        return cls(
            project,
            day,
            run,
            sums.step,
            sums.provider,
            sums.model,
            sums.calls,
            sums.unusable,
            sums.lost,
            sums.answered,
            sums.input_tokens,
            sums.output_tokens,
            math.nan if sums.paid_unpriced else sums.paid,
            math.nan if sums.saved_unpriced else sums.saved,
            math.nan if sums.wasted_unpriced else sums.wasted,
        )


class Spending(Shown):
    """What was spent, saved and wasted: lines, and sums of them.

    Days are local dates of this machine. Only calls of this package from this memo count, and
    what a killed process had in flight is not known.
    """

    def __init__(
        self,
        lines: Iterable[SpendLine],
        *,
        by: tuple[str, ...] = PARTS,
        day: str = "",
        budget_usd_per_day: float | None = None,
    ) -> None:
        self.lines = list(lines)
        self.by = by
        """What the lines tell apart; the other names are ""."""
        self.day = day
        """The day on which this was looked up."""
        self.budget_usd_per_day = budget_usd_per_day

    def __iter__(self) -> Iterator[SpendLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> SpendLine:
        return self.lines[index]

    def per(self, *parts: str) -> Spending:
        """Sums by some of "project", "day", "run", "step", "provider", "model"."""
        unknown = [p for p in parts if p not in self.by]
        if unknown or not parts:
            raise ValueError(f"per{parts!r}: choose from {', '.join(map(repr, self.by))}")
        found: dict[tuple[str, ...], list[SpendLine]] = {}
        for line in self.lines:
            found.setdefault(tuple(getattr(line, p) for p in parts), []).append(line)
        lines = [_sum(group, **dict(zip(parts, key, strict=True))) for key, group in found.items()]
        return Spending(lines, by=parts, day=self.day, budget_usd_per_day=self.budget_usd_per_day)

    @property
    def per_day(self) -> Spending:
        """Sums per local date, the earliest first."""
        return self.per("day")

    @property
    def per_project(self) -> Spending:
        """Sums per project: one, that of the memo in use."""
        return self.per("project")

    @property
    def per_run(self) -> Spending:
        """Sums per run, the earliest first; one that passes midnight is one line."""
        return self.per("run")

    @property
    def per_step(self) -> Spending:
        """Sums per name of a step, over all runs."""
        return self.per("step")

    @property
    def per_model(self) -> Spending:
        """Sums per provider and model."""
        return self.per("provider", "model")

    @property
    def total(self) -> SpendLine:
        """Sum of all lines; a dollar figure is NaN if any part of it is unknown."""
        return _sum(self.lines)

    @property
    def paid_usd(self) -> float:
        """Dollars paid in all, at list price; NaN if unknown."""
        return self.total.paid_usd

    @property
    def today_usd(self) -> float:
        """Dollars paid on the day of looking; NaN if unknown."""
        return sum(line.paid_usd for line in self.lines if line.day == self.day)

    def to_pandas(self) -> pd.DataFrame:
        """A row per line, with the columns of `SpendLine`."""
        import pandas as pd

        names = [f.name for f in fields(SpendLine)]
        names = [n for n in names if n not in PARTS or n in self.by]
        return pd.DataFrame([asdict(line) for line in self.lines], columns=names)

    def view(self) -> Document:
        """The sums as tables, the newest days and runs and the dearest steps first."""
        if not self.lines:
            return Document((Head("Nothing spent", ("no paid call is on record",)),))
        if self.by != PARTS:
            said = " and ".join(self.by)
            return Document((Head(f"Spending per {said}", (_money(self.total),)), self._table()))
        blocks: list[Block] = [Head("Spending", (_money(self.total),)), self._today()]
        blocks += [self.per_day._table(MAX_DAYS), self.per_step._table(MAX_ROWS)]
        if len(self.per_model) > 1:
            blocks.append(self.per_model._table(MAX_ROWS))
        blocks += [self.per_run._table(MAX_ROWS), _NOTE]
        return Document(tuple(blocks))

    def _today(self) -> Paragraph:
        spent = formats.usd(self.today_usd)
        if self.budget_usd_per_day is None:
            return Paragraph((f"{spent} today ({self.day}).",))
        bound = formats.limit_usd(self.budget_usd_per_day)
        return Paragraph((f"{spent} of {bound} today ({self.day}), ", code(_OPTION), "."))

    def _table(self, most: int = 1_000) -> Table:
        lines = self.lines
        if self.by[0] in ("day", "run"):
            lines = sorted(lines, key=lambda line: (line.day, line.run), reverse=True)
        else:  # unknown dollars first: they may be the most
            lines = sorted(lines, key=lambda line: -_or_most(line.paid_usd))
        columns = [Column(part, "word") for part in self.by]
        figures = ("calls", "tokens in", "out", "paid", "saved", "wasted")
        columns += [Column(name, "number") for name in figures]
        rows = [self._row(line) for line in lines[:most]]
        if len(lines) > most:
            more = f"{formats.plural(len(lines) - most, 'more line')}"
            rows.append(self._row(_sum(lines[most:], **{self.by[0]: more})))
        total = self._row(_sum(lines, **{self.by[0]: "total"})) if len(lines) > 1 else None
        return Table(tuple(columns), tuple(rows), total)

    def _row(self, line: SpendLine) -> Row:
        below: tuple[Line, ...] = ()
        if line.unusable or line.lost:
            said = [f"{line.unusable:,} unusable"] if line.unusable else []
            said += [f"{line.lost:,} lost"] if line.lost else []
            below = ((", ".join(said),),)
        cells = [Cell((formats.cell(getattr(line, p), formats.MAX_NAME) or "–",)) for p in self.by]
        cells += [
            Cell((f"{line.calls:,}" if line.calls else "–",), below=below),
            _cell(formats.amount(line.input_tokens), line.calls),
            _cell(formats.amount(line.output_tokens), line.calls),
            _cell(dollars(line.paid_usd, line.calls), line.calls),
            _cell(formats.usd(line.saved_usd), line.saved_usd),
            _cell(formats.usd(line.wasted_usd), line.wasted_usd),
        ]
        return tuple(cells)


_OPTION = "options.budget_usd_per_day"
_NOTE = Paragraph(
    (
        "List prices; days are local dates. Lost calls count at the most that they can cost. Saved: "
        "answers from disk, in each run that used them. ",
        code(".per_run"),
        ", ",
        code(".per_step"),
        " and ",
        code(".to_pandas()"),
        " have it all.",
    ),
    is_note=True,
)


def ledger() -> Spending:
    """What this project has paid, saved and wasted so far, from disk. Asks no model.

    Returns
    -------
    Spending
        A line per day, run, step and model, in order of time; `.per_day`, `.per_project`,
        `.per_run`, `.per_step` and `.per_model` sum them up, `.to_pandas()` gives a frame.

    Raises
    ------
    MemoError
        If the memo cannot be opened.

    Notes
    -----
    Days are local dates. Replies that `memo.load` brought in were paid by others and do not count.
    """
    memo = open_memo()
    memo.flush()
    project = shown_path(memo.path.parent if memo.path.name == "memo" else memo.path)
    return Spending(
        (SpendLine.of(project, day, run, sums) for day, run, sums in stored_spend(memo)),
        day=today(),
        budget_usd_per_day=options.budget_usd_per_day,
    )


def _sum(lines: Iterable[SpendLine], **names: str) -> SpendLine:
    values: dict[str, Any] = {**names, **dict.fromkeys(_SUMMED, 0), **dict.fromkeys(_DOLLARS, 0.0)}
    for line in lines:
        for name in (*_SUMMED, *_DOLLARS):
            values[name] += getattr(line, name)
    return SpendLine(**values)


def _money(line: SpendLine) -> str:
    said = [formats.plural(line.calls, "call")]
    paid = dollars(line.paid_usd, line.calls)
    said.append(paid if paid == "free" else f"paid {paid}")
    if line.saved_usd != 0:
        said.append(f"saved {formats.usd(line.saved_usd)}")
    if line.wasted_usd != 0:
        said.append(f"wasted {formats.usd(line.wasted_usd)}")
    return " · ".join(said)


def _or_most(usd: float) -> float:
    return usd if usd == usd else math.inf


def _cell(text: str, amount: float) -> Cell:
    return Cell((text if amount != 0 else "–",))
