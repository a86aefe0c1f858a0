"""Free steps: records in chunks from the source, through functions and choices, lazily.

Record-wise steps stream, so that a limit reads no more of a source than it needs. User
functions run on the thread of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from datafast_nb.engine.context import RunContext
from datafast_nb.errors import RecordError
from datafast_nb.lineage import Table, child_ids
from datafast_nb.options import options
from datafast_nb.records import Record, RowIds, copy_record, normalise_records
from datafast_nb.runs import StepRun
from datafast_nb.steps.base import ChoiceStep, ChunkStep, SourceStep, Step

CHUNK = 1024  # larger ones fall out of the processor's cache between two steps
SLICE_S = 0.05
SMALLEST_CHUNK = 16

Chunks = Iterator[Table]


def where_in(run: StepRun, offset: int) -> Callable[[int], str]:
    """Names a record of a chunk that starts at `offset`, for errors."""
    site = f" ({run.site})" if run.site else ""
    return lambda i: f"step '{run.name}'{site}, record {offset + i}"


def chunk_size(ctx: RunContext) -> int:
    """Records a chunk: small ones where only few records are wanted or time is short."""
    settings = ctx.settings
    if settings.deadline is not None:
        return 1
    if settings.source_rows is not None:
        return min(CHUNK, max(1, settings.source_rows))
    wanted = settings.limit if settings.one is None else settings.one + 1
    if settings.where is not None or wanted is None:
        return CHUNK
    return min(CHUNK, max(SMALLEST_CHUNK, wanted))


def read_source(ctx: RunContext, run: StepRun, source: SourceStep, *, with_ids: bool) -> Chunks:
    """Chunks of a source's rows, normalised, with their identities if some step needs them."""
    given = getattr(source, "row_ids", None)
    given_tokens = getattr(source, "tokens", None)
    ids = RowIds() if with_ids and given is None else None
    keep = _Keeper(run)
    bound = ctx.settings.source_rows
    n = 0
    for raw in source.read(chunk_size(ctx)):
        ctx.check_stop()
        rows = raw if bound is None else raw[: bound - n]

        def place(i: int, n: int = n) -> str:
            return f"step '{run.name}', {source.place(n + i)}"

        records, flat = normalise_records(
            rows, where=place, notes=ctx.notes, from_frame=source.from_frame, copy=False
        )
        row_ids = None
        if given is not None:
            row_ids = list(given[n : n + len(records)])
        elif ids is not None:
            row_ids = ids.take(records)
        tokens = None if given_tokens is None else list(given_tokens[n : n + len(records)])
        chunk = Table(records, flat, row_ids, tokens, is_shared=True)
        n += len(records)
        run.n_out = n
        run.parents.add(0, len(records), None)
        keep.add(chunk)
        if records:
            yield chunk
        if bound is not None and n >= bound:
            run.is_partial = True
            break
        if ctx.past_deadline:
            run.is_partial = True
            break


def through(ctx: RunContext, run: StepRun, step: ChunkStep, chunks: Chunks) -> Chunks:
    """Chunks after a record-wise step."""
    # Steps in a row are one loop: generators inside each other are as deep as Python allows at most.
    stream = chunks if isinstance(chunks, _Stream) else _Stream(chunks)
    stream.stages.append(_Stage(ctx, run, step))
    return stream


class _Stream(Iterator[Table]):
    """Chunks after several record-wise steps."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self.stages: list[_Stage] = []

    def __next__(self) -> Table:
        for chunk in self._chunks:
            made = chunk
            for stage in self.stages:
                try:
                    made = stage.take(made)
                except PreviewTimeUp:
                    stage.run.is_partial = True
                    self.close()
                    return next(self)
                if not made.records:
                    break
            else:
                return made
        for stage in self.stages:
            stage.end()
        raise StopIteration

    def close(self) -> None:
        """Read no further."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        self._chunks = iter(())


