"""Checkpoints of a run: what is complete is read, what becomes complete is written.

The runner tells when a step has its records; this file knows the directory. The truth about
calls is the memo: an LLM step that was cut off is run again, and finds its answers there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datafast_nb.engine import flow
from datafast_nb.engine.changes import difference, entries_of, selection_of, selection_text
from datafast_nb.engine.context import CheckpointPlan, RunContext
from datafast_nb.engine.kept_steps import (
    Claim,
    facts_of,
    restore_context,
    restored_run,
    sections_of,
)
from datafast_nb.engine.partial import PartialOutput
from datafast_nb.engine.recheck import recheck
from datafast_nb.errors import CheckpointError, PipelineChangedError
from datafast_nb.lineage import Table
from datafast_nb.options import options
from datafast_nb.results import RunInfo
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import SinkStep, SourceStep
from datafast_nb.steps.llm import LLMStep
from datafast_nb.store.aside import remove_left_over, sync_folder
from datafast_nb.store.locks import FolderLock
from datafast_nb.store.manifest import (
    COMPLETE,
    IN_PROGRESS,
    MANIFEST_NAME,
    Manifest,
    StepEntry,
    is_step_file,
    load_manifest,
    set_aside,
)
from datafast_nb.store.stepfile import StepData, StepWriter, cannot_write, read_step


@dataclass
class Restored:
    """What a run need not do again."""

    runs: list[StepRun] = field(default_factory=list)
    """Of the steps from the first on, sinks among them included."""
    table: Table | None = None
    """Records that left the last of them."""
    limited: bool = False
    """A limit has left records out."""


class NoCheckpoint:
    """A run without checkpoint: nothing is read or written."""

    is_on = False
    failure: CheckpointError | None = None
    """Why the run had to stop, where the checkpoint is the cause."""

    def open(self, n_nodes: int, limited_at: int | None) -> Restored:
        """Take the directory and read what is complete of the first `n_nodes` steps.

        `limited_at` is the index of the step at whose entry a limit applies.
        """
        return Restored()

    def tee(self, run: StepRun, chunks: flow.Chunks) -> flow.Chunks:
        """The chunks, each written on its way."""
        return chunks

    def settle(self, *, limited: bool) -> None:
        """Streams so far were read as far as they are needed: their steps are complete."""

    def begin(self, run: StepRun, stage: Any) -> None:
        """An LLM step begins."""

    def save(self, run: StepRun, table: Table | None, *, limited: bool) -> None:
        """A step has its records; in a run that is ending these are not all."""

    def finish(self, info: RunInfo) -> None:
        """The run's sinks are written."""

    def close(self) -> None:
        """Let go of the directory; what was begun and not finished is removed."""


