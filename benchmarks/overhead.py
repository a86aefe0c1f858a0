"""What the engine costs, next to the plainest code that does the same work.

``python benchmarks/overhead.py`` prints a table and writes nothing; ``--quick`` takes a tenth of
the work and one pair each, to see that everything runs. benchmarks/README.md says what the
figures mean.

Every measurement runs in a process of its own (this script with ``--task``); ours and the plain
code take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
STUB = ROOT / "tests" / "stub_server.py"

PROMPT = "Write one question that this text answers, and nothing else.\n\nText {id}: {text}"
TEXT = (
    "The lighthouse at the mouth of the river was built of grey granite, quarried two days' "
    "walk inland and brought down on barges in spring, when the water stood high enough. "
    "Its keeper wrote down the weather every four hours for thirty-one years, and those "
    "notebooks are the longest record of wind that anyone has for this stretch of the coast. "
)
MODEL_NAME = "stub-model"


# The work, and the plain code that does it.


def articles(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"{TEXT}({i})"} for i in range(n)]


def question_pipeline(n: int, model: Any) -> Any:
    import datafast_nb as dfn

    step = dfn.LLMStep(prompt=PROMPT, output_columns="question", model=model)
    return dfn.Source.list(articles(n)) >> step


def requests_of(n: int) -> list[Any]:
    """The requests that `question_pipeline` asks."""
    from datafast_nb.models.base import Request

    return [
        Request(({"role": "user", "content": PROMPT.format_map(record)},)) for record in articles(n)
    ]


async def raw_http(bodies: Sequence[dict[str, Any]], url: str, in_flight: int) -> list[str]:
    import aiohttp

    answers = [""] * len(bodies)
    todo = iter(enumerate(bodies))

    async def work(session: aiohttp.ClientSession) -> None:
        for i, body in todo:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                reply = await response.json()
            answers[i] = reply["choices"][0]["message"]["content"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))
    return answers


async def raw_fake(model: Any, requests: Sequence[Any]) -> list[str]:
    return [(await model.complete(request)).text for request in requests]


def plain_records(n: int) -> list[dict[str, Any]]:
    languages = ("en", "de", "fr", "pt", "fi")
    return [
        {"id": i, "title": f"article number {i}", "language": languages[i % 5], "words": i % 997}
        for i in range(n)
    ]


def is_long(record: dict[str, Any]) -> bool:
    return bool(record["words"] >= 100)


def with_minutes(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "minutes": record["words"] / 200}


# Tasks: each runs in a fresh process and returns what it measured.


@contextmanager
def fresh_home() -> Iterator[Path]:
    """An empty memo for the runs inside."""
    import datafast_nb as dfn

    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        before, dfn.options.home = dfn.options.home, Path(folder)
        try:
            yield Path(folder)
        finally:
            dfn.memo.close()
            dfn.options.home = before


class Stub:
    """The stub server in its own process, and what it counted."""

    def __init__(self, latency_ms: float) -> None:
        command = [sys.executable, str(STUB), "--port", "0", "--latency-ms", str(latency_ms)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip():
            raise RuntimeError("the stub server did not start")
        self.root = f"http://127.0.0.1:{int(line)}"
        self.url = f"{self.root}/v1"

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def reset(self) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/reset", method="POST")).read()

    def check(self, n_calls: int, in_flight: int) -> None:
        stats = json.load(urllib.request.urlopen(f"{self.root}/stats"))
        if stats["requests"] != n_calls:
            raise RuntimeError(f"{stats['requests']} requests arrived, not {n_calls}")
        if stats["max_in_flight"] > in_flight:
            raise RuntimeError(f"{stats['max_in_flight']} in flight, not {in_flight}")


@dataclass
class Timed:
    wall_s: float
    cpu_s: float
    """Of all threads of this process."""
    value: Any

    @classmethod
    def of(cls, work: Callable[[], Any]) -> Timed:
        gc.collect()
        cpu, wall = time.process_time(), time.perf_counter()
        value = work()
        return cls(time.perf_counter() - wall, time.process_time() - cpu, value)


def task_http(n: int, in_flight: int, latency_ms: float, pairs: int) -> dict[str, Any]:
    import datafast_nb as dfn
    from datafast_nb.models.openai import request_body

    with Stub(latency_ms) as stub:
        model = dfn.OpenAICompatibleModel(MODEL_NAME, stub.url)

        def ours(size: int) -> tuple[float, float]:
            pipeline = question_pipeline(size, model)
            stub.reset()
            with fresh_home():
                run = Timed.of(lambda: pipeline.run(max_concurrent=in_flight, show_progress=False))
            check_answers([record["question"] for record in run.value], size)
            stub.check(size, in_flight)
            return run.wall_s, run.cpu_s

        def raw(size: int) -> tuple[float, float]:
            bodies = [
                request_body(MODEL_NAME, r, structured="json_schema") for r in requests_of(size)
            ]
            stub.reset()
            run = Timed.of(lambda: asyncio.run(raw_http(bodies, stub.url, in_flight)))
            check_answers(run.value, size)
            stub.check(size, in_flight)
            return run.wall_s, run.cpu_s

        ours(in_flight)  # what is imported or built once per process, on both sides
        raw(in_flight)
        return {"pairs": [(ours(n), raw(n)) for _ in range(pairs)]}


def check_answers(answers: Sequence[str], n: int) -> None:
    if len(answers) != n or not all(answers):
        raise RuntimeError(f"{sum(map(bool, answers))} answers came back, not {n}")


def task_fake(n: int, pairs: int) -> dict[str, Any]:
    import datafast_nb as dfn

    def ours(size: int) -> float:
        pipeline = question_pipeline(size, dfn.FakeModel())
        with fresh_home():
            run = Timed.of(lambda: pipeline.run(show_progress=False))
        check_answers([record["question"] for record in run.value], size)
        return run.cpu_s

    def raw(size: int) -> float:
        model, requests = dfn.FakeModel(), requests_of(size)
        run = Timed.of(lambda: asyncio.run(raw_fake(model, requests)))
        check_answers(run.value, size)
        return run.cpu_s

    ours(100)
    raw(100)
    return {"pairs": [(ours(n), raw(n)) for _ in range(pairs)]}


def task_replay(n: int, repeats: int, home: str) -> dict[str, Any]:
    """Time `run()` of a pipeline; the memo in `home` holds its answers, or will afterwards."""
    import datafast_nb as dfn

    dfn.options.home = Path(home)
    model = dfn.FakeModel()
    pipeline = question_pipeline(n, model)
    seconds = []
    for _ in range(repeats):
        run = Timed.of(lambda: pipeline.run(show_progress=False))
        check_answers([record["question"] for record in run.value], n)
        seconds.append(run.wall_s)
    return {"seconds": seconds, "calls": model.calls}


def task_records(n: int, kind: str) -> dict[str, Any]:
    """Filter and Map over plain records, by us or by generators: seconds and bytes."""
    import datafast_nb as dfn

    def ours(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        steps = dfn.Source.list(records) >> dfn.Filter(is_long) >> dfn.Map(with_minutes)
        return steps.run(show_progress=False)  # type: ignore[no-any-return]

    def plain(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = (record for record in records if is_long(record))
        return list(with_minutes(record) for record in kept)  # noqa: C400  # two generators

    work = ours if kind == "ours" else plain
    with fresh_home():
        expected = plain(plain_records(1000))
        if list(work(plain_records(1000))) != expected:
            raise RuntimeError("ours and plain generators do not agree")
        gc.collect()
        empty = peak_bytes()
        records = plain_records(n)
        base = peak_bytes()
        run = Timed.of(lambda: work(records))
        peak = peak_bytes()
        n_kept = sum(map(is_long, records))
        if len(run.value) != n_kept:
            raise RuntimeError(f"{len(run.value)} records came out, not {n_kept}")
    return {"seconds": run.wall_s, "records_bytes": base - empty, "growth_bytes": peak - base}


def peak_bytes() -> int:
    """Largest resident size of this process so far.

    Only ever read where the size has just grown: the largest is then the present one.
    """
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def task_import(names: str) -> dict[str, Any]:
    started = time.perf_counter()
    import datafast_nb as dfn

    for name in dfn.__all__ if names == "all" else ():
        getattr(dfn, name)
    return {"seconds": time.perf_counter() - started}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "http": task_http,
    "fake": task_fake,
    "replay": task_replay,
    "records": task_records,
    "import": task_import,
}


def run_task(name: str, **arguments: Any) -> dict[str, Any]:
    """Run a task in a fresh process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DATAFAST_NB_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    command = [sys.executable, str(HERE), "--task", name, json.dumps(arguments)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the task {name} failed: {arguments}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# Figures.


@dataclass
class Figure:
    """One line of the table: the median of `values` counts against the target."""

    what: str
    values: list[float]
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    detail: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {show(self.at_most, self.unit)}"
        return "" if self.at_least is None else f"≥ {show(self.at_least, self.unit)}"

    @property
    def met(self) -> str:
        if self.at_most is not None:
            return "yes" if self.median <= self.at_most else "NO"
        if self.at_least is not None:
            return "yes" if self.median >= self.at_least else "NO"
        return ""

    def cells(self) -> tuple[str, ...]:
        low, high = show(min(self.values), self.unit), show(max(self.values), self.unit)
        spread = f"{low} – {high}" if len(self.values) > 1 else ""
        return self.what, show(self.median, self.unit), spread, self.target, self.met, self.detail


def show(value: float, unit: str) -> str:
    if unit == "×":
        return f"{value:.2f}×"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3f} {unit}"


