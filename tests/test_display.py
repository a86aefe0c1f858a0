"""What displays show is the data; they ask nobody, run nothing of the user's, and never raise."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from shown_objects import (
    FORMS,
    Display,
    ask,
    check,
    every_object,
    keep,
    records,
    refuse,
    shown,
    without_space,
)

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    Filter,
    FlatMap,
    LLMError,
    LLMStep,
    LocalModel,
    Map,
    OpenAICompatibleModel,
    OpenAIModel,
    Pipeline,
    Result,
    Sample,
    Seed,
    Sink,
    Source,
    Step,
    options,
)
from datafast_nb.models.base import Request
from datafast_nb.steps.base import SourceStep


def cells_from(display: Display, first: str) -> list[str]:
    """Cells of the page from the one that begins with those words on; line ends aside."""
    cells = [" ".join(cell.split()) for cell in display.page.cells]
    at = next(i for i, cell in enumerate(cells) if cell.startswith(first))
    return cells[at:]


# What is shown is the data.


def test_a_result_shows_its_values_in_order_and_its_figures():
    pipeline = Source.list([{"id": i, "text": f"t{i}"} for i in range(3)]) >> ask(
        "ask", FakeModel(lambda r: r.messages[-1]["content"].upper())
    )
    display = check(pipeline.run())
    expected = ["status", "id mean 1", "text all different", "answer all different"]
    for i in range(3):
        expected += [str(i), "○ new", str(i), f"t{i}", f"SAY T{i}"]
    assert cells_from(display, "status")[: len(expected)] == expected
    for text in display.texts:
        assert re.search(r"3 records\s+complete run", text)
        assert "○ 3 new calls, free" in text
    lines = display.plain.splitlines()
    assert lines[0].startswith("3 records complete run")
    at = next(
        i for i, line in enumerate(lines) if line.split() == ["status", "id", "text", "answer"]
    )
    assert lines[at + 2].split("  ") == ["0", "○ new", "", "0", "t0", "", "SAY T0"]
    assert not re.search(r"_model|_prompt_index", display.page.text)
    again = check(pipeline.run())
    assert all("● 3 from the memo" in text and "new call" not in text for text in again.texts)


def test_a_slice_shows_its_own_records_and_keeps_the_run():
    result = Pipeline([Source.list([{"n": i} for i in range(30)])]).run()
    whole, part = check(result), check(result[25:])
    assert all("10 of 30 shown, all in .df" in t for t in (whole.plain, whole.page.text))
    assert cells_from(part, "n")[1:] == ["0", "25", "1", "26", "2", "27", "3", "28", "4", "29"]
    assert all(re.search(r"5 of 30 records\s+of a complete run", t) for t in part.texts)
    assert "shown, all in" not in part.plain + part.page.text
    assert result[25:].info is result.info


def test_empty_results_say_so():
    result = (Source.list([{"a": 1}]) >> Filter(fn=refuse)).run()
    for text in check(result).texts:
        assert re.search(r"0 records\s+complete run", text) and "– 1 filtered" in text
    assert all("No failed calls" in text for text in check(result.errors).texts)
    assert all("1 → 0 records" in text for text in check(result.funnel).texts)
    assert all("no model was asked" in text for text in check(result.ledger).texts)
    check(Result())
    check(result[:0])


def test_singular_and_plural():
    one = check(Pipeline([Source.list([{"a": 1}])]).run())
    assert all(re.search(r"\b1 record\s+complete run", text) for text in one.texts)
    pipeline = check(Pipeline([Source.list([{"a": 1}])]))
    assert all(re.search(r"\b1 step\b", text) for text in pipeline.texts)
    asking = Source.list([{"text": "x"}]) >> ask("ask", FakeModel())
    result = asking.run()
    traces = (result.trace(0), asking.run_one(0), result.why(0, "answer"))
    for obj in (
        *(one, pipeline, asking, asking.estimate(), asking.compile(), asking.preview()),
        *(result, result[:1], result.at(0), result.ledger, result.funnel, *traces),
        *(dfn.diff(result, result), dfn.memo.info(), Source.list([{"a": 1}]), Sample(n=1)),
    ):
        texts = obj.texts if isinstance(obj, Display) else check(obj).texts
        for text in texts:
            assert not re.search(
                r"\b1 (records|calls|steps|replies|columns|tokens|new calls)\b", text
            ), text


def test_errors_are_grouped_with_a_count_and_an_example():
    def answer(request: Request) -> Any:
        n = int(request.messages[-1]["content"].split()[-1])
        return "fine" if n == 4 else LLMError(f"call {n} broke", kind="bad_request")

    result = (
        Source.list([{"text": str(i)} for i in range(5)]) >> ask("ask", FakeModel(answer))
    ).run()
    assert len(result) == 1 and len(result.errors) == 4
    display = check(result.errors)
    cells = cells_from(display, "records")
    assert cells[:5] == ["records", "step", "cause", "first example", "what to do"]
    assert cells[5:7] == ["4", "ask"] and len(cells) == 10
    assert (
        "call 0 broke" in cells[7]
        and "source row 0" in cells[8]
        and "call 1" not in " ".join(cells)
    )
    assert all(re.search(r"4 failed calls\s+4 records, 1 cause", t) for t in display.texts)
    assert all("✕ 4 failed" in text for text in check(result).texts)


def test_the_funnel_shows_every_fate_and_the_fates_add_up():
    def answer(request: Request) -> Any:
        broken = request.messages[-1]["content"].endswith("9")
        return LLMError("no", kind="bad_request") if broken else "yes"

    pipeline = (
        Source.list([{"text": str(i), "n": i} for i in range(12)])
        >> Filter(fn=lambda r: r["n"] >= 4).as_step("late")
        >> ask("ask", FakeModel(answer), skip_if=lambda r: r["n"] == 5)
    )
    result = pipeline.run(limit=7)
    cells = cells_from(check(result.funnel), "step")
    names, table = cells[:9], cells[9:]
    assert names[0] == "step" and len(table) == 27
    rows = [dict(zip(names, table[i : i + 9], strict=True)) for i in (0, 9, 18)]
    assert (rows[0]["step"], rows[0]["out"]) == ("step_001_source", "12")
    assert (rows[1]["in"], rows[1]["filtered"], rows[1]["out"]) == ("12", "4", "8")
    # 4 to 10 enter; 5 is skipped, 9 fails; 11 is beyond the limit.
    last = rows[2]
    fates = ("in", "out", "failed", "skipped", "beyond limit", "new")
    assert [last[name] for name in fates] == ["8", "6", "✕ 1", "1", "1", "6"]


def test_traces_show_the_prompt_as_sent_and_the_reply():
    model = FakeModel("the reply")
    pipeline = Source.list([{"text": "bees"}]) >> ask("ask", model, system_prompt="Be brief.")
    display = check(pipeline.run_one(0))
    assert all(display.shows(word) for word in ("Say bees", "Be brief.", "the reply"))
    dropped = (Source.list([{"text": "x"}]) >> Filter(fn=refuse).as_step("none")).run_one(0)
    assert check(dropped).shows("filtered at step 'none'")
    failed = (
        Source.list([{"text": "x"}])
        >> ask("ask", FakeModel([LLMError("over capacity", kind="bad_request")]))
    ).run_one(0)
    assert check(failed).shows("over capacity") and check(failed).shows("✕ failed")


@pytest.mark.parametrize("with_model", [False, True])
def test_a_trace_of_a_filtered_record_shows_that_record_alone_and_where_it_went(with_model):
    rows = [{"n": i, "text": f"row {i}"} for i in range(4)]
    pipeline = Source.list(rows) >> Filter(fn=lambda r: r["n"] != 1).as_step("not one")
    if with_model:
        pipeline = pipeline >> ask("ask", FakeModel())
    trace = pipeline.run_one(where={"n": 1})
    assert not trace.outputs and "filtered at step 'not one'" in trace.why_dropped
    display = check(trace)
    # The row is named by its place as well: "row 1" of the source.
    assert display.shows("+ text row 1") and display.shows("filtered at step 'not one'")
    assert not any("row 0" in text or "row 3" in text for text in display.texts)


def test_why_shows_the_value_its_step_the_prompt_and_the_reply():
    pipeline = Source.list([{"text": "bees"}]) >> ask("ask", FakeModel("the reply"))
    result = pipeline.run()
    answer, text = check(result.why(0, "answer")), check(result.why(0, "text"))
    for word in ("answer of record 0", "written by a model at ask", "Say bees", "the reply"):
        assert answer.shows(word)
    assert text.shows("read by step_001_source") and text.shows("bees")
    assert not any("Say" in form for form in text.texts)


def test_a_comparison_shows_both_prompts_and_both_answers():
    source = Source.list([{"text": "bees"}, {"text": "moon"}])

    def shout(request: Request) -> str:
        said = request.messages[-1]["content"].split()[-1]
        return said.upper() if request.messages[-1]["content"].startswith("Shout") else said

    model = FakeModel(shout)
    a = (source >> ask("ask", model)).run()
    b = (source >> ask("ask", model, prompt="Shout {text}")).run()
    display = check(dfn.diff(a, b))
    for word in ("bees", "BEES", "moon", "MOON", "2 records"):
        assert display.shows(word)
    marked = [tag for tag, _ in display.page.elements if tag in ("ins", "del")]
    assert {"ins", "del"} <= set(marked)
    assert "identical" not in display.plain and check(dfn.diff(a, a)).shows("2 are identical")


def test_compiled_pipelines_show_the_columns_after_each_step():
    compiled = (Source.list([{"text": "x"}]) >> ask("ask", FakeModel())).compile()
    display = check(compiled)
    assert display.shows(compiled.fingerprint)
    assert re.search(r"ask +LLMStep .* text \+ answer", display.plain)
    assert cells_from(display, "ask")[2].startswith("text + answer")


def test_model_cards_name_price_endpoint_and_whether_a_key_is_there(monkeypatch):
    card = check(OpenAIModel("gpt-4o-mini"))
    assert card.shows("$0.15 in") and card.shows("$0.60 out per 1M tokens")
    assert card.shows("missing: OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    assert "missing" not in check(OpenAIModel("gpt-4o-mini")).plain
    unknown = check(OpenAICompatibleModel("m", "http://127.0.0.1:9/v1"))
    assert unknown.shows("price unknown") and unknown.shows("http://127.0.0.1:9/v1")
    assert "$0" not in unknown.plain
    for free in (FakeModel(), LocalModel()):
        assert check(free).shows("price free")


def test_a_background_run_shows_its_state():
    release = threading.Event()

    def wait(record: dict[str, Any]) -> dict[str, Any]:
        assert release.wait(20)
        return record

    run = (Source.list([{"text": "x"}]) >> Map(wait) >> ask("ask", FakeModel())).start()
    try:
        assert shown(run)["text/plain"].startswith("Running")
        assert all("Running" in text for text in shown(run).values())
    finally:
        release.set()
    run.result(20)
    display = check(run)
    for text in display.texts:
        assert re.search(r"Run\s+complete", text) and "1 of 1 call" in text
        assert "● 0 from the memo" in text and "○ 1 new" in text


def test_memo_info_shows_what_it_holds():
    (Source.list([{"text": "x"}, {"text": "y"}]) >> ask("ask", FakeModel(name="m1"))).run()
    for obj in (dfn.memo, dfn.memo.info()):
        display = check(obj)
        assert display.shows("2 answers")
        assert cells_from(display, "fake/m1")[:2] == ["fake/m1", "2"]


def test_seeds_and_files_show_their_first_records(tmp_path):
    seed = Seed.product(Seed.values("topic", ["bees", "moon"]), Seed.values("tone", ["dry"]))
    cells = cells_from(check(seed), "topic")
    assert cells == ["topic 2 values", "tone 1 value", "0", "bees", "dry", "1", "moon", "dry"]
    path = tmp_path / "some.csv"
    path.write_text("a,b\n1,x\n", "utf-8")
    display = check(Source.file(str(path)))
    assert display.shows("some.csv") and cells_from(display, "0")[:3] == ["0", "1", "x"]


def test_records_of_different_shapes_share_a_table():
    result = Pipeline([Source.list([{"a": 1}, {"b": None}, {}, {"a": "x", "c": 2.5}])]).run()
    cells = check(result).page.cells
    assert [c.split()[0] for c in cells[1:4]] == ["a", "b", "c"]
    assert cells[4:20] == [
        *("0", "1", "", ""),
        *("1", "", "None", ""),
        *("2", "", "", ""),
        *("3", "x", "", "2.5"),
    ]


@pytest.mark.parametrize("value", ["👩‍💻 works", "نمی‌خواهم", "prix : 10 €", "全角　空白"])
def test_joiners_and_spaces_of_ordinary_text_are_not_shown_as_codes(value):
    pipeline = Source.list([{"text": value}]) >> ask("ask", FakeModel(value))
    for obj in (pipeline, pipeline.run(), pipeline.run_one(0)):
        display = check(obj)
        assert display.shows(value)
        assert "\\u" not in "".join(display.bundle.values())


def test_everything_that_ends_a_cell_shows_all_forms(tmp_path):
    objects = every_object("word", tmp_path)
    # A model's card counts the session's calls: the runs above must be over.
    for name, obj in objects.items():
        assert check(obj).plain, name
    for name in ("list sink", "map", "flat map", "filter", "sample of records", "LLM step"):
        assert without_space(repr(objects[name])), name


def test_a_front_end_gets_the_forms_that_it_asks_for(tmp_path):
    for name, obj in every_object("word", tmp_path).items():
        bundle = obj._repr_mimebundle_()
        one = obj._repr_mimebundle_(include=["text/html"])
        assert one == {"text/html": bundle["text/html"]}, name
        less = obj._repr_mimebundle_(exclude=["text/html"])
        assert less == {k: v for k, v in bundle.items() if k != "text/html"}, name


# The interrupt.


def test_an_interrupt_shows_one_line_and_stops_the_cells_behind_it(capsys):
    shell = InteractiveShell()

    def interrupt(record: dict[str, Any]) -> dict[str, Any]:
        if record["n"] == 2:
            raise KeyboardInterrupt
        return record

    shell.user_ns["pipeline"] = Source.list([{"n": i} for i in range(4)]) >> Map(interrupt)
    done = shell.run_cell("pipeline.run()")
    out, err = capsys.readouterr()
    assert not done.success
    shown_lines = [line for line in (out + err).splitlines() if line.strip()]
    assert len(shown_lines) == 1 and shown_lines[0].startswith("Interrupted: ")
    assert dfn.last is not None and dfn.last.status == "interrupted"
    assert check(dfn.last).shows("interrupted run")


# Nothing is asked, and nothing of the user's runs where it need not (A1, A9).


class Untouchable(FakeModel):
    """Fails the test that asks it."""

    async def complete(self, request: Request) -> Any:
        raise AssertionError("a display asked the model")


class CountingSource(SourceStep):
    """A million records, and how many of them were made."""

    def __init__(self, n: int = 1_000_000) -> None:
        self.n = n
        self.n_read = 0

    def read(self, chunk: int) -> Iterator[Sequence[Any]]:
        for i in range(self.n):
            self.n_read += 1
            yield [{"text": f"row {i}"}]

    def count(self) -> int:
        return self.n

    def columns(self) -> list[str]:
        return ["text"]

    def config(self) -> dict[str, Any]:
        return {"n": self.n}

    def describe(self) -> str:
        return "a million"


def test_a1_displaying_fifty_pipelines_asks_no_model(monkeypatch):
    opened: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda *a: opened.append(a))
    model = Untouchable(name="gpt-4o-mini", provider="openai")
    n_shown = 0
    for i in range(50):
        pipeline = (
            Source.list(records(f"w{i}"))
            >> Filter(fn=lambda r: r["n"] != 1).as_step("some")
            >> ask("ask", model, num_outputs=1 + i % 3)
            >> ask("again", model, prompt="{answer}", output_columns=["b"])
        )
        n_shown += set(shown(pipeline)) == set(FORMS)
        repr(pipeline), str(pipeline)
    assert n_shown == 50
    for obj in (
        pipeline.preview(),
        pipeline.estimate(),
        pipeline.compile(),
        model,
        *pipeline.steps,
    ):
        check(obj)
    repr(pipeline.graph()), pipeline.visualize()
    assert model.calls == 0 and not opened


def test_a1_displays_of_what_was_answered_ask_no_model_either():
    model = FakeModel("fine")
    pipeline = Source.list(records("w")) >> ask("ask", model)
    result = pipeline.run()
    assert model.calls == 3
    objects = (pipeline, result, result.trace(0), result.why(0, "answer"), result.ledger)
    for obj in (*objects, pipeline.preview(), pipeline.estimate(), dfn.diff(result, result)):
        check(obj)
    assert model.calls == 3


def test_a1_the_display_of_a_million_records_reads_a_few(tmp_path):
    source = CountingSource()
    pipeline = source >> ask("ask", Untouchable())
    display = check(pipeline)  # drawn twice
    assert display.shows("of 1,000,000")
    # Five for the preview, and those that the estimate is made from.
    assert source.n_read <= 2 * 30
    source.n_read = 0
    check(source)
    assert source.n_read <= 2 * 30
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(20_000)), "utf-8")
    read: list[int] = []

    def note(record: dict[str, Any]) -> dict[str, Any]:
        read.append(1)
        return record

    shown(Source.file(str(path)) >> Map(note) >> ask("ask", Untouchable()))
    assert 0 < len(read) <= 60


def test_a1_reprs_run_nothing():
    ran: list[int] = []

    def note(record: dict[str, Any]) -> dict[str, Any]:
        ran.append(1)
        return record

    pipeline = Source.list([{"text": "x"}]) >> Map(note) >> ask("ask", FakeModel())
    for obj in (pipeline, *pipeline.steps, pipeline.compile()):
        repr(obj)
    pipeline.visualize()
    for step in pipeline.steps:
        shown(step)
    assert ran == []
    options.preview_on_display = "safe"
    check(pipeline)
    assert ran == []
    options.preview_on_display = "auto"
    check(pipeline)
    assert ran


def test_a9_other_limits_and_temperatures_change_the_estimate_and_ask_nothing():
    model = Untouchable(name="gpt-4o-mini", provider="openai")
    source = Source.list([{"text": "word " * (i + 1)} for i in range(40)])
    costs = []
    for limit in (1, 2, 5, 10, 20, 40):
        for temperature in (0.0, 0.5, 1.0):
            pipeline = source >> ask("ask", model, temperature=temperature)
            estimate = pipeline.estimate(limit=limit)
            display = check(estimate)
            assert estimate.calls.likely == limit
            assert display.shows(f"{limit} new call")
            costs.append(estimate.cost.likely)
    assert model.calls == 0
    assert costs == sorted(costs) and len(set(costs)) == 6


# Nothing is raised.


class Surprise(Exception):
    """An exception that is hard to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


