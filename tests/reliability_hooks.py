"""Hooks of pytest that hold `docs/reliability.md` to what ran. Imported by `conftest.py`."""

from __future__ import annotations

import pytest
from reliability_doc import Ran, in_ci, is_whole, named_tests

__all__ = ["pytest_runtest_logreport", "pytest_sessionfinish", "pytest_terminal_summary"]

_ran = Ran()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each test that ran or was skipped."""
    _ran.note(report.nodeid, report.when or "", report.outcome)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """After a run of the whole suite that came to its end: all that is named has run."""
    came_to_its_end = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if came_to_its_end and is_whole(session.config):
        _ran.problems = _ran.unproven(named_tests(), is_ci=in_ci())
        if _ran.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests the document names in vain."""
    if _ran.problems:
        terminalreporter.section("docs/reliability.md names tests that did not run")
        for problem in _ran.problems:
            terminalreporter.line(problem)
