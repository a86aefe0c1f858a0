"""Where the LLM steps of a run stand: one, or several that ask at the same time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from datafast_nb.engine.events import Event, Progress, StepFinished


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest figures of the LLM steps that ask together."""

    lines: tuple[Progress, ...] = ()
    """Of each step, in the order in which they began."""
    ended: frozenset[str] = frozenset()
    """Steps among them that are through."""
    paid_before_usd: float = 0.0
    """In the LLM steps before."""

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
            return Standing((event,), frozenset(), self.paid_usd)
        return replace(self, lines=(*self.lines, event))

    @property
    def together(self) -> Progress | None:
        """The figures of the group as those of one step."""
        if len(self.lines) <= 1:
            return self.lines[0] if self.lines else None
        names = " + ".join(p.step for p in self.lines)
        figures = {
            field: sum(getattr(p, field) for p in self.lines)
            for field in ("total", "done", "answered", "new", "failed", "paid_usd")
        }
        return Progress(names, **figures)

    @property
    def paid_usd(self) -> float:
        """At list price, over all steps so far; NaN if unknown."""
        return self.paid_before_usd + sum(p.paid_usd for p in self.lines)
