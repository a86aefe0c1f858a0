"""The partial file of the LLM step that is running: its finished records, for people to read.

A resumed run does not read it: the memo has the answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from datafast_nb.engine.events import Event, Progress
from datafast_nb.errors import CheckpointError
from datafast_nb.lineage import Table
from datafast_nb.records import Record
from datafast_nb.runs import StepRun
from datafast_nb.store.manifest import StepEntry, now
from datafast_nb.store.stepfile import cannot_write
from datafast_nb.store.typed_json import encode

EVERY_S = 2.0
_FINAL = frozenset({"answered", "new", "failed"})


class PartialOutput:
    """Listens to the progress of one LLM step and appends what is finished, in input order."""

    def __init__(
        self,
        folder: Path,
        entry: StepEntry,
        run: StepRun,
        stage: Any,
        on_failure: Callable[[CheckpointError], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / f"{entry.stem}.partial.jsonl"
        self.progress_path = folder / f"{entry.stem}.progress.json"
        self._entry = entry
        self._run = run
        self._stage = stage
        self._on_failure = on_failure
        self._clock = clock
        self._last = clock()
        self._next = 0
        """Index of the first record that is not yet finished."""
        self._file: IO[bytes] | None = None
        self._n_bytes = 0
        self._has_failed = False

    def __call__(self, event: Event) -> None:
        """Append what has been finished, every few seconds."""
        if not isinstance(event, Progress) or event.step != self._run.name or self._has_failed:
            return
        if self._clock() - self._last < EVERY_S:
            return
        self._last = self._clock()
        try:
            finished = self._stage.finished(self._next)
            self._next = finished.next
            self._append(finished.records)
            self._tell(event.total, event.done)
        except OSError as exc:
            self._has_failed = True
            self.remove()
            self._on_failure(cannot_write(self.path, self._n_bytes, exc))

    def write_all(self, table: Table) -> None:
        """What the step has finished when its run ends early. Raises CheckpointError."""
        try:
            self.close()
            self._n_bytes = 0
            self._entry.records = 0
            self._append(table.records)
            done = sum(c.status in _FINAL for c in self._run.calls)
            self._next = self._run.n_in
            self._tell(len(self._run.calls), done)
        except OSError as exc:
            self.remove()
            raise cannot_write(self.path, self._n_bytes, exc) from exc

    def close(self) -> None:
        """Close the file; what it holds stays."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove both files: the step's own takes their place, or they cannot be written."""
        self.close()
        for path in (self.path, self.progress_path):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _append(self, records: list[Record]) -> None:
        if self._file is None:
            # Private like the rest of the directory; a file of an earlier run is begun anew.
            flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0)
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")
        data = b"".join(encode(record) + b"\n" for record in records)
        self._n_bytes += len(data)
        self._entry.records += len(records)
        self._file.write(data)
        self._file.flush()

    def _tell(self, total: int, done: int) -> None:
        body = {
            "step_name": self._entry.name,
            "total_calls": total,
            "completed_calls": done,
            "last_record_index": self._next - 1,
            "records": self._entry.records,
            "updated_at": now(),
        }
        aside = self.progress_path.with_name(f".{self.progress_path.name}.000000000000.tmp")
        aside.write_bytes(json.dumps(body, indent=1).encode() + b"\n")
        os.replace(aside, self.progress_path)
