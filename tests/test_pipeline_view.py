"""What a pipeline shows before a run: free, bounded, in place, and true to what the run does."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMStep,
    Map,
    OpenAIModel,
    Pipeline,
    Sample,
    Sink,
    Source,
    Step,
    options,
)
from datafast_nb.display.functions import condition_text, function_text
from datafast_nb.display.views import (
    Block,
    Cell,
    Document,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Head,
    Listing,
    Paragraph,
    Section,
    Table,
    Tiles,
    Value,
    plain,
)
from datafast_nb.engine.preview import MAX_PREVIEW_ROWS
from datafast_nb.steps.base import SourceStep

Record = dict[str, Any]


class Counting(SourceStep):
    """A source that counts what is taken from it."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._taken = 0

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        for start in range(0, self.n, chunk):
            stop = min(self.n, start + chunk)
            self._taken += stop - start
            yield [{"n": i, "text": f"text {i}"} for i in range(start, stop)]

    def count(self) -> int:
        return self.n

    def columns(self) -> list[str]:
        return ["n", "text"]

    @property
    def taken(self) -> int:
        return self._taken


def rows(n: int) -> list[Record]:
    return [{"n": i, "text": f"text {i}"} for i in range(n)]


def ask(model: Any = None, name: str = "ask", prompt: str = "Ask {text}", **more: Any) -> LLMStep:
    given: dict[str, Any] = {"output_columns": ["q"]} | more
    return LLMStep(prompt=prompt, model=model or FakeModel(), retry_delay=0, **given).as_step(name)


def blocks(view: Document | Sequence[Block], kind: type) -> list[Any]:
    """All blocks of a kind, those inside others included."""
    found: list[Any] = []
    for block in view.blocks if isinstance(view, Document) else view:
        if isinstance(block, kind):
            found.append(block)
        if isinstance(block, (Section, Fold)):
            found.extend(blocks(block.body, kind))
        if isinstance(block, Facts):
            for fact in block.facts:
                inner = [b for b in fact.body if isinstance(b, (Listing, Paragraph))]
                found.extend(b for b in inner if isinstance(b, kind))
    return found


def section(pipeline: Pipeline, title: str) -> Section:
    return next(s for s in blocks(pipeline.view(), Section) if s.title == title)


def previewed(pipeline: Pipeline) -> list[list[str]]:
    """Words of the cells of the preview in a pipeline's display."""
    tables = [b for b in section(pipeline, "Preview").body if isinstance(b, Table)]
    return [[words(c) for c in row] for t in tables for row in t.rows]


def words(cell: Any) -> str:
    if isinstance(cell, Value):
        return str(cell.value)
    return " ".join(plain(line) for line in (cell.line, *cell.below))


def nodes(pipeline: Pipeline) -> dict[str, list[str]]:
    graph = blocks(pipeline.view(), Graph)[0]
    return {n.name: [plain(line) for line in n.lines] for n in graph.nodes}


def tiles(pipeline: Pipeline) -> dict[str, list[str]]:
    found = blocks(pipeline.view(), Tiles)[0].tiles
    return {t.label: [t.figure, *map(plain, t.lines)] for t in found}


def notes(pipeline: Pipeline) -> str:
    return "\n".join(plain(p.line) for p in blocks(pipeline.view(), Paragraph))


def next_line(pipeline: Pipeline) -> str:
    return next(line for line in notes(pipeline).splitlines() if line.startswith("Next: "))


def shown(pipeline: Pipeline) -> dict[str, str]:
    return pipeline._repr_mimebundle_()


# A1: free.


def test_a1_fifty_displays_ask_no_model():
    model = FakeModel("yes", price=(1.0, 2.0))
    answered = Source.list(rows(3)) >> ask(model)
    answered.run()
    before = model.calls
    made = []
    for i in range(50):
        pipeline = Source.list(rows(i)) >> ask(model, num_outputs=1 + i % 3)
        if i % 2:
            pipeline = pipeline >> Map(lambda r: r)
        if i % 3:
            pipeline = pipeline >> ask(model, "second", "Again {q}", output_columns=["b"])
        made.append(pipeline)
    for pipeline in made:
        assert set(shown(pipeline)) == {"text/plain", "text/html", "text/markdown"}
        repr(pipeline)
    assert model.calls == before


@pytest.mark.parametrize("free", [None, Map(lambda r: r), Filter(lambda r: r["n"] % 2 == 0)])
def test_a1_a_source_of_a_million_records_is_read_for_the_preview_alone(free):
    source = Counting(1_000_000)
    pipeline = source >> free >> ask() if free is not None else source >> ask()
    started = time.perf_counter()
    shown(pipeline)
    assert time.perf_counter() - started < 1.5
    assert source.taken == 5
    assert "of 1,000,000" in plain(section(pipeline, "Preview").note)


