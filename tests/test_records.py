"""What a record may hold, canonical JSON, identities of rows."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import math
import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from datafast_nb import FlatMap, Map, RecordError, Source, Step
from datafast_nb.errors import Notes
from datafast_nb.records import (
    MAX_DEPTH,
    RowIds,
    canonical_json,
    column_names,
    copy_record,
    normalise_records,
    normalise_value,
)


def where(index: int) -> str:
    return f"step 'load', record {index}"


def plain(value: Any, **more: Any) -> Any:
    """The value as it stands in a record behind a source."""
    [record], _ = normalise_records([{"x": value}], where=where, **more)
    return record["x"]


class Colour(str, enum.Enum):  # noqa: UP042  # both kinds of text enum are met
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Size(enum.IntEnum):
    SMALL = 1


class Mood(enum.Enum):
    GOOD = "good"


class Text(str):
    pass


class Point(BaseModel):
    x: int
    tags: tuple[str, ...] = ("a",)


Pair = collections.namedtuple("Pair", "a b")

KEPT = [
    "text",
    "",
    "\x00\ud800",
    0,
    -(2**80),
    2**80,
    1.5,
    math.inf,
    True,
    None,
    b"\x00\xff",
    Decimal("1.50"),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3),
    dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    [1, [2, {"a": [None]}]],
    {"a": {"b": [b""]}},
    [],
    {},
]
CHANGED = [
    (np.int64(3), 3),
    (np.uint8(3), 3),
    (np.float32(0.5), 0.5),
    (np.float64(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), b"a"),
    (np.array([1, 2]), [1, 2]),
    (np.array([[1.5], [2.5]]), [[1.5], [2.5]]),
    (np.array(["a"], dtype=object), ["a"]),
    (np.array(3), 3),
    (np.array([]), []),
    (np.datetime64("2024-02-29T01:02:03"), dt.datetime(2024, 2, 29, 1, 2, 3)),
    (np.datetime64("2024-02-29T01:02:03", "ns"), dt.datetime(2024, 2, 29, 1, 2, 3)),
    (np.datetime64("NaT"), None),
    (np.array(["2024-02-29"], dtype="datetime64[s]"), [dt.datetime(2024, 2, 29)]),
    (np.array(["2024-02-29"], dtype="datetime64[ns]"), [dt.datetime(2024, 2, 29)]),
    (pd.Timestamp("2024-02-29 01:02:03"), dt.datetime(2024, 2, 29, 1, 2, 3)),
    (pd.Timestamp("2024-02-29 01:02:03.123456789"), dt.datetime(2024, 2, 29, 1, 2, 3, 123456)),
    (pd.NaT, None),
    (pd.NA, None),
    (pd.Series([1, 2]), [1, 2]),
    (pd.Series([1.5, None]), [1.5, None]),
    (pd.Series(["2024-02-29"]).astype("datetime64[ns]"), [dt.datetime(2024, 2, 29)]),
    (pd.Index(["a"]), ["a"]),
    ((1, (2,)), [1, [2]]),
    ({"b", "a"}, ["a", "b"]),
    (frozenset({3, 1}), [1, 3]),
    (Pair(1, "x"), [1, "x"]),
    (bytearray(b"a"), b"a"),
    (Text("a"), "a"),
    (Colour.RED, "red"),
    (Shade.DARK, "dark"),
    (Size.SMALL, 1),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (Point(x=1), {"x": 1, "tags": ["a"]}),
    ([Point(x=1, tags=()), np.int8(2)], [{"x": 1, "tags": []}, 2]),
    ({"k": np.float64(0.5), "d": {"e": (1,)}}, {"k": 0.5, "d": {"e": [1]}}),
]
LOOP: list[Any] = []
LOOP.append(LOOP)
REFUSED = [
    object(),
    1 + 2j,
    np.complex128(1),
    np.timedelta64(1, "s"),
    pd.Timedelta(1, "s"),
    dt.timedelta(1),
    Mood.GOOD,
    range(3),
    iter([1]),
    lambda: 1,
    dataclasses.make_dataclass("Data", ["a"])(1),
    memoryview(b"a"),
    pd.DataFrame({"a": [1]}),
    np.datetime64("20000-01-01"),
    int,
    LOOP,
]


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(a) is not type(b):
        return False
    if type(a) is list:
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a == b


@pytest.mark.parametrize("value", KEPT, ids=repr)
def test_plain_values_are_kept_as_they_are(value):
    for nested in (value, [value], {"k": value}):
        assert same(plain(nested), nested)
        assert same(normalise_value(nested), nested)


@pytest.mark.parametrize(("value", "wanted"), CHANGED, ids=lambda v: f"{type(v).__name__}")
def test_foreign_values_become_plain_ones(value, wanted):
    assert same(plain(value), wanted)
    assert same(plain([value]), [wanted])
    assert same(plain({"k": value}), {"k": wanted})


@pytest.mark.parametrize("value", REFUSED, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [[v]], lambda v: {"k": {"l": v}}])
def test_other_values_are_refused_with_step_record_and_column(value, wrap):
    records = [{"x": 1}, {"a": 1, "odd": wrap(value)}]
    with pytest.raises(RecordError, match="step 'load', record 1, column 'odd'"):
        normalise_records(records, where=where)


@pytest.mark.parametrize("value", REFUSED[:4], ids=lambda v: type(v).__name__)
def test_the_pipeline_names_where_an_odd_value_enters(value):
    rows = [{"x": 0}, {"x": 1}]

    class Own(Step):
        def process(self, records):
            return [{**r, "odd": value} if r["x"] else r for r in records]

    for step, name in [
        (Map(lambda r: {**r, "odd": value} if r["x"] else r), "step_002_map"),
        (FlatMap(lambda r: [{**r, "odd": value}] if r["x"] else [r]), "step_002_flatmap"),
        (Own(), "step_002_own"),
    ]:
        with pytest.raises(RecordError, match=f"'{name}'.*record 1.*column 'odd'"):
            (Source.list(rows) >> step).run()
    with pytest.raises(RecordError, match=r"'step_001_source'.*1.*column 'odd'"):
        (Source.list([{"x": 0}, {"odd": value}]) >> Map(lambda r: r)).run()


@pytest.mark.parametrize("value", [float("nan"), np.nan, np.float32("nan"), np.float64("nan")])
def test_nan_is_missing_in_a_frame_and_a_number_elsewhere(value):
    assert plain(value, from_frame=True) is None
    assert plain([value], from_frame=True) == [None]
    kept = plain(value)
    assert type(kept) is float and math.isnan(kept)


@pytest.mark.parametrize("record", [None, 5, "text", [("a", 1)], Pair(1, 2), {1}], ids=repr)
def test_what_is_no_record_is_refused_with_its_place(record):
    with pytest.raises(RecordError, match=r"step 'load', record 1 is .* not a dict"):
        normalise_records([{"a": 1}, record], where=where)


@pytest.mark.parametrize("key", [1, None, ("a",), b"a", 1.5, True])
def test_keys_that_are_no_text_are_refused_and_never_merged(key):
    with pytest.raises(RecordError, match="record 0 has the key") as caught:
        normalise_records([{key: 1, str(key): 2}], where=where)
    assert type(key).__name__ in str(caught.value)
    with pytest.raises(RecordError, match="record 0, column 'x' holds a dict with the key"):
        normalise_records([{"x": {key: 1, str(key): 2}}], where=where)


@pytest.mark.parametrize("key", [Text("a"), np.str_("a"), Colour.RED, Shade.DARK], ids=repr)
def test_keys_of_a_kind_of_text_become_that_text(key):
    wanted = key.value if isinstance(key, enum.Enum) else "a"
    for record in ({key: 1}, {"x": {key: 1}}):
        [made], _ = normalise_records([record], where=where)
        inner = made.get("x", made)
        [found] = inner
        assert (type(found), found) == (str, wanted)


def test_mappings_are_records():
    made, flat = normalise_records([collections.OrderedDict(b=1, a=2)], where=where)
    assert type(made[0]) is dict
    assert list(made[0].items()) == [("b", 1), ("a", 2)]
    assert flat


def test_records_say_whether_they_are_flat():
    for value, flat in [(1, True), ("a", True), ((1,), False), ([], False), ({}, False)]:
        assert normalise_records([{"x": 1}, {"x": value}], where=where)[1] is flat
    assert normalise_records([{"x": np.int64(1)}], where=where)[1]


def test_normalised_records_share_nothing_with_those_given():
    given_ = [{"a": 1}, {"tags": [["a"]], "d": {"e": [1]}}]
    made, _ = normalise_records(given_, where=where)
    made[0]["a"] = 2
    made[1]["tags"][0].append("b")
    made[1]["d"]["e"].append(2)
    assert given_ == [{"a": 1}, {"tags": [["a"]], "d": {"e": [1]}}]


def test_conversions_worth_saying_are_counted_once():
    notes = Notes()
    normalise_records([{"x": (1,)}, {"x": (1,)}, {"x": {1}}, {"x": [1]}], where=where, notes=notes)
    assert notes.seen == {"a tuple became a list": 2, "a set became a list": 1}


def test_nesting_has_a_limit_that_is_named():
    def nest(depth: int) -> Any:
        value: Any = 1
        for i in range(depth):
            value = [value] if i % 2 else {"k": value}
        return value

    assert same(plain(nest(MAX_DEPTH)), nest(MAX_DEPTH))
    with pytest.raises(RecordError, match=f"column 'x' is nested more than {MAX_DEPTH} levels"):
        plain(nest(MAX_DEPTH + 2))
    with pytest.raises(RecordError, match="nested"):
        plain(nest(900))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**90), 2**90)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=4)
    | st.binary(max_size=3)
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.decimals(allow_nan=False, places=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(st.characters(), max_size=4), VALUES, max_size=4)


@given(RECORDS)
def test_normalising_plain_records_changes_nothing_and_once_is_enough(record):
    [made], flat = normalise_records([record], where=where)
    assert same(made, record)
    assert flat == (not any(isinstance(v, (list, dict)) for v in record.values()))


@given(RECORDS)
def test_a_copied_record_is_equal_and_shares_no_list_or_dict(record):
    def inner(value: Any) -> list[int]:
        if isinstance(value, dict):
            return [id(value), *(i for v in value.values() for i in inner(v))]
        if isinstance(value, list):
            return [id(value), *(i for v in value for i in inner(v))]
        return []

    copied = copy_record(record)
    assert same(copied, record)
    assert not set(inner(copied)) & set(inner(record))


# Canonical JSON.


def shuffled(value: Any, order: Any) -> Any:
    """The same value with dict keys put in another order."""
    if isinstance(value, dict):
        keys = order.permutation(list(value)) if len(value) > 1 else list(value)
        return {str(k): shuffled(value[str(k)], order) for k in keys}
    if isinstance(value, list):
        return [shuffled(v, order) for v in value]
    return value


@given(VALUES, st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value, random):
    class Order:
        @staticmethod
        def permutation(keys: list[str]) -> list[str]:
            keys = list(keys)
            random.shuffle(keys)
            return keys

    assert canonical_json(shuffled(value, Order)) == canonical_json(value)


@given(VALUES)
def test_canonical_json_is_json_and_keeps_what_json_can_hold(value):
    text = canonical_json({"v": value})
    back = json.loads(text)
    assert set(back) == {"v"}
    if json_like(value):
        assert back["v"] == value


def json_like(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(json_like, value))
    if isinstance(value, dict):
        return all(map(json_like, value.values()))
    return value is None or (
        isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    )


@given(VALUES, VALUES)
def test_different_values_have_different_canonical_json(a, b):
    if json_like(a) and json_like(b) and not has_dollar(a) and not has_dollar(b):
        assert (canonical_json(a) == canonical_json(b)) == same_content(a, b)


def same_content(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_content(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_content, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def has_dollar(value: Any) -> bool:
    return "$" in repr(value)


DISTINCT = [
    None, True, False, 0, 1, 1.0, -1, "", "1", "1.0", "null", "None", [], {}, [[]], [None], [1], ["1"],
    {"a": None}, {"a": 1}, {"b": 1}, [{"a": 1}], b"", b"1", Decimal(1), Decimal("1.0"),
    dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.time(0), "2024-01-01", "2024-01-01T00:00:00", 2**64, 2**80, -(2**80), str(2**80), "\ud800",
    "\udc00", "\\ud800", "\ufffd", "é", "e\u0301", {"a": 2**80}, {"a": "\ud800"}, "\x00", " ",
]  # fmt: skip


def test_values_of_every_kind_are_told_apart():
    assert len({canonical_json(v) for v in DISTINCT}) == len(DISTINCT)
    assert len({RowIds().take([{"x": v}])[0] for v in DISTINCT}) == len(DISTINCT)


def test_what_has_no_canonical_json_is_an_error():
    with pytest.raises(TypeError, match="no canonical JSON"):
        canonical_json({"a": object()})


def test_integers_too_long_to_write_are_refused_with_record_and_column():
    with pytest.raises(RecordError, match="digits"):
        canonical_json(10**5000)
    with pytest.raises(RecordError, match=r"record 1, column 'b'.*digits"):
        RowIds().take([{"a": 1}, {"a": 2**80, "b": [10**5000]}])


# Row identity.

ROWS = st.lists(
    st.fixed_dictionaries({"n": st.integers(0, 3)}, optional={"x": VALUES}), max_size=10
)


@given(ROWS)
def test_identities_are_unique_and_the_same_each_time(rows):
    ids = RowIds().take(rows)
    assert len(set(ids)) == len(rows)
    assert RowIds().take(copy_rows(rows)) == ids


def copy_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal rows with their columns in another order."""
    return [dict(reversed(list(copy_record(r).items()))) for r in rows]


