"""Checks before a run: structure, columns, models.

Nothing here reads more of a source than its header, or calls a user's function.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from datafast_nb.display import formats
from datafast_nb.display.problems import problem_table
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import (
    Cell,
    Column,
    Document,
    Head,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
    code,
    muted,
)
from datafast_nb.errors import ColumnNotFoundError, DatafastError, PipelineValidationError, Problem
from datafast_nb.fingerprints import step_fingerprint
from datafast_nb.graph import Node, node_names, ordered
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SinkStep, SourceStep, Step
from datafast_nb.steps.llm import BOOKKEEPING, LANGUAGE_FIELDS, LLMStep
from datafast_nb.steps.prompts import is_suspicious
from datafast_nb.steps.sampling import Sample
from datafast_nb.steps.transform import Filter, FlatMap, Map


@dataclass(frozen=True)
class Columns:
    """Columns of the records at a place of the pipeline."""

    names: tuple[str, ...] = ()
    is_open: bool = True
    """More columns than `names` may exist: a function made the records."""

    def has(self, name: str) -> bool | None:
        """Whether the column exists; None where it cannot be known."""
        return True if name in self.names else None if self.is_open else False

    def plus(self, added: Sequence[str]) -> Columns:
        """With further columns."""
        return Columns(tuple(dict.fromkeys((*self.names, *added))), self.is_open)

    def __str__(self) -> str:
        shown = ", ".join(self.names) or "none known"
        return shown + (", and what functions add" if self.is_open and self.names else "")


@dataclass(frozen=True)
class CompiledNode:
    """A node of a checked pipeline."""

    node: Node
    name: str
    columns: Columns
    """Columns of the records that leave the step."""
    before: CompiledNode | None = None
    """The node it reads from."""

    @property
    def step(self) -> Step:
        """The step."""
        return self.node.step

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the step's settings or anything before it changes.

        Made when it is asked for: it reads the records of a list. "unreadable" where the step
        or its source cannot be read.
        """
        try:
            own = step_fingerprint(self.step)
        except Exception:  # whatever a user's object raises: a run says it better
            return "unreadable"
        upstream = self.before.fingerprint if self.before is not None else ""
        return sha256(f"{upstream}|{own}".encode()).hexdigest()[:16]


@dataclass(frozen=True, repr=False)
class CompiledPipeline(Shown):
    """A pipeline that was checked: ordered nodes with names, columns, fingerprints."""

    nodes: tuple[CompiledNode, ...]
    traps: tuple[Problem, ...] = ()
    """What does not keep it from running, and is seldom meant."""
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The traps as sentences."""
        return tuple(f"step '{t.step}' {t.message}" for t in self.traps)

    @property
    def names(self) -> list[str]:
        """Step names in order."""
        return [n.name for n in self.nodes]

    @property
    def steps(self) -> list[Step]:
        """Steps in order."""
        return [n.step for n in self.nodes]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole."""
        return self.nodes[-1].fingerprint

    def index(self, step: int | str) -> int:
        """Place of a step by name or number. Raises KeyError or IndexError naming what exists."""
        names = self.names
        if isinstance(step, str):
            if step not in names:
                raise KeyError(f"no step {step!r}; steps: {', '.join(names)}{nearest(step, names)}")
            return names.index(step)
        if not -len(names) <= step < len(names):
            raise IndexError(f"no step {step}; steps are numbered 0 to {len(names) - 1}")
        return step % len(names)

    def view(self) -> Document:
        """Columns after each step, new ones marked."""
        facts: Line = (formats.plural(len(self.nodes), "step"),)
        source = self.nodes[0].step
        n = source.count() if isinstance(source, SourceStep) else None
        if n is None or n <= MAX_FINGERPRINTED:
            facts = (*facts, " · fingerprint ", code(self.fingerprint))
        blocks: list[Head | Table | Paragraph] = [Head("Compiled pipeline", facts)]
        columns = (Column("step"), Column("does"), Column("columns after it"))
        blocks.append(Table(columns, tuple(map(_node_row, self.nodes))))
        if self.traps:
            blocks.append(problem_table((), self.traps))
        blocks.extend(Paragraph((muted(note),), is_note=True) for note in self.notes)
        return Document(tuple(blocks))


