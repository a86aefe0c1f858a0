"""What a run gives back: records that know how they came to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from datafast_nb.display import formats
from datafast_nb.display.shown import Shown
from datafast_nb.display.views import Document
from datafast_nb.errors import DatafastError
from datafast_nb.models.pricing import price_of
from datafast_nb.options import mode
from datafast_nb.records import Record, column_names, copy_record
from datafast_nb.runs import (
    CallRow,
    ErrorList,
    Funnel,
    StepRun,
    Structured,
    structured_lines,
)
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.ledger import Ledger

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import datasets
    import pandas as pd

    from datafast_nb.models.base import Model
    from datafast_nb.pipeline import Pipeline
    from datafast_nb.trace import RecordTrace
    from datafast_nb.validate import CompiledPipeline
    from datafast_nb.why import Why
    from datafast_nb.widgets.panel import Panel


@dataclass
class RunInfo:
    """Everything about a run but its records."""

    pipeline: Pipeline
    compiled: CompiledPipeline
    steps: list[StepRun]
    ran: Pipeline | None = None
    """The pipeline that ran; not `pipeline` where it went on from a Result."""
    row_ids: list[str] | None = None
    """Identities of the records, where the run knew them; kept for tables of any size."""
    tokens: list[str] | None = None
    status: str = "complete"
    """"complete", "limited", "interrupted", "budget" or "failed"."""
    seconds: float = 0.0
    memo_path: str = ""
    notes: list[str] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    """(step, where) of every sink that wrote."""
    settings: dict[str, Any] = field(default_factory=dict)
    mode: str = field(default_factory=mode)
    """"normal" or "replay"."""


_last: Result | None = None


def last_result() -> Result | None:
    """The last Result of this process, also a partial one; None before the first."""
    return _last


def remember(result: Result) -> None:
    """Keep the result for `last_result`."""
    global _last
    _last = result


def _marking(name: str) -> Any:
    """The list's method of that name, after which places no longer tell where records come from."""
    change = getattr(list, name)

    @wraps(change)
    def method(self: Result, *args: Any, **kwargs: Any) -> Any:
        self._is_mixed = True
        return change(self, *args, **kwargs)

    return method


