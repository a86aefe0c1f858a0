"""What a run would ask and cost, before it asks anything.

The figures come from a dry run: every answer that the memo has is used, the others stay pending.
What pending answers would bring to later steps is predicted, as a range.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datafast_nb.display.shown import Shown
from datafast_nb.errors import MemoError
from datafast_nb.estimate_basis import (
    ModelBasis,
    StepBasis,
    basis_of,
    count_of,
    distinct_share,
    dollars,
    fan_of,
    is_free,
    missing_keys,
    tokens_of,
)
from datafast_nb.estimate_view import estimate_view, figures_words, reask_words, reasons
from datafast_nb.models.pricing import price_of
from datafast_nb.ranges import (
    NOTHING,
    UNIFORM,
    UNKNOWN,
    ZERO,
    Range,
    Uncertain,
    between,
    binomial,
    drawn,
    share,
    triangular,
)
from datafast_nb.steps.base import ChoiceStep, SinkStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.transform import Filter, Map
from datafast_nb.store.measured import Fan
from datafast_nb.store.memo import Memo, open_memo

if TYPE_CHECKING:
    from datafast_nb.display.views import Document
    from datafast_nb.results import RunInfo
    from datafast_nb.runs import CallRow, StepRun

__all__ = [
    "NOTHING",
    "UNKNOWN",
    "ExecutionEstimate",
    "Range",
    "StepEstimate",
    "estimate_run",
    "missing_keys",
]

DEFAULT_IN_FLIGHT = 16
"""Calls in flight per model where the run does not say."""
MAX_ASKED = 100
"""Records for which a step in rounds is asked how many calls they take."""


@dataclass(frozen=True)
class StepEstimate:
    """One step of a run to come."""

    name: str
    records_in: float
    is_exact: bool
    """The number of its calls is known, not guessed: every earlier answer is on disk."""
    out: Range
    """Records that leave it."""
    calls: Range = NOTHING
    """Calls that would be asked and paid."""
    cost: Range = NOTHING
    """Dollars for the new calls at list price; NaN if unknown."""
    seconds: Range = NOTHING
    """Until the new calls are answered; NaN if unknown."""
    answered: int = 0
    """Calls that need no request of their own: the memo answers them, or a new one does."""
    shared: int = 0
    """Of these, calls that get the answer of an equal new one, at temperature 0."""
    failed_before: int = 0
    """Calls whose stored reply is no usable answer; they are not asked again."""
    models: dict[str, float] = field(default_factory=dict)
    """Name of each model that may be asked → its new calls."""
    input_tokens: float = 0.0
    """Likely input tokens of the new calls."""
    output_tokens: float = 0.0
    saved_usd: float = 0.0
    """List price of the answers on disk, each counted once; NaN if unknown."""
    is_free: bool = True
    """Nothing of it costs money: no model, or free ones."""
    known_cost: Range = NOTHING
    """Part of `cost` that models of known price make."""

    @property
    def records_out(self) -> float:
        """Records that leave it, likely."""
        return self.out.likely

    @property
    def llm_calls(self) -> float:
        """New calls, likely; a whole number where it is known."""
        return self.calls.likely

    @property
    def estimated_tokens(self) -> float:
        """Input and output tokens of the new calls, likely."""
        return self.input_tokens + self.output_tokens

    @property
    def estimated_cost(self) -> float:
        """Likely dollars for the new calls at list price; NaN if unknown."""
        return self.cost.likely


@dataclass(frozen=True, repr=False)
class ExecutionEstimate(Shown):
    """Calls, tokens and dollars of a run to come. Made without asking a model."""

    total_records: int | None
    """Records of the source; None where it does not say and was not read to its end."""
    steps: tuple[StepEstimate, ...]
    memo_path: str
    calls: Range = NOTHING
    """New calls of all steps."""
    cost: Range = NOTHING
    """Dollars of the new calls at list price; NaN if a price is unknown."""
    seconds: Range = NOTHING
    """How long the calls take at the run's default concurrency; NaN if unknown."""
    basis: tuple[tuple[str, str], ...] = ()
    """(figure, what it rests on), as in ("tokens in", "measured on 20 records")."""
    notes: tuple[str, ...] = ()
    """What would keep the run from asking."""
    known_cost: Range = NOTHING
    """Part of `cost` that models of known price make."""
    unpriced: tuple[str, ...] = ()
    """Models with new calls whose price is unknown."""
    limit: int | None = None
    """Of the run that it is for; None: a full run."""
    new_records: float = math.nan
    """Records that come out at the end because of the new calls, likely; NaN if not counted."""
    is_replay: bool = False
    """Mode "replay": the new calls are answers that are missing, and nobody is asked."""

    @property
    def records(self) -> Range:
        """Records that come out at the end."""
        return self.steps[-1].out if self.steps else NOTHING

    @property
    def total_llm_calls(self) -> float:
        """New calls of all steps, likely; a whole number where all are known."""
        return self.calls.likely

    @property
    def total_answered(self) -> int:
        """Calls that need no request of their own."""
        return sum(s.answered for s in self.steps)

    @property
    def total_shared(self) -> int:
        """Of these, calls that get the answer of an equal new one, at temperature 0."""
        return sum(s.shared for s in self.steps)

    @property
    def total_estimated_tokens(self) -> float:
        """Tokens of the new calls, likely."""
        return sum(s.estimated_tokens for s in self.steps)

    @property
    def total_estimated_cost(self) -> float:
        """Likely dollars of the new calls at list price; NaN if a price is unknown."""
        return self.cost.likely

    @property
    def total_saved_usd(self) -> float:
        """List price of the answers on disk, each counted once; NaN if a price is unknown."""
        return sum(s.saved_usd for s in self.steps)

    @property
    def usd_per_record(self) -> float:
        """Likely dollars of new calls per record that they bring to the end; NaN if unknown.

        What a further finished record costs: those that the memo brings are not counted.
        """
        return self.cost.likely / self.new_records if self.new_records else math.nan

    @property
    def is_exact(self) -> bool:
        """The number of new calls is known, not guessed."""
        return all(s.is_exact for s in self.steps if s.models)

    @property
    def is_free(self) -> bool:
        """No model of it costs money."""
        return all(s.is_free for s in self.steps)

    def view(self) -> Document:
        """Plain data for display."""
        return estimate_view(self)


