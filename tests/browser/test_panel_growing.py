"""A panel's table during a run in a real JupyterLab, and the columns that it folds away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from panels import panel_page
from playwright.sync_api import expect
from real_lab import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SLOW = """
model = FakeModel(
    lambda r: "about " + r.messages[-1]["content"], latency_s=0.3, parallel=4
)
rows = [{"id": i, "text": f"Text {i}"} for i in range(60)]
pipeline = Source.list(rows) >> LLMStep(
    prompt="Ask {text}", output_columns=["said"], model=model
).as_step("ask")
panel = pipeline.panel(limit=None)
panel
"""


REPLY = """
def reply(request):
    text = request.messages[-1]["content"]
    if text in ("Ask Text 3", "Ask Text 8"):
        raise dfn.errors.LLMError("too rude", kind="invalid")
    return "about " + text
"""


def test_rows_come_during_a_run_in_order_and_keep_their_places(chromium: Any, lab: Lab) -> None:
    with panel_page(chromium, lab, SLOW) as p:
        p.run_all()
        p.run.click()
        p.page.wait_for_function(
            "() => document.querySelector('.dfnb .stale').textContent.startsWith('so far')"
        )
        assert p.phase == "running"
        p.page.wait_for_function(
            "() => Number(document.querySelector('.dfnb [data-tab=records]').textContent.split(' ')[1]) >= 8"
        )
        # Rows that have just come are blank until they are read.
        expect(p.row(7)).to_contain_text("about Ask")
        assert p.phase == "running"
        texts = p.root.locator(".body .row").evaluate_all(
            "rows => rows.slice(0, 8).map(r => r.innerText.replace(/\\s+/g, ' '))"
        )
        for i, text in enumerate(texts):
            assert text.startswith(f"{i} ○ new {i} Text {i} about Ask Text {i}"), text
        p.until("done", seconds=40)
        expect(p.tab("records")).to_have_text("Records 60")
        expect(p.root.locator(".stale")).to_have_text("")
        assert p.value("model.calls") == 60
        assert p.complaints == []


def test_graph_bill_and_failures_are_live_while_a_run_goes_on(chromium: Any, lab: Any) -> None:
    reply = 'lambda r: "about " + r.messages[-1]["content"]'
    assert reply in SLOW
    failing = SLOW.replace(reply, "reply, price=(1.0, 2.0)")
    with panel_page(chromium, lab, REPLY + failing) as p:
        p.run_all()
        p.run.click()
        expect(p.root.locator(".say")).to_contain_text("4 in flight")
        p.tab("errors").click()
        group = p.root.locator("table.errors tbody tr")
        expect(group).to_contain_text("too rude")
        expect(p.tab("errors")).to_have_text(re.compile("Errors [12]"))
        expect(group.get_by_role("button", name="Show")).to_have_count(0)
        p.tab("cost").click()
        bill = p.root.locator("[data-p=cost]")
        expect(bill).to_contain_text("So far, of the run that goes on.")
        expect(bill.locator("tbody tr").first).to_contain_text("ask")
        assert p.phase == "running"
        p.tab("graph").click()
        ask = p.root.locator(".node").filter(has_text="ask")
        seen = set()
        for _ in range(60):
            text = ask.text_content() or ""
            if re.search(r"[1-9]\d* of 60 calls", text):
                seen.add(text)
            if len(seen) >= 3 or p.phase == "done":
                break
            p.page.wait_for_timeout(300)
        assert len(seen) >= 3, seen
        p.until("done", seconds=40)
        expect(ask).to_contain_text("60 → 58 · 60 new · 2 failed")
        p.tab("errors").click()
        expect(group.get_by_role("button", name="Show 2")).to_be_visible()
        p.tab("cost").click()
        expect(bill).not_to_contain_text("So far")
        expect(bill.locator("tr.total")).to_contain_text("60")
        p.tab("graph").click()
        ask.click()
        expect(p.tab("records")).to_have_attribute("aria-selected", "true")
        assert p.complaints == []


def test_columns_that_steps_add_are_folded_away(chromium: Any, lab: Lab) -> None:
    with panel_page(chromium, lab, SLOW.replace("range(60)", "range(2)")) as p:
        p.run_all()
        p.run.click()
        p.until("done")
        expect(p.tab("records")).to_have_text("Records 2")
        heads = p.root.locator(".head .cell")
        expect(heads).to_contain_text(["status", "id", "text", "said", "paid", "time"])
        expect(heads.filter(has_text="_model")).to_have_count(0)
        p.button("+ 1 _column").click()
        expect(heads.filter(has_text="_model")).to_have_count(1)
        expect(p.row(1)).to_contain_text("fake")
        p.button("Hide _columns").click()
        expect(heads.filter(has_text="_model")).to_have_count(0)
        expect(p.row(1)).to_contain_text("about Ask Text 1")
