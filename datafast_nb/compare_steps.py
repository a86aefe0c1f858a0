"""What differs between two pipelines: steps, prompts, settings; and the figures of their runs."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from datafast_nb.compare_sides import Side, Way
from datafast_nb.display import formats
from datafast_nb.display.functions import function_text
from datafast_nb.display.settings import setting_body
from datafast_nb.display.worddiff import is_number
from datafast_nb.fingerprints import step_fingerprint
from datafast_nb.lineage import base_row
from datafast_nb.models.base import Model
from datafast_nb.options import shown_path
from datafast_nb.records import Record
from datafast_nb.runs import CallRow, StepRun
from datafast_nb.steps.base import SourceStep, Step
from datafast_nb.steps.llm import LLMStep

ALL_STEPS = "all steps"
DONE = ("new", "answered", "failed")
"""Statuses of calls whose outcome is known."""


@dataclass(frozen=True)
class PromptChange:
    """A template that was edited; None where one side has none."""

    step: str
    role: str
    """"user" or "system"."""
    a: str | None
    b: str | None


@dataclass(frozen=True)
class StepChange:
    """A step that differs between two pipelines."""

    kind: Literal["changed", "added", "removed"]
    name: str
    a: Step | None
    b: Step | None
    prompts: tuple[PromptChange, ...] = ()
    settings: tuple[tuple[str, str, str], ...] = ()
    """(setting, of a, of b) as people read them."""


@dataclass(frozen=True)
class Figure:
    """A number that can be compared."""

    step: str
    """Name of a step; "" for a column of the records."""
    name: str
    unit: Literal["usd", "tokens", "seconds", "failed", "calls", "mean"]
    """"usd": US dollars per 1,000 records that enter the step in a (in b, where a has it not);
    "failed": calls without a usable answer."""
    a: float | None
    """None where there is nothing to measure."""
    b: float | None
    of: tuple[int, int] = (0, 0)
    """Calls or records that the figures of a and b rest on."""
    pending: tuple[int, int] = (0, 0)
    """Calls whose answers are not on disk; above 0 also where their number is not known."""
    higher: int = 0
    """Of a column: records whose number is higher in `b`."""
    lower: int = 0


# Steps.


def compare_steps(a: Side, b: Side) -> list[StepChange]:
    """Steps that differ, in the order of b; removed ones where they stood. [] for mere records."""
    if a.pipeline is None or b.pipeline is None:
        return []
    left, right = _named_steps(a), _named_steps(b)
    keys = [[_key(step) for _, step in side] for side in (left, right)]
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    changes: list[StepChange] = []
    for kind, i, i_end, j, j_end in matcher.get_opcodes():
        if kind != "equal":
            changes.extend(_changes(left[i:i_end], right[j:j_end]))
    return changes


def _named_steps(side: Side) -> list[tuple[str, Step]]:
    assert side.pipeline is not None  # the caller has looked
    nodes = side.pipeline.compile().nodes
    return [(node.name, node.step) for node in nodes]


def _key(step: Step) -> str:
    try:
        return step_fingerprint(step)
    except Exception:  # whatever a user's own config() raises
        return f"{type(step).__qualname__} {id(step)}"


def _changes(
    left: Sequence[tuple[str, Step]], right: Sequence[tuple[str, Step]]
) -> list[StepChange]:
    """Of two stretches without a common step: edited ones together, others removed or added."""
    rest = list(left)
    out = []
    for name, step in right:
        partner = next((p for test in _ALIKE for p in rest if test(p[1], step)), None)
        if partner is None:
            out.append(StepChange("added", name, None, step))
            continue
        rest.remove(partner)
        old = partner[1]
        prompts = _prompt_changes(name, old, step)
        out.append(StepChange("changed", name, old, step, prompts, _setting_changes(old, step)))
    return [*(StepChange("removed", name, step, None) for name, step in rest), *out]


def _same_type(a: Step, b: Step) -> bool:
    return type(a) is type(b) or (isinstance(a, SourceStep) and isinstance(b, SourceStep))


def _same_name(a: Step, b: Step) -> bool:
    return _same_type(a, b) and a._name is not None and a._name == b._name


def _same_outputs(a: Step, b: Step) -> bool:
    if isinstance(a, LLMStep) and isinstance(b, LLMStep):
        return a.spec.columns == b.spec.columns
    return _same_type(a, b) and not isinstance(a, LLMStep)


_ALIKE: tuple[Callable[[Step, Step], bool], ...] = (_same_name, _same_outputs, _same_type)
"""What makes one step an edit of another, the surest sign first."""


def _prompt_changes(name: str, a: Step, b: Step) -> tuple[PromptChange, ...]:
    if not isinstance(a, LLMStep) or not isinstance(b, LLMStep):
        return ()
    out = []
    if a.system_prompt != b.system_prompt:
        out.append(PromptChange(name, "system", a.system_prompt, b.system_prompt))
    for old, new in zip_longest(a._templates, b._templates):
        texts = None if old is None else old.text, None if new is None else new.text
        if texts[0] != texts[1]:
            out.append(PromptChange(name, "user", *texts))
    return tuple(out)


_SHOWN_ELSEWHERE = frozenset({"prompt", "system_prompt"})
_DERIVED = frozenset({"spec", "fields", "models", "samples", "variants"})


def _setting_changes(a: Step, b: Step) -> tuple[tuple[str, str, str], ...]:
    """(setting, of a, of b) in words; "changed" where the words are the same."""
    if isinstance(a, SourceStep):
        said = formats.cell(formats.described(a), 200), formats.cell(formats.described(b), 200)
        return (("source", *said) if said[0] != said[1] else ("source", "", "other records"),)
    settings = [_settings(step) for step in (a, b)]
    out = []
    for name in {**settings[0], **settings[1]}:
        old, new = settings[0].get(name), settings[1].get(name)
        texts = _words(name, old), _words(name, new)
        if texts[0] != texts[1]:
            out.append((name, *texts))
        elif _differs(old, new):
            out.append((name, "", "changed"))
    return tuple(out)


def _settings(step: Step) -> dict[str, Any]:
    """Settings as the user gave them; prompts have a place of their own."""
    try:
        given = vars(step) if isinstance(step, LLMStep) else step.config()
    except Exception:  # a user's own config()
        return {}
    hidden = _SHOWN_ELSEWHERE | _DERIVED if isinstance(step, LLMStep) else frozenset()
    return {k: v for k, v in given.items() if not k.startswith("_") and k not in hidden}


def _differs(a: Any, b: Any) -> bool:
    """Values whose words are the same: functions and models are known by their fingerprints."""
    made = [_Holder(v) for v in (a, b)]
    return _key(made[0]) != _key(made[1])


class _Holder(Step):
    """A step with one setting, to ask for its fingerprint."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _words(name: str, value: Any) -> str:
    """A setting in one line: functions by their code, models by name, no keys, no folders."""
    if name == "output_columns" and not isinstance(value, (str, list, dict, type)):
        return type(value).__name__
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        return formats.plural(len(value), "item")
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_words(name, v) for v in value[:20])
        return shown + (", …" if len(value) > 20 else "")
    if inspect.isroutine(value):
        return formats.cell(function_text(value), 200)
    if isinstance(value, Path) or (name in ("file", "path") and isinstance(value, str)):
        return formats.cell(shown_path(value), 200)
    if isinstance(value, Model):
        return formats.cell(value.name, formats.MAX_NAME)
    if value is None:
        return "not set"
    line = setting_body(name, value)
    return formats.cell("".join(part for part in line if isinstance(part, str)), 200)


