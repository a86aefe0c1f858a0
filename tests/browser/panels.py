"""A panel in a real JupyterLab: a notebook of cells, what a test reads and clicks in it.

The model is a stand-in at the border of a paid API: it answers after a set time, has a price, and
counts its calls; everything else is real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
from real_lab import NOTEBOOK, Lab

SETUP = """
import time
import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, LLMStep, Map, Sample, Sink, Source
from datafast_nb.models.base import Response, Usage
"""
EXECUTE = """async code => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const out = [];
    const future = kernel.requestExecute({ code, store_history: false });
    future.onIOPub = m => {
        if (m.content.text) out.push(m.content.text);
        if (m.content.traceback) out.push(m.content.traceback.join('\\n'));
    };
    const reply = await future.done;
    return [reply.content.status, out.join('')];
}"""
# What the notebook's cells hold: source texts of the model, not of the page.
CELL_TEXTS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .map(c => c.model.sharedModel.getSource())"""
COMMAND = "([name, args]) => window.jupyterapp.commands.execute(name, args)"
COUNT_MESSAGES = """() => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    window.comm_messages = [];
    window.comm_states = [];
    kernel.iopubMessage.connect((_, m) => {
        if (m.header.msg_type !== 'comm_msg') return;
        window.comm_messages.push(Date.parse(m.header.date));
        const state = m.content.data?.state?.state;
        if (state?.phase) window.comm_states.push({ at: Date.now() / 1000, ...state });
    });
}"""