@given(ROWS, st.data())
def test_identities_do_not_depend_on_how_the_rows_are_cut_into_chunks(rows, data):
    ids = RowIds()
    found: list[str] = []
    rest = list(rows)
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        found += ids.take(rest[:n])
        rest = rest[n:]
    assert found == RowIds().take(rows)


@given(ROWS, st.data())
def test_a_row_keeps_its_identity_when_another_goes(rows, data):
    if not rows:
        return
    ids = RowIds().take(rows)
    gone = data.draw(st.integers(0, len(rows) - 1))
    fewer = RowIds().take(rows[:gone] + rows[gone + 1 :])
    # Of equal rows the last identity goes.
    lost = set(ids) - set(fewer)
    assert len(lost) == 1 and not set(fewer) - set(ids)
    assert lost.pop().partition("-")[0] == ids[gone].partition("-")[0]
    others = [i for k, i in enumerate(ids) if k != gone]
    stem = ids[gone].partition("-")[0]
    assert [i for i in fewer if i.partition("-")[0] != stem] == [
        i for i in others if i.partition("-")[0] != stem
    ]


@given(ROWS, st.permutations(range(10)))
def test_reordered_rows_have_the_same_identities(rows, order):
    shuffled_rows = [rows[i] for i in order if i < len(rows)]
    assert sorted(RowIds().take(shuffled_rows)) == sorted(RowIds().take(rows))


