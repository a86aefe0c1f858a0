"""Asking again for answers that are there, and going back to the ones before.

A draw keeps all its replies. The latest usable one answers its calls, or the one that was chosen;
both are on disk, so that every later run of any process uses the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from datafast_nb.display import formats
from datafast_nb.engine.draws import NO_ANSWER, Spot
from datafast_nb.engine.progress import in_notebook
from datafast_nb.errors import BudgetExceededError, ConfirmationRequired, DatafastError
from datafast_nb.options import options
from datafast_nb.records import Record, copy_record
from datafast_nb.runs import CallRow, StepRun, calls_behind
from datafast_nb.steps.llm import LLMStep
from datafast_nb.steps.outputs import Unusable
from datafast_nb.store.memo import Draw, Memo, open_memo

if TYPE_CHECKING:
    from datafast_nb.results import Result

Rows = int | Iterable[int] | None
Where = Mapping[str, Any] | Callable[[Record], bool] | None


def ask_again(
    result: Result,
    rows: Rows,
    where: Where,
    column: str | None,
    budget: float | None,
    max_calls: int | None,
    confirm: bool,
) -> Result:
    """See `Result.resample`."""
    _, calls = _calls_of(result, rows, where, column)
    asks = in_notebook() if options.confirm is None else options.confirm
    usd = sum(call.usd or 0.0 for call in calls.values())
    above = options.confirm_above_usd
    is_bound = budget is not None or max_calls is not None
    if asks and not (confirm or is_bound) and above is not None and usd > above:
        line = f".resample(…, budget={usd * 1.5:.2g})"
        raise ConfirmationRequired(
            f"asking these {formats.plural(len(calls), 'call')} again may cost about "
            f"{formats.usd(usd)}, what they cost before. Nothing has been asked.\n"
            f"  To do it: {line}, or confirm=True",
            line=line,
        )
    known = {s: len(draw.replies) for s, draw in _draws(calls).items() if draw is not None}
    redraw = {spot: known.get(spot, 0) for spot in calls}
    again: Result = result._ran._again(
        result,
        retry=frozenset(redraw),
        redraw=redraw,
        budget_usd=budget,
        max_calls=max_calls,
    )
    return again


def go_back(
    result: Result, rows: Rows, where: Where, column: str | None, draw: int | None
) -> Result:
    """See `Result.restore`."""
    step, calls = _calls_of(result, rows, where, column)
    picks: dict[Spot, int] = {}
    for spot, found in _draws(calls).items():
        usable = _usable(step, found)
        if found is None or not usable:
            continue
        now = usable.index(current) if (current := _current(found, usable)) in usable else 0
        wanted = now - 1 if draw is None else draw
        if 0 <= wanted < len(usable) and (draw is not None or wanted != now):
            picks[spot] = usable[wanted]
    if not picks:
        which = "no older draw is stored" if draw is None else f"there is no draw {draw}"
        raise DatafastError(
            f"{which} of these records; .resample() makes new ones, .draws(row, column) lists them"
        )
    open_memo().choose(picks)
    kept = {name: result.info.settings.get(name) for name in ("budget_usd", "max_calls")}
    try:
        back: Result = result._ran._again(
            result, retry=frozenset(picks), budget_usd=None, max_calls=0
        )
    except BudgetExceededError as exc:  # other calls of the run were never asked: they stay so
        back = exc.result
    back.info.settings.update(kept)
    return back


def texts_of(result: Result, row: int, column: str) -> list[str]:
    """See `Result.draws`."""
    step, calls = _calls_of(result, row, None, column)
    (found,) = _draws(calls).values()
    return [] if found is None else [found.replies[i].text for i in _usable(step, found)]


def _calls_of(
    result: Result, rows: Rows, where: Where, column: str | None
) -> tuple[LLMStep, dict[Spot, CallRow]]:
    """The step that writes the column, and its calls behind the records."""
    result._check_unedited()
    run = _step_of(result, column)
    assert isinstance(run.step, LLMStep)
    calls: dict[Spot, CallRow] = {}
    for i in _indices(result, rows, where):
        behind = calls_behind(result.info.steps, result._rows[i])
        mine = [call for call in behind if call.step == run.name]
        if not mine and not run.parents.known:
            raise DatafastError(
                f"record {i} cannot be followed back to step '{run.name}': a step behind it changed "
                f"the number of records. Use result.at({run.name!r}).resample(…)"
            )
        calls.update(((call.key, call.label), call) for call in mine)
    if not calls:
        raise DatafastError(
            f"none of these records has a call of step '{run.name}' that can be found"
        )
    return run.step, calls


def _step_of(result: Result, column: str | None) -> StepRun:
    asked = [run for run in result.info.steps if isinstance(run.step, LLMStep)]
    if not asked:
        raise DatafastError("no step of this run asks a model")
    if column is None:
        return asked[-1]
    names: list[str] = []
    for run in reversed(asked):
        assert isinstance(run.step, LLMStep)
        if column in run.step.spec.columns:
            return run
        names += run.step.spec.columns
    raise KeyError(f"no LLM step writes column {column!r}; they write {', '.join(names)}")


def _indices(result: Result, rows: Rows, where: Where) -> list[int]:
    n = len(result)
    if rows is None:
        chosen = list(range(n))
    else:
        chosen = [int(i) for i in ([rows] if isinstance(rows, int) else rows)]
    for i in chosen:
        if not -n <= i < n:
            raise IndexError(f"there is no record {i}: the result has {n}")
    chosen = [i % n for i in chosen]
    if where is None:
        return chosen
    if isinstance(where, Mapping):
        found = [i for i in chosen if _has(result[i], where)]
    else:
        found = [i for i in chosen if where(copy_record(result[i]))]
    if not found:
        raise DatafastError("no record is as `where` says")
    return found


def _has(record: Record, values: Mapping[str, Any]) -> bool:
    return all(name in record and record[name] == value for name, value in values.items())


def _draws(calls: Iterable[Spot]) -> dict[Spot, Draw | None]:
    memo: Memo = open_memo()
    spots = list(calls)
    return dict(zip(spots, memo.get_many(spots), strict=True))


def _usable(step: LLMStep, draw: Draw | None) -> list[int]:
    """Indices of the replies that can answer, in order of arrival."""
    found = []
    for i, reply in enumerate(() if draw is None else draw.replies):
        if reply.verdict in NO_ANSWER:
            continue
        try:
            step.parse(reply.text)
        except Unusable:
            continue
        found.append(i)
    return found


def _current(draw: Draw, usable: list[int]) -> int:
    return usable[-1] if draw.chosen is None else draw.chosen
