"""Reads orders from standard input and forks a life for each; see `nursery.py`.

An order is a JSON object: `url` of the server, `folder` to work in, and what is in `live`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import aiohttp  # noqa: F401  lives have it imported already
import diskcache  # noqa: F401
import orjson  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401

import datafast_nb as dfn
import datafast_nb.engine.runner
import datafast_nb.models.remote
import datafast_nb.pipeline
from datafast_nb.steps.filesink import FileSink
from datafast_nb.store.manifest import Manifest
from datafast_nb.store.memo import Memo, Reply
from datafast_nb.store.stepfile import StepWriter
from datafast_nb.store.writer import Writer

SINKS = {"jsonl": dfn.Sink.jsonl, "csv": dfn.Sink.csv, "parquet": dfn.Sink.parquet}


def pipeline_of(shape: int, url: str, out: str, *, width: int = 0, sink: str = "") -> Any:
    """A pipeline of 4 to 8 steps; the same for the same number.

    `width`: characters of a column that makes files large.
    """
    rng = random.Random(shape)
    model = dfn.OpenAICompatibleModel("stub", url)
    n = rng.randint(5, 12)
    texts = [f"fact {rng.randrange(n)}" for _ in range(n)]  # some twice
    pipe = dfn.Source.list([{"id": i, "text": t} for i, t in enumerate(texts)]).as_step("load")
    if rng.random() < 0.3:
        pipe = pipe >> dfn.Sample(n=n - 1, seed=shape).as_step("some")
    n_outputs = rng.choice([1, 1, 2, 3])
    pipe = pipe >> dfn.LLMStep(
        "ask {text}",
        output_columns=["q"],
        model=model,
        num_outputs=n_outputs,
        temperature=0 if n_outputs == 1 and rng.random() < 0.4 else None,
    ).as_step("ask")
    if n_outputs > 1 and rng.random() < 0.7:
        pipe = pipe >> dfn.Filter(fn=_is_early).as_step("early")
    if rng.random() < 0.6:
        pipe = pipe >> dfn.Map(_measured).as_step("measure")
    if rng.random() < 0.7:
        columns = ["a"] if rng.random() < 0.6 else ["a", "b"]
        pipe = pipe >> dfn.LLMStep("again {q}", output_columns=columns, model=model).as_step(
            "again"
        )
        if rng.random() < 0.3:
            # The same question once more: draws of its own.
            pipe = pipe >> dfn.LLMStep("again {q}", output_columns=["c"], model=model).as_step(
                "third"
            )
    if width:
        pipe = pipe >> dfn.Map(_Padding(width)).as_step("widen")
    kind = sink or rng.choice(["jsonl", "jsonl", "csv", "parquet"])
    return pipe >> SINKS[kind](out)


def _is_early(record: dict[str, Any]) -> bool:
    return bool(record["_output_index"] < 2)


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "n": len(record["q"])}


class _Padding:
    """Text that no compression makes small."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        noise = random.Random(record["id"]).randbytes(self.width // 2).hex()
        return {**record, "pad": noise}


def kill_at_touch(n: int) -> None:
    """kill -9 before or after the n-th sync, rename or removal of a file."""
    left = [n]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("fsync", "replace", "unlink"):
        real = getattr(os, name)

        def call(*args: Any, real: Callable[..., Any] = real, **kw: Any) -> Any:
            tick()
            done = real(*args, **kw)
            tick()
            return done

        setattr(os, name, call)


def tell_acknowledged(path: str) -> None:
    """Append a line to the file for every reply of which the memo says that it is stored.

    Before the engine hears of it, so that there can be no more than it knows.
    """
    acks = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    real = Memo.put

    def put(
        self: Memo, key: str, label: str, reply: Reply, *, done: Callable[..., None], **kw: Any
    ) -> None:
        line = json.dumps([key, label, reply.text]).encode() + b"\n"

        def told(error: BaseException | None) -> None:
            if error is None:
                os.write(acks, line)
            done(error)

        real(self, key, label, reply, done=told, **kw)

    Memo.put = put  # type: ignore[method-assign, assignment]


# What is about to write where the disk is full from then on: owner and name.
_WRITERS: dict[str, tuple[Any, str]] = {
    "log": (Writer, "_commit"),
    "memo": (Writer, "_commit"),
    "step": (StepWriter, "add"),
    "trail": (StepWriter, "finish"),
    "manifest": (Manifest, "save"),
    "sink": (FileSink, "write"),
}


def fill_disk(folder: str, where: str, nth: int, room: int) -> None:
    """From the nth write of that kind on no file can grow beyond `room` bytes.

    With "log" the memo's log has `room` beyond what it holds then, and so have small files
    beside it. `full_at` gets the time of the first
    write that fails, `former` the manifest as it was before.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    left = [nth]
    for kind, (owner, name) in _WRITERS.items():
        real = getattr(owner, name)

        def call(*args: Any, kind: str = kind, real: Callable[..., Any] = real, **kw: Any) -> Any:
            left[0] -= kind == where
            if left[0] == 0 and kind == where:
                taken = os.path.getsize(os.path.join(folder, "home", "memo", "cache.db-wal"))
                limit = room + (taken if where == "log" else 0)
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            former = read(folder + "/ck/manifest.json") if kind == "manifest" else None
            try:
                return real(*args, **kw)
            except Exception:
                note(folder + "/full_at", str(time.monotonic()).encode())
                if former is not None:
                    note(folder + "/former", former)
                raise

        setattr(owner, name, call)


def note(path: str, text: bytes) -> None:
    """A file as the first caller wants it, disk full or not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(text)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def live(order: dict[str, Any]) -> None:
    folder = order["folder"]
    dfn.options.home = folder + "/home"
    dfn.options.lock_wait_s = order.get("lock_wait_s", 30.0)
    out = folder + "/out"
    pipe = pipeline_of(
        order["shape"],
        order["url"],
        out,
        width=order.get("width", 0),
        sink=order.get("sink", ""),
    )
    tell_acknowledged(folder + "/acks")
    if order.get("die_at"):
        kill_at_touch(order["die_at"])
    if order.get("full"):
        fill_disk(folder, *order["full"])
    settings: dict[str, Any] = {"max_concurrent": order["in_flight"], "show_progress": False}
    if order.get("checkpoint"):
        settings.update(checkpoint_dir=folder + "/ck", resume=True)
    try:
        result = pipe.run(**settings)
    except dfn.DatafastError as exc:
        if not order.get("full"):
            raise
        note(folder + "/error.json", json.dumps([type(exc).__name__, str(exc)]).encode())
        return
    lineage = [(c.key, c.label, c.values) for c in result.call_rows]
    parents = [list(s.parents.all()) for s in result.info.steps]
    rows = [list(r.items()) for r in result]
    text = json.dumps([rows, lineage, result.info.row_ids, parents])
    note(folder + "/result.json", text.encode())


def main() -> None:
    while line := sys.stdin.readline():
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                live(order)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()  # until then its id stays its own, also when it has ended
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