def raising(error: Callable[[], BaseException]) -> Map:
    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise error()

    return Map(fail).as_step("breaks")


def test_a_function_that_raises_is_shown_in_place():
    pipeline = Source.list([{"a": 1}]) >> raising(lambda: ZeroDivisionError("by naught"))
    display = check(pipeline)
    for word in ("ZeroDivisionError: by naught", "step 'breaks'", "2 steps", ".preview()"):
        assert display.shows(word)


@pytest.mark.parametrize(
    "error",
    [Surprise, StopIteration, RecursionError, MemoryError, lambda: KeyError(b"\xff")],
    ids=["unprintable", "StopIteration", "RecursionError", "MemoryError", "bytes"],
)
def test_displays_survive_exceptions_of_every_kind(error):
    assert check(Source.list([{"a": 1}]) >> raising(error)).shows("breaks")


@pytest.mark.parametrize("error", [Surprise, RecursionError, lambda: KeyError(b"\xff")])
def test_models_that_raise_anything_are_failed_calls_that_can_be_shown(error):
    class Odd(FakeModel):
        async def complete(self, request: Request) -> Any:
            raise error()

    pipeline = Source.list([{"text": "x"}]) >> ask("ask", Odd())
    with pytest.raises(LLMError):
        pipeline.run()
    assert dfn.last is not None and len(dfn.last.errors) == 1
    for obj in (dfn.last, dfn.last.errors, pipeline.run_one(0), pipeline):
        check(obj)


