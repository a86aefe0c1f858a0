"""Documents for tests of the drawers: one with a text everywhere, and arbitrary ones."""

from __future__ import annotations

import datetime
import decimal
import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

from hypothesis import strategies as st

from datafast_nb.display.views import (
    PENDING,
    Block,
    Cell,
    Column,
    ColumnKind,
    Document,
    Fact,
    Facts,
    Failed,
    Fold,
    Graph,
    GraphNode,
    Head,
    Inline,
    Legend,
    Line,
    Listing,
    Mark,
    MarkName,
    Paragraph,
    Section,
    Span,
    Spark,
    Style,
    Table,
    Tile,
    Tiles,
    Value,
)

MARKS = get_args(MarkName)
STYLES = get_args(Style)
KINDS = get_args(ColumnKind)
BARS = (0.0, 0.5, 1.0)

# Every place of a text, in reading order. `w` gives the text of the next place.


def every_place(w: Callable[[str], str]) -> Document:
    """A document with all kinds of blocks; `w(place)` is asked once per place, in reading order."""
    return Document(tuple(_blocks(w)))


def _blocks(w: Callable[[str], str]) -> Iterator[Block]:
    yield Head(w("head title"), (w("head fact"), Mark("failed"), w("after a mark")))
    yield Legend(((Mark("new"), w("legend")), (w("second item"),)))
    yield Paragraph(tuple(_inlines(w)))
    yield Paragraph((w("note"),), is_note=True)
    yield Tiles(
        (
            Tile(w("tile label"), w("figure"), ((w("tile line"),), (w("second line"),)), 0.5),
            Tile(w("other tile"), w("other figure")),
        )
    )
    yield Table(
        (Column(w("a column"), "word"), Column(w("another"), "written", None, w("its note"))),
        ((_cell(w), Value(w("value"))), (Cell((w("wide"),), span=2, is_pending=True),)),
        (Cell((w("total"),)), Cell((w("its sum"),))),
    )
    yield Listing((w("listing"), Span(w("field"), "field")))
    yield Facts((Fact(w("fact"), (w("its words"),)), Fact(w("ruled"), _inner(w))), is_ruled=True)
    yield Section(w("section"), (w("section note"),), _inner(w))
    yield Fold(w("fold"), (w("fold note"),), _inner(w), in_text=True)


def _cell(w: Callable[[str], str]) -> Cell:
    line = (w("cell"),)
    listing = Listing((w("cell's listing"),))
    below = ((w("below"),),)
    return Cell(line, below, listing=listing, body=(Paragraph((w("cell's body"),)),))


def _inner(w: Callable[[str], str]) -> tuple[Block, ...]:
    return (
        Paragraph((w("inner"),)),
        Fold(w("inner fold"), (), (Listing((w("innermost"),)),), is_open=True, in_text=True),
    )


def _inlines(w: Callable[[str], str]) -> Iterator[Inline]:
    for style in STYLES:
        yield Span(w(f"style {style}"), style)
        yield " "


def with_images(w: Callable[[str], str]) -> Document:
    """A graph and a spark, whose words stand in images and in their alternatives."""
    nodes = (
        GraphNode(w("node"), ((Mark("memo"), w("node line")),), is_paid=True),
        GraphNode(w("second node"), ((w("its line"),),), has_problem=True),
    )
    column = Column(w("sparked"), "number", Spark(BARS, w("spark")), "")
    return Document((Graph(nodes, ((0, 1),)), Table((column,), ((Value(1),),))))


def everywhere(word: str) -> Document:
    """The word in every place."""
    return Document(every_place(lambda _: word).blocks + with_images(lambda _: word).blocks)


def numbered() -> tuple[Document, list[str]]:
    """A document whose places hold words of their own, and these in reading order."""
    said: list[str] = []
    n = itertools.count()

    def word(place: str) -> str:
        said.append(f"w{next(n)}w")
        return said[-1]

    return every_place(word), said


