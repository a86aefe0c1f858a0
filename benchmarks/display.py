"""What it costs to look: displays over a million records, in seconds and bytes.

``python benchmarks/display.py`` prints a table and writes nothing that stays; ``--records N`` takes
other sizes. Each figure is the median of five displays of fresh objects, after one that loads what
a process loads once. benchmarks/README.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET_S = 0.3
TARGET_BYTES = 200_000
TEXT = "The lighthouse at the mouth of the river was built of grey granite, quarried far inland. "
PAIRS = 5


def row(i: int) -> dict[str, Any]:
    return {"id": i, "topic": f"topic {i % 7}", "n": i % 101, "text": f"{i} {TEXT}"}


def write_file(path: Path, n: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("id,topic,n,text\n")
        for i in range(n):
            r = row(i)
            line = ",".join(map(str, r.values())) if path.suffix == ".csv" else json.dumps(r)
            file.write(line + "\n")
    return path


def steps(source: Any, model: Any) -> Any:
    import datafast_nb as dfn

    return (
        source
        >> dfn.Filter(fn=lambda r: r["n"] >= 5)
        >> dfn.LLMStep(prompt="Ask: {text}", output_columns=["question"], model=model)
    )


def bundle(obj: Any) -> dict[str, Any]:
    data: dict[str, Any] = obj._repr_mimebundle_()
    return data


def measure(make: Callable[[], Any]) -> tuple[float, int]:
    """(seconds, bytes of HTML): medians over displays of fresh objects."""
    bundle(make())
    times = []
    size = 0
    for _ in range(PAIRS):
        obj = make()
        start = time.perf_counter()
        data = bundle(obj)
        times.append(time.perf_counter() - start)
        size = len(data["text/html"].encode())
    return statistics.median(times), size


def lines(n: int, folder: Path) -> dict[str, Callable[[], Any]]:
    """What is displayed: name → a function that makes a fresh object."""
    import datafast_nb as dfn

    model = dfn.FakeModel("why?", price=(0.15, 0.6))
    records = [row(i) for i in range(n)]
    files = {kind: write_file(folder / f"rows.{kind}", n) for kind in ("jsonl", "csv")}
    result = (
        dfn.Source.list(records)
        >> dfn.Filter(fn=lambda r: r["n"] >= 5)
        >> dfn.Map(lambda r: {**r, "size": len(r["text"])})
    ).run(show_progress=False)
    answered = steps(dfn.Source.list(records[:20_000]), model).run(show_progress=False)

    def fresh(result: Any) -> Any:
        return result[: len(result)]  # nothing that a display of it may have kept

    return {
        "pipeline over a list": lambda: steps(dfn.Source.list(records), model),
        "pipeline over a .jsonl file": lambda: steps(dfn.Source.file(files["jsonl"]), model),
        "pipeline over a .csv file": lambda: steps(dfn.Source.file(files["csv"]), model),
        "result of Filter and Map": lambda: fresh(result),
        "result with 20,000 calls": lambda: fresh(answered),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    n = parser.parse_args().records
    missed = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["DATAFAST_NB_HOME"] = str(Path(place) / "home")
        print(f"{n:,} records · Python {platform.python_version()} · {os.cpu_count()} cores")
        print(f"{'display':<32} {'seconds':>8} {'HTML':>9}")
        for name, make in lines(n, Path(place)).items():
            seconds, size = measure(make)
            print(f"{name:<32} {seconds:>8.3f} {size / 1000:>6.0f} kB")
            if seconds > TARGET_S or size > TARGET_BYTES:
                missed.append(name)
    print(f"target: {TARGET_S:g} s and {TARGET_BYTES // 1000} kB each", end="")
    print(f"; missed by: {', '.join(missed)}" if missed else "; all met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
