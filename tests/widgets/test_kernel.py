"""The panel in a real kernel: messages on the main shell and on a subshell, cells that block."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

pytestmark = pytest.mark.slow

SETUP = """
import time
import datafast_nb as dfn
model = dfn.FakeModel(latency_s=0.05, parallel=2)
step = dfn.LLMStep(prompt="Ask: {text}", output_columns=["q"], model=model)
pipeline = dfn.Source.list([{"text": str(i)} for i in range(100)]) >> step.as_step("ask")
panel = pipeline.panel(limit=None)
panel
"""
WAIT_S = 30.0


class Lab:
    """A front end: runs cells, hears outputs, speaks to the panel."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.heard: list[dict[str, Any]] = []
        self.comm = ""
        self.subshell: str | None = None
        self.setup = ""

    def hear(self, wait_s: float = 0.2) -> None:
        try:
            self.heard.append(self.client.get_iopub_msg(timeout=wait_s))
        except Empty:
            return
        message = self.heard[-1]
        if message["msg_type"] == "comm_open" and "state" in message["content"]["data"]["state"]:
            self.comm = message["content"]["comm_id"]

    def until(self, found: Callable[[], Any], wait_s: float = WAIT_S) -> Any:
        end = time.monotonic() + wait_s
        while not (made := found()):
            assert time.monotonic() < end, [m["msg_type"] for m in self.heard[-20:]]
            self.hear()
        return made

    def cell(self, code: str) -> str:
        return str(self.client.execute(code))

    def is_done(self, cell: str) -> bool:
        return any(
            m["msg_type"] == "status"
            and m["content"]["execution_state"] == "idle"
            and m["parent_header"].get("msg_id") == cell
            for m in self.heard
        )

    def outputs(self, cell: str, kind: str) -> list[dict[str, Any]]:
        return [
            m["content"]
            for m in self.heard
            if m["msg_type"] == kind and m["parent_header"].get("msg_id") == cell
        ]

    def panel_messages(self) -> list[dict[str, Any]]:
        return [
            m["content"]["data"]
            for m in self.heard
            if m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == self.comm
        ]

    def states(self) -> list[dict[str, Any]]:
        return [
            d["state"]["state"]
            for d in self.panel_messages()
            if d["method"] == "update" and "state" in d["state"]
        ]

    def last(self, key: str) -> Any:
        states = self.states()
        return states[-1][key] if states else None

    def open_subshell(self) -> None:
        """As JupyterLab does for comms."""
        session = self.client.session
        self.client.control_channel.send(session.msg("create_subshell_request"))
        reply = self.client.get_control_msg(timeout=WAIT_S)
        self.subshell = reply["content"]["subshell_id"]

    def send(self, request: int, op: str, **fields: Any) -> None:
        content = {"id": request, "op": op, **fields}
        data = {"comm_id": self.comm, "data": {"method": "custom", "content": content}}
        message = self.client.session.msg("comm_msg", data)
        if self.subshell:
            message["header"]["subshell_id"] = self.subshell
        self.client.shell_channel.send(message)

    def reply(self, n: int, wait_s: float = WAIT_S) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            said = [d["content"] for d in self.panel_messages() if d["method"] == "custom"]
            return [c for c in said if c.get("id") == n]

        (made,) = self.until(found, wait_s)
        return dict(made)


@pytest.fixture(params=["main shell", "subshell"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    manager, client = start_new_kernel(startup_timeout=60)
    try:
        lab = Lab(client)
        if request.param == "subshell":
            lab.open_subshell()
        lab.setup = lab.cell(SETUP)
        lab.until(lambda: lab.is_done(lab.setup), 60)
        yield lab
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_click_runs_while_cells_go_on_and_stop_ends_it(lab: Lab) -> None:
    outputs = lab.outputs(lab.setup, "display_data")
    assert [("dfnb-static" in o["data"].get("text/html", "")) for o in outputs] == [True, False]
    assert "application/vnd.jupyter.widget-view+json" in outputs[1]["data"]
    lab.send(1, "run")
    assert lab.reply(1)["ok"] is True
    began = time.monotonic()
    cell = lab.cell("1 + 1")
    lab.until(lambda: lab.is_done(cell), 5)
    assert time.monotonic() - began < 5
    lab.until(lambda: (lab.last("progress") or {}).get("done", 0) > 5)
    assert lab.last("phase") == "running"
    lab.send(2, "stop")
    assert lab.reply(2)["stopping"] is True
    lab.until(lambda: lab.last("phase") == "stopped" and lab.last("tables")["final"]["n"])
    lab.send(3, "window", step="final", start=0, n=100)
    rows = lab.reply(3)["rows"]
    assert 5 < len(rows) < 100
    asked = lab.cell("model.calls")
    lab.until(lambda: lab.is_done(asked))
    (n,) = lab.outputs(asked, "execute_result")
    assert int(n["data"]["text/plain"]) >= len(rows)
    lab.send(4, "freeze")
    lab.until(lambda: [m for m in lab.heard if m["msg_type"] == "update_display_data"][1:])
    frozen = [m["content"]["data"] for m in lab.heard if m["msg_type"] == "update_display_data"]
    assert "dfnb-static" in frozen[1]["text/html"]
    assert frozen[0]["text/html"] == ""


def test_stop_while_run_blocks_a_cell(lab: Lab) -> None:
    cell = lab.cell("pipeline.run()")
    lab.until(lambda: lab.last("waiting") and (lab.last("progress") or {}).get("done", 0) > 3)
    lab.send(1, "stop")
    try:  # some kernels take it on the subshell, others when the cell is through
        lab.reply(1, wait_s=1)
    except AssertionError:
        assert not lab.is_done(cell)
        assert lab.last("waiting") is True  # so the browser may interrupt
        lab.client.control_channel.send(lab.client.session.msg("interrupt_request"))
    lab.until(lambda: lab.is_done(cell), 10)
    (error,) = lab.outputs(cell, "error")
    assert error["ename"] == "RunInterrupted"
    assert len(error["traceback"]) == 1
    lab.until(lambda: lab.last("phase") == "stopped" and not lab.last("waiting"))
    last = lab.cell("print(len(dfn.last), dfn.last.status)")
    lab.until(lambda: lab.is_done(last))
    (said,) = lab.outputs(last, "stream")
    n, status = said["text"].split()
    assert status == "interrupted" and 0 < int(n) < 100
    lab.until(lambda: lab.last("tables")["final"]["n"] == int(n))
    assert json.dumps(lab.states()[-1])