def estimate_run(info: RunInfo, *, is_whole: bool = False) -> ExecutionEstimate:
    """The estimate that follows from a dry run. Reads the memo, asks no model.

    Parameters
    ----------
    is_whole
        The steps that were not run keep the number of records, and end the pipeline.
    """
    made = _Estimating(info, is_whole)
    for run in info.steps:
        made.add(run)
    return made.result()


class _Estimating:
    """Goes through the steps with the records that pending answers would bring."""

    def __init__(self, info: RunInfo, is_whole: bool) -> None:
        self._info = info
        self._is_whole = is_whole
        self._steps: list[StepEstimate] = []
        self._bases: list[tuple[StepRun, StepBasis]] = []
        self._costs: list[Uncertain] = []
        self._seconds: list[Uncertain] = []
        self._calls = ZERO
        self._unpriced: dict[str, None] = {}
        self._pending = ZERO
        """Records that would come to the step at hand once the pending answers are there."""
        self._guesses: list[str] = []
        self._earlier: dict[str, Fan] = {}
        """What free steps behind the last LLM step did in earlier runs."""

    def result(self) -> ExecutionEstimate:
        """The estimate of all steps."""
        info, steps = self._info, self._steps
        if self._is_whole:
            for node in info.compiled.nodes[len(steps) :]:
                before = steps[-1]
                own = StepEstimate(node.name, before.records_out, before.out.is_exact, before.out)
                steps.append(own)
        rest = info.compiled.nodes[len(steps) :]
        asking = [s.name for s in steps if s.calls.high]
        known = sum(self._costs, ZERO).range
        n_records = count_of(info.compiled)
        if n_records is None and info.steps and info.status == "complete":
            n_records = info.steps[0].n_out
        return ExecutionEstimate(
            n_records,
            tuple(steps),
            info.memo_path,
            calls=self._calls.range,
            cost=UNKNOWN if self._unpriced else known,
            seconds=sum(self._seconds, ZERO).range,
            basis=tuple(self._basis()) if asking else (),
            notes=tuple(missing_keys([n for n in info.compiled.nodes if n.name in asking])),
            known_cost=known,
            unpriced=tuple(self._unpriced),
            limit=info.settings.get("limit"),
            new_records=math.nan if rest else self._pending.likely,
            is_replay=info.mode == "replay",
        )

    def _basis(self) -> list[tuple[str, str]]:
        """What the figures rest on, in words."""
        said = figures_words(
            [
                (run.name, model, self._in_flight(model))
                for run, basis in self._bases
                for model in basis.models.values()
                if self._steps[run.index].models.get(model.model.name)
            ]
        )
        if self._guesses:
            said.append(("records", "; ".join(dict.fromkeys(self._guesses))))
        waiting = [s.name for s in self._steps if s.calls.high and not s.is_exact]
        said.append(("new because", reasons(self._bases, waiting)))
        said.append(reask_words([basis for _, basis in self._bases]))
        return said

    def add(self, run: StepRun) -> None:
        """The next step."""
        if isinstance(run.step, LLMStep):
            self._add_llm(run, run.step)
        else:
            self._add_free(run)

    # Free steps.

    def _add_free(self, run: StepRun) -> None:
        n_in = float(run.n_in if run.index else 0)
        pending = self._limited(run)
        out = ZERO if pending.is_exact and not pending.likely else self._through(run, pending)
        self._steps.append(
            StepEstimate(
                name=run.name,
                records_in=(pending + n_in).likely,
                is_exact=pending.range.high == 0,
                out=(out + float(run.n_out)).range,
            )
        )
        self._pending = out

    def _limited(self, run: StepRun) -> Uncertain:
        """The pending records that a limit at this step lets through."""
        limit, at = self._info.settings.get("limit"), self._info.settings.get("limit_at")
        if limit is None or at in (None, "source") or self._info.compiled.index(at) != run.index:
            return self._pending
        return self._pending.at_most(max(0, limit - (run.n_in - run.fates.beyond_limit)))

    def _through(self, run: StepRun, pending: Uncertain) -> Uncertain:
        """Records that a free step makes of the pending ones."""
        step = run.step
        if isinstance(step, (Map, SinkStep)):
            return pending
        if isinstance(step, ChoiceStep):
            return self._chosen(run, step, pending)
        fan, words = fan_of(run), "records at hand"
        if not fan.n and run.name in self._earlier:
            seen = self._earlier[run.name]
            weight = min(1.0, 20.0 / seen.n)  # of answers to another prompt
            fan = Fan(seen.n * weight, seen.total * weight, seen.squares * weight)
            words = "records of an earlier run"
        name = f"{run.name}/fan"
        if isinstance(step, Filter) or (fan.n and fan.total == fan.squares):
            if not fan.n:
                self._guesses.append(f"{run.name}: assumed that all stay")
                return pending * drawn(name, 1.0, UNIFORM)
            self._guesses.append(f"{run.name}: {fan.total:,.0f} of {fan.n:,.0f} {words} stay")
            return binomial(f"{name}/of", pending, share(name, fan.total, fan.n))
        if not fan.n:
            self._guesses.append(f"{run.name}: assumed one for one")
            return pending * between(name, 0.2, 1.0, 5.0)
        self._guesses.append(f"{run.name}: {fan.mean:.3g} of each, as of {fan.n:,.0f} {words}")
        return pending * fan.expect(name, max(1.0, pending.likely))

    def _chosen(self, run: StepRun, step: ChoiceStep, pending: Uncertain) -> Uncertain:
        """Records that a choice among all would take from the pending ones."""
        n = getattr(step, "n", None)
        if n is None:
            rate = run.n_out / run.n_in if run.n_in else 1.0
            self._guesses.append(f"{run.name}: keeps the share that it keeps now")
            return pending * rate
        self._guesses.append(f"{run.name}: keeps {n:,} of all")
        total = pending + float(run.n_in)
        part = total.at_most(float(n))  # of these as many are new as among all
        draws = zip(part.draws, pending.draws, total.draws, strict=True)
        return Uncertain(
            part.likely * pending.likely / max(1.0, total.likely),
            tuple([a * b / max(1.0, t) for a, b, t in draws]),
        )

    # LLM steps.

    def _add_llm(self, run: StepRun, step: LLMStep) -> None:
        entering = self._limited(run)
        selected = float(run.n_in - run.fates.beyond_limit)
        pending = [c for c in run.calls if c.status == "pending"]
        is_exact = entering.range.high == 0 and type(step).expected_calls is LLMStep.expected_calls
        n_answered = sum(1 for c in run.calls if c.status == "answered")
        on_disk = {(c.key, c.label): c.usd for c in run.calls if c.status == "answered"}
        saved = sum(math.nan if usd is None else usd for usd in on_disk.values())
        spots: dict[tuple[str, str], CallRow] = {}
        for c in pending:
            spots.setdefault((c.key, c.label), c)
        if not spots and is_exact:
            self._pending, self._earlier = ZERO, {}
            self._steps.append(
                StepEstimate(
                    name=run.name,
                    records_in=selected,
                    is_exact=True,
                    out=Range.exact(float(run.n_out)),
                    answered=n_answered,
                    failed_before=sum(1 for c in run.calls if c.status == "failed"),
                    models={m.name: 0.0 for m in step.models},
                    saved_usd=saved,
                    is_free=is_free(step),
                )
            )
            return
        basis = basis_of(run, step, self._memo)
        self._bases.append((run, basis))
        rows = self._further_rows(run, step, entering, len(pending))
        further = rows * distinct_share(run, step)
        calls, cost, seconds, tokens = ZERO, ZERO, ZERO, [0.0, 0.0]
        of_model = Counter(basis.names[c.variant] for c in spots.values())
        weights = Counter(basis.names)
        by_name: dict[str, float] = {}
        unpriced = False
        for name, model in basis.models.items():
            known = [c for c in spots.values() if basis.names[c.variant] == name]
            mine = further * (weights[name] / len(basis.names))
            n = mine + float(of_model[name])
            tokens_in, tokens_out = tokens_of(model, known, mine)
            calls = calls + n
            by_name[model.model.name] = by_name.get(model.model.name, 0.0) + n.likely
            tokens = [tokens[0] + tokens_in.likely, tokens[1] + tokens_out.likely]
            price = price_of(model.model)
            if price is not None:
                cost = cost + dollars(price, tokens_in, tokens_out, model)
            elif n.range.high:
                unpriced = True
                self._unpriced[model.model.name] = None
            if n.range.high:
                seconds = seconds.at_least(self._time(model, n, tokens_out))
        self._costs.append(cost)
        self._seconds.append(seconds)
        self._calls = self._calls + calls
        made = rows + float(len(pending))
        out = binomial(f"{run.name}/brought", made, basis.usable) + self._skipped(run, entering)
        self._steps.append(
            StepEstimate(
                name=run.name,
                records_in=(entering + selected).likely,
                is_exact=is_exact,
                out=(out + float(run.n_out)).range,
                calls=calls.range,
                cost=UNKNOWN if unpriced else cost.range,
                seconds=seconds.range,
                answered=n_answered + len(pending) - len(spots),
                shared=len(pending) - len(spots),
                failed_before=sum(1 for c in run.calls if c.status == "failed"),
                models=by_name,
                input_tokens=tokens[0],
                output_tokens=tokens[1],
                saved_usd=saved,
                is_free=is_free(step),
                known_cost=cost.range,
            )
        )
        self._pending = out
        self._earlier = {} if basis.earlier is None else basis.earlier.after

    @property
    def _memo(self) -> Memo | None:
        try:
            memo = open_memo()
        except MemoError:
            return None
        return memo if str(memo.path) == self._info.memo_path else None

    def _further_rows(
        self, run: StepRun, step: LLMStep, entering: Uncertain, n_pending: int
    ) -> Uncertain:
        """Calls that are not planned yet: of records to come, and of later rounds."""
        asked = entering - self._skipped(run, entering)
        planned = step.calls_per_record
        if type(step).expected_calls is LLMStep.expected_calls:
            return asked * float(planned)
        low, likely, high = self._rounds(run, step)
        name = f"{run.name}/rounds"
        per_record = triangular(name, low, likely, high)
        rounds = per_record - float(planned)
        return asked * per_record + rounds.at_least(0.0) * (n_pending / planned)

    def _rounds(self, run: StepRun, step: LLMStep) -> tuple[float, float, float]:
        """Mean of what the step expects of the records at hand: fewest, likely, most."""
        before = self._info.steps[run.index - 1].table
        records = before.records[:MAX_ASKED] if before is not None else []
        said = [step.expected_calls(record) for record in records]
        if not said:
            n = float(step.calls_per_record)
            return n, n, n
        low, likely, high = (sum(column) / len(said) for column in zip(*said, strict=True))
        return low, likely, high

    def _skipped(self, run: StepRun, entering: Uncertain) -> Uncertain:
        """The pending records of which no model will be asked."""
        assert isinstance(run.step, LLMStep)
        if run.step.skip_if is None or not entering.range.high:
            return ZERO
        n = run.n_in - run.fates.beyond_limit
        name = f"{run.name}/skipped"
        if not n:
            self._guesses.append(f"{run.name}: assumed that skip_if skips none")
            return entering * drawn(name, 0.0, UNIFORM)
        return binomial(f"{name}/of", entering, share(name, run.fates.skipped, n))

    def _time(self, model: ModelBasis, n: Uncertain, tokens_out: Uncertain) -> Uncertain:
        in_flight = self._in_flight(model)
        per_call = model.seconds(tokens_out.likely / max(1.0, n.likely), max(1.0, n.likely))
        waves = (n * (1.0 / in_flight)).at_least(1.0)
        seconds = per_call * waves * between(f"{model.name}/pace", 0.8, 1.0, 1.5)
        limits = self._info.settings.get("rate_limits")
        return seconds if limits is None else seconds.at_least(limits.least_s(model.model, n))

    def _in_flight(self, model: ModelBasis) -> int:
        most = int(self._info.settings.get("in_flight") or DEFAULT_IN_FLIGHT)
        return min(most, model.model.parallel or most)
