"""The progress line: tqdm in terminals, one display that is updated in notebooks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from datafast_nb.display import formats, html
from datafast_nb.display.views import Document, Line, Mark, Paragraph, plain
from datafast_nb.engine.events import (
    Event,
    Noted,
    Progress,
    RunFinished,
    StepFinished,
    StepStarted,
)
from datafast_nb.engine.standing import Standing
from datafast_nb.options import options

NOTEBOOK_EVERY_S = 0.25
PLAIN_EVERY_S = 5.0


def listener(show: bool | None) -> Callable[[Event], None] | None:
    """What shows a run's progress here, or None where nothing is to be shown."""
    if show is None:
        show = options.progress
    if show is None and os.environ.get("DATAFAST_NB_PROGRESS"):
        show = os.environ["DATAFAST_NB_PROGRESS"] not in ("0", "false", "no")
    if show is False:
        return None
    if in_notebook():
        return NotebookLine()
    if sys.stderr.isatty():
        return TerminalLine()
    return PlainLines() if show else None


def in_notebook() -> bool:
    """Whether a Jupyter kernel shows what is displayed."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"


def words(p: Progress) -> str:
    """Figures of a step, in one line."""
    parts = [f"{p.answered:,} answered", f"{p.new:,} new"]
    if p.failed:
        parts.append(f"{p.failed:,} failed")
    if p.paid_usd:
        parts.append(formats.usd(p.paid_usd))
    return ", ".join(parts)


class TerminalLine:
    """A tqdm bar per LLM step, on stderr."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        from tqdm import tqdm

        if isinstance(event, Progress):
            bar = self._bars.get(event.step)
            if bar is None:
                bar = self._bars[event.step] = tqdm(
                    total=event.total,
                    desc=formats.cell(event.step, formats.MAX_NAME),
                    unit="call",
                    file=sys.stderr,
                    leave=True,
                )
            bar.total = event.total
            bar.n = event.done
            bar.set_postfix_str(words(event), refresh=True)
        elif isinstance(event, Noted):
            tqdm.write(f"note: {formats.printable(formats.clip(event.text))}", file=sys.stderr)
        elif isinstance(event, StepFinished) and event.step in self._bars:
            self._bars.pop(event.step).close()
        elif isinstance(event, RunFinished):
            for bar in self._bars.values():
                bar.close()
            self._bars = {}


class PlainLines:
    """A line now and then, for logs and pipes: nothing is written over."""

    def __init__(self) -> None:
        self._next = 0.0
        self._held: dict[str, Progress] = {}
        """The last figures of each step, as long as nobody has seen them."""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._held[event.step] = event
            if time.monotonic() >= self._next or event.done >= event.total > 0:
                self._show()
        elif isinstance(event, (StepStarted, RunFinished)):
            self._show()
        elif isinstance(event, Noted):
            said = formats.printable(formats.clip(event.text))
            print(f"note: {said}", file=sys.stderr, flush=True)

    def _show(self) -> None:
        held, self._held = self._held, {}
        for p in held.values():
            self._next = time.monotonic() + PLAIN_EVERY_S
            print(
                f"{formats.cell(p.step, formats.MAX_NAME)}: {p.done:,} of "
                f"{formats.plural(p.total, 'call')}, {words(p)}",
                file=sys.stderr,
                flush=True,
            )


def marked(p: Progress) -> Line:
    """The same for a notebook, with the marks of the displays."""
    step = formats.cell(p.step, formats.MAX_NAME)
    out: list[str | Mark] = [f"{step}  {p.done:,} of {formats.plural(p.total, 'call')}  "]
    out += [Mark("memo"), f" {p.answered:,} memo  ", Mark("new"), f" {p.new:,} new"]
    if p.failed:
        out += ["  ", Mark("failed"), f" {p.failed:,} failed"]
    if p.paid_usd:
        out.append(f"  paid {formats.usd(p.paid_usd)}")
    return tuple(out)


class NotebookLine:
    """One output that is updated; it holds plain HTML, so a saved notebook stays readable."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0
        self._standing = Standing()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._standing = self._standing.after(event)
        if isinstance(event, Progress):
            if event.done >= event.total or time.monotonic() - self._shown > NOTEBOOK_EVERY_S:
                self._show()
        elif isinstance(event, RunFinished) and self._handle is not None:
            self._show()

    def _show(self) -> None:
        from IPython import display as ipython

        self._shown = time.monotonic()
        lines = [marked(p) for p in self._standing.lines]
        drawn = html.draw(Document(tuple(Paragraph(line, is_note=True) for line in lines)))
        data = {"text/plain": "\n".join(map(plain, lines)), "text/html": drawn}
        if self._handle is None:
            show: Any = ipython.display
            self._handle = show(data, raw=True, display_id=True)
        elif self._handle is not None:
            self._handle.update(data, raw=True)