def test_a1_a_long_list_is_shown_at_once():
    pipeline = Source.list(rows(1_000_000)) >> Map(lambda r: r) >> ask()
    started = time.perf_counter()
    shown(pipeline)
    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a1_of_a_long_file_only_the_start_is_read(tmp_path, name):
    file = tmp_path / name
    if name == "a.jsonl":
        good = [json.dumps(r) for r in rows(40_000)]
        bad = "this is no record"
    else:
        good = ["n,text", *(f"{i},{'text ' * 10}{i}" for i in range(40_000))]
        bad = "1,2,3,4,5"
    file.write_text("\n".join([*good, bad]) + "\n")
    pipeline = Source.file(file) >> ask()
    assert [row[2] for row in previewed(pipeline)] == ["0", "1", "2", "3", "4"]
    assert "cannot be read" not in notes(pipeline) and "raised" not in notes(pipeline)
    with pytest.raises(dfn.SourceError):
        pipeline.run(limit=None)


def test_a_display_leaves_the_last_result_alone():
    kept = (Source.list(rows(2)) >> ask()).run()
    assert dfn.last is kept
    broken = Source.list(rows(2)) >> Map(lambda r: r["no such"])
    shown(broken)
    shown(Source.list(rows(2)) >> ask())
    assert dfn.last is kept


def test_a_display_is_the_same_each_time_and_tells_no_address():
    for pipeline in (
        Source.list(rows(9)) >> Map(lambda r: r) >> ask() >> Sink.list(),
        Source.list(rows(9)) >> Filter(lambda r: r["no such"]) >> ask(),
        Source.list(rows(9)) >> ask("{nope}"),
    ):
        first, second = shown(pipeline), shown(pipeline)
        assert first == second
        assert not any(re.search(r"\b0x[0-9a-f]{6,}", text) for text in first.values())


# User functions.


def test_functions_run_once_a_record_over_many_displays():
    seen: list[int] = []

    def count(record: Record) -> Record:
        seen.append(record["n"])
        return record

    pipeline = Source.list(rows(100)) >> Map(count) >> ask() >> Filter(lambda r: True)
    for _ in range(4):
        shown(pipeline)
    assert seen == [0, 1, 2, 3, 4]
    pipeline.run(limit=50)
    seen.clear()
    shown(pipeline)
    assert seen == []


def test_functions_after_answers_run_on_the_previewed_records_alone():
    seen: list[int] = []

    def keep(record: Record) -> bool:
        seen.append(record["n"])
        return True

    pipeline = Source.list(rows(100)) >> ask() >> Filter(keep)
    pipeline.run()
    seen.clear()
    shown(pipeline)
    assert seen == [0, 1, 2, 3, 4]


