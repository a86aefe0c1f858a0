"""Panels in notebooks that are saved and opened again, and in hosts other than JupyterLab.

Colab and VS Code are simulated: Colab by its module and by a kernel that sends nothing but within a
handler, VS Code by the saved notebook, of which it shows text/html where it knows no widget.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from panels import PanelPage, panel_page
from playwright.sync_api import expect
from real_lab import NOTEBOOK

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PIPELINE = """
model = FakeModel(lambda r: "answer to " + r.messages[-1]["content"], latency_s=0.02)
rows = [{"id": i, "text": f"Text {i}"} for i in range(12)]
step = LLMStep(prompt="Ask {text}", output_columns=["answer"], model=model).as_step("ask")
pipeline = Source.list(rows) >> step
"""
PANEL = f"{PIPELINE}panel = pipeline.panel(limit=None)\npanel"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATIC = f"{NOTEBOOK} .dfnb-static"


def saved(p: PanelPage) -> list[dict[str, Any]]:
    """Outputs of the first cell as they lie in the notebook file."""
    p.command("docmanager:save")
    cells = json.loads(p.path.read_text("utf-8"))["cells"]
    return [dict(o.get("data", {})) for o in cells[0]["outputs"]]


def text_of(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def test_a28_without_ipywidgets_the_static_display_and_plain_progress(
    chromium: Any, lab: Any
) -> None:
    block = "import sys\nsys.modules['ipywidgets'] = None\n"
    with panel_page(chromium, lab, f"{block}{PANEL}", "result = pipeline.run()", "result") as p:
        p.begin_all()
        area = p.page.locator(f"{NOTEBOOK} .jp-CodeCell").nth(2).locator(".jp-OutputArea")
        expect(area.first).to_contain_text("answer to Ask Text 1", timeout=60_000)
        assert p.value("[model.calls, len(result)]") == [12, 12]
        assert p.page.locator(f"{NOTEBOOK} .dfnb").count() == 0
        expect(p.page.locator(STATIC)).to_be_visible()
        assert "pip install 'datafast-nb[panel]'" in p.output(0)
        assert "Text 1" in p.output(0)
        assert "12 answered" in p.output(1) or "12 new" in p.output(1), p.output(1)
        assert all(WIDGET not in data for data in saved(p))
        assert p.complaints == []


COLAB = """
import sys, threading, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
from datafast_nb.widgets.model import PanelModel
inside, sent = threading.local(), []
heard, reply = PanelModel._heard, PanelModel.reply
def _heard(self, *message):
    inside.on = True
    try:
        heard(self, *message)
    finally:
        inside.on = False
def _reply(self, message):
    sent.append(getattr(inside, "on", False))
    if sent[-1]:
        reply(self, message)
