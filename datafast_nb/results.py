"""What a run gives back: records that know how they came to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from datafast_nb.display import html, text, views
from datafast_nb.errors import DatafastError
from datafast_nb.lineage import Fates, Parents, Table
from datafast_nb.models.base import Message
from datafast_nb.options import shown_path
from datafast_nb.records import Record, column_names, copy_record
from datafast_nb.steps.base import Step
from datafast_nb.store.ledger import Ledger

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from datafast_nb.pipeline import Pipeline
    from datafast_nb.trace import RecordTrace
    from datafast_nb.validate import CompiledPipeline


@dataclass(slots=True)
class CallRow:
    """One call of a run: a draw that was answered from disk, asked for, or failed."""

    step: str
    record: int
    """Index of the record among the step's inputs."""
    variant: int
    """Place in the step's expansion."""
    output_index: int
    key: str
    label: str
    model: str
    status: str = "pending"
    """"answered" (from disk), "new" (asked in this run), "failed", "not_asked", "pending"."""
    verdict: str = ""
    error: str = ""
    attempts: int = 0
    """Times a request was sent in this run."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    """List price of the replies; None if unknown."""
    wasted_usd: float = 0.0
    latency_s: float = 0.0
    messages: tuple[Message, ...] | None = None
    """As sent; None where a run has too many calls to keep them."""
    text: str | None = None
    """The raw reply."""
    values: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields but the values, which stand in the records."""
        out = asdict(self)
        del out["values"]
        return out


@dataclass(frozen=True, slots=True)
class CallError:
    """A call that gave no usable answer."""

    step: str
    record: int
    """Index of the record among the step's inputs."""
    kind: str
    error: str
    model: str
    key: str
    label: str
    text: str | None
    """The raw reply, where one came."""
    prompt: str | None
    """The last message as sent, where it could be written."""
    input: Record
    """The record that was asked about."""

    def to_dict(self) -> dict[str, Any]:
        """As a dict, in the form of the spec's metadata."""
        out = asdict(self)
        out["record_id"] = next(
            (self.input[c] for c in ("_id", "id") if c in self.input), self.record
        )
        return out


class ErrorList(list[CallError]):
    """The failed calls of a run."""

    @property
    def groups(self) -> list[tuple[str, str, int, CallError]]:
        """(step, kind, count, first example), most frequent first."""
        counts = Counter((e.step, e.kind) for e in self)
        first: dict[tuple[str, str], CallError] = {}
        for e in self:
            first.setdefault((e.step, e.kind), e)
        return [(s, k, n, first[s, k]) for (s, k), n in counts.most_common()]

    def view(self) -> views.TableView:
        """The groups as a table."""
        return views.TableView(
            title=f"{len(self)} failed call{'s' * (len(self) != 1)}" if self else "no failed calls",
            columns=("step", "kind", "count", "first example"),
            rows=tuple((s, k, n, e.error) for s, k, n, e in self.groups),
            right=frozenset({"count"}),
        )

    def __repr__(self) -> str:
        return text.table(self.view())

    def _repr_html_(self) -> str:
        return html.page(html.table(self.view()))


