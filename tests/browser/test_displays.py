"""Displays as JupyterLab shows them: trusted and untrusted, light and dark, without CSS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import watched_page
from real_lab import NOTEBOOK, Lab, is_trusted
from show import CELLS, HOSTILE, make

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

OUTPUTS = f"{NOTEBOOK} .jp-CodeCell .jp-Cell-outputArea"
# Cells that show an object of ours as HTML.
SHOWN = [name for name in CELLS if name not in ("setup", "visualize", "graph")]

# Contrast of every text in the outputs against what lies behind it, opacities multiplied in.
CONTRAST = """selector => {
    const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const over = (top, a, below) => top.slice(0, 3).map((v, i) => v * a + below[i] * (1 - a));
    const lum = c => { const [r, g, b] = c.map(v => { v /= 255;
        return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
        return .2126 * r + .7152 * g + .0722 * b; };
    const ground = element => { const layers = [];
        for (let e = element; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            const a = c.length > 3 ? c[3] : 1;
            if (a > 0) layers.push([c, a]);
            if (a === 1) break;
        }
        return layers.reverse().reduce((below, [c, a]) => over(c, a, below), [255, 255, 255]); };
    const worst = [];
    for (const area of document.querySelectorAll(selector)) {
        for (const d of area.querySelectorAll('details')) d.open = true;
        const walk = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const text = walk.currentNode.data.trim(), e = walk.currentNode.parentElement;
            if (!text || /^[●○◌✕–✓+!·]$/.test(text)) continue;
            let opacity = 1;
            for (let p = e; p && p !== area.parentElement; p = p.parentElement)
                opacity *= Number(getComputedStyle(p).opacity);
            const behind = ground(e), c = parse(getComputedStyle(e).color);
            const front = over(c, (c.length > 3 ? c[3] : 1) * opacity, behind);
            const [a, b] = [lum(front), lum(behind)].sort((x, y) => y - x);
            worst.push([(a + .05) / (b + .05), text.slice(0, 60)]);
        }
    }
    return worst.sort((x, y) => x[0] - y[0]).slice(0, 5);
}"""


@pytest.fixture(scope="module")
def kept_page(chromium: Any) -> Iterator[Any]:
    with watched_page(chromium) as opened:
        yield opened


@pytest.fixture
def page(kept_page: Any) -> Any:
    """One page for all tests here, in its first size."""
    kept_page.set_viewport_size({"width": 1200, "height": 1400})
    return kept_page


@pytest.fixture(scope="module")
def notebook(lab: Lab) -> Path:
    folder = lab.folder / "displays"  # a memo in the Lab's own would be every notebook's
    folder.mkdir()
    return make(folder)


@pytest.fixture(scope="module")
def trusted_notebook(lab: Lab, notebook: Path) -> Path:
    """The same with another first cell: trust goes by what is in a notebook, not by its name."""
    content = json.loads(notebook.read_text("utf-8"))
    content["cells"][0]["source"] = "# trusted\n" + "".join(content["cells"][0]["source"])
    path = notebook.with_name("trusted.ipynb")
    path.write_text(json.dumps(content), "utf-8")
    lab.trust(path)
    return path


def texts(page: Any) -> dict[str, str]:
    """What can be read in each cell's output."""
    found = page.eval_on_selector_all(
        f"{NOTEBOOK} .jp-CodeCell",
        "cells => cells.map(c => Array.from(c.querySelectorAll('.jp-OutputArea-output'))"
        ".map(o => o.innerText).join('\\n'))",
    )
    assert len(found) == len(CELLS)
    return dict(zip(CELLS, found, strict=True))


def show(
    lab: Lab, page: Any, notebook: Path, *, theme: str = "light", kernel: bool = False
) -> None:
    """Show a notebook; JupyterLab is loaded only where the page does not hold it."""
    if page.locator(".jp-LabShell").count():
        lab.clear(page)
        lab.switch(page, notebook, theme=theme, kernel=kernel)
    else:
        lab.open(page, notebook, theme=theme, kernel=kernel)


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def test_a20_untrusted_shows_all_that_trusted_shows(lab, notebook, trusted_notebook, page):
    show(lab, page, trusted_notebook)
    assert is_trusted(page)
    full = texts(page)
    show(lab, page, notebook)
    assert not is_trusted(page)
    safe = texts(page)
    for name in SHOWN:
        assert full[name], name
        assert words(safe[name]) == words(full[name]), name
    pictures = page.eval_on_selector_all(
        f"{OUTPUTS} img", "list => list.map(i => [i.naturalWidth, i.alt, i.src.slice(0, 19)])"
    )
    assert len(pictures) >= 10  # graphs and column summaries
    for width, alt, src in pictures:
        assert width > 0 and alt and src == "data:image/svg+xml;"
    assert page.locator(f"{OUTPUTS} details").count() > 20
    assert page.locator(f"{OUTPUTS} .jp-RenderedHTMLCommon svg").count() == 0


def test_a19_reopened_without_a_kernel_everything_is_there(lab, trusted_notebook, page):
    show(lab, page, trusted_notebook, kernel=True)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    seen = texts(page)
    assert all(seen[name] for name in SHOWN)
    assert "What does the text say" in seen["result"]


@pytest.mark.parametrize("is_trusting", [True, False], ids=["trusted", "untrusted"])
def test_a26_hostile_text_stays_text(lab, notebook, trusted_notebook, page, is_trusting):
    dialogs: list[Any] = []
    page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    show(lab, page, trusted_notebook if is_trusting else notebook)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hit") is None and not dialogs
    outputs = page.locator(OUTPUTS)
    assert outputs.locator("iframe, script, a[href], h1, style, object, embed, form").count() == 0
    assert outputs.locator("img:not([src^='data:image/svg+xml;base64,'])").count() == 0
    seen = words(texts(page)["hostile_result"])
    for payload in HOSTILE:
        if "\x1b" not in payload:
            assert words(payload)[:20] in seen, payload
    assert "\\x1b[31m" in seen and "\\u202e" in seen
    # Dollars are no formulas: MathJax would put its own elements in their place.
    assert outputs.locator("mjx-container, .MathJax").count() == 0
    assert "$1 and $2" in words(texts(page)["result"])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a16_text_has_contrast_in_both_themes(lab, trusted_notebook, page, theme):
    show(lab, page, trusted_notebook, theme=theme)
    worst = page.evaluate(CONTRAST, f"{OUTPUTS} .jp-RenderedHTMLCommon")
    assert worst and worst[0][0] >= 4.5, worst


def test_a21_without_css_nothing_is_hidden_or_twice(lab, trusted_notebook, page):
    show(lab, page, trusted_notebook)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    before = texts(page)
    cells = page.eval_on_selector_all(
        f"{NOTEBOOK} .jp-CodeCell",
        "list => list.map(c => Array.from(c.querySelectorAll('.jp-RenderedHTMLCommon')).map(o => o.innerHTML))",
    )
    shown = [h for name, c in zip(CELLS, cells, strict=True) if "hostile" not in name for h in c]
    bare = [re.sub(r' (?:style|class)="[^"]*"', "", piece) for piece in shown]
    page.set_content("<meta charset=utf-8>" + "".join(f"<div class=o>{b}</div>" for b in bare))
    after = page.eval_on_selector_all("div.o", "list => list.map(o => o.innerText)")
    told = " ".join(words(before[name]) for name in CELLS)
    for piece in after:
        assert words(piece) in told
    # Nothing runs off the page where no style keeps it in.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1_250


@pytest.mark.parametrize("width", [600, 1200])
def test_displays_fit_the_page(lab, trusted_notebook, page, width):
    page.set_viewport_size({"width": width, "height": 1400})
    show(lab, page, trusted_notebook)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    wide = page.evaluate(
        """selector => Array.from(document.querySelectorAll(selector))
            .filter(o => getComputedStyle(o).overflowX !== 'auto')
            .map(o => [o.scrollWidth - o.clientWidth, o.innerText.slice(0, 60)])
            .filter(([more, _]) => more > 1)""",
        f"{NOTEBOOK} .jp-RenderedHTMLCommon.jp-OutputArea-output > div",
    )
    assert not wide
