from __future__ import annotations

import copy
import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.errors import SourceError
from datafast_nb.steps.base import SourceStep
from datafast_nb.steps.sources import Source


def rows(source: SourceStep, chunk: int = 2) -> list[Any]:
    pieces = list(source.read(chunk))
    assert all(0 < len(piece) <= chunk for piece in pieces)
    return [row for piece in pieces for row in piece]


def file_rows(path: Path, text: str | bytes, **kwargs: Any) -> list[Any]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return rows(Source.file(path, **kwargs))


def test_list_gives_its_records_and_keeps_its_own_list() -> None:
    records = [{"a": 1}, {"b": 2, "a": 3}, {"c": 4}]
    source = Source.list(records)
    records.append({"late": 1})
    assert rows(source) == records[:3]
    assert source.count() == 3
    assert source.columns() == ["a", "b", "c"]
    assert source.version() == source.as_step("x").version() != Source.list(records).version()
    assert rows(Source.list([])) == []


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("text", r"Source\.file"),
        ({"a": 1}, r"\[record\]"),
        (iter([{"a": 1}]), r"list\(records\)"),
        (pd.DataFrame({"a": [1]}), r"Source\.dataframe"),
    ],
)
def test_list_refuses_what_is_no_list(wrong: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        Source.list(wrong)


def test_frame_rows_are_plain_and_missing_values_none() -> None:
    frame = pd.DataFrame(
        {
            "i": np.array([1, 2, 3]),
            "f": [1.5, np.nan, 2.0],
            "text": ["a", None, "c"],
            "n": pd.array([1, None, 3], dtype="Int64"),
            "ok": [True, False, True],
            "when": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
            "kind": pd.Categorical(["x", None, "y"]),
            "mixed": [[1], pd.NA, Decimal("1.5")],
        },
        index=["p", "q", "r"],
    )
    found = rows(Source.dataframe(frame))
    assert found == [
        {
            "i": 1,
            "f": 1.5,
            "text": "a",
            "n": 1,
            "ok": True,
            "when": dt.datetime(2020, 1, 1),
            "kind": "x",
            "mixed": [1],
        },
        {
            "i": 2,
            "f": None,
            "text": None,
            "n": None,
            "ok": False,
            "when": None,
            "kind": None,
            "mixed": None,
        },
        {
            "i": 3,
            "f": 2.0,
            "text": "c",
            "n": 3,
            "ok": True,
            "when": dt.datetime(2020, 1, 3),
            "kind": "y",
            "mixed": Decimal("1.5"),
        },
    ]
    plain = {int, float, str, bool, dt.datetime, type(None), list, Decimal}
    assert {type(v) for r in found for v in r.values()} <= plain
    assert type(found[0]["ok"]) is bool


def test_frame_is_a_snapshot_and_never_changed() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3, 4, 5], "b": list("vwxyz")})
    before = frame.copy(deep=True)
    source = Source.from_df(frame)
    pieces = source.read(2)
    first = next(pieces)
    first[0]["a"] = 99
    pd.testing.assert_frame_equal(frame, before)
    frame["a"] = 0
    frame.loc[4, "b"] = "changed"
    assert [r for piece in pieces for r in piece] == before.to_dict("records")[2:]
    assert rows(source) == before.to_dict("records")


def test_frame_tells_shape_and_place() -> None:
    source = Source.dataframe(pd.DataFrame({"a": [1, 2]}, index=["x", "y"]))
    assert source.count() == 2
    assert source.columns() == ["a"]
    assert source.from_frame
    assert source.place(1) == "DataFrame row 1 (index 'y')"
    assert rows(Source.dataframe(pd.DataFrame({"a": []}))) == []
    assert rows(Source.dataframe(pd.DataFrame(index=[1, 2]))) == [{}, {}]