# Nothing that comes later is shown in Colab: no push, and no reply after the handler's end.
PanelModel._heard, PanelModel.reply, PanelModel.push = _heard, _reply, lambda self, state: None
"""


def test_a28_where_only_handlers_may_send_the_panel_is_polled(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, f"{COLAB}{PANEL}") as p:
        p.run_all()
        assert p.value("panel.poll") is True
        expect(p.row(0)).to_contain_text("Text 0")
        p.root.get_by_label("next record").click()
        p.run_one.click()
        expect(p.root.locator(".details")).to_contain_text("answer to Ask Text 1")
        assert p.value('[r.messages[-1]["content"] for r in model.requests]') == ["Ask Text 1"]
        p.run.click()
        p.until("done")
        expect(p.root.locator(".say")).to_contain_text("1 memo")
        p.tab("records").click()
        expect(p.row(11)).to_contain_text("answer to Ask Text 11")
        assert p.value("[model.calls, len(panel.df)]") == [12, 12]
        assert p.value("all(sent)") is True
        for name in ("cost", "graph", "errors", "prompt"):
            p.tab(name).click()
            expect(p.root.locator(f"[data-p={name}]")).not_to_contain_text("Reading …")
        p.root.get_by_label("limit: records").fill("3")
        p.root.get_by_label("limit: records").press("Enter")
        expect(p.run).to_have_text("Run 3 · no new call")
        assert p.value("panel.controls['limit']") == 3
        assert p.complaints == []


def test_a19_the_static_display_is_there_when_the_panel_is_not(chromium: Any, lab: Any) -> None:
    """Also A28: the saved notebook has text/html for hosts that show no widget, as VS Code."""
    with panel_page(chromium, lab, PANEL) as p:
        p.run_all()
        p.run.click()
        p.until("done")
        expect(p.root).to_be_visible()
        expect(p.page.locator(STATIC)).to_be_hidden()
        outputs = saved(p)
        assert sum(WIDGET in data for data in outputs) == 1
        html = [text_of(data["text/html"]) for data in outputs if "text/html" in data]
        assert any("Text 1" in h and "dfnb-static" in h for h in html)

        for has_kernel in (False, True):  # none, and a new one
            p.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            p.page.reload()
            p.lab.open(p.page, p.path, kernel=True)
            if not has_kernel:
                p.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
            p.page.wait_for_timeout(1_500)
            expect(p.page.locator(STATIC)).to_be_visible()
            expect(p.page.locator(STATIC)).to_contain_text("Text 1")
            assert p.page.locator(f"{NOTEBOOK} .dfnb").count() == 0


def test_a23_freeze_leaves_the_static_display_alone(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL, "1 + 1") as p:
        p.run_all()
        p.run.click()
        p.until("done")
        p.root.get_by_role("button", name="Freeze").click()
        expect(p.page.locator(f"{NOTEBOOK} .dfnb")).to_have_count(0)
        static = p.page.locator(STATIC)
        expect(static).to_have_count(1)
        expect(static).to_be_visible()
        expect(static).to_contain_text("answer to Ask Text 1")
        assert p.value("panel.is_closed") is True
        outputs = saved(p)
        assert all(WIDGET not in data for data in outputs)
        whole = json.loads(p.path.read_text("utf-8"))
        assert "widgets" not in whole["metadata"], "the state of a widget that is gone"
        assert "widget-view" not in p.path.read_text("utf-8")
        assert p.complaints == []


LEAK = """
import gc, threading, comm
from IPython.display import display
many = []
def standing():
    gc.collect()
    return [threading.active_count(), len(comm.get_comm_manager().comms)]
"""
MANY = """
if "ready" in globals():
    many = [pipeline.panel() for _ in range(20)]
    for one in many:
        display(one)
"""
CLOSE = """
for one in many:
    one.close()
many = one = None
"""
# The kernel's comms as JupyterLab holds them: the models of its widgets.
IN_PAGE = """() => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    return kernel._comms.size; }"""


def test_a29_a_hundred_panels_leave_nothing(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL, LEAK, MANY) as p:
        p.run_all()
        p.run.click()
        p.until("done")
        assert p.value("model.calls") == 12
        p.python("ready = True")
        p.page.wait_for_timeout(6_000)  # threads end that have nothing to do
        base, in_page = p.value("standing()"), p.page.evaluate(IN_PAGE)
        views = p.page.locator(f"{NOTEBOOK} .jp-CodeCell").nth(2).locator(".dfnb")
        for _ in range(5):
            p.begin_cell(2)
            first_rows = views.locator(".body .row[aria-rowindex='2']")
            expect(first_rows).to_have_count(20, timeout=30_000)
            views.first.get_by_role("button", name="Run one", exact=True).click()
            expect(views.first.locator(".details")).to_contain_text("● memo")
            assert p.value("len({c.comm_id for c in comm.get_comm_manager().comms.values()})") > 20
            p.python(CLOSE)
            expect(views).to_have_count(0)
        assert p.value("model.calls") == 12, "all from the memo"
        for _ in range(20):
            now = p.value("standing()")
            if now == base:
                break
            p.page.wait_for_timeout(1_000)
        print(f"A29 threads and comms: {base} before, {now} after; in the page {in_page}")
        assert now == base
        assert p.page.evaluate(IN_PAGE) == in_page
        expect(p.page.locator(f"{NOTEBOOK} .dfnb")).to_have_count(1)
        assert p.complaints == []
