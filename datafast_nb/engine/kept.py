"""Functions of users in displays: run once for each record, their prints caught."""

from __future__ import annotations

import copy
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

from datafast_nb.engine.flow import PreviewTimeUp
from datafast_nb.graph import Node
from datafast_nb.records import Record, copy_record
from datafast_nb.steps.base import ChunkStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.validate import CompiledPipeline

MAX_KEPT = 10_000
"""Results of one function that a pipeline keeps between two displays."""
MAX_PRINTED = 2_000


class KeptResults:
    """What the functions of a pipeline gave for records of its previews.

    A cell is displayed again and again; a slow function, or one that prints, runs once.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Any]] = {}
        """Number of the step → record as text → what the function gave."""
        self.printed = ""
        """What the functions printed, at most `MAX_PRINTED` characters."""
        self._deadline: float | None = None

    @contextmanager
    def catching_prints(self) -> Iterator[None]:
        """Keep what this thread prints; other threads print as they do."""
        sink = _OwnPrints(sys.stdout)
        try:
            with redirect_stdout(sink):
                yield
        finally:
            if sink.text not in self.printed:
                self.printed = (self.printed + sink.text)[:MAX_PRINTED]

    def instead_of_functions(
        self, compiled: CompiledPipeline, deadline: float | None
    ) -> CompiledPipeline:
        """The pipeline with functions that call the user's only for records not seen before.

        A generator that still goes on at the `deadline` (monotonic time) is left there.
        """
        self._deadline = deadline
        nodes = []
        for i, node in enumerate(compiled.nodes):
            name = "skip_if" if isinstance(node.step, LLMStep) else "fn"
            fn = getattr(node.step, name, None)
            if callable(fn) and is_built_in(node.step):
                step = copy.copy(node.step)
                setattr(step, name, self._remembering(fn, self._of.setdefault(i, {})))
                node = replace(node, node=Node(step, node.node.parents))
            nodes.append(node)
        return replace(compiled, nodes=tuple(nodes))

    def _remembering(
        self, fn: Callable[[Record], Any], kept: dict[str, Any]
    ) -> Callable[[Record], Any]:
        def remembered(record: Record) -> Any:
            try:
                key = repr(record)
            except Exception:  # a value that cannot be written: nothing to know the record by
                return fn(record)
            if key not in kept:
                result = fn(record)
                if isinstance(result, Iterator):
                    return self._listed(result, kept, key)
                if len(kept) < MAX_KEPT:
                    kept[key] = _own(result)
                return result
            return _own(kept[key])

        return remembered

    def _listed(self, made: Iterator[Any], kept: dict[str, Any], key: str) -> Iterator[Any]:
        """What a generator makes, as it makes it; kept where it came to its end."""
        out = []
        for item in made:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise PreviewTimeUp
            out.append(_own(item))
            yield item
        if len(kept) < MAX_KEPT:
            kept[key] = out


class _OwnPrints(io.TextIOBase):
    """Standard output that keeps what one thread writes and passes on what others do."""

    def __init__(self, former: Any) -> None:
        self._former = former
        self._owner = threading.get_ident()
        self.text = ""

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._former, name)

    def write(self, text: str) -> int:
        if threading.get_ident() != self._owner:
            return int(self._former.write(text) or 0)
        if len(self.text) < MAX_PRINTED:
            self.text += text
        return len(text)

    def flush(self) -> None:
        if threading.get_ident() != self._owner:
            self._former.flush()


def is_built_in(step: Any) -> bool:
    """The step's class is the package's own; others are code of the user."""
    return type(step).__module__.startswith("datafast_nb.")


def calls_user_code(step: Any) -> bool:
    """Running the step for nothing runs a function or class of the user."""
    if isinstance(step, LLMStep):
        return step.skip_if is not None or not is_built_in(step)
    return isinstance(step, ChunkStep) or not is_built_in(step)


def _own(value: Any) -> Any:
    """A copy that later steps may change."""
    if isinstance(value, dict):
        return copy_record(value)
    return [_own(v) for v in value] if isinstance(value, list) else value
