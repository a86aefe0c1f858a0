"""Word differences: nothing lost, the same in both directions, readable, in bounded time."""

from __future__ import annotations

import json
import random
import time
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafast_nb.display.views import Line, Span
from datafast_nb.display.worddiff import MISSING, fields, is_same, merged, words

PIECES = st.sampled_from(
    ["the", "cat", "sat", " ", " ", "\n", "  ", ",", ".", "{x}", "猫", "が", "é", "e\u0301", "👩‍👩‍👧", "🇩🇪", "שלום", "\u200d", "3.5", "\t"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join))


def text_of(line: Line, styles: set[str]) -> str:
    parts = [p if isinstance(p, Span) else Span(str(p)) for p in line]
    return "".join(p.text for p in parts if p.style in styles)


def spans(line: Line, style: str) -> list[str]:
    return [p.text for p in line if isinstance(p, Span) and p.style == style]


def marks(a: str, b: str) -> tuple[list[str], list[str]]:
    left, right = words(a, b)
    return spans(left, "deleted"), spans(right, "inserted")


def is_rewritten(a: str, b: str) -> bool:
    return spans(words(a, b)[1], "muted") == [" rewritten"]


# Properties.


@given(TEXTS, TEXTS)
def test_no_character_is_lost(a: str, b: str) -> None:
    left, right = words(a, b)
    assert text_of(left, {"", "deleted"}) == a
    assert text_of(right, {"", "inserted"}) == b
    line = merged(a, b)
    assert text_of(line, {"", "deleted"}) == a
    assert text_of(line, {"", "inserted"}) == b


@given(TEXTS, TEXTS)
def test_both_directions_mark_the_same_words(a: str, b: str) -> None:
    left, right = words(a, b)
    back_left, back_right = words(b, a)
    assert spans(left, "deleted") == spans(back_right, "inserted")
    assert spans(right, "inserted") == spans(back_left, "deleted")
    assert is_rewritten(a, b) == is_rewritten(b, a)


@given(TEXTS)
def test_equal_texts_have_no_marks(text: str) -> None:
    expected = (text,) if text else ()
    assert words(text, text) == (expected, expected)
    assert merged(text, text) == expected


@given(TEXTS, TEXTS)
def test_different_texts_have_a_mark_or_are_called_rewritten(a: str, b: str) -> None:
    if a != b:
        deleted, inserted = marks(a, b)
        assert deleted or inserted or is_rewritten(a, b)


@given(TEXTS, TEXTS)
def test_no_mark_starts_inside_of_what_people_see_as_one_character(a: str, b: str) -> None:
    for text in (*marks(a, b)[0], *marks(a, b)[1]):
        whole = text in a or text in b
        assert whole
        first = unicodedata.category(text[0])
        starts = a.startswith(text) or b.startswith(text)
        # A mark without a letter may stand at the start of a text, or after a space.
        alone = any(f"{s}{text}" in t for t in (a, b) for s in " \n\t")
        assert starts or alone or first not in ("Mn", "Mc", "Me")