class _Stage:
    """A record-wise step on the way of chunks."""

    def __init__(self, ctx: RunContext, run: StepRun, step: ChunkStep) -> None:
        self._ctx = ctx
        self.run = run
        self._step = step
        self._keep = _Keeper(run)
        self._pace = _Pace()
        self._fan_out = ctx.fan_outs.get(run.index, 0)

    def take(self, chunk: Table) -> Table:
        """What the step makes of a chunk."""
        ctx, run, fan_out = self._ctx, self.run, self._fan_out
        ctx.check_stop()
        where = where_in(run, run.n_in)
        out, parents, is_user_made = _in_slices(ctx, self._pace, self._step, chunk, where)
        flat = chunk.flat
        if is_user_made:
            out, flat = normalise_records(out, where=where, notes=ctx.notes)
        ids, tokens = chunk.row_ids, chunk.tokens
        if parents is not None:
            ids = None if ids is None else child_ids(ids, parents, fan_out)
            tokens = None if tokens is None else child_ids(tokens, parents, fan_out)
        run.parents.add(len(chunk), len(out), parents)
        run.n_in += len(chunk)
        run.n_out += len(out)
        made = Table(out, flat, ids, tokens, chunk.is_shared and not is_user_made)
        self._keep.add(made)
        return made

    def end(self) -> None:
        """All chunks are through."""
        run = self.run
        run.fates.advanced = run.parents.n_parents
        run.fates.filtered = run.n_in - run.parents.n_parents


class PreviewTimeUp(Exception):
    """A preview has used its time in the middle of a chunk."""