def test_what_a_function_raises_stands_at_its_record():
    def careful(record: Record) -> Record:
        return {**record, "share": 10 // (record["n"] - 2)}

    pipeline = Source.list(rows(9)) >> Map(careful).as_step("mine") >> ask()
    table = previewed(pipeline)
    assert [row[1] for row in table][2].startswith("✕ failed")
    assert "ZeroDivisionError" in " ".join(table[2])
    assert all("stopped: 'mine' raised an error" in table[i][-1] for i in (0, 1, 3, 4))
    assert next_line(pipeline).startswith("Next: .preview() raises the error")
    assert "raised an error" in " ".join(nodes(pipeline)["mine"])
    assert "step 'mine' raised ZeroDivisionError" in notes(pipeline)
    with pytest.raises(ZeroDivisionError):
        pipeline.preview()


@pytest.mark.parametrize(
    "step",
    [
        Filter(lambda r: r["no such"]),
        FlatMap(lambda r: 1 / 0),
        Map(lambda r: None),
        Map(lambda r: {1: 2}),
        ask(skip_if=lambda r: r["no such"]),
    ],
    ids=["filter", "flatmap", "none", "key", "skip"],
)
def test_no_function_breaks_a_display(step):
    pipeline = Source.list(rows(3)) >> step.as_step("mine") >> Map(lambda r: r)
    text = shown(pipeline)["text/plain"]
    assert "step 'mine'" in text and "Nothing to show" not in text
    assert len(previewed(pipeline)) == 3


def test_an_own_step_that_raises_is_named():
    class Own(Step):
        def process(self, records: Any) -> Any:
            raise RuntimeError("boom at the café")

    pipeline = Source.list(rows(3)) >> Own().as_step("own") >> ask()
    assert "step 'own' raised RuntimeError: boom at the café" in notes(pipeline)
    assert len(previewed(pipeline)) == 3


def test_a_source_that_raises_is_named():
    class Broken(Counting):
        def read(self, chunk: int) -> Iterator[Sequence[Any]]:
            raise OSError("the disk is gone")

    text = shown(Broken(10) >> ask())["text/plain"]
    assert "the disk is gone" in text and "Nothing to show" not in text


def test_what_functions_print_is_caught_and_shown_each_time(capsys):
    def loud(record: Record) -> Record:
        print("looking at", record["n"])
        return record

    pipeline = Source.list(rows(9)) >> Map(loud)
    first = shown(pipeline)
    assert shown(pipeline) == first
    assert capsys.readouterr().out == ""
    fold = next(f for f in blocks(pipeline.view(), Fold) if f.title == "printed")
    assert plain(fold.body[0].line).splitlines() == [f"looking at {i}" for i in range(5)]


def test_displays_at_the_same_time_catch_their_own_prints_and_no_others():
    entered = threading.Event()
    former = sys.stdout

    def slow(word: str, seconds: float) -> Any:
        def loud(record: Record) -> Record:
            print(word, record["n"])
            entered.set()
            time.sleep(seconds)
            return record

        return loud

    first = Source.list(rows(5)) >> Map(slow("first", 0.03))
    second = Source.list(rows(5)) >> Map(slow("second", 0.06))
    other = io.StringIO()
    sys.stdout = other
    try:
        thread = threading.Thread(target=shown, args=(second,))
        thread.start()
        assert entered.wait(5)
        elsewhere = threading.Thread(target=print, args=("of another thread",))
        elsewhere.start()
        elsewhere.join()
        shown(first)
        thread.join()
        assert sys.stdout is other
    finally:
        sys.stdout = former
    assert other.getvalue() == "of another thread\n"
    assert [p._kept.printed.count(w) for p in (first, second) for w in ("first", "second")] == [
        5, 0, 0, 5,
    ]  # fmt: skip


def test_an_output_that_a_function_puts_in_place_stays_its_own():
    former = sys.stdout

    def redirects(record: Record) -> Record:
        print("before")
        with contextlib.redirect_stdout(io.StringIO()):
            print("hidden")
            shown(Source.list(rows(1)) >> Map(lambda r: print("inner") or r))
        return record

    pipeline = Source.list(rows(1)) >> Map(redirects)
    shown(pipeline)
    assert sys.stdout is former
    assert pipeline._kept.printed == "before\n"


def test_steps_of_the_user_run_once_over_many_displays_also_where_a_later_one_raises():
    loads: list[int] = []
    seen: list[int] = []

    class Own(Step):
        def load(self) -> None:
            loads.append(1)

        def process(self, records: Any) -> Any:
            for record in records:
                seen.append(record["n"])
                if record["n"] != 1:
                    record["own"] = record["n"] * 2
                    yield record

    class OwnMap(Map):
        def __init__(self) -> None:
            super().__init__(lambda r: seen.append(r["n"]) or {**r, "m": 1})

    quiet = Source.list(rows(9)) >> Own() >> ask()
    first = shown(quiet)
    assert shown(quiet) == first and seen == [0, 1, 2, 3, 4] and loads == [1]
    assert [row[0] for row in previewed(quiet)] == ["0", "1", "2", "3", "4"]
    seen.clear()
    broken = Source.list(rows(9)) >> Own() >> OwnMap() >> Map(lambda r: r["no such"]) >> ask()
    first = shown(broken)
    assert shown(broken) == first and seen == [0, 1, 2, 3, 4, 0, 2, 3, 4]


@pytest.mark.parametrize("is_generator", [False, True])
def test_a_function_that_raised_is_not_called_again_for_its_record(is_generator):
    seen: list[int] = []

    def check(record: Record) -> Any:
        seen.append(record["n"])
        if record["n"] == 2:
            raise ValueError("two is bad")
        return [record]

    def make(record: Record) -> Any:
        yield record
        yield from check(record)

    pipeline = Source.list(rows(9)) >> FlatMap(make if is_generator else check) >> ask()
    first = shown(pipeline)
    assert shown(pipeline) == first and "two is bad" in first["text/plain"]
    assert seen == [0, 1, 2]
    (raised,) = [
        k for kept in pipeline._kept._of.values() for k in kept.values() if hasattr(k, "exc")
    ]
    assert raised.exc.__traceback__ is None


def test_functions_that_sleep_or_never_end_are_left_after_the_preview_seconds():
    options.preview_seconds = 0.2

    def slow(record: Record) -> Record:
        time.sleep(0.15)
        return record

    for step in (Map(slow), FlatMap(lambda r: itertools.repeat(r))):
        started = time.perf_counter()
        text = shown(Source.list(rows(50)) >> step >> ask())["text/plain"]
        assert time.perf_counter() - started < 2
        assert "stopped early" in text


# What the preview says.


def test_statuses_of_the_previewed_records():
    def answer(request: Any) -> Any:
        return "" if request.messages[-1]["content"].endswith("1") else "fine"

    model = FakeModel(answer)
    pipeline = (
        Source.list(rows(50))
        >> Filter(lambda r: r["n"] != 2).as_step("not_two")
        >> ask(model)
        >> ask(model, "judge", "Judge {q}", output_columns=["score"], num_outputs=2)
    )
    pipeline.run(limit=2)
    table = previewed(pipeline)
    assert [(row[0], row[1]) for row in table] == [
        ("0", "● memo"), ("", "● memo"), ("1", "✕ failed"), ("2", "– filtered"),
        ("3", "◌ pending"), ("4", "◌ pending"),
    ]  # fmt: skip
    assert table[2][-1].startswith("at ask: empty")
    assert table[3][-1] == 'filtered at not_two: r["n"] != 2 is false'
    assert table[4][-1] == "1 call of ask, then 2 of judge"


def test_pending_places_span_the_columns_that_wait():
    pipeline = Source.list(rows(3)) >> ask() >> ask(name="b", prompt="{q}", output_columns=["z"])
    (Source.list(rows(1)) >> pipeline.steps[1]).run()
    table = next(b for b in section(pipeline, "Preview").body if isinstance(b, Table))
    assert [c.name for c in table.columns] == ["", "status", "n", "text", "q", "z"]
    first, second, _ = table.rows
    assert isinstance(first[-1], Cell) and first[-1].is_pending and first[-1].span == 1
    assert isinstance(second[-1], Cell) and second[-1].is_pending and second[-1].span == 2
    assert plain(second[-1].line) == "1 call of ask, then 1 of b"


def test_without_models_kept_and_filtered_rows_are_told_apart():
    pipeline = Source.list(rows(4)) >> Filter(lambda r: r["n"] > 1)
    assert [row[1] for row in previewed(pipeline)] == [
        '– filtered at step_002_filter: r["n"] > 1 is false',
        '– filtered at step_002_filter: r["n"] > 1 is false',
        "✓ kept",
        "✓ kept",
    ]
    plain_one = Source.list(rows(2)) >> Map(lambda r: r)
    assert previewed(plain_one) == [["0", "0", "text 0"], ["1", "1", "text 1"]]


STEPS = {
    "map": lambda: Map(lambda r: {**r, "m": 1}),
    "odd": lambda: Filter(lambda r: r["n"] % 2 == 1),
    "few": lambda: Sample(n=7, strategy="first"),
    "some": lambda: Sample(n=6),
    "fan": lambda: FlatMap(lambda r: [{**r, "k": k} for k in range(r["n"] % 3)]),
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 14),
    before=st.lists(st.sampled_from(["map", "odd", "few", "fan"]), max_size=3),
    first=st.sampled_from(["map", "some"]),
    after=st.lists(st.sampled_from(["map", "odd", "fan"]), max_size=2),
    outputs=st.integers(1, 3),
    limit=st.integers(0, 14),
)
def test_the_preview_is_the_beginning_of_the_run(
    tmp_path_factory, n, before, first, after, outputs, limit
):
    options.home = tmp_path_factory.mktemp("memo")
    pipeline = Pipeline([Source.list(rows(n)), STEPS[first](), *(STEPS[b]() for b in before)])
    pipeline = pipeline >> ask(num_outputs=outputs)
    for name in after:
        pipeline = pipeline >> STEPS[name]()
    if first != "some":
        pipeline.run(limit=limit)
        preview = pipeline.preview(5)
        places = {r.place for r in preview.rows}
        if len(preview.rows) < MAX_PREVIEW_ROWS:
            assert places == set(range(min(n, 5)))
            pending = [r for r in preview.rows if r.status == "pending"]
            assert bool(pending) == bool(preview.n_pending)
    whole = list(pipeline.run())
    shown = pipeline.preview(5)
    assert shown.n_pending == 0 and all(r.status != "pending" for r in shown.rows)
    assert list(shown) == whole[: len(shown)]


