"""Where the LLM steps of a run stand: one, or several that ask at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datafast_nb.engine.events import Event, Progress, StepFinished


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest figures of the LLM steps that ask together."""

    lines: tuple[Progress, ...] = ()
    """Of each step, in the order in which they began."""
    ended: frozenset[str] = frozenset()
    """Steps among them that are through."""
    before: tuple[Progress, ...] = ()
    """The last figures of the LLM steps before."""

    def after(self, event: Event) -> Standing:
        """Where they stand after an event."""
        if isinstance(event, StepFinished):
            return replace(self, ended=self.ended | {event.step})
        if not isinstance(event, Progress):
            return self
        names = [p.step for p in self.lines]
        if event.step in names:
            at = names.index(event.step)
            lines = (*self.lines[:at], event, *self.lines[at + 1 :])
            return replace(self, lines=lines)
        if self.ended.issuperset(names):  # all those are through: a new group begins
            return Standing((event,), frozenset(), (*self.before, *self.lines))
        return replace(self, lines=(*self.lines, event))

    def at_next_run(self) -> Standing:
        """Where they stand when another run follows."""
        return Standing((), frozenset(), (*self.before, *self.lines))

    @property
    def together(self) -> Progress | None:
        """The figures of the group as those of one step."""
        return _sum(self.lines)

    @property
    def all_together(self) -> Progress | None:
        """The figures of the group and of all LLM steps before it."""
        return _sum((*self.before, *self.lines))

    @property
    def paid_usd(self) -> float:
        """At list price, over all steps so far; NaN if unknown."""
        return sum(p.paid_usd for p in (*self.before, *self.lines))


def _sum(lines: Sequence[Progress]) -> Progress | None:
    if len(lines) <= 1:
        return lines[0] if lines else None
    names = " + ".join(p.step for p in lines)
    figures = {
        field: sum(getattr(p, field) for p in lines)
        for field in ("total", "done", "answered", "new", "failed", "paid_usd")
    }
    return Progress(names, **figures)
