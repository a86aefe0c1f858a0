"""Reports: a Result as one HTML file that opens anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from datafast_nb.display import formats, html
from datafast_nb.result_view import Extent, result_view
from datafast_nb.store.files import atomic_write

if TYPE_CHECKING:
    from datafast_nb.results import Result

REPORT = Extent(rows=100, in_full=10, groups=1_000, is_report=True)


def write_report(result: Result, path: str | os.PathLike[str], title: str | None) -> Path:
    """The report of `result` at `path`; see `Result.report`."""
    target = Path(path).expanduser()
    folder = target.absolute().parent
    if not folder.is_dir():
        said = "is no folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"cannot write the report {os.fspath(path)!r}: the folder {os.fspath(folder)!r} {said}; "
            "create it, or choose another path"
        )
    if target.is_dir():
        raise IsADirectoryError(
            f"cannot write the report {os.fspath(path)!r}: it is a folder; add a file name, as in "
            f"{os.path.join(os.fspath(path), 'report.html')!r}"
        )
    name = title or f"{formats.plural(len(result), 'record')} · datafast_nb"
    page = html.page(result_view(result, REPORT), name).encode("utf-8", "replace")
    atomic_write(target, lambda file: _fill(file, page))
    return target


def _fill(file: BinaryIO, page: bytes) -> None:
    file.write(page)