def test_displays_survive_a_source_that_is_gone(tmp_path):
    path = tmp_path / "here.jsonl"
    path.write_text('{"text": "x"}\n', "utf-8")
    pipeline = Source.file(str(path)) >> ask("ask", FakeModel())
    assert check(pipeline).shows("1 record")
    compiled, estimate, result = pipeline.compile(), pipeline.estimate(), pipeline.run()
    path.unlink()
    assert check(pipeline).shows("here.jsonl")
    trace = result.trace(0)
    for obj in (compiled, estimate, result, result.funnel, trace, pipeline.steps[0]):
        check(obj)
    assert repr(pipeline)


class BrokenSource(SourceStep):
    """A source of a user, wrong in every way."""

    def __init__(self, where: str) -> None:
        self.where = where

    def _fail(self, where: str) -> None:
        if self.where == where:
            raise OSError(f"broken {where}")

    def read(self, chunk: int) -> Iterator[list[Any]]:
        self._fail("read")
        yield [{"a": 1}]

    def count(self) -> int:
        self._fail("count")
        return 1

    def columns(self) -> list[str] | None:
        self._fail("columns")
        return ["a"]

    def version(self) -> str:
        self._fail("version")
        return ""

    def describe(self) -> str:
        self._fail("describe")
        return "broken"


