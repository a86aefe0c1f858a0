from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import RecordError
from datafast_nb.records import Record
from datafast_nb.steps.base import ChunkStep
from datafast_nb.steps.transform import Filter, FlatMap, Map

RECORDS: list[Record] = [{"text": "a", "n": 1}, {"text": "bb", "n": 2}, {"text": "ccc", "n": 3}]


def where(index: int) -> str:
    return f"step 'mine', record {index}"


def run(step: ChunkStep, records: list[Record], flat: bool = True) -> Any:
    return step.run_chunk(records, flat=flat, where=where)


def test_map_gives_one_record_each() -> None:
    out, parents, foreign = run(Map(lambda r: {**r, "size": len(r["text"])}), RECORDS)
    assert [r["size"] for r in out] == [1, 2, 3]
    assert parents is None
    assert foreign


def test_flatmap_gives_any_number_with_their_parents() -> None:
    out, parents, foreign = run(FlatMap(lambda r: [{"i": i} for i in range(r["n"] - 1)]), RECORDS)
    assert out == [{"i": 0}, {"i": 0}, {"i": 1}]
    assert parents == [1, 2, 2]
    assert foreign


def test_flatmap_takes_generators() -> None:
    def twice(record: Record) -> Any:
        yield record
        yield {**record, "n": 0}

    out, parents, _ = run(FlatMap(twice), RECORDS[:2])
    assert [r["n"] for r in out] == [1, 0, 2, 0]
    assert parents == [0, 0, 1, 1]


@given(st.lists(st.integers(-3, 3)))
def test_keep_false_is_the_exact_complement(numbers: list[int]) -> None:
    records = [{"n": n} for n in numbers]
    out, parents, foreign = run(Filter(lambda r: r["n"] > 0), records)
    dropped, others, _ = run(Filter(lambda r: r["n"] > 0, keep=False), records)
    assert [records[i] for i in parents] == out == [r for r in records if r["n"] > 0]
    assert sorted(parents + others) == list(range(len(records)))
    assert not foreign
    assert len(out) + len(dropped) == len(records)


@pytest.mark.parametrize("answer", [1, "yes", [0], np.True_, np.bool_(True), 0.5])
def test_filter_takes_what_bool_takes_for_true(answer: Any) -> None:
    assert run(Filter(lambda r: answer), RECORDS)[1] == [0, 1, 2]
    assert run(Filter(lambda r: answer, keep=False), RECORDS)[1] == []


@pytest.mark.parametrize("answer", [0, "", None, [], np.False_, 0.0])
def test_filter_takes_what_bool_takes_for_false(answer: Any) -> None:
    assert run(Filter(lambda r: answer), RECORDS)[1] == []


@pytest.mark.parametrize("make", [Map, FlatMap, Filter])
def test_functions_cannot_change_the_records_they_get(make: Callable[[Any], ChunkStep]) -> None:
    def spoil(record: Record) -> Any:
        record["n"] = 0
        if "tags" in record:
            record["tags"][0]["x"].append("spoilt")
        return [record] if make is FlatMap else record

    flat = [{"n": 1}]
    run(make(spoil), flat)
    assert flat == [{"n": 1}]
    nested = [{"n": 1, "tags": [{"x": []}]}]
    out, _, _ = run(make(spoil), nested, flat=False)
    assert nested == [{"n": 1, "tags": [{"x": []}]}]
    if make is Filter:
        assert out[0] is nested[0]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Map(lambda r: r.update(n=0)), r"r\.update"),  # type: ignore[func-returns-value]
        (Map(lambda r: r["text"]), "not a record"),
        (Map(lambda r: [r]), "FlatMap"),
        (FlatMap(lambda r: r), "not a list of records"),
        (FlatMap(lambda r: "abc"), "not a list of records"),
        (FlatMap(lambda r: None), "return a list"),
        (FlatMap(lambda r: 5), "not a list of records"),
        (FlatMap(lambda r: [r, None]), "among its records"),
        (Filter(lambda r: np.array([True, False])), r"\.any\(\)"),
        (Filter(lambda r: np.array([True])), r"\.any\(\)"),
    ],
)
def test_results_of_the_wrong_kind_are_refused_with_the_remedy(
    step: ChunkStep, message: str, flat: bool
) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        run(step, RECORDS, flat)
    assert "step 'mine', record 0" in str(caught.value)


@pytest.mark.parametrize("make", [Map, FlatMap, Filter])
@pytest.mark.parametrize("flat", [True, False])
def test_errors_of_functions_keep_their_type_and_say_where(
    make: Callable[[Any], ChunkStep], flat: bool
) -> None:
    def fail(record: Record) -> Any:
        if record["n"] == 2:
            raise ZeroDivisionError("mine")
        return [record] if make is FlatMap else record

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        run(make(fail), RECORDS, flat)
    assert caught.value.__notes__ == [
        "in step 'mine', record 1",
        "record: {'text': 'bb', 'n': 2}",
    ]


def test_a_missing_column_is_named_with_the_nearest() -> None:
    with pytest.raises(KeyError) as caught:
        run(Map(lambda r: {"x": r["txt"]}), RECORDS)
    assert caught.value.__notes__[-1] == "columns here: text, n. Did you mean 'text'?"


def test_an_error_in_the_middle_of_a_generator_says_where() -> None:
    def broken(record: Record) -> Any:
        yield record
        raise LookupError(record["n"])

    with pytest.raises(LookupError) as caught:
        run(FlatMap(broken), RECORDS)
    assert caught.value.__notes__[0] == "in step 'mine', record 0"


def test_notes_on_a_large_record_stay_short() -> None:
    record = {f"column {i}": "x" * 10_000_000 for i in range(30)}
    with pytest.raises(ZeroDivisionError) as caught:
        run(Map(lambda r: 1 // 0), [record])  # type: ignore[arg-type, return-value]
    assert len(caught.value.__notes__[1]) < 400


async def is_async(record: Record) -> bool:
    return True


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Map("text"), TypeError, "takes a function"),  # type: ignore[arg-type]
        (lambda: Map({"a": 1}), TypeError, "inside a function"),  # type: ignore[arg-type]
        (lambda: FlatMap(None), TypeError, "takes a function"),  # type: ignore[arg-type]
        (lambda: Filter(is_async), TypeError, "async"),
        (lambda: Filter(), ValueError, "needs a function"),
        (lambda: Filter(where={"n": 1}), ValueError, "fn= in this version"),
        (lambda: Filter(expr="n = 1"), ValueError, "fn= in this version"),
        (lambda: Map(lambda r: r, outputs="size"), TypeError, "list of column names"),
    ],
)
def test_mistakes_are_refused_where_they_are_written(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_empty_chunks_are_fine_and_outputs_are_kept() -> None:
    assert run(Map(lambda r: r), [])[0] == []
    assert run(FlatMap(lambda r: [r]), [])[:2] == ([], [])
    assert run(Filter(lambda r: True), [])[:2] == ([], [])
    assert Map(lambda r: r, outputs=["a"]).outputs == ["a"]
    assert Map(lambda r: r).outputs is None
