"""The table of what the tests here measured, and the fixtures that they share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stub_server import StubServer

from reliability import scale
from reliability.nursery import Nursery, reply_to


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not scale.FIGURES:
        return
    scale_name = "soak" if scale.SOAK else "usual scale"
    terminalreporter.section(f"reliability, {scale_name}, seed {scale.SEED}")
    wide = max(len(what) for what, _, _ in scale.FIGURES)
    high = max(len(figure) for _, figure, _ in scale.FIGURES)
    for what, figure, bound in scale.FIGURES:
        terminalreporter.line(f"{what:<{wide}}  {figure:>{high}}  {bound}".rstrip())


@pytest.fixture(scope="package")
def stub() -> Iterator[StubServer]:
    """One server for all; it is outside of what is killed."""
    with StubServer(answer=reply_to, latency_s=0.004) as server:
        yield server


@pytest.fixture(scope="package")
def nursery(stub: StubServer) -> Iterator[Nursery]:
    with Nursery(stub.url) as made:
        yield made
