"""HTML of documents: text stays text, in order and once, bounded, nothing loaded."""

from __future__ import annotations

import re
from typing import Any

import pytest
from documents import BARS, documents, every_place, everywhere, numbered, with_images
from hypothesis import HealthCheck, given, settings
from odd_values import ODD, EvilText
from parsed import Parsed, check_html
from payloads import LONG, PAYLOADS, without_space

from datafast_nb.display import html
from datafast_nb.display.values import MEASURE
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
    Legend,
    Line,
    Listing,
    Paragraph,
    Section,
    Span,
    Spark,
    Table,
    Tile,
    Tiles,
    Value,
    strong,
)

MARKER = "zqxmarkerxqz"


def drawn(*blocks: Block) -> str:
    return html.draw(Document(blocks))


def read(source: str) -> str:
    return without_space(check_html(source).text)


def one_cell(value: Any, kind: Any = "text") -> str:
    return drawn(Table((Column("", kind),), ((Value(value),),)))


# Text.


def test_payloads_are_many_and_fit_a_cell():
    assert len(PAYLOADS) >= 50
    assert max(map(len, PAYLOADS)) <= MEASURE["written"] + 14


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_a26_every_payload_is_text_in_every_place(payload):
    plain = read(html.draw(every_place(lambda _: MARKER)))
    assert plain.count(MARKER) == len(numbered()[1])
    expected = plain.replace(MARKER, without_space(PAYLOADS[payload]))
    assert read(html.draw(every_place(lambda _: payload))) == expected


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_a26_payloads_change_no_element_and_no_attribute_but_alternatives(payload):
    hostile = check_html(html.draw(everywhere(payload)))
    assert hostile.skeleton == check_html(html.draw(everywhere(MARKER))).skeleton
    visible = without_space(PAYLOADS[payload])
    alternatives = [without_space(image["alt"] or "") for image in hostile.images]
    assert len(alternatives) == 2
    # Names of steps are cut in the graph; what a spark says is not.
    assert alternatives[0].startswith(visible[:12]) and alternatives[1] == visible


@pytest.mark.parametrize("text", LONG, ids=lambda text: ascii(text[:10]))
def test_long_texts_are_cut_and_stay_text(text):
    source = html.draw(everywhere(text))
    assert len(source.encode()) <= html.MAX_BYTES
    check_html(source)


def test_text_stands_in_order_and_once():
    document, said = numbered()
    parsed = check_html(html.draw(document))
    assert re.findall(r"w\d+w", parsed.text) == said


def test_pictures_have_their_words_as_alternative():
    document = with_images(lambda place: place.replace(" ", "-"))
    parsed = check_html(html.draw(document))
    assert "node-line" in (parsed.images[0]["alt"] or "")
    assert parsed.images[1]["alt"] == parsed.images[1]["title"] == "spark"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(documents())
def test_any_document_is_drawn_within_its_rules(document):
    source = html.draw(document)
    check_html(source)
    assert len(source.encode()) <= html.MAX_BYTES
    assert html.draw(document) == source


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(documents(with_graphs=True))
def test_any_document_with_graphs_is_drawn_within_its_rules(document):
    check_html(html.draw(document))


def test_dollars_are_no_formulas():
    source = html.draw(every_place(lambda _: "$1 and $2"))
    assert re.match(r'<div class="mathjax_ignore tex2jax_ignore"', source)
    assert "$" in source and "$" not in source.replace("<span>$</span>", "")


def test_a_line_end_is_written_once():
    source = drawn(Listing(("a\nb\n\nc",)), Paragraph(("d\ne",)))
    assert Parsed(source).text.count("\n") == 4
    assert "\n" not in source


def test_our_own_class_of_text_is_no_markup_of_ours():
    document = everywhere(EvilText("<i>x</i>"))
    assert html.draw(document) == html.draw(everywhere("<i>x</i>"))


# Without CSS.


def test_a21_a_display_reads_the_same_without_css():
    document, said = numbered()
    bare = re.sub(r' (?:style|class)="[^"]*"', "", html.draw(document))
    assert re.findall(r"w\d+w", Parsed(bare).text) == said
    assert "display:none" not in html.draw(document) and "hidden" not in html.draw(document)


# Cells.


@pytest.mark.parametrize("kind", ["text", "written", "word"])
def test_a_long_value_is_cut_at_a_word_and_the_rest_opens(kind):
    text = " ".join(f"word{i:03}" for i in range(60))
    source = one_cell(text, kind)
    found = re.search(r"<summary[^>]*>(.*?)</summary>(.*?)</details>", source)
    assert found is not None
    head, rest = (Parsed(part).text for part in found.groups())
    head, _, n = head.rpartition(" … +")
    assert f"{head} {rest}" == text
    assert int(n) == len(rest)
    assert MEASURE[kind] - 14 <= len(head) <= MEASURE[kind]


