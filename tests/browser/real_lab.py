"""A real JupyterLab on the loopback address, and a real Chromium that looks at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"
# The status dot reads idle before the kernel is connected; these promises do not lie.
READY = """async (needsKernel) => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.revealed;
    if (needsKernel) {
        await panel.sessionContext.ready;
        await panel.sessionContext.session.kernel.info;
    }
}"""
# Kernels are listed once a minute, and a new one may be asked for.
SWITCH = """async path => {
    const app = window.jupyterapp;
    await app.restored;
    await app.serviceManager.kernelspecs.refreshSpecs();
    const panel = await app.commands.execute('docmanager:open', { path });
    app.shell.activateById(panel.id);
}"""
# Disposed of, not closed: nobody is asked whether to save.
CLOSE = """async () => {
    for (const panel of [...window.jupyterapp.shell.widgets('main')]) {
        await panel.sessionContext?.shutdown();
        panel.dispose();
    }
}"""


class Lab:
    """A JupyterLab server over a folder. Its settings, kernels and trust are its own."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.page: Any = None
        """A page that shows JupyterLab, for the next notebook; see `panels.panel_page`."""
        self._data = state / "data"
        settings = state / "settings"
        for plugin, values in {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            # Cells out of sight are drawn too.
            "notebook-extension/tracker": {"windowingMode": "none"},
        }.items():
            path = settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), "utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        env = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(state / "config"),
            "JUPYTER_DATA_DIR": str(self._data),
            "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
            "IPYTHONDIR": str(state / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        self._log = (state / "server.log").open("wb")
        self._server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={self.port}",
                "--IdentityProvider.token=",
                "--ServerApp.password=",
                "--ServerApp.disable_check_xsrf=True",
                "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={folder}",
                "--ServerApp.terminals_enabled=False",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                "--LabApp.news_url=None",
                "--LabApp.extension_manager=readonly",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=env,
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._server.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.close()
        raise RuntimeError(f"JupyterLab did not start; see {self._log.name}")

    def close(self) -> None:
        """End the server and its kernels."""
        self._server.terminate()
        try:
            self._server.wait(15)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(15)
        self._log.close()

    def add_kernel(self, name: str, packages: Path) -> None:
        """A kernel that looks for its packages in a folder first, and then where this Python does."""
        place = self._data / "kernels" / name
        place.mkdir(parents=True)
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": {"PYTHONPATH": str(packages)},
        }
        (place / "kernel.json").write_text(json.dumps(spec), "utf-8")

    def trust(self, notebook: Path) -> None:
        """Sign a notebook's outputs, as running it would."""
        import nbformat
        from nbformat.sign import NotebookNotary

        NotebookNotary(data_dir=str(self._data)).sign(nbformat.read(notebook, as_version=4))

    def open(
        self, page: Any, notebook: Path, *, theme: str = "light", kernel: bool = False
    ) -> None:
        """Show a notebook of the folder; `kernel`: wait until one is connected."""
        place = notebook.relative_to(self.folder).as_posix()
        page.goto(
            f"http://127.0.0.1:{self.port}/lab/tree/{place}?reset", wait_until="domcontentloaded"
        )
        self._until_shown(page, theme, kernel)

    def switch(
        self, page: Any, notebook: Path, *, theme: str = "light", kernel: bool = False
    ) -> None:
        """The same on a page that has shown others; JupyterLab is not loaded again."""
        page.evaluate(SWITCH, notebook.relative_to(self.folder).as_posix())
        self._until_shown(page, theme, kernel)

    def clear(self, page: Any) -> None:
        """Close what a page shows, and end its kernels."""
        page.evaluate(CLOSE)

    def _until_shown(self, page: Any, theme: str, kernel: bool) -> None:
        page.wait_for_selector(f"{NOTEBOOK} .jp-Cell", timeout=60_000)
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=60_000
        )
        page.evaluate(READY, kernel)
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
            THEMES[theme],
        )
        page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light",
            arg="true" if theme == "light" else "false",
        )
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(300)  # the theme's style sheet is drawn


def is_trusted(page: Any) -> bool:
    """Whether JupyterLab trusts every cell of the notebook that it shows."""
    said: bool = page.evaluate(
        "() => Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)"
        ".filter(c => c.type === 'code').every(c => c.trusted)"
    )
    return said


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()
