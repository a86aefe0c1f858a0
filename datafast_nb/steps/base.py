"""The step: a value that says what is to be done to records. It runs nothing by itself."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from datafast_nb.display import html, text, views
from datafast_nb.records import Record

if TYPE_CHECKING:
    from datafast_nb.pipeline import Pipeline

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True)
class Site:
    """Where a step was written."""

    file: str
    line: int
    cell: int | None = None
    """Execution count of the notebook cell, where it was one."""

    def __str__(self) -> str:
        if self.cell is not None:
            return f"cell {self.cell}, line {self.line}"
        return f"{os.path.basename(self.file)}, line {self.line}"


def caller_site() -> Site | None:
    """The innermost frame outside this package."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return None
    file = frame.f_code.co_filename
    cell = None
    shell_class = sys.modules.get("IPython.core.interactiveshell")
    if shell_class is not None and shell_class.InteractiveShell.initialized():
        # Not the shell's own count, which runs ahead; and a function may stand in an earlier cell.
        shell = shell_class.InteractiveShell.instance()
        cell = getattr(shell.compile, "_filename_map", {}).get(file)
    return Site(file, frame.f_lineno, cell)


AnyStep = TypeVar("AnyStep", bound="Step")


class Step:
    """Base class of all steps. Subclass it and write `process` for a step of your own.

    Attributes
    ----------
    inputs, outputs
        Columns read and added, where known: they are checked before a run. None: not known.
    input_mappings, output_mappings
        Column here → name inside `process`, and name inside → column here, so that a step
        fits tables with other names.
    """

    inputs: Sequence[str] | None = None
    outputs: Sequence[str] | None = None
    input_mappings: Mapping[str, str] | None = None
    output_mappings: Mapping[str, str] | None = None

    kind: ClassVar[str] = ""
    """Word for the step's automatic name; "": the class name in small letters."""

    _name: str | None = None
    _site: Site | None = None

    def __new__(cls: type[AnyStep], *args: Any, **kwargs: Any) -> AnyStep:  # noqa: D102
        step = super().__new__(cls)
        step._site = caller_site()
        return step

    def __getnewargs__(self) -> tuple[()]:
        return ()

    def process(self, records: Iterable[Record]) -> Iterable[Record]:
        """Records out for records in. Called once per run, with all records."""
        raise TypeError(f"{type(self).__name__} does not implement process(records)")

    def load(self) -> None:
        """Prepare resources; called before `process`."""

    def unload(self) -> None:
        """Free resources; called after `process`, also after an error."""

    def as_step(self: AnyStep, name: str) -> AnyStep:
        """A copy of this step with a name."""
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"a step's name is a non-empty string, not {name!r}")
        new = copy.copy(self)
        new._name = name
        return new

    @property
    def name(self) -> str:
        """The given name, else the class name."""
        return self._name or type(self).__name__

    def kind_name(self) -> str:
        """Small word for automatic names: "source", "filter", "llmstep"."""
        return self.kind or type(self).__name__.lower()

    def describe(self) -> str:
        """One short line on the configuration, for graphs and lists; runs nothing."""
        return ""

    def config(self) -> dict[str, Any]:
        """Settings that decide what the step does, for fingerprints."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __rshift__(self, other: Any) -> Pipeline:
        """`self >> other`: a pipeline."""
        from datafast_nb.pipeline import Pipeline  # upward: a pipeline is made of steps

        made: Pipeline = Pipeline([self]) >> other
        return made

    def __rrshift__(self, other: Any) -> Pipeline:
        raise TypeError(
            f"{type(other).__name__} >> {type(self).__name__}: a pipeline starts with a source. "
            "Write Source.list(records) >> … or Source.dataframe(frame) >> …"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            f"{type(self).__name__} is a description and holds no records; build a pipeline "
            "and call .run() for records, .preview() for a look"
        )

    def view(self) -> views.CardView:
        """Plain data for display: what it does, and its settings that are not the defaults."""
        facts = [("does", views.described(self))] if views.described(self) else []
        try:
            facts += [(k, _setting(v)) for k, v in self.config().items() if self._is_set(k, v)]
        except Exception as exc:  # a user's own config()
            facts.append(("settings", views.error_text(exc)))
        head = f"{type(self).__name__} {self._name!r}" if self._name else type(self).__name__
        return views.CardView(head, tuple(facts))

    def _is_set(self, name: str, value: Any) -> bool:
        known = inspect.signature(type(self).__init__).parameters.get(name)
        if value is None or (isinstance(value, (str, list, dict)) and not value):
            return False
        return known is None or not (type(value) is type(known.default) and value == known.default)

    def __repr__(self) -> str:
        detail = views.described(self)
        name = f" {self._name!r}" if self._name else ""
        return views.cell(f"<{type(self).__name__}{name}{': ' + detail if detail else ''}>")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": text.card(self.view()), "text/html": html.card(self.view())}


def _setting(value: Any) -> str:
    """A setting as people read it: functions and objects by name, never by address."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value[:20])) + (", …" if len(value) > 20 else "")
    if isinstance(value, type) or inspect.isroutine(value):
        return str(getattr(value, "__name__", type(value).__name__))
    shown = views.cell(value)
    return type(value).__name__ if " object at 0x" in shown else shown