def test_what_is_cut_beyond_the_limit_is_counted():
    parsed = check_html(one_cell("word " * 20_000))
    [n] = [
        int(n.replace(",", ""))
        for n in re.findall(r"… \+([\d,]+) more, see the record", parsed.text)
    ]
    [n_rest] = [int(n.replace(",", "")) for n in re.findall(r"… \+([\d,]+)word", parsed.text)]
    assert parsed.text.count("word") * 5 - 5 <= n_rest - n + MEASURE["text"] + 10
    assert n_rest == 5 * 20_000 - 1 - 46 + 1 or n_rest > 99_000


def test_a_short_value_has_nothing_to_open():
    assert "<details" not in one_cell("a b c\nd")
    assert check_html(one_cell("a b c\nd")).cells == ["a b c d"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None"),
        (True, "True"),
        (1234567, "1234567"),
        (0.1 + 0.2, "0.3"),
        ("", ""),
        ("   ", "␣"),
        ([1, {"a": None}], '[1, {"a": null}]'),
        (b"abc", "3 bytes"),
        ({"b", "a"}, "{a, b}"),
    ],
    ids=repr,
)
def test_values_are_written_as_people_write_them(value, said):
    assert check_html(one_cell(value)).cells == [said]


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_shown(name):
    value = ODD[name]
    source = one_cell(value)
    parsed = check_html(source)
    assert parsed.cells[0].strip()
    assert one_cell(value) == source
    assert "0x" not in parsed.text
    assert "<script" not in source and "<u>" not in source


def test_text_classes_show_the_text_that_they_hold():
    for name in ("evil text", "markup", "text of numpy"):
        assert check_html(one_cell(ODD[name])).cells == ["<u>not markup</u>"]


# Tables that do not add up.


def test_a_row_may_have_more_or_fewer_cells_than_columns():
    rows = (
        tuple(Value(f"v{i}") for i in range(4)),
        (Value("alone"),),
        (Cell(("wide",), span=9),),
        (Cell(("none",), span=0), Value("x")),
        (),
    )
    parsed = check_html(drawn(Table((Column("a"), Column("b")), rows)))
    for word in ("v0", "v3", "alone", "wide", "none", "x"):
        assert word in parsed.text
    check_html(drawn(Table((), ((Value("lost"),),))))
    check_html(drawn(Table((), ())))


def test_columns_rows_facts_and_tiles_that_are_left_out_are_counted():
    columns = tuple(Column(f"c{i}") for i in range(500))
    parsed = check_html(drawn(Table(columns, ())))
    assert "c0" in parsed.text and re.search(r"\+4\d\d columns", parsed.text)
    parsed = check_html(drawn(Table((Column("a"),), ((Value("x"),),) * 10_000)))
    assert re.search(r"9,?\d00 more rows", parsed.text)
    parsed = check_html(drawn(Facts((Fact("f", ("x",)),) * 5_000)))
    assert re.search(r"4,?\d00 more", parsed.text)
    parsed = check_html(drawn(Tiles((Tile("t", "1"),) * 500)))
    assert re.search(r"[34]\d\d more", parsed.text)


# Sizes.

MEGABYTE = "lorem ipsum <b> & dolor " * 43_000
NAME = "n" * 100_000
WIDE = tuple(Column(f"column {i}", "written", Spark(BARS, "words")) for i in range(12))


def nested(depth: int, wrap: Any, core: Block) -> Block:
    for i in range(depth):
        core = wrap(f"level {i}", (core,))
    return core


def folded(title: str, body: tuple[Block, ...]) -> Block:
    return Fold(title, ("note",), body)


def in_facts(title: str, body: tuple[Block, ...]) -> Block:
    return Facts((Fact(title, body),))


def in_cells(title: str, body: tuple[Block, ...]) -> Block:
    return Table((Column(title),), ((Cell(("cell",), body=body),),))


