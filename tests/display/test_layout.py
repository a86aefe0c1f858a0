"""Columns get the room that their words take."""

from __future__ import annotations

import re

from gallery import GALLERY
from parsed import Parsed, check_html

from datafast_nb.display import html
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fold,
    Listing,
    Paragraph,
    Row,
    Table,
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