def _node_row(node: CompiledNode) -> Row:
    before = node.before.columns.names if node.before is not None else ()
    after = node.columns
    new = [c for c in after.names if c not in before]
    gone = [c for c in before if c not in after.names]
    if node.before is None:
        line: Line = (formats.some_names(after.names) or "none known",)
    elif after.names:
        kept = [c for c in after.names if c in before]
        line = (formats.some_names(kept),) if kept else ()
        for name in new[:MAX_NEW]:
            line = (*line, "  " if line else "", Mark("added"), f" {formats.cell(name)}")
        if len(new) > MAX_NEW:
            line = (*line, f" … and {len(new) - MAX_NEW:,} more")
    else:
        line = ("none known",)
    below: list[Line] = []
    if gone:
        below.append((muted(f"without {formats.some_names(gone)}"),))
    if after.is_open:
        below.append((muted("and what functions add"),))
    return (
        Cell((formats.cell(node.name, formats.MAX_NAME),)),
        Cell((f"{type(node.step).__name__} ", muted(formats.cell(formats.described(node.step))))),
        Cell(line, tuple(below)),
    )


MAX_NEW = 20
MAX_FINGERPRINTED = 100_000
"""Records of a source that a display reads for its fingerprint."""


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    traps: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        step: Step,
        name: str,
        what: str,
        *,
        fix: str = "",
        kind: str = "structure",
        short: str = "",
    ) -> None:
        """A problem of a step."""
        self.problems.append(Problem(name, what, fix, _site(step), kind, short=short))

    def warn(self, step: Step, name: str, what: str, fix: str = "") -> None:
        """A trap in a step."""
        self.traps.append(Problem(name, what, fix, _site(step), "trap"))


def compile_graph(tail: Node) -> CompiledPipeline:
    """Check the pipeline that ends in `tail`.

    Raises
    ------
    PipelineValidationError
        With every problem; ColumnNotFoundError where all are missing columns.
    """
    compiled, problems = inspect_graph(tail)
    if problems:
        error = PipelineValidationError
        if all(p.kind == "column" for p in problems):
            error = ColumnNotFoundError
        raise error(problems)
    return compiled


def inspect_graph(tail: Node) -> tuple[CompiledPipeline, list[Problem]]:
    """As `compile_graph`, but the problems are returned: displays show them in place."""
    nodes = ordered(tail)
    names = node_names(nodes)
    found = _Findings()
    _check_structure(nodes, names, found)
    columns: dict[int, Columns] = {}
    out: dict[int, CompiledNode] = {}
    text_columns: set[str] = set()
    for node, name in zip(nodes, names, strict=True):
        before = columns[id(node.parents[0])] if node.parents else Columns()
        columns[id(node)] = _columns_after(node.step, name, before, text_columns, found)
        parent = out[id(node.parents[0])] if node.parents else None
        out[id(node)] = CompiledNode(node, name, columns[id(node)], parent)
    compiled = CompiledPipeline(tuple(out.values()), tuple(found.traps), tuple(found.notes))
    return compiled, found.problems


def _unreadable(exc: Exception, name: str, step: Step) -> Problem:
    said = str(exc) if isinstance(exc, DatafastError) else formats.error_text(exc)
    verb = "be read" if isinstance(step, SourceStep) else "be looked at"
    return Problem(name, f"cannot {verb}: {said}", site=_site(step), short=f"cannot {verb}")


def _site(step: Step) -> str:
    return str(step._site) if step._site else ""