@pytest.mark.parametrize("where", ["read", "count", "columns", "version", "describe"])
def test_displays_survive_a_source_whose_methods_raise(where):
    source = BrokenSource(where)
    pipeline = source >> Sample(n=1) >> ask("ask", FakeModel(), prompt="{a}")
    display = check(pipeline)
    if where != "describe":  # that one is not needed to show it
        assert display.shows(f"broken {where}")
    if where != "version":
        assert check(source).shows(f"broken {where}")


class Viewless(FakeModel):
    """Its display is a user's own, and broken."""

    def __init__(self, view: Callable[[], Any]) -> None:
        super().__init__("fine")
        self.make = view

    def view(self) -> Any:
        return self.make()


def no_view() -> Any:
    raise OSError("no view")


@pytest.mark.parametrize("view", [no_view, lambda: None], ids=["raises", "gives none"])
def test_displays_survive_a_view_that_is_broken(view):
    display = check(Viewless(view))
    assert display.shows("Nothing to show") and display.shows("it cannot be shown")
    assert repr([Viewless(view)])


class OwnStep(Step):
    def process(self, records: Any) -> Any:
        raise ValueError("own step broke")


class Unwilling(Step):
    """Fails whoever looks at it."""

    def process(self, records: Any) -> Any:
        return records

    def config(self) -> dict[str, Any]:
        raise OSError("no settings")

    def describe(self) -> str:
        raise OSError("no words")

    def __repr__(self) -> str:
        raise OSError("no repr")


