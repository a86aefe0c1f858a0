"""Panels as static outputs: what a saved notebook keeps.

A panel shows two outputs, one beside the other: the static display of its pipeline or Result, which
the panel hides while it lives, and the panel. Freezing takes the panel away and leaves the display.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datafast_nb.display.shown import Shown, drawn, safe_view

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
STATE_MIME = "application/vnd.jupyter.widget-state+json"
STATIC_CLASS = "dfnb-static"
"""Class of the element that the panel hides while it lives."""
EMPTY = {"text/plain": "", "text/html": ""}


def static_bundle(shown: Any) -> dict[str, str]:
    """The static forms of what a panel is about, under the element that the panel hides."""
    bundle: dict[str, str] = dict(shown._repr_mimebundle_())
    if "text/html" in bundle:
        bundle["text/html"] = f'<div class="{STATIC_CLASS}">{bundle["text/html"]}</div>'
    return bundle


def freeze_notebook(path: str | os.PathLike[str]) -> int:
    """Take live panels out of a notebook file and leave their static displays.

    Other widgets stay, where they are not alone in the file: their saved state stays too.

    Returns
    -------
    int
        Outputs that were taken out or made static.

    Raises
    ------
    ValueError
        If the file is no notebook.
    OSError
        If it cannot be read or written; it then stands as it was.
    """
    from datafast_nb.store.files import atomic_write

    file = Path(path)
    raw = file.read_bytes()
    try:
        notebook = json.loads(raw)
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{file} is no notebook of format 4: {exc}") from exc
    n = sum(_freeze_cell(cell) for cell in cells)
    if not n:
        return 0
    if not any(WIDGET_MIME in _data(o) for c in cells for o in c.get("outputs") or ()):
        metadata = notebook.get("metadata") or {}
        metadata.get("widgets", {}).pop(STATE_MIME, None)
        if not metadata.get("widgets", True):
            del metadata["widgets"]
    text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    body = text.encode("utf-8", "surrogatepass")
    atomic_write(str(file), lambda out: _write(out, body))
    return n


def _write(out: Any, body: bytes) -> None:
    out.write(body)


def _freeze_cell(cell: Mapping[str, Any]) -> int:
    """Outputs of a cell that were panels."""
    outputs: list[Any] = cell.get("outputs") or []
    kept: list[Any] = []
    n = 0
    is_beside = False
    """The output before is the static display of a panel whose live part has not come yet."""
    for output in outputs:
        data = _data(output)
        if WIDGET_MIME not in data:
            if _is_empty(data) and output.get("output_type") == "display_data":
                n += 1  # left by a panel that was frozen while it lived
                continue
            kept.append(output)
            is_beside = STATIC_CLASS in _text(data.get("text/html"))
            continue
        if is_beside:
            n += 1
            is_beside = False
            continue
        if "text/html" in data and STATIC_CLASS in _text(data["text/html"]):
            del data[WIDGET_MIME]
            n += 1
        kept.append(output)
    if n:
        outputs[:] = kept
    return n


def _data(output: Any) -> dict[str, Any]:
    found = output.get("data") if isinstance(output, dict) else None
    return found if isinstance(found, dict) else {}


def _is_empty(data: Mapping[str, Any]) -> bool:
    return set(data) == set(EMPTY) and not any(_text(v) for v in data.values())


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else value if isinstance(value, str) else ""


def in_words(shown: Any) -> str:
    """What a terminal shows of it."""
    if isinstance(shown, Shown):
        from datafast_nb.display import text

        return drawn(text.draw, safe_view(shown.view))
    return str(shown._repr_mimebundle_(include={"text/plain"}).get("text/plain", ""))
