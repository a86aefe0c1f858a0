"""The step: a value that says what is to be done to records. It runs nothing by itself."""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from datafast_nb.display import formats
from datafast_nb.display.functions import condition_text
from datafast_nb.display.settings import setting_body
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Block, Document, Fact, Facts, Head
from datafast_nb.models.wire import Secret
from datafast_nb.options import options
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


class Step(Shown):
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

    @property
    def is_named(self) -> bool:
        """Whether a user gave the step its name."""
        return self._name is not None

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

    def view(self) -> Document:
        """Plain data for display: what it does, its settings, the columns it reads and adds."""
        return Document((self.view_head(), *self.view_body()))

    def view_head(self) -> Head:
        """First line of the card: the name, and what kind of step it is."""
        kind = self.maker_name()
        said = formats.cell(formats.described(self))
        words = [kind] if self._name else []
        return Head(
            formats.cell(self._name or kind, formats.MAX_NAME),
            (" · ".join([*words, *([said] if said else [])]),),
        )

    def maker_name(self) -> str:
        """What a user writes to make such a step: "Filter", "Source.list"."""
        return type(self).__name__

    def view_body(self) -> tuple[Block, ...]:
        """What the card shows below its first line."""
        facts = [*self.view_columns(), *self.view_settings()]
        return (Facts(tuple(facts), is_ruled=True),) if facts else ()

    def view_columns(self) -> list[Fact]:
        """Columns that the step reads and adds, where they are known."""
        out = []
        for label, names in (("reads", self.inputs), ("adds", self.outputs)):
            if names:
                out.append(Fact(label, (formats.some_names([str(n) for n in names]),)))
        for label, renamed in (
            ("renames in", self.input_mappings),
            ("renames out", self.output_mappings),
        ):
            if renamed:
                pairs = [f"{a} → {b}" for a, b in renamed.items()]
                out.append(Fact(label, (formats.some_names(pairs),)))
        return out

    def view_settings(self) -> list[Fact]:
        """Settings that are not the defaults."""
        try:
            settings = {k: v for k, v in self.config().items() if self._is_set(k, v)}
        except Exception as exc:  # a user's own config()
            return [Fact("settings", (formats.error_text(exc),))]
        said = formats.described(self)
        return [
            Fact(formats.cell(name, formats.MAX_NAME), setting_body(name, value, Secret().redact))
            for name, value in settings.items()
            if not (inspect.isroutine(value) and (condition_text(value) or "?") in said)
        ]

    def _is_set(self, name: str, value: Any) -> bool:
        known = inspect.signature(type(self).__init__).parameters.get(name)
        if name in _COLUMN_SETTINGS or value is None:
            return False
        if isinstance(value, (str, list, dict)) and not value:
            return False
        return known is None or not (type(value) is type(known.default) and value == known.default)

    def __repr__(self) -> str:
        detail = formats.described(self)
        name = f" {self._name!r}" if self._name else ""
        return formats.cell(f"<{self.maker_name()}{name}{': ' + detail if detail else ''}>")


_COLUMN_SETTINGS = frozenset({"inputs", "outputs", "input_mappings", "output_mappings"})


class SourceStep(Step):
    """A step that makes records from outside the pipeline."""

    kind = "source"
    from_frame: ClassVar[bool] = False
    """Values come from a pandas DataFrame: NaN means missing."""
    in_memory: ClassVar[bool] = False
    """The rows are in this process already."""

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

    def is_near(self) -> bool:
        """Whether a look at the columns and the first rows is cheap, local and allowed."""
        return self.in_memory or options.preview_on_display == "auto"  # `read` may be the user's

    def first_rows(self, k: int) -> Sequence[Any]:
        """The first `k` rows, for display; asked for where `is_near`."""
        return list(next(iter(self.read(k)), ()))[:k]

    def view(self) -> Document:
        """Plain data for display: where the rows come from, and the first of them."""
        from datafast_nb.steps.source_view import source_view  # above: it draws rows

        return source_view(self)

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

    def maker_name(self) -> str:
        """What a user writes to make it: "Sink.jsonl"; of a sink of the user's own its class."""
        own = type(self).__module__.partition(".")[0] == __name__.partition(".")[0]
        name = type(self).__name__
        return f"Sink.{name.removesuffix('Sink').lower()}" if own else name

    def view_body(self) -> tuple[Block, ...]:
        """Where it writes, and what stands there now."""
        from datafast_nb.steps.sink_view import sink_blocks  # above: it knows the formats

        return sink_blocks(self)

    def write(self, records: Sequence[Record], *, suffix: str = "") -> str:
        """Write all records, all or nothing; returns where they are.

        `suffix` ("partial") asks for `name.partial.ext` in place of `name.ext`.
        Raises SinkError; the former file then stands untouched.
        """
        raise NotImplementedError

    @property
    def is_live(self) -> bool:
        """Finished records are to be seen before the run ends."""
        return False

    def begin_live(self) -> None:
        """A run begins in which records come to a live sink one by one. Raises SinkError."""

    def end_live(self) -> None:
        """No further record comes one by one."""

    def grow(self, records: Sequence[Record]) -> None:
        """Take records that have come to a live sink; `write` gets them all at the end."""

    def check(self) -> None:
        """Raise SinkError where writing cannot succeed (missing folder, not writable), before a run."""

    def path(self) -> str | None:
        """File that is written, absolute; None where there is no file."""
        return None