# Figures.


@dataclass(frozen=True)
class _Calls:
    """The calls of one side that are compared, at one step or at all."""

    done: list[CallRow]
    n_pending: int
    is_open: bool = False
    """How many calls there will be is not known."""

    @property
    def n(self) -> int:
        return len(self.done) + self.n_pending


class Scope:
    """The source rows that both runs have seen to their end: figures rest on these alone.

    `among`: rows that the comparison is limited to; None: all.
    """

    def __init__(self, ways: tuple[Way, Way], among: Collection[str] | None = None) -> None:
        self.sides = (ways[0].side, ways[1].side)
        both = set(ways[0].rows) & set(ways[1].rows)
        if among is not None:
            both &= set(among)
        self._rows = {r for r in both if all(way.end_of(r).is_decided for way in ways)}

    @property
    def is_common(self) -> bool:
        """The rows are known; otherwise figures are of all calls of each side."""
        return bool(self._rows)

    def waits_before(self, side: int, run: StepRun) -> bool:
        """A step before has pending calls: what comes to this one is not known."""
        before = (r for r in self.sides[side].runs[: run.index] if isinstance(r.step, LLMStep))
        return any(c.status == "pending" for r in before for c in self.calls(side, r))

    def calls(self, side: int, run: StepRun | None) -> list[CallRow]:
        """Calls at a step about rows of the scope."""
        if run is None:
            return []
        ids = self.sides[side].ids_before(run)
        if not self._rows or ids is None:
            return run.calls
        return [c for c in run.calls if base_row(ids[c.record]) in self._rows]


