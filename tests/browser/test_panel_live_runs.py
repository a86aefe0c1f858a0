"""Runs of a panel in a real JupyterLab: Run one, Run, progress, a busy kernel, an interrupt."""

from __future__ import annotations

import time
from typing import Any

import pytest
from panels import PanelPage, panel_page
from real_lab import Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PIPELINE = """
class Timed(FakeModel):
    times = []

    async def complete(self, request):
        self.times.append(time.time())
        return await super().complete(request)

def answer(request):
    text = request.messages[-1]["content"]
    return dfn.LLMError("refused") if text in BAD else "re " + text

BAD = {bad!r}
model = Timed(answer, name="m", price=(1.0, 2.0), latency_s={latency}, parallel={parallel})
rows = [{{"id": i, "text": f"Text {{i}}"}} for i in range({n})]
pipeline = Source.list(rows) >> LLMStep(
    prompt="Ask {{text}}", output_columns=["answer"], model=model
).as_step("ask")
panel = pipeline.panel(limit=None)
panel
"""


def cell_of(
    n: int = 30, *, latency: float = 0.2, parallel: int = 4, bad: tuple[str, ...] = ()
) -> str:
    """A cell that shows a panel over `n` records."""
    return PIPELINE.format(n=n, latency=latency, parallel=parallel, bad=bad)


def prompts(opened: PanelPage) -> list[str]:
    """What the model was asked, in order."""
    return list(opened.value("[r.messages[-1]['content'] for r in model.requests]"))


def test_a2_run_one_makes_the_calls_of_one_record_and_shows_it(chromium: Any, lab: Lab) -> None:
    with panel_page(chromium, lab, cell_of(latency=0.2)) as opened:
        opened.run_all()
        assert opened.value("model.calls") == 0
        for _ in range(7):
            opened.root.get_by_label("next record").click()
        began = time.perf_counter()
        opened.run_one.click()
        opened.until_reads("re Ask Text 7")
        took = time.perf_counter() - began - 0.2
        print(f"record shown {took * 1e3:.0f} ms after the answer")
        assert took < 2.5
        assert opened.tab("record").get_attribute("aria-selected") == "true"
        assert prompts(opened) == ["Ask Text 7"]
        opened.tab("records").click()
        opened.row(0).get_by_text("re Ask Text 7").wait_for()
        assert opened.value("len(panel.result)") == 1
        opened.run_one.click()  # its answer is in the memo
        opened.until("done")
        assert opened.value("model.calls") == 1
        assert opened.complaints == []


def test_a3_the_kernel_is_free_while_a_run_goes_on(chromium: Any, lab: Lab) -> None:
    with panel_page(chromium, lab, cell_of(60, latency=1.0, parallel=2), "1 + 1") as opened:
        opened.run_all()
        opened.until_ran(1)
        opened.run.click()
        opened.until("running")
        took = []
        for k in range(3):
            began = time.perf_counter()
            assert opened.python(f"print(1 + {k})").strip() == str(1 + k)
            took.append(time.perf_counter() - began)
        before = opened.prompt(1)
        began = time.perf_counter()
        opened.begin_cell(1)
        opened.until_ran(1, before)
        took.append(time.perf_counter() - began)
        print(f"cells took {max(took) * 1e3:.0f} ms")
        assert max(took) < 5
        assert opened.phase == "running"
        assert 0 < opened.value("model.calls") < 60
        opened.stop.click()
        opened.until("stopped")