# Arbitrary documents.

# Mostly ordinary, and some of what drawers have to keep under control.
CHARS = st.one_of(
    st.characters(min_codepoint=32, max_codepoint=126),
    st.sampled_from("\n\n\t  <>&\"'`*_[]|\\$#{}~é日\u0301\u200d\u202e\x1b\x00\ud800\U0001f468…·"),
    st.characters(),
)
texts = st.text(CHARS, max_size=60)
words = st.text(CHARS, max_size=12)
styles = st.sampled_from(STYLES)
inlines: st.SearchStrategy[Inline] = st.one_of(
    texts, st.builds(Span, texts, styles), st.builds(Mark, st.sampled_from(MARKS))
)
lines: st.SearchStrategy[Line] = st.lists(inlines, max_size=4).map(tuple)
some_lines = st.lists(lines, max_size=3).map(tuple)

plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    st.binary(max_size=8),
    st.decimals(),
    st.dates(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(datetime.UTC))),
    st.sampled_from([PENDING, Failed("timeout"), decimal.Decimal("NaN")]),
    st.just(0).map(lambda _: 10**5000),
)
record_values = st.recursive(
    plain_values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(words, inner, max_size=4),
        st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": texts}),
            min_size=1,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@st.composite
def tables(draw: Any, inner: st.SearchStrategy[Any]) -> Table:
    columns = draw(
        st.lists(
            st.builds(
                Column,
                words,
                st.sampled_from(KINDS),
                st.none() | st.builds(Spark, st.just(BARS), texts),
                words,
            ),
            max_size=6,
        )
    )
    cells = st.one_of(
        st.builds(Value, record_values),
        st.builds(
            Cell,
            lines,
            some_lines,
            st.integers(1, 3),
            st.booleans(),
            st.none() | st.builds(Listing, lines),
            st.lists(inner, max_size=1).map(tuple),
        ),
    )
    rows = st.lists(cells, max_size=len(columns) + 1).map(tuple)
    total = st.none() | rows
    return Table(tuple(columns), tuple(draw(st.lists(rows, max_size=4))), draw(total))


@st.composite
def graphs(draw: Any) -> Graph:
    node = st.builds(GraphNode, words, some_lines, st.booleans(), st.booleans())
    nodes = draw(st.lists(node, min_size=1, max_size=5))
    if draw(st.booleans()):
        return Graph(tuple(nodes), tuple((i, i + 1) for i in range(len(nodes) - 1)))
    pairs = [(a, b) for b in range(len(nodes)) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=6)) if pairs else []
    return Graph(tuple(nodes), tuple(edges))


def _leaves(with_graphs: bool) -> st.SearchStrategy[Any]:
    tile = st.builds(Tile, words, words, some_lines, st.none() | st.floats(0, 1))
    return st.one_of(
        st.builds(Head, texts, lines),
        st.builds(Legend, some_lines),
        st.builds(Paragraph, lines, st.booleans()),
        st.builds(Listing, lines),
        st.builds(Tiles, st.lists(tile, max_size=4).map(tuple)),
        *([graphs()] if with_graphs else []),
    )


def blocks(with_graphs: bool = False) -> st.SearchStrategy[Any]:
    def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        bodies = st.lists(inner, max_size=3).map(tuple)
        fact = st.builds(Fact, words, lines | bodies)
        return st.one_of(
            tables(inner),
            st.builds(Facts, st.lists(fact, max_size=4).map(tuple), st.booleans()),
            st.builds(Section, words, lines, bodies),
            st.builds(Fold, words, lines, bodies, st.booleans(), st.booleans()),
        )

    return st.recursive(_leaves(with_graphs), nest, max_leaves=6)


def documents(with_graphs: bool = False) -> st.SearchStrategy[Document]:
    """Documents of up to five blocks; graphs ask the `dot` program for each of them."""
    return st.builds(Document, st.lists(blocks(with_graphs), max_size=5).map(tuple))
