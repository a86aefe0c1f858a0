"""Random fault scripts of whole runs under a clock of the tests: attempts, waits, deadlines.

`tests/engine/test_scheduler_limits.py` does the same with 10,000 scripts of single calls, each
with a model of its own; here the calls of a run share one model, and so its pauses.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass
from typing import Any

import pytest
from clock import VirtualLoop, engine_on

import datafast_nb as dfn
from datafast_nb.models.base import Model, Request, Response
from properties import faulty_models as faulty
from properties.scale import many

N_CALLS = 20
TIMEOUT_S = 40.0
NAMES = ("good", "good", "429", "429", "500", "timeout", "reset", "hang", "400", "empty", "prose")


@dataclass
class Attempt:
    """One request, in the loop's time."""

    text: str
    name: str
    stated_s: float
    began: float
    ended: float = 0.0


class Clocked(Model):
    """Follows the script of each text: (fault, seconds it takes, stated wait)."""

    name = "clocked"
    timeout_s = TIMEOUT_S

    def __init__(self, scripts: dict[str, list[tuple[str, float, float]]]) -> None:
        self.scripts = scripts
        self.attempts: list[Attempt] = []

    async def complete(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        text = request.messages[0]["content"]
        place = sum(a.text == text for a in self.attempts)
        name, seconds, stated = self.scripts[text][place]
        attempt = Attempt(text, name, stated, loop.time())
        self.attempts.append(attempt)
        try:
            await asyncio.sleep(1e9 if name == "hang" else seconds)
        finally:
            attempt.ended = loop.time()
        return faulty.fault(name, stated or None)


def random_scripts(rng: random.Random) -> dict[str, list[tuple[str, float, float]]]:
    scripts = {}
    for i in range(N_CALLS):
        script = []
        for _ in range(12):
            name = rng.choice(NAMES)
            stated = rng.choice((0.0, 3.0, 20.0, 100.0)) if name in ("429", "500") else 0.0
            script.append((name, rng.uniform(0.01, 0.9 * TIMEOUT_S), stated))
        scripts[f"ask {i}"] = script
    return scripts


def check(model: Clocked, result: dfn.Result, how: dict[str, Any], in_flight: int) -> None:
    fates = {}
    for text, script in model.scripts.items():
        names = ["timeout" if name == "hang" else name for name, _, _ in script]
        first_good = (names.index("good") + 1) if "good" in names else len(names)
        fates[text] = faulty.fate_of(
            names[: first_good - 1] if "good" in names else names,
            max_retries=how["max_retries"],
            on_error=how["on_error"],
        )
    asked = {text: sum(a.text == text for a in model.attempts) for text in model.scripts}
    assert asked == {text: fate.n_asked for text, fate in fates.items()}
    lost = [(e.record, e.kind) for e in result.errors]
    bad = [(i, f.verdict) for i, f in enumerate(fates.values()) if f.verdict != "usable"]
    assert lost == bad and len(result) == N_CALLS - len(bad)
    spans = sorted(model.attempts, key=lambda a: a.began)
    assert all(a.ended - a.began <= TIMEOUT_S + 2.0 for a in spans), "deadlines"
    for i, refused in enumerate(spans):
        # Nobody is asked within the wait that the provider stated.
        if refused.stated_s:
            early = [
                a
                for a in spans[i + 1 :]
                if refused.ended < a.began < refused.ended + refused.stated_s
            ]
            assert not early, (refused, early)
    for text in model.scripts:
        own = [a for a in spans if a.text == text]
        for n, (a, b) in enumerate(itertools.pairwise(own), start=1):
            assert b.began >= a.ended - 1e-6
            backoff = min(60.0, how["retry_delay"] * 2 ** (n - 1))
            if not a.stated_s and in_flight >= N_CALLS and not any(x.stated_s for x in spans):
                paused = [x for x in spans if x.name == "429" and a.began < x.ended <= b.began]
                assert paused or b.began - a.ended <= backoff + 1e-3
    # G11, for calls that are asked one after another by `in_flight` workers at most.
    stated = sum(1.1 * a.stated_s for a in spans)
    backoffs = sum(min(60.0, how["retry_delay"] * 2 ** max(0, asked[a.text] - 1)) for a in spans)
    busy = sum(a.ended - a.began for a in spans)
    assert spans[-1].ended - spans[0].began <= busy + stated + backoffs + 5.0


@pytest.mark.parametrize("seed", range(5))
def test_runs_keep_attempts_waits_and_deadlines(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    with engine_on(VirtualLoop(), monkeypatch):
        for number in range(many(10, 100)):
            model = Clocked(random_scripts(rng))
            model.name = f"clocked {seed} {number}"
            how = {
                "max_retries": rng.randint(0, 4),
                "on_error": rng.choice(["skip", "retry"]),
                "retry_delay": rng.choice((0.0, 0.5, 8.0)),
            }
            in_flight = rng.choice((1, 3, N_CALLS))
            step = dfn.LLMStep("ask {id}", output_columns=["a", "b"], model=model, **how)
            pipeline = dfn.Source.list([{"id": i} for i in range(N_CALLS)]) >> step
            try:
                result = pipeline.run(max_concurrent=in_flight, show_progress=False)
            except dfn.LLMError as exc:
                assert "lost every record" in str(exc)
                result = exc.result
            check(model, result, how, in_flight)
