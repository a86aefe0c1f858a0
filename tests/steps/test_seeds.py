from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.steps.seeds import Seed, SeedDimension


def rows(seed: SeedDimension, chunk: int = 3) -> list[dict[str, Any]]:
    pieces = list(seed.read(chunk))
    assert all(0 < len(piece) <= chunk for piece in pieces)
    return [row for piece in pieces for row in piece]


def test_values_give_one_row_each_and_may_be_anything() -> None:
    values = ["en", None, {"a": [1]}, ["x"], "en"]
    seed = Seed.values("language", values)
    values.append("late")
    assert rows(seed) == [{"language": v} for v in ["en", None, {"a": [1]}, ["x"], "en"]]
    assert seed.count() == 5
    assert seed.columns() == ["language"]


def test_expand_gives_every_child_with_its_parent() -> None:
    seed = Seed.expand("topic", "sub", {"Physics": ["Quantum", "Optics"], "Art": [], "Bio": ("G",)})
    assert rows(seed) == [
        {"topic": "Physics", "sub": "Quantum"},
        {"topic": "Physics", "sub": "Optics"},
        {"topic": "Bio", "sub": "G"},
    ]
    assert seed.count() == 3
    assert rows(Seed.expand("a", "b", {})) == []


def test_range_includes_its_end() -> None:
    assert [r["grade"] for r in rows(Seed.range("grade", 1, 12))] == list(range(1, 13))


@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(-7, 7).filter(bool))
def test_range_counts_both_ways(start: int, end: int, step: int) -> None:
    expected = []
    number = start
    while number <= end if step > 0 else number >= end:
        expected.append(number)
        number += step
    seed = Seed.range("n", start, end, step)
    assert [r["n"] for r in rows(seed)] == expected
    assert seed.count() == len(expected)


@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=4))
def test_product_is_itertools_product(axes: list[list[int]]) -> None:
    seed = Seed.product(*(Seed.values(f"c{i}", axis) for i, axis in enumerate(axes)))
    assert [tuple(r.values()) for r in rows(seed)] == list(itertools.product(*axes))
    assert seed.count() == len(list(itertools.product(*axes)))
    assert seed.columns() == [f"c{i}" for i in range(len(axes))]
    assert rows(seed) == rows(seed)


def test_product_takes_dimensions_of_several_columns() -> None:
    seed = Seed.product(
        Seed.zip(Seed.values("q", [1, 2]), Seed.values("a", [3, 4])),
        Seed.expand("x", "y", {0: [5, 6]}),
    )
    assert [list(r.values()) for r in rows(seed)] == [
        [1, 3, 0, 5],
        [1, 3, 0, 6],
        [2, 4, 0, 5],
        [2, 4, 0, 6],
    ]


def test_a_huge_product_costs_nothing_until_it_is_read() -> None:
    seed = Seed.product(
        Seed.range("a", 1, 10**9), Seed.range("b", 1, 10**12), Seed.range("c", 0, 0)
    )
    assert seed.count() == 10**21
    assert next(iter(seed.read(2))) == [{"a": 1, "b": 1, "c": 0}, {"a": 1, "b": 2, "c": 0}]
    assert Seed.range("a", 0, 2**70).count() == 2**70 + 1


def test_zip_pairs_rows_and_refuses_unequal_lengths() -> None:
    seed = Seed.zip(Seed.values("q", ["Q1", "Q2"]), Seed.values("a", ["A1", "A2"]))
    assert rows(seed) == [{"q": "Q1", "a": "A1"}, {"q": "Q2", "a": "A2"}]
    with pytest.raises(ValueError, match=r"q: 2, a: 1"):
        Seed.zip(Seed.values("q", ["Q1", "Q2"]), Seed.values("a", ["A1"]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Seed.range("n", 0, 1.0), TypeError, "Seed.values"),  # type: ignore[arg-type]
        (lambda: Seed.range("n", 0, True), TypeError, "whole number"),
        (lambda: Seed.range("n", 0, 5, 0), ValueError, "steps of 0"),
        (lambda: Seed.values("n", "abc"), TypeError, "a list, not str"),
        (lambda: Seed.values("n", {"a", "b"}), TypeError, "sorted"),
        (lambda: Seed.values("n", 5), TypeError, "a list, not int"),  # type: ignore[arg-type]
        (lambda: Seed.values("", [1]), TypeError, "column name"),
        (lambda: Seed.expand("a", "a", {}), ValueError, "twice"),
        (lambda: Seed.expand("a", "b", [1]), TypeError, "dict"),  # type: ignore[arg-type]
        (lambda: Seed.expand("a", "b", {"x": "text"}), TypeError, "children of 'x'"),
        (lambda: Seed.product(), ValueError, "at least one"),
        (lambda: Seed.product([Seed.values("a", [1])]), TypeError, r"\*dimensions"),  # type: ignore[arg-type]
        (lambda: Seed.zip(["a"]), TypeError, "Seed.values"),  # type: ignore[arg-type]
        (
            lambda: Seed.product(Seed.values("a", [1]), Seed.expand("b", "a", {})),
            ValueError,
            "'a' is in dimensions 1 and 2",
        ),
    ],
)
def test_mistakes_are_refused_where_they_are_written(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_config_tells_seeds_apart() -> None:
    a, b = Seed.values("x", [1, 2]), Seed.values("y", [1, 2])
    assert Seed.product(a, b).config() == Seed.product(a, b).config()
    assert Seed.product(a, b).config() != Seed.product(b, a).config()
    assert Seed.product(a, b).config() != Seed.zip(a, b).config()
