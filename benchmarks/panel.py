"""What the live panel costs: CPU beside a run, and how soon a table of a million rows answers.

``python benchmarks/panel.py`` prints a table and writes nothing that stays; ``--quick`` takes a
tenth of the work and two pairs. ``--only run``, ``desk`` or ``lab`` measures one part. The last
needs JupyterLab, Playwright and Chromium, and is left out without them. benchmarks/README.md says
what the figures mean.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

from overhead import Figure

ROOT = Path(__file__).resolve().parent.parent
TIMES = 5
TOPICS = ("Biology", "Physics", "History", "Astronomy", "Chemistry")
ROWS = """
topics = ["Biology", "Physics", "History", "Astronomy", "Chemistry"]
rows = [
    {"id": i, "topic": topics[i * 7 % 5], "score": i * 2_654_435_761 % 1_000_003 / 10,
     "height": i * 48_271 % 1_000_003, "words": i * 40_503 % 65_537, "text": f"The lighthouse nr {i} was built of grey granite."}
    for i in range(N)
]
result = (dfn.Source.list(rows) >> dfn.Map(lambda r: r)).run(show_progress=False)
"""

# A run beside a panel. The process is a real kernel: what the panel says is packed, signed and
# sent over ZeroMQ; this process only hears it.

IN_KERNEL = """
import gc, json, tempfile, time
from pathlib import Path
import datafast_nb as dfn

def once(n, with_panel):
    with tempfile.TemporaryDirectory() as home:
        dfn.options.home = Path(home)
        model = dfn.FakeModel()
        step = dfn.LLMStep(prompt="Ask {text}", output_columns=["answer"], model=model)
        rows = [{"id": i, "text": f"Text nr {i} of a lighthouse at the coast."} for i in range(n)]
        pipeline = dfn.Source.list(rows) >> step
        panel = pipeline.panel(limit=None) if with_panel else None
        if panel is not None:
            display(panel)
            deadline = time.monotonic() + 30
            while panel.estimate is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.2)
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        result = pipeline.run(show_progress=False)
        run_cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if panel is not None:  # until it shows the records, and what the next run would ask
            while panel.shelf.sizes()["final"]["n"] != n:
                time.sleep(0.02)
        time.sleep(0.5)
        all_cpu = time.process_time() - cpu
        assert model.calls == n == len(result) and all(r["answer"] for r in result)
        if panel is not None:
            panel.close()
        dfn.memo.close()
        return {"run": run_cpu, "all": all_cpu, "wall": wall}
