"""Columns get the room that their words take."""

from __future__ import annotations

import re

import pytest
from gallery import GALLERY
from parsed import Parsed, check_html

from datafast_nb.display import html
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fold,
    Line,
    Listing,
    Mark,
    Paragraph,
    Row,
    Spark,
    Table,
    Tile,
    Tiles,
    Value,
)


def drawn(*blocks: Block) -> Parsed:
    return check_html(html.draw(Document(blocks)))


def styles(parsed: Parsed, tag: str) -> list[str]:
    return [
        dict(attributes).get("style") or "" for name, attributes in parsed.elements if name == tag
    ]


def widths(parsed: Parsed, tag: str) -> list[str]:
    return [
        found[1] if (found := re.search(r"\bwidth:([\d.]+(?:px|%))", s)) else ""
        for s in styles(parsed, tag)
    ]


def pixels(width: str) -> float:
    return float(width.removesuffix("px"))


def test_an_index_and_a_status_take_little_room() -> None:
    index, status, *_ = widths(check_html(html.draw(GALLERY["result"]())), "th")
    assert pixels(index) <= 20  # the padding behind it comes on top
    assert 55 <= pixels(status) <= 80


def test_the_first_row_has_the_widths_where_there_is_no_header() -> None:
    row: Row = (Cell(("id",)), Value("a text " * 20))
    named = drawn(Table((Column("name", "word"), Column("value", "written")), (row, row)))
    bare = drawn(Table((Column("", "word"), Column("", "written")), (row, row)))
    first, text, *others = widths(bare, "td")
    assert pixels(first) < pixels(widths(named, "th")[0]) < 80
    assert text.endswith("%")
    assert others == ["", ""]


def test_smaller_words_below_need_room_too() -> None:
    def width(below: str) -> float:
        row: Row = (Cell(("new",), ((below,),)), Value("a text"))
        return pixels(
            widths(drawn(Table((Column("fate", "word"), Column("text")), (row,))), "th")[0]
        )

    assert width("$0.000061 · 0.54 s") > 110 > 60 > width("free")


def test_words_of_ours_get_more_room_than_values_that_are_cut() -> None:
    def share(cell: Cell | Value) -> float:
        columns = (Column("a", "text"), Column("b", "text"))
        found = widths(drawn(Table(columns, ((cell, Value("b" * 40)),))), "th")[0]
        return float(found.removesuffix("%"))

    words = "word " * 18
    assert share(Cell((words,))) > 1.1 * share(Value(words))


def test_a_row_that_goes_on_stands_close_to_the_one_above_it() -> None:
    rows: tuple[Row, ...] = (
        (Cell(("0",)), Value("a")),
        (Cell(), Value("b")),
        (Cell(("1",)), Value("c")),
    )
    parsed = drawn(Table((Column("", "index"), Column("text")), rows))
    tops = [s.split("padding:")[1].split()[0] for s in styles(parsed, "td")]
    assert tops == ["6px", "6px", "0", "0", "6px", "6px"]


def test_a_note_below_a_table_of_texts_closes_it_with_a_line() -> None:
    note = Paragraph(("all of them",), is_note=True)
    texts = Table((Column("text"),), ((Value("a"),),))
    figures = Table((Column("n", "number"),), ((Value(1),),))

    def n_lines(*blocks: Block) -> int:
        return sum("border-top" in s for s in styles(drawn(*blocks), "div"))

    assert n_lines(texts, note) == 1
    assert n_lines(figures, note) == n_lines(note, texts) == 0
    assert n_lines(Table(texts.columns, texts.rows, (Value("b"),)), note) == 0


def test_a_fold_in_a_cell_is_quiet() -> None:
    fold = Fold("prompt as sent", body=(Listing(("a",)),))
    inside = drawn(Table((Column("text"),), ((Cell(body=(fold,)),),)))
    assert not styles(inside, "b")
    assert styles(drawn(fold), "b")


def test_a_long_word_wraps_where_it_would_lie_over_its_neighbour() -> None:
    def cells(*columns: Column) -> list[bool]:
        row = tuple(Value("x" * 300) for _ in columns)
        return ["nowrap" in s for s in styles(drawn(Table(columns, (row,))), "td")]

    assert cells(Column("topic", "word"), Column("text"), Column("n", "number")) == [
        False,
        False,
        True,
    ]
    assert cells(Column("topic", "word"), Column("n", "number")) == [True, True]