@dataclass(slots=True)
class _Pace:
    """Records a slice: as many as take some 50 ms, so that a stop is seen soon."""

    size: int = 1

    def adapt(self, seconds: float) -> None:
        """Choose the next slice by how long the last one took."""
        if seconds < SLICE_S / 2:
            self.size = min(CHUNK, self.size * 4)
        elif seconds > SLICE_S * 2:
            self.size = max(1, self.size // 4)


def _in_slices(
    ctx: RunContext, pace: _Pace, step: ChunkStep, chunk: Table, where: Callable[[int], str]
) -> tuple[list[Any], list[int] | None, bool]:
    """`step.run_chunk` on a chunk in slices; between them a stop is looked for."""
    records = chunk.records
    if pace.size >= len(records):
        started = time.perf_counter()
        made = step.run_chunk(records, flat=chunk.flat, where=where)
        pace.adapt(time.perf_counter() - started)
        return made
    out: list[Any] = []
    parents: list[int] | None = None
    is_user_made = True
    start = 0
    while start < len(records):
        ctx.check_stop()
        if ctx.past_deadline:
            raise PreviewTimeUp
        at = start
        part = records[at : at + pace.size]
        started = time.perf_counter()
        some, origins, is_user_made = step.run_chunk(
            part, flat=chunk.flat, where=partial(_further, where, at)
        )
        pace.adapt(time.perf_counter() - started)
        out.extend(some)
        if origins is not None:
            parents = parents if parents is not None else []
            parents.extend(at + p for p in origins)
        start += len(part)
    return out, parents, is_user_made


def _further(where: Callable[[int], str], offset: int, index: int) -> str:
    return where(offset + index)


def gather(chunks: Chunks, need: int | None = None) -> tuple[Table, bool]:
    """All records of the chunks, or at least `need` of them; and whether the end was reached."""
    records: list[Record] = []
    ids: list[str] | None = []
    tokens: list[str] | None = []
    flat = True
    is_shared = False
    ended = True
    for chunk in chunks:
        records.extend(chunk.records)
        flat = flat and chunk.flat
        is_shared = is_shared or chunk.is_shared
        if chunk.row_ids is None:
            ids = None
        elif ids is not None:
            ids.extend(chunk.row_ids)
        if chunk.tokens is None:
            tokens = None
        elif tokens is not None:
            tokens.extend(chunk.tokens)
        if need is not None and len(records) >= need:
            ended = False
            break
    close = getattr(chunks, "close", None)
    if close is not None and not ended:
        close()
    return Table(records, flat, ids, tokens if records else None, is_shared), ended


def choose(ctx: RunContext, run: StepRun, step: ChoiceStep, table: Table) -> Table:
    """The records that a choice keeps."""
    indices = step.choose(table.records, table.row_ids or [])
    out = table.take(indices)
    if run.index in ctx.fan_outs and table.row_ids is not None:
        out.row_ids = child_ids(table.row_ids, indices, ctx.fan_outs[run.index])
        if table.tokens is not None:
            out.tokens = child_ids(table.tokens, indices, ctx.fan_outs[run.index])
    run.parents.add(len(table), len(out), indices)
    run.n_in, run.n_out = len(table), len(out)
    run.fates.advanced = run.parents.n_parents
    run.fates.filtered = len(table) - run.parents.n_parents
    keep_table(run, out)
    return out


def process(ctx: RunContext, run: StepRun, step: Step, table: Table) -> Table:
    """The records that a user's own step makes of all records."""
    copies: list[Record] = []  # kept alive, so that an id stands for one record
    place_of: dict[int, int] = {}
    into = dict(step.input_mappings or {})
    back = dict(step.output_mappings or {})

    def given() -> Iterator[Record]:
        for record in table.records:
            ctx.check_stop()
            copy = record.copy() if table.flat else copy_record(record)
            if into:
                for here, inside in into.items():
                    if here in copy and inside in copy and inside not in into:
                        raise RecordError(
                            f"step '{run.name}': input_mappings calls column {here!r} {inside!r} "
                            f"inside the step, but the records have a column {inside!r} as well; "
                            "rename or drop it in a Map before the step"
                        )
                copy = {into.get(k, k): v for k, v in copy.items()}
            copies.append(copy)
            place_of[id(copy)] = len(copies) - 1
            yield copy

    step.load()
    try:
        made = step.process(given())
        if made is None:
            raise TypeError("process(records) returned None; return or yield the records")
        raw = list(made)
    except Exception as exc:
        exc.add_note(f"in process() of {where_in(run, 0)(0).rpartition(',')[0]}")
        raise
    finally:
        step.unload()
    out, flat = normalise_records(raw, where=where_in(run, 0), notes=ctx.notes)
    if into or back:
        names = {**{v: k for k, v in into.items()}, **back}
        out = [{names.get(k, k): v for k, v in r.items()} for r in out]
    ids, tokens = table.row_ids, table.tokens
    run.n_in, run.n_out = len(table), len(out)
    # A step that filters, sorts or fills in gives back the records it was given.
    origins = [place_of.get(id(r), -1) for r in raw]
    if -1 not in origins and len(set(origins)) == len(origins):
        run.parents.add(len(table), len(out), origins)
        run.fates.advanced = len(out)
        run.fates.filtered = len(table) - len(out)
        ids = None if ids is None else [ids[i] for i in origins]
        tokens = None if tokens is None else [tokens[i] for i in origins]
    elif len(out) == len(table):
        run.parents.add(len(table), len(out), None)
        run.fates.advanced = len(out)
    else:
        run.parents.known = False
        run.fates.advanced = min(len(table), len(out))
        run.fates.filtered = len(table) - run.fates.advanced
        run.notes.append("changed the number of records: lineage does not reach through it")
        tokens = None
        if ids is not None:
            ids = RowIds(run.name.encode()[:32]).take(out)
            ctx.add_rows(ids, are_all=not run.is_partial)
    result = Table(out, flat, ids, tokens)
    keep_table(run, result)
    return result


def keep_table(run: StepRun, table: Table) -> None:
    """Keep a step's records with the result, where they are few enough."""
    run.table = table if len(table) <= options.keep_rows else None


class _Keeper:
    """Keeps the chunks that leave a step until they are too many."""

    def __init__(self, run: StepRun) -> None:
        self._run = run
        run.table = Table([], True, [], [])

    def add(self, chunk: Table) -> None:
        table = self._run.table
        if table is None:
            return
        if len(table) + len(chunk) > options.keep_rows:
            self._run.table = None
            return
        table.records.extend(chunk.records)
        table.is_shared = table.is_shared or chunk.is_shared
        table.flat = table.flat and chunk.flat
        if chunk.row_ids is None:
            table.row_ids = None
        elif table.row_ids is not None:
            table.row_ids.extend(chunk.row_ids)
        if chunk.tokens is None:
            table.tokens = None
        elif table.tokens is not None:
            table.tokens.extend(chunk.tokens)