@pytest.mark.parametrize(
    ("wrong", "error", "hint"),
    [
        ([{"a": 1}], TypeError, r"Source\.list"),
        (pd.Series([1]), TypeError, "to_frame"),
        (pd.DataFrame({0: [1]}), SourceError, r"columns\.map\(str\)"),
        (pd.DataFrame({("a", "b"): [1]}), SourceError, "join"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), SourceError, "several columns named 'a'"),
    ],
)
def test_frame_refuses_what_it_cannot_keep(wrong: Any, error: type[Exception], hint: str) -> None:
    with pytest.raises(error, match=hint):
        Source.dataframe(wrong)


def test_jsonl_keeps_values_and_skips_blank_lines(tmp_path: Path) -> None:
    text = (
        '\ufeff{"a": 1, "b": [1, {"c": null}]}\n\n  \r\n{"a": 36893488147419103233}\r\n{"z": "é"}'
    )
    path = tmp_path / "a.jsonl"
    assert file_rows(path, text) == [{"a": 1, "b": [1, {"c": None}]}, {"a": 2**65 + 1}, {"z": "é"}]
    source = Source.file(path)
    assert source.columns() == ["a", "b", "z"]
    assert source.count() is None
    assert source.place(1).endswith("a.jsonl, line 4")
    assert file_rows(tmp_path / "empty.jsonl", "") == []


@given(
    st.lists(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            st.none()
            | st.integers()
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]))
            | st.lists(st.integers()),
            max_size=4,
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_json_files_give_back_any_records(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], ascii_only: bool
) -> None:
    folder = tmp_path_factory.mktemp("json")
    lines = "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in records)
    assert file_rows(folder / "a.jsonl", lines) == records
    for indent in (None, 2):
        text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
        assert file_rows(folder / "a.json", text) == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": 1}\n{"a": }\n{"a": 2}\n',
            r"a\.jsonl, line 2, column 7 .*mend.*starts: \{\"a\": \}",
        ),
        ('{"a": 1}\n{"a": "tor', "line 2.*cut off"),
        ('{"a": 1, "a": 2}\n', "line 1.*'a' occurs twice"),
        ("[1, 2]\n", 'line 1 holds a list.*format="json"'),
        ('{"a": 1}\n{"a": "\\ud83d"}\n', "line 2.*surrogates"),
        (b'{"a": "\xe9"}\n', "line 1.*encoding"),
        ('{"a": ' + "[" * 200_000 + "\n", "line 1 is not readable.*deep"),
    ],
)
def test_a_bad_line_is_named_with_the_remedy(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        file_rows(tmp_path / "a.jsonl", text)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_records_before_a_bad_line_come_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\noops\n')
    pieces = Source.file(path).read(2)
    assert next(pieces) == [{"a": 1}, {"a": 2}]
    with pytest.raises(SourceError, match="line 3"):
        next(pieces)


def test_json_takes_arrays_wrapped_arrays_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    expected = [{"a": 1}, {"a": 2}]
    assert file_rows(path, '[{"a": 1}, {"a": 2}]') == expected
    assert file_rows(path, '{"version": 3, "records": [{"a": 1}, {"a": 2}]}') == expected
    assert file_rows(path, '{"a": 1}\n{"a": 2}\n') == expected
    assert file_rows(path, "[]") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "one object with the keys a"),
        ('{"text": "a", "tags": [{"x": 1}]}', "one object with the keys text, tags"),
        ("5", "holds a int"),
        ('[{"a": 1}, 2]', "element 1"),
        ('[{"a": 1},\n{"a": ]', "line 2, column 7"),
        ("", "not readable JSON"),
    ],
)
def test_json_of_another_shape_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        file_rows(tmp_path / "a.json", text)


def test_packed_files_are_read_and_damage_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"a": 1}\n{"a": 2}\n')
    assert file_rows(tmp_path / "a.jsonl.gz", packed) == [{"a": 1}, {"a": 2}]
    assert file_rows(tmp_path / "a.csv.gz", gzip.compress(b"a\n1\n")) == [{"a": 1}]
    for damaged in (packed[:-9], b"not gzip", packed[:12] + b"\xff\xff\xff" + packed[15:]):
        with pytest.raises(SourceError, match=r"a\.jsonl\.gz cannot be read"):
            file_rows(tmp_path / "a.jsonl.gz", damaged)