@dataclass
class StepRun:
    """What a run did at one step."""

    name: str
    index: int
    step: Step
    site: str
    parents: Parents = field(default_factory=Parents)
    fates: Fates = field(default_factory=Fates)
    table: Table | None = None
    """Records that left the step; None where they were too many to keep."""
    n_in: int = 0
    n_out: int = 0
    calls: list[CallRow] = field(default_factory=list)
    call_of: list[int] | None = None
    """For each output record the index of its call; -1 for a skipped record."""
    errors: list[CallError] = field(default_factory=list)
    partly_failed: int = 0
    """Records that advanced although some of their calls failed."""
    is_partial: bool = False
    """Saw only part of what a full run would bring here."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Funnel:
    """Fates of the inputs of every step; they add up to its number of inputs."""

    steps: Sequence[StepRun]

    def view(self) -> views.TableView:
        """Plain data for display."""
        rows: list[tuple[Any, ...]] = []
        for run in self.steps:
            f = run.fates
            n_in: Any = run.n_in if run.index else ""
            new = sum(1 for c in run.calls if c.attempts)
            answered = sum(1 for c in run.calls if c.status == "answered")
            rows.append(
                (
                    run.name,
                    n_in,
                    run.n_out,
                    f.filtered,
                    f.failed,
                    f.skipped,
                    f.waiting,
                    f.beyond_limit,
                    new,
                    answered,
                )
            )
        names = (
            "step",
            "in",
            "out",
            "filtered",
            "failed",
            "skipped",
            "waiting",
            "beyond limit",
            "calls new",
            "answered",
        )
        keep = [i for i, n in enumerate(names) if i < 3 or any(r[i] for r in rows)]
        return views.TableView(
            title="funnel",
            columns=tuple(names[i] for i in keep),
            rows=tuple(tuple(r[i] for i in keep) for r in rows),
            right=frozenset(names[1:]),
        )

    def __repr__(self) -> str:
        return text.table(self.view())

    def _repr_html_(self) -> str:
        return html.page(html.table(self.view()))


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


_last: Result | None = None


def last_result() -> Result | None:
    """The last Result of this process, also a partial one; None before the first."""
    return _last


def remember(result: Result) -> None:
    """Keep the result for `last_result`."""
    global _last
    _last = result


class Result(list[Record]):
    """The records of a run: a list of dicts that knows how it came to be.

    Slices are Results; `res >> step` goes on from these records.
    """

    _n_whole: int | None = None
    """Of a slice: number of records of the Result that it was cut from."""

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
            return part
        return super().__getitem__(index)

    @property
    def info(self) -> RunInfo:
        """The run. Raises ValueError for a Result that came from no run."""
        if self._info is None:
            raise ValueError("this Result holds records only: it came from no run")
        return self._info

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
        return ErrorList(e for s in self.info.steps for e in s.errors)

    @property
    def call_rows(self) -> list[CallRow]:
        """Every call of the run, in step and record order."""
        return [c for s in self.info.steps for c in s.calls]

    @property
    def calls(self) -> pd.DataFrame:
        """A row per call: step, record, model, status, tokens, dollars, latency, prompt, reply."""
        import pandas as pd

        return pd.DataFrame([c.to_dict() for c in self.call_rows])

    @property
    def ledger(self) -> Ledger:
        """Calls and dollars at list price, per step and model."""
        return Ledger.of(self.call_rows)

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
            again = self._ran._again(self, stop_after=run.index, dry=True)
            info.row_ids, info.tokens = again.info.row_ids, again.info.tokens
            return Result(again, info)
        info.row_ids, info.tokens = run.table.row_ids, run.table.tokens
        return Result([copy_record(r) for r in run.table.records], info)

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
        return Result([before[i] for i in gone], before.info, gone)

    def retry_failed(self) -> Result:
        """Run again, asking anew for the failed answers alone; the rest comes from the memo.

        Raises what `run` raises.
        """
        failed = frozenset((e.key, e.label) for e in self.errors if e.key)
        return self._ran._again(self, retry=failed)

    @property
    def _ran(self) -> Pipeline:
        return self.pipeline if self.info.ran is None else self.info.ran

    def trace(self, index: int = 0) -> RecordTrace:
        """The way of record `index` through the pipeline."""
        from datafast_nb.trace import trace_output  # upward: a trace holds a Result

        if len(self) != len(self._rows):
            raise ValueError(
                "this Result was edited as a list: its records have lost their lineage"
            )
        return trace_output(self.info, self._rows[index])

    def __rshift__(self, other: Any) -> Pipeline:
        """Go on from these records: they keep their identities, so nothing is paid again."""
        from datafast_nb.pipeline import Pipeline  # upward: a Result starts a new pipeline

        made: Pipeline = Pipeline.from_result(self) >> other
        return made

    def view(self) -> views.ResultView:
        """Plain data for display."""
        return result_view(self)

    def __repr__(self) -> str:
        if self._info is None:
            shown = views.cell(list(self), 2_000) if len(self) < 5 else f"{len(self):,} records"
            return f"Result({shown})"
        return text.result(self.view())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        if self._info is None:
            view = views.records_table(list(self), f"{len(self)} records")
            return {"text/plain": text.table(view), "text/html": html.page(html.table(view))}
        return {"text/plain": text.result(self.view()), "text/html": html.result(self.view())}


def result_view(result: Result) -> views.ResultView:
    """Plain data of a Result for display."""
    info = result.info
    total = result.ledger.total
    facts = []
    if result._n_whole not in (None, len(result)):
        article = "an" if info.status == "interrupted" else "a"
        facts.append(
            f"{len(result):,} of {result._n_whole:,} records of {article} {info.status} run"
        )
    n_own = len(facts)
    facts += [f"{total.new:,} calls new", f"{total.answered:,} answered from the memo"]
    if total.new:
        facts.append(f"paid {views.usd(total.paid_usd)}")
    if total.answered:
        facts.append(f"saved {views.usd(total.saved_usd)}")
    n_failed = len(result.errors)
    if n_failed:
        facts.append(f"{n_failed:,} failed")
    written = tuple(f"{step} → {shown_path(where)}" for step, where in info.written)
    return views.ResultView(
        status=info.status,
        n=len(result),
        facts=tuple(facts if any(s.calls for s in info.steps) else facts[:n_own]),
        table=views.records_table(result[:10], ""),
        n_more=max(0, len(result) - 10),
        funnel=Funnel(info.steps).view(),
        errors=result.errors.view() if n_failed else None,
        ledger=result.ledger.view() if result.ledger.lines else None,
        written=written,
        notes=tuple(info.notes),
    )
