"""Money at list price: what a run paid, what the memo saved, what was lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from datafast_nb.display import html, text, views


class CallFigures(Protocol):
    """What the ledger needs to know of a call."""

    step: str
    model: str
    status: str
    usd: float | None
    wasted_usd: float
    input_tokens: int
    output_tokens: int
    attempts: int


@dataclass
class LedgerLine:
    """Sums of the calls of one step and model. Dollars are NaN where a price is unknown."""

    step: str
    model: str
    new: int = 0
    answered: int = 0
    failed: int = 0
    input_tokens: int = 0
    """Tokens of new calls."""
    output_tokens: int = 0
    paid_usd: float = 0.0
    """New calls, usable or not."""
    saved_usd: float = 0.0
    """Answers that were on disk, at the price of asking today."""
    wasted_usd: float = 0.0
    """Part of `paid_usd` that bought no usable answer."""

    def add(self, other: LedgerLine) -> None:
        """Add another line's figures."""
        for name in (
            "new",
            "answered",
            "failed",
            "input_tokens",
            "output_tokens",
            "paid_usd",
            "saved_usd",
            "wasted_usd",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(repr=False)
class Ledger:
    """The bill of a run: one line per step and model, and their total."""

    lines: list[LedgerLine]

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
        """The ledger of some calls."""
        lines: dict[tuple[str, str], LedgerLine] = {}
        for call in calls:
            if call.status in ("pending", "not_asked"):
                continue
            line = lines.setdefault((call.step, call.model), LedgerLine(call.step, call.model))
            usd = math.nan if call.usd is None else call.usd
            if call.status == "answered":
                line.answered += 1
                line.saved_usd += usd
                continue
            if call.status == "failed":
                line.failed += 1
            if call.attempts:
                line.new += 1
                line.input_tokens += call.input_tokens
                line.output_tokens += call.output_tokens
                line.paid_usd += usd
                line.wasted_usd += call.wasted_usd if call.usd is not None else math.nan
        return cls(list(lines.values()))

    def view(self) -> views.TableView:
        """Plain data for display."""
        lines = [*self.lines, self.total] if len(self.lines) != 1 else self.lines
        return views.TableView(
            title="ledger (list price)",
            columns=("step", "model", "new", "answered", "failed", "in tokens", "out tokens", "paid", "saved", "wasted"),
            rows=tuple(
                (
                    x.step, x.model, x.new, x.answered, x.failed, x.input_tokens, x.output_tokens,
                    views.usd(x.paid_usd), views.usd(x.saved_usd), views.usd(x.wasted_usd),
                )
                for x in lines
            ),
            right=frozenset({"new", "answered", "failed", "in tokens", "out tokens", "paid", "saved", "wasted"}),
        )  # fmt: skip

    def __repr__(self) -> str:
        return text.table(self.view())

    def _repr_html_(self) -> str:
        return html.page(html.table(self.view()))
