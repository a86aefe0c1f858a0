"""How an estimate is shown: the price first, then each step, then what the figures rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datafast_nb.display import formats
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Head,
    Legend,
    Line,
    Mark,
    Paragraph,
    Row,
    Table,
    muted,
)
from datafast_nb.estimate_basis import ModelBasis, StepBasis, counted, settings_of
from datafast_nb.options import shown_path
from datafast_nb.ranges import Range

if TYPE_CHECKING:
    from datafast_nb.estimate import ExecutionEstimate, StepEstimate
    from datafast_nb.runs import StepRun

_EMPTY = Cell()
_ZERO = "–"
"""A measured zero."""
MAX_PARTS = 6
"""Steps or models that one line tells of."""
_PAID = frozenset({"tokens in", "out", "cost", "range", "time"})
"""Columns that mean nothing in mode "replay", which asks nobody."""


def estimate_view(estimate: ExecutionEstimate) -> Document:
    """Price, calls, a row per step, and the basis of the figures."""
    blocks: list[Block] = [Head(*_head(estimate)), Legend(_legend(estimate)), _table(estimate)]
    basis = estimate.basis
    if estimate.is_replay:  # nobody is paid
        basis = tuple(("missing because", words) for name, words in basis if name == "new because")
    facts = tuple(Fact(name, (words,)) for name, words in basis)
    if facts:
        blocks.append(Facts(facts))
    blocks.extend(Paragraph((Mark("warning"), " ", note)) for note in estimate.notes)
    if any(s.models for s in estimate.steps):
        blocks.append(Paragraph(_note(estimate), is_note=True))
    return Document(tuple(blocks))


def bounded(count: Range) -> str:
    """A number of records or calls: "866" where it is known, "≤ 868" or "~520" where it is not."""
    if not count.is_known:
        return "not counted"
    if count.is_exact:
        return formats.count(count.likely)
    if count.likely >= count.high:
        return f"≤ {formats.count(count.high)}"
    return formats.count(count.likely, about=True)


def price(cost: Range, known: Range, *, is_free: bool) -> str:
    """The likely price: "$0.15", "free", "unknown", or "$0.10 + unknown"."""
    if is_free:
        return "free"
    if not cost.is_known and known.likely > 0:
        return f"{formats.usd(known.likely)} + unknown"
    return formats.usd(cost.likely)


def duration(seconds: Range) -> str:
    """The likely time: "1 min 20 s", "< 1 s", or "unknown"."""
    if not seconds.is_known:
        return "unknown"
    return formats.seconds(seconds.likely) if seconds.likely >= 1 else "< 1 s"


def nothing_new(estimate: ExecutionEstimate) -> str:
    """Why a run has no new call."""
    n_failed = sum(s.failed_before for s in estimate.steps)
    if n_failed:
        return f"{n_failed:,} failed before, not asked again: .retry_failed()"
    return "every answer is on disk" if estimate.total_answered else "no record reaches a model"


def missing_answers(estimate: ExecutionEstimate) -> str:
    """What mode "replay" lacks: "5 answers are missing"."""
    n = bounded(estimate.calls)
    return "1 answer is missing" if n == "1" else f"{n} answers are missing"


def _head(estimate: ExecutionEstimate) -> tuple[str, Line]:
    if not any(s.models for s in estimate.steps):
        return "$0", ("no step asks a model",)
    if not estimate.calls.high:
        return "$0", (nothing_new(estimate),)
    if estimate.is_replay:
        return f"replay: {missing_answers(estimate)}", ("the run would stop at the first",)
    limit = estimate.limit
    words = "for a full run" if limit is None else f"for run(limit={limit:,})"
    cost = estimate.cost
    if cost.is_known and not cost.is_exact:
        words += f", range {formats.usd_range(cost.low, cost.high)}"
    time = duration(estimate.seconds)
    tail = {"unknown": "time unknown", "< 1 s": "less than 1 s"}.get(time, f"about {time}")
    title = price(cost, estimate.known_cost, is_free=estimate.is_free)
    if title == "unknown":
        title = "unknown price"
    return title, (f"{words} ", muted("·"), f" {tail}")


def _legend(estimate: ExecutionEstimate) -> tuple[Line, ...]:
    calls = estimate.calls
    items: list[Line] = []
    if calls.high:
        noun = "missing" if estimate.is_replay else "new call"
        noun += "s" if calls.likely != 1 and not estimate.is_replay else ""
        items.append((Mark("new"), f" {bounded(calls)} {noun}"))
    if estimate.total_shared:
        items.append((f"{estimate.total_shared:,} shared at temperature 0",))
    if estimate.total_answered > estimate.total_shared:
        words = f" {estimate.total_answered - estimate.total_shared:,} in the memo"
        saved = 0.0 if estimate.is_replay else estimate.total_saved_usd
        items.append((Mark("memo"), words + (f", saving {formats.usd(saved)}" if saved else "")))
    n_failed = sum(s.failed_before for s in estimate.steps)
    if n_failed:
        items.append((Mark("failed"), f" {n_failed:,} failed before, not asked again"))
    first = next((s for s in estimate.steps if s.models), None)
    total = estimate.total_records
    if first is not None and total is not None and first.records_in < total:
        name = estimate.steps[0].name
        noun = "records" if name.startswith("step_0") else formats.cell(name, formats.MAX_NAME)
        items.append((f"{first.records_in:,.0f} of {total:,} {noun}",))
    return tuple(items)


def _table(estimate: ExecutionEstimate) -> Table:
    names = (
        "step", "records", "memo", "shared", "new", "tokens in", "out", "cost", "range", "time",
    )  # fmt: skip
    entering = [Range.exact(s.records_in) for s in estimate.steps]
    for i, before in enumerate(estimate.steps[:-1]):
        # What one step gives is what the next one takes, unless a limit stands between them.
        if not before.out.is_exact and before.out.likely == entering[i + 1].likely:
            entering[i + 1] = before.out
    rows = [_row(s, r) for s, r in zip(estimate.steps, entering, strict=True)]
    has_total = any(s.models for s in estimate.steps)
    total = _total(estimate) if has_total else _cells(*[""] * len(names))
    used = [
        i
        for i, name in enumerate(names)
        if any(row[i] != _EMPTY for row in (*rows, total))
        and not (estimate.is_replay and name in _PAID)
    ]
    return Table(
        tuple(Column(names[i], "number" if i else "word") for i in used),
        tuple(tuple(row[i] for i in used) for row in rows),
        tuple(total[i] for i in used) if has_total else None,
    )


def _row(step: StepEstimate, entering: Range) -> Row:
    name = formats.cell(step.name, formats.MAX_NAME)
    if not step.models:
        return _cells(name, bounded(step.out), "", "", "", "", "", "free", "", "")
    return _cells(
        name,
        bounded(entering),
        *_calls(step.answered, step.shared, step.calls),
        *_tokens(step.input_tokens, step.output_tokens, step.calls),
        *_cost(step.cost, step.known_cost, step.is_free),
        duration(step.seconds) if step.calls.high else "",
    )


def _total(estimate: ExecutionEstimate) -> Row:
    tokens_in = sum(s.input_tokens for s in estimate.steps)
    tokens_out = sum(s.output_tokens for s in estimate.steps)
    return _cells(
        "total",
        "",
        *_calls(estimate.total_answered, estimate.total_shared, estimate.calls),
        *_tokens(tokens_in, tokens_out, estimate.calls),
        *_cost(estimate.cost, estimate.known_cost, estimate.is_free),
        duration(estimate.seconds) if estimate.calls.high else "",
    )


def _calls(answered: int, shared: int, new: Range) -> tuple[str, str, str]:
    in_memo = answered - shared
    return (
        f"{in_memo:,}" if in_memo else _ZERO,
        f"{shared:,}" if shared else "",
        bounded(new) if new.high else _ZERO,
    )


def _tokens(tokens_in: float, tokens_out: float, new: Range) -> tuple[str, str]:
    if not new.high:
        return "", ""
    return formats.amount(tokens_in), formats.amount(tokens_out)


def _cost(cost: Range, known: Range, is_free: bool) -> tuple[str, str]:
    has_range = cost.is_known and not cost.is_exact
    return (
        price(cost, known, is_free=is_free),
        formats.usd_range(cost.low, cost.high) if has_range else "",
    )


def _cells(*words: str) -> Row:
    return tuple(Cell((w,)) if w else _EMPTY for w in words)


def _note(estimate: ExecutionEstimate) -> Line:
    per = estimate.usd_per_record
    words = ""
    if per > 0 and not estimate.is_replay:  # neither unknown nor free
        words = f"{formats.usd(per)} per finished record that new calls bring · "
    return (muted(f"{words}memo: {shown_path(estimate.memo_path)}"),)


# What the figures rest on, in words.


def figures_words(asking: Sequence[tuple[str, ModelBasis, int]]) -> list[tuple[str, str]]:
    """Where tokens, prices and times come from; for each (step, model, calls in flight)."""
    prices = {formats.cell(m.model.name, formats.MAX_NAME): m.words_price for _, m, _ in asking}
    n_models = Counter(step for step, _, _ in asking)
    named = [
        step if n_models[step] == 1 else f"{step}, {formats.cell(m.model.name, formats.MAX_NAME)}"
        for step, m, _ in asking
    ]
    models = [(name, m, n) for name, (_, m, n) in zip(named, asking, strict=True)]
    return [
        ("tokens in", _by_step([(name, m.words_in) for name, m, _ in models])),
        ("tokens out", _by_step([(name, m.words_out) for name, m, _ in models])),
        ("price", _some([f"{name}, {words}" for name, words in prices.items()])),
        ("time", _by_step([(name, _time_words(m, n)) for name, m, n in models])),
    ]


def _time_words(model: ModelBasis, in_flight: int) -> str:
    if not model.n_timed:
        return "unknown: no call has been timed"
    return f"mean of {counted(model.n_timed, 'call', 'calls')}, {in_flight} in flight"


def reasons(bases: Sequence[tuple[StepRun, StepBasis]], waiting: Sequence[str]) -> str:
    """Why there are new calls; `waiting`: steps with calls that only earlier answers will tell."""
    fresh: list[str] = []
    out: list[str] = []
    first = ""
    for run, basis in bases:
        n = len({(c.key, c.label) for c in run.calls if c.status == "pending"})
        if not n:
            continue
        first = first or run.name
        has_answers = any(c.status == "answered" for c in run.calls)
        changed = basis.earlier.changed(settings_of(basis.step)) if basis.earlier else []
        if changed and not has_answers:
            out.append(f"{' and '.join(changed)} of '{run.name}' changed")
        else:
            fresh.append(f"{'' if has_answers else 'all '}{n:,} of {run.name}")
    if fresh:
        out.append(f"not asked before: {', '.join(fresh)}")
    if waiting:
        verb = "wait" if len(waiting) > 1 else "waits"
        out.append(f"{', '.join(waiting)} {verb} for answers of {first}")
    return "; ".join(out)


def reask_words(bases: Sequence[StepBasis]) -> tuple[str, str]:
    """Whether calls that are asked again after an unusable reply are counted."""
    n_calls = sum(b.n_calls for b in bases)
    n_replies = sum(b.n_replies for b in bases)
    if n_replies > n_calls > 0:
        return "asked again", f"{n_replies / n_calls:.2f} replies a call, as measured"
    return "not counted", "calls asked again after an unusable reply"


def _by_step(said: Sequence[tuple[str, str]]) -> str:
    """The words of each step, said once where they are the same for all."""
    words = list(dict.fromkeys(w for _, w in said))
    if len(words) == 1:
        return words[0]
    return _some(list(dict.fromkeys(f"{name}: {w}" for name, w in said)))


def _some(parts: Sequence[str]) -> str:
    """The first of them, with a count of the others."""
    rest = len(parts) - MAX_PARTS
    return "; ".join((*parts[:MAX_PARTS], *([f"… +{rest:,}"] if rest > 0 else [])))