def test_columns_of_a_wide_table_fill_it_and_no_more() -> None:
    columns = (Column("", "index"), *(Column(f"text {i}") for i in range(12)))
    row: Row = (Cell(("0",)), *(Value("some words " * 30) for _ in range(12)))
    parsed = drawn(Table(columns, (row,)))
    [least] = [int(n) for s in styles(parsed, "table") for n in re.findall(r"min-width:(\d+)px", s)]
    assert least > html.WIDTH
    index, *texts = widths(parsed, "th")
    shared = sum(float(w.removesuffix("%")) for w in texts) / 100 * least
    assert least * 0.99 <= pixels(index) + html.GAP + shared <= least * 1.01


def table_width(parsed: Parsed) -> int:
    [least] = [int(n) for s in styles(parsed, "table") for n in re.findall(r"min-width:(\d+)px", s)]
    return least


def test_bars_of_a_narrow_column_do_not_reach_into_the_next() -> None:
    spark = Spark((1.0,) * 10, "ten bars")
    for kind in ("number", "word", "text"):
        columns = (
            Column("", "index"),
            Column("n", kind, spark, "mean 5.5"),
            *(Column(f"long {i}", "written") for i in range(5)),
        )
        row: Row = (Cell(("0",)), Value(1), *(Value("some words " * 30) for _ in range(5)))
        width = widths(parsed := drawn(Table(columns, (row,))), "th")[1]
        if width.endswith("%"):
            assert float(width[:-1]) / 100 * max(html.WIDTH, table_width(parsed)) >= 80 + html.GAP
        else:
            assert pixels(width) >= 80


def test_a_note_wraps_and_does_not_widen_its_column() -> None:
    def width(note: str) -> float:
        columns = (Column("when", "word", note=note), Column("text"))
        parsed = drawn(Table(columns, ((Value("2024-01-02"), Value("a text")),)))
        assert all(
            "white-space:normal" in s for s in styles(parsed, "div") if "font-size:11px" in s
        )
        return pixels(widths(parsed, "th")[0])

    assert width("31 Dec 1999 – 4 Jan 2024, 10% None") < 110
    assert width("31 Dec 1999 – 4 Jan 2024, 10% None") == width("31 Dec 1999 – 4") >= width("")


def test_a_table_of_ten_columns_of_records_is_no_wider_than_the_display() -> None:
    long = "some words " * 30
    columns = (
        Column("", "index"),
        Column("status", "status"),
        Column("id", "number"),
        *(Column(f"text {i}") for i in range(5)),
        Column("when", "word"),
        Column("extra_only_here_and_there", "word"),
        Column("score", "number"),
        Column("rank", "number"),
    )
    row: Row = (
        Cell(("0",)),
        Cell(("new",), (("stopped: 'long_enough' raised an error",),)),
        Value(1),
        *(Value(long) for _ in range(5)),
        Value("2022-01-02 03:04:05"),
        Value("a word"),
        Value(7),
        Value(1),
    )
    parsed = drawn(Table(columns, (row,)))
    assert table_width(parsed) <= html.WIDTH
    shares = [float(w[:-1]) * html.WIDTH / 100 for w in widths(parsed, "th") if w.endswith("%")]
    assert len(shares) == 5 and min(shares) >= 90
    assert sum(shares) + sum(
        pixels(w) + html.GAP for w in widths(parsed, "th") if w.endswith("px")
    ) == pytest.approx(html.WIDTH + html.GAP, abs=3)


def test_what_opens_in_a_cell_is_bounded_and_says_what_a_click_does() -> None:
    source = html.draw(Document((Table((Column("text"),), ((Value("word " * 950),),)),)))
    assert len(check_html(source).text) < 1_300
    assert "more, see the record in full" in source
    assert 'title="characters left, click to read"' in source


def test_further_words_below_a_bar_are_quiet() -> None:
    lines: tuple[Line, ...] = (("all kept",), ("free",), (Mark("failed"), " 1 failed"))
    found = [s for s in styles(drawn(Tiles((Tile("ask", "8", lines, 0.5),))), "div") if "12px" in s]
    assert ["opacity" in s for s in found[-3:]] == [False, True, False]
    found = [s for s in styles(drawn(Tiles((Tile("ask", "8", lines),))), "div") if "12px" in s]
    assert not any("opacity" in s for s in found[-3:])
