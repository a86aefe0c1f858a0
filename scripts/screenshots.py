"""Takes pictures of the displays in a real JupyterLab, to be looked at.

    python scripts/screenshots.py FOLDER        # every display and notebook, all themes and trusts
    python scripts/screenshots.py --docs        # the few in docs/images/ that README and docs show

Needs Chromium and the test extra. Nothing leaves the loopback address.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from real_lab import CHROMIUM, NOTEBOOK, Lab, browser  # noqa: E402
from show import CELLS, make  # noqa: E402

DOCS = ROOT / "docs" / "images"
# Kept small: what README and docs show, no more.
KEPT = {"result": "light", "fresh": "dark", "diff": "light", "trace": "dark"}
WIDTH = 1_180
# Higher than any display: what is scrolled away cannot be in the picture.
HEIGHT = 6_000


def open_page(chromium: Any, width: int, height: int, theme: str) -> Any:
    """A page in a window of that size whose system theme is `theme`."""
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    return context.new_page()


def picture(page: Any, name: str, path: Path) -> None:
    """A picture of what the cell `name` of the displays' notebook shows."""
    cell = page.locator(f"{NOTEBOOK} .jp-CodeCell").nth(list(CELLS).index(name))
    cell.scroll_into_view_if_needed()
    cell.locator(".jp-Cell-outputArea .jp-OutputArea-output").last.screenshot(path=path)


def whole(page: Any, path: Path) -> None:
    """A picture of the whole notebook: the window is made as high as its cells."""
    height = page.evaluate(
        "selector => document.querySelector(selector).scrollHeight",
        f"{NOTEBOOK} .jp-WindowedPanel-outer",
    )
    size = page.viewport_size
    page.set_viewport_size({"width": size["width"], "height": height + 120})
    page.wait_for_timeout(500)
    page.screenshot(path=path)


def for_docs(lab: Lab, chromium: Any, notebook: Path) -> None:
    """The pictures that are kept."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, theme in KEPT.items():
        page = open_page(chromium, WIDTH, HEIGHT, theme)
        lab.open(page, notebook, theme=theme)
        picture(page, name, DOCS / f"{name}-{theme}.png")
        page.context.close()


def for_looking(lab: Lab, chromium: Any, notebook: Path, out: Path) -> None:
    """Everything: whole notebooks trusted and not, each display, narrow too, opened too."""
    shipped = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shipped.append(lab.folder / path.name)
        shutil.copyfile(path, shipped[-1])
    for trust in ("untrusted", "trusted"):
        if trust == "trusted":
            for path in shipped:
                lab.trust(path)
            lab.trust(notebook)
        for theme in ("light", "dark"):
            for path in shipped:
                page = open_page(chromium, WIDTH, 1_400, theme)
                lab.open(page, path, theme=theme)
                whole(page, out / f"{path.stem}-{trust}-{theme}.png")
                page.context.close()
            for width in (WIDTH, 600):
                page = open_page(chromium, width, HEIGHT, theme)
                lab.open(page, notebook, theme=theme)
                for name in CELLS:
                    if name != "setup":
                        picture(page, name, out / f"{name}-{trust}-{theme}-{width}.png")
                page.evaluate(
                    "() => document.querySelectorAll('details').forEach(d => d.open = true)"
                )
                for name in ("fresh", "result", "trace", "hostile_result"):
                    picture(page, name, out / f"{name}-open-{trust}-{theme}-{width}.png")
                page.context.close()


def main() -> int:
    """Run the displays' notebook, open it, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the pictures go")
    parser.add_argument("--docs", action="store_true", help="write docs/images/ instead")
    given = parser.parse_args()
    if not given.docs and given.folder is None:
        parser.error("give a folder, or --docs")
    if CHROMIUM is None:
        print("error: no Chromium is installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place, browser() as chromium:
        folder = Path(place) / "work"
        folder.mkdir()
        notebook = make(folder)
        lab = Lab(folder, Path(place) / "state")
        try:
            if given.docs:
                lab.trust(notebook)
                for_docs(lab, chromium, notebook)
            else:
                given.folder.mkdir(parents=True, exist_ok=True)
                for_looking(lab, chromium, notebook, given.folder)
        finally:
            lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
