"""Functions of users in displays: run once for each record, their prints caught."""

from __future__ import annotations

import copy
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from datafast_nb.engine.flow import PreviewTimeUp
from datafast_nb.graph import Node
from datafast_nb.records import Record, copy_record
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.validate import CompiledPipeline

MAX_KEPT = 10_000
"""Results of one function that a pipeline keeps between two displays."""
MAX_PRINTED = 2_000


class KeptResults:
    """What the functions of a pipeline gave for records of its previews.

    A cell is displayed again and again; a slow function, or one that prints or raises, runs once.
    """

    def __init__(self) -> None:
        self._of: dict[int, dict[str, Any]] = {}
        """Number of the step → record or records as text → what came of it."""
        self.printed = ""
        """What the functions printed, at most `MAX_PRINTED` characters."""
        self._deadline: float | None = None

    @contextmanager
    def catching_prints(self) -> Iterator[None]:
        """Keep what this thread prints; other threads print as they do."""
        with _catching() as caught:
            try:
                yield
            finally:
                text = "".join(caught.parts)
                if text not in self.printed:
                    self.printed = (self.printed + text)[:MAX_PRINTED]
                for result in chain.from_iterable(k.values() for k in self._of.values()):
                    if isinstance(result, _Raised):  # frames would keep the run's records alive
                        _without_frames(result.exc)

    def instead_of_functions(
        self, compiled: CompiledPipeline, deadline: float | None
    ) -> CompiledPipeline:
        """The pipeline with functions that call the user's only for records not seen before.

        A generator that still goes on at the `deadline` (monotonic time) is left there.
        """
        self._deadline = deadline
        nodes = []
        for i, node in enumerate(compiled.nodes):
            step = self._remembering_step(node.step, self._of.setdefault(i, {}))
            if step is not node.step:
                node = replace(node, node=Node(step, node.node.parents))
            nodes.append(node)
        return replace(compiled, nodes=tuple(nodes))

    def _remembering_step(self, step: Any, kept: dict[str, Any]) -> Any:
        """A copy of the step whose user's code is remembered; the step itself where it has none."""
        changes: dict[str, Any] = {}
        if isinstance(step, LLMStep) or is_built_in(step):
            name = "skip_if" if isinstance(step, LLMStep) else "fn"
            fn = getattr(step, name, None)
            if callable(fn):
                changes[name] = self._remembering(fn, kept)
        elif isinstance(step, ChunkStep):
            changes["run_chunk"] = self._remembering_chunks(step, kept)
        elif not isinstance(step, (ChoiceStep, SourceStep)):
            # Loading may take long, and is for nothing where the records are known.
            changes = dict.fromkeys(("load", "unload"), _nothing)
            changes["process"] = self._remembering_process(step, kept)
        if not changes:
            return step
        try:
            made = copy.copy(step)
            for name, value in changes.items():
                setattr(made, name, value)
        except Exception:  # a class of the user that cannot be copied or changed
            return step
        return made

    def _remembering(
        self, fn: Callable[[Record], Any], kept: dict[str, Any]
    ) -> Callable[[Record], Any]:
        def remembered(record: Record) -> Any:
            key = _key(record)
            if key not in kept:
                result = _called(lambda: fn(record), kept, key)
                if isinstance(result, Iterator):
                    return self._listed(result, kept, key)
                _keep(kept, key, _own(result))
                return result
            return _given_again(kept[key])

        return remembered

    def _listed(self, made: Iterator[Any], kept: dict[str, Any], key: str | None) -> Iterator[Any]:
        """What a generator makes, as it makes it; kept where it came to its end."""
        out: list[Any] = []
        try:
            for item in made:
                if self._deadline is not None and time.monotonic() > self._deadline:
                    raise PreviewTimeUp
                out.append(_own(item))
                yield item
        except Exception as exc:
            _keep_raised(kept, key, exc, out)
            raise
        _keep(kept, key, out)

    def _remembering_chunks(self, step: ChunkStep, kept: dict[str, Any]) -> Callable[..., Any]:
        def run_chunk(
            records: Sequence[Record], *, flat: bool, where: Callable[[int], str]
        ) -> tuple[list[Any], list[int] | None, bool]:
            out: list[Any] = []
            parents: list[int] = []
            is_user_made = False
            # One by one: how many stand in a chunk depends on how long they take.
            for i, record in enumerate(records):
                key = _key(record)
                if key in kept:
                    made, is_own = _given_again(kept[key])
                else:
                    at = partial(_further, where, i)
                    work = partial(step.run_chunk, [record], flat=flat, where=at)
                    made, _, is_own = _called(work, kept, key)
                    _keep(kept, key, (_own(list(made)), is_own))
                out.extend(made)
                parents.extend([i] * len(made))
                is_user_made = is_user_made or is_own
            one_for_one = parents == list(range(len(records)))
            return out, None if one_for_one else parents, is_user_made

        return run_chunk

    def _remembering_process(self, step: Any, kept: dict[str, Any]) -> Callable[..., Any]:
        def work(given: list[Record]) -> list[Any] | None:
            step.load()
            try:
                made = step.process(iter(given))
                return None if made is None else list(made)
            finally:
                step.unload()

        def process(records: Iterable[Record]) -> Any:
            given = list(records)
            key = _key(given)
            if key not in kept:
                place = {id(r): i for i, r in enumerate(given)}
                made = _called(lambda: work(given), kept, key)
                if made is not None:
                    _keep(kept, key, [(place.get(id(r)), _own(r)) for r in made])
                return made
            return [_in_place(given, i, record) for i, record in _given_again(kept[key])]

        return process