class Result(Shown, list[Record]):
    """The records of a run: a list of dicts that knows how it came to be.

    Slices are Results; `res >> step` goes on from these records.
    """

    _n_whole: int | None = None
    """Of a slice: number of records of the Result that it was cut from."""
    _dropped_at: StepRun | None = None
    """Of `dropped`: the step that the records did not leave."""
    _is_mixed = False

    # What only adds at the end shows in the length.
    __setitem__ = _marking("__setitem__")
    __delitem__ = _marking("__delitem__")
    insert = _marking("insert")
    pop = _marking("pop")
    remove = _marking("remove")
    clear = _marking("clear")
    sort = _marking("sort")
    reverse = _marking("reverse")

    def __init__(
        self,
        records: Iterable[Record] = (),
        info: RunInfo | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        super().__init__(records)
        self._info = info
        self._rows = rows if rows is not None else range(len(self))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Result: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Record | Result:
        """One record, or a Result of some."""
        if isinstance(index, slice):
            part = Result(super().__getitem__(index), self._info, self._rows[index])
            part._n_whole = len(self) if self._n_whole is None else self._n_whole
            part._dropped_at, part._is_mixed = self._dropped_at, self.is_edited
            return part
        return super().__getitem__(index)

    @property
    def info(self) -> RunInfo:
        """The run. Raises ValueError for a Result that came from no run."""
        if self._info is None:
            raise ValueError("this Result holds records only: it came from no run")
        return self._info

    @property
    def is_edited(self) -> bool:
        """The list was changed: its records can no longer be followed back through the run."""
        return self._is_mixed or len(self) != len(self._rows)

    @property
    def status(self) -> str:
        """One of "complete", "limited", "interrupted", "budget", "failed"."""
        return self.info.status

    @property
    def pipeline(self) -> Pipeline:
        """The whole pipeline, without the limit of this run."""
        return self.info.pipeline

    @property
    def df(self) -> pd.DataFrame:
        """The records as a pandas DataFrame, columns in order of first appearance."""
        import pandas as pd

        return pd.DataFrame(list(self), columns=column_names(self))

    def to_dataset(self) -> datasets.Dataset:
        """The records as a Hugging Face Dataset. Needs `pip install 'datafast-nb[hub]'`."""
        try:
            import datasets
        except ImportError as exc:
            raise ImportError(
                "to_dataset() needs datasets: pip install 'datafast-nb[hub]'"
            ) from exc
        return datasets.Dataset.from_list(list(self))

    def to_dict(self) -> dict[str, Any]:
        """Records and metadata: input, output, skipped records, errors."""
        steps = self.info.steps
        return {
            "records": [copy_record(r) for r in self],
            "metadata": {
                "total_input": steps[0].n_out if steps else 0,
                "total_output": len(self),
                "skipped": sum(s.fates.failed for s in steps),
                "status": self.status,
                "errors": [e.to_dict() for e in self.errors],
            },
        }

    @property
    def errors(self) -> ErrorList:
        """Every failed call, with cause, prompt, raw reply and input record."""
        errors = ErrorList(e for s in self.info.steps for e in s.errors)
        errors.steps = self.info.steps
        return errors

    @property
    def call_rows(self) -> list[CallRow]:
        """Every call of the run, in step and record order."""
        return [c for s in self.info.steps for c in s.calls]

    @property
    def calls(self) -> pd.DataFrame:
        """A row per call: step, record, status, model, tokens, dollars, latency, prompt, reply.

        `status` is "memo", "new", "failed", "pending" or "not asked", as displays say it;
        `record` the index among the step's inputs, `asked_at` a time in UTC.
        """
        import pandas as pd

        from datafast_nb.call_view import STATUS  # beside: what displays call it

        frame = pd.DataFrame([c.to_dict() for c in self.call_rows])
        if len(frame):
            frame["status"] = [STATUS[s][1] if s in STATUS else s for s in frame["status"]]
            asked = pd.to_numeric(frame["asked_at"], errors="coerce")
            frame["asked_at"] = pd.to_datetime(asked, unit="s", utc=True, errors="coerce")
        return frame

    @property
    def ledger(self) -> Ledger:
        """Calls and dollars at list price, per step and model."""
        ledger = Ledger.joined(s.ledger for s in self.info.steps)
        models = [m for s in self.info.steps if isinstance(s.step, LLMStep) for m in s.step.models]
        ledger.prices = _prices_in_words(models)
        return ledger

    @property
    def structured(self) -> list[Structured]:
        """How schemas were sent, and how often the first reply fitted, per step and model."""
        return structured_lines(self.info.steps)

    @property
    def funnel(self) -> Funnel:
        """What became of the records at each step."""
        return Funnel(self.info.steps)

    def step(self, name: int | str) -> StepRun:
        """What the run did at a step. Raises KeyError for a step it has not."""
        index = self.info.compiled.index(name)
        if index >= len(self.info.steps):
            raise KeyError(f"the run did not reach step {self.info.compiled.names[index]!r}")
        return self.info.steps[index]

    def at(self, step: int | str) -> Result:
        """The records that left a step. Large tables are computed again, from the memo."""
        run = self.step(step)
        steps = self.info.steps[: run.index + 1]
        info = RunInfo(**{**vars(self.info), "steps": steps, "written": []})
        if run.table is None:
            again = self._ran._again(self, stop_after=run.index, dry=True, **self._no_limit(run))
            # A limit further on lets only a part of a stream come here.
            again = again[: run.n_out]
            ids, tokens = again.info.row_ids, again.info.tokens
            info.row_ids = None if ids is None else ids[: run.n_out]
            info.tokens = None if tokens is None else tokens[: run.n_out]
            return Result(again, info)
        info.row_ids, info.tokens = run.table.row_ids, run.table.tokens
        return Result([copy_record(r) for r in run.table.records], info)

    def _no_limit(self, run: StepRun) -> dict[str, Any]:
        """Settings for computing again what left a step: a limit that applies behind it does not."""
        from datafast_nb.engine.context import RunSettings  # upward: how the engine reads them
        from datafast_nb.engine.selection import limit_index

        settings = RunSettings(**self.info.settings)
        last = settings.stop_after
        nodes = [c.node for c in self.info.compiled.nodes][: None if last is None else last + 1]
        at = limit_index(nodes, self.info.compiled, settings)
        return {} if at is None or run.index >= at else {"limit": None, "one": None, "where": None}

    def dropped(self, step: int | str) -> Result:
        """The records that went into a step and did not come out: filtered, failed or not reached."""
        run = self.step(step)
        if run.index == 0:
            return Result([], self._info)
        if not run.parents.known:
            raise DatafastError(
                f"step '{run.name}' changed the number of records, so nobody knows which were "
                f"dropped: the lineage does not reach through it. .at({run.index - 1}) has all "
                "that went in"
            )
        before = self.at(run.index - 1)
        came_out = set(run.parents.all())
        gone = [i for i in range(len(before)) if i not in came_out]
        dropped = Result([before[i] for i in gone], before.info, gone)
        dropped._dropped_at = run
        return dropped

    def retry_failed(self) -> Result:
        """Run again, asking anew for the failed answers alone; the rest comes from the memo.

        Raises what `run` raises.
        """
        failed = frozenset((e.key, e.label) for e in self.errors if e.key)
        return self._ran._again(self, retry=failed)

    def resample(
        self,
        rows: int | Iterable[int] | None = None,
        *,
        where: Mapping[str, Any] | Callable[[Record], bool] | None = None,
        column: str | None = None,
        budget: float | None = None,
        max_calls: int | None = None,
        confirm: bool = False,
    ) -> Result:
        """Ask anew for answers that are there, and pay; later runs use the new ones.

        The older draws stay on disk: `restore` goes back to them for nothing. What follows from
        a new answer in later steps is new as well, and asked. Where a new reply cannot be used,
        its record fails in the Result of this call, and later runs use the older answer.

        Parameters
        ----------
        rows
            Indices of records, negative from the end; None: all.
        where
            Of these, the records with such values (`{"topic": "tax"}`), or for which a function
            is true.
        column
            Column whose answers are asked anew; None: those of the last LLM step. At
            temperature 0 equal prompts share one answer, and get the new one together.
        budget, max_calls
            Bounds, as those of `run`; None: no bound.
        confirm
            True: in a notebook, do not ask before a costly one.

        Returns
        -------
        Result
            Of the whole run: the rest comes from the memo.

        Raises
        ------
        ConfirmationRequired
            In a notebook, where the calls cost more than `options.confirm_above_usd` before.
        DatafastError, IndexError, KeyError
            If nothing of the kind was asked for these records.
        BudgetExceededError, LLMError, RunInterrupted
            As `run`.
        """
        from datafast_nb.engine.redraw import ask_again  # upward: it runs the pipeline again

        return ask_again(self, rows, where, column, budget, max_calls, confirm)

    def restore(
        self,
        rows: int | Iterable[int] | None = None,
        *,
        where: Mapping[str, Any] | Callable[[Record], bool] | None = None,
        column: str | None = None,
        draw: int | None = None,
    ) -> Result:
        """Go back to the draw before the one in use, for nothing; later runs use it too.

        Parameters
        ----------
        rows, where, column
            Which answers, as in `resample`.
        draw
            Number of the draw to use, from 0, as `draws` lists them; None: the one before.

        Returns
        -------
        Result
            Of the whole run, from the memo alone: nothing is asked.

        Raises
        ------
        DatafastError
            If none of the records has such a draw.
        """
        from datafast_nb.engine.redraw import go_back  # upward: it runs the pipeline again

        return go_back(self, rows, where, column, draw)

    def draws(self, row: int, column: str) -> list[str]:
        """The raw replies that have been usable answers for a record's column, the oldest first."""
        from datafast_nb.engine.redraw import texts_of  # beside `resample`

        return texts_of(self, row, column)

    @property
    def _ran(self) -> Pipeline:
        return self.pipeline if self.info.ran is None else self.info.ran

    def trace(self, index: int = 0) -> RecordTrace:
        """The way of record `index` through the pipeline."""
        from datafast_nb.trace import trace_output  # upward: a trace holds a Result

        self._check_unedited()
        return trace_output(self, index)

    def why(self, row: int, column: str) -> Why:
        """Where one value comes from: the step and, for a model's, the messages and the reply.

        Parameters
        ----------
        row
            Index of the record, negative from the end.
        column
            Name of one of its columns.

        Raises
        ------
        IndexError, KeyError
            If there is no such record or column.
        ValueError
            If the Result came from no run, or was edited as a list.
        DatafastError
            If the run did not keep its tables and the memo has changed since.
        """
        from datafast_nb.why import explain  # upward: an explanation holds a Result

        return explain(self, row, column)

    def report(
        self, path: str | os.PathLike[str] = "report.html", *, title: str | None = None
    ) -> Path:
        """Write a self-contained HTML page about the run; an older file is replaced.

        Fuller than the display in a cell: 100 records, ten of them in full, all causes of errors.

        Returns
        -------
        Path
            The page, as named by `path`: a relative one stays relative.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist.
        OSError
            If the page cannot be written; an older one then stands untouched.
        """
        from datafast_nb.report import write_report  # beside: it draws a Result

        return write_report(self, path, title)

    def explore(self) -> Panel:
        """All records in a table that sorts, searches and opens them; see `widgets.Panel`."""
        from datafast_nb.widgets.panel import Panel  # upward: a panel holds a Result

        return Panel(self)

    def _check_unedited(self) -> None:
        if self.is_edited:
            raise ValueError(
                "this Result was edited as a list: its records have lost their lineage. Run the "
                "pipeline again (nothing is paid twice), or change a copy: list(result)"
            )

    def __rshift__(self, other: Any) -> Pipeline:
        """Go on from these records: they keep their identities, so nothing is paid again."""
        from datafast_nb.pipeline import Pipeline  # upward: a Result starts a new pipeline

        made: Pipeline = Pipeline.from_result(self) >> other
        return made

    def view(self) -> Document:
        """Plain data for display."""
        from datafast_nb.result_view import result_view  # beside: it reads a Result

        return result_view(self)

    def __repr__(self) -> str:
        if self._info is None:
            shown = formats.cell(list(self), 2_000) if len(self) < 5 else f"{len(self):,} records"
            return f"Result({shown})"
        return super().__repr__()

    # IPython takes the first class that has one of both.
    _repr_pretty_ = Shown._repr_pretty_


def _prices_in_words(models: Sequence[Model]) -> str:
    """List prices of the models: "gpt-4.1-nano: $0.10 in, $0.40 out per 1M tokens (…)."."""
    said = {}
    for model in models:
        price = price_of(model)
        if price is None:
            said[model.name] = "price unknown"
        else:
            source = f" ({price.source})" if price.source and not price.is_free else ""
            said[model.name] = f"{price.in_words()}{source}"
    names = list(said)[:_MAX_PRICES]
    more = f"; {len(said) - len(names):,} more models" if len(said) > len(names) else ""
    words = "; ".join(f"{formats.cell(n, formats.MAX_NAME)}: {said[n]}" for n in names)
    return f"List prices. {words}{more}." if words else ""


_MAX_PRICES = 5
