from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.steps.sampling import Sample

IDS = [f"row{i}" for i in range(200)]
RECORDS = [{"i": i} for i in range(200)]


@given(
    total=st.integers(0, 60),
    n=st.integers(1, 80),
    strategy=st.sampled_from(["uniform", "first", "last", "systematic"]),
    seed=st.integers(),
)
def test_a_step_keeps_n_different_records_in_order(
    total: int, n: int, strategy: str, seed: int
) -> None:
    sample = Sample(n=n, strategy=strategy, seed=seed)
    state = random.getstate(), np.random.get_state()[1].tolist()
    kept = sample.choose(RECORDS[:total], IDS[:total])
    assert len(kept) == min(n, total)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(total))
    assert kept == Sample(n=n, strategy=strategy, seed=seed).choose(RECORDS[:total], IDS[:total])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


@given(st.permutations(IDS[:30]), st.integers(1, 30))
def test_uniform_keeps_the_same_rows_in_any_input_order(ids: list[str], n: int) -> None:
    kept = Sample(n=n).choose(RECORDS[:30], ids)
    assert {ids[i] for i in kept} == {IDS[i] for i in Sample(n=n).choose(RECORDS[:30], IDS[:30])}


@given(st.integers(1, 30), st.integers(0, 30))
def test_a_smaller_uniform_sample_is_part_of_a_larger_one(n: int, more: int) -> None:
    small = Sample(n=n).choose(RECORDS, IDS)
    assert set(small) <= set(Sample(n=n + more).choose(RECORDS, IDS))


def test_rows_of_equal_identity_are_told_apart() -> None:
    choices = {
        tuple(Sample(n=5, seed=seed).choose(RECORDS[:10], ["same"] * 10)) for seed in range(10)
    }
    assert all(len(set(kept)) == 5 for kept in choices)
    assert len(choices) > 5


def test_seeds_give_different_samples_and_each_row_its_turn() -> None:
    counts = Counter(i for seed in range(300) for i in Sample(n=20, seed=seed).choose(RECORDS, IDS))
    assert len(counts) == 200
    assert max(counts.values()) < 60  # 30 expected, standard deviation 5.2


def test_without_a_seed_choices_differ() -> None:
    sample = Sample(n=20, seed=None)
    assert len({tuple(sample.choose(RECORDS, IDS)) for _ in range(5)}) > 1
    items = Sample(list(range(50)), n=10, seed=None)
    assert len({tuple(items.draw("same")) for _ in range(5)}) > 1
    assert len({tuple(items.pick()) for _ in range(5)}) > 1


@pytest.mark.parametrize(("frac", "total", "kept"), [(0.1, 200, 20), (1, 7, 7), (0.01, 10, 0)])
def test_frac_keeps_the_rounded_part(frac: float, total: int, kept: int) -> None:
    assert len(Sample(frac=frac).choose(RECORDS[:total], IDS[:total])) == kept


def test_replace_draws_as_often_as_asked_with_repeats() -> None:
    kept = Sample(n=500, replace=True).choose(RECORDS[:10], IDS[:10])
    assert len(kept) == 500
    assert kept == sorted(kept)
    assert set(kept) == set(range(10))
    assert kept == Sample(n=500, replace=True).choose(RECORDS[:10], IDS[:10])
    assert Sample(n=5, replace=True).choose([], []) == []
    assert len(Sample(frac=2.5, replace=True).choose(RECORDS[:10], IDS[:10])) == 25


def test_systematic_takes_every_step_th_or_spreads_n() -> None:
    every = Sample(strategy="systematic", step=10)
    assert every.choose(RECORDS[:35], IDS[:35]) == [0, 10, 20, 30]
    assert Sample(n=2, strategy="systematic", step=10).choose(RECORDS, IDS) == [0, 10]
    assert Sample(n=4, strategy="systematic").choose(RECORDS[:8], IDS[:8]) == [0, 2, 4, 6]


def test_only_first_can_do_with_the_start_of_the_source() -> None:
    assert Sample(n=7, strategy="first").needs() == 7
    assert Sample(frac=0.5, strategy="first").needs() is None
    assert Sample(n=7).needs() is None
    assert Sample(strategy="systematic", step=2).needs() is None