def compare_figures(changes: Iterable[StepChange], scope: Scope) -> list[Figure]:
    """Figures of each LLM step that differs, then of all LLM steps where there are several."""
    sides = scope.sides
    asking = [[r for r in side.runs if isinstance(r.step, LLMStep)] for side in sides]
    out: list[Figure] = []
    shown = 0
    for change in changes:
        found = [
            _run_of(runs, step) for runs, step in zip(asking, (change.a, change.b), strict=True)
        ]
        if any(run is not None for run in found):
            shown += 1
            out.extend(_step_figures(change.name, [[run] for run in found], scope))
    if sides[0].info is None or sides[1].info is None:
        return out
    if any(len(runs) > shown for runs in asking) or (shown > 1):
        out.extend(
            f
            for f in _step_figures(ALL_STEPS, [list(runs) for runs in asking], scope)
            if f.unit in ("usd", "calls") and not (f.a == f.b and f.pending == (0, 0) and not shown)
        )
    return out


def _run_of(runs: Sequence[StepRun], step: Step | None) -> StepRun | None:
    return next((run for run in runs if run.step is step), None)


def _step_figures(
    name: str, runs: Sequence[Sequence[StepRun | None]], scope: Scope
) -> list[Figure]:
    calls = [_calls(side, runs[side], scope) for side in (0, 1)]
    n_records = next((n for side in (0, 1) if (n := _n_records(side, runs[side], scope))), 0)
    if not n_records:
        return []
    of = (len(calls[0].done), len(calls[1].done))
    pending = (calls[0].n_pending + calls[0].is_open, calls[1].n_pending + calls[1].is_open)

    def figure(label: str, unit: Any, measure: Callable[[_Calls], float | None]) -> Figure:
        values = [measure(c) for c in calls]
        return Figure(name, label, unit, values[0], values[1], of, pending)

    made = [
        figure("cost", "usd", lambda c: _usd_per_1000(c, n_records)),
        figure("tokens in, mean", "tokens", lambda c: _mean([r.input_tokens for r in c.done])),
        figure("tokens out, mean", "tokens", lambda c: _mean([r.output_tokens for r in c.done])),
        figure(
            "time per call, median", "seconds", lambda c: _median([r.latency_s for r in c.done])
        ),
        figure("unusable replies", "failed", _n_failed),
        figure("calls", "calls", lambda c: None if c.is_open else float(c.n)),
    ]
    return [f for f in made if f.a is not None or f.b is not None]


def _calls(side: int, runs: Iterable[StepRun | None], scope: Scope) -> _Calls:
    known = [run for run in runs if run is not None]
    rows = [c for run in known for c in scope.calls(side, run)]
    pending = sum(c.status == "pending" for c in rows)
    is_open = any(scope.waits_before(side, run) for run in known)
    return _Calls([c for c in rows if c.status in DONE], pending, is_open)


def _n_records(side: int, runs: Iterable[StepRun | None], scope: Scope) -> int:
    """Records that enter the first of the steps."""
    first = next((run for run in runs if run is not None), None)
    return len({c.record for c in scope.calls(side, first)})


def _usd_per_1000(calls: _Calls, n_records: int) -> float | None:
    if not calls.done or calls.is_open:
        return None if calls.n_pending or calls.is_open else 0.0
    usd = [math.nan if c.usd is None else c.usd for c in calls.done]
    return 1000 * fmean(usd) * calls.n / n_records


def _n_failed(calls: _Calls) -> float | None:
    return float(sum(c.status == "failed" for c in calls.done)) if calls.done else None


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if v > 0]
    return fmean(known) if known else None


def _median(values: Sequence[float]) -> float | None:
    known = [v for v in values if v > 0]
    return median(known) if known else None


def column_figures(
    records: Sequence[tuple[Record, Record]], columns: Iterable[str]
) -> list[Figure]:
    """Means of the columns that hold numbers on both sides, in all of the records."""
    out = []
    for column in columns:
        pairs = [(a.get(column), b.get(column)) for a, b in records]
        if not pairs or not all(is_number(v) for pair in pairs for v in pair):
            continue
        numbers = [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]
        out.append(
            Figure(
                "", column, "mean",
                fmean(x for x, _ in numbers), fmean(y for _, y in numbers),
                of=(len(numbers), len(numbers)),
                higher=sum(y > x for x, y in numbers), lower=sum(y < x for x, y in numbers),
            )
        )  # fmt: skip
    return out