class Checkpoint(NoCheckpoint):
    """The checkpoint directory of one run. Errors are CheckpointErrors."""

    is_on = True

    def __init__(self, ctx: RunContext, plan: CheckpointPlan) -> None:
        self._ctx = ctx
        self._plan = plan
        self._folder = Path(os.path.abspath(os.path.expanduser(plan.folder)))
        self._lock: FolderLock | None = None
        self._manifest: Manifest | None = None
        self._streams: list[tuple[StepRun, StepWriter]] = []
        self._flat: dict[int, bool] = {}
        self._partials: dict[int, PartialOutput] = {}
        """Of the LLM steps that are asking."""
        self._used: dict[int, set[Claim]] = {}
        self._own_notes: set[str] = set()

    def open(self, n_nodes: int, limited_at: int | None) -> Restored:
        """Take the directory and read what is complete of the first `n_nodes` steps.

        Raises
        ------
        CheckpointError
            If the directory cannot be written, is in use, or is damaged.
        PipelineChangedError
            If it holds the checkpoint of another pipeline.
        """
        folder = self._folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
            self._lock.take()
            remove_left_over(folder)
            if self._lock.former:
                self._note(f"checkpoint {folder.name}: taken over from {self._lock.former}")
            former = self._former()
            made = self._new_manifest(limited_at)
            n_kept = 0 if former is None else self._keep(former, made)
            restored = self._restore(made, min(n_kept, n_nodes))
            self._manifest = made
            made.save(folder)  # also proves, before the first call, that the directory takes it
            sync_folder(folder)
            self._remove_files(made)
        except OSError as exc:
            raise CheckpointError(
                f"checkpoint_dir {folder} cannot be used: {exc.strerror or exc}. Name a directory "
                "that can be made and written; nothing has been asked",
                path=str(folder),
            ) from exc
        return restored

    # Reading.

    def _former(self) -> Manifest | None:
        """The manifest to go on from; None: start from the beginning."""
        folder, plan = self._folder, self._plan
        if not plan.resume and plan.resume_from is None:
            try:
                known = load_manifest(folder) is not None
            except CheckpointError:
                aside = set_aside(folder)
                self._note(f"checkpoint {folder.name}: the damaged manifest is now {aside}")
                known = True
            former = None
        else:
            former = load_manifest(folder)
            known = former is not None
        if not known:
            orphans = sorted(name for name in os.listdir(folder) if is_step_file(name))
            if orphans:
                raise CheckpointError(
                    f"{folder} holds {orphans[0]} but no {MANIFEST_NAME}, so nobody knows what it is "
                    "part of. Put the manifest back, or remove the step files, or name another "
                    "checkpoint_dir; nothing has been asked",
                    path=str(folder / MANIFEST_NAME),
                )
            if plan.resume_from is not None:
                raise CheckpointError(
                    f"{folder} holds no checkpoint, so there is nothing to go on from; leave out "
                    "resume_from= to make one",
                    path=str(folder),
                )
        return former

    def _new_manifest(self, limited_at: int | None) -> Manifest:
        settings = self._ctx.settings
        entries = entries_of(self._ctx.compiled)
        config = {
            "batch_size": settings.in_flight,
            "rate_limits": {
                str(getattr(key, "name", key)): limit.rpm
                for key, limit in settings.rate_limits.entries
            },
            "budget_usd": settings.budget_usd,
            "max_calls": settings.max_calls,
        }
        selection = selection_of(settings, limited_at)
        return Manifest(entries[-1].fingerprint, entries, selection, config)

    def _keep(self, former: Manifest, made: Manifest) -> int:
        """Take over the complete steps of the former manifest; their number."""
        compiled, plan, folder = self._ctx.compiled, self._plan, self._folder
        start = len(made.steps)
        if plan.resume_from is not None:
            start = compiled.index(plan.resume_from)
        changed = difference(former.steps, made.steps, start)
        if changed is not None:
            place, name, words = changed
            ways = "resume=False starts from the beginning"
            if place and plan.resume_from is None:
                into = compiled.names[min(place, len(compiled.names) - 1)]
                if place < len(compiled.names):
                    ways = f"resume_from={into!r} keeps what is before it, {ways}"
            raise PipelineChangedError(
                f"the pipeline is not the one whose checkpoint is in {folder}: step '{name}' "
                f"(number {place}) {'; '.join(words)}. {ways} (answers that were paid come from the "
                "memo either way); nothing has been asked",
                path=str(folder), step=name, changes=words,
            )  # fmt: skip
        if former.selection != made.selection:
            raise CheckpointError(
                f"the checkpoint in {folder} is of a run with {selection_text(former.selection)}, "
                f"this one has {selection_text(made.selection)}: they go through other records. Run "
                "with the same, or with another checkpoint_dir, or start again with resume=False "
                "(answers that were paid come from the memo); nothing has been asked",
                path=str(folder),
            )
        made.created_at = former.created_at
        for old, new in zip(former.steps[:start], made.steps[:start], strict=False):
            if isinstance(compiled.steps[new.index], SinkStep):
                continue
            if old.status != COMPLETE or old.file is None:
                return new.index
            new.status, new.records = COMPLETE, old.records
            new.file, new.trail, new.facts = old.file, old.trail, old.facts
        return start

    def _restore(self, made: Manifest, n: int) -> Restored:
        """Read the first `n` steps."""
        compiled = self._ctx.compiled
        restored = Restored()
        steps = compiled.steps
        while n and isinstance(steps[n - 1], SinkStep):
            n -= 1  # what follows the last records is done again: it costs nothing
        heads: list[tuple[StepRun, Table]] = []
        for entry in made.steps[:n]:
            step = steps[entry.index]
            run = StepRun(compiled.names[entry.index], entry.index, step, str(step._site or ""))
            if isinstance(step, SinkStep):
                table = restored.table or Table([], True, [])
                run.parents.add(len(table), len(table), None)
                run.n_in = run.n_out = run.fates.advanced = len(table)
                run.table = table
                restored.runs.append(run)
                continue
            is_small = entry.records <= options.keep_rows
            is_wanted = (
                is_small
                or isinstance(step, LLMStep)
                or entry.index + 1 == n
                or isinstance(steps[entry.index + 1], SinkStep)
            )
            data = read_step(
                self._folder, entry, remedy=_remedy(entry), keep=is_wanted, note=self._note
            )
            table = self._table(entry, run, data)
            restored.limited = restored.limited or bool(entry.facts["limited"])
            if is_small:
                run.table = table
                heads.append((run, table))
            restored.table = table if data.records is not None else None
            restored.runs.append(run)
        if restored.runs:
            n_records = len(restored.table or ())
            self._note(
                f"resumed from the checkpoint {self._folder.name} after step "
                f"'{restored.runs[-1].name}': {n_records:,} records"
            )
            recheck(heads, self._note)
        return restored

    def _table(self, entry: StepEntry, run: StepRun, data: StepData) -> Table:
        try:
            restored_run(run, entry.facts, data, entry.records)
            table = Table(data.records or [], entry.facts["flat"], data.row_ids, data.tokens)
            restore_context(self._ctx, run, table, data)
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            name = entry.trail.name if entry.trail is not None else MANIFEST_NAME
            raise CheckpointError(
                f"{self._folder / name} does not hold what this version writes ({exc!r}); "
                f"{_remedy(entry)}. Nothing has been asked",
                path=str(self._folder / name),
            ) from exc
        for text in entry.facts["said"]:
            self._ctx.note(text)
        if isinstance(run.step, SourceStep) and not run.step.content() and data.row_ids:
            # A second reading may give other rows; those that ran are not gone.
            self._ctx.add_rows(data.row_ids, are_all=True)
        return table

    # Writing.

    def tee(self, run: StepRun, chunks: flow.Chunks) -> flow.Chunks:
        """The chunks, each written on its way."""
        if self._ctx.ending is not None:
            yield from chunks
            return
        writer = StepWriter(self._folder, self._entry(run))
        self._streams.append((run, writer))
        self._flat[run.index] = True
        for chunk in chunks:
            writer.add(chunk.records, chunk.row_ids, chunk.tokens)
            self._flat[run.index] = self._flat[run.index] and chunk.flat
            yield chunk

    def settle(self, *, limited: bool) -> None:
        """Streams so far were read as far as they are needed: their steps are complete."""
        if self._ctx.ending is not None or not self._streams:
            return
        streams, self._streams = sorted(self._streams, key=lambda s: s[0].index), []
        try:
            for run, writer in streams:
                self._complete(run, writer, self._flat[run.index], limited)
        finally:
            for _, writer in streams:
                writer.discard()
        self._save_manifest()

    def begin(self, run: StepRun, stage: Any) -> None:
        """An LLM step begins: its partial file grows while it asks."""
        if self._ctx.ending is not None:
            return
        entry = self._entry(run)
        entry.status = IN_PROGRESS
        self._save_manifest()
        partial = PartialOutput(self._folder, entry, run, stage, self._stop)
        self._partials[run.index] = partial
        self._used[run.index] = stage.used
        self._ctx.bus.add(partial)

    def save(self, run: StepRun, table: Table | None, *, limited: bool) -> None:
        """A step has its records; in a run that is ending these are not all."""
        partial = self._partials.pop(run.index, None)
        if partial is not None:
            self._ctx.bus.remove(partial)
        if self._ctx.ending is not None:
            if partial is not None and self.failure is None:
                partial.write_all(table or Table([], True, []))
                self._save_manifest()
            if partial is not None:
                partial.close()
            return
        if table is None or isinstance(run.step, SinkStep):
            return
        writer = StepWriter(self._folder, self._entry(run))
        try:
            writer.add(table.records, table.row_ids, table.tokens)
            self._complete(run, writer, table.flat, limited)
        finally:
            writer.discard()
        self._save_manifest()
        if partial is not None:
            partial.remove()

    def finish(self, info: RunInfo) -> None:
        """The run's sinks are written."""
        if self._manifest is None or info.status not in ("complete", "limited"):
            return
        written = {name for name, _ in info.written}
        for run in info.steps:
            if isinstance(run.step, SinkStep) and run.name in written:
                entry = self._entry(run)
                entry.status, entry.records = COMPLETE, run.n_out
        self._save_manifest()

    def close(self) -> None:
        """Let go of the directory; what was begun and not finished is removed."""
        try:
            for _, writer in self._streams:
                writer.discard()
            self._streams = []
            for partial in self._partials.values():
                self._ctx.bus.remove(partial)
                partial.close()
            self._partials = {}
        finally:  # also where an interrupt comes in between: the process goes on
            if self._lock is not None:
                self._lock.release()

    def _note(self, text: str) -> None:
        """Tell of this run alone: a later one does not repeat it."""
        self._own_notes.add(text)
        self._ctx.note(text)

    def _stop(self, failure: CheckpointError) -> None:
        """The partial file cannot be written: ask nothing more."""
        self.failure = failure
        self._ctx.stop_event.set()

    def _complete(self, run: StepRun, writer: StepWriter, flat: bool, limited: bool) -> None:
        entry = self._entry(run)
        own = {(row.key, row.label) for row in run.calls}
        others = sorted(self._used.pop(run.index, set()) - own)
        entry.file, entry.trail = writer.finish(sections_of(run, others))
        entry.status, entry.records = COMPLETE, writer.n_records
        said = [text for text in self._ctx.notes.seen if text not in self._own_notes]
        entry.facts = facts_of(run, flat=flat, limited=limited, said=said)

    def _entry(self, run: StepRun) -> StepEntry:
        assert self._manifest is not None  # opened before the first step
        return self._manifest.steps[run.index]

    def _save_manifest(self) -> None:
        assert self._manifest is not None
        # What it names comes first; that it is late itself costs a step's work, and no call.
        sync_folder(self._folder)
        try:
            self._manifest.save(self._folder)
        except OSError as exc:
            raise cannot_write(self._folder / MANIFEST_NAME, 0, exc) from exc

    def _remove_files(self, made: Manifest) -> None:
        """Step files of former runs that the manifest does not name any more."""
        marks = [m.name for e in made.steps for m in (e.file, e.trail) if m is not None]
        for name in os.listdir(self._folder):
            if is_step_file(name) and name not in marks:
                os.unlink(self._folder / name)


def checkpoint_of(ctx: RunContext) -> NoCheckpoint:
    """The checkpoint that the run's settings ask for."""
    plan = ctx.settings.checkpoint
    return NoCheckpoint() if plan is None or ctx.settings.dry else Checkpoint(ctx, plan)


def _remedy(entry: StepEntry) -> str:
    if entry.index == 0:
        return "start again with resume=False (answers that were paid come from the memo)"
    return (
        f"run with resume_from={entry.name!r}: it keeps the steps before and does this one again "
        "(answers that were paid come from the memo)"
    )
