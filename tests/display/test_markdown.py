"""Markdown of documents: texts come out as they went in, and nothing of them is Markdown."""

from __future__ import annotations

import re
from typing import Any

import pytest
from documents import documents, every_place, everywhere, inlines, numbered, texts
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from odd_values import ODD
from parsed import check_markdown
from payloads import LONG, PAYLOADS, without_space

from datafast_nb.display import markdown
from datafast_nb.display.formats import printable
from datafast_nb.display.markdown import draw
from datafast_nb.display.views import (
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Fold,
    Graph,
    GraphNode,
    Head,
    Listing,
    Mark,
    Paragraph,
    Section,
    Span,
    Table,
    Tile,
    Tiles,
    Value,
    plain,
)

MARKER = "zqxmarkerxqz"
NO_CHECKS = list(HealthCheck)


def drawn(*blocks: Block) -> str:
    return draw(Document(blocks))


def read(source: str) -> str:
    return without_space(check_markdown(source).text)


def tags(source: str) -> list[str]:
    return [tag for tag, _ in check_markdown(source).elements if tag != "br"]


@settings(max_examples=70, suppress_health_check=NO_CHECKS)
@given(documents(with_graphs=True))
def test_any_document_is_drawn_within_its_rules(document):
    source = draw(document)
    check_markdown(source)
    assert draw(document) == source
    assert len(source) <= markdown.MAX_CHARS


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_a26_payloads_are_text_in_every_place(payload):
    visible = without_space(PAYLOADS[payload])
    # Differences in words that end in other signs than letters are marked otherwise.
    marker = MARKER if visible[0].isalnum() and visible[-1].isalnum() else f".{MARKER}."
    expected = read(draw(every_place(lambda _: marker))).replace(marker, visible)
    assert read(draw(every_place(lambda _: payload))) == expected
    check_markdown(draw(everywhere(payload)))


@pytest.mark.parametrize("words", LONG, ids=lambda words: ascii(words[:10]))
def test_long_texts_are_cut_and_bounded(words):
    source = draw(everywhere(words))
    check_markdown(source)
    assert len(source) <= markdown.MAX_CHARS


@settings(max_examples=150)
@given(st.lists(inlines, max_size=5).map(tuple))
def test_a_line_comes_out_as_it_went_in(line):
    # The signs around insertions cannot be told from a text that is made of them.
    styled = [part.text for part in line if isinstance(part, Span) and part.style]
    assume(not any(set(text) & set("{+}[-]") for text in styled))
    source = drawn(Paragraph(line))
    expected = without_space(printable(plain(line)))
    shown = read(source)
    for style, around in (("inserted", ("{+", "+}")), ("deleted", ("[-", "-]"))):
        if any(isinstance(part, Span) and part.style == style for part in line):
            for sign in around:
                shown = shown.replace(sign, "")
                expected = expected.replace(sign, "")
    assert shown == expected


@given(texts)
def test_a_listing_comes_out_as_it_went_in(text):
    source = drawn(Listing((text,)))
    assert read(source) == without_space(printable(text))
    assert tags(source) == ["pre", "code"]


def test_words_stand_in_order_and_once():
    document, said = numbered()
    found = re.findall(r"w\d+w", check_markdown(draw(document)).text)
    assert found == [w for w in said if w in found]
    assert len(said) - len(found) == 1  # the note of a column's picture


# What is ours is Markdown.


def test_titles_are_strong_and_no_headings():
    source = drawn(Head("Title", ("facts",)), Section("Part", (), (Paragraph(("words",)),)))
    assert source == "**Title** facts\n\n**Part**\n\nwords"


def test_styles_have_their_signs():
    line = ("a ", Span("bold", "strong"), " ", Span("x|y`z", "code"), " ", Span("{f}", "field"))
    assert tags(drawn(Paragraph(line))) == ["p", "strong", "code", "code"]
    line = (Span("old", "deleted"), " ", Span("new", "inserted"))
    assert tags(drawn(Paragraph(line))) == ["p", "del", "strong"]
    assert read(drawn(Paragraph((Mark("failed"), " 1 failed")))) == "✕1failed"


