"""What a Result shows: first lines, table, failures in place, records in full, errors, bill, graph."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from reading import cells, fold, those, words

import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, FlatMap, LLMStep, Map, Sample, Sink, Source
from datafast_nb.display import html
from datafast_nb.display.views import Cell, Document, Fold, Graph, Head, Legend, Table, Tiles, plain
from datafast_nb.options import options
from datafast_nb.report import REPORT
from datafast_nb.result_view import result_view
from datafast_nb.runs import REMEDIES, CallError, ErrorList

Record = dict[str, Any]


def articles(n: int) -> list[Record]:
    return [
        {"id": i, "topic": ("Biology", "Physics")[i % 2], "text": f"text {i} " * 20}
        for i in range(n)
    ]


def answers(*bad: int) -> Any:
    """A question and an answer for every text; for the texts in `bad` a reply without answer."""

    def answer(request: Any) -> Record:
        # The first message of the user: a second one, after an unusable reply, asks again.
        number = int(request.messages[1]["content"].split()[2])
        if number in bad:
            return {"question": f"Why {number}?"}
        return {"question": f"Why {number}?", "answer": f"Because of {number}. " * 8}

    return answer


def story(n: int = 24, bad: tuple[int, ...] = (5,), price: Any = (0.15, 0.6), **more: Any) -> Any:
    model = FakeModel(answers(*bad), name="m-mini", price=price)
    ask = LLMStep(
        "Article: {text}",
        output_columns=["question", "answer"],
        model=model,
        system_prompt="You write one question and its answer.",
        retry_delay=0.0,
        **more,
    )
    return (
        Source.list(articles(n)).as_step("articles")
        >> Filter(lambda r: r["id"] % 6 != 2).as_step("long_enough")
        >> ask.as_step("ask")
        >> Map(lambda r: {**r, "score": 7 + r["id"] % 3}).as_step("rate")
    )


def records_table(result: dfn.Result) -> Table:
    [table] = [t for t in those(result.view(), Table) if t.columns and t.columns[0].kind == "index"]
    return table


# The first lines.


def test_a_result_without_records_says_where_they_were_lost() -> None:
    pipeline = (
        Source.list(articles(8)).as_step("articles")
        >> Filter(lambda r: r["id"] > 99).as_step("impossible")
        >> LLMStep("{text}", output_columns=["q"], model=FakeModel()).as_step("ask")
    )
    view = pipeline.run().view()
    said = words(view)
    assert '! no record got past impossible (8 of 8 filtered): .dropped("impossible")' in said
    assert "none came" in said and "not reached" not in said


def test_the_first_two_lines_say_what_there_is_and_what_it_cost() -> None:
    pipeline = story(n=16)
    pipeline.run(limit=5)
    view = pipeline.run(limit=10).view()
    head, legend = view.blocks[:2]
    assert isinstance(head, Head) and isinstance(legend, Legend)
    assert head.title == "9 records"
    assert re.fullmatch(
        r"limited run: 10 of 13 records · finished in (\d\.\d\d|< 0\.01) s", plain(head.facts)
    )
    said = [plain(item) for item in legend.items]
    assert re.fullmatch(r"○ 5 new calls, paid \$0\.\d+", said[0])
    assert re.fullmatch(r"● 4 from the memo, saved \$0\.\d+", said[1])
    assert said[2:] == ["✕ 1 failed", "– 3 filtered"]


def test_a_run_that_asked_nothing_looks_the_same_every_time() -> None:
    pipeline = story()
    pipeline.run()
    shown = [repr(pipeline.run()) for _ in range(2)]
    assert shown[0] == shown[1]
    assert "complete run" in shown[0] and "finished" not in shown[0]
    result = pipeline.run()
    assert html.draw(result.view()) == html.draw(result.view())


def test_free_and_unknown_prices_are_words() -> None:
    free, unknown = story(price=None), story(price=None)
    assert "20 new calls, 1 asked again, free" in words(free.run().view())
    model = dfn.OpenAICompatibleModel("nobody-lists-it", "http://localhost:9/v1")
    assert model.price is None
    line = LLMStep("{id}", output_columns=["q"], model=FakeModel(name="x", provider="mystery"))
    said = words((Source.list([{"id": 1}]) >> line).run().view())
    assert "1 new call, paid unknown" in said
    assert "$0" not in said and unknown.run().ledger.paid_usd == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_calls": 4}, "stopped by max_calls=4"),
        ({"budget": 0.0004}, "stopped by budget=$0.0004"),
    ],
)
def test_a_spent_bound_says_which_and_what_to_do(how: Any, said: str) -> None:
    with pytest.raises(dfn.BudgetExceededError) as caught:
        story(bad=()).run(**how, max_concurrent=1)
    view = caught.value.result.view()
    assert plain(view.blocks[0].facts).startswith(said)
    assert "not reached" in words(view) and "Run it again to go on" in words(view)


def test_a_failed_and_an_interrupted_run_say_so() -> None:
    with pytest.raises(dfn.LLMError) as caught:
        story(bad=(0, 1, 3, 4, 5), on_error="raise").run(max_concurrent=1)
    assert plain(caught.value.result.view().blocks[0].facts).startswith("failed run")

    def stop(record: Record) -> Record:
        raise KeyboardInterrupt

    with pytest.raises(dfn.RunInterrupted) as stopped:
        (Source.list(articles(3)) >> Map(stop)).run()
    assert "interrupted run" in words(stopped.value.result.view())


def test_a_failed_run_names_what_helps_and_what_was_not_reached() -> None:
    said = []

    def down(_: Any) -> Any:
        raise dfn.LLMError("down", kind="server")

    for replies in ("no json", down):
        model = FakeModel(replies, name=f"m{len(said)}")
        ask = LLMStep(
            "On {id}", output_columns=["a", "b"], model=model, max_retries=0, retry_delay=0
        )
        more = LLMStep("More {a}", output_columns=["c"], model=model)
        pipeline = Source.list(articles(3)) >> ask.as_step("ask") >> more.as_step("more")
        with pytest.raises(dfn.LLMError) as caught:
            pipeline.run()
        said.append(words(caught.value.result.view()))  # type: ignore[union-attr]
        assert "all kept" not in said[-1].split("ask")[-1] and "not reached" in said[-1]
    assert ".retry_failed() asks" in said[0] and "Run it again" not in said[0]
    assert "Run it again" in said[1]


def test_a_replay_says_that_no_model_was_asked() -> None:
    pipeline = story(bad=())
    pipeline.run()
    options.mode = "replay"
    assert "replay: no model was asked" in words(pipeline.run().view())


def test_the_number_of_all_is_told_only_where_it_is_known() -> None:
    rows = Source.list(articles(2_000))
    ask = LLMStep("{id}", output_columns=["q"], model=FakeModel())
    same = (rows >> Map(lambda r: r) >> ask).run(limit=3)
    assert "3 of 2,000 records" in words(same.view())
    some = (rows >> Filter(lambda r: r["id"] > 1) >> ask).run(limit=3)
    assert "limited run: 3 records" in words(some.view())
    assert "of 2,000" in words(some.view()), "the source's own tile says how many it has"


# The table.


def test_ten_records_stand_with_their_status_and_the_failed_one_in_its_place() -> None:
    pipeline = story()
    pipeline.run(limit=5)
    result = pipeline.run()
    table = records_table(result)
    assert [c.name for c in table.columns] == [
        "", "status", "id", "topic", "text", "question", "answer", "score",
    ]  # fmt: skip
    assert [c.kind for c in table.columns[:2]] == ["index", "status"]
    shown = [cells(row) for row in table.rows]
    assert [row[0] for row in shown] == ["0", "1", "2", "3", "–", *map(str, range(4, 10))]
    assert [row[1] for row in shown] == ["● memo"] * 4 + ["✕ failed"] + ["○ new"] * 6
    lost = table.rows[4]
    assert [c.value for c in lost[2:5]] == [5, "Physics", articles(6)[5]["text"]]  # type: ignore[union-attr]
    cause = lost[5]
    assert isinstance(cause, Cell) and cause.span == 3
    assert plain(cause.line).startswith("failed at ask: ") and "'answer'" in plain(cause.line)
    assert "10 of 19 shown, all in .df" in words(result.view())


def test_at_most_two_failed_records_stand_among_the_ten() -> None:
    result = story(bad=(0, 1, 3, 4)).run()
    shown = [cells(row)[0] for row in records_table(result).rows]
    assert shown == ["–", "–", *map(str, range(10))]


def test_failed_records_of_several_steps_and_behind_fan_outs_stand_in_order() -> None:
    model = FakeModel(lambda r: "" if r.messages[-1]["content"] in ("1b", "2a2") else "fine")
    pipeline = (
        Source.list([{"id": i} for i in range(4)])
        >> FlatMap(lambda r: [{**r, "k": k} for k in "ab"])
        >> LLMStep("{id}{k}", output_columns=["q"], model=model).as_step("one")
        >> LLMStep("{id}{k}2", output_columns=["z"], model=model).as_step("two")
    )
    result = pipeline.run()
    rows = [cells(row) for row in records_table(result).rows]
    places = [(row[2], row[3]) for row in rows]
    assert places == [(str(i), k) for i in range(4) for k in "ab"]
    assert [row[1] for row in rows].count("✕ failed") == 2
    assert rows[3][1] == "✕ failed" and "failed at one" in rows[3][-1]
    assert rows[4][1] == "✕ failed" and "failed at two" in rows[4][-1]


def test_a_record_is_new_if_any_of_its_calls_is() -> None:
    rows = [{"id": i} for i in range(3)]
    first = LLMStep("On {id}", output_columns=["q"], model=FakeModel())
    (Source.list(rows) >> first).run()
    second = LLMStep("More on {id}", output_columns=["z"], model=FakeModel())
    result = (Source.list(rows) >> first >> second).run()
    assert [cells(r)[1] for r in records_table(result).rows] == ["○ new"] * 3
    skipped = LLMStep("{id}", output_columns=["y"], model=FakeModel(), skip_if=lambda r: True)
    table = records_table((Source.list(rows) >> skipped).run())
    assert "status" not in [c.name for c in table.columns], "nothing was asked"


def test_of_many_columns_those_that_models_wrote_are_shown() -> None:
    rows = [{f"c{k:02d}": k for k in range(30)}]
    ask = LLMStep("{c00}", output_columns=["q", "a"], model=FakeModel())
    result = (Source.list(rows) >> ask).run()
    names = [c.name for c in records_table(result).columns[2:]]
    assert names == [*(f"c{k:02d}" for k in range(10)), "q", "a"]
    assert "20 more columns: c10, c11" in words(result.view())


def test_a_column_that_some_records_lack_is_an_empty_cell() -> None:
    result = (Source.list([{"a": 1}, {"b": 2}]) >> Map(lambda r: r)).run()
    rows = [cells(row) for row in records_table(result).rows]
    assert rows == [["0", "1", ""], ["1", "", "2"]]


def test_a_result_without_a_run_and_one_without_columns_are_shown() -> None:
    bare = dfn.Result([{"a": 1}, {"a": 2}])
    assert repr(bare) == "Result([{'a': 1}, {'a': 2}])"
    assert "2 records  from no run" in words(bare.view())
    assert "a" in bare._repr_mimebundle_()["text/html"]
    empty = (Source.list([{}, {}]) >> Map(lambda r: r)).run()
    assert "records without columns" in words(empty.view())
    assert repr(dfn.Result([])) == "Result([])"


# Parts of a Result.


def test_a_slice_shows_its_own_records_and_their_own_bill() -> None:
    pipeline = story()
    pipeline.run(limit=5)
    part = pipeline.run()[3:6]
    said = words(part.view())
    assert "3 of 19 records  of a complete run" in said
    assert "● 1 from the memo" in said and "○ 2 new calls" in said
    assert "failed" not in said and not those(part.view(), Tiles)
    assert [cells(r)[2] for r in records_table(part).rows] == ["4", "6", "7"]
    assert "Article: text 4 " in words_of(fold(part.view(), "Record 0 in full"))


def test_dropped_records_say_how_they_were_lost() -> None:
    result = story(n=16).run(limit=10)
    lost = result.dropped("ask")
    said = words(lost.view())
    assert "went into ask and did not come out: 1 failed, 3 beyond limit" in said
    statuses = [cells(r)[1] for r in records_table(lost).rows]
    assert statuses[0] == "✕ failed" and set(statuses[1:]) == {"◌ not asked"}
    filtered = records_table(result.dropped("long_enough"))
    assert {cells(r)[1] for r in filtered.rows} == {"– filtered"}


def test_an_edited_result_shows_its_records_and_no_status() -> None:
    result = story().run()
    result.reverse()
    said = words(result.view())
    assert "the list was edited" in said and "Record 0 in full" not in said
    assert "status" not in [c.name for c in records_table(result).columns]


# Folds.


def words_of(block: Any) -> str:
    return words(dfn_document(block))


def dfn_document(block: Any) -> Any:
    from datafast_nb.display.views import Document

    return Document((block,))


def test_three_records_stand_in_full_from_the_prompt_to_the_parsed_fields() -> None:
    result = story().run()
    folds = [f.title for f in those(result.view(), Fold)]
    assert folds[:3] == ["Record 0 in full", "Record 1 in full", "Record 2 in full"]
    said = words_of(fold(result.view(), "Record 0 in full"))
    marks = [
        "ask ○ new",
        "m-mini",
        "1 sent as system",
        "You write one question and its answer.",
        "sent as user",
        "Article: text 0 text 0",
        "2 raw reply",
        '{"question":"Why 0?"',
        "3 parsed",
        "Because of 0.",
        "other columns",
    ]
    at = 0
    for mark in marks:  # in this order
        at = said.index(mark, at)
    call = result.call_rows[0]
    assert f"{call.input_tokens:,} → {call.output_tokens:,} tokens" in said
    assert re.search(r"asked \d+ [A-Z][a-z]{2} \d\d:\d\d", said)


def test_the_time_of_a_call_is_when_it_was_first_asked() -> None:
    before = time.time()
    pipeline = story(bad=())
    first = pipeline.run()
    after = time.time()
    again = pipeline.run()
    for call, known in zip(first.call_rows, again.call_rows, strict=True):
        assert (call.status, known.status) == ("new", "answered")
        assert call.asked_at is not None and before <= call.asked_at <= after
        assert known.asked_at == pytest.approx(call.asked_at)
    assert again.calls["asked_at"].notna().all()


def test_errors_stand_open_with_example_remedy_and_price() -> None:
    result = story(bad=(5, 7, 9)).run()
    errors = fold(result.view(), "Errors")
    assert errors.is_open and errors.in_text and plain(errors.note) == "3 records, 1 cause"
    [table] = [b for b in errors.body if isinstance(b, Table)]
    [row] = [cells(r) for r in table.rows]
    assert row[:2] == ["3", "ask"]
    assert row[2].startswith("✕ reply lacks what was asked") and "'answer'" in row[2]
    assert '{"question":"Why 5?"}' in row[3]
    usd = sum(c.usd for c in result.call_rows if c.values) / 17 * 3
    assert ".retry_failed()" in row[4]
    assert f"asks these 3 again, about {dfn_usd(usd)}" in row[4]


def dfn_usd(value: float) -> str:
    from datafast_nb.display.formats import usd

    return usd(value)


@pytest.mark.parametrize("kind", [*REMEDIES, "something new"])
def test_every_kind_of_failure_says_what_to_do(kind: str) -> None:
    error = CallError("ask", 3, kind, "what was said", "m", "k", "l", None, "p", {"id": 3})
    [table] = those(ErrorList([error]).view(), Table)
    row = cells(table.rows[0])
    assert row[0] == "1" and "what was said" in row[2] and "record 3" in row[3]
    assert len(row[4]) > 10
    assert kind in REMEDIES or kind in row[2]


def test_kinds_that_the_package_raises_all_have_a_remedy() -> None:
    package = Path(dfn.__file__).parent
    said = "".join(p.read_text("utf-8") for p in package.rglob("*.py"))
    kinds = set(re.findall(r'LLMError\([^()]*(?:\([^()]*\)[^()]*)*kind="(\w+)"', said))
    kinds |= set(re.findall(r'Unusable\(\s*"(\w+)"', said)) | {"rate_limited", "server", "quota"}
    assert {"auth", "unparsable", "connection"} <= kinds
    assert kinds - {"not_asked"} <= REMEDIES.keys()


def test_the_ledger_adds_up_and_names_its_prices() -> None:
    pipeline = story()
    pipeline.run(limit=4)
    result = pipeline.run()
    found = fold(result.view(), "Ledger")
    assert re.fullmatch(
        r"20 calls · paid \$[\d.]+ · saved \$[\d.]+ · wasted \$[\d.]+", plain(found.note)
    )
    [table] = [b for b in found.body if isinstance(b, Table)]
    names = [c.name for c in table.columns]
    assert names == ["step", "memo", "new", "tokens in", "out", "paid", "saved", "wasted", "median"]
    row = dict(zip(names, cells(table.rows[0]), strict=True))
    assert (row["memo"], row["new"]) == ("4", "16\n1 asked again")
    assert "✕ 1 failed" in row["step"]
    assert "m-mini: $0.15 in, $0.60 out per 1M tokens" in words_of(found)
    assert table.total is None


def test_what_duplicates_share_is_saved_once() -> None:
    rows = [{"t": "same"}] * 10
    pipeline = Source.list(rows) >> LLMStep(
        "On {t}", output_columns=["q"], model=FakeModel(price=(1.0, 2.0)), temperature=0
    )
    first, again = pipeline.run().ledger.total, pipeline.run().ledger.total
    assert (first.new, first.answered, first.saved_usd) == (1, 9, 0.0)
    assert (again.new, again.answered) == (0, 10)
    assert first.paid_usd == pytest.approx(again.saved_usd) and first.paid_usd > 0


def test_the_ledger_of_several_models_names_them_and_has_a_total() -> None:
    models = [FakeModel("x", name="a", price=(1, 1)), FakeModel("y", name="b", price=(1, 1))]
    step = LLMStep("{id}", output_columns=["q"], model=models)
    result = (Source.list([{"id": i} for i in range(3)]) >> step).run()
    [table] = those(result.ledger.view(), Table)
    assert [cells(r)[1] for r in table.rows] == ["a", "b"]
    assert table.total is not None and cells(table.total)[3] == "6"


def test_a_sample_is_shown_before_and_after() -> None:
    rows = Source.list(articles(40)).as_step("articles")
    result = (rows >> Sample(n=10, strategy="first").as_step("some") >> Map(dict)).run()
    shown = fold(result.view(), "some: before and after")
    said = words(Document(shown.body))
    assert "10 of 40 records stay, 25%" in said and "topic | before | after" in said
    assert not [f for f in those((rows >> Map(dict)).run().view(), Fold) if "before and" in f.title]


def test_the_graph_has_a_node_for_every_step_that_ran() -> None:
    result = story().run(stop_after="ask")
    [graph] = those(result.view(), Graph)
    assert [n.name for n in graph.nodes] == ["articles", "long_enough", "ask"]
    assert [n.is_paid for n in graph.nodes] == [False, False, True]
    assert graph.edges == ((0, 1), (1, 2))
    assert "✕ 1 failed" in [plain(x) for x in graph.nodes[2].lines]


def test_files_are_named_without_the_machine(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "pyproject.toml").write_text("", "utf-8")
    monkeypatch.chdir(tmp_path)
    result = (Source.list(articles(2)) >> Sink.jsonl(tmp_path / "out.jsonl").as_step("w")).run()
    said = words(result.view())
    assert "✓ wrote out.jsonl at w" in said and str(tmp_path) not in said


def test_a_limited_run_says_what_the_rest_would_cost() -> None:
    result = story(n=16, bad=()).run(limit=5)
    rest = dfn_usd(result.ledger.paid_usd / 5 * 8)
    assert f".pipeline.run(), about {rest} for the other 8" in words(result.view())


# Bounds.


def test_a_large_result_is_shown_quickly_and_in_few_bytes() -> None:
    rows = [{"id": i, "topic": "abc"[i % 3], "text": f"text {i}"} for i in range(200_000)]
    result = (Source.list(rows) >> Map(lambda r: {**r, "n": r["id"] % 9})).run()
    result.view()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        document = result.view()
        times.append(time.perf_counter() - start)
    assert min(times) < 1.5
    assert "10 of 200,000 shown" in words(document)
    assert "sampled" in " ".join(c.note for c in records_table(result).columns)
    assert len(html.draw(document)) < 60_000


def test_a_typical_result_is_small_and_a_hostile_one_bounded() -> None:
    assert len(html.draw(story().run().view())) < 60_000
    long = "<b>$1 and $2</b> \x1b[31m " * 40_000
    rows = [{f"c{k}": long for k in range(14)} | {"id": i} for i in range(12)]
    model = FakeModel(lambda r: long)
    result = (Source.list(rows) >> LLMStep("{c1}", output_columns=["q"], model=model)).run()
    drawn = result._repr_mimebundle_()
    assert len(drawn["text/html"]) < 200_000 and len(drawn["text/plain"]) < 60_000
    assert "\x1b" not in drawn["text/html"] + drawn["text/plain"] + drawn["text/markdown"]


def test_looking_asks_nobody_and_raises_nothing() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    result = story().run()
    model = result.pipeline.steps[2].models[0]
    asked = model.calls
    result[0]["text"] = Odd()
    result._repr_mimebundle_()
    for thing in (result.errors, result.ledger, result.funnel, result[1:3], result.at(1)):
        thing._repr_mimebundle_()
    assert model.calls == asked


# Reports.


def test_a_report_is_one_file_with_all_of_it(tmp_path: Path) -> None:
    result = story(n=120).run()
    path = result.report(tmp_path / "out.html", title="My <run>")
    page = path.read_text("utf-8")
    assert path == tmp_path / "out.html"
    assert "My &lt;run&gt;" in page and "<script" not in page
    assert "http:" not in page.replace("http://www.w3.org", "") and "https:" not in page
    assert "Record 9 in full" in page and "Record 3 in full" not in html.draw(result.view())
    assert "Because of 81." in page
    before = page
    result.report(tmp_path / "out.html", title="My <run>")
    assert path.read_text("utf-8") == before
    assert set(os.listdir(tmp_path)) == {"out.html", ".datafast_nb"}, "nothing is left beside it"


def test_a_report_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    result = (Source.list(articles(1)) >> Map(lambda r: r)).run()
    with pytest.raises(FileNotFoundError, match=r"the folder '.*/none' does not exist; create it"):
        result.report(tmp_path / "none" / "out.html")
    with pytest.raises(IsADirectoryError, match="add a file name"):
        result.report(tmp_path)
    assert not (tmp_path / "none").exists()


def test_the_report_has_a_name_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = (Source.list(articles(1)) >> Map(lambda r: r)).run()
    assert result.report() == Path("report.html") and (tmp_path / "report.html").is_file()


def test_calls_are_a_readable_table() -> None:
    pipeline = story()
    pipeline.run(limit=4)
    frame = pipeline.run().calls
    assert list(frame.columns[:6]) == [
        "step", "record", "status", "model", "tries", "input_tokens"
    ]  # fmt: skip
    assert list(frame.columns[-2:]) == ["key", "label"]
    assert set(frame["status"]) == {"memo", "new", "failed"}
    assert frame["asked_at"].dt.tz is not None and frame["asked_at"].notna().all()
    assert frame["prompt"][0].startswith("Article: text 0") and "Because of 0." in frame["reply"][0]


def test_a_failed_call_shows_itself_and_has_a_short_repr() -> None:
    [error] = story().run().errors
    assert re.fullmatch(r"<CallError ask, record 4: .{1,60}>", repr(error))
    said = words(error.view())
    for part in ("Article: text 5", '{"question":"Why 5?"}', "reply lacks", ".retry_failed()"):
        assert part in said
    assert error.to_dict()["record_id"] == 5


def test_a_report_is_for_readers_without_python() -> None:
    result = story(n=120).run()
    view = result_view(result, REPORT)
    said = words(view)
    head = view.blocks[0]
    assert isinstance(head, Head) and head.title == f"Report: {len(result)} records"
    assert re.search(r" · asked \d+ \w{3} 20\d\d \d\d:\d\d", plain(head.facts))
    assert fold(view, "Graph").is_open and fold(view, "Record 0 in full").is_open
    for hint in (".errors", ".df", ".trace(", ".why(", ".retry_failed()", ".run("):
        assert hint not in said
        assert hint in words(result.view()) or hint == ".run("


def test_an_error_names_the_row_of_the_source_and_its_text() -> None:
    said = words(story().run().errors.view())
    assert "source row 5: text 5 text 5" in said and "record 4" not in said
    assert "{'id'" not in said


def test_zero_is_a_dash_in_the_funnel_as_in_the_ledger() -> None:
    result = story(bad=()).run()
    funnel, bill = those(result.funnel.view(), Table)[0], those(result.ledger.view(), Table)[0]
    names = [c.name for c in funnel.columns]
    [asked] = [r for r in map(cells, funnel.rows) if r[0] == "ask"]
    row = dict(zip([c.name for c in bill.columns], cells(bill.rows[0]), strict=True))
    assert asked[names.index("memo")] == "–" == row["memo"]
    assert asked[names.index("new")] == "20" == row["new"]


def test_the_bound_that_was_spent_is_shown_as_it_was_typed() -> None:
    model = FakeModel("fine", price=(0, 1_000))
    step = LLMStep("on {n}", output_columns=["q"], model=model, max_tokens=5)
    with pytest.raises(dfn.BudgetExceededError) as caught:
        (Source.list([{"n": i} for i in range(30)]) >> step).run(budget=0.015, max_concurrent=1)
    facts = plain(caught.value.result.view().blocks[0].facts)
    assert facts.startswith("stopped by budget=$0.015 ")
