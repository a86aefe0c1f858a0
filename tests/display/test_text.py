"""Text of documents for terminals: within its width, aligned, nothing obeyed, nothing misread."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from documents import KINDS, documents, every_place, everywhere, numbered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_values import ODD
from parsed import is_obeyed
from payloads import LONG, PAYLOADS, without_space

from datafast_nb.display import text
from datafast_nb.display.ascii import is_ascii_wanted
from datafast_nb.display.formats import printable
from datafast_nb.display.text import display_width, draw
from datafast_nb.display.views import (
    PENDING,
    SIGNS,
    Block,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Failed,
    Fold,
    Graph,
    GraphNode,
    Head,
    Legend,
    Listing,
    Mark,
    Paragraph,
    Section,
    Span,
    Table,
    Tile,
    Tiles,
    Value,
)
from datafast_nb.options import options

MARKER = "zqxmarkerxqz"
NO_CHECKS = list(HealthCheck)
widths = st.sampled_from([40, 60, 80, 200]) | st.integers(40, 200)


def drawn(*blocks: Block, width: int = 80, ascii_only: bool = False) -> str:
    return draw(Document(blocks), width, ascii_only)


def check(out: str, width: int) -> None:
    """What every display in a terminal owes."""
    for line in out.split("\n"):
        assert display_width(line) <= width, line
        assert line == line.rstrip()
    assert "\t" not in out
    assert not [c for c in out if is_obeyed(c)]
    out.encode()


# Any document.


@settings(max_examples=50, suppress_health_check=NO_CHECKS)
@given(documents(with_graphs=True), widths)
def test_any_document_fits_any_width(document, width):
    out = draw(document, width, False)
    check(out, width)
    assert draw(document, width, False) == out


@settings(max_examples=50, suppress_health_check=NO_CHECKS)
@given(documents(with_graphs=True), widths)
def test_any_document_in_ascii_fits_too(document, width):
    out = draw(document, width, True)
    assert out.isascii()
    check(out, width)


@pytest.mark.parametrize("width", [1, 5, 16, 20, 39])
def test_narrower_terminals_get_something(width):
    assert draw(everywhere("some words"), width, False)


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_a26_payloads_are_text_in_every_place(payload):
    for width in (60, 200):
        check(draw(everywhere(payload), width, False), width)
        check(draw(everywhere(payload), width, True), width)
    # At a width at which nothing is cut, each stands where a plain word would.
    plain = drawn_side_by_side(MARKER)
    assert drawn_side_by_side(payload) == plain.replace(MARKER, without_space(PAYLOADS[payload]))


def drawn_side_by_side(word: str) -> str:
    """What a very wide terminal shows of the word in every place but the names of columns."""
    blocks = [b for b in every_place(lambda _: word).blocks if not isinstance(b, Table)]
    cell = Cell((word,), ((word,),), listing=Listing((word,)))
    table = Table((Column("", "word"),), ((Value(word),), (Cell((word,)),), (cell,)))
    return without_space(draw(Document((*blocks, table)), 4_000, False))


@pytest.mark.parametrize("words", LONG, ids=lambda words: ascii(words[:10]))
@pytest.mark.parametrize("width", [40, 200])
def test_long_texts_are_cut(words, width):
    out = draw(everywhere(words), width, False)
    check(out, width)
    assert len(out) < 200_000


def test_words_stand_in_order_and_once():
    document, said = numbered()
    found = re.findall(r"w\d+w", draw(document, 200, False))
    # Notes of columns explain pictures that a terminal does not have.
    assert len(found) == len(set(found)) == len(said) - 1
    # What stands below in a cell stands below what is beside it.
    rows = [found.index(w) for w in said if w in found]
    assert sum(a > b for a, b in pairwise(rows)) <= 1


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_shown(name):
    out = drawn(Table((Column("a"),), ((Value(ODD[name]),),)))
    assert out.split("\n")[-1].strip()
    assert drawn(Table((Column("a"),), ((Value(ODD[name]),),))) == out


# Widths.


@pytest.mark.parametrize(
    ("char", "width"),
    [
        ("a", 1),
        ("é", 1),
        ("\u0301", 0),
        ("日", 2),
        ("Ａ", 2),  # noqa: RUF001
        ("\U0001f600", 2),
        ("\u200d", 0),
        ("●", 1),
        ("…", 1),
        ("─", 1),
    ],
)
def test_width_of_characters(char, width):
    assert display_width(char) == width


@given(st.text(max_size=60), st.integers(1, 30))
def test_what_is_fitted_fits(words, width):
    out = text.fit(words, width)
    assert display_width(out) <= width
    line = " ".join(printable(words).split())
    if line.isascii() and line.isprintable() and len(line) <= width:
        assert out == line
    assert out or not line.strip()


@given(st.text(max_size=120), st.integers(2, 40))
def test_what_is_wrapped_fits_and_is_whole(words, width):
    lines = text.wrapped(words, width)
    assert all(display_width(line) <= width for line in lines)
    assert without_space("".join(lines)) == without_space(words)


def test_wide_characters_keep_columns_aligned():
    table = Table(
        (Column("name", "word"), Column("n", "number")),
        ((Value("日本語"), Value(1)), (Value("e\u0301té"), Value(22)), (Value("abc"), Value(333))),
    )
    lines = drawn(table).split("\n")[1:]
    assert [display_width(line) for line in lines] == [11] * len(lines)
    assert [line[-3:].strip() for line in lines[2:]] == ["1", "22", "333"]


# Tables.


def test_columns_are_aligned_and_numbers_stand_right():
    table = Table(
        (Column("topic", "word"), Column("n", "number")),
        ((Value("Biology"), Value(5)), (Value("Art"), Value(12_345))),
        (Cell(("total",)), Cell(("12,350",))),
    )
    assert drawn(table) == (
        "\n"
        "topic         n\n"
        "───────  ──────\n"
        "Biology       5\n"
        "Art       12345\n"
        "───────  ──────\n"
        "total    12,350"
    )


@settings(max_examples=40, suppress_health_check=NO_CHECKS)
@given(
    st.lists(st.integers(-(10**15), 10**15) | st.floats(-1e9, 1e9), min_size=1, max_size=5),
    st.integers(1, 5),
    st.text("abc ", max_size=80),
    widths,
)
def test_numbers_are_never_cut(numbers, n_columns, words, width):
    columns = (*((Column("n", "number"),) * n_columns), Column("text"))
    rows = tuple((*((Value(n),) * n_columns), Value(words)) for n in numbers)
    out = drawn(Table(columns, rows), width=width)
    assert n_columns < 2 or "…" not in out.partition("─\n")[0]
    body = [line for line in out.split("\n") if line and "─" not in line][1:]
    for line, n in zip(body, numbers, strict=False):
        shown = text.values.short(n)
        assert re.match(rf" *{re.escape(shown)}(  |$)", line), line


def test_columns_that_do_not_fit_are_left_out_and_counted():
    columns = tuple(Column(f"column{i}", "word") for i in range(30))
    row = tuple(Value(f"value {i}") for i in range(30))
    out = drawn(Table(columns, (row,)), width=60)
    check(out, 60)
    [n] = re.findall(r"\+(\d+) columns$", out)
    assert len(out.split("\n")[1].split()) == 30 - int(n)


def test_words_of_ours_that_do_not_fit_side_by_side_stand_below_each_other():
    columns = (Column("step"), Column("problem"), Column("fix"), Column("written at"))
    row = tuple(Cell((f"{w} " + "of more than one word " * 3,)) for w in ("ask", "why", "do", "at"))
    wide, narrow = (drawn(Table(columns, (row, row)), width=w) for w in (200, 60))
    assert wide.split("\n")[1].split() == ["step", "problem", "fix", "written", "at"]
    assert narrow.startswith("\nask of more")
    assert (
        re.findall(r"^  (problem|fix|written at) ", narrow, re.M)
        == ["problem", "fix", "written at"] * 2
    )
    assert without_space(narrow).count("ofmorethanoneword") == 24
    check(narrow, 60)


def test_values_are_one_line_and_say_what_is_cut():
    out = drawn(Table((Column("a"),), ((Value("word " * 100),),)), width=40)
    assert re.search(r"word … \+\d+$|… \+4\d\d$", out)
    assert len(out.split("\n")) == 4


def test_marks_of_answers_that_are_not_there():
    out = drawn(Table((Column("a"),), ((Value(PENDING),), (Value(Failed("timeout")),))))
    assert "◌ pending" in out and "✕ failed: timeout" in out
    out = drawn(Table((Column("a"),), ((Value(PENDING),),)), ascii_only=True)
    assert ". pending" in out


def test_rows_facts_and_tiles_that_are_left_out_are_counted():
    assert drawn(Table((Column("a"),), ((Value(1),),) * 5_000)).endswith("… 4,800 more rows")
    assert drawn(Facts((Fact("a", ("b",)),) * 5_000)).endswith("… 4,800 more")
    assert drawn(Tiles((Tile("a", "1"),) * 500)).endswith("… 300 more")
    assert drawn(*(Paragraph((f"{i}",)) for i in range(9_000))).endswith("… 8,700 more parts")
    many = tuple(
        Facts(tuple(Fact(f"{i}", ("words " * 40,)) for i in range(200))) for _ in range(99)
    )
    out = drawn(*many)
    assert out.count("\n") == text.MAX_LINES
    assert re.search(r"… [\d,]+ more lines$", out)


# Other blocks.


def test_folds_show_their_summary_and_where_asked_their_body():
    body: tuple[Block, ...] = (Paragraph(("inside",)),)
    assert drawn(Fold("Title", ("note",), body)) == "▸ Title note"
    assert drawn(Fold("Title", (), body, is_open=True, in_text=True)) == "▸ Title\n  inside"
    assert drawn(Section("Title", ("note",), body)) == "\nTitle note\ninside"


def test_deep_blocks_stay_within_the_width():
    block: Block = Listing(("core " * 30,))
    for i in range(60):
        block = Fold(f"level {i}", (), (block,), in_text=True)
    out = drawn(block, width=40)
    check(out, 40)
    assert "nested too deep" in " ".join(out.split())
    block = Paragraph(("core",))
    for _ in range(10):
        block = Facts((Fact("a long label", (block,)),))
    out = drawn(block, width=40)
    check(out, 40)
    assert out.endswith("core")


def chain(n: int) -> Graph:
    nodes = tuple(GraphNode(f"step_{i}", ((f"{i} records",),)) for i in range(n))
    return Graph(nodes, tuple((i, i + 1) for i in range(n - 1)))


def test_graphs_are_one_line_or_a_line_for_each_node():
    assert drawn(chain(3), width=80) == "step_0 0 records → step_1 1 records → step_2 2 records"
    assert drawn(chain(3), width=40) == (
        "step_0 · 0 records\n→ step_1 · 1 records\n→ step_2 · 2 records"
    )
    assert drawn(chain(2), ascii_only=True) == "step_0 0 records > step_1 1 records"


def test_branches_name_where_they_come_from():
    nodes = tuple(GraphNode(name) for name in ("a", "left", "right", "join"))
    out = drawn(Graph(nodes, ((0, 1), (0, 2), (1, 3), (2, 3))))
    assert out == "a\n→ left\n→ right (from a)\n→ join (from left, right)"


def test_differences_are_marked_with_signs():
    line = ("a ", Span("old", "deleted"), " ", Span("new", "inserted"), " b")
    assert drawn(Paragraph(line)) == "a [-old-] {+new+} b"


def test_listings_keep_lines_and_indents_and_say_how_many_there_are():
    assert drawn(Listing(("def f():\n\treturn 1\n",))) == "  def f():\n      return 1\n"
    out = drawn(Listing(("\n".join(f"line {i}" for i in range(100)),)))
    assert out.endswith("  line 11\n  … 100 lines in all")
    out = drawn(Listing(("    " + "word " * 30,)), width=60)
    assert all(line.startswith("      word") for line in out.split("\n"))


def test_legends_keep_items_whole():
    items = tuple((Mark("new"), f" {i} calls of a step") for i in range(6))
    out = drawn(Legend(items), width=50)
    assert all(line.startswith("○ ") and line.endswith("step") for line in out.split("\n"))


def test_figures_stand_below_each_other():
    tiles = (
        Tile("cost", "$0.0040", (("$0.0010–0.013",),)),
        Tile("calls", "24", ((Mark("new"), " 24 new"), ("of 40",))),
        Tile("time", "unknown"),
    )
    assert drawn(Tiles(tiles)) == (
        "cost   $0.0040  $0.0010–0.013\ncalls       24  ○ 24 new · of 40\ntime   unknown"
    )


@pytest.mark.parametrize("width", [40, 60])
def test_figures_are_whole_in_narrow_terminals(width):
    tile = Tile("a name of some length", "$0.00078–0.0011", (("why it is so, in words " * 4,),))
    out = drawn(Tiles((tile,)), width=width)
    check(out, width)
    assert "$0.00078–0.0011" in out


# ASCII.


def test_ascii_is_wanted_by_option_or_where_the_output_takes_nothing_else(monkeypatch):
    class Stream:
        encoding: Any = "utf-8"

    stream = Stream()
    monkeypatch.setattr("sys.stdout", stream)
    for encoding, wanted in [
        ("utf-8", False),
        ("ascii", True),
        ("latin-1", True),
        ("cp1252", True),
        (None, False),
        ("no such encoding", True),
    ]:
        stream.encoding = encoding
        assert is_ascii_wanted() is wanted
    options.ascii = False
    assert is_ascii_wanted() is False
    options.ascii = True
    stream.encoding = "utf-8"
    assert is_ascii_wanted() is True
    assert draw(everywhere("é"), 80).isascii()


def test_marks_have_signs_of_their_own_in_ascii():
    line = tuple(part for name in SIGNS for part in (Mark(name), " "))
    signs = drawn(Paragraph(line), ascii_only=True).split()
    assert len(signs) == len(SIGNS)
    # New ones aside, the words behind them tell them apart.
    assert len(set(signs)) == len(SIGNS)


def test_other_characters_are_codes_in_ascii():
    out = drawn(Paragraph(("≤ 5 → naïve “x” 日… a–b",)), ascii_only=True)
    assert out == '<= 5 -> na\\xefve "x" \\u65e5... a-b'


@pytest.mark.parametrize("kind", KINDS)
def test_ascii_keeps_columns_aligned(kind):
    values = ("日本語 text", "plain", "x" * 300, None, 5)
    table = Table(
        (Column("é", kind), Column("b", "number")), tuple((Value(v), Value(7)) for v in values)
    )
    lines = drawn(table, ascii_only=True, width=60).split("\n")[1:]
    assert len({len(line) for line in lines}) == 1


def test_what_is_drawn_shows_as_it_is():
    assert repr(text.Drawing("a\nb")) == "a\nb"


def test_the_width_is_that_of_the_terminal(monkeypatch):
    for columns, width in [("60", 60), ("10", 40), ("900", 200)]:
        monkeypatch.setenv("COLUMNS", columns)
        assert text.terminal_width() == width
        assert max(map(len, draw(Document((Paragraph(("word " * 200,)),))).split("\n"))) in (
            width,
            width - 1,
            *range(width - 4, width),
        )


def test_titles_and_facts_stand_on_one_line():
    assert drawn(Head("10 records", ("complete run",))) == "10 records complete run"