def http_figure(n: int, in_flight: int, latency_ms: float, target: float, pairs: int) -> Figure:
    got = run_task("http", n=n, in_flight=in_flight, latency_ms=latency_ms, pairs=pairs)["pairs"]
    ours, raw = [p[0] for p in got], [p[1] for p in got]
    wall = [statistics.median(w for w, _ in side) for side in (ours, raw)]
    cpu = [statistics.median(c for _, c in side) / n * 1e3 for side in (ours, raw)]
    return Figure(
        f"{n:,} calls of {latency_ms:g} ms, {in_flight} in flight",
        [o[0] / r[0] for o, r in got],
        "×",
        at_most=target,
        detail=(
            f"{wall[0]:.2f} s, raw {wall[1]:.2f} s; CPU {cpu[0]:.3f} ms a call, raw {cpu[1]:.3f} ms"
        ),
    )


def fake_figure(n: int, pairs: int) -> Figure:
    got = run_task("fake", n=n, pairs=pairs)["pairs"]
    ours, raw = (statistics.median(p[i] for p in got) / n * 1e3 for i in (0, 1))
    return Figure(
        f"engine CPU over a FakeModel loop, {n:,} calls",
        [(o - r) / n * 1e3 for o, r in got],
        "ms/call",
        at_most=0.3,
        detail=f"{ours:.3f} ms a call, loop {raw:.3f} ms",
    )


