"""Stop in a real JupyterLab: an idle kernel, a cell that waits for the run, a cell that does not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from panels import PanelPage, panel_page
from real_lab import Lab
from test_panel_live_runs import cell_of, prompts

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SHOWN = cell_of(400, latency=0.3, parallel=8).replace("limit=None", "limit=5")
# The cells below are run twice: by Run All, as the page is opened, and as the test.
BEGIN = """if 'again' in globals():
    {cell}
again = True"""
RUN = "result = pipeline.run(limit=400, confirm=True)"
HANDLE = "result = pipeline.start(limit=400, confirm=True).result()"
SLEEP = "time.sleep(5); survived = True"
SHORT = "_ = pipeline.run(limit=4); time.sleep(4); survived = True"


def stop_a_cell(opened: PanelPage, cell: str) -> None:
    """Click Stop while a cell blocks in `run()` or `result()`; all that A6 promises."""
    opened.run_all()
    opened.until_ran(1)
    was = opened.prompt(1)
    opened.begin_cell(1)
    opened.page.wait_for_function(
        "() => !document.querySelector('.dfnb button.stop').disabled", timeout=10_000
    )
    opened.page.wait_for_timeout(1_500)
    assert opened.prompt(1) == "[*]:"
    clicked = time.time()
    opened.stop.click()
    opened.until_ran(1, was)
    took = time.time() - clicked
    print(f"{cell}: the cell ended {took * 1e3:.0f} ms after Stop")
    assert took < 10
    said = opened.error_of(1)
    print(said[:40])
    calls, latest = opened.value("[model.calls, max(model.times)]")
    assert 0 < calls < 400
    assert latest < clicked + 5
    opened.page.wait_for_timeout(1_500)
    assert opened.value("model.calls") == calls
    assert "Traceback" not in opened.output(1)
    assert said.startswith(("Stopped: ", "Interrupted: "))
    assert "\n" not in said
    assert opened.value("'result' in globals()") is False
    # What arrived is kept: the rest alone is asked for.
    opened.python("model.latency_s = 0.02; _ = pipeline.run(limit=400, confirm=True)")
    asked = prompts(opened)
    assert len(asked) == len(set(asked)) == 400


def test_a5_stop_with_an_idle_kernel_sends_nothing_more_and_keeps_what_comes(
    chromium: Any, lab: Lab
) -> None:
    with panel_page(chromium, lab, cell_of(80, latency=0.5, parallel=4)) as opened:
        opened.run_all()
        opened.run.click()
        opened.page.wait_for_timeout(1_500)
        clicked = time.time()
        opened.stop.click()
        opened.until("stopped")
        took = time.time() - clicked
        calls, latest = opened.value("[model.calls, max(model.times)]")
        print(
            f"stopped {took * 1e3:.0f} ms after the click, the last call began "
            f"{(latest - clicked) * 1e3:.0f} ms after it"
        )
        assert took < 5
        assert latest < clicked + 1.5
        assert 4 <= calls < 40
        opened.page.wait_for_timeout(2_000)
        assert opened.value("model.calls") == calls
        assert opened.value("panel.result.status") == "interrupted"
        assert opened.value("len(panel.result)") == calls, "those in flight were kept"
        assert opened.value("panel.state()['memo']['answers']") == calls
        assert f"{calls} new" in opened.said
        opened.python("model.latency_s = 0.02")
        opened.run.click()
        opened.until("done", seconds=60)
        asked = prompts(opened)
        assert len(asked) == len(set(asked)) == 80
        assert opened.value("len(panel.result)") == 80
        opened.until_reads(f"{calls} memo", f"{80 - calls} new")
        assert opened.complaints == []


@pytest.mark.parametrize("subshells", [True, False])
@pytest.mark.parametrize("cell", [RUN, HANDLE], ids=["run", "result"])
def test_a6_stop_ends_a_cell_that_waits_for_the_run(
    chromium: Any, lab: Lab, cell: str, subshells: bool
) -> None:
    with panel_page(chromium, lab, SHOWN, BEGIN.format(cell=cell)) as opened:
        if not subshells:
            opened.use_no_subshells()
        stop_a_cell(opened, cell)
        assert opened.complaints == []


def stop_beside_a_cell(opened: PanelPage) -> None:
    """Click Stop of a panel's run while a cell of the user's own is busy: the cell goes on."""
    opened.run_all()
    opened.until_ran(1)
    was = opened.prompt(1)
    opened.root.get_by_label("limit: records").fill("")
    opened.root.get_by_label("limit: records").press("Tab")
    opened.run.click()
    opened.until("running")
    opened.begin_cell(1)
    opened.page.wait_for_timeout(500)
    assert opened.prompt(1) == "[*]:"
    began = time.time()
    opened.stop.click()
    opened.until_ran(1, was)
    print(f"the cell ended {time.time() - began:.1f} s after Stop")
    opened.until("stopped", seconds=30)
    assert opened.value("survived") is True
    assert opened.error_of(1) == ""
    calls = opened.value("model.calls")
    assert 0 < calls < 400
    opened.page.wait_for_timeout(1_000)
    assert opened.value("model.calls") == calls == opened.value("len(panel.result)")


@pytest.mark.parametrize("subshells", [True, False])
def test_a6_stop_never_interrupts_a_cell_of_the_users_own(
    chromium: Any, lab: Lab, subshells: bool
) -> None:
    with panel_page(chromium, lab, SHOWN, BEGIN.format(cell=SLEEP)) as opened:
        if not subshells:
            opened.use_no_subshells()
        stop_beside_a_cell(opened)
        assert opened.complaints == []


def test_a6_stop_at_the_end_of_a_run_spares_what_the_cell_does_then(
    chromium: Any, lab: Lab
) -> None:
    with panel_page(chromium, lab, SHOWN.replace("0.3", "0.5"), BEGIN.format(cell=SHORT)) as opened:
        opened.use_no_subshells()
        opened.run_all()
        opened.until_ran(1)
        was = opened.prompt(1)
        opened.begin_cell(1)
        opened.page.wait_for_function(
            "() => !document.querySelector('.dfnb button.stop').disabled", polling=20
        )
        opened.stop.click()
        opened.until_ran(1, was)
        assert opened.value("survived") is True
        assert opened.error_of(1) == ""
        assert opened.value("model.calls") == 4