@pytest.mark.parametrize(
    "line",
    [
        ("a", Span("(b)", "strong"), "c"),
        (Span("a", "strong"), Span("b", "inserted")),
        (Span("a", "code"), Span("b", "field"), Span("c", "code")),
        ("1", ". item"),
        ("12", ") item"),
        ("a", Span("$5", "inserted"), "b"),
        ("**", Span("a", "strong"), "**"),
        ("`", Span("a", "code"), "`"),
        ("\\", Span("a", "code")),
        (Span("  ", "strong"), "a", Span("", "code")),
        ("www", ".example.org"),
    ],
    ids=repr,
)
def test_styles_do_not_run_into_what_is_beside_them(line):
    source = drawn(Paragraph(line))
    shown = read(source)
    assert re.sub(r"\{\+|\+\}", "", shown) == without_space(plain(line))
    assert set(tags(source)) <= {"p", "strong", "code"}


# Tables.


def shape(source: str) -> tuple[int, int]:
    """Rows and columns of the one table."""
    found = check_markdown(source).elements
    n_rows = sum(tag == "tr" for tag, _ in found)
    return n_rows, sum(tag in ("td", "th") for tag, _ in found) // n_rows


@settings(max_examples=80, suppress_health_check=NO_CHECKS)
@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4), texts)
def test_tables_keep_their_shape(rows, name):
    columns = (Column(name), Column("b|c", "number"), Column("d"))
    table = Table(columns, tuple(tuple(map(Value, row)) for row in rows))
    assert shape(drawn(table)) == (len(rows) + 1, 3)


def test_cells_of_every_kind_stay_in_their_row():
    inside: tuple[Block, ...] = (
        Table((Column("a|b"),), ((Value("c|d"),),)),
        Listing(("x\ny | z",)),
        Fold("fold", ("note",), (Paragraph(("body",)),), in_text=True),
    )
    cell = Cell(
        ("a | b ", Span("c|d", "code")),
        (("below",),),
        listing=Listing(("p | q\n`r`",)),
        body=inside,
    )
    source = drawn(Table((Column("a"), Column("b")), ((cell, Value(1)), (Cell(("w",), span=2),))))
    assert shape(source) == (3, 2)
    cells = check_markdown(source).cells
    for words in ("a | b", "c|d", "below", "p | q", "`r`", "body"):
        assert words in cells[2], words
    assert cells[3] == "1"


def test_numbers_stand_right():
    source = drawn(Table((Column("a"), Column("n", "number")), ((Value("x"), Value(5)),)))
    assert source == "| a | n |\n| --- | ---: |\n| x | 5 |"


def test_what_is_left_out_is_counted():
    assert "… 400 more rows" in drawn(Table((Column("a"),), ((Value(1),),) * 500))
    assert "… 400 more" in drawn(Facts((Fact("a", ("b",)),) * 500))
    assert "… 400 more" in drawn(Tiles((Tile("a", "1"),) * 500))


def test_a_long_document_is_cut_between_its_parts():
    blocks: list[Block] = [Listing(("line `` \n" * 300,)) for _ in range(200)]
    source = drawn(*blocks)
    assert len(source) <= markdown.MAX_CHARS
    assert source.endswith("\n\n… cut here: too long")
    assert set(tags(source)) == {"pre", "code", "p"}


# Other blocks.


def test_facts_and_folds_are_parts_of_their_own():
    body: tuple[Block, ...] = (Paragraph(("one",)), Paragraph(("two",)))
    source = drawn(Facts((Fact("name", ("words",)), Fact("more", body))), Fold("F", ("n",), body))
    assert source == "**name** words\n\n**more**\n\none\n\ntwo\n\n**F** n\n\none\n\ntwo"


def test_graphs_are_listings():
    nodes = (GraphNode("a`b", (("5 records",),)), GraphNode("```"))
    source = drawn(Graph(nodes, ((0, 1),)))
    assert tags(source) == ["pre", "code"]
    assert "a`b · 5 records" in check_markdown(source).text


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_shown(name):
    source = drawn(Table((Column("a"),), ((Value(ODD[name]),),)))
    assert shape(source) == (2, 1)
    assert check_markdown(source).cells[1].strip()


@pytest.mark.parametrize(
    "start", ["#", "-", "+", ">", "=", "~~~", "```", "1.", "|", "    ", "\t", ":", "[^1]:"]
)
def test_no_line_of_the_data_begins_anything(start: Any):
    source = drawn(Paragraph((f"{start} words\n{start} more",)), Facts((Fact(start, (start,)),)))
    assert set(tags(source)) <= {"p", "strong"}
