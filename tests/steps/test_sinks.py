from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import SinkError
from datafast_nb.records import Record
from datafast_nb.steps.base import SinkStep
from datafast_nb.steps.filesink import FileSink
from datafast_nb.steps.sinks import FORMULA_STARTS, Sink
from datafast_nb.steps.sources import Source

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MAKERS = {"jsonl": Sink.jsonl, "csv": Sink.csv, "parquet": Sink.parquet}


def read(path: Path | str) -> list[Record]:
    return [row for piece in Source.file(path).read(100) for row in piece]


def test_list_sink_holds_copies_and_shares_them_with_its_renamed_copy() -> None:
    sink = Sink.list()
    records: list[Record] = [{"a": 1}, {"a": [1, {"b": 2}]}]
    assert sink.records == []
    sink.as_step("named").write(records)
    assert sink.records == records
    sink.records[1]["a"][1]["b"] = "changed"
    sink.records[0]["a"] = "changed"
    assert records == [{"a": 1}, {"a": [1, {"b": 2}]}]
    sink.write([{"a": 3}])
    assert sink.records == [{"a": 3}]
    assert Sink.list().records == []
    assert sink.path() is None


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=5))
def test_jsonl_gives_back_any_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("sink") / "a.jsonl"
    assert Sink.jsonl(path).write(records) == str(path)
    assert repr(read(path)) == repr(records)  # keys in order, 1 and 1.0 and True apart
    assert [json.loads(line) for line in path.read_text().split("\n") if line] == records


def test_jsonl_writes_kept_types_as_text_and_numbers_that_json_lacks_as_null(
    tmp_path: Path,
) -> None:
    record = {
        "when": dt.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        "day": dt.date(2020, 1, 2),
        "time": dt.time(3, 4),
        "money": Decimal("1.50"),
        "raw": b"\x00\xff",
        "nan": float("nan"),
        "nested": [{"day": dt.date(2020, 1, 2), "inf": float("inf")}],
        "text": "é \u2028 \x00",
    }
    expected = {
        "when": "2020-01-02T03:04:05.000006+00:00",
        "day": "2020-01-02",
        "time": "03:04:00",
        "money": "1.50",
        "raw": "AP8=",
        "nan": None,
        "nested": [{"day": "2020-01-02", "inf": None}],
        "text": "é \u2028 \x00",
    }
    path = tmp_path / "a.jsonl"
    # The integer over 64 bits takes another way through the sink.
    Sink.jsonl(path).write([record, {**record, "big": 2**80}])
    assert read(path) == [expected, {**expected, "big": 2**80}]
    lines = path.read_text().split("\n")
    assert lines[1] == lines[0][:-1] + f',"big":{2**80}' + "}"