def replay_figures(n: int, repeats: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="overhead-") as home:
        first = run_task("replay", n=n, repeats=1 + repeats, home=home)
        fresh = [run_task("replay", n=n, repeats=1, home=home) for _ in range(repeats)]
    if first["calls"] != n or any(f["calls"] for f in fresh):
        raise SystemExit("memoized answers were asked for again")
    rates = {
        "fresh process": [n / f["seconds"][0] for f in fresh],
        "same process": [n / s for s in first["seconds"][1:]],
    }
    return [
        Figure(
            f"replay of {n:,} memoized answers, {where}",
            values,
            "records/s",
            at_least=20_000,
            detail=f"{n / statistics.median(values):.3f} s a run",
        )
        for where, values in rates.items()
    ]


def record_figures(n: int, pairs: int) -> list[Figure]:
    ours, plain = [], []
    for _ in range(pairs):
        ours.append(run_task("records", n=n, kind="ours"))
        plain.append(run_task("records", n=n, kind="plain"))
    wall = [statistics.median(r["seconds"] for r in side) for side in (ours, plain)]
    size = statistics.median(r["records_bytes"] for r in ours)
    grown = [statistics.median(r["growth_bytes"] for r in side) for side in (ours, plain)]
    return [
        Figure(
            f"{n:,} records through Filter and Map, time",
            [o["seconds"] / p["seconds"] for o, p in zip(ours, plain, strict=True)],
            "×",
            at_most=4,
            detail=f"{wall[0]:.2f} s, generators {wall[1]:.2f} s",
        ),
        Figure(
            f"{n:,} records through Filter and Map, memory over the records' own",
            [o["growth_bytes"] / o["records_bytes"] for o in ours],
            "×",
            at_most=2,
            detail=(
                f"{grown[0] / 1e6:.0f} MB, generators {grown[1] / 1e6:.0f} MB, "
                f"records {size / 1e6:.0f} MB"
            ),
        ),
    ]


def import_figures(tries: int) -> list[Figure]:
    times: dict[str, list[float]] = {"package": [], "all": []}
    for names, found in times.items():
        run_task("import", names=names)  # bytecode and the disk's cache
        found += [run_task("import", names=names)["seconds"] for _ in range(tries)]
    return [
        Figure("import datafast_nb, best", [min(times["package"])], "s", at_most=0.3),
        Figure("import and every public name, best", [min(times["all"])], "s"),
    ]


def measure(quick: bool) -> Iterator[Figure]:
    pairs = 1 if quick else 3
    part = 10 if quick else 1
    yield http_figure(1_000 // part, 50, 100, 1.25, pairs)
    yield http_figure(2_000 // part, 100, 0, 3, pairs)
    yield http_figure(10_000 // part, 200, 20, 2, pairs)
    yield fake_figure(10_000 // part, pairs)
    yield from replay_figures(10_000 // part, pairs)
    yield from record_figures(1_000_000 // part, pairs)
    yield from import_figures(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one pair each")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        name, arguments = options.task
        print(json.dumps(TASKS[name](**json.loads(arguments))))
        return
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, {platform.system()}, {os.cpu_count()} cores")
    if options.quick:
        print("quick: a tenth of the work, so fixed costs weigh more; targets are for full runs")
    rows = [("what", "median", "min – max", "target", "met", "")]
    for figure in measure(options.quick):
        rows.append(figure.cells())
        print(f"  {figure.what}: {figure.cells()[1]}", file=sys.stderr, flush=True)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
