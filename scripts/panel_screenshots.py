"""Takes pictures of the panel in a real JupyterLab, to be looked at.

    python scripts/panel_screenshots.py FOLDER               # every tab, theme, width and case
    python scripts/panel_screenshots.py FOLDER running errors  # some of the cases

Needs Chromium and the test extra. The model is scripted, and nothing leaves the loopback address.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from panels import PanelPage, panel_page  # noqa: E402
from real_lab import CHROMIUM, THEMES, Lab, browser  # noqa: E402
from show import HOSTILE  # noqa: E402

TABS = ("records", "record", "prompt", "cost", "graph", "errors")
WIDTHS = (600, 1_200)

ARTICLES = """
from datafast_nb.data import articles

FAILING = {failing!r}

def reply(request):
    asked = request.messages[-1]["content"]
    if any(words in asked for words in FAILING):
        return dfn.LLMError("the server said: this content is not allowed", kind="bad_request")
    if asked.startswith("Question:"):
        return {{"score": str(3 + len(asked) % 3), "reason": "The answer stands in the article, word for word."}}
    text = asked.split("\\n")[1]
    words = text.split(". ")[-1].split()
    return {{"question": f"What does the article say of {{' '.join(words[-3:])[:-1]}}?",
            "answer": text.split(". ")[0] + "."}}

model = FakeModel(reply, name="gpt-4o-mini", provider="openai", latency_s={latency}, parallel={parallel})
rows = [{{**r, "words": len(r["text"].split())}} for r in articles()]
pipeline = (
    Source.list(rows).as_step("articles")
    >> Filter(fn=lambda r: r["words"] >= 40).as_step("long_enough")
    >> LLMStep(
        prompt="Article (topic: {{topic}}):\\n{{text}}\\n\\nWrite a question that a curious reader would ask, and answer it in one or two sentences.",
        system_prompt="You write one question and its answer from a short article. Use only the article.",
        output_columns=["question", "answer"], model=model).as_step("ask")
    >> LLMStep(prompt="Question: {{question}}\\nAnswer: {{answer}}\\n\\nHow good is the answer, from 1 to 5?",
               output_columns=["score", "reason"], model=model).as_step("judge")
    >> Filter(fn=lambda r: int(r["score"]) >= 4).as_step("keep_good")
)
panel = pipeline.panel(limit=None, budget=0.5)
panel
"""

MILLION = """
topics = ["Biology", "Physics", "History", "Astronomy", "Chemistry"]
rows = [{"id": i, "topic": topics[i * 7 % 5], "score": i * 2_654_435_761 % 1_000 / 10,
         "text": f"The lighthouse nr {i} was built of grey granite, quarried far inland."}
        for i in range(1_000_000)]
result = (Source.list(rows).as_step("lighthouses")
          >> Map(lambda r: {**r, "words": len(r["text"].split())}).as_step("counted")).run(show_progress=False)
panel = result.explore()
panel
"""

SPITE = f"""
bad = {list(HOSTILE)!r}
model = FakeModel(lambda r: dfn.LLMError(bad[0], kind="bad_request")
                  if "nr 2" in r.messages[-1]["content"] else bad[2], name=bad[0])
pipeline = (Source.list([{{"n": f"nr {{i}}", "text": b, b: bad}} for i, b in enumerate(bad)]).as_step(bad[1])
            >> LLMStep(prompt="{{n}} {{text}}", output_columns=["out" + bad[4]], model=model).as_step(bad[3]))
panel = pipeline.panel(limit=None)
panel
"""


def articles(
    *, failing: tuple[str, ...] = (), latency: float = 0.01, parallel: int | None = None
) -> str:
    """The cell of a pipeline over the bundled articles."""
    return ARTICLES.format(failing=failing, latency=latency, parallel=parallel)


# Case → the notebook's cell, what is done with the panel before the pictures.
CASES: dict[str, tuple[str, str]] = {
    "idle": (articles(), ""),
    "one": (articles(), "one"),
    "done": (articles(), "run"),
    "running": (articles(latency=2.5, parallel=2), "begin"),
    "stopped": (articles(latency=0.2, parallel=2), "stop"),
    "errors": (articles(failing=("In 1347 ships", "Lake Baikal", "A compiler")), "run"),
    "million": (MILLION, ""),
    "hostile": (SPITE, "run"),
}


def prepare(panel: PanelPage, act: str) -> None:
    """Bring a panel where its pictures are taken."""
    page = panel.page
    if act == "one":
        panel.run_one.click()
        panel.until("done", "limited")
    elif act == "run":
        panel.run.click()
        panel.until("done")
    elif act in ("begin", "stop"):
        panel.run.click()
        panel.until("running")
        page.wait_for_function(
            "() => document.querySelector('.dfnb .prog').ariaValueNow >= 15", timeout=60_000
        )
        if act == "stop":
            panel.stop.click()
            panel.until("stopped")
    page.wait_for_timeout(700)


def set_theme(page: Any, theme: str) -> None:
    """Change JupyterLab's theme, and wait until it is drawn."""
    light = "true" if theme == "light" else "false"
    if page.evaluate("() => document.body.dataset.jpThemeLight") != light:
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
            THEMES[theme],
        )
        page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=light)
        page.wait_for_timeout(400)


def set_width(panel: PanelPage, width: int) -> None:
    """Make the window so wide that the panel is `width` pixels wide."""
    size = panel.page.viewport_size
    now = round(panel.root.evaluate("e => e.offsetWidth"))
    panel.page.set_viewport_size({**size, "width": size["width"] + width - now})
    panel.page.wait_for_timeout(300)


def pictures(chromium: Any, lab: Lab, case: str, folder: Path) -> list[str]:
    """Every tab of one case, in both widths and themes; what the page complained of."""
    cell, act = CASES[case]
    complaints: list[str] = []
    for width in WIDTHS:
        # The window's width counts when a panel is first drawn: narrow ones fold their settings.
        with panel_page(chromium, lab, cell, width=width + 100) as panel:
            panel.run_all()
            set_width(panel, width)
            prepare(panel, act)
            row = panel.root.locator(".body .row").nth(2)
            if row.count() and panel.root.locator("[data-tab=records][aria-selected=true]").count():
                row.dblclick()
                panel.page.wait_for_timeout(300)
            for theme in THEMES:
                set_theme(panel.page, theme)
                for tab in TABS:
                    panel.tab(tab).click()
                    panel.page.mouse.move(0, 0)
                    panel.page.wait_for_timeout(350)
                    panel.root.screenshot(path=folder / f"{case}-{tab}-{theme}-{width}.png")
                panel.tab("records").click()
                panel.page.wait_for_timeout(200)
                panel.page.screenshot(path=folder / f"{case}-page-{theme}-{width}.png")
            if act == "begin":
                panel.stop.click()
                panel.until("stopped", "done")
            complaints += panel.complaints
    return complaints


def main() -> int:
    """Take the pictures of the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none: all")
    given = parser.parse_args()
    if unknown := [c for c in given.cases if c not in CASES]:
        parser.error(f"no case {unknown[0]}; there are {', '.join(CASES)}")
    if CHROMIUM is None:
        print("error: no Chromium is installed", file=sys.stderr)
        return 1
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        work, state = Path(place) / "work", Path(place) / "state"
        work.mkdir()
        state.mkdir()
        lab = Lab(work, state)
        try:
            for case in given.cases or CASES:
                for words in pictures(chromium, lab, case, given.folder):
                    print(f"{case}: the page complained: {words}", file=sys.stderr)
                print(case, flush=True)
        finally:
            lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
