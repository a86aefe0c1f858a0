"""Checks before a run: structure, columns, models.

Nothing here reads more of a source than its header, or calls a user's function.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from datafast_nb.display import html, text, views
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


@dataclass(frozen=True)
class CompiledPipeline:
    """A pipeline that was checked: ordered nodes with names, columns, fingerprints."""

    nodes: tuple[CompiledNode, ...]
    warnings: tuple[str, ...] = ()
    """Traps that do not keep it from running."""
    notes: tuple[str, ...] = ()

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

    def view(self) -> views.PipelineView:
        """Plain data for display."""
        n = len(self.nodes)
        return views.PipelineView(
            head=f"CompiledPipeline: {n} step{'s' * (n != 1)}, fingerprint {self.fingerprint}",
            steps=tuple((c.name, str(c.columns)) for c in self.nodes),
            problems=(),
            warnings=self.warnings,
            notes=self.notes,
            detail="columns",
        )

    def __repr__(self) -> str:
        return text.pipeline(self.view())

    def _repr_html_(self) -> str:
        return html.pipeline(self.view())


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    compiled = CompiledPipeline(tuple(out.values()), tuple(found.warnings), tuple(found.notes))
    return compiled, found.problems


def _unreadable(exc: Exception, name: str, step: Step) -> Problem:
    said = str(exc) if isinstance(exc, DatafastError) else views.error_text(exc)
    verb = "be read" if isinstance(step, SourceStep) else "be looked at"
    return Problem(name, f"cannot {verb}: {said}", _site(step))


def _site(step: Step) -> str:
    return str(step._site) if step._site else ""


def _check_structure(nodes: Sequence[Node], names: Sequence[str], found: _Findings) -> None:
    seen: dict[str, int] = {}
    for i, (node, name) in enumerate(zip(nodes, names, strict=True)):
        step = node.step
        if name in seen:
            found.problems.append(
                Problem(
                    name,
                    f"has the name of step {seen[name]} before it; give it another with .as_step('…')",
                    _site(step),
                )
            )
        seen.setdefault(name, i)
        if not node.parents and not isinstance(step, SourceStep):
            found.problems.append(
                Problem(
                    name,
                    "comes first, but a pipeline starts with a source: Source.list(…), "
                    "Source.file(…), Source.dataframe(…) or Seed.product(…) >> …",
                    _site(step),
                )
            )
        if node.parents and isinstance(step, SourceStep):
            found.problems.append(
                Problem(
                    name,
                    "is a source in the middle of a pipeline; a source comes first",
                    _site(step),
                )
            )
        if isinstance(step, Sample) and not step.is_step:
            found.problems.append(
                Problem(
                    name,
                    "is a Sample of items, which belongs in a parameter of LLMStep; "
                    "as a step write Sample(n=…)",
                    _site(step),
                )
            )
        if (
            not isinstance(step, (SourceStep, ChunkStep, ChoiceStep, SinkStep, LLMStep))
            and type(step).process is Step.process
        ):
            found.problems.append(
                Problem(
                    name, f"is a {type(step).__name__}, which has no process(records)", _site(step)
                )
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
                found.warnings.append(
                    f"step '{name}' reads {column!r}, which an LLM step fills with one text: looping "
                    f"over it gives characters. For a list write output_columns={{{column!r}: list[str]}}"
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
    hint = ""
    if is_suspicious(column):
        hint = " If it is meant as text, double its braces: '{{' and '}}'."
    return Problem(
        name,
        f"{verb} column {column!r}, which no earlier step provides.{hint}\n"
        f"  Columns here: {before}.{nearest(column, before.names)}",
        site,
        "column",
    )


def nearest(word: str, known: Sequence[str]) -> str:
    """' Did you mean …?' or ''."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_llm(step: LLMStep, name: str, before: Columns, found: _Findings) -> Columns:
    site = _site(step)
    fields = step.fields
    if step.input_columns is not None:
        for column in step.input_columns:
            _need(column, "reads", step, name, before, found)
        for column in fields:
            if column not in step.input_columns:
                found.problems.append(
                    Problem(
                        name,
                        f"uses {{{column}}} in a prompt, which is not in input_columns "
                        f"({', '.join(step.input_columns) or 'empty'}); add it there"
                        + (" or double its braces: '{{' and '}}'" if is_suspicious(column) else ""),
                        site,
                        "column",
                    )
                )
    else:
        for column in fields:
            if column in LANGUAGE_FIELDS and before.has(column) is not True:
                found.problems.append(
                    Problem(
                        name,
                        f"uses {{{column}}} in a prompt, but sets no language=",
                        site,
                        "column",
                    )
                )
            elif is_suspicious(column) and before.has(column) is not True:
                found.problems.append(missing_column(column, "reads", name, before, site))
            else:
                _need(column, "reads", step, name, before, found)
    for column in (*(step.forward_columns or ()), *(step.exclude_columns or ())):
        verb = "forwards" if step.forward_columns else "excludes"
        _need(column, verb, step, name, before, found)
    kept = step.forwarded(before.names)
    for column in step.spec.columns:
        if column in BOOKKEEPING:
            found.problems.append(
                Problem(
                    name,
                    f"writes {column!r}, a bookkeeping column; choose another name",
                    site,
                    "parameter",
                )
            )
        elif column in kept and not step.overwrite:
            found.problems.append(
                Problem(
                    name,
                    f"writes column {column!r}, which the records already have; choose another "
                    "name, exclude it, or say overwrite=True",
                    site,
                    "parameter",
                )
            )
    _check_model(step, name, site, found)
    if step.num_outputs > 1 and any(t == 0 for t in step._temperatures):
        found.warnings.append(
            f"step '{name}' asks for num_outputs={step.num_outputs} at temperature 0: the answers will be equal"
        )
    _warn_of_prompts(step, name, found)
    if before.is_open and step.forward_columns is not None:
        # What a function may have added: later steps may count on it.
        kept += [c for c in step.forward_columns if c not in kept]
    after = dict.fromkeys((*kept, *step.spec.columns, *step.bookkeeping))
    return Columns(tuple(after), before.is_open and step.forward_columns is None)


def _warn_of_prompts(step: LLMStep, name: str, found: _Findings) -> None:
    """Prompts that ask the same whatever the record, or whatever the language, is."""
    if not step.fields:
        found.warnings.append(
            f"step '{name}' has no {{column}} in its prompt: it asks the same of every record"
        )
    templates = [*step._templates, *([step._system] if step._system else [])]
    if step._languages and not any(f in LANGUAGE_FIELDS for t in templates for f in t.fields):
        found.warnings.append(
            f"step '{name}' sets language=, but no prompt uses {{language}} or {{language_name}}: "
            "the model is not told which"
        )


def _check_model(step: LLMStep, name: str, site: str, found: _Findings) -> None:
    if step.model is None:
        found.problems.append(
            Problem(
                name,
                "has no model: give model=, for example LocalModel() or OpenAIModel('gpt-4o-mini')",
                site,
                "model",
            )
        )
        return
    try:
        _ = step.variants
    except (TypeError, ValueError, DatafastError) as exc:
        found.problems.append(Problem(name, f"cannot ask: {exc}", site, "model"))


def _check_sink(step: SinkStep, name: str, before: Columns, found: _Findings) -> None:
    for column in getattr(step, "columns", None) or ():
        _need(column, "writes", step, name, before, found)