# Figures.


def pipelines_without_functions(draw: Any) -> Pipeline:
    pipeline = Source.list(rows(draw(st.integers(6, 60)))) >> Sample(n=draw(st.integers(1, 40)))
    for i in range(draw(st.integers(1, 3))):
        prompt = "Ask {text}" if i == 0 else f"{i} {{q{i - 1}}}"
        more = {"num_outputs": draw(st.integers(1, 2)), "output_columns": [f"q{i}"]}
        pipeline = pipeline >> ask(FakeModel(price=(1.0, 2.0)), f"ask{i}", prompt, **more)
    return pipeline


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_figures_of_short_sources_are_those_of_the_estimate(tmp_path_factory, data):
    options.home = tmp_path_factory.mktemp("memo")
    pipeline = pipelines_without_functions(data.draw)
    pipeline.run(limit=data.draw(st.integers(0, 8)))
    estimate = pipeline.estimate()
    found = tiles(pipeline)
    new = next((line for line in found["calls"] if line.startswith("○")), "○ 0 new")
    assert new == f"○ {estimate.total_llm_calls:,.0f} new"
    if estimate.total_answered:
        assert f"● {estimate.total_answered} in the memo" in found["calls"]
    assert found["cost"][0] in (dfn.display.formats.usd(estimate.total_estimated_cost), "$0")


