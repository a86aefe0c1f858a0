"""The panel's end of the line to the browser: one anywidget with one small trait, and messages.

The only file here that needs ipywidgets and anywidget.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from datafast_nb.widgets import front

Reply = Callable[[dict[str, Any]], None]


class PanelModel(anywidget.AnyWidget):
    """What `docs/panel-protocol.md` describes. Pushes and replies may come from any thread."""

    # Texts, not paths: anywidget watches a path, and that would keep every closed panel.
    _esm = front.script()
    _css = front.style()
    state = traitlets.Dict().tag(sync=True)

    def __init__(
        self, receive: Callable[[Any, Reply], None], state: dict[str, Any], model_id: str
    ) -> None:
        self._line = threading.RLock()
        self._is_open = True
        self._receive = receive
        super().__init__(state=clean(state), model_id=model_id)
        if hasattr(self.comm, "_reply_subshell_for"):
            # ipykernel 7.4 hands a message to the shell that last sent something, which may be the
            # one that a cell blocks, or a subshell that is gone. Ours may come on any thread.
            self.comm._reply_subshell_for = _as_addressed
        self.on_msg(self._heard)

    def _heard(self, _: Any, content: Any, __: Any) -> None:
        self._receive(content, self.reply)

    def reply(self, message: dict[str, Any]) -> None:
        """Send a message. After `close` it goes nowhere."""
        cleaned = clean(message)
        with self._line:
            if self._is_open:
                self.send(cleaned)

    def push(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        cleaned = clean(state)
        with self._line:
            if self._is_open:
                self.state = cleaned

    def close(self) -> None:
        """Close the comm; views in the browser lose their model."""
        with self._line:
            if not self._is_open:
                return
            self._is_open = False
            self._receive = _nobody
            layout = self.layout
            super().close()
            layout.close()  # a model of its own, which nobody closes otherwise

    def __repr__(self) -> str:
        return "Live panel: run this cell again."


def _as_addressed(_: Any, subshell_id: Any) -> Any:
    """The shell that the browser has sent a message to."""
    return subshell_id


def _nobody(_: Any, __: Reply) -> None:
    """Takes what comes after the line was closed."""


def clean(value: Any) -> Any:
    """What JSON and UTF-8 can carry: no NaN, no half of a surrogate pair."""
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "backslashreplace").decode()
        return value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean(str(k)): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    return clean(str(value))