def _check_structure(nodes: Sequence[Node], names: Sequence[str], found: _Findings) -> None:
    seen: dict[str, int] = {}
    for i, (node, name) in enumerate(zip(nodes, names, strict=True)):
        step = node.step
        if name in seen:
            found.add(
                step,
                name,
                f"has the name of step {seen[name]} before it",
                fix="give it another with .as_step('…')",
                short="name is taken",
            )
        seen.setdefault(name, i)
        if not node.parents and not isinstance(step, SourceStep):
            found.add(
                step,
                name,
                "comes first, but a pipeline starts with a source",
                fix="write Source.list(…), Source.file(…), Source.dataframe(…) or "
                "Seed.product(…) >> … before it",
                short="no source",
            )
        if node.parents and isinstance(step, SourceStep):
            found.add(
                step,
                name,
                "is a source in the middle of a pipeline",
                fix="a source comes first",
                short="source in the middle",
            )
        if isinstance(step, Sample) and not step.is_step:
            found.add(
                step,
                name,
                "is a Sample of items, which belongs in a parameter of LLMStep",
                fix="as a step write Sample(n=…)",
                short="no step",
            )
        if (
            not isinstance(step, (SourceStep, ChunkStep, ChoiceStep, SinkStep, LLMStep))
            and type(step).process is Step.process
        ):
            found.add(
                step,
                name,
                f"is a {type(step).__name__}, which has no process(records)",
                fix="write one in its class",
                short="no process()",
            )
    if not isinstance(nodes[-1].step, SinkStep):
        found.notes.append("no sink: run() returns the records and writes no file")


def _columns_after(
    step: Step, name: str, before: Columns, text_columns: set[str], found: _Findings
) -> Columns:
    if isinstance(step, SourceStep):
        try:
            known = step.columns()
            step.version()  # asked before the memo is looked into: it fails where the file is gone
        except Exception as exc:  # files that are gone, sources of users: a problem like others
            found.problems.append(_unreadable(exc, name, step))
            return Columns()
        # No columns: an empty source, which says nothing of the rows it will have.
        return Columns(tuple(known), is_open=False) if known else Columns()
    if isinstance(step, LLMStep):
        after = _check_llm(step, name, before, found)
        if step.spec.is_text:
            text_columns.update(step.spec.columns)
        return after
    if isinstance(step, (Map, FlatMap)):
        if isinstance(step, FlatMap):
            read = set(getattr(getattr(step.fn, "__code__", None), "co_consts", ()) or ())
            for column in sorted(text_columns & {c for c in read if isinstance(c, str)}):
                found.warn(
                    step,
                    name,
                    f"reads {column!r}, which an LLM step fills with one text: looping over it gives "
                    "characters",
                    f"for a list write output_columns={{{column!r}: list[str]}}",
                )
        return Columns(before.names, True) if step.outputs is None else before.plus(step.outputs)
    if isinstance(step, (Filter, Sample)):
        return before
    if isinstance(step, SinkStep):
        _check_sink(step, name, before, found)
        return before
    for column in step.inputs or ():
        # input_mappings: column here → name inside the step.
        mapped = {v: k for k, v in (step.input_mappings or {}).items()}.get(column, column)
        _need(mapped, "reads", step, name, before, found)
    if step.outputs is None:
        return Columns(before.names, True)
    return before.plus([(step.output_mappings or {}).get(c, c) for c in step.outputs])


def _need(column: str, verb: str, step: Step, name: str, before: Columns, found: _Findings) -> None:
    if before.has(column) is False:
        found.problems.append(missing_column(column, verb, name, before, _site(step)))


def missing_column(column: str, verb: str, name: str, before: Columns, site: str) -> Problem:
    """The problem of a column that no earlier step provides."""
    close = difflib.get_close_matches(column, before.names, n=1, cutoff=0.6)
    fix = f"did you mean {close[0]!r}?" if close else ""
    if is_suspicious(column):
        braces = "double its braces if it is meant as text: '{{' and '}}'"
        fix = f"{fix} Or {braces}" if fix else braces
    return Problem(
        name,
        f"{verb} column {column!r}, which no earlier step provides",
        fix,
        site,
        "column",
        columns=str(before),
        short=f"no column {formats.cell(column, 24)}",
    )


