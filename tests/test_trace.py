"""The way of one record: what each step gave it, what was asked, where it was lost."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reading import fold, those, words

import datafast_nb as dfn
from datafast_nb import FakeModel, Filter, FlatMap, LLMStep, Map, Sample, Source
from datafast_nb.display import html, text
from datafast_nb.display.views import Document, Fold, Head, Legend, Section, plain
from datafast_nb.options import options
from datafast_nb.records_view import records_blocks

Record = dict[str, Any]


def rows(n: int) -> list[Record]:
    return [{"id": i, "text": f"text {i}", "junk": "x"} for i in range(n)]


def answer(request: Any) -> Any:
    prompt = next(m["content"] for m in request.messages if m["role"] == "user")
    if "text 4" in prompt:
        return "no json"
    return {"q": f"Why {prompt}?"}


def pipeline(n: int = 8, **more: Any) -> Any:
    model = FakeModel(answer, price=(1.0, 2.0), name="m-1")
    ask = LLMStep(
        "On {text}", output_columns={"q": str}, model=model, system_prompt="Be brief", **more
    )
    return (
        Source.list(rows(n)).as_step("source")
        >> Filter(lambda r: r["id"] != 1).as_step("not_one")
        >> ask.as_step("ask")
        >> Map(lambda r: {"id": r["id"] * 10, "q": r["q"], "n": 1}).as_step("count")
    )


def section(document: Document, title: str) -> str:
    [found] = [s for s in those(document, Section) if s.title == title]
    return words(Document((found,)))


def test_each_step_says_what_the_record_gained_and_lost() -> None:
    view = pipeline().run().trace(2).view()
    head = view.blocks[0]
    assert isinstance(head, Head) and head.title == "Record 2"
    assert plain(head.facts) == "1 record out · passed 4 steps"
    assert [s.title for s in those(view, Section)] == ["source", "not_one", "ask", "count"]
    assert "source · read · source row 3" in section(view, "source")
    assert "+ text:\ntext 3" in section(view, "source")
    assert section(view, "not_one") == "not_one Filter · ✓ kept"
    asked = section(view, "ask")
    assert "+ q:\nWhy On text 3?" in asked and "_model" not in asked and "text:" not in asked
    count = section(view, "count")
    assert "\nid:\n30" in count and "+ n:\n1" in count and "without text, junk" in count


def test_a_call_shows_the_prompt_as_sent_and_the_raw_reply() -> None:
    first = pipeline().run_one(0)
    view = first.view()
    said = section(view, "ask")
    order = ["LLMStep · ○ new · $0.", "+ q:", "prompt as sent → raw reply", "m-1", "1 sent as system",
             "Be brief", "sent as user", "On text 0", "2 raw reply", '{"q":"Why On text 0?"}']  # fmt: skip
    at = 0
    for mark in order:
        at = said.index(mark, at)
    gained = html.draw(view)
    assert '+</span> <span style="opacity:.7">q</span>' in gained, "the sign in its colour"
    [call] = first.calls
    assert f"key {call.key[:8]}" in said and call.key[:9] not in said
    legend = next(b for b in view.blocks if isinstance(b, Legend))
    assert plain(legend.items[0]).startswith("○ 1 new call, paid $")
    again = pipeline().run_one(0).view()
    assert "LLMStep · ● memo" in section(again, "ask")
    assert "next record: .run_one(1), about $0." in words(view)
    assert 'One value: .run_one(0)["n"]' in words(view)


def test_a_failed_record_shows_its_raw_reply_and_the_cause() -> None:
    one = pipeline().run_one(3)
    view = one.view()
    assert not one and "failed at step 'ask'" in plain(view.blocks[0].facts)  # type: ignore[union-attr]
    said = section(view, "ask")
    assert "✕ failed" in said and "2 unusable reply:\nno json" in said and "6 failed" in said
    assert [f.is_open for f in those(view, Fold)] == [True]
    with pytest.raises(KeyError, match="failed at step 'ask'"):
        one["q"]


def test_a_filtered_record_says_where() -> None:
    one = pipeline().run_one(where={"id": 1})
    assert one.view().blocks[0] == Head(
        "Record where id = 1", ("the record was filtered at step 'not_one'",)
    )
    assert "– filtered" in section(one.view(), "not_one")
    assert "ask" not in [s.title for s in those(one.view(), Section)]


def test_dropped_records_end_at_the_step_that_lost_them() -> None:
    result = pipeline().run(limit=5)
    lost = result.dropped("ask")
    failed, left_out = lost.trace(0), lost.trace(1)
    assert (failed.trace[-1].name, failed.trace[-1].fate) == ("ask", "failed")
    assert [c.text for c in failed.calls] == ["no json"]
    assert (left_out.trace[-1].fate, left_out.calls) == ("left out", [])
    assert "left out at step 'ask': beyond the limit" in left_out.why_dropped
    assert result.dropped("not_one").trace(0).trace[-1].fate == "filtered"


@pytest.mark.parametrize("pick", ["first", "spread", "random"])
def test_records_beyond_a_limit_are_not_called_filtered(pick: Any) -> None:
    source = Source.list(rows(16)).as_step("source")
    limited = source >> Filter(lambda r: r["id"] % 2 == 0).as_step("f")
    result = limited.run(limit=5, limit_at="f", pick=pick)
    fates = result.step("f").fates
    lost = result.dropped("f")
    ends = [lost.trace(i).trace[-1].fate for i in range(len(lost))]
    assert ends.count("filtered") == fates.filtered > 0
    assert ends.count("left out") == fates.beyond_limit == 11
    shown = text.draw(records_table(lost))
    assert shown.count("– filtered") == fates.filtered
    assert shown.count("– beyond limit") == fates.beyond_limit
    whole = limited.run()
    words_of = [row.end for row in dfn.diff(result, whole).only_b]
    assert set(words_of) <= {"beyond the limit"}
    both = dfn.diff((source >> Map(dict)).run(), result)
    assert Counter(row.end for row in both.only_a) == Counter(
        {"beyond the limit": 11, "filtered at 'f'": fates.filtered}
    )


def records_table(result: dfn.Result) -> Document:
    return Document(tuple(records_blocks(result, (), 100)))


def test_failures_of_other_records_are_not_told_of_this_one() -> None:
    model = FakeModel(lambda r: "" if "text 0" in r.messages[-1]["content"] else "fine")
    step = LLMStep(["On {text}", "More on {text}"], output_columns=["q"], model=model)
    result = (Source.list(rows(3)) >> step).run()
    assert [s.note for s in result.trace(0).trace] == ["", ""]
    half = FakeModel(lambda r: "" if "More" in r.messages[-1]["content"] else "fine", name="h")
    step = LLMStep(["On {text}", "More on {text}"], output_columns=["q"], model=half)
    result = (Source.list(rows(3)) >> step).run()
    assert [len(result), result.info.steps[1].partly_failed] == [3, 3]
    assert "1 of its calls failed" in result.trace(1).trace[1].note


def test_a_failed_call_of_a_record_that_went_on_is_shown_and_counted() -> None:
    n = iter(range(99))
    model = FakeModel(lambda r: {"q": "fine"} if next(n) in (0, 3) else "no json", price=(1, 2))
    step = LLMStep("On {text}", output_columns={"q": str}, model=model, num_outputs=2)
    result = (Source.list(rows(2)) >> step.as_step("ask")).run(max_concurrent=1)
    for i in range(2):
        trace = result.trace(i)
        assert [c.record for c in trace.calls] == [i, i]
        assert sorted(c.status for c in trace.calls) == ["failed", "new"]
        assert "1 failed call" in words(trace.view())
        assert "wasted $" in words(trace.view())
        assert "no json" in section(trace.view(), "ask")


def test_a_skipped_record_among_others_says_so() -> None:
    result = pipeline(skip_if=lambda r: r["id"] == 3).run()
    assert [result.trace(i).trace[2].fate for i in range(3)] == ["advanced", "advanced", "skipped"]
    assert "skip_if is true" in words(result.trace(2).view())


def test_several_outputs_of_one_record_are_compared_with_their_own_parents() -> None:
    model = FakeModel(lambda r: f"re {r.messages[-1]['content']}")
    several = (
        Source.list(rows(2))
        >> FlatMap(lambda r: [{**r, "k": k} for k in "ab"])
        >> LLMStep("{text}{k}", output_columns=["q"], model=model, num_outputs=2).as_step("ask")
        >> Map(lambda r: {**r, "z": r["k"]}).as_step("last")
    )
    one = several.run().dropped(1)
    assert len(one) == 0
    trace = several.run_one(where={"id": 1})
    assert [len(s.records) for s in trace.trace] == [1, 2, 4, 4]
    assert trace.trace[2].origins == (0, 0, 1, 1) and trace.trace[3].origins == (0, 1, 2, 3)
    said = section(trace.view(), "last")
    assert said.count("+ z:") == 4 and "+ q" not in said and "record 4 of 4" in said
    assert section(trace.view(), "ask").count("call ") == 4


def test_of_very_many_records_and_calls_some_are_shown_and_the_rest_counted() -> None:
    many = (
        Source.list(rows(1))
        >> FlatMap(lambda r: [{**r, "k": k, **{f"c{j}": k for j in range(60)}} for k in range(300)])
        >> LLMStep("{k}", output_columns=["q"], model=FakeModel("x" * 5_000)).as_step("ask")
    )
    trace = many.run_one(where={"id": 0})
    said = words(trace.view())
    assert "295 more records: .trace[1].records" in said
    assert "295 more calls: .trace[2].calls" in said
    assert "more columns" in said
    assert len(html.draw(trace.view())) < 200_000


def test_a_trace_of_a_run_too_large_to_keep_says_so_and_has_the_record() -> None:
    options.keep_rows = 3
    result = pipeline().run()
    trace = result.trace(2)
    assert trace["id"] == 30 and trace.record == result[2]
    assert "too many records to keep" in words(trace.view())
    assert [c.messages[-1]["content"] for c in trace.calls if c.messages] == ["On text 3"]


def test_a_trace_through_a_choice_finds_the_row() -> None:
    result = (Source.list(rows(30)) >> Sample(n=7, seed=3) >> Map(lambda r: {**r, "z": 1})).run()
    for i, record in enumerate(result):
        assert result.trace(i).trace[0].row == record["id"]


def test_what_a_step_of_ones_own_made_of_all_records_is_not_guessed() -> None:
    class Merge(dfn.Step):
        def process(self, records: Any) -> Any:
            yield {"all": " ".join(r["text"] for r in records)}

    result = (Source.list(rows(3)) >> Merge().as_step("merge")).run()
    said = section(result.trace(0).view(), "merge")
    assert "made of several records, or nobody knows of which" in said
    assert "+ all:\ntext 0 text 1 text 2" in said


def test_values_that_cannot_be_compared_do_not_break_the_display() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]

    trace = pipeline().run().trace(0)
    trace.trace[0].records[0]["odd"] = Odd()
    trace.trace[1].records[0]["odd"] = Odd()
    assert "it cannot be shown" not in repr(trace)
    assert "Odd" in repr(trace)


def test_a_trace_is_shown_in_every_form_and_the_same_each_time() -> None:
    result = pipeline().run()
    drawn = result.trace(0)._repr_mimebundle_()
    assert drawn == result.trace(0)._repr_mimebundle_()
    assert set(drawn) == {"text/plain", "text/html", "text/markdown"}
    assert fold(result.trace(0).view(), "prompt as sent → raw reply").in_text
    assert "On text 0" in drawn["text/plain"] and "On text 0" in drawn["text/html"]


def test_a_reply_that_was_asked_again_is_counted_and_shown() -> None:
    def once_bad(request: Any) -> Any:
        return {"q": "Why?"} if len(request.messages) > 1 else "no json at all"

    model = FakeModel(once_bad, price=(1.0, 2.0), name="m-1")
    ask = LLMStep("On {text}", output_columns={"q": str}, model=model)
    flow = Source.list(rows(2)).as_step("source") >> ask.as_step("ask")
    for is_new in (True, False):
        result = flow.run()
        said = section(result.trace(1).view(), "ask")
        assert "2 tries" in said
        parts = ("1 sent as user", "no json at all", "what was wrong", "cannot be used", '"Why?"')
        places = [said.index(part) for part in parts]
        assert places == sorted(places)
        assert "no json at all" in words(Document(fold(result.view(), "Record 0 in full").body))
        [row] = {(c.n_replies, len(c.earlier)) for c in result.call_rows}
        assert row == (2 if is_new else 0, 1)
        head = words(Document(result.view().blocks[:2]))
        if is_new:
            assert model.calls == 4
            assert "2 new calls, 2 asked again, paid $" in head
            assert (
                re.search(r"! wasted \$[\d.]+ on 2 unusable replies", head) and "failed" not in head
            )
            bill = words(result.ledger.view())
            assert "2 asked again" in bill and "Wasted: 2 unusable replies." in bill
        else:
            assert "asked again" not in head and "2 from the memo" in head


def test_a_failed_call_keeps_both_of_its_replies() -> None:
    ask = LLMStep("On {text}", output_columns={"q": str}, model=FakeModel(answer, price=(1, 2)))
    flow = Source.list(rows(6)) >> ask.as_step("ask")
    result = flow.run()
    [lost] = [c for c in result.call_rows if c.status == "failed"]
    assert lost.n_replies == 2 and [e.text for e in lost.earlier] == ["no json"]
    said = words(Document(result.view().blocks[:2]))
    assert "✕ 1 failed\n" in said + "\n" and "on 2 unusable replies" in said


def test_a_record_that_is_not_there_is_named_with_those_that_are() -> None:
    result = pipeline(4).run()
    with pytest.raises(IndexError, match="no record 99: the Result has 3 records, they are number"):
        result.trace(99)
    assert result.trace(-1).index == 2


def test_a_record_at_a_sink_was_written(tmp_path: Path) -> None:
    flow = Source.list(rows(2)) >> dfn.Sink.jsonl(str(tmp_path / "out.jsonl")).as_step("out")
    assert "✓ written" in section(flow.run().trace(0).view(), "out")
