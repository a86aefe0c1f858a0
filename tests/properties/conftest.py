"""An empty memo for each example of a property."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datafast_nb.options import options
from datafast_nb.store.memo import open_memo
from properties.scale import FAST_DISK


@pytest.fixture(scope="module")
def new_home() -> Iterator[Callable[[], None]]:
    """Gives an empty memo each time it is called."""
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as folder:
        made = [0]

        def make() -> None:
            if options.home is not None:
                open_memo().close()
            made[0] += 1
            options.home = Path(folder) / str(made[0])

        yield make
