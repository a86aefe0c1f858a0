"""Panels of tests: real widgets over comms that stay here, closed when the test ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser_stand_in import Browser, local_comms

from datafast_nb.widgets.panel import Panel

THREADS = ("datafast_nb-panel-", "datafast_nb-run")


@pytest.fixture
def opened() -> Iterator[Callable[..., Browser]]:
    """Makes a panel and looks at it."""
    panels: list[Panel] = []

    def make(about: Any, **options: Any) -> Browser:
        panel = about if isinstance(about, Panel) else Panel(about, **options)
        panels.append(panel)
        return Browser(panel)

    with local_comms():
        yield make
        for panel in panels:
            panel.runs.stop()
            panel.close()
        # What they still do would go on in the next test, without this one's memo.
        for thread in threading.enumerate():
            if thread.name.startswith(THREADS):
                thread.join(10)
