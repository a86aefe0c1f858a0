"""Parent indices and identities of records against plain lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.lineage import Fates, Parents, Table, base_row, child_id, child_ids


@st.composite
def pieces(draw):
    """What a step did chunk by chunk: (number of inputs, parents of the outputs or None)."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        n_in = draw(st.integers(0, 4))
        if draw(st.booleans()):
            found.append((n_in, None))
        else:
            parents = draw(st.lists(st.integers(0, n_in - 1), max_size=6)) if n_in else []
            found.append((n_in, sorted(parents) if draw(st.booleans()) else parents))
    return found


@given(pieces())
def test_parents_are_those_of_a_plain_list(given_pieces):
    parents = Parents()
    oracle: list[int] = []
    n_in = 0
    for n, some in given_pieces:
        n_out = n if some is None else len(some)
        parents.add(n, n_out, some)
        oracle += [n_in + p for p in (range(n) if some is None else some)]
        n_in += n
    assert (parents.n_in, parents.n_out) == (n_in, len(oracle))
    assert list(parents.all()) == oracle
    assert [parents.of(i) for i in range(len(oracle))] == oracle
    assert parents.n_parents == len(set(oracle))


@given(pieces(), st.integers(-3, 40))
def test_an_output_that_does_not_exist_has_no_parent(given_pieces, output):
    parents = Parents()
    for n, some in given_pieces:
        parents.add(n, n if some is None else len(some), some)
    assert (parents.of(output) is None) == (not 0 <= output < parents.n_out)


def test_unknown_parents_are_not_guessed():
    parents = Parents()
    parents.add(3, 3, None)
    parents.known = False
    assert parents.of(0) is None
    assert list(parents.all()) == []


def test_added_parents_are_copied():
    given_list = [0, 1]
    parents = Parents()
    parents.add(2, 2, given_list)
    given_list[0] = 1
    assert list(parents.all()) == [0, 1]


IDS = st.lists(
    st.text("0123456789abcdef-", min_size=1, max_size=6), min_size=1, max_size=5, unique=True
)


@st.composite
def children(draw):
    ids = draw(IDS)
    counts = draw(st.lists(st.integers(0, 4), min_size=len(ids), max_size=len(ids)))
    return ids, counts


@given(children(), st.integers(1, 30))
def test_the_first_child_keeps_the_identity_and_later_ones_say_their_place(made, fan_out):
    ids, counts = made
    parents = [i for i, n in enumerate(counts) for _ in range(n)]
    wanted = [child_id(ids[i], fan_out, k) for i, n in enumerate(counts) for k in range(n)]
    found = child_ids(ids, parents, fan_out)
    assert found == wanted
    assert [c for c, k in zip(found, places(counts), strict=True) if k == 0] == [
        ids[i] for i, n in enumerate(counts) if n
    ]


def places(counts: list[int]) -> list[int]:
    return [k for n in counts for k in range(n)]


@given(children(), st.integers(1, 30), st.integers(1, 30))
def test_children_of_children_have_identities_of_their_own_and_one_row(made, first, further):
    ids, counts = made
    second = first + further
    parents = [i for i, n in enumerate(counts) for _ in range(n)]
    one = child_ids(ids, parents, first)
    two = child_ids(one, [i for i in range(len(one)) for _ in range(3)], second)
    assert len(set(one)) == len(one)
    assert len(set(two)) == len(two)
    assert [base_row(i) for i in two] == [ids[p] for p in parents for _ in range(3)]


@given(children(), st.integers(1, 30), st.data())
def test_children_do_not_move_when_other_rows_go(made, fan_out, data):
    ids, counts = made
    parents = [i for i, n in enumerate(counts) for _ in range(n)]
    whole = child_ids(ids, parents, fan_out)
    gone = data.draw(st.integers(0, len(ids) - 1))
    rest = [i for i in range(len(ids)) if i != gone]
    fewer = child_ids(
        [ids[i] for i in rest], [k for k, i in enumerate(rest) for _ in range(counts[i])], fan_out
    )
    assert fewer == [c for c, p in zip(whole, parents, strict=True) if p != gone]


@given(st.lists(st.integers(), max_size=6), st.data(), st.booleans(), st.booleans())
def test_a_table_takes_records_with_what_belongs_to_them(numbers, data, with_ids, with_tokens):
    records = [{"n": n} for n in numbers]
    table = Table(
        records,
        True,
        [f"r{i}" for i in range(len(records))] if with_ids else None,
        [f"t{i}" for i in range(len(records))] if with_tokens else None,
    )
    at = data.draw(st.lists(st.integers(0, len(records) - 1), max_size=8)) if records else []
    part = table.take(at)
    assert len(part) == len(at)
    assert part.records == [records[i] for i in at]
    assert part.row_ids == ([f"r{i}" for i in at] if with_ids else None)
    assert part.tokens == ([f"t{i}" for i in at] if with_tokens else None)
    assert part.flat


@pytest.mark.parametrize(
    "name", ["advanced", "filtered", "failed", "skipped", "waiting", "beyond_limit"]
)
def test_every_fate_counts_in_the_total(name):
    assert Fates(**{name: 3}).total == 3
