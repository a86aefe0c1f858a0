"""Displays are bounded, whatever they show (A27), and fit the terminal."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pytest
from shown_objects import (
    TYPICAL_BYTES,
    ask,
    check,
    check_forms,
    every_object,
    keep,
    shown,
)

import datafast_nb as dfn
from datafast_nb import (
    FakeModel,
    Filter,
    LLMError,
    LLMStep,
    Map,
    OpenAIModel,
    Pipeline,
    Result,
    Sample,
    Seed,
    Source,
    options,
)
from datafast_nb.models.base import Request

TOPICS = ["Biology", "Physics", "History"]
SENTENCE = "An octopus has three hearts and blue blood, and it costs $1 or $2 to look at one. "


def articles() -> Source:
    rows = [
        {
            "id": f"a{i:02}",
            "topic": TOPICS[i % 3],
            "n_words": 8 + 7 * i % 90,
            "text": f"Article {i}. " + SENTENCE * (1 + i % 12),
        }
        for i in range(40)
    ]
    return Source.list(rows).as_step("articles")


def scripted() -> FakeModel:
    def reply(request: Request) -> Any:
        text = request.messages[-1]["content"]
        if "Article 3." in text:
            return LLMError("the server said no", kind="bad_request")
        if "Article 5." in text:
            return '{"question": "only half of it"}'
        return {"question": f"What about {len(text)} characters?", "answer": SENTENCE * 3}

    return FakeModel(reply, name="scripted", price=(0.15, 0.60))


def typical() -> dict[str, Any]:
    """Every kind of object as it is on an ordinary day: 40 articles, three steps, some losses."""
    model = scripted()
    columns = ["question", "answer"]
    prompt = "Article ({topic}):\n{text}\n\nWrite a question a reader would ask, and its answer."
    long_enough = articles() >> Filter(fn=lambda r: r["n_words"] >= 20).as_step("long_enough")
    step = ask("ask", model, prompt=prompt, output_columns=columns, system_prompt="Be brief.")
    pipeline = long_enough >> step >> Filter(fn=lambda r: r["answer"]).as_step("keep_good")
    other = long_enough >> ask("ask", model, prompt=prompt + " Ask why.", output_columns=columns)
    objects = {
        "fresh pipeline": pipeline,
        "problem": articles() >> ask("ask", model, prompt="{txt} {scor}"),
    }
    before = {name: shown(obj) for name, obj in objects.items()}
    result = pipeline.run()
    run = pipeline.start()
    run.result(30)
    return {
        **before,
        "answered pipeline": pipeline,
        "preview": pipeline.preview(),
        "estimate": pipeline.estimate(),
        "compiled": pipeline.compile(),
        "result": result,
        "slice": result[3:7],
        "table of a step": result.at("long_enough"),
        "dropped": result.dropped("ask"),
        "errors": result.errors,
        "funnel": result.funnel,
        "ledger": result.ledger,
        "trace": pipeline.run_one(2),
        "failed trace": pipeline.run_one(where={"id": "a03"}),
        "why": result.why(0, "answer"),
        "comparison": dfn.diff(result, other.run()),
        "run": run,
        "model": OpenAIModel("gpt-4o-mini"),
        "source": articles(),
        "step": step,
        "seed": Seed.product(Seed.values("topic", TOPICS), Seed.values("level", ["easy", "hard"])),
        "sample": Sample(n=5),
        "memo": dfn.memo.info(),
    }


def test_a27_typical_displays_take_at_most_60_kilobytes():
    for name, obj in typical().items():
        bundle = obj if isinstance(obj, dict) and "text/html" in obj else check(obj).bundle
        for form, text in check_forms(bundle).bundle.items():
            assert len(text.encode()) <= TYPICAL_BYTES, (name, form, len(text.encode()))


def test_a27_small_objects_have_small_displays(tmp_path):
    for name, obj in every_object("word", tmp_path).items():
        assert len(shown(obj)["text/html"]) < 40_000, name


def test_a27_a_result_of_a_million_records_takes_at_most_200_kilobytes():
    source = Source.list([{"n": i, "text": f"{i} {SENTENCE[: i % 60]}"} for i in range(1_000_000)])
    result = (source >> Filter(fn=lambda r: r["n"] % 2 == 0)).run()
    display = check(result)
    assert display.shows("500,000 records") and display.shows("10 of 500,000 shown, all in .df")
    assert display.shows("500,000 filtered")
    for obj in (Pipeline([source]), result.funnel, result.at(0), Result(list(result))):
        check_forms(shown(obj))
    total = sum(len(text.encode()) for text in display.bundle.values())
    assert total <= TYPICAL_BYTES
    assert sum(len(t.encode()) for t in shown(result[5:]).values()) <= TYPICAL_BYTES


@pytest.mark.parametrize("place", ["value", "nested", "column", "answer", "prompt"])
def test_a27_ten_megabytes_of_text_are_cut_with_a_count(place):
    huge = "word " * 2_000_000
    record: dict[str, Any] = {"text": "x"}
    if place == "value":
        record["big"] = huge
    elif place == "nested":
        record["big"] = {"list": [huge, huge]}
    elif place == "column":
        record[huge] = 1
    elif place == "prompt":
        record["text"] = huge
    answer = huge if place == "answer" else "short"
    pipeline = Source.list([record]) >> ask("ask", FakeModel(answer))
    options.preview_seconds = 60
    result = pipeline.run()
    for obj in (pipeline, result, pipeline.run_one(0), pipeline.preview(), result.errors):
        display = check_forms(shown(obj))
        if obj is result and place in ("value", "answer"):
            assert re.search(r"… \+9,?99\d,?\d\d\d", display.page.text)


def test_a27_tables_of_many_long_texts_are_drawn_with_less_of_each():
    rows = [
        {"text": f"{i}", **{f"column_{j}": f"cell {i}.{j} " + SENTENCE * 60 for j in range(12)}}
        for i in range(10)
    ]
    pipeline = Source.list(rows) >> ask("ask", FakeModel(SENTENCE * 60))
    result = pipeline.run()
    for obj in (result, pipeline, pipeline.run_one(0), Result(rows), dfn.diff(result, result)):
        check(obj)  # at most 200 kB
    shown_text = check(result).page.text
    assert all(f"cell {i}.0 An octopus" in shown_text for i in range(10))


def test_a27_a_huge_error_text_is_cut():
    model = FakeModel([LLMError("boom " * 1_000_000, kind="bad_request"), "fine"])
    result = (Source.list([{"text": "x"}, {"text": "y"}]) >> ask("ask", model)).run(
        max_concurrent=1
    )
    for obj in (result, result.errors, result.dropped("ask")):
        assert len(check(obj).source) < TYPICAL_BYTES

    def fail(record: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("boom " * 1_000_000)

    assert len(check(Source.list([{"a": 1}]) >> Map(fail)).source) < TYPICAL_BYTES


def test_a27_a_thousand_columns_are_cut_with_a_count():
    wide = [{f"column_{i}": i for i in range(1_000)} for _ in range(3)]
    pipeline = Source.list(wide) >> ask("ask", FakeModel(), prompt="{column_7}")
    result = pipeline.run()
    for obj in (pipeline, pipeline.run_one(0), pipeline.compile(), pipeline.preview()):
        check(obj)
    display = check(result)
    assert all(re.search(r"\b989 more columns", text) for text in display.texts)
    assert max(map(len, display.plain.splitlines())) <= 200


def test_a27_a_thousand_steps_are_cut_with_a_count():
    def chain(n: int) -> Pipeline:
        return Pipeline(
            [Source.list([{"a": 1}]), *(Map(keep).as_step(f"m{i}") for i in range(n - 1))]
        )

    longest, long = chain(1_000), chain(120)
    assert check(longest).shows("1,000 steps")
    result = long.run()
    for obj in (longest.compile(), result, result.funnel, long.run_one(0)):
        check(obj)


def test_a27_a_hundred_thousand_records_are_counted_and_ten_shown():
    pipeline = Source.list([{"n": i, "text": "t"} for i in range(100_000)]) >> Filter(
        fn=lambda r: r["n"] % 2 == 0
    )
    display = check(pipeline.run())
    assert display.shows("50,000 records") and display.shows("10 of 50,000 shown")
    rows = [line for line in display.plain.splitlines() if re.match(r"\d+ +\d+ +t$", line)]
    assert len(rows) == 10
    assert len(check(pipeline).source) < TYPICAL_BYTES


def test_a27_many_failures_share_a_line():
    def answer(request: Request) -> Any:
        n = int(request.messages[-1]["content"].split()[-1])
        return "fine" if n == 0 else LLMError(f"call {n} broke", kind="bad_request")

    result = (
        Source.list([{"text": str(i)} for i in range(500)]) >> ask("ask", FakeModel(answer))
    ).run()
    assert len(result.errors) == 499
    display = check(result)
    assert len(display.plain.splitlines()) < 40 and len(display.source) < TYPICAL_BYTES
    assert display.shows("499 failed") and check(result.errors).shows("499 failed calls")


def test_a27_many_causes_and_models_are_bounded():
    models = [FakeModel("fine", name=f"model {i} " + "long name " * 20) for i in range(60)]
    many = Source.list([{"text": "x"}]) >> ask("ask", models)
    result = many.run()
    for obj in (many, many.estimate(), result, result.ledger, dfn.memo.info(), many.run_one(0)):
        check(obj)

    def answer(request: Request) -> Any:
        i = int(request.messages[-1]["content"].split()[-1])
        return LLMError(f"cause {i}", kind=f"kind {i}") if i else "fine"

    result = (
        Source.list([{"text": str(i)} for i in range(200)]) >> ask("ask", FakeModel(answer))
    ).run()
    for obj in (result, result.errors):
        assert len(check(obj).plain.splitlines()) < 300


def test_a27_what_is_read_to_draw_a_result_does_not_grow_with_it():
    class Counting(list[Any]):
        """Rows that count how often one is taken out one by one."""

        n_taken = 0

        def __getitem__(self, index: Any) -> Any:
            type(self).n_taken += 1
            return super().__getitem__(index)

    taken = []
    for n in (1_000, 100_000):
        rows = Counting({"n": i, "text": "t"} for i in range(n))
        Counting.n_taken = 0
        check(Source.list(rows))
        check(Source.list(rows) >> Map(keep))
        taken.append(Counting.n_taken)
    assert taken[1] <= 2 * taken[0] + 50


# Terminals.


def column_width(line: str) -> int:
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1
        for c in line
    )


def wide_objects() -> dict[str, Any]:
    rows = [
        {"id": i, "title": f"日本語の見出し {i} " * 4, "text": "a long English text " * 20}
        for i in range(4)
    ]
    pipeline = Source.list(rows) >> ask("questions", FakeModel("答え " * 30))
    result = pipeline.run()
    other = Source.list(rows) >> ask("questions", FakeModel("他の答え " * 30), prompt="{title}")
    missing = Source.list(rows) >> LLMStep(prompt="{txt}", output_columns=["a"], model=FakeModel())
    return {
        "result": result,
        "preview": pipeline.preview(),
        "estimate": pipeline.estimate(),
        "funnel": result.funnel,
        "ledger": result.ledger,
        "trace": pipeline.run_one(0),
        "pipeline": pipeline,
        "why": result.why(0, "answer"),
        "comparison": dfn.diff(result, other.run()),
        "compiled": pipeline.compile(),
        "problem": missing,
        "source": pipeline.steps[0],
        "model": OpenAIModel("gpt-4o-mini"),
    }


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_text_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, obj in wide_objects().items():
        plain = check(obj).plain
        too_long = [line for line in plain.splitlines() if column_width(line) > columns]
        assert not too_long, (name, too_long)


def test_wide_characters_keep_columns_aligned(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{"a": "日本", "b": "x"}, {"a": "abcd", "b": "y"}, {"a": "e\u0301", "b": "z"}]
    lines = shown(Pipeline([Source.list(rows)]).run())["text/plain"].splitlines()
    at = next(i for i, line in enumerate(lines) if re.fullmatch(r" +a +b", line))
    starts = {
        column_width(line[: line.rindex(last)])
        for line, last in zip(lines[at + 2 : at + 5], "xyz", strict=True)
    }
    assert starts == {9}


def test_the_terminal_changes_nothing_in_html_and_markdown(monkeypatch):
    objects = wide_objects()
    monkeypatch.setenv("COLUMNS", "40")
    narrow = {name: shown(obj) for name, obj in objects.items()}
    monkeypatch.setenv("COLUMNS", "200")
    for name, bundle in narrow.items():
        again = shown(objects[name])
        assert again["text/html"] == bundle["text/html"], name
        assert again["text/markdown"] == bundle["text/markdown"], name
    assert any(shown(obj)["text/plain"] != narrow[n]["text/plain"] for n, obj in objects.items())