@dataclass(frozen=True)
class _Raised:
    """What user code raised, after what it gave before."""

    exc: Exception
    notes: tuple[str, ...]
    before: tuple[Any, ...] = ()


def _key(given: Any) -> str | None:
    """What a record or a chunk is known by; None where it cannot be written."""
    try:
        return repr(given)
    except Exception:
        return None


def _keep(kept: dict[str, Any], key: str | None, result: Any) -> None:
    if key is not None and len(kept) < MAX_KEPT:
        kept[key] = result


def _called(work: Callable[[], Any], kept: dict[str, Any], key: str | None) -> Any:
    """What user code gives; what it raises is kept."""
    try:
        return work()
    except Exception as exc:
        _keep_raised(kept, key, exc)
        raise


def _keep_raised(
    kept: dict[str, Any], key: str | None, exc: Exception, before: Sequence[Any] = ()
) -> None:
    if not isinstance(exc, PreviewTimeUp):
        _keep(kept, key, _Raised(exc, tuple(getattr(exc, "__notes__", ())), tuple(before)))


def _given_again(result: Any) -> Any:
    """A kept result as it was given first; raises what was raised."""
    if not isinstance(result, _Raised):
        return _own(result)
    if result.before:
        return _given_before(result)
    raise _as_raised(result)


def _given_before(result: _Raised) -> Iterator[Any]:
    yield from map(_own, result.before)
    raise _as_raised(result)


def _as_raised(result: _Raised) -> Exception:
    """The exception without the notes that a run added on its way."""
    result.exc.__notes__ = list(result.notes)
    return result.exc.with_traceback(None)


def _without_frames(exc: BaseException) -> None:
    seen: set[int] = set()
    at: BaseException | None = exc
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        at.__traceback__ = None
        at = at.__cause__ or at.__context__


def _in_place(given: list[Record], place: int | None, record: Any) -> Any:
    """A record that a step gave back: the one it was given, with what it wrote into it."""
    if place is None or place >= len(given) or not isinstance(record, dict):
        return record
    given[place].clear()
    given[place].update(record)
    return given[place]


def _further(where: Callable[[int], str], offset: int, index: int) -> str:
    return where(offset + index)


def _nothing() -> None:
    """Instead of loading what is not needed."""


# Prints.


class _Caught:
    """What one thread printed while it was listened to."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.n = 0

    def add(self, text: str) -> None:
        if self.n < MAX_PRINTED:
            self.parts.append(text)
            self.n += len(text)


class _Output:
    """Standard output while displays run functions: each of their threads is listened to alone.

    One stands for the whole process, however many displays there are at a time: what other
    threads write goes on to where it went before.
    """

    def __init__(self, former: Any) -> None:
        self.former = former
        self.n_users = 0
        self._here = threading.local()

    @property
    def caught(self) -> list[_Caught]:
        """Of this thread: displays inside a display have one each."""
        found: list[_Caught] = self._here.__dict__.setdefault("caught", [])
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.former, name)

    def write(self, text: str) -> int:
        caught = self.caught
        if not caught:
            return int(self.former.write(text) or 0)
        caught[-1].add(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if not self.caught:
            self.former.flush()


_output_lock = threading.Lock()


def _new_lock() -> None:
    global _output_lock
    _output_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def _catching() -> Iterator[_Caught]:
    """What this thread prints. Standard output is as before once no display needs it."""
    with _output_lock:
        found = sys.stdout
        output = found if isinstance(found, _Output) else _Output(found)
        output.n_users += 1
        sys.stdout = output  # it has what print() needs
    caught = _Caught()
    output.caught.append(caught)
    try:
        yield caught
    finally:
        output.caught.remove(caught)
        with _output_lock:
            output.n_users -= 1
            # Someone else may have put an output of theirs in front: it is theirs to take away.
            if not output.n_users and sys.stdout is output:
                sys.stdout = output.former


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
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple([_own(v) for v in value])
    return [_own(v) for v in value] if isinstance(value, list) else value
