"""Values of records in a cell and in full: what is cut is the rest, and nothing else is."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from documents import record_values, texts
from hypothesis import given
from hypothesis import strategies as st
from odd_values import ODD, EvilText
from payloads import without_space

from datafast_nb.display import values
from datafast_nb.display.values import MEASURE, SLACK, blocks_of, compact, short
from datafast_nb.display.views import (
    PENDING,
    Block,
    Facts,
    Failed,
    Listing,
    Paragraph,
    is_line,
    plain,
)

kinds = st.sampled_from(list(MEASURE))


def said(blocks: tuple[Block, ...]) -> str:
    """What blocks of a value say, names before what they name."""
    out = ""
    for block in blocks:
        match block:
            case Paragraph(line) | Listing(line):
                out += plain(line)
            case Facts(facts):
                for fact in facts:
                    body: Any = fact.body
                    out += fact.label + (plain(body) if is_line(body) else said(body))
            case _:
                raise AssertionError(block)
    return without_space(out)


# In a cell.


@given(texts | st.text(max_size=400), kinds, st.sampled_from([0, 20, 300, 4_000]))
def test_head_and_rest_are_the_text(text, kind, limit):
    cut = compact(text, kind, limit)
    if not text.strip():
        assert cut.head == ("␣" if text else "")
        return
    if len(text.strip()) <= limit:
        assert without_space(cut.head + cut.rest) == without_space(text)
    assert cut.head and "\n" not in cut.head
    assert len(cut.head) <= MEASURE[kind] + SLACK
    assert bool(cut.rest) == bool(cut.n_rest) or not limit
    if cut.rest and "more, see the record" not in cut.rest:
        assert int(cut.n_rest.replace(",", "")) == len(cut.rest)


@given(st.lists(st.text("abcdef", min_size=1, max_size=12), min_size=20, max_size=60), kinds)
def test_texts_are_cut_between_words(words, kind):
    text = " ".join(words)
    cut = compact(text, kind, 4_000)
    n = len(cut.head.split())
    assert cut.head.split() == words[:n]
    assert cut.rest.split() == words[n:]


def test_a_long_word_is_cut_at_the_measure_and_signs_stay_whole():
    assert compact("x" * 100, "text", 4_000).head == "x" * 46
    accents = "e\u0301" * 100
    cut = compact(accents, "text", 4_000)
    assert not cut.rest.startswith("\u0301") and cut.head + cut.rest == accents
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    cut = compact("x" * 44 + family + "y" * 40, "text", 4_000)
    assert family in cut.head and cut.rest.startswith("y")


def test_what_is_beyond_the_limit_is_counted():
    cut = compact("x" * 1_000, "text", 100)
    assert cut.n_rest == "954"
    assert cut.rest == "x" * 100 + "… +854 more, see the record in full"
    assert compact("x" * 60, "text", 100) == values.Cut("x" * 60)


def test_cuts_of_large_texts_take_no_copies_of_them():
    cut = compact("word " * 400_000 + "end", "text", 4_000)
    assert len(cut.rest) < 4_100
    assert int(cut.n_rest.replace(",", "")) == 2_000_003 - 45


@pytest.mark.parametrize(
    ("value", "head", "mark"),
    [
        (None, "None", None),
        (PENDING, "pending", "pending"),
        (Failed("timeout"), "failed: timeout", "failed"),
        ("", "", None),
        (" \n ", "␣", None),
        ("\n\n" + "a" * 10, "a" * 10, None),
        (" " * 200 + "a", "a", None),
        ("a\nb\n", "a b", None),
    ],
    ids=repr,
)
def test_values_that_are_no_text_to_cut(value, head, mark):
    cut = compact(value, "text", 4_000)
    assert (cut.head, cut.rest, cut.mark) == (head, "", mark)


# As one line.


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (True, "True"),
        (12345, "12345"),
        (-94105, "-94105"),
        ({3000, 12345}, "{12345, 3000}"),
        ([12345, {"n": 2021}], '[12345, {"n": 2021}]'),
        (-1, "-1"),
        (1.0, "1"),
        (0.30000000000000004, "0.3"),
        (1e300, "1e+300"),
        (1234567.0, "1234567.0"),
        (0.00001, "1e-05"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02 03:04:00"),
        (b"\x00", "1 byte"),
        ([], "[]"),
        ({}, "{}"),
        ([1.0, "é", None, True], '[1.0, "é", null, true]'),
        ({"a": b"xy", "b": datetime.date(2026, 1, 2)}, '{"a": "2 bytes", "b": "2026-01-02"}'),
        ({(1, 2): 3}, "{(1, 2): 3}"),
        ([{"role": "user", "content": "hi\nyou"}], "1 message: user: hi you"),
        ([{"role": "user"}], '[{"role": "user"}]'),
        ((1, "a"), "(1, 'a')"),
        (10**400, "a number of 401 digits"),
    ],
    ids=repr,
)
def test_values_as_one_line(value, line):
    assert short(value) == line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("decimal", "1E+999999"),
        ("signalling", "sNaN"),
        ("int of numpy", "5"),
        ("float of numpy", "1.5"),
        ("bool of numpy", "True"),
        ("no dimension", "3"),
        ("set", "{<b>, a, b}"),
        ("object", "<object object>"),
        ("evil int", "7"),
        ("evil float", "1.5"),
        ("huge int", "a number of 10,001 digits"),
        ("NA", "<NA>"),
        ("speaks markup", "<u>not markup</u>"),
        ("text of numpy", "<u>not markup</u>"),
        ("refuses", "<Refuses that cannot be written: RuntimeError>"),
        ("odd time", "<datetime that cannot be written: RuntimeError>"),
        ("nanoseconds", "np.datetime64('2026-01-02T03:04:05.000000006')"),
    ],
)
def test_odd_values_as_one_line(name, line):
    assert short(ODD[name]) == line


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_plain_text_in_every_form(name):
    value = ODD[name]
    cut = compact(value, "text", 300)
    for text in (cut.head, cut.rest, short(value), said(blocks_of(value))):
        assert type(text) is str
    assert cut.head.strip()
    assert said(blocks_of(value))
    assert blocks_of(value) == blocks_of(value)


@given(record_values)
def test_a_value_is_one_line_but_for_texts(value):
    line = short(value)
    assert isinstance(value, str) or "\n" not in line
    assert short(value) == line


# In full.


@given(texts)
def test_texts_in_full_are_the_text(text):
    out = said(blocks_of(text))
    if text.strip():
        assert out == without_space(text)
    else:
        assert out in ("emptytext", "onlywhitespace")


@given(record_values)
def test_every_item_of_a_value_is_in_its_blocks(value):
    out = said(blocks_of(value))
    for text in leaves(value):
        assert without_space(text) in out


def leaves(value: Any, depth: int = 0) -> list[str]:
    """Texts inside a value that stand in it as they are, whatever is shown around them."""
    if isinstance(value, str):
        return [] if value.strip()[:1] in ("{", "[") else [value]
    if depth >= values.MAX_DEPTH:
        return []
    if isinstance(value, list):
        return [t for v in value for t in leaves(v, depth + 1)]
    if isinstance(value, dict):
        return [t for v in value.values() for t in leaves(v, depth + 1)]
    return []


def test_json_is_indented_and_not_changed():
    [listing] = blocks_of('{"a": [1, 2.5], "é": null}')
    assert isinstance(listing, Listing)
    assert plain(listing.line) == json.dumps(
        {"a": [1, 2.5], "é": None}, indent=2, ensure_ascii=False
    )
    [escaped] = blocks_of('{"a":"\\u00e9"}')
    assert isinstance(escaped, Listing) and "\\u00e9" in plain(escaped.line)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"price": 1.10}',
        "[1e2]",
        "[1, 2",
        "{not json}",
        "[" * 5_000 + "]" * 5_000,
    ],
)
def test_json_that_would_come_back_otherwise_stays_as_it_is(text):
    assert said(blocks_of(text)) == without_space(text)


@given(record_values)
def test_json_in_full_holds_the_same_value(value):
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return
    assert said(blocks_of(text)) == without_space(text) or isinstance(value, (str, type(None)))


def test_chats_lists_and_dicts_are_named_by_item():
    [facts] = blocks_of([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}])
    assert isinstance(facts, Facts) and [f.label for f in facts.facts] == ["user", "assistant"]
    [facts] = blocks_of(["a", "b"])
    assert isinstance(facts, Facts) and [f.label for f in facts.facts] == ["0", "1"]
    [facts] = blocks_of({"x": 1, 2: None})
    assert isinstance(facts, Facts) and [f.label for f in facts.facts] == ["x", "2"]


@pytest.mark.parametrize("make", [lambda n: list(range(n)), lambda n: {i: i for i in range(n)}])
def test_items_that_are_left_out_are_counted(make):
    facts, more = blocks_of(make(1_000))
    assert isinstance(facts, Facts) and len(facts.facts) == values.MAX_ITEMS
    assert isinstance(more, Paragraph) and plain(more.line) == "… 970 more items"
    assert len(blocks_of(make(values.MAX_ITEMS))) == 1
    chat = [{"role": "user", "content": "x"}] * 100
    assert plain(blocks_of(chat)[1].line) == "… 70 more items"  # type: ignore[union-attr]


def test_code_keeps_its_lines_and_prose_is_a_paragraph():
    [block] = blocks_of("def f():\n    return 1")
    assert isinstance(block, Listing)
    [block] = blocks_of("Some words.\nAnd more.")
    assert isinstance(block, Paragraph)


def test_long_texts_in_full_are_bounded_and_counted():
    [block] = blocks_of("x" * 50_000)
    assert isinstance(block, Paragraph)
    assert plain(block.line).endswith("… +30,000")
    assert len(said(blocks_of({"a": ["y" * 10**6] * 100}))) < 1_000_000


def test_texts_of_other_classes_are_what_they_hold():
    assert said(blocks_of(EvilText("abc"))) == "abc"
    assert compact(EvilText("abc"), "text", 100).head == "abc"


def test_whole_numbers_stand_as_they_are_in_every_form():
    assert compact(2021, "number", 300).head == "2021"
    assert said(blocks_of({"zip": 94105, "years": [2021, 2022]})) == "zip94105years0202112022"
    assert said(blocks_of(12345)) == "12345"
