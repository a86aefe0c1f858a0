"""Several runs at once in a real JupyterLab, one of them stopped, while a table is scrolled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from panels import PanelPage, panel_page
from real_lab import NOTEBOOK, Lab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

N = 300
SHOWN = f"""
def pipeline_of(name):
    model = FakeModel(
        lambda r: "re " + r.messages[-1]["content"], name=name, latency_s=0.2, parallel=12
    )
    rows = [{{"id": i, "text": f"{{name}} {{i}}"}} for i in range({N})]
    return model, Source.list(rows) >> LLMStep(
        prompt="Ask {{text}}", output_columns=["answer"], model=model
    ).as_step(name)

models, pipelines = zip(*map(pipeline_of, "abcd"))
first = pipelines[0].panel(limit=None)
first
"""
CELLS = (SHOWN, "second = pipelines[1].panel(limit=None)\nsecond")
ROWS = """root => [...document.querySelectorAll(root)[0].querySelectorAll('.body .row')]
    .filter(r => r.textContent.includes('re Ask'))
    .map(r => [Number(r.ariaRowIndex) - 2, r.textContent.match(/re Ask (a \\d+)/)?.[1]])"""


def scroll(opened: PanelPage, top: float) -> None:
    """Show another part of the first panel's table: a share from 0 to 1."""
    opened.page.evaluate(
        """([root, top]) => { const table = document.querySelectorAll(root)[0].querySelector('.table');
            table.scrollTop = top * table.scrollHeight; }""",
        [f"{NOTEBOOK} .dfnb", top],
    )


def start_stop_and_page(opened: PanelPage) -> None:
    """Four runs, two of them by panels; one of these and a handle are stopped and run again."""
    root = f"{NOTEBOOK} .dfnb"
    opened.run_all()
    opened.until_ran(1)
    second = opened.page.locator(root).nth(1)
    second.wait_for()
    run, stop = second.locator(".ctl button.pri"), second.locator("button.stop")
    opened.run.click()
    run.click()
    # The fifth asks what the first asks.
    opened.python("handles = [p.start(confirm=True) for p in (*pipelines[2:], pipelines[0])]")
    began = time.monotonic()
    seen: dict[int, set[str]] = {}
    stopped = False
    while opened.phase != "done" or second.get_attribute("data-phase") in ("running", "stopping"):
        assert time.monotonic() < began + 90
        at = time.monotonic() - began
        if not stopped and at > 1.5:
            stop.click()
            opened.python("handles[0].stop()")
            stopped = True
        scroll(opened, (at * 0.7) % 1)
        opened.page.wait_for_timeout(60)
        for place, text in opened.page.evaluate(ROWS, root):
            seen.setdefault(place, set()).add(text)
    assert stopped
    assert second.get_attribute("data-phase") == "stopped"
    results = opened.value(
        "[[r.status, [x['answer'] for x in r]] for r in ("
        "first.result, second.result, *[h.result() for h in handles])]"
    )
    names = "abcda"
    for name, (status, answers) in zip(names, results, strict=True):
        whole = [f"re Ask {name} {i}" for i in range(N)]
        if name in "bc":
            assert status == "interrupted"
            assert 0 < len(answers) < N
            assert set(answers) <= set(whole)
            assert len(set(answers)) == len(answers)
        else:
            assert (status, answers) == ("complete", whole)
    run.click()
    opened.python("again = pipelines[2].run(confirm=True)")
    opened.page.wait_for_function(
        "root => document.querySelectorAll(root)[1].dataset.phase === 'done'",
        arg=root,
        timeout=60_000,
    )
    assert opened.value("[[x['answer'] for x in r] for r in (second.result, again)]") == [
        [f"re Ask {name} {i}" for i in range(N)] for name in "bc"
    ]
    asked = opened.value("[[r.messages[-1]['content'] for r in m.requests] for m in models]")
    for name, prompts in zip("abcd", asked, strict=True):
        assert sorted(prompts) == sorted(f"Ask {name} {i}" for i in range(N))
    for k in range(101):
        scroll(opened, k / 100)
        opened.page.wait_for_timeout(50)
        for place, text in opened.page.evaluate(ROWS, root):
            seen.setdefault(place, set()).add(text)
    print(f"{len(seen)} rows seen, {sum(map(len, seen.values()))} texts in them")
    assert seen == {i: {f"a {i}"} for i in range(N)}


def test_a30_runs_at_once_with_a_stop_and_paging_lose_and_double_nothing(
    chromium: Any, lab: Lab
) -> None:
    with panel_page(chromium, lab, *CELLS) as opened:
        start_stop_and_page(opened)
        assert opened.complaints == []
