"""The browser and the server that the browser tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from real_lab import CHROMIUM, Lab, browser


# Not longer than the module: while Playwright is on, its event loop runs in the tests' thread.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium; .ci/run installs it")
        pytest.skip("no Chromium is installed")
    with browser() as started:
        yield started


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    started = Lab(folder, tmp_path_factory.mktemp("lab-state"))
    yield started
    started.close()


@contextmanager
def watched_page(chromium: Any) -> Iterator[Any]:
    """A fresh page; whatever it loads comes from the loopback address, or the test fails."""
    context = chromium.new_context(viewport={"width": 1200, "height": 1400})
    outside: list[str] = []
    context.on(
        "request",
        lambda r: (
            None
            if r.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:"))
            else outside.append(r.url)
        ),
    )
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    yield opened
    context.close()
    assert not outside, f"the page asked for {outside}"


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    with watched_page(chromium) as opened:
        yield opened