def test_with_functions_figures_are_scaled_and_say_so():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = (
        Source.list(rows(1_000)) >> Filter(lambda r: r["n"] != 2).as_step("most") >> ask(model)
    )
    pipeline.run(limit=3)
    found = tiles(pipeline)
    assert found["calls"] == ["~800", "● 3 in the memo", "○ ~797 new"]
    assert found["cost"][0] == "~$0.034"  # 797 × (3 × $1 + 4 × $10) per million
    assert "first 5 records" in notes(pipeline) and ".estimate() counts exactly" in notes(pipeline)
    assert nodes(pipeline)["most"][0] == "~800 records"
    assert "Next: .run_one(3) 1 call, about $0.000043" in next_line(pipeline)


def test_answers_of_the_first_records_say_nothing_of_the_others():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = Source.list(rows(1_000)) >> Map(lambda r: r) >> ask(model)
    pipeline.run(limit=3)
    assert tiles(pipeline)["calls"] == ["~1,000", "● 3 in the memo", "○ up to 997 new"]
    assert tiles(pipeline)["cost"][0] == "~$0.043"
    pipeline.run(limit=5)
    assert tiles(pipeline) == {
        "calls": ["~1,000", "● 5 in the memo", "~995 not looked up"],
        "records": ["~1,000", "of 1,000"],
    }
    assert "5 memo, others not looked up" in nodes(pipeline)["ask"]
    assert "first 5 records are answered; .estimate() counts the others" in notes(pipeline)


def test_after_a_complete_run_no_display_announces_a_bill():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = Source.list(rows(30)) >> Map(lambda r: r) >> ask(model)
    pipeline.run()
    text = shown(pipeline)["text/plain"]
    assert "$" not in text and "new call" not in text and "unknown" not in text
    assert "first 5 records answered, the rest was not looked up" in text.splitlines()[0]
    assert next_line(pipeline) == "Next: .estimate() counts · .run()"
    longer = pipeline >> ask(model, "b", "Then {q}", output_columns=["z"])
    found = tiles(longer)
    assert found["calls"] == ["~60", "● 5 in the memo", "~25 not looked up", "○ ~30 new"]
    assert found["cost"][0] == "~$0.077"  # 30 × (4 × $1 + 256 assumed × $10) per million
    assert found["time"][0] != "unknown"  # the same model was timed at the step before
    assert longer.estimate().total_llm_calls == 30


def test_where_no_previewed_record_reaches_a_model_nothing_is_estimated():
    model = FakeModel(price=(1.0, 2.0))
    pipeline = Source.list(rows(1_000)) >> Filter(lambda r: r["n"] >= 5) >> ask(model)
    text = shown(pipeline)["text/plain"]
    assert "no estimate: none of the first 5 reached 'ask' · .estimate() counts" in notes(pipeline)
    assert "on disk" not in text and "no new call" not in text and "$0" not in text
    skipping = Source.list(rows(1_000)) >> ask(model, skip_if=lambda r: r["n"] < 5)
    assert "none of the first 5 needed 'ask'" in notes(skipping)
    assert "on disk" not in shown(skipping)["text/plain"]


def test_equal_first_records_do_not_make_the_others_equal():
    model = FakeModel("one two", price=(1.0, 10.0))
    same = [{"n": i, "text": "same" if i < 5 else f"text {i}"} for i in range(1_000)]
    pipeline = Source.list(same) >> Map(lambda r: r) >> ask(model, temperature=0)
    assert tiles(pipeline)["calls"] == ["~996", "○ ~996 new"]
    assert pipeline.estimate().total_llm_calls == 996


def test_words_where_there_is_no_new_call():
    failing = Source.list(rows(4)) >> ask(FakeModel("", name="empty"), max_retries=0)
    with pytest.raises(dfn.LLMError):
        failing.run()
    said = "4 failed before, not asked again: .retry_failed()"
    assert tiles(failing)["cost"] == ["$0", said]
    assert said in plain(blocks(failing.view(), Head)[0].facts)
    assert said in shown(failing.estimate())["text/plain"]
    assert "every answer is on disk" not in shown(failing)["text/plain"]
    none = Source.list([]) >> ask()
    for text in (shown(none), shown(none.estimate()), shown((failing).estimate(limit=0))):
        assert "no record reaches a model" in text["text/plain"]
        assert "every answer is on disk" not in text["text/plain"]