"""


class Kernel:
    """A kernel of its own, and a front end that hears it."""

    def __init__(self) -> None:
        from jupyter_client.manager import start_new_kernel

        self._manager, self._client = start_new_kernel(kernel_name="python3", cwd=ROOT)
        self.messages = 0
        """Messages of widgets that arrived."""

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    def run(self, code: str, wait_s: float = 120) -> str:
        """What a cell prints."""
        cell, said = self._client.execute(code), ""
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            self.messages += kind == "comm_msg"
            if kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if message["parent_header"].get("msg_id") != cell:
                continue
            if kind == "stream" and content["name"] == "stdout":
                said += content["text"]
            if kind == "status" and content["execution_state"] == "idle":
                return said
        raise RuntimeError(f"the kernel took more than {wait_s:g} s")


def run_figures(n: int, pairs: int) -> Iterator[Figure]:
    got: list[tuple[dict[str, float], dict[str, float]]] = []
    sent: list[int] = []
    with Kernel() as kernel:
        kernel.run(IN_KERNEL)

        def once(with_panel: bool) -> dict[str, float]:
            before = kernel.messages
            said = kernel.run(f"print(json.dumps(once({n}, {with_panel})))")
            heard = kernel.messages - before
            if with_panel:
                sent.append(heard)
            if bool(heard) != with_panel:
                raise RuntimeError(f"{heard} messages, with a panel: {with_panel}")
            return dict(json.loads(said))

        once(True)  # what is imported or built once per process
        once(False)
        for k in range(pairs):
            first = once(k % 2 == 0)
            second = once(k % 2 == 1)
            got.append((first, second) if k % 2 == 0 else (second, first))
    for key, what, target in (
        ("run", f"CPU of {n:,} calls with a panel, over the same without", 1.10),
        ("all", "the same with what the panel does after the end", None),
    ):
        ours, plain = (statistics.median(p[i][key] for p in got) for i in (0, 1))
        yield Figure(
            what,
            [a[key] / b[key] for a, b in got],
            "×",
            at_most=target,
            detail=(
                f"{ours:.2f} s, without {plain:.2f} s; {statistics.median(sent):.0f} messages a run"
            ),
        )


# A large table, asked as the browser asks.


def made_result(n: int) -> Any:
    import datafast_nb as dfn

    names: dict[str, Any] = {"dfn": dfn, "N": n}
    exec(ROWS, names)
    return names["result"]


def desk_figures(n: int) -> Iterator[Figure]:
    sys.path.insert(0, str(ROOT / "tests" / "widgets"))
    from browser_stand_in import Browser, local_comms

    from datafast_nb.widgets.panel import Panel

    result = made_result(n)

    def view(**wanted: Any) -> Callable[[Any], int]:
        def ask(browser: Any) -> int:
            said = browser.ask("view", step="final", status="all", **wanted)
            shown = browser.ask("window", step="final", start=0, n=100, view=said["view"])
            return int(shown["n"])

        return ask

    def first(browser: Any) -> int:
        browser.ask("columns", step="final")
        return len(browser.rows())

    def end(browser: Any) -> int:
        return len(browser.rows(start=n - 100))

    asked: list[tuple[str, float, int, Callable[[Any], int]]] = [
        ("window at the end", 0.3, 100, end),
        (
            "sort of a numeric column",
            2,
            n,
            view(search="", where=[], sort=[{"column": "score", "descending": True}]),
        ),
        ("text search", 2, -1, view(search="NR 77", where=[], sort=[])),
        (
            "text search, another one",
            2,
            -1,
            view(search="granite", where=[], sort=[]),
        ),
        (
            "filter of a text column",
            2,
            -1,
            view(search="", where=[{"column": "text", "op": "contains", "value": "nr 8"}], sort=[]),
        ),
        (
            "filter of a numeric column",
            2,
            -1,
            view(search="", where=[{"column": "words", "op": "<", "value": 100}], sort=[]),
        ),
    ]
    names = ["state, columns and first window", *(a[0] for a in asked)]
    targets = {names[0]: 1.0, **{a[0]: a[1] for a in asked}}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with local_comms():
        for k in range(TIMES + 1):
            # A fresh panel knows nothing of the table; the first loads what is loaded once.
            start = time.perf_counter()
            panel = Panel(result)
            browser = Browser(panel)
            if first(browser) != 100:
                raise RuntimeError("the first window is not whole")
            found = [time.perf_counter() - start]
            for name, _, expected, ask in asked:
                start = time.perf_counter()
                got = ask(browser)
                found.append(time.perf_counter() - start)
                if not got or expected not in (-1, got):
                    raise RuntimeError(f"{name}: {got} rows")
            panel.close()
            if k:
                for name, value in zip(names, found, strict=True):
                    seconds[name].append(value)
    for name in names:
        what = f"{n:,} rows: {name}"
        yield Figure(what, seconds[name], "s", at_most=targets[name])


# The same in a browser: a real JupyterLab, the real front end.

# Runs an action in the page, and counts milliseconds until the page shows what it should.
UNTIL = """([act, shows]) => new Promise((done, failed) => {
    const root = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .dfnb');
    const grid = root.querySelector('[role=grid]');
    const scroller = root.querySelector('.scroll.table');
    const cells = () => [...root.querySelectorAll('.body .row')]
        .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)
        .map(r => [...r.children].map(c => c.textContent));
    const shown = new Function('cells', 'grid', `return ${shows}`);
    const start = performance.now();
    new Function('root', 'scroller', act)(root, scroller);
    const look = () => {
        const ms = performance.now() - start;
        if (!grid.hasAttribute('aria-busy') && shown(cells(), grid)) done(ms);
        else if (ms > 20000) failed(new Error(JSON.stringify(cells().slice(0, 3))));
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
})"""
CLICK = "[...root.querySelectorAll('.sort')].find(b => b.textContent.startsWith(%r)).click()"


def lab_figures(n: int) -> Iterator[Figure]:
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from panels import panel_page
    from real_lab import Lab, browser

    numbers: list[dict[str, float]] = [
        {
            "score": i * 2_654_435_761 % 1_000_003 / 10,
            "words": i * 40_503 % 65_537,
            "height": i * 48_271 % 1_000_003,
        }
        for i in range(n)
    ]
    # Column, descending: orders that the table does not know yet.
    orders = [("score", False), ("score", True), ("words", False), ("words", True)]
    orders.append(("height", False))
    ends, sorts = [], []
    with tempfile.TemporaryDirectory(prefix="panel-") as place, browser() as chromium:
        folder, state = Path(place) / "work", Path(place) / "state"
        folder.mkdir()
        state.mkdir()
        lab = Lab(folder, state)
        try:
            cell = f"N = {n}\n{ROWS}\n"
            with panel_page(chromium, lab, cell, "panel = result.explore()\npanel") as page:
                page.run_all()
                page.page.wait_for_timeout(3_000)
                for column, descending in orders:
                    sign = -1 if descending else 1
                    order = sorted(range(n), key=lambda i: sign * numbers[i][column])
                    first, last = f"{order[0]:,}", f"{order[-1]:,}"
                    shows = f"cells[0] && cells[0][0] === {first!r}"
                    sorts.append(page.page.evaluate(UNTIL, [CLICK % column, shows]) / 1e3)
                    down = "scroller.scrollTop = scroller.scrollHeight"
                    shows = f"cells.length && cells.at(-1)[0] === {last!r}"
                    ends.append(page.page.evaluate(UNTIL, [down, shows]) / 1e3)
                    if descending:  # a third click takes the order away
                        page.page.evaluate(UNTIL, [CLICK % column, "true"])
                    page.page.wait_for_timeout(500)
        finally:
            lab.close()
    where = f"{n:,} rows in JupyterLab and Chromium"
    yield Figure(f"{where}: scroll to the end", ends, "s", at_most=0.3)
    yield Figure(f"{where}: sort of a numeric column", sorts, "s", at_most=2)


def has_browser() -> bool:
    """JupyterLab, Playwright and Chromium are installed."""
    names = ("jupyterlab", "playwright", "nbformat")
    if any(importlib.util.find_spec(name) is None for name in names):
        return False
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from real_lab import CHROMIUM

    return CHROMIUM is not None


def print_table(figures: Sequence[Figure]) -> None:
    rows = [("what", "median", "min – max", "target", "met", ""), *(f.cells() for f in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, two pairs")
    parser.add_argument("--only", choices=("run", "desk", "lab"), help="one part")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    figures: list[Figure] = []
    parts: dict[str, Callable[[], Iterator[Figure]]] = {
        "run": lambda: run_figures(10_000 // part, 2 if options.quick else 20),
        "desk": lambda: desk_figures(1_000_000 // part),
        "lab": lambda: lab_figures(1_000_000 // part),
    }
    for name, make in parts.items():
        if options.only not in (None, name):
            continue
        if name == "lab" and not has_browser():
            print("no JupyterLab with Chromium here: nothing is measured in a browser")
            continue
        for figure in make():
            figures.append(figure)
            print(f"  {figure.what}: {figure.cells()[1]}", file=sys.stderr, flush=True)
    print_table(figures)


if __name__ == "__main__":
    main()