def test_txt_gives_every_line(tmp_path: Path) -> None:
    found = file_rows(tmp_path / "a.txt", "one\n\n two \r\nthree\u2028four", text_column="line")
    assert [r["line"] for r in found] == ["one", "", " two ", "three\u2028four"]
    assert Source.file(tmp_path / "a.txt", text_column="line").columns() == ["line"]
    with pytest.raises(SourceError, match="encoding"):
        file_rows(tmp_path / "b.txt", b"caf\xe9\n")
    assert file_rows(tmp_path / "b.txt", b"caf\xe9\n", encoding="cp1252") == [{"text": "café"}]


def test_csv_columns_have_one_type_over_the_whole_file(tmp_path: Path) -> None:
    lines = ["id,zip,n,x,ok,late,note"]
    lines += [f"{i},00{i},{i if i % 2 else ''},{i}.5,{i % 2 == 0},{i}," for i in range(5_000)]
    lines += ['9,007,-3,1e3,true,word,"a, ""b""\nc"']
    found = file_rows(tmp_path / "a.csv", "\n".join(lines))
    assert found[3] == {
        "id": 3,
        "zip": "003",
        "n": 3,
        "x": 3.5,
        "ok": False,
        "late": "3",
        "note": None,
    }
    assert found[-1] == {
        "id": 9,
        "zip": "007",
        "n": -3,
        "x": 1000.0,
        "ok": True,
        "late": "word",
        "note": 'a, "b"\nc',
    }
    assert {type(r["n"]) for r in found} == {int, type(None)}
    assert {type(r["late"]) for r in found} == {str}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "NA", "3"], [1, None, 3]),
        (["1.5", "nan", "2"], [1.5, None, 2.0]),
        (["NA", "null", "None"], ["NA", "null", "None"]),  # text stays text
        (["NA", "DE"], ["NA", "DE"]),
        (["+4912", "+4913"], ["+4912", "+4913"]),
        (["36893488147419103233", "1"], [2**65 + 1, 1]),
        (["true", "1"], ["true", "1"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["\u0661", "1"], ["\u0661", "1"]),
        (["-inf", "1"], [float("-inf"), 1.0]),
        ([" 5", "6"], [5, 6]),
    ],
)
def test_csv_cells_become_numbers_only_where_nothing_is_lost(
    tmp_path: Path, cells: list[str], expected: list[Any]
) -> None:
    found = [r["a"] for r in file_rows(tmp_path / "a.csv", "\n".join(["a", *cells]))]
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]