def test_identity_is_content_and_rank():
    [a, b, again] = RowIds().take([{"x": 1, "y": 2}, {"x": 2}, {"y": 2, "x": 1}])
    assert again == f"{a}-1"
    assert len(a) == len(b) == 24 and a != b
    int(a, 16)
    assert RowIds(b"salt").take([{"x": 1, "y": 2}]) != [a]


@pytest.mark.parametrize(
    "value", [2**80, "\ud800", "\ud800" * 3, b"\xff", Decimal("1e500"), dt.date(1, 1, 1)]
)
def test_odd_values_have_identities_of_their_own(value):
    rows = [{"x": value}, {"x": [value]}, {"x": {"k": value}}, {"y": value}, {"x": value}]
    ids = RowIds().take(rows)
    assert len(set(ids)) == 5
    assert ids[4] == f"{ids[0]}-1"


def test_identities_are_the_same_in_another_process():
    script = """
import datetime as dt
from datafast_nb.records import RowIds
rows = [{"b": 1, "a": {"z": 1, "y": [2**80, "\\ud800"]}}, {"d": dt.date(2024, 1, 1), "é": b"x"}]
print(*RowIds().take(rows))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    rows = [
        {"a": {"y": [2**80, "\ud800"], "z": 1}, "b": 1},
        {"é": b"x", "d": dt.date(2024, 1, 1)},
    ]
    assert found == {" ".join(RowIds().take(rows)) + "\n"}


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers())))
def test_columns_stand_in_order_of_first_appearance(records):
    assert column_names(records) == list(dict.fromkeys(k for r in records for k in r))