def test_the_model_without_a_price_is_named_and_the_known_part_is_shown():
    known = FakeModel("a b", name="known", price=(10.0, 10.0))
    mystery = FakeModel("a b", name="mystery", provider="someone")
    for free in (None, Map(lambda r: r)):
        pipeline = Source.list(rows(20)) if free is None else Source.list(rows(20)) >> free
        pipeline = pipeline >> ask([known, mystery])
        cost = tiles(pipeline)["cost"]
        assert cost[0].endswith(" + unknown") and cost[1] == "no price for mystery: give price="
        first = shown(pipeline)["text/plain"].splitlines()[0]
        assert f"est. {cost[0]}" in first
        head = shown(pipeline.estimate())["text/plain"]
        assert head.startswith(cost[0].lstrip("~"))
    only = Source.list(rows(3)) >> ask(mystery)
    assert "price unknown" in shown(only)["text/plain"].splitlines()[0]


def test_replay_says_what_is_missing_and_shows_no_price():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = Source.list(rows(5)) >> ask(model)
    pipeline.run(limit=2)
    options.mode = "replay"
    said = "replay: 3 answers are missing, the run would stop at the first"
    assert said in plain(blocks(pipeline.view(), Head)[0].facts)
    assert set(tiles(pipeline)) == {"calls", "records"}
    assert next_line(pipeline).startswith('Next: options.mode = "normal"')
    for text in (shown(pipeline)["text/plain"], shown(pipeline.estimate())["text/plain"]):
        assert "replay" in text.splitlines()[0] and "3 answers are missing" in text
        assert "$" not in text and ".run_one" not in text
    with pytest.raises(dfn.DatafastError):
        pipeline.run()
    options.mode = "normal"
    pipeline.run()
    options.mode = "replay"
    assert tiles(pipeline)["cost"] == ["$0", "every answer is on disk"]


def test_types_guessed_from_the_first_rows_are_said_to_be(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("n,text\n" + "".join(f"{i},{'text ' * 10}{i}\n" for i in range(20_000)))
    said = "column types from the first 1,000 rows; a full run may read others"
    assert said in notes(Source.file(file) >> ask())
    assert said not in notes(Source.file(file, dtype=str) >> ask())
    file.write_text("n,text\n1,a\n")
    assert said not in notes(Source.file(file) >> ask())


def test_the_basis_is_short_in_a_display_and_whole_in_the_estimate():
    pipeline = Source.list(rows(40)) >> ask() >> ask(name="b", prompt="{q}", output_columns=["z"])
    body = section(pipeline, "Full run").body
    said = [plain(b.line) for b in body if isinstance(b, Paragraph)]
    assert said == [
        "Tokens out: assumed 256 output tokens a call, range 32 to 1,024 (.estimate() has all)."
    ]
    assert {"tokens in", "tokens out", "price", "time"} <= set(dict(pipeline.estimate().basis))


def test_a_source_of_unknown_length_is_counted_by_the_thousand(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows(40)))
    pipeline = Source.file(file) >> ask(FakeModel(price=(1.0, 2.0)), num_outputs=2)
    assert section(pipeline, "Per 1,000 records").body[0].tiles[1].figure == "~2,000"
    assert nodes(pipeline)["step_001_source"] == ["jsonl file"]
    short = tmp_path / "b.jsonl"
    short.write_text("".join(json.dumps(r) + "\n" for r in rows(3)))
    assert tiles(Source.file(short) >> ask())["calls"] == ["3", "○ 3 new"]


def test_the_proposed_calls_are_the_calls_that_are_made():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = (
        Source.list(rows(60)) >> ask(model) >> ask(model, "b", "Then {q}", output_columns=["z"])
    )
    pipeline.run_one(0)
    line = next_line(pipeline)
    found = re.match(r"Next: \.run_one\((\d+)\) (\d+) calls?, about (\$[\d.]+)", line)
    assert found is not None
    before = model.calls
    trace = pipeline.run_one(int(found[1]))
    assert model.calls - before == int(found[2])
    paid = trace.result.ledger.total.paid_usd
    assert float(found[3][1:]) == pytest.approx(paid, rel=0.1)
    some = re.search(r"\.run\(limit=20\) ~?(\d+) new calls", next_line(pipeline))
    before = model.calls
    pipeline.run(limit=20)
    assert some is not None and model.calls - before == int(some[1])
    pipeline.run()
    assert next_line(pipeline) == "Next: .run() no new call"
    assert tiles(pipeline)["cost"] == ["$0", "every answer is on disk"]


def test_an_unknown_price_is_unknown_and_never_naught():
    model = FakeModel("fine", name="mystery", provider="someone")
    text = shown(Source.list(rows(3)) >> ask(model))["text/plain"]
    assert "unknown" in text and "$0" not in text and "nan" not in text.lower()


