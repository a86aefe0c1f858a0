"""A browser that is none: the panel's real widget, over a comm that stays in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import comm
from comm.base_comm import BaseComm

from datafast_nb.widgets.panel import Panel

WAIT_S = 20.0


class LocalComm(BaseComm):
    """Keeps what would go to the browser, as the JSON it would be."""

    open_comms: ClassVar[set[str]] = set()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._arrived = threading.Condition()
        super().__init__(*args, **kwargs)

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: Any = None,
        buffers: Any = None,
        **keys: Any,
    ) -> None:
        if msg_type == "comm_open":
            LocalComm.open_comms.add(self.comm_id)
        elif msg_type == "comm_close":
            LocalComm.open_comms.discard(self.comm_id)
        # As jupyter_client packs it: no NaN, and text that UTF-8 can write.
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=_as_packed)
        text.encode()
        with self._arrived:
            self.sent.append(json.loads(text))
            self.times.append(time.monotonic())
            self._arrived.notify_all()


def _as_packed(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


class _Manager:
    def register_comm(self, made: BaseComm) -> str:
        return str(made.comm_id)

    def unregister_comm(self, made: BaseComm) -> BaseComm:
        return made


class Browser:
    """One view of a panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        widget = panel.widget
        assert widget is not None
        self.comm = widget.comm
        assert isinstance(self.comm, LocalComm)
        self._ids = iter(range(1, 1_000_000))

    def send(self, op: str, **fields: Any) -> int:
        """Send a request as the browser does; its id."""
        n = next(self._ids)
        content = {"id": n, "op": op, **fields}
        message = {"content": {"data": {"method": "custom", "content": content}}, "buffers": []}
        self.comm.handle_msg(json.loads(json.dumps(message)))
        return n

    def reply(self, n: int, wait_s: float = WAIT_S) -> dict[str, Any]:
        """The reply to a request."""

        def found() -> dict[str, Any] | None:
            for said in self.comm.sent:
                if said.get("method") == "custom" and said["content"].get("id") == n:
                    return dict(said["content"])
            return None

        with self.comm._arrived:
            made = self.comm._arrived.wait_for(found, wait_s)
        assert made, f"no reply to request {n}"
        return made

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply, which must be a good one."""
        said = self.reply(self.send(op, **fields))
        assert said["ok"], said
        return said

    def refused(self, op: str, **fields: Any) -> str:
        """Send a request that is answered with an error; its words."""
        said = self.reply(self.send(op, **fields))
        assert not said["ok"], said
        return str(said["error"])

    @property
    def states(self) -> list[dict[str, Any]]:
        """All states that were pushed, in order."""
        return [
            s["state"]["state"]
            for s in self.comm.sent
            if s.get("method") == "update" and "state" in s["state"]
        ]

    @property
    def state(self) -> dict[str, Any]:
        """The newest state that arrived."""
        pushed = self.states
        if pushed:
            return pushed[-1]
        first: dict[str, Any] = self.comm.sent[0]["state"]["state"]
        return first

    def until(
        self, is_so: Callable[[dict[str, Any]], Any], wait_s: float = WAIT_S
    ) -> dict[str, Any]:
        """Wait for a state."""
        with self.comm._arrived:
            ok = self.comm._arrived.wait_for(lambda: is_so(self.state), wait_s)
        assert ok, f"it did not come; the state is {json.dumps(self.state)[:2_000]}"
        return self.state

    def ended(self) -> dict[str, Any]:
        """Wait until no run is on its way and its records are shown."""
        end = time.monotonic() + WAIT_S
        while self.panel.runs.is_busy:  # the states that came may all be of before it began
            assert time.monotonic() < end, self.state
            time.sleep(0.005)
        worked_off = threading.Event()
        if self.panel.act.put(worked_off.set):  # behind the showing of what ended
            assert worked_off.wait(WAIT_S)
        return self.until(lambda s: _but_estimate(s) == _but_estimate(self.panel.state()))

    def rows(
        self, step: str = "final", start: int = 0, n: int = 100, view: int | None = None
    ) -> Any:
        """Rows of a table."""
        return self.ask("window", step=step, start=start, n=n, view=view)["rows"]


def _but_estimate(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps({**state, "estimate": None}))


@contextmanager
def local_comms() -> Iterator[None]:
    """Comms of widgets stay in this process."""
    before = comm.create_comm, comm.get_comm_manager
    manager = _Manager()
    comm.create_comm = lambda *a, **k: LocalComm(*a, **k)
    comm.get_comm_manager = lambda: manager  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        comm.create_comm, comm.get_comm_manager = before