def nearest(word: str, known: Sequence[str]) -> str:
    """' Did you mean …?' or ''."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_llm(step: LLMStep, name: str, before: Columns, found: _Findings) -> Columns:
    _check_fields(step, name, before, found)
    for column in (*(step.forward_columns or ()), *(step.exclude_columns or ())):
        verb = "forwards" if step.forward_columns else "excludes"
        _need(column, verb, step, name, before, found)
    kept = step.forwarded(before.names)
    for column in step.spec.columns:
        if column in BOOKKEEPING:
            found.add(
                step,
                name,
                f"writes {column!r}, a bookkeeping column",
                fix="choose another name",
                kind="parameter",
                short=f"writes {column}",
            )
        elif column in kept and not step.overwrite:
            found.add(
                step,
                name,
                f"writes column {column!r}, which the records already have",
                fix="choose another name, exclude it, or say overwrite=True",
                kind="parameter",
                short=f"{formats.cell(column, 24)} exists",
            )
    _check_model(step, name, found)
    if step.num_outputs > 1 and any(t == 0 for t in step._temperatures):
        found.warn(
            step,
            name,
            f"asks for num_outputs={step.num_outputs} at temperature 0: the answers will be equal",
            "set temperature=0.7, or drop num_outputs",
        )
    _warn_of_prompts(step, name, found)
    if before.is_open and step.forward_columns is not None:
        # What a function may have added: later steps may count on it.
        kept += [c for c in step.forward_columns if c not in kept]
    after = dict.fromkeys((*kept, *step.spec.columns, *step.bookkeeping))
    return Columns(tuple(after), before.is_open and step.forward_columns is None)


def _check_fields(step: LLMStep, name: str, before: Columns, found: _Findings) -> None:
    """Columns that the prompts use, and those that `input_columns` names."""
    for column in step.input_columns or ():
        _need(column, "reads", step, name, before, found)
    for column in step.fields:
        short = f"{{{formats.cell(column, 24)}}} unknown"
        if step.input_columns is not None:
            if column not in step.input_columns:
                listed = ", ".join(step.input_columns) or "empty"
                braces = " or double its braces: '{{' and '}}'" if is_suspicious(column) else ""
                found.add(
                    step,
                    name,
                    f"uses {{{column}}} in a prompt, which is not in input_columns ({listed})",
                    fix=f"add it there{braces}",
                    kind="column",
                    short=short,
                )
        elif column in LANGUAGE_FIELDS and before.has(column) is not True:
            found.add(
                step,
                name,
                f"uses {{{column}}} in a prompt, but sets no language=",
                fix="give language=, such as language=['en', 'fr']",
                kind="column",
                short=short,
            )
        elif is_suspicious(column) and before.has(column) is not True:
            found.problems.append(missing_column(column, "reads", name, before, _site(step)))
        else:
            _need(column, "reads", step, name, before, found)


def _warn_of_prompts(step: LLMStep, name: str, found: _Findings) -> None:
    """Prompts that ask the same whatever the record, or whatever the language, is."""
    if not step.fields:
        found.warn(
            step,
            name,
            "has no {column} in its prompt: it asks the same of every record",
            "name a column in braces",
        )
    templates = [*step._templates, *([step._system] if step._system else [])]
    if step._languages and not any(f in LANGUAGE_FIELDS for t in templates for f in t.fields):
        found.warn(
            step,
            name,
            "sets language=, but no prompt uses {language} or {language_name}: "
            "the model is not told which",
            "write {language_name} in the prompt",
        )


def _check_model(step: LLMStep, name: str, found: _Findings) -> None:
    if step.model is None:
        found.add(
            step,
            name,
            "has no model",
            fix="give model=, for example LocalModel() or OpenAIModel('gpt-4o-mini')",
            kind="model",
            short="no model",
        )
        return
    try:
        _ = step.variants
    except (TypeError, ValueError, DatafastError) as exc:
        found.add(step, name, f"cannot ask: {exc}", kind="model", short="cannot ask")


def _check_sink(step: SinkStep, name: str, before: Columns, found: _Findings) -> None:
    for column in getattr(step, "columns", None) or ():
        _need(column, "writes", step, name, before, found)
