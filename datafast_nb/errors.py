"""Exceptions. Each class stands for one remedy.

::

    DatafastError
    ├── PipelineValidationError      mend the pipeline; lists every problem
    │   └── ColumnNotFoundError      ... where all problems are missing columns
    ├── RecordError                  a value or record the pipeline cannot hold
    ├── SourceError                  input that cannot be read
    ├── SinkError                    output that cannot be written
    ├── LLMError                     a model call, or all of them, failed
    │   └── MissingKeyError          set the API key
    ├── CheckpointError              the checkpoint directory; says which file, and the way out
    │   └── PipelineChangedError     ... is of another pipeline: resume_from= or resume=False
    ├── BudgetExceededError          raise `budget=` or `max_calls=` and run again
    ├── ConfirmationRequired         a large run: type the line that the message gives
    └── MemoError                    the store of paid answers
        └── ReplayMissError          replay mode, and the answer is not recorded

    KeyboardInterrupt
    └── RunInterrupted               stopped by the user; what was paid is kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class DatafastError(Exception):
    """Base class of all errors of this package."""

    def __str__(self) -> str:
        # Terminals and notebooks print messages, which quote data, as they are.
        from datafast_nb.display.formats import printable  # upward: a message is a display too

        return printable(super().__str__())


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a pipeline from running, or a trap in it, in parts for displays."""

    step: str
    """Name of the step."""
    what: str
    """What is wrong, without a full stop: "reads column 'txt', which no earlier step provides"."""
    fix: str = ""
    """What to do: "did you mean 'text'?"; "" where nothing better is known than to mend it."""
    site: str = ""
    """Where the step was written, as in "cell 7, line 3"; "" if not known."""
    kind: str = "structure"
    """One of "structure", "column", "model", "template", "parameter"."""
    columns: str | None = None
    """Columns that come to the step, where the problem is a missing one."""
    short: str = ""
    """In a few words, for the step's place in a graph: "no column txt"."""

    @property
    def message(self) -> str:
        """What is wrong and what to do, in one or more lines."""
        if self.columns is None:
            return f"{self.what}; {self.fix}" if self.fix else self.what
        fix = f" {self.fix[0].upper()}{self.fix[1:]}" if self.fix else ""
        return f"{self.what}.\n  Columns here: {self.columns}.{fix}"

    def __str__(self) -> str:
        place = f"\n  Step written at: {self.site}" if self.site else ""
        return f"step '{self.step}' {self.message}{place}"


class PipelineValidationError(DatafastError):
    """The pipeline cannot run. `problems` holds every reason, in step order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            text = str(self.problems[0])
        else:
            lines = "\n".join(f"{i}. {p}" for i, p in enumerate(self.problems, start=1))
            text = f"the pipeline has {len(self.problems)} problems:\n{lines}"
        super().__init__(text)


class ColumnNotFoundError(PipelineValidationError):
    """A step reads a column that no earlier step provides."""


class RecordError(DatafastError, ValueError):
    """A record or value that a pipeline cannot hold; names record and column."""


class SourceError(DatafastError):
    """Input that cannot be read; names file, line and remedy."""


class SinkError(DatafastError):
    """Output that cannot be written; the former file stands untouched.

    `result` holds the records where a run had finished them.
    """

    result: Any = None


class LLMError(DatafastError):
    """A model call failed, or the run lost its calls.

    `kind` is one of the verdicts of `datafast_nb.models.base` ("auth", "not_found",
    "quota", "rate_limited", "timeout", "connection", "server", "bad_request",
    "refused", "cut", "empty", "unparsable", "wrong_schema", ...).
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "error",
        model: str | None = None,
        step: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        maybe_billed: bool = False,
        result: Any = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.model = model
        self.step = step
        self.status = status
        """HTTP status, where there was one."""
        self.retry_after_s = retry_after_s
        """Seconds the provider asks to wait."""
        self.maybe_billed = maybe_billed
        """The request reached the provider, and its reply was lost on the way."""
        self.result = result
        """What the run had when it stopped, or None."""


class MissingKeyError(LLMError):
    """A model that would be called has no API key."""


class CheckpointError(DatafastError):
    """A checkpoint that cannot be written, read or used as asked; nothing has been asked for it.

    `path` is the file or directory, `result` what the run had where it had begun.
    """

    def __init__(self, message: str, *, path: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.path = path
        self.result = result


class PipelineChangedError(CheckpointError):
    """The checkpoint was written by another pipeline.

    `step` names the first step that differs, `changes` says in words what does.
    """

    def __init__(
        self, message: str, *, path: str = "", step: str = "", changes: Sequence[str] = ()
    ) -> None:
        super().__init__(message, path=path)
        self.step = step
        self.changes = tuple(changes)


class BudgetExceededError(DatafastError):
    """`budget=` or `max_calls=` is spent. `result` holds what was finished."""

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class ConfirmationRequired(DatafastError):
    """A large run in a notebook, without a bound. Nothing has been asked.

    `estimate` is the ExecutionEstimate of the run, `line` what to type to run it.
    """

    def __init__(self, message: str, *, estimate: Any = None, line: str = "") -> None:
        super().__init__(message)
        self.estimate = estimate
        self.line = line

    def _render_traceback_(self) -> list[str]:
        return [str(self)] if self.estimate is None else [str(self), "", repr(self.estimate)]


class MemoError(DatafastError):
    """The memo (the store of paid answers) cannot be used as asked."""


class ReplayMissError(MemoError):
    """Replay mode, and the recording holds no answer to this request."""


class RunInterrupted(KeyboardInterrupt):
    """The run was interrupted. `result` holds the partial result.

    Notebooks show it as one line; it still stops Run All.
    """

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass
class Notes:
    """Remarks that are said once per run ("tuples became lists in column 'x'")."""

    seen: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Count one occurrence of the remark."""
        self.seen[text] = self.seen.get(text, 0) + 1