class SourceStep(Step):
    """A step that makes records from outside the pipeline."""

    kind = "source"
    from_frame: ClassVar[bool] = False
    """Values come from a pandas DataFrame: NaN means missing."""

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        """Raw rows in pieces of at most `chunk`, lazily, from the start each time. Raises SourceError."""
        raise NotImplementedError

    def count(self) -> int | None:
        """Number of rows where it is known without reading them, else None."""
        return None

    def columns(self) -> list[str] | None:
        """Columns of the rows, cheaply; None where they cannot be known. Raises SourceError."""
        return None

    def place(self, index: int) -> str:
        """Where row `index` stands, for errors: "file data.jsonl, line 12"."""
        return f"row {index}"

    def content(self) -> str:
        """As `version`, and the same for the same rows in another process; for fingerprints."""
        return self.version()

    def version(self) -> str:
        """Changes when what `read` gives may have changed."""
        return ""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from datafast_nb.pipeline import Pipeline  # upward: shown as the pipeline it starts

        return Pipeline([self])._repr_mimebundle_(include, exclude)

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            "a source is read by a pipeline: Pipeline([source]).run() gives its records"
        )


class ChunkStep(Step):
    """A step that works record by record, so that chunks may flow through it one after another."""

    def run_chunk(
        self, records: Sequence[Record], *, flat: bool, where: Callable[[int], str]
    ) -> tuple[list[Any], list[int] | None, bool]:
        """Work on one chunk.

        Parameters
        ----------
        records
            The records; not to be changed.
        flat
            No record holds a list or dict, so that `record.copy()` is a full copy.
        where
            Names a record of the chunk by index, for errors.

        Returns
        -------
        tuple
            Records out; for each the index of its parent in `records` (None: one for one,
            in order); and whether they come from user code and want normalising.
        """
        raise NotImplementedError


class ChoiceStep(Step):
    """A step that keeps some of all records and changes none."""

    def choose(self, records: Sequence[Record], row_ids: Sequence[str]) -> list[int]:
        """Indices of the records that stay, in the order in which they go on."""
        raise NotImplementedError

    def needs(self) -> int | None:
        """How many records from the start decide the choice; None: all of them."""
        return None


class SinkStep(Step):
    """A step that writes the records out and passes them on."""

    kind = "sink"

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Write all records, all or nothing; returns where they are.

        `suffix` ("partial") asks for `name.partial.ext` in place of `name.ext`.
        Raises SinkError; the former file then stands untouched.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise SinkError where writing cannot succeed (missing folder, not writable), before a run."""

    def path(self) -> str | None:
        """File that is written, absolute; None where there is no file."""
        return None
