"""Small pipelines from plain data, whose models log every reply that they give out.

Also used by processes that are killed: importable without pytest.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datafast_nb as dfn
from datafast_nb.models.base import Request, Response, Usage

Spec = list[tuple[str, int, int]]
"""(kind, setting, version) of each step behind the source; another version is an edit."""

KINDS = ("filter", "map", "fan", "ask", "ask", "ask", "sample", "sink")


class Log:
    """Replies given out, by prompt; a line each in a file, so that a killed process counts too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, prompt: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, json.dumps(prompt).encode() + b"\n")
        finally:
            os.close(descriptor)

    def counts(self) -> Counter[str]:
        """How often each prompt was answered."""
        if not self._path.exists():
            return Counter()
        return Counter(map(json.loads, self._path.read_text().splitlines()))


def answering(log: Log, before: Callable[[], None] = lambda: None) -> Callable[[Request], Response]:
    """Answers by the prompt alone: most are good, some never are."""

    def answer(request: Request) -> Response:
        before()
        prompt = request.messages[0]["content"]
        draw = blake2b(prompt.encode(), digest_size=4).hexdigest()
        mood = int(draw, 16) % 23
        if mood == 0:  # not paid, and not stored
            raise dfn.LLMError("no", kind="bad_request", status=400)
        log.add(prompt)
        if mood == 1:
            return Response("I will not", finish="refused", usage=Usage(3, 3))
        if mood == 2:
            return Response("and then", finish="length", usage=Usage(3, 3))
        if mood == 3:
            return Response(" ", usage=Usage(3, 3))
        if request.schema is None:
            return Response(f"r{draw}", usage=Usage(3, 3))
        made = {name: f"r{draw} {name}" for name in request.schema["properties"]}
        return Response(json.dumps(made), usage=Usage(3, 3))

    return answer


class Fuse:
    """Counts the calls of user functions; the last one burns it."""

    def __init__(self, n: int | None = None) -> None:
        self.left = n

    def burn(self) -> None:
        """Count a call; raise Died at the last one."""
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Died


class Died(BaseException):
    """Nothing of the package catches it: the run ends as if the process did."""


def build(spec: Spec, n_rows: int, folder: Path, model: dfn.FakeModel, fuse: Fuse) -> dfn.Pipeline:
    """The pipeline, its last step a file."""
    rows = [{"id": i, "n": i, "last": f"fact {i}"} for i in range(n_rows)]
    made = dfn.Source.list(rows).as_step("s0")
    for number, (kind, k, version) in enumerate(spec, start=1):
        step = _step(kind, k, version, number, folder, model, fuse)
        made = made >> step.as_step(f"s{number}")
    return made >> dfn.Sink.jsonl(folder / "out.jsonl").as_step("end")


def _step(
    kind: str,
    k: int,
    version: int,
    number: int,
    folder: Path,
    model: dfn.FakeModel,
    fuse: Fuse,
) -> dfn.Step:
    v = version

    def keeps(record: dict[str, Any]) -> bool:
        fuse.burn()
        return (record["n"] + k + v) % 3 != 0

    def changed(record: dict[str, Any]) -> dict[str, Any]:
        fuse.burn()
        return {**record, "n": record["n"] * 5 % 7 + v}

    def fanned(record: dict[str, Any]) -> list[dict[str, Any]]:
        fuse.burn()
        return [{**record, "n": record["n"] + j} for j in range((record["id"] + k + v) % 3)]

    if kind == "filter":
        return dfn.Filter(keeps)
    if kind == "map":
        return dfn.Map(changed)
    if kind == "fan":
        return dfn.FlatMap(fanned)
    if kind == "sample":
        return dfn.Sample(n=4 + k + v, seed=7)
    if kind == "sink":
        return dfn.Sink.jsonl(folder / f"middle{number}-{v}.jsonl")
    return dfn.LLMStep(
        f"step {number} v{v} of {{id}}: {{last}} {{n}}",
        output_columns=["last"] if k < 2 else ["last", f"c{number}"],
        overwrite=True,
        model=model,
        num_outputs=1 + k % 2,
        temperature=0.7,
        on_error="retry" if k == 3 else "skip",
        max_retries=2,
        retry_delay=0.0,
    )


def run(
    spec: Spec, n_rows: int, folder: Path, *, in_flight: int, fuse: Fuse | None = None, **how: Any
) -> dfn.Result:
    """Run with a checkpoint; a run that lost every record gives what it had."""
    log = Log(folder / "asked.jsonl")
    before = how.pop("before", lambda: None)
    model = dfn.FakeModel(answering(log, before), latency_s=0.001)
    pipeline = build(spec, n_rows, folder, model, fuse or Fuse())
    try:
        return pipeline.run(
            checkpoint_dir=folder / "ck", max_concurrent=in_flight, show_progress=False, **how
        )
    except dfn.LLMError as exc:
        assert "lost every record" in str(exc)
        result: dfn.Result = exc.result
        return result


def story(result: dfn.Result) -> str:
    """Everything that a resumed run must have in common with a straight one."""
    steps = result.info.steps
    return repr(
        (
            list(result),
            [(s.name, s.n_in, s.n_out, s.fates, s.partly_failed) for s in steps],
            [list(s.parents.all()) for s in steps[1:]],
            sorted((c.key, c.label, c.verdict, c.step, c.record) for c in result.call_rows),
            [(e.step, e.record, e.kind, e.input) for e in result.errors],
            result.info.row_ids,
            result.status,
        )
    )