def test_a_missing_key_is_a_warning_with_its_name():
    pipeline = Source.list(rows(3)) >> ask(OpenAIModel("gpt-4o-mini"))
    assert "! OPENAI_API_KEY is not set" in notes(pipeline)


# Prompts.


def test_the_first_pending_prompt_is_what_the_model_will_get():
    model = FakeModel("fine")
    pipeline = Source.list(rows(9)) >> ask(
        model, prompt="Ask {text}\nNow {{here}}", system_prompt="You are {n}."
    )
    pipeline.run(limit=2)
    fold = next(f for f in blocks(pipeline.view(), Fold) if f.title == "ask")
    texts = [plain(x.line) for x in blocks(fold.body, Listing)]
    assert texts[:2] == ["Ask {text}\nNow {{here}}", "You are {n}."]
    assert "record 2 at this step, exactly as it would be sent" in notes(pipeline)
    sent: list[Any] = []

    def answer(request: Any) -> str:
        sent.extend(m["content"] for m in request.messages)
        return "ok"

    other = FakeModel(answer, name=model.name)
    (Source.list(rows(9)) >> ask(
        other, prompt="Ask {text}\nNow {{here}}", system_prompt="You are {n}."
    )).run_one(2)  # fmt: skip
    assert texts[2:] == sent


def test_functions_are_shown_as_written():
    assert function_text(lambda r: r["a"] > 3) == 'lambda r: r["a"] > 3'
    assert [function_text(f) for f in (lambda r: 1, lambda r: 2)] == ["lambda r: 1", "lambda r: 2"]
    several = lambda r: {  # noqa: E731
        **r,
        "b": [x + 1 for x in r["a"]],
    }
    assert function_text(several) == "lambda r: {**r, 'b': [x + 1 for x in r['a']]}"
    bound = 4
    assert function_text(lambda r: r["n"] > bound) == 'lambda r: r["n"] > bound'
    assert function_text(rows) == "rows" and condition_text(rows) == ""
    assert function_text(eval("lambda r: 1")) == "lambda"
    pipeline = Source.list(rows(4)) >> Filter(lambda r: r["n"] > 1, keep=False) >> Sink.list()
    fold = blocks(pipeline.view(), Fold)[-1]
    assert fold.title == "3 free steps"
    said = [plain(f.body) for f in fold.body[0].facts]
    assert said[1].startswith('Filter(lambda r: r["n"] > 1, keep=False)')


# Problems.


def test_problems_are_shown_with_fix_and_place():
    pipeline = (
        Source.list(rows(3))
        >> ask(prompt="{txt}")
        >> ask(name="b", prompt="{q}", output_columns=["z"], num_outputs=2, temperature=0)
        >> Sink.jsonl("out.jsonl", columns=["zz"]).as_step("write")
    )
    view = pipeline.view()
    head = blocks(view, Head)[0]
    assert plain(head.facts) == "4 steps · ✕ 2 problems, cannot run · ! 1 warning"
    table = blocks(view, Table)[0]
    assert [c.name for c in table.columns] == ["step", "problem", "fix", "written at"]
    first, second, third = ([words(c) for c in row] for row in table.rows)
    assert first[:3] == [
        "✕ ask",
        "reads column txt, which no earlier step provides columns here: n, text",
        "did you mean text?",
    ]
    assert re.fullmatch(r"test_pipeline_view\.py, line \d+", first[3])
    assert second[0] == "✕ write" and third[0] == "! b"
    graph: list[GraphNode] = list(blocks(view, Graph)[0].nodes)
    assert [n.has_problem for n in graph] == [False, True, False, True]
    assert [plain(n.lines[0]) for n in graph] == [
        "3 records", "✕ no column txt", "not checked", "✕ no column zz",
    ]  # fmt: skip
    assert not blocks(view, Tiles) and not blocks(view, Section)
    assert "Nothing was asked" in notes(pipeline)


def test_paths_are_told_from_the_project_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for form in shown(Source.file("data/none.jsonl") >> ask()).values():
        assert str(tmp_path) not in form
    table = blocks((Source.file("data/none.jsonl") >> ask()).view(), Table)[0]
    assert "there is no file data/none.jsonl" in words(table.rows[0][1])


def test_a_trap_is_shown_and_does_not_hide_the_rest():
    pipeline = Source.list(rows(3)) >> ask(num_outputs=2, temperature=0)
    assert "! 1 warning" in shown(pipeline)["text/plain"]
    assert tiles(pipeline)["calls"] == ["6", "3 shared at temperature 0", "○ 3 new"]


# Forms.