def test_jsonl_columns_select_and_fill(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Sink.jsonl(path, columns=["b", "a"]).write([{"a": 1, "b": 2, "c": 3}, {"a": 4}])
    assert path.read_text() == '{"b":2,"a":1}\n{"b":null,"a":4}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("former", [None, b"", b'{"a":0}\n', b'{"a":0}'])
def test_append_writes_after_what_is_there(tmp_path: Path, name: str, former: bytes | None) -> None:
    path = tmp_path / name
    if former is not None:
        path.write_bytes(gzip.compress(former) if name.endswith("gz") else former)
    sink = Sink.jsonl(path, append=True)
    sink.write([{"a": 1}])
    sink.write([{"a": 2}])
    assert read(path) == ([{"a": 0}] if former else []) + [{"a": 1}, {"a": 2}]
    sink.write([{"a": 3}], suffix="partial")
    sink.write([{"a": 4}], suffix="partial")
    assert read(tmp_path / name.replace("a.", "a.partial.")) == [{"a": 4}]
    assert len(read(path)) == (3 if former else 2)


def test_packed_files_are_the_same_bytes_for_the_same_records(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Sink.jsonl(tmp_path / folder / "a.jsonl.gz").write([{"a": 1}])
    assert (tmp_path / "x/a.jsonl.gz").read_bytes() == (tmp_path / "y/a.jsonl.gz").read_bytes()


@given(st.lists(st.dictionaries(TEXT, TEXT, min_size=1, max_size=3), min_size=1, max_size=5))
def test_csv_gives_back_any_texts(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("sink") / "a.csv"
    Sink.csv(path).write(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    with open(path, encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert table == [names, *([r.get(name, "") for name in names] for r in records)]


def test_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    Sink.csv(path).write(
        [
            {"a": 1, "b": None, "c": float("nan"), "d": [1, {"x": "é"}], "e": True},
            {"f": dt.date(2020, 1, 2), "d": {}, "a": 1.5, "e": b"\xff"},
        ]
    )
    assert path.read_bytes().decode() == (
        'a,b,c,d,e,f\n1,,,"[1,{""x"":""é""}]",True,\n1.5,,,{},/w==,2020-01-02\n'
    )


def test_csv_options_go_to_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    sink = Sink.csv(
        path, columns=["b", "a"], delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\r\n"
    )
    sink.write([{"a": 1, "b": 2, "c": 3}])
    assert path.read_bytes() == b'"b";"a"\r\n"2";"1"\r\n'
    with pytest.raises(TypeError):
        Sink.csv(path, colour="red")
    with pytest.raises(TypeError, match="columns="):
        Sink.csv(path, fieldnames=["a"])
    unquoted = Sink.csv(path, quoting=csv.QUOTE_NONE)
    with pytest.raises(SinkError, match=r"record 0.*escapechar"):
        unquoted.write([{"a": "x,y"}])


@given(st.lists(st.sampled_from([*FORMULA_STARTS, "a", "'", " ", '"']), max_size=3).map("".join))
def test_escaped_csv_has_no_cell_that_a_spreadsheet_runs(
    tmp_path_factory: pytest.TempPathFactory, start: str
) -> None:
    path = tmp_path_factory.mktemp("sink") / "a.csv"
    records = [{"name": start + "1+1", start + "x": "v", "n": -5}]
    risky = start.startswith(FORMULA_STARTS)
    for escape in (False, True):
        sink = Sink.csv(path, escape_formulas=escape)
        sink.write(records)
        with open(path, encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        texts = [cell for cell in cells if cell != "-5"]
        if escape:
            assert not any(cell.startswith(FORMULA_STARTS) for cell in texts)
            assert sink.formula_cells == 0
        else:
            assert texts == ["name", start + "x", "n", start + "1+1", "v"]
            assert sink.as_step("x").formula_cells == (2 if risky else 0)  # type: ignore[attr-defined]


def test_eleven_starts_count_as_formulas() -> None:
    assert len(set(FORMULA_STARTS)) == 11
    assert {ord(c) - 0xFEE0 for c in FORMULA_STARTS if ord(c) > 127} == set(map(ord, "=+-@"))


def test_parquet_gives_back_typed_records(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records = [
        {
            "i": 1,
            "f": 1.5,
            "t": "x",
            "d": dt.date(2020, 1, 1),
            "m": Decimal("1.50"),
            "l": [1, None],
            "o": {"k": [True]},
            "raw": b"\x00",
            "none": None,
            "when": dt.datetime(2020, 1, 1, 2, 3, 4, 5),
        },
        {
            "i": 2**62,
            "f": 2,
            "t": None,
            "d": None,
            "m": Decimal("10.25"),
            "l": [],
            "o": None,
            "raw": None,
            "none": None,
            "when": None,
        },
    ]
    Sink.parquet(path).write(records)
    assert read(path) == records
    assert pd.read_parquet(path)["i"].tolist() == [1, 2**62]
    Sink.parquet(path, columns=["t", "i"]).write(records)
    assert pq.read_schema(path).names == ["t", "i"]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "i": st.none() | st.integers(-(2**63), 2**63 - 1),
                "t": st.none() | TEXT,
                "f": st.none() | st.floats(allow_nan=False),
                "l": st.lists(st.integers(-9, 9), max_size=3),
                "d": st.none() | st.dates(),
                "w": st.none() | st.datetimes(),
            }
        ),
        min_size=1,
        max_size=6,
    )
)
def test_parquet_gives_back_declared_types(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record]
) -> None:
    path = tmp_path_factory.mktemp("sink") / "a.parquet"
    Sink.parquet(path).write(records)
    assert read(path) == records


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None, "x"], "'a' holds int in record 0 and str in record 2"),
        ([True, 1], "bool in record 0 and int in record 1"),
        ([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)], "date in record 0 and datetime"),
        ([dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], "time zone"),
        (["x", b"x"], "str in record 0 and bytes in record 1"),
        ([{"k": [1]}, {"k": ["x"]}], r"'a\.k\[\]' holds int in record 0 and str in record 1"),
        ([1, 2**80], "record 1, column 'a'"),
        ([{}], "empty dicts"),
    ],
)
def test_parquet_refuses_mixed_types_with_their_place(
    tmp_path: Path, values: list[Any], message: str
) -> None:
    with pytest.raises(SinkError, match=message):
        Sink.parquet(tmp_path / "a.parquet").write([{"a": v} for v in values])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", MAKERS)
