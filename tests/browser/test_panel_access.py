"""A panel in a real JupyterLab by keyboard, for screen readers, in both themes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from panels import PanelPage, panel_page
from playwright.sync_api import expect
from real_lab import NOTEBOOK, THEMES
from test_displays import CONTRAST

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TABS = ("records", "record", "prompt", "cost", "graph", "errors")
AXE = Path(__file__).parents[1] / "js" / "node_modules" / "axe-core" / "axe.min.js"
# One of the records fails, two models are to be chosen from: nothing is out of use.
PANEL = """
def reply(request):
    text = request.messages[-1]["content"]
    if text.endswith("4"):
        raise dfn.errors.LLMError("no such voice", kind="invalid")
    return "answer to " + text
model = FakeModel(reply, name="gpt-4o-mini", provider="openai", latency_s=0.02)
other = FakeModel(name="gpt-4o", provider="openai")
rows = [{"id": i, "text": f"Text {i}", "score": i / 3} for i in range(12)]
step = LLMStep(prompt="Ask {text}", output_columns=["answer"], model=model).as_step("ask")
pipeline = Source.list(rows) >> Map(lambda r: {**r, "more": "x" * 40}) >> step
panel = pipeline.panel(limit=None, models=[other])
panel
"""
FOCUSED = "document.activeElement"
# Everything in the panel that a person can use and that is on show.
CONTROLS = """() => [...document.querySelectorAll('.dfnb :is(button, input, select, textarea, summary, [tabindex])')]
    .filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0)
    .map(e => { e.dataset.seen ??= String(Math.random()); return [e.dataset.seen, e.outerHTML.slice(0, 90)]; })"""
REACHED = """() => document.activeElement.closest('.dfnb') ? document.activeElement.dataset.seen ?? '' : null"""


def opened(p: PanelPage) -> None:
    """The panel after a run, with a record open."""
    p.run_all()
    p.run.click()
    p.until("done")
    expect(p.tab("errors")).to_have_text("Errors 1")
    p.row(1).dblclick()
    expect(p.root.locator(".details")).to_contain_text("1 Prompt as sent")
    p.row(1).page.keyboard.press("Escape")


def test_a14_tab_reaches_every_control(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL) as p:
        opened(p)
        for name in TABS:
            p.tab(name).click()
            p.page.wait_for_timeout(400)
            wanted = dict(p.page.evaluate(CONTROLS))
            assert len(wanted) > 15
            p.root.evaluate("e => e.focus()")
            reached = set()
            for _ in range(2 * len(wanted)):
                p.page.keyboard.press("Tab")
                at = p.page.evaluate(REACHED)
                if at is None:
                    break
                reached.add(at)
            else:
                pytest.fail("Tab does not leave the panel")
            missed = [html for seen, html in wanted.items() if seen not in reached]
            assert not missed, (name, missed)
            p.page.keyboard.press("Shift+Tab")
            assert p.page.evaluate(REACHED), "and back into it"
        assert p.complaints == []


def test_a14_keys_in_the_panel_leave_the_cells_alone(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL, "'second'", "'third'") as p:
        opened(p)
        before = p.cell_texts()
        assert len(before) == 3
        active = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
        places = {
            "records": [".tools [data-status=new]", ".body .row:nth-child(3) .cell:nth-child(4)",
                        ".head button", ".tools select"],
            "record": [".lineage button", ".foot button", ".details section"],
            "prompt": [".editor select", ".editor button.pri", ".seen"],
            "cost": [".scroll"],
            "graph": [".node[tabindex='0']"],
            "errors": ["td button", ".foot button"],
        }  # fmt: skip
        focused = 0
        for name, selectors in places.items():
            p.tab(name).click()
            p.page.wait_for_timeout(200)
            head = [".ctl button.pri", ".ctl select", ".joined button", ".more select",
                    f"[data-tab={name}]", "input[type=range]"]  # fmt: skip
            for at in head + [f"[data-p={name}] {s}" for s in selectors]:
                spot = p.root.locator(at).first
                spot.focus()
                if not p.page.evaluate(
                    "document.querySelector('.dfnb').contains(document.activeElement)"
                ):
                    pytest.fail(f"{at} takes no focus")
                focused += 1
                index = p.page.evaluate(active)
                for key in ("d", "d", "j", "x", "z"):
                    p.page.keyboard.press(key)
                assert p.cell_texts() == before, at
                assert p.page.evaluate(active) == index, at
                assert p.root.count() == 1, at
        assert focused > 30
        assert p.value("model.calls") == 12

        # Without the guard it would not be so: a button beside the panel, in the same output.
        p.page.evaluate("""() => { const b = document.createElement('button'); b.id = 'bare';
            b.textContent = 'bare'; document.querySelector('.dfnb').parentElement.after(b); }""")
        p.page.locator("#bare").focus()
        p.page.keyboard.press("d")
        p.page.keyboard.press("d")
        p.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.length === 2"
        )
        assert p.cell_texts() == before[1:]


def test_a14_the_grid_by_keys(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL, "'second'") as p:
        opened(p)
        p.tab("records").click()
        p.row(0).locator(".cell").nth(2).click()
        at = """() => { const c = document.activeElement.closest('[role=gridcell], [role=columnheader]');
            return c && [Number(c.closest('[role=row]').getAttribute('aria-rowindex')), Number(c.getAttribute('aria-colindex'))]; }"""
        for key, place in (
            ("ArrowDown", [3, 3]),
            ("ArrowRight", [3, 4]),
            ("ArrowUp", [2, 4]),
            ("Home", [2, 1]),
            ("Control+End", [12, None]),
            ("Control+Home", [2, 1]),
            ("ArrowDown", [3, 1]),
        ):
            p.page.keyboard.press(key)
            found = p.page.evaluate(at)
            assert found and found[0] == place[0] and place[1] in (None, found[1]), (key, found)
        p.page.keyboard.press("Enter")
        expect(p.tab("record")).to_have_attribute("aria-selected", "true")
        expect(p.root.locator(".details")).to_contain_text("Ask Text 1")
        p.page.keyboard.press("Escape")
        expect(p.tab("records")).to_have_attribute("aria-selected", "true")
        assert p.page.evaluate(at)[0] == 3, "the cell it came from has the focus"
        p.page.keyboard.press("Space")
        p.page.wait_for_timeout(400)
        assert p.cell_texts()[1] == "'second'"
        assert p.complaints == []


def test_a15_axe_finds_nothing_serious_and_runs_are_announced(chromium: Any, lab: Any) -> None:
    if not AXE.exists():
        if os.environ.get("CI"):
            pytest.fail("no axe-core: npm install in tests/js")
        pytest.skip("no axe-core: npm install in tests/js")
    # Of a run that is over in a few milliseconds the end alone is told.
    slower = PANEL.replace("latency_s=0.02", "latency_s=0.4, parallel=4")
    assert slower != PANEL
    with panel_page(chromium, lab, slower) as p:
        p.run_all()
        p.page.evaluate("""() => { const live = document.querySelector('.dfnb [role=status]');
            window.told = []; new MutationObserver(() => told.push(live.textContent))
                .observe(live, { childList: true, characterData: true, subtree: true }); }""")
        p.run.click()
        p.until("done")
        told = p.page.evaluate("told")
        assert told[0].startswith(("Starting", "Running.", "Running: 0 of 12")), told
        assert told[-1].startswith("Done"), told
        p.row(1).dblclick()
        p.page.evaluate(AXE.read_text("utf-8"))
        found = []
        for theme in THEMES:
            change_theme(p, theme)
            for name in TABS:
                p.tab(name).click()
                p.page.wait_for_timeout(400)
                ran = p.page.evaluate("() => axe.run('.dfnb')")
                assert "color-contrast" in {r["id"] for r in ran["passes"]}, "axe looked at it"
                assert "aria-valid-attr-value" in {r["id"] for r in ran["passes"]}
                found += [
                    (theme, name, v["id"], v["impact"], [n["html"][:150] for n in v["nodes"][:3]])
                    for v in ran["violations"]
                ]
        for line in found:
            print(line)
        assert not [f for f in found if f[3] in ("serious", "critical")]
        # It would find one: a field without a name.
        p.page.evaluate("document.querySelector('.dfnb .search').removeAttribute('aria-label')")
        p.page.evaluate("document.querySelector('.dfnb .search').removeAttribute('placeholder')")
        p.tab("records").click()
        ids = p.page.evaluate("() => axe.run('.dfnb').then(r => r.violations.map(v => v.id))")
        assert "label" in ids
        assert p.complaints == []


def change_theme(p: PanelPage, theme: str) -> None:
    """Switch JupyterLab to a theme while the panel is shown."""
    p.command("apputils:change-theme", theme=THEMES[theme])
    expect(p.root).to_have_attribute("data-theme", theme)
    p.page.wait_for_timeout(300)  # the theme's style sheet is drawn


def test_a16_themes_are_switched_while_the_panel_is_shown(chromium: Any, lab: Any) -> None:
    with panel_page(chromium, lab, PANEL) as p:
        opened(p)
        mine = p.root.evaluate("e => e.id ||= 'the-same-element'")
        for theme in ("dark", "light", "dark"):
            change_theme(p, theme)
            colours = set()
            for name in TABS:
                p.tab(name).click()
                p.page.wait_for_timeout(250)
                worst = p.page.evaluate(
                    CONTRAST, f".dfnb > :not([role=tabpanel]), .dfnb [data-p={name}]"
                )
                assert worst[0][0] >= 4.5, (theme, name, worst)
                colours.add(round(worst[0][0], 1))
            print(f"A16 {theme}: lowest contrast {min(colours)}")
        assert p.page.locator(f"{NOTEBOOK} .dfnb").get_attribute("id") == mine
        assert p.value("model.calls") == 12
        assert p.complaints == []
