"""What every test gets: an own memo, default options, no keys, no network."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from reliability_hooks import *  # noqa: F403  # holds docs/reliability.md to what ran

from datafast_nb.options import Options, options

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return False
    host = str(address[0])
    return host in ("localhost", "::1", "") or host.startswith("127.")


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every connection off this machine, and fail the test that tried one."""
    tried: list[str] = []

    def guard(method: str) -> None:
        original = getattr(socket.socket, method)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family != getattr(socket, "AF_UNIX", None) and not _is_loopback(address):
                tried.append(str(address))
                # Not an OSError: code under test must not take it for a failed connection.
                raise RuntimeError(f"tests may not connect to {address}")
            return original(self, address)

        monkeypatch.setattr(socket.socket, method, connect)

    guard("connect")
    guard("connect_ex")
    yield
    assert not tried, f"the test tried to reach {', '.join(tried)}"


def _shared_memos() -> dict[Any, Any]:
    """Memos that `open_memo` gave out in this process; the module is not imported for it."""
    module = sys.modules.get("datafast_nb.store.memo")
    return module._opened if module is not None else {}


@pytest.fixture(autouse=True)
def _clean_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Own home, default options, no API keys; afterwards no open memo and no changed option."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("DATAFAST_NB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATAFAST_NB_HOME", str(tmp_path / ".datafast_nb"))
    before = set(_shared_memos())
    yield
    opened = _shared_memos()
    for place in opened.keys() - before:
        opened.pop(place).close()
    for field in dataclasses.fields(Options):
        setattr(options, field.name, field.default)