def test_a4_progress_is_live_and_true(chromium: Any, lab: Lab) -> None:
    bad = ("Ask Text 3", "Ask Text 40", "Ask Text 41")
    with panel_page(chromium, lab, cell_of(120, latency=0.25, parallel=4, bad=bad)) as opened:
        opened.run_all()
        opened.python("_ = pipeline.run(limit=10, budget=1)")
        made = opened.value("model.calls")
        opened.count_messages()
        opened.page.evaluate("""() => {
            const bar = document.querySelector('.dfnb .prog'), say = document.querySelector('.dfnb .say');
            window.seen = [];
            const look = () => window.seen.push([performance.now(), bar.ariaValueNow, say.innerText]);
            new MutationObserver(look).observe(say, { childList: true, subtree: true, characterData: true });
        }""")
        opened.run.click()
        opened.until("done", "failed", seconds=60)
        opened.page.wait_for_timeout(500)
        calls = opened.value("model.calls") - made
        ledger = opened.value(
            "(lambda t: [t.new, t.answered, t.failed, t.paid_usd])(panel.result.ledger.total)"
        )
        states = opened.states
        last = states[-1]["progress"]
        assert [last["new"] + last["failed"], last["memo"], last["failed"]] == ledger[:3]
        assert last["paid"] == pytest.approx(ledger[3])
        assert last["done"] == last["total"] == 120
        assert opened.value("len(panel.result.errors)") == 3 == last["failed"]
        assert (opened.value("len(panel.result)"), last["memo"]) == (117, 9)
        assert calls == 111, "nine of the first ten were answered before"
        assert f"{last['new']} new" in opened.said
        assert "3 failed" in opened.said

        seen = opened.page.evaluate("window.seen")
        values = {s.split(" at ")[0] for t, _, s in seen if t - seen[0][0] < 3_000}
        shown = {v for v in values if " of " in v}
        shares = {v for t, v, _ in seen if t - seen[0][0] < 3_000}
        print(f"{len(shown)} figures, {len(shares)} widths of the bar in the first 3 s")
        assert len(shown) >= 5
        assert len(shares) >= 5

        times = opened.page.evaluate("window.comm_messages")
        most = max(sum(t <= u < t + 1_000 for u in times) for t in times)
        print(f"at most {most} comm messages a second, {len(times)} in all")
        assert most <= 12

        live = [s for s in states if s["phase"] == "running" and s["progress"]]
        end = next(s["at"] for s in states if s["phase"] in ("done", "failed"))
        wrong = [
            (s["progress"]["done"], s["progress"]["eta"] / (end - s["at"]) - 1)
            for s in live
            # The last answers come four at a time: a half of a second is not worth a word.
            if s["progress"]["done"] / 120 >= 0.2 and end - s["at"] > 1.0
        ]
        off = sorted(abs(w) for _, w in wrong)
        middle = off[len(off) // 2]
        print(f"ETA off by {middle:.0%}, at most {off[-1]:.0%}, in {len(wrong)} states")
        assert len(wrong) >= 5
        # On a machine that does twice as much besides: 5 to 12 %, at most 26 % in 20 runs. Where
        # others keep it busy the latency is not constant.
        assert middle <= 0.2, wrong
        assert off[-1] <= 0.6, wrong


@pytest.mark.parametrize("subshells", [True, False])
def test_a7_three_clicks_in_a_busy_kernel_are_one_run(
    chromium: Any, lab: Lab, subshells: bool
) -> None:
    busy = "import time; t0 = time.time(); time.sleep(4); t1 = time.time()"
    with panel_page(chromium, lab, cell_of(12, latency=0.1), busy) as opened:
        if not subshells:
            opened.use_no_subshells()
        opened.run_all()
        opened.until_ran(1)
        was = opened.prompt(1)
        opened.begin_cell(1)
        opened.page.wait_for_timeout(500)
        assert opened.prompt(1) == "[*]:"
        began = time.perf_counter()
        opened.run.click()
        if subshells:  # the message comes through: there is nothing to wait for
            opened.until("running", "done")
        else:
            opened.until_reads("Queued: kernel is busy")
        took = time.perf_counter() - began
        print(f"{'running' if subshells else 'queued'} shown after {took * 1e3:.0f} ms")
        assert took < 2
        assert opened.prompt(1) == "[*]:"
        for _ in range(2):
            opened.run.dispatch_event("click")
        opened.until("done")
        opened.until_ran(1, was)
        opened.page.wait_for_timeout(1_000)
        assert opened.phase == "done"
        assert sorted(prompts(opened)) == sorted(f"Ask Text {i}" for i in range(12))
        assert opened.value("t1 - t0 >= 4")
        assert opened.value("min(model.times) < t1") is subshells
        assert opened.value("len(panel.result)") == 12
        assert "Queued" not in opened.said
        assert opened.complaints == []


def test_a8_interrupt_of_a_cell_is_one_line_and_the_next_run_goes_on(
    chromium: Any, lab: Lab
) -> None:
    cells = (
        cell_of(1_000, latency=0.2, parallel=20).replace("limit=None", "limit=5"),
        "result = pipeline.run(limit=1000, confirm=True)",
        "after = True",
    )
    with panel_page(chromium, lab, *cells) as opened:
        opened.begin_all()
        opened.tab("records").wait_for(timeout=60_000)
        opened.until("running")
        opened.page.wait_for_timeout(1_500)
        opened.page.locator(".jp-CodeCell").nth(1).locator(".jp-InputPrompt").click()
        opened.page.keyboard.press("Escape")
        began = time.perf_counter()
        opened.page.keyboard.press("i")
        opened.page.keyboard.press("i")
        opened.until_ran(1)
        took = time.perf_counter() - began
        print(f"the cell ended {took * 1e3:.0f} ms after I, I")
        assert took < 5
        opened.page.wait_for_timeout(500)
        said = opened.error_of(1)
        assert said.startswith("Interrupted: ")
        assert "\n" not in said
        assert "Traceback" not in opened.output(1)
        assert opened.value("'after' in globals()") is False
        assert opened.value("'result' in globals()") is False
        status, n, calls = opened.value("[dfn.last.status, len(dfn.last), model.calls]")
        assert status == "interrupted"
        assert 0 < n <= calls < 1_000
        opened.until("stopped")
        new = opened.value("dfn.last.ledger.total.new")
        assert opened.value("panel.state()['progress']['new']") == new
        opened.until_reads(f"{new:,} new")
        assert f"{new:,} new" in opened.output(1)
        was = opened.prompt(1)
        opened.python("model.latency_s = 0.02")
        opened.begin_cell(1)
        opened.until_ran(1, was, seconds=60)
        assert opened.value("[len(result), result.status]") == [1_000, "complete"]
        asked = prompts(opened)
        print(f"{n} records at the interrupt, {calls} calls; {len(asked)} calls in all")
        assert len(set(asked)) == len(asked) == 1_000


def test_a9_moving_controls_asks_no_model_and_estimates_anew(chromium: Any, lab: Lab) -> None:
    with panel_page(chromium, lab, cell_of(400, latency=0.0)) as opened:
        opened.run_all()
        opened.python("_ = pipeline.run(limit=30, budget=1)")
        opened.until("limited")
        made = opened.value("model.calls")
        opened.count_messages()

        def estimate_after(act: Any, control: str) -> dict[str, Any]:
            """Do it; the first estimate that is of the controls as they stand then."""
            act()
            began = time.time()
            opened.page.wait_for_function(
                "() => { const at = document.querySelector('.dfnb .say .mut:last-of-type');"
                " return at?.textContent.startsWith('next:'); }"
            )
            opened.page.wait_for_timeout(1_500)
            states = [s for s in opened.states if s["estimate"]]
            now = states[-1]
            first = next(
                s
                for s in states
                if s["controls"][control] == now["controls"][control]
                and s["estimate"] == now["estimate"]
            )
            print(f"{control}: estimate {(first['at'] - began) * 1e3:.0f} ms after the last move")
            assert first["at"] - began < 1.5
            assert now["estimate"]["text"] in opened.said
            return now

        def drag() -> None:
            slider = opened.root.get_by_label("limit, slider")
            box = slider.bounding_box()
            slider.hover(position={"x": box["width"] * 0.95, "y": box["height"] / 2})
            opened.page.mouse.down()
            for k in range(20):
                slider.hover(
                    position={"x": box["width"] * (0.95 - 0.02 * k), "y": box["height"] / 2},
                    force=True,
                )
                opened.page.wait_for_timeout(30)
            opened.page.mouse.up()

        now = estimate_after(drag, "limit")
        limit = now["controls"]["limit"]
        assert 30 < limit < 400
        assert now["estimate"]["records"] == limit
        assert (now["estimate"]["new"], now["estimate"]["memo"]) == (limit - 30, 30)

        def type_temperature() -> None:
            at = opened.root.get_by_label("temperature; empty means")
            for k in range(1, 10):
                at.fill(f"0.{k}")
                at.press("Tab")

        now = estimate_after(type_temperature, "temperature")
        assert now["controls"]["temperature"] == 0.9
        assert (now["estimate"]["new"], now["estimate"]["memo"]) == (limit, 0)
        assert opened.value("model.calls") == made == 30
        assert opened.complaints == []
