"""What is written is read again as it was: step files with odd values, JSON Lines, CSV, Parquet."""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import datafast_nb as dfn
from datafast_nb.records import normalise_records
from datafast_nb.store.manifest import StepEntry
from datafast_nb.store.stepfile import PIECE, StepWriter, read_step
from properties.scale import FAST_DISK, many

WORD = st.text(max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SURROGATE = st.sampled_from(["\ud800", "a\udfff", "\udc00\ud800 b"])
ZONES = st.sampled_from(
    [None, dt.UTC, dt.timezone(dt.timedelta(hours=-3, minutes=30)), ZoneInfo("Europe/Berlin")]
)
NUMBERS = (
    st.integers()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), 2**80, 10**300, True, False])
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e-320, 5e-324])
)
KEPT = (
    st.none()
    | NUMBERS
    | WORD
    | SURROGATE
    | st.binary(max_size=6)
    | st.dates()
    | st.datetimes(timezones=ZONES)
    | st.times()
    | st.decimals()
    | st.just(Decimal("1E+500"))
)
KEYS = WORD | st.sampled_from(["$int", "$dict", "$bytes", "$", "", "_model", "a b", "\u2028", "\0"])
NESTED = st.recursive(
    KEPT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def entry_of(folder: Path, records: list[dict[str, Any]], ids: list[str] | None) -> StepEntry:
    entry = StepEntry(0, "step", "ListSource", "f", "o")
    writer = StepWriter(folder, entry)
    writer.add(records, ids, None)
    entry.file, entry.trail = writer.finish([("rows", list(range(len(records))))])
    entry.status, entry.records = "complete", len(records)
    return entry


@settings(max_examples=many(80, 5_000))
@given(records=st.lists(st.dictionaries(KEYS, NESTED, max_size=4), max_size=6))
def test_a_step_file_gives_back_records_of_any_kept_values(records: list[dict[str, Any]]) -> None:
    clean, _ = normalise_records(records, where=lambda i: f"record {i}")
    ids = [f"{i:024x}" for i in range(len(clean))]
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        entry = entry_of(Path(name), clean, ids)
        data = read_step(Path(name), entry, remedy="…", keep=True, note=lambda text: None)
    assert repr(data.records) == repr(clean)
    assert data.row_ids == ids and data.sections["rows"] == [list(range(len(clean)))]


def test_a_step_file_of_several_pieces_keeps_order_and_identities() -> None:
    n = 2 * PIECE + 3
    records = [{"i": i, "big": 2**70 + i} for i in range(n)]
    ids = [f"{i:024x}" for i in range(n)]
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        entry = entry_of(Path(name), records, ids)
        data = read_step(Path(name), entry, remedy="…", keep=True, note=lambda text: None)
    assert data.records == records and data.row_ids == ids


@settings(max_examples=many(30, 1_000))
@given(records=st.lists(st.dictionaries(KEYS, NESTED, max_size=3), max_size=4))
def test_a_resumed_run_sees_the_values_that_the_straight_one_saw(
    records: list[dict[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        seen: list[str] = []

        def look(record: dict[str, Any]) -> dict[str, Any]:
            seen.append(repr(record))
            return record

        first = dfn.Source.list(records) >> dfn.Map(lambda r: r)
        whole = first >> dfn.Map(look)
        straight = whole.run(show_progress=False)
        wanted, seen[:] = list(seen), []
        whole.run(checkpoint_dir=name, stop_after=1, show_progress=False)
        resumed = whole.run(checkpoint_dir=name, resume=True, show_progress=False)
    assert repr(list(resumed)) == repr(list(straight)) and seen == wanted


@settings(max_examples=many(80, 3_000))
@given(
    records=st.lists(st.dictionaries(TEXT, JSON_LIKE, max_size=4), max_size=5),
    more=st.lists(st.dictionaries(TEXT, JSON_LIKE, max_size=4), max_size=3),
    ending=st.sampled_from(["jsonl", "jsonl.gz"]),
)
def test_json_lines_give_back_json_like_records(
    records: list[dict[str, Any]], more: list[dict[str, Any]], ending: str
) -> None:
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        path = Path(name) / f"a.{ending}"
        dfn.Sink.jsonl(path).write(records)
        dfn.Sink.jsonl(path, append=True).write(more)
        read = [r for piece in dfn.Source.file(path).read(2) for r in piece]
    assert repr(read) == repr([*records, *more])


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table, all with the columns as in the first."""
    return [{name: row[name] for name in rows[0]} for row in rows]


CELLS = {
    str: TEXT.filter(lambda text: text != "") | st.sampled_from(["007", "NA", "1e5", " x ", "\r"]),
    int: st.integers(-(10**30), 10**30),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
}


@st.composite
def csv_tables(draw: st.DrawFn) -> tuple[dict[str, type], list[dict[str, Any]]]:
    names = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=4, unique=True))
    kinds = {name: draw(st.sampled_from(list(CELLS))) for name in names}
    row = st.fixed_dictionaries({name: st.none() | CELLS[kind] for name, kind in kinds.items()})
    rows = draw(st.lists(row, min_size=1, max_size=5))
    return kinds, rows


@settings(max_examples=many(80, 4_000))
@given(table=csv_tables())
def test_csv_gives_back_columns_of_declared_types(
    table: tuple[dict[str, type], list[dict[str, Any]]],
) -> None:
    kinds, rows = table
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        path = Path(name) / "a.csv"
        dfn.Sink.csv(path).write(rows)
        source = dfn.Source.file(path, dtype=kinds)
        read = [r for piece in source.read(2) for r in piece]
    assert repr(read) == repr(in_order(rows))


COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(),
    "text": TEXT,
    "flag": st.booleans(),
    "blob": st.binary(max_size=5),
    "day": st.dates(),
    "time": st.datetimes().map(lambda when: when.replace(fold=0)),  # Parquet has no fold
    "list": st.lists(st.integers(-9, 9) | st.none(), max_size=3),
    # Always with the keys in one order, as a column of Parquet has them.
    "dict": st.tuples(TEXT | st.none(), st.lists(TEXT, max_size=2)).map(
        lambda pair: {"a": pair[0], "b": pair[1]}
    ),
}


@st.composite
def parquet_tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(TEXT, min_size=1, max_size=4, unique=True))
    kinds = {name: draw(st.sampled_from(sorted(COLUMNS))) for name in names}
    row = st.fixed_dictionaries({n: st.none() | COLUMNS[kind] for n, kind in kinds.items()})
    return draw(st.lists(row, min_size=1, max_size=5))


@settings(max_examples=many(40, 3_000))
@given(rows=parquet_tables())
def test_parquet_gives_back_columns_of_one_type(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        path = Path(name) / "a.parquet"
        dfn.Sink.parquet(path).write(rows)
        read = [r for piece in dfn.Source.file(path).read(2) for r in piece]
        records, _ = normalise_records(read, where=str)
    assert repr(records) == repr(in_order(rows))


def test_numpy_values_are_kept_as_plain_ones() -> None:
    odd = {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(3)}
    clean, _ = normalise_records([odd], where=str)
    with tempfile.TemporaryDirectory(dir=FAST_DISK) as name:
        entry = entry_of(Path(name), clean, None)
        data = read_step(Path(name), entry, remedy="…", keep=True, note=lambda text: None)
    assert repr(data.records) == repr([{"i": 3, "f": 0.5, "b": True, "a": [0, 1, 2]}])