LARGE: dict[str, tuple[Block, ...]] = {
    "large texts": (Table(WIDE, ((Value(MEGABYTE),) * 12,) * 10),),
    "many rows": (Table(WIDE, ((Value("word " * 40),) * 12,) * 10_000),),
    "many columns": (Table((Column("c"),) * 3_000, ((Value("word " * 30),) * 3_000,) * 10),),
    "long names": (
        Head(NAME, (NAME,)),
        Tiles((Tile(NAME, NAME, ((NAME,),)),) * 7),
        Table((Column(NAME, "text", Spark(BARS, NAME), NAME),) * 12, ((Value(NAME),) * 12,)),
        Facts((Fact(NAME, (NAME,)),) * 20),
        Fold(NAME, (NAME,), (Section(NAME, (NAME,)),)),
        Graph((GraphNode(NAME, ((NAME,),) * 4),) * 20, tuple((i, i + 1) for i in range(19))),
    ),
    "1,000 steps": (
        Graph(
            tuple(GraphNode(f"step {i}", ((f"{i} records",),)) for i in range(1_000)),
            tuple((i, i + 1) for i in range(999)),
        ),
        *(Fold(f"step {i}", ("LLMStep",), (Listing(("prompt " * 500,)),)) for i in range(1_000)),
    ),
    "many facts": (Facts(tuple(Fact(f"f{i}", ("words " * 50,)) for i in range(5_000))),),
    "many tiles": (Tiles(tuple(Tile(f"t{i}", str(i), (("x " * 60,),)) for i in range(500))),),
    "deep folds": (nested(50, folded, Paragraph(("core",))),),
    "deeper folds": (nested(900, folded, Paragraph(("core",))),),
    "deep facts": (nested(200, in_facts, Paragraph(("core",))),),
    "deep cells": (nested(200, in_cells, Paragraph(("core",))),),
    "many parts": (Paragraph((Span("a", "inserted"), Span("b", "deleted")) * 100_000),),
    "many items": (Legend((("item",),) * 50_000),),
    "many lines below": (Table((Column("a"),), ((Cell((), (("below",),) * 9_000),),) * 50),),
    "many blocks": tuple(Paragraph((f"paragraph {i} " * 20,)) for i in range(20_000)),
    "one section of all": (
        Section(
            "all",
            (),
            tuple(
                Fold(f"f{i}", (), (Table(WIDE, ((Value(MEGABYTE),) * 12,) * 20),)) for i in range(7)
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_a27_no_document_takes_more_than_200_kilobytes(name):
    blocks = (Head("What it is"), *LARGE[name])
    source = drawn(*blocks)
    assert len(source.encode()) <= 200_000
    parsed = check_html(source)
    assert parsed.text.startswith("What it is")
    assert re.search(r"… \+|\+[\d,]+ columns|more|too large|too deep", parsed.text)


def test_what_does_not_fit_is_named_and_the_rest_stays():
    huge = tuple(Facts((Fact("f", ("x" * 60,)),) * 10) for _ in range(250))
    source = drawn(Head("first"), Section("all of it", (), huge), Paragraph(("the end",)))
    assert len(source.encode()) <= html.MAX_BYTES
    text = check_html(source).text
    assert text.startswith("first") and "all of it" in text and text.endswith("the end")
    assert text.count("too large to be shown here") == 1


def test_a_usual_display_is_shown_in_full_and_small():
    record = [Value(f"{i} " + "An octopus has three hearts. " * 12) for i in range(6)]
    source = drawn(
        Head("10 records", ("complete run",)),
        Tiles(tuple(Tile(f"step {i}", "868", (("all kept",),), 0.5) for i in range(5))),
        Table(WIDE[:6], (tuple(record),) * 10),
        *(Fold(f"Record {i}", (), (Listing(("prompt " * 200,)),)) for i in range(3)),
    )
    assert len(source.encode()) <= html.TYPICAL_BYTES
    assert "more, see the record" not in source


# A page of its own.


def test_a_page_is_complete_and_loads_nothing():
    source = html.page(everywhere("<b>x</b>"), "</title><script>alert(1)</script> $1")
    assert source.startswith("<!doctype html>")
    assert "default-src 'none'" in source
    assert "</title><script>" not in source
    tags = {tag for tag, _ in Parsed(source).elements}
    assert {"html", "head", "meta", "title", "style", "body"} <= tags
    assert not {"script", "link", "iframe", "object", "form", "base"} & tags
    policy = [dict(a) for t, a in Parsed(source).elements if t == "meta"]
    assert {"http-equiv", "content"} <= set().union(*policy)
    body = source.partition("<body>")[2].partition("</body>")[0]
    check_html(body)


def test_a_page_of_anything_is_drawn():
    check_html(
        html.page(Document(LARGE["deep cells"]), "t").partition("<body>")[2].partition("</body>")[0]
    )
    assert "\ud800" not in html.page(Document((Head("\ud800"),)), "\ud800")


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(documents())
def test_a_page_holds_its_document(document):
    source = html.page(document, "title")
    source.encode()
    check_html(source.partition("<body>")[2].rpartition("</body>")[0])


def test_marks_carry_colour_and_words_none():
    line: Line = (strong("word"), " ", Span("muted", "muted"))
    assert "color:#" not in drawn(Paragraph(line), Head("title", line))