@given(
    k=st.integers(1, 8),
    n=st.integers(1, 10),
    token=st.text(),
    seed=st.integers(),
    strategy=st.sampled_from(["uniform", "first", "last", "systematic", "weighted"]),
)
def test_items_are_drawn_by_seed_and_token(
    k: int, n: int, token: str, seed: int, strategy: str
) -> None:
    by = [1.0] * k if strategy == "weighted" else None
    sample = Sample(list(range(k)), n=n, strategy=strategy, by=by, seed=seed)
    drawn = sample.draw(token)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(n, k) == sample.n_draws()
    assert drawn == sample.draw(token)
    assert sample.pick() == sample.pick()


@pytest.mark.parametrize("replace", [False, True])
def test_single_weighted_draws_follow_the_weights(replace: bool) -> None:
    sample = Sample(list("abcd"), n=1, strategy="weighted", by=[0.5, 0.3, 0.2, 0], replace=replace)
    counts = Counter(sample.draw(f"record {i}")[0] for i in range(4000))
    assert counts[3] == 0
    for index, weight in enumerate([0.5, 0.3, 0.2]):
        assert abs(counts[index] / 4000 - weight) < 0.04  # 5 standard deviations


def test_items_of_weight_zero_are_never_drawn() -> None:
    sample = Sample(["a", "b", "c"], n=3, strategy="weighted", by=[1, 0, 2])
    assert sample.draw("x") == [0, 2]


def test_uniform_item_draws_are_even() -> None:
    sample = Sample(["a", "b", "c", "d"], n=2)
    counts = Counter(i for t in range(2000) for i in sample.draw(str(t)))
    assert all(abs(counts[i] / 2000 - 0.5) < 0.06 for i in range(4))


def test_pick_takes_its_own_n_and_iteration_gives_all_items() -> None:
    sample = Sample(["a", "b", "c"], n=1)
    assert len(sample.pick(2)) == 2
    assert set(sample.pick(2)) < set(sample) == {"a", "b", "c"}
    assert len(sample) == 3
    assert Sample(["a", "b", "c"]).pick(9) == ["a", "b", "c"]
    assert len(Sample(["a", "b", "c"], frac=0.01).draw("x")) == 1
    with pytest.raises(ValueError, match="how many items"):
        Sample(["a", "b"]).draw("x")


def test_the_two_forms_are_told_apart() -> None:
    step, items = Sample(n=2), Sample(["a"], n=2)
    assert step.is_step
    assert not items.is_step
    assert bool(step)
    for use in (step.pick, lambda: step.draw("x"), lambda: len(step), lambda: list(step)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(TypeError, match="without items"):
        items.choose(RECORDS, IDS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "how many records"),
        ({"n": 0}, ValueError, "from 1 up"),
        ({"n": -1}, ValueError, "from 1 up"),
        ({"n": True}, ValueError, "from 1 up"),
        ({"n": 2.5}, TypeError, "whole number"),
        ({"n": 2, "frac": 0.1}, ValueError, "not both"),
        ({"frac": 0}, ValueError, "above 0"),
        ({"frac": 1.5}, ValueError, "above 0"),
        ({"frac": float("nan")}, ValueError, "above 0"),
        ({"frac": "half"}, TypeError, "number"),
        ({"n": 2, "strategy": "top"}, ValueError, "uniform, first, last, systematic"),
        ({"n": 2, "strategy": "weighted", "by": "score"}, ValueError, "for records"),
        ({"n": 2, "step": 3}, ValueError, "systematic"),
        ({"n": 2, "by": "score"}, ValueError, "by="),
        ({"n": 2, "center": 3.0}, ValueError, "center="),
        ({"n": 2, "seed": "x"}, TypeError, "seed"),
        ({"n": 2, "strategy": "first", "replace": True}, ValueError, "replace"),
        ({"items": 100}, TypeError, r"Sample\(n=100\)"),
        ({"items": "P1", "n": 1}, TypeError, "not from str"),
        ({"items": [], "n": 1}, ValueError, "empty"),
        ({"items": ["a"], "strategy": "weighted"}, ValueError, "by="),
        ({"items": ["a"], "n": 1, "strategy": "weighted", "by": [1, 2]}, ValueError, "2 weights"),
        ({"items": ["a"], "n": 1, "strategy": "weighted", "by": [0]}, ValueError, "above 0"),
        ({"items": ["a"], "n": 1, "strategy": "weighted", "by": [-1]}, ValueError, "above 0"),
    ],
)
def test_mistakes_are_refused_where_they_are_written(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Sample(**arguments)  # type: ignore[arg-type]


def test_known_draws_do_not_change_between_versions() -> None:
    assert Sample(n=3, seed=42).choose(RECORDS[:10], IDS[:10]) == [1, 3, 9]
    assert Sample(list("abcdef"), n=3, seed=42).draw("token") == [0, 3, 4]