class PanelPage:
    """One notebook with a panel, open in JupyterLab."""

    def __init__(self, page: Any, lab: Lab, path: Path, theme: str = "light") -> None:
        self.page, self.lab, self.path = page, lab, path
        self.complaints: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        if page.url == "about:blank":
            lab.open(page, path, theme=theme, kernel=True)
        else:
            lab.switch(page, path, theme=theme, kernel=True)

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _on_error(self, error: Any) -> None:
        self.complaints.append(str(error))

    def leave(self) -> None:
        """Close the notebook; the page can show another."""
        self.page.remove_listener("console", self._on_console)
        self.page.remove_listener("pageerror", self._on_error)
        self.lab.clear(self.page)

    # The notebook.

    def command(self, name: str, **args: Any) -> Any:
        """Run a command of JupyterLab; with what it gives where that is plain."""
        return self.page.evaluate(f"async a => {{ await ({COMMAND})(a); }}", [name, args])

    def begin_all(self) -> None:
        """Run all cells, and do not wait."""
        self.page.evaluate(f"a => {{ void ({COMMAND})(a); }}", ["notebook:run-all-cells", {}])

    def run_all(self) -> None:
        """Run all cells, and wait until a panel is drawn."""
        self.begin_all()
        self.tab("records").wait_for(timeout=60_000)
        self.page.wait_for_function(
            "() => document.querySelector('.dfnb .say')?.textContent", timeout=20_000
        )

    def begin_cell(self, at: int) -> None:
        """Run one cell, and do not wait."""
        self.page.evaluate(
            """at => { const p = window.jupyterapp.shell.currentWidget;
                p.content.deselectAll(); p.content.activeCellIndex = at;
                void window.jupyterapp.commands.execute('notebook:run-cell'); }""",
            at,
        )

    def cell_texts(self) -> list[str]:
        """The source of every cell."""
        return list(self.page.evaluate(CELL_TEXTS))

    def prompt(self, at: int) -> str:
        """What stands beside a cell: "[3]:", or "[*]:" while it waits or runs."""
        return str(
            self.page.locator(f"{NOTEBOOK} .jp-CodeCell .jp-InputPrompt").nth(at).inner_text()
        )

    def until_ran(self, at: int, was: str = "", seconds: float = 20) -> None:
        """Wait until a cell has ended, and its prompt is no more what it was."""
        self.page.wait_for_function(
            r"""([cells, at, was]) => {
                const now = document.querySelectorAll(cells)[at].innerText;
                return /\[\d+\]/.test(now) && now !== was; }""",
            arg=[f"{NOTEBOOK} .jp-CodeCell .jp-InputPrompt", at, was],
            timeout=seconds * 1_000,
        )

    def error_of(self, at: int) -> str:
        """What a cell says of the error that ended it; "" where none did."""
        cell = self.page.locator(f"{NOTEBOOK} .jp-CodeCell").nth(at)
        error = cell.locator("[data-mime-type='application/vnd.jupyter.stderr']")
        return str(error.first.inner_text()).strip() if error.count() else ""

    def use_no_subshells(self) -> None:
        """Let messages of panels wait for cells, as with an older kernel; before a panel is made."""
        self.page.evaluate(
            "() => { const { session } = window.jupyterapp.shell.currentWidget.sessionContext;"
            " session.kernel.commsOverSubshells = 'disabled'; }"
        )

    def output(self, at: int) -> str:
        """What can be read in the output of a cell."""
        area = self.page.locator(f"{NOTEBOOK} .jp-CodeCell").nth(at).locator(".jp-OutputArea")
        return area.first.inner_text() if area.count() else ""

    def python(self, code: str) -> str:
        """What a piece of Python prints in the notebook's kernel, once the kernel is free."""
        status, out = self.page.evaluate(EXECUTE, code)
        assert status == "ok", out
        return str(out)

    def value(self, expression: str) -> Any:
        """The value of an expression in the kernel, through JSON."""
        return json.loads(self.python(f"import json; print(json.dumps({expression}))"))

    # The panel.

    @property
    def root(self) -> Any:
        """The first panel of the page."""
        return self.page.locator(f"{NOTEBOOK} .dfnb").first

    def tab(self, name: str) -> Any:
        """A tab: records, record, prompt, cost, graph or errors."""
        return self.root.locator(f"[data-tab={name}]")

    def button(self, text: str) -> Any:
        """A button by the beginning of its text."""
        return self.root.locator("button").filter(has_text=text).first

    @property
    def run(self) -> Any:
        """The Run button of the head."""
        return self.root.locator(".ctl button.pri")

    @property
    def run_one(self) -> Any:
        """The Run one button."""
        return self.root.get_by_role("button", name="Run one", exact=True)

    @property
    def stop(self) -> Any:
        """The Stop button."""
        return self.root.locator("button.stop")

    @property
    def phase(self) -> str:
        """The phase that the panel shows."""
        return str(self.root.get_attribute("data-phase"))

    @property
    def said(self) -> str:
        """The status line."""
        return str(self.root.locator(".say").inner_text())

    def until(self, *phases: str, seconds: float = 20) -> None:
        """Wait for one of some phases."""
        self.page.wait_for_function(
            f"p => p.includes(document.querySelector('{NOTEBOOK} .dfnb')?.dataset.phase)",
            arg=list(phases),
            timeout=seconds * 1_000,
        )

    def until_reads(self, *words: str, seconds: float = 20) -> None:
        """Wait until the panel shows all of these words."""
        self.page.wait_for_function(
            """([root, words]) => { const text = document.querySelector(root)?.innerText ?? '';
                return words.every(w => text.includes(w)); }""",
            arg=[f"{NOTEBOOK} .dfnb", words],
            timeout=seconds * 1_000,
        )

    def row(self, at: int) -> Any:
        """A row of the table, if it is drawn."""
        return self.root.locator(f".body .row[aria-rowindex='{at + 2}']")

    def count_messages(self) -> None:
        """From now on keep when comm messages were sent, in `window.comm_messages` (milliseconds): a busy
        machine hands several over at once."""
        self.page.evaluate(COUNT_MESSAGES)

    @property
    def states(self) -> list[dict[str, Any]]:
        """States pushed since `count_messages`, each with `at`, its arrival in Unix seconds."""
        return list(self.page.evaluate("window.comm_states"))


def write_notebook(folder: Path, *cells: str, kernel: str = "python3") -> Path:
    """A notebook of code cells; the first also imports what `SETUP` names."""
    first, *others = cells
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(c) for c in (SETUP + first, *others)],
        metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
    )
    path = folder / f"{uuid4().hex[:8]}.ipynb"
    nbformat.write(made, path)
    return path


@contextmanager
def panel_page(
    chromium: Any,
    lab: Lab,
    *cells: str,
    theme: str = "light",
    width: int = 1_250,
    kernel: str = "python3",
) -> Iterator[PanelPage]:
    """A notebook of these cells, open in JupyterLab; its kernel ends with it.

    JupyterLab takes seconds to load: one page shows the notebooks one after another, and is given
    up where something went wrong in it.
    """
    page = lab.page
    lab.page = None
    if page is None or page.context.browser is not chromium:
        page = chromium.new_context().new_page()
    try:
        page.set_viewport_size({"width": width, "height": 1_000})
        page.set_default_timeout(20_000)
        # A folder of its own is a project of its own: no memo is shared between tests.
        folder = lab.folder / uuid4().hex[:8]
        folder.mkdir()
        opened = PanelPage(page, lab, write_notebook(folder, *cells, kernel=kernel), theme)
        yield opened
        opened.leave()
    except BaseException:
        page.context.close()
        raise
    lab.page = page
