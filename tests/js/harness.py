"""The panel in a browser without Jupyter: its real script and style, a made-up Python side.

`python tests/js/harness.py` serves it for looking at (`harness.html?rows=1000000&theme=dark`);
`python tests/js/harness.py FOLDER` leaves pictures of every tab in FOLDER.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from datafast_nb.widgets import front

HERE = Path(__file__).parent
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
TABS = ("records", "record", "prompt", "cost", "graph", "errors")
# Name → options of the fake model, what to do before the picture.
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "idle": ({}, ""),
    "running": ({"calls": 400, "speed": 1}, "click:button.pri"),
    "stopped": ({"calls": 400}, "click:button.pri;click:button.stop"),
    "errors": ({"state": {"errors": {"n": 3, "groups": 1}}}, ""),
    "million": ({"rows": 1_000_000}, ""),
    "hostile": ({"hostile": True, "state": {"errors": {"n": 3, "groups": 1}}}, ""),
    "lost": ({"kernel": True}, "restart"),
}


class _Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/") or "harness.html"
        made = {"panel.js": front.script, "panel.css": front.style}.get(name)
        path = HERE / name
        if made is None and (path.parent != HERE or not path.is_file()):
            self.send_error(404)
            return
        body = (made() if made else path.read_text("utf-8")).encode()
        self.send_response(200)
        self.send_header(
            "Content-Type", f"{KINDS.get(Path(name).suffix, 'text/plain')}; charset=utf-8"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(port: int = 0) -> Iterator[str]:
    """The address of the harness, while it is served."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/harness.html"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def open_panel(
    page: Any, address: str, /, views: int = 1, initialize: bool = True, **options: Any
) -> Any:
    """Open a panel on a fresh page; its root."""
    page.goto(address)
    page.wait_for_function("() => window.ready")
    page.evaluate(
        "([o, v]) => open_panel(o, v)", [options, {"views": views, "initialize": initialize}]
    )
    return page.locator(".dfnb").first


def pictures(folder: Path, cases: tuple[str, ...] = tuple(CASES)) -> None:
    """Every tab, light and dark, narrow and wide, in each of the cases."""
    sys.path.insert(0, str(HERE.parent / "browser"))
    from real_lab import browser

    folder.mkdir(parents=True, exist_ok=True)
    with served() as address, browser() as chromium:
        for width in (600, 1200):
            context = chromium.new_context(viewport={"width": width, "height": 600})
            for case in cases:
                options, then = CASES[case]
                page = context.new_page()
                root = open_panel(page, address, **options)
                page.wait_for_timeout(250)
                for act in filter(None, then.split(";")):
                    if act == "restart":
                        page.evaluate("kernel.emit('statusChanged', 'restarting')")
                    else:
                        root.locator(act.partition(":")[2]).first.click()
                    page.wait_for_timeout(400)
                if case not in ("lost",):
                    root.locator(".body .row").nth(2).dblclick()
                    page.wait_for_timeout(150)
                for tab in TABS:
                    root.locator(f"[data-tab={tab}]").click()
                    page.wait_for_timeout(200)
                    for theme in ("light", "dark"):
                        page.evaluate("name => theme(name)", theme)
                        page.wait_for_timeout(60)
                        page.screenshot(path=folder / f"{case}-{tab}-{theme}-{width}.png")
                page.close()
            context.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        pictures(Path(sys.argv[1]), tuple(sys.argv[2:]) or tuple(CASES))
    else:
        with served(8765) as where:
            print(f"{where}?rows=1000000")
            threading.Event().wait()