@given(
    st.lists(
        st.tuples(st.integers(-(10**6), 10**6), st.floats(-1e9, 1e9), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_csv_types_agree_with_pandas(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[int, float, bool]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    frame = pd.DataFrame(table, columns=["i", "f", "b"])
    frame.to_csv(path, index=False)
    assert rows(Source.file(path)) == frame.to_dict("records")


def test_csv_options(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert file_rows(path, "1;x\n2;y\n", sep=";", names=["n", "t"]) == [
        {"n": 1, "t": "x"},
        {"n": 2, "t": "y"},
    ]
    assert file_rows(path, "n,m\n1,2\n", dtype=str) == [{"n": "1", "m": "2"}]
    assert file_rows(path, "n,m\n1,2\n", dtype={"n": str, "m": float}) == [{"n": "1", "m": 2.0}]
    assert file_rows(path, "n\tm\n1\t2\n", format="tsv") == [{"n": 1, "m": 2}]
    assert file_rows(path, "n\r\n\r\n5\r\n".encode("utf-16"), encoding="utf-16") == [{"n": 5}]
    long = "x" * 300_000
    assert file_rows(path, f"a\n{long}\n") == [{"a": long}]
    assert file_rows(path, "a,b\n") == file_rows(path, "") == []
    assert Source.file(path, names=["q"]).columns() == ["q"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ('a,b\n1,2\n"x\ny",2\n1,2,3\n', {}, r"line 5 has 3 cells, the header has 2 \(a, b\)"),
        ("a,b\n1,2\n1\n", {}, "line 3 has 1 cells.*cut off"),
        ("a;b\n1;2,5\n", {}, "line 2.*sep="),
        ('a\n"open\n', {}, "quotes"),
        ("a,a\n1,2\n", {}, "several columns named 'a'"),
        ("a\nx\n", {"dtype": int}, "record 0: a cell does not fit"),
        ("a\n1\n", {"dtype": {"b": str}}, "'b'"),
        (b"a\n\xe9\n", {}, "encoding"),
    ],
)
def test_bad_csv_is_refused_with_line_and_remedy(
    tmp_path: Path, text: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        file_rows(tmp_path / "a.csv", text, **options)


def test_a_changed_file_gets_new_types_and_a_new_version(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    source = Source.file(path)
    version = source.version()
    assert rows(source) == [{"a": 1}]
    path.write_text("a\n1\nword\n")
    assert source.version() != version
    assert rows(source) == [{"a": "1"}, {"a": "word"}]


def test_parquet_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    records = [
        {"d": dt.date(2020, 1, 1), "m": Decimal("1.50"), "l": [1, 2], "t": "x", "n": None},
        {"d": None, "m": Decimal("2.00"), "l": [], "t": "y", "n": 4},
        {"d": None, "m": None, "l": None, "t": "z", "n": 2**62},
    ]
    pq.write_table(pa.Table.from_pylist(records), path)
    source = Source.file(path)
    assert rows(source) == records
    assert source.count() == 3
    assert source.columns() == ["d", "m", "l", "t", "n"]
    assert rows(Source.file(path, columns=["n", "t"])) == [
        {"t": r["t"], "n": r["n"]} for r in records
    ]
    with pytest.raises(SourceError, match="no column 'q'"):
        rows(Source.file(path, columns=["q"]))


@pytest.mark.parametrize("keep", [0, 50, 200])
def test_a_damaged_parquet_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:keep])
    source = Source.file(path)
    for use in (lambda: rows(source), source.columns, source.count):
        with pytest.raises(SourceError, match=r"a\.parquet is not a readable Parquet"):
            use()


def test_a_missing_file_is_named_in_full_with_similar_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    source = Source.file("question.jsonl")
    for use in (lambda: rows(source), source.columns, source.version):
        with pytest.raises(SourceError, match=r"question\.jsonl.*questions\.jsonl") as caught:
            use()
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(SourceError, match=r"folder .*nowhere does not exist"):
        rows(Source.file("nowhere/a.csv"))
    with pytest.raises(SourceError, match="is a folder"):
        rows(Source.file(tmp_path, format="csv"))


def test_paths_are_looked_up_when_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.file("late.txt")
    (tmp_path / "late.txt").write_text("one\n")
    monkeypatch.chdir(tmp_path)
    assert rows(source) == [{"text": "one"}]
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(SourceError, match="no file"):
        rows(source)


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("a.xlsx", {}, ValueError, "jsonl, json, csv, tsv, parquet, txt"),
        ("a.csv", {"format": "excel"}, ValueError, "no format 'excel'"),
        ("a.csv", {"parse_dates": ["a"]}, TypeError, r"Source\.dataframe"),
        ("a.csv", {"encoding": "nope"}, ValueError, "encoding 'nope'"),
        ("a.csv", {"sep": "ab"}, TypeError, "delimiter"),
        ("a.csv", {"dtype": "complex"}, ValueError, "str, int, float or bool"),
        ("a.csv", {"names": "ab"}, TypeError, "list of column names"),
        ("a.parquet.gz", {}, ValueError, "unpack"),
        (5, {}, TypeError, "path"),
    ],
)
def test_mistakes_are_refused_where_they_are_written(
    path: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Source.file(path, **options)


def test_reading_can_start_again_and_stop_early(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"a": {i}}}\n' for i in range(10)))
    source = Source.file(path)
    pieces = source.read(3)
    assert next(pieces) == [{"a": 0}, {"a": 1}, {"a": 2}]
    del pieces
    assert len(rows(source)) == len(rows(copy.copy(source))) == 10