def test_the_text_form_begins_with_the_pipeline_in_one_line():
    model = FakeModel("four words each time", price=(1.0, 10.0))
    pipeline = Source.list(rows(40)) >> ask(model) >> Sink.list()
    pipeline.run(limit=20)
    first = shown(pipeline)["text/plain"].splitlines()[0]
    assert re.fullmatch(
        r"Pipeline\(3 steps, 40 records → (≤ )?40, 20 new calls, est\. \$0\.00086\)", first
    )
    assert repr(pipeline) == "Pipeline(ListSource >> LLMStep >> ListSink)"
    only = pipeline._repr_mimebundle_(include={"text/plain"})
    assert set(only) == {"text/plain"}
    assert "text/plain" not in pipeline._repr_mimebundle_(exclude={"text/plain"})


def test_the_graph_is_a_graphviz_object_with_the_counts():
    pipeline = Source.list(rows(4)) >> Filter(lambda r: r["n"] > 1).as_step("late") >> ask()
    source = pipeline.graph().source
    assert "late" in source and "2 calls" in source and source.count("->") == 2
    drawn = pipeline.visualize()
    assert len(drawn.splitlines()) == 3 and 'r["n"] > 1' in drawn


def test_a_compiled_pipeline_marks_new_columns():
    compiled = (Source.list(rows(2)) >> ask() >> Map(lambda r: r)).compile()
    table = blocks(compiled.view(), Table)[0]
    assert "+ q" in words(table.rows[1][2]) and "+ text" not in words(table.rows[1][2])
    assert "what functions add" in words(table.rows[2][2])
    assert compiled.fingerprint in repr(compiled)


@pytest.mark.parametrize("how", ["safe", "off"])
def test_options_decide_what_a_display_runs(how):
    options.preview_on_display = how
    source = Counting(10)

    def never(record: Record) -> Record:
        raise AssertionError("runs no user code")

    pipeline = Source.list(rows(3)) >> Map(never).as_step("mine") >> ask()
    text = shown(pipeline)["text/plain"]
    assert "AssertionError" not in text and ".estimate()" in text
    if how == "off":
        shown(source >> ask())
        assert source.taken == 0


def test_a_display_of_much_stays_small():
    long = [{"n": i, "text": "long text " * 100_000, "s": "$1 and <b>"} for i in range(5)]
    pipeline = Source.list(long)
    for i in range(30):
        prompt = f"{'word ' * 4_000} {i} {{text}}"
        pipeline = pipeline >> ask(name=f"ask{i}", prompt=prompt, output_columns=[f"q{i}"])
    made = shown(pipeline)
    assert len(made["text/html"]) <= 200_000 and len(made["text/markdown"]) <= 200_000


def test_pipelines_in_the_middle_of_work_show_their_start(tmp_path: Path):
    answered = (Source.list(rows(3)) >> ask(FakeModel("fine"))).run()
    further = answered >> ask(name="again", prompt="Ask {text}", output_columns=["b"])
    assert nodes(further)[next(iter(nodes(further)))] == ["3 records", "result"]
    assert [row[1] for row in previewed(further)] == ["◌ pending"] * 3
    further.run()
    assert [row[1] for row in previewed(further)] == ["● memo"] * 3


# A9: controls.


def test_a9_other_limits_and_temperatures_are_estimated_at_once_and_ask_nothing():
    model = FakeModel("fine", price=(1.0, 2.0))
    source = Source.list(rows(500))
    (source >> ask(model, temperature=0.5)).run(limit=10)
    before = model.calls
    counts = []
    for temperature in (0.0, 0.5, 1.0):
        pipeline = source >> ask(model, temperature=temperature)
        for limit in (1, 10, 100, 500):
            started = time.perf_counter()
            estimate = pipeline.estimate(limit=limit)
            assert time.perf_counter() - started < 1.5
            counts.append(estimate.total_llm_calls)
        shown(pipeline)
    assert counts == [1, 10, 100, 500, 0, 0, 90, 490, 1, 10, 100, 500]
    assert model.calls == before


def test_pending_answers_stand_where_the_model_will_write():
    rows = [{"text": "a", "late": 1}, {"text": "b"}]
    pipeline = Source.list(rows) >> LLMStep(
        prompt="Say {text}", output_columns=["answer"], model=FakeModel()
    )
    table = next(b for b in pipeline.preview().view().blocks if isinstance(b, Table))
    names = [c.name for c in table.columns]
    for row in table.rows:
        at = sum(c.span if isinstance(c, Cell) else 1 for c in row[:-1])
        assert isinstance(row[-1], Cell) and row[-1].is_pending
        assert names[at] == "answer"


def test_a_budget_that_is_no_number_is_refused_in_words():
    pipeline = Source.list([{"text": "a"}]) >> Map(lambda r: r)
    for budget in ("0.01", True, float("nan"), -1):
        with pytest.raises(ValueError, match="budget is"):
            pipeline.run(budget=budget)
