"""How often an estimate after twenty records holds what the whole run costs, and how wide it is.

Random pipelines with prices, and replies whose length depends on the record. No provider is
asked. `python benchmarks/estimates.py [--pipelines 200]` prints every miss and the rates.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

import orjson

from datafast_nb import FakeModel, Filter, FlatMap, LLMStep, Pipeline, Source, options
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.ranges import Range
from datafast_nb.store.memo import close_memos

PRICES = {"small": (0.15, 0.60), "large": (2.50, 10.00)}
N_FIRST = 20


def chance(*parts: Any) -> float:
    """A number from 0 to 1 that depends on the parts alone."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


class Writer:
    """Answers with log-normal lengths; some replies are broken."""

    def __init__(self, rng: Random, salt: str) -> None:
        self.salt = salt
        self.median = rng.uniform(10, 250)
        self.sigma = rng.uniform(0.2, 0.8)
        self.grows = rng.choice([0.0, 0.0, 0.5, 1.0])
        self.broken = rng.choice([0.0, 0.0, 0.02, 0.1])
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()

    def __call__(self, request: Request) -> Response:
        prompt = request.messages[-1]["content"]
        with self._lock:
            self._seen[prompt] += 1
            n = self._seen[prompt]
        z = statistics.NormalDist().inv_cdf(chance(self.salt, "length", prompt, n))
        size = sum(len(m["content"]) for m in request.messages)
        n_out = self.median * math.exp(self.sigma * z) * (size / 600) ** self.grows
        n_out = max(1, min(int(n_out), request.max_tokens or 4096))
        n_in = max(1, int(size / 4.2 * (0.9 + 0.2 * chance(self.salt, "in", prompt))))
        usage = Usage(n_in, n_out)
        if chance(self.salt, "broken", prompt, n) < self.broken:
            return Response("", usage=usage)
        text = f"{chance(self.salt, 'text', prompt, n):.12f} " + "word " * min(n_out, 80)
        if request.schema is not None:
            score = int(chance(self.salt, "score", prompt, n) * 100)
            text = orjson.dumps({next(iter(request.schema["properties"])): score}).decode()
        return Response(text, usage=usage)


@dataclass
class Simulated:
    """A pipeline and what it is made of."""

    pipeline: Pipeline
    words: str


def simulate(seed: int) -> Simulated:
    """A pipeline of 1 to 3 LLM steps, filters behind scores, fan-outs; the same for the same seed."""
    rng = Random(seed)
    n = rng.randint(50, 400)
    rows = [
        {"id": i, "text": "t" * max(5, int(rng.lognormvariate(5.5, 0.6))) + f" {i}"}
        for i in range(n)
    ]
    pipeline: Any = Source.list(rows)
    words = [f"{n} records"]
    column = "text"
    for k in range(rng.randint(1, 3)):
        kind = rng.choice(["write", "score"]) if k else rng.choice(["write", "write", "score"])
        names = rng.choice([["small"], ["large"], ["small", "large"]])
        models = [
            FakeModel(Writer(rng, f"{seed}/{k}/{name}"), name=name, price=PRICES[name])
            for name in names
        ]
        outputs = rng.choice([1, 1, 1, 2]) if kind == "write" and len(models) == 1 else 1
        made = f"c{k}"
        pipeline >>= LLMStep(
            prompt=f"{kind} {k}: {{{column}}}",
            output_columns={made: int} if kind == "score" else [made],
            model=models if len(models) > 1 else models[0],
            num_outputs=outputs,
            temperature=0.7,
            retry_delay=0,
        ).as_step(f"ask{k}")
        words.append(f"{kind} ×{outputs} by {'+'.join(names)}")
        if kind == "score":
            bound = rng.uniform(10, 95)
            pipeline >>= Filter(lambda r, made=made, bound=bound: r[made] < bound).as_step(f"f{k}")
            words.append(f"keep {bound:.0f}%")
        else:
            column = made
            if rng.random() < 0.35:
                most = rng.randint(2, 4)
                pipeline >>= FlatMap(
                    lambda r, made=made, most=most: [
                        {**r, made: f"{r[made]} {i}"} for i in range(_children(r[made], most))
                    ]
                ).as_step(f"fan{k}")
                words.append(f"fan ≤{most}")
    return Simulated(pipeline, ", ".join(words))


def _children(text: str, most: int) -> int:
    return 1 + int(chance(text) * most)


@dataclass(frozen=True)
class Outcome:
    """What was estimated, and what it came to."""

    seed: int
    words: str
    cost: Range
    paid_usd: float
    calls: Range
    n_calls: int

    @property
    def cost_is_held(self) -> bool:
        """The true cost lies in the range."""
        return self.cost.low <= self.paid_usd <= self.cost.high

    @property
    def calls_are_held(self) -> bool:
        """The true number of new calls lies in the range."""
        return self.calls.low <= self.n_calls <= self.calls.high

    @property
    def width(self) -> float:
        """High over low of the cost."""
        return self.cost.high / self.cost.low if self.cost.low else math.inf

    @property
    def line(self) -> str:
        """All of it in a line."""
        return (
            f"{self.seed}: paid ${self.paid_usd:.5f}, estimated ${self.cost.low:.5f} to "
            f"${self.cost.high:.5f}; {self.n_calls} calls, estimated {self.calls.low:.0f} to "
            f"{self.calls.high:.0f} ({self.words})"
        )


def compare(seed: int) -> Outcome:
    """Run twenty records of a simulated pipeline, estimate the rest, run it."""
    made = simulate(seed)
    made.pipeline.run(limit=N_FIRST, show_progress=False)
    estimate = made.pipeline.estimate()
    total = made.pipeline.run(show_progress=False).ledger.total
    return Outcome(seed, made.words, estimate.cost, total.paid_usd, estimate.calls, total.new)


def compare_with_new_memo(seed: int) -> Outcome:
    """`compare` where nothing has been answered yet."""
    with tempfile.TemporaryDirectory() as home:
        options.home = home
        try:
            return compare(seed)
        finally:
            close_memos()


def compare_all(n: int) -> list[Outcome]:
    """`compare` for the seeds below `n`, on all processors, each in a process's own memo."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(compare_with_new_memo, range(n), chunksize=5))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Rates and widths."""
    n = len(outcomes)
    widths = sorted(o.width for o in outcomes)
    return (
        f"{n} pipelines: cost in range {sum(o.cost_is_held for o in outcomes) / n:.1%}, calls in "
        f"range {sum(o.calls_are_held for o in outcomes) / n:.1%}; high/low of the cost: median "
        f"{statistics.median(widths):.2f}, 90% below {widths[int(0.9 * n)]:.2f}"
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=200)
    n = parser.parse_args().pipelines
    outcomes = compare_all(n)
    for outcome in outcomes:
        if not outcome.cost_is_held:
            print(outcome.line)
    print(summary(outcomes))
    if sum(o.cost_is_held for o in outcomes) < 0.9 * n:
        raise SystemExit("fewer than 90% of the true costs lie in their ranges")


if __name__ == "__main__":
    main()
