"""Fates of records add up at every step, whatever is run and however calls fail; views say the same."""

from __future__ import annotations

import itertools
from collections import Counter
from hashlib import blake2b
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.display import html, text
from datafast_nb.display.views import Cell, Document, Legend, Table, Tiles, plain
from datafast_nb.models.base import Request, Response, Usage
from datafast_nb.options import options
from datafast_nb.runs import FATE_WORDS, FATES, StepRun
from datafast_nb.steps.base import SinkStep
from datafast_nb.store.memo import open_memo


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives an empty memo to each example of a property."""

    def make() -> None:
        if options.home is not None:
            open_memo().close()
        options.home = tmp_path_factory.mktemp("home")

    return make


class Moody:
    """Answers by the prompt and the attempt: good, or with one of the faults."""

    MOODS = (
        *("good", "good", "good", "good", "good", "server", "bad_request", "timeout", "refused"),
        *("cut", "empty", "prose", "raises"),
    )

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.attempts: Counter[str] = Counter()
        self.models = [dfn.FakeModel(self.answer, name=n, price=(1.0, 2.0)) for n in ("a", "b")]

    def answer(self, request: Request) -> Response:
        prompt = request.messages[-1]["content"]
        self.attempts[prompt] += 1
        word = f"{self.seed} {self.attempts[prompt]} {prompt}"
        draw = blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
        mood = self.MOODS[draw[0] % len(self.MOODS)]
        usage = Usage(3, 3)
        if mood in ("server", "bad_request", "timeout"):
            raise dfn.LLMError(mood, kind=mood)
        if mood == "raises":
            raise RuntimeError("the model broke")
        if mood == "refused":
            return Response("no", finish="refused", usage=usage)
        if mood == "cut":
            return Response("and th", finish="length", usage=usage)
        if mood == "empty":
            return Response("", usage=usage)
        if mood == "prose" or request.schema is None:
            return Response(f"word {draw[1] % 5}", usage=usage)
        names = request.schema["properties"]
        return Response(orjson.dumps(dict.fromkeys(names, f"v{draw[1] % 5}")).decode(), usage=usage)

    @property
    def n_asked(self) -> int:
        return sum(self.attempts.values())


class Halves(dfn.Step):
    """Changes the number of records, so that nobody knows the parents."""

    def process(self, records: Any) -> Any:
        return [{"n": r["n"], "half": True} for i, r in enumerate(records) if i % 2]


class Backwards(dfn.Step):
    """Gives back the records that it was given, in another order and fewer of them."""

    def process(self, records: Any) -> Any:
        return list(records)[::-1][:9]


def make_step(kind: str, number: int, k: int, moody: Moody) -> dfn.Step:
    match kind:
        case "filter":
            return dfn.Filter(lambda r: r["n"] % (k + 2) != 0)
        case "map":
            return dfn.Map(lambda r: {**r, "n": r["n"] * 7 % 11})
        case "flat_map":
            return dfn.FlatMap(lambda r: [{**r, "n": r["n"] + j} for j in range(r["n"] % (k + 2))])
        case "sample":
            return dfn.Sample(n=k * 3 + 1, replace=k == 2)
        case "own":
            return Halves() if k % 2 else Backwards()
    prompts: Any = f"step {number} on {{n}}"
    return dfn.LLMStep(
        [prompts, f"{prompts}, again"] if k == 1 else prompts,
        output_columns=[f"c{number}"] if k % 2 else [f"c{number}", f"d{number}"],
        model=moody.models if k == 2 else moody.models[0],
        num_outputs=1 + (k == 3),
        temperature=0 if k == 2 and number % 2 else 0.7,
        on_error=("skip", "retry", "skip", "raise")[(k + number) % 4],
        max_retries=k % 3,
        retry_delay=0.0,
        skip_if=(lambda r: r["n"] % 5 == 1) if k in (0, 3) else None,
    )


def attempt(pipeline: dfn.Pipeline, **settings_: Any) -> dfn.Result | None:
    """The Result, also of a run that stopped; None where it refused to start."""
    one = settings_.pop("one", None)
    try:
        if one is not None:
            traced = pipeline.run_one(one).result
            return traced
        return pipeline.run(show_progress=False, **settings_)
    except (dfn.LLMError, dfn.BudgetExceededError) as exc:
        assert exc.result is not None
        return exc.result
    except IndexError:
        assert one is not None
        return None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["filter", "map", "flat_map", "sample", "own", "llm", "llm", "llm"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)
RUNS = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries(
        {"limit": st.integers(0, 12), "pick": st.sampled_from(["first", "spread", "random"])}
    ),
    st.fixed_dictionaries({"limit": st.integers(0, 9), "limit_at": st.just("source")}),
    st.fixed_dictionaries({"max_calls": st.integers(0, 20)}),
    st.fixed_dictionaries({"budget": st.floats(0.0, 0.02)}),
    st.fixed_dictionaries({"one": st.integers(0, 4)}),
    st.fixed_dictionaries({"limit": st.integers(1, 6), "max_calls": st.integers(0, 9)}),
)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    numbers=st.lists(st.integers(0, 12), max_size=25),
    steps=STEPS,
    how=RUNS,
)
def test_fates_add_up_and_are_what_is_shown(
    new_home: Any,
    seed: int,
    numbers: list[int],
    steps: list[tuple[str, int]],
    how: dict[str, Any],
) -> None:
    new_home()
    moody = Moody(seed)
    pipeline = dfn.Pipeline([dfn.Source.list([{"n": n} for n in numbers])])
    for number, (kind, k) in enumerate(steps):
        pipeline = pipeline >> make_step(kind, number, k, moody)
    for _ in range(2):  # the second run finds part of its answers, and part of its failures
        before = moody.n_asked
        result = attempt(pipeline, **how)
        if result is None:
            return
        check_fates(result.info.steps)
        check_calls(result, moody.n_asked - before)
        check_views(result)


def check_fates(steps: list[StepRun]) -> None:
    for before, run in itertools.pairwise(steps):
        fates = run.fates
        parts = [getattr(fates, name) for name in FATES]
        assert min([*parts, fates.advanced]) >= 0
        assert sum(parts) + fates.advanced == fates.total == run.n_in, (run.name, fates)
        assert run.n_in == before.n_out, (run.name, "takes what the step before gave")
        assert run.parents.n_out == run.n_out or not run.parents.known
        if run.parents.known:
            parents = list(run.parents.all())
            assert len(parents) == run.n_out
            assert all(0 <= p < run.n_in for p in parents)
            assert len(set(parents)) == fates.advanced + fates.skipped
            assert [run.parents.of(i) for i in range(run.n_out)] == parents
        assert len(run.table or ()) == run.n_out


def check_calls(result: dfn.Result, n_asked: int) -> None:
    attempts = 0
    for run in result.info.steps:
        attempts += sum(c.attempts for c in run.calls)
        check_step_calls(run)
    assert attempts == n_asked
    total = result.ledger.total
    rows = result.call_rows
    assert total.new == sum(bool(c.attempts) for c in rows)
    assert total.answered == sum(c.status == "answered" for c in rows)
    assert total.failed == sum(c.status == "failed" for c in rows)
    assert total.n_calls == sum(bool(c.status != "not_asked" or c.attempts) for c in rows)


def check_step_calls(run: StepRun) -> None:
    if run.call_of is None:
        assert not run.calls and not run.errors
        return
    assert len(run.call_of) == run.n_out
    for i, place in enumerate(run.call_of):
        if place >= 0:
            assert run.calls[place].record == run.parents.of(i)
            assert run.calls[place].values is not None
    made = Counter(run.parents.all())
    failed = {c.record for c in run.calls if c.status == "failed"}
    assert failed == {e.record for e in run.errors}
    assert len(failed - made.keys()) == run.fates.failed
    assert len(failed & made.keys()) == run.partly_failed
    for record in range(run.n_in):
        child = run.child_of(record)
        assert (child is not None) == (record in made)
        assert child is None or run.parents.of(child) == record


def check_views(result: dfn.Result) -> None:
    document = result.funnel.view()
    table = next(b for b in document.blocks if isinstance(b, Table))
    names = [c.name for c in table.columns]
    for run, row in zip(result.info.steps, table.rows, strict=True):
        shown = dict(zip(names, map(figure, row), strict=True))
        assert shown["step"] == run.name and shown["out"] == run.n_out
        if run.index:
            assert shown["in"] == run.n_in
            for fate in FATES:
                assert shown.get(FATE_WORDS[fate], 0) == getattr(run.fates, fate)
        if run.calls:
            assert shown["memo"] == sum(c.status == "answered" for c in run.calls)
            assert shown["new"] == sum(bool(c.attempts) for c in run.calls)
    whole = result.view()
    check_result_view(result, whole)
    for thing in (whole, document, result.errors.view(), result.ledger.view()):
        assert text.draw(thing) and len(html.draw(thing)) < 200_000


def figure(cell: Any) -> Any:
    """Text or number of a cell; "–" is a zero."""
    assert isinstance(cell, Cell)
    word = plain(cell.line).removeprefix("✕ ").replace(",", "")
    return 0 if word in ("–", "") else int(word) if word.isdecimal() else word


def check_result_view(result: dfn.Result, document: Document) -> None:
    runs = result.info.steps
    tiles = [b for b in document.blocks if isinstance(b, Tiles)]
    if tiles:
        shown = [r for r in runs if not isinstance(r.step, SinkStep)]
        assert [t.figure for t in tiles[0].tiles] == [f"{r.n_out:,}" for r in shown]
    legend = next((b for b in document.blocks if isinstance(b, Legend)), Legend(()))
    said = " ".join(map(plain, legend.items))
    for fate, word in (("failed", "failed"), ("filtered", "filtered"), ("waiting", "not reached")):
        n = sum(getattr(r.fates, fate) for r in runs)
        if n:
            assert f"{n:,} {word}" in said
    tables = [b for b in document.blocks if isinstance(b, Table) and b.columns[0].kind == "index"]
    assert len(tables) == bool(result)
    if tables:
        first = [plain(row[0].line) for row in tables[0].rows if isinstance(row[0], Cell)]
        assert [c for c in first if c != "–"] == [str(i) for i in range(min(10, len(result)))]
        assert first.count("–") <= min(2, sum(r.fates.failed for r in runs))


def test_a_funnel_of_many_steps_is_a_table(new_home: Any) -> None:
    pipeline = dfn.Pipeline([dfn.Source.list([{"n": n} for n in range(30)])])
    for k in range(9):
        pipeline = pipeline >> dfn.Filter(lambda r, k=k: r["n"] % 10 != k)
    result = pipeline.run()
    blocks = result.view().blocks
    assert not any(isinstance(b, Tiles) for b in blocks)
    funnel = next(b for b in blocks if isinstance(b, Table))
    assert [figure(row[-1]) for row in funnel.rows] == [30 - 3 * k for k in range(10)]
    assert "filtered" in text.draw(result.funnel.view())


def test_very_many_data_steps_in_a_row_run() -> None:
    steps = [dfn.Map(lambda r: {"n": r["n"] + 1}) for _ in range(2_000)]
    result = dfn.Pipeline([dfn.Source.list([{"n": 0}, {"n": 5}]), *steps]).run()
    assert [r["n"] for r in result] == [2_000, 2_005]
    assert result.funnel.steps[-1].fates.advanced == 2
    assert result.why(1, "n").source_index == 1


def test_a_run_that_did_nothing_says_so() -> None:
    empty = dfn.Source.list([{"n": 1}]) >> dfn.Filter(lambda r: False)
    result = empty.run()
    assert "0 records" in repr(result) and "1 filtered" in repr(result)
    assert "No failed calls" in repr(result.errors)
    assert "No calls" in repr(result.ledger)