def longest_common(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_alignment_is_a_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    from datafast_nb.display.worddiff import _matches

    found = _matches(a, b)
    assert len(found) == longest_common(a, b)
    assert all(a[i] == b[j] for i, j in found)
    assert all(i < i2 and j < j2 for (i, j), (i2, j2) in pairwise(found))


# What people expect to see.


@pytest.mark.parametrize(
    ("a", "b", "deleted", "inserted"),
    [
        ("the cat sat", "the black cat sat", [], ["black"]),
        ("the cat sat on it", "the cat sat", ["on it"], []),
        ("a good cat sat", "a good dog sat", ["cat"], ["dog"]),
        (
            "Which goods did the Hanseatic League mainly trade?",
            "Why did the Hanseatic League need no king?",
            ["Which goods", "mainly trade"],
            ["Why", "need no king"],
        ),
        ("in 225, so it turns.", "in 225.", [", so it turns"], []),
        ("it is 3.5 km away", "it is 3.6 km away", ["3.5"], ["3.6"]),
        ("we don't like rain", "we didn't like rain", ["don't"], ["didn't"]),
        ("私は猫が好きです。", "私は犬が好きです。", ["猫"], ["犬"]),
        ("ฉันรักแมวมาก", "ฉันรักหมามาก", ["แมว"], ["หมา"]),
        ("שלום לכל העולם", "שלום לכל החתולים", ["העולם"], ["החתולים"]),
        ("see 👩‍👩‍👧 and all", "see 👩‍👩‍👦 and all", ["👩‍👩‍👧"], ["👩‍👩‍👦"]),
        ("wave 👋🏽 to all", "wave 👋🏿 to all", ["👋🏽"], ["👋🏿"]),
        ("from 🇩🇪🇫🇷 to here", "from 🇩🇪🇮🇹 to here", ["🇫🇷"], ["🇮🇹"]),
        ("our cafe\u0301 is open", "our cafe is open", ["cafe\u0301"], ["cafe"]),
        ("on {topic} in brief", "on {title} in brief", ["{topic}"], ["{title}"]),
        ("one two  three", "one two three", ["  "], [" "]),
        ("", "new text", [], ["new text"]),
    ],
)
def test_only_what_changed_is_marked(
    a: str, b: str, deleted: list[str], inserted: list[str]
) -> None:
    assert marks(a, b) == (deleted, inserted)


def test_changes_with_one_word_between_them_are_one_change() -> None:
    a, b = "keep this red and blue here still", "keep this big and tall here still"
    assert marks(a, b) == (["red and blue"], ["big and tall"])


def test_changes_with_two_words_between_them_stay_apart() -> None:
    a, b = "keep red this and blue here", "keep big this and tall here"
    assert marks(a, b) == (["red", "blue"], ["big", "tall"])


def test_text_that_was_wrapped_anew_differs_in_white_space_alone() -> None:
    a = "some words on a\nline of text that\ngoes on"
    deleted, inserted = marks(a, a.replace("\n", " "))
    assert deleted == ["\n", "\n"]
    assert inserted == [" ", " "]


def test_texts_with_little_in_common_stand_unmarked() -> None:
    a = "The systemic heart stops beating while an octopus swims, so swimming tires it quickly."
    b = "Swimming tires an octopus quickly, because its systemic heart stops beating."
    assert is_rewritten(a, b)
    assert marks(a, b) == ([], [])
    assert merged(a, b) == (Span(a, "deleted"), Span(b, "inserted"))


def test_merged_has_the_old_words_before_the_new_ones() -> None:
    line = merged("Write a short story, please.", "Write a long and sad story, please.")
    assert line == ("Write a ", Span("short", "deleted"), Span("long and sad", "inserted"), " story, please.")  # fmt: skip


# Bounds.


def test_large_texts_are_compared_by_lines_and_words_within() -> None:
    lines = [f"line {i} says something" for i in range(2_000)]
    other = list(lines)
    other[1_000] = "line 1000 says nothing at all"
    deleted, inserted = marks("\n".join(lines), "\n".join(other))
    assert (deleted, inserted) == (["something"], ["nothing at all"])


def test_large_texts_with_changes_all_over_lose_nothing() -> None:
    a = "\n".join(f"line {i}" for i in range(3_000))
    b = "\n".join(f"line {i}" for i in range(0, 3_000, 2))
    left, right = words(a, b)
    assert text_of(left, {"", "deleted"}) == a
    assert text_of(right, {"", "inserted"}) == b
    assert spans(left, "deleted")


@pytest.mark.parametrize("alphabet", ["a", "ab", "abcdefghij"])
@pytest.mark.parametrize("glue", [" ", "\n", ""])
def test_repeated_words_take_less_than_a_second(alphabet: str, glue: str) -> None:
    dice = random.Random(0)
    a, b = (glue.join(dice.choice(alphabet) for _ in range(10_000)) for _ in "ab")
    started = time.perf_counter()
    words(a, b)
    merged(a, b[1:] + "z")
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("signs", ["!?", "猫犬", "👍👎", "e\u0301", "{}", "\u200d👩"])
def test_signs_without_spaces_take_less_than_a_second(signs: str) -> None:
    dice = random.Random(0)
    a, b = ("".join(dice.choice(signs) for _ in range(20_000)) for _ in "ab")
    started = time.perf_counter()
    words(a, b)
    assert time.perf_counter() - started < 2


# Values.


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": 1', '{"a": 1 ', False),
        ("1", "1.0", False),
        (1, 1.0, True),
        (1, True, False),
        (float("nan"), float("nan"), True),
        ({"x": float("nan")}, {"x": float("nan")}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        (None, "", False),
        (MISSING, None, False),
        ("[" * 100_000, "[" * 100_001, False),
    ],
)
def test_values_are_the_same_by_value(a: object, b: object, expected: bool) -> None:
    assert is_same(a, b) is expected
    assert is_same(b, a) is expected


def test_json_is_compared_field_by_field() -> None:
    a = json.dumps({"title": "x", "tags": ["a", "b"], "meta": {"n": 1, "old": True}})
    b = json.dumps({"meta": {"n": 2}, "tags": ["a", "c"], "title": "x"})
    assert fields("answer", a, b) == [
        ("answer.tags[1]", "b", "c"),
        ("answer.meta.n", 1, 2),
        ("answer.meta.old", True, MISSING),
    ]


def test_values_of_other_kinds_are_one_field() -> None:
    assert fields("x", [1, 2], [1]) == [("x", [1, 2], [1])]
    assert fields("x", "text", {"a": 1}) == [("x", "text", {"a": 1})]
    assert fields("x", 3, 3.0) == []
    assert len(fields("x", {str(i): i for i in range(999)}, {str(i): -i - 1 for i in range(999)})) == 100  # fmt: skip
