"""Lives of a run: processes that are forked off one that has imported the package already.

A kill then costs the time of the run and not that of the imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from stub_server import StubServer
from stub_wires import schema_of

LIVES = Path(__file__).with_name("lives.py")


def reply_to(number: int, body: dict[str, Any]) -> str:
    """An answer that depends on the prompt alone; JSON where a schema came."""
    prompt = body["messages"][-1]["content"]
    text = f"re {blake2b(prompt.encode(), digest_size=4).hexdigest()} {prompt}"
    wanted = schema_of(body)
    if wanted is None:
        return text
    return json.dumps({name: f"{name} {text}" for name in wanted["properties"]})


class Nursery:
    """Starts lives and says how each ended; one at a time."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> Nursery:
        self._child = subprocess.Popen(
            [sys.executable, str(LIVES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        finally:
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()

    def _say(self, line: str) -> str:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline()

    def start(self, folder: Path, **order: Any) -> int:
        """Begin a life; its process id."""
        pid = int(self._say(json.dumps({"url": self.url, "folder": str(folder), **order})))
        assert pid > 1, "the nursery answers out of turn"
        return pid

    def wait(self) -> int:
        """Wait status of the life: 0, or the signal that killed it, or 256 for an error."""
        return int(self._say("wait"))

    def live(self, folder: Path, **order: Any) -> int:
        """A whole life; its wait status."""
        self.start(folder, **order)
        return self.wait()

    def kill_after(self, pid: int, stub: StubServer, n_requests: int, within_s: float) -> None:
        """kill -9 when the server has got so many requests more, or this time has passed."""
        goal = stub.n_requests + n_requests
        end = time.monotonic() + within_s
        while stub.n_requests < goal and time.monotonic() < end:
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)


def settle(stub: StubServer) -> int:
    """Requests received, once nothing more is under way."""
    time.sleep(0.02)
    while stub.in_flight:
        time.sleep(0.002)
    return stub.n_requests
