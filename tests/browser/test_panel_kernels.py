"""Stop, and several runs at once, on other versions of ipykernel than the one installed.

They differ in where a panel's message is worked off while a cell blocks: 6.30 after the cell, 7.1
and 7.3 on a subshell's thread, 7.4 on either. `DATAFAST_NB_SOAK=1` runs them; pip fetches them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from panels import PanelPage, panel_page
from real_lab import Lab
from test_panel_at_once import CELLS, start_stop_and_page
from test_panel_stop import BEGIN, HANDLE, RUN, SHOWN, SLEEP, stop_a_cell, stop_beside_a_cell

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.environ.get("DATAFAST_NB_SOAK") != "1",
        reason="installs other kernels; DATAFAST_NB_SOAK=1 runs it",
    ),
]

VERSIONS = ["6.30.1", "7.1.0", "7.3.0"]


@pytest.fixture(scope="module", params=VERSIONS)
def kernel(request: Any, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a kernel of the Lab that has this version of ipykernel, and all else as here."""
    version: str = request.param
    place = tmp_path_factory.mktemp("ipykernel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--target", str(place), f"ipykernel=={version}"),
        ],
        check=True,
    )
    name = f"ipykernel-{version}"
    lab.add_kernel(name, place)
    yield name


def check_version(opened: PanelPage, kernel: str) -> None:
    """The kernel is the one that was asked for."""
    version = opened.value("__import__('ipykernel').__version__")
    assert kernel == f"ipykernel-{version}"


@pytest.mark.parametrize("cell", [RUN, HANDLE], ids=["run", "result"])
def test_a6_stop_ends_a_cell_that_waits_on_other_kernels(
    chromium: Any, lab: Lab, kernel: str, cell: str
) -> None:
    with panel_page(chromium, lab, SHOWN, BEGIN.format(cell=cell), kernel=kernel) as opened:
        check_version(opened, kernel)
        stop_a_cell(opened, f"{kernel}: {cell}")
        assert opened.complaints == []


def test_a6_stop_never_interrupts_a_foreign_cell_on_other_kernels(
    chromium: Any, lab: Lab, kernel: str
) -> None:
    with panel_page(chromium, lab, SHOWN, BEGIN.format(cell=SLEEP), kernel=kernel) as opened:
        check_version(opened, kernel)
        stop_beside_a_cell(opened)
        assert opened.complaints == []


def test_a30_runs_at_once_lose_and_double_nothing_on_other_kernels(
    chromium: Any, lab: Lab, kernel: str
) -> None:
    with panel_page(chromium, lab, *CELLS, kernel=kernel) as opened:
        check_version(opened, kernel)
        start_stop_and_page(opened)
        assert opened.complaints == []