def test_no_records_write_a_file_without_records(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    MAKERS[kind](path).write([])
    assert read(path) == []
    MAKERS[kind](path, columns=["x", "y"]).write([])
    assert read(path) == []
    assert kind == "jsonl" or Source.file(path).columns() == ["x", "y"]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_suffix_leaves_the_file_itself_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    sink = MAKERS[kind](path)
    sink.write([{"a": 1}])
    assert sink.write([{"a": 2}], suffix="partial") == str(tmp_path / f"a.partial.{kind}")
    assert read(path) == [{"a": 1}]
    assert read(tmp_path / f"a.partial.{kind}") == [{"a": 2}]
    assert sorted(os.listdir(tmp_path)) == sorted([f"a.{kind}", f"a.partial.{kind}"])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"b": "\ud83d"}, "record 1, column 'b'.*surrogate"),
        ({"b": ["\ud83d"]}, "record 1, column 'b'.*surrogate"),
    ],
)
def test_a_value_that_is_no_text_leaves_the_former_file(
    tmp_path: Path, kind: str, record: Record, message: str
) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"former")
    with pytest.raises(SinkError, match=message):
        MAKERS[kind](path).write([{"b": None}, record])
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_column_that_no_record_has_is_refused_with_the_nearest(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SinkError, match=r"'txt', which no record has.*id, text.*'text'"):
        MAKERS[kind](tmp_path / "a", columns=["txt"]).write([{"id": 1}, {"text": "x"}])


def test_records_without_columns_are_refused_where_they_would_vanish(tmp_path: Path) -> None:
    Sink.jsonl(tmp_path / "a.jsonl").write([{}, {}])
    assert read(tmp_path / "a.jsonl") == [{}, {}]
    for sink in (Sink.csv(tmp_path / "a.csv"), Sink.parquet(tmp_path / "a.parquet")):
        with pytest.raises(SinkError, match="no columns"):
            sink.write([{}, {}])


def test_check_finds_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "nowhere/a.jsonl": "does not exist; create it",
        "file/a.jsonl": "is a file, not a folder",
        "folder": "it is a folder",
        "pipe": "not a plain file",
    }.items():
        sink = Sink.jsonl(tmp_path / name)
        for use in (sink.check, lambda sink=sink: sink.write([{"a": 1}])):
            with pytest.raises(SinkError, match=message):
                use()
    Sink.jsonl(tmp_path / "good.jsonl").check()
    assert not (tmp_path / "good.jsonl").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_check_finds_read_only_places(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch(0o444)
    with pytest.raises(SinkError, match="read-only"):
        Sink.csv(tmp_path / "a.csv").check()
    tmp_path.chmod(0o555)
    with pytest.raises(SinkError, match="not writable"):
        Sink.csv(tmp_path / "b.csv").check()


@pytest.mark.parametrize("kind", [*MAKERS, "gz"])
def test_a_full_disk_leaves_the_former_file_and_a_clear_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a.jsonl.gz" if kind == "gz" else f"a.{kind}")
    path.write_bytes(b"former")
    code = (
        "import random, resource, sys\n"
        "from datafast_nb.errors import SinkError\n"
        "from datafast_nb.steps.sinks import Sink\n"
        "records = [{'i': i, 't': random.randbytes(20).hex()} for i in range(5000)]\n"
        "sink = getattr(Sink, sys.argv[2])(sys.argv[1])\n"
        "for limit in (0, 10, 5_000, 60_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        sink.write(records)\n"
        "    except SinkError as exc:\n"
        "        print(exc)\n"
    )
    maker = "jsonl" if kind == "gz" else kind
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), maker],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done
    assert all(str(path) in line and "File too large" in line for line in lines), lines
    assert all("stands untouched; raise the limit" in line for line in lines)
    assert path.read_bytes() == b"former"
    assert os.listdir(tmp_path) == [path.name]


def test_paths_are_absolute_and_looked_up_when_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink: SinkStep = Sink.jsonl("a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert sink.path() == sink.write([{"a": 1}]) == str(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("columns", "error"),
    [("a", TypeError), ([1], TypeError), ([], ValueError), (["a", "a"], ValueError)],
)
def test_mistakes_are_refused_where_they_are_written(columns: Any, error: type[Exception]) -> None:
    for make in MAKERS.values():
        with pytest.raises(error, match="columns="):
            make("a.x", columns=columns)
    with pytest.raises(TypeError, match="path"):
        Sink.jsonl(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names no file"):
        Sink.jsonl("folder/")


def test_file_sinks_are_sink_steps() -> None:
    assert issubclass(FileSink, SinkStep)
    assert Sink.csv("a.csv").config() == {
        "file": "a.csv",
        "columns": None,
        "escape_formulas": False,
        "options": {},
    }