def test_displays_survive_broken_pipelines():
    source = Source.list([{"text": "x"}])
    assert check(source >> OwnStep().as_step("own")).shows("own step broke")
    check(source >> Unwilling().as_step("own"))
    assert set(Unwilling()._repr_mimebundle_()) == set(FORMS)
    for pipeline in (
        Pipeline([Map(keep)]),
        source >> LLMStep(prompt="{txt}", output_columns=["a"], model=FakeModel()),
        source >> LLMStep(prompt="{text}", output_columns=["text"], model=FakeModel()),
        source >> LLMStep(prompt="{text}", output_columns=["a"]),
    ):
        display = check(pipeline)
        assert display.shows("1 problem, cannot run") and display.shows("Nothing was asked.")
        assert re.search(r"test_display\.py, line \d+", display.page.text)
    missing = check(source >> LLMStep(prompt="{txt}", output_columns=["a"], model=FakeModel()))
    assert missing.shows("did you mean text?")
    nothing = check(source >> LLMStep(prompt="{text}", output_columns=["a"]))
    assert nothing.shows("OpenAIModel('gpt-4o-mini')")


def test_displays_survive_a_memo_that_cannot_be_opened(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", "utf-8")
    options.home = blocked / "memo"
    display = check(Source.list([{"text": "x"}]) >> ask("ask", FakeModel()))
    assert display.shows("memo") and display.shows("ask") and display.shows("x")


def test_displays_survive_a_memo_that_was_damaged(tmp_path):
    pipeline = Source.list(records("w")) >> ask("ask", FakeModel())
    result = pipeline.run()
    dfn.memo.close()
    options.home = tmp_path / "damaged"
    place = Path(options.home) / "memo"
    place.mkdir(parents=True)
    (place / "cache.db").write_bytes(b"no database at all" * 500)
    for obj in (pipeline, result, result.ledger):
        assert shown(obj)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        b"\x00\xff<b>",
        [[[[[[[[[["deep"]]]]]]]]]],
        {"k": {"k": {"k": None}}},
        True,
        "",
        "   ",
        "\n\n",
        2**80,
        1e308,
    ],
    ids=lambda v: f"{type(v).__name__} {str(v)[:20]!a}" if not isinstance(v, int) else "int",
)
def test_displays_survive_odd_values(value):
    pipeline = Source.list([{"v": value, "text": "x"}]) >> ask("ask", FakeModel())
    result = pipeline.run()
    for obj in (pipeline, result, pipeline.run_one(0), pipeline.preview(), Result([{"v": value}])):
        check(obj)
    check(result.why(0, "v"))
    check(dfn.diff(result, result))


@pytest.mark.parametrize("value", [10**5000, [-(10**5000)]], ids=["number", "in a list"])
def test_displays_survive_numbers_too_long_for_python_to_write(value):
    check(Result([{"v": value}]))
    check(Source.list([{"v": value}]) >> Map(keep))
    check(FlatMap(lambda r: [r, value]))


def test_displays_survive_values_that_cannot_be_looked_at():
    class Hidden:
        def __repr__(self) -> str:
            raise OSError("no repr")

        def __eq__(self, other: object) -> bool:
            raise OSError("no comparison")

        __hash__ = None  # type: ignore[assignment]

    check(Result([{"v": Hidden(), "w": [Hidden()]}]))
    check(Sink.list())
